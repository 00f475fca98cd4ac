#!/usr/bin/env python3
"""ectype exec: streams, exit status, files, signals, terminal, bad input."""
import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
from guest import ECTYPE, ENGINE, SLOW, cache, finish, ok, skip

MIB = 1 << 20
LIMIT = 60 * SLOW
OPTIONS = ["--engine", ENGINE]


def execute(*command, options=(), program=(), stdin=b"", env=None, **kw):
    """Status, stdout, stderr."""
    args = [*program, ECTYPE, "exec", *OPTIONS, *options, "--", *command]
    p = subprocess.run(args, input=stdin, capture_output=True, timeout=LIMIT, env={**os.environ, **(env or {})}, **kw)
    return p.returncode, p.stdout, p.stderr


def started(*command, options=(), **kw):
    """A command that says "ready" when it runs."""
    p = subprocess.Popen([ECTYPE, "exec", *OPTIONS, *options, "--", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, **kw)
    p.said = b""
    while b"ready\n" not in p.said:
        data = os.read(p.stdout.fileno(), 4096)
        if not data:
            break
        p.said += data
    return p


def streams(folder):
    script = 'printf "out\\0"; printf err >&2; uname -r; exit 7'
    status, out, err = execute("sh", "-c", script)
    release = open(cache("modules/release"), encoding="ascii").read().strip() if os.path.exists(cache("modules/release")) else None
    ok("stdout, stderr and the exit status are apart", status == 7 and out.startswith(b"out\0") and err == b"err" and
       re.fullmatch(rb"[\w.-]+\n", out[4:]) and (not release or release in out.decode()), f"{status} {out} {err}")
    data = os.urandom(100 * MIB)
    status, out, err = execute("cat", stdin=data)
    ok("100 MiB through cat", status == 0 and hashlib.sha256(out).digest() == hashlib.sha256(data).digest() and not err,
       f"{status} {len(out)} {err}")
    status, out, err = execute("sh", "-c", "cat >&2; wc -c; kill -9 $$", stdin=data[:3 * MIB])
    ok("large standard error, end of file, death by a signal", status == 137 and err == data[:3 * MIB] and out.strip() == b"0",
       f"{status} {out} {len(err)}")
    # the host's reader goes away
    p = started("sh", "-c", "echo ready; exec yes")
    p.stdout.close()
    p.stdin.close()
    status = p.wait(LIMIT)
    ok("a reader that goes away is SIGPIPE", status == 141, f"{status} {p.stderr.read()}")
    with open("/dev/full", "wb") as full:
        p = subprocess.run([ECTYPE, "exec", *OPTIONS, "--", "echo", "lost"], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
                           timeout=LIMIT)
    ok("output that the host cannot write is a failure", p.returncode == 125 and b"No space left" in p.stderr, f"{p.returncode} {p.stderr}")
    status, out, err = execute("cat", program=["sh", "-c", 'exec "$@" <&-', "sh"])
    ok("no standard input at all", status == 0 and not out and not err, f"{status} {out} {err}")
    # input that comes while the command runs
    p = started("sh", "-c", "echo ready; read a; echo $a; read b || echo end")
    p.stdin.write(b"first\n")
    p.stdin.flush()
    line = p.stdout.readline()
    p.stdin.close()
    ok("input as it comes", line == b"first\n" and p.stdout.read() == b"end\n" and p.wait(LIMIT) == 0, line)


def files(folder):
    mine, rw = os.path.join(folder, "mine"), os.path.join(folder, "rw")
    os.mkdir(mine)
    os.mkdir(rw)
    os.chmod(folder, 0o755)
    with open(os.path.join(mine, "file"), "w") as f:
        f.write("the host's\n")
    script = (f'pwd; cat file; echo changed >file; cat file; rm -f "{mine}/file"; echo "from the guest" >"{rw}/new"; '
              'echo x >/etc/ectype-exec-test && echo etc; [ -e /proc/self/exe ] && [ -c /dev/null ] && echo fine; echo "$X"; '
              f'cp /bin/sh "{mine}/prog" && "{mine}/prog" -c "echo ran"')
    status, out, err = execute("sh", "-c", script, options=["--rw", rw, "--env", "X=a b"], cwd=mine)
    want = f"{mine}\nthe host's\nchanged\netc\nfine\na b\nran\n"
    ok("the host's files, changed for the command alone", status == 0 and out.decode() == want and not err, f"{status} {out} {err}")
    ok("and left as they are", os.listdir(mine) == ["file"] and open(os.path.join(mine, "file")).read() == "the host's\n" and
       not os.path.exists("/etc/ectype-exec-test"))
    ok("--rw: the host's own directory", os.path.exists(os.path.join(rw, "new")) and
       open(os.path.join(rw, "new")).read() == "from the guest\n", os.listdir(rw))


def command_errors(folder):
    status, out, err = execute("no-such-command")
    ok("no such command: 127", status == 127 and err.count(b"\n") == 1 and b"no-such-command" in err and not out, f"{status} {err}")
    plain = os.path.join(folder, "plain")
    open(plain, "w").close()
    status, out, err = execute(plain)
    ok("not executable: 126", status == 126 and err.count(b"\n") == 1, f"{status} {err}")


def signals(folder):
    p = started("sh", "-c", 'trap "echo trapped; exit 5" INT; echo ready; while :; do sleep 0.1; done')
    p.send_signal(signal.SIGINT)
    status = p.wait(LIMIT)
    ok("SIGINT is the command's", status == 5 and p.stdout.read() == b"trapped\n", f"{status} {p.stderr.read()}")
    p = started("sh", "-c", "echo ready; sleep 1000")
    p.send_signal(signal.SIGTERM)
    status = p.wait(LIMIT)
    ok("SIGTERM ends it: 143", status == 143, f"{status} {p.stderr.read()}")
    p = started("sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.1; done')
    p.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    alive = p.poll() is None
    p.send_signal(signal.SIGTERM)
    status = p.wait(LIMIT)
    ok("a second one ends the machine", alive and status == 143, f"{alive} {status}")


class Terminal:
    def __init__(self, *command, rows=31, cols=97):
        self.master, slave = pty.openpty()
        self.resize(rows, cols)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.p = subprocess.Popen([ECTYPE, "exec", *OPTIONS, "--", *command], stdin=slave, stdout=slave, stderr=slave,
                                  start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.text = b""

    def resize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def expect(self, what):
        end = time.monotonic() + LIMIT
        while what not in self.text and time.monotonic() < end:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 4096)
                except OSError:
                    break
        found, self.text = self.text.partition(what)[0] + what if what in self.text else None, self.text.partition(what)[2]
        return found

    def send(self, data):
        os.write(self.master, data)

    def end(self):
        try:
            status = self.p.wait(20 * SLOW)
        except subprocess.TimeoutExpired:
            self.p.kill()
            status = None
        same = termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        os.close(self.master)
        return status, same


def terminal(folder):
    t = Terminal("sh", "-c", "stty size; tty; trap 'echo int' INT; echo ready; "
                 # the signal may come before or while it reads
                 "while read x; [ \"$x\" != line ]; do :; done; stty size; cat; echo ended; exit 9")
    said = t.expect(b"ready\r\n")
    ok("a terminal of the right size", said and b"31 97\r\n/dev/pts/" in said, said)
    t.send(b"\x03")
    ok("Ctrl-C is a signal", t.expect(b"int\r\n"))
    t.resize(40, 120)
    time.sleep(1)
    t.send(b"line\n")
    said = t.expect(b"40 120\r\n")
    ok("it follows the window", said is not None, t.text)
    t.send(b"more\n")
    t.expect(b"more\r\nmore\r\n")
    t.send(b"\x04")
    said = t.expect(b"ended\r\n")
    status, same = t.end()
    ok("Ctrl-D is the end; the status; the terminal is as before", said and status == 9 and same, f"{said} {status} {same}")
    t = Terminal("sh", "-c", "trap '' INT; echo ready; while :; do sleep 1; done")
    t.expect(b"ready\r\n")
    t.send(b"\x1d\x1d\x1d")
    status, same = t.end()
    ok("Ctrl-] three times ends the machine", status == 125 and same, f"{status} {same}")


def network(folder):
    status, out, err = execute("sh", "-c", "cat /sys/class/net/eth0/operstate /etc/resolv.conf; cat /proc/net/route", options=["--net", "user"])
    ok("--net user: an address and a route", status == 0 and b"nameserver 10.0.2.3" in out and b"0202000A" in out, f"{status} {out} {err}")
    status, out, err = execute("ls", "/sys/class/net")
    ok("without: none", out.split() == [b"lo"], out)


def ordinary_user(folder):
    """The program where another user can reach it, and that user's home."""
    if os.geteuid():
        return skip("as an ordinary user", "this is one")
    probe = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Ur", "true"], capture_output=True)
    if probe.returncode:
        return skip("as an ordinary user", "no user namespaces for them")
    os.chmod(folder, 0o755)
    home, program = os.path.join(folder, "home"), os.path.join(folder, "ectype")
    os.mkdir(home)
    os.chown(home, 65534, 65534)
    subprocess.run(["cp", "-L", ECTYPE, program], check=True)
    kept = os.path.join(folder, "cache")
    os.mkdir(kept)
    for name in ("vmlinuz", "exec-initramfs"):
        subprocess.run(["cp", "-L", cache(name), kept], check=True)
    os.chmod(os.path.join(kept, "vmlinuz"), 0o644)
    subprocess.run(["chmod", "-R", "a+rX", kept], check=True)
    p = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "exec", *OPTIONS, "--rw", home, "--", "sh", "-c",
                        "id -u; echo x >new; cat /etc/shadow; exit 4"], cwd=home, capture_output=True, stdin=subprocess.DEVNULL,
                       env={**os.environ, "ECTYPE_CACHE": kept, "HOME": home}, timeout=LIMIT)
    made = os.path.join(home, "new")
    ok("as an ordinary user", p.returncode == 4 and os.path.exists(made) and os.stat(made).st_uid == 65534, f"{p.returncode} {p.stdout} {p.stderr}")
    ok("with that user's rights", b"ermission denied" in p.stderr and b"root:" not in p.stdout, p.stderr)


def refuses(name, args, *words, env=None):
    p = subprocess.run([ECTYPE, "exec", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT,
                       env={**os.environ, **(env or {})})
    ok(name, p.returncode == 2 and p.stderr.count("\n") == 1 and not p.stdout and all(w in p.stderr for w in words),
       f"{p.returncode} {p.stderr}{p.stdout}")


def refused(folder):
    refuses("no command", [], "which command")
    refuses("an unknown option", ["--disk", "x", "--", "true"], "--disk")
    refuses("a directory that is not there", ["--rw", folder + "/absent", "--", "true"], folder + "/absent")
    refuses("a file for a directory", ["--rw", __file__, "--", "true"], "not a directory")
    refuses("no value", ["--rw"], "needs a value")
    refuses("--env without =", ["--env", "X", "true"], "NAME=VALUE")
    refuses("a kernel that is not there", ["--kernel", folder + "/absent", "--", "true"], folder + "/absent")
    refuses("too little memory", ["--memory", "1K", "--", "true"], "memory")
    kept = os.path.join(folder, "kept")
    os.mkdir(kept)
    os.symlink(cache("exec-initramfs"), os.path.join(kept, "exec-initramfs"))
    refuses("no kernel in the cache", ["--", "true"], "make run", env={"ECTYPE_CACHE": kept})
    refuses("an empty cache", ["--", "true"], "make run", env={"ECTYPE_CACHE": folder + "/empty"})


def children(pid):
    found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat", encoding="utf-8", errors="replace") as f:
                if int(f.read().rpartition(")")[2].split()[1]) == pid:
                    found += [int(p), *children(int(p))]
        except OSError:
            pass
    return found


def dead_helpers(folder):
    """The helpers are killed as soon as there are some, or a little later: the last line says so, no hang."""
    said = set()
    for delay in (0, 0, 0.01, 0.03, 0.1):
        p = subprocess.Popen([ECTYPE, "exec", *OPTIONS, "--", "sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        while p.poll() is None and not children(p.pid):
            pass
        time.sleep(delay)
        for child in children(p.pid):
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            _, err = p.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            p.kill()
            _, err = p.communicate()
            err += "\nstill there"
        said.add((p.returncode, err.splitlines()[-1]))
    ok("helpers that die at the start", all(status in (2, 125) and line.startswith("ectype: exec: ") for status, line in said), said)


def main():
    began = time.monotonic()
    if not os.path.exists(cache("exec-initramfs")):
        skip("ectype exec", "no initramfs for it: make run")
        finish()
    with tempfile.TemporaryDirectory(prefix="ectype-exec-") as folder:
        for test in (streams, files, command_errors, signals, terminal, network, ordinary_user, dead_helpers, refused):
            own = os.path.join(folder, test.__name__)
            os.mkdir(own)
            os.chmod(folder, 0o755)
            print(f'# {time.monotonic() - began:.1f} s', test.__name__, flush=True)
            try:
                test(own)
            except subprocess.TimeoutExpired as e:
                ok(test.__name__, False, e)
    finish()


main()
