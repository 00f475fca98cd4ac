/*
 * Loading: read, recognise by content, parse, plan.
 *
 *   file bytes -> probe (which protocol?) -> parse -> modules -> plan -> ready
 *
 * Order of the probes: bzImage, multiboot 1, PVH; a file that is several of
 * these at once is booted by the first.
 */
#include <stdio.h>
#include <stdlib.h>

#include "boot/image.h"
#include "cpu/cpuid.h"

static const struct boot_protocol *const protocols[] = {
	[BOOT_BZIMAGE] = &boot_bzimage,
	[BOOT_PVH] = &boot_pvh,
	[BOOT_MULTIBOOT] = &boot_multiboot,
};
static const enum boot_kind probe_order[] = { BOOT_BZIMAGE, BOOT_MULTIBOOT, BOOT_PVH };

/* Less cannot hold the layout's fixed parts. */
#define MIN_MEMORY (2 * MiB)

static struct boot_image *image_new(u64 memory, struct error *e)
{
	struct boot_image *b;

	if (memory < MIN_MEMORY) {
		error_set(e, "%llu KiB of memory is too little to boot anything: give the guest at least 2M (--memory)",
			  (unsigned long long)(memory / KiB));
		return NULL;
	}
	b = calloc(1, sizeof(*b));
	if (!b) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	b->memory = memory;
	return b;
}

void boot_free(struct boot_image *b)
{
	if (!b)
		return;
	blob_free(&b->kernel);
	blob_free(&b->vars);
	for (unsigned i = 0; i < b->modules; i++) {
		blob_free(&b->module[i].file);
		free(b->module[i].args);
	}
	free(b->cmdline);
	free(b);
}

void boot_drop(struct boot_image *b)
{
	if (boot_is_firmware(b))
		return;
	blob_drop(&b->kernel);
	for (unsigned i = 0; i < b->modules; i++)
		blob_drop(&b->module[i].file);
}

int boot_fetch(struct boot_image *b, struct error *e)
{
	int ret = blob_fetch(&b->kernel, e);

	for (unsigned i = 0; i < b->modules && !ret; i++)
		ret = blob_fetch(&b->module[i].file, e);
	return ret;
}

/* b->kernel is there: recognise and parse it. */
static int image_parse(struct boot_image *b, const char *append, struct error *e)
{
	size_t size;
	unsigned i;

	/* all others are looked at beyond their beginning */
	if (!boot_bzimage.probe(&b->kernel) && blob_fetch(&b->kernel, e))
		return -1;
	for (i = 0; i < ARRAY_SIZE(probe_order); i++) {
		if (protocols[probe_order[i]]->probe(&b->kernel))
			break;
	}
	if (i == ARRAY_SIZE(probe_order))
		return kernel_diagnose(&b->kernel, e);
	b->kind = probe_order[i];

	if (!append)
		append = "";
	size = strlen(append) + strlen(b->kernel.name) + 2;
	b->cmdline = malloc(size);
	if (!b->cmdline)
		return error_set(e, "not enough host memory");
	if (b->kind != BOOT_MULTIBOOT) /* whose command lines begin with the file's name */
		snprintf(b->cmdline, size, "%s", append);
	else
		snprintf(b->cmdline, size, "%s%s%s", b->kernel.name, *append ? " " : "", append);
	return protocols[b->kind]->parse(b, e);
}

/* What the snapshot knows of file `n`; NULL: there is none. A file that it knows nothing of matches none. */
static const struct boot_known_file *known_file(const struct boot_image *b, unsigned n)
{
	static const struct boot_known_file none;

	return !b->known ? NULL : n < b->known->count ? &b->known->file[n] : &none;
}

/* Adds the file that the first word of `spec` names as a module; takes `spec`. */
static int image_add_module(struct boot_image *b, char *spec, struct error *e)
{
	struct boot_module *mod = &b->module[b->modules];
	char *name = spec + strspn(spec, " "), *path;
	int ret;

	if (b->modules == BOOT_MAX_MODULES || !*name) {
		ret = *name ? error_set(e, "--initrd names more than %d modules", BOOT_MAX_MODULES)
			    : error_set(e, "--initrd names an empty module: write \"FILE ARGS,FILE ARGS\"");
		free(spec);
		return ret;
	}
	b->modules++;
	mod->args = strdup(name);
	path = strndup(name, strcspn(name, " "));
	free(spec);
	if (!mod->args || !path)
		ret = error_set(e, "not enough host memory");
	else
		ret = blob_read_known(&mod->file, path, "module", boot_low_ram(b->memory), "the guest's low memory",
				      known_file(b, b->modules), e);
	free(path);
	return ret;
}

/* "FILE ARGS,FILE ARGS": each part a module, ",," a literal comma. */
static int image_read_modules(struct boot_image *b, const char *list, struct error *e)
{
	while (list) {
		char *spec = malloc(strlen(list) + 1);
		size_t n = 0;

		if (!spec)
			return error_set(e, "not enough host memory");
		for (; *list && (*list != ',' || list[1] == ','); list++) {
			spec[n++] = *list;
			list += *list == ',';
		}
		spec[n] = 0;
		list = *list ? list + 1 : NULL;
		if (image_add_module(b, spec, e) < 0)
			return -1;
	}
	return 0;
}

static int image_read_initrd(struct boot_image *b, const char *initrd, struct error *e)
{
	u64 room = boot_low_ram(b->memory);

	if (!initrd || !*initrd)
		return 0;
	if (b->kind == BOOT_MULTIBOOT)
		return image_read_modules(b, initrd, e);
	b->modules = 1;
	/* Refuse by size alone what cannot fit: reading it would take seconds. */
	room -= MIN(room, b->kernel.len + MiB);
	return blob_read_known(&b->module[0].file, initrd, "initrd", room,
			       "the kernel leaves of the guest's low memory", known_file(b, 1), e);
}

static struct boot_image *finish(struct boot_image *b, int ret)
{
	if (ret == 0)
		return b;
	boot_free(b);
	return NULL;
}

struct boot_image *boot_load(const struct boot_request *r, struct error *e)
{
	struct boot_image *b;
	int ret;

	if (!r->kernel == !r->firmware) {
		error_set(e, r->kernel ? "--kernel and --firmware exclude each other: give one of them"
				       : "nothing to boot: give --kernel FILE or --firmware FILE");
		return NULL;
	}
	if (r->firmware && (r->initrd || r->append)) {
		error_set(e, "%s goes with --kernel, not with --firmware", r->initrd ? "--initrd" : "--append");
		return NULL;
	}
	b = image_new(r->memory, e);
	if (!b)
		return NULL;
	b->known = r->known;
	if (r->firmware) {
		ret = firmware_load(b, r->firmware, r->firmware_vars, e);
		if (ret == 0 && r->known)
			ret = blob_check_known(&b->kernel, known_file(b, 0), e);
		return finish(b, ret);
	}
	ret = blob_read_known(&b->kernel, r->kernel, "kernel", boot_low_ram(r->memory), "the guest's low memory",
			      known_file(b, 0), e);
	if (ret == 0)
		ret = image_parse(b, r->append, e);
	if (ret == 0)
		ret = image_read_initrd(b, r->initrd, e);
	if (ret == 0)
		ret = protocols[b->kind]->plan(b, e);
	if (ret == 0 && r->known && r->known->count != 1 + b->modules)
		ret = error_set(e, "the machine was started with %u boot files, and has %u", r->known->count,
				1 + b->modules);
	b->known = NULL;
	return finish(b, ret);
}

struct boot_image *boot_load_bytes(const void *kernel, size_t kernel_len, const void *initrd, size_t initrd_len,
				   const char *append, u64 memory, struct error *e)
{
	struct boot_image *b = image_new(memory, e);
	int ret;

	if (!b)
		return NULL;
	ret = blob_copy(&b->kernel, "kernel", kernel, kernel_len, e);
	if (ret == 0)
		ret = image_parse(b, append, e);
	if (ret == 0 && initrd) {
		b->modules = 1;
		ret = blob_copy(&b->module[0].file, "initrd", initrd, initrd_len, e);
	}
	if (ret == 0)
		ret = protocols[b->kind]->plan(b, e);
	return finish(b, ret);
}

struct boot_image *boot_load_firmware_bytes(const void *rom, size_t len, struct error *e)
{
	struct boot_image *b = image_new(MIN_MEMORY, e);
	int ret;

	if (!b)
		return NULL;
	b->kind = BOOT_FIRMWARE;
	ret = blob_copy(&b->kernel, "firmware", rom, len, e);
	if (ret == 0)
		ret = firmware_check(b, e);
	return finish(b, ret);
}

bool boot_is_firmware(const struct boot_image *b)
{
	return b->kind == BOOT_FIRMWARE;
}

const char *boot_describe(const struct boot_image *b)
{
	return b->describe;
}

void boot_save(const struct boot_image *b, struct encoder *e)
{
	_Static_assert(BOOT_FILES_MAX == 1 + BOOT_MAX_MODULES, "");
	enc_begin(e, "boot", 1);
	enc_u32(e, 1 + b->modules);
	for (unsigned i = 0; i < 1 + b->modules; i++) {
		const struct boot_blob *f = i ? &b->module[i - 1].file : &b->kernel;

		enc_u64(e, f->len);
		enc_u64(e, f->written);
		enc_u64(e, f->hash);
	}
	enc_end(e);
}

int boot_known_read(struct boot_known *k, struct decoder *in)
{
	struct decoder d;

	if (!dec_begin(in, "boot", &d) || d.version != 1)
		return -1;
	k->count = dec_u32(&d);
	if (!k->count || k->count > BOOT_FILES_MAX)
		return -1;
	for (unsigned i = 0; i < k->count; i++) {
		k->file[i].len = dec_u64(&d);
		k->file[i].written = dec_u64(&d);
		k->file[i].hash = dec_u64(&d);
	}
	return dec_done(&d) ? 0 : -1;
}

static void place_chunk(const struct boot_chunk *c, struct memory *m)
{
	static const u8 zeros[PAGE_SIZE];
	u64 pos = c->data_len;

	if (!c->data)
		return;
	memory_write(m, c->gpa, c->data, c->data_len);
	/* RAM keeps its contents over a reset: a .bss must be cleared */
	while (pos < c->size) {
		u64 n = MIN(c->size - pos, sizeof(zeros));
		memory_write(m, c->gpa + pos, zeros, n);
		pos += n;
	}
}

/*
 * What a kernel may still ask of a BIOS that is not there. Each interrupt
 * vector leads to a handler in the F segment: software interrupts return with
 * carry set ("function not supported"), exceptions and hardware interrupts
 * just return. The BIOS data area holds the EBDA's segment and the size of
 * base memory in KiB, where kernels look for the end of conventional memory.
 */
#define STUB_OFFSET 0x100u
static void place_legacy(struct memory *m)
{
	static const u8 stub[] = {
		0xcf,			/* +0 iret */
		0x55, 0x89, 0xe5,	/* +1 push bp; mov bp, sp */
		0x80, 0x4e, 0x06, 0x01, /* or byte [bp+6], 1: CF of the caller's FLAGS */
		0x5d, 0xcf,		/* pop bp; iret */
	};
	u8 ivt[256 * 4], word[2];

	for (unsigned n = 0; n < 256; n++) {
		bool hardware = n < 0x10 || (n >= 0x70 && n < 0x78);
		put16(ivt + 4 * n, (u16)(STUB_OFFSET + (hardware ? 0 : 1)));
		put16(ivt + 4 * n + 2, BOOT_BIOS_AREA >> 4);
	}
	memory_write(m, 0, ivt, sizeof(ivt));
	memory_write(m, BOOT_BIOS_AREA + STUB_OFFSET, stub, sizeof(stub));
	put16(word, BOOT_EBDA >> 4);
	memory_write(m, 0x40e, word, 2);
	put16(word, BOOT_EBDA / KiB);
	memory_write(m, 0x413, word, 2);
}

/* As firmware leaves the MTRRs (SDM vol. 3, 12.11): write-back by default,
 * video memory and the PCI hole uncached, the BIOS area write-protected. */
static void place_mtrr(struct cpu *c, u64 low, unsigned phys_bits)
{
	u64 mask = (BIT(phys_bits) - 1) & PAGE_MASK;
	unsigned i, n = 0;

	for (i = 0; i < ARRAY_SIZE(c->mtrr_fixed); i++)
		c->mtrr_fixed[i] = i < 2 ? 0x0606060606060606 : i == 2 ? 0 : 0x0505050505050505;
	for (i = 0; i < MTRR_VAR_COUNT; i++)
		c->mtrr_base[i] = c->mtrr_mask[i] = 0;
	if (low <= BOOT_LOW_RAM_SPLIT) {
		c->mtrr_base[n] = 0x80000000;
		c->mtrr_mask[n++] = (mask & ~(0x80000000ull - 1)) | BIT(11);
	} else {
		c->mtrr_base[n] = 0xb0000000;
		c->mtrr_mask[n++] = (mask & ~(0x10000000ull - 1)) | BIT(11);
		c->mtrr_base[n] = 0xc0000000;
		c->mtrr_mask[n++] = (mask & ~(0x40000000ull - 1)) | BIT(11);
	}
	c->mtrr_def_type = BIT(11) | BIT(10) | 6; /* enabled, fixed ones too, write-back */
}

void boot_place(struct boot_image *b, struct memory *m, const struct boot_layout *l, struct vcpu *v)
{
	if (b->kind == BOOT_FIRMWARE)
		return; /* mapped as ROM; cpu_reset() left CS:IP at it */
	place_legacy(m);
	for (unsigned i = 0; i < b->chunks; i++)
		place_chunk(&b->chunk[i], m);
	/* firmware sets them on all processors alike (12.11.8) */
	for (unsigned n = 0; n < (v->group ? v->group->count : 1); n++)
		place_mtrr(v->group ? &v->group->vcpu[n]->cpu : &v->cpu, boot_low_ram(b->memory), v->model->phys_bits);
	protocols[b->kind]->place(b, m, l, &v->cpu);
}
