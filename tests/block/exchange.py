#!/usr/bin/env python3
"""Images exchanged with qemu-img and qemu-io, and what is refused or fails. tests/block/exchange.py [WORD...]"""
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys

from blocktest import BLOCKIO, MIB, blockio, by_qemu, by_us, clean, digest, raw_file, refused, run, tests_main

SIZE = 9 * MIB + 512 * 5
ENGINES = ([], ["threads"], ["cache=none"])
KINDS = {
    "v2": ["-o", "compat=0.10"],
    "v2 small": ["-o", "compat=0.10,cluster_size=1024"],
    "v3": [],
    "512": ["-o", "cluster_size=512"],
    "4k": ["-o", "cluster_size=4096"],
    "2M": ["-o", "cluster_size=2M"],
    "refcount 1": ["-o", "refcount_bits=1"],
    "refcount 64": ["-o", "refcount_bits=64,cluster_size=512"],
    "lazy": ["-o", "lazy_refcounts=on"],
    "zlib": ["-c"],
    "zlib 512": ["-c", "-o", "cluster_size=512"],
    "zlib 2M": ["-c", "-o", "cluster_size=2M"],
    "zstd": ["-c", "-o", "compression_type=zstd"],
    "zstd 4k": ["-c", "-o", "compression_type=zstd,cluster_size=4k"],
    "v2 zlib": ["-c", "-o", "compat=0.10"],
}


def exercise(image, seed):
    """Random requests by each engine; qemu-img reads what we read, and finds nothing wrong."""
    for i, engine in enumerate(ENGINES):
        blockio(f"file={image}", *engine, f"random:{seed + i}:40:0")
        clean(image)
        assert by_us(image, "us") == by_qemu(image, "qemu")


def images_of_qemu_read():
    for seed, (kind, options) in enumerate(KINDS.items()):
        raw_file("raw", SIZE, seed)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, "raw", "image")
        for engine in ENGINES:
            assert by_us("image", "us", *engine) == digest("raw"), (kind, engine)
        clean("image")


def images_of_qemu_written():
    for seed, options in enumerate(KINDS.values()):
        raw_file("raw", SIZE, seed)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, "raw", "image")
        exercise("image", seed)


def preallocated_images():
    for how in ("metadata", "falloc", "full"):
        run("qemu-img", "create", "-f", "qcow2", "-o", f"preallocation={how}", "image", SIZE)
        exercise("image", 5)


def our_images_read_by_qemu():
    for options in ([], ["cluster=512", "refcount=64"], ["cluster=512", "refcount=1"], ["cluster=4096", "refcount=8"],
                    ["cluster=2097152", "refcount=32"], ["lazy"]):
        if os.path.exists("image"):
            os.unlink("image")
        blockio("create", "image", SIZE, *options)
        raw_file("raw", SIZE - 512, 3)
        blockio("file=image", "write:0:raw")
        clean("image")
        exercise("image", 9)


def chains():
    raw_file("base.raw", 3 * MIB + 1234, 1)  # shorter than what it backs, with an odd end
    os.mkdir("sub")
    run("qemu-img", "create", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", "sub/a", 6 * MIB)
    run("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4096", "-b", "a", "-F", "qcow2", "sub/b", 8 * MIB)
    run("qemu-img", "create", "-f", "qcow2", "-o", "compat=0.10", "-b", os.path.abspath("sub/b"), "-F", "qcow2", "c",
        10 * MIB)
    before = digest("base.raw")
    exercise("sub/a", 1)
    exercise("sub/b", 4)
    exercise("c", 7)
    blockio("create", "d", 0, "backing=c")
    assert "size=10485760" in blockio("info", "d").stdout and "backing_format=qcow2" in blockio("info", "d").stdout
    middle = [digest(f) for f in ("sub/a", "sub/b", "c")]
    exercise("d", 10)
    assert digest("base.raw") == before and [digest(f) for f in ("sub/a", "sub/b", "c")] == middle


def a_backing_file_without_its_format():
    raw_file("base.raw", MIB, 1)
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "a")
    with open("a", "r+b") as f:  # the type of the extension
        data = f.read(1024)
        f.seek(data.index(bytes.fromhex("e2792aca")))
        f.write(bytes.fromhex("12345678"))
    assert by_us("a", "us") == digest("base.raw")


def bad_chains():
    for i in range(70):
        run("qemu-img", "create", "-f", "qcow2", "-u", "-b", f"i{i - 1}" if i else "base.raw", "-F",
            "qcow2" if i else "raw", f"i{i}", MIB)
    raw_file("base.raw", MIB, 1)
    blockio("file=i50", "ro", "read:0:4096:-")
    refused("file=i69", "read:0:4096:-", says="more than 64")
    run("qemu-img", "rebase", "-u", "-b", "i2", "-F", "qcow2", "i0")
    refused("file=i2", says="backed by itself")
    run("qemu-img", "rebase", "-u", "-b", "i1", "-F", "qcow2", "i1")
    refused("file=i1", says=["i1", "backed by itself"])
    run("qemu-img", "rebase", "-u", "-b", "nowhere", "-F", "qcow2", "i1")
    refused("file=i1", says=["nowhere", "No such file", "backs i1"])
    run("qemu-img", "rebase", "-u", "-b", "nbd:localhost:10809", "-F", "raw", "i1")
    refused("file=i1", says="nbd:localhost:10809")
    run("qemu-img", "rebase", "-u", "-b", "base.raw", "-F", "vmdk", "i1")
    refused("file=i1", says="vmdk")


def snapshots_inside():
    for options in ("compat=0.10", "cluster_size=4096", "refcount_bits=8"):
        raw_file("raw", SIZE, 2)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, "raw", "image")
        run("qemu-img", "snapshot", "-c", "one", "image")
        exercise("image", 20)
        blockio("file=image", "discard:0:4194304", "unmap:5242880:65536", "zero:6291456:65536")
        run("qemu-img", "snapshot", "-c", "two", "image")
        two = by_qemu("image", "out")
        exercise("image", 24)
        assert by_qemu("image", "out", "qcow2", "-l", "one") == digest("raw")
        assert by_qemu("image", "out", "qcow2", "-l", "two") == two
        run("qemu-img", "snapshot", "-d", "one", "image")
        run("qemu-img", "snapshot", "-a", "two", "image")
        assert by_us("image", "us") == two
        exercise("image", 28)


def lazy_refcounts_repaired():
    for options in ("lazy_refcounts=on", "lazy_refcounts=on,cluster_size=512", "lazy_refcounts=on,refcount_bits=1"):
        run("qemu-img", "create", "-f", "qcow2", "-o", options, "image", SIZE)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 3M", "-c", "flush", "-c", "abort", "image", check=False)
        assert "dirty=1" in blockio("info", "image").stdout
        blockio("file=image", "ro", "read:0:0:us")
        with open("us", "rb") as f:
            assert f.read() == b"\7" * (3 * MIB) + bytes(SIZE - 3 * MIB)
        assert "dirty=1" in blockio("info", "image").stdout
        blockio("file=image", "flush")
        assert "dirty=0" in blockio("info", "image").stdout
        clean("image")
        exercise("image", 3)


def check_finds_what_qemu_finds():
    raw_file("raw", SIZE, 2)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", "good")
    with open("good", "rb") as f:
        header = f.read(104)
        table, = struct.unpack(">Q", header[48:56])
        f.seek(table)
        block, = struct.unpack(">Q", f.read(8))
    for at, value in ((9, 0), (9, 2), (20, 3), (0, 0)):
        shutil.copy("good", "image")
        with open("image", "r+b") as f:
            f.seek(block + 2 * at)
            old, = struct.unpack(">H", f.read(2))
            f.seek(block + 2 * at)
            f.write(struct.pack(">H", value))
        theirs = run("qemu-img", "check", "-f", "qcow2", "image", check=False).returncode
        ours = blockio("check", "image", check=False)
        kind = 2 if " leaks=0" not in ours.stdout and ours.returncode == 0 else ours.returncode
        assert old != value and (theirs, kind) in ((2, 1), (3, 2)), (at, value, theirs, ours.stdout)


def features_refused():
    run("qemu-img", "create", "-f", "qcow2", "image", MIB)
    refused_bits = {2: "external data file", 4: "extended L2", 40: "bit 40"}
    for bit, text in refused_bits.items():
        shutil.copy("image", "other")
        with open("other", "r+b") as f:
            f.seek(72)
            f.write(struct.pack(">Q", 1 << bit))
        refused("file=other", "ro", says=["other", text])
    shutil.copy("image", "other")
    with open("other", "r+b") as f:
        f.seek(72)
        f.write(struct.pack(">Q", 2))
    refused("file=other", says=["marked corrupt", "readonly"])
    blockio("file=other", "ro", "read:0:0:-")
    run("qemu-img", "create", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "ext", MIB)
    refused("file=ext", says="extended L2")
    run("qemu-img", "create", "-f", "qcow2", "-o", "data_file=data", "split", MIB)
    refused("file=split", says="external data file")
    run("qemu-img", "create", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "luks", MIB)
    refused("file=luks", says=["not supported", "encryption (LUKS)"])
    assert "unsupported=encryption (LUKS)" in blockio("info", "luks").stdout
    assert "size=1048576" in blockio("info", "ext").stdout


def the_file_is_checked():
    refused("file=missing", says=["missing", "No such file"])
    os.mkdir("dir")
    refused("file=dir", "ro", says=["dir", "regular file"])
    os.mkfifo("fifo")
    refused("file=fifo", says=["fifo", "regular file"])
    with open("short", "wb") as f:
        f.write(b"QFI\xfb\0\0\0\3")
    refused("file=short", says=["short", "qcow2"])
    refused("file=fifo", "format=qcow2", says="fifo")
    with open("image", "wb") as f:
        f.write(b"x" * 1000)
    assert blockio("file=image", "size").stdout == "512\n"
    blockio("create", "new", MIB)
    refused("create", "new", MIB, says=["new", "already"])
    blockio("create", "new", 2 * MIB, "overwrite")
    refused("create", "other", MIB, "backing=nothing", says="nothing")
    assert not os.path.exists("other")


def a_raw_disk_does_not_turn_into_another_format():
    with open("image", "wb") as f:
        f.truncate(MIB)
    with open("header", "wb") as f:
        f.write(b"QFI\xfb" + bytes(4092))
    for engine in ENGINES:
        r = blockio("file=image", *engine, "write:0:header", check=False)
        assert "(1)" in r.stdout, r.stdout
    blockio("file=image", "write:4096:header")
    blockio("file=image", "format=raw", "write:0:header")


def holder(*command):
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return p


def locks():
    for fmt in ("raw", "qcow2"):
        run("qemu-img", "create", "-f", fmt, "image", MIB)
        p = holder(BLOCKIO, "file=image", "wait")
        assert p.stdout.readline() == "ready\n"
        for options in ([], ["ro"], ["snapshot"]):
            refused("file=image", *options, says=["image", "another process uses"])
        for options in (["-r"], []):
            r = run("qemu-io", *options, "-f", fmt, "-c", "read 0 512", "image", check=False)
            assert r.returncode and "lock" in r.stdout, r.stdout
        refused("create", "image", MIB, "overwrite", says="another process uses")
        p.communicate("\n")
        p = holder(BLOCKIO, "file=image", "ro", "wait")
        assert p.stdout.readline() == "ready\n"
        blockio("file=image", "ro", "read:0:512:-")
        blockio("file=image", "snapshot", "zero:0:512")
        refused("file=image", says=["image", "another process uses"])
        run("qemu-io", "-r", "-f", fmt, "-c", "read 0 512", "image")
        assert run("qemu-io", "-f", fmt, "-c", "read 0 512", "image", check=False).returncode
        p.communicate("\n")
        for options, mine in (([], False), (["-r"], True)):
            p = holder("qemu-io", *options, "-f", fmt, "image")
            p.stdin.write("read 0 512\n")
            p.stdin.flush()
            while "ops/sec" not in p.stdout.readline():
                pass
            refused("file=image", says=["image", "another process uses"])
            if mine:
                blockio("file=image", "ro", "read:0:512:-")
            else:
                refused("file=image", "ro", says=["image", "another process uses"])
            p.communicate("quit\n")
    run("qemu-img", "create", "-f", "qcow2", "-b", "image", "-F", "qcow2", "top")
    p = holder(BLOCKIO, "file=image", "wait")
    p.stdout.readline()
    refused("file=top", says=["image", "another process uses"])
    p.communicate("\n")
    p = holder(BLOCKIO, "file=top", "wait")
    p.stdout.readline()
    refused("file=image", says="another process uses")
    p.communicate("\n")


def snapshot_leaves_the_file_alone():
    raw_file("raw", SIZE, 1)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", "image")
    before = digest("raw"), digest("image")
    os.chmod("raw", 0o444)
    for engine in ([], ["threads"]):
        blockio("file=raw", "snapshot", *engine, "random:4:60:0")
        blockio("file=image", "snapshot", *engine, "random:4:60:0", "flush")
    assert (digest("raw"), digest("image")) == before
    assert sorted(os.listdir(".")) == ["image", "raw"]


def limit_file_size(n):
    def f():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
    return f


def a_full_disk():
    raw_file("data", 4 * MIB, 1, 1)
    for engine in ENGINES:
        for i, options in enumerate(([], ["cluster=4096"], ["cluster=512"])):
            blockio("create", f"image{i}", 16 * MIB, *options, *(["overwrite"] if os.path.exists(f"image{i}") else []))
            blockio(f"file=image{i}", "write:0:data")
            r = blockio(f"file=image{i}", *engine, "write:8388608:data", check=False,
                        preexec_fn=limit_file_size(6 * MIB))
            assert r.returncode == 1 and "(28)" in r.stdout, (engine, r.stdout)
            clean(f"image{i}", leaks=True)
            blockio(f"file=image{i}", "read:0:4194304:us")
            assert digest("us") == digest("data")
            blockio(f"file=image{i}", *engine, "write:8388608:data", "read:8388608:4194304:us")
            assert digest("us") == digest("data")
            clean(f"image{i}", leaks=True)
        with open("raw", "wb") as f:
            f.truncate(8 * MIB)
        r = blockio("file=raw", *engine, "write:4194304:data", check=False, preexec_fn=limit_file_size(6 * MIB))
        assert r.returncode == 1 and "(28)" in r.stdout, r.stdout


def a_file_cut_short_underneath():
    for engine in ENGINES:
        raw_file("raw", 8 * MIB, 1, 1)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", "image")
        for name in ("raw", "image"):
            p = holder(BLOCKIO, f"file={name}", *engine, "wait", "read:4194304:1048576:-")
            assert p.stdout.readline() == "ready\n"
            os.truncate(name, 2 * MIB)
            out, _ = p.communicate("\n")
            assert p.returncode == 1 and "(5)" in out, (engine, name, out)


def a_large_disk():
    run("qemu-img", "create", "-f", "qcow2", "image", "40T")
    raw_file("data", MIB, 1, 1)
    at = (39 << 40) + 4096
    blockio("file=image", f"write:{at}:data", f"read:{at}:{MIB}:us", "discard:0:43980465111040", "flush")
    blockio("file=image", f"read:{at}:{MIB}:us")
    assert not any(open("us", "rb").read())
    clean("image")


def discards_free_space():
    raw_file("data", 8 * MIB, 1, 1)
    blockio("create", "image", 8 * MIB)
    with open("raw", "wb") as f:
        f.truncate(8 * MIB)
    for name in ("image", "raw"):
        blockio(f"file={name}", "write:0:data", "flush")
        full = os.stat(name).st_blocks
        blockio(f"file={name}", "discard:0:8388608", "flush")
        assert os.stat(name).st_blocks < full // 8, (name, full, os.stat(name).st_blocks)
    clean("image")


def clusters_with_lying_refcounts():
    """The refcounts say that a table is free: writing is refused with EIO, and the table stays."""
    raw_file("data", MIB, 1, 1)
    for victim in (0, 1, 2, 3, 4):
        run("qemu-img", "create", "-f", "qcow2", "image", 64 * MIB)
        blockio("file=image", "write:0:data")
        with open("image", "r+b") as f:
            f.seek(48)
            table, = struct.unpack(">Q", f.read(8))
            f.seek(table)
            block, = struct.unpack(">Q", f.read(8))
            f.seek(block + 2 * victim)
            f.write(b"\0\0")
        r = blockio("file=image", "write:33554432:data", check=False)
        assert r.returncode == 1 and "(5)" in r.stdout, r.stdout
        assert by_us("image", "us")
        blockio("file=image", "ro", f"read:0:{MIB}:us")
        assert digest("us") == digest("data")


if __name__ == "__main__":
    sys.exit(tests_main([
        images_of_qemu_read, images_of_qemu_written, preallocated_images, our_images_read_by_qemu, chains,
        a_backing_file_without_its_format, bad_chains, snapshots_inside, lazy_refcounts_repaired,
        check_finds_what_qemu_finds, features_refused, the_file_is_checked,
        a_raw_disk_does_not_turn_into_another_format, locks, snapshot_leaves_the_file_alone, a_full_disk,
        a_file_cut_short_underneath, a_large_disk, discards_free_space, clusters_with_lying_refcounts,
    ], sys.argv[1:]))
