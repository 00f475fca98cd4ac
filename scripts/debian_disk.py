"""The disk that image.py fills: its partitions, its boot loaders, and what is read back from it.

A GPT with three partitions: GRUB's BIOS boot partition, the EFI system
partition, the ext4 root. Nothing is mounted and no loop device is used: every
tool here writes at an offset of an ordinary file.

GRUB's BIOS half is put in place by hand. grub-bios-setup wants a block device
and the file system behind it, and three numbers are all that is to be filled in.
"""
import json
import os
import struct
import subprocess
import uuid
from dataclasses import dataclass, field

SECTOR = 512
MIB = 1 << 20
# First byte and size; the root takes what is left but for the backup GPT's megabyte.
BIOS_BOOT = (1 * MIB, 1 * MIB)
ESP = (2 * MIB, 64 * MIB)
ROOT_START = 66 * MIB
TYPE_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
TYPE_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
TYPE_ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # Linux root (x86-64)

# Everything a boot needs is in the core image: no module is looked for on the disk.
MODULES = ["part_gpt", "ext2", "search_fs_uuid", "normal", "configfile", "linux", "echo", "test", "terminal", "ls", "cat",
           "gzio", "reboot", "halt", "minicmd"]
MODULES_OF = {"i386-pc": ["biosdisk", "serial"], "x86_64-efi": ["fat", "all_video"]}
GRUB_FOLDER = "/usr/lib/grub"

# What GRUB's boot.S and diskboot.S leave to the installer (their symbols kernel_sector, boot_drive_check and the
# last 12 bytes of the first sector of the core image: a list of one block of sectors).
BOOT_CODE = 440
BOOT_KERNEL_SECTOR = 0x5C
BOOT_DRIVE_CHECK = 0x66
BLOCKLIST = SECTOR - 12

GRUB_CFG = """\
# The kernel package keeps /vmlinuz and /initrd.img pointing at its newest files, so that this need not change.
set timeout=1
set default=0
if [ "$grub_platform" = pc ]; then
	serial --unit=0 --speed=115200
	terminal_input serial console
	terminal_output serial console
fi
menuentry "Debian GNU/Linux" {{
	linux /vmlinuz {cmdline}
	initrd /initrd.img
}}
menuentry "Debian GNU/Linux, the kernel before" {{
	linux /vmlinuz.old {cmdline}
	initrd /initrd.img.old
}}
menuentry "Debian GNU/Linux, single user" {{
	linux /vmlinuz {cmdline} single
	initrd /initrd.img
}}
"""


class Failed(Exception):
    """What went wrong, as one line. status 2: before anything was changed."""

    def __init__(self, text, status=1):
        super().__init__(text)
        self.status = status


@dataclass
class Layout:
    size: int
    root_uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    esp_id: str = field(default_factory=lambda: os.urandom(4).hex().upper())

    @property
    def root_size(self):
        return (self.size - MIB - ROOT_START) // MIB * MIB

    @property
    def cmdline(self):
        return f"root=UUID={self.root_uuid} ro console=tty0 console=ttyS0,115200 quiet"

    def grub_cfg(self):
        return GRUB_CFG.format(cmdline=self.cmdline)

    def fstab(self):
        return (f"UUID={self.root_uuid} / ext4 errors=remount-ro 0 1\n"
                f"UUID={self.esp_id[:4]}-{self.esp_id[4:]} /boot/efi vfat noauto,umask=0077 0 0\n")


def partition(run, disk, layout):
    """An empty sparse disk with its partition table."""
    with open(disk, "wb") as f:
        f.truncate(layout.size)
    rows = [(*BIOS_BOOT, TYPE_BIOS_BOOT, "bios"), (*ESP, TYPE_ESP, "esp"), (ROOT_START, layout.root_size, TYPE_ROOT, "root")]
    table = "label: gpt\n" + "".join(
        f"start={start // SECTOR}, size={size // SECTOR}, type={kind}, name={name}\n" for start, size, kind, name in rows)
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=table)


def make_root(run, disk, layout, tree, prefix):
    """The root file system with the files of `tree`. Its tables are zeroed here, where that costs nothing, not by
    a kernel thread of the guest's during its first minutes."""
    run([*prefix, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", layout.root_uuid, "-d", tree,
         "-E", f"offset={ROOT_START},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
         disk, f"{layout.root_size // 1024}k"])


def grub_image(run, platform, layout, folder, prefix):
    """A core image that finds the root by its UUID, wherever the firmware says it was started from."""
    early, out = os.path.join(folder, "early.cfg"), os.path.join(folder, platform)
    with open(early, "w", encoding="ascii") as f:
        f.write(f"search.fs_uuid {layout.root_uuid} root\nset prefix=($root)/boot/grub\n")
    run(["grub-mkimage", "-O", platform, "-d", os.path.join(GRUB_FOLDER, platform), "-c", early, "-p", prefix, "-o", out,
         *MODULES, *MODULES_OF[platform]])
    return out


def make_esp(run, disk, layout, folder):
    """EFI/BOOT/BOOTX64.EFI, which firmware starts from a disk that no variable names."""
    loader = grub_image(run, "x86_64-efi", layout, folder, "/EFI/BOOT")
    # -s: mkfs.vfat would choose clusters for the whole file's size, and too few of them for a FAT32
    run(["mkfs.vfat", "-F", "32", "-s", "1", "-n", "ESP", "-i", layout.esp_id, f"--offset={ESP[0] // SECTOR}", disk,
         str(ESP[1] // 1024)])
    at = f"{disk}@@{ESP[0]}"
    run(["mmd", "-i", at, "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", at, loader, "::/EFI/BOOT/BOOTX64.EFI"])


def make_bios_boot(run, disk, layout, folder):
    """boot.img in the MBR's code area, the core image in the BIOS boot partition."""
    with open(grub_image(run, "i386-pc", layout, folder, "/boot/grub"), "rb") as f:
        core = bytearray(f.read())
    with open(os.path.join(GRUB_FOLDER, "i386-pc/boot.img"), "rb") as f:
        boot = bytearray(f.read(BOOT_CODE))
    first = BIOS_BOOT[0] // SECTOR
    if len(core) > BIOS_BOOT[1]:
        raise Failed(f"GRUB's core image has {len(core)} bytes, more than the BIOS boot partition")
    struct.pack_into("<Q", boot, BOOT_KERNEL_SECTOR, first)
    boot[BOOT_DRIVE_CHECK:BOOT_DRIVE_CHECK + 2] = b"\x90\x90"  # do trust the drive number of the BIOS
    struct.pack_into("<Q", core, BLOCKLIST, first + 1)
    with open(disk, "r+b") as f:
        f.write(boot)
        f.seek(BIOS_BOOT[0])
        f.write(core)


def root_of(run, disk):
    """Offset of the root partition of a raw disk, by its type, else the only Linux file system."""
    try:
        table = json.loads(run(["sfdisk", "--json", disk]))["partitiontable"]
    except (Failed, ValueError, KeyError):
        raise Failed(f"{disk}: no partition table", 2) from None
    kinds = [TYPE_ROOT, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83"]
    for kind in kinds:
        found = [p for p in table.get("partitions", []) if p["type"].upper() == kind]
        if len(found) == 1:
            return found[0]["start"] * table.get("sectorsize", SECTOR)
    raise Failed(f"{disk}: which partition holds the root file system? None has the type of a Linux root", 2)


class Ext:
    """Reads files of an ext4 file system inside a disk, by debugfs."""

    def __init__(self, run, disk, offset):
        # debugfs splits its requests and its device's name at these
        if any(c in disk for c in "?&\"'"):
            raise Failed(f"{disk}: a path with ?, & or quotes cannot be given to debugfs", 2)
        self.run, self.device = run, f"{disk}?offset={offset}"

    def request(self, text):
        return self.run(["debugfs", "-R", text, self.device])

    def resolve(self, path):
        """`path` with symbolic links followed."""
        for _ in range(8):
            out = self.request(f'stat "{path}"')
            target = next((l.split('"')[1] for l in out.splitlines() if l.startswith("Fast link dest:")), None)
            if target is None:
                return path if "Type: regular" in out else None
            if any(c in target for c in "\"'\n"):
                return None
            path = os.path.normpath(os.path.join(os.path.dirname(path), target))
        return None

    def extract(self, path, output):
        """Copy a file out; False if the image has none of this name."""
        inside = self.resolve(path)
        if inside is None:
            return False
        self.request(f'dump "{inside}" "{output}"')
        return os.path.exists(output) and os.path.getsize(output) > 0

    def uuid(self):
        out = self.request("show_super_stats -h")
        return next((l.split()[-1] for l in out.splitlines() if l.startswith("Filesystem UUID:")), "")


def run_quietly(command, stdin=None):
    """Standard output of a program; Failed with its last line."""
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
    p = subprocess.run(command, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True,
                       text=True, errors="replace", env=env)
    if p.returncode:
        raise Failed(f"{command[0]}: " + ((p.stderr or p.stdout).strip().splitlines() or [f"status {p.returncode}"])[-1])
    return p.stdout
