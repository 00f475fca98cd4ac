#!/usr/bin/env python3
"""The Debian image that tests and benchmarks start: made once by `ectype image create`, kept in the cache.

ensure() returns a Debian: a raw disk that nobody writes to (take copy(),
overlay() or the disk option `snapshot`), the ssh key that opens it, its kernel
and initrd. It is made again when the recipe changes. As a program it prints
the directory of the image.
"""
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from guest import BUILD, ROOT, cache

RECIPE = ("scripts/image.py", "scripts/debian_disk.py", "tests/guest/debian_image.py")
PROGRAM = os.path.join(BUILD, "ectype")
KEEP_DAYS = 7  # an image that nobody has asked for so long goes


class Missing(Exception):
    """It cannot be made here: packages or rights are missing."""


class Debian:
    def __init__(self, folder):
        self.folder = folder
        self.disk = os.path.join(folder, "disk.raw")
        self.key = os.path.join(folder, "key")
        with open(os.path.join(folder, "cmdline"), encoding="ascii") as f:
            self.cmdline = f.read().strip()

    def direct(self):
        """Options that start its kernel without firmware."""
        return ["--kernel", os.path.join(self.folder, "vmlinuz"), "--initrd", os.path.join(self.folder, "initrd.img"),
                "--append", self.cmdline]

    def copy(self, path):
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.disk, path], check=True)
        return path

    def overlay(self, path):
        subprocess.run([PROGRAM, "image", "overlay", "--format", "raw", self.disk, path], check=True)
        return path

    def ssh(self, port, *command, program="ssh", **kw):
        """ssh, or scp, to the guest behind a port of 127.0.0.1."""
        options = ["-i", self.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
                   "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=60"]
        where = ["-p", str(port), "root@127.0.0.1"] if program == "ssh" else ["-P", str(port)]
        return subprocess.run([program, "-F", "none", *options, *where, *command], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, **kw)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make(folder, packages, kernel, size):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ectype-test", "-f", os.path.join(folder, "key")],
                   check=True)
    disk = os.path.join(folder, "disk.raw")
    # the host name is what guest.PROMPT waits for
    p = subprocess.run([PROGRAM, "image", "create", disk, "--hostname", "ectype", "--kernel", kernel, "--size", size,
                        "--ssh-key", os.path.join(folder, "key.pub"), *[x for p in packages for x in ("--package", p)]],
                       stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if p.returncode == 2:
        raise Missing(p.stderr.strip().splitlines()[-1])
    if p.returncode:
        raise RuntimeError("ectype image create: " + p.stderr[-2000:])
    subprocess.run([PROGRAM, "image", "kernel", disk, folder], check=True, stderr=subprocess.DEVNULL)
    os.chmod(disk, 0o444)


def ensure(packages=(), kernel="cloud", size="4G"):
    h = hashlib.sha256(repr((sorted(packages), kernel, size)).encode())
    for name in RECIPE:
        with open(os.path.join(ROOT, name), "rb") as f:
            h.update(f.read())
    base = cache("debian")
    folder = os.path.join(base, h.hexdigest()[:16])
    os.makedirs(base, exist_ok=True)
    with open(os.path.join(base, ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in os.listdir(base):
            path = os.path.join(base, old)
            age = time.time() - os.stat(path).st_mtime
            if os.path.isdir(path) and path != folder and (age > KEEP_DAYS * 86400 or old.startswith(".new.")):
                shutil.rmtree(path, ignore_errors=True)
        if not os.path.isdir(folder):
            new = tempfile.mkdtemp(prefix=".new.", dir=base)
            try:
                make(new, packages, kernel, size)
                os.rename(new, folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        os.utime(folder)
    return Debian(folder)


if __name__ == "__main__":
    try:
        print(ensure().folder)
    except Missing as why:
        print(why, file=sys.stderr)
        sys.exit(77)
