#!/usr/bin/env python3
"""Monitors killed with SIGKILL while their guest writes: killsafe.py [--rounds N] [--seed N] [WORD...]

killsafe.c writes records in the guest, syncs them and says so on the console.
The monitor is killed at a random moment. Then the image holds every record
that was said to be synced, or a later one of its key, and every sector is
what it was at first, zero, or part of a record that belongs there; `qemu-img
check` finds no error. An image lives on over several rounds. Raw images and
qcow2 images with a backing file, cache=writeback and cache=none; WORD takes
only those whose names have it.
"""
import argparse
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from guest import ROOT, linux, make_initramfs, ok, skip, finish, Timeout

MIB = 1 << 20
SIZE = 48 * MIB
SECTOR = 512
WORKERS = 4
SLOT = (1, 8, 40, 257)  # sectors, of each worker's records
MAGIC = 0x656C6C694B746365
LIFE = 5  # rounds of one image
CLUSTERS = (65536, 4096, 512, 2097152)
START = """#!/bin/sh
stty -echo
killsafe /dev/vda $(sed 's/.*killsafe=\\([0-9]*\\),\\([0-9]*\\).*/\\1 \\2/' /proc/cmdline)
"""


class Wrong(Exception):
    pass


def run(*args):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    return p.returncode, p.stdout + p.stderr


class Image:
    """A disk, and what must be on it."""

    def __init__(self, folder, fmt, rng):
        self.fmt, self.folder = fmt, folder
        self.path = os.path.join(folder, "disk." + fmt)
        self.need = {}  # (worker, key): sequence number
        self.zero = {}  # sector: sequence number after which it may hold a record
        self.spoiled = set()  # sectors that were to be discarded or zeroed
        base = os.path.join(folder, "base")
        self.first = rng.randbytes(SIZE * 3 // 4)
        for f in (self.path, base):
            if os.path.exists(f):
                os.unlink(f)
        with open(self.path if fmt == "raw" else base, "wb") as f:
            f.write(self.first)
            f.truncate(SIZE if fmt == "raw" else len(self.first))
        self.first += bytes(SIZE - len(self.first))
        if fmt != "raw":
            options = f"cluster_size={rng.choice(CLUSTERS)},lazy_refcounts={rng.choice(('on', 'off'))}"
            status, out = run("qemu-img", "create", "-q", "-f", fmt, "-b", "base", "-F", "raw", "-o", options, self.path, SIZE)
            if status:
                raise RuntimeError(out)

    def learn(self, text):
        """Take in what the guest said; returns the number of records."""
        records = 0
        for line in text.replace("\r", "").split("\n")[:-1]:
            word = line.split()
            if not word or word[0] not in "SFZE" or not all(w.isdigit() for w in word[1:]):
                if line.startswith("E "):
                    raise Wrong("an error in the guest: " + line)
                continue
            kind, worker, *n = word[0], *map(int, word[1:])
            if kind == "S":
                for key, seq in zip(n[::2], n[1::2]):
                    self.need[worker, key] = seq
                    for s in self.sectors(worker, key):
                        self.zero.pop(s, None)
                    records += 1
            else:
                where = range(n[0], n[0] + n[1])
                self.spoiled.update(where)
                for s in where:
                    self.zero.pop(s, None)
                    self.need.pop((worker, self.key(worker, s)), None)
                if kind == "Z":
                    self.zero.update(dict.fromkeys(where, n[2]))
        return records

    @staticmethod
    def place(worker):
        return worker * (SIZE // SECTOR // WORKERS)

    def key(self, worker, sector):
        return (sector - self.place(worker)) // SLOT[worker] // 2

    def sectors(self, worker, key):
        at = self.place(worker) + 2 * key * SLOT[worker]
        return range(at, at + 2 * SLOT[worker])

    def content(self):
        if self.fmt == "raw":
            with open(self.path, "rb") as f:
                return f.read()
        for _ in range(20):  # the kernel may hold a killed process's lock for a moment
            status, out = run("qemu-img", "check", "-q", self.path)
            if "lock" not in out:
                break
            time.sleep(0.1)
        if status not in (0, 3):  # 3: leaked clusters
            raise Wrong(f"qemu-img check: status {status}: {out}")
        raw = os.path.join(self.folder, "converted")
        status, out = run("qemu-img", "convert", "-O", "raw", self.path, raw)
        if status:
            raise Wrong(out)
        with open(raw, "rb") as f:
            return f.read()

    def verify(self):
        data = self.content()
        found = {}  # sector: sequence number of the record it is of
        for at in range(SIZE // SECTOR):
            s = data[at * SECTOR:(at + 1) * SECTOR]
            worker = at // (SIZE // SECTOR // WORKERS)
            magic, where, seq, index = struct.unpack_from("<QQQI", s)
            if magic == MAGIC and where == at and zlib.crc32(s[:-4]) == struct.unpack_from("<I", s, SECTOR - 4)[0] and \
                    index == (at - self.place(worker)) % SLOT[worker]:
                found[at] = seq
            elif s != self.first[at * SECTOR:(at + 1) * SECTOR] and not (at in self.spoiled and s == bytes(SECTOR)):
                raise Wrong(f"sector {at} is neither what it was nor of a record: {s[:32].hex()}")
        for (worker, key), seq in self.need.items():
            both = self.sectors(worker, key)
            slots = [{found.get(s) for s in half} for half in (both[:len(both) // 2], both[len(both) // 2:])]
            best = max((h.pop() or 0 for h in slots if len(h) == 1), default=0)
            if best < seq:
                raise Wrong(f"worker {worker}, key {key}: record {seq} was synced, {best} is there")
        for at, seq in self.zero.items():
            if data[at * SECTOR:(at + 1) * SECTOR] != bytes(SECTOR) and found.get(at, 0) <= seq:
                raise Wrong(f"sector {at} was zeroed and synced after record {seq}; there is {found.get(at)}")


def one_round(image, initrd, cache, rng, number):
    options = f"{image.path},format={image.fmt},cache={cache},queues={rng.randint(1, 4)}"
    append = f"console=ttyS0 quiet killsafe={rng.randrange(1 << 30)},{number * 1000000}"
    with linux("--disk", options, initrd=initrd, memory="256M", append=append) as g:
        g.expect(r"GO\r?\n", 240)
        until = time.monotonic() + rng.random() ** 2 * 1.5
        answered = 0
        while (left := until - time.monotonic()) > 0:
            g.pump(left)
            lines = g.text.replace("\r", "").split("\n")[:-1]
            for line in lines[answered:]:
                if line.startswith("F "):
                    g.send(f"A {line.split()[1]}\n")
            answered = len(lines)
        g.process.kill()
        g.process.wait()
        while g.pump(1):
            pass
        records = image.learn(g.text)
        said = g.errors()
    if said.strip():
        raise Wrong("the monitor said: " + said)
    image.verify()
    return records


def rounds(folder, initrd, fmt, cache, n, seed):
    name = f"{fmt}, cache={cache}: {n} monitors killed, nothing synced is lost"
    rng = random.Random(f"{seed} {fmt} {cache}")
    image, total = None, 0
    try:
        for i in range(n):
            if i % LIFE == 0:
                image = Image(folder, fmt, rng)
            total += one_round(image, initrd, cache, rng, i + 1)
        ok(name, total, "no record was synced")
    except (Wrong, Timeout) as e:
        ok(name, False, f"seed {seed}, round {i}: {e}")
        keep = os.environ.get("KILLSAFE_KEEP")
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
    print(f"# {fmt}, cache={cache}: {total} records said to be synced", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("word", nargs="*")
    a = p.parse_args()
    seed = a.seed or random.randrange(1 << 30)
    print(f"# seed {seed}", flush=True)
    # not /tmp, which may be a tmpfs without O_DIRECT
    with tempfile.TemporaryDirectory(prefix="ectype-killsafe-", dir="/var/tmp") as folder:
        program = os.path.join(folder, "killsafe")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-static", "-o", program,
                        os.path.join(ROOT, "tests/guest/killsafe.c")], check=True)
        initrd = make_initramfs(os.path.join(folder, "initrd"), START, "bin/killsafe=" + program)
        for fmt in ("raw", "qcow2"):
            for cache in ("writeback", "none"):
                if not all(w in f"{fmt} {cache}" for w in a.word):
                    continue
                if fmt == "qcow2" and not shutil.which("qemu-img"):
                    skip(f"{fmt}, cache={cache}", "no qemu-img")
                    continue
                rounds(folder, initrd, fmt, cache, a.rounds, seed)
    finish()


main()
