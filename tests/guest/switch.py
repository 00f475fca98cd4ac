#!/usr/bin/env python3
"""The engine changes under a guest that verifies all it does.

switch.py [--engine NAME] [--switches N] [--cpus N,N] [--to NAME] [--gaps S]

While stress-ng --verify, disk and network traffic with checksums and a watch on
the clock run in the guest, the host changes the engine to and fro. Afterwards
nothing has failed, the guest's clock has not gone back, run ahead or lost time
against the host's but for the standstills, each of which was short, and dmesg
has no complaint.

--gaps: before, under stress-ng alone, what a program that runs before all others
sees between two looks at the clock with each of the engines, for S seconds, without
changes. That is what to compare the figure with changes with.
"""
import argparse
import hashlib
import http.server
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from boot import BAD, KNOWN
from guest import ECTYPE, ENGINE, ROOT, SLOW, Timeout, finish, ok, toolbox

MIB = 1 << 20
STRESS = "--cpu 1 --memcpy 1 --qsort 1 --qsort-size 32768 --pipe 1 --futex 1 --switch 1 --fork 1 --vecmath 1 --timer 1"

RUN = """#!/bin/sh
cd /tmp
net=$(basename $(ls -d /sys/class/net/e*))
udhcpc -q -f -i $net >/dev/null 2>&1 || echo "FAILED dhcp"
echo "START"
/timejump %(calm)d first %(clock)d | sed 's/^TIME/CALM/'
if [ %(gaps)d -gt 0 ]; then
	stress-ng %(stress)s --verify --timeout 1000 >/dev/null 2>&1 & load=$!
	echo "GAPS here"
	/timejump %(gaps)d first | sed 's/^TIME/HERE/'
	echo "GAPS there"
	sleep 3
	/timejump %(gaps)d first | sed 's/^TIME/THERE/'
	kill -INT $load; wait $load
	echo "GAPS over"
	sleep 2
fi
echo "GO"
/timejump 100000 first %(clock)d >time & watch=$!
python3 /traffic.py %(host)s & traffic=$!
rounds=0
while [ ! -e over ]; do
	stress-ng %(stress)s --verify --timeout 4 >log 2>&1 || { echo "FAILED stress-ng $?"; grep -E 'fail|error' log; }
	rounds=$((rounds + 1))
	# the host says so by a file
	busybox wget -q -O answer http://%(host)s/over && grep -q yes answer && touch over
done
kill -INT $watch; wait $watch
cat time
wait $traffic || echo "FAILED traffic $?"
echo "ROUNDS $rounds"
echo "== dmesg"
dmesg
echo "== all done"
sleep 2
"""

TRAFFIC = """
import hashlib, os, random, sys, urllib.request
rng, rounds = random.Random(1), 0
disk = os.open("/dev/vda", os.O_RDWR)
while not os.path.exists("/tmp/over"):
    data = rng.randbytes(rng.randrange(1 << 20))
    at = rng.randrange(16 << 20) & ~511
    os.pwrite(disk, data, at)
    os.fsync(disk)
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
    if os.pread(disk, len(data), at) != data:
        sys.exit("FAILED disk")
    with urllib.request.urlopen(f"http://{sys.argv[1]}/data/{rng.randrange(1 << 20)}", timeout=120) as r:
        body = r.read()
        if hashlib.sha256(body).hexdigest() != r.headers["Digest"]:
            sys.exit("FAILED download")
    want = hashlib.sha256(data).hexdigest()
    q = urllib.request.Request(f"http://{sys.argv[1]}/sum", data=data, method="POST")
    with urllib.request.urlopen(q, timeout=120) as r:
        if r.read().decode() != want:
            sys.exit("FAILED upload")
    rounds += 1
    if rounds == 1:
        print("FLOWS", flush=True)
print("TRAFFIC", rounds)
"""


class Host(http.server.BaseHTTPRequestHandler):
    """What the guest's traffic talks to."""
    protocol_version = "HTTP/1.1"
    over = False

    def log_message(self, *args):
        pass

    def answer(self, body, **headers):
        self.send_response(200)
        for k, v in headers.items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):  # noqa: N802
        if self.path == "/over":
            self.answer(b"yes" if Host.over else b"no")
        else:
            body = random.Random(self.path).randbytes(int(self.path.rsplit("/", 1)[1]))
            self.answer(body, Digest=hashlib.sha256(body).hexdigest())

    def do_POST(self):  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(body).hexdigest().encode())


class Clock(threading.Thread):
    """What the guest's clock said (its program sends it), and how long the guest was told to stand still."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.samples, self.stills = [], []  # (host ns, guest ns); (host ns behind it, ms)
        self.start()

    def port(self):
        return self.socket.getsockname()[1]

    def run(self):
        while True:
            data = self.socket.recv(64)
            self.samples.append((time.monotonic_ns(), int.from_bytes(data[:8], "little")))

    def drift(self):
        """Largest step forward that a sample shows, and how much time was lost or won from begin to end, in ms. A sample
        may be late, so that of several the earliest counts."""
        stills = sum(ms for _, ms in self.stills)
        # each call of the control command ends a little behind the change itself
        late = [(h - g) / 1e6 - sum(ms for at, ms in self.stills if at <= h) for h, g in self.samples]
        first, last = min(late[:20]), min(late[-20:])
        print(f"# {len(late)} samples of the clock, {len(self.stills)} changes, {stills:.0f} ms still; "
              f"at the end {last - first:+.2f} ms")
        return first - min(late), last - first


def change(name, engine, clock):
    """None, or what went wrong."""
    p = subprocess.run([ECTYPE, "ctl", name, "engine", engine], capture_output=True, text=True, timeout=120 * SLOW)
    m = re.search(r"still for ([\d.]+) ms", p.stdout)
    if p.returncode or not m:
        return p.stdout + p.stderr
    clock.stills.append((time.monotonic_ns(), float(m.group(1))))
    return None


def switches(g, name, count, engines, clock):
    """Changes the engine `count` times; how many were made, the longest standstill in ms, what went wrong."""
    err = None
    for i in range(count):
        err = change(name, engines[i % 2], clock)
        if err is not None:
            break
        g.pump(random.random() * 0.1)  # what lies between two changes differs
    return len(clock.stills), max((ms for _, ms in clock.stills), default=0.0), err


def gaps(g, name, engines, seconds, clock):
    g.expect("GAPS there", 100 + seconds)
    change(name, engines[0], clock)
    g.expect("GAPS over", 100 + seconds)
    change(name, engines[1], clock)
    times = [re.search(rf"{k} largest=(\d+)", g.text).group(1) for k in ("HERE", "THERE")]
    print(f"# us between two looks at the clock at most, under load, {seconds} s of each engine: "
          f"{engines[1]} {times[0]}, {engines[0]} {times[1]}")


def judge(what, text, clock):
    ok(f"{what}: nothing failed", "FAILED" not in text, "\n".join(re.findall(r".*FAILED.*(?:\n.*){3}", text)))
    m, calm = re.search(r"TIME largest=(\d+) back=(\d+) wrong=(\d+)", text), re.search(r"CALM largest=(\d+)", text)
    ok(f"{what}: no clock goes back, nothing computed wrongly", m and m.group(2, 3) == ("0", "0"), m)
    ahead, lost = clock.drift()
    ok(f"{what}: the clock never runs ahead by more than 10 ms", ahead < 10, f"{ahead:.1f} ms")
    ok(f"{what}: from begin to end it is right within 10 ms", abs(lost) < 10, f"{lost:.1f} ms")
    traffic, rounds = re.search(r"TRAFFIC (\d+)", text), re.search(r"ROUNDS (\d+)", text)
    ok(f"{what}: disk and network", traffic and int(traffic.group(1)) > 0, text[-500:])
    print(f"# {what}: {m and m.group(1)} us between two looks at the clock at most ({calm and calm.group(1)} without changes), "
          f"{rounds and rounds.group(1)} rounds of stress-ng, {traffic and traffic.group(1)} of traffic")
    log = text[text.find("== dmesg"):]
    found = [line for line in log.splitlines() if BAD.search(line) and not any(k.search(line) for k in KNOWN)]
    ok(f"{what}: dmesg has no complaint", len(log) > 100 and not found, "\n".join(found))


def one(cpus, count, engines, port, seconds):
    what, name = f"{cpus} processor{'s' if cpus > 1 else ''}", f"switch-{cpus}-{os.getpid()}"
    Host.over = False
    clock = Clock()
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["cc", "-O2", "-static", "-o", f"{d}/timejump", os.path.join(ROOT, "tests/guest/timejump.c")], check=True)
        with open(f"{d}/timejump", "rb") as f:
            jump = f.read()
        with open(f"{d}/disk", "wb") as f:
            f.truncate(20 * MIB)
        run = RUN % {"host": f"10.0.2.2:{port}", "stress": STRESS, "calm": 5, "gaps": seconds, "clock": clock.port()}
        with toolbox(d, {"run.sh": run, "traffic.py": TRAFFIC, "timejump": jump}, "--name", name, "--cpus", cpus,
                     "--disk", f"{d}/disk,format=raw", "--net", "user") as g:
            try:
                if seconds:
                    gaps(g, name, engines, seconds, clock)
                before = len(clock.stills)
                g.expect("FLOWS", 300)
                done, longest, err = switches(g, name, count, engines, clock)
                ok(f"{what}: {count} changes of the engine", done - before == count, f"{done}: {err}")
                stills = [ms for _, ms in clock.stills]
                print(f"# {what}: the guest stood still for {statistics.mean(stills or [0]):.2f} ms in the mean, "
                      f"{longest:.2f} ms at most; {sum(ms > 10 for ms in stills)} times for more than 10 ms")
                Host.over = True
                g.expect("== all done", 300)
                ok(f"{what}: the guest powers off", g.wait(60) == 0, g.errors())
            except Timeout as e:
                ok(f"{what}: it goes on", False, e)
            judge(what, g.text.replace("\r", ""), clock)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--switches", type=int, default=60)
    p.add_argument("--cpus", default="1,4")
    p.add_argument("--to", default="interp", help="the other engine")
    p.add_argument("--gaps", type=int, default=0, metavar="S")
    a = p.parse_args()
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="ectype-switch-")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for cpus in a.cpus.split(","):
        one(int(cpus), a.switches, (a.to, ENGINE), server.server_address[1], a.gaps)
    server.shutdown()
    shutil.rmtree(os.environ["XDG_RUNTIME_DIR"])
    finish()


if __name__ == "__main__":
    main()
