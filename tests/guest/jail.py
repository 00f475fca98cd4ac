#!/usr/bin/env python3
"""A running machine sits in its jail: what the host says of its process."""
import glob
import os
import re
import tempfile
import time
from guest import linux, ok, finish, Timeout, PROMPT


def status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def targets(pid):
    out = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            out.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass
    return out


def inside(g):
    pid = g.process.pid
    ok("its threads are under a filter and get no new privileges",
       all(status(f"{pid}/task/{t}")["Seccomp"] == "2" and status(f"{pid}/task/{t}")["NoNewPrivs"] == "1"
           for t in os.listdir(f"/proc/{pid}/task")))
    ok("the processor's thread has no capabilities", int(status(pid)["CapEff"], 16) == 0, status(pid)["CapEff"])
    lacks = re.search(r"the jail lacks: .*", g.errors())
    if not lacks:
        ok("its root directory is empty", os.listdir(f"/proc/{pid}/root/") == [])
        ok("it has a network of its own", os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"))
    else:
        print("# " + lacks.group())
    allowed = r"pipe:|socket:|anon_inode:|/memfd:|/dev/null|(/proc)?/\d+/pagemap|.*/(vmlinuz|initramfs)|/tmp/|/dev/pts/"
    strange = [t for t in targets(pid) if not re.match(allowed, t)]
    ok("and no files but its own are open", not strange, strange)


def main():
    with linux(append="console=ttyS0 quiet") as g:
        try:
            g.expect(PROMPT, 170)
            inside(g)
            ok("the guest answers from inside", g.shell("echo $((40+2))", 20).strip() == "42", g.text[-300:])
        except Timeout as e:
            ok("boots", False, e)
    with linux("--jail", "off", append="console=ttyS0 quiet") as g:
        try:
            g.expect(PROMPT, 170)
            ok("--jail off leaves it out", status(g.process.pid)["Seccomp"] == "0", g.errors())
        except Timeout as e:
            ok("boots", False, e)
    with tempfile.TemporaryDirectory() as d:
        with linux("--serial", f"unix:{d}/s", append="console=ttyS0 quiet") as g:
            for _ in range(100):
                if glob.glob(d + "/s"):
                    break
                time.sleep(0.05)
            ok("the socket is there", glob.glob(d + "/s") == [d + "/s"])
            time.sleep(0.5)
            g.process.kill()
            g.process.wait()
            for _ in range(100):
                if not glob.glob(d + "/s"):
                    break
                time.sleep(0.05)
            ok("and gone when the monitor was killed", glob.glob(d + "/s") == [])
    finish()


if __name__ == "__main__":
    main()
