#!/usr/bin/env python3
"""The bare-metal payloads (tests/payload) under two engines in step: payloads.py [--engines A,B] [--alternate N] [NAME...]."""
import argparse
import os
import re

from lockstep import BUILD, ENGINES, finish, lockstep, ok


def several(name, cpus):
    """Few rounds of the payloads of several processors: both machines are run in slices."""
    return ["--cpus", cpus, "--append", f"cpus={cpus} rounds=4 iterations=8 relaxed=0"] if name.startswith("mp") else []


def main():
    folder = os.path.join(BUILD, "tests/payload")
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--engines", default=ENGINES, help=f"two names ({ENGINES})")
    p.add_argument("--cpus", default="4", help="for the payloads of several processors (4)")
    p.add_argument("--alternate", metavar="N", help="the second machine changes its engine every N instructions")
    p.add_argument("names", nargs="*")
    a = p.parse_args()
    every = ["--every", a.alternate, "--alternate"] if a.alternate else ["--every", 10007]
    names = a.names or sorted(f for f in os.listdir(folder) if re.fullmatch(r"[a-z0-9]+(32|64)", f))
    if a.alternate:
        # reads through entries that it has not flushed: they go with their engine, as the architecture allows
        names = [n for n in names if n != "mptlb64"]
    for name in names:
        status, equal, text = lockstep(["--kernel", os.path.join(folder, name), "--memory", "64M", "--debug-exit",
                                        "--no-reboot", *every, *several(name, a.cpus)], 240 if a.alternate else 120, a.engines)
        end = r"triple fault$" if name == "triple32" else r"debug exit with status \d+$"
        ok(f"{a.engines}{' in turn' if a.alternate else ''}: {name}", status == 0 and equal and re.search(end, equal.group()),
           f"status {status}\n" + "\n".join(text.splitlines()[-100:]))
    finish()


if __name__ == "__main__":
    main()
