#!/usr/bin/env python3
"""Snapshots of machines that write to their disks meanwhile.

snapshot_disk.py [--engine NAME] [WORD...]

snapshot_disk.c writes to disks in an order that shows of which moment an image
is: every block of DIR/ID.img must be as it was after some one operation, which
is the one that the memory of the same snapshot has come to. Raw and qcow2,
virtio and SATA; a file system; clients that are killed, that stand still, that
have no room; disks that cannot be read.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

tmp = tempfile.TemporaryDirectory(prefix="ectype-snapdisk-", dir="/var/tmp")  # not /tmp, which may be a tmpfs without O_DIRECT
os.environ["XDG_RUNTIME_DIR"] = tmp.name

from guest import (ECTYPE, PROMPT, ROOT, SLOW, Guest, Timeout, cache, finish, is_guest_ram, linux, mappings, ok, run_to_end,
                   skip, wait_for)

MIB = 1 << 20
MEMORY = 256  # MiB, of a machine
# device: region (start, blocks, bytes, step); more than the room for copies, so that writes have to wait
REGIONS = ((0, 2000, 4096, 1237), (16 * MIB, 350, 65536 + 4096, 257))


def tool(*args):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True,
                       env={**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"})
    return p.returncode, (p.stdout + p.stderr).strip()


def control(*args, limit=90):
    p = subprocess.run([ECTYPE, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit * SLOW)
    return p.returncode, p.stdout, p.stderr


def words(size, of):
    return int.from_bytes(struct.pack(f"<{size // 8}Q", *[of(k) for k in range(size // 8)]), "little")


# of a block: one in each word but each 64th, one in those, what is different from word to word
MASKS = {size: (words(size, lambda k: int(k % 64 != 0)), words(size, lambda k: int(k % 64 == 0)),
                words(size, lambda k: k * 0xbf58476d1ce4e5b9 % (1 << 64) if k % 64 else 0)) for _, _, size, _ in REGIONS}


def content(i, size):
    """What snapshot_disk.c writes."""
    if i % 7 == 6:
        return bytes(size)
    most, marks, pattern = MASKS[size]
    return ((most * ((i + 1) * 0x9e3779b97f4a7c15 % (1 << 64)) + marks * (i + 1)) ^ pattern).to_bytes(size, "little")


def flat(image):
    """The image as a raw one."""
    with open(image, "rb") as f:
        if f.read(4) != b"QFI\xfb":
            return image
    raw = os.path.join(tmp.name, "flat")
    status, out = tool("qemu-img", "convert", "-U", "-O", "raw", image, raw)
    if status:
        raise RuntimeError(out)
    return raw


def moment(image, region):
    """The operation after which the region is as it is, or a text that says what is wrong."""
    start, blocks, size, step = region
    with open(flat(image), "rb") as f:
        f.seek(start)
        data = f.read(blocks * size)
    block = [data[n * size:(n + 1) * size] for n in range(blocks)]
    last = max(struct.unpack_from("<Q", b)[0] for b in block) - 1
    if last < blocks:
        return f"operation {last} of {blocks} blocks: not far enough"
    why = ""
    # the one after the highest may have made zeros
    for now in (last, last + 1):
        wrong = []
        for i in range(now - blocks + 1, now + 1):
            b = block[i * step % blocks]
            first, = struct.unpack_from("<Q", b)
            if first != (0 if i % 7 == 6 else i + 1) or b != content(i, size):
                wrong.append((i * step % blocks, i, first - 1))
        if not wrong:
            return now
        why += f"after operation {now}, {len(wrong)} blocks are wrong, such as (block, has to be, is) {wrong[:4]}; "
    return why


def program(folder):
    path = os.path.join(folder, "snapshot_disk")
    subprocess.run(["cc", "-O2", "-static", "-o", path, os.path.join(ROOT, "tests/guest/snapshot_disk.c")], check=True)
    initrd = os.path.join(folder, "initramfs")
    # the cloud kernel does not know the SATA controller
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", initrd, "--kernel", cache("vmlinuz-generic"), "--add",
                    "bin/snapshot_disk=" + path], check=True)
    return initrd


def machine(name, initrd, *more, memory=f"{MEMORY}M"):
    g = linux("--name", name, *more, kernel="vmlinuz-generic", initrd=initrd, memory=memory)
    g.expect(PROMPT, 120)
    return g


def counts(g, disks):
    """How far the writers are: {(device, start): operation}."""
    return {(d, r[0]): int(g.shell(f"cat /tmp/count.{d}.{r[0]}") or 0) for d in disks for r in REGIONS}


def progress(g, disks, limit=30):
    """All writers go on."""
    before = counts(g, disks)
    return wait_for(lambda: all(n > before[k] for k, n in counts(g, disks).items()), limit)


def start_writers(g, disks):
    for d in disks:
        for r in REGIONS:
            g.shell(f"(snapshot_disk /dev/{d} {' '.join(map(str, r))} >>/tmp/wrong 2>&1 &) ; true")
    # once over all blocks
    if not wait_for(lambda: all(n > dict((r[0], r[1]) for r in REGIONS)[k[1]] for k, n in counts(g, disks).items()), 120):
        raise Timeout(f"the writers are slow: {counts(g, disks)}, {g.shell('cat /tmp/wrong')}")


def writers_well(g, name, disks):
    ok(f"{name}: the writers go on, and find what they wrote", progress(g, disks) and
       not g.shell("cat /tmp/wrong").strip(), f"{counts(g, disks)} {g.shell('cat /tmp/wrong')}")


def still_ms(text):
    m = re.search(r"stood still for ([0-9.]+) ms", text)
    return float(m.group(1)) if m else 1e9


def every_kind(folder, initrd):
    """Content of the moment, on each kind of disk; the machine that comes of it goes on where its disks are."""
    raw, base, over, sata = (os.path.join(folder, n) for n in ("raw", "base.qcow2", "over.qcow2", "sata.raw"))
    for path in (raw, sata):
        with open(path, "wb") as f:
            f.truncate(64 * MIB)
    status, out = tool("qemu-img", "create", "-q", "-f", "qcow2", base, 48 * MIB)
    if not status:
        status, out = tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over, 64 * MIB)
    if status:
        skip("disks of every kind", "no qemu-img: " + out)
        return
    disks = ("vda", "vdb", "sda")
    snap = os.path.join(folder, "snap")
    with machine("snapdisk-a", initrd, "--cpus", "2", "--disk", raw + ",id=raw", "--disk", over + ",id=over,cache=none", "--disk",
                 sata + ",id=sata,bus=sata") as g:
        start_writers(g, disks)
        before = counts(g, disks)
        status, out, err = control("snapshot", "snapdisk-a", snap)
        after = counts(g, disks)
        ok("a machine that writes to three disks is saved", status == 0, err)
        print("#   " + out.strip(), flush=True)
        ok("and hardly stands still", still_ms(out) < 200, out)
        writers_well(g, "the source", disks)
        status, out, err = control("snapshot", "snapdisk-a", snap + "2")
        ok("and is saved once more", status == 0, err)
    expected = {}
    for where in (snap, snap + "2"):
        for d, name in zip(disks, ("raw", "over", "sata")):
            for r in REGIONS:
                now = expected[where, d, r[0]] = moment(f"{where}/{name}.img", r)
                ok(f"{os.path.basename(where)}, {name}, from {r[0]}: content of one moment", isinstance(now, int), now)
                if where == snap and isinstance(now, int):
                    ok("and of the one that it was", before[d, r[0]] <= now <= after[d, r[0]] + 1,
                       f"{before[d, r[0]]} {now} {after[d, r[0]]}")
    size = os.stat(f"{snap}/raw.img")
    ok("holes stay holes", size.st_size == 64 * MIB and size.st_blocks * 512 < 60 * MIB, size.st_blocks)
    with Guest(snap, "--name", "snapdisk-b", verb="restore") as g:
        g.send("\n")
        g.expect(PROMPT, 60)
        writers_well(g, "restored", disks)
        now = counts(g, disks)
        ok("they go on from there", all(isinstance(expected[snap, d, s], int) and n >= expected[snap, d, s] - 1
                                        for (d, s), n in now.items()), f"{expected} {now}")
    ok("the snapshot's images stay what they are", all(moment(f"{snap}/{name}.img", r) == expected[snap, d, r[0]]
       for d, name in zip(disks, ("raw", "over", "sata")) for r in REGIONS))
    status, out = tool("qemu-img", "check", over)
    ok("the source's image is sound", status in (0, 3), out)


def file_system(folder, initrd):
    """What a file system is after a power cut, or better."""
    disk, snap = os.path.join(folder, "fs.raw"), os.path.join(folder, "fs")
    with open(disk, "wb") as f:
        f.truncate(96 * MIB)
    status, out = tool("mkfs.ext4", "-q", "-F", disk)
    if status:
        skip("a file system", out)
        return
    with linux("--name", "snapdisk-f", "--disk", disk + ",id=fs", memory="256M") as g:
        g.expect(PROMPT, 120)
        g.shell("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/tmp/noise bs=1M count=4 "
                "2>/dev/null; md5sum /tmp/noise | cut -c1-32 >/tmp/sum")
        if "ext4" not in g.shell("grep vda /proc/mounts"):
            skip("a file system", "the guest has no ext4")
            return
        g.shell("(n=0; while :; do n=$((n+1)); cp /tmp/noise /mnt/f$((n%12)).new && sync && mv /mnt/f$((n%12)).new /mnt/f$((n%12)); "
                "mkdir -p /mnt/d$((n%5))/e; rm -rf /mnt/d$(((n+2)%5)); done) >/dev/null 2>&1 & sleep 4")
        for n in range(3):
            status, out, err = control("snapshot", "snapdisk-f", f"{snap}{n}")
            ok("a machine with a busy file system is saved", status == 0, err)
            print("#   " + out.strip(), flush=True)
        sums = g.shell("cat /tmp/sum").strip()
    for n in range(3):
        copy = os.path.join(folder, "fs.copy")
        shutil.copyfile(f"{snap}{n}/fs.img", copy)
        status, out = tool("e2fsck", "-p", copy)
        again, more = tool("e2fsck", "-fn", copy)
        ok("after its journal, e2fsck finds nothing", status in (0, 1) and again == 0, out + more)
        status, out = tool("debugfs", "-R", "ls -p /", copy)
        names = re.findall(r"/(f\d+)/", out)
        wrong = []
        for name in names:
            p = subprocess.run(["debugfs", "-R", f"dump {name} {folder}/one", copy], capture_output=True, check=False,
                               env={**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"})
            with open(f"{folder}/one", "rb") as f:
                got = subprocess.run(["md5sum"], input=f.read(), capture_output=True, check=True).stdout[:32].decode()
            if p.returncode or got != sums:
                wrong.append(name)
        ok("files that were synced are whole", names and not wrong, f"{names} {wrong}")


def rss(g):
    """KiB of the monitor's own memory, but for frames of RAM as they were before the guest wrote them."""
    return sum(m["Rss"] for m in mappings(g.process.pid)
               if not is_guest_ram(m) and not m["path"] and m["Size"] != MEMORY * 1024)


def clients(folder, initrd):
    """Clients that go, stand still, or have no room."""
    disk = os.path.join(folder, "clients.raw")
    with open(disk, "wb") as f:
        f.truncate(64 * MIB)
    with machine("snapdisk-c", initrd, "--disk", disk + ",id=d") as g:
        start_writers(g, ("vda",))
        control("snapshot", "snapdisk-c", os.path.join(folder, "warm"))
        before = rss(g)
        for n, delay in enumerate((0.01, 0.05, 0.1, 0.2, 0.3)):
            path = os.path.join(folder, f"killed{n}")
            p = subprocess.Popen([ECTYPE, "snapshot", "snapdisk-c", path], stdout=subprocess.DEVNULL)
            time.sleep(delay)
            p.send_signal(signal.SIGKILL)
            p.wait()
            if os.path.exists(path):
                ok("a client that was too quick to be killed left something whole", isinstance(moment(path + "/d.img", REGIONS[0]), int))
        writers_well(g, "clients that are killed", ("vda",))
        wait_for(lambda: rss(g) < before + 4096, 5)
        ok("leave no memory behind", rss(g) < before + 4096, f"{before} {rss(g)} KiB")
        # one that does not read: it is cut off, and until then at most waits
        with stalled("snapdisk-c"):
            time.sleep(3)
            grown = rss(g) - before
            ok("a client that stands still makes the monitor no larger than its room for copies", grown < 30 * 1024, f"{grown} KiB")
            ok("and is cut off, and the guest goes on", progress(g, ("vda",), 30))
        writers_well(g, "after a client that stood still", ("vda",))
        small = os.path.join(folder, "small")
        os.mkdir(small)
        if tool("mount", "-t", "tmpfs", "-o", "size=60M", "tmpfs", small)[0]:
            skip("a client without room", "no right to mount")
        else:
            try:
                status, out, err = control("snapshot", "snapdisk-c", small + "/snap")
                ok("a client without room says so in one line", status == 1 and err.count("\n") == 1 and "No space" in err, f"{status} {err}")
                ok("and leaves nothing", not os.listdir(small), os.listdir(small))
            finally:
                tool("umount", small)
        writers_well(g, "after a client without room", ("vda",))
        status, out, err = control("snapshot", "snapdisk-c", os.path.join(folder, "last"))
        ok("and it can be saved", status == 0 and isinstance(moment(folder + "/last/d.img", REGIONS[1]), int), err)


def stalled(name):
    """A connection that has asked for a snapshot and does not read it."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.path.join(tmp.name, "ectype", name + ".sock"))
    s.sendall(b"PUT /api/v1/vm.snapshot HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    s.recv(4096)
    return s


def bad_sectors(folder, initrd):
    """A disk that cannot be read all of a sudden: no snapshot, one line, and the machine goes on."""
    file = os.path.join(folder, "loop")
    with open(file, "wb") as f:
        f.write(os.urandom(48 * MIB))
    status, loop = tool("losetup", "-f", "--show", file)
    if status:
        skip("bad sectors", "no right to make loop devices: " + loop)
        return
    try:
        with machine("snapdisk-e", initrd, "--disk", loop + ",id=bad,format=raw") as g:
            g.shell("echo on >/tmp/on")
            os.truncate(file, 8 * MIB)
            tool("blockdev", "--flushbufs", loop)
            path = os.path.join(folder, "bad")
            status, out, err = control("snapshot", "snapdisk-e", path)
            ok("a disk with bad sectors is not saved, one line says so", status == 1 and err.count("\n") == 1 and
               "'bad'" in err and "Input/output error" in err, f"{status} {out} {err}")
            ok("and nothing is left", not os.path.exists(path) and not [n for n in os.listdir(folder) if n.startswith("bad.")])
            ok("the machine goes on", "1+0 records out" in g.shell("dd if=/dev/zero of=/dev/vda bs=64k count=1 seek=3 conv=fsync 2>&1"))
    finally:
        tool("losetup", "-d", loop)


def md5(image):
    with open(flat(image), "rb") as f:
        return subprocess.run(["md5sum"], stdin=f, capture_output=True, check=True).stdout[:32].decode()


def fields(image):
    return json.loads(tool("qemu-img", "info", "-U", "--output=json", image)[1])


def restored_sum(snap, folder, limit=60):
    """What the disk of the machine that comes of it holds; the overlay is removed."""
    with Guest(snap, "--name", "snapdisk-r", "--overlays", folder, verb="restore") as g:
        g.send("\n")
        g.expect(PROMPT, limit)
        found = g.shell("md5sum </dev/vda").split()[0]
    os.unlink(os.path.join(folder, "top-snapdisk-r.qcow2"))
    return found


def overlays(folder, initrd):
    """Of an overlay only what it has is saved; with a base, as a whole, from a whole one, and of what was restored."""
    base, mid, top = (os.path.join(folder, n) for n in ("o-base", "o-mid", "o-top"))
    with open(base, "wb") as f:
        f.write(os.urandom(12 * MIB))
    for args in (("create", "-f", "qcow2", "-b", base, "-F", "raw", mid, 16 * MIB), ("create", "-f", "qcow2", "-b", mid, "-F", "qcow2", top)):
        status, out = tool("qemu-img", args[0], "-q", *args[1:])
        if status:
            skip("overlays", out)
            return
    tool("qemu-io", "-f", "qcow2", "-c", "write -P 9 14M 64k", mid)
    tool("qemu-io", "-f", "qcow2", "-c", "write -z -u 1M 1M", "-c", "write -P 7 3M 300k", top)
    snaps = {k: os.path.join(folder, "o-" + k) for k in ("over", "whole", "inc", "inc-whole", "whole-inc", "stack")}
    kinds = (("over", ()), ("whole", ("--whole-disks",)), ("inc", ("--base", snaps["over"], "--compress")),
             ("inc-whole", ("--base", snaps["inc"], "--whole-disks")), ("whole-inc", ("--base", snaps["whole"])))
    sums = {}
    here = os.getcwd()
    os.chdir(folder)  # the machine has the disk by a name that is not absolute
    try:
        g = machine("snapdisk-o", initrd, "--disk", "o-top,id=top", memory="192M")
    finally:
        os.chdir(here)
    with g:
        for n, (kind, args) in enumerate(kinds):
            g.shell(f"dd if=/dev/urandom of=/dev/vda bs=70k count=3 seek={n * 20 + 5} conv=notrunc 2>/dev/null; "
                    f"dd if=/dev/zero of=/dev/vda bs=64k count=3 seek={n * 25 + 80} conv=notrunc 2>/dev/null; "
                    f"blkdiscard -o {(n + 4) << 20} -l 262144 /dev/vda; sync")
            sums[kind] = g.shell("echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vda").split()[0]
            status, out, err = control("snapshot", "snapdisk-o", snaps[kind], *args)
            ok(f"{kind}: saved", status == 0, err)
            print("#   " + out.strip(), flush=True)
            ok(f"{kind}: holds what the guest sees", md5(f"{snaps[kind]}/top.img") == sums[kind])
            image = f"{snaps[kind]}/top.img"
            if kind != "whole":
                ok(f"{kind}: is sound", tool("qemu-img", "check", image)[0] == 0, tool("qemu-img", "check", image)[1])
        about = fields(snaps["over"] + "/top.img")
        ok("a file names what it is backed by, and its format", about["format"] == "qcow2" and about.get("full-backing-filename") == mid and
           about.get("backing-filename-format") == "qcow2", about)
        used = {k: os.stat(f"{snaps[k]}/top.img").st_blocks * 512 for k, _ in kinds}
        ok("what is below is not copied", used["over"] < 3 * MIB and used["inc"] < 2 * MIB, used)
        ok("but for a whole one", fields(snaps["whole"] + "/top.img")["format"] == "raw" and used["whole"] > 10 * MIB, used)
        # the files that were opened are other ones now: all of the disk is copied
        os.rename(mid, mid + ".away")
        shutil.copyfile(mid + ".away", mid)
        moved = os.path.join(folder, "o-moved")
        status, out, err = control("snapshot", "snapdisk-o", moved)
        ok("a backing file was replaced: a whole copy", status == 0 and fields(moved + "/top.img")["format"] == "raw" and
           md5(moved + "/top.img") == sums["whole-inc"], err)
        os.rename(mid + ".away", mid)
    for kind, _ in kinds:
        now = restored_sum(snaps[kind], folder)
        ok(f"{kind}: a machine that comes of it has the disk", now == sums[kind], f"{sums[kind]} {now}")
    status, out, err = control("snapshot", "--info", snaps["inc"], "--check")
    ok("--info says what it is backed by", status == 0 and mid in out and base in out, out + err)
    with Guest(snaps["over"], "--name", "snapdisk-r", "--overlays", folder, verb="restore") as g:
        g.send("\n")
        g.expect(PROMPT, 60)
        g.shell("dd if=/dev/urandom of=/dev/vda bs=64k count=1 seek=40 conv=notrunc 2>/dev/null; sync")
        total = g.shell("md5sum </dev/vda").split()[0]
        status, out, err = control("snapshot", "snapdisk-r", snaps["stack"])
        ok("what was restored is saved", status == 0 and fields(snaps["stack"] + "/top.img").get("full-backing-filename") ==
           snaps["over"] + "/top.img" and md5(snaps["stack"] + "/top.img") == total, err)
    os.unlink(os.path.join(folder, "top-snapdisk-r.qcow2"))
    for changed in (base, mid, snaps["over"] + "/top.img"):
        was = os.stat(changed)
        os.utime(changed, ns=(was.st_atime_ns, was.st_mtime_ns + 1000))
        for kind in ("over", "inc", "stack") if changed in (base, mid) else ("stack",):
            status, out, err, _ = restore_once(snaps[kind], folder)
            ok(f"{os.path.basename(changed)} was changed: {kind} is refused", status == 2 and err.count("\n") == 1 and
               "changed since" in err and changed in err, f"{status} {err}")
            status, out, err = control("snapshot", "--info", snaps[kind], "--check")
            ok("and --check says so", status == 2 and err.count("\n") == 1 and "changed since" in err, f"{status} {err}")
        status, out, err, _ = restore_once(snaps["whole"], folder)
        ok("a whole one does not care", status == 0, err)
        os.unlink(os.path.join(folder, [n for n in os.listdir(folder) if n.startswith("top-vm-")][0]))
        os.utime(changed, ns=(was.st_atime_ns, was.st_mtime_ns))
    os.unlink(base)
    status, out, err, _ = restore_once(snaps["over"], folder)
    ok("one that is gone is named", status == 2 and err.count("\n") == 1 and base in err, f"{status} {err}")


def restore_once(path, folder):
    return run_to_end(["restore", path, "--serial=file:/dev/null", "--insn-limit=1", "--no-control", "--overlays", folder], 30)


def chains(folder, initrd):
    """What a disk builds on is not to change while a snapshot needs it."""
    base, mid, top, ro = (os.path.join(folder, n) for n in ("c-base", "c-mid", "c-top", "c-ro"))
    with open(base, "wb") as f:
        f.write(os.urandom(2 * MIB))
    for path, below, fmt in ((mid, base, "raw"), (top, mid, "qcow2"), (ro, mid, "qcow2")):
        status, out = tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, path)
        if status:
            skip("backing chains", out)
            return
    snap, stopped = os.path.join(folder, "chain"), os.path.join(folder, "chain-stopped")
    with machine("snapdisk-d", initrd, "--disk", top + ",id=top", "--disk", ro + ",id=ro,readonly", memory="192M") as g:
        g.shell("dd if=/dev/urandom of=/dev/vda bs=64k count=1 conv=fsync 2>/dev/null")
        status, _, err = control("snapshot", "snapdisk-d", snap)
        ok("a machine with backing chains is saved", status == 0, err)
        status, _, err = control("snapshot", "snapdisk-d", stopped, "--stop")
        ok("and with --stop", status == 0 and g.wait(20) == 0, err)

    for where in (snap, stopped):
        status, _, err, _ = restore_once(where, folder)
        ok("both can be restored", status == 0, err)
        for n in ("top", "ro"):
            for f in os.listdir(folder):
                if f.startswith(n + "-") and f.endswith(".qcow2"):
                    os.unlink(os.path.join(folder, f))
    with open(mid, "rb") as f:
        whole = f.read()
    for changed in (base, mid):
        was = os.stat(changed)
        os.utime(changed, ns=(was.st_atime_ns, was.st_mtime_ns + 1000))
        for where in (snap, stopped):
            status, out, err, _ = restore_once(where, folder)
            ok(f"{os.path.basename(changed)} was changed: refused", status == 2 and err.count("\n") == 1 and "changed since" in err and
               os.path.basename(changed) in err, f"{status} {err}")
        os.utime(changed, ns=(was.st_atime_ns, was.st_mtime_ns))
    os.unlink(base)
    status, out, err, _ = restore_once(snap, folder)
    ok("and one that is gone", status == 2 and err.count("\n") == 1 and "c-base" in err, f"{status} {err}")
    with open(mid, "rb") as f:
        ok("nothing was changed", f.read() == whole)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("words", nargs="*")
    o = p.parse_args()
    initrd = program(tmp.name)
    for part in (every_kind, overlays, file_system, clients, bad_sectors, chains):
        if o.words and not any(w in part.__name__ for w in o.words):
            continue
        try:
            part(tmp.name, initrd)
        except Timeout as e:
            ok(f"{part.__name__}: a guest answers in time", False, e)
    finish()


if __name__ == "__main__":
    main()
