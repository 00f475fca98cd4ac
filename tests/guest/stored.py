#!/usr/bin/env python3
"""Snapshots that older versions made, and one of this: they go on, and are what they were.

stored.py [--engine NAME]: tests/format/*.tar.xz, made by make.py there, in the engine and in `interp`.
"""
import glob
import os
import re
import sys
import tarfile
import tempfile

from guest import ECTYPE, ENGINE, ROOT, Guest, Timeout, finish, ok

sys.path.append(os.path.join(ROOT, "tests", "format"))
import make  # noqa: E402
from snapshot import control  # noqa: E402


def goes_on(what, kind, engine, *more):
    name = f"stored-{os.getpid()}-{engine}-{kind}-{len(more)}"
    try:
        with Guest(kind, "--name", name, *more, engine=engine, verb="restore") as g:
            g.send("g")
            g.expect(r"DONE \d+ checks", 60)
            g.wait(20)
            ok(f"{what}, {kind}, {engine} {' '.join(more)}", len(re.findall("^PASS", g.text, re.M)) >= 28 and
               "FAIL" not in g.text, g.text + g.errors())
    except Timeout as e:
        ok(f"{what}, {kind}, {engine} {' '.join(more)}", False, e)


def restored(what):
    for engine in dict.fromkeys((ENGINE, "interp")):
        for kind in make.KINDS:
            goes_on(what, kind, engine)
    goes_on(what, "inc", ENGINE, "--eager")
    status, out, err = control("snapshot", "--info", "--check", "inc")
    ok(f"{what}: --info --check", status == 0, out + err)


def main():
    archives = sorted(glob.glob(os.path.join(ROOT, "tests", "format", "*.tar.xz")))
    for path in [None] + archives:
        with tempfile.TemporaryDirectory() as folder:
            try:
                if path:
                    with tarfile.open(path) as tar:
                        tar.extractall(folder)
                else:
                    make.make(folder, ENGINE)
                os.chdir(folder)
                restored(os.path.basename(path)[:-7] if path else "this version's")
            except (Timeout, OSError) as e:
                ok(f"{path or 'a snapshot is made'}", False, e)
            finally:
                os.chdir(ROOT)
    finish()


if __name__ == "__main__":
    assert os.access(ECTYPE, os.X_OK)
    main()
