#!/usr/bin/env python3
"""Two engines in lockstep while Debian's gcc compiles a program in the guest and the program runs.

compile.py [--engines A,B] [--every N] [--lines N]

Needs no comparison of its own: `ectype lockstep` ends with status 0 only if the
machines were equal to the guest's end. The console shows that the guest did
what it was to do.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest"))
from guest import ECTYPE, SLOW, cache, finish, ok, section  # noqa: E402
from cprogram import program  # noqa: E402
import toolbox as box  # noqa: E402

LIMIT = 2400  # seconds; two engines over two billion instructions, compared every so often
RUN = """#!/bin/sh
cd /tmp
gcc -O1 -w /program.c -o program
echo "gcc $?"
echo "== output"
./program
echo "== end"
"""


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--engines", metavar="A,B", help="default: what `ectype lockstep` takes")
    p.add_argument("--every", metavar="N", help="instructions between comparisons; default as above")
    p.add_argument("--lines", type=int, default=120, help="length of the program")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        source = os.path.join(tmp, "program.c")
        text = program(3, a.lines)
        with open(source, "w", encoding="ascii") as f:
            f.write(text)
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-w", source, "-o", source + ".host"], check=True)
        want = subprocess.run([source + ".host"], check=True, capture_output=True, text=True).stdout

        initrd = box.image(os.path.join(tmp, "initrd"), {"run.sh": RUN.encode(), "program.c": text.encode()})
        more = [x for name in ("engines", "every") if getattr(a, name) for x in ("--" + name, getattr(a, name))]
        try:
            r = subprocess.run([ECTYPE, "lockstep", "--kernel", cache("vmlinuz"), "--initrd", initrd, "--append",
                                "console=ttyS0 quiet", "--memory", "640M", "--seed", "1", *more], stdin=subprocess.DEVNULL,
                               capture_output=True, timeout=LIMIT * SLOW)
            status, out, err = r.returncode, r.stdout, r.stderr
        except subprocess.TimeoutExpired as e:
            status, out, err = None, e.stdout or b"", e.stderr or b""
    console, said = out.decode(errors="replace"), err.decode(errors="replace")
    ok("the engines agree to the end", status == 0, f"status {status}\n{said[-3000:]}")
    ok("gcc compiles and links", re.search(r"^gcc 0\r?$", console, re.M), console[-1500:])
    ok(f"the program's output is the host's, {len(want.splitlines())} lines", len(want) > 100 and section(console, "output") == want,
       section(console, "output")[-1000:])
    ok("the script ends", re.search(r"^toolbox: exit status 0\r?$", console, re.M), console[-500:])
    for line in [*console.splitlines()[-1:], *said.splitlines()[-3:]]:
        print("# " + line)
    finish()


if __name__ == "__main__":
    main()
