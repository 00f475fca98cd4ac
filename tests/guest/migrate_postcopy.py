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
# writes 14 MiB over and over and checks them; 8 MiB stay as they are
LOAD = ("cd /tmp; dd if=/dev/urandom of=noise bs=1M count=14 2>/dev/null; md5sum noise >sum; "
        "dd if=/dev/urandom of=kept bs=1M count=8 2>/dev/null; "
        "(n=0; bad=0; while :; do cat noise >copy; n=$((n+1)); "
        "[ $((n % 8)) = 0 ] && { md5sum copy | grep -q $(cut -c1-32 sum) || bad=$((bad+1)); }; "
        "echo $n $bad >load; done) & true")


def guest(name, *more, memory="128M"):
    g = linux("--name", name, *more, memory=memory, engine=HERE)
    g.expect(r"# ", 120)
    g.shell(LOAD)
    return g


def md5(g, path):
    return re.search(r"[0-9a-f]{32}", g.shell("md5sum " + path)).group(0)


def arrival(name):
    return migration(name).get("arrival", {})


def begin(name, where, *more, bandwidth="32"):
    return subprocess.Popen([ECTYPE, "migrate", name, where, "--post-copy", "--bandwidth", bandwidth, *more],
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
       int(before) <= int(first[0]) < int(later[0]), f"{before} {first[:4]} {later[:4]}")
    bad = h.shell("dmesg | grep -cE 'BUG|Oops|soft lockup|rcu.*stall|I/O error'")
    ok(f"{name}: the kernel has no complaint", bad.strip() == "0", h.shell("dmesg | tail -20"))


def moves(folder):
    """There and back, in another engine; what would have to be sent is more than can be."""
    where, g, here = "unix:" + os.path.join(folder, "m"), guest("pc-a", "--cpus", "2"), "pc-a"
    try:
        kept = md5(g, "/tmp/kept")
        with receiver(where, "pc-x", engine=HERE):
            status, out, err = control("migrate", here, where, "--bandwidth", "20", "--timeout", "6")
            ok("without post-copy it does not get through", status == 1 and "6 s" in err, err)
        for there, engine in (("pc-b", THERE), ("pc-c", HERE)):
            before = g.shell("cat /tmp/load").split()[0]
            h = receiver(where, there, engine=engine)
            p = begin(here, where, bandwidth="20")
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


class Reading:
    """A guest that reads a disk around its page cache, into memory that it has just written, and writes it back to
    another: the host's kernel does both."""

    def __init__(self, folder):
        self.paths = [os.path.join(folder, n) for n in ("from.raw", "to.raw")]
        data = os.urandom(16 * MIB)
        with open(self.paths[0], "wb") as f:
            f.write(data)
        with open(self.paths[1], "wb") as f:
            f.truncate(len(data))
        self.options = [a for i, p in zip("ft", self.paths) for a in ("--disk", f"{p},id={i}")]

    def begin(self, g):
        g.shell("dd if=/dev/vda bs=1M 2>/dev/null | md5sum >/tmp/should")
        g.shell("(cd /tmp; n=0; bad=0; while :; do dd if=/dev/vda of=/dev/vdb bs=8M iflag=direct oflag=direct "
                "2>/dev/null || bad=$((bad+1)); n=$((n+1)); "
                "dd if=/dev/vdb bs=4M iflag=direct 2>/dev/null | md5sum | cmp -s - should || bad=$((bad+1)); "
                "echo $n $bad >copies; done) & true")
        wait_for(lambda: int((g.shell("cat /tmp/copies 2>/dev/null").split() or ["0"])[0]) > 1)

    def look(self, h):
        first = h.shell("cat /tmp/copies").split()
        good = wait_for(lambda: int(h.shell("cat /tmp/copies").split()[0]) > int(first[0]) + 2, 60)
        ok("disks read and write memory that has not come", good and h.shell("cat /tmp/copies").split()[1] == "0",
           first + h.shell("cat /tmp/copies").split())


def cuts(folder):
    """The connection is cut again and again, from the hand-over to the end; the relay is killed."""
    where, front = os.path.join(folder, "c"), os.path.join(folder, "cut")
    reading = Reading(folder)
    g = guest("pc-d", "--cpus", "2", *reading.options)
    try:
        reading.begin(g)
        kept, before = md5(g, "/tmp/kept"), g.shell("cat /tmp/load").split()[0]
        proxy = Proxy(front, where)
        h = receiver("unix:" + where, "pc-e", engine=HERE)
        words = [b"go", b"started", b"need", b"got", b"all"]
        cut = []

        def act():
            cut.append(words.pop(0))
            proxy.cut(0.3)
            # what an old connection had in it is lost before it is passed on
            proxy.before = True
            proxy.word = words[0] if words else None

        proxy.act, proxy.word = act, words[0]
        p = begin("pc-d", "unix:" + front)
        # the relay as well, once
        killed = wait_for(lambda: migration("pc-d").get("phase") == "post-copy", 60)
        if killed:
            p.kill()
            end(p)
            p = begin("pc-d", "unix:" + front)
        status, out, err = end(p, 90)
        ok("cut and killed at every step: it has moved", killed and status == 0 and g.wait(20) == 0,
           f"{killed} {cut} {status} {out} {err} {g.errors()} {h.errors()}")
        ok("the connection was cut between all steps", len(cut) >= 4, cut)
        print("#   " + out.strip(), flush=True)
        proxy.close()
        g.close()
        g = h
        whole(h, "after all cuts", kept, before)
        reading.look(h)
        control("stop", "pc-e", "--force")
    finally:
        g.close()


def early(folder, g):
    """Cut before the hand-over: it goes on where it was, and the receiver ends."""
    where, front = os.path.join(folder, "e"), os.path.join(folder, "early")
    for word, before in ((b"missing", False), (b"state", False), (b"ready", True)):
        with receiver("unix:" + where, "pc-g", engine=HERE) as h:
            proxy = Proxy(front, where)
            proxy.word, proxy.before, proxy.act = word, before, lambda: proxy.cut(0.3)
            status, out, err = end(begin("pc-j", "unix:" + front, "--downtime", "30", bandwidth="80"), 60)
            name = f"cut {'before' if before else 'after'} {word.decode()}"
            ok(f"{name}: the machine goes on here", status == 1 and "goes on here" in err and
               "al1ve" in g.shell("echo al1ve"), f"{status} {out} {err} {h.errors()}")
            ok(f"{name}: the receiver ends", h.wait(20) == 1, h.errors())
            proxy.close()


def lost(folder):
    """One side dies when the memory is in two halves: the other waits, and says so."""
    for victim in ("source", "receiver"):
        where = "unix:" + os.path.join(folder, "l" + victim)
        with guest("pc-h", "--cpus", "2") as g, receiver(where, "pc-i", engine=HERE) as h:
            p = begin("pc-h", where, bandwidth="32")
            there = wait_for(lambda: migration("pc-h").get("phase") == "post-copy", 60)
            (g if victim == "source" else h).process.kill()
            if victim == "source":
                ok("source killed: the receiver waits", there and wait_for(
                    lambda: "waiting for memory" in control("ps")[1], 20), control("ps")[1] + h.errors())
                ok("and says so in one line", h.errors().count("have not come") == 1, h.errors())
                a = arrival("pc-i")
                ok("its figures say so", a.get("waiting") and not a["connected"] and a["missing_bytes"], a)
                ok("it can be ended", control("stop", "pc-i", "--force")[0] == 0 and h.wait(20) is not None, h.errors())
                ok("migrate says that the source has gone", end(p)[0] in (1, 2))
            else:
                ok("receiver killed: the source keeps what it has", there and wait_for(
                    lambda: re.search(r"pc-h +\d+ post-copy", control("ps")[1])), control("ps")[1])
                status, _, err = control("stop", "pc-h")
                ok("it is not ended by mistake", status == 1 and err.count("\n") == 1 and "--force" in err, err)
                status, _, err = control("resume", "pc-h")
                ok("nor does it go on", status and "receiver" in err, err)
                p.send_signal(signal.SIGINT)
                status, _, err = end(p)
                ok("migrate says how it stands", status == 1 and "needs memory" in err, err)
                ok("the source can be ended", control("stop", "pc-h", "--force")[0] == 0 and g.wait(20) is not None)


def refused(folder):
    """Who cannot take memory late says so before anything is sent; cuts before the hand-over; TLS, and asked for when
    under way."""
    where = "unix:" + os.path.join(folder, "r")
    with guest("pc-j") as g:
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            with receiver(where, "pc-k", engine="kvm") as h:
                status, out, err = end(begin("pc-j", where))
                # a processor that lacks something is looked at first
                ok("engine kvm: refused on both sides", status == 1 and "goes on here" in err and h.wait(20) == 2 and
                   re.search("post-copy: engine kvm|KVM lacks", err), err + h.errors())
        else:
            skip("engine kvm", "no /dev/kvm here")
        early(folder, g)
        kept, before = md5(g, "/tmp/kept"), g.shell("cat /tmp/load").split()[0]
        tls = shutil.which("openssl") is not None
        o = certificates(folder) if tls else lambda name: []
        with receiver("tcp:127.0.0.1:0", "pc-l", *o("there"), engine=HERE) as h:
            p = subprocess.Popen([ECTYPE, "migrate", "pc-j", f"tcp:127.0.0.1:{h.port}", "--bandwidth", "32",
                                  *o("here")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_for(lambda: migration("pc-j").get("phase") == "ram")
            status, _, err = control("ctl", "pc-j", "PUT", "/api/v1/vm.migration-set", '{"post_copy": 1}')
            ok("a setting that is none", status and "400" in err, err)
            status, _, err = control("ctl", "pc-j", "PUT", "/api/v1/vm.migration-set", '{"post_copy": true}')
            ok("post-copy is asked for when it is under way", status == 0, err)
            status, out, err = end(p)
            ok("and it moves" + (", over TLS" if tls else ""), status == 0 and arrival("pc-l").get("faults", 0) > 0,
               out + err + h.errors())
            whole(h, "pc-l", kept, before)
            control("stop", "pc-l", "--force")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--only", help="a part")
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = {"moves": moves, "cuts": cuts, "lost": lost, "refused": refused}
        for name, part in parts.items():
            if o.only and o.only != name:
                continue
            try:
                part(folder)
            except (Timeout, subprocess.TimeoutExpired) as e:
                ok("a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
