#!/usr/bin/env python3
"""Ectype beside the bare host, QEMU's TCG and, if asked, Bochs.

bench.py [--bochs] [--only NAMES] [--engine NAME] [--runs N] [--scale X] [--json F]

One static program (work.c) runs the same workloads with the same counts as a
process of the host and as /init of a guest. Its markers on standard output,
which is the guest's serial line, are stamped with the host's monotonic clock as
they arrive, so no guest's idea of time enters. Each result is compared with the
host's: a machine that computes something else is no machine to be timed.
"""
import argparse
import json
import math
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
sys.dont_write_bytecode = True
from initramfs import Cpio, cache_dir, read  # noqa: E402

# name: (group, count). Large enough for 10 ms natively, small enough that an
# interpreter is through with all of them in a minute.
WORKLOADS = {
    "integer": ("user", 8_000_000),
    "float": ("user", 2_000_000),
    "copy": ("user", 8),
    "strings": ("user", 40_000),
    "chase": ("user", 3_000_000),
    "indirect": ("user", 3_000_000),
    "codegen": ("user", 50_000),
    "getppid": ("kernel", 150_000),
    "pipe": ("kernel", 3_000),
    "forkexit": ("kernel", 200),
    "forkexec": ("kernel", 60),
    "faults": ("kernel", 40),
    "signals": ("kernel", 40_000),
}
APPEND = "console=ttyS0 quiet panic=-1"
MEMORY_MIB = 512
LIMIT = 300  # seconds for one run of a machine


class Failed(Exception):
    pass


class Run:
    """One run: when the markers came, and what the workloads computed."""

    def __init__(self):
        self.ready = None  # seconds from the start of the process to process 1 of the guest
        self.seconds = {}
        self.results = {}
        self.done = False
        self.stats = None
        self.open = {}
        self.tail = []
        self.problem = None

    def line(self, text, now, start):
        self.tail = (self.tail + [text])[-8:]
        # the kernel's own messages may come before a marker on the same line
        if text.endswith("READY"):
            self.ready = now - start
        elif text.startswith("<"):
            self.open[text[1:]] = now
        elif text.startswith(">") and text[1:] in self.open:
            self.seconds[text[1:]] = now - self.open[text[1:]]
        elif text.startswith("="):
            name, _, value = text[1:].partition(" ")
            self.results[name] = value
        elif text == "DONE":
            self.done = True


def follow(run, fd, start, limit, is_alive, fifo):
    """Feed `run` from `fd` until DONE, the end of the stream or of the process, or the limit."""
    rest = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not run.done:
        if time.monotonic() - start > limit:
            raise Failed(f"not done after {limit:.0f} s; last lines: {run.tail}")
        events = poll.poll(200)
        now = time.monotonic()
        data = os.read(fd, 65536) if events and events[0][1] & select.POLLIN else b""
        if not data:
            if events and not fifo or not is_alive():
                break
            if events:
                time.sleep(0.05)  # a FIFO that nobody has opened to write yet
            continue
        *lines, rest = (rest + data).split(b"\n")
        for raw in lines:
            run.line(raw.decode(errors="replace").rstrip("\r"), now, start)
    if not run.done:
        raise Failed(f"ended early; last lines: {run.tail}")


def execute(command, limit, fifo=None, grace=0):
    """Run `command` and follow its standard output, or what it writes to `fifo`."""
    run = Run()
    with tempfile.TemporaryFile() as errors:
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if fifo else None
        start = time.monotonic()
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors if fifo else subprocess.PIPE,
                             stderr=errors, start_new_session=True)
        try:
            follow(run, fd if fifo else p.stdout.fileno(), start, limit, lambda: p.poll() is None, fifo)
            if grace:  # let the guest power off, so that statistics are written
                p.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            pass
        except Failed as e:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()[-4:]
            run.problem = f"{e}" + (f"; it said: {said}" if said else "")
        finally:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            if fd is not None:
                os.close(fd)
            if p.stdout:
                p.stdout.close()
    return run


class Bench:
    def __init__(self, options, scratch):
        self.o = options
        self.dir = scratch
        self.kernel = options.kernel or os.path.join(cache_dir(), "vmlinuz")
        self.work = os.path.join(scratch, "work")
        self.prepared = {}
        subprocess.run([os.environ.get("CC", "gcc"), "-O2", "-static", "-o", self.work, os.path.join(HERE, "work.c"),
                        "-lm"], check=True)

    def plan(self, names):
        return "".join(f"{n} {max(1, round(WORKLOADS[n][1] * self.o.scale))}\n" for n in names)

    def initrd(self, names):
        path = os.path.join(self.dir, "initrd-" + "-".join(names))
        path = path[:200]
        if path not in self.prepared:
            a = Cpio()
            for d in ("dev", "proc", "tmp"):
                a.dir(d)
            a.char("dev/console", 5, 1)
            a.char("dev/null", 1, 3)
            a.file("init", read(self.work))
            a.file("plan", self.plan(names).encode(), 0o644)
            with open(path, "wb") as f:
                f.write(a.finish())
            self.prepared[path] = True
        return path

    def native(self, names):
        plan = os.path.join(self.dir, "plan")
        with open(plan, "w", encoding="ascii") as f:
            f.write(self.plan(names))
        return execute([self.work, plan], 60)

    def ectype(self, names, counted=False):
        stats = os.path.join(self.dir, "stats.json")
        if os.path.exists(stats):
            os.unlink(stats)
        run = execute([os.path.join(BUILD, "ectype"), "run", "--engine", self.o.engine, "--memory", f"{MEMORY_MIB}M",
                       "--kernel", self.kernel, "--initrd", self.initrd(names), "--append", APPEND, "--no-reboot",
                       f"--stats=json:{stats}"] + ["--count-instructions"] * counted, LIMIT, grace=10)
        if os.path.exists(stats):
            with open(stats, encoding="utf-8") as f:
                run.stats = json.load(f)
        return run

    def tcg(self, names):
        return execute(["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB),
                        "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-kernel", self.kernel,
                        "-initrd", self.initrd(names), "-append", APPEND], LIMIT)

    def bochs(self, names):
        """Bochs loads no kernel itself: GRUB does, from an ISO."""
        tree = os.path.join(self.dir, "iso")
        iso = os.path.join(self.dir, "bench.iso")
        fifo = os.path.join(self.dir, "com1")
        shutil.rmtree(tree, ignore_errors=True)
        os.makedirs(os.path.join(tree, "boot/grub"))
        shutil.copy(self.kernel, os.path.join(tree, "boot/vmlinuz"))
        shutil.copy(self.initrd(names), os.path.join(tree, "boot/initrd"))
        with open(os.path.join(tree, "boot/grub/grub.cfg"), "w", encoding="ascii") as f:
            f.write("set timeout=0\nset default=0\nmenuentry bench {\n"
                    f"linux /boot/vmlinuz {APPEND}\ninitrd /boot/initrd\n}}\n")
        subprocess.run(["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", iso, tree], check=True,
                       capture_output=True)
        if not os.path.exists(fifo):
            os.mkfifo(fifo)
        rc = os.path.join(self.dir, "bochsrc")
        with open(rc, "w", encoding="ascii") as f:
            f.write("\n".join([
                "cpu: model=corei7_haswell_4770, count=1, ips=50000000",
                f"memory: guest={MEMORY_MIB}, host={MEMORY_MIB}",
                "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
                "vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest",
                "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
                f"ata0-master: type=cdrom, path={iso}, status=inserted",
                "boot: cdrom",
                "clock: sync=none",
                f"com1: enabled=1, mode=file, dev={fifo}",
                f"log: {self.dir}/bochs.log",
                "panic: action=fatal", "error: action=ignore", "info: action=ignore",
                "speaker: enabled=0", "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy",
                # the one display of Debian's package that needs no screen; nobody connects
                'display_library: rfb, options="timeout=0"',
            ]) + "\n")
        # Debian builds it with its debugger, which waits for a command first
        commands = os.path.join(self.dir, "bochs-commands")
        with open(commands, "w", encoding="ascii") as f:
            f.write("continue\n")
        return execute(["bochs", "-q", "-f", rc, "-rc", commands], self.o.bochs_limit, fifo=fifo)


def median_run(runs):
    """The medians of several runs of one machine."""
    names = {n for r in runs for n in r.seconds}
    ready = [r.ready for r in runs if r.ready is not None]
    return {
        "ready": statistics.median(ready) if ready else None,
        "seconds": {n: statistics.median(r.seconds[n] for r in runs if n in r.seconds) for n in names},
        "results": runs[0].results,
        "problems": [r.problem for r in runs if r.problem],
    }


def geometric(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def times(value):
    return "-" if value is None else f"{value:.1f} ×"


def table(columns, names, native):
    """Markdown: native in milliseconds, the machines as multiples of it."""
    others = [c for c in columns if c != "native"]
    out = ["| workload | native | " + " | ".join(others) + " |", "|---|--:|" + "--:|" * len(others)]
    ratios = {c: {n: columns[c]["seconds"][n] / native[n] for n in names if n in columns[c]["seconds"] and n in native}
              for c in others}
    for n in names:
        ms = f"{native[n] * 1e3:.1f} ms" if n in native else "-"
        out.append(f"| {n} | {ms} | " + " | ".join(times(ratios[c].get(n)) for c in others) + " |")
    means = {}
    for group in ("user", "kernel", "all"):
        members = [n for n in names if group in ("all", WORKLOADS[n][0])]
        if len(members) < 2:
            continue
        # a mean over other workloads than its neighbour's would mislead: all of the group or none
        means[group] = {c: geometric([ratios[c][n] for n in members]) if all(n in ratios[c] for n in members) else None
                        for c in others}
        out.append(f"| *{group}, geometric mean* | | " + " | ".join(times(means[group][c]) for c in others) + " |")
    ready = [f"{columns[c]['ready']:.2f} s" if columns[c]["ready"] else "-" for c in others]
    out.append("| *process start to /init* | | " + " | ".join(ready) + " |")
    return out, ratios, means


def rates(bench):
    """Millions of guest instructions a second: the boot alone, and the integer loop by difference."""
    boot, loop = bench.ectype([]), bench.ectype(["integer"])
    of_boot, of_loop = boot, loop
    if boot.stats and boot.stats["instructions"] is None:
        # counting costs time: the instructions are of runs of their own
        of_boot, of_loop = bench.ectype([], counted=True), bench.ectype(["integer"], counted=True)
    out = {}
    if of_boot.stats and boot.stats and boot.ready:
        out["boot"] = of_boot.stats["instructions"] / boot.stats["seconds"] / 1e6
    if of_boot.stats and of_loop.stats and "integer" in loop.seconds:
        # the warm-up is a hundredth of the loop again and lies outside of its markers
        out["integer"] = ((of_loop.stats["instructions"] - of_boot.stats["instructions"])
                          / 1.01 / loop.seconds["integer"] / 1e6)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--bochs", action="store_true", help="Bochs, too (minutes)")
    p.add_argument("--bochs-limit", type=float, default=900, metavar="SECONDS", help="give Bochs up after so long")
    p.add_argument("--only", metavar="NAMES", help="comma-separated, of: " + " ".join(WORKLOADS))
    p.add_argument("--columns", default="ectype,tcg", metavar="NAMES", help="machines to run (default ectype,tcg)")
    p.add_argument("--engine", default="interp", help="Ectype's engine (default interp)")
    p.add_argument("--runs", type=int, default=1, metavar="N", help="runs of each machine; the median counts (Bochs: 1)")
    p.add_argument("--scale", type=float, default=1.0, metavar="X", help="multiply all counts, in every column")
    p.add_argument("--kernel", metavar="F", help="default: the cache's vmlinuz")
    p.add_argument("--json", metavar="F", help="write the figures there as well")
    a = p.parse_args()
    names = a.only.split(",") if a.only else list(WORKLOADS)
    for n in names:
        if n not in WORKLOADS:
            p.error(f"no workload '{n}'")
    if a.runs < 1 or a.scale <= 0:
        p.error("--runs and --scale must be positive")
    machines = [c for c in a.columns.split(",") if c] + (["bochs"] if a.bochs else [])
    for c in machines:
        if c not in ("ectype", "tcg", "bochs"):
            p.error(f"no column '{c}'")
    if not a.kernel:
        subprocess.run([os.path.join(ROOT, "scripts/kernel.sh"), "cloud"], check=True)

    with tempfile.TemporaryDirectory(prefix="ectype-bench.") as scratch:
        bench = Bench(a, scratch)
        # natively a run costs nothing and suffers most from its neighbours
        columns = {"native": median_run([bench.native(names) for _ in range(max(a.runs, 5))])}
        for c in machines:
            title = f"ectype {a.engine}" if c == "ectype" else {"tcg": "QEMU TCG", "bochs": "Bochs"}[c]
            print(f"bench: {title}", file=sys.stderr, flush=True)
            columns[title] = median_run([getattr(bench, c)(names) for _ in range(1 if c == "bochs" else a.runs)])
        rate = rates(bench) if "ectype" in machines else {}

    native = columns["native"]["seconds"]
    lines, ratios, means = table(columns, names, native)
    print("\n".join(lines))
    print(f"\nOn {cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
          f"counts × {a.scale:g}, {a.runs} run(s) of each machine.")
    for what, mips in rate.items():
        print(f"ectype {a.engine}, {what}: {mips:.0f} million instructions/s")
    bad = 0
    for c, column in columns.items():
        for problem in column["problems"]:
            print(f"bench: {c}: {problem}", file=sys.stderr)
            bad = 1
        for n, value in column["results"].items():
            if value != columns["native"]["results"].get(n):
                print(f"bench: {c}: {n} computed {value}, the host {columns['native']['results'].get(n)}", file=sys.stderr)
                bad = 1
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"host": cpu_name(), "scale": a.scale, "runs": a.runs, "columns": columns, "ratios": ratios,
                       "geometric_means": means, "mips": rate,
                       "counts": {n: max(1, round(WORKLOADS[n][1] * a.scale)) for n in names}}, f, indent=2)
            f.write("\n")
    return bad


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
