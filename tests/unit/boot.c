/* Loaders: synthetic images of every kind, good and damaged, and what is in memory and registers after placing. */
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "boot_fake.h"
#include "boot/boot.h"
#include "cpu/cpuid.h"

#define RAM (64 * MiB)

static struct cpu_model model = { .phys_bits = 40 };

struct placed {
	struct boot_image *b;
	struct memory *m;
	struct boot_layout l;
	struct vcpu v;
};

static u32 rd32(struct memory *m, gpa_t a)
{
	u32 v = 0;
	memory_read(m, a, &v, 4);
	return v;
}

static u64 rd64(struct memory *m, gpa_t a)
{
	u64 v = 0;
	memory_read(m, a, &v, 8);
	return v;
}

static void assert_string(struct memory *m, gpa_t a, const char *s)
{
	char buf[256];

	assert_true(strlen(s) < sizeof(buf));
	memory_read(m, a, buf, strlen(s) + 1);
	assert_string_equal(buf, s);
}

static void place(struct placed *p, struct boot_image *b)
{
	struct error e = { "" };

	memset(p, 0, sizeof(*p));
	p->b = b;
	p->m = memory_create(RAM, &e);
	memory_map_ram(p->m, 0, 0, RAM, 0, "ram");
	p->v.model = &model;
	p->l.acpi_rsdp = 0xf0000;
	boot_default_e820(&p->l, RAM);
	boot_place(b, p->m, &p->l, &p->v);
}

static void unplace(struct placed *p)
{
	memory_destroy(p->m);
	boot_free(p->b);
}

static struct boot_image *good(const void *k, size_t klen, const void *rd, size_t rdlen, const char *append, u64 ram)
{
	struct error e = { "" };
	struct boot_image *b = boot_load_bytes(k, klen, rd, rdlen, append, ram, &e);

	if (!b)
		fail_msg("%s", e.text);
	return b;
}

static void bad(const void *k, size_t klen, const void *rd, size_t rdlen, const char *append, u64 ram, const char *text)
{
	struct error e = { "" };

	assert_null(boot_load_bytes(k, klen, rd, rdlen, append, ram, &e));
	if (!strstr(e.text, text))
		fail_msg("expected \"%s\" in: %s", text, e.text);
	assert_null(strchr(e.text, '\n'));
}

/* bzImage: 2 setup sectors, 4 KiB of code at 1 MiB, initrd anywhere. */
#define BZ_SIZE (3 * 512 + 4096)
static u8 *bz_make(u8 *k)
{
	memset(k, 0x90, BZ_SIZE);
	memset(k, 0, 3 * 512);
	k[0x1f1] = 2;
	*(u32 *)(k + 0x1f4) = 4096 / 16;
	k[0x201] = 0x66;
	memcpy(k + 0x202, "HdrS", 4);
	*(u16 *)(k + 0x206) = 0x20f;
	*(u16 *)(k + 0x20e) = 0x300 - 0x200 + 0;
	strcpy((char *)k + 0x300, "9.9.9-test (me@here) #1");
	k[0x211] = 1;
	*(u32 *)(k + 0x214) = 0x100000;
	*(u32 *)(k + 0x22c) = 0x7fffffff;
	*(u32 *)(k + 0x230) = 0x200000;
	k[0x234] = 1;
	*(u16 *)(k + 0x236) = 1;
	*(u32 *)(k + 0x238) = 255;
	*(u64 *)(k + 0x258) = 0x1000000;
	*(u32 *)(k + 0x260) = 0x800000;
	return k;
}

static void bzimage_64(void **state)
{
	u8 k[BZ_SIZE], rd[5000];
	struct placed p;
	struct cpu *c = &p.v.cpu;
	gpa_t zp;

	memset(rd, 0x5a, sizeof(rd));
	place(&p, good(bz_make(k), sizeof(k), rd, sizeof(rd), "console=ttyS0", RAM));
	assert_string_equal(boot_describe(p.b), "Linux 9.9.9-test, bzImage, 64-bit entry");
	assert_int_equal(c->rip, 0x1000200);
	assert_int_equal(rd32(p.m, c->rip), 0x90909090);
	assert_true(cpu_64bit(c));
	assert_int_equal(cpu_cpl(c), 0);
	assert_int_equal(c->rflags, FL_FIXED1);
	assert_int_equal(c->seg[SEG_CS].sel, 0x10);
	assert_int_equal(c->seg[SEG_SS].sel, 0x18);
	assert_int_equal(rd64(p.m, c->gdtr.base + 0x10), 0x00af9b000000ffff);
	assert_int_equal(rd64(p.m, c->gdtr.base + 0x18), 0x00cf93000000ffff);
	/* the walk of an address above 3 GiB ends at itself */
	u64 pdpt = rd64(p.m, c->cr3) & PAGE_MASK, pd = rd64(p.m, pdpt + 3 * 8) & PAGE_MASK;
	assert_int_equal(rd64(p.m, pd + 5 * 8) & ~0xfffull, 3 * GiB + 5 * 2 * MiB);
	assert_int_equal(rd64(p.m, pd + 5 * 8) & 0x83, 0x83);
	zp = c->gpr[REG_RSI];
	assert_int_equal(rd32(p.m, zp + 0x202), 0x53726448);
	assert_int_equal(rd32(p.m, zp + 0x210) & 0xff, 0xff);
	assert_int_equal(rd32(p.m, zp + 0x214), 0x1000000);
	assert_string(p.m, rd32(p.m, zp + 0x228), "console=ttyS0");
	assert_int_equal(rd32(p.m, zp + 0x21c), 5000);
	gpa_t at = rd32(p.m, zp + 0x218);
	assert_int_equal(at, RAM - BOOT_ACPI_SIZE - 8192);
	assert_int_equal(rd32(p.m, at + 4996), 0x5a5a5a5a);
	assert_int_equal(rd64(p.m, zp + 0x70), 0xf0000);
	assert_int_equal(rd32(p.m, zp + 0x1e8) & 0xff, p.l.e820_count);
	assert_int_equal(rd64(p.m, zp + 0x2d0 + 20 * 3), MiB);
	assert_int_equal(c->mtrr_def_type, 0xc06);
	unplace(&p);
}

static void bzimage_32(void **state)
{
	u8 k[BZ_SIZE];
	struct placed p;
	struct cpu *c = &p.v.cpu;

	bz_make(k);
	*(u16 *)(k + 0x236) = 0;
	place(&p, good(k, sizeof(k), NULL, 0, NULL, RAM));
	assert_int_equal(c->rip, 0x1000000);
	assert_int_equal(c->cr0, CR0_PE | CR0_ET);
	assert_int_equal(cpu_code_mode(c), CODE_32);
	assert_int_equal(c->efer, 0);
	assert_int_equal(rd64(p.m, c->gdtr.base + 0x10), 0x00cf9b000000ffff);
	assert_int_equal(rd32(p.m, c->gpr[REG_RSI] + 0x218), 0);
	unplace(&p);
}

static void bzimage_limits(void **state)
{
	u8 k[BZ_SIZE], *rd = calloc(1, 80 * MiB);
	struct placed p;
	char line[300];

	/* initrd_addr_max holds the initial RAM disk down */
	bz_make(k);
	*(u32 *)(k + 0x22c) = 0xffffff;
	place(&p, good(k, sizeof(k), rd, 4096, "", RAM));
	assert_int_equal(rd32(p.m, p.v.cpu.gpr[REG_RSI] + 0x218), 0xfff000);
	unplace(&p);
	/* relocated below its preferred address when memory is short */
	bz_make(k);
	place(&p, good(k, sizeof(k), NULL, 0, "", 16 * MiB));
	assert_int_equal(p.v.cpu.rip, 0x200200);
	unplace(&p);
	k[0x234] = 0;
	bad(k, sizeof(k), NULL, 0, "", 16 * MiB, "give it more (--memory)");
	bz_make(k);
	bad(k, sizeof(k), NULL, 0, "", 4 * MiB, "give it more (--memory)");
	bad(k, sizeof(k), rd, 80 * MiB, "", RAM, "does not fit");
	bad(k, sizeof(k), rd, 45 * MiB, "", RAM, "does not fit");
	boot_free(good(k, sizeof(k), rd, 39 * MiB, "", RAM));
	bad(k, sizeof(k), rd, 0, "", RAM, "empty");
	memset(line, 'a', sizeof(line));
	line[255] = 0;
	boot_free(good(k, sizeof(k), NULL, 0, line, RAM));
	line[255] = 'a';
	line[256] = 0;
	bad(k, sizeof(k), NULL, 0, line, RAM, "takes at most 255");
	free(rd);
}

static void bzimage_bad(void **state)
{
	u8 k[BZ_SIZE];

	bz_make(k);
	bad(k, 0x210, NULL, 0, "", RAM, "truncated");
	bad(k, BZ_SIZE - 100, NULL, 0, "", RAM, "truncated");
	bad(k, BZ_SIZE, NULL, 0, "", 0, "too little");
	bad(k, BZ_SIZE, NULL, 0, "", MiB, "too little");
	*(u16 *)(k + 0x206) = 0x204;
	bad(k, BZ_SIZE, NULL, 0, "", RAM, "2.04");
	bz_make(k)[0x211] = 0;
	bad(k, BZ_SIZE, NULL, 0, "", RAM, "zImage");
	bz_make(k);
	*(u64 *)(k + 0x258) = ~0ull;
	k[0x234] = 0;
	bad(k, BZ_SIZE, NULL, 0, "", RAM, "no usable RAM");
	*(u64 *)(k + 0x258) = 0x1000;
	bad(k, BZ_SIZE, NULL, 0, "", RAM, "below 1 MiB");
}

/* ELF64 with a PVH note: headers, note at 0x200, code at 0x400, .bss. */
#define PVH_SIZE 0x800
static u8 *pvh_make(u8 *k)
{
	Elf64_Ehdr *eh = (Elf64_Ehdr *)k;
	Elf64_Phdr *ph = (Elf64_Phdr *)(k + sizeof(*eh));
	u32 *note = (u32 *)(k + 0x200);

	memset(k, 0, PVH_SIZE);
	memcpy(eh->e_ident, ELFMAG, 4);
	eh->e_ident[EI_CLASS] = ELFCLASS64;
	eh->e_ident[EI_DATA] = ELFDATA2LSB;
	eh->e_type = ET_EXEC;
	eh->e_machine = EM_X86_64;
	eh->e_phoff = sizeof(*eh);
	eh->e_phentsize = sizeof(*ph);
	eh->e_phnum = 2;
	ph[0] = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = 0x400, .p_paddr = 0x200000, .p_filesz = 0x400, .p_memsz = 0x3000
	};
	ph[1] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 0x40, .p_memsz = 0x40 };
	note[0] = 4; /* another owner's note first */
	note[1] = 5;
	note[2] = 1;
	memcpy(note + 3, "GNU", 4);
	note[6] = 4;
	note[7] = 8;
	note[8] = 18;
	memcpy(note + 9, "Xen", 4);
	note[10] = 0x200010;
	memset(k + 0x400, 0xf4, 0x400);
	return k;
}

static void pvh(void **state)
{
	u8 k[PVH_SIZE], rd[100] = "initrd", dirt[16];
	struct placed p;
	struct cpu *c = &p.v.cpu;
	gpa_t info;

	place(&p, good(pvh_make(k), sizeof(k), rd, sizeof(rd), "quiet", RAM));
	assert_string_equal(boot_describe(p.b), "ELF64, PVH entry at 0x200010");
	assert_int_equal(c->rip, 0x200010);
	assert_int_equal(cpu_code_mode(c), CODE_32);
	assert_int_equal(c->cr0, CR0_PE | CR0_ET);
	assert_int_equal(c->tr.attr, 0x8b);
	assert_int_equal(c->tr.limit, 0x67);
	info = c->gpr[REG_RBX];
	assert_int_equal(rd32(p.m, info), 0x336ec578);
	assert_int_equal(rd32(p.m, info + 4), 1);
	assert_int_equal(rd32(p.m, info + 12), 1);
	assert_string(p.m, rd64(p.m, rd64(p.m, info + 16)), "initrd");
	assert_int_equal(rd64(p.m, rd64(p.m, info + 16) + 8), 100);
	assert_string(p.m, rd64(p.m, info + 24), "quiet");
	assert_int_equal(rd64(p.m, info + 32), 0xf0000);
	assert_int_equal(rd32(p.m, info + 48), p.l.e820_count);
	assert_int_equal(rd64(p.m, rd64(p.m, info + 40) + 8), 0x9fc00);
	/* a reset clears .bss again */
	memset(dirt, 0xee, sizeof(dirt));
	memory_write(p.m, 0x202ff0, dirt, sizeof(dirt));
	boot_place(p.b, p.m, &p.l, &p.v);
	assert_int_equal(rd64(p.m, 0x202ff8), 0);
	assert_int_equal(rd32(p.m, 0x2003fc), 0xf4f4f4f4);
	unplace(&p);
}

static void pvh_bad(void **state)
{
	u8 k[PVH_SIZE];
	Elf64_Ehdr *eh = (Elf64_Ehdr *)k;
	Elf64_Phdr *ph = (Elf64_Phdr *)(k + sizeof(*eh));

	bad(pvh_make(k), 30, NULL, 0, "", RAM, "truncated");
	bad(k, 0x100, NULL, 0, "", RAM, "truncated");
	bad(k, 0x500, NULL, 0, "", RAM, "truncated");
	eh->e_machine = EM_AARCH64;
	bad(k, sizeof(k), NULL, 0, "", RAM, "64-bit ARM");
	pvh_make(k);
	eh->e_ident[EI_DATA] = ELFDATA2MSB;
	bad(k, sizeof(k), NULL, 0, "", RAM, "big-endian");
	pvh_make(k);
	eh->e_type = ET_REL;
	bad(k, sizeof(k), NULL, 0, "", RAM, "not an executable");
	pvh_make(k);
	eh->e_phnum = 1;
	bad(k, sizeof(k), NULL, 0, "", RAM, "neither a PVH entry note");
	pvh_make(k);
	ph[0].p_paddr = RAM - 0x1000;
	bad(k, sizeof(k), NULL, 0, "", RAM, "give it more (--memory)");
	ph[0].p_paddr = 0xb8000;
	bad(k, sizeof(k), NULL, 0, "", RAM, "no usable RAM");
	ph[0].p_paddr = ~0xfffull;
	bad(k, sizeof(k), NULL, 0, "", RAM, "no usable RAM");
	pvh_make(k);
	ph[0].p_memsz = 1;
	bad(k, sizeof(k), NULL, 0, "", RAM, "damaged");
	pvh_make(k);
	ph[1] = ph[0];
	bad(k, sizeof(k), NULL, 0, "", RAM, "neither a PVH");
}

/* Multiboot image with its own addresses: header at 0x40, loaded at 1 MiB. */
#define MB_SIZE 0x1000
static u8 *mb_make(u8 *k)
{
	u32 *h = (u32 *)(k + 0x40);

	memset(k, 0xcc, MB_SIZE);
	h[0] = 0x1badb002;
	h[1] = 0x10003;
	h[2] = -(h[0] + h[1]);
	h[3] = 0x100040;
	h[4] = 0x100000;
	h[5] = 0;
	h[6] = 0x105000;
	h[7] = 0x100100;
	return k;
}

static void multiboot_addresses(void **state)
{
	u8 k[MB_SIZE], mod[10] = "module";
	struct placed p;
	struct cpu *c = &p.v.cpu;
	gpa_t info, mods;

	place(&p, good(mb_make(k), sizeof(k), mod, sizeof(mod), "a b", RAM));
	assert_string_equal(boot_describe(p.b), "multiboot 1 image, entry at 0x100100");
	assert_int_equal(c->rip, 0x100100);
	assert_int_equal(c->gpr[REG_RAX], 0x2badb002);
	assert_int_equal(c->cr0, CR0_PE | CR0_ET);
	assert_int_equal(c->seg[SEG_CS].sel, 8);
	assert_int_equal(c->seg[SEG_DS].sel, 16);
	assert_int_equal(rd32(p.m, 0x100ffc), 0xcccccccc);
	info = c->gpr[REG_RBX];
	assert_int_equal(rd32(p.m, info), 0x24d);
	assert_int_equal(rd32(p.m, info + 4), 639);
	assert_int_equal(rd32(p.m, info + 8), (RAM - BOOT_ACPI_SIZE - MiB) / KiB);
	assert_string(p.m, rd32(p.m, info + 16), "kernel a b");
	assert_int_equal(rd32(p.m, info + 20), 1);
	mods = rd32(p.m, info + 24);
	assert_int_equal(rd32(p.m, mods), 0x105000);
	assert_int_equal(rd32(p.m, mods + 4), 0x10500a);
	assert_string(p.m, rd32(p.m, mods), "module");
	assert_string(p.m, rd32(p.m, mods + 8), "initrd");
	assert_int_equal(rd32(p.m, info + 44), p.l.e820_count * 24);
	assert_int_equal(rd32(p.m, rd32(p.m, info + 48)), 20);
	assert_string(p.m, rd32(p.m, info + 64), "ectype");
	unplace(&p);
}

static u8 *mb_elf_make(u8 *k)
{
	Elf32_Ehdr *eh = (Elf32_Ehdr *)k;
	Elf32_Phdr *ph = (Elf32_Phdr *)(k + sizeof(*eh));
	u32 *h = (u32 *)(k + 0x200);

	memset(k, 0, MB_SIZE);
	memcpy(eh->e_ident, ELFMAG, 4);
	eh->e_ident[EI_CLASS] = ELFCLASS32;
	eh->e_ident[EI_DATA] = ELFDATA2LSB;
	eh->e_type = ET_EXEC;
	eh->e_machine = EM_386;
	eh->e_entry = 0x400020;
	eh->e_phoff = sizeof(*eh);
	eh->e_phentsize = sizeof(*ph);
	eh->e_phnum = 1;
	ph[0] = (Elf32_Phdr){
		.p_type = PT_LOAD, .p_offset = 0x200, .p_paddr = 0x400000, .p_filesz = 0x100, .p_memsz = 0x20000
	};
	h[0] = 0x1badb002;
	h[2] = -h[0];
	return k;
}

static void multiboot_elf(void **state)
{
	u8 k[MB_SIZE];
	struct placed p;

	place(&p, good(mb_elf_make(k), sizeof(k), NULL, 0, NULL, RAM));
	assert_int_equal(p.v.cpu.rip, 0x400020);
	assert_int_equal(rd32(p.m, 0x400000), 0x1badb002);
	assert_string(p.m, rd32(p.m, p.v.cpu.gpr[REG_RBX] + 16), "kernel");
	unplace(&p);
}

static void multiboot_bad(void **state)
{
	u8 k[MB_SIZE], *big = calloc(1, RAM);
	u32 *h = (u32 *)(k + 0x40);

	mb_make(k);
	h[2]++;
	bad(k, sizeof(k), NULL, 0, "", RAM, "is no kernel I know");
	mb_make(k);
	h[1] |= 8;
	h[2] = -(h[0] + h[1]);
	bad(k, sizeof(k), NULL, 0, "", RAM, "features");
	mb_make(k);
	h[4] = 0x100100;
	bad(k, sizeof(k), NULL, 0, "", RAM, "does not match");
	mb_make(k);
	h[5] = 0x102000;
	bad(k, sizeof(k), NULL, 0, "", RAM, "truncated");
	bad(k, 0x50, NULL, 0, "", RAM, "truncated");
	mb_make(k);
	bad(k, sizeof(k), big, RAM, "", RAM, "does not fit");
	h[1] = 0;
	h[2] = -h[0];
	bad(k, sizeof(k), NULL, 0, "", RAM, "neither an ELF");
	pvh_make(k);
	h = (u32 *)(k + 0x100);
	h[0] = 0x1badb002;
	h[2] = -h[0];
	bad(k, PVH_SIZE, NULL, 0, "", RAM, "64-bit ELF");
	free(big);
}

static void no_kernel(void **state)
{
	static const struct {
		size_t off;
		const char *bytes, *text;
	} t[] = {
		{ 0, "\x1f\x8b\x08", "gunzip" },
		{ 0, "\xfd\x37\x7aXZ", "unxz" },
		{ 0, "\x28\xb5\x2f\xfd", "unzstd" },
		{ 0x38, "ARM\x64", "aarch64" },
		{ 0x24, "\x18\x28\x6f\x01", "32-bit ARM" },
		{ 0, "MZ", "PE or EFI" },
		{ 0, "070701", "--initrd" },
		{ 0, "#!/bin/sh", "script" },
		{ 0, "hello", "is no kernel I know" },
	};
	u8 k[4096];

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		memset(k, 0x11, sizeof(k));
		memcpy(k + t[i].off, t[i].bytes, strlen(t[i].bytes));
		bad(k, sizeof(k), NULL, 0, "", RAM, t[i].text);
	}
	memset(k, 0, sizeof(k));
	bad(k, sizeof(k), NULL, 0, "", RAM, "only zeros");
	bad("hi", 2, NULL, 0, "", RAM, "only 2 bytes");
	bad(k, 0, NULL, 0, "", RAM, "empty");
}

static void write_file(const char *path, const void *p, size_t n)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	fclose(f);
}

static void bad_request(const struct boot_request *r, const char *text)
{
	struct error e = { "" };

	assert_null(boot_load(r, &e));
	if (!strstr(e.text, text))
		fail_msg("expected \"%s\" in: %s", text, e.text);
}

static void files(void **state)
{
	char dir[] = "/tmp/ectype-boot-XXXXXX", kernel[64], m1[64], m2[64], list[256], line[128];
	u8 k[MB_SIZE];
	struct error e = { "" };
	struct placed p;
	struct boot_request r = { .memory = RAM };
	gpa_t mods;

	assert_non_null(mkdtemp(dir));
	snprintf(kernel, sizeof(kernel), "%s/k", dir);
	snprintf(m1, sizeof(m1), "%s/m1", dir);
	snprintf(m2, sizeof(m2), "%s/m,2", dir);
	write_file(kernel, mb_make(k), sizeof(k));
	write_file(m1, "one", 4);
	write_file(m2, "two", 4);
	snprintf(list, sizeof(list), "%s a=1 b, %s/m,,2", m1, dir);
	r.kernel = kernel;
	r.initrd = list;
	r.append = "x";
	place(&p, boot_load(&r, &e));
	snprintf(line, sizeof(line), "%s x", kernel);
	assert_string(p.m, rd32(p.m, p.v.cpu.gpr[REG_RBX] + 16), line);
	mods = rd32(p.m, p.v.cpu.gpr[REG_RBX] + 24);
	assert_string(p.m, rd32(p.m, mods), "one");
	assert_string(p.m, rd32(p.m, mods + 16), "two");
	snprintf(line, sizeof(line), "%s a=1 b", m1);
	assert_string(p.m, rd32(p.m, mods + 8), line);
	assert_string(p.m, rd32(p.m, mods + 16 + 8), m2);
	unplace(&p);

	r.initrd = "/nonexistent";
	bad_request(&r, "No such file");
	r.initrd = ",";
	bad_request(&r, "empty module");
	r.initrd = NULL;
	r.kernel = "/nonexistent";
	bad_request(&r, "No such file");
	r.kernel = dir;
	bad_request(&r, "a directory");
	r.kernel = "/dev/zero";
	bad_request(&r, "not a regular file");
	r.kernel = "/dev/null";
	bad_request(&r, "not a regular file");
	write_file(kernel, "", 0);
	r.kernel = kernel;
	bad_request(&r, "is empty");
	assert_int_equal(truncate(kernel, (off_t)RAM + 1), 0);
	bad_request(&r, "low memory");
	r.firmware = kernel;
	bad_request(&r, "exclude each other");
	r.kernel = NULL;
	bad_request(&r, "--append goes with --kernel");
	r.append = NULL;
	bad_request(&r, "a ROM may have");
	r.firmware = NULL;
	bad_request(&r, "nothing to boot");
	unlink(kernel);
	unlink(m1);
	unlink(m2);
	rmdir(dir);
}

static void firmware(void **state)
{
	u8 *rom = calloc(1, 17 * MiB);
	struct error e = { "" };
	struct boot_image *b;
	struct memory *m = memory_create(RAM, &e);

	memset(rom, 0xaa, 17 * MiB);
	assert_null(boot_load_firmware_bytes(rom, 17 * MiB, &e));
	assert_null(boot_load_firmware_bytes(rom, 60 * KiB, &e));
	assert_null(boot_load_firmware_bytes(rom, 64 * KiB + 1, &e));
	memset(rom + 256 * KiB - 16, 0xff, 16);
	assert_null(boot_load_firmware_bytes(rom, 256 * KiB, &e));
	assert_non_null(strstr(e.text, "reset vector"));
	memcpy(rom + 256 * KiB - 16, "\xea\x5b\xe0\x00\xf0", 5);
	rom[128 * KiB] = 0x77;
	b = boot_load_firmware_bytes(rom, 256 * KiB, &e);
	assert_non_null(b);
	assert_true(boot_is_firmware(b));
	assert_int_equal(boot_map_firmware(b, m, 1, &e), 0);
	assert_int_equal(rd32(m, 0xfffffff0), 0x00e05bea);
	assert_int_equal(rd32(m, 0xffff0), 0x00e05bea);
	assert_int_equal(rd32(m, 0xe0000) & 0xff, 0x77);
	assert_int_equal(rd32(m, 0xfffc0000), 0xaaaaaaaa);
	memory_destroy(m);
	boot_free(b);
	free(rom);
}

static void e820(void **state)
{
	static const struct {
		u64 ram, low, high;
	} t[] = { { 512 * MiB, 512 * MiB, 0 },
		  { 3584 * MiB, 2 * GiB, 1536 * MiB },
		  { 8 * GiB, 2 * GiB, 6 * GiB },
		  { 2560 * MiB, 2560 * MiB, 0 },
		  { 2816 * MiB, 2 * GiB, 768 * MiB } };

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		struct boot_layout l = { 0 };
		u64 low = 0, high = 0, last = 0;

		boot_default_e820(&l, t[i].ram);
		for (unsigned n = 0; n < l.e820_count; n++) {
			const struct e820_entry *r = &l.e820[n];
			assert_true(r->addr >= last && r->len > 0);
			last = r->addr + r->len;
			if (r->type == E820_RAM && r->addr < 4 * GiB)
				low = last;
			if (r->type == E820_RAM && r->addr >= 4 * GiB)
				high += r->len;
		}
		assert_int_equal(boot_low_ram(t[i].ram), t[i].low);
		assert_int_equal(low, t[i].low - BOOT_ACPI_SIZE);
		assert_int_equal(high, t[i].high);
		assert_int_equal(boot_acpi_area(t[i].ram), t[i].low - BOOT_ACPI_SIZE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bzimage_64),
		cmocka_unit_test(bzimage_32),
		cmocka_unit_test(bzimage_limits),
		cmocka_unit_test(bzimage_bad),
		cmocka_unit_test(pvh),
		cmocka_unit_test(pvh_bad),
		cmocka_unit_test(multiboot_addresses),
		cmocka_unit_test(multiboot_elf),
		cmocka_unit_test(multiboot_bad),
		cmocka_unit_test(no_kernel),
		cmocka_unit_test(files),
		cmocka_unit_test(firmware),
		cmocka_unit_test(e820),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
