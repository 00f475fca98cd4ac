#!/usr/bin/env python3
"""Bad input: one line on stderr, status 2, under a second, nothing created."""
import fcntl
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from guest import multiboot, ok, finish, run_to_end, cache, ECTYPE, ENGINE, IS_QEMU, skip

KERNEL = cache("vmlinuz")
RUN = ["run", "--engine", ENGINE, "--serial", "none"]


def snapshot(folder):
    return sorted((f, os.stat(os.path.join(folder, f)).st_size) for f in os.listdir(folder))


def refuses(name, args, folder, words=(), prefix=()):
    before = snapshot(folder)
    status, out, err, seconds = run_to_end(args, 10, prefix)
    lines = [l for l in err.splitlines() if l.strip()]
    problems = []
    if status != 2:
        problems.append(f"status {status}")
    if len(lines) != 1:
        problems.append(f"{len(lines)} lines on stderr")
    if out.strip():
        problems.append("output on stdout")
    if seconds >= 1:
        problems.append(f"{seconds:.2f} s")
    if snapshot(folder) != before:
        problems.append(f"files changed: {before} {snapshot(folder)}")
    if lines and words and not any(w.lower() in lines[0].lower() for w in words):
        problems.append(f"the line names none of {words}")
    ok(name, not problems, "; ".join(problems) + "\n" + err[-400:])


def files(folder):
    def write(name, data):
        path = os.path.join(folder, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    with open(KERNEL, "rb") as f:
        kernel = f.read()
    with open("/bin/true", "rb") as f:
        elf = bytearray(f.read())
    arm = bytearray(elf)
    arm[18:20] = (183).to_bytes(2, "little")
    rng = random.Random(2)
    bad = {
        "missing": os.path.join(folder, "does-not-exist"),
        "empty": write("empty", b""),
        "one byte": write("one", b"\x7f"),
        "truncated to 100 bytes": write("t100", kernel[:100]),
        "truncated in its header": write("t600", kernel[:600]),
        "truncated in its setup": write("t5000", kernel[:5000]),
        "truncated half way": write("half", kernel[: len(kernel) // 2]),
        "random": write("random", rng.randbytes(100000)),
        "zeros": write("zeros", bytes(1 << 20)),
        "of another architecture": write("arm", bytes(arm)),
        "an ELF program without a boot protocol": write("elf", bytes(elf)),
        "a text file": write("text", b"#!/bin/sh\necho hello\n" * 100),
        "a directory": folder,
        "not readable": "/proc/self/mem",
        "a character device": "/dev/zero",
    }
    for name, path in bad.items():
        refuses("kernel: " + name, [*RUN, "--kernel", path], folder, (os.path.basename(path), path))
    setup = bytearray(kernel)
    setup[0x1F1] = 200  # setup_sects beyond the file's protected-mode code
    refuses("kernel: setup longer than it should be", [*RUN, "--kernel", write("sects", bytes(setup[:100000]))], folder)
    refuses("initrd: missing", [*RUN, "--kernel", KERNEL, "--initrd", bad["missing"]], folder, ("does-not-exist",))
    refuses("initrd: a directory", [*RUN, "--kernel", KERNEL, "--initrd", folder], folder)
    big = os.path.join(folder, "big")
    with open(big, "wb") as f:
        f.truncate(600 << 20)
    refuses("initrd: larger than memory", [*RUN, "--kernel", KERNEL, "--initrd", big, "--memory", "512M"], folder,
            ("initrd", "memory"))
    refuses("initrd: exactly memory", [*RUN, "--kernel", KERNEL, "--initrd", big, "--memory", "600M"], folder)
    for name, path in (("missing", bad["missing"]), ("empty", bad["empty"]), ("random", bad["random"]), ("too big", big)):
        refuses("firmware: " + name, [*RUN, "--firmware", path], folder)
    refuses("command line too long", [*RUN, "--kernel", KERNEL, "--append", "x" * 60000], folder)


def options(folder):
    for size in ("0", "1M", "16M", "-1", "1", "abc", "", "12X", "99999999999999999999", "1e3", "0x10000000000000000", "100T", "8E",
                 "128M,mergeable", "128M,mergeable=1", ",mergeable=on", "128M,", "128M," + "x" * 100):
        refuses(f"--memory '{size}'", [*RUN, "--kernel", KERNEL, f"--memory={size}"], folder, ("memory",))
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    refuses("--memory: more than the host has", [*RUN, "--kernel", KERNEL, "--memory", f"{host * 2}M"], folder, ("memory",))
    cases = [
        ("no such command", ["frobnicate"]),
        ("no such option", [*RUN, "--frobnicate"]),
        ("no such short option", [*RUN, "-Z"]),
        ("an argument too many", [*RUN, "--kernel", KERNEL, "vmlinuz"]),
        ("an option without its value", [*RUN, "--kernel"]),
        ("--engine: unknown", ["run", "--engine", "warp", "--kernel", KERNEL]),
        ("--clock: unknown", [*RUN, "--clock", "sundial", "--kernel", KERNEL]),
        ("--cpu-model: unknown", [*RUN, "--cpu-model", "z80", "--kernel", KERNEL]),
        ("--serial: unknown", ["run", "--engine", ENGINE, "--serial", "tape", "--kernel", KERNEL]),
        ("--serial: no such folder", ["run", "--engine", ENGINE, "--serial", f"file:{folder}/no/such", "--kernel", KERNEL]),
        ("--cpus 0", [*RUN, "--cpus", "0", "--kernel", KERNEL]),
        ("--cpus -1", [*RUN, "--cpus", "-1", "--kernel", KERNEL]),
        ("--cpus 100000", [*RUN, "--cpus", "100000", "--kernel", KERNEL]),
        ("--balloon: no size", [*RUN, "--balloon", "big", "--kernel", KERNEL]),
        ("--balloon: nothing", [*RUN, "--balloon=", "--kernel", KERNEL]),
        ("--balloon: a part of a MiB", [*RUN, "--balloon", "1500K", "--kernel", KERNEL]),
        ("--balloon: two sizes", [*RUN, "--balloon", "1M,2M", "--kernel", KERNEL]),
        ("--balloon: unknown", [*RUN, "--balloon", "1M,reporting=maybe", "--kernel", KERNEL]),
        ("--balloon: off and more", [*RUN, "--balloon", "off,reporting=on", "--kernel", KERNEL]),
        ("--balloon: all memory", [*RUN, "--memory", "256M", "--balloon", "256M", "--kernel", KERNEL]),
        ("--vsock: no socket", [*RUN, "--vsock", "cid=3", "--kernel", KERNEL]),
        ("--vsock: the host's CID", [*RUN, "--vsock", "cid=2,socket=v", "--kernel", KERNEL]),
        ("--vsock: no CID", [*RUN, "--vsock", "cid=4294967295,socket=v", "--kernel", KERNEL]),
        ("--vsock: unknown", [*RUN, "--vsock", "socket=v,port=1", "--kernel", KERNEL]),
        ("--vsock: no such folder", [*RUN, "--vsock", f"socket={folder}/no/such", "--kernel", KERNEL]),
        ("--vsock: too long a path", [*RUN, "--vsock", "socket=" + "x" * 97, "--kernel", KERNEL]),
        ("lockstep: --vsock", ["lockstep", "--engines", "interp,dbt", "--vsock", "socket=v", "--kernel", KERNEL]),
        ("--gdb 0", [*RUN, "--gdb", "0", "--kernel", KERNEL]),
        ("--gdb 70000", [*RUN, "--gdb", "70000", "--kernel", KERNEL]),
        ("--gdb word", [*RUN, "--gdb", "port", "--kernel", KERNEL]),
        ("--stats: unknown format", [*RUN, "--stats=xml:f", "--kernel", KERNEL]),
        ("--stats: no such folder", [*RUN, f"--stats=json:{folder}/no/such", "--kernel", KERNEL]),
        ("kernel and firmware", [*RUN, "--kernel", KERNEL, "--firmware", KERNEL]),
        ("isa: no such option", ["isa", "--frobnicate"]),
        ("lockstep: one engine", ["lockstep", "--engines", "interp", "--kernel", KERNEL]),
        ("lockstep: no such engine", ["lockstep", "--engines", "interp,warp", "--kernel", KERNEL]),
        ("lockstep: slices of nothing", ["lockstep", "--engines", "interp,interp", "--every", "0", "--kernel", KERNEL]),
        ("lockstep: the real clock", ["lockstep", "--engines", "interp,interp", "--clock", "real", "--kernel", KERNEL]),
        ("lockstep: no such option", ["lockstep", "--frobnicate"]),
        ("lockstep: no such folder", ["lockstep", "--engines", "interp,interp", "--serial", f"file:{folder}/no/such",
                                      "--kernel", KERNEL]),
        ("no command", []),
    ]
    for name, args in cases:
        refuses(name, args, folder)
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    refuses("--gdb: a used port", [*RUN, "--gdb", str(s.getsockname()[1]), "--kernel", KERNEL], folder, ("in use", "port"))
    s.close()


def networks(folder):
    def net(value, word, prefix=(), kernel=KERNEL):
        # a file that would be made, were it not refused before
        refuses(f"--net '{value[:50]}'" + " by nobody" * bool(prefix),
                ["run", "--engine", ENGINE, "--serial", f"file:{folder}/serial", "--kernel", kernel, "--net", value],
                folder, (word,), prefix)

    with socket.socket() as t, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        t.bind(("127.0.0.1", 0))
        t.listen()
        u.bind(("127.0.0.1", 0))
        tcp, udp = t.getsockname()[1], u.getsockname()[1]
        net(f"user,hostfwd=tcp::{tcp}-:22", f"tcp 127.0.0.1:{tcp} is in use")
        net(f"user,hostfwd=tcp:0.0.0.0:{tcp}-:22", f"tcp 0.0.0.0:{tcp} is in use")
        net(f"user,hostfwd=udp::{udp}-:22", f"udp 127.0.0.1:{udp} is in use")
    for value in ("tcp::22", "tcp:1.2.3:80-:80", "tcp::80-:0", "tcp::70000-:80", "tcp::-1-:80", "tcp::x-:80",
                  "sctp::8000-:80", "tcp::8000-80", "tcp:8000-:80", "tcp::8000-10.0.2:80", "tcp::8000-:80:", "tcp", ""):
        net("user,hostfwd=" + value, f"hostfwd='{value}'")
    for value, word in (
            ("user,hostfwd=tcp:192.0.2.1:8000-:80", "192.0.2.1"), ("user,hostfwd=tcp::8000-192.168.0.1:80", "192.168.0.1"),
            ("user,hostfwd", "hostfwd"), ("user,mac=52:54:00:12:34", "mac="), ("user,mac=52:54:00:12:34:5g", "mac="),
            ("user,mac=52:54:00:12:34:56:78", "mac="), ("user,mac=01:00:5e:00:00:01", "mac="), ("user,mac", "mac="),
            ("user,mac=00:00:00:00:00:00", "mac="), ("user,hostname=a_b", "hostname="),
            ("user,hostname=" + "x" * 64, "hostname="), ("user,queues=2", "queues"), ("user,frob=1", "frob"),
            ("user,restrict=maybe", "restrict=maybe"), ("user,", "option"), ("tap", "tap"), ("tap=", "tap"),
            ("tap=a/b", "a/b"), ("tap=averyveryverylongname", "averyvery"), ("tap=x,queues=0", "queues"),
            ("tap=x,queues=99", "queues"), ("tap=x,hostfwd=tcp::1-:1", "hostfwd"), ("tap=lo", "lo"), ("bridge", "bridge"),
            ("", "none"), ("tap=nosuchtap", "tap nosuchtap does not exist")):
        net(value, word)
    for more, word in ((["none", "user"], "none"), (["user"] * 9, "8")):
        refuses(f"--net {' --net '.join(more)[:40]}", [*RUN, "--kernel", KERNEL, *[x for n in more for x in ("--net", n)]],
                folder, (word,))
    tap_interfaces(folder, net)


def tap_interfaces(folder, net):
    """Interfaces that are there and cannot be had."""
    name = f"ecti{os.getpid() % 100000}"
    try:
        subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        skip("--net: tap interfaces", e)
        return
    try:
        net(f"tap={name},queues=2", "several queues")
        try:
            with open("/dev/net/tun", "r+b", buffering=0) as tun:
                fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))  # TUNSETIFF, IFF_TAP | IFF_NO_PI
                net("tap=" + name, "in use")
        except OSError as e:
            skip("--net: a tap interface in use", e)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        # read by anybody: no path through a home directory
        os.chmod(folder, 0o755)
        kernel = multiboot(os.path.join(folder, "image"), b"\xfa\xf4")
        if run_to_end(["--version"], 10, nobody)[0] == 0:
            net("tap=" + name, "tap " + name, nobody, kernel)
            net("tap=nosuchtap", "tap nosuchtap", nobody, kernel)
            with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as f:
                if int(f.read()) > 80:
                    net("user,hostfwd=tcp::80-:80", "80", nobody, kernel)
        else:
            skip("--net: without permission", "the program cannot be started as nobody")
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)


def guests_that_misbehave(folder):
    """Guest code, not configuration: the monitor lives, or ends as hardware would."""
    def image(code):
        return multiboot(os.path.join(folder, "guest.bin"), code)

    cases = {
        "triple fault": (bytes.fromhex("bc00002000" "6a00" "6a00" "0f011c24" "cc"), 1),  # push 0; push 0; lidt [esp]; int3
        "jump into MMIO": (bytes.fromhex("b80000e0fe" "ffe0"), 1),
        "page tables at nowhere": (bytes.fromhex("b800f0ffdf" "0f22d8" "0f20c0" "0d00000080" "0f22c0" "90"), 1),
    }
    for name, (code, want) in cases.items():
        path = image(code)
        status, out, err, _ = run_to_end([*RUN, "--kernel", path, "--memory", "64M", "--no-reboot"], 5)
        # no exception table: every fault is a triple fault; code made of all ones or zeros may also run on for ever
        ok(f"guest: {name}", status == want or status is None, f"{status} {err[-300:]}")
        if status == 1:
            ok(f"guest: {name}: a register dump", "CR3" in err.upper() and len(err.splitlines()) >= 5, err)
    for name, code in (("loops with interrupts off", "faebfe"), ("halts with interrupts off", "faf4ebfc")):
        path = image(bytes.fromhex(code))
        p = subprocess.Popen([ECTYPE, *RUN, "--kernel", path, "--memory", "64M"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(1)
        alive = p.poll() is None
        p.terminate()
        try:
            p.wait(3)
            ended = True
        except subprocess.TimeoutExpired:
            p.kill()
            ended = False
        ok(f"guest: {name}: runs on", alive, p.stderr.read().decode(errors="replace"))
        ok(f"guest: {name}: SIGTERM ends it", ended)


if __name__ == "__main__":
    if IS_QEMU:
        skip("bad input", "not QEMU's")
        sys.exit(0)
    with tempfile.TemporaryDirectory() as tmp:
        os.chdir(tmp)
        files(tmp)
        options(tmp)
        networks(tmp)
        guests_that_misbehave(tmp)
    finish()
