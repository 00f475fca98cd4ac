"""Bootable images for firmware: an ISO 9660 image with GRUB for BIOS and UEFI, a disk with an MBR and GRUB for
BIOS, a disk with a GPT and GRUB on an EFI system partition. Each boots the kernel and initramfs of the cache.

Needs grub-pc-bin, grub-efi-amd64-bin, grub-common, xorriso and mtools (scripts/deps.sh test). Standard library only.
"""
import os
import shutil
import struct
import subprocess
import uuid
import zlib

SECTOR = 512
GRUB = "/usr/lib/grub"
# "grub: up" tells a test that GRUB runs; `console` is what the firmware gives it.
CONFIG = """set timeout=0
echo "grub: up"
linux {where}/vmlinuz {append}
initrd {where}/initramfs
boot
"""
APPEND = "console=ttyS0 quiet ectype.rows=24 ectype.cols=400"


def missing():
    """What is not installed, as text; empty if all is there."""
    tools = ["grub-mkimage", "grub-mkrescue", "xorriso", "mformat", "mcopy"]
    folders = [f"{GRUB}/i386-pc", f"{GRUB}/x86_64-efi"]
    return ", ".join([t for t in tools if not shutil.which(t)] + [f for f in folders if not os.path.isdir(f)])


def run(*command):
    p = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"})
    if p.returncode:
        raise RuntimeError(f"{' '.join(command)}: {p.stderr[-500:]}")


def iso(path, kernel, initramfs, append=APPEND):
    root = path + ".root"
    os.makedirs(root + "/boot/grub")
    shutil.copy(kernel, root + "/boot/vmlinuz")
    shutil.copy(initramfs, root + "/boot/initramfs")
    with open(root + "/boot/grub/grub.cfg", "w", encoding="ascii") as f:
        f.write(CONFIG.format(where="/boot", append=append))
    run("grub-mkrescue", "-o", path, root)
    shutil.rmtree(root)
    return path


def fat(image, offset, size, files):
    """A FAT file system in [offset, offset + size) of the file `image` with `files`: {path in it: host's path}."""
    part = f"{image}@@{offset}"
    run("mformat", "-i", part, "-T", str(size // SECTOR), "-h", "255", "-s", "63", "-F", "::")
    made = set()
    for name, source in files.items():
        folder = os.path.dirname(name)
        for depth in range(1, folder.count("/") + 2) if folder else []:
            sub = "/".join(folder.split("/")[:depth])
            if sub not in made:
                run("mmd", "-i", part, "::/" + sub)
                made.add(sub)
        run("mcopy", "-i", part, source, "::/" + name)


def text_file(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)
    return path


def payload(path, kernel, initramfs, append):
    """The files of a boot partition, and its size in bytes."""
    files = {"vmlinuz": kernel, "initramfs": initramfs,
             "boot/grub/grub.cfg": text_file(path + ".cfg", CONFIG.format(where="", append=append))}
    size = sum(os.path.getsize(f) for f in files.values()) + (40 << 20)
    return files, size & ~0xfffff


def mbr(path, kernel, initramfs, append=APPEND):
    files, size = payload(path, kernel, initramfs, append)
    start = 2048
    core = path + ".core"
    run("grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)/boot/grub", "biosdisk", "part_msdos", "fat",
        "normal", "linux", "echo", "test", "configfile", "minicmd")
    with open(f"{GRUB}/i386-pc/boot.img", "rb") as f:
        head = bytearray(f.read(SECTOR))
    with open(core, "rb") as f:
        body = f.read()
    assert len(body) < (start - 1) * SECTOR
    head[446:510] = bytes(64)  # GRUB has code for floppies there
    # one active partition, FAT32
    head[446:462] = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x0c, b"\xfe\xff\xff", start, size // SECTOR)
    head[510:512] = b"\x55\xaa"
    with open(path, "wb") as f:
        f.write(head + body)
        f.truncate(start * SECTOR + size)
    fat(path, start * SECTOR, size, files)
    return path


def gpt_tables(sectors, first, last):
    """Primary and backup: protective MBR, headers, entries; one EFI system partition."""
    esp = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
    entry = struct.pack("<16s16sQQQ72s", esp, uuid.UUID(int=0x1234 << 64 | 1).bytes_le, first, last, 0,
                        "esp".encode("utf-16le"))
    entries = entry.ljust(128 * 128, b"\0")

    def header(this, other, table):
        fields = [b"EFI PART", 0x10000, 92, 0, 0, this, other, 34, sectors - 34,
                  uuid.UUID(int=0x5678 << 64 | 1).bytes_le, table, 128, 128, zlib.crc32(entries)]
        form = "<8sIIIIQQQQ16sQIII"
        fields[3] = zlib.crc32(struct.pack(form, *fields))
        return struct.pack(form, *fields).ljust(SECTOR, b"\0")

    protective = bytearray(SECTOR)
    protective[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xee, b"\xff\xff\xff", 1, sectors - 1)
    protective[510:512] = b"\x55\xaa"
    return bytes(protective) + header(1, sectors - 1, 2) + entries, entries + header(sectors - 1, 1, sectors - 33)


def gpt(path, kernel, initramfs, append=APPEND):
    files, size = payload(path, kernel, initramfs, append)
    start = 2048
    sectors = start + size // SECTOR + 2048
    early = text_file(path + ".early", "search --set=root --file /vmlinuz\nset prefix=($root)/boot/grub\n"
                                       "configfile ($root)/boot/grub/grub.cfg\n")
    run("grub-mkimage", "-O", "x86_64-efi", "-o", path + ".efi", "-c", early, "-p", "/boot/grub", "part_gpt", "fat",
        "normal", "linux", "echo", "test", "configfile", "search", "search_fs_file", "minicmd")
    files["EFI/BOOT/BOOTX64.EFI"] = path + ".efi"
    front, back = gpt_tables(sectors, start, start + size // SECTOR - 1)
    with open(path, "wb") as f:
        f.write(front)
        f.seek((sectors - 33) * SECTOR)
        f.write(back)
    fat(path, start * SECTOR, size, files)
    return path
