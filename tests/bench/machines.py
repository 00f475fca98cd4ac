"""The machines that bench.py compares, and one run of a plan of workloads on one of them."""
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

import programs
import toolbox
from initramfs import Cpio, read

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
APPEND = "console=ttyS0 quiet panic=-1"
LIMIT = 300  # seconds for one run of a machine
# MiB; the toolbox's guest holds the archive and the tree while it unpacks
MEMORY = {"small": 512, "toolbox": 1024}
# What a chroot into the toolbox needs to be like the guest: files on a tmpfs, /dev/null, /proc. In a sticky /dev
# nobody but the device's owner could open it with O_CREAT, as shells do.
CHROOT = """
set -e
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs tmpfs "$1/tmp"
cp -r "$2/tmp/bench" "$1/tmp/"
mount -t tmpfs -o mode=755 tmpfs "$1/dev"
: >"$1/dev/null"
mount --bind /dev/null "$1/dev/null"
mount --rbind /proc "$1/proc"
exec chroot "$1" /tmp/bench/work /tmp/bench/plan
"""


class Failed(Exception):
    pass


class Run:
    """One run: when the markers came, and what the workloads computed."""

    def __init__(self, native):
        self.native = native
        self.ready = None  # seconds from the start of the process to process 1 of the guest
        self.ready_cpu = None
        self.seconds = {}  # by the host's clock
        self.cpu = {}  # processor time of the machine's process; natively, of the workload and its children
        self.results = {}
        self.done = False
        self.stats = None
        self.open = {}
        self.tail = []
        self.problem = None

    def line(self, text, now, cpu, start):
        self.tail = (self.tail + [text])[-8:]
        # the kernel's own messages may come before a marker on the same line
        if text.endswith("READY"):
            self.ready, self.ready_cpu = now - start, cpu
        elif text.startswith("<"):
            self.open[text[1:]] = now, cpu
        elif text.startswith(">") and text[1:] in self.open:
            self.seconds[text[1:]] = now - self.open[text[1:]][0]
            self.cpu[text[1:]] = cpu - self.open[text[1:]][1]
        elif text.startswith("="):
            name, _, value = text[1:].partition(" ")
            self.results[name] = value
        elif text.startswith("+") and self.native:
            # the reader of a marker may itself wait for a processor that the workload keeps busy
            name, cpu, real = text[1:].split()
            self.cpu[name], self.seconds[name] = int(cpu) / 1e6, int(real) / 1e6
        elif text == "DONE":
            self.done = True


def process_clock(pid):
    """The clock of the processor time of a process, all threads: clock_getcpuclockid(), which Python lacks."""
    return ~pid << 3 | 2


def follow(run, fd, start, limit, process, fifo):
    """Feed `run` from `fd` until DONE, the end of the stream or of the process, or the limit."""
    rest = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not run.done:
        if time.monotonic() - start > limit:
            raise Failed(f"not done after {limit:.0f} s; last lines: {run.tail}")
        events = poll.poll(200)
        now = time.monotonic()
        # poll() below reaps a process that has ended; until then it has a clock
        cpu = time.clock_gettime(process_clock(process.pid)) if process.returncode is None else 0
        data = os.read(fd, 65536) if events and events[0][1] & select.POLLIN else b""
        if not data:
            if events and not fifo or process.poll() is not None:
                break
            if events:
                time.sleep(0.05)  # a FIFO that nobody has opened to write yet
            continue
        *lines, rest = (rest + data).split(b"\n")
        for raw in lines:
            run.line(raw.decode(errors="replace").rstrip("\r"), now, cpu, start)
    if not run.done:
        raise Failed(f"ended early; last lines: {run.tail}")


def execute(command, limit, fifo=None, grace=0, cpu=None):
    """Run `command`, on the processor `cpu` if given, and follow its standard output, or what it writes to `fifo`."""
    run = Run(native=cpu is not None)
    with tempfile.TemporaryFile() as errors:
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if fifo else None
        pin = None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})
        start = time.monotonic()
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors if fifo else subprocess.PIPE,
                             stderr=errors, start_new_session=True, preexec_fn=pin)
        try:
            follow(run, fd if fifo else p.stdout.fileno(), start, limit, p, fifo)
            if grace:  # let the guest power off, so that statistics are written
                p.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            pass
        except Failed as e:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()[-4:]
            run.problem = f"{e}" + (f"; it said: {said}" if said else "")
        finally:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            if fd is not None:
                os.close(fd)
            if p.stdout:
                p.stdout.close()
    return run


def compile_work(output):
    """work.c and the others, as their comments say; one file twice."""
    cc = os.environ.get("CC", "gcc")
    sources = sorted(f for f in os.listdir(HERE) if re.fullmatch(r"work(_\w+)?\.c", f) and f != "work_matrix.c")
    matrix = os.path.join(HERE, "work_matrix.c")
    for name, flags in (("matrix.o", []), ("matrix_avx2.o", ["-mavx2"])):
        subprocess.run([cc, "-O3", *flags, "-c", "-o", f"{output}.{name}", matrix], check=True)
    subprocess.run([cc, "-O2", "-static", "-o", output, *(os.path.join(HERE, f) for f in sources),
                    output + ".matrix.o", output + ".matrix_avx2.o", "-lm"], check=True)


def c_workloads(work):
    """{name: (group, count)} of the table that the program was compiled with."""
    out = subprocess.run([work, "list"], check=True, capture_output=True, text=True).stdout
    return {name: (group, int(count)) for group, name, count in (line.split() for line in out.splitlines())}


class Batch:
    """Workloads that run one after the other in one boot: all from the small image or all from the toolbox."""

    def __init__(self, title, image, names):
        self.title, self.image, self.names = title, image, names


class Machines:
    """The images and the command lines. Every machine is a method that runs a Batch and returns a Run."""

    def __init__(self, scratch, kernel, append, scale, bochs_limit):
        self.dir, self.kernel, self.scale, self.bochs_limit = scratch, kernel, scale, bochs_limit
        self.append = " ".join([APPEND, *append])
        self.work = os.path.join(scratch, "work")
        compile_work(self.work)
        self.c = c_workloads(self.work)
        self.cpus = sorted(os.sched_getaffinity(0))
        self.natives = 0
        self.prepared = {}
        self.toolbox = None  # the directory that toolbox.ensure() gave

    def count(self, name):
        return max(1, round(self.c[name][1] * self.scale))

    def plan(self, batch):
        if batch.image == "toolbox":
            return "".join(f"{n} ! {programs.PROGRAMS[n][1]}\n" for n in batch.names).encode()
        return "".join(f"{n} {self.count(n)}\n" for n in batch.names).encode()

    def initrd(self, batch):
        if batch.title not in self.prepared:
            path = os.path.join(self.dir, "initrd-" + batch.title)
            files = {"init": read(self.work), "plan": self.plan(batch)}
            if batch.image == "toolbox":
                toolbox.image(path, {**programs.inputs(), **files})
            else:
                self.small_image(path, files)
            self.prepared[batch.title] = path
        return self.prepared[batch.title]

    @staticmethod
    def small_image(path, files):
        a = Cpio()
        for d in ("dev", "proc", "tmp"):
            a.dir(d)
        a.char("dev/console", 5, 1)
        a.char("dev/null", 1, 3)
        for name, data in files.items():
            a.file(name, data)
        with open(path, "wb") as f:
            f.write(a.finish())

    def native_tree(self, batch):
        """A directory with the files that the guest finds in tmp/bench; the small image has only the plan."""
        tree = os.path.join(self.dir, "native-" + batch.title)
        files = {"tmp/bench/plan": self.plan(batch)}
        if batch.image == "toolbox":
            files.update(programs.inputs())
            files["tmp/bench/work"] = read(self.work)
        for name, data in files.items():
            path = os.path.join(tree, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(data)
            os.chmod(path, 0o755)
        return tree

    def native(self, batch):
        """On one processor, as the guest has; another one every time, since a neighbour may sit on it."""
        tree = self.native_tree(batch)
        cpu = self.cpus[self.natives % len(self.cpus)]
        self.natives += 1
        if batch.image == "small":
            return execute([self.work, os.path.join(tree, "tmp/bench/plan")], 60, cpu=cpu)
        private = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
        return execute([*private, "sh", "-c", CHROOT, "sh", os.path.join(self.toolbox, "root"), tree], 120, cpu=cpu)

    def ectype(self, batch, engine):
        stats = os.path.join(self.dir, "stats.json")
        if os.path.exists(stats):
            os.unlink(stats)
        run = execute([os.path.join(BUILD, "ectype"), "run", "--engine", engine, "--memory", f"{MEMORY[batch.image]}M",
                       "--kernel", self.kernel, "--initrd", self.initrd(batch), "--append", self.append, "--no-reboot",
                       f"--stats=json:{stats}"], LIMIT, grace=10)
        if os.path.exists(stats):
            with open(stats, encoding="utf-8") as f:
                run.stats = json.load(f)
        return run

    def tcg(self, batch):
        return execute(["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY[batch.image]),
                        "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-kernel", self.kernel,
                        "-initrd", self.initrd(batch), "-append", self.append], LIMIT)

    def bochs(self, batch):
        """Bochs loads no kernel itself: GRUB does, from an ISO."""
        tree = os.path.join(self.dir, "iso")
        iso = os.path.join(self.dir, "bench.iso")
        fifo = os.path.join(self.dir, "com1")
        shutil.rmtree(tree, ignore_errors=True)
        os.makedirs(os.path.join(tree, "boot/grub"))
        shutil.copy(self.kernel, os.path.join(tree, "boot/vmlinuz"))
        shutil.copy(self.initrd(batch), os.path.join(tree, "boot/initrd"))
        with open(os.path.join(tree, "boot/grub/grub.cfg"), "w", encoding="ascii") as f:
            f.write("set timeout=0\nset default=0\nmenuentry bench {\n"
                    f"linux /boot/vmlinuz {self.append}\ninitrd /boot/initrd\n}}\n")
        subprocess.run(["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", iso, tree], check=True,
                       capture_output=True)
        if not os.path.exists(fifo):
            os.mkfifo(fifo)
        rc = os.path.join(self.dir, "bochsrc")
        with open(rc, "w", encoding="ascii") as f:
            f.write("\n".join([
                "cpu: model=corei7_haswell_4770, count=1, ips=50000000",
                f"memory: guest={MEMORY[batch.image]}, host={MEMORY[batch.image]}",
                "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
                "vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest",
                "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
                f"ata0-master: type=cdrom, path={iso}, status=inserted",
                "boot: cdrom",
                "clock: sync=none",
                f"com1: enabled=1, mode=file, dev={fifo}",
                f"log: {self.dir}/bochs.log",
                "panic: action=fatal", "error: action=ignore", "info: action=ignore",
                "speaker: enabled=0", "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy",
                # the one display of Debian's package that needs no screen; nobody connects
                'display_library: rfb, options="timeout=0"',
            ]) + "\n")
        # Debian builds it with its debugger, which waits for a command first
        commands = os.path.join(self.dir, "bochs-commands")
        with open(commands, "w", encoding="ascii") as f:
            f.write("continue\n")
        return execute(["bochs", "-q", "-f", rc, "-rc", commands], self.bochs_limit, fifo=fifo)
