#!/usr/bin/env python3
"""A Debian disk, made by `ectype image create`, boots by direct kernel, SeaBIOS with GRUB, and OVMF; systemd finds
nothing wrong; ssh and scp work through a host forward; after poweroff the file system is clean.

debian.py [--short] [--boots direct,seabios,ovmf] [--size MIB]

--short: the direct boot, with a small file copied. Under interp that is what runs unless told otherwise.
"""
import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time

import debian_image
from guest import ENGINE, Guest, PROMPT, SLOW, Timeout, finish, ok, skip

# Seconds; the reference engine is some 20 times slower.
LIMIT = 1500 if ENGINE == "interp" else 150
COMMAND = LIMIT / 2
IDLE_SECONDS = 30
ROOT_START = 66 << 20  # debian_disk.ROOT_START


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Boot:
    def __init__(self, name, debian, folder):
        self.name, self.debian = name, debian
        self.port = debian_image.free_port()
        # one of them through a qcow2 overlay, the others on a raw copy
        self.qcow2 = name == "seabios"
        path = os.path.join(folder, name)
        self.disk = debian.overlay(path + ".qcow2") if self.qcow2 else debian.copy(path + ".raw")

    def ok(self, what, good, detail=""):
        return ok(f"{self.name}: {what}", good, detail)

    def guest(self):
        how = self.debian.direct() if self.name == "direct" else ["--firmware", self.name]
        return Guest("--disk", self.disk, "--net", f"user,hostfwd=tcp:127.0.0.1:{self.port}-:22", "--memory", "1G", *how)

    def log_in(self, g):
        g.expect(r"login: ", LIMIT)
        self.ok(f"boots to the login prompt, {time.monotonic() - g.started:.1f} s", True)
        g.send("root\n")
        g.expect(PROMPT, COMMAND)
        # a console that shell() can read: no line editor that breaks lines, no colours
        g.send("export TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_PAGER=cat; bind 'set enable-bracketed-paste off'; stty cols 400\n")
        g.expect(PROMPT, COMMAND)

    def system(self, g):
        state = g.shell("systemctl is-system-running --wait", COMMAND).strip()
        self.ok("systemctl is-system-running says running", state == "running",
                state + "\n" + g.shell("systemctl --failed --no-legend", COMMAND))
        text = g.shell("journalctl -b -q -p err -o cat", COMMAND).strip()
        self.ok("no errors in the journal", not text, text)
        efi = g.shell("ls -d /sys/firmware/efi", COMMAND).strip() == "/sys/firmware/efi"
        grub = "BOOT_IMAGE=" in g.shell("cat /proc/cmdline", COMMAND)
        self.ok("was booted this way", (efi, grub) == (self.name == "ovmf", self.name != "direct"), f"efi {efi} grub {grub}")
        self.ok("the root is on a virtio disk", re.fullmatch(r"/dev/vda3", g.shell("findmnt -no SOURCE /", COMMAND).strip()))
        self.id = g.shell("cat /etc/machine-id", COMMAND).strip()
        self.ok("the machine has an identity", re.fullmatch(r"[0-9a-f]{32}", self.id), self.id)

    def network(self, folder, mib):
        p = self.debian.ssh(self.port, "cat /etc/hostname; exit 7", timeout=COMMAND * SLOW)
        self.ok("ssh with the key, exit status included", (p.returncode, p.stdout) == (7, "ectype\n"), f"{p.returncode} {p.stdout}{p.stderr}")
        there, back = os.path.join(folder, "there"), os.path.join(folder, "back")
        with open(there, "wb") as f:
            for _ in range(mib):
                f.write(os.urandom(1 << 20))
        want = digest(there)
        start = time.monotonic()
        p = self.debian.ssh(self.port, there, "root@127.0.0.1:/root/file", program="scp", timeout=4 * LIMIT * SLOW)
        self.ok(f"scp of {mib} MiB to the guest, {time.monotonic() - start:.1f} s", p.returncode == 0, p.stderr)
        p = self.debian.ssh(self.port, "sha256sum /root/file", timeout=LIMIT * SLOW)
        self.ok("the guest has the same sum", p.stdout.startswith(want), f"{want} {p.stdout}{p.stderr}")
        # so that the way back is from the disk
        self.debian.ssh(self.port, "sync; echo 3 > /proc/sys/vm/drop_caches", timeout=COMMAND * SLOW)
        start = time.monotonic()
        p = self.debian.ssh(self.port, "root@127.0.0.1:/root/file", back, program="scp", timeout=4 * LIMIT * SLOW)
        self.ok(f"scp of {mib} MiB from the guest, {time.monotonic() - start:.1f} s", p.returncode == 0, p.stderr)
        self.ok("the file that came back has the same sum", os.path.exists(back) and digest(back) == want)
        os.unlink(there)

    def idle(self, g):
        """What a Debian costs that does nothing, once its boot is over; the processor time of all threads."""
        time.sleep(20)
        before = g.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        used = (g.cpu_seconds() - before) / IDLE_SECONDS * 100
        self.ok(f"idle it costs under 3 % of a core: {used:.2f} %", used < 3)

    def disk_after(self, folder):
        raw = self.disk
        if self.qcow2:
            p = subprocess.run([debian_image.PROGRAM, "image", "check", self.disk], capture_output=True, text=True)
            self.ok("ectype image check finds nothing", p.returncode == 0, p.stdout + p.stderr)
            raw = os.path.join(folder, "flat.raw")
            subprocess.run([debian_image.PROGRAM, "image", "convert", self.disk, raw], check=True)
        env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C"}
        where = f"{raw}?offset={ROOT_START}"
        p = subprocess.run(["e2fsck", "-fn", where], capture_output=True, text=True, env=env)
        self.ok("e2fsck -fn finds nothing", p.returncode == 0, p.stdout + p.stderr)
        p = subprocess.run(["debugfs", "-R", "show_super_stats -h", where], capture_output=True, text=True, env=env)
        features = re.search(r"Filesystem features: *(.*)", p.stdout)
        self.ok("it was unmounted: no journal to replay", features and "needs_recovery" not in features.group(1) and
                re.search(r"state: *clean$", p.stdout, re.M), p.stdout)

    def run(self, folder, mib, idle):
        with self.guest() as g:
            try:
                self.log_in(g)
                self.system(g)
                if idle:
                    self.idle(g)
                self.network(folder, mib)
                g.send("poweroff\n")
                status = g.wait(COMMAND)
                self.ok("poweroff ends it with status 0", status == 0, f"{status}\n{g.errors()}\n{g.text[-500:]}")
            except (Timeout, subprocess.TimeoutExpired) as e:
                self.ok("answers in time", False, e)
                return
        self.disk_after(folder)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--short", action="store_true")
    p.add_argument("--boots", help="of direct, seabios, ovmf; default all, under interp direct")
    p.add_argument("--size", type=int, help="MiB of the file that is copied; default 200, short 4")
    a = p.parse_args()
    small = a.short or ENGINE == "interp"
    boots = (a.boots or ("direct" if small else "direct,seabios,ovmf")).split(",")
    try:
        debian = debian_image.ensure()
    except debian_image.Missing as e:
        skip("debian", e)
        sys.exit(77)
    seen = []
    with tempfile.TemporaryDirectory(dir=debian.folder) as tmp:
        for name in boots:
            with tempfile.TemporaryDirectory(dir=tmp) as folder:
                b = Boot(name, debian, folder)
                b.run(folder, a.size or (4 if a.short else 200), idle=not small and name == "direct")
                seen.append(getattr(b, "id", None))
    if len(seen) > 1:
        ok("each copy became a machine of its own", len(set(seen)) == len(seen), seen)
    finish()


if __name__ == "__main__":
    main()
