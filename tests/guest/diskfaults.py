#!/usr/bin/env python3
"""Disks that fail under their machine: bad sectors, flushes that fail, files cut off or deleted.

A loop device over a file that is cut off has bad sectors; one whose file
system is full takes writes into the host's page cache and fails when they are
flushed. The guest must see I/O errors where there are some and nowhere else,
the monitor says so in one line, and the machine goes on.
"""
import os
import subprocess
import tempfile
from guest import linux, ok, skip, finish, PROMPT, Timeout

MIB = 1 << 20
ERROR = "I/O error"


def tool(*args):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True,
                       env={**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"})
    return p.returncode, (p.stdout + p.stderr).strip()


class Loop:
    """A loop device of `size` bytes over a sparse file in `folder`."""

    def __init__(self, folder, size):
        self.file = os.path.join(folder, "loop")
        with open(self.file, "wb") as f:
            f.truncate(size)
        status, self.path = tool("losetup", "-f", "--show", self.file)
        if status:
            raise PermissionError(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        tool("losetup", "-d", self.path)
        os.unlink(self.file)
        return False


def read(g, mib):
    return g.shell(f"dd if=/dev/vda of=/dev/null bs=1M skip={mib} count=1 iflag=direct 2>&1")


def end(g):
    g.send("poweroff\n")
    return g.wait(30), g.errors()


def bad_sectors(folder):
    """The device is whole when it is opened; then all behind 8 MiB is gone."""
    for fmt in ("raw", "qcow2"):
        for cache in ("writeback", "none"):
            with Loop(folder, 48 * MIB) as loop:
                source = os.path.join(folder, "source")
                with open(source, "wb") as f:
                    f.write(os.urandom(32 * MIB))
                code, out = tool("qemu-img", "convert", "-n" if fmt == "raw" else "-q", "-O", fmt, source, loop.path)
                if code:
                    skip(f"{fmt}, {cache}: bad sectors", "no qemu-img: " + out)
                    continue
                tool("blockdev", "--flushbufs", loop.path)
                with linux("--disk", f"{loop.path},format={fmt},cache={cache}") as g:
                    g.expect(PROMPT, 60)
                    os.truncate(loop.file, 8 * MIB)
                    tool("blockdev", "--flushbufs", loop.path)
                    good, bad, more, again = (read(g, m) for m in (2, 20, 21, 3))
                    sums = g.shell("dd if=/dev/vda bs=1M skip=2 count=1 iflag=direct 2>/dev/null | sha256sum")
                    status, said = end(g)
                with open(source, "rb") as f:
                    f.seek(2 * MIB)
                    want = subprocess.run(["sha256sum"], input=f.read(MIB), capture_output=True).stdout[:64].decode()
            name = f"{fmt}, cache={cache}: "
            ok(name + "bad sectors are I/O errors", all(ERROR in x and "1+0 records out" not in x for x in (bad, more)), bad + more)
            ok(name + "good ones are read", all("1+0 records out" in x and ERROR not in x for x in (good, again)) and want in sums,
               good + again + sums)
            ok(name + "one line says so, the machine goes on", status == 0 and said.count("the guest sees an I/O error") == 1 and
               len(said.strip().splitlines()) == 1, f"status {status}: {said}")


def failing_flush(folder):
    """The page cache takes what the disk has no room for; that it is lost comes out at the flush, and stays so."""
    small = os.path.join(folder, "small")
    os.mkdir(small)
    if tool("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small)[0]:
        raise PermissionError("mount")
    try:
        with Loop(small, 64 * MIB) as loop:
            with linux("--disk", f"{loop.path},format=raw,cache=writeback") as g:
                g.expect(PROMPT, 60)
                first = g.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=2 conv=fsync 2>&1")
                lost = g.shell("dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=24 conv=fsync 2>&1")
                later = g.shell("dd if=/dev/urandom of=/dev/vda bs=4k count=1 conv=fsync 2>&1")
                log = g.shell("dmesg | grep vda | tail -n 5")
                status, said = end(g)
        ok("a flush that has room succeeds", "2+0 records out" in first and ERROR not in first, first)
        ok("a flush that loses data fails", ERROR in lost, lost + log)
        ok("and so does each one after it", ERROR in later, later + log)
        ok("lines say so, the machine goes on", status == 0 and "flush at byte" in said, f"status {status}: {said}")
    finally:
        tool("umount", small)


def deleted(folder):
    path = os.path.join(folder, "deleted")
    with open(path, "wb") as f:
        f.write(os.urandom(4 * MIB))
    with linux("--disk", path + ",format=raw") as g:
        g.expect(PROMPT, 60)
        before = g.shell("sha256sum </dev/vda")
        os.unlink(path)
        g.shell("echo 3 >/proc/sys/vm/drop_caches")
        after = g.shell("sha256sum </dev/vda")
        written = g.shell("dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync 2>&1")
        status, said = end(g)
    ok("a deleted file is there until the machine ends", before == after and "1+0 records out" in written and ERROR not in written and
       status == 0 and not said.strip(), before + after + written + said)


def main():
    # not /tmp, which may be a tmpfs without O_DIRECT
    with tempfile.TemporaryDirectory(prefix="ectype-faults-", dir="/var/tmp") as folder:
        for test in (bad_sectors, failing_flush, deleted):
            try:
                test(folder)
            except PermissionError as e:
                skip(test.__name__, f"no right to make loop devices and mounts: {e}")
            except Timeout as e:
                ok(test.__name__, False, e)
    finish()


main()
