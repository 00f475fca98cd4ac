#!/usr/bin/env python3
"""Snapshots: machines are saved and go on, twice and in another engine; what is damaged is refused.

snapshot.py [--engine NAME] [--rounds N]

With the real clock a shell with files, a disk and a network goes on. With the
virtual clock `ectype lockstep --round-trip` saves a machine after every slice,
builds another one from that, and compares it with one that was never saved.
"""
import argparse
import ctypes
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from guest import ECTYPE, ENGINE, SLOW, Guest, Timeout, cache, finish, linux, ok, run_to_end

MIB = 1 << 20
OTHER = "interp" if ENGINE != "interp" else "dbt"


def control(*args, limit=60):
    p = subprocess.run([ECTYPE, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit * SLOW)
    return p.returncode, p.stdout, p.stderr


def refused(name, args, words, status=2):
    """One line on stderr that has `words`, and nothing else happened."""
    got, out, err, _ = run_to_end(args, 30)
    return ok(name, got == status and err.count("\n") == 1 and re.search(words, err) and not out,
              f"{args}\nstatus {got}, stdout {out[-300:]!r}, stderr {err[-600:]!r}")


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from the host\n")

    def log_message(self, *args):
        pass


def goes_on(folder, snap, name, engine, sums, port, *more):
    """A restored machine has its files, its processes, the disk as it was, a network; its disk can be written."""
    with Guest(snap, "--name", name, *more, engine=engine, verb="restore") as g:
        g.send("\n")
        g.expect(r"# ", 60)
        g.shell("echo here")
        files = g.shell("md5sum /tmp/noise && dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum")
        ok(f"{name}: files and disk are what they were", [s in files for s in sums] == [True, True], f"{sums}\n{files}")
        before = g.number("/tmp/count")
        time.sleep(1)
        after = g.number("/tmp/count")
        ok(f"{name}: a process goes on counting", after > before, f"{before} {after}")
        ok(f"{name}: all processors run", g.shell("for c in 0 1; do taskset $((1 << c)) echo on$c; done").split() == ["on0", "on1"])
        ok(f"{name}: the network answers", "from the host" in g.shell(f"wget -q -O - http://10.0.2.2:{port}/", 90))
        g.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=2 2>/dev/null; sync")
        bad = g.shell("dmesg | grep -cE 'BUG|Oops|soft lockup|rcu.*stall|I/O error'")
        ok(f"{name}: the kernel has no complaint", bad.strip() == "0", g.shell("dmesg | tail -20"))
        control("stop", name, "--force")


def shell(folder, port):
    disk = os.path.join(folder, "disk.raw")
    snap, stopped = os.path.join(folder, "snap"), os.path.join(folder, "stopped")
    with open(disk, "wb") as f:
        f.truncate(16 * MIB)
    with linux("--name", "snap-a", "--disk", disk, "--net", "user", "--cpus", "2", memory="256M") as g:
        g.expect(r"# ", 120)
        g.shell("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
        g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=24 2>/dev/null; "
                "dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null; sync")
        g.shell("(n=0; while :; do n=$((n+1)); echo $n >/tmp/count; usleep 1000; done) & true")
        sums = [re.search(r"[0-9a-f]{32}", g.shell(c)).group(0) for c in
                ("md5sum /tmp/noise", "dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum")]
        status, out, err = control("snapshot", "snap-a", snap)
        ok("a running machine is saved", status == 0 and "stood still" in out, f"{status} {out} {err}")
        print("#   " + out.strip(), flush=True)
        ok("holes of RAM are no blocks", os.stat(snap + "/ram").st_blocks * 512 < 200 * MIB)
        ok("it goes on", "on1" in g.shell("echo on1"))
        g.shell("dd if=/dev/zero of=/dev/vda bs=1M count=8 2>/dev/null; rm /tmp/noise; sync")
        refused("a directory that is there is left alone", ["snapshot", "snap-a", snap], "is there already")
        refused("a machine that ends is saved for good", ["snapshot", "snap-a", stopped, "--stop", "--no-sync"], "--no-sync")
        status, out, err = control("snapshot", "snap-a", stopped, "--stop")
        ok("a machine is saved and ends", status == 0 and g.wait(20) == 0, f"{status} {out} {err} {g.errors()}")
    goes_on(folder, snap, "snap-b", ENGINE, sums, port)
    goes_on(folder, snap, "snap-c", OTHER, sums, port, "--eager")
    refused("an overlay that is there is not overwritten", ["restore", snap, "--name", "snap-b"], "is there already")
    with Guest(stopped, "--name", "snap-d", "--in-place", verb="restore") as g:
        g.send("\n")
        g.expect(r"# ", 60)
        ok("after --stop, with the disk itself", "gone" in g.shell("ls /tmp/noise 2>/dev/null || echo gone"))
        g.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=1 2>/dev/null; sync")
        control("stop", "snap-d", "--force")
    refused("a disk that was written to since", ["restore", stopped], "was changed since")


# writes a file over and over, and counts how often, and how often it was wrong
LOAD = ("load() { (cd /tmp; md5sum noise >sum; n=0; bad=0; while :; do cat noise >copy$1; n=$((n+1)); "
        "md5sum copy$1 | grep -q $(cut -c1-32 sum) || bad=$((bad+1)); echo $n $bad >load$1; done) & }; "
        "load 1; load 2; load 3")


def under_load(folder):
    """Memory is that of one moment while three processes write it, each checking what it wrote."""
    snap = os.path.join(folder, "load")
    with linux("--name", "snap-l", "--cpus", "2", memory="256M") as g:
        g.expect(r"# ", 120)
        g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=8 2>/dev/null")
        g.shell(LOAD)
        time.sleep(2)
        status, out, err = control("snapshot", "snap-l", snap, "--no-sync")
        ok("a machine under load is saved", status == 0, err)
        print("#   " + out.strip(), flush=True)
        counts = g.shell("cat /tmp/load?").split()
        ok("it goes on without a fault", len(counts) == 6 and set(counts[1::2]) == {"0"}, counts)
    with Guest(snap, "--name", "snap-m", verb="restore") as g:
        g.send("\n")
        g.expect(r"# ", 60)
        end = time.monotonic() + 60 * SLOW
        while True:  # it was saved before it was asked how far it was
            time.sleep(1)
            later = g.shell("cat /tmp/load?; cat /tmp/noise | md5sum | cut -c1-32; cut -c1-32 /tmp/sum").split()
            if len(later) == 8 and sum(map(int, later[0:6:2])) > sum(map(int, counts[0::2])) or time.monotonic() > end:
                break
        ok("what goes on from there has no fault either", len(later) == 8 and set(later[1:6:2]) == {"0"} and
           later[6] == later[7], later)
        ok("its processes go on", sum(map(int, later[0:6:2])) > sum(map(int, counts[0::2])), (counts, later))


def small(folder):
    """A snapshot of a machine without disks, to be damaged."""
    snap = os.path.join(folder, "small")
    with linux("--name", "snap-s", memory="128M") as g:
        g.expect(r"# ", 120)
        status, _, err = control("snapshot", "snap-s", snap)
        ok("a machine without disks is saved", status == 0, err)
    return snap


class Damaged:
    """A copy of a snapshot with another `state` or `ram`."""

    def __init__(self, folder, snap):
        self.path = os.path.join(folder, "damaged")
        os.mkdir(self.path)
        self.whole = open(snap + "/state", "rb").read()
        self.ram = snap + "/ram"
        self.restore()

    def restore(self):
        self.state(self.whole)
        ram = self.path + "/ram"
        if os.path.lexists(ram):
            os.remove(ram)
        os.symlink(self.ram, ram)

    def state(self, data):
        with open(self.path + "/state", "wb") as f:
            f.write(data)


def attempt(path, *more):
    return run_to_end(["restore", path, "--serial=file:/dev/null", "--insn-limit=1", "--no-control", *more], 30)


def with_option(whole, option):
    """The same stream, its checksums right, with an option more in the section `options`."""
    xxh3 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits_withSeed
    xxh3.argtypes, xxh3.restype = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64), ctypes.c_uint64
    at, number, new = 16, 0, whole[:16]
    while at < len(whole):
        length, name = int.from_bytes(whole[at:at + 4], "little"), whole[at + 8:at + 8 + whole[at + 5]]
        head, payload = whole[at + 4:at + 8], whole[at + 8 + len(name):][:length]
        at += 8 + len(name) + length + 8
        if name == b"options":
            payload = ((int.from_bytes(payload[:4], "little") + 1).to_bytes(4, "little") + payload[4:] +
                       len(option).to_bytes(2, "little") + option)
        section = len(payload).to_bytes(4, "little") + head + name + payload
        new += section + xxh3(section, len(section), number).to_bytes(8, "little")
        number += 1
    return new


def damage(folder, snap, rounds):
    quick(snap)
    d, rng = Damaged(folder, snap), random.Random(6)
    whole = d.whole
    status, _, err, _ = attempt(d.path)
    ok("the copy itself is restored", status == 0, err)
    ends, at = [0, 7, 15], 16
    while at < len(whole):
        ends += [at, at + 4, at + 8]
        at += 8 + whole[at + 5] + int.from_bytes(whole[at:at + 4], "little") + 8
    ok("the grammar of docs/snapshot.md leads to its end", at == len(whole))
    bad = []

    def check(what):
        got, out, err, _ = attempt(d.path)
        if got != 2 or err.count("\n") != 1 or out:
            bad.append(f"{what}: status {got}, {err[-300:]!r}")

    for end in rng.sample(ends, min(rounds, len(ends))):
        d.state(whole[:end])
        check(f"cut at {end}")
    ok("cut at every kind of place: refused", not bad, "\n".join(bad))
    bad.clear()
    for _ in range(rounds):
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        d.state(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1:])
        check(f"byte {at} ^ {bit:#x}")
    ok("flipped bits: refused", not bad, "\n".join(bad))
    for name, data, words in (("another version", whole[:8] + b"\2" + whole[9:], "version 2"),
                              ("something else", b"\x7fELF" + whole[4:], "no snapshot"),
                              ("more behind the end", whole + b"x", "behind its end"),
                              ("an empty file", b"", "no snapshot"),
                              ("--jail=off, which is not the machine's,", with_option(whole, b"--jail=off"),
                               "not sound")):
        d.state(data)
        refused(name + " is refused", ["restore", d.path], words)
    d.state(with_option(whole, b"--no-reboot"))
    status, _, err, _ = attempt(d.path)
    ok("one that is the machine's goes", status == 0, err)
    d.restore()
    os.remove(d.path + "/ram")
    refused("without RAM", ["restore", d.path], "cannot open")
    shutil.copy(d.ram, d.path + "/ram")
    with open(d.path + "/ram", "r+b") as f:
        f.seek(20 * MIB)
        byte = f.read(1)
        f.seek(20 * MIB)
        f.write(bytes([byte[0] ^ 1]))
    refused("a damaged RAM, with --eager", ["restore", d.path, "--eager"], "checksum")
    os.truncate(d.path + "/ram", 64 * MIB)
    refused("a RAM that was cut", ["restore", d.path], "not whole")
    d.restore()
    refused("an option that the snapshot has", ["restore", snap, "--memory", "1G"], "--memory")
    refused("no snapshot", ["restore", os.path.join(folder, "none")], "cannot open")
    refused("no machine", ["snapshot", "no-such-machine", os.path.join(folder, "x")], "no-such-machine")
    left = [n for n in os.listdir(folder) if n.startswith("x")]
    ok("nothing is left of that", not left, left)


def killed(folder):
    """A client that is killed leaves nothing that looks whole."""
    with linux("--name", "snap-k", memory="512M") as g:
        g.expect(r"# ", 120)
        g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=150 2>/dev/null")
        for delay in (0.02, 0.1, 0.2):
            path = os.path.join(folder, f"killed{delay}")
            p = subprocess.Popen([ECTYPE, "snapshot", "snap-k", path], stdout=subprocess.DEVNULL)
            time.sleep(delay)
            p.send_signal(signal.SIGKILL)
            p.wait()
            if os.path.exists(path):
                status, _, err, _ = attempt(path, "--eager")
                ok("it was whole by then", status == 0, err)
        ok("the machine goes on", "alive" in g.shell("echo al''ive", 90))
        status, out, err = control("snapshot", "snap-k", os.path.join(folder, "after"))
        ok("and can be saved", status == 0, err)


def round_trips(rounds):
    rng = random.Random(7)
    for engines, cpus in (((ENGINE, ENGINE), 1), ((OTHER, ENGINE), 4)):
        if "auto" in engines or "kvm" in engines:
            continue
        limit = 250_000_000
        every = limit // rounds + rng.randrange(limit // rounds // 2)
        status, out, err, _ = run_to_end(["lockstep", "--round-trip", "--engines", ",".join(engines), "--every", every,
                                          "--limit", limit, "--cpus", cpus, "--serial", "none"], 200)
        ok(f"round trips in {engines[1]}, compared with {engines[0]}, {cpus} processors", status == 0, out + err)


def quick(snap):
    """Figures are tests/bench/copies.py's; this only notices when a restore has become slow, on busy hosts too."""
    times = []
    for _ in range(7):
        _, _, err, _ = attempt(snap, "--verbose")
        times += [float(x) for x in re.findall(r"restored in ([0-9.]+) ms", err)]
    least = min(times, default=1e9)
    ok(f"first instruction after {least:.0f} ms", len(times) == 7 and least <= 100 * SLOW, times)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=25)
    o = p.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        for part in (lambda: shell(folder, server.server_port), lambda: under_load(folder),
                     lambda: damage(folder, small(folder), o.rounds), lambda: killed(folder),
                     lambda: round_trips(o.rounds)):
            try:
                part()
            except Timeout as e:
                ok("a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
