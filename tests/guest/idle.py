#!/usr/bin/env python3
"""A guest at its prompt uses under 2 % of a host core; one of four processors under 4 %."""
import time
from guest import linux, ok, finish, Timeout, PROMPT

SECONDS = 10


def idle(cpus, most):
    name = f"{cpus} processor{'s' if cpus > 1 else ''}"
    with linux("--cpus", cpus) as g:
        try:
            g.expect(PROMPT, 170)
            time.sleep(4)  # what the kernel still does after boot
            before = g.cpu_seconds()
            time.sleep(SECONDS)
            used = (g.cpu_seconds() - before) / SECONDS * 100
            ok(f"{name}, idle at the prompt: {used:.2f} % of a core", used < most)
            ok("and it still answers", g.shell("nproc", 20).strip() == str(cpus), g.text[-300:])
        except Timeout as e:
            ok(f"{name}: boots", False, e)


if __name__ == "__main__":
    idle(1, 2)
    idle(4, 4)
    finish()
