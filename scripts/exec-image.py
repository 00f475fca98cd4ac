#!/usr/bin/env python3
"""Build the initramfs of `ectype exec`: its process 1 (guest/exec_init.c) and the drivers it needs, in load order.

exec-image.py [--output F] [--kernel F]

Uncompressed, as scripts/initramfs.py's. The monitor puts the command behind it
when it starts.
"""
import argparse
import os
import subprocess
import sys
import tempfile

from initramfs import Cpio, Modules, cache_dir, read, replace

MODULES = ["virtio_pci", "virtio_console", "virtiofs", "overlay", "virtio_net"]
HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = ["-static", "-O2", "-s", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation", "-Wno-unused-result"]


def process_one():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "init")
        p = subprocess.run([os.environ.get("CC", "cc"), *FLAGS, "-o", out, os.path.join(HERE, "../guest/exec_init.c")])
        if p.returncode:
            sys.exit("ectype: guest/exec_init.c could not be compiled (Debian: gcc, libc6-dev)")
        return read(out)


def in_order(modules):
    """The modules wanted, each behind those it depends on."""
    order = []

    def visit(name):
        if name not in modules.path or name in order:
            return
        for d in modules.depends(name):
            visit(d)
        order.append(name)

    for name in MODULES:
        visit(name)
    return order


def image(kernel):
    archive, modules = Cpio(), Modules(kernel)
    archive.dir("dev")
    archive.char("dev/console", 5, 1)
    archive.dir("modules")
    names = in_order(modules)
    for n in names:
        archive.file(f"modules/{n}.ko", read(modules.path[n]), 0o644)
    archive.file("modules/order", "".join(f"{n}.ko\n" for n in names).encode(), 0o644)
    archive.file("init", process_one())
    return archive.finish()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--output", default=os.path.join(cache_dir(), "exec-initramfs"))
    p.add_argument("--kernel", default=os.path.join(cache_dir(), "vmlinuz"), help="whose modules (the cloud kernel's)")
    a = p.parse_args()
    replace(a.output, image(a.kernel))


if __name__ == "__main__":
    main()
