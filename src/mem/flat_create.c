/* Construction of the flat translation tables: reservations only, no table page has memory yet. */
#include <stdlib.h>
#include <sys/mman.h>

#include "mem/flat_priv.h"
#include "mem/physmem_priv.h"

static void *reserve(u64 size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void release(struct flat *f)
{
	if (f->tables_map)
		munmap(f->tables_map, FLAT_TABLES_MAP_SIZE);
	if (f->map_map)
		munmap(f->map_map, FLAT_MAP_MAP_SIZE);
	if (f->hint)
		munmap(f->hint, f->hint_size);
	free(f);
}

static bool map_tables(struct flat *f)
{
	u16 *map;

	f->hint_size = (f->ram_size >> PAGE_SHIFT) * sizeof(struct frame_hint);
	f->tables_map = reserve(FLAT_TABLES_MAP_SIZE, PROT_NONE);
	f->map_map = reserve(FLAT_MAP_MAP_SIZE, PROT_READ | PROT_WRITE);
	f->hint = reserve(f->hint_size, PROT_READ | PROT_WRITE);
	if (!f->tables_map || !f->map_map || !f->hint)
		return false;
	f->tables = (u8 *)(((uintptr_t)f->tables_map + GiB - 1) & ~(GiB - 1));
	map = f->map_map;
	for (unsigned n = 0; n < FLAT_SETS; n++) {
		struct flat_set *s = &f->set[n];

		s->base = f->tables + n * FLAT_SPAN + FLAT_BELOW;
		for (unsigned kind = 0; kind < TABLE_KINDS; kind++, map += BIT(TABLE_PAGES_BITS))
			s->map[kind] = map;
		if (mprotect(s->base, FLAT_AUX_SIZE, PROT_READ | PROT_WRITE))
			return false;
	}
	return true;
}

bool flat_possible(void)
{
	struct flat *f = calloc(1, sizeof(*f));
	bool found;

	if (!f)
		return false;
	f->ram_size = PAGE_SIZE;
	found = memory_place_possible() && map_tables(f);
	release(f);
	return found;
}

int flat_create(struct vcpu *v, const struct flat_listener *l, struct error *e)
{
	const struct memory *m = v->mem;
	struct flat *f;

	if (!m->place_len)
		return error_set(e, FLAT_NO_ROOM "; use --engine interp");
	f = calloc(1, sizeof(*f));
	if (!f)
		return error_set(e, "translation tables: out of memory");
	f->ram = m->ram;
	f->ram_size = m->ram_size;
	f->hole_high = (u32)(m->place_off >> 32);
	f->listener = *l;
	if (!map_tables(f)) {
		release(f);
		return error_set(e, FLAT_NO_ROOM "; use --engine interp");
	}
	v->mmu->flat = f;
	flat_choose_sets(v);
	return 0;
}

void flat_destroy(struct vcpu *v)
{
	struct mmu_impl *m = mmu_impl(v);

	if (!m || !m->mmu.flat)
		return;
	release(m->mmu.flat);
	m->mmu.flat = NULL;
	m->mmu.flat_base = NULL;
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++)
		m->flat_base_of[i] = NULL;
}

unsigned flat_set_count(const struct flat *f)
{
	return FLAT_SETS;
}

u8 *flat_set_base(const struct flat *f, unsigned n)
{
	return f->set[n].base;
}

const struct flat_stats *flat_stats(const struct flat *f)
{
	return &f->stats;
}
