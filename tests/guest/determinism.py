#!/usr/bin/env python3
"""Two boots with the virtual clock are equal to the bit; a different input is not."""
import hashlib
import os
import sys
import tempfile
from guest import linux, ok, finish, make_initramfs, read_json, skip, IS_QEMU

SCRIPT = """
cat /proc/interrupts /proc/uptime
head -c 64 /dev/urandom | md5sum
date
ls -l / /dev > /tmp/l; md5sum /tmp/l
i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; echo $i
sleep 1
cat /proc/stat /proc/uptime
dmesg | md5sum
"""


def run(tmp, n, *more):
    stats, serial = os.path.join(tmp, f"stats{n}"), os.path.join(tmp, f"serial{n}")
    with linux("--clock", "virtual", "--serial", "file:" + serial, "--stats=json:" + stats, *more,
               initrd=os.path.join(tmp, "initramfs")) as g:
        status = g.wait(200)
        if status != 0:
            ok(f"run {n} ends with status 0", False, f"{status}\n{g.errors()}")
            with open(serial, errors="replace") as f:
                print("#", f.read()[-500:])
            finish()
    with open(serial, "rb") as f:
        return read_json(stats), f.read()


if __name__ == "__main__":
    if IS_QEMU:
        skip("determinism", "not QEMU's")
        sys.exit(0)
    with tempfile.TemporaryDirectory() as tmp:
        make_initramfs(os.path.join(tmp, "initramfs"), SCRIPT)
        (a, text_a), (b, text_b) = run(tmp, 1), run(tmp, 2)
        ok("the console says something", b"reboot: Power down" in text_a or len(text_a) > 5000, text_a[-300:])
        ok("same number of instructions", a["instructions"] == b["instructions"], f"{a['instructions']} {b['instructions']}")
        ok("same state hash", a["state_hash"] == b["state_hash"], f"{a['state_hash']} {b['state_hash']}")
        where = next((i for i, (x, y) in enumerate(zip(text_a, text_b)) if x != y), min(len(text_a), len(text_b)))
        ok("same console bytes", text_a == text_b,
           f"differ at {where}: {text_a[max(0, where - 80):where + 80]} / {text_b[max(0, where - 80):where + 80]}")
        ok("stats name the engine, the seconds and the exits",
           a.get("engine") and a.get("seconds", 0) > 0 and isinstance(a.get("exits"), dict), a)
        print("# console", hashlib.sha256(text_a).hexdigest()[:16], "instructions", a["instructions"], "hash", a["state_hash"])
    finish()
