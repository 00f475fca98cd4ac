#!/usr/bin/env python3
"""What restoring and cloning cost, beside QEMU's TCG with the same kernel, disk and memory.

copies.py [--sizes 512M,4G,16G] [--rounds N] [--copies K] [--seconds S] [--no-qemu] [--json FILE]

Restore: from the start of the process to the first instruction, wall clock (least, median, most) and the processor time
of the whole process, for snapshots of a Linux with so much memory, without an overlay to make. QEMU: -incoming from a
file that `migrate` wrote, to its event RESUME; it reads all of memory first.

Copies: K of one booted Debian with 512 MiB, by `ectype clone`, from the command's start to all of them running, divided
by K; what each has for itself after S seconds (footprint.py). QEMU: K processes started one after the other, each with
-incoming and an overlay.

A busy host makes wall clocks long; the load is printed.
"""
import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
import debian_image  # noqa: E402
import footprint  # noqa: E402
from guest import ECTYPE, PROMPT, Guest, cache, linux  # noqa: E402

QEMU = "qemu-system-x86_64"
SETTLE_S = 30  # after the login prompt


def call(*args, limit=300):
    p = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit)
    if p.returncode:
        raise RuntimeError(f"{args}: {p.stderr[-1000:]}")
    return p.stdout


def spread(values):
    return {"least": min(values), "median": statistics.median(values), "most": max(values)}


def show(what, wall, cpu=None):
    line = f"{what:44} {wall['least']:8.1f} {wall['median']:8.1f} {wall['most']:8.1f} ms"
    print(line + (f"   processor time {cpu['median']:.1f} ms" if cpu else ""), flush=True)


# ---- Ectype ----


def first_instruction(snap):
    """(wall, processor time) in ms. The process ends after an instruction; both are over when it has."""
    r, w = os.pipe()
    began = time.monotonic()
    pid = os.posix_spawn(ECTYPE, [ECTYPE, "restore", snap, "--serial=file:/dev/null", "--insn-limit=1", "--verbose"], os.environ,
                         file_actions=[(os.POSIX_SPAWN_DUP2, w, 2), (os.POSIX_SPAWN_CLOSE, r)])
    os.close(w)
    text = b""
    while b"restored in" not in text:
        piece = os.read(r, 4096)
        if not piece:
            raise RuntimeError(text.decode())
        text += piece
    wall = time.monotonic() - began
    _, status, used = os.wait4(pid, 0)
    os.close(r)
    if status:
        raise RuntimeError(text.decode())
    return wall * 1e3, (used.ru_utime + used.ru_stime) * 1e3


def restores(folder, sizes, rounds, out):
    for size in sizes:
        snap = os.path.join(folder, "restore")
        with linux("--name", "copies-0", memory=size) as g:
            g.expect(r"# ", 300)
            call(ECTYPE, "snapshot", "copies-0", snap)
        times = [first_instruction(snap) for _ in range(rounds)]
        out[f"restore {size}"] = wall, cpu = spread([t[0] for t in times]), spread([t[1] for t in times])
        show(f"restore to first instruction, {size}", wall, cpu)
        shutil.rmtree(snap)


def boot(g):
    g.expect(r"login: ", 300)
    time.sleep(SETTLE_S)


def mean(values):
    return sum(values) / len(values)


def say_memory(what, prints, out):
    out[what] = {"own_mib": [f.mib() for f in prints], "clean_mib": [f.clean / 1024 for f in prints],
                 "page_tables_mib": [f.page_tables / 1024 for f in prints]}
    worst = max(prints, key=lambda f: f.mib())
    print(f"{what:44} {min(f.mib() for f in prints):8.1f} {mean([f.mib() for f in prints]):8.1f} {worst.mib():8.1f} MiB   page tables "
          f"{mean([f.page_tables for f in prints]) / 1024:.1f} MiB, file pages nobody else maps {mean([f.clean for f in prints]) / 1024:.1f} MiB",
          flush=True)


def start_copies(source, count, *more):
    """(their processes, ms for each, processor time in ms of the command and what it ran to the end)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    made = json.loads(call(ECTYPE, "clone", source, "--count", str(count), "--serial=file:/dev/null", "--json", *more))
    each, after = (time.monotonic() - began) * 1e3 / count, resource.getrusage(resource.RUSAGE_CHILDREN)
    return [m["pid"] for m in made], each, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


def end_all(pids):
    for pid in pids:
        os.kill(pid, 15)
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.05)


def running_copies(name, count, out):
    """Copies of a machine that runs: its snapshot is part of it."""
    for n in (1, count):
        pids, each, used = start_copies(name, n)
        own = [cpu_ms(pid) for pid in pids]
        end_all(pids)
        out[f"clone running {n}"] = {"wall_ms": each, "cpu_ms": own, "command_cpu_ms": used}
        print(f"{f'a copy of a running Debian, of {n}':44} {'':8} {each:8.1f} {'':8} ms   processor time so far {mean(own):.1f} ms, of the "
              f"command {used:.0f} ms", flush=True)


def copies(folder, count, seconds, out):
    debian = debian_image.ensure()
    disk, snap = debian.overlay(os.path.join(folder, "disk.qcow2")), os.path.join(folder, "debian")
    with Guest("--disk", disk, "--net", "user", "--memory", "512M", "--name", "copies-1", *debian.direct()) as g:
        boot(g)
        running_copies("copies-1", count, out)
        call(ECTYPE, "snapshot", "copies-1", snap, "--stop")
    pids, each, _ = start_copies(snap, count, "--names", "copies-1", "--dir", os.path.join(folder, "clones"))
    try:
        used = [cpu_ms(pid) for pid in pids]
        out["clone"] = {"wall_ms": each, "cpu_ms": used}
        print(f"{f'a copy of Debian, of {count} at once':44} {'':8} {each:8.1f} {'':8} ms   processor time so far {mean(used):.1f} ms",
              flush=True)
        time.sleep(seconds)
        before = [cpu_ms(pid) for pid in pids]
        say_memory(f"memory of its own after {seconds:.0f} s", [footprint.of(pid) for pid in pids], out)
        print(f"{'processor time of each until then':44} {'':8} {mean(before):8.0f} ms", flush=True)
    finally:
        end_all(pids)
    return debian


def cpu_ms(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


# ---- QEMU ----


class Qemu:
    def __init__(self, *args):
        ours, theirs = socket.socketpair()
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [QEMU, "-accel", "tcg", "-cpu", "max", "-machine", "q35", "-display", "none", "-nodefaults", "-chardev",
             f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control", *args], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        theirs.close()
        self.lines = ours.makefile("rw", encoding="utf-8")
        self.tell("qmp_capabilities")

    def tell(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()

    def expect(self, word):
        """The message that has `word`; ms since the start."""
        while True:
            line = self.lines.readline()
            if not line:
                raise RuntimeError("QEMU ended")
            if word in line:
                return (time.monotonic() - self.began) * 1e3

    def save(self, path):
        self.tell("migrate", uri=f"exec:cat >{path}")
        while True:
            self.tell("query-migrate")
            line = self.lines.readline()
            if '"completed"' in line:
                return
            if '"failed"' in line:
                raise RuntimeError(line)
            time.sleep(0.1)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.lines.close()


def wait_for_text(path, text, limit):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        time.sleep(0.2)
        if not os.path.exists(path):
            continue
        with open(path, errors="replace", encoding="utf-8") as f:
            if text in f.read():
                return
    raise RuntimeError(f"{path} does not come to '{text}'")


def qemu_restores(folder, sizes, rounds, out):
    saved, log = os.path.join(folder, "vmstate"), os.path.join(folder, "log")
    for size in sizes:
        args = ["-m", size, "-kernel", cache("vmlinuz"), "-initrd", cache("initramfs"), "-append", "console=ttyS0 quiet"]
        q = Qemu(*args, "-serial", "file:" + log)
        wait_for_text(log, "# ", 300)
        q.save(saved)
        q.close()
        times, used = [], []
        for _ in range(max(3, rounds // 4)):
            q = Qemu(*args, "-serial", "null", "-incoming", f"exec:cat {saved}")
            times.append(q.expect('"RESUME"'))
            used.append(cpu_ms(q.process.pid))
            q.close()
        out[f"qemu restore {size}"] = wall, cpu = spread(times), spread(used)
        show(f"QEMU: -incoming to RESUME, {size}", wall, cpu)
        os.remove(saved)


def qemu_copies(folder, debian, count, seconds, out):
    saved, log = os.path.join(folder, "vmstate"), os.path.join(folder, "qlog")

    def args(disk):
        return ["-m", "512M", "-kernel", os.path.join(debian.folder, "vmlinuz"), "-initrd", os.path.join(debian.folder, "initrd.img"),
                "-append", debian.cmdline, "-drive", f"if=virtio,format=qcow2,file={disk}", "-nic", "user,model=virtio-net-pci"]

    base = debian.overlay(os.path.join(folder, "qdisk.qcow2"))
    q = Qemu(*args(base), "-serial", "file:" + log)
    wait_for_text(log, "login: ", 300)
    time.sleep(SETTLE_S)
    q.save(saved)
    q.close()
    machines, began = [], time.monotonic()
    try:
        for n in range(count):
            disk = os.path.join(folder, f"q{n}.qcow2")
            call(ECTYPE, "image", "overlay", "--format", "qcow2", base, disk)
            machines.append(Qemu(*args(disk), "-serial", "null", "-incoming", f"exec:cat {saved}"))
        for q in machines:
            q.expect('"RESUME"')
        each = (time.monotonic() - began) * 1e3 / count
        out["qemu copy"] = {"wall_ms": each}
        print(f"{f'QEMU: a copy, of {count} one after the other':44} {'':8} {each:8.1f} ms", flush=True)
        time.sleep(seconds)
        say_memory(f"QEMU: memory of its own after {seconds:.0f} s", [footprint.of(q.process.pid) for q in machines], out)
        print(f"{'QEMU: processor time of each until then':44} {'':8} {mean([cpu_ms(q.process.pid) for q in machines]):8.0f} ms", flush=True)
    finally:
        for q in machines:
            q.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="512M,4G,16G")
    p.add_argument("--rounds", type=int, default=21)
    p.add_argument("--copies", type=int, default=10)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--no-qemu", action="store_true")
    p.add_argument("--json")
    o = p.parse_args()
    out, sizes = {"load": os.getloadavg()}, [s for s in o.sizes.split(",") if s]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; {'':12}   least   median     most", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        restores(folder, sizes, o.rounds, out)
        debian = copies(folder, o.copies, o.seconds, out) if o.copies else None
        if not o.no_qemu and shutil.which(QEMU):
            qemu_restores(folder, sizes, o.rounds, out)
            if debian:
                qemu_copies(folder, debian, max(1, o.copies // 3), o.seconds, out)
    out["load at the end"] = os.getloadavg()
    print(f"load {os.getloadavg()[0]:.1f} at the end", flush=True)
    if o.json:
        with open(o.json, "w", encoding="ascii") as f:
            json.dump(out, f, indent=1)


if __name__ == "__main__":
    main()
