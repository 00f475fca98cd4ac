#!/usr/bin/env python3
"""`ectype dump` of a Debian kernel with KASLR: the core's notes and segments; the kernel's banner, which lies where the
note VMCOREINFO says, where the guest's page tables say, and where gdb finds it; registers against gdb's stub; clients
that are gone, stopped or slow; files that cannot be written."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

import guest
from guest import ECTYPE, PROMPT, ROOT, Guest, cache, finish, linux, ok, run_to_end, skip, wait_for

tmp = tempfile.mkdtemp(prefix="ectype-dump-")
os.environ["XDG_RUNTIME_DIR"] = tmp
NAME, CPUS, MEMORY = "dump-test", 2, 256 << 20
START_KERNEL_MAP = 0xffffffff80000000
QEMU_REGS = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split()
USER_REGS = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs rflags rsp ss".split()


def command(*args, limit=60):
    return run_to_end(args, limit)[:3]


def state():
    return json.loads(command("ctl", NAME, "info")[1])["state"]


class Core:
    def __init__(self, path):
        self.f = open(path, "rb")
        head = self.f.read(64)
        self.ident, self.type, self.machine = head[:16], *struct.unpack_from("<HH", head, 16)
        phoff, = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        self.f.seek(phoff)
        table = self.f.read(size * count)
        self.load, self.notes, self.aligns = [], [], set()
        for i in range(count):
            kind, flags, off, virt, phys, length, _, align = struct.unpack_from("<IIQQQQQQ", table, i * size)
            if kind == 4:
                self.notes += self.read_notes(off, length)
            else:
                self.load.append((off, virt, phys, length))
                self.aligns.add(align)
        self.end = max(off + length for off, _, _, length in self.load)

    def read_notes(self, off, length):
        self.f.seek(off)
        data, at, notes = self.f.read(length), 0, []
        while at < length:
            names, descs, kind = struct.unpack_from("<III", data, at)
            desc = at + 12 + (names + 3 & ~3)
            notes.append((data[at + 12:at + 12 + names - 1].decode(), kind, data[desc:desc + descs]))
            at = desc + (descs + 3 & ~3)
        return notes

    def of(self, name, kind):
        return [d for n, k, d in self.notes if (n, k) == (name, kind)]

    def read(self, addr, n, by=2):
        """`n` bytes at the physical address, with by=1 at the virtual one; None if there are none."""
        for segment in self.load:
            if segment[by] <= addr and addr + n <= segment[by] + segment[3]:
                self.f.seek(segment[0] + addr - segment[by])
                return self.f.read(n)
        return None

    def walk(self, cr3, virt):
        """4-level paging."""
        table = cr3 & 0xffffffffff000
        for shift in (39, 30, 21, 12):
            entry, = struct.unpack("<Q", self.read(table + (virt >> shift & 511) * 8, 8))
            if not entry & 1:
                return None
            if shift == 12 or entry & 0x80:
                return (entry & 0xffffffffff000 & -(1 << shift)) | (virt & (1 << shift) - 1)
            table = entry & 0xffffffffff000


def registers(core):
    """Of each processor: what its two notes say."""
    found = []
    for status, qemu in zip(core.of("CORE", 1), core.of("QEMU", 0)):
        a = dict(zip(USER_REGS, struct.unpack_from("<21Q", status, 112)))
        b = dict(zip(QEMU_REGS, struct.unpack_from("<18Q", qemu, 8)))
        b["cr0"], _, b["cr2"], b["cr3"], b["cr4"] = struct.unpack_from("<5Q", qemu, 8 + 18 * 8 + 10 * 24)
        found.append((a, b))
    return found


def check_core(core, path, symbols):
    ok("an ELF64 core of x86-64", core.ident[:6] == b"\x7fELF\x02\x01" and (core.type, core.machine) == (4, 62))
    ok("of the kind that crash takes for a dump of a machine", core.aligns == {0}, core.aligns)
    count = {key: sum((n, k) == key for n, k, _ in core.notes) for key in {(n, k) for n, k, _ in core.notes}}
    ok("notes of each processor, and VMCOREINFO", count == {("CORE", 1): CPUS, ("CORE", 2): CPUS, ("QEMU", 0): CPUS, ("VMCOREINFO", 0): 1}, count)
    regs = registers(core)
    ok("the two notes of a processor agree", all(a[r] == b[r] for a, b in regs for r in QEMU_REGS), regs)
    ok("and are those of a kernel in long mode", all(b["cr0"] & 0x80000001 == 0x80000001 and b["cr4"] & 0x20 and b["cr3"] for _, b in regs), regs)
    ram = sum(length for _, _, _, length in core.load)
    ok("all RAM but the hole of VGA", MEMORY - (128 << 10) <= ram <= MEMORY and os.path.getsize(path) == core.end, f"{ram} {core.load}")
    ok("pages of zeros are holes", os.stat(path).st_blocks * 512 < 0.8 * MEMORY, os.stat(path).st_blocks * 512)

    info = dict(line.split("=", 1) for line in core.of("VMCOREINFO", 0)[0].decode().splitlines() if "=" in line)
    banner = symbols["linux_banner"]
    want = b"Linux version " + info["OSRELEASE"].encode()
    phys = banner - START_KERNEL_MAP + int(info["NUMBER(phys_base)"])
    ok("KASLR is at work, and VMCOREINFO tells of it", int(info["KERNELOFFSET"], 16) and
       symbols["_stext"] == int(info["SYMBOL(_stext)"], 16), info)
    ok("linux_banner is where VMCOREINFO says", (core.read(phys, len(want)) or b"") == want, core.read(phys, 64))
    for n, (_, b) in enumerate(regs):
        ok(f"and where the page tables of processor {n} say", core.walk(b["cr3"], banner) == phys, core.walk(b["cr3"], banner))
    return phys, want


def gdb(path, *commands):
    p = subprocess.run(["gdb", "-nx", "-batch", "-ex", "set confirm off", "-ex", f"core-file {path}", *[x for c in commands for x in ("-ex", c)]],
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * guest.SLOW)
    return p.stdout.decode(errors="replace") + p.stderr.decode(errors="replace")


def check_gdb(core, path, phys, want, paged, symbols):
    if not shutil.which("gdb"):
        skip("gdb reads the cores", "gdb is not installed")
        return
    text = gdb(path, "info threads", "thread 2", "info registers", f"x/s {phys:#x}")
    regs = {m[0]: int(m[1], 16) for m in re.findall(r"^(\w+) +(0x[0-9a-f]+) ", text, re.M)}
    b = registers(core)[1][1]
    ok("gdb: a thread a processor, its registers", text.count("LWP") >= CPUS and
       all(regs.get(r) == b[r] for r in QEMU_REGS[:17]), text)
    ok("gdb: memory by physical address", want.decode() in text, text)
    text = gdb(paged, f"x/s {symbols['linux_banner']:#x}", "x/2i $pc")
    ok("gdb: with --paging by virtual address", want.decode() in text and "Cannot access" not in text, text)


# ---- clients ----

def ask_and_wait():
    """A client that asks for a core and takes the first byte."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60 * guest.SLOW)
    s.connect(os.path.join(tmp, "ectype", NAME + ".sock"))
    s.sendall(b"PUT /api/v1/vm.coredump HTTP/1.1\r\nHost: localhost\r\n\r\n")
    s.recv(1)
    return s


def left_behind(folder):
    return [f for f in os.listdir(folder) if "part" in f]


def clients(g, folder):
    path = os.path.join(folder, "second")
    s = ask_and_wait()
    ok("while a core is sent, the machine is Paused", state() == "Paused")
    status, out, err = command("dump", NAME, path)
    ok("and nobody else gets one", status == 1 and err.count("\n") == 1 and "somebody else" in err and not os.listdir(folder), err)
    command("resume", NAME)
    ok("resume does not break it", state() == "Paused")
    s.close()
    ok("the client goes away: the guest goes on", wait_for(lambda: state() == "Running", 5) and g.shell("echo $((6*7))").strip() == "42")

    s, began = ask_and_wait(), time.monotonic()
    ok("a client that takes nothing is cut off", wait_for(lambda: state() == "Running", 30) and time.monotonic() - began < 20 * guest.SLOW,
       f"{time.monotonic() - began:.1f} s")
    total, part = 1, b"-"
    while part:
        try:
            part = s.recv(1 << 20)
        except ConnectionResetError:
            break
        total += len(part)
    ok("before the end", total < MEMORY, total)
    s.close()

    command("pause", NAME)
    status, out, err = command("dump", NAME, path)
    ok("a paused machine is paused afterwards", status == 0 and state() == "Paused", out + err)
    command("resume", NAME)

    for sig in (signal.SIGTERM, signal.SIGKILL):
        shutil.rmtree(folder)
        os.mkdir(folder)
        p = subprocess.Popen([ECTYPE, "dump", NAME, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: left_behind(folder) or p.poll() is not None)
        p.send_signal(signal.SIGSTOP)
        p.send_signal(sig)
        p.send_signal(signal.SIGCONT)
        p.wait()
        ok(f"{sig.name} in the middle: no file that looks whole", not os.path.exists(path) and
           (sig == signal.SIGKILL or not os.listdir(folder)), os.listdir(folder))
        ok("and the guest goes on", wait_for(lambda: state() == "Running", 20) and g.shell("echo $((6*7))").strip() == "42")


def refusals(folder):
    there = os.path.join(folder, "there")
    with open(there, "w", encoding="ascii") as f:
        f.write("dear")
    cases = [
        (("dump",), 2, "which machine"), (("dump", NAME), 2, "which file"), (("dump", NAME, there, "more"), 2, "no argument"),
        (("dump", NAME, there, "--fast"), 2, "no argument"), (("dump", "nobody", os.path.join(folder, "x")), 2, "no machine 'nobody'"),
        (("dump", NAME, there), 2, "--force"), (("dump", NAME, os.path.join(folder, "none", "x")), 2, "No such file"),
        (("dump", NAME, folder, "--force"), 2, "is no file"), (("dump", NAME, "/dev/null", "--force"), 2, "is no file"),
    ]
    for args, status, text in cases:
        got, out, err = command(*args)
        ok(f"ectype {' '.join(os.path.basename(a) for a in args)}: status {status}, one line", got == status and
           err.count("\n") == 1 and text in err and not out, f"{got} {err}{out}")
    with open(there, encoding="ascii") as f:
        ok("nothing has changed", f.read() == "dear" and os.listdir(folder) == ["there"], os.listdir(folder))
    p = subprocess.run(["sh", "-c", f'ulimit -f 40000; exec "{ECTYPE}" dump {NAME} {folder}/x'], capture_output=True, timeout=60 * guest.SLOW)
    ok("no room: status 1, one line, no file", p.returncode == 1 and p.stderr.count(b"\n") == 1 and os.listdir(folder) == ["there"],
       f"{p.returncode} {p.stderr} {os.listdir(folder)}")
    status, out, err = command("dump", NAME, there, "--force")
    ok("--force", status == 0 and os.path.getsize(there) > MEMORY // 2, out + err)


# ---- the guest ----

def known_registers():
    """A processor that stopped with known registers: in 32-bit mode, so the other half of them is zero."""
    values = {n: 0x11111111 * (i + 1) + 0x80 for i, n in enumerate(("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"))}
    code = b"".join(bytes([0xb8 + i]) + struct.pack("<I", v) for i, v in enumerate(values.values()))
    image = guest.multiboot(os.path.join(tmp, "image"), code + b"\xfa\xf4\xeb\xfd")  # cli; hlt; jmp -1
    path = os.path.join(tmp, "core-known")
    with Guest("--name", "dump-known", "--kernel", image, "--memory", "16M") as g:
        wait_for(lambda: command("ctl", "dump-known", "info")[0] == 0)
        time.sleep(0.5)
        status, out, err = command("dump", "dump-known", path, "--paging")
        if not ok("dump of a machine without paging, --paging or not", status == 0, out + err):
            return
        core = Core(path)
        a, b = dict(zip(USER_REGS, struct.unpack_from("<21Q", core.of("CORE", 1)[0], 112))), core.of("QEMU", 0)[0]
        cs = struct.unpack_from("<IIIIQ", b, 8 + 18 * 8)
        values["rip"] = 0x100020 + len(code) + 2
        ok("registers are what the program set", {n: a[n] for n in values} == values, f"{a} {values}")
        ok("and CS is flat, 32 bits, present", cs[1] == 0xffffffff and cs[2] & 0xc09b00 == 0xc09b00 and cs[4] == 0, cs)


def resident(g):
    with open(f"/proc/{g.process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * 4096


def main():
    module = os.path.join(os.path.dirname(os.path.realpath(cache("vmlinuz"))), "modules", "qemu_fw_cfg.ko")
    folder = os.path.join(tmp, "files")
    os.mkdir(folder)
    initrd = os.path.join(tmp, "initrd")
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", initrd, "--add", f"qemu_fw_cfg.ko={module}"], check=True)
    with linux("--name", NAME, "--cpus", CPUS, initrd=initrd, memory="256M") as g:
        g.expect(PROMPT, 170)
        plain, paged = os.path.join(tmp, "core"), os.path.join(tmp, "core-paged")
        before = resident(g)
        status, out, err = command("dump", NAME, plain)
        grown = resident(g) - before
        ok("pages that the guest never touched are not made", grown < 8 << 20, f"{grown} bytes more")
        ok("dump", status == 0 and not err and out.startswith(plain + ": "), out + err)
        ok("without the guest's driver there is no VMCOREINFO", not Core(plain).of("VMCOREINFO", 0))
        g.shell("insmod /qemu_fw_cfg.ko")
        symbols = {n: int(a, 16) for a, n in re.findall(r"^([0-9a-f]{16}) \w (linux_banner|_stext)$", g.shell(
            "grep -E ' (linux_banner|_stext)$' /proc/kallsyms"), re.M)}
        command("pause", NAME)
        began = time.monotonic()
        status, out, err = command("dump", NAME, plain, "--force")
        seconds = time.monotonic() - began
        status2, out2, err2 = command("dump", NAME, paged, "--paging")
        command("resume", NAME)
        ok("dump --force, dump --paging", status == 0 and status2 == 0, err + err2)
        print(f"# {out.strip()} ({seconds:.2f} s); --paging: {len(Core(paged).load)} segments")
        core = Core(plain)
        phys, want = check_core(core, plain, symbols)
        with_paging = Core(paged)
        ok("--paging: the banner by virtual address", with_paging.read(symbols["linux_banner"], len(want), by=1) == want)
        ok("and registers and RAM as without", registers(with_paging) == registers(core) and
           all(s[2:] in [t[2:] for t in with_paging.load] for s in core.load))
        check_gdb(core, plain, phys, want, paged, symbols)
        clients(g, folder)
        shutil.rmtree(folder)
        os.mkdir(folder)
        refusals(folder)
        ok("the guest took no harm", g.shell("dmesg | grep -E 'BUG|stall|unstable|WARNING'; echo $((6*7))").strip() == "42")
    known_registers()


try:
    main()
finally:
    shutil.rmtree(tmp)
finish()
