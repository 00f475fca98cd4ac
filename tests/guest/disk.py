#!/usr/bin/env python3
"""Disks: file systems, discard, readonly, snapshot, locks, errors of the host, by a guest's virtio-blk.

Images are raw and qcow2; what qemu-img and e2fsck say of them afterwards counts, where they are installed.
"""
import hashlib
import os
import shutil
import subprocess
import tempfile
from guest import cache, linux, make_initramfs, toolbox, section, ok, skip, finish, run_to_end, read_json, PROMPT, ENGINE, ECTYPE, Timeout

MIB = 1 << 20

# A file system made, filled, checked after the caches are dropped, emptied and trimmed.
FILL = r"""#!/bin/sh
set -e
echo "== geometry"
cat /sys/block/vda/size /sys/block/vda/serial; echo
cat /sys/block/vda/queue/physical_block_size
echo "== mkfs"
mke2fs -q -t ext4 -E lazy_itable_init=0 /dev/vda
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt
for i in 1 2 3 4; do head -c 8000000 /dev/urandom >/mnt/random$i; done
cp -r /usr/lib/python3.11/json /mnt/keep
(cd /mnt; sha256sum random* keep/*.py >/tmp/sums)
sync
umount /mnt
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt
cd /mnt
echo "== sums"
sha256sum --quiet -c /tmp/sums && echo "sums are good"
echo "== written"
rm random*
sync
cd /
fstrim -v /mnt
umount /mnt
echo "== end"
"""


def have(*tools):
    return all(shutil.which(t, path=os.environ["PATH"] + ":/sbin:/usr/sbin") for t in tools)


def tool(*args):
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"}
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, env=env)
    return p.returncode, p.stdout + p.stderr


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def sparse(path, size):
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def used(path):
    return os.stat(path).st_blocks * 512


def make(folder, fmt, size):
    path = os.path.join(folder, "disk." + fmt)
    if fmt == "raw":
        return sparse(path, size)
    status, out = tool("qemu-img", "create", "-q", "-f", fmt, path, size)
    if status:
        raise RuntimeError(out)
    return path


def file_system(folder, fmt):
    size = 256 * MIB
    path = make(folder, fmt, size)
    stats = os.path.join(folder, "stats.json")
    with toolbox(folder, {"run.sh": FILL}, "--disk", f"{path},format={fmt},serial=ECTYPE-1", "--stats=json:" + stats) as g:
        out = g.expect(r"== written\r?\n", 240)
        full = used(path)
        out += g.expect(r"toolbox: exit status \d+", 120)
        status = g.wait(30)
        errors = g.errors()
    ok(f"{fmt}: the guest makes a file system and powers off", status == 0 and "exit status 0" in out, f"{status}\n{out}\n{errors}")
    ok(f"{fmt}: size, serial number and block size",
       section(out, "geometry").split() == [str(size // 512), "ECTYPE-1", "4096"], section(out, "geometry"))
    ok(f"{fmt}: what was written is read", "sums are good" in section(out, "sums"), section(out, "sums"))
    ok(f"{fmt}: fstrim gives space back to the host", full > 32 * MIB and used(path) < full - 24 * MIB,
       f"{full >> 20} MiB before, {used(path) >> 20} MiB after")
    d = read_json(stats)["disks"][0]
    ok(f"{fmt}: figures", d["id"] == "disk0" and d["format"] == fmt and d["written_bytes"] > 30 * MIB and
       d["read_bytes"] > 30 * MIB and d["flushes"] and d["discards"] and not d["errors"], d)
    raw = path
    if fmt != "raw":
        status, out = tool("qemu-img", "check", path)
        ok(f"{fmt}: qemu-img check", status == 0, out)
        raw = os.path.join(folder, "converted.raw")
        tool("qemu-img", "convert", "-O", "raw", path, raw)
    if have("e2fsck"):
        status, out = tool("e2fsck", "-fn", raw)
        ok(f"{fmt}: e2fsck finds nothing", status == 0, out)
    return path


def readonly_and_snapshot(path, fmt):
    before = digest(path)
    with linux("--disk", f"{path},readonly") as g:
        g.expect(PROMPT, 60)
        ro = g.shell("cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=4k count=1 2>&1; mount -t ext4 -o ro /dev/vda /tmp && "
                     "ls /tmp/keep; umount /tmp")
        g.send("poweroff\n")
        status = g.wait(30)
    ok(f"{fmt}: readonly", status == 0 and ro.split("\n")[0].strip() == "1" and "not permitted" in ro and "decoder.py" in ro, ro)
    ok(f"{fmt}: readonly leaves the file as it is", digest(path) == before)
    with linux("--disk", f"{path},snapshot") as g:
        g.expect(PROMPT, 60)
        out = g.shell("mount -t ext4 /dev/vda /tmp && head -c 3000000 /dev/urandom >/tmp/x && sum=$(md5sum </tmp/x); sync; umount /tmp; "
                      "echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/vda /tmp && [ \"$sum\" = \"$(md5sum </tmp/x)\" ] && echo sa''me; umount /tmp; "
                      "dd if=/dev/zero of=/dev/vda bs=1M count=4 oflag=direct 2>&1")
        g.send("poweroff\n")
        status = g.wait(30)
    ok(f"{fmt}: snapshot is written and read", status == 0 and "same" in out and "4+0 records out" in out, out)
    ok(f"{fmt}: snapshot leaves the file as it is", digest(path) == before)


def refuses(name, args, *words, user=None):
    """One line and status 2; `user`: what an unprivileged one is told."""
    args = ["run", "--engine", ENGINE, "--serial", "none", *args]
    status, out, err, _ = run_to_end(args, 10) if user is None else as_user(user, args)
    lines = err.strip().splitlines()
    ok(name, status == 2 and len(lines) == 1 and not out and all(w in err for w in words), f"status {status}: {err}{out}")


def as_user(user, args):
    p = subprocess.run(["setpriv", f"--reuid={user}", "--clear-groups", ECTYPE, *args], stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=30)
    return p.returncode, p.stdout, p.stderr, 0


def foreign(folder):
    """Images of other programs are named and left alone."""
    if not have("qemu-img"):
        return skip("images of other formats", "no qemu-img")
    secret = ["--object", "secret,id=s,data=1234"]
    for fmt, word, options in (("vmdk", "VMDK", []), ("vdi", "VDI", []), ("vhdx", "VHDX", []), ("vpc", "VHD", []), ("qed", "QED", []),
                               ("qcow", "version 1", []), ("parallels", "Parallels", []),
                               ("luks", "LUKS", [*secret, "-o", "key-secret=s,iter-time=10"])):
        path = os.path.join(folder, "other." + fmt)
        status, out = tool("qemu-img", "create", "-q", "-f", fmt, *options, path, "8M")
        if status:
            skip(f"an image of the format {fmt}", out)
            continue
        before = digest(path), sorted(os.listdir(folder))
        refuses(f"an image of the format {fmt} is named", ["--disk", path], path, word, "qemu-img convert", "format=raw")
        refuses("also as qcow2", ["--disk", path + ",format=qcow2"], path, word)
        ok("and is left as it is", (digest(path), sorted(os.listdir(folder))) == before)
        if fmt == "vdi":
            with linux("--disk", path + ",format=raw") as g:
                g.expect(PROMPT, 60)
                ok("format=raw takes it as it is", "Virtual Disk Image" in g.shell("head -c 64 /dev/vda"))
        os.unlink(path)


def bad_files(folder):
    """What cannot be opened, and why."""
    other = sparse(os.path.join(folder, "other"), MIB)
    if os.geteuid() == 0 and have("setpriv"):
        kernel = shutil.copy(cache("vmlinuz"), folder)
        for path, mode in ((folder, 0o755), (os.path.dirname(folder), 0o755), (kernel, 0o644), (other, 0o600)):
            os.chmod(path, mode)
        refuses("a file without permission", ["--kernel", kernel, "--disk", other], other, "cannot open", user=65534)
        os.chmod(other, 0o644)
        refuses("a file to be read only", ["--kernel", kernel, "--disk", other], other, "'readonly'", user=65534)
    fifo = os.path.join(folder, "fifo")
    os.mkfifo(fifo)
    refuses("a FIFO", ["--disk", fifo], fifo, "regular file")
    refuses("a character device", ["--disk", "/dev/null"], "/dev/null", "regular file")
    if have("qemu-img"):
        overlay = os.path.join(folder, "overlay")
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", other, "-F", "raw", overlay)
        os.unlink(other)
        before = digest(overlay), sorted(os.listdir(folder))
        refuses("a backing file that is not there", ["--disk", overlay], "other", f"backs {overlay}")
        ok("and nothing was changed", (digest(overlay), sorted(os.listdir(folder))) == before)
        os.unlink(overlay)
    else:
        os.unlink(other)
    os.unlink(fifo)


def refused(folder, path, fmt):
    """One line, status 2, nothing changed."""
    other = sparse(os.path.join(folder, "other"), MIB)
    with linux("--disk", path) as g:
        g.expect(PROMPT, 60)
        refuses(f"{fmt}: a second machine on the disk", ["--disk", path], path, "uses this image")
        refuses(f"{fmt}: a second machine that only reads it", ["--disk", path + ",readonly"], path, "uses this image")
        if have("qemu-img"):
            ok(f"{fmt}: QEMU honours the lock", tool("qemu-io", "-f", fmt, "-c", "write 0 512", path)[0] != 0)
        g.send("poweroff\n")
        g.wait(30)
    refuses(f"{fmt}: given twice", ["--disk", path, "--disk", path], path)
    with linux("--disk", path + ",readonly") as a, linux("--disk", path + ",readonly", "--disk", path + ",snapshot") as b:
        a.expect(PROMPT, 60)
        b.expect(PROMPT, 60)
        ok(f"{fmt}: readers share it", "vdb" in b.shell("cat /proc/partitions") and "vda" in a.shell("cat /proc/partitions"))
    if fmt != "raw":
        return
    before = digest(other)
    refuses("a raw image is no qcow2 image", ["--disk", other + ",format=qcow2"], other, "qcow2 image")
    ok("and is left as it is", digest(other) == before)
    refuses("a missing image", ["--disk", os.path.join(folder, "absent")], "absent")
    ok("is not made", not os.path.exists(os.path.join(folder, "absent")))
    refuses("a directory", ["--disk", folder], folder)
    refuses("two disks of one name", ["--disk", other + ",readonly,id=a", "--disk", other + ",readonly,id=a"], "'a'")
    refuses("a setting that does not exist", ["--disk", other + ",size=3"], "size=3")


def full_host(folder):
    """A full file system on the host is an I/O error of the guest, and the machine goes on."""
    mount = os.path.join(folder, "small")
    os.mkdir(mount)
    if tool("mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", mount)[0]:
        return skip("full host disk", "no right to mount")
    try:
        for fmt in ("raw", "qcow2") if have("qemu-img") else ("raw",):
            path = make(mount, fmt, 64 * MIB)
            with linux("--disk", f"{path},format={fmt}") as g:
                g.expect(PROMPT, 60)
                first = g.shell("head -c 2097152 /dev/urandom >/tmp/r; dd if=/tmp/r of=/dev/vda bs=1M oflag=direct 2>&1")
                out = g.shell("dd if=/dev/zero bs=1M count=32 | tr '\\0' x | dd of=/dev/vda bs=1M seek=4 oflag=direct 2>&1")
                again = g.shell("dd if=/dev/vda bs=1M count=2 iflag=direct 2>/dev/null | cmp - /tmp/r && echo sa''me")
                g.send("poweroff\n")
                status = g.wait(30)
                said = g.errors()
            ok(f"{fmt}: a full host disk is an I/O error", "2+0 records out" in first and ("I/O error" in out or "No space" in out), first + out)
            ok(f"{fmt}: what was written before is there, the machine goes on", status == 0 and "same" in again, again)
            ok(f"{fmt}: one line says why", said.count("the guest sees an I/O error") == 1, said)
            if fmt == "qcow2":
                code, text = tool("qemu-img", "check", path)
                ok("qcow2: and no corruption", code in (0, 3), text)  # 3: leaked clusters
            os.unlink(path)
    finally:
        tool("umount", mount)


def truncated(folder):
    path = sparse(os.path.join(folder, "short"), 64 * MIB)
    with linux("--disk", path + ",format=raw") as g:
        g.expect(PROMPT, 60)
        os.truncate(path, 2 * MIB)
        bad = g.shell("dd if=/dev/vda of=/dev/null bs=1M skip=32 count=1 iflag=direct 2>&1")
        good = g.shell("dd if=/dev/vda of=/dev/null bs=1M count=1 iflag=direct 2>&1")
        g.send("poweroff\n")
        status = g.wait(30)
    ok("a file cut off under its machine is an I/O error", status == 0 and "I/O error" in bad and "1+0 records out" in good, bad + good)


def deterministic(folder, path, fmt):
    """With the virtual clock two runs end in the same state, disk requests and all."""
    found = []
    script = ("mount -t ext4 /dev/vda /tmp && head -c 1000000 /dev/urandom >/tmp/x && sync\numount /tmp\n"
              "dd if=/dev/vda of=/dev/null bs=64k count=200 2>/dev/null\n")
    initrd = make_initramfs(os.path.join(folder, "initrd"), script)
    for n in range(2):
        stats = os.path.join(folder, f"stats{n}")
        with linux("--clock", "virtual", "--disk", path + ",snapshot", "--stats=json:" + stats, initrd=initrd, memory="256M") as g:
            status = g.wait(180)
        s = read_json(stats)
        found.append((status, s["state_hash"], s["instructions"], s["disks"][0]))
    ok(f"{fmt}: the virtual clock makes two runs equal", found[0] == found[1] and found[0][0] == 0 and
       found[0][3]["read_bytes"] > 12 * MIB, found)


def main():
    with tempfile.TemporaryDirectory(prefix="ectype-disk-") as folder:
        for fmt in ("raw", "qcow2"):
            if fmt == "qcow2" and not have("qemu-img"):
                skip(fmt, "no qemu-img")
                continue
            try:
                path = file_system(folder, fmt)
                readonly_and_snapshot(path, fmt)
                refused(folder, path, fmt)
                deterministic(folder, path, fmt)
            except Timeout as e:
                ok(fmt, False, e)
        for test in (foreign, bad_files, full_host, truncated):
            part = os.path.join(folder, test.__name__)
            os.mkdir(part)
            try:
                test(part)
            except Timeout as e:
                ok(test.__name__, False, e)
    finish()


main()
