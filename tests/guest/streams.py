#!/usr/bin/env python3
"""Four serial ports on a pipe, a pseudo-terminal, a socket and a file: what goes in and out of each."""
import os
import re
import select
import socket
import tempfile
import time
import tty
from guest import PROMPT, cache, finish, linux, ok, skip


def receive(read, want, limit=20):
    """What comes until it ends with `want`."""
    data, end = b"", time.monotonic() + limit
    while want not in data and time.monotonic() < end:
        if select.select([read], [], [], 0.5)[0]:
            data += os.read(read, 4096)
    return data


def main():
    if not os.path.exists(cache("vmlinuz")):
        skip("streams", "no kernel")
        finish()
    with tempfile.TemporaryDirectory() as tmp:
        path, log = os.path.join(tmp, "com3"), os.path.join(tmp, "com4")
        with linux("--serial", "stdio", "--serial", "pty", "--serial", f"unix:{path}", "--serial", f"file:{log}") as g:
            g.expect(PROMPT, 170)
            m = re.search(r"--serial is (/dev/pts/\d+)", g.errors())
            ok("the pseudo-terminal's path is printed", m, g.errors())
            found = re.findall(r"ttyS(\d) at I/O (0x\w+) \(irq = (\d+)", g.shell("dmesg | grep 'ttyS. at'"))
            ok("the guest finds COM1 to COM4", sorted(set(found)) ==
               [("0", "0x3f8", "4"), ("1", "0x2f8", "3"), ("2", "0x3e8", "4"), ("3", "0x2e8", "3")], found)
            g.shell("for n in 1 2 3; do stty -F /dev/ttyS$n raw -echo; done")
            fd = os.open(m[1], os.O_RDWR | os.O_NOCTTY)
            tty.setraw(fd)
            g.shell("(read -r x </dev/ttyS1; echo \"got $x\" >/dev/ttyS1) & sleep 1")
            os.write(fd, b"by pty\n")
            ok("in and out by the pseudo-terminal", b"got by pty" in receive(fd, b"pty\n"))
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            time.sleep(0.2)
            # two ports share an interrupt: traffic on both at once
            g.shell("(read -r x </dev/ttyS2; seq 2000 >/dev/ttyS2; echo \"got $x\" >/dev/ttyS2) & sleep 1")
            s.sendall(b"by socket\n")
            g.shell("seq 500")
            data = receive(s.fileno(), b"socket\n", 60)
            ok("in and out by the socket, while COM1 on the same line is busy",
               data == "".join(f"{i}\n" for i in range(1, 2001)).encode() + b"got by socket\n", data[-100:])
            g.shell("echo to the file >/dev/ttyS3; sleep 1")
            with open(log, encoding="ascii") as f:
                ok("out to the file", f.read() == "to the file\n")
            os.close(fd)
            s.close()
            g.send("poweroff -f\n")
            ok("the guest powers off", g.wait(60) == 0)
    finish()


if __name__ == "__main__":
    main()
