#!/usr/bin/env python3
"""Snapshots on disk: compressed, on a base, and a client that fails or is killed at any moment.

store.py [--engine NAME] [--rounds N] [--figures]

Whatever happens to the client, there is no directory under the snapshot's name
that is not whole, the machine goes on, and as long as the client lives it
removes what it had begun.
"""
import argparse
import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from guest import ECTYPE, ROOT, SLOW, Guest, Timeout, finish, linux, ok, skip
from snapshot import attempt, control, refused

MIB = 1 << 20
NAME = f"store{os.getpid()}"
KINDS = {"plain": (), "zstd": ("--compress",), "inc": ("--base", "plain"), "zinc": ("--base", "inc", "--compress=3"),
         "zplain": ("--base", "zinc")}


SUMS = ("md5sum </tmp/noise", "md5sum </dev/vda")


def size(path):
    return sum(os.stat(os.path.join(path, n)).st_blocks * 512 for n in os.listdir(path))


def save(folder, name, kind, limit=60, **how):
    """A snapshot of the machine; bases lie beside it."""
    args = [os.path.join(folder, a) if a in KINDS else a for a in KINDS[kind]]
    p = subprocess.run([ECTYPE, "snapshot", NAME, os.path.join(folder, name), *args], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=limit * SLOW, **how)
    return p.returncode, p.stdout, p.stderr


def info(path):
    return control("snapshot", "--info", "--check", path)


def kinds(folder, g):
    """Each kind, on the ones before; the guest writes in between."""
    sums = {}
    for n, kind in enumerate(KINDS):
        g.shell(f"dd if=/dev/urandom of=/tmp/noise bs=1M count=2 seek={n} conv=notrunc 2>/dev/null; "
                f"dd if=/dev/zero of=/tmp/noise bs=64k count=1 seek={n * 5} conv=notrunc 2>/dev/null; "
                f"dd if=/dev/urandom of=/dev/vda bs=1M count={4 - n % 4} seek={n} 2>/dev/null; "
                f"dd if=/dev/zero of=/dev/vda bs=50k count=9 seek={n * 19} 2>/dev/null")
        sums[kind] = [g.shell(c).split()[0] for c in SUMS]
        status, out, err = save(folder, kind, kind)
        ok(f"{kind}: saved", status == 0, err)
        print("#   " + out.strip(), flush=True)
    whole, sizes = size(os.path.join(folder, "plain")), {k: size(os.path.join(folder, k)) for k in KINDS}
    ok("compressed is smaller", sizes["zstd"] < 0.8 * whole, sizes)
    ok("what differs from a base is a small part", all(sizes[k] < whole / 3 for k in ("inc", "zinc", "zplain")), sizes)
    return sums


def restored(folder, kind, sums, *more):
    with Guest(os.path.join(folder, kind), "--name", NAME + kind, *more, verb="restore") as g:
        g.send("\n")
        g.expect(r"# ", 60)
        now = [g.shell(c).split()[0] for c in SUMS]
        ok(f"{kind}: goes on with the memory and the disk it had", now == sums, f"{sums} {now}")
        g.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=1 seek=3 2>/dev/null; sync")
        before = g.number("/tmp/count")
        time.sleep(0.5)
        ok(f"{kind}: a process goes on counting", g.number("/tmp/count") > before)
        bad = g.shell("dmesg | grep -cE 'BUG|Oops|soft lockup|rcu.*stall'")
        ok(f"{kind}: the kernel has no complaint", bad.strip() == "0")
        control("stop", NAME + kind, "--force")


def looked_at(folder):
    status, out, err = info(os.path.join(folder, "zplain"))
    ok("--info --check names the chain", status == 0 and len(re.findall(r"^base ", out, re.M)) == 3 and
       "all of it is there" in out and re.search(r"zstd.*differ", out) and re.search("^disk .*qcow2", out, re.M), out + err)
    refused("--info of no snapshot", ["snapshot", "--info", folder], "is no snapshot")
    refused("no level", ["snapshot", NAME, os.path.join(folder, "x"), "--compress=20"], "1 to 19")
    refused("no base", ["snapshot", NAME, os.path.join(folder, "x"), "--base", folder], "is no snapshot")
    refused("--check alone", ["snapshot", NAME, "--check"], "--info")


def flip(path):
    with open(path, "r+b") as f:
        for at in range(0, 256 * MIB, 2 * MIB):
            f.seek(at)
            byte = f.read(1)
            f.seek(at)
            f.write(bytes([byte[0] ^ 1]))


def damage(folder):
    """Files of a compressed snapshot on a base changed, cut, gone: one line, before the machine starts."""
    path, rng = os.path.join(folder, "zinc"), random.Random(3)
    bad = []

    def attempts(what, *more):
        status, out, err, _ = attempt(path, *more)
        if status != 2 or err.count("\n") != 1 or out:
            bad.append(f"{what}: status {status}, {err[-300:]!r}")

    for name in ("state", "ram.zst"):
        file = os.path.join(path, name)
        whole = open(file, "rb").read()
        for n in range(8):
            at = rng.randrange(len(whole))
            with open(file, "wb") as f:
                f.write(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1:] if n % 2 else whole[:at])
            attempts(f"{name} at {at} of {len(whole)}")
        with open(file, "wb") as f:
            f.write(whole)
    ok("what is compressed is refused when it is damaged", not bad, "\n".join(bad))
    os.rename(os.path.join(folder, "inc"), os.path.join(folder, "away"))
    refused("a base that is not there", ["restore", path], "the base of snapshot")
    shutil.copytree(os.path.join(folder, "zplain"), os.path.join(folder, "inc"))
    refused("another one in its place", ["restore", path], "changed or replaced")
    shutil.rmtree(os.path.join(folder, "inc"))
    os.rename(os.path.join(folder, "away"), os.path.join(folder, "inc"))
    status, _, err, _ = attempt(path, "--eager")
    ok("and all is well as it was", status == 0, err)
    # in many places: some frames are those of snapshots above it
    ram = os.path.join(folder, "plain", "ram")
    flip(ram)
    refused("changed bytes of the base's RAM, with --eager", ["restore", path, "--eager"], "checksum")
    refused("and with --check", ["snapshot", "--info", path, "--check"], "checksum")
    flip(ram)


def alive(g):
    return "alive" in g.shell("echo al''ive", 90)


def fails(name, folder, g, got, words):
    """A client that cannot write says so in a line, leaves nothing, and the machine goes on."""
    status, out, err = got
    left = [n for n in os.listdir(folder) if n.startswith("fails")] if os.path.isdir(folder) else []
    ok(name, status in (1, 2) and err.count("\n") == 1 and re.search(words, err) and not out and not left and alive(g),
       f"status {status}, {out} {err} left {left}")


def remove_when_there(folder, prefix, done):
    while not done.is_set():
        for n in os.listdir(folder):
            if n.startswith(prefix):
                shutil.rmtree(os.path.join(folder, n), ignore_errors=True)
        time.sleep(0.002)


def faults(folder, g):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20 * MIB, 20 * MIB))  # noqa: E731
    for kind in ("plain", "zstd"):
        fails(f"{kind}: a file may not be larger", folder, g, save(folder, "fails", kind, preexec_fn=limit), "File too large")
    fails("a directory that is not there", folder, g, save(folder + "/none", "fails", "plain"), "No such file")
    done = threading.Event()
    t = threading.Thread(target=remove_when_there, args=(folder, "fails", done))
    t.start()
    got = save(folder, "fails", "plain")
    done.set()
    t.join()
    fails("the directory disappears", folder, g, got, "No such file|machine")
    small = os.path.join(folder, "small")
    os.mkdir(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], capture_output=True).returncode:
        skip("a full disk; one that is read-only", "mounting is not allowed")
        return
    try:
        for kind in ("plain", "zstd"):
            fails(f"{kind}: a full disk", small, g, save(small, "fails", kind), "No space left")
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        fails("a disk that is read-only", small, g, save(small, "fails", "plain"), "Read-only")
    finally:
        subprocess.run(["umount", small], check=True)


def calls(folder, g, rounds):
    """Every kind of call that changes a file fails, or is the client's last one."""
    lib, count, path = (os.path.join(folder, n) for n in ("failcall.so", "count", "call"))
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", lib, os.path.join(ROOT, "tests/guest/failcall.c")], check=True)

    def attempt_at(kind, at, error):
        env = {**os.environ, "LD_PRELOAD": lib, "FAIL_AT": str(at), "FAIL_ERRNO": str(error), "FAIL_COUNT": count}
        return save(folder, "call", kind, env=env)

    rng, bad, whole = random.Random(5), [], 0
    for kind in ("plain", "inc") if rounds < 10 else ("plain", "zstd", "inc", "zinc"):
        status, _, err = attempt_at(kind, 0, 0)
        with open(count, encoding="ascii") as f:
            n = int(f.read())
        ok(f"{kind}: {n} calls that change files", status == 0 and n > 6, err)
        shutil.rmtree(path)
        last = range(max(1, n - 6), n + 1)
        for at in sorted({*range(1, 5), *last, *(rng.randrange(1, n + 1) for _ in range(rounds))}):
            for error in (errno.EIO, 0):
                status, out, err = attempt_at(kind, at, error)
                left = [name for name in os.listdir(folder) if name.startswith("call")]
                good = "call" in left and info(path)[0] == 0
                whole += good
                if ("call" in left) != good or (error and not good and (left or status not in (1, 2) or err.count("\n") != 1)):
                    bad.append(f"{kind}, call {at} of {n}, errno {error}: status {status}, {err!r}, left {left}")
                for name in left:
                    shutil.rmtree(os.path.join(folder, name))
    ok(f"clients whose calls fail, or that end there: what is there is whole ({whole} were)", not bad, "\n".join(bad))
    ok("the machine has gone on meanwhile", alive(g))


def killed(folder, g, rounds):
    rng, whole, bad = random.Random(), 0, []
    took = {}
    for kind in ("plain", "zstd", "inc"):
        start = time.monotonic()
        save(folder, "timed", kind)
        took[kind] = time.monotonic() - start
        shutil.rmtree(os.path.join(folder, "timed"))
    for n in range(rounds):
        kind, sig = rng.choice(list(took)), rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        args = [os.path.join(folder, a) if a in KINDS else a for a in KINDS[kind]]
        path = os.path.join(folder, "killed")
        p = subprocess.Popen([ECTYPE, "snapshot", NAME, path, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, took[kind] * 1.1))
        p.send_signal(sig)
        p.wait()
        left = [name for name in os.listdir(folder) if name.startswith("killed")]
        if "killed" in left:
            whole += 1
            status, _, err = info(path)
            if status:
                bad.append(f"round {n}, {kind}: {err}")
        if sig == signal.SIGTERM and [name for name in left if name != "killed"]:
            bad.append(f"round {n}: SIGTERM leaves {left}")
        for name in left:
            shutil.rmtree(os.path.join(folder, name))
    ok(f"{rounds} clients killed: what is there is whole ({whole} were)", not bad, "\n".join(bad))
    ok("the machine goes on", alive(g))
    status, _, err = save(folder, "after", "plain")
    ok("and can be saved", status == 0, err)


def figures(folder):
    """Sizes and times; not a test, hosts differ."""
    with linux("--name", NAME, memory="512M") as g:
        g.expect(r"# ", 120)
        g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=8 2>/dev/null")
        for name, kind in (("plain", "plain"), ("zstd", "zstd"), ("inc", "inc"), ("zinc", "zinc")):
            start = time.monotonic()
            save(folder, name, kind)
            print(f"#   {name}: {time.monotonic() - start:.2f} s, {size(os.path.join(folder, name)) / MIB:.1f} MiB", flush=True)
    for name in ("plain", "zstd", "inc", "zinc"):
        for more in ((), ("--eager",)):
            times = []
            for _ in range(9):
                times += [float(x) for x in re.findall(r"restored in ([0-9.]+) ms", attempt(os.path.join(folder, name), "--verbose", *more)[2])]
            print(f"#   {name} {' '.join(more)}: first instruction after {sorted(times)} ms", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=10)
    p.add_argument("--figures", action="store_true")
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if o.figures:
            figures(folder)
            finish()
        try:
            with open(os.path.join(folder, "disk.raw"), "wb") as f:
                f.truncate(16 * MIB)
            with linux("--name", NAME, "--disk", os.path.join(folder, "disk.raw"), memory="256M") as g:
                g.expect(r"# ", 120)
                g.shell("dd if=/dev/urandom of=/tmp/noise bs=1M count=24 2>/dev/null")
                g.shell("(n=0; while :; do n=$((n+1)); echo $n >/tmp/count; usleep 1000; done) & true")
                sums = kinds(folder, g)
                looked_at(folder)
                damage(folder)
                faults(folder, g)
                calls(folder, g, o.rounds // 5)
                killed(folder, g, o.rounds)
            for kind, more in (("zstd", ()), ("zinc", ()), ("zplain", ()), ("inc", ("--eager",))):
                restored(folder, kind, sums[kind], *more)
        except Timeout as e:
            ok("a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
