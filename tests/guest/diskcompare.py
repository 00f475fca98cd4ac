#!/usr/bin/env python3
"""Random requests of a guest to a qcow2 image and to a raw one at once: diskcompare.py [--seed N] [--count N]

diskcompare.c does the same to both disks and compares what it reads. The two
images live on over several machines, Ectype's with each cache mode and several
queues, and QEMU's in between, so that each continues what the other wrote.
After each the host compares them, too, and qemu-img check finds nothing. The
qcow2 image is an overlay of two over a raw file, which stays as it is.
"""
import argparse
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from guest import ROOT, cache, linux, make_initramfs, ok, skip, finish, read_json, Guest, Timeout

MIB = 1 << 20
SIZE = 40 * MIB + 7 * 512
START = """#!/bin/sh
diskcompare $(sed 's/.*compare=\\([0-9]*\\),\\([0-9]*\\).*/\\1 \\2/' /proc/cmdline) /dev/vda /dev/vdb
"""


def run(*args):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    return p.returncode, p.stdout + p.stderr


def must(*args):
    status, out = run(*args)
    if status:
        raise RuntimeError(f"{args}: {out}")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def make(folder, cluster, rng):
    raw, base, middle, top = (os.path.join(folder, n) for n in ("raw", "base", "middle", "top"))
    data = b"".join(rng.randbytes(MIB) if rng.random() < 0.6 else bytes(MIB) for _ in range(30))
    for path, size in ((raw, SIZE), (base, len(data))):
        with open(path, "wb") as f:
            f.write(data)
            f.truncate(size)
    must("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", middle, SIZE)
    for path in (raw, middle):  # something of its own in the middle of the chain; compressed clusters cannot be made so
        must("qemu-io", "-f", "raw" if path == raw else "qcow2", "-c", "write -P 7 3M 500k", "-c", "write -z 20M 1M", path)
    must("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "-o", f"cluster_size={cluster}", top)
    return raw, top, base, middle


def machine(kind, raw, top, mode, queues, initrd, append, stats):
    if kind == "ectype":
        return linux("--disk", f"{raw},format=raw,cache={mode}", "--disk", f"{top},cache={mode},queues={queues}",
                     "--stats=json:" + stats, initrd=initrd, memory="256M", append=append)
    g = Guest.__new__(Guest)
    g.text, g.mark, g.err, g.slave = "", 0, tempfile.TemporaryFile(), None
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256", "-display", "none", "-monitor", "none",
               "-nic", "none", "-serial", "stdio", "-no-reboot", "-kernel", cache("vmlinuz"), "-initrd", initrd, "-append", append]
    for n, (path, fmt) in enumerate(((raw, "raw"), (top, "qcow2"))):
        command += ["-drive", f"file={path},format={fmt},cache={mode},if=none,id=d{n},discard=unmap", "-device", f"virtio-blk-pci,drive=d{n}"]
    g.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=g.err)
    g.into, g.out = g.process.stdin.fileno(), g.process.stdout.fileno()
    return g


def turn(name, kind, files, mode, queues, initrd, seed, count, folder):
    raw, top = files[:2]
    stats = os.path.join(folder, "stats")
    append = f"console=ttyS0 quiet compare={seed},{count}"
    with machine(kind, raw, top, mode, queues, initrd, append, stats) as g:
        said = g.expect(r"SAME|DIFFERENT.*\n|.* error at .*\n|\(errno.*\n", 240)
        status = g.wait(30)
        errors = g.errors()
    ok(f"{name}: both disks read the same", said.endswith("SAME") and status == 0, f"status {status}, {said} {errors}")
    code, out = run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, top)
    ok(f"{name}: and on the host", code == 0, out)
    code, out = run("qemu-img", "check", top)
    ok(f"{name}: qemu-img check", code == 0, out)
    if kind == "ectype":
        d = read_json(stats)["disks"]
        ok(f"{name}: the disks were asked for everything", all(x["discards"] and x["write_zeroes"] and x["flushes"] and not x["errors"]
                                                               for x in d), d)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--count", type=int, default=150, help="requests of each of the four processes and each machine")
    a = p.parse_args()
    seed = a.seed or random.randrange(1 << 30)
    print(f"# seed {seed}", flush=True)
    if not shutil.which("qemu-img"):
        skip("qcow2 and raw", "no qemu-img")
        finish()
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ectype-compare-", dir="/var/tmp") as folder:
        program = os.path.join(folder, "diskcompare")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-static", "-o", program,
                        os.path.join(ROOT, "tests/guest/diskcompare.c")], check=True)
        initrd = make_initramfs(os.path.join(folder, "initrd"), START, "bin/diskcompare=" + program)
        files = make(folder, rng.choice((4096, 65536)), rng)
        below = [digest(f) for f in files[2:]]
        turns = [("Ectype, writeback", "ectype", "writeback", 1), ("QEMU", "qemu", "writeback", 1), ("Ectype, none", "ectype", "none", 4)]
        for name, kind, mode, queues in turns:
            if kind == "qemu" and not shutil.which("qemu-system-x86_64"):
                skip(name, "no QEMU")
                continue
            try:
                turn(name, kind, files, mode, queues, initrd, rng.randrange(1 << 30), a.count, folder)
            except Timeout as e:
                ok(name, False, e)
        ok("the files below the overlay are as they were", [digest(f) for f in files[2:]] == below)
    finish()


if __name__ == "__main__":
    main()
