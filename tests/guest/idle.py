#!/usr/bin/env python3
"""A guest at its prompt uses under 2 % of a host core."""
import time
from guest import linux, ok, finish, Timeout, PROMPT

SECONDS = 10

if __name__ == "__main__":
    with linux(append="console=ttyS0 quiet") as g:
        try:
            g.expect(PROMPT, 170)
            time.sleep(4)  # what the kernel still does after boot
            before = g.cpu_seconds()
            time.sleep(SECONDS)
            used = (g.cpu_seconds() - before) / SECONDS * 100
            ok(f"idle at the prompt: {used:.2f} % of a core", used < 2)
            ok("and it still answers", g.shell("echo $((40+2))", 20).strip() == "42", g.text[-300:])
        except Timeout as e:
            ok("boots", False, e)
    finish()
