/*
 * Boot protocols: put a guest into memory and the first processor at its
 * entry. Files are read and checked before the machine is built
 * (boot_load), and placed into guest memory at every reset (boot_place).
 */
#ifndef ECTYPE_BOOT_BOOT_H
#define ECTYPE_BOOT_BOOT_H

#include "base/error.h"
#include "cpu/vcpu.h"
#include "state/codec.h"
#include "mem/physmem.h"

struct boot_image;

/* What a snapshot knows of a machine's files: the kernel or firmware, then modules. */
#define BOOT_FILES_MAX 33
struct boot_known {
	unsigned count;
	struct boot_known_file {
		u64 len, written /* ns since 1970 */, hash;
	} file[BOOT_FILES_MAX];
};

struct boot_request {
	const char *kernel, *initrd, *append; /* kernel set: bzImage, PVH ELF or multiboot 1, by content */
	const char *firmware;		      /* or a ROM image; "seabios" and "ovmf" name Debian's */
	const char *firmware_vars;	      /* where it keeps its variables; NULL: nowhere */
	u64 memory;			      /* RAM size the guest will have */
	/* The files must be these, or NULL. A kernel and modules that seem to be, by length and time, are not read
	 * before boot_fetch(), which then looks at their content. Valid during boot_load(). */
	const struct boot_known *known;
};

/* Reads and validates every file; nothing else is touched. NULL with *e.
 * For a multiboot kernel `initrd` is "FILE ARGS,FILE ARGS" (",," is a comma). */
struct boot_image *boot_load(const struct boot_request *r, struct error *e);
/* The same for bytes already in memory, which are copied. `initrd` (may be
 * NULL) becomes the initial RAM disk or the only module. */
struct boot_image *boot_load_bytes(const void *kernel, size_t kernel_len, const void *initrd, size_t initrd_len,
				   const char *append, u64 memory, struct error *e);
struct boot_image *boot_load_firmware_bytes(const void *rom, size_t len, struct error *e);
void boot_free(struct boot_image *b);

/*
 * Guest-physical layout, that of a q35 board: RAM from 0 up to the PCI hole,
 * the rest from 4 GiB. The last BOOT_ACPI_SIZE bytes of low RAM hold the ACPI
 * tables of a direct boot, the F segment their root pointer and SMBIOS.
 */
#define BOOT_LOW_RAM_MAX 0xb0000000ull	 /* more RAM than fits below here ... */
#define BOOT_LOW_RAM_SPLIT 0x80000000ull /* ... is split at 2 GiB */
#define BOOT_ECAM_BASE 0xb0000000ull
#define BOOT_ECAM_SIZE 0x10000000ull
#define BOOT_EBDA 0x9fc00ull
#define BOOT_BIOS_AREA 0xf0000ull
#define BOOT_ACPI_SIZE (64 * KiB)

struct e820_entry {
	u64 addr, len;
	u32 type; /* enum e820_type */
};
enum e820_type { E820_RAM = 1, E820_RESERVED, E820_ACPI, E820_NVS };
struct boot_layout {
	struct e820_entry e820[32];
	unsigned e820_count;
	gpa_t acpi_rsdp; /* 0: none */
};

/* Bytes of `ram` that lie below 4 GiB; the others start at 4 GiB. */
u64 boot_low_ram(u64 ram);
/* Where a PC has its serial ports, COM1 to COM4. */
#define BOOT_COMS 4
static const struct {
	u16 port;
	u8 irq;
} boot_com[BOOT_COMS] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };
/* Where the ACPI tables of a direct boot go: the top of low RAM. */
gpa_t boot_acpi_area(u64 ram);
/* The memory map of a machine with `ram` bytes (at least 2 MiB); acpi_rsdp stays as it is.
 * boot_load() relies on RAM being where this map says. */
void boot_default_e820(struct boot_layout *l, u64 ram);

/*
 * Maps a firmware image read-only at the top of 4 GiB, and its last 128 KiB
 * (or all of a smaller one) so that it ends at 1 MiB, both with priority
 * `prio`: RAM below must have a lower one, PAM windows a higher one. Call once
 * at construction; the image must outlive `m`. 0 also for images that are no
 * firmware.
 */
int boot_map_firmware(struct boot_image *b, struct memory *m, int prio, struct error *e);
/*
 * What the flash with the firmware's variables holds when it is new, and where
 * it is: right below the firmware. NULL: there is none. For a firmware that is
 * given as a file it is the content of request.firmware_vars.
 */
const u8 *boot_firmware_vars(const struct boot_image *b, gpa_t *base, u64 *len);
bool boot_is_firmware(const struct boot_image *b);

/*
 * Copies kernel, initrd, command line and boot structures into RAM and sets
 * the processor's registers for the entry (after cpu_reset()); also what
 * firmware would have left behind: the MTRRs (of all processors of its group), the BIOS data area, interrupt
 * vectors that refuse every BIOS call. The F segment must be RAM then. For
 * firmware: leaves the processor at the reset vector. The caller tells the
 * MMU and the engine that the processor's mode changed.
 */
void boot_place(struct boot_image *b, struct memory *m, const struct boot_layout *l, struct vcpu *v);

/*
 * Files are dropped from memory once they are placed: boot_drop() after
 * boot_place(), boot_fetch() before the next one. -1 with *e if a file cannot be
 * read again or has changed. Nothing for firmware, which the guest reads.
 */
void boot_drop(struct boot_image *b);
int boot_fetch(struct boot_image *b, struct error *e);

/* Section "boot", version 1: what boot_request.known is to be. */
void boot_save(const struct boot_image *b, struct encoder *e);
int boot_known_read(struct boot_known *k, struct decoder *in); /* -1: not sound */

/* One line: "Linux 6.1.0-13-cloud-amd64, bzImage, 64-bit entry". */
const char *boot_describe(const struct boot_image *b);

#endif
