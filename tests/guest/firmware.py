#!/usr/bin/env python3
"""Firmware boots what is on disks: SeaBIOS and OVMF, GRUB on an MBR disk, an EFI system partition and a CD-ROM;
OVMF's variables are kept; the SATA controller in Linux; what is refused."""
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from guest import Guest, Timeout, PROMPT, ENGINE, ROOT, SLOW, cache, finish, ok, read_json, run_to_end, skip
import bootimages

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
VARS = "/sys/firmware/efi/efivars/"
LIMIT = 120


def initramfs(folder):
    """With the modules of the generic kernel, which knows SATA."""
    path = os.path.join(folder, "initramfs")
    subprocess.run([os.path.join(ROOT, "scripts/initramfs.py"), "--kernel", cache("vmlinuz-generic"), "--output", path],
                   check=True)
    return path


def digest(path):
    with open(path, "rb") as f:
        return hashlib.md5(f.read()).hexdigest()


def plain(text):
    """Without the escape sequences that SeaBIOS's screen on the serial line puts anywhere."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def boots(name, g):
    """GRUB and Linux, to the prompt; what was on the console until then."""
    text = plain(g.expect(PROMPT, LIMIT))
    ok(f"{name}: GRUB boots Linux", "grub: up" in text, text)
    return text


def says(g, pattern):
    deadline = time.monotonic() + LIMIT * SLOW
    while time.monotonic() < deadline and g.pump(1):
        if re.search(pattern, plain(g.text)):
            return True
    return False


def off(name, g):
    g.send("poweroff\n")
    status = g.wait(60)
    ok(f"{name}: powers off", status == 0 and not g.errors(), f"status {status}: {g.errors()}")


def bios_disk(folder):
    raw = bootimages.mbr(os.path.join(folder, "mbr"), cache("vmlinuz"), cache("initramfs"))
    disk = raw + ".qcow2"
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    else:
        shutil.copy(raw, disk)
    log = os.path.join(folder, "log")
    with Guest(disk, "--debugcon", "file:" + log) as g:
        text = boots("SeaBIOS, MBR disk", g)
        ok("SeaBIOS, MBR disk: by a BIOS", "SeaBIOS" in text and "0" in g.shell("ls /sys/firmware/efi 2>&1 | grep -c vars"))
        ok("SeaBIOS, MBR disk: is the guest's vda", "vda1" in g.shell("cat /proc/partitions"))
        off("SeaBIOS, MBR disk", g)
    with open(log, encoding="latin-1") as f:
        text = f.read()
    ok("SeaBIOS's log comes by the debug console", "Booting from Hard Disk" in text, text[-300:])
    return raw


# Attributes (non-volatile, boot and runtime services), then EFI_LOAD_OPTION: active, a path of 4 + 42 + 52 + 4 bytes:
# HD(1,GPT,GUID,start,size) / \EFI\BOOT\BOOTX64.EFI / end.
def boot_entry(disk):
    with open(disk, "rb") as f:
        f.seek(1024)
        _, guid, first, last = struct.unpack("<16s16sQQ", f.read(48))
    name = "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16le")
    path = struct.pack("<BBHIQQ16sBB", 4, 1, 42, 1, first, last - first + 1, guid, 2, 2)
    path += struct.pack("<BBH", 4, 4, 4 + len(name)) + name + b"\x7f\xff\x04\0"
    return struct.pack("<IIH", 7, 1, len(path)) + "Kept entry\0".encode("utf-16le") + path


def put_variable(g, name, data):
    text = "".join(f"\\x{b:02x}" for b in data)
    return g.shell(f"printf '{text}' >/tmp/v; cat /tmp/v >{VARS}{name}-{GLOBAL} && echo stored")


def efi_disk(folder):
    """With a device of every kind on the bus, which OVMF is to step over or to use."""
    disk = bootimages.gpt(os.path.join(folder, "gpt"), cache("vmlinuz"), cache("initramfs"))
    data = os.path.join(folder, "data")
    with open(data, "wb") as f:
        f.truncate(8 << 20)
    kept = os.path.join(folder, "vars")
    options = ["--firmware", "ovmf", "--firmware-vars", kept, "--disk", disk + ",format=raw", "--disk", data + ",format=raw",
               "--net", "user", "--console", f"file:{folder}/console,name=log", "--vsock", f"socket={folder}/vsock"]
    kinds = [1, 2, 3, 4, 5, 19]  # virtio's: network, block, console, entropy, balloon, socket, file system
    if any(os.path.exists(p + "/virtiofsd") for p in ("/usr/lib/qemu", "/usr/libexec")):
        options += ["--share", f"here={folder}/shared"]
        os.mkdir(folder + "/shared")
        kinds.append(26)
    with Guest(*options) as g:
        boots("OVMF, GPT disk", g)
        g.shell(f"mount -t efivarfs efivarfs {VARS}")
        out = put_variable(g, "Boot0099", boot_entry(disk))
        order = put_variable(g, "BootOrder", b"\7\0\0\0\x99\0")
        ok("OVMF: the guest writes variables", "stored" in out and "stored" in order, out + order)
        found = g.shell("cat /sys/bus/virtio/devices/*/modalias; ls /sys/class/net")
        ok("OVMF: all devices reach Linux", all(f"d{n:08X}v" in found for n in kinds) and "eth0" in found, found)
        # the file has each write when the guest goes on: nothing is left to do at the end
        g.close()
    with Guest(*options) as g:
        text = boots("OVMF, variables kept", g)
        ok("OVMF: boots the entry that the guest made, after the machine was killed", 'Boot0099 "Kept entry"' in text, text[-600:])
        g.shell(f"mount -t efivarfs efivarfs {VARS}")
        ok("OVMF: the variable has what was written", hashlib.md5(boot_entry(disk)).hexdigest() in
           g.shell(f"md5sum {VARS}Boot0099-{GLOBAL}"))
        refuses("variables of a machine that runs", ["--firmware", "ovmf", "--firmware-vars", kept], kept, "in use")
        off("OVMF, GPT disk", g)
    with Guest("--firmware", "ovmf", "--disk", disk + ",format=raw,snapshot") as g:
        text = boots("OVMF without a file of variables", g)
        ok("OVMF without a file of variables: knows none", "Kept entry" not in text, text[-600:])
    return disk, kept


def cdrom(folder, initrd):
    iso = bootimages.iso(os.path.join(folder, "cd.iso"), cache("vmlinuz-generic"), initrd)
    data, stats = os.path.join(folder, "sata"), os.path.join(folder, "stats")
    with open(data, "wb") as f:
        f.write(os.urandom(4 << 20))
        f.truncate(64 << 20)
    first = digest(data)
    with Guest(iso, "--disk", data + ",bus=sata,format=raw,serial=S1", f"--stats=json:{stats}") as g:
        text = boots("SeaBIOS, CD-ROM", g)
        ok("SeaBIOS, CD-ROM: by El Torito", "DVD/CD" in text, text)
        g.shell("for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/sr0 ] && [ -b /dev/sda ] && break; sleep 1; done")
        ok("Linux finds both drives", "both" in g.shell("[ -b /dev/sr0 ] && [ -b /dev/sda ] && echo bo''th"))
        ok("Linux reads the CD-ROM", digest(iso) in g.shell("md5sum /dev/sr0", 120))
        out = g.shell("mount -t iso9660 -o ro /dev/sr0 /root && md5sum /root/boot/vmlinuz")
        ok("Linux mounts the CD-ROM", digest(cache("vmlinuz-generic")) in out, out)
        out = g.shell("dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>&1")
        ok("the CD-ROM cannot be written", "Read-only" in out or "not permitted" in out, out)
        ok("Linux reads the SATA disk", first in g.shell("md5sum /dev/sda", 120))
        out = g.shell("umount /root; dd if=/dev/sr0 of=/dev/sda bs=64k seek=256 count=100 conv=fsync 2>&1; "
                      "dd if=/dev/sda bs=64k skip=256 count=100 2>/dev/null | md5sum")
        with open(iso, "rb") as f:
            want = hashlib.md5(f.read(6553600)).hexdigest()
        ok("Linux writes the SATA disk", want in out, out)
        out = g.shell("dmesg | grep -iE 'exception|failed|I/O error|hard resetting' | grep -v 'sr 0'")
        ok("the kernel complains of nothing", not out.strip(), out)
        off("SeaBIOS, CD-ROM", g)
    with open(data, "rb") as f:
        f.seek(16 << 20)
        ok("what was written is in the file", hashlib.md5(f.read(6553600)).hexdigest() == want)
    d = {x["id"]: x for x in read_json(stats)["disks"]}
    ok("statistics know both", d["cdrom0"]["read_bytes"] > os.path.getsize(iso) and d["disk0"]["written_bytes"] >= 6553600 and
       d["disk0"]["flushes"] and not d["cdrom0"]["errors"], d)
    with Guest("--cdrom", iso, "--firmware", "ovmf", "--net", "user") as g:
        text = boots("OVMF, CD-ROM", g)
        ok("OVMF, CD-ROM: from the drive", "Sata(0x" in text, text)
        g.shell("for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/sr0 ] && break; sleep 1; done")
        ok("OVMF, CD-ROM: Linux reads it", digest(iso) in g.shell("md5sum /dev/sr0", 120))
        off("OVMF, CD-ROM", g)
    return iso


def order(bios, efi, iso):
    """Disks first, unless --boot says otherwise."""
    for name, args, want in (
            ("SeaBIOS: disks first", [iso, "--disk", bios + ",format=raw,readonly"], "Booting from Hard Disk"),
            ("SeaBIOS: --boot cdrom", [iso, "--disk", bios + ",format=raw,readonly", "--boot", "cdrom"], "Booting from DVD/CD"),
            ("SeaBIOS: --boot takes ids", ["--disk", efi + ",format=raw,readonly", "--disk", bios + ",format=raw,readonly,id=b",
                                           "--firmware", "seabios", "--boot", "b"], "grub: up"),
            ("OVMF: disks first", ["--firmware", "ovmf", "--cdrom", iso, "--disk", efi + ",format=raw,readonly"],
             r"starting Boot[^\n]*Misc Device"),
            ("OVMF: --boot cdrom", ["--firmware", "ovmf", "--cdrom", iso, "--disk", efi + ",format=raw,readonly", "--boot",
                                    "cdrom,disk"], r"starting Boot[^\n]*CD-ROM")):
        with Guest(*args) as g:
            says(g, r"Booting from (Hard|DVD)[^\n]*\n|starting Boot[^\n]*\n")
            if want == "grub: up":
                says(g, want)
            ok(name, re.search(want, plain(g.text)), g.text)


def refuses(name, args, *words):
    status, out, err, _ = run_to_end(["run", "--engine", ENGINE, "--serial", "none", *args], 10)
    lines = err.strip().splitlines()
    ok(f"refused: {name}", status == 2 and len(lines) == 1 and not out and all(w in err for w in words), f"status {status}: {err}{out}")


def refused(folder, kept):
    def write(name, data):
        path = os.path.join(folder, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    absent = os.path.join(folder, "absent")
    refuses("no such firmware", ["--firmware", absent], absent)
    short = write("short", bytes(4096))
    refuses("variables of another size", ["--firmware", "ovmf", "--firmware-vars", short], short, "4096 bytes")
    refuses("a folder as variables", ["--firmware", "ovmf", "--firmware-vars", folder], folder)
    refuses("variables in no folder", ["--firmware", "ovmf", "--firmware-vars", absent + "/vars"], absent)
    refuses("variables for SeaBIOS", ["--firmware", "seabios", "--firmware-vars", kept], "seabios")
    refuses("variables without firmware", ["--kernel", cache("vmlinuz"), "--firmware-vars", kept], "--firmware")
    refuses("no such CD-ROM", ["--cdrom", absent], absent)
    fake = write("fake.iso", b"no image" * 10000)
    refuses("a CD-ROM that is none", [fake], fake, "not an image of a CD-ROM")
    refuses("a CD-ROM that is too short", ["--cdrom", write("tiny", b"CD001")], "not an image of a CD-ROM")
    refuses("a CD-ROM that is a folder", ["--cdrom", folder], folder)
    refuses("a CD-ROM by virtio", ["--disk", fake + ",cdrom,bus=virtio"], fake)
    refuses("a boot order of what is not there", [kept, "--boot", "cdrom"], "'cdrom'")
    refuses("a boot order without firmware", ["--kernel", cache("vmlinuz"), "--boot", "disk"], "--boot")
    refuses("seven SATA disks", ["--firmware", "seabios"] + [a for i in range(7) for a in ("--disk", f"{kept},readonly,bus=sata,id=d{i}")],
            "6 ports")
    ok("and nothing was made", not os.path.exists(absent))


def main():
    why = bootimages.missing()
    if why:
        skip("firmware", f"not installed: {why} (scripts/deps.sh test)")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="ectype-firmware-") as folder:
        try:
            bios = bios_disk(folder)
            efi, kept = efi_disk(folder)
            iso = cdrom(folder, initramfs(folder))
            order(bios, efi, iso)
            refused(folder, kept)
        except Timeout as e:
            ok("in time", False, e)
    finish()


main()
