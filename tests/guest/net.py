#!/usr/bin/env python3
"""Networks: what a guest reaches through libslirp, what reaches it through forwards, restricted networks, tap.

One guest has a card of each. net_agent.py is what runs in it.
"""
import contextlib
import hashlib
import os
import random
import re
import socket
import socketserver
import subprocess
import tempfile
import threading
from guest import Timeout, ok, skip, finish, section, toolbox, ENGINE, SLOW

SIZE = (20 << 20) if ENGINE != "interp" else (3 << 20)
SMALL = 2 << 20
MAC = "52:54:00:aa:bb:cc"
TAP, TAP_HOST, TAP_GUEST = f"ectt{os.getpid() % 100000}", "10.213.78.1", "10.213.78.2"
HERE = os.path.dirname(os.path.abspath(__file__))


def noise(size):
    return random.Random(size).randbytes(size)


def md5(data):
    return hashlib.md5(data).hexdigest()


# ---- the host's servers ----

def read_all(s):
    data = bytearray()
    while part := s.recv(1 << 20):
        data += part
    return bytes(data)


class Backwards(socketserver.BaseRequestHandler):
    """What comes goes back from its end to its beginning."""

    def handle(self):
        data = read_all(self.request)
        self.server.seen.append(md5(data))
        self.request.sendall(data[::-1])
        self.request.shutdown(socket.SHUT_WR)


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(self.request[0], self.client_address)


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64


class Udp(socketserver.ThreadingUDPServer):
    daemon_threads, max_packet_size = True, 65536


@contextlib.contextmanager
def servers(addresses):
    """TCP and UDP on the same ports of all addresses: the ports, and the digests of what came by TCP."""
    seen, all_servers, tcp_port, udp_port = [], [], 0, 0
    for a in addresses:
        t, u = Tcp((a, tcp_port), Backwards), Udp((a, udp_port), Echo)
        t.seen = seen
        tcp_port, udp_port = t.server_address[1], u.server_address[1]
        all_servers += [t, u]
    for s in all_servers:
        threading.Thread(target=s.serve_forever, daemon=True).start()
    yield tcp_port, udp_port, seen
    for s in all_servers:
        s.shutdown()
        s.server_close()


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def host_resolves():
    """A name that the host's own first name server answers, "-" without."""
    try:
        with open("/etc/resolv.conf", encoding="ascii", errors="replace") as f:
            if not re.search(r"^\s*nameserver\s+\d+\.\d+\.\d+\.\d+", f.read(), re.M):
                return "-"
        socket.getaddrinfo("deb.debian.org", 80, socket.AF_INET)
        return "deb.debian.org"
    except OSError:
        return "-"


@contextlib.contextmanager
def tap_interface(name, address, *more):
    """Makes a tap interface: its name, None if the host allows none."""
    try:
        for c in (["ip", "tuntap", "add", "dev", name, "mode", "tap", *more],
                  ["ip", "addr", "add", address + "/24", "dev", name], ["ip", "link", "set", name, "up"]):
            subprocess.run(c, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        skip("tap", e.stderr.decode().strip() if isinstance(e, subprocess.CalledProcessError) else e)
        yield None
        return
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)


# ---- the guest ----

class Run:
    def __init__(self, guest, ports, seen):
        self.g, self.ports, self.seen, self.done = guest, ports, seen, set()

    def until(self, name, limit=120):
        """All the guest said up to the step after `name`."""
        self.g.expect(rf"== (?!{name}\r?\n)[\w-]+\r?\n", limit)
        return section(self.g.text, name)

    def out(self, text, tag, size, where):
        """What tcp_out() of the agent said."""
        data = noise(size)
        want = f"tcp-out {tag}: sent {md5(data)} got {md5(data[::-1])} {size}"
        ok(f"{where}: {size >> 20} MiB out and back unchanged", want in text and md5(data) in self.seen, text)

    def into(self, address, port, size, tag, where):
        data = noise(size + 1)
        with socket.create_connection((address, port), timeout=100 * SLOW) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            back = read_all(s)
        said = self.g.expect(rf"tcp-in {tag}: \w+ from [\d.]+", 60)
        ok(f"{where}: {size >> 20 or 'less than 1'} MiB in and back unchanged", md5(data) in said and back == data[::-1],
           f"{said} {len(back)}")


def packets(text, tag):
    """Mean lengths of the packets the driver sent and got."""
    m = re.search(rf"packets {tag}: tx (\d+) rx (\d+)", text)
    return (int(m.group(1)), int(m.group(2))) if m else (0, 0)


def lease_is_right(text, where):
    ok(where + ": an address, a way out and a name server by DHCP",
       all(x in text for x in ("10.0.2.15/24", "default via 10.0.2.2", "nameserver 10.0.2.3")), text)


def user(r):
    got = r.until("lease", 200)
    lease_is_right(got, "user")
    ok("the lease brings a host's name", "\nsomebody\n" in got, got)
    ok("the address of the card", MAC in got, got)
    got = r.until("ping")
    ok("the gateway answers a ping", " 0% packet loss" in got, got)
    if r.name != "-":
        got = r.until("name")
        ok("a name is resolved", re.search(rf"Name:\s+{re.escape(r.name)}", got), got)
    else:
        skip("a name is resolved", "the host resolves none")
    got = r.until("udp-out")
    ok("user: datagrams of 1 to 60000 bytes out and back", got.count("echo") == 4, got)
    got = r.until("tcp-out", 240)
    r.out(got, "user", SIZE, "user")
    sizes = packets(got, "user")
    ok("user: the driver leaves segmentation to us, and we to it", min(sizes) > 4000, got)
    r.g.expect("ready", 60)
    r.into("127.0.0.1", r.ports["tcp"], SIZE, "user", "a forward")
    r.g.expect("ready", 60)
    datagram(r)
    got = r.until("plain", 240)
    r.out(got, "plain", SMALL, "user, no offloads")
    ok("offloads can be turned off", re.search(r"^offloads:$", got, re.M), got)
    ok("user, no offloads: no packet was large", 500 < max(packets(got, "plain")) <= 1514, got)
    r.g.expect("ready", 60)
    r.into("127.0.0.1", r.ports["tcp"], SMALL, "plain", "a forward, no offloads")
    got = r.until("again", 240)
    lease_is_right(got, "after a reset of the device")
    r.out(got, "again", SMALL, "after a reset of the device")
    ok("after a reset of the device: offloads are back", min(packets(got, "again")) > 4000, got)


def datagram(r):
    data = noise(1000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(20 * SLOW)
        s.sendto(data, ("127.0.0.1", r.ports["udp"]))
        try:
            back = s.recv(2000)
        except OSError as e:
            back = e
    ok("UDP through a forward, and its answer", back == data[::-1] and md5(data) in r.g.expect(r"udp-in \d+ \w+", 60), back)


def restricted(r):
    got = r.until("restricted")
    ok("restricted: an address by DHCP", "10.0.2.15/24" in got, got)
    ok("restricted: the host is not reached by TCP", "tcp-out restricted: " in got and "connected" not in got, got)
    ok("restricted: nor by UDP, nor is its name server", got.count("timed out") >= 2 and "echo" not in got, got)
    r.g.expect("ready", 60)
    r.into("127.0.0.1", r.ports["restricted"], 100000, "restricted", "restricted, a forward")


def tapped(r):
    got = r.until("tap", 240)
    ok("tap: the host answers a ping", " 0% packet loss" in got, got)
    ok("tap: datagrams out and back", got.count("echo") == 3, got)
    r.out(got, "tap", SIZE, "tap")
    ok("tap: the driver leaves segmentation to the host, and the host to it", min(packets(got, "tap")) > 4000, got)
    r.g.expect("ready", 60)
    r.into(TAP_GUEST, 9, SIZE, "tap", "tap")
    got = r.until("tap-plain", 120)
    r.out(got, "tap-plain", SMALL, "tap, no offloads")
    ok("tap, no offloads: no packet was large", 500 < max(packets(got, "tap-plain")) <= 1514, got)
    got = r.until("tap-queues", 120)
    ok("tap: streams over two queues, then over one", "streams: 16" in got and "streams: 4" in got, got)
    counts = dict(re.findall(r"interrupts: (\S+) (\d+)", got))
    ok("tap: both pairs of queues carried packets",
       all(int(counts.get(q, 0)) > 0 for q in ("input.0", "output.0", "input.1", "output.1")), got)


def main():
    ports = {"tcp": free_port(socket.SOCK_STREAM), "udp": free_port(socket.SOCK_DGRAM),
             "restricted": free_port(socket.SOCK_STREAM)}
    nets = [f"user,hostname=somebody,mac={MAC},hostfwd=tcp::{ports['tcp']}-:9,"
            f"hostfwd=udp:127.0.0.1:{ports['udp']}-10.0.2.15:7", f"user,restrict,hostfwd=tcp::{ports['restricted']}-:9"]
    with tempfile.TemporaryDirectory() as folder, tap_interface(TAP, TAP_HOST, "multi_queue") as name, \
            servers(["127.0.0.1"] + [TAP_HOST] * bool(name)) as (tcp_port, udp_port, seen):
        nets += [f"tap={name},queues=2"] * bool(name)
        resolved = host_resolves()
        with open(os.path.join(HERE, "net_agent.py"), encoding="utf-8") as f:
            agent = f.read()
        command = f"#!/bin/sh\npython3 /agent.py {SIZE} {tcp_port} {udp_port} {resolved} {TAP_HOST if name else '-'}\n"
        with toolbox(folder, {"run.sh": command, "agent.py": agent}, *[x for n in nets for x in ("--net", n)]) as g:
            r = Run(g, ports, seen)
            r.name = resolved
            try:
                user(r)
                restricted(r)
                if name:
                    tapped(r)
                g.expect("toolbox: exit status 0", 60)
                ok("power-off", g.wait(30) == 0, g.errors())
            except Timeout as e:
                ok("the guest went on to the end", False, e)
            except OSError as e:
                ok("the guest went on to the end", False, f"{e}; {g.errors()}\n{g.text[-1000:]}")


if __name__ == "__main__":
    main()
    finish()
