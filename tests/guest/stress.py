#!/usr/bin/env python3
"""Debian's stress-ng in the guest, verifying its results; the monitor loses no memory over it.

stress.py [--engine NAME] [--minutes N] [--only NAMES] [--seconds] [--cpus N]

Each stressor does a fixed count of operations. Without --minutes one turn over
half of them; with --minutes turns over all, four times the count, each with
another seed, until the time is over in the guest. Every turn also runs programs
that the host compiled, whose output must be the host's.
"""
import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from boot import BAD, KNOWN
from cprogram import program
from guest import is_guest_ram, mappings, toolbox, section, ok, finish, Timeout

# name, operations, more options. Counts give an interpreter about a third of a second each; seconds where
# this stress-ng does not stop at a count, or not always, or (mutex) takes it for a failure if the first of
# its real-time threads has done the whole count before the second is created. "+": in the short form, too.
STRESSORS = """
+cpu 88
+hash 400
+str 500
+wcs 400
+memcpy 12
+matrix 40
matrix-3d 12
+vecmath 20
+vecwide 120
+vecfp 20
+vecshuf 12
+fp 8
+fp-error 30000
funccall 100
+funcret 5000
+longjmp 200
+rotate 2000
+crypt 20
tsearch 1
lsearch 1 --lsearch-size 2048
hsearch 100
bsearch 8
+qsort 1 --qsort-size 32768
mergesort 1 --mergesort-size 65536
heapsort 1 --heapsort-size 32768
radixsort 1
shellsort 1 --shellsort-size 65536
judy 1 --judy-size 32768
skiplist 200
list 3
+tree 1 --tree-size 4096
randlist 6
sparsematrix 1
+zlib 2
regs 60
+goto 15000
+branch 10000
nop 6000

+far-branch 1
+icache 8
flushcache 1
+opcode 30
+mcontend 1s
misaligned 1s
+dynlib 10
+priv-instr 4000
sysbadaddr 20
seccomp 6

+sigsegv 6000
+sigfpe 5000
sigabrt 60
+sigchld 80
sigfd 4000
sigio 1s
+signal 6000
+signest 7000
sigpending 6000
sigpipe 1000
+sigq 3000
sigrt 1500
sigsuspend 2500
+sigtrap 8000
+bad-altstack 50
+timer 1000 --timer-freq 20000
+timerfd 2000
+itimer 500 --itimer-freq 2000
hrtimers 4000
alarm 1000
nanosleep 200

+fork 60
+vfork 800
vforkmany 1s
+clone 40
exit-group 6
daemon 60
+zombie 60
kill 600
wait 400
+ptrace 3000
pidfd 60
+exec 1s
spawn 20

+switch 3000
+pipe 7000
pipeherd 1s
ring-pipe 3000
+futex 1500
+mutex 1s
sem 1s
+sem-sysv 20000
eventfd 1200
yield 1s
membarrier 1s
+context 80
+poll 1500
epoll 500
mq 3500
msg 18000
sockpair 2000
vdso 500000
tsc 40000
rdrand 3000
+x86cpuid 150000
x86syscall 250000
+usersyscall 4000
enosys 20
+dekker 100000
peterson 1s
locka 30000
lockbus 50

vm-addr 2
+vm-rw 16
+vm-segv 30
vm-splice 5000
mmap 1 --mmap-bytes 512k
+mmapmany 1000
+mmapaddr 500
mmapfixed 1
mmapfork 1s
+mremap 1 --mremap-bytes 512k
+mprotect 3000
madvise 1
+munmap 2000
mincore 20
msync 800
remap 1
rmap 200
+fault 300
+tlb-shootdown 300
+pagemove 1 --pagemove-bytes 1m
pkey 1200
+stackmmap 40
+brk 3000
bigheap 800
+malloc 5000
+memfd 1 --memfd-bytes 8m
memthrash 10
+userfaultfd 1800
shm 2
shm-sysv 8
cache 200
cacheline 8
l1cache 16
""".split("\n")
# Not among them: pthread, whose last thread is never waited for (on the bare host, too, a thread that starts 1 ms late ends
# it by SIGSEGV); prime-incdec, which on the bare host, too, ends at no count, after a minute.
# each alone: with "all" one turn would not come to every method
VM_METHODS = """cache-lines cache-stripe checkerboard flip fwdrev galpat-0 galpat-1 gray grayflip rowhammer incdec inc-nybble lfsr32
rand-set rand-sum read64 ror swap move-inv modulo-x mscan wrrd128nt prime-0 prime-1 prime-gray-0 prime-gray-1 walk-0d
walk-1d walk-0a walk-1a write64 write64nt write1024v zero-one""".split()
STRESSOR_LIMIT = 200  # seconds of the guest's time
LONG = 4  # factor on the counts of a long run's turns
CHECKS = [["-O2"], ["-O3", "-march=x86-64-v3"], ["-O2", "-mfpmath=387"], ["-O0"]]

HEAD = """#!/bin/sh
cd /tmp
chmod 1777 /tmp
stress() {
	name=$1 label=$2
	case $3 in
	*s) limit="--timeout $3" ;;
	*) limit="--$name-ops $(($3 * %d)) --timeout %d" ;;
	esac
	shift 3
	set -- --$name $(nproc) $limit --verify --verbose --oomable --seed $turn "$@"
	start=$(cut -d. -f1 /proc/uptime)
	case $name in
	exec | spawn) su nobody -s /bin/sh -c "cd /tmp; stress-ng $*" >log 2>&1 ;;
	*) stress-ng "$@" >log 2>&1 ;;
	esac
	status=$?
	# at its time limit stress-ng ends with status 0
	[ $(($(cut -d. -f1 /proc/uptime) - start)) -lt %d ] || status=slow
	echo "ran $turn $label $status $(cut -d' ' -f1 /proc/uptime)"
	if [ $status != 0 ] || grep -q 'fail:\\|warn:.*untrust' log; then
		sed "s/^/said $label: /" log
	fi
}
turn=0
while [ $turn = 0 ] || [ $(cut -d. -f1 /proc/uptime) -lt %d ]; do
	turn=$((turn + 1))
	echo "begin $turn"
"""
TAIL = """
	for i in /check*; do
		echo "check $turn ${i#/check} $($i | sha256sum | cut -d' ' -f1)"
	done
	echo "== dmesg $turn"
	dmesg -c
	echo "== end of $turn"
	rm -rf /tmp/*
done
sleep 1
echo "== all done"
sleep 3
"""


def rows(short, only):
    """The turn's stressors: (name, label, count, options)."""
    out = []
    for line in STRESSORS:
        f = line.lstrip("+").split()
        if f and (line[0] == "+" or not short or only):
            out.append((f[0], f[0], f[1], f[2:]))
    out += [("vm", "vm:" + m, "1", ["--vm-method", m, "--vm-bytes", "256k"]) for m in (VM_METHODS[1::4] if short else VM_METHODS)]
    if only:
        wanted = only.split(",")
        unknown = set(wanted) - {r[0] for r in out}
        if unknown:
            sys.exit(f"stress.py: no stressor {' '.join(sorted(unknown))}")
        out = [r for r in out if r[0] in wanted]
    return out


def checks(folder):
    """Programs compiled by the host: ({path: bytes}, {number: digest of the output})."""
    files, want = {}, {}
    for i, flags in enumerate(CHECKS):
        source, binary = os.path.join(folder, "check.c"), os.path.join(folder, f"check{i}")
        with open(source, "w", encoding="ascii") as f:
            f.write(program(100 + i, 600))
        subprocess.run([os.environ.get("CC", "cc"), "-w", "-static", *flags, "-o", binary, source], check=True)
        p = subprocess.run([binary], capture_output=True)
        if p.returncode < 0 and "-march=x86-64-v3" in flags:
            continue  # a host without AVX2
        p.check_returncode()
        with open(binary, "rb") as f:
            files[f"check{i}"] = f.read()
        want[str(i)] = hashlib.sha256(p.stdout).hexdigest()
    return files, want


def table_maps(cpus):
    """The translator's tables, of all processors: pages (src/mem/flat_priv.h), each a map with one behind it, and the rest."""
    return 2 * cpus * min(8192, 24576 // cpus) + 1024


class Usage:
    """What the monitor holds of the host, guest RAM and other shared memory aside."""

    def __init__(self, pid):
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            fields = dict(line.rstrip("\n").split(":", 1) for line in f)
        self.anonymous = sum(m["Anonymous"] for m in mappings(pid) if not is_guest_ram(m) and "memfd:" not in m["path"]) / 1024
        self.threads = int(fields["Threads"])
        self.files = len(os.listdir(f"/proc/{pid}/fd"))
        with open(f"/proc/{pid}/maps", encoding="ascii") as f:
            maps = [line.split() for line in f]
        self.maps = sum(len(m) > 5 for m in maps)
        self.nameless = len(maps) - self.maps

    def __str__(self):
        return f"{self.anonymous:.1f} MiB private, {self.maps} + {self.nameless} maps, {self.files} files, {self.threads} threads"


def follow(g, minutes, limit):
    """Watch the guest to its end; the monitor's usage at the begin of each turn and at the end."""
    usage = [Usage(g.process.pid)]
    try:
        turn = 0
        while True:
            found = g.expect(r"(?m)^(begin \d+|== end of \d+|== all done|toolbox: exit status \d+|said .*)\r?$", limit)
            said = re.search(r"(?m)^said .*\Z", found)
            if said:
                print("# " + said.group().rstrip(), flush=True)
                continue
            if re.search(r"toolbox: exit status", found):
                break
            usage.append(Usage(g.process.pid))
            if "begin" in found[-20:] and minutes:
                turn += 1
                print(f"# turn {turn}: {usage[-1]}", flush=True)
    except (Timeout, OSError) as e:
        ok("the guest goes on", False, e)
    return usage, g.wait(60)


def judge(text, table, want, seconds):
    turns = sorted({int(t) for t in re.findall(r"^begin (\d+)\r?$", text, re.M)})
    ran = {}
    last = None
    for turn, label, status, at in re.findall(r"^ran (\d+) (\S+) (\w+) ([\d.]+)\r?$", text, re.M):
        ran[int(turn), label] = status
        if seconds and last is not None:
            print(f"# {label} {float(at) - last:.2f}")
        last = float(at)
    ok(f"{len(turns)} turn(s)", turns and turns == list(range(1, len(turns) + 1)), text[-1000:])
    for turn in turns:
        bad = [f"{label}: status {ran.get((turn, label), 'none')}" for _, label, _, _ in table if ran.get((turn, label)) != "0"]
        ok(f"turn {turn}: {len(table)} stressors end with status 0", not bad, "\n".join(bad))
        got = dict(re.findall(rf"^check {turn} (\d+) ([0-9a-f]+)\r?$", text, re.M))
        ok(f"turn {turn}: {len(want)} programs compute what the host computes", want and got == want, f"{got} {want}")
        log = section(text, f"dmesg {turn}")
        found = [l for l in log.splitlines() if BAD.search(l) and not any(k.search(l) for k in KNOWN)]
        ok(f"turn {turn}: dmesg has no complaint", (log or turn > 1) and not found, log[-20000:])
    said = [l for l in text.splitlines() if l.startswith("said ")]
    ok("stress-ng reports no failure", not said, "\n".join(said))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--minutes", type=float, default=0, help="go on in turns for so long")
    p.add_argument("--only", metavar="NAMES", help="only these stressors, of all, comma-separated")
    p.add_argument("--cpus", type=int, default=1, metavar="N", help="processors, and so many of each stressor")
    p.add_argument("--seconds", action="store_true", help="print how long each stressor took in the guest")
    a = p.parse_args()
    table = rows(not a.minutes, a.only)
    script = HEAD % (LONG if a.minutes else 1, STRESSOR_LIMIT, STRESSOR_LIMIT, a.minutes * 60)
    script += "\n".join("\tstress " + " ".join([name, label, ops, *more]) for name, label, ops, more in table) + TAIL
    with tempfile.TemporaryDirectory() as tmp:
        # nobody else's `ectype ps` asks this machine while its files are counted
        os.environ["XDG_RUNTIME_DIR"] = tmp
        files, want = checks(tmp)
        # so many of each stressor want so much memory; without it there are OOM killer's traces
        with toolbox(tmp, {"run.sh": script, **files}, "--cpus", a.cpus, memory=f"{min(a.cpus, 6)}G") as g:
            # a turn of the long form, in a slow engine, is some ten minutes
            usage, status = follow(g, a.minutes, (1800 if a.minutes else 300) * a.cpus)
            ok("the guest powers off, status 0", status == 0, f"{g.text[-2000:]}\n{g.errors()}\nstatus {status}")
        judge(g.text, table, want, a.seconds)
        if len(usage) > 3:
            # begin and end of each turn; the first turn fills caches, which are bounded
            turns = len(usage) // 2 - 1
            before, after = usage[2 if turns > 1 else 1], usage[-1]
            # tables and pages of the translator fill over several turns, up to some 50 MiB
            room = (64 if turns > 1 else 128) + (table_maps(a.cpus) - table_maps(1)) // 2 * 4 // 1024
            print(f"# at first: {before}\n# at last: {after}")
            ok(f"the monitor's private memory grows by less than {room} MiB", after.anonymous - before.anonymous < room,
               f"{before}; {after}")
            ok("no map, file or thread more", after.files <= before.files and after.threads <= before.threads
               and after.maps <= before.maps + 16 and after.nameless <= max(before.nameless + 16, table_maps(a.cpus)), f"{before}; {after}")
        else:
            ok("the monitor's memory was looked at", False, f"{len(usage)} times")
    finish()


if __name__ == "__main__":
    main()
