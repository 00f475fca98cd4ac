/* ELF executables, both classes, read field by field with every offset checked against the file. */
#include <elf.h>

#include "boot/image.h"

bool elf_is(const struct boot_blob *f)
{
	return f->len >= SELFMAG && !memcmp(f->data, ELFMAG, SELFMAG);
}

static int elf_truncated(const struct boot_blob *f, struct error *e)
{
	return error_set(e, "ELF file %s is truncated (%zu bytes): get the file again", f->name, f->len);
}

int elf_open(struct elf *elf, const struct boot_blob *f, struct error *e)
{
	const u8 *p = f->data;
	u16 machine, type;

	if (f->len < sizeof(Elf32_Ehdr))
		return elf_truncated(f, e);
	elf->file = f;
	elf->is64 = p[EI_CLASS] == ELFCLASS64;
	if (p[EI_DATA] != ELFDATA2LSB || (!elf->is64 && p[EI_CLASS] != ELFCLASS32))
		return error_set(e, "ELF file %s is for a big-endian or unknown machine: use an x86-64 kernel",
				 f->name);
	if (elf->is64 && f->len < sizeof(Elf64_Ehdr))
		return elf_truncated(f, e);
	type = get16(p + offsetof(Elf32_Ehdr, e_type));
	machine = get16(p + offsetof(Elf32_Ehdr, e_machine));
	if (machine != EM_X86_64 && machine != EM_386)
		return error_set(e, "ELF file %s is for %s (machine %u): use an x86-64 kernel", f->name,
				 elf_machine_name(machine), machine);
	if (type != ET_EXEC && type != ET_DYN)
		return error_set(e, "ELF file %s is not an executable (type %u): link it first", f->name, type);
	if (elf->is64) {
		elf->entry = get64(p + offsetof(Elf64_Ehdr, e_entry));
		elf->phoff = get64(p + offsetof(Elf64_Ehdr, e_phoff));
		elf->phentsize = get16(p + offsetof(Elf64_Ehdr, e_phentsize));
		elf->phnum = get16(p + offsetof(Elf64_Ehdr, e_phnum));
	} else {
		elf->entry = get32(p + offsetof(Elf32_Ehdr, e_entry));
		elf->phoff = get32(p + offsetof(Elf32_Ehdr, e_phoff));
		elf->phentsize = get16(p + offsetof(Elf32_Ehdr, e_phentsize));
		elf->phnum = get16(p + offsetof(Elf32_Ehdr, e_phnum));
	}
	if (!elf->phnum)
		return error_set(e, "ELF file %s has no program headers: it is not an executable", f->name);
	if (elf->phentsize < (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return error_set(e, "ELF file %s has program headers of %u bytes: the file is damaged", f->name,
				 elf->phentsize);
	if (elf->phoff > f->len || (u64)elf->phnum * elf->phentsize > f->len - elf->phoff)
		return elf_truncated(f, e);
	return 0;
}

int elf_segment(const struct elf *elf, unsigned n, struct elf_segment *s, struct error *e)
{
	const u8 *p = elf->file->data + elf->phoff + (u64)n * elf->phentsize;

	s->type = get32(p);
	if (elf->is64) {
		s->offset = get64(p + offsetof(Elf64_Phdr, p_offset));
		s->vaddr = get64(p + offsetof(Elf64_Phdr, p_vaddr));
		s->paddr = get64(p + offsetof(Elf64_Phdr, p_paddr));
		s->filesz = get64(p + offsetof(Elf64_Phdr, p_filesz));
		s->memsz = get64(p + offsetof(Elf64_Phdr, p_memsz));
	} else {
		s->offset = get32(p + offsetof(Elf32_Phdr, p_offset));
		s->vaddr = get32(p + offsetof(Elf32_Phdr, p_vaddr));
		s->paddr = get32(p + offsetof(Elf32_Phdr, p_paddr));
		s->filesz = get32(p + offsetof(Elf32_Phdr, p_filesz));
		s->memsz = get32(p + offsetof(Elf32_Phdr, p_memsz));
	}
	if (s->type != PT_LOAD && s->type != PT_NOTE)
		return 0; /* nobody looks at its bytes */
	if (s->offset > elf->file->len || s->filesz > elf->file->len - s->offset)
		return elf_truncated(elf->file, e);
	if (s->type == PT_LOAD && s->filesz > s->memsz)
		return error_set(e, "ELF file %s has a segment larger in the file than in memory: the file is damaged",
				 elf->file->name);
	return 0;
}

int elf_plan(const struct elf *elf, struct boot_image *b, gpa_t *end, struct error *e)
{
	char what[64];
	struct elf_segment s;

	*end = 0;
	for (unsigned i = 0; i < elf->phnum; i++) {
		if (elf_segment(elf, i, &s, e) < 0)
			return -1;
		if (s.type != PT_LOAD || !s.memsz)
			continue;
		__builtin_snprintf(what, sizeof(what), "segment %u of the kernel", i);
		if (plan_fixed(b, s.paddr, s.memsz, elf->file->data + s.offset, s.filesz, what, e) < 0)
			return -1;
		*end = MAX(*end, s.paddr + s.memsz);
	}
	if (!*end)
		return error_set(e, "ELF file %s has nothing to load: it is not a kernel", elf->file->name);
	return 0;
}
