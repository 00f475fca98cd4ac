#!/usr/bin/env python3
"""The cloud and the generic kernel, unmodified, boot to a shell and find nothing to complain of."""
import re
import sys
from guest import linux, ok, finish, Timeout, PROMPT

BAD = re.compile(r"\bOops\b|WARNING:|\bBUG:|[Uu]nhandled|unchecked MSR|soft lockup|hard LOCKUP|rcu.*stall|Call Trace|"
                 r"general protection|segfault|invalid opcode|NMI received for unknown|spurious|hung task|"
                 r"TSC.*unstable|[Ff]irmware [Bb]ug|ACPI (BIOS )?(Error|Warning)|MP-BIOS bug|nobody cared|"
                 r"[Cc]locksource.*(unstable|skewed)|[Pp]anic")
# What the same kernels print in QEMU (7.2, TCG, q35) too.
KNOWN = [
    re.compile(r"spurious 8259A interrupt"),
    re.compile(r"Kernel command line|Command line|Unknown kernel command line parameters"),
    re.compile(r"Spectre|MDS|TAA|MMIO|L1TF|RETBleed|Speculative|mitigation|Mitigation"),
    re.compile(r"[Pp]anic_on|panic=|printk: .*panic|Run /init|panic_timeout"),
    re.compile(r"PCI: System does not support PCI|PCI: Fatal: No config space access function found"),
    re.compile(r"unhandled vector|NMI watchdog: Perf"),
]


def cpuinfo(name, text):
    fields = dict(re.findall(r"^([^\t:]+?)\s*: ?(.*)$", text, re.M))
    ok(f"{name}: /proc/cpuinfo has a model name", fields.get("model name", "").strip() not in ("", "unknown"), text)
    flags = fields.get("flags", "").split()
    ok(f"{name}: /proc/cpuinfo flags", {"fpu", "tsc", "msr", "pae", "cx8", "apic", "cmov", "fxsr", "sse", "sse2", "syscall",
                                      "nx", "lm", "hypervisor"} <= set(flags), " ".join(flags))
    ok(f"{name}: /proc/cpuinfo sizes", re.fullmatch(r"\d+ bits physical, (48|57) bits virtual", fields.get("address sizes", "")),
       fields.get("address sizes"))
    mhz = float(fields.get("cpu MHz", "0"))
    ok(f"{name}: /proc/cpuinfo MHz", 100 < mhz < 10000, mhz)
    ok(f"{name}: /proc/cpuinfo bogomips", 100 < float(fields.get("bogomips", "0")) < 40000, fields.get("bogomips"))


def interrupts(name, text):
    ok(f"{name}: /proc/interrupts names the serial port", re.search(r"^ *4: +[1-9]\d* .*ttyS0", text, re.M), text)
    lines = dict(re.findall(r"^ *(\w+): +(\d+)", text, re.M))
    ticks = int(lines.get("LOC", 0)) + int(lines.get("0", 0))
    ok(f"{name}: /proc/interrupts counts timer interrupts", ticks > 10, text)
    for bad in ("ERR", "MIS", "SPU"):
        ok(f"{name}: /proc/interrupts {bad} is 0", int(lines.get(bad, 0)) == 0, text)


def boot(name, kernel):
    with linux(kernel=kernel) as g:
        try:
            g.expect(PROMPT, 170)
            ok(f"{name}: boots to a shell", True)
        except Timeout as e:
            ok(f"{name}: boots to a shell", False, e)
            return
        try:
            ok(f"{name}: a command", g.shell("echo $((6*7))").strip() == "42", g.text[-300:])
            ok(f"{name}: memory", 350000 < int(g.shell("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0]) < 530000)
            cpuinfo(name, g.shell("cat /proc/cpuinfo"))
            interrupts(name, g.shell("cat /proc/interrupts"))
            clock = g.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
            ok(f"{name}: a clock source", clock in ("tsc", "tsc-early", "kvm-clock", "acpi_pm", "hpet"), clock)
            before = float(g.shell("cut -d' ' -f1 /proc/uptime"))
            g.shell("sleep 1")
            passed = float(g.shell("cut -d' ' -f1 /proc/uptime")) - before
            ok(f"{name}: time passes", 1 <= passed < 20, passed)
            ok(f"{name}: date", int(g.shell("date +%Y")) >= 2020)
            ok(f"{name}: PCI bus", "0x8086" in g.shell("cat /sys/bus/pci/devices/*/vendor"), g.text[-300:])
            ok(f"{name}: job control", "Running" in g.shell("sleep 5 & jobs; kill %1; wait"), g.text[-300:])
            g.shell("dmesg > /tmp/d")
            text = g.shell("cat /tmp/d", 120)
            found = [l for l in text.splitlines() if BAD.search(l) and not any(k.search(l) for k in KNOWN)]
            ok(f"{name}: dmesg has no complaint", not found, "\n".join(found))
            ok(f"{name}: dmesg has a hypervisor or a TSC", re.search(r"Hypervisor detected|tsc: ", text), text[:1500])
            g.send("poweroff\n")
            status = g.wait(30)
            ok(f"{name}: poweroff ends it with status 0", status == 0, f"{status}\n{g.errors()}\n{g.text[-500:]}")
        except Timeout as e:
            ok(f"{name}: shell answers", False, e)


if __name__ == "__main__":
    for which in sys.argv[1:] or ["cloud", "generic"]:
        boot(which, {"cloud": "vmlinuz", "generic": "vmlinuz-generic"}[which])
    finish()
