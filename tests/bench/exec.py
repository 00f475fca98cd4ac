#!/usr/bin/env python3
"""Start to finish of `ectype exec -- true`, beside QEMU's TCG as virtme-ng uses it.

exec.py [--runs N] [--engine NAME] [COMMAND...]

Both boot the same kernel, on the same command line, with the same initial RAM
disk, one processor and the same memory, from the host's root directory behind
a virtiofsd of its own; runs alternate. QEMU is ended as soon as the command's
exit status is known. Processor time is that of the machine and its helpers.
"""
import argparse
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "scripts"))
sys.dont_write_bytecode = True
from initramfs import Cpio, cache_dir, read  # noqa: E402

ECTYPE = os.environ.get("ECTYPE", os.path.join(ROOT, os.environ.get("BUILD", "build"), "ectype"))
VIRTIOFSD = next((p for p in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/libexec/qemu/virtiofsd") if os.access(p, os.X_OK)), None)
MEMORY = "1G"


def append():
    """What cmd_exec.c gives the kernel."""
    return re.search(r'#define APPEND "(.*)"', read(os.path.join(ROOT, "src/cli/cmd_exec.c")).decode()).group(1)


def initrd(folder, command):
    orders = [("name", "qemu"), ("cwd", os.getcwd()), ("tty", "")]
    orders += [("env", f"{k}={os.environ[k]}") for k in ("PATH", "HOME") if k in os.environ] + [("arg", a) for a in command]
    archive = Cpio()
    archive.file("ectype-exec", b"".join(f"{k}={v}".encode() + b"\0" for k, v in orders), 0o400)
    path = os.path.join(folder, "initrd")
    with open(path, "wb") as f:
        f.write(read(os.path.join(cache_dir(), "exec-initramfs")) + archive.finish())
    return path


def qemu(folder, image, command):
    sock = os.path.join(folder, "fs")
    fs = subprocess.Popen([VIRTIOFSD, f"--socket-path={sock}", "-f", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot",
                           "-o", "log_level=err"],
                          stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not os.path.exists(sock):
        time.sleep(0.002)
    args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-M", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "max", "-smp", "1",
            "-m", MEMORY, "-object", f"memory-backend-memfd,id=ram,size={MEMORY},share=on", "-display", "none", "-no-reboot",
            "-kernel", os.path.join(cache_dir(), "vmlinuz"), "-initrd", image, "-append", append(),
            "-chardev", f"socket,id=fs,path={sock}", "-device", "vhost-user-fs-pci,chardev=fs,tag=ectype-root",
            "-device", "virtio-serial-pci"]
    null = "file,path=/dev/null"  # "null" would never be connected, and "stdio" not behind the end of its input
    for name, backend in (("in", null), ("out", null), ("err", null), ("ctl", "stdio,signal=off")):
        args += ["-chardev", f"{backend},id={name}", "-device", f"virtserialport,chardev={name},name=ectype.{name}"]
    p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    status = None
    for line in p.stdout:
        if line.startswith(b"exit "):
            status = int(line.split()[1])
            break
    p.send_signal(signal.SIGKILL)
    p.wait()
    fs.kill()
    fs.wait()
    for left in (sock, sock + ".pid"):
        if os.path.exists(left):
            os.unlink(left)
    return status


def ectype(engine, command):
    return subprocess.run([ECTYPE, "exec", "--engine", engine, "--memory", MEMORY, "--", *command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def timed(run, *args):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    status = run(*args)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        sys.exit(f"exec.py: {run.__name__} ended with {status}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--engine", default="auto")
    p.add_argument("command", nargs="*", default=["true"])
    a = p.parse_args()
    if os.geteuid() or not VIRTIOFSD:
        sys.exit("exec.py: needs root and virtiofsd, for QEMU's part")
    results = {"ectype": [], "qemu": []}
    with tempfile.TemporaryDirectory(prefix="ectype-bench-") as folder:
        image = initrd(folder, a.command)
        for _ in range(a.runs):
            results["ectype"].append(timed(ectype, a.engine, a.command))
            results["qemu"].append(timed(qemu, folder, image, a.command))
    print(f"{' '.join(a.command)}, {a.runs} runs each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print("| machine | wall, best | median | processor time, best | median |\n| --- | --: | --: | --: | --: |")
    for name, label in (("ectype", f"ectype exec ({a.engine})"), ("qemu", "QEMU TCG")):
        wall, cpu = zip(*results[name])
        print(f"| {label} | {min(wall):.2f} s | {statistics.median(wall):.2f} s | {min(cpu):.2f} s | {statistics.median(cpu):.2f} s |")
    ratio = [statistics.median(v[i] for v in results["qemu"]) / statistics.median(v[i] for v in results["ectype"]) for i in (0, 1)]
    print(f"QEMU takes {ratio[0]:.2f} × the time, {ratio[1]:.2f} × the processor time (medians)")


main()
