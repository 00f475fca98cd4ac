#!/usr/bin/env python3
"""How a machine ends: poweroff, the shell's exit, reboot, debug-exit; 3.5 GiB of memory; run without arguments."""
import os
import tempfile
from guest import linux, ok, finish, make_initramfs, multiboot, Guest, Timeout, cache, IS_QEMU, skip, PROMPT

REBOOT = "reboot -f\n"
# out %al,$0xf4 in 32-bit protected mode, then the "halted for good" that follows if nothing happens
DEBUG_EXIT = bytes.fromhex("b015" "e6f4" "fa" "f4" "ebfd")


def status_of(name, script, want, *options, append="console=ttyS0 quiet"):
    with tempfile.TemporaryDirectory() as tmp:
        with linux(*options, initrd=make_initramfs(os.path.join(tmp, "i"), script), append=append) as g:
            got = g.wait(120)
            ok(name, got == want, f"status {got}, expected {want}\n{g.errors()}\n{g.text[-600:]}")


def debug_exit():
    with tempfile.TemporaryDirectory() as tmp:
        image = multiboot(os.path.join(tmp, "image"), DEBUG_EXIT)
        with Guest("--kernel", image, "--memory", "64M", "--serial", "none", "--debug-exit") as g:
            ok("debug-exit: (v << 1) | 1", g.wait(20) == 0x15 << 1 | 1, f"{g.process.poll()} {g.errors()}")
        with Guest("--kernel", image, "--memory", "64M", "--serial", "none") as g:
            ok("without --debug-exit the port does nothing", g.wait(2) is None, f"{g.process.poll()} {g.errors()}")


def memory():
    with linux(memory="3.5G" if not IS_QEMU else "3584M") as g:
        try:
            g.expect(PROMPT, 170)
            kib = int(g.shell("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0])
            ok("3.5 GiB: the guest has it", 3400000 < kib < 3680000, kib)
            out = g.shell("grep 'System RAM' /proc/iomem")
            ok("3.5 GiB: some lies above 4 GiB, none in the PCI hole", any(l.strip().startswith("1") and len(l.split("-")[0].strip()) == 9
                                                                        for l in out.splitlines()), out)
            out = g.shell("dd if=/dev/zero of=/tmp/f bs=1M count=64 2>&1 | tail -1; sync; md5sum < /tmp/f", 120)
            ok("3.5 GiB: it can be used", "7f614da9329cd3aebf59b91aadc30bf0" in out, out)
            g.send("exit\n")
            ok("the shell's exit powers off", g.wait(30) == 0, g.text[-300:])
        except Timeout as e:
            ok("3.5 GiB: boots", False, e)


def without_arguments():
    if IS_QEMU:
        skip("run without arguments", "not QEMU's")
        return
    with Guest(engine=None) as g:
        try:
            g.expect(PROMPT, 170)
            g.send("poweroff\n")
            ok("run without arguments", g.wait(30) == 0, g.errors())
        except Timeout as e:
            ok("run without arguments", False, e)


if __name__ == "__main__":
    status_of("reboot under --no-reboot: status 0", REBOOT, 0, "--no-reboot")
    status_of("triple fault by reboot=t: status 1", REBOOT, 1 if not IS_QEMU else 0, "--no-reboot",
              append="console=ttyS0 quiet reboot=t")
    debug_exit()
    memory()
    without_arguments()
    finish()
