#!/usr/bin/env python3
"""virtio console: a shell on hvc0 in a terminal that changes its size; a port that carries bulk data and its ends."""
import fcntl
import hashlib
import os
import select
import socket
import struct
import tempfile
import termios
import time
from guest import cache, finish, linux, make_initramfs, ok, skip, Timeout

BULK = 4 << 20
TERMINAL = """
sh -c 'while read x; do echo "said $x"; stty size; done' </dev/hvc0 >/dev/hvc0
"""
PORT = """
while [ -z "$P" ]; do
	for d in /sys/class/virtio-ports/*; do [ "$(cat $d/name 2>/dev/null)" = bulk.0 ] && P=/dev/${d##*/}; done
done
for turn in 1 2; do
	echo "== ready $turn"
	# nobody at the other end is end of file at once
	until cat $P >/tmp/in && [ -s /tmp/in ]; do sleep 0.1; done
	md5sum /tmp/in
done
sleep 2
cat /tmp/in >$P
exec 3<>$P
head -c 5 <&3
echo "== end"
"""


def terminal(folder):
    image = make_initramfs(os.path.join(folder, "terminal"), TERMINAL)
    log = os.path.join(folder, "serial")
    with linux("--console", "stdio", "--serial", f"file:{log}", append="console=ttyS0", initrd=image, terminal=True,
               size=(37, 101)) as g:
        try:
            time.sleep(1)
            for i in range(100):
                g.send(f"a{i}\n")
                try:
                    g.expect(r"said a\d+\r\n37 101\r\n", 1)
                    break
                except Timeout:
                    continue
            else:
                raise Timeout(g.text)
            ok("hvc0 is on the terminal and has its size", True)
            fcntl.ioctl(g.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 77, 0, 0))
            # the machine is not on a terminal of its own session here
            g.process.send_signal(28)
            time.sleep(0.5)
            g.send("b\n")
            g.expect(r"said b\r\n24 77\r\n", 20)
            ok("a new size reaches the guest", True)
        except Timeout as e:
            ok("hvc0 is on the terminal", False, e)
        g.send("\x01x")
        ok("Ctrl-A x ends the machine", g.wait(10) == 0)
    with open(log, encoding="utf-8", errors="replace") as f:
        ok("the kernel's messages are on the serial port", "Linux version" in f.read())


def bulk(folder):
    image = make_initramfs(os.path.join(folder, "port"), PORT)
    path = os.path.join(folder, "socket")
    data = os.urandom(BULK)
    digest = hashlib.md5(data).hexdigest()
    with linux("--console", f"unix:{path},name=bulk.0", initrd=image) as g:
        try:
            for turn in (1, 2):
                g.expect(f"== ready {turn}", 170)
                time.sleep(0.3)
                s = socket.socket(socket.AF_UNIX)
                s.connect(path)
                start = time.monotonic()
                s.sendall(data)
                s.close()
                out = g.expect(r"[0-9a-f]{32}  /tmp/in", 60)
                print(f"# {BULK / (time.monotonic() - start) / (1 << 20):.0f} MiB/s into the guest")
                ok(f"{BULK >> 20} MiB and end of file arrive, client {turn}", digest in out, out)
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            time.sleep(4)  # the guest has long begun to write: it waits, and loses nothing
            got = b""
            while len(got) < len(data) and select.select([s], [], [], 30)[0]:
                part = s.recv(65536)
                if not part:
                    break
                got += part
            ok(f"{BULK >> 20} MiB come out, to a client that was slow to read", got == data, f"{len(got)} bytes")
            s.sendall(b"done\n")
            g.expect(r"done\r?\n== end", 30)
            ok("the port works on", True)
            ok("power off", g.wait(30) == 0, g.errors())
        except (Timeout, OSError) as e:
            ok("the port carries data", False, f"{e!r} {g.text[-600:]} {g.wait(1)} {g.errors()}")
        ok("the socket is removed", not os.path.exists(path))


def main():
    if not os.path.exists(cache("vmlinuz")):
        skip("console", "no kernel")
        finish()
    with tempfile.TemporaryDirectory() as folder:
        terminal(folder)
        bulk(folder)
    finish()


if __name__ == "__main__":
    main()
