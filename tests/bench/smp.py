#!/usr/bin/env python3
"""What several processors bring, and what more of them than the host has cost.

smp.py [--runs N] [--cpus N,N...] [--only compute,files,build,messages,mappings] [--rows NAME,NAME...]
       [--limit S] [--engine NAME] [--no-tcg] [--json F]

compute: smp_work.c, a fixed amount of work with barriers, by 1 and 2 threads of a
machine with two processors; natively, in Ectype and in QEMU's TCG with a host
thread a processor. The speed-up is the time with 1 thread over that with 2.

build: make -jN of a program of 12 files with Debian's gcc on a machine with N
processors; files, messages and mappings: tests/guest/smp_load.c, with as many
threads as processors; of files each iteration is dup() and close(), which take one
spin lock of the kernel. On N processors more than the host has, a lock's holder
may be put aside while others spin for it: that is what the rows compare.

  pv         the paravirtual interface: Linux's spin locks sleep (PV unhalt)
  no-unhalt  all but PV unhalt: they spin, and whoever comes first has them
  nopvspin   they are a queue, as on hardware, and who waits for the second place in
             it waits for the first; its loops of PAUSE step aside
  no-pause   the same, and they do not
  pv off     none of the interface
  qemu       TCG

Medians of --runs runs, in seconds, with the smallest and the largest; the machines
take turns. A figure in brackets is the processor time of the whole process, its
threads included. A job is ended after --limit seconds, and counts as that long. Each
run is told on standard error as it ends.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests/guest"))
import guest  # noqa: E402
from cprogram import program  # noqa: E402

FILES = 12
LIMIT = 900
JOBS = ("files", "build", "messages", "mappings")
QEMU = os.path.join(ROOT, "tests/guest/qemu-as-ectype")
MAKEFILE = "all: $(patsubst %.c,%.o,$(wildcard *.c))\n%.o: %.c\n\tgcc -O1 -w -c -o $@ $<\n"
# a mark behind each job, so that the next one starts from a quiet machine
SCRIPT = """
mkdir /tmp/build; cp /build/* /tmp/build
job() {{
	echo "begin $1"
	shift
	timeout {limit} "$@" >/tmp/out 2>&1
	echo "end $? $(tail -n 1 /tmp/out)"
	sleep 0.5
}}
{jobs}
"""


def static(folder, source, flags=("-O2",)):
    out = os.path.join(folder, os.path.basename(source)[:-2])
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-static", "-pthread", "-o", out, os.path.join(ROOT, source)],
                   check=True)
    with open(out, "rb") as f:
        return out, f.read()


def build_tree():
    files = {f"build/part{i}.c": program(500 + i, 120).encode().replace(b"int main(", b"int main%d(" % i) for i in range(FILES)}
    files["build/Makefile"] = MAKEFILE.encode()
    return files


def has_pv():
    out = subprocess.run([guest.ECTYPE, "run", "--help"], capture_output=True, text=True).stdout
    return "--pv " in out


def machines(a, overcommit):
    """{name: (program, options, kernel's command line)}"""
    if not overcommit or not has_pv():
        rows = {"ectype": (guest.ECTYPE, [], "")}
    else:
        rows = {
            "pv": (guest.ECTYPE, [], ""),
            "no-unhalt": (guest.ECTYPE, ["--pv", "on,no-unhalt"], ""),
            "nopvspin": (guest.ECTYPE, [], " nopvspin"),
            "no-pause": (guest.ECTYPE, ["--pv", "on,no-pause"], " nopvspin"),
            "pv off": (guest.ECTYPE, ["--pv", "off"], ""),
        }
    if not a.no_tcg:
        rows["qemu"] = (QEMU, [], "")
    return {name: row for name, row in rows.items() if not overcommit or not a.rows or name in a.rows.split(",")}


def run_guest(machine, cpus, jobs, files, a):
    """{job: (seconds, processor seconds)} of one boot."""
    path, options, append = machine
    found = {}
    script = SCRIPT.format(limit=a.limit, jobs="\n".join(f"job {name} {command}" for name, command in jobs.items()))
    guest.ECTYPE = path
    with tempfile.TemporaryDirectory() as tmp:
        with guest.toolbox(tmp, {"run.sh": script, **files}, "--cpus", cpus, *options, engine=a.engine,
                           append="console=ttyS0 quiet" + append) as g:
            for name in jobs:
                g.expect(rf"begin {name}\r?\n", LIMIT)
                start, cpu = time.monotonic(), g.cpu_seconds()
                end = g.expect(r"end \d+.*\r?\n", LIMIT)
                status, text = re.search(r"end (\d+) ?(.*)", end).groups()
                found[name] = (time.monotonic() - start, g.cpu_seconds() - cpu)
                if status not in ("0", "124", "143"):  # the last two: ended by timeout
                    raise SystemExit(f"{path}: {name} ended with status {status}: {text}")
            g.wait(60)
    return found


def native(command, cpus):
    start = time.monotonic()
    subprocess.run(["taskset", "-c", ",".join(str(i) for i in range(cpus)), *command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


class Samples:
    def __init__(self):
        self.of = {}

    def add(self, *key, value):
        self.of.setdefault("/".join(str(k) for k in key), []).append(value)
        print(f"{'/'.join(str(k) for k in key)} {value[0]:.2f} s, processors {value[1]:.1f} s", file=sys.stderr, flush=True)

    def median(self, *key):
        found = self.of.get("/".join(str(k) for k in key))
        return [statistics.median(x) for x in zip(*found)] if found else None

    def cell(self, *key, limit=None):
        """Seconds, their range if there are several, and in brackets the processor time."""
        found = self.of.get("/".join(str(k) for k in key))
        if not found:
            return "-"
        times, mid = [t for t, _ in found], self.median(*key)
        text = f">{limit:.0f}" if limit and mid[0] >= limit else f"{mid[0]:.2f}"
        if len(times) > 1:
            text += f" {min(times):.2f}..{max(times):.2f}"
        return f"{text} ({mid[1]:.1f})"


def compute(a, samples, program_path, data):
    units = a.units
    rows = machines(a, False)
    for _ in range(a.runs):
        for threads in (1, 2):
            samples.add("compute", "native", threads, value=(native([program_path, str(threads), str(units)], 2), 0.0))
        for name, machine in rows.items():
            jobs = {f"compute{t}": f"/smp_work {t} {units}" for t in (1, 2)}
            for job, value in run_guest(machine, 2, jobs, {"smp_work": data}, a).items():
                samples.add("compute", name, job[-1], value=value)
    print(f"\n{'compute, 2 processors':<20} {'1 thread':>28} {'2 threads':>28} {'speed-up':>10}")
    for name in ["native", *rows]:
        one, two = samples.median("compute", name, 1), samples.median("compute", name, 2)
        print(f"{name:<20} {samples.cell('compute', name, 1):>28} {samples.cell('compute', name, 2):>28} {one[0] / two[0]:>10.2f}")


def overcommit(a, samples, load):
    rows = machines(a, True)
    files = {**build_tree(), "smp_load": load}
    for _ in range(a.runs):
        for cpus in a.cpus:
            jobs = {"files": f"/smp_load files 20000 {cpus}", "build": f"make -s -C /tmp/build -j{cpus} all",
                    "messages": f"/smp_load messages 100 {cpus}", "mappings": f"/smp_load mappings 300 {cpus}"}
            jobs = {name: command for name, command in jobs.items() if name in a.only}
            for name, machine in rows.items():
                for job, value in run_guest(machine, cpus, jobs, files, a).items():
                    samples.add(job, name, cpus, value=value)
    for job in JOBS:
        if job not in a.only:
            continue
        print(f"\n{job + ', by processors':<24}" + "".join(f"{cpus:>30}" for cpus in a.cpus))
        for name in rows:
            print(f"{name:<24}" + "".join(f"{samples.cell(job, name, cpus, limit=a.limit):>30}" for cpus in a.cpus))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--cpus", default="1,2,4,8")
    p.add_argument("--only", default="compute," + ",".join(JOBS))
    p.add_argument("--rows", help="of the overcommitted machines, these")
    p.add_argument("--limit", type=int, default=100, help="seconds of a job")
    p.add_argument("--units", type=int, default=400, help="of compute's work")
    p.add_argument("--engine", default="dbt")
    p.add_argument("--no-tcg", action="store_true", help="without QEMU")
    p.add_argument("--json", metavar="F", help="all samples, to F")
    a = p.parse_args()
    a.cpus = [int(n) for n in a.cpus.split(",")]
    a.only = a.only.split(",")
    samples = Samples()
    with tempfile.TemporaryDirectory() as tmp:
        print(f"host: {os.cpu_count()} processors, load before {os.getloadavg()[0]:.1f}")
        if "compute" in a.only:
            compute(a, samples, *static(tmp, "tests/bench/smp_work.c"))
        if set(a.only) - {"compute"}:
            overcommit(a, samples, static(tmp, "tests/guest/smp_load.c")[1])
        print(f"\nload after: {os.getloadavg()[0]:.1f}")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(samples.of, f, indent=1)


if __name__ == "__main__":
    main()
