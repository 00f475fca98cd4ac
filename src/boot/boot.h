/*
 * Boot protocols: put a guest into memory and the first processor at its
 * entry. Files are read and checked before the machine is built
 * (boot_load), and placed into guest memory at every reset (boot_place).
 */
#ifndef ECTYPE_BOOT_BOOT_H
#define ECTYPE_BOOT_BOOT_H

#include "base/error.h"
#include "cpu/vcpu.h"
#include "mem/physmem.h"

struct boot_image;

struct boot_request {
	const char *kernel, *initrd, *append; /* kernel set: bzImage, PVH ELF or multiboot 1, by content */
	const char *firmware;                 /* or a ROM image; "seabios" names Debian's */
	u64 memory;                           /* RAM size the guest will have */
};

/* Reads and validates every file; nothing else is touched. NULL with *e. */
struct boot_image *boot_load(const struct boot_request *r, struct error *e);
void boot_free(struct boot_image *b);

/* Guest-physical layout, filled by the board (see machine/layout.h). */
struct e820_entry {
	u64 addr, len;
	u32 type; /* 1 RAM, 2 reserved, 3 ACPI reclaimable, 4 ACPI NVS */
};
struct boot_layout {
	struct e820_entry e820[32];
	unsigned e820_count;
	gpa_t acpi_rsdp; /* 0: none */
};

/* Maps a firmware image (top of 4 GiB and its last 128 KiB below 1 MiB, subject
 * to `low_prio`); call once at construction. 0 for images that are no firmware. */
int boot_map_firmware(struct boot_image *b, struct memory *m, int prio, struct error *e);
bool boot_is_firmware(const struct boot_image *b);
/* For fw_cfg: kernel, setup, initrd, command line as QEMU hands them to firmware. */

/* Copies kernel, initrd, command line and boot structures into RAM and sets
 * the processor's registers for the entry (after cpu_reset()). For firmware:
 * leaves the processor at the reset vector. */
void boot_place(struct boot_image *b, struct memory *m, const struct boot_layout *l, struct vcpu *v);

/* One line: "Linux 6.1.0-13-cloud-amd64, bzImage, 64-bit entry". */
const char *boot_describe(const struct boot_image *b);

#endif
