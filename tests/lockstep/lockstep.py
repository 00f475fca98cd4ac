"""What the lockstep tests share. Environment: ECTYPE, BUILD, ECTYPE_ENGINES (two names), ECTYPE_CACHE, ECTYPE_SLOW."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
ECTYPE = os.environ.get("ECTYPE", os.path.join(BUILD, "ectype"))
SLOW = float(os.environ.get("ECTYPE_SLOW", "1"))
# The engines that are compared: the reference first.
ENGINES = os.environ.get("ECTYPE_ENGINES", "interp,dbt")
_failed = 0


def ok(name, good, detail=""):
    """One test. `detail` is shown if it failed."""
    global _failed
    _failed += not good
    print(("ok - " if good else "not ok - ") + name, flush=True)
    if not good and detail:
        for line in str(detail).splitlines()[:120]:
            print("#   " + line, flush=True)
    return good


def finish():
    sys.exit(1 if _failed else 0)


def lockstep(args, limit, engines=ENGINES):
    """Status (None: time limit), the last line if the engines are equal, all that was said."""
    command = [ECTYPE, "lockstep", "--engines", engines, *[str(a) for a in args]]
    try:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=limit * SLOW)
        status, out = p.returncode, p.stdout
    except subprocess.TimeoutExpired as e:
        status, out = None, e.stdout or b""
    out = out.decode(errors="replace")
    equal = re.search(r"^\S+ and \S+ are equal: (\d+) instructions.*$", out, re.M)
    return status, equal, " ".join(command) + "\n" + out
