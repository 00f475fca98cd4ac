#!/usr/bin/env python3
"""The kernel's own torture tests of RCU and of locks, on several processors that go and come.

torture.py [--engine NAME] [--minutes N] [--cpus N] [--only rcu,srcu,tasks,spin_lock,...]

Debian's generic kernel with modules of its own source (scripts/torture.sh). Each
module runs --minutes (1) in all, its types one after the other; it must say
"End of test: SUCCESS", its statistics no "!!!", the kernel nothing at all.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

from boot import BAD, KNOWN
from guest import ROOT, cache, finish, linux, make_initramfs, ok, skip

TYPES = {"rcutorture": ("rcu", "srcu", "tasks"),
         "locktorture": ("spin_lock", "spin_lock_irq", "rw_lock_irq", "mutex_lock", "rwsem_lock", "percpu_rwsem_lock")}
OPTIONS = {"rcutorture": "stat_interval=10 stutter=5 shuffle_interval=3 onoff_holdoff=5 onoff_interval=200",
           "locktorture": "stat_interval=10 stutter=5 shuffle_interval=3 onoff_holdoff=5 onoff_interval=200"}
# lines that name parameters, and what loading them says
QUIET = re.compile(r"torture:---|module verification failed|loading out-of-tree module|Command line")
MORE_BAD = re.compile(r"!!!|rcu_torture_.*(fail|error)|End of test: (FAILURE|RCU_HOTPLUG|LOCK_HOTPLUG)|blocked for more|INFO: rcu|"
                      r"torture.*:.*(VERBOSE_TOROUT_ERRSTRING|error)")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--minutes", type=float, default=1)
    p.add_argument("--cpus", type=int, default=4)
    p.add_argument("--only", help="types, with commas")
    a = p.parse_args()
    if subprocess.run([os.path.join(ROOT, "scripts/torture.sh")]).returncode:
        skip("torture", "the modules could not be built")
        sys.exit(77)
    wanted = [(m, [t for t in types if not a.only or t in a.only.split(",")]) for m, types in TYPES.items()]
    script, count = "insmod /torture.ko\n", 0
    for module, types in wanted:
        for kind in types:
            seconds = max(5, int(a.minutes * 60 / len(types)))
            script += (f"echo == {module} {kind}\ninsmod /{module}.ko torture_type={kind} {OPTIONS[module]}\n"
                       f"sleep {seconds}\nrmmod {module}\ndmesg -c\n")
            count += seconds
    with tempfile.TemporaryDirectory() as tmp:
        initrd = os.path.join(tmp, "initrd")
        make_initramfs(initrd, "dmesg -c >/dev/null\n" + script + "echo == all done\n",
                       *[f"{m}.ko={cache('torture')}/{m}.ko" for m in ("torture", *TYPES)])
        with linux("--cpus", a.cpus, kernel="vmlinuz-generic", initrd=initrd) as g:
            status = g.wait(240 + 3 * count)
            ok("the guest powers off, status 0", status == 0, f"{status}\n{g.errors()}\n{g.text[-2000:]}")
            text = g.text.replace("\r", "")
    for module, types in wanted:
        for kind in types:
            m = re.search(rf"^== {module} {kind}\n(.*?)(?=^== )", text, re.S | re.M)
            log = m.group(1) if m else ""
            ok(f"{module}, {kind}: success", "End of test: SUCCESS" in log, log[-2000:])
            found = [l for l in log.splitlines() if (BAD.search(l) or MORE_BAD.search(l)) and not QUIET.search(l)
                     and not any(k.search(l) for k in KNOWN)]
            ok(f"{module}, {kind}: no complaint", log and not found, "\n".join(found))
            for line in [l for l in log.splitlines() if re.search(r"rtc: .*rtf:|Writes: .*Total", l)][-1:]:
                print("# " + line.split("] ", 1)[-1])
            offs = re.findall(r"onoff: (\d+)/(\d+):(\d+)/(\d+)", log)
            if offs:
                print(f"#   processors on {offs[-1][0]} times of {offs[-1][1]}, off {offs[-1][2]} of {offs[-1][3]}")
    finish()


if __name__ == "__main__":
    main()
