#!/usr/bin/env python3
"""The engine kvm: payloads and firmware in real, protected and 64-bit mode, what it refuses, what auto makes of it.

Where KVM is emulated in software it is slow and wrong in places: those checks of the payloads are listed with the
reason in tests/payload/kvm-software.txt, and pass or fail there as they like; anywhere else every check must pass.
kvm.py --failing prints the checks that fail now, one a line. Skipped without /dev/kvm.
"""
import hashlib
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from guest import BUILD, ECTYPE, IS_QEMU, ROOT, SLOW, finish, multiboot, ok, skip, wait_for

FOLDER = os.path.join(BUILD, "tests/payload")
LEAVE = bytes.fromhex("b02a" "e6f4" "f4")  # mov al, 2ah; out 0f4h, al; hlt
STATUS = 0x2a << 1 | 1
LIMIT = 25  # seconds a payload
# needs a module, a client or another way of starting (tests/payload/run.py); measures; asks for what is not offered with KVM
LEFT_OUT = ("boot32", "cost64", "dirty64", "pv32", "pv64", "mpcode64", "mplitmus64", "mplock64", "mptlb64")
# run on two processors, with the local APICs in KVM and with our own
SEVERAL = ("mpipi64", "mpstart64", "mprace64")


def run(*options, limit=LIMIT):
    """Status (None: time limit), standard output, standard error."""
    command = [ECTYPE, "run", "--memory", "64M", "--serial", "stdio", "--no-reboot", *options]
    try:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit * SLOW)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b"").decode(errors="replace"), (e.stderr or b"").decode(errors="replace")


def payloads():
    return sorted(f for f in os.listdir(FOLDER) if re.fullmatch(r"[a-z0-9]+(32|64)", f) and f not in LEFT_OUT)


def checks(name, out):
    """(check, passed) for each line of a payload; what continues a check goes by its name, too."""
    seen = []
    above = ""
    for line in out.splitlines():
        m = re.match(r"(PASS|FAIL) (.*)", line.strip())
        if not m:
            continue
        text = re.sub(r": got .*", "", m.group(2))
        text = re.sub(r"(unexpected exception \d+).*", r"\1", text)
        if text.startswith("  "):
            text = above + " /" + text[1:]
        else:
            above = text
        seen.append((f"{name}: {text}", m.group(1) == "PASS"))
    return seen


def run_payload(name, *options):
    # the kernel's APIC chooses among several as it likes, ours does not
    kernels = [] if "--own-apics" in options else ["--append", "kvm=1"]
    status, out, err = run("--engine", "kvm", "--debug-exit", "--kernel", os.path.join(FOLDER, name),
                           *(["--cpus", "2", *kernels] if name in SEVERAL else []), *options)
    seen = checks(name, out)
    if name == "triple32":
        seen.append((f"{name}: triple fault", status == 1 and "triple fault" in err))
    else:
        seen.append((f"{name}: ran to its end", bool(re.search(r"^DONE ", out, re.M)) and status in (1, 3)))
    return seen


def known():
    with open(os.path.join(ROOT, "tests/payload/kvm-software.txt")) as f:
        return {line.rstrip("\n") for line in f if line.strip() and not line.startswith("#")}


def test_payloads(in_software):
    wrong = known() if in_software else set()
    for name, *options in [[n] for n in payloads()] + [[n, "--own-apics"] for n in SEVERAL + ("flags64", "smc64")]:
        seen = run_payload(name, *options)
        bad = [c for c, passed in seen if not passed and c not in wrong]
        if bad and in_software:
            # an emulation's failure that does not come again: smc64's single steps, once in a hundred runs
            print(f"# {name}: once more, for {', '.join(bad)}", flush=True)
            seen = run_payload(name, *options)
            bad = [c for c, passed in seen if not passed and c not in wrong]
        excused = sum(not passed and c in wrong for c, passed in seen)
        ok(f"{' '.join([name, *options])}: {sum(p for _, p in seen)} checks as under the other engines, {excused} that this host's KVM gets wrong",
           seen and not bad, "\n".join(bad))


def test_stats():
    """Instructions that KVM gives up on are run by the reference engine, and counted."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "stats")
        run("--engine", "kvm", "--debug-exit", "--kernel", os.path.join(FOLDER, "misc64"), f"--stats=json:{path}")
        with open(path) as f:
            counters = json.load(f)["counters"]
        fell = {k: v for k, v in counters.items() if k.startswith("fell_")}
        ok("counters: exits, and what fell back by mnemonic", counters["exits_port"] > 100 and
           sum(fell.values()) == sum(v for k, v in counters.items() if k in (
               "reference_emulation", "reference_entry", "reference_state")), counters)


def firmware_log(engine, folder):
    """SeaBIOS without a disk: what it says until it gives up."""
    path = os.path.join(folder, engine)
    command = [ECTYPE, "run", "--engine", engine, "--cpu-model", "kvm", "--firmware", "seabios", "--memory", "64M", "--serial", "none",
               "--debugcon", "file:" + path]
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    text = ""
    for _ in range(int(400 * SLOW)):
        try:
            p.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            if os.path.exists(path):
                with open(path, encoding="latin-1") as f:
                    text = f.read()
            if "Retrying in 60 seconds" in text:
                break
    p.terminate()
    p.wait()
    return text


def test_firmware():
    with tempfile.TemporaryDirectory() as tmp:
        theirs, ours = (firmware_log(e, tmp) for e in ("interp", "kvm"))
        # its threads take turns as time goes by
        theirs, ours = sorted(theirs.splitlines()), sorted(ours.splitlines())
        ok("SeaBIOS says the same as under interp", any("No bootable device" in line for line in ours) and ours == theirs,
           "\n".join(f"{a!r} | {b!r}" for a, b in zip(theirs, ours) if a != b) or ours[-300:])


def auto_verdict(image):
    """What --engine auto says of itself on a terminal."""
    ours, theirs = pty.openpty()
    p = subprocess.Popen([ECTYPE, "run", "--memory", "64M", "--serial", "none", "--debug-exit", "--kernel", image],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:
        pass  # how a terminal ends
    os.close(ours)
    p.wait()
    return text.decode(errors="replace")


def test_refused(image):
    status, _, err = run("--engine", "kvm", "--clock", "virtual", "--kernel", image)
    ok("the virtual clock is refused in one line", status == 2 and re.fullmatch(
        r"ectype: engine 'kvm' cannot .*virtual clock.*\n", err), f"{status} {err}")
    status, _, err = run("--engine", "kvm", "--trace", "guest", "--kernel", image)
    ok("so are the translator's options", status == 2 and err.count("\n") == 1 and "does not translate" in err, f"{status} {err}")


def test_ends(image):
    for options in (["--jail", "off"], ["--jail", "on"]):
        status, _, err = run("--engine", "kvm", "--debug-exit", "--kernel", image, *options)
        ok(f"a guest runs and ends, {' '.join(options)}", status == STATUS and not err, f"{status} {err}")
    for engine in ("dbt", "interp"):
        status, _, err = run("--engine", engine, "--cpu-model", "kvm", "--debug-exit", "--kernel", image)
        ok(f"--cpu-model kvm under {engine}", status == STATUS and not err, f"{status} {err}")


def sums(rounds):
    """32-bit code: a generator's numbers, a byte of every 256th to the debug console, the last one as exit status."""
    code = b"\xb9" + struct.pack("<I", rounds) + bytes.fromhex("31c0")  # mov ecx; xor eax, eax
    loop = len(code)
    code += bytes.fromhex("69c06d4ec641" "0539300000" "c1c005")  # imul eax; add eax; rol eax, 5
    code += bytes.fromhex("84c9" "7506" "ba02040000" "ee")  # test cl, cl; jnz; mov edx, 402h; out dx, al
    code += b"\x49\x75" + bytes([256 + loop - len(code) - 3])  # dec ecx; jnz
    return code + bytes.fromhex("e6f4" "f4")


def test_switch(folder):
    """A guest that began under dbt goes to kvm and back, many times; what it computes does not change."""
    image = multiboot(os.path.join(folder, "sums"), sums(60000000))
    outcome = []
    switches = 0
    for switching in (False, True):
        log = os.path.join(folder, f"log{switching:d}")
        name = f"kvm-test-{os.getpid()}-{switching:d}"
        p = subprocess.Popen([ECTYPE, "run", "--name", name, "--engine", "dbt" if not switching else "kvm", "--cpu-model", "kvm",
                              "--memory", "64M", "--serial", "none", "--debug-exit", "--debugcon", "file:" + log,
                              "--kernel", image], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        engines = ["dbt", "kvm", "interp", "kvm"] if switching else []
        deadline = time.monotonic() + 60 * SLOW
        while p.poll() is None and time.monotonic() < deadline:
            if engines and not subprocess.run([ECTYPE, "ctl", name, "engine", engines[switches % 4]], capture_output=True).returncode:
                switches += 1
            # kvm may be the slow one here
            time.sleep(0.05 if not engines or engines[switches % 4] == "kvm" else 0.02)
        p.kill()
        _, err = p.communicate()
        with open(log, "rb") as f:
            outcome.append((p.returncode, hashlib.sha256(f.read()).hexdigest(), err))
    ok(f"dbt, kvm and interp in turns: nothing changes ({switches} changes)", switches >= 10 and outcome[0] == outcome[1],
       f"{switches} {outcome}")


def leg(verb, what, folder, number, engine, name, *options):
    """Runs the guest until it ends, or is saved after a moment: exit status, what it said, the snapshot or None."""
    log, snap = os.path.join(folder, f"leg{number}"), os.path.join(folder, f"snap{number}")
    p = subprocess.Popen([ECTYPE, verb, *what, "--name", name, "--engine", engine, "--debugcon", "file:" + log, *options],
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    err, saved = "", None
    if wait_for(lambda: p.poll() is not None or os.path.exists(log)) and p.poll() is None:
        time.sleep(0.2)
        q = subprocess.run([ECTYPE, "snapshot", name, snap, "--stop"], capture_output=True, text=True)
        saved, err = None if q.returncode else snap, q.stderr
    try:
        err += p.communicate(timeout=60 * SLOW)[1]
    except subprocess.TimeoutExpired:
        p.kill()
    with open(log, "rb") as f:
        return p.returncode, f.read(), saved, err


def test_snapshot(folder):
    """From kvm to dbt to kvm to interp, by snapshots; what the guest computes does not change."""
    image = multiboot(os.path.join(folder, "sums"), sums(60000000))
    common = ["--cpu-model", "kvm", "--memory", "64M", "--serial", "none", "--debug-exit", "--kernel", image]
    want = os.path.join(folder, "want")
    status = subprocess.run([ECTYPE, "run", "--engine", "dbt", "--debugcon", "file:" + want, *common],
                            timeout=60 * SLOW).returncode
    with open(want, "rb") as f:
        want = f.read()
    said, trips, snap, name = b"", 0, None, f"kvm-snap-{os.getpid()}"
    for engine in ("kvm", "dbt", "kvm", "interp", "kvm"):
        got, text, after, err = leg("restore" if snap else "run", [snap] if snap else [], folder, trips, engine, name,
                                    *([] if snap else common))
        said += text
        if not after:
            break
        trips, snap = trips + 1, after
    if after:
        got, text, _, err = leg("restore", [snap], folder, trips, "dbt", name)
        said += text
    ok(f"from kvm to dbt and interp and back by snapshots: nothing changes ({trips} snapshots)",
       trips >= 2 and got == status and said == want, f"{trips} snapshots, {got} {status}, {len(said)} {len(want)}, {err}")


def test_switch_interrupts():
    """Two processors with interrupts between them and timers, which count what they get: none is lost, none comes twice,
    whoever has the APICs."""
    for cpus, options in (("2", []), ("1", []), ("2", ["--own-apics"])):
        name = f"kvm-irq-{os.getpid()}-{cpus}{len(options)}"
        p = subprocess.Popen([ECTYPE, "run", "--name", name, "--engine", "kvm", "--cpu-model", "kvm", "--cpus", cpus, "--memory", "64M",
                              "--serial", "stdio", "--debug-exit", "--kernel", os.path.join(FOLDER, "mprace64"),
                              "--append", f"rounds={800000 if cpus == '2' else 4000000}", *options],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        engines = ["dbt", "kvm", "interp", "kvm"]
        switches = 0
        deadline = time.monotonic() + 60 * SLOW
        while p.poll() is None and time.monotonic() < deadline:
            now = engines[switches % 4]
            if not subprocess.run([ECTYPE, "ctl", name, "engine", now], capture_output=True).returncode:
                switches += 1
            time.sleep(0.08 if now == "kvm" else 0.003)
        p.kill()
        out, err = p.communicate()
        ok(f"interrupts while the engine changes, {' '.join([cpus, *options])} ({switches} changes)",
           switches >= 3 and re.search("^DONE 1 checks, 0 failed", out, re.M), f"{p.returncode} {out[-500:]} {err}")


GDB = """
set pagination off
set confirm off
set architecture i386:x86-64
set remotetimeout 30
target remote {socket}
stepi
stepi
printf "stepped to %x, counted %d\\n", $rip, *(int *)0x200000
hbreak *0x100028
continue
printf "breakpoint at %x, counted %d, eax %d\\n", $rip, *(int *)0x200000, $rax
continue
printf "breakpoint at %x, counted %d, eax %d\\n", $rip, *(int *)0x200000, $rax
delete
watch *(int *)0x200000
continue
printf "watchpoint at %x, counted %d\\n", $rip, *(int *)0x200000
delete
rwatch *(int *)0x200000
continue
printf "read at %x, counted %d\\n", $rip, *(int *)0x200000
delete
set $rax = 1000
set var *(int *)0x200000 = 77
stepi
stepi
stepi
stepi
printf "written: eax %d, counted %d\\n", $rax, *(int *)0x200000
detach
"""


def test_gdb(folder):
    """Breakpoint, watchpoints, steps, registers and memory by the real gdb, in KVM or where KVM has no means for them."""
    if not shutil.which("gdb"):
        skip("gdb under kvm", "no gdb here")
        return
    # mov ebx, 200000h; 25: inc dword [ebx]; 27: inc eax; 28: nop; jmp 25
    image = multiboot(os.path.join(folder, "counts"), bytes.fromhex("bb00002000" "ff03" "40" "90" "ebfa"))
    for options in ([], ["--own-apics"]):
        path = os.path.join(folder, "gdb" + str(len(options)))
        p = subprocess.Popen([ECTYPE, "run", "--engine", "kvm", "--memory", "64M", "--serial", "none", "--kernel", image,
                              "--gdb", "unix:" + path, *options], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(100):
            if os.path.exists(path):
                break
            time.sleep(0.1)
        script = os.path.join(folder, "script")
        with open(script, "w") as f:
            f.write(GDB.format(socket=path))
        try:
            text = subprocess.run(["gdb", "-nx", "-q", "-batch", "-x", script], stdin=subprocess.DEVNULL,
                                  capture_output=True, timeout=60 * SLOW, text=True).stdout
        except subprocess.TimeoutExpired as e:
            text = (e.stdout or b"").decode(errors="replace") + "\nTIME LIMIT"
        lives = p.poll() is None
        p.kill()
        p.communicate()
        want = ["stepped to 100027, counted 1", "breakpoint at 100028, counted 1, eax ", "breakpoint at 100028, counted 2, eax ",
                "watchpoint at 100027, counted 3", "read at 100027, counted 4", "written: eax 1001, counted 78"]
        missing = [w for w in want if w not in text]
        eax = re.findall(r"breakpoint at 100028, counted \d, eax (-?\d+)", text)
        ok(f"gdb {' '.join(options)}: steps, a breakpoint, watchpoints, registers and memory", not missing and lives and
           len(eax) == 2 and int(eax[1]) == int(eax[0]) + 1, f"{missing} {eax} {text[-1500:]}")


def test_switch_refused(folder):
    """A guest that was shown more than this KVM has, or hypercalls, stays where it is."""
    image = multiboot(os.path.join(folder, "spin"), bytes.fromhex("ebfe"))
    name = f"kvm-test-{os.getpid()}"
    p = subprocess.Popen([ECTYPE, "run", "--name", name, "--engine", "dbt", "--memory", "64M", "--serial", "none",
                          "--kernel", image], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(100):
        q = subprocess.run([ECTYPE, "ctl", name, "engine", "kvm"], capture_output=True, text=True)
        if q.returncode != 2:
            break
        time.sleep(0.1)
    ok("a guest that does not fit is refused in one line", q.returncode == 1 and "--cpu-model kvm" in q.stderr and
       q.stderr.count("\n") == 1 and p.poll() is None, f"{q.returncode} {q.stderr}")
    p.kill()
    p.communicate()


def main():
    with tempfile.TemporaryDirectory() as tmp:
        image = multiboot(os.path.join(tmp, "image"), LEAVE)
        status, _, err = run("--engine", "kvm", "--debug-exit", "--kernel", image)
        if status == 2 and "cannot run here" in err:
            skip("engine kvm", err.strip())
            return
        verdict = auto_verdict(image)
        in_software = "not kvm:" in verdict
        if "--failing" in sys.argv:
            for name, *options in [[n] for n in payloads()] + [[n, "--own-apics"] for n in SEVERAL]:
                print("\n".join(c for c, passed in run_payload(name, *options) if not passed))
            return
        ok("auto says whether it takes kvm, and why", re.fullmatch(
            r"ectype: engine (kvm: hardware virtualization; a test loop took .* ms|dbt: .*; not kvm: this host's KVM is "
            r"(emulated in software|slow): a test loop .*)\r?\n", verdict), verdict)
        test_refused(image)
        test_ends(image)
        test_switch_refused(tmp)
        test_switch(tmp)
        test_snapshot(tmp)
        test_switch_interrupts()
        test_gdb(tmp)
        test_stats()
        test_payloads(in_software)
        test_firmware()
    finish()


if __name__ == "__main__":
    if IS_QEMU:
        skip("engine kvm", "not QEMU's")
        sys.exit(0)
    main()
