#!/usr/bin/env python3
"""libectype-general calls nothing that could touch vector registers.

check-symbols.py BUILD

Its code runs while the guest's vector state is live in the host's registers
(src/cpu/fpu.h). The compiler is told to keep off them; this checks that it does
not call out to code which was compiled otherwise: every symbol that the library
leaves undefined must be defined by Ectype itself and be reached only after
fpu_park(), or be on the list below. It also looks at the instructions: none may
name a vector register, except in functions whose business that is.
"""
import os
import re
import subprocess
import sys

# What the general library may leave open, besides symbols of Ectype's own libraries.
ALLOWED = {
    "_GLOBAL_OFFSET_TABLE_",
    "__assert_fail",   # never returns
    "__stack_chk_fail",  # never returns
    "__tls_get_addr",
    "abort",
}
# Functions that save, load or run vector state on purpose.
VECTOR_FUNCTIONS = re.compile(r"^(fpu_|thunk_|host_fpu|vec_)")
VECTOR = re.compile(r"%[xyz]mm\d|%mm\d|\bf(xsave|xrstor|ld|st|add|mul|nstenv|ldenv)")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbols(archive, kind):
    """Names that `archive` defines (kind 'd') or needs ('u')."""
    names = set()
    if not os.path.exists(archive):
        return names
    for line in run("nm", "-A", archive).splitlines():
        parts = line.split(":")[-1].split()
        if len(parts) < 2:
            continue
        code, name = parts[-2], parts[-1]
        undefined = code in "Uw"
        if undefined == (kind == "u") and (undefined or code.isupper()):
            names.add(name)
    return names


def unthin(path):
    return path if os.path.exists(path) else None


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build"
    general = unthin(os.path.join(build, "src/libectype-general.a"))
    host = os.path.join(build, "src/libectype-host.a")
    if not general:
        print(f"not ok - {build}/src/libectype-general.a is not built")
        return 1
    bad = []
    open_names = symbols(general, "u") - symbols(general, "d") - symbols(host, "d") - ALLOWED
    bad += [f"the general library needs '{n}', which Ectype does not define" for n in sorted(open_names)]

    function = ""
    for line in run("objdump", "-d", "--no-show-raw-insn", general).splitlines():
        m = re.match(r"^[0-9a-f]+ <([^>]+)>:", line)
        if m:
            function = m.group(1)
        elif VECTOR.search(line) and not VECTOR_FUNCTIONS.match(function):
            bad.append(f"{function} uses vector registers: {line.strip()}")
            function += " (more)"
    for line in bad[:40]:
        print("not ok - " + line)
    if not bad:
        print("ok - nothing in libectype-general leaves the general registers")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
