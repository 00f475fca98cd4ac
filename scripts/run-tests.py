#!/usr/bin/env python3
"""Run the test suites and close with "N passed, N failed".

run-tests.py [--suites a,b,...] [--all] [--only WORD] [--jobs N] [--list] [--verbose]

A suite is a list of jobs; a job is a command with a time limit that prints TAP
lines ("ok 1 - name", "not ok 2 - name"; cmocka does when asked). Each line
counts as one test; a job without such lines counts as one test by its exit
status; a job that fails otherwise (signal, time limit) adds one failure. Jobs
run two at a time, those that measure time alone and last.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("BUILD", "build")
# What the payload and guest suites are run under, one after the other.
ENGINES = ("interp", "dbt")
TAP = re.compile(r"^\s*(not )?ok\b(.*)$")
print_lock = threading.Lock()


@dataclass
class Job:
    name: str
    command: list
    limit: float = 60
    env: dict = field(default_factory=dict)
    alone: bool = False


@dataclass
class Tally:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list = field(default_factory=list)


def say(text):
    with print_lock:
        print(text, flush=True)


def build(directory, *options):
    subprocess.run(["scripts/build.sh", directory, *options], cwd=ROOT, check=True)


def meson_jobs(directory, env=None, suite=None):
    out = subprocess.run(["meson", "introspect", directory, "--tests"], cwd=ROOT, check=True, capture_output=True).stdout
    jobs = []
    for t in json.loads(out):
        if suite and not any(s.split(":")[-1] == suite for s in t["suite"]):
            continue
        jobs.append(Job(f"{directory}: {t['name']}", t["cmd"], t["timeout"] or 60, {**t["env"], **(env or {})}))
    return jobs


def checks():
    build(BUILD)
    jobs = [
        Job("checks: include layers", ["scripts/check-layers.py"]),
        Job("checks: links in docs", ["scripts/check-docs.py"]),
        Job("checks: clang-format", ["make", "-s", "check-format"]),
        Job("checks: symbols of the general-register library", ["scripts/check-symbols.py", BUILD]),
    ]
    return jobs


def unit():
    build(BUILD)
    return meson_jobs(BUILD)


# b_lundef: the sanitizers' symbols come with the executable. No -Werror: their
# instrumentation makes gcc warn of paths that are not there.
# Guest memory is read where the guest says, aligned or not: the host is an x86.
SANITIZER_OPTIONS = ["-Db_lundef=false", "-Doptimization=1", "-Dwerror=false", "-Dc_args=-fno-sanitize=alignment"]
SANITIZER_ENV = {
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "ASAN_OPTIONS": "abort_on_error=0:detect_leaks=1",
}


def sanitized(directory, which):
    build(directory, f"-Db_sanitize={which}", *SANITIZER_OPTIONS)
    return meson_jobs(directory, SANITIZER_ENV, "unit")


def ubsan():
    """The translator, too: AddressSanitizer leaves it no address space."""
    jobs = sanitized("build-ubsan", "undefined")
    jobs += [j for j in meson_jobs("build-ubsan", SANITIZER_ENV, "isa") if "oracle" not in j.name]
    return jobs + [Job(f"build-ubsan: payloads ({e})", ["tests/payload/run.py", "--engine", e], 600,
                       {**SANITIZER_ENV, "ECTYPE": os.path.join(ROOT, "build-ubsan/ectype")}) for e in ENGINES]


def payload():
    build(BUILD)
    return [Job(f"payloads ({e})", ["tests/payload/run.py", "--engine", e], 480) for e in ENGINES]


def lockstep():
    subprocess.run(["scripts/kernel.sh", "cloud"], cwd=ROOT, check=True)
    build(BUILD)
    return [
        Job("lockstep: payloads", ["tests/lockstep/payloads.py"], 400),
        Job("lockstep: random programs", ["tests/lockstep/programs.py", "--seeds", "100"], 420),
        Job("lockstep: boot", ["tests/lockstep/boot.py"], 660),
    ]


def guest():
    subprocess.run(["scripts/kernel.sh", "cloud", "generic", "memtest"], cwd=ROOT, check=True)
    subprocess.run(["scripts/i386.sh"], cwd=ROOT, check=False)  # i386.py is skipped without
    subprocess.run(["scripts/initramfs.py"], cwd=ROOT, check=True)
    subprocess.run(["scripts/exec-image.py"], cwd=ROOT, check=True)
    subprocess.run(["scripts/toolbox.py"], cwd=ROOT, check=True)
    build(BUILD)
    subprocess.run(["tests/guest/debian_image.py"], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)  # skipped without
    return guest_jobs("guest", False) + [
        Job("guest: debian.py, short (dbt)", ["tests/guest/debian.py", "--short", "--engine", "dbt"], 480)]


def block():
    build(BUILD)
    return [
        Job("block: images exchanged with QEMU", ["tests/block/exchange.py"], 300),
        Job("block: writers killed", ["tests/block/killed.py", "--rounds", "30"], 300),
    ]


# file: (seconds, alone, engines, engines of the suite long only); alone where wall-clock or CPU time is judged.
# What every day runs under the reference is what it does itself: kernels, gdb, determinism, the ends of a guest.
GUEST = {
    "bad_input.py": (120, True, ("auto",), ()),
    "balloon.py": (300, False, ("dbt",), ("interp",)),
    "boot.py": (420, False, ENGINES, ()),
    "compile.py": (420, False, ("dbt",), ("interp",)),
    "console.py": (180, False, ("dbt",), ("interp",)),
    "control.py": (300, False, ("dbt",), ("interp",)),
    "determinism.py": (420, False, ENGINES, ()),
    "disk.py": (420, False, ("dbt",), ("interp",)),
    "diskcompare.py": (300, False, ("dbt",), ("interp",)),
    "diskfaults.py": (240, False, ("dbt",), ()),
    "dump.py": (240, False, ("dbt",), ("interp",)),
    "end.py": (240, False, ENGINES, ()),
    "engine.py": (60, False, ("auto",), ()),
    "exec.py": (300, False, ("dbt",), ("interp",)),
    "firmware.py": (480, False, ("dbt",), ("interp",)),
    "gdb.py": (180, False, ENGINES, ()),
    "generation.py": (300, False, ("dbt",), ("interp",)),
    "i386.py": (600, False, ("dbt",), ("interp",)),
    "idle.py": (240, True, ("auto",), ()),
    "image.py": (240, False, ("auto",), ()),
    "jail.py": (120, False, ("auto",), ()),
    "kvm.py": (360, True, ("kvm",), ()),
    "killsafe.py": (240, False, ("dbt",), ("interp",)),
    "memory.py": (240, False, ("dbt",), ()),
    "memtest.py": (240, False, ("dbt",), ("interp",)),
    "migrate.py": (300, False, ("dbt",), ("interp",)),
    "migrate_postcopy.py": (240, False, ("dbt",), ("interp",)),
    "net.py": (300, False, ("dbt",), ("interp",)),
    "pv.py": (420, True, ("dbt",), ("interp",)),
    "rest.py": (240, False, ("dbt",), ()),
    "share.py": (180, False, ("dbt",), ("interp",)),
    "clone.py": (240, False, ("dbt",), ("interp",)),
    "protect.py": (300, False, ("dbt",), ("interp",)),
    "snapshot.py": (300, False, ("dbt",), ("interp",)),
    "snapshot_disk.py": (300, False, ("dbt",), ()),
    "smp.py": (420, False, ("dbt",), ("interp",)),
    "store.py": (420, False, ("dbt",), ("interp",)),
    "stored.py": (120, False, ("dbt",), ()),
    "streams.py": (120, False, ("dbt",), ("interp",)),
    "stress.py": (480, False, ("dbt",), ("interp",)),
    "switch.py": (420, False, ("dbt",), ()),
    "terminal.py": (240, True, ("dbt",), ("interp",)),
    "trips.py": (420, False, ("dbt",), ()),
    "vsock.py": (180, False, ("dbt",), ("interp",)),
    "virtio.py": (420, False, ENGINES, ()),
}


def guest_jobs(suite, rare):
    """`rare`: what the suite long runs, with limits for hosts that are busy as well."""
    return [Job(f"{suite}: {name} ({e})", ["tests/guest/" + name, "--engine", e], limit * (3 if rare else 1), alone=alone)
            for name, (limit, alone, often, seldom) in GUEST.items() for e in (seldom if rare else often)]


def soak():
    """Hours: stress-ng for an hour under each engine."""
    guest()  # what it prepares
    return [Job(f"soak: stress.py, an hour ({e})", ["tests/guest/stress.py", "--minutes", "60", "--engine", e], 9000) for e in ENGINES]


def long():
    """What takes too long for every day, an hour in all: two engines over a compiler, a whole Debian, the rest under interp."""
    guest()  # what it prepares
    return guest_jobs("long", True) + [
        Job("long: 100 copies of a Debian (dbt)", ["tests/guest/clones.py", "--engine", "dbt"], 3600),
        Job("long: debian.py (dbt)", ["tests/guest/debian.py", "--engine", "dbt"], 2400),
        Job("long: debian.py (interp)", ["tests/guest/debian.py", "--engine", "interp"], 7200),
        Job("long: payloads of several processors (dbt)",
            ["tests/payload/run.py", "--engine", "dbt", "--long", "mpstart64", "mpipi64", "mptlb64", "mpcode64", "mplock64",
             "mplitmus64", "mprace64"], 5400),
        Job("long: smp.py, up to 64 processors (dbt)", ["tests/guest/smp.py", "--long", "--engine", "dbt"], 3600),
        Job("long: stress.py, 4 processors (dbt)",
            ["tests/guest/stress.py", "--minutes", "15", "--cpus", "4", "--engine", "dbt"], 3600),
        Job("long: switch.py, 1000 changes of the engine (dbt)",
            ["tests/guest/switch.py", "--switches", "1000", "--engine", "dbt"], 5400),
        Job("long: trips.py, 200 snapshots (dbt)", ["tests/guest/trips.py", "--trips", "200", "--engine", "dbt"], 3600),
        Job("long: torture.py, 15 minutes each (dbt)",
            ["tests/guest/torture.py", "--minutes", "15", "--engine", "dbt"], 5400),
        Job("long: block, writers killed", ["tests/block/killed.py", "--rounds", "100"], 900),
        Job("long: 100 clients of snapshots killed", ["tests/guest/store.py", "--engine", "dbt", "--rounds", "100"], 900),
        Job("long: 100 protected machines killed", ["tests/guest/protect.py", "--engine", "dbt", "--kills", "100"], 1800),
        Job("long: 100 machines that move with their disks killed",
            ["tests/guest/migrate.py", "--engine", "dbt", "--kills", "100", "--copy-disks"], 1800),
        Job("long: 400 machines killed", ["tests/guest/killsafe.py", "--engine", "dbt", "--rounds", "100"], 3600),
        Job("long: lockstep, payloads, engines in turn", ["tests/lockstep/payloads.py", "--alternate", "30011"], 1800),
        Job("long: lockstep, compile.py", ["tests/lockstep/compile.py"], 3600),
        Job("long: lockstep, 1000 random programs", ["tests/lockstep/programs.py", "--seeds", "1000", "--start", "1001"], 3600),
    ]


def fuzz():
    """With AddressSanitizer what can be; the translator plain and, slower, with the other one."""
    build(BUILD)
    build("build-asan", "-Db_sanitize=address,undefined", *SANITIZER_OPTIONS)
    build("build-ubsan", "-Db_sanitize=undefined", *SANITIZER_OPTIONS)
    programs = glob.glob("build-asan/tests/fuzz/fuzz_*", root_dir=ROOT) + [
        os.path.join(b, "tests/fuzz/fuzz_translate") for b in (BUILD, "build-ubsan")]
    return [Job(f"fuzz: {os.path.basename(p)} in {p.split('/')[0]}", [p, "--seconds", "5"], 60, SANITIZER_ENV)
            for p in sorted(programs) if "." not in os.path.basename(p)]


SUITES = {
    "checks": checks,
    "unit": unit,
    "payload": payload,
    "block": block,
    "lockstep": lockstep,
    "guest": guest,
    "asan": lambda: sanitized("build-asan", "address,undefined"),
    "ubsan": ubsan,
    "fuzz": fuzz,
    "long": long,
    "soak": soak,
}
DEFAULT = ["checks", "unit", "payload", "block", "asan", "ubsan", "fuzz", "lockstep", "guest"]


def run(job, tally, verbose):
    """Runs a job; one that cannot be started has failed, and the others go on."""
    try:
        run_started(job, tally, verbose)
    except OSError as e:
        with print_lock:
            print(f"FAIL {job.name}: {e}", flush=True)
            tally.failed += 1
            tally.failures.append(f"{job.name}: {e}")


def excerpt(lines):
    """What of a failed job's output is shown: what did not pass and the lines about it, and the end."""
    wanted = set(range(len(lines) - 15, len(lines)))
    for n, line in enumerate(lines):
        m = TAP.match(line)
        if not m or m.group(1):
            wanted |= set(range(n - 2, n + 3))
    wanted = sorted(n for n in wanted if 0 <= n < len(lines))
    return [lines[n] for n in wanted[:60] + wanted[60:][-60:]]


def run_started(job, tally, verbose):
    start = time.monotonic()
    env = {**os.environ, "CMOCKA_MESSAGE_OUTPUT": "TAP", "BUILD": BUILD, **job.env}
    # a session of its own, so that the time limit reaches what the job started
    p = subprocess.Popen(job.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, start_new_session=True)
    try:
        raw, _ = p.communicate(timeout=job.limit)
        status = p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        raw, _ = p.communicate()
        status = None
    out = raw.decode(errors="replace")

    passed = failed = skipped = 0
    names = []
    for line in out.splitlines():
        m = TAP.match(line)
        if not m:
            continue
        if re.search(r"# *skip", m.group(2), re.I):
            skipped += 1
        elif m.group(1):
            failed += 1
            names.append(m.group(2).strip(" -"))
        else:
            passed += 1
    if status not in (0, 77) and failed == 0:
        failed += 1
        names.append("time limit" if status is None else f"signal {-status}" if status < 0 else f"exit status {status}")
    elif status == 77 and passed + failed == 0:
        skipped += 1
    elif status == 0 and passed + failed + skipped == 0:
        passed = 1

    with print_lock:
        tally.passed += passed
        tally.failed += failed
        tally.skipped += skipped
        tally.failures += [f"{job.name}: {n}" for n in names]
        word = "FAIL" if failed else "ok  "
        more = f", {failed} failed" if failed else ""
        more += f", {skipped} skipped" if skipped else ""
        print(f"{word} {job.name}: {passed} passed{more} ({time.monotonic() - start:.1f} s)", flush=True)
        if failed or verbose:
            for name in names:
                print("     > " + name)
            lines = out.splitlines()
            for line in lines[-80:] if verbose else excerpt(lines):
                print("     | " + line)
            sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--suites", default=",".join(DEFAULT), help="comma-separated, of: " + " ".join(SUITES))
    p.add_argument("--all", action="store_true", help="the suite 'long', too")
    p.add_argument("--only", metavar="WORD", help="jobs with this in their names")
    p.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4))
    p.add_argument("--list", action="store_true", help="print the jobs instead of running them")
    p.add_argument("--verbose", action="store_true", help="show the output of jobs that pass, too")
    a = p.parse_args()

    tally = Tally()
    jobs = []
    start = time.monotonic()
    for name in a.suites.split(",") + (["long"] if a.all else []):
        if name not in SUITES:
            p.error(f"unknown suite '{name}'")
        try:
            jobs += SUITES[name]()
        except (subprocess.CalledProcessError, OSError) as e:
            say(f"FAIL {name}: could not be prepared: {e}")
            tally.failed += 1
            tally.failures.append(f"{name}: could not be prepared")
    if a.only:
        jobs = [j for j in jobs if a.only in j.name]
    if a.list:
        for j in jobs:
            print(f"{j.name}: {' '.join(j.command)} (limit {j.limit:.0f} s)")
        return 0

    # the long ones first, so that two workers finish together
    together = sorted((j for j in jobs if not j.alone), key=lambda j: -j.limit)
    with concurrent.futures.ThreadPoolExecutor(max_workers=a.jobs) as pool:
        list(pool.map(lambda j: run(j, tally, a.verbose), together))
    for j in jobs:
        if j.alone:
            run(j, tally, a.verbose)

    if tally.failures:
        say("\nfailed:")
        for f in tally.failures:
            say("  " + f)
    say(f"\n{time.monotonic() - start:.0f} s in all")
    say(f"{tally.passed} passed, {tally.failed} failed" + (f", {tally.skipped} skipped" if tally.skipped else ""))
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
