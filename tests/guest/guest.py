"""What the guest tests share: starting the program, talking to its console, TAP.

Every test takes --engine NAME. Environment: ECTYPE (the program, build/ectype),
ECTYPE_ENGINE (the engine, else auto), ECTYPE_SLOW (factor on every time limit),
ECTYPE_CACHE. Standard library only.
"""
import argparse
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
ECTYPE = os.environ.get("ECTYPE", os.path.join(BUILD, "ectype"))
SLOW = float(os.environ.get("ECTYPE_SLOW", "1"))
IS_QEMU = "qemu" in os.path.basename(ECTYPE)
sys.path.append(os.path.join(ROOT, "scripts"))
sys.dont_write_bytecode = True
PROMPT = r"root@ectype:[^\n]*# "
_failed = 0


def engine_option():
    """Take --engine NAME out of the test's arguments, so that the test need not know of it."""
    p = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    p.add_argument("--engine", default=os.environ.get("ECTYPE_ENGINE", "auto"))
    options, sys.argv[1:] = p.parse_known_args()
    return options.engine


ENGINE = engine_option()


def cache(name):
    base = os.environ.get("ECTYPE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "ectype")
    return os.path.join(base, name)


def ok(name, good, detail=""):
    """One test. `detail` is shown if it failed."""
    global _failed
    _failed += not good
    print(("ok - " if good else "not ok - ") + name, flush=True)
    if not good and detail:
        for line in str(detail).splitlines()[-25:]:
            print("#   " + line, flush=True)
    return good


def mappings(pid):
    """Of each mapping of the process: {start, end, path, Rss, Pss, Anonymous ... (KiB), VmFlags}."""
    out = []
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as f:
        for line in f:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line)
            if m:
                out.append({"start": int(m[1], 16), "end": int(m[2], 16), "path": m[3]})
                continue
            name, value = line.split(":", 1)
            out[-1][name] = value.split() if name == "VmFlags" else int(value.split()[0])
    return out


def is_guest_ram(m):
    """Shared RAM is a memfd; private RAM has no name, and alone of all it is not copied on a fork ("dc")."""
    return "memfd:ectype-ram" in m["path"] or ("dc" in m["VmFlags"] and "anon_inode" not in m["path"])


def skip(name, why):
    print(f"ok - {name} # SKIP {why}", flush=True)


def finish():
    sys.exit(1 if _failed else 0)


class Timeout(Exception):
    pass


class Guest:
    """A running program with its console on a pipe, or on a terminal of its own."""

    def __init__(self, *args, terminal=False, engine=ENGINE, size=None, verb="run"):
        command = [ECTYPE, verb] + (["--engine", engine] if engine else []) + [str(a) for a in args]
        self.command = command
        self.text = ""
        self.mark = 0
        self.err = tempfile.TemporaryFile()
        self.started = time.monotonic()
        if terminal:
            self.master, slave = pty.openpty()
            self.slave = slave
            if size:
                import fcntl
                import termios
                fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=self.err, start_new_session=True)
            self.into = self.out = self.master
        else:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err)
            self.into, self.out = self.process.stdin.fileno(), self.process.stdout.fileno()
            self.slave = None

    def pump(self, wait):
        """Take what the console has; False at its end."""
        if not select.select([self.out], [], [], wait)[0]:
            return True
        try:
            data = os.read(self.out, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, limit):
        """Wait for `pattern` behind what was matched before; returns the text up to its end."""
        deadline = time.monotonic() + limit * SLOW
        while True:
            m = re.compile(pattern).search(self.text, self.mark)
            if m:
                start, self.mark = self.mark, m.end()
                return self.text[start:m.end()]
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump(min(left, 1)):
                if not re.compile(pattern).search(self.text, self.mark):
                    raise Timeout(f"no '{pattern}' within {limit} s; stderr: {self.errors()[-300:]}; console ends:\n"
                                  + self.text[-1500:])

    def send(self, text):
        os.write(self.into, text.encode() if isinstance(text, str) else text)

    def shell(self, command, limit=60):
        """Run a command at the guest's prompt; its output."""
        self.send(command + "; echo E''ND $?\n")
        out = self.expect(r"END \d+\r?\n", limit)
        self.expect(PROMPT, limit)
        lines = out.replace("\r", "").split("\n")
        return "\n".join(lines[1:-2]) if len(lines) > 2 else ""

    def number(self, path):
        """What is in a file of the guest that is written over and over, and empty for a moment each time."""
        return int(self.shell(f"until n=$(cat {path} 2>/dev/null) && [ -n \"$n\" ]; do :; done; echo $n"))

    def wait(self, limit):
        """Exit status; None if it is still running after `limit` seconds."""
        deadline = time.monotonic() + limit * SLOW
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                while self.pump(0) and select.select([self.out], [], [], 0)[0]:
                    pass
                return self.process.returncode
            if not self.pump(0.2):
                time.sleep(0.05)
        return None

    def errors(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.slave is not None:
            os.close(self.slave)
            os.close(self.master)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.close()
        return False


def linux(*more, kernel="vmlinuz", append="console=ttyS0 quiet", memory="512M", initrd=None, **kw):
    # quiet: what the kernel says when a driver comes does not fall into what is typed
    # a wide terminal, so that the shell's line editor does not break what is typed
    return Guest("--kernel", cache(kernel), "--initrd", initrd or cache("initramfs"), "--append",
                 append + " ectype.rows=24 ectype.cols=400", "--memory", memory, *more, **kw)


def make_initramfs(path, script, *add):
    """An initramfs that runs `script` and powers off."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as f:
        f.write(script)
        f.flush()
        subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", path, "--test", f.name,
                        *[x for a in add for x in ("--add", a)]], check=True)
    return path


def toolbox(folder, files, *more, memory="1G", append="console=ttyS0 quiet", **kw):
    """A guest with Debian's programs (scripts/toolbox.py); `files` are {path: text}, run.sh the script it runs."""
    import toolbox as box
    files = {name: data if isinstance(data, bytes) else data.encode() for name, data in files.items()}
    initrd = box.image(os.path.join(folder, "toolbox-initrd"), files)
    return Guest("--kernel", cache("vmlinuz"), "--initrd", initrd, "--append", append, "--memory", memory, *more, **kw)


def section(text, name):
    """What a script wrote to the console between "== name" and the next such line."""
    m = re.search(rf"^== {re.escape(name)}\r?\n(.*?)(?=^== |^toolbox: exit status|\Z)", text, re.S | re.M)
    return m.group(1).replace("\r", "") if m else ""


def multiboot(path, code):
    """A multiboot image that gives its own addresses: the header, then `code` in 32-bit protected mode."""
    flags, load = 0x10000, 0x100000
    head = struct.pack("<8I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, load, load, 0, 0, load + 32)
    with open(path, "wb") as f:
        f.write(head + code + bytes(4096))
    return path


def wait_for(what, limit=20):
    end = time.monotonic() + limit * SLOW
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def run_to_end(args, limit=30, prefix=()):
    """Status, stdout, stderr, seconds of a run that is to end by itself; `prefix`: a command that starts it."""
    start = time.monotonic()
    try:
        p = subprocess.run([*prefix, ECTYPE, *[str(a) for a in args]], stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=limit * SLOW)
        status, out, err = p.returncode, p.stdout, p.stderr
    except subprocess.TimeoutExpired as e:
        status, out, err = None, e.stdout or b"", e.stderr or b""
    return status, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - start


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)
