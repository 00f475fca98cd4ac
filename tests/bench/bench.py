#!/usr/bin/env python3
"""make bench: the same program natively, in Ectype's engines and in QEMU's TCG, side by side.

bench.py [--scale S] [--only NAME,...] [--engines interp,...] [--no-qemu] [--bochs] [--json FILE]

Figures are times by the host's clock between the marks that the program prints
on its console (the guest's own clock may be off; it is in the JSON beside
them), and the ratios to native. "boot" is from the start of the program to the
first mark of /init.
"""
import argparse
import json
import math
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests/guest"))
from guest import BUILD, cache, read_json  # noqa: E402

LIMIT = 300


def marks(command, limit=LIMIT, serial=None, stdin=b""):
    """Run; {name: (host ns, guest ns)} by the marks on its output, "boot" the time to the first one."""
    out = {}
    start = time.monotonic_ns()
    begun = {}
    text = b""
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE if not serial else subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    p.stdin.write(stdin)
    p.stdin.flush()
    fd = p.stdout.fileno() if not serial else None
    f = None
    try:
        done = False
        while not done and time.monotonic_ns() - start < limit * 1e9:
            if serial:
                time.sleep(0.005)
                if f is None and os.path.exists(serial):
                    f = open(serial, "rb")
                data = f.read() if f else b""
                if not data and p.poll() is not None:
                    break
            else:
                if not select.select([fd], [], [], 1)[0]:
                    continue
                data = os.read(fd, 65536)
                if not data:
                    break
            at = time.monotonic_ns()
            text += data
            lines = text.split(b"\n")
            text = lines.pop()
            for line in lines:
                if b"BENCH loader" in line:
                    start = at  # Bochs: what its BIOS and GRUB took is not the kernel's
                m = re.search(rb"BENCH (ready|begin|end|done) ?(\w*) ?(\d*)", line)
                if not m:
                    continue
                word, name = m.group(1).decode(), m.group(2).decode()
                if word == "ready":
                    out["boot"] = (at - start, 0)
                elif word == "begin":
                    begun[name] = at
                elif word == "end":
                    out[name] = (at - begun[name], int(m.group(3)))
                else:
                    done = True
        if done:
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                pass
    finally:
        if p.poll() is None:
            p.kill()
        p.wait()
        if f:
            f.close()
    return out


def build(tmp):
    program = os.path.join(tmp, "work")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, os.path.join(HERE, "work.c")], check=True)
    sys.path.insert(0, os.path.join(ROOT, "scripts"))
    import initramfs
    archive = initramfs.Cpio()
    for d in ("dev", "proc"):
        archive.dir(d)
    archive.char("dev/console", 5, 1)
    archive.file("init", initramfs.read(program))
    initrd = os.path.join(tmp, "initrd")
    with open(initrd, "wb") as f:
        f.write(archive.finish())
    return program, initrd


def native(program, scale, only):
    best = {}
    for _ in range(5):
        for name, (host, own) in marks([program, str(scale), only]).items():
            # by its own clock: the marks cost a process switch, which is nothing to a guest but something to 10 ms
            if name != "boot":
                best[name] = min(best.get(name, (own, own)), (own, own))
    return best


def bochs(tmp, initrd, scale, only):
    """A GRUB image, since Bochs boots no kernel by itself."""
    iso, serial = os.path.join(tmp, "iso"), os.path.join(tmp, "serial")
    os.makedirs(os.path.join(iso, "boot/grub"))
    shutil.copy(cache("vmlinuz"), os.path.join(iso, "boot/vmlinuz"))
    shutil.copy(initrd, os.path.join(iso, "boot/initrd"))
    with open(os.path.join(iso, "boot/grub/grub.cfg"), "w", encoding="ascii") as f:
        f.write("set timeout=0\nserial --unit=0\nterminal_output serial\nmenuentry x {\n"
                f"echo 'BENCH loader'\nlinux /boot/vmlinuz console=ttyS0 quiet bench={only} scale={scale}\n"
                "initrd /boot/initrd\n}\n")
    subprocess.run(["grub-mkrescue", "-o", os.path.join(tmp, "x.iso"), iso], check=True, capture_output=True)
    with open(os.path.join(tmp, "bochsrc"), "w", encoding="ascii") as f:
        f.write(f"""
display_library: rfb, options="timeout=0"
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0
cpu: model=corei7_haswell_4770, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0-master: type=cdrom, path={tmp}/x.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={serial}
clock: sync=none
log: {tmp}/bochs.log
panic: action=fatal
""")
    return marks(["bochs", "-q", "-f", os.path.join(tmp, "bochsrc")], 900, serial,
                 b"c\n")  # Debian's has its debugger, which waits to be told


def table(results, names):
    columns = [c for c in results if c != "native"]
    lines = ["| workload | native ms | " + " | ".join(f"{c} ms | × native" for c in columns) + " |",
             "| --- | --- | " + " | ".join("--- | ---" for _ in columns) + " |"]
    ratios = {c: [] for c in columns}
    for n in names:
        base = results["native"].get(n)
        row = [n, f"{base[0] / 1e6:.1f}" if base else ""]
        for c in columns:
            got = results[c].get(n)
            row.append(f"{got[0] / 1e6:.0f}" if got else "–")
            if got and base:
                ratios[c].append(got[0] / base[0])
                row.append(f"{got[0] / base[0]:.1f}")
            else:
                row.append("")
        lines.append("| " + " | ".join(row) + " |")
    row = ["geometric mean", ""]
    for c in columns:
        r = ratios[c]
        row += ["", f"{math.exp(sum(map(math.log, r)) / len(r)):.1f}" if r else "–"]
    lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--scale", type=float, default=1.0)
    p.add_argument("--only", default="")
    p.add_argument("--engines", default="interp")
    p.add_argument("--no-qemu", action="store_true")
    p.add_argument("--bochs", action="store_true", help="also Bochs, on the boot and the integer loop (minutes)")
    p.add_argument("--json", default=os.path.join(BUILD, "bench.json"))
    a = p.parse_args()

    subprocess.run([os.path.join(ROOT, "scripts/kernel.sh"), "cloud"], check=True)
    kernel = cache("vmlinuz")
    append = f"console=ttyS0 quiet bench={a.only} scale={a.scale}"
    results = {}
    figures = {}
    with tempfile.TemporaryDirectory() as tmp:
        program, initrd = build(tmp)
        results["native"] = native(program, a.scale, a.only)
        for engine in a.engines.split(","):
            stats = os.path.join(tmp, "stats")
            results[engine] = marks([os.path.join(BUILD, "ectype"), "run", "--engine", engine, "--kernel", kernel, "--initrd",
                                     initrd, "--append", append, "--memory", "512M", "--stats=json:" + stats])
            if os.path.exists(stats):
                s = read_json(stats)
                figures[engine] = {"instructions": s.get("instructions"), "seconds": s.get("seconds")}
        if not a.no_qemu and shutil.which("qemu-system-x86_64"):
            results["QEMU TCG"] = marks(["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic",
                                         "-vga", "none", "-nic", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", append])
        if a.bochs:
            results["Bochs"] = bochs(tmp, initrd, a.scale, "integer")
    names = []
    for r in results.values():
        names += [n for n in r if n not in names and n != "boot"]
    print(table(results, names))
    print("\nkernel start to /init: " + ", ".join(f"{c} {r['boot'][0] / 1e9:.2f} s" for c, r in results.items() if "boot" in r))
    for engine, f in figures.items():
        if f["instructions"] and f["seconds"]:
            print(f"{engine}: {f['instructions'] / 1e6:.0f} million instructions, {f['instructions'] / f['seconds'] / 1e6:.0f} a second")
    with open(a.json, "w", encoding="utf-8") as f:
        json.dump({"results": {c: {n: {"host_ns": h, "own_ns": g} for n, (h, g) in r.items()} for c, r in results.items()},
                   "engines": figures, "scale": a.scale}, f, indent=1)
    incomplete = [c for c, r in results.items() if c != "Bochs" and len(r) < len(results["native"])]
    if incomplete:
        print("did not finish: " + ", ".join(incomplete), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
