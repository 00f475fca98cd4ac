#!/usr/bin/env python3
"""A machine is saved, ends and goes on from its snapshot, again and again, while its guest verifies all it does.

trips.py [--engine NAME] [--trips N] [--cpus N] [--to NAME]

From the first instruction of the boot on, then while stress-ng --verify, disk and network traffic with checksums and
a watch on the clock run in the guest: `ectype snapshot --stop` at a random moment, `ectype restore --in-place` with
the one engine or the other. Afterwards nothing has failed, no clock went back and dmesg has no complaint.

Connections of the user network do not outlive the process that holds them: what breaks by that is asked for again,
what is wrong is a failure. One over a tap interface, whose peer goes on, has to last from the first trip to the last.
"""
import argparse
import http.server
import os
import random
import re
import shutil
import socketserver
import statistics
import subprocess
import tempfile
import threading
import time

from boot import BAD, KNOWN
from guest import ECTYPE, ENGINE, ROOT, SLOW, Guest, Timeout, cache, finish, ok
from net import tap_interface
from switch import MIB, STRESS, Host

RUN = """#!/bin/sh
cd /tmp
net=$(basename $(ls -d /sys/class/net/e*))
until udhcpc -q -f -n -i $net >/dev/null 2>&1; do :; done
echo START
tap=$(basename $(ls -d /sys/class/net/e* | sed -n 2p))
if [ -n "$tap" ]; then
	ip link set $tap up; ip addr add %(guest)s/24 dev $tap
	python3 /line.py %(line)s & line=$!
fi
/timejump 100000 first >time & watch=$!
python3 /traffic.py %(host)s & traffic=$!
rounds=0
while [ ! -e over ]; do
	stress-ng %(stress)s --verify --timeout 3 >log 2>&1 || { echo "FAILED stress-ng $?"; grep -E 'fail|error' log; }
	rounds=$((rounds + 1))
	timeout 5 busybox wget -q -O answer http://%(host)s/over && grep -q yes answer && touch over
done
kill -INT $watch; wait $watch
cat time
wait $traffic || echo "FAILED traffic $?"
[ -z "$line" ] || wait $line || echo "FAILED line $?"
echo "ROUNDS $rounds"
echo "== dmesg"
dmesg
echo "== all done"
sleep 2
"""

TRAFFIC = """
import hashlib, http.client, os, random, sys, urllib.error, urllib.request
rng, rounds, broken = random.Random(1), 0, 0
disk = os.open("/dev/vda", os.O_RDWR)
def ask(what):
    global broken
    while True:
        try:
            with urllib.request.urlopen(what, timeout=5) as r:
                return r.read(), r.headers
        except (OSError, http.client.HTTPException):
            broken += 1
while not os.path.exists("/tmp/over"):
    data = rng.randbytes(rng.randrange(1 << 20))
    at = rng.randrange(16 << 20) & ~511
    os.pwrite(disk, data, at)
    os.fsync(disk)
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
    if os.pread(disk, len(data), at) != data:
        sys.exit("FAILED disk")
    body, headers = ask(f"http://{sys.argv[1]}/data/{rng.randrange(1 << 18)}")
    if hashlib.sha256(body).hexdigest() != headers["Digest"]:
        sys.exit("FAILED download")
    body, _ = ask(urllib.request.Request(f"http://{sys.argv[1]}/sum", data=data, method="POST"))
    if body.decode() != hashlib.sha256(data).hexdigest():
        sys.exit("FAILED upload")
    rounds += 1
    if rounds == 1:
        print("FLOWS", flush=True)
print("TRAFFIC", rounds, "BROKEN", broken)
"""


# one connection, numbers to and fro
LINE = """
import os, socket, sys, time
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
f, n = line.makefile("rw"), 0
while not os.path.exists("/tmp/over"):
    n += 1
    print(n, "x" * (n * 37 % 3000), file=f, flush=True)
    if f.readline() != f"{n}\\n":
        sys.exit("FAILED line")
    time.sleep(0.01)
print("LINE", n)
"""
TAP, TAP_HOST, TAP_GUEST = f"etrip{os.getpid() % 1000}", "10.98.7.1", "10.98.7.2"


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            n, noise = line.split(b" ", 1)
            if len(noise) != int(n) * 37 % 3000 + 1:
                n = b"wrong"
            self.wfile.write(n + b"\n")


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, address):
        """A connection that the guest lost."""


class Traveller:
    """The machine: one process after the other, their consoles one text."""

    def __init__(self, folder, name, first):
        self.folder, self.name, self.g = folder, name, first
        self.text, self.snap, self.pauses, self.booting = "", None, [], 0

    def console(self):
        return self.text + self.g.text

    def trip(self, number, engine):
        """None, or what went wrong."""
        snap = os.path.join(self.folder, f"snap{number}")
        p = subprocess.Popen([ECTYPE, "snapshot", self.name, snap, "--stop"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + 120 * SLOW
        while p.poll() is None and time.monotonic() < end:
            self.g.pump(0.01)
        if p.poll() != 0:
            p.kill()
            return f"snapshot: status {p.wait()}: {p.stdout.read()}"
        if self.g.wait(60) != 0:
            return f"the machine that was saved: {self.g.errors()}"
        self.text += self.g.text
        self.g.close()
        began = time.monotonic()
        self.g = Guest(snap, "--name", self.name, "--in-place", engine=engine, verb="restore")
        if not self.answers():
            return f"restore: {self.g.errors()}"
        self.pauses.append(time.monotonic() - began)
        if self.snap:
            shutil.rmtree(self.snap)
        self.snap = snap
        return None

    def answers(self):
        end = time.monotonic() + 60 * SLOW
        while time.monotonic() < end and self.g.process.poll() is None:
            self.g.pump(0)
            p = subprocess.run([ECTYPE, "ctl", self.name, "ping"], stdin=subprocess.DEVNULL, capture_output=True)
            if p.returncode == 0:
                return True
        return False

    def expect(self, pattern, limit):
        end = time.monotonic() + limit * SLOW
        while not re.search(pattern, self.console()):
            if time.monotonic() > end or not self.g.pump(1):
                raise Timeout(f"no '{pattern}'; console ends:\n{self.console()[-1500:]}\n{self.g.errors()}")


def travel(t, count, engines, rng):
    """Trips while it boots, close together, then under load; what went wrong, or None."""
    for i in range(count):
        early = i < count // 3
        # mostly as it was started, so that the guest gets somewhere; and for what waits for the guest
        other = i not in (count // 3 - 1, count - 1) and rng.random() < 0.3
        end = time.monotonic() + rng.random() * (0.2 if early else 1.0)
        while time.monotonic() < end:
            t.g.pump(0.01)
        err = t.trip(i, engines[other])
        if err:
            return f"trip {i}: {err}"
        if early:
            t.booting += "START" not in t.console()
        if i == count // 3 - 1:
            t.expect("START", 300)
    return None


def judge(text, tap):
    ok("nothing failed", "FAILED" not in text, "\n".join(re.findall(r".*FAILED.*(?:\n.*){3}", text)))
    m = re.search(r"TIME largest=(\d+) back=(\d+) wrong=(\d+)", text)
    ok("no clock goes back, nothing computed wrongly", m and m.group(2, 3) == ("0", "0"), m)
    traffic = re.search(r"TRAFFIC (\d+) BROKEN (\d+)", text)
    ok("disk and network", traffic and int(traffic.group(1)) > 0, text[-500:])
    rounds = re.search(r"ROUNDS (\d+)", text)
    print(f"# {rounds and rounds.group(1)} rounds of stress-ng, {traffic and traffic.group(1)} of traffic, "
          f"{traffic and traffic.group(2)} connections broken")
    if tap:
        line = re.search(r"LINE (\d+)", text)
        ok("the connection over a tap lasts", line and int(line.group(1)) > 0, text[-500:])
        print(f"# {line and line.group(1)} times to and fro on it")
    log = text[text.find("== dmesg"):]
    found = [line for line in log.splitlines() if BAD.search(line) and not any(k.search(line) for k in KNOWN)]
    ok("dmesg has no complaint", len(log) > 100 and not found, "\n".join(found))


def run(folder, cpus, count, engines, port, rng, tap):
    import toolbox
    subprocess.run(["cc", "-O2", "-static", "-o", f"{folder}/timejump", os.path.join(ROOT, "tests/guest/timejump.c")], check=True)
    with open(f"{folder}/timejump", "rb") as f:
        jump = f.read()
    with open(f"{folder}/disk", "wb") as f:
        f.truncate(20 * MIB)
    words = {"host": f"10.0.2.2:{port}", "stress": STRESS, "guest": TAP_GUEST, "line": ""}
    nets = ["--net", "user"]
    if tap:
        line = socketserver.ThreadingTCPServer((TAP_HOST, 0), Line)
        line.daemon_threads = True
        threading.Thread(target=line.serve_forever, daemon=True).start()
        words["line"] = f"{TAP_HOST} {line.server_address[1]}"
        nets += ["--net", "tap=" + tap]
    files = {"run.sh": (RUN % words).encode(), "traffic.py": TRAFFIC.encode(), "timejump": jump, "line.py": LINE.encode()}
    initrd = toolbox.image(os.path.join(folder, "initrd"), files)
    name = f"trips-{os.getpid()}"
    first = Guest("--kernel", cache("vmlinuz"), "--initrd", initrd, "--append", "console=ttyS0 quiet", "--memory", "1G",
                  "--name", name, "--cpus", cpus, "--disk", f"{folder}/disk,format=raw", *nets, engine=engines[0])
    t = Traveller(folder, name, first)
    try:
        ok("it starts", t.answers(), first.errors())
        err = travel(t, count, engines, rng)
        ok(f"{count} trips, {t.booting} of them while it boots", not err, err)
        if t.pauses:
            print(f"# from the start of a restore to its answer: {statistics.median(t.pauses) * 1000:.0f} ms")
        if not err:
            t.expect("FLOWS", 120)
            Host.over = True
            t.expect("== all done", 600)
            ok("the guest powers off", t.g.wait(60) == 0, t.g.errors())
    except Timeout as e:
        ok("it goes on", False, e)
    finally:
        t.g.close()
    judge(t.console().replace("\r", ""), tap)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--trips", type=int, default=8)
    p.add_argument("--cpus", type=int, default=4)
    p.add_argument("--to", default="interp", help="the other engine")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    a = p.parse_args()
    print(f"# seed {a.seed}")
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="ectype-trips-")
    server = Server(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as d, tap_interface(TAP, TAP_HOST) as tap:
        run(d, a.cpus, a.trips, (ENGINE or "dbt", a.to), server.server_address[1], random.Random(a.seed), tap)
    server.shutdown()
    shutil.rmtree(os.environ["XDG_RUNTIME_DIR"])
    finish()


if __name__ == "__main__":
    main()
