#!/usr/bin/env python3
"""Disk speed in a guest, side by side with QEMU's TCG: fio.py [--runs N] [--format F] [--cache C] [--only JOB,...]

The same kernel, the same initramfs with Debian's fio, the same image (full of
random bytes, and read once before, so that with cache=writeback it is in the
host's page cache), virtio-blk by PCI, one processor. The machines take turns.
Figures are fio's own, the guest's clock; what is printed is the median.

    --json F        all samples
    --no-tcg        Ectype alone
    --native        also fio on the host, on the raw image without a guest: what its disk gives
    --engine E      dbt if not given
    --seconds N     of each job (3), behind one of warming up
    --profile       perf record of Ectype, with the report printed
    --cpu-time      a fixed amount of work, and per second of processor time of
                    the machine's process, all threads, less what fio takes to
                    start: for hosts that are shared with others
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
sys.dont_write_bytecode = True
import toolbox  # noqa: E402
from initramfs import Cpio, cache_dir, read  # noqa: E402

ECTYPE = os.environ.get("ECTYPE", os.path.join(ROOT, os.environ.get("BUILD", "build"), "ectype"))
MIB = 1 << 20
SIZE = 512 * MIB
APPEND = "console=ttyS0 quiet panic=-1 mitigations=off"
# name: (fio's options, what counts)
JOBS = {
    "seqread": ("--rw=read --bs=256k --iodepth=4", "MiB/s"),
    "seqwrite": ("--rw=write --bs=256k --iodepth=4", "MiB/s"),
    "randread-1": ("--rw=randread --bs=4k --iodepth=1", "IOPS"),
    "randread-32": ("--rw=randread --bs=4k --iodepth=32", "IOPS"),
    "randwrite-1": ("--rw=randwrite --bs=4k --iodepth=1", "IOPS"),
    "randwrite-32": ("--rw=randwrite --bs=4k --iodepth=32", "IOPS"),
}
SCRIPT = """#!/bin/sh
echo none >/sys/block/vda/queue/scheduler
for job in {jobs}; do
	set -- $(sed -n "s/^$job //p" /jobs)
	echo "<$job"
	/fio/ld.so --library-path /fio /fio/fio --name=$job --filename=/dev/vda --ioengine=libaio --direct=1 \\
		{length} --norandommap --randrepeat=0 --thread --minimal "$@"
	echo ">$job"
done
"""
TIMED = "--time_based --ramp_time=1 --runtime={}"
# name: bytes with --cpu-time
WORK = {job: 40 * MIB if "rand" in job else 1024 * MIB for job in JOBS}
NOTHING = "nothing"  # a job of one request, for what fio itself takes; the second counts, when it is translated
BW, IOPS = 6, 7  # of fio's terse format, version 3, for reads; of writes they are WRITE further on
WRITE = 41


class Failed(Exception):
    pass


def fio_tree():
    """Debian's fio with the libraries it needs and nothing else, in the cache: {name: path}."""
    cache = cache_dir()
    tree = os.path.join(cache, "fio")
    if not os.path.isdir(tree):
        apt = toolbox.Apt(cache)
        toolbox.WANTED = ["fio"]
        try:
            packages = apt.resolve()
        except toolbox.Failed:
            apt.update()
            packages = apt.resolve()
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fio.new.") as new:
            debs, root, out = (os.path.join(new, d) for d in ("debs", "root", "fio"))
            for d in (debs, root, out):
                os.mkdir(d)
            toolbox.say(f"fio: fetching {len(packages)} packages")
            apt.run("download", *packages, cwd=debs)
            toolbox.unpack(debs, root)
            lib = os.path.join(root, "usr/lib/x86_64-linux-gnu")
            linker = os.path.realpath(os.path.join(lib, "ld-linux-x86-64.so.2"))
            text = subprocess.run([linker, "--inhibit-cache", "--library-path", f"{lib}:{lib}/ceph", "--list",
                                   os.path.join(root, "usr/bin/fio")], check=True, capture_output=True, text=True).stdout
            shutil.copy(linker, os.path.join(out, "ld.so"))
            shutil.copy(os.path.join(root, "usr/bin/fio"), out)
            # not the linker itself, which the list names by an absolute path: joined to a directory it would be the host's
            for name, path in re.findall(r"^\s*([^\s/]+) => (\S+) ", text, re.M):
                if not path.startswith(root):
                    raise Failed(f"fio: {name} is not among the packages")
                shutil.copy(path, os.path.join(out, name))
            os.chmod(out, 0o755)
            os.rename(out, tree)
    return {n: os.path.join(tree, n) for n in sorted(os.listdir(tree))}


def initrd(folder, jobs, seconds, cpu_time):
    path = os.path.join(folder, "initrd")
    script = os.path.join(folder, "script")
    with open(script, "w", encoding="ascii") as f:
        f.write(SCRIPT.format(jobs=" ".join([NOTHING] * 2 * cpu_time + jobs), length="" if cpu_time else TIMED.format(seconds)))
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", path, "--test", script], check=True)
    a = Cpio()
    a.dir("fio")
    for name, source in fio_tree().items():
        a.file("fio/" + name, read(source))
    lines = [f"{NOTHING} --rw=read --bs=4k --io_size=4k"] * cpu_time
    lines += [f"{j} {JOBS[j][0]}" + (f" --io_size={WORK[j]}" if cpu_time else "") for j in jobs]
    a.file("jobs", "".join(l + "\n" for l in lines).encode())
    with open(path, "ab") as f:
        f.write(a.finish())
    return path


def image(folder, fmt):
    path = os.path.join(folder, "disk." + fmt)
    raw = os.path.join(folder, "disk.raw")
    if not os.path.exists(raw):
        with open(raw, "wb") as f:
            for _ in range(SIZE // MIB):
                f.write(os.urandom(MIB))
            f.flush()
            os.fsync(f.fileno())
    if fmt != "raw":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, raw, path], check=True)
    return path


def warm(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        while f.read(MIB):
            pass


def command(machine, kernel, initramfs, path, fmt, cache):
    if machine == "tcg":
        return ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none", "-monitor",
                "none", "-nic", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initramfs, "-append", APPEND,
                "-drive", f"file={path},format={fmt},cache={cache},aio=io_uring,if=none,id=d", "-device", "virtio-blk-pci,drive=d"]
    return [ECTYPE, "run", "--engine", machine, "--memory", "1G", "--kernel", kernel, "--initrd", initramfs, "--append", APPEND,
            "--no-reboot", "--disk", f"{path},format={fmt},cache={cache}"]


def process_clock(pid):
    """The clock of the processor time of a process, all threads: clock_getcpuclockid(), which Python lacks."""
    return ~pid << 3 | 2


def execute(args, limit, profile, cpu_time):
    """{job: figure} of one run."""
    if profile:
        args = ["perf", "record", "-q", "-g", "-o", profile, *args]
    out, clock = "", {}
    with tempfile.TemporaryFile() as err:
        p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True, errors="replace")
        killer = threading.Timer(limit, p.kill)
        killer.start()
        for line in p.stdout:
            out += line
            if cpu_time and line[0] in "<>":
                clock[line.strip()] = time.clock_gettime(process_clock(p.pid))
        p.wait()
        killer.cancel()
        err.seek(0)
        said = err.read().decode(errors="replace")
    found = {}
    for job, text in re.findall(r"<(\S+)\r?\n(.*?)>\1\r?\n", out, re.S):
        found[job] = figure(job, text)
        if found[job] is None:
            raise Failed(f"{job}: {text[-800:]}")
        if job == NOTHING:
            del found[job]
            continue
        if cpu_time:
            seconds = clock[">" + job] - clock["<" + job] - (clock[">" + NOTHING] - clock["<" + NOTHING])
            found[job] = WORK[job] / (MIB if JOBS[job][1] == "MiB/s" else 4096) / seconds
    if p.returncode or not found:
        raise Failed(f"status {p.returncode}; {said[-500:]}; console ends: {out[-800:]}")
    return found


def natively(a, folder, cache):
    """{job: figure} of the host's own disk: the same fio on the raw image, with or without its page cache."""
    tree, found = os.path.join(cache_dir(), "fio"), {}
    for job in a.jobs:
        args = JOBS[job][0].split() + TIMED.format(a.seconds).split()
        out = subprocess.run([os.path.join(tree, "ld.so"), "--library-path", tree, os.path.join(tree, "fio"), f"--name={job}",
                              "--filename=" + os.path.join(folder, "disk.raw"), "--ioengine=io_uring", f"--direct={int(cache == 'none')}",
                              "--norandommap", "--randrepeat=0", "--thread", "--minimal", *args],
                             check=True, capture_output=True, text=True, cwd=folder).stdout
        found[job] = figure(job, out)
    return found


def figure(job, text):
    """What fio says of it; None if it does not."""
    fields = next((l.split(";") for l in text.splitlines() if l.startswith("3;")), None)
    if fields is None or fields[4] != "0":
        return None
    at = WRITE if "write" in job else 0
    return int(fields[BW + at]) / 1024 if JOBS.get(job, ("", ""))[1] == "MiB/s" else int(fields[IOPS + at])


def compare(a, folder, kernel, fmt, cache):
    path = image(folder, fmt)
    ramfs = initrd(folder, a.jobs, a.seconds, a.cpu_time)
    machines = [a.engine] + ([] if a.no_tcg else ["tcg"]) + (["native"] if a.native else [])
    samples = {m: {j: [] for j in a.jobs} for m in machines}
    for _ in range(a.runs):
        for m in machines:
            warm(path)
            if cache == "none":
                with open(path, "rb") as f:
                    os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if m == "native":
                got = natively(a, folder, cache)
                for j in a.jobs:
                    samples[m][j].append(got[j])
                continue
            profile = a.profile and m != "tcg" and os.path.join(folder, "perf.data")
            got = execute(command(m, kernel, ramfs, path, fmt, cache), 300 + 12 * (a.seconds + 2) * len(a.jobs), profile, a.cpu_time)
            for j in a.jobs:
                samples[m][j].append(got[j])
            if profile:
                subprocess.run(["perf", "report", "-i", profile, "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.5"], check=False)
    for j in a.jobs:
        row = [f"{fmt}, {cache}", j, JOBS[j][1]] + [f"{statistics.median(samples[m][j]):.0f}" for m in machines]
        if not a.no_tcg:
            row.append(f"{statistics.median(samples[machines[0]][j]) / statistics.median(samples['tcg'][j]):.2f}")
        print("| " + " | ".join(row) + " |", flush=True)
    return samples


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--seconds", type=int, default=3)
    p.add_argument("--format", default="raw,qcow2")
    p.add_argument("--cache", default="writeback,none")
    p.add_argument("--only", default=",".join(JOBS))
    p.add_argument("--engine", default="dbt")
    p.add_argument("--no-tcg", action="store_true")
    p.add_argument("--native", action="store_true")
    p.add_argument("--profile", action="store_true")
    p.add_argument("--cpu-time", action="store_true")
    p.add_argument("--json")
    p.add_argument("--dir", default="/var/tmp", help="where the images are made; not a tmpfs, for O_DIRECT")
    a = p.parse_args()
    a.jobs = a.only.split(",")
    kernel = os.path.join(cache_dir(), "vmlinuz")
    found = {}
    print(f"load before: {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}; {a.runs} runs" + ("; per second of processor time" if a.cpu_time
          else f" of {a.seconds} s"))
    print(f"| image | job | | {a.engine} |" + ("" if a.no_tcg else " tcg |") + (" native |" if a.native else "")
          + ("" if a.no_tcg else " ratio |"), flush=True)
    with tempfile.TemporaryDirectory(prefix="ectype-fio-", dir=a.dir) as folder:
        for fmt in a.format.split(","):
            for cache in a.cache.split(","):
                found[f"{fmt} {cache}"] = compare(a, folder, kernel, fmt, cache)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(found, f, indent=1)


if __name__ == "__main__":
    try:
        main()
    except (Failed, toolbox.Failed) as e:
        sys.exit(f"fio.py: {e}")
