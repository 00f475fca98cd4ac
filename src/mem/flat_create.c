/* Construction of the flat translation tables: reservations only, no table page has memory yet. */
#include <sys/mman.h>

#include "base/reclaim.h"
#include "mem/flat_priv.h"
#include "mem/physmem_priv.h"

static void *reserve(u64 size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/*
 * At offsets where RAM is not placed, if there is room, so that another machine finds its windows free however many
 * processors there are here: what is left of a window holds four times the tables of one with all its sets.
 */
static void *reserve_tables(u64 size)
{
	for (unsigned window = PLACE_WINDOWS; window--;) {
		u64 at = ((u64)window << PLACE_WINDOW_BITS) + PLACE_OFF_LAST, end = ((u64)window + 1)
										    << PLACE_WINDOW_BITS;

		for (; at + size <= end; at += size) {
			void *p = mmap((void *)at, size, PROT_NONE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

			if (p == (void *)at)
				return p;
			if (p != MAP_FAILED)
				munmap(p, size);
		}
	}
	return reserve(size, PROT_NONE);
}

/* Many processors have fewer address spaces each: 64 of them are to find room. */
static void set_sizes(struct flat *f, unsigned processors)
{
	f->users = processors <= 4 ? FLAT_USERS : processors <= 16 ? FLAT_USERS / 2 : FLAT_USERS / 4;
	f->pages_max = MIN(FLAT_PAGES_MAX, FLAT_PAGES_ALL / processors);
}

static void release(struct flat *f, struct reclaim *later)
{
	if (f->tables_map)
		reclaim_later(later, f->tables_map, flat_tables_map_size(f));
	if (f->map_map)
		reclaim_later(later, f->map_map, flat_map_map_size(f));
	if (f->hint)
		reclaim_later(later, f->hint, f->hint_size);
	reclaim_later(later, f, sizeof(*f));
}

static bool map_tables(struct flat *f)
{
	u16 *map;

	f->hint_size = (f->ram_size >> PAGE_SHIFT) * sizeof(struct frame_hint);
	f->tables_map = reserve_tables(flat_tables_map_size(f));
	f->map_map = reserve(flat_map_map_size(f), PROT_READ | PROT_WRITE);
	f->hint = reserve(f->hint_size, PROT_READ | PROT_WRITE);
	if (!f->tables_map || !f->map_map || !f->hint)
		return false;
	f->tables = (u8 *)(((uintptr_t)f->tables_map + GiB - 1) & ~(GiB - 1));
	map = f->map_map;
	for (unsigned n = 0; n < flat_set_count(f); n++) {
		struct flat_set *s = &f->set[flat_set_number(f, n)];

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
	static _Atomic bool known;
	struct flat *f = known ? NULL : reserve(sizeof(*f), PROT_READ | PROT_WRITE);
	bool found;

	if (!f)
		return known;
	f->ram_size = PAGE_SIZE;
	set_sizes(f, 1);
	found = memory_place_possible() && map_tables(f);
	release(f, NULL);
	known = found;
	return found;
}

int flat_create(struct vcpu *v, const struct flat_listener *l, struct error *e)
{
	const struct memory *m = v->mem;
	struct flat *f;

	if (!m->place_len)
		return error_set(e, FLAT_NO_ROOM "; use --engine interp");
	f = reserve(sizeof(*f), PROT_READ | PROT_WRITE);
	if (!f)
		return error_set(e, "translation tables: out of memory");
	f->ram = m->ram;
	f->ram_size = m->ram_size;
	f->hole_high = (u32)(m->place_off >> 32);
	f->listener = *l;
	set_sizes(f, v->group ? v->group->count : 1);
	if (!map_tables(f)) {
		release(f, NULL);
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
	release(m->mmu.flat, vcpu_reclaim(v));
	m->mmu.flat = NULL;
	m->mmu.flat_base = NULL;
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++)
		m->flat_base_of[i] = NULL;
}

unsigned flat_set_count(const struct flat *f)
{
	return f->users + FLAT_SETS - FLAT_USERS;
}

u8 *flat_set_base(const struct flat *f, unsigned n)
{
	return f->set[flat_set_number(f, n)].base;
}

bool flat_set_used(const struct flat *f, unsigned n)
{
	unsigned set = flat_set_number(f, n);

	return set >= FLAT_USERS || f->set[set].used;
}

const struct flat_stats *flat_stats(const struct flat *f)
{
	return &f->stats;
}
