#!/usr/bin/env python3
"""Shared directories (virtio-fs, --share) and devices of other processes (--vhost-user)."""
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from guest import ECTYPE, linux as verbose, run_to_end, ok, skip, finish, PROMPT, ENGINE, Timeout

MIB = 1 << 20
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/libexec/qemu/virtiofsd")


def linux(*args):
    return verbose(*args, append="console=ttyS0 quiet")


def digest(data):
    return hashlib.md5(data).hexdigest()


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def write(data, *path):
    with open(os.path.join(*path), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return os.path.join(*path)


def processes(name):
    """Pids of this name in all of /proc."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.basename(read("/proc", pid, "cmdline").split(b"\0")[0].decode(errors="replace")) == name:
                found.append(int(pid))
        except OSError:
            pass
    return found


def of_group(pgids):
    """Which of the process groups still have a member that runs."""
    left = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = read("/proc", pid, "stat").rsplit(b")", 1)[1].split()
            if int(fields[2]) in pgids and fields[0] != b"Z":
                left.add(int(fields[2]))
        except OSError:
            pass
    return left


def helpers(monitor):
    """The helper processes below a monitor: {pid of virtiofsd's first process, its group's id}."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(pid)] = int(read("/proc", pid, "stat").rsplit(b")", 1)[1].split()[1])
        except OSError:
            pass

    def below(pid):
        while pid in parents and pid != monitor:
            pid = parents[pid]
        return pid == monitor

    return [p for p in processes("virtiofsd") if below(p)]


def compiler():
    return shutil.which("gcc") or shutil.which("cc")


def files(folder):
    """Both directions, both kinds."""
    rw, ro = os.path.join(folder, "rw"), os.path.join(folder, "with, comma")
    os.mkdir(rw)
    os.mkdir(ro)
    big = os.urandom(24 * MIB)
    write(big, ro, "big")
    write("from the host\n", rw, "hello")
    os.symlink("/etc/passwd", os.path.join(rw, "link"))
    with linux("--share", f"data={rw}", "--share", f"look={ro},ro") as g:
        g.expect(PROMPT, 60)
        g.shell("mkdir /a /b; mount -t virtiofs data /a; mount -t virtiofs look /b")
        out = g.shell("cat /a/hello; md5sum </b/big; readlink /a/link")
        ok("the guest reads", "from the host" in out and digest(big) in out and "/etc/passwd" in out, out)
        out = g.shell("cp /b/big /a/copy && mkdir /a/d && echo 1 >/a/d/x && mv /a/d/x /a/d/y && ln -s y /a/d/z && sync && cat /a/d/z; "
                      "rm /a/hello; ls /a")
        ok("the guest writes", read(rw, "copy") == big and read(rw, "d", "y") == b"1\n" and os.readlink(os.path.join(rw, "d", "z")) == "y"
           and not os.path.exists(os.path.join(rw, "hello")), out)
        out = g.shell("echo x >/b/x; rm /b/big; mount -o remount,rw /b; echo x >/b/x; touch -d 2001-01-01 /b/big")
        ok("what is shared read-only stays as it is", out.count("Read-only file system") >= 3 and os.listdir(ro) == ["big"] and
           digest(read(ro, "big")) == digest(big), out)
        write("again\n", rw, "late")
        ok("what the host adds later is there", "again" in g.shell("cat /a/late"))
        out = g.shell("mknod /a/null c 1 3")
        ok("the guest makes no device files", "Operation not permitted" in out and not os.path.exists(os.path.join(rw, "null")), out)
        if compiler():
            code_read(g, folder, rw)
        groups = {os.getpgid(p) for p in helpers(g.process.pid)}
        g.send("poweroff\n")
        status = g.wait(30)
        ok("power off; no helper is left", status == 0 and len(groups) == 2 and not of_group(groups), f"{status} {groups} {g.errors()}")


CALLER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open(argv[1], O_RDONLY | O_DIRECT), wrong = 0;

	for (int i = 0; i < atoi(argv[2]); i++) {
		if (pread(fd, p, 4096, 4096L * i) != 4096)
			return 2;
		for (int k = 0; k < 100; k++)
			wrong += ((int (*)(void))p)() != i;
	}
	printf("wrong: %d\n", wrong);
	return 0;
}
"""


def code_read(g, folder, rw):
    """Functions that the helper writes over each other, where translated code is, without the guest's processor."""
    write(CALLER, folder, "caller.c")
    subprocess.run([compiler(), "-static", "-O1", "-o", os.path.join(rw, "caller"), os.path.join(folder, "caller.c")], check=True)
    # mov eax, i; ret
    write(b"".join((b"\xb8" + i.to_bytes(4, "little") + b"\xc3").ljust(4096, b"\x90") for i in range(200)), rw, "code")
    out = g.shell("/a/caller /a/code 200")
    ok("code that the helper writes over code is run", "wrong: 0" in out, out + g.text[-300:])


def killed(folder):
    shared = os.path.join(folder, "killed")
    os.mkdir(shared)
    write("x" * MIB, shared, "file")
    with linux("--share", f"data={shared}") as g:
        g.expect(PROMPT, 60)
        g.shell("mount -t virtiofs data /mnt || (mkdir -p /mnt; mount -t virtiofs data /mnt)")
        before = g.shell("wc -c </mnt/file")
        for p in helpers(g.process.pid):
            os.kill(p, signal.SIGKILL)
        time.sleep(0.3)
        after = g.shell("ls /mnt; cat /mnt/file; echo 3 >/proc/sys/vm/drop_caches; cat /mnt/file; echo go''es on")
        mount = g.shell("umount /mnt; mount -t virtiofs data /mnt; echo mo''re")
        said = g.errors()
        g.send("poweroff\n")
        status = g.wait(30)
    ok("a killed helper is an error of the guest's", str(MIB) in before and "not connected" in after and "goes on" in after, before + after)
    ok("and the machine goes on", status == 0 and "more" in mount, f"{status} {mount}")
    ok("one line says so", said.count("\n") == 1 and "every access of the guest fails" in said, said)
    with linux("--share", f"data={shared}") as g:
        g.expect(PROMPT, 60)
        for p in helpers(g.process.pid):
            os.kill(p, signal.SIGKILL)
        time.sleep(0.3)
        out = g.shell("mkdir -p /mnt; mount -t virtiofs data /mnt; ls /mnt; echo go''es on", 20)
        g.send("poweroff\n")
        status = g.wait(30)
    ok("killed before the first use", status == 0 and "goes on" in out, f"{status} {out}")
    g = linux("--share", f"data={shared}")
    g.expect(PROMPT, 60)
    groups = {os.getpgid(p) for p in helpers(g.process.pid)}
    g.close()
    end = time.monotonic() + 5
    while of_group(groups) and time.monotonic() < end:
        time.sleep(0.05)
    ok("a killed monitor leaves no helper", len(groups) == 1 and not of_group(groups))


def jailed(folder):
    """What the host says of the helper."""
    with linux("--share", f"data={folder},ro") as g:
        g.expect(PROMPT, 60)
        pids = sorted(helpers(g.process.pid))
        status = {p: dict(line.split(":\t", 1) for line in read("/proc", str(p), "status").decode().splitlines() if ":\t" in line) for p in pids}
        inner = pids[-1]
        roots = os.listdir(f"/proc/{inner}/root")
        names = {n: os.readlink(f"/proc/{inner}/ns/{n}") != os.readlink(f"/proc/self/ns/{n}") for n in ("mnt", "pid", "net")}
        fds = [os.readlink(f"/proc/{inner}/fd/{f}") for f in os.listdir(f"/proc/{inner}/fd")]
    ok("the helper: a filter, no new rights", status[inner]["Seccomp"] == "2" and all(s["NoNewPrivs"] == "1" for s in status.values()), status)
    ok("namespaces of its own", all(names.values()), names)
    ok("its root is the directory", sorted(roots) == sorted(os.listdir(folder)), roots)
    ok("no descriptor of ours", not [f for f in fds if f.startswith("/dev/pts") or f.startswith(folder + "/")], fds)


def back_end(folder):
    """A disk that qemu-storage-daemon serves."""
    if not shutil.which("qemu-storage-daemon"):
        return skip("vhost-user disk", "no qemu-storage-daemon")
    disk, sock = os.path.join(folder, "disk"), os.path.join(folder, "sock")
    data = os.urandom(4 * MIB)
    write(data + bytes(60 * MIB), disk)
    daemon = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"driver=file,filename={disk},node-name=f", "--export",
                               f"type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={sock}"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not os.path.exists(sock) and time.monotonic() < end:
            time.sleep(0.05)
        with linux("--vhost-user", f"blk={sock}") as g:
            g.expect(PROMPT, 60)
            out = g.shell("cat /sys/block/vda/size; dd if=/dev/vda bs=1M count=4 2>/dev/null | md5sum")
            ok("vhost-user disk: size and contents", str(64 * MIB // 512) in out and digest(data) in out, out)
            out = g.shell("dd if=/dev/vda of=/tmp/x bs=1M count=4 2>/dev/null; dd if=/tmp/x of=/dev/vda bs=1M seek=8 conv=fsync 2>&1")
            ok("written", read(disk)[8 * MIB:12 * MIB] == data, out)
            again = g.shell("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=128 count=64 iflag=direct 2>/dev/null | md5sum")
            ok("read directly", digest(data) in again, again)
            daemon.kill()
            daemon.wait()
            out = g.shell("dd if=/dev/vda of=/dev/null bs=1M skip=40 count=1 iflag=direct 2>&1; echo go''es on")
            g.send("poweroff\n")
            status = g.wait(30)
        ok("a back end that dies is an I/O error", status == 0 and "I/O error" in out and "goes on" in out, f"{status} {out}")
    finally:
        daemon.kill()
        daemon.wait()


def refuses(name, args, *words):
    status, out, err, _ = run_to_end(["run", "--engine", ENGINE, "--serial", "none", *args], 10)
    ok(name, status == 2 and len(err.strip().splitlines()) == 1 and not out and all(w in err for w in words), f"status {status}: {err}{out}")


def refused(folder):
    file, absent = write("", folder, "file"), os.path.join(folder, "absent")
    refuses("a directory that is not there", ["--share", f"a={absent}"], absent)
    refuses("a file", ["--share", f"a={file}"], file, "not a directory")
    refuses("no tag", ["--share", f"={folder}"], "TAG=DIR")
    refuses("no directory", ["--share", "a="], "TAG=DIR")
    refuses("neither", ["--share", "a"], "TAG=DIR")
    refuses("a tag of 37 bytes", ["--share", "t" * 37 + "=" + folder], "36")
    refuses("two directories with one tag", ["--share", f"a={folder}", "--share", f"a=/usr,ro"], "'a'")
    refuses("a back end that is not there", ["--vhost-user", f"blk={absent}"], absent)
    refuses("a device that is not known", ["--vhost-user", f"gpu={absent}"], "blk=SOCKET")
    refuses("a path that is no socket", ["--vhost-user", f"blk={file}"], file)
    hidden = [p for p in VIRTIOFSD if os.path.exists(p)]
    script = "".join(f"mount --bind /dev/null {p} && " for p in hidden) + 'exec "$@"'
    p = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", ECTYPE, "run", "--share", f"a={folder}"], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True)
    if p.returncode == 1 and "unshare" in p.stderr:
        skip("no virtiofsd", "no right to hide it")
    else:
        ok("no virtiofsd", p.returncode == 2 and p.stderr.count("\n") == 1 and "apt-get install" in p.stderr, p.stderr)


def main():
    if not any(os.access(p, os.X_OK) for p in VIRTIOFSD):
        skip("shared directories", "no virtiofsd")
        finish()
    with tempfile.TemporaryDirectory(prefix="ectype-share-") as folder:
        for test in (files, killed, jailed, back_end, refused):
            own = os.path.join(folder, test.__name__ + ".d")
            os.mkdir(own)
            try:
                test(own)
            except Timeout as e:
                ok(test.__name__, False, e)
    finish()


main()
