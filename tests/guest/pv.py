#!/usr/bin/env python3
"""The paravirtual interface as Linux uses it: clock, stolen time, EOI by flag; and a machine without it."""
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from guest import linux, ok, finish, Timeout, PROMPT

BURN = 6
SOURCE = "/sys/devices/system/clocksource/clocksource0/"


def stat(g):
    """Seconds of the guest's processors: user to idle, and stolen."""
    f = [int(x) / 100 for x in re.search(r"^cpu +(.*)", g.shell("cat /proc/stat"), re.M).group(1).split()]
    return sum(f[:8]), f[7]


def clock(g):
    ok("kvm-clock is there", "kvm-clock" in g.shell(f"cat {SOURCE}available_clocksource"))
    ok("and can be chosen", g.shell(f"echo kvm-clock > {SOURCE}current_clocksource; cat {SOURCE}current_clocksource").strip()
       == "kvm-clock")
    out = g.shell("pv_clock")
    ok("user programs read it without a system call", "vdso time is fine" in out, out)
    before, host = float(g.shell("cut -d' ' -f1 /proc/uptime")), time.monotonic()
    time.sleep(3)
    passed, host = float(g.shell("cut -d' ' -f1 /proc/uptime")) - before, time.monotonic() - host
    ok(f"three seconds pass as three: {passed:.2f} here, {host:.2f} there", abs(passed - host) < 1)
    off = int(g.shell("date +%s")) - time.time()
    ok(f"the date is the host's: {off:+.1f} s", abs(off) < 3)


def busy(stop):
    os.sched_setaffinity(0, {cpu()})
    while not stop.is_set():
        for _ in range(100000):
            pass


def cpu():
    return min(os.sched_getaffinity(0))


def stolen(g):
    """A thread of this test and the guest's processor share one core of the host."""
    for task in os.listdir(f"/proc/{g.process.pid}/task"):
        os.sched_setaffinity(int(task), {cpu()})
    _, steal = stat(g)
    ran, took = g.cpu_seconds(), time.monotonic()
    stop = threading.Event()
    thread = threading.Thread(target=busy, args=(stop,))
    thread.start()
    try:
        g.shell(f"timeout {BURN} sh -c 'while :; do :; done'")
    finally:
        stop.set()
        thread.join()
        ran, took = g.cpu_seconds() - ran, time.monotonic() - took
    # not the guest's busy time: it takes what was stolen from the ticks that it has seen
    steal = stat(g)[1] - steal
    ok(f"of {took:.1f} s a neighbour on the same core took {steal:.1f}", 0.2 * took < steal <= took)
    ok(f"and the guest ran for the rest, {ran:.1f}", abs(took - steal - ran) < 0.2 * took)


def with_pv(initrd):
    with linux(initrd=initrd) as g:
        g.expect(PROMPT, 170)
        log = g.shell("dmesg")
        for what in ("Hypervisor detected: KVM", "kvm-clock: Using msrs 4b564d01 and 4b564d00", "x2apic enabled"):
            ok("dmesg: " + what, what in log, log)
        clock(g)
        interrupts = g.shell("grep -E 'LOC|RES' /proc/interrupts")
        ok("timer interrupts go on", int(re.search(r"LOC: +(\d+)", interrupts).group(1)) > 50, interrupts)
        stolen(g)


CHURN = """#!/bin/sh
churn() {
    for i in 1 2 3 4 5 6; do
        head -c 300000 /dev/zero | wc -c > /tmp/$1.$i
        mkdir /tmp/d$1.$i; mv /tmp/$1.$i /tmp/d$1.$i/f; [ "$(cat /tmp/d$1.$i/f)" = 300000 ] && echo right
    done
}
for n in 1 2 3 4 5 6 7 8; do churn $n & done; wait
"""


def several(initrd, *more):
    """Four processors with more processes than that: locks, IPIs and TLB flushes by the interface."""
    name = " ".join(more) or "four processors"
    with linux("--cpus", 4, *more, initrd=initrd) as g:
        g.expect(PROMPT, 170)
        log = g.shell("dmesg")
        for what in ("KVM setup pv remote TLB flush", "setup PV sched yield", "PV spinlocks enabled", "setup PV IPIs"):
            ok(f"{name}: dmesg: {what}", what in log, log)
        ok(f"{name}: all are there", g.shell("nproc").strip() == "4")
        out = g.shell("churn | sort | uniq -c", 170)
        ok(f"{name}: eight busy processes end well", out.split() == ["48", "right"], out)
        log = g.shell("dmesg")
        ok(f"{name}: nothing in the kernel's log", not re.search(r"BUG|WARNING|stall|soft lockup|Oops", log), log)
        stopped = g.shell("grep -E 'TLB|CAL|RES' /proc/interrupts")
        ok(f"{name}: processors interrupt each other", any(int(n) for n in re.findall(r"\d+", stopped)), stopped)


def without():
    with linux("--pv", "off") as g:
        g.expect(PROMPT, 170)
        log = g.shell("dmesg")
        ok("--pv off: no KVM", "kvm" not in log.lower(), log)
        ok("--pv off: no kvm-clock", "kvm" not in g.shell(f"cat {SOURCE}available_clocksource"))
        ok("--pv off: nothing is stolen", stat(g)[1] == 0)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tmp:
        program = os.path.join(tmp, "pv_clock")
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.run(["cc", "-O2", "-static", "-o", program, os.path.join(here, "pv_clock.c")], check=True)
        initrd, churn = os.path.join(tmp, "initramfs"), os.path.join(tmp, "churn")
        with open(churn, "w", encoding="ascii") as f:
            f.write(CHURN)
        subprocess.run([sys.executable, os.path.join(here, "../../scripts/initramfs.py"), "--output", initrd, "--add",
                        "bin/pv_clock=" + program, "--add", "bin/churn=" + churn],
                       check=True)
        try:
            with_pv(initrd)
            several(initrd)
            several(initrd, "--clock", "virtual")
            without()
        except Timeout as e:
            ok("in time", False, e)
    finish()
