#!/usr/bin/env python3
"""Many idle machines on one host.

fleet.py [--machines N] [--memory SIZE] [--cpus N] [--engine NAME] [--seconds S] [--json FILE]

Starts them one after another as fast as they are started by a shell loop, waits
until each is at its prompt, lets them stand still, and says what they cost:
start to prompt of each and of all, resident memory (Pss: shared pages are
divided among those that share them), and processor time while idle.
"""
import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import PROMPT, Timeout, is_guest_ram, linux, mappings  # noqa: E402


def rollup(pid):
    """Pss and its share of guest RAM, in MiB."""
    maps = mappings(pid)
    return sum(m["Pss"] for m in maps) / 1024, sum(m["Pss"] for m in maps if is_guest_ram(m)) / 1024


def start(a):
    guests, late = [], []
    for _ in range(a.machines):
        guests.append(linux("--cpus", a.cpus, engine=a.engine, memory=a.memory))
    began = guests[0].started
    times = []
    for n, g in enumerate(guests):
        try:
            g.expect(PROMPT, 600)
            times.append(time.monotonic() - g.started)
        except Timeout as e:
            late.append(f"machine {n}: {e}")
    return guests, times, time.monotonic() - began, late


def measure(a, guests):
    time.sleep(5)
    before = [g.cpu_seconds() for g in guests]
    began = time.monotonic()
    time.sleep(a.seconds)
    took = time.monotonic() - began
    idle = [(g.cpu_seconds() - b) / took * 100 for g, b in zip(guests, before)]
    sizes = [rollup(g.process.pid) for g in guests]
    return idle, sizes


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--machines", type=int, default=50)
    p.add_argument("--memory", default="128M")
    p.add_argument("--cpus", type=int, default=1)
    p.add_argument("--engine", default="auto")
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--json")
    a = p.parse_args()
    guests, times, whole, late = start(a)
    try:
        idle, sizes = measure(a, guests)
        alive = sum(g.shell("echo $((6*7))", 60).strip() == "42" for g in guests)
    finally:
        for g in guests:
            g.close()
    out = {
        "machines": a.machines, "answer": alive, "all_at_prompt_s": whole,
        "prompt_s_median": statistics.median(times) if times else None,
        "pss_mib_mean": statistics.mean(s[0] for s in sizes), "pss_mib_all": sum(s[0] for s in sizes),
        "ram_mib_mean": statistics.mean(s[1] for s in sizes),
        "idle_percent_of_a_core_all": sum(idle), "idle_percent_each_max": max(idle),
    }
    for k, v in out.items():
        print(f"{k:28} {v:.2f}" if isinstance(v, float) else f"{k:28} {v}")
    for text in late:
        print(text)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(out, f, indent=1)
    return 0 if alive == a.machines else 1


if __name__ == "__main__":
    sys.exit(main())
