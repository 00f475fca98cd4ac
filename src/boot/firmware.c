/*
 * Firmware: a ROM image that ends at 4 GiB, so that the reset vector
 * FFFFFFF0H is in its last 16 bytes; its tail is also visible below 1 MiB,
 * where legacy firmware runs before it shadows itself.
 */
#include <stdio.h>
#include <unistd.h>

#include "boot/image.h"

#define ROM_MIN (64 * KiB)
#define ROM_MAX (16 * MiB)
#define ROM_ALIAS (128 * KiB)

static const struct known {
	const char *name, *package;
	const char *path[3];
} known[] = {
	{ "seabios", "seabios", { "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/bios.bin" } },
	{ "ovmf", "ovmf", { "/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd" } },
};

/* The file behind a well-known name, `name` itself if it is none, NULL with *e. */
static const char *firmware_path(const char *name, struct error *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		if (strcmp(name, known[i].name))
			continue;
		for (unsigned j = 0; j < ARRAY_SIZE(known[i].path) && known[i].path[j]; j++) {
			if (access(known[i].path[j], R_OK) == 0)
				return known[i].path[j];
		}
		error_set(e, "firmware %s is not installed (no %s): apt-get install %s, or give a file", name,
			  known[i].path[0], known[i].package);
		return NULL;
	}
	return name;
}

int firmware_check(struct boot_image *b, struct error *e)
{
	const struct boot_blob *f = &b->kernel;
	const u8 *vector;
	bool blank = true;

	if (f->len < ROM_MIN || f->len > ROM_MAX || f->len % PAGE_SIZE)
		return error_set(e, "firmware %s has %zu bytes: a ROM image has 64 KiB to 16 MiB, a multiple of 4 KiB",
				 f->name, f->len);
	vector = f->data + f->len - 16;
	for (unsigned i = 1; i < 16; i++)
		blank = blank && vector[i] == vector[0];
	if (blank && (vector[0] == 0 || vector[0] == 0xff))
		return error_set(
		    e,
		    "firmware %s has no code at its reset vector (its last 16 bytes): it is not a ROM image, or truncated",
		    f->name);
	snprintf(b->describe, sizeof(b->describe), "firmware %.100s, %zu KiB", f->name, f->len / 1024);
	return 0;
}

int firmware_load(struct boot_image *b, const char *name, struct error *e)
{
	const char *path = firmware_path(name, e);

	if (!path)
		return -1;
	b->kind = BOOT_FIRMWARE;
	if (blob_read(&b->kernel, path, "firmware", ROM_MAX, "a ROM may have", e) < 0)
		return -1;
	return firmware_check(b, e);
}

int boot_map_firmware(struct boot_image *b, struct memory *m, int prio, struct error *e)
{
	u64 len = b->kernel.len, alias = MIN(len, ROM_ALIAS);

	if (b->kind != BOOT_FIRMWARE)
		return 0;
	if (!memory_map_host(m, 4 * GiB - len, b->kernel.data, len, REGION_ROM, prio, "firmware") ||
	    !memory_map_host(m, MiB - alias, b->kernel.data + len - alias, alias, REGION_ROM, prio, "firmware-low"))
		return error_set(e, "cannot map firmware %s into the guest: not enough host memory", b->kernel.name);
	return 0;
}
