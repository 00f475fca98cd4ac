#!/usr/bin/env python3
"""Seconds from the start of the process to Debian's login prompt, in Ectype and in QEMU's TCG, with the same image.

boot_debian.py [--boots direct,seabios,ovmf] [--runs N] [--engine NAME] [--at-most R]

Each run starts the same untouched disk under a throw-away overlay, so each is
a first boot: host keys and machine id are made. Runs of the two machines take
turns; the table has medians: when GRUB left its menu, when the prompt came, the
processor time and the memory (resident set) that the process had taken by then.
With --at-most the exit status is 1 if Ectype takes longer than R times what
QEMU takes.
"""
import argparse
import os
import re
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests/guest"))
import debian_image  # noqa: E402

LIMIT = 600
MACHINES = {"ectype": debian_image.PROGRAM, "qemu": os.path.join(ROOT, "tests/guest/qemu-as-ectype")}


def cpu_children():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def start(machine, how, debian, engine):
    firmware = debian.direct() if how == "direct" else ["--firmware", how]
    return [MACHINES[machine], "run", "--engine", engine, "--disk", debian.disk + ",format=raw,snapshot", "--net", "user",
            "--memory", "1G", *firmware]


def resident(pid):
    """MiB"""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024


def once(command):
    """Seconds to GRUB's menu (None: there was none), to the login prompt, and of the processor; resident MiB."""
    cpu, begin, text, grub = cpu_children(), time.monotonic(), "", None
    with tempfile.TemporaryFile() as errors:
        p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            while not re.search(r"login: ", text):
                if time.monotonic() - begin > LIMIT:
                    raise SystemExit(f"no login prompt within {LIMIT} s of {command[0]}; the console ends: {text[-500:]}")
                if not select.select([p.stdout], [], [], 1)[0]:
                    continue
                data = os.read(p.stdout.fileno(), 65536)
                if not data:
                    errors.seek(0)
                    raise SystemExit(f"{command[0]} ended: {errors.read().decode(errors='replace')[-500:]}")
                text += data.decode(errors="replace")
                if grub is None and "Booting `" in text:
                    grub = time.monotonic() - begin
            end, size = time.monotonic() - begin, resident(p.pid)
        finally:
            p.kill()
            p.wait()
    return grub, end, cpu_children() - cpu, size


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--boots", default="direct,seabios,ovmf")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--engine", default="dbt")
    p.add_argument("--at-most", type=float)
    a = p.parse_args()
    debian = debian_image.ensure()
    worst = 0
    print(f"{'boot':8} {'machine':8} {'GRUB left':>10} {'login':>8} {'processor':>10} {'MiB':>6}   (medians of {a.runs}, seconds)")
    for how in a.boots.split(","):
        runs = {m: [] for m in MACHINES}
        for _ in range(a.runs):
            for m in MACHINES:
                runs[m].append(once(start(m, how, debian, a.engine)))
        login = {}
        for m, rows in runs.items():
            grub, login[m], cpu, size = (None if None in column else statistics.median(column) for column in zip(*rows))
            print(f"{how:8} {m:8} {'-' if grub is None else format(grub, '.1f'):>10} {login[m]:8.1f} {cpu:10.1f} {size:6.0f}", flush=True)
        ratio = login["ectype"] / login["qemu"]
        worst = max(worst, ratio)
        print(f"{how:8} ectype takes {ratio:.2f} of QEMU's time", flush=True)
    sys.exit(1 if a.at_most and worst > a.at_most else 0)


if __name__ == "__main__":
    main()
