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
	const char *vars[3]; /* of the same index: the initial content of the flash below; NULL: none */
} known[] = {
	{ "seabios", "seabios", { "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/bios.bin" }, { NULL } },
	{ "ovmf",
	  "ovmf",
	  { "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/ovmf/OVMF.fd" },
	  { "/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS.fd" } },
};

/* The file behind a well-known name, `name` itself if it is none, NULL with *e. *vars: that of the variables. */
static const char *firmware_path(const char *name, const char **vars, struct error *e)
{
	*vars = NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
		const struct known *k = &known[i];

		if (strcmp(name, k->name))
			continue;
		for (unsigned j = 0; j < ARRAY_SIZE(k->path) && k->path[j]; j++) {
			if (access(k->path[j], R_OK) || (k->vars[j] && access(k->vars[j], R_OK)))
				continue;
			*vars = k->vars[j];
			return k->path[j];
		}
		error_set(e, "firmware %s is not installed (no %s): apt-get install %s, or give a file", name,
			  k->path[0], k->package);
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

/* The flash of the variables: the template of a known firmware, or the file given. */
static int load_vars(struct boot_image *b, const char *template, const char *given, struct error *e)
{
	const char *path = template ? template : given;
	u64 max = ROM_MAX - b->kernel.len;

	if (!path)
		return 0;
	if (blob_read(&b->vars, path, "firmware variables", max, "code and variables may have together", e) < 0)
		return -1;
	if (b->vars.len % PAGE_SIZE)
		return error_set(e, "firmware variables %s have %zu bytes, not a multiple of 4 KiB", path, b->vars.len);
	return 0;
}

int firmware_load(struct boot_image *b, const char *name, const char *vars, struct error *e)
{
	const char *template, *path = firmware_path(name, &template, e);

	if (!path)
		return -1;
	if (vars && !template && path != name)
		return error_set(e, "firmware %s keeps no variables: leave --firmware-vars out", name);
	b->kind = BOOT_FIRMWARE;
	if (blob_read(&b->kernel, path, "firmware", ROM_MAX, "a ROM may have", e) < 0)
		return -1;
	if (firmware_check(b, e) < 0)
		return -1;
	return load_vars(b, template, vars, e);
}

const u8 *boot_firmware_vars(const struct boot_image *b, gpa_t *base, u64 *len)
{
	*len = b->vars.len;
	*base = 4 * GiB - b->kernel.len - b->vars.len;
	return b->kind == BOOT_FIRMWARE ? b->vars.data : NULL;
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
