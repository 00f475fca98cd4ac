/* SMBIOS structures (DMTF DSP0134 version 2.8): formatted area, then strings. */
#include <stdio.h>
#include <stdlib.h>

#include "boot/aml.h" /* its byte buffer */
#include "boot/image.h"
#include "boot/smbios.h"

enum { HANDLE_CHASSIS = 0x300, HANDLE_CPU = 0x400, HANDLE_ARRAY = 0x1000, HANDLE_DIMM = 0x1100, HANDLE_MAP = 0x1300 };

struct tables {
	struct aml out;
	unsigned count;
	size_t largest;
};

/* Appends the structure `s` of `len` bytes; the strings are numbered from 1,
 * NULL ends them. */
static void add(struct tables *t, u8 *s, u8 type, u8 len, u16 handle, const char *const *strings)
{
	size_t start = t->out.len;

	s[0] = type;
	s[1] = len;
	put16(s + 2, handle);
	aml_bytes(&t->out, s, len);
	if (!strings || !*strings)
		aml_u8(&t->out, 0);
	for (; strings && *strings; strings++)
		aml_bytes(&t->out, *strings, strlen(*strings) + 1);
	aml_u8(&t->out, 0);
	t->count++;
	t->largest = MAX(t->largest, t->out.len - start);
}

static void add_system(struct tables *t, const struct smbios_config *c)
{
	const char *const bios[] = { "Ectype", ECTYPE_VERSION, "01/01/2026", NULL };
	const char *const system[] = { "Ectype", "Virtual Machine", ECTYPE_VERSION, NULL };
	const char *const chassis[] = { "Ectype", NULL };
	u8 s0[0x18] = { [4] = 1, [5] = 2, [8] = 3 };
	u8 s1[0x1b] = { [4] = 1, [5] = 2, [6] = 3, [24] = 6 };			   /* woken by the power switch */
	u8 s3[0x16] = { [4] = 1, [5] = 1, [9] = 3, [10] = 3, [11] = 3, [12] = 2 }; /* other; states safe */

	put64(s0 + 10, BIT(3)); /* characteristics not supported */
	s0[19] = BIT(4);	/* a virtual machine */
	s0[20] = s0[21] = 0;
	s0[22] = s0[23] = 0xff; /* no embedded controller */
	memcpy(s1 + 8, c->uuid, 16);
	add(t, s0, 0, sizeof(s0), 0, bios);
	add(t, s1, 1, sizeof(s1), 0x100, system);
	add(t, s3, 3, sizeof(s3), HANDLE_CHASSIS, chassis);
}

static void add_cpus(struct tables *t, const struct smbios_config *c)
{
	char socket[16];
	const char *const strings[] = { socket, "Ectype", NULL };

	for (unsigned i = 0; i < c->cpus; i++) {
		/* central processor of unknown family; enabled, socket populated */
		u8 s[0x2a] = { [4] = 1, [5] = 3, [6] = 2, [7] = 2, [16] = 2, [24] = 0x41, [25] = 2 };

		snprintf(socket, sizeof(socket), "CPU %u", i);
		put16(s + 26, 0xffff); /* no cache information */
		put16(s + 28, 0xffff);
		put16(s + 30, 0xffff);
		s[35] = s[36] = s[37] = 1; /* cores, enabled, threads */
		put16(s + 38, BIT(2));	   /* 64-bit capable */
		put16(s + 40, 2);
		add(t, s, 4, sizeof(s), (u16)(HANDLE_CPU + i), strings);
	}
}

static void add_range(struct tables *t, u64 start, u64 len, u16 handle)
{
	u8 s[0x1f] = { [14] = 1 };
	u64 end = start + len;

	if (!len)
		return;
	if (end / KiB <= UINT32_MAX) {
		put32(s + 4, (u32)(start / KiB));
		put32(s + 8, (u32)(end / KiB - 1));
	} else {
		put32(s + 4, UINT32_MAX); /* see the extended fields */
		put32(s + 8, UINT32_MAX);
		put64(s + 15, start);
		put64(s + 23, end - 1);
	}
	put16(s + 12, HANDLE_ARRAY);
	add(t, s, 19, sizeof(s), handle, NULL);
}

static void add_memory(struct tables *t, const struct smbios_config *c)
{
	const char *const dimm[] = { "DIMM 0", "Ectype", NULL };
	u8 array[0x17] = { [4] = 1, [5] = 3, [6] = 3 }; /* other location, system memory, no ECC */
	u8 s[0x28] = { [14] = 9, [16] = 1, [18] = 7, [23] = 2 };
	u64 mib = c->ram / MiB, low = boot_low_ram(c->ram);

	if (c->ram / KiB < 0x80000000) {
		put32(array + 7, (u32)(c->ram / KiB));
	} else {
		put32(array + 7, 0x80000000); /* see the extended field */
		put64(array + 15, c->ram);
	}
	put16(array + 11, 0xfffe); /* no error information */
	put16(array + 13, 1);
	add(t, array, 16, sizeof(array), HANDLE_ARRAY, NULL);

	put16(s + 4, HANDLE_ARRAY);
	put16(s + 6, 0xfffe);
	put16(s + 8, 0xffff); /* widths unknown */
	put16(s + 10, 0xffff);
	put16(s + 12, (u16)(mib < 0x7fff ? mib : 0x7fff));
	put16(s + 19, BIT(1)); /* type detail: other */
	put32(s + 28, mib < 0x7fff ? 0 : (u32)mib);
	add(t, s, 17, sizeof(s), HANDLE_DIMM, dimm);
	add_range(t, 0, low, HANDLE_MAP);
	add_range(t, 4 * GiB, c->ram - low, HANDLE_MAP + 1);
}

static u8 sum8(const u8 *p, size_t n)
{
	u8 sum = 0;

	while (n--)
		sum += *p++;
	return sum;
}

/* Entry point structure, 5.2.1. */
static void anchor(struct smbios_blobs *out, const struct tables *t)
{
	u8 *a = out->anchor;

	memcpy(a, "_SM_", 4);
	a[5] = SMBIOS_ANCHOR_SIZE;
	a[6] = 2;
	a[7] = 8;
	put16(a + 8, (u16)t->largest);
	memcpy(a + 16, "_DMI_", 5);
	put16(a + 22, (u16)out->tables_len);
	put32(a + 24, SMBIOS_TABLES_GPA);
	put16(a + 28, (u16)t->count);
	a[30] = 0x28;
	a[21] = (u8)-sum8(a + 16, 15);
	a[4] = (u8)-sum8(a, SMBIOS_ANCHOR_SIZE);
}

int smbios_build(struct smbios_blobs *out, const struct smbios_config *c, struct error *e)
{
	struct tables t = { 0 };
	u8 boot[0x0b] = { 0 }, end[4] = { 0 };

	*out = (struct smbios_blobs){ 0 };
	add_system(&t, c);
	add_cpus(&t, c);
	add_memory(&t, c);
	add(&t, boot, 32, sizeof(boot), 0x2000, NULL);
	add(&t, end, 127, sizeof(end), 0x7f00, NULL);
	if (t.out.failed || SMBIOS_TABLES_GPA + t.out.len > MiB) {
		aml_free(&t.out);
		return error_set(e, "not enough memory for the SMBIOS tables");
	}
	out->tables = t.out.data;
	out->tables_len = t.out.len;
	anchor(out, &t);
	return 0;
}

void smbios_blobs_free(struct smbios_blobs *b)
{
	free(b->tables);
	*b = (struct smbios_blobs){ 0 };
}

void smbios_place(const struct smbios_blobs *b, struct memory *m)
{
	memory_write(m, SMBIOS_ANCHOR_GPA, b->anchor, sizeof(b->anchor));
	memory_write(m, SMBIOS_TABLES_GPA, b->tables, b->tables_len);
}
