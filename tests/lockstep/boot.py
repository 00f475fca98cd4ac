#!/usr/bin/env python3
"""Debian's cloud kernel under two engines in step, from its first instruction to power-off: boot.py [--engines A,B]."""
import argparse
import os
import subprocess
import tempfile

from lockstep import ENGINES, ROOT, finish, lockstep, ok

SCRIPT = """
cat /proc/interrupts /proc/cpuinfo
ls -l / /dev /proc/1 | md5sum
head -c 3000000 /dev/zero | gzip | md5sum
i=0; while [ $i -lt 200 ]; do i=$((i+1)); (echo $i) > /tmp/f; done
sleep 1
dmesg | md5sum
"""


def cache(name):
    base = os.environ.get("ECTYPE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "ectype")
    return os.path.join(base, name)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--engines", default=ENGINES, help=f"two names ({ENGINES})")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        script, initramfs = os.path.join(tmp, "script"), os.path.join(tmp, "initramfs")
        with open(script, "w", encoding="ascii") as f:
            f.write(SCRIPT)
        subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", initramfs, "--test", script], check=True)
        status, equal, text = lockstep(["--kernel", cache("vmlinuz"), "--initrd", initramfs, "--append", "console=ttyS0"],
                                       600, a.engines)
    ok(f"{a.engines}: boot to power-off" + (f": {equal.group(1)} instructions" if equal else ""),
       status == 0 and equal, f"status {status}\n" + "\n".join(text.splitlines()[-100:]))
    ok(f"{a.engines}: the guest came to its end", equal and equal.group().endswith("the guest powered off")
       and "Power down" in text, text[-2000:])
    finish()


if __name__ == "__main__":
    main()
