#!/usr/bin/env python3
"""The VM Generation ID: Debian's generic kernel finds the device, takes a change of the ID as an event, and makes new
random numbers; the ID after a reset, on the virtual clock, and given on the command line."""
import os
import re
import shutil
import subprocess
import tempfile
import time

import guest
from guest import PROMPT, ROOT, cache, finish, linux, ok, run_to_end

tmp = tempfile.mkdtemp(prefix="ectype-generation-")
os.environ["XDG_RUNTIME_DIR"] = tmp
GUID = "00112233-4455-6677-8899-aabbccddeeff"
FIXED = "45637479-7065-4000-8000-000000000001"
FORM = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
ADDRESS = 0xfef00000


def generation(name, *args):
    return run_to_end(("ctl", name, "generation", *args))[:3]


def events(g):
    """How often the SCI came, and the device's event."""
    sci = re.search(r"^ *9: +(\d+)", g.shell("cat /proc/interrupts"), re.M)
    gpe = re.search(r"^ *(\d+)(.*)", g.shell("cat /sys/firmware/acpi/interrupts/gpe05"), re.M)
    return int(sci[1]), int(gpe[1]), gpe[2]


def wait_in_guest(g, command, pattern, limit=20):
    end = time.monotonic() + limit * guest.SLOW
    while True:
        text = g.shell(command)
        if re.search(pattern, text) or time.monotonic() > end:
            return text
        time.sleep(0.2)


def one_guest():
    name, initrd = "generation-test", os.path.join(tmp, "initrd")
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", initrd, "--kernel", cache("vmlinuz-generic")], check=True)
    with linux("--name", name, kernel="vmlinuz-generic", initrd=initrd) as g:
        g.expect(PROMPT, 240)
        status, first, err = generation(name)
        ok("a random ID", status == 0 and re.fullmatch(FORM, first.strip()), first + err)
        bound = g.shell("ls /sys/bus/acpi/drivers/vmgenid; cat /sys/bus/acpi/devices/ECTY0001:00/path")
        ok("the kernel's driver has the device", "ECTY0001:00" in bound and r"\_SB_.VGEN" in bound, bound)
        ok("its page is reserved", re.search(f"{ADDRESS:08x}-{ADDRESS + 4095:08x} : pnp", g.shell("cat /proc/iomem")), g.shell("cat /proc/iomem"))
        before = events(g)
        ok("its event is enabled, and has not come", before[1] == 0 and "enabled" in before[2], before)

        # the driver compares: what is the same is no change
        generation(name, first.strip())
        wait_in_guest(g, "cat /sys/firmware/acpi/interrupts/gpe05", r"^ *1 ")
        ok("the ID that it has: an event, and no new random numbers", events(g)[1] == 1 and
           not g.shell("dmesg | grep 'virtual machine fork'").strip(), events(g))
        status, out, err = generation(name, GUID.upper())
        ok("ctl generation GUID", status == 0 and out.strip() == GUID and generation(name)[1].strip() == GUID, out + err)
        log = wait_in_guest(g, "dmesg | grep 'virtual machine fork'", "fork")
        ok("the kernel makes new random numbers", "crng reseeded due to virtual machine fork" in log, log)
        after = events(g)
        ok("by an interrupt of the ACPI, the device's event", after[0] == before[0] + 2 and after[1] == 2, f"{before} {after}")
        status, out, err = generation(name, "auto")
        ok("ctl generation auto: a random one", status == 0 and re.fullmatch(FORM, out.strip()) and out.strip() not in (GUID, first.strip()), out + err)
        wait_in_guest(g, "dmesg | grep -c 'virtual machine fork'", "^2")
        ok("each is an event", events(g)[1] == 3, events(g))
        last = out
        g.send("reboot -f\n")
        g.expect(PROMPT, 240)
        ok("the same after a reset", generation(name)[1] == last)
        restored(g, name, last.strip())
        ok("and the driver has it again", "ECTY0001:00" in g.shell("ls /sys/bus/acpi/drivers/vmgenid"))


def restored(g, name, first):
    """A copy is told before it does anything."""
    folder = os.path.join(tmp, "snapshot")
    status, out, err = run_to_end(("snapshot", name, folder), 60)[:3]
    if not ok("snapshot", status == 0, out + err):
        return
    copy = guest.Guest.__new__(guest.Guest)
    copy.text, copy.mark, copy.err, copy.slave = "", 0, tempfile.TemporaryFile(), None
    copy.process = subprocess.Popen([guest.ECTYPE, "restore", folder, "--name", name + "-copy"], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=copy.err)
    copy.into, copy.out = copy.process.stdin.fileno(), copy.process.stdout.fileno()
    with copy:
        copy.send("\n")
        copy.expect(PROMPT, 60)
        log = wait_in_guest(copy, "dmesg | grep 'virtual machine fork'", "fork")
        ok("a restored machine makes new random numbers", log.count("fork") == 1 and events(copy)[1] == 1, log)
        ok("it has an ID of its own", generation(name + "-copy")[1].strip() not in ("", first))
    ok("the one that was saved keeps its ID, and is told nothing", generation(name)[1].strip() == first and events(g)[1] == 0)


def options():
    image = guest.multiboot(os.path.join(tmp, "image"), b"\xeb\xfe")  # jmp -2
    cases = ((("--vmgenid", GUID), GUID), (("--clock", "virtual"), FIXED), (("--clock", "virtual", "--vmgenid", GUID), GUID),
             (("--vmgenid", "off"), None))
    for i, (more, want) in enumerate(cases):
        name = f"generation-{i}"
        with guest.Guest("--name", name, "--kernel", image, "--memory", "16M", *more,
                         engine="auto" if "virtual" in more else guest.ENGINE) as g:
            end = time.monotonic() + 20 * guest.SLOW
            while run_to_end(("ctl", name, "pause"))[0] and time.monotonic() < end:
                time.sleep(0.05)
            status, out, err = generation(name)
            ok(f"{' '.join(more)}: {want}", (status, out.strip()) == ((0, want) if want else (1, "")), f"{status} {out} {err}")
            if not want:
                status, out, err = generation(name, "auto")
                ok("without the device there is nothing to change", status == 1 and "no VM Generation ID" in err and err.count("\n") == 1, err)
    for value in ("", "x", GUID[:-1], GUID + "0", "{" + GUID + "}"):
        status, out, err, _ = run_to_end(("run", "--vmgenid", value, "--kernel", image))
        ok(f"--vmgenid '{value}': status 2, one line", status == 2 and err.count("\n") == 1 and "--vmgenid" in err, f"{status} {err}")


try:
    options()
    one_guest()
finally:
    shutil.rmtree(tmp)
finish()
