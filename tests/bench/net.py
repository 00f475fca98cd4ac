#!/usr/bin/env python3
"""iperf3 between host and guest: Ectype beside QEMU's TCG, the same kernel and toolbox initramfs.

net.py [--seconds N] [--runs N] [--networks user,tap] [--engine NAME]

For each network and direction the best of the runs, which are interleaved, since what else the host does can only slow
a run down, and the ratio. tap needs root: an interface is made for the time of the run.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
sys.dont_write_bytecode = True
import toolbox  # noqa: E402
from initramfs import cache_dir  # noqa: E402

ECTYPE = os.environ.get("ECTYPE", os.path.join(ROOT, os.environ.get("BUILD", "build"), "ectype"))
TAP, TAP_HOST, TAP_GUEST = f"ectb{os.getpid() % 100000}", "10.213.77.1", "10.213.77.2"
PORT = 20000 + os.getpid() % 20000
CASES = (("guest to host", ""), ("host to guest", "-R"), ("guest to host, 8 streams", "-P 8"),
         ("host to guest, 8 streams", "-R -P 8"))
SCRIPT = """#!/bin/sh
{setup}
{cases}
"""


def script(network, seconds):
    host = "10.0.2.2" if network == "user" else TAP_HOST
    setup = "udhcpc -i eth0 -n -q >/dev/null 2>&1" if network == "user" else \
        f"ip addr add {TAP_GUEST}/24 dev eth0; ip link set eth0 up; until ping -c 1 -W 1 {TAP_HOST} >/dev/null; do :; done"
    # the server may still be busy with the end of the test before
    cases = "\n".join(f'n=0; until iperf3 -c {host} -p {PORT} -t {seconds} -O 1 --json {flags} >/tmp/out || [ $((n += 1)) = 5 ]; '
                      f'do sleep 1; done; echo "== {name}"; cat /tmp/out; echo "== end"'
                      for name, flags in CASES)
    return SCRIPT.format(setup=setup, cases=cases).encode()


def command(machine, network, initrd, engine):
    kernel = os.path.join(cache_dir(), "vmlinuz")
    append = "console=ttyS0 quiet"
    if machine == "ectype":
        return [ECTYPE, "run", "--engine", engine, "--kernel", kernel, "--initrd", initrd, "--append", append,
                "--memory", "1G", "--net", "user" if network == "user" else f"tap={TAP}"]
    net = ["-nic", "user,model=virtio-net-pci"] if network == "user" else \
        ["-netdev", f"tap,id=n,ifname={TAP},script=no,downscript=no", "-device", "virtio-net-pci,netdev=n"]
    return ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none",
            "-monitor", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
            "-append", append, *net]


def run(machine, network, initrd, engine, limit):
    """{case: bits per second}, as the receiver counted."""
    p = subprocess.Popen(command(machine, network, initrd, engine), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = p.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, err = p.communicate()
    text = out.decode(errors="replace").replace("\r", "")
    result = {}
    for name, body in re.findall(r"^== ([^\n]*)\n(\{.*?^\})\n== end", text, re.S | re.M):
        try:
            report = json.loads(body)
            result[name] = report["end"]["sum_received"]["bits_per_second"]
        except (ValueError, KeyError):
            print(f"{machine}, {network}, {name}: {body[-300:]}", file=sys.stderr)
    if len(result) < len(CASES):
        print(f"{machine}, {network}: not finished: {text[-500:]} {err.decode(errors='replace')[-300:]}", file=sys.stderr)
    return result


def make_tap():
    for c in (["ip", "tuntap", "add", "dev", TAP, "mode", "tap"], ["ip", "addr", "add", TAP_HOST + "/24", "dev", TAP],
              ["ip", "link", "set", TAP, "up"]):
        subprocess.run(c, check=True, capture_output=True)


def measure(network, a, folder):
    initrd = toolbox.image(os.path.join(folder, "initrd-" + network), {"run.sh": script(network, a.seconds)})
    best = {"ectype": {}, "tcg": {}}
    for _ in range(a.runs):
        for machine, results in best.items():
            for name, bits in run(machine, network, initrd, a.engine, 90 + 4 * len(CASES) * a.seconds).items():
                results[name] = max(bits, results.get(name, 0))
    good = True
    for name, _ in CASES:
        e, t = best["ectype"].get(name), best["tcg"].get(name)
        good &= bool(e and t)
        figures = [f"{x / 1e9:8.2f}" if x else "       -" for x in (e, t)]
        print(f"{network:6} {name:26} {figures[0]} {figures[1]} {e / t if e and t else 0:8.1f}", flush=True)
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=int, default=4)
    p.add_argument("--runs", type=int, default=2)
    p.add_argument("--networks", default="user,tap")
    p.add_argument("--engine", default="auto")
    a = p.parse_args()
    server = subprocess.Popen(["iperf3", "-s", "-p", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    good, made = True, False
    time.sleep(0.3)
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{'Gbit/s':33} {'ectype':>8} {'tcg':>8} {'ratio':>8}", flush=True)
            for network in a.networks.split(","):
                if network == "tap":
                    try:
                        make_tap()
                        made = True
                    except subprocess.CalledProcessError as e:
                        print("tap: " + e.stderr.decode().strip())
                        continue
                good &= measure(network, a, folder)
    finally:
        server.kill()
        server.wait()
        if made:
            subprocess.run(["ip", "link", "del", TAP], check=False)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
