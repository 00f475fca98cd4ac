#!/usr/bin/env python3
"""Make snapshots of this version to be kept: make.py NAME writes NAME.tar.xz beside this file.

A small machine with two processors, disks, a network and vsock runs the payload
stored_machine64, which knows what it was. It is saved plain, compressed, and on
the compressed one as a base. Files are named by /proc/self/cwd, so that the
machine is found wherever the archive is unpacked. tests/guest/stored.py restores
all archives that are here; once in the tree, an archive is never changed.
"""
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(os.path.dirname(HERE), "guest"))
from guest import BUILD, ECTYPE, Guest  # noqa: E402

KINDS = {"plain": (), "zstd": ("--compress",), "inc": ("--base", "zstd")}
CWD = "/proc/self/cwd/"


def make(folder, engine="interp"):
    """The machine's files and snapshots, in `folder`."""
    before = os.getcwd()
    shutil.copy(os.path.join(BUILD, "tests", "payload", "stored_machine64"), os.path.join(folder, "kernel"))
    for name in ("disk.raw", "readonly.raw"):
        with open(os.path.join(folder, name), "wb") as f:
            f.write(name.encode() * 100)
            f.truncate(65536)
        os.utime(f.name, (10**9, 10**9))  # an archive knows whole seconds only
    os.chdir(folder)
    try:
        name = f"stored-{os.getpid()}"
        with Guest("--name", name, "--kernel", CWD + "kernel", "--memory", "8M", "--cpus", "2", "--debug-exit",
                   "--no-reboot", "--cpu-model", "x86-64-v2", "--disk", CWD + "disk.raw,id=d0,format=raw",
                   "--disk", CWD + "readonly.raw,id=d1,format=raw,readonly", "--net", "user",
                   "--vsock", f"socket={CWD}vsock", engine=engine) as g:
            g.expect("ready", 60)
            for kind, options in KINDS.items():
                if kind == "inc":
                    g.send("f")
                    g.expect("ready", 60)
                subprocess.run([ECTYPE, "snapshot", name, kind, *options], check=True, timeout=60,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            g.send("g")
            g.expect("DONE .*, 0 failed", 60)
    finally:
        os.chdir(before)


def plain(info):
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make.py NAME")
    path = os.path.join(HERE, sys.argv[1] + ".tar.xz")
    with tempfile.TemporaryDirectory() as folder:
        make(folder)
        with tarfile.open(path, "x:xz", preset=9) as tar:
            for name in ("kernel", "disk.raw", "readonly.raw", *KINDS):
                tar.add(os.path.join(folder, name), name, filter=plain)
    print(f"{path}: {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
