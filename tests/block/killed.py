#!/usr/bin/env python3
"""Writers of images killed with SIGKILL: killed.py [--rounds N] [--seed N].

Each round writes at random with flushes in between, and is killed: at a random
moment, or by strace at a thread's Nth write, so that the short moments between
the writes of tables are met, too. Then no check finds an error (leaks may be there), and every unit of
the disk reads a version not older than the last that a flush covered. The
image lives on over several rounds; between some of them qemu-img makes and
deletes snapshots in it, and the backing file shows through what was not
written.
"""
import argparse
import random
import shutil
import signal
import subprocess
import sys
import os

import blocktest
from blocktest import BLOCKIO, MIB, blockio, clean, run

LAYOUTS = (
    ["cluster=65536"], ["cluster=512", "refcount=64"], ["cluster=4096"], ["cluster=4096", "backing=base"],
    ["cluster=2097152"], ["cluster=512", "refcount=1"], ["cluster=8192", "lazy"], ["raw"],
)
ENGINES = ([], ["threads"], ["cache=none"])
WRITES = "pwritev,pwritev2"
LIFE = 5  # rounds of one image


def new_image(rng, layout):
    for f in ("image", "log"):
        if os.path.exists(f):
            os.unlink(f)
    size = rng.choice((2, 9, 40)) * MIB
    if layout == ["raw"]:
        with open("image", "wb") as f:
            f.truncate(size)
    else:
        with open("base", "wb") as f:  # all zero, as the first version of all that is not written
            f.truncate(size // 2)
        blockio("create", "image", size, *layout)


def one_round(rng, layout, engine):
    command = [BLOCKIO, "file=image", *engine, f"torture:{rng.randrange(1 << 30)}:log"]
    if rng.random() < 0.6:
        nth = int(1.5 ** rng.uniform(1, 14))
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={WRITES}",
                   "-e", f"inject={WRITES}:signal=SIGKILL:when={nth}", *command]
        seconds = 5
    else:
        seconds = rng.random() ** 2 * 0.6
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        out, _ = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)  # strace alone would leave the writer behind
        out, _ = p.communicate()
    assert p.returncode == -signal.SIGKILL, out
    blockio("file=image", "format=raw", "ro")  # waits until the kernel has let go of the file
    if layout != ["raw"]:
        clean("image", leaks=True)
        shutil.copy("image", "copy")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "copy", "copy.raw")
        blockio("file=copy.raw", "format=raw", "ro", "verify:log")
    if os.path.exists("log"):
        return int(blockio("file=image", *engine, "verify:log").stdout.split()[1])
    return 0


def snapshot(rng, number):
    """What is in the file is not known to log: only that it stays as it is."""
    run("qemu-img", "snapshot", "-c", f"s{number}", "image")
    run("qemu-img", "convert", "-l", f"s{number}", "-O", "raw", "image", f"snap{number}")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=30)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    seed = args.seed or random.randrange(1 << 30)
    rng = random.Random(seed)
    state = {"flushed": 0}

    def killed():
        layout, snaps = None, []
        for i in range(args.rounds):
            if i % LIFE == 0:
                layout = LAYOUTS[(i // LIFE + seed) % len(LAYOUTS)]
                snaps = []
                new_image(rng, layout)
            elif layout != ["raw"] and "refcount=1" not in layout and rng.random() < 0.3:
                snapshot(rng, i)
                snaps.append(i)
            engine = rng.choice(ENGINES)
            try:
                state["flushed"] += one_round(rng, layout, engine)
                for s in snaps:
                    run("qemu-img", "convert", "-l", f"s{s}", "-O", "raw", "image", "now")
                    assert blocktest.digest("now") == blocktest.digest(f"snap{s}"), f"snapshot {s} has changed"
            except AssertionError as e:
                raise AssertionError(f"seed {seed}, round {i}, {layout}, {engine}: {e}") from e
        assert state["flushed"], "no round came to a flush"

    status = blocktest.tests_main([killed])
    print(f"# seed {seed}: {args.rounds} rounds, {state['flushed']} flushed units verified")
    return status


if __name__ == "__main__":
    sys.exit(main())
