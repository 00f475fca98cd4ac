#!/usr/bin/env python3
"""Includes point one way (docs/ARCHITECTURE.md, "Layers").

A file of a layer may include headers of its own layer and of those below. The
leaf headers, which know of nothing but base/, may be used from anywhere. dev/
and engine/ stand on the same floor and do not know of each other; so do the
layers on the machine.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
LEAVES = {"state/codec.h", "state/disk.h", "state/stream.h", "state/ram.h", "state/channel.h", "state/frame_list.h", "state/migration.h", "state/protection.h", "replay/door.h", "backend/chr/chr.h", "backend/block/block.h", "backend/net/net.h", "backend/vsock/vsock.h"}

# layer: the layers it stands on (their own foundations included)
BELOW = {
    "base": [],
    "isa": ["base"],
    "cpu": ["isa"],
    "mem": ["cpu"],
    "engine": ["mem"],
    "dev": ["mem"],
    "boot": ["mem", "dev"],
    "backend": ["mem", "dev"],
    "machine": ["engine", "dev", "boot", "backend"],
    "state": ["machine"],
    "replay": ["machine"],
    "gdb": ["machine"],
    "jail": ["base"],
    "ctl": ["machine"],
    "cli": ["state", "replay", "gdb", "ctl", "jail"],
}
# The codec and the door are leaves in their implementation as well.
LEAF_FILES = {"state/codec.h", "state/codec.c", "state/disk.h", "state/ram.h", "state/stream.h", "state/stream.c", "state/channel.h", "state/frame_list.h", "state/frame_list.c", "state/channel.c", "state/migration.h", "state/protection.h", "replay/door.h", "replay/door.c"}


def closure(layer):
    seen, todo = set(), [layer]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            todo += BELOW[at]
    return seen


def main():
    bad = []
    src = os.path.join(ROOT, "src")
    for folder, _, names in os.walk(src):
        for name in sorted(names):
            if not name.endswith((".c", ".h", ".S", ".inc")):
                continue
            path = os.path.relpath(os.path.join(folder, name), src)
            layer = path.split(os.sep)[0]
            if layer not in BELOW:
                bad.append(f"src/{path}: '{layer}' is no layer known to scripts/check-layers.py")
                continue
            allowed = {"base"} if path in LEAF_FILES else closure(layer)
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                text = f.read()
            for inc in INCLUDE.findall(text):
                target = inc if "/" in inc else os.path.relpath(os.path.join(folder, inc), src)
                if not os.path.exists(os.path.join(src, target)):
                    if not os.path.exists(os.path.join(folder, inc)):
                        continue  # generated, or a system header in quotes: the compiler judges
                    target = os.path.relpath(os.path.normpath(os.path.join(folder, inc)), src)
                to = target.split(os.sep)[0]
                if to not in allowed and target not in LEAVES:
                    bad.append(f"src/{path}: includes {inc}, which is not below '{layer}'")
    for line in bad:
        print("not ok - " + line)
    if not bad:
        print("ok - includes point one way")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
