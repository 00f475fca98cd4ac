#!/usr/bin/env python3
"""The engine changes under a guest that verifies all it does.

switch.py [--engine NAME] [--switches N] [--cpus N,N] [--to NAME]

While stress-ng --verify, disk and network traffic with checksums and a watch on
the clock run in the guest, the host changes the engine to and fro. Afterwards
nothing has failed, no clock has gone back or stepped by more than 10 ms (or
than it does on this host without any change), and dmesg has no complaint.
"""
import argparse
import hashlib
import http.server
import os
import random
import re
import shutil
import subprocess
import tempfile
import threading

from boot import BAD, KNOWN
from guest import ECTYPE, ENGINE, ROOT, SLOW, Timeout, finish, ok, skip, toolbox

MIB = 1 << 20
STEP_US = 10000
STRESS = "--cpu 1 --memcpy 1 --qsort 1 --qsort-size 32768 --pipe 1 --futex 1 --switch 1 --fork 1 --vecmath 1 --timer 1"

RUN = """#!/bin/sh
cd /tmp
net=$(basename $(ls -d /sys/class/net/e*))
udhcpc -q -f -i $net >/dev/null 2>&1 || echo "FAILED dhcp"
echo "START"
/timejump %(calm)d first | sed 's/^TIME/CALM/'
echo "GO"
/timejump 100000 first >time & watch=$!
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


def switches(g, name, count, engines):
    """Changes the engine `count` times; how many were made, the longest standstill in ms."""
    done, longest = 0, 0.0
    for i in range(count):
        p = subprocess.run([ECTYPE, "ctl", name, "engine", engines[i % 2]], capture_output=True, text=True, timeout=120 * SLOW)
        m = re.search(r"still for ([\d.]+) ms", p.stdout)
        if p.returncode or not m:
            return done, longest, p.stdout + p.stderr
        done += 1
        longest = max(longest, float(m.group(1)))
        g.pump(random.random() * 0.1)  # what lies between two changes differs
    return done, longest, ""


def judge(what, text, calm_limit):
    ok(f"{what}: nothing failed", "FAILED" not in text, "\n".join(re.findall(r".*FAILED.*(?:\n.*){3}", text)))
    m, calm = re.search(r"TIME largest=(\d+) back=(\d+) wrong=(\d+)", text), re.search(r"CALM largest=(\d+)", text)
    ok(f"{what}: no clock goes back, nothing computed wrongly", m and m.group(2, 3) == ("0", "0"), m)
    if m and calm and int(m.group(1)) > STEP_US and int(calm.group(1)) > calm_limit:
        skip(f"{what}: no step of the clock over {STEP_US // 1000} ms", f"the host is too busy: {calm.group(1)} us without changes")
    else:
        ok(f"{what}: no step of the clock over {STEP_US // 1000} ms", m and int(m.group(1)) <= STEP_US, m)
    traffic, rounds = re.search(r"TRAFFIC (\d+)", text), re.search(r"ROUNDS (\d+)", text)
    ok(f"{what}: disk and network", traffic and int(traffic.group(1)) > 0, text[-500:])
    print(f"# {what}: {m and m.group(1)} us the largest step ({calm and calm.group(1)} without changes), "
          f"{rounds and rounds.group(1)} rounds of stress-ng, {traffic and traffic.group(1)} of traffic")
    log = text[text.find("== dmesg"):]
    found = [line for line in log.splitlines() if BAD.search(line) and not any(k.search(line) for k in KNOWN)]
    ok(f"{what}: dmesg has no complaint", len(log) > 100 and not found, "\n".join(found))


def one(cpus, count, engines, port):
    what, name = f"{cpus} processor{'s' if cpus > 1 else ''}", f"switch-{cpus}-{os.getpid()}"
    Host.over = False
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(["cc", "-O2", "-static", "-o", f"{d}/timejump", os.path.join(ROOT, "tests/guest/timejump.c")], check=True)
        with open(f"{d}/timejump", "rb") as f:
            jump = f.read()
        with open(f"{d}/disk", "wb") as f:
            f.truncate(20 * MIB)
        run = RUN % {"host": f"10.0.2.2:{port}", "stress": STRESS, "calm": 5}
        with toolbox(d, {"run.sh": run, "traffic.py": TRAFFIC, "timejump": jump}, "--name", name, "--cpus", cpus,
                     "--disk", f"{d}/disk,format=raw", "--net", "user") as g:
            try:
                g.expect("FLOWS", 300)
                done, longest, err = switches(g, name, count, engines)
                ok(f"{what}: {count} changes of the engine", done == count, f"{done}: {err}")
                print(f"# {what}: the guest stood still for at most {longest:.1f} ms")
                Host.over = True
                g.expect("== all done", 300)
                ok(f"{what}: the guest powers off", g.wait(60) == 0, g.errors())
            except Timeout as e:
                ok(f"{what}: it goes on", False, e)
            judge(what, g.text.replace("\r", ""), STEP_US)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--switches", type=int, default=60)
    p.add_argument("--cpus", default="1,4")
    p.add_argument("--to", default="interp", help="the other engine")
    a = p.parse_args()
    os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="ectype-switch-")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for cpus in a.cpus.split(","):
        one(int(cpus), a.switches, (a.to, ENGINE), server.server_address[1])
    server.shutdown()
    shutil.rmtree(os.environ["XDG_RUNTIME_DIR"])
    finish()


if __name__ == "__main__":
    main()
