#!/usr/bin/env python3
"""Machines at rest: a restored machine that idles goes on in the reference engine, and has the translator back for work.

Copies of one snapshot then have at most LIMIT MiB each for themselves, all caches included.
"""
import os
import subprocess
import tempfile
import time

import footprint
from guest import ECTYPE, ENGINE, Guest, SLOW, Timeout, finish, linux, ok, skip

LIMIT = 8  # MiB
REST_S = 90  # until it has come to rest: 20 s of idleness
BUSY = "n=0; while [ $n -lt 100000 ]; do n=$((n+1)); done; echo $n"


def ectype(*args):
    return subprocess.run([ECTYPE, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * SLOW)


def engine(name):
    out = ectype("ctl", name, "info").stdout
    return next((line.split('"')[3] for line in out.splitlines() if line.startswith(' "engine"')), out)


def wait_for_engine(name, which, limit):
    end = time.monotonic() + limit * SLOW
    while engine(name) != which and time.monotonic() < end:
        time.sleep(1)
    return engine(name) == which


def works(g, name):
    """Work has the translator at once; then it rests again, and answers."""
    began = time.monotonic()
    ok(f"{name}: works after its rest", g.shell(BUSY).split()[-1] == "100000")
    print(f"#   a loop right after the rest: {time.monotonic() - began:.2f} s", flush=True)
    ok(f"{name}: has the translator for that", engine(name) == "dbt", engine(name))
    began = time.monotonic()
    g.shell(BUSY)
    print(f"#   the same again: {time.monotonic() - began:.2f} s", flush=True)


def saved(folder, cpus):
    snap = os.path.join(folder, f"snap{cpus}")
    with linux("--name", "rest-0", "--cpus", str(cpus), memory="256M", engine="dbt") as g:
        g.expect(r"# ", 120)
        g.shell("cp /bin/busybox /tmp/b; md5sum /tmp/b >/tmp/sum")
        p = ectype("snapshot", "rest-0", snap)
        ok(f"a machine with {cpus} is saved", p.returncode == 0, p.stderr)
    return snap


def copies(one, two):
    """Of a machine with a processor, and of one with two, which take turns at rest."""
    with Guest(one, "--name", "rest-a", engine="dbt", verb="restore") as a, \
            Guest(one, "--name", "rest-b", engine="dbt", verb="restore") as b, \
            Guest(two, "--name", "rest-c", engine="dbt", verb="restore") as c:
        guests = (("rest-a", a), ("rest-b", b), ("rest-c", c))
        ok("copies begin with the translator", all(wait_for_engine(name, "dbt", 10) for name, _ in guests))
        for name, _ in guests:
            ok(f"{name}: comes to rest", wait_for_engine(name, "interp", REST_S), engine(name))
        for name, g in guests:
            f = footprint.of(g.process.pid)
            ok(f"{name}: at most {LIMIT} MiB of its own at rest: {f.mib():.1f}", 1 < f.mib() <= LIMIT, f)
            g.send("\n")
            g.expect(r"# ", 60)
        for name, g in guests[1:]:
            works(g, name)
            ok(f"{name}: files are what they were", g.shell("md5sum -c /tmp/sum").strip().endswith("OK"))
        p = ectype("ctl", "rest-a", "engine", "interp")
        ok("who asks for an engine has it", p.returncode == 0, p.stderr)
        a.shell(BUSY.replace("100000", "20000"), 120)
        ok("and keeps it while it works", engine("rest-a") == "interp", engine("rest-a"))
        for name, g in guests:
            bad = g.shell("dmesg | grep -cE 'BUG|Oops|soft lockup|rcu.*stall'")
            ok(f"{name}: the kernel has no complaint", bad.strip() == "0", bad)


def main():
    if ENGINE not in ("auto", "dbt"):
        skip("rest", "what idles gives the translator back")
        finish()
    with tempfile.TemporaryDirectory() as folder:
        try:
            copies(saved(folder, 1), saved(folder, 2))
        except Timeout as e:
            ok("a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
