#!/usr/bin/env python3
"""Machines that run before all of their memory has arrived: ectype migrate --post-copy.

migrate_postcopy.py [--only PART]

A guest writes faster than the connection carries. It moves all the same, goes on
where it was, and its memory is what it was: for its processors and for its
disks, whatever is cut or killed meanwhile. One whose memory is lost never runs
with anything else in its place.
"""
import argparse
import os
import re
import signal
import subprocess
import tempfile
import time

from guest import ECTYPE, ENGINE, SLOW, Timeout, finish, linux, ok, skip, wait_for
from migrate import MIB, Proxy, certificates, control, migration, prompt, receiver, shutil

HERE = "dbt" if ENGINE in ("auto", "kvm") else ENGINE
THERE = "interp" if HERE != "interp" else "dbt"
# writes 16 MiB over and over and checks them; 24 MiB stay as they are
LOAD = ("cd /tmp; dd if=/dev/urandom of=noise bs=1M count=16 2>/dev/null; md5sum noise >sum; "
        "dd if=/dev/urandom of=kept bs=1M count=24 2>/dev/null; "
        "(n=0; bad=0; while :; do cat noise >copy; n=$((n+1)); "
        "[ $((n % 8)) = 0 ] && { md5sum copy | grep -q $(cut -c1-32 sum) || bad=$((bad+1)); }; "
        "echo $n $bad >load; done) & true")


def guest(name, *more, memory="160M"):
    g = linux("--name", name, *more, memory=memory, engine=HERE)
    g.expect(r"# ", 120)
    g.shell(LOAD)
    return g


def md5(g, path):
    return re.search(r"[0-9a-f]{32}", g.shell("md5sum " + path)).group(0)


def arrival(name):
    return migration(name).get("arrival", {})


def begin(name, where, *more, bandwidth="12"):
    return subprocess.Popen([ECTYPE, "migrate", name, where, "--post-copy", "--timeout", "0", "--bandwidth", bandwidth,
                             *more],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(p, limit=60):
    out, err = p.communicate(timeout=limit * SLOW)
    return p.returncode, out, err


def whole(h, name, kept, before):
    """What arrived goes on, and is whole."""
    prompt(h)
    ok(f"{name}: what was not written is what it was", md5(h, "/tmp/kept") == kept)
    first = h.shell("cat /tmp/load").split()
    time.sleep(1.5)
    later = h.shell("cat /tmp/load").split()
    ok(f"{name}: it goes on, and reads what it writes", len(later) == 2 and later[1] == "0" and
       int(before) <= int(first[0]) < int(later[0]), f"{before} {first} {later}")
    bad = h.shell("dmesg | grep -cE 'BUG|Oops|soft lockup|rcu.*stall|I/O error'")
    ok(f"{name}: the kernel has no complaint", bad.strip() == "0", h.shell("dmesg | tail -20"))


def moves(folder):
    """There and back, in another engine; what would have to be sent is more than can be."""
    where, g, here = "unix:" + os.path.join(folder, "m"), guest("pc-a", "--cpus", "2"), "pc-a"
    try:
        kept = md5(g, "/tmp/kept")
        with receiver(where, "pc-x", engine=HERE):
            status, out, err = control("migrate", here, where, "--bandwidth", "12", "--timeout", "8")
            ok("without post-copy it does not get through", status == 1 and "8 s" in err, err)
        for there, engine in (("pc-b", THERE), ("pc-c", HERE)):
            before = g.shell("cat /tmp/load").split()[0]
            h = receiver(where, there, engine=engine)
            p = begin(here, where)
            phase = wait_for(lambda: migration(here).get("phase") == "post-copy", 60)
            seen = arrival(there), control("ps")[1]
            late = [control("migrate", "--cancel", here), control("resume", here),
                    control("migrate", there, where), control("dump", there, os.path.join(folder, "core")),
                    control("snapshot", there, os.path.join(folder, "snap"))]
            missed = arrival(there)
            status, out, err = end(p)
            if not ok(f"{there} ({engine}): it moves", status == 0, out + err + h.errors()):
                return
            print("#   " + out.strip(), flush=True)
            m = re.search(r"still for ([\d.]+) ms", out)
            ok(f"{there}: the guest stands still for a moment only", float(m.group(1)) < 500 * SLOW, out)
            ok(f"{there}: it ran before its memory was there", phase and seen[0].get("missing_bytes", 0) > MIB and
               re.search(here + r" +\d+ post-copy", seen[1]), seen)
            if missed.get("missing_bytes"):
                ok(f"{there}: too late to cancel, and it cannot be had here", [r[0] for r in late] and
                   all(r[0] for r in late[:2]) and "too late" in late[0][2] and "receiver" in late[1][2], late[:2])
                ok(f"{there}: what reads all memory is refused meanwhile", all(
                    r[0] and "not all arrived" in r[2] for r in late[2:]), late[2:])
            ok(f"{there}: the machine that was left ends", g.wait(20) == 0, g.errors())
            ok(f"{there}: it says what was waited for", arrival(there).get("missing_bytes") == 0 and
               arrival(there)["faults"] > 0 and arrival(there)["longest_wait_ms"] > 0, arrival(there))
            print(f"#   {arrival(there)}", flush=True)
            g.close()
            g, here = h, there
            whole(g, there, kept, before)
        status, _, err = control("snapshot", here, os.path.join(folder, "snap"))
        ok("when all is there it can be saved", status == 0, err)
        control("stop", here, "--force")
    finally:
        g.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--only", help="a part")
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = {"moves": lambda: moves(folder)}
        for name, part in parts.items():
            if o.only and o.only != name:
                continue
            try:
                part()
            except (Timeout, subprocess.TimeoutExpired) as e:
                ok("a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
