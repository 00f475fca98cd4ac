#!/usr/bin/env python3
"""What saving and moving a running machine costs, beside QEMU's TCG with the same kernel and memory.

moves.py [--sizes 512M,2G] [--rate MIB_S] [--set MIB] [--rounds N] [--no-qemu] [--json FILE]

In the guest a program (writer.c) writes whole pages of so much of its memory, so many MiB a second.

Migration: on one host over a TCP connection of the loopback, limit of the standstill 100 ms on both sides; for how long
the guest stood still by the source's own account, and the time from the command to the end. Snapshot: the same, and the
bytes on the disk. QEMU: `migrate` to another process; and, in place of a snapshot, `stop`, `migrate` to a file, `cont`,
for which it stands still all the time (`snapshot-save` needs a qcow2 disk and stands still as long).

A busy host makes wall clocks long; the load is printed.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from copies import QEMU, Qemu, call, show, spread, wait_for_text  # noqa: E402
from guest import ECTYPE, Guest, cache, linux, make_initramfs, wait_for  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
DOWNTIME_MS = 100
PORT = 4711  # of QEMU's receiver


def image(folder, o):
    program, initrd = os.path.join(folder, "writer"), os.path.join(folder, "initrd")
    subprocess.run(["cc", "-O2", "-static", "-o", program, os.path.join(HERE, "writer.c")], check=True)
    return make_initramfs(initrd, f"/bin/writer {o.rate} {o.set}\n", "bin/writer=" + program)


def report(what, still, total, out):
    out[what] = {"still_ms": still, "total_ms": total}
    show(f"{what}: stood still", spread(still))
    show(f"{what}: in all", spread(total))


def milliseconds(text):
    value, unit = re.search(r"stood still for ([\d.]+) (ms|s)", text).groups()
    return float(value) * (1 if unit == "ms" else 1e3)


def ours(folder, size, initrd, o, out):
    migrations, snapshots, bytes_on_disk = ([], []), ([], []), []
    g = linux("--name", "moves-0", memory=size, initrd=initrd)
    try:
        g.expect(r"(WRITES \d+.*\s+){3}", 300)
        for n in range(o.rounds):
            snap = os.path.join(folder, "snap")
            began = time.monotonic()
            text = call(ECTYPE, "snapshot", f"moves-{n}", snap)
            snapshots[1].append((time.monotonic() - began) * 1e3)
            snapshots[0].append(milliseconds(text))
            bytes_on_disk.append(sum(os.stat(os.path.join(snap, f)).st_blocks * 512 for f in os.listdir(snap)))
            shutil.rmtree(snap)
            h = Guest("tcp:127.0.0.1:0", "--name", f"moves-{n + 1}", verb="receive")
            if not wait_for(lambda h=h: "at port" in h.errors()):
                raise RuntimeError(h.errors())
            port = re.search(r"at port (\d+)", h.errors()).group(1)
            began = time.monotonic()
            text = call(ECTYPE, "migrate", f"moves-{n}", f"tcp:127.0.0.1:{port}", "--downtime", str(DOWNTIME_MS), "--quiet")
            migrations[1].append((time.monotonic() - began) * 1e3)
            migrations[0].append(milliseconds(text))
            g.close()
            g = h
            g.expect(r"(WRITES \d+.*\s+){2}", 60)
        rates = re.findall(r"WRITES (\d+)", g.text)
        print("# the guest wrote " + ", ".join(rates[-2:]) + " MiB/s")
    finally:
        g.close()
    report(f"migration, {size}", *migrations, out)
    report(f"snapshot, {size}", *snapshots, out)
    out[f"snapshot, {size}"]["mib"] = [b / (1 << 20) for b in bytes_on_disk]
    print(f"{f'snapshot, {size}: on the disk':44} {'':8} {max(bytes_on_disk) / (1 << 20):8.0f} MiB", flush=True)


def finished(q):
    """What query-migrate says in the end."""
    while True:
        q.tell("query-migrate")
        answer = json.loads(q.lines.readline()).get("return", {})
        if answer.get("status") in ("completed", "failed"):
            return answer
        time.sleep(0.01)


def theirs(folder, size, initrd, o, out):
    args = ["-m", size, "-kernel", cache("vmlinuz"), "-initrd", initrd, "-append", "console=ttyS0 quiet"]
    log, saved = os.path.join(folder, "log"), os.path.join(folder, "vmstate")
    migrations, snapshots = ([], []), ([], [])
    q = Qemu(*args, "-serial", "file:" + log)
    try:
        wait_for_text(log, "WRITES", 300)
        for _ in range(o.rounds):
            began = time.monotonic()
            q.tell("stop")
            q.expect('"STOP"')
            q.save(saved)
            q.tell("cont")
            q.expect('"RESUME"')
            snapshots[1].append((time.monotonic() - began) * 1e3)
            snapshots[0].append(snapshots[1][-1])
            os.remove(saved)
            time.sleep(2)
            h = Qemu(*args, "-serial", "null", "-incoming", f"tcp:127.0.0.1:{PORT}")
            time.sleep(1)
            q.tell("migrate-set-parameters", **{"downtime-limit": DOWNTIME_MS, "max-bandwidth": 1 << 40})
            q.expect("return")
            began = time.monotonic()
            q.tell("migrate", uri=f"tcp:127.0.0.1:{PORT}")
            q.expect("return")
            answer = finished(q)
            migrations[1].append((time.monotonic() - began) * 1e3)
            migrations[0].append(float(answer.get("downtime", "nan")))
            q.close()
            q = h
            time.sleep(2)
    finally:
        q.close()
    report(f"QEMU: migration, {size}", *migrations, out)
    report(f"QEMU: to a file, {size}", *snapshots, out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="512M,2G")
    p.add_argument("--rate", type=int, default=100, metavar="MIB_S")
    p.add_argument("--set", type=int, default=256, metavar="MIB")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--no-qemu", action="store_true")
    p.add_argument("--json")
    o = p.parse_args()
    out = {"load": os.getloadavg()}
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; {'':12}   least   median     most", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        initrd = image(folder, o)
        for size in o.sizes.split(","):
            ours(folder, size, initrd, o, out)
            if not o.no_qemu and shutil.which(QEMU):
                theirs(folder, size, initrd, o, out)
    if o.json:
        with open(o.json, "w", encoding="utf-8") as f:
            json.dump(out, f, indent=1)


if __name__ == "__main__":
    main()
