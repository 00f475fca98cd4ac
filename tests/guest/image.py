#!/usr/bin/env python3
"""ectype image: bad requests are one line and status 2 with nothing changed; overlays and conversions hold what they
should, as qemu-img sees it too; an image creation that is interrupted leaves nothing behind."""
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from bad_input import refuses, snapshot
from guest import ECTYPE, IS_QEMU, SLOW, finish, ok, skip

MIB = 1 << 20


def image(*args, **kw):
    return subprocess.run([ECTYPE, "image", *[str(a) for a in args]], stdin=subprocess.DEVNULL, capture_output=True, text=True, **kw)


def info(path):
    return json.loads(image("info", "--json", path).stdout)


def works(name, p):
    return ok(name, p.returncode == 0, f"status {p.returncode}: {p.stderr}{p.stdout}")


def bad_requests(folder):
    def write(name, text):
        with open(os.path.join(folder, name), "w", encoding="ascii") as f:
            f.write(text)
        return os.path.join(folder, name)

    there = write("there", "x" * 1024)
    private = write("private", "-----BEGIN OPENSSH PRIVATE KEY-----\n")
    text = write("text", "hello\n")
    new = os.path.join(folder, "new")
    create = ["image", "create", new]
    cases = [
        ("no command", ["image"], "command"),
        ("no such command", ["image", "frobnicate"], "frobnicate"),
        ("create: no file", ["image", "create"], "F"),
        ("create: no such option", [*create, "--frobnicate"], "frobnicate"),
        ("create: the file exists", ["image", "create", there], "--force"),
        ("create: a folder", ["image", "create", folder], "directory"),
        ("create: in no folder", ["image", "create", folder + "/no/such/image"], "directory"),
        ("create: --force on a link", ["image", "create", "--force", "/dev/stdin"], "ordinary"),
        ("create: no size", [*create, "--size", "big"], "size"),
        ("create: a size too small", [*create, "--size", "1M"], "size"),
        ("create: a size too large", [*create, "--size", "9T"], "size"),
        ("create: format", [*create, "--format", "vmdk"], "vmdk"),
        ("create: suite", [*create, "--suite", "a b"], "suite"),
        ("create: mirror", [*create, "--mirror", "nowhere"], "mirror"),
        ("create: package", [*create, "--package", "-x;y"], "package"),
        ("create: kernel", [*create, "--kernel", "bsd"], "kernel"),
        ("create: host name", [*create, "--hostname", "a_b"], "host name"),
        ("create: user", [*create, "--user", "Root!"], "user"),
        ("create: user root", [*create, "--user", "root"], "root"),
        ("create: nobody could log in", [*create, "--no-password"], "--ssh-key"),
        ("create: a password and none", [*create, "--password", "x", "--no-password"], "exclude"),
        ("create: a private key", [*create, "--ssh-key", private], "public"),
        ("create: no key", [*create, "--ssh-key", text], "public"),
        ("create: a key that is missing", [*create, "--ssh-key", new], "No such"),
        ("create: a script that is missing", [*create, "--script", new], "--script"),
        ("kernel: no file", ["image", "kernel", new, folder], "no such file"),
        ("kernel: no partition table", ["image", "kernel", there, new], "partition"),
        ("info: no file", ["image", "info", new], "new"),
        ("info: two", ["image", "info", there, there], "too many"),
        ("info: not qcow2", ["image", "info", "--format", "qcow2", there], "qcow2"),
        ("check: not qcow2", ["image", "check", "--format=qcow2", there], "qcow2"),
        ("overlay: no base", ["image", "overlay", new, new + "2"], "new"),
        ("overlay: the file exists", ["image", "overlay", there, text], "--force"),
        ("convert: no source", ["image", "convert", new, new + "2"], "new"),
        ("convert: the file exists", ["image", "convert", there, text], "--force"),
        ("convert: format", ["image", "convert", "--format", "vmdk", there, new], "vmdk"),
    ]
    for name, args, word in cases:
        # an empty PATH entry more does not matter: nothing is looked for before the request is right
        refuses(name, args, folder, (word,))


def makes_something(pid):
    """Whether the process has a file without a name on a disk."""
    try:
        return any("(deleted)" in os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def killed_conversion(source, folder, name):
    """What is cut short by SIGKILL in its midst leaves nothing."""
    before = sorted(os.listdir(folder))
    for _ in range(20):
        p = subprocess.Popen([ECTYPE, "image", "convert", source, os.path.join(folder, name)], stderr=subprocess.DEVNULL)
        while p.poll() is None and not makes_something(p.pid):
            pass
        p.kill()
        if p.wait() == -signal.SIGKILL:
            ok(f"convert: killed, nothing is left of {name}", sorted(os.listdir(folder)) == before, os.listdir(folder))
            return
        os.unlink(os.path.join(folder, name))  # it was faster
    ok(f"convert: killed while it made {name}", False)


def disks(folder):
    """A random sparse disk through all formats and back."""
    rng = random.Random(4)
    raw, qcow2, over, flat = (os.path.join(folder, n) for n in ("a.raw", "a.qcow2", "over.qcow2", "flat.raw"))
    with open(raw, "wb") as f:
        f.truncate(300 * MIB + 512)
        for _ in range(40):
            f.seek(rng.randrange(300 * MIB))
            f.write(rng.randbytes(rng.randrange(1, 200000)))
        f.truncate(300 * MIB + 512)
    works("convert: raw to qcow2", image("convert", raw, qcow2))
    works("check", image("check", qcow2))
    ok("info: the same size, less on disk", info(qcow2)["virtual_size"] == 300 * MIB + 512 and info(qcow2)["disk_size"] < 20 * MIB,
       info(qcow2))
    works("overlay", image("overlay", qcow2, over))
    i = info(over)
    ok("overlay: its base by name and format", (i.get("backing_file"), i.get("backing_format")) == ("a.qcow2", "qcow2"), i)
    moved = os.path.join(folder, "moved")
    os.mkdir(moved)
    for p in (qcow2, over):
        os.rename(p, os.path.join(moved, os.path.basename(p)))
    qcow2, over = os.path.join(moved, "a.qcow2"), os.path.join(moved, "over.qcow2")
    works("convert: an overlay that moved with its base", image("convert", over, flat))
    ok("convert: every byte came back", subprocess.run(["cmp", raw, flat]).returncode == 0)
    ok("convert: holes stay holes", os.stat(flat).st_blocks * 512 < 20 * MIB, os.stat(flat).st_blocks)
    works("convert: --force replaces", image("convert", "--force", raw, flat))
    for name in ("dead.raw", "dead.qcow2"):
        killed_conversion(raw, folder, name)
    elsewhere = os.path.join(folder, "else.qcow2")
    works("overlay: from another folder", image("overlay", "--format", "raw", raw, elsewhere))
    ok("overlay: then its base by full name", info(elsewhere).get("backing_file") in (raw, "a.raw"), info(elsewhere))
    if shutil.which("qemu-img"):
        for path in (qcow2, over, elsewhere):
            p = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, path], capture_output=True, text=True)
            works(f"qemu-img: {os.path.basename(path)} is the same disk", p)
            works(f"qemu-img: {os.path.basename(path)} has no errors", subprocess.run(["qemu-img", "check", path], capture_output=True, text=True))
    else:
        skip("qemu-img", "not here")
    with open(qcow2, "r+b") as f:
        f.seek(40)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        f.write((0x8000000000000000 | 77 << 40).to_bytes(8, "big"))
    p = image("check", qcow2)
    ok("check: a table that points behind the file", p.returncode in (1, 2) and p.stdout + p.stderr, f"{p.returncode} {p.stdout}")
    shutil.rmtree(moved)


def interrupted(folder):
    """Ctrl-C at several moments: nothing is left, and the status says so."""
    empty = os.path.join(folder, "x")
    os.mkdir(empty)
    if "packages" in (p := image("create", os.path.join(empty, "i.raw"), "--mirror", "http://127.0.0.1:9/")).stderr and p.returncode == 2:
        skip("image create", p.stderr.strip())
        return False
    ok("create: a mirror that is not there", p.returncode == 1 and not os.listdir(empty), f"{p.returncode} {p.stderr[-500:]} {os.listdir(empty)}")
    mounts = open("/proc/self/mounts", encoding="utf-8").read()
    for number, after in ((signal.SIGINT, 0.7), (signal.SIGTERM, 4), (signal.SIGINT, 9)):
        before = set(os.listdir("/tmp"))
        p = subprocess.Popen([ECTYPE, "image", "create", os.path.join(empty, "i.raw")], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(after)
        p.send_signal(number)
        try:
            err = p.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            p.kill()
            err = "does not end"
        ok(f"create: {number.name} after {after} s ends it", p.returncode == 128 + number, f"{p.returncode} {err}")
        ok("create: nothing is left", not os.listdir(empty), os.listdir(empty))
        left = [n for n in set(os.listdir("/tmp")) - before if n.startswith("mmdebstrap.")]
        ok("create: nothing is left in /tmp, nothing is mounted", not left and
           open("/proc/self/mounts", encoding="utf-8").read() == mounts, left)
    return True


def killed(folder):
    """kill -9: no image, no process that goes on; the next run for the same name clears up."""
    empty = os.path.join(folder, "k")
    os.mkdir(empty)
    target = os.path.join(empty, "i.raw")
    p = subprocess.Popen([ECTYPE, "image", "create", target], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    time.sleep(6)
    p.kill()
    p.wait()

    def left():
        return [c for c in command_lines() if empty in c]
    deadline = time.monotonic() + 30 * SLOW
    while left() and time.monotonic() < deadline:
        time.sleep(0.2)
    ok("create: killed, nothing of it goes on", not left(), left())
    names = os.listdir(empty)
    ok("create: killed, there is no image", len(names) == 1 and names[0].startswith(".i.raw."), names)
    live = tempfile.mkdtemp(prefix=".i.raw.", dir=empty)
    with open(live + "/lock", "w", encoding="ascii") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        image("create", target, "--mirror", "http://127.0.0.1:9/")
        ok("create: the next run removes what is left, not what is in use", os.listdir(empty) == [os.path.basename(live)], os.listdir(empty))


def command_lines():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                yield f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


if __name__ == "__main__":
    if IS_QEMU:
        skip("image", "not QEMU's")
        sys.exit(0)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = os.path.realpath(tmp)
        os.chdir(tmp)
        bad_requests(tmp)
        disks(tmp)
        if interrupted(tmp):
            killed(tmp)
    finish()
