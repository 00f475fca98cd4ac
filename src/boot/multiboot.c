/*
 * Multiboot 1 (the Multiboot Specification 0.6.96): a header in the first
 * 8 KiB; either its own addresses (flag 16, the "a.out kludge") or an ELF32
 * file say what to load where. Modules come from --initrd.
 *
 * Boot structures (b->info):
 *   0x000 information structure   0x080 GDT   0x0c0 loader name
 *   0x100 memory map (32 entries)   0x500 modules   0x700 strings
 */
#include <stdio.h>

#include "boot/image.h"

enum {
	HEADER_MAGIC = 0x1badb002,
	BOOT_MAGIC = 0x2badb002,
	HEADER_SEARCH = 8192,

	FLAG_MANDATORY_KNOWN = 0x7, /* page-aligned modules, memory information, video mode */
	FLAG_ADDRESSES = 1 << 16,

	INFO_MEMORY = 1 << 0,
	INFO_CMDLINE = 1 << 2,
	INFO_MODS = 1 << 3,
	INFO_MMAP = 1 << 6,
	INFO_LOADER = 1 << 9,

	AT_GDT = 0x080,
	AT_LOADER = 0x0c0,
	AT_MMAP = 0x100,
	AT_MODS = 0x500,
	AT_STRINGS = 0x700,
	MMAP_ENTRY = 24, /* its own size field (20) in front */
	MOD_ENTRY = 16,
};
_Static_assert(AT_MMAP + 32 * MMAP_ENTRY <= AT_MODS, "the memory map must not reach the modules");
_Static_assert(AT_MODS + BOOT_MAX_MODULES * MOD_ENTRY <= AT_STRINGS, "the modules must not reach the strings");

/* Offset of the header; -1 if there is none. */
static long header_find(const struct boot_blob *f)
{
	size_t end = MIN(f->len, HEADER_SEARCH);

	for (size_t i = 0; i + 12 <= end; i += 4) {
		const u8 *p = f->data + i;
		if (get32(p) == HEADER_MAGIC && get32(p) + get32(p + 4) + get32(p + 8) == 0)
			return (long)i;
	}
	return -1;
}

static bool multiboot_probe(const struct boot_blob *f)
{
	return header_find(f) >= 0;
}

static int multiboot_parse(struct boot_image *b, struct error *e)
{
	const struct boot_blob *f = &b->kernel;
	long at = header_find(f);
	struct elf elf;
	u32 flags;

	b->mb.header = (u32)at;
	flags = get32(f->data + at + 4);
	if (flags & 0xffff & ~FLAG_MANDATORY_KNOWN)
		return error_set(e, "multiboot kernel %s demands features this loader does not have (flags 0x%x)",
				 f->name, flags & 0xffff & ~FLAG_MANDATORY_KNOWN);
	if (strlen(b->cmdline) > 64 * KiB)
		return error_set(e, "the kernel command line (--append) has more than 64 KiB: shorten it");
	b->mb.exec_elf = !(flags & FLAG_ADDRESSES);
	if (!b->mb.exec_elf) {
		if (f->len < (size_t)at + 32)
			return error_set(e, "multiboot kernel %s is truncated (%zu bytes): get the file again", f->name,
					 f->len);
		b->entry = get32(f->data + at + 28);
	} else {
		if (!elf_is(f))
			return error_set(
			    e,
			    "multiboot kernel %s is neither an ELF file nor says where to load it: the file is damaged",
			    f->name);
		if (elf_open(&elf, f, e) < 0)
			return -1;
		if (elf.is64)
			return error_set(
			    e,
			    "multiboot kernel %s is a 64-bit ELF file: multiboot takes 32-bit ones (objcopy -O elf32-i386)",
			    f->name);
		b->entry = elf.entry;
	}
	snprintf(b->describe, sizeof(b->describe), "multiboot 1 %s, entry at 0x%llx",
		 b->mb.exec_elf ? "ELF32" : "image", (unsigned long long)b->entry);
	return 0;
}

/* Address fields of the header: specification, 3.1.3. */
static int plan_addresses(struct boot_image *b, gpa_t *end, struct error *e)
{
	const struct boot_blob *f = &b->kernel;
	const u8 *h = f->data + b->mb.header;
	u32 header_addr = get32(h + 12), load_addr = get32(h + 16), load_end = get32(h + 20), bss_end = get32(h + 24);
	u64 offset, len, size;

	if (header_addr < load_addr || header_addr - load_addr > b->mb.header)
		return error_set(
		    e, "multiboot kernel %s has a load address that does not match its header: the file is damaged",
		    f->name);
	offset = b->mb.header - (header_addr - load_addr);
	len = f->len - offset;
	if (load_end) {
		if (load_end < load_addr)
			return error_set(e, "multiboot kernel %s ends before it begins: the file is damaged", f->name);
		if (load_end - load_addr > len)
			return error_set(e, "multiboot kernel %s is truncated (%zu bytes): get the file again", f->name,
					 f->len);
		len = load_end - load_addr;
	}
	size = bss_end > load_addr + len ? bss_end - load_addr : len;
	*end = load_addr + size;
	return plan_fixed(b, load_addr, size, f->data + offset, len, "the kernel", e);
}

/* Modules go right above the kernel, where kernels that move past the end of
 * theirs expect them. */
static int plan_modules(struct boot_image *b, gpa_t end, struct error *e)
{
	for (unsigned i = 0; i < b->modules; i++) {
		struct boot_module *mod = &b->module[i];
		gpa_t min = MAX(end, MiB);
		if (plan_find(b, mod->file.len, PAGE_SIZE, (min + PAGE_SIZE - 1) & PAGE_MASK, plan_ram_top(b),
			      PLAN_LOWEST, &mod->gpa) < 0)
			return error_set(
			    e,
			    "module %s (%zu KiB) does not fit behind the kernel in %llu MiB: give the guest more memory (--memory)",
			    mod->file.name, mod->file.len / 1024, (unsigned long long)(b->memory / MiB));
		if (plan_fixed(b, mod->gpa, mod->file.len, mod->file.data, mod->file.len, "a module", e) < 0)
			return -1;
	}
	return 0;
}

static const char *module_args(const struct boot_module *mod)
{
	return mod->args ? mod->args : mod->file.name;
}

static int multiboot_plan(struct boot_image *b, struct error *e)
{
	u64 strings = strlen(b->cmdline) + 1;
	struct elf elf;
	gpa_t end;

	if (b->mb.exec_elf) {
		if (elf_open(&elf, &b->kernel, e) < 0 || elf_plan(&elf, b, &end, e) < 0)
			return -1;
	} else if (plan_addresses(b, &end, e) < 0) {
		return -1;
	}
	for (unsigned i = 0; i < b->modules; i++)
		strings += strlen(module_args(&b->module[i])) + 1;
	if (plan_info(b, AT_STRINGS + strings, e) < 0)
		return -1;
	return plan_modules(b, end, e);
}

static void place_mmap(u8 *info, const struct boot_layout *l)
{
	for (unsigned i = 0; i < l->e820_count; i++) {
		const struct e820_entry *r = &l->e820[i];
		u8 *p = info + AT_MMAP + i * MMAP_ENTRY;
		put32(p, MMAP_ENTRY - 4);
		put64(p + 4, r->addr);
		put64(p + 12, r->len);
		put32(p + 20, r->type);
		if (r->type == E820_RAM && r->addr == 0)
			put32(info + 4, (u32)(r->len / KiB)); /* mem_lower */
		if (r->type == E820_RAM && r->addr == MiB)
			put32(info + 8, (u32)(r->len / KiB)); /* mem_upper: the first hole ends it */
	}
}

static void multiboot_place(const struct boot_image *b, struct memory *m, const struct boot_layout *l, struct cpu *c)
{
	u8 info[AT_STRINGS] = { 0 };
	gpa_t string = b->info + AT_STRINGS + strlen(b->cmdline) + 1;

	put32(info, INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER);
	put32(info + 16, (u32)b->info + AT_STRINGS);
	put32(info + 20, b->modules);
	put32(info + 24, (u32)b->info + AT_MODS);
	put32(info + 44, l->e820_count * MMAP_ENTRY);
	put32(info + 48, (u32)b->info + AT_MMAP);
	put32(info + 64, (u32)b->info + AT_LOADER);
	memcpy(info + AT_LOADER, "ectype", 7);
	place_mmap(info, l);
	for (unsigned i = 0; i < b->modules; i++) {
		const struct boot_module *mod = &b->module[i];
		u8 *p = info + AT_MODS + i * MOD_ENTRY;
		put32(p, (u32)mod->gpa);
		put32(p + 4, (u32)(mod->gpa + mod->file.len));
		put32(p + 8, (u32)string);
		memory_write(m, string, module_args(mod), strlen(module_args(mod)) + 1);
		string += strlen(module_args(mod)) + 1;
	}
	memory_write(m, b->info, info, sizeof(info));
	memory_write(m, b->info + AT_STRINGS, b->cmdline, strlen(b->cmdline) + 1);

	place_protected(c, m, b->info + AT_GDT, 0x08, 0x10);
	c->gpr[REG_RAX] = BOOT_MAGIC;
	c->gpr[REG_RBX] = b->info;
	c->rip = b->entry;
}

const struct boot_protocol boot_multiboot = {
	.probe = multiboot_probe,
	.parse = multiboot_parse,
	.plan = multiboot_plan,
	.place = multiboot_place,
};
