/*
 * What a file that cannot be booted seems to be, in one line with what to do
 * about it. Only well-known magic numbers; no parsing.
 */
#include <elf.h>

#include "boot/image.h"

static const struct magic {
	u32 off;
	const char *bytes;
	u8 len;
	const char *is, *todo;
} magics[] = {
	{ 0, "\x1f\x8b", 2, "compressed with gzip", "gunzip it first" },
	{ 0,
	  "\xfd"
	  "7zXZ",
	  5, "compressed with xz", "unxz it first" },
	{ 0, "\x28\xb5\x2f\xfd", 4, "compressed with zstd", "unzstd it first" },
	{ 0, "BZh", 3, "compressed with bzip2", "bunzip2 it first" },
	{ 0, "\x02\x21\x4c\x18", 4, "compressed with lz4", "unlz4 it first" },
	{ 0, "\x04\x22\x4d\x18", 4, "compressed with lz4", "unlz4 it first" },
	{ 0x38, "ARM\x64", 4, "a Linux kernel for 64-bit ARM (aarch64)", "use an x86-64 kernel" },
	{ 0x24, "\x18\x28\x6f\x01", 4, "a Linux kernel for 32-bit ARM", "use an x86-64 kernel" },
	{ 0x38, "RSC\x05", 4, "a Linux kernel for RISC-V", "use an x86-64 kernel" },
	{ 0, "\x27\x05\x19\x56", 4, "a U-Boot image", "use a bzImage or an ELF file" },
	{ 0, "070701", 6, "a cpio archive", "give an initial RAM disk with --initrd" },
	{ 0, "!<arch>\n", 8, "a Debian package or ar archive", "unpack it with dpkg -x" },
	{ 0, "QFI\xfb", 4, "a qcow2 disk image", "--kernel takes a kernel" },
	{ 0, "#!", 2, "a script", "--kernel takes a kernel" },
	{ 0x8001, "CD001", 5, "a CD image (ISO 9660)", "take the kernel out of it" },
	{ 0, "MZ", 2, "a PE or EFI program", "give the bzImage, ELF or firmware instead" },
	{ 510, "\x55\xaa", 2, "a disk image or boot sector", "--kernel takes a kernel" },
};

static const struct {
	u16 machine;
	const char *name;
} machines[] = {
	{ EM_386, "i386" },
	{ EM_X86_64, "x86-64" },
	{ EM_ARM, "32-bit ARM" },
	{ EM_AARCH64, "64-bit ARM (aarch64)" },
	{ EM_RISCV, "RISC-V" },
	{ EM_PPC, "PowerPC" },
	{ EM_PPC64, "PowerPC 64" },
	{ EM_S390, "s390" },
	{ EM_MIPS, "MIPS" },
	{ EM_SPARC, "SPARC" },
	{ EM_SPARCV9, "SPARC 64" },
	{ EM_IA_64, "Itanium" },
	{ EM_LOONGARCH, "LoongArch" },
	{ EM_68K, "m68k" },
};

const char *elf_machine_name(u16 machine)
{
	for (unsigned i = 0; i < ARRAY_SIZE(machines); i++) {
		if (machines[i].machine == machine)
			return machines[i].name;
	}
	return "unknown";
}

int kernel_diagnose(const struct boot_blob *f, struct error *e)
{
	size_t i;

	for (i = 0; i < f->len && !f->data[i]; i++)
		;
	if (i == f->len)
		return error_set(e, "kernel %s holds only zeros: get the file again", f->name);
	for (i = 0; i < ARRAY_SIZE(magics); i++) {
		const struct magic *m = &magics[i];
		if (f->len >= m->off + m->len && !memcmp(f->data + m->off, m->bytes, m->len))
			return error_set(e, "kernel %s is %s: %s", f->name, m->is, m->todo);
	}
	if (f->len < 1024)
		return error_set(e, "kernel %s has only %zu bytes: it is no kernel, or truncated", f->name, f->len);
	return error_set(
	    e, "kernel %s is no kernel I know: give a bzImage, an ELF file with a PVH note, or a multiboot 1 image",
	    f->name);
}
