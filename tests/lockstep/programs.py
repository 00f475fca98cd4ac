#!/usr/bin/env python3
"""Random programs (generate.py) under two engines in step, a test a seed.

programs.py [--seeds N] [--start S] [--engines A,B] [--pieces N] [--keep DIR]
"""
import argparse
import os
import shutil
import tempfile

import generate
from lockstep import ENGINES, finish, lockstep, ok

# Slices of several lengths: an engine's blocks are cut at their ends.
EVERY = [2001, 50000, 1000000]
GOOD_END = "with status 33"


def test(seed, engines, pieces, folder):
    image = os.path.join(folder, f"program{seed}")
    generate.make(seed, image, pieces)
    status, equal, text = lockstep(["--kernel", image, "--memory", "16M", "--cpu-model", "x86-64-v3", "--debug-exit",
                                    "--no-reboot", "--every", EVERY[seed % len(EVERY)], "--limit", 1000000000], 120, engines)
    good = status == 0 and equal and equal.group().endswith(GOOD_END)
    how = f"{equal.group(1)} instructions" if equal else "engines differ" if status == 1 else f"status {status}"
    ok(f"{engines}: program {seed}: {how}", good,
       f"the program: tests/lockstep/generate.py --pieces {pieces} {seed} FILE\n{text}")
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seeds", type=int, default=100, help="how many programs (100)")
    p.add_argument("--start", type=int, default=1, help="the first seed (1)")
    p.add_argument("--engines", default=ENGINES, help=f"two names ({ENGINES})")
    p.add_argument("--pieces", type=int, default=generate.PIECES, help=f"length of a program ({generate.PIECES})")
    p.add_argument("--keep", metavar="DIR", help="leave the images of failures there")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        for seed in range(a.start, a.start + a.seeds):
            if not test(seed, a.engines, a.pieces, tmp) and a.keep:
                os.makedirs(a.keep, exist_ok=True)
                shutil.move(os.path.join(tmp, f"program{seed}"), os.path.join(a.keep, f"program{seed}"))
            elif os.path.exists(os.path.join(tmp, f"program{seed}")):
                os.remove(os.path.join(tmp, f"program{seed}"))
    finish()


if __name__ == "__main__":
    main()
