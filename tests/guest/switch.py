#!/usr/bin/env python3
"""The engine changes to and fro under a guest that works: stress-ng --verify, a disk and the network, checksums over
all.

switch.py [--engine NAME] [--switches N] [--cpus N]
"""
import argparse
import hashlib
import http.server
import os
import random
import re
import subprocess
import tempfile
import threading
import time

import guest
from guest import ECTYPE, Timeout, finish, ok, read_json, toolbox

# Each for a second or so, over and over; failures are those that --verify finds.
STRESSORS = ["cpu", "vecmath", "fp", "crypt", "sigsegv", "timer", "fork", "pthread", "pipe", "futex", "vm", "switch", "hash",
             "str", "matrix", "signal", "mmap", "clone", "qsort", "memcpy", "vecshuf", "itimer", "priv-instr", "cpu"]
SCRIPT = """
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
stress() {
	n=0
	while [ $n = 0 ] || [ ! -e /stop ]; do
		for s in STRESSORS; do
			[ $n != 0 ] && [ -e /stop ] && break
			stress-ng --$s 1 --verify --timeout 1s --oomable -q >/tmp/out 2>&1 || { echo "stress $s failed: $?"; cat /tmp/out; }
			grep -i 'fail' /tmp/out
			n=$((n+1))
		done
	done
	echo "stress rounds $n"
}
disk() {
	n=0
	dd if=/dev/urandom of=/tmp/src bs=1M count=8 2>/dev/null
	want=$(sha256sum </tmp/src)
	while [ $n = 0 ] || [ ! -e /stop ]; do
		dd if=/tmp/src of=/dev/vda bs=256k seek=$((n % 4 * 32)) oflag=direct conv=notrunc 2>/dev/null
		got=$(dd if=/dev/vda bs=64k skip=$((n % 4 * 128)) count=128 iflag=direct 2>/dev/null | sha256sum)
		[ "$got" = "$want" ] || echo "disk failed: $got"
		n=$((n+1))
	done
	echo "disk rounds $n"
}
net() {
	n=0
	while [ $n = 0 ] || [ ! -e /stop ]; do
		got=$(bash -c 'exec 3<>/dev/tcp/10.0.2.2/PORT; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; tail -c SIZE <&3' | sha256sum)
		[ "$got" = "DIGEST  -" ] || echo "net failed: $got"
		n=$((n+1))
	done
	echo "net rounds $n"
}
echo switch test begins
stress & disk & net &
read line
touch /stop
wait
dmesg | grep -E 'WARNING|BUG|Oops|rcu.*stall|soft lockup|clocksource.*unstable|Call Trace' && echo "kernel failed"
echo switch test ends
"""

def serve(data):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--switches", type=int, default=80)
    p.add_argument("--cpus", type=int, default=1)
    a = p.parse_args()
    engine = "dbt" if guest.ENGINE == "auto" else guest.ENGINE
    others = ["interp", "dbt"]
    data = random.Random(1).randbytes(2 << 20)
    with tempfile.TemporaryDirectory() as d:
        os.environ["XDG_RUNTIME_DIR"] = d
        script = SCRIPT.replace("STRESSORS", " ".join(STRESSORS)).replace("PORT", str(serve(data)))
        script = script.replace("SIZE", str(len(data))).replace("DIGEST", hashlib.sha256(data).hexdigest())
        image = os.path.join(d, "disk.raw")
        with open(image, "wb") as f:
            f.truncate(64 << 20)
        files = {"run.sh": script}
        stats = os.path.join(d, "stats")
        with toolbox(d, files, "--name", "switch", "--cpus", a.cpus, "--net", "user", "--disk", image, "--stats=json:" + stats,
                     engine=engine) as g:
            try:
                g.expect("switch test begins", 120)
                time.sleep(2)
                rss, done, times = None, 0, []
                for i in range(a.switches):
                    start = time.monotonic()
                    r = subprocess.run([ECTYPE, "ctl", "switch", "engine", others[i % 2]], capture_output=True, text=True)
                    times.append(time.monotonic() - start)
                    done += r.returncode == 0 and r.stdout.startswith(others[i % 2])
                    if r.returncode or g.process.poll() is not None:
                        print("# " + r.stderr.strip(), flush=True)
                        break
                    if i == min(20, a.switches // 2):
                        rss = usage(g.process.pid)
                    time.sleep(random.random() * (0.1 if i % 2 == 0 else 0.3))
                more = usage(g.process.pid) if g.process.poll() is None else None
                g.send("stop\n")
                text = g.expect(r"switch test ends", 300)
                status = g.wait(60)
                ok(f"{a.switches} changes of the engine, {a.cpus} processor(s)", done == a.switches, f"{done}")
                ok("the guest ends", status == 0, f"{status} {g.errors()}")
                bad = [l for l in text.splitlines() if "fail" in l or "FAIL" in l]
                ok("nothing failed: stress-ng, disk, network, kernel", not bad, "\n".join(bad))
                rounds = re.findall(r"^(\w+) rounds (\d+)", text, re.M)
                ok("all of them worked", sorted(r[0] for r in rounds) == ["disk", "net", "stress"] and all(int(r[1]) for r in rounds), text[-600:])
                ok("the monitor keeps no memory, maps or files", rss and more and more[0] - rss[0] < 64 << 10 and
                   more[1] - rss[1] < 4000 and more[2] <= rss[2] + 2, f"{rss} {more}")
                print(f"# rounds: {dict(rounds)}; a change took {min(times) * 1000:.0f} to {max(times) * 1000:.0f} ms with its command; "
                      f"private KiB, maps, files: {rss} then {more}; halted {read_json(stats)['halted_seconds']:.1f} s")
            except (Timeout, OSError) as e:
                ok("the guest answers", False, f"{e}\n{g.errors()}")
    finish()


def usage(pid):
    """Private KiB, maps, open files."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        anonymous = int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1))
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        maps = len(f.readlines())
    return anonymous, maps, len(os.listdir(f"/proc/{pid}/fd"))


if __name__ == "__main__":
    main()
