#!/usr/bin/env python3
"""Build the initramfs: busybox, one init script, and a kernel's modules for the devices the monitor has.

initramfs.py [--output F] [--kernel F] [--test SCRIPT] [--add PATH=FILE]...

A newc archive written here rather than by cpio, so that it needs neither root
(device nodes) nor a further package, and the same input gives the same bytes.
It is left uncompressed: the monitor copies it into memory, where the guest
would have to unpack it. With --test the guest runs SCRIPT instead of a shell
and then powers off.

The modules are those that scripts/kernel.sh put beside the kernel. The tables
modprobe reads are made here from what the modules say of themselves, and name
these modules only: so they are short, and depmod is not needed.
"""
import argparse
import os
import re
import stat
import struct
import subprocess
import sys
import tempfile

# What goes into the small initramfs, with all that depends on; the toolbox has all there are.
MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon", "virtiofs", "overlay",
           "vmw_vsock_virtio_transport", "ext4", "isofs", "efivarfs", "button", "evdev"]
# What a kernel that knows the SATA controller needs besides; the cloud kernel does not.
SATA = ["ahci", "sd_mod", "sr_mod"]
HERE = os.path.dirname(os.path.abspath(__file__))


def cache_dir():
    if os.environ.get("ECTYPE_CACHE"):
        return os.environ["ECTYPE_CACHE"]
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "ectype")


class Cpio:
    """The "new ASCII" format: a header of hexadecimal fields, name, data, each padded to 4."""

    def __init__(self):
        self.out = bytearray()
        self.inode = 0

    def entry(self, name, mode, data=b"", rdev=(0, 0)):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(raw), 0]
        self.out += b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.pad()
        self.out += data
        self.pad()

    def pad(self):
        self.out += b"\0" * (-len(self.out) % 4)

    def dir(self, name):
        self.entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o755):
        self.entry(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self.entry(name, stat.S_IFLNK | 0o777, target.encode())

    def char(self, name, major, minor):
        self.entry(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def take(self):
        """What was written since the last call, for archives too large to be held whole."""
        data = bytes(self.out)
        self.out.clear()
        return data

    def finish(self):
        self.inode = -1
        self.entry("TRAILER!!!", 0)
        self.out += b"\0" * (-len(self.out) % 512)
        return bytes(self.out)


def is_static(elf):
    """An ELF file for x86 without PT_INTERP: it needs no library that the archive lacks."""
    if elf[:4] != b"\x7fELF" or elf[4] not in (1, 2):
        return False
    wide = elf[4] == 2
    phoff, = struct.unpack_from("<Q" if wide else "<I", elf, 32 if wide else 28)
    size, count = struct.unpack_from("<HH", elf, 54 if wide else 42)
    return all(struct.unpack_from("<I", elf, phoff + i * size)[0] != 3 for i in range(count))


def find_busybox():
    for path in (os.environ.get("BUSYBOX"), "/bin/busybox", "/usr/bin/busybox"):
        if path and os.path.isfile(path) and is_static(read(path)):
            return path, read(path)
    sys.exit("ectype: no static busybox found (Debian: busybox-static)")


def modinfo(elf):
    """The strings of a module's section .modinfo, {key: [values]}; {} if it has none."""
    shoff, = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<3H", elf, 58)
    table = [struct.unpack_from("<IIQQQQ", elf, shoff + i * size) for i in range(count)]
    info = {}
    for name, _, _, _, at, length in table:
        start = table[names][4] + name
        if elf[start:start + 9] == b".modinfo\0":
            for text in elf[at:at + length].split(b"\0"):
                key, _, value = text.decode().partition("=")
                info.setdefault(key, []).append(value)
    return info


class Modules:
    """The modules beside a kernel's file: names with underscores, as modprobe has them."""

    def __init__(self, kernel):
        folder = os.path.join(os.path.dirname(os.path.realpath(kernel)), "modules")
        self.path, self.info = {}, {}
        for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if file.endswith(".ko"):
                name = file[:-3].replace("-", "_")
                self.path[name] = os.path.join(folder, file)
                self.info[name] = modinfo(read(self.path[name]))

    def release(self):
        """The kernel's release, of which each module says that it was built for it."""
        return next(iter(self.info.values()))["vermagic"][0].split()[0]

    def depends(self, name):
        return [d.replace("-", "_") for d in self.info[name].get("depends", [""])[0].split(",") if d]

    def closure(self, wanted):
        """`wanted`, as far as there, and what that depends on."""
        found, todo = set(), [w for w in wanted if w in self.path]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += [d for d in self.depends(name) if d in self.path]
        return sorted(found)

    def files(self, wanted=None):
        """{path: bytes} of the modules in `wanted` (None: all) and of modprobe's tables."""
        names = sorted(self.path) if wanted is None else self.closure(wanted)
        if not names:
            return {}
        folder = f"lib/modules/{self.release()}/"
        files = {folder + os.path.basename(self.path[n]): read(self.path[n]) for n in names}
        dep, alias = [], []
        for n in names:
            # the order they must be loaded in is the reverse of the one here
            order = []
            todo = self.depends(n)
            while todo:
                d = todo.pop(0)
                if d in self.path:
                    order = [o for o in order if o != d] + [d]
                    todo += self.depends(d)
            dep.append(os.path.basename(self.path[n]) + ":" + "".join(" " + os.path.basename(self.path[o]) for o in order))
            alias += [f"alias {a} {n}" for a in self.info[n].get("alias", [])]
        files[folder + "modules.dep"] = ("\n".join(dep) + "\n").encode()
        files[folder + "modules.alias"] = ("\n".join(alias) + "\n").encode()
        files[folder + "modules.symbols"] = b""
        return files


def applets(path):
    out = os.popen(f"'{path}' --list").read().split()
    return [a for a in out if a not in ("busybox", "init", "linuxrc")]


def read(path):
    with open(path, "rb") as f:
        return f.read()


def agent():
    """guest/ectype_guest.c, which gives copies of the machine their own identity."""
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "ectype-guest")
        p = subprocess.run([os.environ.get("CC", "cc"), "-static", "-O2", "-s", "-Wall", "-Wextra", "-Werror", "-o", out,
                            os.path.join(HERE, "../guest/ectype_guest.c")], check=False)
        if p.returncode:
            sys.exit("ectype: guest/ectype_guest.c could not be compiled (Debian: gcc, libc6-dev)")
        return read(out)


def base(archive, busybox, modules):
    path, data = busybox
    for d in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
        archive.dir(d)
    archive.char("dev/console", 5, 1)
    archive.char("dev/null", 1, 3)
    archive.file("bin/busybox", data)
    for a in applets(path):
        archive.link("bin/" + a, "busybox")
    for name in ("sbin", "usr/bin", "usr/sbin"):
        archive.link(name, "/bin")
    for name, text in (("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\n"), ("hostname", "ectype\n")):
        archive.file("etc/" + name, text.encode(), 0o644)
    if modules:
        folder = os.path.dirname(next(iter(modules)))
        for d in ("lib", "lib/modules", folder):
            archive.dir(d)
        for name, data in modules.items():
            archive.file(name, data, 0o644)
    # what busybox's acpid runs for the power button; /init ends the machine on the signal
    for d in ("etc/acpi", "etc/acpi/PWRF"):
        archive.dir(d)
    archive.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nexec poweroff\n")
    archive.dir("etc/udhcpc")
    archive.file("etc/udhcpc/default.script", read(os.path.join(HERE, "udhcpc.sh")))
    archive.file("bin/ectype-guest", agent())
    archive.file("init", read(os.path.join(HERE, "initramfs-init.sh")))


def replace(path, data):
    """Makes the file hold `data`, at once; not touched if it does already."""
    if os.path.isfile(path) and read(path) == data:
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    new = f"{path}.new.{os.getpid()}"
    with open(new, "wb") as f:
        f.write(data)
    os.rename(new, path)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--output", default=os.path.join(cache_dir(), "initramfs"))
    p.add_argument("--kernel", default=os.path.join(cache_dir(), "vmlinuz"), help="whose modules (the cloud kernel's)")
    p.add_argument("--test", metavar="SCRIPT", help="run this instead of a shell, then power off")
    p.add_argument("--add", action="append", default=[], metavar="PATH=FILE", help="put a host file into the archive")
    a = p.parse_args()

    archive = Cpio()
    modules = Modules(a.kernel)
    base(archive, find_busybox(), modules.files(MODULES + (SATA if "ahci" in modules.path else [])))
    for spec in a.add:
        name, _, source = spec.partition("=")
        archive.file(name.lstrip("/"), read(source))
    if a.test:
        archive.file("test.sh", read(a.test))
    data = archive.finish()

    replace(a.output, data)


if __name__ == "__main__":
    main()
