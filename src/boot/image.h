/*
 * Inside src/boot: what a validated boot image is.
 *
 * Loading *plans*: every byte that will be placed gets its guest-physical
 * address at boot_load(), checked against the RAM of the default memory map
 * and against everything planned before. Placing then only writes, so that it
 * cannot fail, and gives the same result at every reset.
 */
#ifndef ECTYPE_BOOT_IMAGE_H
#define ECTYPE_BOOT_IMAGE_H

#include <string.h>

#include "boot/boot.h"

enum boot_kind { BOOT_BZIMAGE, BOOT_PVH, BOOT_MULTIBOOT, BOOT_FIRMWARE };

/* A file in memory, owned. */
struct boot_blob {
	char *name; /* as the user wrote it, for messages */
	u8 *data;   /* page-aligned; NULL: no blob */
	size_t len;
	int fd;		   /* of the file, to read it again; -1: none */
	bool dropped;	   /* `data` is mapped, but the content is not there */
	u64 hash, written; /* the latter: ns since 1970 */
};

/* Something that has its place in guest RAM. */
struct boot_chunk {
	gpa_t gpa;
	u64 size;	/* bytes taken */
	const u8 *data; /* into a blob; NULL: written by the protocol's own code */
	u64 data_len;	/* <= size; the rest is cleared when data is set */
};
#define BOOT_MAX_CHUNKS 96

/* Initial RAM disk or multiboot module. */
struct boot_module {
	struct boot_blob file;
	char *args; /* multiboot: "FILE ARGS"; else NULL */
	gpa_t gpa;
};
#define BOOT_MAX_MODULES 32

struct boot_image {
	enum boot_kind kind;
	u64 memory;
	struct boot_blob kernel; /* or firmware */
	struct boot_blob vars;	 /* of firmware: initial content of its variables */
	struct boot_module module[BOOT_MAX_MODULES];
	unsigned modules;
	char *cmdline; /* as the kernel gets it; never NULL for kernels */
	struct boot_chunk chunk[BOOT_MAX_CHUNKS];
	unsigned chunks;
	char describe[160];
	const struct boot_known *known; /* while it is loaded */

	gpa_t entry; /* physical address of the first instruction */
	gpa_t info;  /* boot structures, `info_size` bytes (each protocol's own layout) */
	u64 info_size;
	struct { /* bzImage */
		u32 setup_len, code_len;
		u16 version;
		bool entry64;
		u64 initrd_max; /* highest address of the initial RAM disk's last byte */
		u32 cmdline_max;
	} bz;
	struct { /* multiboot */
		bool exec_elf;
		u32 header;
	} mb;
};

static inline u16 get16(const u8 *p)
{
	return (u16)(p[0] | p[1] << 8);
}
static inline u32 get32(const u8 *p)
{
	return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}
static inline u64 get64(const u8 *p)
{
	return get32(p) | (u64)get32(p + 4) << 32;
}
static inline void put16(u8 *p, u16 v)
{
	p[0] = (u8)v;
	p[1] = (u8)(v >> 8);
}
static inline void put32(u8 *p, u32 v)
{
	put16(p, (u16)v);
	put16(p + 2, (u16)(v >> 16));
}
static inline void put64(u8 *p, u64 v)
{
	put32(p, (u32)v);
	put32(p + 4, (u32)(v >> 32));
}

/* file.c: the whole regular file `path`, at most `max` bytes; `what` ("kernel")
 * and `limit` ("the guest's memory") are for messages. */
int blob_read(struct boot_blob *f, const char *path, const char *what, u64 max, const char *limit, struct error *e);
/* The same of a file that must be *known (NULL: any). If by length and time it is, it comes dropped, with its first
 * BLOB_HEAD bytes. */
#define BLOB_HEAD (64 * KiB)
int blob_read_known(struct boot_blob *f, const char *path, const char *what, u64 max, const char *limit,
		    const struct boot_known_file *known, struct error *e);
/* Is it *known, by its content? 0, or -1 with *e. */
int blob_check_known(const struct boot_blob *f, const struct boot_known_file *known, struct error *e);
int blob_copy(struct boot_blob *f, const char *name, const void *data, size_t len, struct error *e);
void blob_free(struct boot_blob *f);
/* Gives the memory of a file's content back until blob_fetch(); the address stays. Nothing for other blobs. */
void blob_drop(struct boot_blob *f);
/* Reads a dropped file again; -1 with *e if it cannot be read or is not what it was. */
int blob_fetch(struct boot_blob *f, struct error *e);

/* diagnose.c: the error for a file that is no kernel we can boot: what it
 * seems to be and what to do. Always -1. */
int kernel_diagnose(const struct boot_blob *f, struct error *e);
const char *elf_machine_name(u16 machine);

/* elf.c: i386 and x86-64 executables. */
struct elf {
	const struct boot_blob *file;
	bool is64;
	u64 entry, phoff;
	unsigned phnum, phentsize;
};
struct elf_segment {
	u32 type;
	u64 offset, vaddr, paddr, filesz, memsz;
};
bool elf_is(const struct boot_blob *f);
int elf_open(struct elf *elf, const struct boot_blob *f, struct error *e);
/* Segment `n`, its bytes checked to lie in the file. */
int elf_segment(const struct elf *elf, unsigned n, struct elf_segment *s, struct error *e);
/* Plans every PT_LOAD; sets *end to the end of the highest one. */
int elf_plan(const struct elf *elf, struct boot_image *b, gpa_t *end, struct error *e);

/* layout.c: planning. All return -1 with *e when it cannot be done. */
gpa_t plan_ram_top(const struct boot_image *b); /* end of usable low RAM */
int plan_fixed(struct boot_image *b, gpa_t gpa, u64 size, const u8 *data, u64 data_len, const char *what,
	       struct error *e);
enum plan_from { PLAN_LOWEST, PLAN_HIGHEST };
/* Free RAM of `size` bytes in [min, max), `align` a power of two. */
int plan_find(struct boot_image *b, u64 size, u64 align, gpa_t min, gpa_t max, enum plan_from from, gpa_t *gpa);
/* Boot structures: below the EBDA if they fit there, else above 1 MiB. */
int plan_info(struct boot_image *b, u64 size, struct error *e);

/* The protocols. `probe` looks at the content only; `parse` validates the
 * kernel; `plan` gives modules and structures their place; `place` writes the
 * structures (chunks are already in RAM) and sets the registers. */
struct boot_protocol {
	bool (*probe)(const struct boot_blob *f);
	int (*parse)(struct boot_image *b, struct error *e);
	int (*plan)(struct boot_image *b, struct error *e);
	void (*place)(const struct boot_image *b, struct memory *m, const struct boot_layout *l, struct cpu *c);
};
extern const struct boot_protocol boot_bzimage, boot_pvh, boot_multiboot;

/* firmware.c */
int firmware_load(struct boot_image *b, const char *name, const char *vars, struct error *e);
int firmware_check(struct boot_image *b, struct error *e);

/* place.c: flat segments with a GDT at `gdt` (5 descriptors) in guest memory; interrupts
 * off, general registers zero. */
#define BOOT_GDT_SIZE 40
void place_protected(struct cpu *c, struct memory *m, gpa_t gdt, u16 cs, u16 ds);
/* Long mode with the first 4 GiB identity-mapped by tables at `tables` (6 pages). */
#define BOOT_PAGE_TABLES (6 * PAGE_SIZE)
void place_long(struct cpu *c, struct memory *m, gpa_t gdt, u16 cs, u16 ds, gpa_t tables);

#endif
