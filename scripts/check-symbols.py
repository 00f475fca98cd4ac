#!/usr/bin/env python3
"""libectype-general calls nothing that could touch vector registers.

check-symbols.py BUILD

Its code runs while the guest's vector state is live in the host's registers
(src/cpu/fpu.h). The compiler is told to keep off them; this checks that it does
not call out to code which was compiled otherwise: every symbol that the library
leaves undefined must be defined by Ectype itself and be reached only after
fpu_park(), or be on the list below. It also looks at the instructions: none may
name a vector register, except in functions whose business that is.

In a build with tail calls (src/engine/interp/interp.h, GO) it checks as well
that the engine's handlers go on to each other by jumps: a call would grow the
host's stack with every guest instruction.
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

# Objects with handlers, and the functions there which call through a pointer for another reason.
HANDLERS = re.compile(r"engine_interp_(ops_\w+|special)\.c\.o:")
INDIRECT_CALLERS = {
    "thunk_call",  # the thunk
    "repeat",      # the string instruction's element function; clang may inline it into the handlers:
    "movs_op", "stos_op", "lods_op", "scas_op", "cmps_op",
    "sys",         # sys_table
}
INDIRECT_CALL = re.compile(r"\bcall[q]?\s+\*")
# Functions of a handler's type that are gone to with TAIL.
TAIL_CALLED = re.compile(r"\bcall[q]?\s+[0-9a-f]+ <branch_unlinked>")


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


def tail_calls(build):
    """Was this build told to use them?"""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        return "-DECTYPE_TAIL_CALLS" in f.read()


def stack_growers(general):
    """Calls in the handlers' objects that should be jumps; and how many handlers' objects there are."""
    bad, objects, watched, function = [], 0, False, ""
    for line in run("objdump", "-d", "--no-show-raw-insn", general).splitlines():
        m = re.match(r"^[0-9a-f]+ <([^>]+)>:", line)
        if m:
            function = re.sub(r"\.(constprop|isra|part|cold).*", "", m.group(1))
        elif "file format" in line:
            watched = bool(HANDLERS.search(line))
            objects += watched
        elif watched and ((INDIRECT_CALL.search(line) and function not in INDIRECT_CALLERS) or TAIL_CALLED.search(line)):
            bad.append(f"{function} calls where it should jump: {line.strip()}")
    return bad, objects


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
    if tail_calls(build):
        growers, objects = stack_growers(general)
        if not objects:
            growers = ["no objects with handlers found"]
        for line in growers[:40]:
            print("not ok - " + line)
        if not growers:
            print("ok - handlers go on to each other by jumps")
        bad += growers
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
