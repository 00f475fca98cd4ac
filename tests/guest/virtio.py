#!/usr/bin/env python3
"""Linux finds the entropy device without firmware's help: its BAR is placed, MSI-X works, and INTx without it.

The BARs are assigned by the kernel from the windows of the host bridge's _CRS.
"""
import os
import re
import tempfile
from guest import Timeout, finish, linux, make_initramfs, ok

SCRIPT = """
modprobe -a virtio_pci virtio_rng
echo "== devices"
for d in /sys/bus/pci/devices/*; do echo "$d $(cat $d/vendor) $(cat $d/device) $(head -n 1 $d/resource)"; done
echo "== modalias"
cat /sys/bus/virtio/devices/*/modalias
echo "== rng"
cat /sys/class/misc/hw_random/rng_current
for i in 1 2; do dd if=/dev/hwrng bs=4096 count=8 iflag=fullblock 2>/dev/null | gzip -9 | wc -c; done
for i in 1 2; do dd if=/dev/hwrng bs=32 count=1 iflag=fullblock 2>/dev/null | md5sum; done
echo "== again"
rmmod virtio_rng
modprobe virtio_rng
dd if=/dev/hwrng bs=512 count=1 iflag=fullblock 2>/dev/null | wc -c
echo "== interrupts"
cat /proc/interrupts
echo "== dmesg"
dmesg | grep -E "virtio|BAR [0-9]+.*(assigned|failed|no space)|nobody cared"
echo "== end"
"""


def part(text, name):
    m = re.search(rf"^== {name}\n(.*?)(?=^== )", text, re.S | re.M)
    return m.group(1) if m else ""


def check(name, initrd, append, msix):
    with linux(initrd=initrd, append="console=ttyS0 quiet " + append, memory="256M") as g:
        try:
            g.expect(r"== end\r?\n", 170)
        except Timeout as e:
            ok(f"{name}: the script ends", False, e)
            return
        text = g.text.replace("\r", "")
        devices = part(text, "devices")
        bar = re.search(r"00:01\.0 0x1af4 0x1044 0x([0-9a-f]+) 0x([0-9a-f]+) ", devices)
        ok(f"{name}: the device's BAR lies in the 32-bit window",
           bar and 0xc0000000 <= int(bar.group(1), 16) < int(bar.group(2), 16) <= 0xfebfffff, devices)
        ok(f"{name}: a virtio entropy device", part(text, "modalias").startswith("virtio:d00000004v00001AF4"), text[-1500:])
        rng = part(text, "rng").split("\n")
        ok(f"{name}: /dev/hwrng is it", rng[0].startswith("virtio_rng"), rng)
        ok(f"{name}: 32 KiB that do not compress", len(rng) > 4 and int(rng[1]) > 32700 and int(rng[2]) > 32700, rng)
        ok(f"{name}: other bytes each time", len(rng) > 4 and rng[3] != rng[4], rng)
        ok(f"{name}: driver unloaded and loaded", part(text, "again").strip() == "512", part(text, "again"))
        lines = part(text, "interrupts")
        pattern = r"^ *\d+: +(\d+) +PCI-MSI +\d+-edge +virtio0-input" if msix else r"^ *17: +(\d+) +IO-APIC +17-fasteoi +virtio0"
        count = re.search(pattern, lines, re.M)
        ok(f"{name}: interrupts are counted as {'MSI-X' if msix else 'INTx'}", count and int(count.group(1)) > 0, lines)
        ok(f"{name}: the kernel has no complaint", not re.search(r"failed|no space|nobody cared|rror", part(text, "dmesg")),
           part(text, "dmesg"))
        ok(f"{name}: power off", g.wait(30) == 0, g.errors())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        image = make_initramfs(os.path.join(folder, "initrd"), SCRIPT)
        check("MSI-X", image, "", True)
        check("INTx", image, "pci=nomsi", False)
    finish()
