/*
 * Fuzz target: what a core is made from and the guest controls: page tables of all kinds, and the kernel's note. The
 * input chooses registers, then what lies in eight pages that the tables are likely to be in. What comes out is in
 * order, bounded, and no note is longer than memory.
 */
#include <elf.h>
#include <stdlib.h>

#include "ctl/core.h"
#include "ctl/core_map.h"
#include "fuzz.h"

#define RAM (64 * KiB)
#define PAGES 8

static struct memory *memory(void)
{
	static struct memory *m;
	struct error e;

	if (!m && (!(m = memory_create(RAM, &e)) || !memory_map_ram(m, 0, 0, RAM, 0, "ram")))
		abort();
	memset(memory_ram(m), 0, RAM);
	return m;
}

/* Entries that lead into the pages more often than not. */
static void fill(struct memory *m, struct input *in)
{
	while (in->p < in->end) {
		unsigned where = (unsigned)take(in, 2), kind = (unsigned)take(in, 1);
		u64 v = kind & 1 ? take(in, 8) : take(in, 1) % PAGES << PAGE_SHIFT | take(in, 1);
		gpa_t at = (where % (PAGES * 512)) * 8ull;
		unsigned run = kind & 2 ? 512 - where % 512 : 1;

		for (unsigned i = 0; i < run; i++, at += 8)
			memory_write(m, at, &v, 8);
	}
}

static void check_map(const struct core_map *map, int bad)
{
	if (!bad && map->count > CORE_MAPPINGS_MAX)
		abort();
	for (size_t i = 0; i < map->count; i++) {
		const struct core_mapping *a = &map->at[i];

		if (!a->len || a->virt > UINT64_MAX - a->len || a->phys > UINT64_MAX - a->len)
			abort();
		if (!bad && i && a->virt < a[-1].virt)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct cpu c;
	static u8 note[CORE_VMCOREINFO_MAX];
	struct input in = { data, data + size };
	struct memory *m = memory();
	struct core_map map = { 0 };
	struct error e;
	unsigned flags = (unsigned)take(&in, 1), cpus = 1 + flags % 3;
	gpa_t gpa = take(&in, 2);
	u64 len = take(&in, 4);
	int bad = 0;

	/* a walk of full tables takes its time: fewer of them are enough */
	map.tables = CORE_TABLES_MAX - 2048;
	c.cr0 = CR0_PE | CR0_PG;
	c.cr4 = (flags & 4 ? CR4_PAE : 0) | (flags & 8 ? CR4_LA57 : 0) | (flags & 16 ? CR4_PSE : 0);
	c.efer = flags & 32 ? EFER_LMA : 0;
	c.cr3 = take(&in, 2);
	fill(m, &in);
	for (unsigned i = 0; i < cpus && !bad; i++, c.cr3 ^= PAGE_SIZE)
		bad = core_map_add(&map, m, &c, 36 + flags % 17, &e);
	check_map(&map, 1);
	if (!bad)
		bad = core_map_finish(&map, &e);
	check_map(&map, bad);
	free(map.at);
	if (core_vmcoreinfo(m, gpa, len, note) > MIN(RAM, CORE_VMCOREINFO_MAX))
		abort();
	return 0;
}
