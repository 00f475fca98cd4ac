#!/usr/bin/env python3
"""Many idle machines on one host.

fleet.py [--machines N] [--memory SIZE] [--cpus N] [--engine NAME] [--seconds S] [--append TEXT] [--equal] [--ksm S]
         [--json FILE]

Starts them one after another as fast as they are started by a shell loop, waits
until each is at its prompt, lets them stand still, and says what they cost:
start to prompt of each and of all, resident memory (Pss: shared pages are
divided among those that share them), and processor time while idle.

--equal: how many pages of the machines' RAM hold the same bytes, by looking at all
of it (/proc/PID/mem). --ksm: the machines' memory is mergeable, and the host's KSM
runs for at most S seconds, with its settings put back afterwards; what it merged, by
its own count, and what it took. Both need root.
"""
import argparse
import collections
import hashlib
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import PROMPT, Timeout, is_guest_ram, linux, mappings  # noqa: E402

KSM = "/sys/kernel/mm/ksm/"
PAGE = 4096
MIB_PAGES = 256


def rollup(pid):
    """Pss and its share of guest RAM, in MiB."""
    maps = mappings(pid)
    return sum(m["Pss"] for m in maps) / 1024, sum(m["Pss"] for m in maps if is_guest_ram(m)) / 1024


def present(pid, start, end):
    """Addresses of the pages that have memory, or are swapped."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as f:
        f.seek(start // PAGE * 8)
        words = memoryview(f.read((end - start) // PAGE * 8)).cast("Q")
    return [start + i * PAGE for i, w in enumerate(words) if w >> 62]


def equal_pages(guests):
    """What merging could bring at most, in MiB: all that is there, zero pages, one of each of the others."""
    seen, zero, total = collections.Counter(), 0, 0
    nothing = bytes(PAGE)
    for g in guests:
        pid = g.process.pid
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as f:
            for m in mappings(pid):
                for at in present(pid, m["start"], m["end"]) if is_guest_ram(m) else ():
                    f.seek(at)
                    page = f.read(PAGE)
                    total += 1
                    if page == nothing:
                        zero += 1
                    else:
                        seen[hashlib.blake2b(page, digest_size=16).digest()] += 1
    everywhere = sum(n >= len(guests) for n in seen.values())
    return {"ram_pages_mib": total / MIB_PAGES, "of_zeros_mib": zero / MIB_PAGES, "different_mib": len(seen) / MIB_PAGES,
            "in_every_machine_mib": everywhere / MIB_PAGES}


def ksm_get(name):
    with open(KSM + name, encoding="ascii") as f:
        return f.read().strip()


def ksm_set(name, value):
    with open(KSM + name, "w", encoding="ascii") as f:
        f.write(str(value))


def ksm_seconds():
    """Processor time of the kernel's thread."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        if "(ksmd)" in text:
            fields = text.rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def merge(seconds):
    """KSM over what there is, until three scans bring nothing more: the first only notes checksums."""
    wanted = {"pages_to_scan": 20000, "sleep_millisecs": 20, "smart_scan": 0, "use_zero_pages": 1, "run": 1}
    before = {k: ksm_get(k) for k in wanted if os.path.exists(KSM + k)}
    spent, began = ksm_seconds(), time.monotonic()
    try:
        for k in before:
            ksm_set(k, wanted[k])
        last, same = -1, 0
        while time.monotonic() - began < seconds and same < 3:
            scan = int(ksm_get("full_scans"))
            while int(ksm_get("full_scans")) == scan and time.monotonic() - began < seconds:
                time.sleep(0.2)
            got = int(ksm_get("pages_sharing")) + int(ksm_get("ksm_zero_pages"))
            same = same + 1 if got <= last + last // 100 else 0
            last = got
        return {"ksm_s": time.monotonic() - began, "ksm_processor_s": ksm_seconds() - spent,
                "ksm_saved_mib": last / MIB_PAGES, "ksm_zero_mib": int(ksm_get("ksm_zero_pages")) / MIB_PAGES,
                "ksm_kept_mib": int(ksm_get("pages_shared")) / MIB_PAGES}
    finally:
        for k, v in before.items():
            ksm_set(k, v)


def start(a):
    guests, late = [], []
    for _ in range(a.machines):
        guests.append(linux("--cpus", a.cpus, engine=a.engine, memory=a.memory + (",mergeable=on" if a.ksm else ""),
                            append="console=ttyS0 quiet " + a.append))
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
    p.add_argument("--append", default="", help="to the kernel's command line: nokaslr makes the kernels equal")
    p.add_argument("--equal", action="store_true")
    p.add_argument("--ksm", type=float, metavar="S")
    p.add_argument("--json")
    a = p.parse_args()
    guests, times, whole, late = start(a)
    try:
        idle, sizes = measure(a, guests)
        more = equal_pages(guests) if a.equal else {}
        if a.ksm:
            more.update(merge(a.ksm))
            after = [rollup(g.process.pid) for g in guests]
            more.update(pss_mib_mean_merged=statistics.mean(s[0] for s in after),
                        ram_mib_mean_merged=statistics.mean(s[1] for s in after))
        alive = sum(g.shell("echo $((6*7))", 60).strip() == "42" for g in guests)
    finally:
        for g in guests:
            g.close()
    out = {
        "machines": a.machines, "answer": alive, "all_at_prompt_s": whole,
        "prompt_s_median": statistics.median(times) if times else None,
        "pss_mib_mean": statistics.mean(s[0] for s in sizes), "pss_mib_all": sum(s[0] for s in sizes),
        "ram_mib_mean": statistics.mean(s[1] for s in sizes),
        "idle_percent_of_a_core_all": sum(idle), "idle_percent_each_max": max(idle), **more,
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
