#!/usr/bin/env python3
"""Sockets between programs of guest and host: both directions, many at once, refusals, half close, ends, back pressure."""
import hashlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from guest import PROMPT, ROOT, cache, finish, linux, ok, skip, Timeout

BULK = 64 << 20


def connect(path, port):
    """A stream to the guest's port, or None if it refused; and the line that came."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        c = s.recv(1)
        if not c:
            s.close()
            return None, line
        line += c
    return s, line


def read_all(s, limit=1 << 30):
    parts, n = [], 0
    while n < limit:
        part = s.recv(min(1 << 16, limit - n))
        if not part:
            break
        parts.append(part)
        n += len(part)
    return b"".join(parts)


def listen(path, backlog=128):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(backlog)
    s.settimeout(60)
    return s


def rate(n, start):
    return f"{n / (time.monotonic() - start) / (1 << 20):.0f} MiB/s"


def in_background(g, command, said="listening"):
    g.send(command + " &\n")
    g.expect(said, 60)


def to_guest(g, path, data):
    in_background(g, "(vs get 1000 >x 2>&1; echo E''OF)", "")
    time.sleep(0.5)
    for _ in range(50):
        s, line = connect(path, 1000)
        if s:
            break
        time.sleep(0.2)
    ok("the guest accepts, and its answer is OK with a port", s and line.startswith(b"OK ") and int(line[3:]) > 0, line)
    start = time.monotonic()
    s.sendall(data)
    s.close()
    g.expect("EOF", 170)
    print(f"# {rate(len(data), start)} to the guest")
    # the first line is "listening"
    sum_ = g.shell("tail -c +11 x >y; mv y x; md5sum x", 60)
    ok(f"{BULK >> 20} MiB arrive", hashlib.md5(data).hexdigest() in sum_, sum_)


def from_guest(g, path, data):
    listener = listen(path + "_2000")
    g.send("vs put 2000 <x; echo D''ONE $?\n")
    s, _ = listener.accept()
    s.settimeout(120)
    time.sleep(2)  # the guest has long sent what it may
    start = time.monotonic()
    got = read_all(s)
    print(f"# {rate(len(got), start)} from the guest")
    ok(f"{BULK >> 20} MiB come out, to somebody slow", got == data, f"{len(got)} bytes")
    # the guest has shut down its direction only
    s.sendall(b"thanks\n")
    s.close()
    out = g.expect(r"DONE \d+", 60)
    ok("and the other direction was open still", "thanks" in out and "DONE 0" in out, out)
    listener.close()
    os.unlink(path + "_2000")


def many(g, path):
    in_background(g, "vs echo 1001")
    streams = []
    for i in range(100):
        s, _ = connect(path, 1001)
        if s:
            streams.append((s, os.urandom(20000 + 37 * i)))
    ok("100 connections to the guest", len(streams) == 100)
    for s, data in streams:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    ok("each gets its own bytes back", all(read_all(s) == data for s, data in streams))
    for s, _ in streams:
        s.close()

    listener = listen(path + "_2001", 200)

    def answer():
        peers = [listener.accept()[0] for _ in range(100)]
        for p in peers:
            p.sendall(b"%d\n" % (2 * int(p.makefile().readline())))
            p.close()
    t = threading.Thread(target=answer, daemon=True)
    t.start()
    out = g.shell("vs many 2001 100", 60)
    ok("100 connections from the guest", "100 answers" in out, out)
    t.join(10)
    listener.close()


def refusals(g, path):
    start = time.monotonic()
    s, line = connect(path, 4444)
    ok("a port of the guest where nobody listens", s is None and line == b"" and time.monotonic() - start < 5, line)
    start = time.monotonic()
    out = g.shell("echo x | vs put 4445", 30)
    ok("a port of the host where nobody listens", "connect: Connection reset" in out and time.monotonic() - start < 5, out)
    for word in (b"HELLO 1\n", b"CONNECT x\n", b"CONNECT 99999999999\n", b"CONNECT \n", b"\n" * 40):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(path)
        s.sendall(word)
        try:
            end = s.recv(10)
        except ConnectionResetError:
            end = b""
        ok(f"not the protocol: {word[:20]}", end == b"")
        s.close()


def half_close(g, path):
    in_background(g, "vs count 1002")
    s, _ = connect(path, 1002)
    s.sendall(bytes(100000))
    s.shutdown(socket.SHUT_WR)
    ok("half close by the host: the guest's answer comes behind", read_all(s) == b"100000\n")
    s.close()


def ends(g, path):
    # the host's program is killed while the guest sends
    listener = listen(path + "_2002")
    g.send("vs put 2002 </dev/zero; echo G''ONE $?\n")
    s, _ = listener.accept()
    s.recv(100000)
    s.close()
    out = g.expect(r"GONE \d+", 30)
    ok("the guest learns that the host's program was killed", "write: " in out or "GONE 141" in out, out)
    listener.close()
    # the guest's is killed
    in_background(g, "vs echo 1003")
    s, _ = connect(path, 1003)
    s.sendall(b"ping")
    ok("a stream", s.recv(4) == b"ping")
    g.shell("killall vs; sleep 0.3")
    try:
        end = s.recv(1)
    except ConnectionResetError:
        end = b""
    ok("the host learns that the guest's program was killed", end == b"")
    s.close()


def pressure(g, path):
    g.shell("rm -f x y; mkfifo go")
    in_background(g, "(vs slow 1004 <go >y; echo S''LOW)", "")
    g.send("exec 5<>go\n")
    time.sleep(1)
    for _ in range(50):
        s, _ = connect(path, 1004)
        if s:
            break
        time.sleep(0.2)
    data = os.urandom(4 << 20)
    s.setblocking(False)
    sent, quiet = 0, 0
    while quiet < 10 and sent < len(data):
        try:
            sent += s.send(data[sent:sent + 65536])
            quiet = 0
        except BlockingIOError:
            time.sleep(0.1)
            quiet += 1
    ok("a guest that does not read makes the host wait", sent < 2 << 20, f"{sent} bytes")
    g.send("echo >go\n")
    s.settimeout(60)
    s.sendall(data[sent:])
    s.close()
    g.expect("SLOW", 60)
    out = g.shell("tail -c +11 y | md5sum", 60)
    ok("and nothing is lost", hashlib.md5(data).hexdigest() in out, out)


def reboot(g, path):
    in_background(g, "vs echo 1005")
    s, _ = connect(path, 1005)
    g.send("reboot -f\n")
    ok("a reboot of the guest closes its streams", s.recv(1) == b"")
    s.close()
    g.expect(PROMPT, 170)
    in_background(g, "vs echo 1005")
    s, _ = connect(path, 1005)
    s.sendall(b"again")
    ok("and there are new ones", s.recv(5) == b"again")
    s.close()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(p) for p in f.read().split()]


def killed(image, path):
    with linux("--vsock", f"socket={path}", initrd=image, append="console=ttyS0") as g:
        deadline = time.monotonic() + 20
        while "Linux version" not in g.text and time.monotonic() < deadline:
            g.pump(0.2)
        helpers = children(g.process.pid)
        there = os.path.exists(path)
        g.process.kill()
        g.process.wait()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and (os.path.exists(path) or any(os.path.exists(f"/proc/{p}") for p in helpers)):
            time.sleep(0.1)
        ok("a monitor that is killed leaves neither socket nor process", there and len(helpers) >= 1
           and not os.path.exists(path) and not any(os.path.exists(f"/proc/{p}") for p in helpers), helpers)


def main():
    if not os.path.exists(cache("vmlinuz")):
        skip("vsock", "no kernel")
        finish()
    with tempfile.TemporaryDirectory() as folder:
        image, program, path = (os.path.join(folder, n) for n in ("initrd", "vs", "v.sock"))
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.run(["cc", "-O2", "-static", "-o", program, os.path.join(here, "vsock_guest.c")], check=True)
        subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", image, "--add", "bin/vs=" + program],
                       check=True)
        data = os.urandom(BULK)
        with linux("--vsock", f"cid=7,socket={path}", initrd=image, append="console=ttyS0 quiet") as g:
            try:
                g.expect(PROMPT, 170)
                g.shell("cd /tmp")
                for test in (to_guest, from_guest, many, refusals, half_close, ends, pressure, reboot):
                    test(g, path, data) if test in (to_guest, from_guest) else test(g, path)
                g.send("poweroff\n")
                ok("power off", g.wait(30) == 0, g.errors())
            except (Timeout, OSError, ValueError) as e:
                ok("sockets work", False, f"{e!r} {g.text[-800:]} {g.errors()}")
            ok("the socket is removed", not os.path.exists(path))
        killed(image, path)
    finish()


if __name__ == "__main__":
    main()
