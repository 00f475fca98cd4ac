#!/usr/bin/env python3
"""A session of the real gdb: from the first instruction into the kernel."""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from guest import linux, ok, finish, skip, SLOW, IS_QEMU, Timeout

# Kernel text as linked, without KASLR; physically at 16 MiB, where its first
# instructions run on identity-mapped page tables.
STARTUP_64 = 0x1000000

SCRIPT = """
set pagination off
set confirm off
set architecture i386:x86-64
set remotetimeout 30
target remote {target}
echo == first\\n
info registers rip rsp eflags cs
x/2i $rip
stepi
echo == stepped\\n
info registers rip
hbreak *{startup}
continue
echo == startup\\n
info registers rip cr0 cr3 cr4 efer
x/4xb $rip
set $before = $rip
stepi
stepi
echo == after two steps\\n
printf "moved %d\\n", $rip != $before
delete
watch *(unsigned long *)0x1000
delete
x/4xg $rsp
set $rax = 0x123456789abcdef0
echo == rax\\n
info registers rax
info registers xmm0
echo == memory\\n
set var *(unsigned int *)0x500 = 0xfeedface
x/1xw 0x500
monitor help
echo == end\\n
kill
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def session(target_option, target):
    with linux("--gdb", target_option, append="console=ttyS0 nokaslr") as g:
        with tempfile.NamedTemporaryFile("w", suffix=".gdb") as f:
            f.write(SCRIPT.format(target=target, startup=hex(STARTUP_64)))
            f.flush()
            # the stub listens before it waits, but the process has to get there
            for _ in range(100):
                try:
                    if target_option.startswith("unix:"):
                        if os.path.exists(target_option[5:]):
                            break
                    else:
                        # a probe that connects would be taken for the client: look at the table instead
                        with open("/proc/net/tcp", encoding="ascii") as t:
                            if f":{int(target_option):04X} 00000000:0000 0A" in t.read():
                                break
                finally:
                    g.pump(0.05)
            try:
                p = subprocess.run(["gdb", "-nx", "-q", "-batch", "-x", f.name], stdin=subprocess.DEVNULL,
                                   capture_output=True, timeout=100 * SLOW)
                text = p.stdout.decode(errors="replace") + p.stderr.decode(errors="replace")
            except subprocess.TimeoutExpired as e:
                text = (e.stdout or b"").decode(errors="replace") + "\nTIME LIMIT"
        ended = g.wait(10)
    name = "gdb " + target_option.split(":")[0]

    def part(a, b):
        m = re.search(f"== {a}\n(.*?)== {b}\n", text, re.S)
        return m.group(1) if m else ""

    def has(what, pattern, where):
        ok(f"{name}: {what}", re.search(pattern, where), text[-2500:])

    has("registers at the first instruction", r"rip\s+0x[0-9a-f]+", part("first", "stepped"))
    first = re.search(r"rip\s+(0x[0-9a-f]+)", part("first", "stepped"))
    second = re.search(r"rip\s+(0x[0-9a-f]+)", part("stepped", "startup"))
    ok(f"{name}: a step moves on", first and second and first.group(1) != second.group(1), text[-1500:])
    has("hardware breakpoint in the kernel", rf"rip\s+{hex(STARTUP_64)}", part("startup", "after two steps"))
    if not IS_QEMU:
        has("control registers", r"cr3\s+0x[0-9a-f]+", part("startup", "after two steps"))
        has("EFER", r"efer\s+0x[0-9a-f]+", part("startup", "after two steps"))
        has("xmm0", r"v4_float|v4_int32|uint128", part("rax", "memory"))
        ok(f"{name}: kill ends the machine", ended is not None)
    has("two steps", r"moved 1", part("after two steps", "rax"))
    has("a register written", r"rax\s+0x123456789abcdef0", part("rax", "memory"))
    has("memory written", r"0xfeedface", part("memory", "end"))


if __name__ == "__main__":
    if not shutil.which("gdb"):
        skip("gdb", "no gdb here")
        sys.exit(0)
    port = free_port()
    session(str(port), f"127.0.0.1:{port}")
    if not IS_QEMU:
        with tempfile.TemporaryDirectory() as tmp:
            path = os.path.join(tmp, "gdb")
            session("unix:" + path, path)
    finish()
