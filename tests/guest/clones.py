#!/usr/bin/env python3
"""Many copies at once of one booted Debian with an ssh server: all answer, all have different boot IDs, random numbers
and ssh session keys, and the right time; what a copy costs.

clones.py [--engine NAME] [--count K] [--minute]

--minute: measure memory after a minute of idleness, too.
"""
import argparse
import concurrent.futures
import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import time

import debian_image
from guest import ECTYPE, ENGINE, ROOT, SLOW, Guest, Timeout, finish, ok, skip

COMPLAINTS = "BUG|Oops|soft lockup|rcu.*stall|blocked for more|unstable|I/O error"
# drawn at once: before anything that waits
IDENTITY = (f"head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/boot_id; date +%s; "
            f"dmesg | grep -cE '{COMPLAINTS}'")


def control(*args, limit=600):
    p = subprocess.run([ECTYPE, *[str(a) for a in args]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=limit * SLOW)
    return p.returncode, p.stdout, p.stderr


def machines():
    return {vm["name"]: vm for vm in json.loads(control("ps", "--json")[1])}


def forward(vm):
    return int(vm["config"]["net"][0]["hostfwd"][0].split("-")[0].rsplit(":", 1)[1])


# ---- what an ssh server says before encryption begins (RFC 4253, RFC 8731)

def receive(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise OSError("the server hung up")
        data += more
    return data


def packet(s):
    length, padding = struct.unpack(">IB", receive(s, 5))
    return receive(s, length - 1)[:length - 1 - padding]


def send(s, payload):
    padding = 8 - (len(payload) + 5) % 8
    padding += 8 if padding < 4 else 0
    s.sendall(struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding))


def string(data):
    return struct.pack(">I", len(data)) + data


def session_keys(port, limit):
    """The server's cookie and ephemeral public key of one key exchange."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit * SLOW) as s:
        line = b""
        while not line.endswith(b"\n"):
            line += receive(s, 1)
        s.sendall(b"SSH-2.0-ectype-test\r\n")
        cookie = packet(s)[1:17]
        lists = [b"curve25519-sha256", b"ssh-ed25519", b"aes128-ctr", b"aes128-ctr", b"hmac-sha2-256", b"hmac-sha2-256", b"none",
                 b"none", b"", b""]
        send(s, b"\x14" + os.urandom(16) + b"".join(map(string, lists)) + bytes(5))
        send(s, b"\x1e" + string(b"\x09" + bytes(31)))
        reply = packet(s)
        assert reply[0] == 31, reply[0]
        host, = struct.unpack(">I", reply[1:5])
        length, = struct.unpack(">I", reply[5 + host:9 + host])
        return cookie, reply[9 + host:9 + host + length]


# ---- figures

def memory(pids):
    """Private and proportional KiB of the processes, on average."""
    sums = {"Private": 0, "Pss": 0}
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
            for key, kib in re.findall(r"^(Private_Clean|Private_Dirty|Pss): +(\d+)", f.read(), re.M):
                sums[key.split("_")[0]] += int(kib)
    return {k: v / len(pids) / 1024 for k, v in sums.items()}


def available():
    with open("/proc/meminfo", encoding="ascii") as f:
        return int(re.search(r"MemAvailable: +(\d+)", f.read())[1]) / 1024


def show(text):
    print("#   " + text, flush=True)


def costs(what, vms, before):
    m = memory([vm["pid"] for vm in vms])
    show(f"{what}: {m['Private']:.1f} MiB private, {m['Pss']:.1f} MiB proportional a copy; of the host "
         f"{(before - available()) / len(vms):.1f} MiB a copy")


# ---- the test

def install_agent(debian, port, folder):
    agent = os.path.join(folder, "ectype-guest")
    subprocess.run(["cc", "-O2", "-static", "-o", agent, os.path.join(ROOT, "guest/ectype_guest.c")], check=True)
    debian.ssh(port, agent, "root@127.0.0.1:/usr/local/sbin/", program="scp", timeout=300 * SLOW)
    debian.ssh(port, os.path.join(ROOT, "guest/ectype-guest.service"), "root@127.0.0.1:/etc/systemd/system/", program="scp",
               timeout=300 * SLOW)
    p = debian.ssh(port, "systemctl enable --now ectype-guest && systemctl is-active ectype-guest", timeout=300 * SLOW)
    ok("the agent runs", p.stdout.strip() == "active", p.stdout + p.stderr)


def identities(debian, vms, limit):
    def one(vm):
        port, start = forward(vm), time.time()
        try:
            keys = session_keys(port, limit)
            p = debian.ssh(port, IDENTITY, timeout=limit * SLOW)
            now = time.time()
        except (OSError, AssertionError, subprocess.TimeoutExpired) as e:
            return vm["name"], None, repr(e)
        words = p.stdout.split()
        if len(words) != 4:
            return vm["name"], None, f"{p.returncode} {p.stdout!r} {p.stderr!r}"
        return vm["name"], {"cookie": keys[0], "key": keys[1], "random": words[0], "boot": words[1],
                            "right": start - 1 <= int(words[2]) <= now + 1, "complaints": words[3]}, ""

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, vms))


def check(debian, vms, count):
    start = time.monotonic()
    answers = identities(debian, vms, 600)
    said = [a for _, a, _ in answers if a]
    show(f"all were asked in {time.monotonic() - start:.0f} s")
    ok(f"all {count} answer", len(said) == count, "\n".join(f"{n}: {why}" for n, a, why in answers if not a))
    for what, key in (("boot IDs", "boot"), ("random numbers", "random"), ("ssh session keys", "key"), ("ssh cookies", "cookie")):
        ok(f"all have different {what}", len({a[key] for a in said}) == len(said) > 0, [a[key] for a in said][:20])
    ok("all clocks are right", all(a["right"] for a in said), [n for n, a, _ in answers if a and not a["right"]])
    ok("no kernel complains", {a["complaints"] for a in said} == {"0"}, [a["complaints"] for a in said])


def run(folder, debian, o):
    disk = debian.overlay(os.path.join(folder, "disk.qcow2"))
    with Guest("--name", "debian", "--disk", disk, "--net", "user,hostfwd=tcp::0-:22", "--memory", "512M", *debian.direct()) as g:
        g.expect(r"login: ", 300)
        port = forward(machines()["debian"])
        install_agent(debian, port, folder)
        debian.ssh(port, "systemctl is-system-running --wait; sync", timeout=300 * SLOW)
        time.sleep(5)
        before, start = available(), time.monotonic()
        status, out, err = control("clone", "debian", "--count", o.count, "--json")
        took = time.monotonic() - start
        if not ok(f"{o.count} copies start", status == 0, out + err):
            return
        vms = json.loads(out)
        times = sorted(vm["start_ms"] for vm in vms)
        show(f"{o.count} copies in {took:.2f} s, the snapshot included; each {times[len(times) // 2]:.0f} ms from its process to "
             f"its first instruction (median; {times[0]:.0f} to {times[-1]:.0f})")
        costs("at once", vms, before)
        if o.minute:
            time.sleep(60)
            costs("idle for a minute", vms, before)
        check(debian, vms, o.count)
        costs("after they were asked", vms, before)
        ok("all run", {vm["name"] for vm in vms} <= set(machines()))
        for vm in vms:
            control("stop", vm["name"], "--force")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--minute", action="store_true")
    o = p.parse_args()
    try:
        debian = debian_image.ensure()
    except debian_image.Missing as why:
        skip("many copies of a Debian", why)
        return
    with tempfile.TemporaryDirectory(prefix="ectype-test-", dir="/var/tmp") as folder:
        os.environ["XDG_RUNTIME_DIR"], os.environ["TMPDIR"] = os.path.join(folder, "run"), folder
        os.mkdir(os.environ["XDG_RUNTIME_DIR"], 0o700)
        try:
            run(folder, debian, o)
        except Timeout as e:
            ok("the guest answers in time", False, e)
        finally:
            for name in machines():
                control("stop", name, "--force")
    finish()


if __name__ == "__main__":
    main()
