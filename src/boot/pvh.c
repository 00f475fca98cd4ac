/*
 * The PVH boot protocol (Xen's docs/misc/pvh.pandoc, hvm_start_info): an ELF
 * file whose note XEN_ELFNOTE_PHYS32_ENTRY gives a 32-bit physical entry.
 * Uncompressed Linux kernels (vmlinux) have one.
 *
 * Boot structures (b->info):
 *   0x000 hvm_start_info   0x040 one module   0x080 GDT
 *   0x100 memory map (32 entries)   0x400 command line
 */
#include <elf.h>
#include <stdio.h>

#include "boot/image.h"

enum {
	START_INFO_MAGIC = 0x336ec578,
	NOTE_PHYS32_ENTRY = 18,
	INFO_MODULE = 0x040,
	INFO_GDT = 0x080,
	INFO_MEMMAP = 0x100,
	INFO_CMDLINE = 0x400,
	MEMMAP_ENTRY = 24,
};
_Static_assert(INFO_MEMMAP + 32 * MEMMAP_ENTRY <= INFO_CMDLINE, "the memory map must not reach the command line");

static u64 align4(u64 n)
{
	return (n + 3) & ~3ull;
}

/* Looks through one note segment; true with *entry. */
static bool pvh_find_note(const u8 *p, u64 len, u64 *entry)
{
	while (len >= 12) {
		u64 name = get32(p), desc = get32(p + 4), size;
		u32 type = get32(p + 8);

		size = 12 + align4(name) + align4(desc);
		if (12 + align4(name) + desc > len)
			return false;
		if (type == NOTE_PHYS32_ENTRY && name == 4 && !memcmp(p + 12, "Xen", 4) && (desc == 4 || desc == 8)) {
			*entry = desc == 8 ? get64(p + 16) : get32(p + 16);
			return true;
		}
		if (size > len)
			return false;
		p += size;
		len -= size;
	}
	return false;
}

static bool pvh_probe(const struct boot_blob *f)
{
	return elf_is(f); /* an ELF file without the note is refused with its own message */
}

static int pvh_parse(struct boot_image *b, struct error *e)
{
	struct elf elf;
	struct elf_segment s;
	bool found = false;

	if (elf_open(&elf, &b->kernel, e) < 0)
		return -1;
	for (unsigned i = 0; i < elf.phnum && !found; i++) {
		if (elf_segment(&elf, i, &s, e) < 0)
			return -1;
		if (s.type == PT_NOTE)
			found = pvh_find_note(b->kernel.data + s.offset, s.filesz, &b->entry);
	}
	if (!found)
		return error_set(
		    e, "ELF file %s has neither a PVH entry note nor a multiboot 1 header: it is not a bootable kernel",
		    b->kernel.name);
	if (b->entry > UINT32_MAX)
		return error_set(e, "kernel %s has its PVH entry at 0x%llx, above 4 GiB: the file is damaged",
				 b->kernel.name, (unsigned long long)b->entry);
	if (strlen(b->cmdline) > 64 * KiB)
		return error_set(e, "the kernel command line (--append) has more than 64 KiB: shorten it");
	snprintf(b->describe, sizeof(b->describe), "ELF%s, PVH entry at 0x%llx", elf.is64 ? "64" : "32",
		 (unsigned long long)b->entry);
	return 0;
}

static int pvh_plan(struct boot_image *b, struct error *e)
{
	struct boot_module *rd = &b->module[0];
	struct elf elf;
	gpa_t end;

	if (elf_open(&elf, &b->kernel, e) < 0 || elf_plan(&elf, b, &end, e) < 0)
		return -1;
	if (plan_info(b, INFO_CMDLINE + strlen(b->cmdline) + 1, e) < 0)
		return -1;
	if (!b->modules)
		return 0;
	if (plan_find(b, rd->file.len, PAGE_SIZE, MiB, plan_ram_top(b), PLAN_HIGHEST, &rd->gpa) < 0)
		return error_set(
		    e,
		    "initrd %s (%zu KiB) does not fit beside the kernel in %llu MiB: give the guest more memory (--memory)",
		    rd->file.name, rd->file.len / 1024, (unsigned long long)(b->memory / MiB));
	return plan_fixed(b, rd->gpa, rd->file.len, rd->file.data, rd->file.len, "the initrd", e);
}

static void pvh_place(const struct boot_image *b, struct memory *m, const struct boot_layout *l, struct cpu *c)
{
	u8 info[INFO_CMDLINE] = { 0 };
	u8 *p = info;

	put32(p, START_INFO_MAGIC);
	put32(p + 4, 1); /* version: has a memory map */
	put32(p + 12, b->modules);
	put64(p + 16, b->modules ? b->info + INFO_MODULE : 0);
	put64(p + 24, b->info + INFO_CMDLINE);
	put64(p + 32, l->acpi_rsdp);
	put64(p + 40, b->info + INFO_MEMMAP);
	put32(p + 48, l->e820_count);
	if (b->modules) {
		put64(info + INFO_MODULE, b->module[0].gpa);
		put64(info + INFO_MODULE + 8, b->module[0].file.len);
	}
	for (unsigned i = 0; i < l->e820_count; i++) {
		p = info + INFO_MEMMAP + i * MEMMAP_ENTRY;
		put64(p, l->e820[i].addr);
		put64(p + 8, l->e820[i].len);
		put32(p + 16, l->e820[i].type); /* same numbers as E820 */
	}
	memory_write(m, b->info, info, sizeof(info));
	memory_write(m, b->info + INFO_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);
	place_protected(c, m, b->info + INFO_GDT, 0x10, 0x18);
	c->gpr[REG_RBX] = b->info;
	c->rip = b->entry;
}

const struct boot_protocol boot_pvh = {
	.probe = pvh_probe,
	.parse = pvh_parse,
	.plan = pvh_plan,
	.place = pvh_place,
};
