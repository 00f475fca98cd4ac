#!/usr/bin/env python3
"""Debian's kernels on several processors.

smp.py [--engine NAME] [--cpus N,N...] [--long]

All are up and named rightly, programs run where they are pinned, interrupts
come to each, processors go and come again, the machine starts anew with all of
them, and the kernel has nothing to complain of; programs that load all of them
(smp_load.c) compute what they should. --long: 1, 2, 4, 8 and 64
processors, the generic kernel too, and processors that go and come under load.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

from boot import BAD, KNOWN
from guest import PROMPT, IS_QEMU, ROOT, Timeout, finish, linux, make_initramfs, ok

# QEMU's own: its topology and its time stamp counter's flags are not those of a real processor.
MORE_BAD = re.compile(r"inconsistent .* MTRR|MTRR.*inconsistent|smpboot: do_boot_cpu failed|not responding|CPU\d+: failed|"
                      r"[Ss]tuck|clocksource: timekeeping watchdog|Marking clocksource|sched_clock: Marking unstable|"
                      r"TSC warp|bogus topology|APIC id mismatch|\[Firmware|lockup|rcu: INFO|blocked for more")


def complaints(g, name):
    """What the kernel's log has that it should not have."""
    g.shell("dmesg > /tmp/d; dmesg -c > /dev/null")
    text = g.shell("cat /tmp/d", 180)
    found = [l for l in text.splitlines() if (BAD.search(l) or MORE_BAD.search(l)) and not any(k.search(l) for k in KNOWN)]
    ok(f"{name}: dmesg has no complaint", not found, "\n".join(found))
    return text


def numbers(text):
    """The processors of "0-3,5"."""
    out = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            out += range(int(first), int(last or first) + 1)
    return out


def topology(g, name, n):
    text = g.shell("cat /proc/cpuinfo", 180)
    blocks = [dict(re.findall(r"^([^\t:]+?)\s*: ?(.*)$", b, re.M)) for b in re.split(r"\n\s*\n", text) if b.strip()]
    ok(f"{name}: /proc/cpuinfo has all", [b.get("processor") for b in blocks] == [str(i) for i in range(n)], text[-800:])
    ok(f"{name}: initial APIC IDs are the APIC IDs", all(b.get("apicid") == b.get("initial apicid") for b in blocks), text[-800:])
    ok(f"{name}: APIC IDs are different", len({b.get("apicid") for b in blocks}) == n)
    ok(f"{name}: all have the same model and flags",
       len({(b.get("model name"), b.get("flags"), b.get("microcode")) for b in blocks}) == 1, text[-800:])
    if not IS_QEMU:
        flags = blocks[0].get("flags", "").split()
        ok(f"{name}: the TSC is constant and goes on in halts", {"constant_tsc", "nonstop_tsc"} <= set(flags), " ".join(flags))
    base = "/sys/devices/system/cpu"
    for what in ("present", "possible", "online"):
        ok(f"{name}: {what}", numbers(g.shell(f"cat {base}/{what}")) == list(range(n)))
    rows = g.shell(f"cd {base}; for i in $(seq 0 {n - 1}); do t=cpu$i/topology; echo $i $(cat $t/physical_package_id $t/core_id "
                   "$t/thread_siblings_list $t/core_siblings_list); done; cd /", 120)
    rows = [r.split() for r in rows.splitlines() if r.strip()]
    ok(f"{name}: topology of all", len(rows) == n and all(len(r) == 5 for r in rows), rows)
    bad = [r for r in rows if int(r[0]) not in numbers(r[3]) or not set(numbers(r[3])) <= set(numbers(r[4]))]
    cores = {(r[1], r[2]) for r in rows}
    threads = {r[3] for r in rows}
    ok(f"{name}: threads and cores fit together", not bad and len(cores) == len(threads), rows)


def clock(g, name, log):
    source = g.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    ok(f"{name}: the clock source", source in ("tsc", "kvm-clock", "tsc-early"), source)
    ok(f"{name}: the TSC is not given up", not re.search(r"tsc.*unstable|Measured .* cycles TSC warp", log, re.I))


def pinned(g, name, n):
    """On each processor a program that says where it is, and all of them at once at work."""
    out = g.shell(f"for i in $(seq 0 {n - 1}); do taskset -c $i sh -c 'echo $0 $(cut -d\" \" -f39 /proc/self/stat)' $i; done", 180)
    where = [l.split() for l in out.splitlines() if l.strip()]
    ok(f"{name}: programs run where they are pinned", where == [[str(i), str(i)] for i in range(n)], out)
    out = g.shell(f"for i in $(seq 0 {n - 1}); do taskset -c $i sh -c "
                  "'i=0; s=0; while [ $i -lt 3000 ]; do i=$((i+1)); s=$(((s*31+i)%1000003)); done; echo $s' & done; wait", 240)
    sums = re.findall(r"^\d+\r?$", out, re.M)
    ok(f"{name}: all compute the same", len(sums) == n and len(set(sums)) == 1, out)


def interrupts(g, name, n):
    text = g.shell("cat /proc/interrupts", 60)
    rows = {m.group(1): [int(x) for x in m.group(2).split()] for m in re.finditer(r"^ *(\w+):((?: +\d+)+)", text, re.M)}
    ok(f"{name}: timer interrupts on each", len(rows.get("LOC", [])) == n and all(rows["LOC"]), text)
    if n > 1:
        ok(f"{name}: interrupts between processors", sum(rows.get("RES", [])) + sum(rows.get("CAL", [])) > 0, text)
    for bad in ("ERR", "MIS", "SPU"):
        ok(f"{name}: {bad} is 0", sum(rows.get(bad, [1])) == 0, text)
    if n > 1:
        # the serial port's interrupt, moved to the last processor
        g.shell(f"echo {n - 1} > /proc/irq/4/smp_affinity_list")
        before = rows["4"][n - 1]
        g.shell("echo moved; sleep 1; echo moved")
        text = g.shell("grep ' 4:' /proc/interrupts")
        ok(f"{name}: an interrupt is moved to the last", int(text.split()[n]) > before, text)


def hotplug(g, name, n, rounds):
    """Every processor but the first goes and comes again, with work on all that stay.

    wait: a child that ends while the shell writes its prompt takes the prompt away (the write ends with EINTR,
    and the C library forgets what was to be written).
    """
    # the kernel refuses with EBUSY while drivers are probed; acpid follows on the last of them
    g.shell("until pidof acpid; do sleep 0.1; done")
    g.shell(f"for i in $(seq {min(n, 4)}); do (while :; do :; done) & done", 30)
    out = g.shell(f"for r in $(seq {rounds}); do for i in $(seq 1 {n - 1}); do f=/sys/devices/system/cpu/cpu$i/online; "
                  "echo 0 > $f && echo off $i $(cat $f) $(cat /sys/devices/system/cpu/online); echo 1 > $f && "
                  "echo on $i $(cat $f); done; done; kill $(jobs -p); wait", 60 + 20 * rounds * n)
    offs = re.findall(r"^off (\d+) 0 (\S+)", out, re.M)
    ons = re.findall(r"^on (\d+) 1", out, re.M)
    ok(f"{name}: {rounds * (n - 1)} times one goes and comes again",
       len(offs) == len(ons) == rounds * (n - 1) and all(int(i) not in numbers(left) for i, left in offs), out[-1500:])
    ok(f"{name}: all are there at the end", numbers(g.shell("cat /sys/devices/system/cpu/online")) == list(range(n)))
    out = g.shell(f"taskset -c {n - 1} sh -c 'cut -d\" \" -f39 /proc/self/stat'")
    ok(f"{name}: and work", out.strip() == str(n - 1), out)


# smp_load's parts with their rounds, for --long 20 times as many.
LOADS = (("messages", 30), ("threads", 60), ("files", 1000), ("mappings", 25), ("code", 25))


def load(n, factor):
    """smp_load.c on all processors, and with more threads than there are."""
    name = f"{n} processors, load"
    with tempfile.TemporaryDirectory() as tmp:
        program, initrd = os.path.join(tmp, "smp_load"), os.path.join(tmp, "initrd")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-static", "-pthread", "-o", program,
                        os.path.join(ROOT, "tests/guest/smp_load.c")], check=True)
        script = "".join(f"echo ran {part} {threads} $(smp_load {part} {rounds * factor} {threads} 2>&1 | tr '\\n' ' ')\n"
                         for part, rounds in LOADS for threads in (n, 2 * n))
        make_initramfs(initrd, script + "echo == dmesg; dmesg; echo == end\n", "bin/smp_load=" + program)
        with linux("--cpus", n, initrd=initrd) as g:
            status = g.wait(240 * (1 + factor / 4))
            ok(f"{name}: the guest powers off, status 0", status == 0, f"{status}\n{g.errors()}\n{g.text[-1500:]}")
            for part, _ in LOADS:
                for threads in (n, 2 * n):
                    m = re.search(rf"^ran {part} {threads} (.*)$", g.text, re.M)
                    ok(f"{name}: {part}, {threads} threads", m and f"{part} ok" in m.group(1), m and m.group())
                    if m:
                        print(f"# {m.group().strip()}")
            text = g.text[g.text.find("== dmesg"):]
            found = [l for l in text.splitlines() if (BAD.search(l) or MORE_BAD.search(l)) and not any(k.search(l) for k in KNOWN)]
            ok(f"{name}: dmesg has no complaint", len(text) > 5000 and not found, "\n".join(found))


def run(n, kernel, rounds):
    name = f"{n} processors" + (", generic kernel" if "generic" in kernel else "")
    with linux("--cpus", n, kernel=kernel) as g:
        try:
            g.expect(PROMPT, 170 + 10 * n)
            ok(f"{name}: boots to a shell", True)
            # before the log grows
            log = complaints(g, name)
            if n > 1:
                ok(f"{name}: the kernel has brought up all", re.search(rf"Brought up 1 node, {n} CPUs", log), log[:3000])
            topology(g, name, n)
            clock(g, name, log)
            pinned(g, name, n)
            interrupts(g, name, n)
            if n > 1 and rounds:
                hotplug(g, name, n, rounds)
            if n == 4:
                g.send("reboot\n")
                g.expect("Restarting system", 60)
                g.expect(PROMPT, 200)
                ok(f"{name}: starts anew with all", g.shell("nproc").strip() == str(n), g.text[-500:])
            complaints(g, name + ", at last")
            g.send("poweroff\n")
            status = g.wait(60)
            ok(f"{name}: poweroff ends it with status 0", status == 0, f"{status}\n{g.errors()}\n{g.text[-500:]}")
        except Timeout as e:
            ok(f"{name}: the guest goes on", False, e)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--cpus", help="how many, with commas (2,4; --long: 1,2,4,8,64)")
    p.add_argument("--long", action="store_true")
    a = p.parse_args()
    for n in (a.cpus or ("1,2,4,8,64" if a.long else "2,4")).split(","):
        run(int(n), "vmlinuz", 0 if int(n) > 8 else 10 if a.long else 1)
    load(4, 20 if a.long else 1)
    if a.long:
        run(4, "vmlinuz-generic", 10)
    finish()


if __name__ == "__main__":
    sys.exit(main())
