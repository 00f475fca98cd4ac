/* The walk follows SDM vol. 3, 4.3 to 4.5, all entries of a table in turn. Rights, accessed and dirty bits are of no
 * interest here; entries with reserved bits set are taken as they are. */
#include "ctl/core_map.h"

#include <stdlib.h>
#include <string.h>

#define PTE_P BIT(0)
#define PTE_PS BIT(7)
#define GATHERED_MAX 262144u /* runs, before core_map_finish() */

struct walk {
	struct core_map *map;
	struct memory *mem;
	u64 addr;	 /* address bits of an entry */
	bool wide;	 /* entries of 8 bytes */
	bool pse;	 /* 4 MiB pages in 32-bit paging */
	unsigned levels; /* of the top table: 2 to 5 */
	struct core_mapping run;
	struct error *e;
};

static int too_much(struct error *e)
{
	return error_set(e, "the guest's page tables map too much in too many pieces; dump without --paging");
}

static int append(struct walk *w)
{
	struct core_map *map = w->map;

	if (!w->run.len)
		return 0;
	if (map->count == map->size) {
		size_t size = map->size ? map->size * 2 : 1024;
		struct core_mapping *at;

		if (size > GATHERED_MAX)
			return too_much(w->e);
		at = realloc(map->at, size * sizeof(*at));
		if (!at)
			return error_set(w->e, "not enough host memory");
		map->at = at;
		map->size = size;
	}
	map->at[map->count++] = w->run;
	w->run.len = 0;
	return 0;
}

static int add_page(struct walk *w, u64 virt, u64 phys, u64 len)
{
	struct core_mapping *r = &w->run;

	if (r->len && r->virt + r->len == virt && r->phys + r->len == phys) {
		r->len += len;
		return 0;
	}
	if (append(w))
		return -1;
	/* the last page of all would make a sum of 2^64 */
	if (virt <= UINT64_MAX - len)
		*r = (struct core_mapping){ virt, phys, len };
	else if (len > PAGE_SIZE)
		*r = (struct core_mapping){ virt, phys, len - PAGE_SIZE };
	return 0;
}

static u64 entry(const struct walk *w, const u8 *table, unsigned i)
{
	u32 narrow;
	u64 e;

	if (w->wide) {
		memcpy(&e, table + i * 8, 8);
		return e;
	}
	memcpy(&narrow, table + i * 4, 4);
	return narrow;
}

/* Bits of the linear address below those that choose an entry of a table of this level. */
static unsigned shift_of(const struct walk *w, unsigned level)
{
	return w->wide ? 3 + 9 * level : 2 + 10 * level;
}

static bool is_page(const struct walk *w, unsigned level, u64 e)
{
	if (level == 1)
		return true;
	if (!w->wide)
		return w->pse && (e & PTE_PS);
	return level <= 3 && !(w->levels == 3 && level == 3) && (e & PTE_PS);
}

static u64 frame_of(const struct walk *w, unsigned level, u64 e)
{
	u64 span = BIT(shift_of(w, level)) - 1;

	if (!w->wide && level == 2) /* PSE-36: address bits 32 to 39 in bits 13 to 20 */
		return (e & 0xffc00000u) | (e >> 13 & 0xff) << 32;
	return e & w->addr & ~span;
}

static int walk_table(struct walk *w, gpa_t table, unsigned level, u64 virt)
{
	/* of PAE paging the top table has four entries */
	unsigned count = !w->wide ? 1024 : w->levels == 3 && level == 3 ? 4 : 512;
	const u8 *host = memory_ptr(w->mem, table, count * (w->wide ? 8 : 4), false);
	unsigned shift = shift_of(w, level);

	if (!host)
		return 0;
	if (w->map->tables++ >= CORE_TABLES_MAX)
		return too_much(w->e);
	for (unsigned i = 0; i < count; i++) {
		u64 e = entry(w, host, i), at = virt | (u64)i << shift;
		int ret;

		if (!(e & PTE_P))
			continue;
		if (level == w->levels && level > 3 && (i & 256)) /* the upper half: canonical */
			at |= ~(BIT(shift + 9) - 1);
		if (is_page(w, level, e))
			ret = add_page(w, at, frame_of(w, level, e), BIT(shift));
		else
			ret = walk_table(w, e & w->addr, level - 1, at);
		if (ret)
			return -1;
	}
	return 0;
}

static bool seen(struct core_map *map, const struct cpu *c, u64 top)
{
	for (unsigned i = 0; i < map->seen_count; i++)
		if (map->seen[i][0] == top && map->seen[i][1] == c->cr4)
			return true;
	if (map->seen_count < ARRAY_SIZE(map->seen)) {
		map->seen[map->seen_count][0] = top;
		map->seen[map->seen_count++][1] = c->cr4;
	}
	return false;
}

int core_map_add(struct core_map *map, struct memory *mem, const struct cpu *c, unsigned phys_bits, struct error *e)
{
	struct walk w = {
		.map = map,
		.mem = mem,
		.addr = (BIT(phys_bits) - 1) & PAGE_MASK,
		.wide = c->cr4 & CR4_PAE,
		.pse = c->cr4 & CR4_PSE,
		.levels = 2,
		.e = e,
	};
	u64 top = c->cr3 & w.addr;

	if (!(c->cr0 & CR0_PG))
		return 0;
	if (w.wide && (c->efer & EFER_LMA)) {
		w.levels = c->cr4 & CR4_LA57 ? 5 : 4;
	} else if (w.wide) {
		w.levels = 3;
		top = c->cr3 & 0xffffffe0u;
	} else {
		w.addr = 0xfffff000u;
		top = c->cr3 & w.addr;
	}
	if (seen(map, c, top))
		return 0;
	return walk_table(&w, top, w.levels, 0) ? -1 : append(&w);
}

static int compare(const void *a, const void *b)
{
	const struct core_mapping *x = a, *y = b;

	if (x->virt != y->virt)
		return x->virt < y->virt ? -1 : 1;
	if (x->phys != y->phys)
		return x->phys < y->phys ? -1 : 1;
	return x->len < y->len ? 1 : x->len > y->len ? -1 : 0;
}

/* `b`, which begins at or behind `a`, goes on or lies within it: the kernel's half is in the tables of all. */
static bool join(struct core_mapping *a, const struct core_mapping *b)
{
	u64 end = b->virt + b->len;

	if (b->virt > a->virt + a->len || b->phys - a->phys != b->virt - a->virt)
		return false;
	if (end > a->virt + a->len)
		a->len = end - a->virt;
	return true;
}

int core_map_finish(struct core_map *map, struct error *e)
{
	size_t n = 0;

	if (map->count)
		qsort(map->at, map->count, sizeof(*map->at), compare);
	for (size_t i = 0; i < map->count; i++) {
		if (n && join(&map->at[n - 1], &map->at[i]))
			continue;
		map->at[n++] = map->at[i];
	}
	map->count = n;
	return n > CORE_MAPPINGS_MAX ? too_much(e) : 0;
}
