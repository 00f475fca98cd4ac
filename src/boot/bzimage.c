/*
 * Linux/x86 boot protocol 2.06 and later (Documentation/arch/x86/boot.rst in
 * Linux): the 64-bit entry where the kernel has one (XLF_KERNEL_64), else the
 * 32-bit entry. The kernel's real-mode part never runs; its setup header is
 * copied into the zero page.
 *
 * Boot structures (b->info):
 *   0x0000 zero page   0x1000 GDT   0x2000 page tables   0x8000 command line
 */
#include <stdio.h>

#include "boot/image.h"

enum {
	/* in the file and, for the header, at the same offsets in the zero page */
	HDR_SETUP_SECTS = 0x1f1,
	HDR_SYSSIZE = 0x1f4,
	HDR_JUMP = 0x201, /* 0x202 plus this is the header's end */
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_KERNEL_VERSION = 0x20e,
	HDR_TYPE_OF_LOADER = 0x210,
	HDR_LOADFLAGS = 0x211,
	HDR_CODE32_START = 0x214,
	HDR_RAMDISK_IMAGE = 0x218,
	HDR_RAMDISK_SIZE = 0x21c,
	HDR_CMD_LINE_PTR = 0x228,
	HDR_INITRD_ADDR_MAX = 0x22c,
	HDR_KERNEL_ALIGNMENT = 0x230,
	HDR_RELOCATABLE = 0x234,
	HDR_XLOADFLAGS = 0x236,
	HDR_CMDLINE_SIZE = 0x238,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_MAX_END = 0x290,
	/* zero page only */
	ZP_EXT_MEM_K = 0x002,
	ZP_RSDP = 0x070,
	ZP_ALT_MEM_K = 0x1e0,
	ZP_E820_ENTRIES = 0x1e8,
	ZP_E820_TABLE = 0x2d0,
	ZP_E820_ENTRY = 20,

	LOADED_HIGH = 1 << 0,
	XLF_KERNEL_64 = 1 << 0,
	LOADER_UNDEFINED = 0xff, /* no assigned loader id */

	INFO_GDT = 0x1000,
	INFO_TABLES = 0x2000,
	INFO_CMDLINE = 0x8000,

	BOOT_CS = 0x10, /* selectors the protocol demands */
	BOOT_DS = 0x18,
};

static bool bzimage_probe(const struct boot_blob *f)
{
	/* "HdrS" */
	return f->len >= HDR_MAGIC + 4 && get32(f->data + HDR_MAGIC) == 0x53726448;
}

static int bzimage_parse_size(struct boot_image *b, struct error *e)
{
	const struct boot_blob *f = &b->kernel;
	unsigned sects = f->data[HDR_SETUP_SECTS];
	u64 code;

	b->bz.setup_len = ((sects ? sects : 4) + 1) * 512;
	code = (u64)get32(f->data + HDR_SYSSIZE) * 16;
	/* syssize counts 16-byte units, rounded up */
	if (!code || b->bz.setup_len >= f->len || f->len - b->bz.setup_len + 15 < code)
		return error_set(
		    e, "kernel %s is truncated: it has %zu bytes and its header promises %llu: get the file again",
		    f->name, f->len, (unsigned long long)(b->bz.setup_len + code));
	b->bz.code_len = (u32)MIN(code, f->len - b->bz.setup_len);
	return 0;
}

static void bzimage_describe(struct boot_image *b)
{
	const struct boot_blob *f = &b->kernel;
	size_t off = get16(f->data + HDR_KERNEL_VERSION) + 0x200u;
	char version[80];
	size_t n = 0;

	/* "6.1.0-13-cloud-amd64 (builder@host) #1 ...": the first word, if it is text */
	while (off > 0x200 && off + n < b->bz.setup_len && n < sizeof(version) - 1 && f->data[off + n] > ' ' &&
	       f->data[off + n] < 0x7f) {
		version[n] = (char)f->data[off + n];
		n++;
	}
	version[n] = 0;
	snprintf(b->describe, sizeof(b->describe), "Linux%s%s, bzImage, %s entry", n ? " " : "", version,
		 b->bz.entry64 ? "64-bit" : "32-bit");
}

static int bzimage_parse(struct boot_image *b, struct error *e)
{
	const struct boot_blob *f = &b->kernel;
	size_t cmdline = strlen(b->cmdline);

	if (f->len < HDR_MAX_END)
		return error_set(e, "kernel %s is truncated (%zu bytes): get the file again", f->name, f->len);
	b->bz.version = get16(f->data + HDR_VERSION);
	if (b->bz.version < 0x206)
		return error_set(e, "kernel %s speaks boot protocol %u.%02u, too old: use Linux 2.6.22 or later (2.06)",
				 f->name, b->bz.version >> 8, b->bz.version & 0xff);
	if (!(f->data[HDR_LOADFLAGS] & LOADED_HIGH))
		return error_set(e, "kernel %s is a zImage: build a bzImage", f->name);
	if (bzimage_parse_size(b, e) < 0)
		return -1;
	b->bz.entry64 = b->bz.version >= 0x20c && (get16(f->data + HDR_XLOADFLAGS) & XLF_KERNEL_64);
	b->bz.initrd_max = get32(f->data + HDR_INITRD_ADDR_MAX);
	b->bz.cmdline_max = get32(f->data + HDR_CMDLINE_SIZE);
	if (b->bz.entry64 && b->bz.code_len <= 0x200)
		return error_set(e, "kernel %s has a 64-bit entry behind its end: the file is damaged", f->name);
	if (cmdline > b->bz.cmdline_max || cmdline > 64 * KiB)
		return error_set(
		    e, "the kernel command line (--append) has %zu bytes, kernel %s takes at most %u: shorten it",
		    cmdline, f->name, b->bz.cmdline_max);
	bzimage_describe(b);
	return 0;
}

/* Where the protected-mode part goes. The decompressor works in init_size
 * bytes from there (or, loaded lower, from pref_address). */
static int bzimage_plan_kernel(struct boot_image *b, struct error *e)
{
	const u8 *h = b->kernel.data;
	bool v210 = b->bz.version >= 0x20a, relocatable = h[HDR_RELOCATABLE];
	gpa_t at = v210 ? get64(h + HDR_PREF_ADDRESS) : get32(h + HDR_CODE32_START);
	u64 align = get32(h + HDR_KERNEL_ALIGNMENT);
	u64 size = MAX(v210 ? get32(h + HDR_INIT_SIZE) : 0, b->bz.code_len);
	gpa_t low;

	if (relocatable && align && !(align & (align - 1)) && at + size > plan_ram_top(b) &&
	    plan_find(b, size, align, MiB, plan_ram_top(b), PLAN_LOWEST, &low) == 0)
		at = low;
	if (at < MiB)
		return error_set(e, "kernel %s wants to be at 0x%llx, below 1 MiB: the file is damaged", b->kernel.name,
				 (unsigned long long)at);
	b->entry = at;
	/* no need to clear what follows: the decompressor does */
	if (plan_fixed(b, at, b->bz.code_len, h + b->bz.setup_len, b->bz.code_len, "the kernel", e) < 0)
		return -1;
	return plan_fixed(b, at + b->bz.code_len, size - b->bz.code_len, NULL, 0, "the kernel", e);
}

static int bzimage_plan(struct boot_image *b, struct error *e)
{
	struct boot_module *rd = &b->module[0];
	gpa_t max = MIN(plan_ram_top(b), b->bz.initrd_max + 1);

	if (bzimage_plan_kernel(b, e) < 0)
		return -1;
	if (plan_info(b, INFO_CMDLINE + strlen(b->cmdline) + 1, e) < 0)
		return -1;
	if (!b->modules)
		return 0;
	if (plan_find(b, rd->file.len, PAGE_SIZE, MiB, max, PLAN_HIGHEST, &rd->gpa) < 0)
		return error_set(
		    e,
		    "initrd %s (%zu KiB) does not fit beside the kernel in %llu MiB: give the guest more memory (--memory)",
		    rd->file.name, rd->file.len / 1024, (unsigned long long)(b->memory / MiB));
	return plan_fixed(b, rd->gpa, rd->file.len, rd->file.data, rd->file.len, "the initrd", e);
}

static void zero_page_memory(u8 *zp, const struct boot_layout *l)
{
	u64 ext = 0;

	for (unsigned i = 0; i < l->e820_count; i++) {
		const struct e820_entry *r = &l->e820[i];
		u8 *p = zp + ZP_E820_TABLE + i * ZP_E820_ENTRY;
		put64(p, r->addr);
		put64(p + 8, r->len);
		put32(p + 16, r->type);
		if (r->type == E820_RAM && r->addr == MiB)
			ext = r->len / KiB;
	}
	zp[ZP_E820_ENTRIES] = (u8)l->e820_count;
	put16(zp + ZP_EXT_MEM_K, (u16)MIN(ext, 0xfc00)); /* as INT 15H AH=88H: 63 MiB at most */
	put32(zp + ZP_ALT_MEM_K, (u32)ext);
}

static void bzimage_place(const struct boot_image *b, struct memory *m, const struct boot_layout *l, struct cpu *c)
{
	u8 zp[PAGE_SIZE] = { 0 };
	const u8 *h = b->kernel.data;
	unsigned end = MIN(HDR_MAGIC + h[HDR_JUMP], HDR_MAX_END);

	memcpy(zp + HDR_SETUP_SECTS, h + HDR_SETUP_SECTS, end - HDR_SETUP_SECTS);
	zp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
	put32(zp + HDR_CODE32_START, (u32)b->entry);
	put32(zp + HDR_CMD_LINE_PTR, (u32)b->info + INFO_CMDLINE);
	put32(zp + HDR_RAMDISK_IMAGE, b->modules ? (u32)b->module[0].gpa : 0);
	put32(zp + HDR_RAMDISK_SIZE, b->modules ? (u32)b->module[0].file.len : 0);
	put64(zp + ZP_RSDP, l->acpi_rsdp);
	zero_page_memory(zp, l);
	memory_write(m, b->info, zp, sizeof(zp));
	memory_write(m, b->info + INFO_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);

	if (b->bz.entry64) {
		place_long(c, m, b->info + INFO_GDT, BOOT_CS, BOOT_DS, b->info + INFO_TABLES);
		c->rip = b->entry + 0x200;
	} else {
		place_protected(c, m, b->info + INFO_GDT, BOOT_CS, BOOT_DS);
		c->rip = b->entry;
	}
	c->gpr[REG_RSI] = b->info;
}

const struct boot_protocol boot_bzimage = {
	.probe = bzimage_probe,
	.parse = bzimage_parse,
	.plan = bzimage_plan,
	.place = bzimage_place,
};
