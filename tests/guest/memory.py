#!/usr/bin/env python3
"""Memory of the monitor after a boot to the shell, by kind; a reset with the kernel's file as it was, and changed.

Beyond guest RAM and the code cache at most 20 MiB are resident.
"""
import os
import re
import shutil
import tempfile
from guest import PROMPT, cache, finish, is_guest_ram, linux, mappings, ok, skip, ENGINE

LIMIT = 20  # MiB
TABLES = 64 << 30  # bytes: an area as large as this is the translator's tables


def kind_of(m, tables):
    start, end, path = m["start"], m["end"], m["path"]
    if is_guest_ram(m):
        return "guest RAM"
    if "memfd:ectype-code" in path:
        return "code cache"
    if "memfd:ectype-thunks" in path:
        return "thunks"
    if path.startswith("/") and "memfd:" not in path:
        return "program and libraries"
    if path in ("[heap]", "[stack]"):
        return path.strip("[]")
    return "translation tables" if any(a <= start and end <= b for a, b in tables) else "pools, arena and the rest"


def reserved(maps):
    """Address ranges without holes that are larger than TABLES."""
    runs = []
    for m in maps:
        start, end = m["start"], m["end"]
        if m["path"] or is_guest_ram(m):
            continue
        if runs and runs[-1][1] == start:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    return [r for r in runs if r[1] - r[0] > TABLES]


def table(pid):
    """{kind: MiB}. Shared memory that is mapped twice counts once; files of the host only as far as changed."""
    maps, kinds = mappings(pid), {}
    tables = reserved(maps)
    for m in maps:
        kind = kind_of(m, tables)
        if "memfd:" in m["path"]:
            kinds[kind] = max(kinds.get(kind, 0), m["Rss"] / 1024)
        else:
            kinds[kind] = kinds.get(kind, 0) + m["Anonymous"] / 1024
    return kinds


def main():
    if not os.path.exists(cache("vmlinuz")):
        skip("memory", "no kernel")
        finish()
    if ENGINE == "interp":
        skip("memory", "the limit is the translator's: interp keeps decoded code in up to 64 MiB")
        finish()
    with tempfile.TemporaryDirectory() as tmp:
        kernel = shutil.copy(cache("vmlinuz"), os.path.join(tmp, "vmlinuz"))
        with linux(kernel=kernel, append="console=ttyS0", engine="dbt" if ENGINE == "auto" else ENGINE) as g:
            g.expect(PROMPT, 120)
            g.shell("sleep 1")
            kinds = table(g.process.pid)
            for kind, size in sorted(kinds.items(), key=lambda k: -k[1]):
                print(f"# {kind:28} {size:7.1f} MiB")
            own = sum(size for kind, size in kinds.items() if kind not in ("guest RAM", "code cache"))
            ok(f"at most {LIMIT} MiB beyond guest RAM and code cache, engine dbt", 1 < own <= LIMIT, f"{own:.1f} MiB")
            ok("guest RAM was found", kinds.get("guest RAM", 0) > 30, kinds)
            g.send("reboot -f\n")
            g.expect("Linux version", 120)
            g.expect(PROMPT, 120)
            ok("a reset reads the files again", True)
            with open(kernel, "r+b") as f:
                f.seek(1 << 20)
                f.write(b"changed")
            g.send("reboot -f\n")
            status = g.wait(60)
            ok("a reset with a changed kernel ends the machine with one line and status 1", status == 1 and
               re.search(r"^ectype: file .*vmlinuz has changed", g.errors(), re.M) and g.errors().count("\n") == 1,
               f"status {status}: {g.errors()}")
    finish()


if __name__ == "__main__":
    main()
