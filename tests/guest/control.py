#!/usr/bin/env python3
"""The control socket and its commands on a real guest: ps, info against the OpenAPI file, pause, another engine under
load, console, clients of all kinds, stop; machines that are dead, held by a debugger, or have no socket."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import guest
from guest import ECTYPE, ENGINE, PROMPT, ROOT, Guest, Timeout, cache, finish, linux, make_initramfs, ok, run_to_end, skip, wait_for

SWITCHES = 20
STEP_US = 10000
V1 = "/api/v1/"
tmp = tempfile.mkdtemp(prefix="ectype-ctl-")
os.environ["XDG_RUNTIME_DIR"] = tmp
RUN = os.path.join(tmp, "ectype")
PAYLOAD = ("--kernel", os.path.join(guest.BUILD, "tests/payload/paging64"), "--memory", "64M", "--debug-exit", "--no-reboot")


def command(*args, limit=60):
    status, out, err, _ = run_to_end(args, limit)
    return status, out, err


class Unix(http.client.HTTPConnection):
    def __init__(self, name, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self.path = os.path.join(RUN, name + ".sock")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(name, method, path, body=None):
    """Status, content type, body."""
    c = Unix(name)
    try:
        try:
            c.request(method, path, body)
        except BrokenPipeError:
            pass  # it has answered before it had it all
        r = c.getresponse()
        return r.status, r.getheader("Content-Type"), r.read()
    finally:
        c.close()


# ---- the OpenAPI file ----

def matches(doc, schema, value, where="answer"):
    """What is wrong with `value`, "" if nothing: the part of JSON Schema that the file uses."""
    if "$ref" in schema:
        return matches(doc, doc["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], value, where)
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    want = schema.get("type")
    if want and (not isinstance(value, kinds[want]) or (want in ("integer", "number") and isinstance(value, bool))):
        return f"{where} is no {want}: {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is none of {schema['enum']}: {value!r}"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{where} is too small: {value!r}"
    if want == "array":
        return next((w for i, v in enumerate(value) if (w := matches(doc, schema["items"], v, f"{where}[{i}]"))), "")
    if want != "object":
        return ""
    for name in schema.get("required", []):
        if name not in value:
            return f"{where} has no {name}"
    for name, v in value.items():
        more = schema.get("additionalProperties", True)
        sub = schema.get("properties", {}).get(name)
        if sub is None and more is False:
            return f"{where} has a member {name} the file does not know"
        sub = sub if sub is not None else more
        wrong = matches(doc, sub, v, f"{where}.{name}") if isinstance(sub, dict) else ""
        if wrong:
            return wrong
    return ""


def conforms(doc, name, method, path, body=None):
    """The answer to a request is one that the file tells of."""
    status, kind, text = ask(name, method, path, body)
    answer = doc["paths"][path][method.lower()]["responses"].get(str(status))
    if answer is None:
        return ok(f"{method} {path} {status}: in the OpenAPI file", False, text)
    if "content" not in answer:
        return ok(f"{method} {path} {status}: no body, as the file says", text == b"", text)
    base = kind.split(";")[0]
    schema = answer["content"].get(base, {}).get("schema")
    wrong = f"content type {kind}" if schema is None else \
        matches(doc, schema, text.decode("latin-1") if schema.get("type") == "string" else json.loads(text))
    return ok(f"{method} {path} {status}: as the file says", not wrong, wrong)


def api(name):
    doc = json.loads(ask(name, "GET", V1 + "openapi.json")[2])
    for path, methods in doc["paths"].items():
        if "get" in methods and not path.endswith(("vm.console", "vm.migrate")):
            conforms(doc, name, "GET", path)
    conforms(doc, name, "GET", V1 + "vm.console")  # without an upgrade
    conforms(doc, name, "GET", V1 + "vm.migrate")
    conforms(doc, name, "PUT", V1 + "vm.pause", "{}")
    conforms(doc, name, "PUT", V1 + "vm.resume")
    conforms(doc, name, "PUT", V1 + "vm.engine", '{"engine": "nonesuch"}')
    conforms(doc, name, "PUT", V1 + "vm.engine", '{"engine": "interp"}')
    conforms(doc, name, "PUT", V1 + "vm.engine", json.dumps({"engine": ENGINE}))
    conforms(doc, name, "PUT", V1 + "vm.resize", '{"desired_balloon": 67108864}')
    conforms(doc, name, "PUT", V1 + "vm.resize", '{"desired_balloon": 0}')
    conforms(doc, name, "PUT", V1 + "vm.resize", '{"desired_balloon": 1099511627776}')
    conforms(doc, name, "PUT", V1 + "vm.generation", '{"generation": "auto"}')
    conforms(doc, name, "PUT", V1 + "vm.generation", '{"generation": "none"}')
    conforms(doc, name, "PUT", V1 + "vm.coredump", '{"paging": "yes"}')
    conforms(doc, name, "PUT", V1 + "vm.coredump", '{"paging": true}')
    metrics = ask(name, "GET", "/metrics")[2].decode()
    sample = r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+'
    bad = [l for l in metrics.splitlines() if not re.fullmatch(r"# (TYPE|UNIT|HELP) \S+ .+|# EOF|" + sample, l)]
    ok("metrics are OpenMetrics", not bad and metrics.endswith("# EOF\n") and "ectype_exits_total{" in metrics, bad)


# ---- one guest ----

def listing(g, name):
    status, out, err = command("ps")
    line = [l.split() for l in out.splitlines() if l.startswith(name + " ")]
    ok("ps lists the machine", status == 0 and len(line) == 1 and line[0][1:4] == [str(g.process.pid), "Running", ENGINE], out + err)
    status, out, _ = command("ps", "--json")
    rows = json.loads(out)
    ok("ps --json", status == 0 and [r["name"] for r in rows] == [name] and rows[0]["config"]["memory"]["size"] == 512 << 20, out)
    ok("the socket is the user's alone", os.stat(os.path.join(RUN, name + ".sock")).st_mode & 0o777 == 0o600 and
       os.stat(RUN).st_mode & 0o777 == 0o700)
    status, out, err = command("stats", name)
    ok("stats", status == 0 and "process_cpu_ns" in out and "cpu0" in out, out + err)
    status, out, err = command("stats", name, "--json")
    ok("stats --json", status == 0 and json.loads(out)["machine"]["uptime_ns"] > 0, out + err)
    status, out, err = command("top", "--once", "--interval", "0.5")
    ok("top --once", status == 0 and re.search(rf"^{name} +{g.process.pid} Running", out, re.M) and f"{name} " in out, out + err)
    status, out, err = command("ctl", name, "GET", V1 + "vmm.ping")
    ok("ctl GET", status == 0 and json.loads(out)["pid"] == g.process.pid, out + err)


def uptime(g):
    return float(g.shell("cat /proc/uptime").split()[0])


def pause(g, name):
    before = uptime(g)
    ok("pause", command("pause", name)[0] == 0 and json.loads(ask(name, "GET", V1 + "vm.info")[2])["state"] == "Paused")
    used = g.cpu_seconds()
    clock = json.loads(ask(name, "GET", V1 + "vm.counters")[2])["machine"]["guest_ns"]
    start = time.monotonic()
    time.sleep(3)
    later = json.loads(ask(name, "GET", V1 + "vm.counters")[2])["machine"]["guest_ns"]
    ok("paused, guest time stands still", clock == later, f"{later - clock} ns")
    ok("and the host's processor is free", g.cpu_seconds() - used < 0.5, f"{g.cpu_seconds() - used} s")
    ok("twice is as good as once", command("pause", name)[0] == 0)
    stood = time.monotonic() - start
    ok("resume", command("resume", name)[0] == 0 and json.loads(ask(name, "GET", V1 + "vm.info")[2])["state"] == "Running")
    began = time.monotonic()
    passed = uptime(g) - before
    ok("the guest saw nothing of it", 0 <= passed < time.monotonic() - began + 2.5,
       f"{passed:.2f} s of guest time over a pause of {stood:.1f} s")


def time_line(g, name, run, seconds):
    g.send(f"/timejump {seconds} & /timejump {seconds} >/dev/null; wait; echo E''ND\n")
    run()
    text = g.expect(r"END\r?\n", 60 + seconds)
    g.expect(PROMPT, 30)
    m = re.search(r"TIME largest=(\d+) back=(\d+) wrong=(\d+) rounds=(\d+)", text)
    return [int(x) for x in m.groups()] if m else None


def engines(g, name, others):
    """A program watches the clock while the engine changes to and fro; a second one makes the guest's kernel switch."""
    done, stood = [], []

    def to_and_fro():
        for i in range(SWITCHES):
            status, out, err = command("ctl", name, "engine", others[i % len(others)])
            done.append(status == 0 and out.startswith(others[i % len(others)] + " (was "))
            m = re.search(r"still for ([\d.]+) ms", out)
            stood.append(float(m.group(1)) if m else -1)
            time.sleep(0.2)

    command("ctl", name, "engine", ENGINE)
    # Steps come of the host's other work as well. The engines' changes are to blame only for those of a host that
    # makes none of its own; and then not for one that comes once.
    for _ in range(3):
        still, moving = time_line(g, name, lambda: None, 3), time_line(g, name, to_and_fro, 9)
        if not still or not moving or moving[0] <= STEP_US or still[0] > STEP_US:
            break
    ok(f"{SWITCHES} changes of the engine under load", len(done) >= SWITCHES and all(done), done)
    ok("nothing computed wrongly, no clock goes back", moving and still and moving[1:3] == [0, 0] and still[1:3] == [0, 0],
       f"{still} {moving}")
    what = f"no step of the clock over {STEP_US // 1000} ms"
    if still[0] > STEP_US and moving[0] > STEP_US:
        skip(what, f"the host is too busy: {still[0] // 1000} ms without any change")
    else:
        ok(what, moving[0] <= STEP_US, f"{moving[0]} us; without changes {still[0]} us")
    print(f"# steps of the clock: {moving[0]} us, without changes {still[0]} us; the guest stood still for {min(stood):.1f} to {max(stood):.1f} ms")
    command("ctl", name, "engine", ENGINE)


def own_console(g, name):
    g.send("\x01e")
    ok("Ctrl-A e changes the engine", wait_for(lambda: "goes on in place of " + ENGINE in g.errors()), g.errors())
    for n in range(2, 5):  # as many as run here
        g.send("\x01e")
        wait_for(lambda: g.errors().count(" goes on") == n)
        if ENGINE + " goes on in place of" in g.errors():
            break
    ok("and back", ENGINE + " goes on in place of" in g.errors(), g.errors())
    g.send("\x01h")
    ok("Ctrl-A h tells of it", "next engine" in g.expect(r"Ctrl-A Ctrl-A", 10))
    g.send("\n")
    g.expect(PROMPT, 10)


class Attached(Guest):
    """`ectype console` on a terminal of its own."""

    def __init__(self, name):
        import pty
        self.text, self.mark = "", 0
        self.err = tempfile.TemporaryFile()
        self.master, self.slave = pty.openpty()
        self.process = subprocess.Popen([ECTYPE, "console", name], stdin=self.slave, stdout=self.slave, stderr=self.err,
                                        start_new_session=True)
        self.into = self.out = self.master


def consoles(g, name):
    with Attached(name) as a:
        a.expect(PROMPT, 10)  # the guest's last words
        a.send("echo both$((40+2))\n")
        a.expect(r"both42\r?\n", 20)
        g.expect(r"both42\r?\n", 20)
        g.expect(PROMPT, 10)
        ok("console: both terminals see the guest, either may type", True)
        status, out, err = command("console", name)
        ok("a second one is refused", status == 1 and err.count("\n") == 1 and "somebody is attached" in err, err)
        a.send("\x01d")
        ok("Ctrl-A d detaches", a.wait(10) == 0, a.errors())
    ok("the guest goes on", g.shell("echo $((6*7))").strip() == "42")
    p = subprocess.Popen([ECTYPE, "console", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdin.write(b"echo pi''ped\n")
    p.stdin.flush()
    text = b""
    while b"piped" not in text and (part := os.read(p.stdout.fileno(), 4096)):
        text += part
    p.terminate()
    p.communicate()
    ok("console on pipes", b"piped" in text and p.returncode == 0, text)
    g.expect("piped", 10)
    g.expect(PROMPT, 10)


def clients(g, name):
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(os.path.join(RUN, name + ".sock"))
    slow.send(b"PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Le")
    began = time.monotonic()

    size, before = 100 << 20, g.process.pid
    rss = resident(g.process.pid)
    status, _, text = ask(name, "PUT", V1 + "vm.engine", bytes(size))
    ok("a body of 100 MB: 413", status == 413 and "larger than" in json.loads(text)["error"], f"{status} {text[:100]}")
    ok("and no memory for it", resident(g.process.pid) - rss < 4 << 20, f"{resident(g.process.pid) - rss} bytes more")
    c = Unix(name)
    c.putrequest("PUT", V1 + "vm.engine")
    c.putheader("Transfer-Encoding", "chunked")
    c.endheaders()
    c.sock.settimeout(30)
    refused = False
    try:
        for _ in range(4000):
            c.sock.sendall(b"20000\r\n" + bytes(0x20000) + b"\r\n")
    except OSError:
        refused = True
    c.close()
    ok("a body without end is cut off", refused)
    for body, status in ((b'{"engine": ', 400), (b"\xff\xfe\x00", 400), (b"[" * 60000, 400), (b'{"engine": 5}', 400), (b'"x"', 400)):
        got, _, text = ask(name, "PUT", V1 + "vm.engine", body)
        ok(f"malformed {body[:12]}: {status}", got == status and json.loads(text)["error"], f"{got} {text}")
    got, _, text = ask(name, "GET", "/nothing")
    ok("unknown path: 404", got == 404 and json.loads(text)["error"], text)
    got, _, text = ask(name, "DELETE", V1 + "vm.info")
    ok("wrong method: 405", got == 405 and json.loads(text)["error"], text)
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(os.path.join(RUN, name + ".sock"))
    raw.sendall(os.urandom(3000) + b"\r\n\r\n")
    raw.settimeout(20)
    try:
        raw.recv(1000)
    except OSError:
        pass
    raw.close()

    results = []

    def many(method, path, want):
        results.append(all(ask(name, method, V1 + path)[0] == want for _ in range(40)))

    threads = [threading.Thread(target=many, args=a) for a in (("GET", "vm.info", 200), ("PUT", "vm.resume", 204),
                                                                ("GET", "vm.counters", 200), ("GET", "vmm.ping", 200))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    ok("four clients at once", results == [True] * 4, results)
    slow.settimeout(40 * guest.SLOW)
    try:
        slow.recv(100)
        over = True
    except ConnectionResetError:
        over = True
    except TimeoutError:
        over = False
    ok(f"a client that says half a request is cut off ({time.monotonic() - began:.0f} s)", over)
    ok("the guest took no harm", before == g.process.pid and g.shell("echo $((6*7))").strip() == "42")


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * 4096


def balloon(g, name):
    g.shell("modprobe -aq virtio_pci virtio_balloon")
    holds = lambda: json.loads(ask(name, "GET", V1 + "vm.counters")[2])["balloon"]["actual_bytes"]
    ok("ctl balloon", command("ctl", name, "balloon", "128M")[0] == 0)
    ok("takes memory from the guest", wait_for(lambda: holds() == 128 << 20) and
       json.loads(ask(name, "GET", V1 + "vm.info")[2])["memory_actual_size"] == 384 << 20, holds())
    command("ctl", name, "balloon", "0")
    ok("and gives it back", wait_for(lambda: holds() == 0), holds())


def errors(name):
    cases = [
        (("ctl",), 2, "which machine"), (("ctl", name), 2, "which command"), (("ctl", name, "nonesuch"), 2, "no command"),
        (("ctl", "nobody", "info"), 2, "no machine 'nobody'"), (("ctl", "../x", "info"), 2, "no name of a machine"),
        (("ctl", name, "engine"), 2, "takes NAME"), (("ctl", name, "engine", "nonesuch"), 1, "no engine 'nonesuch'"),
        (("ctl", name, "balloon", "lots"), 2, "not a size"), (("ctl", name, "balloon", "1024G"), 1, "leaves nothing"),
        (("ctl", name, "pause", "now"), 2, "no argument"), (("stop",), 2, "which machine"), (("stop", "nobody"), 2, "no machine"),
        (("stop", name, "--timeout", "soon"), 2, "not a number"), (("pause", "nobody"), 2, "no machine"), (("resume",), 2, "which machine"),
        (("stats", "nobody"), 2, "no machine"), (("stats",), 2, "which machine"), (("console", "nobody"), 2, "no machine"),
        (("console",), 2, "which machine"), (("ps", "x"), 2, "no argument"), (("top", "x"), 2, "no argument"), (("top",), 2, "--once"),
        (("run", "--name", name, *PAYLOAD), 2, "give another --name"), (("run", "--name", "a/b", *PAYLOAD), 2, "--name"),
    ]
    for args, status, text in cases:
        got, out, err = command(*args)
        ok(f"ectype {' '.join(args[:4])}: status {status}, one line", got == status and err.count("\n") == 1 and
           err.startswith("ectype: ") and text in err and not out, f"{got} {err}{out}")


def one_guest(others):
    name = "control-test"
    with tempfile.TemporaryDirectory() as d:
        program, initrd = os.path.join(d, "timejump"), os.path.join(d, "initrd")
        subprocess.run(["cc", "-O2", "-static", "-o", program, os.path.join(ROOT, "tests/guest/timejump.c")], check=True)
        subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--output", initrd, "--add", "timejump=" + program], check=True)
        with linux("--name", name, initrd=initrd, terminal=True) as g:
            g.expect(PROMPT, 170)
            listing(g, name)
            api(name)
            pause(g, name)
            own_console(g, name)
            consoles(g, name)
            engines(g, name, others)
            balloon(g, name)
            clients(g, name)
            errors(name)
            # its driver comes late
            g.shell("until ls -l /proc/$(pidof acpid)/fd 2>/dev/null | grep -q input; do sleep 0.1; done")
            command("pause", name)
            status, _, err = command("stop", name, limit=90)
            ok("stop: the guest powers off by its power button, paused or not", status == 0 and not err and g.wait(20) == 0,
               f"{status} {err}{g.errors()}")
            ok("its socket is gone", not os.path.exists(os.path.join(RUN, name + ".sock")))


def several(others):
    """Processors that run at once under one engine and take turns under the other."""
    name = "control-smp"
    with linux("--name", name, "--cpus", 4) as g:
        g.expect(PROMPT, 170)
        ok("4 processors in ps and counters", json.loads(command("ps", "--json")[1])[0]["config"]["cpus"]["boot_vcpus"] == 4 and
           "cpu3" in json.loads(ask(name, "GET", V1 + "vm.counters")[2]))
        pause(g, name)
        work = "for i in 1 2 3 4; do (n=0; while [ $n -lt 12 ]; do sha256sum /bin/busybox; n=$((n+1)); done) & done; wait"
        want = g.shell("sha256sum /bin/busybox").strip()
        g.send(f"({work}) | sort | uniq -c; echo E''ND\n")
        done = 0
        for i in range(SWITCHES):
            done += command("ctl", name, "engine", others[i % len(others)])[0] == 0
            command("pause" if i % 5 == 4 else "resume", name)
            command("resume", name)
            time.sleep(0.1)
        text = g.expect(r"END\r?\n", 120)
        g.expect(PROMPT, 60)
        ok(f"{SWITCHES} changes with 4 processors at work", done == SWITCHES and re.search(rf"^ *48 {want}\r?$", text, re.M), f"{done} {text}")
        cpus = g.shell("cat /sys/devices/system/cpu/online; dmesg | grep -E 'WARNING|BUG|stall|unstable'")
        ok("and nothing for the kernel to complain of", cpus.strip() == "0-3", cpus)
        ok("stop --force", command("stop", name, "--force")[0] == 0 and g.wait(20) == 0)


# ---- without a guest's help ----

def machine(name, *args):
    """A payload that halts for ever, once it answers."""
    p = subprocess.Popen([ECTYPE, "run", "--name", name, "--kernel", halts(), "--memory", "64M", "--serial", "none", *args],
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: os.path.exists(os.path.join(RUN, name + ".sock")))
    command("ctl", name, "info")
    return p


def halts():
    return guest.multiboot(os.path.join(tmp, "halts"), b"\xfa\xf4\xeb\xfc")  # cli; hlt; jmp


def ends():
    p = machine("deaf")
    began = time.monotonic()
    status, _, err = command("stop", "deaf", "--timeout", "1")
    ok("stop: who does not heed the button is ended", status == 0 and "did not power off" in err and err.count("\n") == 1 and
       p.wait(10) == 0 and time.monotonic() - began < 20 * guest.SLOW, f"{status} {err}")
    p = machine("deaf")
    status, _, err = command("stop", "deaf", "--force")
    ok("stop --force", status == 0 and not err and p.wait(10) == 0, f"{status} {err}")
    p = machine("frozen", "--jail", "off")
    os.kill(p.pid, signal.SIGSTOP)
    status, out, _ = command("ps")
    ok("ps: a process that stands still has no answer", status == 0 and "no answer" in out, out)
    status, _, err = command("stop", "frozen", "--force", limit=120)
    ok("stop --force ends that one as well", status == 0 and p.wait(10) == -signal.SIGKILL, f"{status} {err}")
    command("ps")


def stale():
    path = os.path.join(RUN, "dead.sock")
    p = machine("dead", "--jail", "off")
    p.kill()
    p.wait()
    ok("killed without a jail, a machine leaves its socket", os.path.exists(path))
    status, _, err = command("ctl", "dead", "info")
    ok("a command for it: status 2, one line", status == 2 and err.count("\n") == 1 and "has died" in err, err)
    p = machine("dead", "--jail", "off")
    p.kill()
    p.wait()
    status, out, err = command("run", "--name", "dead", *PAYLOAD)
    ok("its name is free", "DONE" in out and not err, f"{status} {err}")
    p = machine("dead", "--jail", "off")
    p.kill()
    p.wait()
    status, out, err = command("ps")
    ok("ps removes what is left", status == 0 and not os.path.exists(path) and "dead" not in out, out + err)
    p = machine("jailed")
    p.kill()
    p.wait()
    ok("in the jail, the janitor removes it", wait_for(lambda: not os.path.exists(os.path.join(RUN, "jailed.sock"))))


def debugged():
    sock = os.path.join(tmp, "gdb")
    p = machine("held", "--gdb", "unix:" + sock)
    info = json.loads(ask("held", "GET", V1 + "vm.info")[2])
    ok("held by a debugger: info says so", info["state"] == "BreakPoint" and info["engine"], info)
    status, _, err = command("pause", "held")
    ok("and pause is refused", status == 1 and "a debugger holds" in err and err.count("\n") == 1, err)
    ok("stop --force ends it", command("stop", "held", "--force")[0] == 0 and p.wait(10) == 0)


def sockets():
    status, out, err, _ = run_to_end(("run", *PAYLOAD), 60)
    want = status
    ok("a payload with a socket", want is not None and not err, f"{status} {err}")
    for what, env in (("there is no directory", "/nonexistent"), ("it is no directory", "/dev/null")):
        os.environ["XDG_RUNTIME_DIR"] = env
        status, out, err, _ = run_to_end(("run", *PAYLOAD), 60)
        ok(f"no socket because {what}: one line, and it runs", status == want and "DONE" in out and err.count("\n") == 1 and
           "no control socket" in err, f"{status} {err}")
    os.environ["XDG_RUNTIME_DIR"] = "/nonexistent"
    status, out, err, _ = run_to_end(("run", "--no-control", *PAYLOAD), 60)
    ok("--no-control: none, and nothing said", status == want and not err, err)
    os.environ["XDG_RUNTIME_DIR"] = tmp
    status, out, _ = command("ps")
    ok("ps without machines", status == 0 and out == "", out)


def same_to_the_bit(others):
    """With the virtual clock: engines that change at any moment leave the same state as one that does not."""
    with tempfile.TemporaryDirectory() as d:
        script = "i=0; while [ $i -lt 60 ]; do sha256sum /bin/busybox >/dev/null; i=$((i+1)); done; sha256sum /bin/busybox; echo VIRT''UAL"
        with open(os.path.join(d, "s"), "w", encoding="ascii") as f:
            f.write(script)
        initrd = make_initramfs(os.path.join(d, "i"), script)
        hashes, changes = [], 0
        for change in (False, True):
            stats = os.path.join(d, "stats")
            with linux("--name", "virtual", "--clock", "virtual", "--stats=json:" + stats, initrd=initrd) as g:
                while change and g.process.poll() is None:
                    changes += command("ctl", "virtual", "engine", others[changes % len(others)])[0] == 0
                    time.sleep(0.15)
                status = g.wait(240)
                ok(f"virtual clock, {changes} changes: powers off", status == 0 and "VIRTUAL" in g.text, g.text[-300:] + g.errors())
            hashes.append(guest.read_json(stats)["state_hash"])
        ok(f"the same state to the bit, after {changes} changes of the engine", hashes[0] == hashes[1] and changes >= 5, hashes)


def main():
    if not os.path.exists(cache("vmlinuz")):
        skip("control", "no kernel")
        finish()
    global ENGINE
    if ENGINE == "auto":
        ENGINE = guest.ENGINE = "dbt"
    others = ["interp", ENGINE] if ENGINE != "interp" else ["dbt", "interp"]
    try:
        sockets()
        stale()
        ends()
        debugged()
        one_guest(others)
        several(others)
        same_to_the_bit(others)
    except Timeout as e:
        ok("the guest answers", False, e)
    finally:
        shutil.rmtree(tmp)
    finish()


if __name__ == "__main__":
    main()
