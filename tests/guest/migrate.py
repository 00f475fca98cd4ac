#!/usr/bin/env python3
"""Machines move: between engines, under load, with disks; what cannot arrive goes on where it is.

migrate.py [--engine NAME] [--kills N [--copy-disks]] [--only PART]

A guest counts in a file of its memory and on its serial console; the count goes
on where the machine goes on, and nowhere else. --kills N kills a monitor, the
relay or the connection at N random moments and looks whether one machine is
left; with --copy-disks also whether its disk is whole, and the other's gone.
"""
import argparse
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from certificates import certificates
from guest import ECTYPE, ENGINE, SLOW, Guest, Timeout, cache, finish, linux, ok, run_to_end, skip, wait_for

MIB = 1 << 20
LACKS = r"KVM lacks .*CPUID [0-9a-f]+\.[0-9a-f]+ E[A-D]X bit \d+"
OTHER = "interp" if ENGINE != "interp" else "dbt"


def control(*args, limit=120):
    p = subprocess.run([ECTYPE, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=limit * SLOW)
    return p.returncode, p.stdout, p.stderr


def migration(name):
    try:
        return json.loads(control("ctl", name, "GET", "/api/v1/vm.migration")[1])
    except ValueError:
        return {}


def receiver(where, name, *more, engine=ENGINE):
    """A receiver that listens."""
    g = Guest(where, "--name", name, *more, engine=engine, verb="receive")
    if where.startswith("unix:"):
        wait_for(lambda: os.path.exists(where[5:]) or g.process.poll() is not None)
        time.sleep(0.05)
    elif where.endswith(":0"):
        wait_for(lambda: "at port" in g.errors() or g.process.poll() is not None)
        m = re.search(r"at port (\d+)", g.errors())
        g.port = int(m.group(1)) if m else 0
    return g


# writes 4 MiB of memory over and over, each time with another pattern, and checks it; counts
LOAD = ("(cd /tmp; dd if=/dev/urandom of=noise bs=1M count=4 2>/dev/null; md5sum noise >sum; n=0; bad=0; "
        "while :; do cat noise >copy; n=$((n+1)); "
        "md5sum copy | grep -q $(cut -c1-32 sum) || bad=$((bad+1)); echo $n $bad >l; mv l load; done) & true")


def prompt(g):
    g.send("\n")
    g.expect(r"# ", 60)


def look(g, name, before):
    """What arrived goes on, and is whole."""
    prompt(g)
    first = g.shell("cat /tmp/load").split()
    time.sleep(1)
    later = g.shell("cat /tmp/load").split()
    ok(f"{name}: it goes on where it was", len(first) == 2 and len(later) == 2 and
       int(before) <= int(first[0]) < int(later[0]) + (int(first[0]) == int(later[0])), f"{before} {first} {later}")
    ok(f"{name}: its memory is whole", later[1:] == ["0"], later)
    bad = g.shell("dmesg | grep -cE 'BUG|Oops|soft lockup|rcu.*stall|I/O error'")
    ok(f"{name}: the kernel has no complaint", bad.strip() == "0", g.shell("dmesg | tail -20"))


def round_trip(folder):
    """There, and back in another engine, under a write load, with a disk."""
    disk, where = os.path.join(folder, "disk.qcow2"), "unix:" + os.path.join(folder, "s")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    names = ["mig-a", "mig-b", "mig-c"]
    g = linux("--name", names[0], "--cpus", "2", "--disk", disk + ",id=d", memory="256M")
    try:
        g.expect(r"# ", 120)
        g.shell(LOAD)
        g.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=8 2>/dev/null; sync")
        # in the guest's cache and the image's: what is not flushed moves as well
        md5 = re.search(r"[0-9a-f]{32}", g.shell("dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum")).group(0)
        for there, engine in ((names[1], OTHER), (names[2], ENGINE)):
            before = g.shell("cat /tmp/load").split()[0]
            here = names[names.index(there) - 1]
            h = receiver(where, there, engine=engine)
            status, out, err = control("migrate", here, where)
            if not ok(f"to {there} ({engine}): it moves", status == 0 and "stood still" in out, out + err + h.errors()):
                h.close()
                return
            print("#   " + out.strip(), flush=True)
            ok(f"{there}: the machine that was left ends", g.wait(20) == 0, g.errors())
            g.close()
            g = h
            look(g, there, before)
            g.shell("echo 3 >/proc/sys/vm/drop_caches")
            ok(f"{there}: the disk is what it was", md5 in g.shell("dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum"))
            g.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=8 conv=fsync 2>/dev/null")
            md5 = re.search(r"[0-9a-f]{32}", g.shell("dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum")).group(0)
        g.shell("sync")
        control("stop", names[2], "--force")
        g.wait(20)
        check = subprocess.run([ECTYPE, "image", "check", disk], capture_output=True, text=True, check=False)
        ok("the image is sound", check.returncode == 0, check.stdout + check.stderr)
    finally:
        g.close()


def refused(folder):
    """What cannot arrive is said on both sides, and the machine goes on."""
    where = "unix:" + os.path.join(folder, "r")
    disk, port = os.path.join(folder, "r.raw"), socket.socket()
    port.bind(("127.0.0.1", 0))
    with open(disk, "wb") as f:
        f.truncate(MIB)
    free = port.getsockname()[1]
    port.close()
    with linux("--name", "mig-r", "--disk", disk + ",id=d", "--net", f"user,hostfwd=tcp::{free}-:22",
               memory="128M") as g:
        g.expect(r"# ", 120)
        for name, more, words in (
                ("a disk that is not there", ["--net", "user", "--disk", "d=/nonexistent/x"], "nonexistent"),
                ("a host port that is in use", [], f"port.*{free}"),
                ("an engine that is not there", ["--engine", "nonesuch"], "nonesuch")):
            with receiver(where, "mig-x", *more, engine=None) as h:
                status, out, err = control("migrate", "mig-r", where)
                ok(f"{name}: refused, with its name", status == 1 and re.search(words, err) and "goes on here" in err
                   and not out, err)
                got = h.wait(20)
                ok(f"{name}: the receiver says so, too", got == 2 and re.search(words, h.errors()),
                   f"{got} {h.errors()}")
        lacking(where)
        ok("it goes on", "al1ve" in g.shell("echo al1ve"))
        status, _, err = control("migrate", "mig-r", "unix:" + os.path.join(folder, "nobody"))
        ok("nobody listens", status == 1 and err.count("\n") == 1 and "cannot connect" in err, err)
        for args, words in ((["migrate", "mig-r"], "where to"), (["migrate", "mig-r", "udp:1"], "not tcp:HOST:PORT"),
                            (["migrate", "mig-r", "tcp:192.0.2.1:1"], "--insecure"),
                            (["receive", "tcp:0.0.0.0:0"], "--insecure"), (["receive"], "where"),
                            (["migrate", "no-such-machine", where], "cannot connect|no-such-machine")):
            got, out, err, _ = run_to_end(args, 30)
            ok(" ".join(args[:3]) + ": one line", got in (1, 2) and err.count("\n") == 1 and re.search(words, err) and
               not out, f"{got} {err}")
        # whoever connects and says nothing sound is sent away
        with receiver(where, "mig-y", "--net", "user") as h:
            for data in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
                s = socket.socket(socket.AF_UNIX)
                s.connect(where[5:])
                s.sendall(data)
                s.close()
            ok("a receiver waits on after strangers", wait_for(lambda: h.errors().count("waiting for another") == 3),
               h.errors())
            status, out, err = control("migrate", "mig-r", where)
            ok("and the machine moves", status == 0, err + h.errors())
            control("stop", "mig-y", "--force")


def lacking(where):
    """A receiver whose processor lacks what the guest was shown: software has more than hardware lets through."""
    try:
        model = os.open("/dev/kvm", os.O_RDWR)
        os.close(model)
    except OSError:
        skip("a processor that lacks something", "no /dev/kvm here")
        return
    if ENGINE == "kvm":
        skip("a processor that lacks something", "the source is as the receiver")
        return
    with receiver(where, "mig-x", "--net", "user", engine="kvm") as h:
        status, out, err = control("migrate", "mig-r", where)
        ok("a feature of the processor: refused, with its name", status == 1 and re.search(LACKS, err) and
           "goes on here" in err and not out, err)
        got = h.wait(20)
        ok("a feature: the receiver says so, too", got == 2 and re.search(LACKS, h.errors()), f"{got} {h.errors()}")


def plain_tcp():
    """Over loopback, without TLS: nobody has to say --insecure."""
    with linux("--name", "mig-p", memory="128M") as g:
        g.expect(r"# ", 120)
        g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=16 2>/dev/null")
        md5 = g.shell("md5sum /tmp/noise")
        with receiver("tcp:127.0.0.1:0", "mig-q") as h:
            status, out, err = control("migrate", "mig-p", f"tcp:127.0.0.1:{h.port}")
            if not ok("over TCP it moves", status == 0 and "moved to tcp:" in out, out + err + h.errors()):
                return
            prompt(h)
            ok("and arrives whole", h.shell("md5sum /tmp/noise") == md5)
            control("stop", "mig-q", "--force")


def cancelled(folder):
    """Cancelled, and too slow: the machine goes on."""
    where = "unix:" + os.path.join(folder, "c")
    with linux("--name", "mig-k", memory="256M") as g:
        g.expect(r"# ", 120)
        g.shell(LOAD)
        for how in ("--cancel", "Ctrl-C", "killed"):
            with receiver(where, "mig-l") as h:
                p = subprocess.Popen([ECTYPE, "migrate", "mig-k", where, "--bandwidth", "8"], stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)
                going = wait_for(lambda: migration("mig-k").get("phase") == "ram" and
                                 migration("mig-k")["sent_bytes"] > 8 * MIB)
                if how == "--cancel":
                    status, _, err = control("migrate", "mig-k", where, "--timeout", "1")
                    ok("a second one is refused", status == 1 and "is moving already" in err, err)
                sent, at = migration("mig-k").get("sent_bytes", 0), time.monotonic()
                time.sleep(2)
                rate = (migration("mig-k").get("sent_bytes", 0) - sent) / (time.monotonic() - at) / MIB
                if how == "--cancel":
                    # two seconds later: the second one's time limit is not the first one's
                    ok("the bandwidth limit holds", going and 4 < rate < 9, f"{rate} MiB/s")
                    ok("ps says so", re.search(r"mig-k +\d+ Migrating", control("ps")[1]), control("ps")[1])
                    control("migrate", "--cancel", "mig-k")
                elif how == "Ctrl-C":
                    p.send_signal(signal.SIGINT)
                else:
                    p.kill()
                status = p.wait(20 * SLOW)
                err = p.stderr.read()
                ok(f"{how}: the machine goes on", status == (-9 if how == "killed" else 1) and "al1ve" in
                   g.shell("echo al1ve"), f"{status} {err}")
                ok(f"{how}: the receiver ends", h.wait(20) == 1, h.errors())
                ok(f"{how}: progress is shown", how == "killed" or "round 1:" in err and "left" in err, err)
        with receiver(where, "mig-l") as h:
            status, out, err = control("migrate", "mig-k", where, "--timeout", "2", "--quiet", "--bandwidth", "20")
            ok("what is not there in time is given up", status == 1 and "after 2 s" in err, f"{status} {out} {err}")
            ok("and its receiver ends", h.wait(20) == 1, h.errors())
        before = g.shell("cat /tmp/load").split()[0]
        with receiver(where, "mig-l") as h:
            control("pause", "mig-k")
            status, out, err = control("migrate", "mig-k", where)
            ok("a paused machine moves", status == 0, err)
            ok("and is paused there", re.search(r"mig-l +\d+ Paused", control("ps")[1]), control("ps")[1])
            control("resume", "mig-l")
            look(h, "mig-l", before)
            control("stop", "mig-l", "--force")


# fills a file system with files and their sums, over and over
WRITE = ("(cd {dir}; n=0; while :; do dd if=/dev/urandom of=f$((n % 40)) bs=64k count=$((n % 13 + 1)) conv=fsync "
         "2>/dev/null; md5sum f$((n % 40)) >t; mv t s$((n % 40)); n=$((n+1)); echo $n >/tmp/n{id}; done) & "
         "echo $! >>/tmp/writers")


def sums(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


def copied(folder):
    """Disks move with the machine, raw and qcow2, while they are written to; nothing but the socket is shared."""
    if not shutil.which("mke2fs") or not shutil.which("e2fsck"):
        skip("disks that are copied", "no e2fsprogs here")
        return
    old = {"r": os.path.join(folder, "old.raw"), "q": os.path.join(folder, "old.qcow2")}
    with open(old["r"], "wb") as f:
        f.truncate(640 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", old["r"]], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", old["r"], old["q"]], check=True)
    where, new = "unix:" + os.path.join(folder, "d"), {i: os.path.join(folder, f"new-{i}.raw") for i in old}
    places = [a for i in new for a in ("--disk", f"{i}={new[i]}")]
    there = lambda: [p for p in new.values() if os.path.exists(p)]
    g = linux("--name", "mig-d", "--cpus", "2", "--disk", old["r"] + ",id=r", "--disk", old["q"] + ",id=q", memory="192M")
    try:
        g.expect(r"# ", 120)
        for i, disk in (("r", "vda"), ("q", "vdb")):
            g.shell(f"mkdir -p /{i}; mount -t ext4 /dev/{disk} /{i}")
            g.shell(WRITE.format(dir="/" + i, id=i))
        with open(os.path.join(folder, "full"), "wb") as f:
            f.write(b"mine")
        for name, more, words in (("disks that have no place", [], "--disk r=PATH"),
                                  ("one that has no place", places[:2], "--disk q=PATH"),
                                  ("a copy over a file", [*places[:2], "--disk", "q=" + f.name], "File exists"),
                                  ("a disk it does not have", [*places, "--disk", "x=/tmp/x"], "no such disk")):
            with receiver(where, "mig-e", *more) as h:
                status, out, err = control("migrate", "mig-d", where, "--copy-disks")
                ok(f"{name}: refused on both sides, nothing is left", status == 1 and words in err and not out and
                   h.wait(20) == 2 and words in h.errors() and not there(), f"{status} {err} {h.errors()} {there()}")
        ok("the file that was there is untouched", sums(f.name) == hashlib.md5(b"mine").hexdigest())
        for how in ("killed", "cancelled", "ended"):
            with receiver(where, "mig-e", *places) as h:
                p = subprocess.Popen([ECTYPE, "migrate", "mig-d", where, "--copy-disks", "--bandwidth", "8"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                going = wait_for(lambda: migration("mig-d").get("phase") == "ram" and
                                 migration("mig-d")["sent_bytes"] > 4 * MIB)
                made = len(there())
                if how == "killed":
                    h.process.kill()
                elif how == "ended":
                    h.process.terminate()
                else:
                    control("migrate", "--cancel", "mig-d")
                status, err = p.wait(20 * SLOW), p.stderr.read()
                ok(f"receiver {how}: the machine goes on, the copies are gone", going and made == 2 and status == 1 and
                   wait_for(lambda: not there()) and "goes on here" in err and "al1ve" in g.shell("echo al1ve"),
                   f"{going} {made} {status} {err} {there()} {h.errors()}")
        with receiver(where, "mig-e", *places, engine=OTHER) as h:
            status, out, err = control("migrate", "mig-d", where, "--copy-disks", limit=200)
            if not ok("it moves with its disks", status == 0 and g.wait(20) == 0, out + err + h.errors()):
                return
            print("#   " + out.strip(), flush=True)
            left = {i: sums(old[i]) for i in old}
            prompt(h)
            count = [int(n) for n in h.shell("cat /tmp/nr /tmp/nq").split()]
            ok("it goes on writing", wait_for(lambda: all(int(b) > a for a, b in zip(
                count, h.shell("cat /tmp/nr /tmp/nq").split())), 60), count)
            h.shell("kill $(cat /tmp/writers); sleep 1; sync; echo 3 >/proc/sys/vm/drop_caches", 60)
            for i in new:
                n = min(40, int(h.shell(f"cat /tmp/n{i}")))
                good = h.shell(f"cd /{i}; for i in $(seq 0 39); do md5sum -c s$i 2>/dev/null; done | grep -c OK", 60)
                ok(f"{i}: files are what was written", int(good or 0) >= n - 1 > 0, f"{good} of {n}")
            bad = h.shell("dmesg | grep -cE 'EXT4-fs error|BUG|Oops|I/O error'")
            ok("the kernel has no complaint", bad.strip() == "0", h.shell("dmesg | tail -20"))
            h.shell("cd /; umount /r /q", 60)
            status, _, err, _ = run_to_end(["run", "--kernel", cache("vmlinuz"), "--disk", new["r"]], 20)
            ok("another cannot have the copies meanwhile", status == 2 and "new-r.raw: another process uses" in err, err)
            control("stop", "mig-e", "--force")
            ok("it ends", h.wait(20) == 0, h.errors())
        for i in new:
            check = subprocess.run(["e2fsck", "-fn", new[i]], capture_output=True, text=True, check=False)
            ok(f"{i}: the file system is clean", check.returncode == 0, check.stdout + check.stderr)
            ok(f"{i}: the copy is sparse", os.stat(new[i]).st_blocks * 512 < 400 * MIB, os.stat(new[i]).st_blocks * 512)
        ok("the old files are as the machine left them", left == {i: sums(old[i]) for i in old})
        check = subprocess.run([ECTYPE, "image", "check", old["q"]], capture_output=True, text=True, check=False)
        ok("and the image is sound", check.returncode == 0, check.stdout + check.stderr)
    finally:
        g.close()


# ---- TLS ----

def tls(folder):
    """Each side shows a certificate that the other's authority has signed, or nothing moves."""
    if not shutil.which("openssl"):
        skip("TLS", "no openssl here")
        return
    o = certificates(folder)
    with linux("--name", "mig-t", memory="128M") as g:
        g.expect(r"# ", 120)
        g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=16 2>/dev/null")
        md5 = g.shell("md5sum /tmp/noise")
        with receiver("tcp:127.0.0.1:0", "mig-u", *o("there")) as h:
            m = re.search(r"at port (\d+)", h.errors())
            if not ok("a receiver with TLS listens", m, h.errors()):
                return
            at = "tcp:127.0.0.1:" + m.group(1)
            for name, more in (("a certificate of another authority", o("stranger", "ca")),
                               ("a receiver whose authority is another", o("here", "other")),
                               ("a receiver of another name", o("here") + ["--tls-host", "elsewhere"]),
                               ("no TLS where it is wanted", [])):
                status, out, err = control("migrate", "mig-t", at, *more)
                ok(name + ": refused", status == 1 and err and not out, f"{status} {out} {err}")
            status, out, err = control("migrate", "mig-t", at, "--tls-cert", folder + "/none", *o("here")[2:])
            ok("a certificate that is not there", status == 2 and err.count("\n") == 1 and "none" in err, err)
            status, out, err = control("migrate", "mig-t", at, *o("here"))
            ok("with the right ones it moves", status == 0, err + h.errors())
            prompt(h)
            ok("and arrives whole", h.shell("md5sum /tmp/noise") == md5)
            control("stop", "mig-u", "--force")
        for args in (["--tls-cert", "x"], ["--tls-cert", folder + "/none", *o("here")[2:]]):
            got, _, err, _ = run_to_end(["receive", "tcp:127.0.0.1:0", *args], 20)
            ok("TLS that cannot be: one line", got == 2 and err.count("\n") == 1, err)


# ---- killing ----

class Proxy:
    """Between relay and receiver: passes bytes, and calls `act` when it sees a certain word, before or after it went
    on. cut(): the network is gone for a while."""

    def __init__(self, path, to):
        self.path, self.to = path, to
        self.word = self.act = None
        self.before = False
        self.seen = 0
        self.down_until = 0
        self.pairs = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                a, _ = self.listener.accept()
            except OSError:
                return
            if time.monotonic() < self.down_until:
                a.close()
                continue
            b = socket.socket(socket.AF_UNIX)
            try:
                b.connect(self.to)
            except OSError:
                a.close()
                continue
            self.pairs.append((a, b))
            for x, y in ((a, b), (b, a)):
                threading.Thread(target=self.pump, args=(x, y), daemon=True).start()

    def pump(self, x, y):
        try:
            while data := x.recv(65536):
                hit = self.word and re.search(b"\\x01" + bytes([len(self.word)]) + b"\\0\\0" + self.word, data)
                if hit:
                    self.word = None
                    self.seen += 1
                if hit and self.before:
                    self.act()
                y.sendall(data)
                if hit and not self.before:
                    self.act()
        except OSError:
            pass
        for s in (x, y):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self, seconds):
        self.down_until = time.monotonic() + seconds
        for pair in self.pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self.pairs = []

    def close(self):
        self.listener.close()
        self.cut(0)
        os.unlink(self.path)


# one line a heartbeat; the number is never said twice by a guest that lives once
BEAT = "stty -F /dev/ttyS0 -echo; (n=0; while :; do n=$((n+1)); echo HB $n.; usleep 20000; done >/dev/ttyS0) & true\n"


# one line for each time that all of a file system was read from the disk, and how much of it was not what was written
CHECK = ("mkdir -p /d; mount -t ext4 /dev/vda /d; cd /d; dd if=/dev/urandom of=still bs=1M count=6 2>/dev/null; "
         "md5sum still >still.sum; (n=0; while :; do n=$((n+1)); f=f$((n%8)); "
         "dd if=/dev/urandom of=$f bs=32k count=$((n%5+1)) conv=fsync 2>/dev/null; md5sum $f >$f.sum; sync; "
         "echo 3 >/proc/sys/vm/drop_caches; md5sum -c *.sum >/tmp/read 2>/dev/null; "
         "echo DC $n $(grep -vc OK /tmp/read).; done >/dev/ttyS0) & cd /; true\n")


class Beat:
    """Reads the console of a machine all the time: which numbers it said, and when."""

    def __init__(self, g):
        self.g = g
        self.text = ""
        self.quit = False
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while not self.quit:
            if not select.select([self.g.out], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self.g.out, 65536)
            except OSError:
                return
            if not data:
                return
            self.text += data.decode(errors="replace")

    def numbers(self):
        return [int(n) for n in re.findall(r"HB (\d+)\.", self.text)]

    def disk_whole(self):
        """All of the disk has been read since now, more than once, and was good; so was what was read before."""
        def reads():
            return [(int(n), int(bad)) for n, bad in re.findall(r"DC (\d+) (\d+)\.", self.text)]

        n = len(reads())
        return wait_for(lambda: len(reads()) >= n + 2, 60) and not any(bad for _, bad in reads())

    def grows(self, limit=10):
        n = len(self.numbers())
        return wait_for(lambda: len(self.numbers()) > n + 2, limit)

    def still(self, seconds=0.5):
        time.sleep(0.2)
        n = len(self.numbers())
        time.sleep(seconds)
        return len(self.numbers()) == n

    def end(self):
        self.quit = True
        self.thread.join()
        self.g.close()


def states():
    out = {}
    for m in re.finditer(r"^(mig-\S+) +\d+ (\S+(?: \S+)?) +(?:dbt|interp|kvm)", control("ps")[1], re.M):
        out[m.group(1)] = m.group(2)
    return out


class Killing:
    MOMENTS = [None, (b"accept", False), (b"round", False), (b"state", True), (b"state", False), (b"ready", True),
               (b"ready", False), (b"go", True), (b"go", False), (b"started", True), (b"started", False),
               (b"bye", True), (b"bye", False)]
    DISK_MOMENTS = [(b"disk.data", True), (b"disk.data", False)]
    VICTIMS = ["source", "receiver", "relay", "network", "network for long"]

    def __init__(self, folder, rng, copy=False):
        self.folder, self.rng, self.copy = folder, rng, copy
        self.disk = self.new = None  # of the machine, and where its copy goes
        self.a = None
        self.serial = 0
        self.outcomes = {}

    def boot(self):
        self.serial += 1
        self.name = f"mig-k{os.getpid()}-{self.serial}"
        more = []
        if self.copy:
            self.disk = os.path.join(self.folder, f"k{self.serial}.raw")
            with open(self.disk, "wb") as f:
                f.truncate(24 * MIB)
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", self.disk], check=True)
            more = ["--disk", self.disk + ",id=d"]
        g = linux("--name", self.name, *more, memory="128M")
        try:
            g.expect(r"# ", 120)
        except Timeout:
            g.close()
            raise
        if self.copy:
            g.send(CHECK)
        g.send(BEAT)
        self.a = Beat(g)
        self.a.grows(20)

    def once(self, victim, moment):
        if not self.a:
            self.boot()
        self.serial += 1
        there, where = f"mig-k{os.getpid()}-{self.serial}", os.path.join(self.folder, f"k{self.serial}")
        front = where + "-proxy"
        self.new = where + ".raw" if self.copy else None
        b = Beat(receiver("unix:" + where, there, *(["--disk", "d=" + self.new] if self.copy else [])))
        proxy = Proxy(front, where)
        command = [ECTYPE, "migrate", self.name, "unix:" + front, "--quiet", *["--copy-disks"] * self.copy]
        hit = threading.Event()
        relay = []

        def act():
            if victim == "source":
                self.a.g.process.kill()
            elif victim == "receiver":
                b.g.process.kill()
            elif victim == "relay":
                relay[0].kill()
            else:
                proxy.cut(0.3 if victim == "network" else 3)
            hit.set()

        if moment:
            proxy.word, proxy.before, proxy.act = *moment, act
        relay.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        if not moment:
            time.sleep(self.rng.random() * (1 if self.copy else 0.25))
            act()
        what = f"{victim} at {(moment[0].decode() + (' before' if moment[1] else ' after')) if moment else 'any time'}"
        try:
            # who asks a receiver that is dead asks for ever
            status = relay[0].wait((8 if victim == "receiver" else 60) * SLOW)
        except subprocess.TimeoutExpired:
            status = None
            relay[0].send_signal(signal.SIGINT)
            relay[0].wait(20)
        said = relay[0].stdout.read() + relay[0].stderr.read()
        proxy.word = None
        left = self.settle(victim, there, command, b)
        proxy.close()
        return self.judge(what, left, b, there, f"relay {status}: {said}\n", victim, moment)

    def settle(self, victim, there, command, b):
        """What a person does who reads the messages. What is left: names of machines that run."""
        time.sleep(0.3)
        self.doubt = False
        for _ in range(3):
            now = states()
            here, far = now.get(self.name), now.get(there)
            self.doubt |= here == "in doubt"
            if victim in ("relay", "network", "network for long") and "in doubt" in (here, far):
                control(*command[1:])
            elif victim == "source" and far == "in doubt" and here is None:
                control("resume", there)
            elif victim == "receiver" and here == "in doubt" and far is None:
                control("resume", self.name)
            else:
                break
            time.sleep(0.2)
        wait_for(lambda: len([n for n in (self.name, there) if n in states()]) < 2, 5)
        # one that did not arrive needs a moment to end
        wait_for(lambda: "arriving" not in states().values(), 5)
        return [n for n in (self.name, there) if states().get(n) == "Running"]

    def judge(self, what, left, b, there, said, victim, moment):
        mine, others = self.a.numbers(), b.numbers()
        both = set(mine) & set(others)
        detail = f"left {left} of {states()}; {said}{self.a.g.errors()[-400:]}{b.g.errors()[-400:]}"
        good = len(left) <= 1 and not both and (not others or not mine or min(others) > max(mine))
        lost_with = "none" if not left else "here" if left[0] == self.name else "there"
        if os.environ.get("MIGRATE_VERBOSE"):
            print(f"#   {what}: {lost_with}; {said.strip()}", flush=True)
        self.outcomes[lost_with] = self.outcomes.get(lost_with, 0) + 1
        if not left:
            # only where the machine was killed itself
            good = good and (victim == "source" and not others or victim == "receiver" and
                             self.a.g.process.poll() is not None)
        elif left[0] == self.name:
            good = good and self.a.grows() and not others and b.g.wait(10) is not None
        else:
            good = good and b.grows() and self.a.g.wait(10) is not None
        if good and self.copy:
            good, said = self.judge_disks(left, b, there, victim == "receiver" and moment != (b"go", True))
            detail = said + detail
        if not good:
            ok(f"killed: {what}", False, f"both said {sorted(both)[:5]}, here to {mine[-1:]}, there from {others[:1]}; "
               + detail)
        if left and left[0] == there and good:
            self.a.end()
            self.a, self.name, self.disk = b, there, self.new
        else:
            b.end()
            if not left or not good:
                self.a.end()
                self.a = None
        return good

    def judge_disks(self, left, b, there, may_be_told):
        """The disk of the machine that is left is whole; the copy is there if the machine is, or was."""
        there_now = lambda: os.path.exists(self.new)
        if left and left[0] == there:
            return there_now() and b.disk_whole(), f"at the copy: {b.text[-200:]}\n"
        # a receiver that was told to run has the copy for good, though it dies next
        told = may_be_told and (self.doubt or not left)
        good = told or wait_for(lambda: not there_now(), 5)
        if there_now():
            os.unlink(self.new)
        if left:
            good = good and self.a.disk_whole()
        return good, f"the copy is {'there' if there_now() else 'gone'}, at the old disk: {self.a.text[-200:]}\n"


def kills(folder, count, copy=False):
    if copy and not shutil.which("mke2fs"):
        skip("disks that are copied, killed", "no e2fsprogs here")
        return
    rng = random.Random(count)
    k = Killing(folder, rng, copy)
    good = 0
    # every victim at every word once before anything is left to chance
    all_cases = [(v, m) for v in k.VICTIMS for m in k.MOMENTS + k.DISK_MOMENTS * copy]
    rng.shuffle(all_cases)
    if count < len(all_cases):
        # the short form: what the hand-over stands and falls with
        wanted = [("network", (b"go", True)), ("network", (b"started", True)), ("relay", (b"ready", True)),
                  ("source", (b"ready", True)), ("receiver", (b"go", True)), ("network", (b"ready", True))]
        if copy:
            wanted = [("receiver", (b"disk.data", False)), ("network", (b"go", True)), ("source", (b"ready", True)),
                      ("receiver", (b"go", True))]
        all_cases = wanted[:count] + all_cases
    for i in range(count):
        victim, moment = all_cases[i] if i < len(all_cases) else (rng.choice(k.VICTIMS), rng.choice(k.MOMENTS))
        good += k.once(victim, moment)
    ok(f"killed at {count} moments{', disks copied' * copy}: one machine is left, never two", good == count, f"{good} of {count}")
    print(f"#   it went on: {k.outcomes}", flush=True)
    if k.a:
        k.a.end()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--kills", type=int)
    p.add_argument("--copy-disks", action="store_true", help="of --kills: disks move along")
    p.add_argument("--only", help="a part: round_trip, refused, cancelled, copied, tcp, tls, kills, disk_kills")
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = {"round_trip": lambda: round_trip(folder), "refused": lambda: refused(folder),
                 "cancelled": lambda: cancelled(folder), "copied": lambda: copied(folder), "tcp": plain_tcp,
                 "tls": lambda: tls(folder), "kills": lambda: kills(folder, o.kills or 8),
                 "disk_kills": lambda: kills(folder, o.kills or 4, True)}
        if o.kills and not o.only:
            o.only = "disk_kills" if o.copy_disks else "kills"
        for name, part in parts.items():
            if o.only and o.only != name:
                continue
            try:
                part()
            except Timeout as e:
                ok("a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
