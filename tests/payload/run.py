#!/usr/bin/env python3
"""Run the bare-metal payloads and report their checks as TAP.

run.py [--engine NAME] [--cpus N,N...] [--long] [PAYLOAD...]

Environment: ECTYPE (the program, build/ectype), ECTYPE_ENGINE (the engine, else
auto), BUILD.
Those of several processors (mp*) run with each number of --cpus, where processors
take turns (the virtual clock, and interp always) and in parallel; --long gives
them more rounds, and mplitmus a million iterations of each test.

Each payload prints "PASS name", "FAIL name: ..." and "SKIP name" lines on the
serial port, then "DONE", and leaves through the debug-exit port.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
ECTYPE = os.environ.get("ECTYPE", os.path.join(BUILD, "ectype"))
OPTIONS = argparse.ArgumentParser(description=__doc__.splitlines()[0])
OPTIONS.add_argument("--engine", default=os.environ.get("ECTYPE_ENGINE", "auto"))
OPTIONS.add_argument("--cpus", default="2,4", help="for the payloads of several processors (2,4)")
OPTIONS.add_argument("--long", action="store_true", help="more rounds of these")
OPTIONS.add_argument("payloads", nargs="*", metavar="PAYLOAD")
OPTIONS = OPTIONS.parse_args()
ENGINE = OPTIONS.engine
LIMIT = 3600 if OPTIONS.long else 90
IS_QEMU = "qemu" in os.path.basename(ECTYPE)
failed = 0


def ok(name, good, detail=""):
    global failed
    failed += not good
    print(("ok - " if good else "not ok - ") + name + (f": {detail}" if detail and not good else ""), flush=True)


def run(image, *more, engine=ENGINE):
    command = [ECTYPE, "run", "--engine", engine, "--kernel", image, "--memory", "64M", "--serial", "stdio",
               "--debug-exit", "--no-reboot", *more]
    try:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
        return p.returncode, p.stdout.decode(errors="replace"), p.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b"").decode(errors="replace"), (e.stderr or b"").decode(errors="replace")


def report(name, image, *more):
    status, out, err = run(image, *more)
    done = False
    seen = {}
    for line in out.splitlines():
        m = re.match(r"(PASS|FAIL|SKIP|DONE) (.*)", line.strip())
        if not m:
            if line.strip():
                print("#", line.strip())
            continue
        word, text = m.groups()
        # "  and so on" continues the check above
        text = text.strip()
        if word == "DONE":
            done = True
        elif word == "SKIP":
            print(f"ok - {name}: {text} # SKIP not offered by this CPU model")
        else:
            ok(f"{name}: {text.replace('#', '')}", word == "PASS")
    how = "time limit" if status is None else f"exit status {status}"
    ok(f"{name}: ran to its end", done and status in (1, 3), f"{how}; {err.strip()[-400:]}")


def patched(path, old, new, folder):
    """A copy of the image with one constant replaced: takes a boot protocol's mark away."""
    with open(path, "rb") as f:
        data = f.read()
    assert data.count(old) == 1, path
    out = os.path.join(folder, "image")
    with open(out, "wb") as f:
        f.write(data.replace(old, new))
    return out


def boot(name, image):
    with tempfile.TemporaryDirectory() as tmp:
        module = os.path.join(tmp, "module")
        with open(module, "wb") as f:
            f.write(b"MODULE")
        note = b"".join(n.to_bytes(4, "little") for n in (4, 4, 18))
        other = b"".join(n.to_bytes(4, "little") for n in (4, 4, 99))
        report("multiboot", patched(image, note, other, tmp), "--initrd", module + " args here", "--append", "hello world")
        magic = (0x1BADB002).to_bytes(4, "little") + (3).to_bytes(4, "little")
        report("pvh", patched(image, magic, b"\0" * 8, tmp), "--initrd", module, "--append", "hello world")


def triple(name, image):
    status, out, err = run(image)
    ok("triple fault: status 1", status == 1, str(status))
    ok("triple fault: nothing ran behind it", "FAIL" not in out)
    ok("triple fault: named on stderr", "triple fault" in err.lower(), err[-200:])
    ok("triple fault: register dump", re.search(r"\bR?IP\b|\bEIP\b", err, re.I) and re.search(r"CR3", err, re.I), err[-200:])


def pv(name, image):
    report(name, image)
    report(name, image, "--pv", "off")


# NAME=VALUE that a payload of several processors is given: short, --long.
MP = {
    "mpstart64": ("rounds=100", "rounds=100000"),
    "mpipi64": ("rounds=50", "rounds=20000"),
    "mptlb64": ("rounds=10", "rounds=2000"),
    "mpcode64": ("rounds=10", "rounds=2000"),
    "mplock64": ("rounds=300", "rounds=100000"),
    "mplitmus64": ("iterations=50", "iterations=1000000"),
    "mprace64": ("rounds=5000", "rounds=200000"),
}


def ways(engine):
    """How N processors run: "turns" one at a time, "parallel" with a host thread each."""
    if IS_QEMU or engine == "kvm":  # no virtual clock
        return {"parallel": ()}
    return {"turns": ("--clock", "virtual"), **({"parallel": ()} if engine != "interp" else {})}


def several(name, image):
    for cpus in OPTIONS.cpus.split(","):
        for way, options in ways(ENGINE).items():
            append = f"cpus={cpus} " + MP[name][OPTIONS.long] + (" qemu=1" if IS_QEMU else "")
            if name == "mplitmus64" and way == "turns":
                append += " relaxed=0"
                if OPTIONS.long:
                    append = append.replace("1000000", "20000")
            if name == "mplitmus64" and way == "parallel" and OPTIONS.long:
                append += " relaxed=1"
            report(f"{name}, {cpus} {way}", image, "--cpus", cpus, "--append", append, *options)


def race(name, image):
    """Twice the same, and under the other engine: what is printed, instructions, the hash of the machine's state."""
    several(name, image)
    for cpus in OPTIONS.cpus.split(",") if "turns" in ways(ENGINE) else ():
        found = {}
        for engine in dict.fromkeys((ENGINE, "interp", ENGINE + " again")):
            with tempfile.TemporaryDirectory() as tmp:
                stats = os.path.join(tmp, "stats")
                status, out, err = run(image, "--cpus", cpus, "--clock", "virtual",
                                       "--append", MP[name][OPTIONS.long], "--stats=json:" + stats,
                                       engine=engine.split()[0])
                try:
                    with open(stats, encoding="utf-8") as f:
                        s = json.load(f)
                    found[engine] = (status, out, s["instructions"], s["state_hash"])
                except (OSError, KeyError, ValueError) as e:
                    found[engine] = (status, out, err, str(e), engine)
        first = found[ENGINE]
        ok(f"{name}, {cpus} in turns: the same from run to run", found[ENGINE + " again"] == first and first[0] == 1,
           f"{found}")
        ok(f"{name}, {cpus} in turns: the same under interp", found["interp"] == first, f"{found}")


SPECIAL = {"boot32": boot, "triple32": triple, "pv32": pv, "pv64": pv, **dict.fromkeys(MP, several), "mprace64": race}


def main():
    folder = os.path.join(BUILD, "tests/payload")
    names = OPTIONS.payloads or sorted(f for f in os.listdir(folder) if re.fullmatch(r"[a-z0-9]+(32|64)", f)
                                   and f != "cost64" and os.path.isfile(os.path.join(folder, f)))
    for name in names:
        SPECIAL.get(name, report)(name, os.path.join(folder, name))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
