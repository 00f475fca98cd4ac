"""The guest's half of net.py, run in the toolbox: says on the console what it did and saw.

agent.py SIZE TCP UDP NAME TAP: bytes of the large transfers; ports of the host's servers; a name to resolve or "-";
the host's address on the third card or "-". A line "== STEP" opens each step, and "ready" says that it listens.
"""
import array
import fcntl
import hashlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

GATEWAY, NAME_SERVER = "10.0.2.2", "10.0.2.3"
SMALL = 2 << 20
OFFLOADS = ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation", "rx-gro-hw")


def say(*words):
    print(*words, flush=True)


def sh(command):
    p = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    say(p.stdout.decode(errors="replace").rstrip())


def step(name):
    say("== " + name)


# ---- the driver's settings: linux/ethtool.h ----

def ethtool(device, data):
    buffer = array.array("B", data)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8946, struct.pack("16sP16x", device.encode(), buffer.buffer_info()[0]))
    return bytes(buffer)


def feature_names(device):
    count = struct.unpack("IIQI", ethtool(device, struct.pack("IIQI", 0x37, 0, 1 << 4, 0)))[3]
    text = ethtool(device, struct.pack("III", 0x1B, 4, count) + bytes(32 * count))[12:]
    return [text[i:i + 32].split(b"\0")[0].decode() for i in range(0, len(text), 32)]


def set_offloads(device, on):
    """Those the driver can change; then what is in force."""
    names = feature_names(device)
    blocks = (len(names) + 31) // 32
    words = [0] * (2 * blocks)
    state = struct.unpack(f"{4 * blocks}I", ethtool(device, struct.pack("II", 0x3A, blocks) + bytes(16 * blocks))[8:])
    for name in OFFLOADS:
        i = names.index(name)
        if state[i // 32 * 4] >> i % 32 & 1:
            words[i // 32 * 2] |= 1 << i % 32
            words[i // 32 * 2 + 1] |= on << i % 32
    ethtool(device, struct.pack(f"II{2 * blocks}I", 0x3B, blocks, *words))
    state = struct.unpack(f"{4 * blocks}I", ethtool(device, struct.pack("II", 0x3A, blocks) + bytes(16 * blocks))[8:])
    say("offloads:", *[n for n in OFFLOADS if state[names.index(n) // 32 * 4 + 2] >> names.index(n) % 32 & 1])


def set_channels(device, n):
    """Pairs of queues."""
    c = list(struct.unpack("9I", ethtool(device, struct.pack("9I", 0x3C, *[0] * 8))))
    c[0], c[8] = 0x3D, n
    ethtool(device, struct.pack("9I", *c))


# ---- traffic ----

def counters(device):
    out = []
    for way in ("tx", "rx"):
        for what in ("bytes", "packets"):
            with open(f"/sys/class/net/{device}/statistics/{way}_{what}", encoding="ascii") as f:
                out.append(int(f.read()))
    return out


def read_all(s):
    data = bytearray()
    while part := s.recv(1 << 20):
        data += part
    return bytes(data)


def write_all(s, data):
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)


def tcp_out(device, address, port, size, tag):
    """`size` bytes there, and as many others back; how large packets were."""
    data = random.Random(size).randbytes(size)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    before = counters(device)
    with socket.socket(family) as s:
        s.settimeout(120)
        s.connect((address, port))
        write_all(s, data)
        back = read_all(s)
    tb, tp, rb, rp = [a - b for a, b in zip(counters(device), before)]
    say(f"tcp-out {tag}: sent {hashlib.md5(data).hexdigest()} got {hashlib.md5(back).hexdigest()} {len(back)}")
    # the small packets are acknowledgements of the other way; half of them each
    say(f"packets {tag}: tx {tb // max(tp, 1)} rx {rb // max(rp, 1)}")


def tcp_in(tag, port=9):
    """One connection: what comes goes back from its end to its beginning."""
    with socket.create_server(("", port)) as listener:
        say("ready")
        s, peer = listener.accept()
        with s:
            data = read_all(s)
            write_all(s, data[::-1])
            # SIOCOUTQ: what comes next may take the card away
            while struct.unpack("i", fcntl.ioctl(s, 0x5411, bytes(4)))[0]:
                time.sleep(0.01)
    say(f"tcp-in {tag}: {hashlib.md5(data).hexdigest()} from {peer[0]}")


def udp_out(address, port, sizes, limit=10):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(limit)
        s.connect((address, port))
        for size in sizes:
            data = random.Random(size).randbytes(size)
            s.send(data)
            try:
                say("udp-out", size, "echo" if s.recv(70000) == data else "another")
            except OSError as e:
                say("udp-out", size, e)


def udp_in(port=7):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("", port))
        s.settimeout(60)
        say("ready")
        data, peer = s.recvfrom(70000)
        s.sendto(data[::-1], peer)
    say("udp-in", len(data), hashlib.md5(data).hexdigest())


def streams(address, port, count, size):
    """Several connections at once, so that flows spread over queues."""
    data = random.Random(size).randbytes(size)
    good = []

    def one():
        with socket.create_connection((address, port), 60) as s:
            write_all(s, data)
            good.append(len(read_all(s)) == size)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    say("streams:", sum(good))


def queue_interrupts(device):
    bus = os.path.basename(os.path.realpath(f"/sys/class/net/{device}/device"))
    with open("/proc/interrupts", encoding="ascii") as f:
        for line in f:
            if bus + "-" in line:
                say("interrupts:", line.split()[-1].split("-")[1], line.split()[1])


# ---- the three cards ----

def lease(device):
    sh(f"udhcpc -i {device} -n -q -t 10; hostname; ip -4 addr show dev {device}; ip route; cat /etc/resolv.conf; "
       f"cat /sys/class/net/{device}/address")


def user(size, tcp, udp, name):
    step("lease")
    lease("eth0")
    step("ping")
    sh("ping -c 3 " + GATEWAY)
    if name != "-":
        step("name")
        sh("nslookup " + name)
    step("udp-out")
    udp_out(GATEWAY, udp, (1, 1400, 8000, 60000))
    step("tcp-out")
    tcp_out("eth0", GATEWAY, tcp, size, "user")
    step("tcp-in")
    tcp_in("user")
    step("udp-in")
    udp_in()
    step("plain")
    set_offloads("eth0", 0)
    tcp_out("eth0", GATEWAY, tcp, SMALL, "plain")
    step("plain-in")
    tcp_in("plain")
    set_offloads("eth0", 1)
    step("again")
    bus = os.path.basename(os.path.realpath("/sys/class/net/eth0/device"))
    for action in ("unbind", "bind"):
        with open("/sys/bus/virtio/drivers/virtio_net/" + action, "w", encoding="ascii") as f:
            f.write(bus)
    lease("eth0")
    tcp_out("eth0", GATEWAY, tcp, SMALL, "again")
    sh("ip addr flush dev eth0; ip link set eth0 down")


def restricted(tcp, udp):
    step("restricted")
    lease("eth1")
    with socket.socket() as s:
        s.settimeout(3)
        try:
            s.connect((GATEWAY, tcp))
            say("tcp-out restricted: connected")
        except OSError as e:
            say("tcp-out restricted:", e)
    udp_out(GATEWAY, udp, (10,), 2)
    udp_out(NAME_SERVER, 53, (12,), 2)
    step("restricted-in")
    tcp_in("restricted")
    sh("ip addr flush dev eth1; ip link set eth1 down")


def tap(size, tcp, udp, host):
    step("tap")
    sh(f"ip addr add {host.rsplit('.', 1)[0]}.2/24 dev eth2; ip link set eth2 up; until ping -c 1 -W 1 {host} >/dev/null; "
       f"do :; done; ping -c 3 {host}")
    udp_out(host, udp, (1, 1472, 30000))
    tcp_out("eth2", host, tcp, size, "tap")
    step("tap-in")
    tcp_in("tap")
    step("tap-plain")
    set_offloads("eth2", 0)
    tcp_out("eth2", host, tcp, SMALL, "tap-plain")
    set_offloads("eth2", 1)
    step("tap-queues")
    set_channels("eth2", 2)
    streams(host, tcp, 16, 200000)
    queue_interrupts("eth2")
    set_channels("eth2", 1)
    streams(host, tcp, 4, 200000)


def main():
    size, tcp, udp, name, host = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    user(size, tcp, udp, name)
    restricted(tcp, udp)
    if host != "-":
        tap(size, tcp, udp, host)
    step("end")


main()
