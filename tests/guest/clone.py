#!/usr/bin/env python3
"""Copies of a running machine: they run, answer at ports of their own, have the right time and an identity of their
own, share memory and disk until they write, and leave nothing behind.

clone.py [--engine NAME] [--count K]
"""
import argparse
import glob
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request

import guest
from guest import ECTYPE, PROMPT, ROOT, Guest, Timeout, finish, linux, ok, run_to_end, skip, wait_for

MIB = 1 << 20
HOUR = 3600
DAY = 24 * HOUR
COMPLAINTS = "BUG|Oops|soft lockup|rcu.*stall|hung_task|blocked for more|unstable|I/O error"
# what a copy says of itself when it is asked by HTTP
REPORT = r"""mkdir -p /www/cgi-bin && cat >/www/cgi-bin/id <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\n\n'
echo "date $(date +%s)"
echo "disk $(dd if=/dev/vda bs=4096 count=1 skip=2 2>/dev/null | md5sum | cut -c1-32)"
echo "mark $(cat /tmp/mark)"
echo "hook $(cat /tmp/hook)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "random $(head -c 16 /dev/urandom | od -An -tx8 | tr -d ' ')"
END
mkdir -p /etc/ectype/copied.d && cat >/etc/ectype/copied.d/10-test <<'END'
#!/bin/sh
echo copied >/tmp/hook
END
chmod +x /www/cgi-bin/id /etc/ectype/copied.d/10-test; echo never >/tmp/hook; echo before >/tmp/mark; httpd -p 80 -h /www"""


def control(*args, limit=120, env=None):
    p = subprocess.run([ECTYPE, *[str(a) for a in args]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=limit * guest.SLOW, env=env)
    return p.returncode, p.stdout, p.stderr


def refused(name, args, words, status=2):
    got, out, err, _ = run_to_end(args, 60)
    return ok(name, got == status and err.count("\n") == 1 and re.search(words, err) and not out,
              f"{args}\nstatus {got}, stdout {out[-300:]!r}, stderr {err[-600:]!r}")


def ask(port, limit=20):
    """What the copy behind host port `port` says: {word: rest of the line}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/cgi-bin/id", timeout=limit * guest.SLOW) as f:
        said = dict(line.split(" ", 1) for line in f.read().decode().splitlines() if " " in line)
    said["late"] = time.time() - int(said["date"])  # with the way of the answer, and part of a second
    return said


def forward(vm):
    return int(vm["config"]["net"][0]["hostfwd"][0].split("-")[0].rsplit(":", 1)[1])


def machines():
    return {vm["name"]: vm for vm in json.loads(control("ps", "--json")[1])}


def stop(names):
    for name in names:
        control("stop", name, "--force")


def wallclock(folder):
    """What, preloaded, gives a monitor another wall clock."""
    lib = os.path.join(folder, "wallclock.so")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", lib, os.path.join(ROOT, "tests/guest/wallclock.c")], check=True)
    return lambda seconds: dict(os.environ, LD_PRELOAD=lib, WALLCLOCK_SHIFT=str(seconds))


def ip(*args):
    return subprocess.run(["ip", *args], capture_output=True, text=True)


def in_console(name, command, turn=itertools.count(1)):
    """Output of a command at the copy's prompt. What was said there before comes again, so that marks have numbers."""
    mark = next(turn)
    with Guest(name, verb="console", engine=None, terminal=True) as c:
        c.send(f"\necho B''EGIN{mark}; {command}; echo E''ND{mark}\n")
        text = c.expect(f"BEGIN{mark}\r?\n(?s:.*?)END{mark}\r?\n", 60)
    return "\n".join(text.replace("\r", "").split("\n")).rpartition(f"BEGIN{mark}\n")[2].partition(f"END{mark}")[0]


def answers(address):
    """Can a TCP connection to port 80 be had?"""
    try:
        socket.create_connection((address, 80), timeout=10 * guest.SLOW).close()
        return True
    except OSError:
        return False


def initramfs(folder):
    path = os.path.join(folder, "initramfs")
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", path], check=True)
    return path


def copies(folder, count, shifted):
    disk = os.path.join(folder, "disk.raw")
    with open(disk, "wb") as f:
        f.write(os.urandom(MIB))
        f.truncate(8 * MIB)
    os.environ["TMPDIR"] = os.path.join(folder, "tmp")
    os.mkdir(os.environ["TMPDIR"])
    snap = os.path.join(folder, "snap")
    with linux("--name", "origin", "--disk", disk, "--net", "user,hostfwd=tcp::0-:80", "--cpus", "2",
               initrd=initramfs(folder), memory="256M") as g:
        g.expect(PROMPT, 120)
        g.shell("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
        g.shell(REPORT)
        before = ask(forward(machines()["origin"]))
        status, out, err = control("clone", "origin", "--count", count, "--json")
        if not ok(f"{count} copies of a running machine", status == 0, f"{status} {out} {err}"):
            return
        vms = json.loads(out)
        names = [f"origin-{i}" for i in range(1, count + 1)]
        ok("they are listed", [vm["name"] for vm in vms] == names and set(names) <= set(machines()), vms)
        ports = [forward(vm) for vm in vms]
        ok("each has a host port of its own", len(set(ports)) == count and 0 not in ports, ports)
        answers = [ask(p) for p in ports]
        ok("each has random numbers of its own", len({a["random"] for a in answers}) == count, answers)
        ok("and a boot ID", len({a["boot"] for a in answers + [before]}) == count + 1, answers)
        ok("what the guest does with copies was done", {a["hook"] for a in answers} == {"copied"} and
           before["hook"] == "never", answers)
        ok("all answer", all(a["mark"] == "before" and a["disk"] == before["disk"] for a in answers), answers)
        ok("their clocks are right", all(-1 < a["late"] < 4 * guest.SLOW for a in answers), answers)
        ok("each has a generation of its own", len({vm["generation"] for vm in vms}) == count)
        in_console(names[0], "echo after >/tmp/mark; dd if=/dev/zero of=/dev/vda bs=4096 count=4 2>/dev/null; sync; "
                             "echo 3 >/proc/sys/vm/drop_caches")
        first, second, source = ask(ports[0]), ask(ports[1]), ask(forward(machines()["origin"]))
        ok("what one writes is its own", first["mark"] == "after" and first["disk"] != before["disk"] and
           [x["mark"] for x in (second, source)] == ["before"] * 2 and
           [x["disk"] for x in (second, source)] == [before["disk"]] * 2, (first, second, source))
        work = os.listdir(os.environ["TMPDIR"])
        ok("one directory is theirs", len(work) == 1, work)
        status, out, err = control("clone", names[0], "--count", "2", "--names", "grandchild")
        ok("copies of a copy", status == 0 and ask(forward(machines()["grandchild-1"]))["mark"] == "after", out + err)
        stop(["grandchild-1", "grandchild-2", *names])
        ok("when the last has ended the directories go", wait_for(lambda: not os.listdir(os.environ["TMPDIR"])))
        ok("the source goes on", ask(forward(machines()["origin"]))["mark"] == "before")
        status, _, err = control("snapshot", "origin", snap)
        ok("a snapshot for later", status == 0, err)
    of_a_snapshot(folder, snap, shifted)


def of_a_snapshot(folder, snap, shifted):
    """Much later, and with options."""
    logs, kept, port = os.path.join(folder, "logs"), os.path.join(folder, "kept"), 20000 + os.getpid() % 20000
    os.mkdir(logs)
    net = f"user,hostfwd=tcp::{port}-:80"
    status, out, err = control("clone", snap, "--count", 2, "--names", "later", "--net", f"user,hostfwd=tcp::{port // 10}%i-:80",
                               "--log", logs, "--dir", kept, env=shifted(DAY))
    ok("copies of a snapshot", status == 0 and "kept" in out, out + err)
    ports = [int(f"{port // 10}{i}") for i in (1, 2)]
    answers = [ask(p, 60) for p in ports]
    ok("a day later their clocks are right", all(-1 < a["late"] + DAY < 4 * guest.SLOW for a in answers), answers)
    time.sleep(2)
    bad = in_console("later-1", f"dmesg | grep -E '{COMPLAINTS}'")
    ok("the kernel does not complain of a leap of a day", not bad.strip(), bad)
    clock = in_console("later-1", "cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
    ok("nor does it change its clock", clock in ("tsc", "kvm-clock"), clock)
    in_console("later-1", "echo logged; sleep 1")
    with open(os.path.join(logs, "later-1.log"), encoding="utf-8", errors="replace") as f:
        ok("its output is in its log", "logged" in f.read())
    stop(["later-1", "later-2"])
    time.sleep(0.5)
    ok("--dir keeps the disks", sorted(n for n in os.listdir(kept) if n.endswith(".qcow2")) ==
       ["disk0-later-1.qcow2", "disk0-later-2.qcow2"], os.listdir(kept))
    status, out, err = control("clone", snap, "--name", "alone", "--time", "saved", env=shifted(DAY))
    if ok("one with the time that was saved", status == 0, out + err):
        date = int(ask(forward(machines()["alone"]))["date"])
        ok("its clock is late", abs(date - time.time()) < 10 * 60, date)
        refused("a name that is taken", ["clone", snap, "--name", "alone"], "alone")
    stop(["alone"])
    errors(folder, snap, net)


def image_info(path):
    return json.loads(control("image", "info", "--json", path)[1])


def overlaid(folder):
    """A disk that is an overlay: its backing file is shared, never copied; what is saved of a copy needs no directory that goes."""
    base, top, saved, work = (os.path.join(folder, n) for n in ("base.raw", "top.qcow2", "of-copy", "tmp"))
    with open(base, "wb") as f:
        f.write(os.urandom(24 * MIB))
    status, _, err = control("image", "overlay", "--format", "raw", base, top)
    ok("an overlay", status == 0, err)
    with linux("--name", "over", "--disk", top, initrd=initramfs(folder), memory="192M") as g:
        g.expect(PROMPT, 120)
        g.shell("dd if=/dev/urandom of=/dev/vda bs=64k count=4 seek=9 2>/dev/null; dd if=/dev/zero of=/dev/vda bs=64k count=2 seek=90 "
                "2>/dev/null; sync")
        total = g.shell("md5sum </dev/vda").split()[0]
        status, out, err = control("clone", "over", "--count", 2)
        ok("copies of a machine with an overlay", status == 0, out + err)
        image = glob.glob(work + "/*/snapshot/disk0.img")
        ok("its backing file is not copied", len(image) == 1 and image_info(image[0])["backing_file"] == base and
           os.stat(image[0]).st_blocks * 512 < 4 * MIB, image)
        ok("they have its disk", in_console("over-1", "md5sum </dev/vda").split()[0] == total)
        in_console("over-1", "dd if=/dev/urandom of=/dev/vda bs=64k count=1 seek=50 2>/dev/null; sync")
        changed = in_console("over-1", "echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vda").split()[0]
        ok("each its own", changed != total and in_console("over-2", "md5sum </dev/vda").split()[0] == total)
        status, _, err = control("snapshot", "over-1", saved)
        ok("a copy is saved", status == 0, err)
        ok("above the backing file, not above what goes with the copies", image_info(saved + "/disk0.img")["backing_file"] == base)
        status, out, err = control("clone", "over-1", "--count", 2, "--names", "grand")
        ok("copies of a copy with an overlay", status == 0, out + err)
        stop(["over-1", "over-2"])
        ok("what they share goes", wait_for(lambda: len(os.listdir(work)) == 1), os.listdir(work))
        ok("theirs goes on", in_console("grand-2", "echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vda").split()[0] == changed)
        status, out, err = control("clone", saved, "--name", "again")
        ok("and so does what was saved", status == 0 and in_console("again", "md5sum </dev/vda").split()[0] == changed, out + err)
        stop(["grand-1", "grand-2", "again"])
        ok("nothing is left", wait_for(lambda: not os.listdir(work)), os.listdir(work))


def on_a_bridge():
    """Copies on one network: the guests go on with one address, and the network sees three."""
    base = f"ec{os.getpid() % 100000}"
    net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
    taps = [f"{base}t{i}" for i in range(3)]
    if os.geteuid() or ip("link", "add", base, "type", "bridge").returncode:
        skip("copies on a bridge", "no leave to make one")
        return
    try:
        ip("addr", "add", f"{net}.1/24", "dev", base)
        ip("link", "set", base, "up")
        for t in taps:
            ip("tuntap", "add", "dev", t, "mode", "tap")
            ip("link", "set", t, "master", base, "up")
        with linux("--name", "bridged", "--net", f"tap={taps[0]}", memory="128M") as g:
            g.expect(PROMPT, 120)
            g.shell(f"ip link set eth0 up; ip addr add {net}.10/24 dev eth0; ping -c 1 {net}.1; httpd -p 80 -h /tmp")
            status, out, err = control("clone", "bridged", "--count", 2, "--net", f"tap={base}t%i", "--json")
            if not ok("two copies on the bridge", status == 0, out + err):
                return
            vms = json.loads(out)
            macs = [g.shell("cat /sys/class/net/eth0/address").strip()] + [vm["config"]["net"][0]["mac"] for vm in vms]
            ok("each card has an address of its own", len(set(macs)) == 3, macs)
            # what is a person's or an agent's hook to do
            for i, vm in enumerate(vms):
                in_console(vm["name"], f"ip addr flush dev eth0; ip addr add {net}.{11 + i}/24 dev eth0")
            told = [in_console(vm["name"], "cat /sys/class/net/eth0/address").strip() for vm in vms]
            ok("their drivers go on with the old one", told == [macs[0]] * 2, told)
            ok("the host reaches all", [answers(f"{net}.{10 + i}") for i in range(3)] == [True] * 3)
            seen = re.findall(rf"{re.escape(net)}\.1[012] .*lladdr (\S+)", "\n".join(sorted(
                ip("neigh", "show", "dev", base).stdout.splitlines())))
            ok("and sees three addresses", seen == macs, (seen, macs))
            out = in_console(vms[0]["name"], f"ping -c 2 -W 5 {net}.12; ping -c 2 -W 5 {net}.10")
            ok("one copy reaches the other and the source", len(re.findall(r" 0% packet loss", out)) == 2, out)
    finally:
        stop([n for n in machines() if n.startswith("bridged")])
        for t in taps:
            ip("link", "del", t)
        ip("link", "del", base)


def errors(folder, snap, net):
    before = set(machines())
    refused("no count", ["clone", snap, "--count", "0"], "--count")
    refused("no source", ["clone", "--count", "2"], "which machine")
    refused("no such machine", ["clone", "no-such-machine"], "no-such-machine")
    refused("no such snapshot", ["clone", folder + "/none"], "none")
    refused("an option that is the machine's", ["clone", snap, "--memory", "1G"], "--memory", 1)
    refused("one port for two", ["clone", snap, "--count", "2", "--net", net], "in use", 1)
    refused("one tap for two", ["clone", snap, "--count", "2", "--net", "tap=tap9"], "%i")
    refused("a port that is none", ["clone", snap, "--names", "x", "--hostfwd-offset", "70000"], "hostfwd-offset")
    refused("a directory that is there", ["clone", snap, "--dir", folder], "directory")
    refused("a directory for logs that is not there", ["clone", snap, "--log", folder + "/none"], "--log")
    ok("none of these left a machine", set(machines()) == before, machines())
    ok("or a directory", not os.listdir(os.environ["TMPDIR"]), os.listdir(os.environ["TMPDIR"]))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--count", type=int, default=5)
    o = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="ectype-test-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = os.path.join(folder, "run")
        os.mkdir(os.environ["XDG_RUNTIME_DIR"], 0o700)
        try:
            copies(folder, o.count, wallclock(folder))
            overlaid(folder)
            on_a_bridge()
        except Timeout as e:
            ok("a guest answers in time", False, e)
        finally:
            stop(machines())
    finish()


if __name__ == "__main__":
    main()
