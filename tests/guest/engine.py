#!/usr/bin/env python3
"""--engine auto says on a terminal what it takes and why; without address space for translated code it goes on to interp."""
import os
import pty
import re
import subprocess
import sys
import tempfile
from guest import ECTYPE, IS_QEMU, SLOW, finish, multiboot, ok, skip

LEAVE = bytes.fromhex("b02a" "e6f4" "f4")  # mov al, 2ah; out 0f4h, al; hlt
STATUS = 0x2a << 1 | 1
LIMIT = 8000000  # KiB of address space: enough for a guest, not for the translator's reservations


def run(image, *more, terminal=False, limited=False):
    """Status and what was said on stderr."""
    command = [ECTYPE, "run", "--kernel", image, "--memory", "64M", "--serial", "none", "--debug-exit", *more]
    if limited:
        command = ["bash", "-c", f'ulimit -v {LIMIT}; exec "$@"', "bash", *command]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, timeout=20 * SLOW)
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:
        pass  # how a terminal ends
    os.close(ours)
    return p.returncode, text.decode(errors="replace").replace("\r", "")


def main():
    with tempfile.TemporaryDirectory() as tmp:
        image = multiboot(os.path.join(tmp, "image"), LEAVE)
        status, text = run(image, terminal=True)
        ok("auto takes dbt and says why", status == STATUS and re.fullmatch(
            r"ectype: engine dbt: .*no hardware virtualization needed(; not kvm: .*)?\n", text), f"{status} {text}")
        status, text = run(image)
        ok("not a word where nobody reads", status == STATUS and not text, f"{status} {text}")
        status, text = run(image, "--engine", "interp", terminal=True)
        ok("nor about an engine that was asked for", status == STATUS and not text, f"{status} {text}")
        for terminal in (False, True):
            status, text = run(image, terminal=terminal, limited=True)
            ok("ulimit -v: auto goes on to interp and says why" + (", on a terminal" if terminal else ""),
               status == STATUS and re.fullmatch(r"ectype: engine interp: .*not dbt: .*address space.*\n", text), f"{status} {text}")
        status, text = run(image, "--engine", "dbt", limited=True)
        ok("ulimit -v: dbt refuses with one line", status == 2 and re.fullmatch(r"ectype: .*dbt.*address space.*\n", text),
           f"{status} {text}")
    finish()


if __name__ == "__main__":
    if IS_QEMU:
        skip("engines", "not QEMU's")
        sys.exit(0)
    main()
