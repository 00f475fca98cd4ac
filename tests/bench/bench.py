#!/usr/bin/env python3
"""Ectype beside the bare host, QEMU's TCG and, if asked, Bochs.

bench.py [--group NAMES] [--only NAMES] [--engine NAME]... [--no-tcg] [--bochs] [--runs N] [--best] [--cpu-time]
         [--scale X] [--append TEXT]... [--summary] [--json F]

Four groups of workloads. Those in C (work.c) are one static program that runs
as a process of the host and as /init of a guest, with the same counts; real
programs run natively in a chroot of the very tree that is the guest's
initramfs. Markers on standard output, which is the guest's serial line, are
stamped with the host's monotonic clock as they arrive, so no guest's idea of
time enters. Each result is compared with the host's: a machine that computes
something else is no machine to be timed.
"""
import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "scripts")]
sys.dont_write_bytecode = True
import machines  # noqa: E402
import programs  # noqa: E402
import toolbox  # noqa: E402
from initramfs import cache_dir  # noqa: E402

GROUPS = {"user": "user-level compute", "kernel": "kernel-heavy", "codegen": "generated code", "programs": "real programs"}
NATIVE_RUNS = 5  # at least: a native run costs little and suffers most from its neighbours


class Column:
    """All runs of one machine."""

    def __init__(self, title, run, pick=statistics.median, cpu_time=False):
        self.title, self.run, self.pick, self.cpu_time = title, run, pick, cpu_time
        self.wall, self.cpu = {}, {}  # workload: seconds of each run
        self.results = {}  # workload: the set of results, one unless something is broken
        self.ready = {"wall": [], "cpu": []}
        self.engine = None
        self.problems = []
        self.dead = False

    def add(self, batch, run):
        for n in run.seconds:
            self.wall.setdefault(n, []).append(run.seconds[n])
            self.cpu.setdefault(n, []).append(run.cpu[n])
        for n, value in run.results.items():
            self.results.setdefault(n, set()).add(value)
        if run.ready is not None and batch.image == "small":
            self.ready["wall"].append(run.ready)
            self.ready["cpu"].append(run.ready_cpu)
        if run.stats:
            self.engine = run.stats["engine"]
        if run.problem:
            self.problems.append(f"{batch.title}: {run.problem}")
            # what does not even get there will not the next time either
            self.dead = not run.seconds and run.ready is None

    @property
    def samples(self):
        return self.cpu if self.cpu_time else self.wall

    def to_init(self):
        ready = self.ready["cpu" if self.cpu_time else "wall"]
        return self.pick(ready) if ready else None

    def seconds(self, name):
        return self.pick(self.samples[name]) if name in self.samples else None

    def heading(self):
        return self.title + (f" ({self.engine})" if self.engine and self.title.endswith(" auto") else "")


def geometric(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def times(value):
    return "-" if value is None else f"{value:.2f} ×" if value < 10 else f"{value:.1f} ×"


class Figures:
    """Multiples of native, and what is made of them."""

    def __init__(self, groups, native, columns):
        self.groups, self.native, self.columns = groups, native, columns
        self.names = [n for members in groups.values() for n in members]
        self.ratios = {c.title: {n: c.seconds(n) / native.seconds(n) for n in self.names
                                 if n in c.samples and n in native.samples} for c in columns}
        self.means, self.worst = {}, {}
        for g, members in {**groups, **({"all": self.names} if len(groups) > 1 else {})}.items():
            if len(members) < 2:
                continue
            # a mean over other workloads than its neighbour's would mislead: all of the group or none
            full = {t: all(n in r for n in members) for t, r in self.ratios.items()}
            self.means[g] = {t: geometric([r[n] for n in members]) if full[t] else None for t, r in self.ratios.items()}
            self.worst[g] = {t: max(members, key=r.get) if full[t] else None for t, r in self.ratios.items()}

    def summary(self, g):
        title = GROUPS.get(g, g)
        yield [f"*{title}, geometric mean*", ""] + [times(self.means[g][c.title]) for c in self.columns]
        worst = [(c.title, self.worst[g][c.title]) for c in self.columns]
        yield [f"*{title}, worst*", ""] + [f"{n} {times(self.ratios[t][n])}" if n else "-" for t, n in worst]

    def table(self, summary_only):
        """Markdown: native in milliseconds, the machines as multiples of it."""
        rows = [["workload", "native"] + [c.heading() for c in self.columns], ["---"] + ["--:"] * (len(self.columns) + 1)]
        for g, members in self.groups.items():
            for n in [] if summary_only else members:
                t = self.native.seconds(n)
                rows.append([n, f"{t * 1e3:.1f} ms" if t else "-"] + [times(self.ratios[c.title].get(n)) for c in self.columns])
            if g in self.means:
                rows += self.summary(g)
        if "all" in self.means:
            rows += self.summary("all")
        ready = [f"{c.to_init():.2f} s" if c.to_init() else "-" for c in self.columns]
        rows.append(["*process start to /init*", ""] + ready)
        return ["| " + " | ".join(r) + " |" for r in rows]

    def slower_than(self, title):
        """For each of our engines the workloads at which the machine `title` is faster."""
        theirs = self.ratios.get(title, {})
        for c in self.columns:
            ours = self.ratios[c.title]
            if c.title.startswith("ectype") and ours and theirs:
                yield c, [n for n in self.names if n in ours and n in theirs and ours[n] > theirs[n]]


def wrong(native, columns):
    """A line for each result that is not the host's."""
    for c in [native, *columns]:
        for n, values in c.results.items():
            expected = native.results.get(n, set())
            if len(values | expected) > 1:
                yield f"{c.heading()}: {n} gave {', '.join(sorted(values))}, the host {', '.join(sorted(expected)) or 'nothing'}"


def rates(m, engine, cpu_time):
    """Millions of guest instructions a second: the boot alone, and the integer loop by difference."""
    boot = m.ectype(machines.Batch("nothing", "small", []), engine)
    loop = m.ectype(machines.Batch("integer", "small", ["integer"]), engine)
    seconds = loop.cpu if cpu_time else loop.seconds
    out = {}
    if boot.stats and boot.stats["instructions"] is None:
        return out  # this engine does not count them unless asked, which costs time
    if boot.stats and boot.ready:
        out["boot"] = boot.stats["instructions"] / boot.stats["seconds"] / 1e6
    if boot.stats and loop.stats and "integer" in seconds:
        # the warm-up is a hundredth of the loop again and lies outside of its markers
        out["integer"] = (loop.stats["instructions"] - boot.stats["instructions"]) / 1.01 / seconds["integer"] / 1e6
    return out


def choose(parser, a, m):
    """{group: workloads} that the command line asks for and this host can run."""
    table = {n: g for n, (g, _) in m.c.items()} | {n: g for n, (g, _) in programs.PROGRAMS.items()}
    wanted = a.only.split(",") if a.only else list(table)
    for n in wanted:
        if n not in table:
            parser.error(f"no workload '{n}'; there are: {' '.join(table)}")
    if "avx2" not in cpu_flags():
        wanted = [n for n in wanted if n != "matrix_avx2"]
    asked = a.group.split(",") if a.group else list(GROUPS)
    groups = {g: [n for n in wanted if table[n] == g] for g in GROUPS if g in asked}
    groups = {g: members for g, members in groups.items() if members}
    if not groups:
        parser.error("no workload is left")
    return groups


def batches(groups):
    out = [machines.Batch(g, "small", [n for n in members if n not in programs.PROGRAMS]) for g, members in groups.items()]
    real = [n for members in groups.values() for n in members if n in programs.PROGRAMS]
    out.append(machines.Batch("toolbox", "toolbox", real))
    return [b for b in out if b.names]


def measure(work, runs, native, columns):
    """The machines take turns, and the host between them, so that a load that comes and goes hits all alike."""
    again = math.ceil(NATIVE_RUNS / (runs * (len(columns) + 1)))
    for i in range(runs):
        for batch in work:
            turn = [native] * again
            for c in columns:
                if not (c.title == "Bochs" and (i or batch.image == "toolbox")):  # hours, or no memory
                    turn += [c] + [native] * again
            for c in turn:
                if c.dead:
                    continue
                if c is not native:
                    print(f"bench: {batch.title}: {c.title}", file=sys.stderr, flush=True)
                c.add(batch, c.run(batch))


def cpu_info(key):
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def cpu_flags():
    return set(cpu_info("flags").split())


def cpu_name():
    return cpu_info("model name") or platform.processor() or "unknown processor"


def write_json(path, a, f, m, about, rate):
    columns = {c.title: {"engine": c.engine, "ready": c.ready, "seconds": {n: c.seconds(n) for n in c.samples},
                         "wall": c.wall, "cpu": c.cpu, "results": {n: sorted(v) for n, v in c.results.items()},
                         "problems": c.problems} for c in [f.native, *f.columns]}
    with open(path, "w", encoding="utf-8") as out:
        json.dump({"about": about, "scale": a.scale, "runs": a.runs, "best": a.best, "cpu_time": a.cpu_time,
                   "groups": f.groups, "columns": columns, "ratios": f.ratios, "geometric_means": f.means, "worst": f.worst, "mips": rate,
                   "counts": {n: m.count(n) for n in f.names if n in m.c}}, out, indent=2)
        out.write("\n")


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--group", metavar="NAMES", help="comma-separated, of: " + " ".join(GROUPS))
    p.add_argument("--only", metavar="NAMES", help="workloads, comma-separated")
    p.add_argument("--engine", action="append", metavar="NAME", help="Ectype's engine (default auto); may be repeated")
    p.add_argument("--no-tcg", action="store_true", help="leave QEMU out")
    p.add_argument("--bochs", action="store_true", help="Bochs, too (many minutes; not the programs of the toolbox)")
    p.add_argument("--bochs-limit", type=float, default=900, metavar="SECONDS", help="give a boot of Bochs up after so long")
    p.add_argument("--runs", type=int, default=1, metavar="N", help="runs of each machine, in turns; the median counts (Bochs: 1)")
    p.add_argument("--best", action="store_true", help="the fastest run counts, not the median; natively, too")
    p.add_argument("--cpu-time", action="store_true", help="count processor time, not the clock: for hosts under load")
    p.add_argument("--scale", type=float, default=1.0, metavar="X", help="multiply the counts of the workloads in C")
    p.add_argument("--kernel", metavar="F", help="default: the cache's vmlinuz")
    p.add_argument("--append", action="append", default=[], metavar="TEXT", help="add to the guests' kernel command line")
    p.add_argument("--summary", action="store_true", help="print the groups' rows only")
    p.add_argument("--json", metavar="F", help="write the figures there as well")
    a = p.parse_args()
    a.engine = list(dict.fromkeys(a.engine or ["auto"]))
    if a.runs < 1 or a.scale <= 0:
        p.error("--runs and --scale must be positive")
    for g in a.group.split(",") if a.group else []:
        if g not in GROUPS:
            p.error(f"no group '{g}'; there are: {' '.join(GROUPS)}")
    return p, a


def prepare_toolbox(groups, m):
    """Returns a problem, or None; without a toolbox its programs are left out."""
    if not any(n in programs.PROGRAMS for members in groups.values() for n in members):
        return None
    try:
        m.toolbox = toolbox.ensure()
        return None
    except (toolbox.Failed, OSError, subprocess.CalledProcessError) as e:
        for g in list(groups):
            groups[g] = [n for n in groups[g] if n not in programs.PROGRAMS]
            if not groups[g]:
                del groups[g]
        return f"no toolbox, its programs are left out: {e}"


def main():
    p, a = options()
    if not a.kernel:
        subprocess.run([os.path.join(ROOT, "scripts/kernel.sh"), "cloud"], check=True)
    start, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ectype-bench.") as scratch:
        m = machines.Machines(scratch, a.kernel or os.path.join(cache_dir(), "vmlinuz"), a.append, a.scale, a.bochs_limit)
        groups = choose(p, a, m)
        problems = [s for s in [prepare_toolbox(groups, m)] if s]
        pick = min if a.best else statistics.median
        native = Column("native", m.native, pick, a.cpu_time)
        columns = [Column(f"ectype {e}", lambda batch, e=e: m.ectype(batch, e), pick, a.cpu_time) for e in a.engine]
        columns += [] if a.no_tcg else [Column("QEMU TCG", m.tcg, pick, a.cpu_time)]
        columns += [Column("Bochs", m.bochs, pick, a.cpu_time)] if a.bochs else []
        measure(batches(groups), a.runs, native, columns)
        rate = {f"ectype {e}": rates(m, e, a.cpu_time) for e in a.engine} if "integer" in groups.get("user", []) else {}

    figures = Figures(groups, native, columns)
    about = (f"On {cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}, load {load:.1f} before and "
             f"{os.getloadavg()[0]:.1f} after {time.monotonic() - start:.0f} s; counts × {a.scale:g}, guest with "
             f"'{m.append}'; {a.runs} run(s) of each machine, {max(map(len, native.wall.values()), default=0)} native, "
             f"{'the fastest' if a.best else 'median'}, {'processor' if a.cpu_time else 'clock'} time.")
    print("\n".join(figures.table(a.summary)) + "\n\n" + about)
    for title, r in rate.items():
        for what, mips in r.items():
            print(f"{title}, {what}: {mips:.0f} million instructions/s")
    for c, names in figures.slower_than("QEMU TCG"):
        print(f"{c.heading()} slower than QEMU TCG: {', '.join(names) or 'none'}")
    problems += [f"{c.heading()}: {s}" for c in [native, *columns] for s in c.problems]
    problems += wrong(native, columns)
    for s in problems:
        print("bench: " + s, file=sys.stderr)
    if a.json:
        write_json(a.json, a, figures, m, about, rate)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
