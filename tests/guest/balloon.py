#!/usr/bin/env python3
"""Memory that a guest frees goes back to the host within seconds; a balloon takes memory, and gives it back when needed."""
import os
import re
import subprocess
import tempfile
import time
from guest import PROMPT, ROOT, cache, finish, is_guest_ram, linux, mappings, ok, skip, Timeout

JUNK = 300  # MiB
SPOILT = 60  # MiB: the kernel names free blocks of 2 MiB, and at edges and in the gaps it had before are smaller ones
SECONDS = 30
BALLOON = 200  # MiB
LINE = "x" * 63  # with its end a power of two


def resident(g):
    """MiB of guest RAM that the host provides."""
    return sum(m["Rss"] for m in mappings(g.process.pid) if is_guest_ram(m)) / 1024


def settle(g, limit=SECONDS):
    """Wait until it no longer falls; the lowest value."""
    low, since = resident(g), time.monotonic()
    start = since
    while time.monotonic() - since < 5 and time.monotonic() - start < limit:
        time.sleep(0.2)
        now = resident(g)
        if now < low - 1:
            low, since = now, time.monotonic()
    return low


def wait_below(g, mib, limit=SECONDS):
    """Seconds until fewer than `mib` are resident."""
    start = time.monotonic()
    while resident(g) > mib and time.monotonic() - start < limit:
        time.sleep(0.1)
    return time.monotonic() - start


def meminfo(g, name):
    return int(re.search(name + r":\s+(\d+)", g.shell("cat /proc/meminfo"))[1]) / 1024


def balloon_pages(g):
    text = g.shell("grep balloon_ /proc/vmstat")
    return {k: int(v) for k, v in re.findall(r"balloon_(inflate|deflate) (\d+)", text)}


def wait_driver(g):
    for _ in range(50):
        if "reporting enabled" in g.shell("dmesg | tail -n 20; sleep 0.1"):
            return


def reporting(image):
    with linux(initrd=image, memory="768M", append="console=ttyS0 quiet") as g:
        g.expect(PROMPT, 170)
        wait_driver(g)
        ok("the driver has free page reporting", "Free page reporting enabled" in g.shell("dmesg"), g.text[-500:])
        before = settle(g)
        # what stays lies among what goes, code that has run as well
        g.shell("mount -o remount,size=90% /tmp; mkdir /tmp/k /tmp/j; cd /tmp")
        g.shell(f"yes {LINE} | head -c 1048576 >m; m5='m m m m m'")
        g.shell(f"for i in 1 2 3; do for n in $(seq {JUNK // 15}); do cat $m5; done >j/$i;"
                " (echo keep$i; cat $m5) >k/$i; cp /bin/busybox j/busybox$i; cp /bin/busybox k/busybox$i;"
                " j/busybox$i true; k/busybox$i true; done", 120)
        sums = g.shell("md5sum k/*", 60)
        full = resident(g)
        ok(f"{JUNK} MiB were touched", full - before >= JUNK, f"{before:.0f} -> {full:.0f} MiB")
        g.shell("rm -r j")
        seconds = wait_below(g, full - JUNK + SPOILT)
        after = settle(g)
        print(f"# resident: {before:.0f} MiB, with the files {full:.0f} MiB; {full - after:.0f} MiB went back, most within "
              f"{seconds:.1f} s")
        ok(f"of {JUNK} MiB that were freed at least {JUNK - SPOILT} went back to the host", full - after >= JUNK - SPOILT, f"{full:.0f} -> {after:.0f}")
        ok("what was not freed is unhurt", g.shell("md5sum k/*", 60) == sums)
        # the same pages again, under other content
        g.shell(f"for n in $(seq {JUNK // 5}); do cat $m5; done >again", 120)
        ok("the pages can be used again", g.shell("uniq again", 120) == LINE and resident(g) > full - 40)
        ok("programs run from where there was code before",
           g.shell("for i in 1 2 3; do cp k/busybox$i busybox; ./busybox echo ran; done", 60).split() == ["ran"] * 3)
        ok("and still it is unhurt", g.shell("md5sum k/*", 60) == sums)
        g.send("poweroff\n")
        ok("power off", g.wait(30) == 0, g.errors())


def ballooning(image):
    with linux("--balloon", f"{BALLOON}M", initrd=image, memory="512M", append="console=ttyS0 quiet") as g:
        g.expect(PROMPT, 170)
        wait_driver(g)
        deadline = time.monotonic() + 20
        while balloon_pages(g)["inflate"] < BALLOON * 256 and time.monotonic() < deadline:
            time.sleep(0.5)
        free = meminfo(g, "MemFree")
        ok(f"a balloon of {BALLOON} MiB leaves the guest the rest", balloon_pages(g)["inflate"] == BALLOON * 256
           and 100 < free < 490 - BALLOON, f"{balloon_pages(g)}, {free:.0f} MiB free")
        rss = settle(g)
        ok("the host does not provide it", rss < 512 - BALLOON, f"{rss:.0f} MiB")
        g.shell("mount -o remount,size=95% /tmp; cd /tmp")
        need = int(free) + BALLOON // 2
        g.shell(f"yes {LINE} | head -c 1048576 >m; for i in $(seq {need}); do cat m; done >x", 170)
        pages = balloon_pages(g)
        ok(f"a guest that needs {need} MiB takes some of it back",
           g.shell("wc -c <x").strip() == str(need << 20) and pages["deflate"] >= BALLOON * 256 // 4, pages)
        ok("its content is right", g.shell("uniq x", 120) == LINE)
        ok("nothing was killed for want of memory", "Killed process" not in g.shell("dmesg"), g.shell("dmesg | tail"))
        g.send("poweroff\n")
        ok("power off", g.wait(30) == 0, g.errors())


def none(image):
    with linux("--balloon", "off", initrd=image, append="console=ttyS0 quiet") as g:
        g.expect(PROMPT, 170)
        ok("--balloon off: no such device", "0x1045" not in g.shell("cat /sys/bus/pci/devices/*/device"), g.text[-500:])


def main():
    if not os.path.exists(cache("vmlinuz")):
        skip("balloon", "no kernel")
        finish()
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "initrd")
        subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", image], check=True)
        for test in (reporting, ballooning, none):
            try:
                test(image)
            except Timeout as e:
                ok(test.__name__, False, e)
    finish()


if __name__ == "__main__":
    main()
