#!/usr/bin/env python3
"""Networks: what a guest reaches through libslirp, what reaches it through forwards, and a tap interface."""
import contextlib
import hashlib
import http.server
import os
import random
import re
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from guest import Guest, Timeout, cache, ok, skip, finish, linux, run_to_end, ECTYPE, ENGINE, PROMPT, SLOW

BIG = random.Random(20).randbytes(20 << 20)
MAC = "52:54:00:aa:bb:cc"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BIG)))
        self.end_headers()
        self.wfile.write(BIG)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def server(address="127.0.0.1"):
    with socketserver.ThreadingTCPServer((address, 0), Handler) as s:
        threading.Thread(target=s.serve_forever, daemon=True).start()
        yield s.server_address[1]
        s.shutdown()


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def host_resolves():
    """A name that the host's own first name server answers, None without."""
    try:
        with open("/etc/resolv.conf", encoding="ascii", errors="replace") as f:
            if not re.search(r"^\s*nameserver\s+\d+\.\d+\.\d+\.\d+", f.read(), re.M):
                return None
        socket.setdefaulttimeout(5)
        socket.getaddrinfo("deb.debian.org", 80, socket.AF_INET)
        return "deb.debian.org"
    except OSError:
        return None


def boot(*nets):
    g = linux(*[x for n in nets for x in ("--net", n)], append="console=ttyS0 quiet")
    g.expect(PROMPT, 170)
    return g


def lease(g):
    """By DHCP; what the guest then knows."""
    g.shell("udhcpc -i eth0 -n -q -t 10", 60)
    return g.shell("ip -4 addr show dev eth0; ip route; cat /etc/resolv.conf; cat /sys/class/net/eth0/address")


def connect(port, limit=60):
    """To a forwarded port, whose guest may not listen yet: libslirp accepts, then closes."""
    end = time.monotonic() + limit * SLOW
    while True:
        s = socket.create_connection(("127.0.0.1", port), timeout=limit)
        return s if time.monotonic() < end else None


def send_in(g, port, size):
    """Send `size` bytes to a listening guest; the guest's checksum of them, and ours."""
    data = BIG[:size]
    g.send("nc -l -p 9 >/tmp/in; echo GO''T; md5sum </tmp/in\n")
    time.sleep(2 * SLOW)
    with socket.create_connection(("127.0.0.1", port), timeout=60 * SLOW) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        g.expect("GOT", 60)
    out = g.expect(r"[0-9a-f]{32}", 60)
    g.expect(PROMPT, 30)
    return out[-32:], hashlib.md5(data).hexdigest()


def user():
    tcp, udp = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
    options = f"user,hostname=somebody,mac={MAC},hostfwd=tcp::{tcp}-:9,hostfwd=udp:127.0.0.1:{udp}-10.0.2.15:7"
    with server() as http_port, boot(options) as g:
        # the shell's prompt has the host's name
        g.send("udhcpc -i eth0 -n -q -t 10; hostname; hostname ectype; exec sh\n")
        ok("the lease brings a host's name", "somebody" in g.expect(r"somebody\r?\n|ectype:.*# ", 60), g.text[-500:])
        g.expect(PROMPT, 30)
        got = g.shell("ip -4 addr show dev eth0; ip route; cat /etc/resolv.conf; cat /sys/class/net/eth0/address")
        ok("an address by DHCP", "10.0.2.15/24" in got, got)
        ok("a way out and a name server", "default via 10.0.2.2" in got and "nameserver 10.0.2.3" in got, got)
        ok("the address of the card", MAC in got, got)
        got = g.shell("ping -c 3 10.0.2.2")
        ok("the gateway answers a ping", " 0% packet loss" in got, got)
        name = host_resolves()
        if name:
            got = g.shell(f"nslookup {name}", 60)
            ok("a name is resolved", re.search(rf"Name:\s+{re.escape(name)}", got), got)
        else:
            skip("a name is resolved", "the host resolves none")
        got = g.shell(f"wget -q -O /tmp/out http://10.0.2.2:{http_port}/ && md5sum </tmp/out", 240)
        ok("20 MiB come from the host unchanged", hashlib.md5(BIG).hexdigest() in got, got)
        got = send_in(g, tcp, len(BIG))
        ok("20 MiB come through a forward unchanged", got[0] == got[1], got)
        g.send("echo answer | nc -u -l -p 7; echo\n")
        time.sleep(2 * SLOW)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(20 * SLOW)
            s.sendto(b"question\n", ("127.0.0.1", udp))
            try:
                ok("UDP through a forward, and its answer", s.recv(100) == b"answer\n")
            except OSError as e:
                ok("UDP through a forward, and its answer", False, e)
            g.expect("question", 20)
            ok("the guest got the datagram", True)
        g.send("\x03")
        g.expect(PROMPT, 20)
        # offloads off and on, with a driver that has begun
        got = g.shell("rmmod virtio_net; modprobe virtio_net napi_tx=0 csum=0 gso=0; sleep 1; "
                      f"udhcpc -i eth0 -n -q -t 10; wget -q -O /tmp/out http://10.0.2.2:{http_port}/ && md5sum </tmp/out", 300)
        ok("and to a driver without offloads, after a reset", hashlib.md5(BIG).hexdigest() in got, got)
        got = send_in(g, tcp, 2 << 20)
        ok("from it, too", got[0] == got[1], got)
        g.send("poweroff\n")
        ok("power-off", g.wait(30) == 0, g.errors())


def restricted():
    port = free_port(socket.SOCK_STREAM)
    with server() as http_port, boot(f"user,restrict,hostfwd=tcp::{port}-:9") as g:
        got = lease(g)
        ok("restricted: an address by DHCP", "10.0.2.15/24" in got, got)
        got = g.shell(f"wget -T 5 -q -O /tmp/out http://10.0.2.2:{http_port}/ || echo NOTH''ING", 60)
        ok("restricted: nothing of the host is reached", "NOTHING" in got, got)
        got = g.shell("nslookup deb.debian.org || echo NOTH''ING", 90)
        ok("restricted: no name is resolved", "NOTHING" in got, got)
        got = send_in(g, port, 100000)
        ok("restricted: a forward leads in", got[0] == got[1], got)


def two_cards():
    with boot("user", "user,mac=" + MAC) as g:
        got = g.shell("cat /sys/class/net/eth0/address /sys/class/net/eth1/address")
        ok("two cards", got.split() == ["52:54:00:12:34:56", MAC], got)


def tap():
    name = f"ectt{os.getpid() % 100000}"
    try:
        subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap", "multi_queue"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        skip("tap", getattr(e, "stderr", None) and e.stderr.decode().strip() or e)
        return
    try:
        subprocess.run(["ip", "addr", "add", "10.213.78.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with server("10.213.78.1") as http_port, boot(f"tap={name},queues=2") as g:
            g.shell("ip addr add 10.213.78.2/24 dev eth0; ip link set eth0 up; sleep 2")
            got = g.shell("ping -c 3 10.213.78.1")
            ok("tap: the host answers a ping", " 0% packet loss" in got, got)
            got = g.shell(f"wget -q -O /tmp/out http://10.213.78.1:{http_port}/ && md5sum </tmp/out", 240)
            ok("tap: 20 MiB come from the host unchanged", hashlib.md5(BIG).hexdigest() in got, got)
            g.send("nc -l -p 9 </tmp/out; echo SE''NT\n")
            time.sleep(2 * SLOW)
            with socket.create_connection(("10.213.78.2", 9), timeout=60 * SLOW) as s:
                data = b""
                while len(data) < len(BIG) and (part := s.recv(1 << 20)):
                    data += part
            ok("tap: and go back", data == BIG, len(data))
            status, _, err, _ = run_to_end(["run", "--engine", ENGINE, "--serial", "none", "--kernel", cache("vmlinuz"),
                                            "--net", "tap=" + name], 10)
            ok("tap: one queue of another program's", status in (2, None), f"{status} {err}")
            g.send("\x03\n")
            g.send("poweroff\n")
            ok("tap: power-off", g.wait(30) == 0, g.errors())
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)


def refusals():
    with socket.socket() as t, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        t.bind(("127.0.0.1", 0))
        t.listen()
        u.bind(("127.0.0.1", 0))
        tp, up = t.getsockname()[1], u.getsockname()[1]
        cases = [
            (f"user,hostfwd=tcp::{tp}-:22", str(tp)), (f"user,hostfwd=udp::{up}-:22", str(up)),
            ("user,hostfwd=tcp::22", "hostfwd"), ("user,hostfwd=tcp:1.2.3:80-:80", "hostfwd"),
            ("user,hostfwd=tcp::0-:80", "hostfwd"), ("user,hostfwd=tcp::70000-:80", "hostfwd"),
            ("user,hostfwd=sctp::8000-:80", "hostfwd"), ("user,hostfwd=tcp:192.0.2.1:8000-:80", "192.0.2.1"),
            ("user,hostfwd=tcp::8000-192.168.0.1:80", "192.168.0.1"), ("user,hostfwd", "hostfwd"),
            ("user,mac=52:54:00:12:34", "mac"), ("user,mac=01:00:5e:00:00:01", "mac"), ("user,mac", "mac"),
            ("user,hostname=a_b", "hostname"), ("user,hostname=" + "x" * 64, "hostname"), ("user,queues=2", "queues"),
            ("user,frob=1", "frob"), ("user,", "option"), ("tap", "tap"), ("tap=", "tap"), ("tap=a/b", "a/b"),
            ("tap=averyveryverylongname", "averyvery"), ("tap=x,queues=0", "queues"), ("tap=x,queues=99", "queues"),
            ("tap=x,hostfwd=tcp::1-:1", "hostfwd"), ("tap=lo", "lo"), ("bridge", "bridge"), ("", "none"),
        ]
        for value, what in cases:
            status, _, err, _ = run_to_end(["run", "--engine", ENGINE, "--serial", "none", "--kernel", cache("vmlinuz"),
                                            "--net", value], 10)
            ok(f"--net '{value[:50]}'", status == 2 and len(err.splitlines()) == 1 and what in err, f"{status} {err}")
    for more, what in ((["none", "user"], "none"), (["user"] * 9, "8")):
        status, _, err, _ = run_to_end(["run", "--kernel", cache("vmlinuz"), *[x for n in more for x in ("--net", n)]], 10)
        ok(f"--net {' --net '.join(more)[:40]}", status == 2 and len(err.splitlines()) == 1 and what in err, f"{status} {err}")


def main():
    refusals()
    for part in (user, restricted, two_cards, tap):
        try:
            part()
        except (Timeout, OSError) as e:
            ok(part.__name__, False, e)


if __name__ == "__main__":
    main()
    finish()
