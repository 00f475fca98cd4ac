#!/usr/bin/env python3
"""Protected machines: the standby goes on where the world saw the primary last; never two, never none.

protect.py [--engine NAME] [--kills N] [--only PART]
protect.py --figures [--rounds N] [--engine NAME]

A guest counts, and tells the numbers to a listener outside (protect_count.c).
A standby that went on from a state before a number that was seen would send it
again.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from certificates import certificates
from guest import ECTYPE, ENGINE, SLOW, Guest, Timeout, finish, linux, ok, run_to_end, skip
from net import tap_interface

MIB = 1 << 20
HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = int(1500 * SLOW)  # ms; this host may be busy
MARK = f"PROTECT_TEST={os.getpid()}".encode()  # in the environment of all that this test starts

OTHER = "interp" if ENGINE != "interp" else "dbt"

COUNT = "(count {host} {port} 500 </dev/null >/dev/null 2>&1 &) ; true"
WRITE = ("(n=0; while :; do n=$((n+1)); dd if=/dev/urandom of=/mnt/f$((n%40)) bs=16k count=$((n%20+1)) 2>/dev/null; "
         "md5sum /mnt/f$((n%40)) >/mnt/s$((n%40)); test $((n%5)) = 0 && sync; done) & echo $! >/tmp/writer")


def control(*args, limit=60):
    p = subprocess.run([ECTYPE, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit * SLOW)
    return p.returncode, p.stdout, p.stderr


def protection(name):
    return json.loads(control("ctl", name, "protection")[1] or "{}")


def refused(name, args, words, status=2):
    got, out, err, _ = run_to_end(args, 30)
    return ok(name, got == status and err.count("\n") == 1 and re.search(words, err) and not out,
              f"{args}\nstatus {got}, stdout {out[-300:]!r}, stderr {err[-600:]!r}")


def wait_until(what, limit=20):
    deadline = time.monotonic() + limit * SLOW
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def listens(path):
    """A socket is there before somebody listens at it."""
    with open("/proc/net/unix", encoding="ascii", errors="replace") as f:
        return any(line.split()[3] == "00010000" and line.rstrip("\n").endswith(" " + path) for line in f if " /" in line)


class Observer:
    """What the world sees: numbers, each larger than the one before."""

    def __init__(self, address="127.0.0.1"):
        self.last, self.seen, self.wrong = 0, 0, []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            n = int(self.socket.recv(100))
            if n <= self.last:
                self.wrong.append((n, self.last))
            self.last = max(self.last, n)
            self.seen += 1

    def goes_on(self, limit=20):
        """It hears more than it has heard."""
        start = self.seen
        return wait_until(lambda: self.seen > start + 20, limit)


def initramfs(folder):
    """The usual one, with `count` in its /bin."""
    path, program = os.path.join(folder, "initramfs"), os.path.join(folder, "count")
    if not os.path.exists(path):
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-static", "-o", program, os.path.join(HERE, "protect_count.c")], check=True)
        subprocess.run([os.path.join(HERE, "../../scripts/initramfs.py"), "--output", path, "--add", "bin/count=" + program], check=True)
    return path


class Stream:
    """Numbers that come over one TCP connection, with none left out."""

    def __init__(self, address):
        self.last, self.wrong = 0, []
        self.listener = socket.create_server((address, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.listener.accept()[0].makefile():
            if int(line) != self.last + 1:
                self.wrong.append((int(line), self.last))
            self.last = int(line)
        self.wrong.append("closed")

    def goes_on(self, limit=20):
        start = self.last
        return wait_until(lambda: self.last > start + 20, limit) and not self.wrong


class Chain:
    """A machine and its standbys, one after the other."""

    def __init__(self, folder, observer, disk=True, net=("user", "10.0.2.2", "10.0.2.15"), options=()):
        self.folder, self.observer, self.count, self.guests = folder, observer, 0, []
        self.disk = os.path.join(folder, "disk-0.raw") if disk else None
        more = []
        if disk:
            with open(self.disk, "wb") as f:
                f.truncate(64 * MIB)
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", self.disk], check=True)
            if disk == "qcow2":
                raw, self.disk = self.disk, self.disk[:-3] + "qcow2"
                subprocess.run([ECTYPE, "image", "convert", raw, self.disk], check=True, capture_output=True)
            more = ["--disk", self.disk]
        self.name = "protect-0"
        self.g = linux("--name", self.name, "--net", net[0], *more, *options, memory="256M", initrd=initramfs(os.path.dirname(folder)))
        self.guests.append(self.g)
        self.g.expect(r"# ", 120)
        self.g.shell(f"ip link set eth0 up; ip addr add {net[2]}/24 dev eth0")
        # or the first number waits for an answer to ARP, and the second may be first
        self.g.shell(f"ping -c 1 -W 5 {net[1]}")
        self.g.shell(COUNT.format(host=net[1], port=observer.port))
        if disk:
            self.g.shell("mount -t ext4 /dev/vda /mnt || { mkdir /mnt; mount -t ext4 /dev/vda /mnt; }")
            self.g.shell(WRITE)
        ok("the counter is heard", observer.goes_on(), observer.seen)

    def waiting(self, *options, where=None, engine=ENGINE):
        """A new standby that waits: the Guest, its name, its copy of the disk, where it listens."""
        self.count += 1
        name = f"protect-{self.count}"
        where = where or "unix:" + os.path.join(self.folder, f"socket-{self.count}")
        copy = os.path.join(self.folder, f"disk-{self.count}.raw")
        disk = ["--disk", "disk0=" + copy] if self.disk else []
        s = Guest(where, "--name", name, *disk, *options, engine=engine, verb="standby")
        self.guests.append(s)
        if where.startswith("unix:"):
            wait_until(lambda: listens(where[5:]))
        else:
            wait_until(lambda: "at port" in s.errors() or s.process.poll() is not None)
            where = where[:-1] + re.search(r"at port (\d+)|$", s.errors())[0][8:]
        return s, name, copy, where

    def ahead(self):
        """Seconds by which the guest's wall clock is ahead of the host's: between which two."""
        before = time.time()
        sec, usec = map(int, re.findall(r"time\.tv_u?sec: +(\d+)", self.g.shell("adjtimex")))
        return sec + usec / 1e6 - time.time(), sec + usec / 1e6 - before

    def protect(self, name, where, *options):
        self.was_ahead = self.ahead()
        status, out, err = control("protect", self.name, where, "--timeout", str(TIMEOUT), *options)
        return ok(f"{name}: the machine is protected", status == 0 and "protected" in out,
                  f"{status} {out} {err} {self.guests[-1].errors()}")

    def standby(self, *options, primary=(), engine=ENGINE):
        """Protects the machine by a new standby: the Guest, and its name."""
        s, name, copy, where = self.waiting(*options, engine=engine)
        self.protect(name, where, *primary)
        return s, name, copy

    def taken_over(self, s, name, copy):
        """The standby is the machine from now on."""
        s.send("\n")
        s.expect(r"# ", 30)
        s.shell("echo")
        ok(f"{name}: nothing that was seen is lost, the world hears more", self.observer.goes_on() and
           not self.observer.wrong, (self.observer.wrong[:5], self.observer.seen, s.errors()))
        self.g, self.name, self.disk = s, name, copy if self.disk else None
        least, most = self.ahead()
        ok(f"{name}: its clock is as right as before", least < self.was_ahead[1] + 0.1 and most > self.was_ahead[0] - 0.1,
           (self.was_ahead, least, most))

    def check_disk(self):
        """What is on the file system is what was written, and the file system is clean."""
        self.g.shell("kill $(cat /tmp/writer); sleep 0.5; sync; echo 3 >/proc/sys/vm/drop_caches")
        bad = self.g.shell("dmesg | grep -cE 'EXT4-fs error|BUG|Oops|I/O error'")
        ok("the kernel has no complaint", bad.strip() == "0", self.g.shell("dmesg | tail -20"))
        sums = self.g.shell("cd /mnt; for i in $(seq 0 39); do md5sum -c s$i 2>/dev/null; done | grep -c OK")
        ok("files are what was written", int(sums or 0) >= 38, sums)  # the last one may be cut
        self.g.shell("cd /; umount /mnt")
        control("stop", self.name, "--force")
        self.g.wait(20)
        e2fsck = subprocess.run(["e2fsck", "-fn", self.disk], capture_output=True, text=True)
        ok("the file system is clean", e2fsck.returncode == 0, e2fsck.stdout + e2fsck.stderr)

    def close(self):
        for g in self.guests:
            g.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def killed(folder, kills):
    """The primary is killed under load, its standby takes over and is protected in turn, and so on."""
    o = Observer()
    c = Chain(folder, o)
    try:
        for i in range(kills):
            s, name, copy = c.standby(primary=("--rate", random.choice(["10", "20", "50"])))
            time.sleep(random.uniform(0.1, 1.5))
            if i == 0:
                p = protection(c.name)
                ok("checkpoints come as often as asked for", p.get("state") == "protects" and p["checkpoints"] >= 1, p)
                print(f"#   {p}", flush=True)
            c.g.process.kill()
            start = time.monotonic()
            c.taken_over(s, name, copy)
            print(f"#   {name}: {time.monotonic() - start:.2f} s, {o.seen} numbers seen", flush=True)
        c.check_disk()
    except Timeout as e:
        ok("killed", False, e)
    finally:
        c.close()


# on each of two processors: a program that checks memory that it writes all the time
CHECKS = ("(cd /tmp; dd if=/dev/urandom of=noise bs=64k count=1 2>/dev/null; md5sum <noise >sum; for i in 0 1; do "
          "(n=0; bad=0; while :; do cat noise >copy$i; md5sum <copy$i | cmp -s - sum || bad=$((bad+1)); n=$((n+1)); "
          "echo $n $bad >t$i; mv t$i check$i; usleep 50000; done) & done) & true")
STREAM = "((n=0; while :; do n=$((n+1)); echo $n; usleep 20000; done) | nc {host} {port} >/dev/null 2>&1 &) ; true"


def engines(folder):
    """Two processors, a qcow2 disk, a tap interface: to the other engine and back."""
    subnet = f"10.99.{os.getpid() % 250}."
    with tap_interface(f"ecp{os.getpid()}", subnet + "1") as tap:
        net = (f"tap={tap}", subnet + "1", subnet + "2") if tap else ("user", "10.0.2.2", "10.0.2.15")
        o = Observer(net[1] if tap else "127.0.0.1")
        stream = Stream(net[1]) if tap else None
        c = Chain(folder, o, disk="qcow2", net=net, options=("--cpus", "2"))
        try:
            c.g.shell(CHECKS)
            if tap:
                c.g.shell(STREAM.format(host=net[1], port=stream.port))
                ok("tap: a connection", stream.goes_on(), (stream.last, stream.wrong))
            for engine in (OTHER, ENGINE):
                s, name, copy = c.standby(engine=engine)
                time.sleep(0.5)
                c.g.process.kill()
                c.taken_over(s, name, copy)
                if tap:
                    ok(f"{name} ({engine}): the connection is whole", stream.goes_on(), (stream.last, stream.wrong))
                before = [c.g.shell(f"cat /tmp/check{i}").split() for i in (0, 1)]
                ok(f"{name} ({engine}): both processors go on", c.g.shell("nproc").strip() == "2" and wait_until(lambda: all(
                    int(c.g.shell(f"cat /tmp/check{i}").split()[0]) > int(before[i][0]) + 1 for i in (0, 1))), before)
                bad = [c.g.shell(f"cat /tmp/check{i}").split()[1] for i in (0, 1)]
                ok(f"{name} ({engine}): memory is whole", bad == ["0", "0"], bad)
            c.check_disk()
        except Timeout as e:
            ok("engines", False, e)
        finally:
            c.close()


def standby_lost(folder):
    """The standby is killed: the primary goes on, or stands still, as it was told."""
    o = Observer()
    c = Chain(folder, o, disk=False, net=(f"user,hostfwd=tcp:127.0.0.1:{free_port()}-:22", "10.0.2.2", "10.0.2.15"))
    try:
        s, _, _ = c.standby(primary=("--on-loss", "continue"))
        s.process.kill()
        ok("continue: the primary goes on", o.goes_on() and protection(c.name)["state"] == "none", protection(c.name))
        s, name, _ = c.standby(primary=("--rate", "100"))
        time.sleep(2)
        least, most = c.ahead()
        ok("checkpoints do not make its clock late", least < c.was_ahead[1] + 0.02 and most > c.was_ahead[0] - 0.02,
           (c.was_ahead, least, most, protection(c.name)))
        out = control("ps")[1]
        ok("ps says so", re.search(rf"{c.name} +\d+ Protected ", out), out)
        status, out, err = control("protect", "--stop", c.name)
        ok("--stop: the primary goes on", status == 0 and o.goes_on() and protection(c.name)["state"] == "none", err)
        ok("--stop: the standby ends", s.wait(20) == 0 and "goes on unprotected" in s.errors(), s.errors())
        s, name, _ = c.standby()
        s.process.kill()
        ok("hold: the primary stands still", wait_until(lambda: protection(c.name)["state"] == "held"), protection(c.name))
        out = control("ps")[1]
        ok("hold: ps says so", re.search(rf"{c.name} +\d+ held ", out), out)
        time.sleep(0.3)
        last = o.seen
        time.sleep(1)
        ok("hold: nothing is heard of it", o.seen == last, (last, o.seen))
        refused("hold: it cannot be resumed by mistake", ["resume", c.name], "may go on in this machine's place", 1)
        status, _, err = control("protect", "--stop", c.name)
        ok("hold: somebody decides, and it goes on", status == 0 and o.goes_on(), err)
        witness = os.path.join(folder, "witness")
        s, name, _ = c.standby("--witness", witness, primary=("--witness", witness))
        s.process.kill()
        ok("witness: the primary claims it and goes on", o.goes_on() and protection(c.name)["state"] == "none", protection(c.name))
        refused("a witness that was used is refused", ["protect", c.name, "unix:/nowhere", "--witness", witness], "not empty")
        os.unlink(witness)
        # the other way round: the primary is silent, and comes back
        s, name, copy = c.standby("--witness", witness, primary=("--witness", witness))
        silent = c.g
        silent.process.send_signal(signal.SIGSTOP)
        ok("a standby waits for a host port that a silent primary has",
           wait_until(lambda: "goes on as soon as it is free" in s.errors()), s.errors())
        silent.process.send_signal(signal.SIGCONT)
        ok("witness: a primary that comes back ends", silent.wait(20) is not None and
           "has taken over" in silent.errors(), silent.errors())
        c.taken_over(s, name, copy)
        s, name, copy = c.standby("--net", "user")
        silent = c.g
        silent.process.send_signal(signal.SIGSTOP)
        c.taken_over(s, name, copy)
        silent.process.send_signal(signal.SIGCONT)
        ok("no witness: a primary that comes back ends", silent.wait(20) is not None and
           "has taken over" in silent.errors(), silent.errors())
        ok("nothing was heard twice", not o.wrong and o.goes_on(), o.wrong[:5])
        s, name, _ = c.standby()
        c.g.send("poweroff -f\n")
        ok("a machine that ends does", c.g.wait(30) == 0, c.g.errors())
        ok("its standby knows", s.wait(20) == 0 and "the machine has ended" in s.errors(), s.errors())
    except Timeout as e:
        ok("standby_lost", False, e)
    finally:
        c.close()


def links(*names):
    """The processes of this test that have a connection over TLS: ectype-link of a primary, ectype-door of a standby."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="ascii") as comm, open(f"/proc/{pid}/environ", "rb") as environ:
                if comm.read().strip() in names and MARK in environ.read().split(b"\0"):
                    found.add(int(pid))
        except OSError:
            pass
    return found


def tls(folder):
    """Only who has a certificate is let in; what the end of a connection means only its other end says."""
    if not shutil.which("openssl"):
        skip("TLS", "no openssl here")
        return
    o = certificates(folder)
    here, there, at = o("here"), o("there"), "tcp:127.0.0.1:0"
    observer = Observer()
    c = Chain(folder, observer, disk=False)
    try:
        s, name, copy, where = c.waiting(*there, where=at)
        for what, options, words in (
                ("a certificate of another authority", o("stranger", "ca"), "the other side refuses"),
                ("a standby whose authority is another", o("here", "other"), "issuer is unknown|not trusted"),
                ("a standby of another name", [*here, "--tls-host", "elsewhere"], "name.* does not match"),
                ("no certificate", [], "")):
            status, out, err = control("protect", c.name, where, *options)
            ok(f"{what}: refused, the machine and the standby go on", status == 1 and err.count("\n") == 1 and
               re.search(words, err) and not out and s.process.poll() is None and protection(c.name)["state"] == "none",
               f"{status} {out} {err} {s.errors()}")
        stranger = socket.create_connection(("127.0.0.1", int(where.rsplit(":", 1)[1])))
        stranger.sendall(os.urandom(512))
        c.protect(name, where, *here)
        stranger.close()
        c.g.process.kill()
        c.taken_over(s, name, copy)

        # one of the processes between is killed: the monitor behind it is not dead, and is not taken for it
        for link in ("ectype-link", "ectype-door"):
            before = links(link)
            s, name, copy, where = c.waiting(*there, where=at)
            c.protect(name, where, *here, "--on-loss", "continue")
            for pid in links(link) - before:
                os.kill(pid, signal.SIGKILL)
            if link == "ectype-link":
                ok("the primary's link is killed: it goes on", observer.goes_on() and protection(c.name)["state"] == "none",
                   protection(c.name))
                time.sleep(2 * TIMEOUT / 1000)
                ok("and its standby does not take over", "takes over" not in s.errors() and s.process.poll() is None, s.errors())
                s.close()
                continue
            silent, old = c.g, c.name
            c.taken_over(s, name, copy)
            ok("the standby's link is killed: it goes on, the primary stands still",
               wait_until(lambda: protection(old)["state"] == "held"), silent.errors())
            silent.close()
        for how in ("standby", "primary"):
            s, name, copy, where = c.waiting(*there, where=at)
            c.protect(name, where, *here, "--on-loss", "continue")
            if how == "standby":
                s.process.kill()
                ok("continue: the standby is killed, the primary goes on", observer.goes_on() and
                   protection(c.name)["state"] == "none", protection(c.name))
                continue
            c.g.process.kill()
            c.taken_over(s, name, copy)
        ok("nothing was heard twice", not observer.wrong, observer.wrong[:5])
        s, name, copy, where = c.waiting(*there, where=at)
        c.protect(name, where, *here)
        status, _, err = control("protect", "--stop", c.name)
        ok("--stop: the standby ends", status == 0 and s.wait(20) == 0 and "goes on unprotected" in s.errors(), err + s.errors())
    except Timeout as e:
        ok("tls", False, e)
    finally:
        c.close()
    ok("the processes between end with their machines", wait_until(lambda: not links("ectype-link", "ectype-door")),
       links("ectype-link", "ectype-door"))
    for args in (["standby", at, "--tls-cert", "x"], ["standby", at, "--tls-cert", folder + "/none", *there[2:]],
                 ["protect", "x", "tcp:127.0.0.1:1", "--tls-ca", "x"], ["standby", "tcp:0.0.0.0:0"]):
        refused(" ".join(args[:1] + args[2:4]) + ": one line", args, "--tls-")


def refusals(folder):
    """What cannot be is one line."""
    nobody = "unix:" + os.path.join(folder, "nobody")
    refused("a machine that is not there", ["protect", "no-such-machine", nobody], "cannot connect", 1)
    refused("no rate", ["protect", "x", nobody, "--rate", "0"], "from 1 to")
    refused("no target", ["protect", "x", "elsewhere"], "tcp:HOST:PORT")
    refused("a network without consent", ["protect", "x", "tcp:192.0.2.1:1"], "insecure")
    refused("a standby without an address", ["standby"], "where")
    disk = os.path.join(folder, "refused.raw")
    with open(disk, "wb") as f:
        f.truncate(4 * MIB)
    where = os.path.join(folder, "refusing")
    with linux("--name", "protect-r", "--disk", disk, memory="128M") as g:
        g.expect(r"# ", 120)
        for what, options, words in (("a disk that has no place", [], "can be written to"),
                                     ("a disk that is not there", ["--disk", "disk7=/tmp/x"], "no such disk"),
                                     ("a copy over a file", ["--disk", "disk0=" + disk], "cannot make"),
                                     ("a witness of one side", ["--witness", where + ".w"], "the primary has none")):
            with Guest("unix:" + where, "--name", "protect-s", *options, verb="standby") as s:
                wait_until(lambda: listens(where))
                status, _, err = control("protect", "protect-r", "unix:" + where)
                ok(what, status == 1 and err.count("\n") == 1 and re.search(words, err) and s.wait(10) in (1, 2),
                   f"{status} {err} {s.errors()}")
        with Guest("unix:" + where, "--name", "protect-s", "--disk", "disk0=" + where + ".copy", verb="standby") as s:
            wait_until(lambda: listens(where))
            for data in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
                stranger = socket.socket(socket.AF_UNIX)
                stranger.connect(where)
                stranger.sendall(data)
                stranger.close()
            ok("a standby waits on after strangers", wait_until(lambda: s.errors().count("waiting for another") == 3), s.errors())
            status, _, err = control("protect", "protect-x", "unix:" + where)
            ok("and after the command for a machine that is not there", status == 2 and s.process.poll() is None, f"{status} {err}")
            status, _, err = control("protect", "protect-r", "unix:" + where)
            ok("and protects", status == 0, err + s.errors())
            s.process.kill()
            s.process.wait()
            ok("a standby that is killed leaves no copy", wait_until(lambda: not os.path.exists(where + ".copy")))
        control("protect", "--stop", "protect-r")
        ok("the machine goes on", "here" in g.shell("echo he''re"))
        refused("nothing is to be stopped", ["protect", "--stop", "protect-r"], "not protected", 1)


# ---- figures ----

WORK = ("t() { s=$(cut -d' ' -f1 /proc/uptime); \"$@\"; e=$(cut -d' ' -f1 /proc/uptime); echo took $s $e; }; "
        "compute() { i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; }; "
        "writes() { for k in $(seq 1 12); do dd if=/dev/urandom of=/tmp/w bs=1M count=16 2>/dev/null; done; }")


def seconds(g, what):
    """By the guest's clock, and processor time of the monitor."""
    before = g.cpu_seconds()
    s, e = re.search(r"took (\S+) (\S+)", g.shell("t " + what, 300)).groups()
    return float(e) - float(s), g.cpu_seconds() - before


def round_trip(g, n=40):
    """Of a line at the serial port: until the prompt is back."""
    times = []
    for _ in range(n):
        start = time.monotonic()
        g.send("\n")
        g.expect(r"# ", 20)
        times.append(time.monotonic() - start)
    return sorted(times)[n // 2] * 1000


def figure(g, rate):
    """What the machine `protect-f` does under so many checkpoints a second, 0: unprotected. Numbers, by their columns."""
    compute, start = seconds(g, "compute"), time.monotonic()
    before = protection("protect-f")
    writes = seconds(g, "writes")
    p, took = protection("protect-f"), time.monotonic() - start
    row = {"compute": compute[0], "compute cpu": compute[1], "writes": writes[0], "writes cpu": writes[1], "trip": round_trip(g)}
    if rate:
        n = max(p["checkpoints"] - before["checkpoints"], 1)
        row |= {"reached": n / took, "still": (p["standstill_ns"] - before["standstill_ns"]) / n / 1e6,
                "most": p["standstill_max_ns"] / 1e6, "sent": (p["sent_bytes"] - before["sent_bytes"]) / took / 1e6}
    return row


def show_figures(rate, rows):
    r = {column: statistics.median(row[column] for row in rows) for column in rows[0]}
    both = f"{r['compute']:.2f} ({r['compute cpu']:.2f}) | {r['writes']:.2f} ({r['writes cpu']:.2f}) | {r['trip']:.1f}"
    if rate:
        print(f"| {rate} ({r['reached']:.0f} reached) | {both} | {r['still']:.2f} | {r['most']:.1f} | {r['sent']:.0f} |")
    else:
        print(f"| none | {both} | | | |")


def figures(folder, rounds):
    where = os.path.join(folder, "figures")
    rows = {0: [], 10: [], 25: [], 50: []}
    with linux("--name", "protect-f", memory="256M") as g:
        g.expect(r"# ", 120)
        g.shell(WORK)
        for rate in list(rows) * rounds:
            s = Guest("unix:" + where, "--name", "protect-g", verb="standby") if rate else None
            if rate:
                wait_until(lambda: listens(where))
                control("protect", "protect-f", "unix:" + where, "--rate", str(rate), "--timeout", "10000")
            rows[rate].append(figure(g, rate))
            if rate:
                control("protect", "--stop", "protect-f")
                s.wait(20)
                s.close()
    print("| checkpoints a second | compute, s (processor) | writes to memory, s (processor) | serial round trip, ms | "
          "standstill, mean ms | max ms | MB/s |")
    print("| --- | --: | --: | --: | --: | --: | --: |")
    for rate, found in rows.items():
        show_figures(rate, found)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--engine")
    p.add_argument("--kills", type=int, default=3)
    p.add_argument("--figures", action="store_true")
    p.add_argument("--rounds", type=int, default=5, help="of --figures; the medians are printed")
    p.add_argument("--only", help="a part: killed, engines, standby_lost, tls, refusals")
    args = p.parse_args()
    os.environ["PROTECT_TEST"] = str(os.getpid())
    folder = tempfile.mkdtemp(prefix="ectype-protect-")
    try:
        if args.figures:
            figures(folder, args.rounds)
            return
        parts = {"killed": lambda folder: killed(folder, args.kills), "engines": engines, "standby_lost": standby_lost,
                 "tls": tls, "refusals": refusals}
        for name, part in parts.items():
            if args.only == name or not args.only and (name == "killed" or args.kills <= 3):
                own = os.path.join(folder, name)
                os.mkdir(own)
                part(own)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish()


if __name__ == "__main__":
    main()
