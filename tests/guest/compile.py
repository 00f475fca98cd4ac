#!/usr/bin/env python3
"""Debian's gcc in the guest compiles a program of a thousand lines; assembly and output are the host's.

compile.py [--engine NAME] [--lines N] [--seed N]
"""
import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from guest import toolbox, section, ok, finish, read_json, IS_QEMU
from cprogram import program

COMPILER = "usr/lib/gcc/x86_64-linux-gnu/12"
RUN = """#!/bin/sh
cd /tmp
echo "== compile"
gcc -O2 -w -S /program.c -o program.s && gcc -O2 -w program.s -o program && gcc -O2 -w -static program.s -o program-static
echo "status $?"
echo "== assembly"
sha256sum program.s
echo "== output"
./program
echo "== output of the static one"
./program-static
echo "== end"
"""


def assembly(source):
    """What the toolbox's own compiler makes of `source` as a process of the host: it needs no chroot."""
    import toolbox as box
    root = os.path.join(box.ensure(), "root")
    out = source + ".s"
    includes = [x for d in (COMPILER + "/include", "usr/include/x86_64-linux-gnu", "usr/include")
                for x in ("-isystem", os.path.join(root, d))]
    subprocess.run([os.path.join(root, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), "--inhibit-cache", "--library-path",
                    os.path.join(root, "usr/lib/x86_64-linux-gnu"), os.path.join(root, COMPILER, "cc1"), "-quiet", "-nostdinc",
                    *includes, source, "-dumpbase", "program.c", "-mtune=generic", "-march=x86-64", "-O2", "-w", "-o", out,
                    "-fasynchronous-unwind-tables"], check=True, cwd=os.path.dirname(source))
    with open(out, "rb") as f:
        return f.read()


def output(source):
    """What the program prints when the host's compiler has compiled it, with other optimizations."""
    subprocess.run([os.environ.get("CC", "cc"), "-O1", "-w", source, "-o", source + ".host"], check=True)
    return subprocess.run([source + ".host"], check=True, capture_output=True, text=True).stdout


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--lines", type=int, default=1000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        source = os.path.join(tmp, "program.c")
        with open(source, "w", encoding="ascii") as f:
            f.write(program(a.seed, a.lines))
        want_assembly, want = assembly(source), output(source)
        stats = os.path.join(tmp, "stats")
        with open(source, encoding="ascii") as f:
            files = {"run.sh": RUN, "program.c": f.read()}
        with toolbox(tmp, files, "--stats=json:" + stats) as g:
            status = g.wait(300)
            ok("the guest ends by itself", status == 0, f"{status}\n{g.errors()}\n{g.text[-2000:]}")
        text = g.text
        ok("gcc compiles and links", section(text, "compile").strip() == "status 0", section(text, "compile") or text[-2000:])
        ok("the assembly is what this gcc makes on the host",
           section(text, "assembly").split()[:1] == [hashlib.sha256(want_assembly).hexdigest()], section(text, "assembly"))
        for name in ("output", "output of the static one"):
            ok(f"{name}: as on the host, {len(want.splitlines())} lines", len(want) > 100 and section(text, name) == want,
               section(text, name)[-1000:])
        ok("the script ends with status 0", re.search(r"^toolbox: exit status 0\r?$", text, re.M), text[-500:])
        if os.path.exists(stats):
            s = read_json(stats)
            count = f"{s['instructions'] / 1e9:.2f} billion instructions" if s["instructions"] else "instructions not counted"
            print(f"# engine {s['engine']}: {count} in {s['seconds']:.1f} s")
        else:
            ok("statistics", IS_QEMU)
    finish()


if __name__ == "__main__":
    main()
