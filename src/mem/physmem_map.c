/*
 * The guest-physical map, changing side: regions, and the flat view built from
 * them. Ordinary C; called at construction and from device handlers.
 *
 * The flat view is rebuilt as a whole on every change. Maps have tens of
 * regions and change when firmware places BARs, so the quadratic sweep (about
 * 10 us for 50 regions) is not worth anything cleverer.
 */
#include "mem/physmem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/world.h"
#include "mem/physmem_priv.h"

static void region_free(struct region *r)
{
	if (r->own_flags)
		free(r->flags);
	free(r);
}

void memory_destroy(struct memory *m)
{
	if (!m)
		return;
	for (u32 i = 0; i < m->region_count; i++)
		region_free(m->region[i]);
	while (m->spare) {
		struct region *r = m->spare;

		m->spare = r->opaque;
		region_free(r);
	}
	free(m->region);
	free(m->range);
	memory_free_ram(m);
	free(m);
}

/* Last address a region decodes; regions do not wrap around 2^64. */
static gpa_t region_last(const struct region *r)
{
	gpa_t last;

	return __builtin_add_overflow(r->gpa, r->len - 1, &last) ? UINT64_MAX : last;
}

static const struct region *region_winner(const struct memory *m, gpa_t gpa)
{
	const struct region *best = NULL;

	for (u32 i = 0; i < m->region_count; i++) {
		const struct region *r = m->region[i];

		if (!r->visible || !r->len || gpa < r->gpa || gpa > region_last(r))
			continue;
		if (!best || r->prio > best->prio || (r->prio == best->prio && r->seq > best->seq))
			best = r;
	}
	return best;
}

/* First address above `gpa` where some region starts or has just ended; 0 if none. */
static gpa_t next_border(const struct memory *m, gpa_t gpa)
{
	gpa_t next = 0;

	for (u32 i = 0; i < m->region_count; i++) {
		const struct region *r = m->region[i];
		gpa_t border[2] = { r->gpa, region_last(r) + 1 };

		if (!r->visible || !r->len)
			continue;
		for (unsigned k = 0; k < 2; k++)
			if (border[k] > gpa && (!next || border[k] < next))
				next = border[k];
	}
	return next;
}

static void add_range(struct memory *m, const struct region *r, gpa_t first, gpa_t last)
{
	struct flat_range *prev = m->range_count ? &m->range[m->range_count - 1] : NULL;

	if (prev && prev->region == r && prev->last + 1 == first) {
		prev->last = last;
		return;
	}
	assert(m->range_count < m->range_cap);
	m->range[m->range_count++] = (struct flat_range){
		.first = first,
		.last = last,
		.addend = r->host ? (uintptr_t)r->host - r->gpa : 0,
		.base = r->gpa,
		.flags = r->flags,
		.region = (struct region *)r,
		.kind = r->kind,
	};
}

void memory_set_world(struct memory *m, struct world *w)
{
	m->world = w;
}

u64 memory_map_stops(const struct memory *m)
{
	return m->world_stops;
}

/* What others look up changes in between. */
static void begin_change(struct memory *m)
{
	if (!m->world)
		return;
	world_stop(m->world, world_self);
	m->world_stops++;
}

static void end_change(struct memory *m)
{
	if (m->world)
		world_go(m->world, world_self);
}

static void clear_flags(u8 *of, u64 frames, u8 flags)
{
	const u64 eight = 0x0101010101010101ull * flags;

	/* most were never written and have no memory */
	for (u64 n = 0; n < frames; n += 8) {
		u64 some = 0;

		memcpy(&some, of + n, MIN(8, frames - n));
		if (!(some & eight))
			continue;
		some &= ~eight;
		memcpy(of + n, &some, MIN(8, frames - n));
	}
}

void memory_clear_flags(struct memory *m, u8 flags)
{
	clear_flags(m->frame_flags, m->ram_size >> PAGE_SHIFT, flags);
	for (u32 n = 0; n < m->region_count; n++)
		if (m->region[n]->own_flags)
			clear_flags(m->region[n]->flags, m->region[n]->max_len >> PAGE_SHIFT, flags);
}

static void rebuild(struct memory *m)
{
	gpa_t at = 0, next;

	m->range_count = 0;
	m->hint = 0;
	do {
		const struct region *r = region_winner(m, at);

		next = next_border(m, at);
		if (r)
			add_range(m, r, at, next - 1);
		at = next;
	} while (next);
	for (u32 i = 0; i < m->listeners; i++)
		if (m->listener[i].map_changed)
			m->listener[i].map_changed(m->listener[i].opaque);
}

/* Room for one more region: n regions give at most 2n borders, so 2n ranges. */
static bool reserve(struct memory *m)
{
	u32 n = m->region_count + 1, cap;

	if (n > m->region_cap) {
		struct region **region;

		cap = MAX(16u, 2 * m->region_cap);
		region = realloc(m->region, cap * sizeof(struct region *));
		if (!region)
			return false;
		m->region = region;
		m->region_cap = cap;
	}
	if (2 * n > m->range_cap) {
		struct flat_range *range;

		cap = 2 * m->region_cap;
		range = realloc(m->range, cap * sizeof(*range));
		if (!range)
			return false;
		m->range = range;
		m->range_cap = cap;
	}
	return true;
}

static struct region *add_region(struct memory *m, const struct region *init, const char *name)
{
	struct region *r = m->spare;

	begin_change(m);
	if (!reserve(m))
		goto fail;
	if (r) {
		m->spare = r->opaque;
		if (r->own_flags)
			free(r->flags);
	} else {
		r = malloc(sizeof(*r));
		if (!r)
			goto fail;
	}
	*r = *init;
	r->mem = m;
	r->visible = true;
	r->seq = m->next_seq++;
	snprintf(r->name, sizeof(r->name), "%s", name);
	m->region[m->region_count++] = r;
	rebuild(m);
	end_change(m);
	return r;
fail:
	end_change(m);
	return NULL;
}

struct region *memory_map_ram(struct memory *m, gpa_t gpa, u64 ram_off, u64 len, int prio, const char *name)
{
	assert(!((gpa | ram_off | len) & ~PAGE_MASK));
	assert(ram_off <= m->ram_size && len <= m->ram_size - ram_off);
	return add_region(m,
			  &(struct region){ .gpa = gpa,
					    .len = len,
					    .max_len = len,
					    .kind = REGION_RAM,
					    .prio = prio,
					    .host = m->ram + ram_off,
					    .flags = m->frame_flags + (ram_off >> PAGE_SHIFT) },
			  name);
}

struct region *memory_map_host(struct memory *m, gpa_t gpa, void *host, u64 len, enum region_kind kind, int prio,
			       const char *name)
{
	struct region *r;
	u8 *flags;

	assert(!((gpa | (uintptr_t)host | len) & ~PAGE_MASK) && kind != REGION_MMIO);
	flags = calloc((len >> PAGE_SHIFT) + 1, 1);
	if (!flags)
		return NULL;
	r = add_region(m,
		       &(struct region){ .gpa = gpa,
					 .len = len,
					 .max_len = len,
					 .kind = (u8)kind,
					 .prio = prio,
					 .host = host,
					 .flags = flags,
					 .own_flags = true },
		       name);
	if (!r)
		free(flags);
	return r;
}

struct region *memory_map_mmio(struct memory *m, gpa_t gpa, u64 len, const struct io_ops *ops, void *opaque, int prio,
			       const char *name)
{
	assert(ops->min_size && ops->min_size <= ops->max_size && ops->max_size <= 8);
	return add_region(m,
			  &(struct region){ .gpa = gpa,
					    .len = len,
					    .max_len = UINT64_MAX,
					    .kind = REGION_MMIO,
					    .prio = prio,
					    .ops = ops,
					    .opaque = opaque },
			  name);
}

void region_set(struct memory *m, struct region *r, gpa_t gpa, bool visible)
{
	bool was = r->visible, moved = r->gpa != gpa;

	assert(r->kind == REGION_MMIO || !(gpa & ~PAGE_MASK));
	if (was == visible && !moved)
		return;
	begin_change(m);
	r->gpa = gpa;
	r->visible = visible;
	if (was || visible)
		rebuild(m);
	end_change(m);
}

void region_set_len(struct memory *m, struct region *r, u64 len)
{
	assert(len <= r->max_len && (r->kind == REGION_MMIO || !(len & ~PAGE_MASK)));
	if (r->len == len)
		return;
	begin_change(m);
	r->len = len;
	if (r->visible)
		rebuild(m);
	end_change(m);
}

void region_remove(struct memory *m, struct region *r)
{
	u32 i = 0;

	while (i < m->region_count && m->region[i] != r)
		i++;
	assert(i < m->region_count);
	begin_change(m);
	m->region[i] = m->region[--m->region_count];
	r->visible = false;
	/* A dispatch in progress may still hold `r`: len 0 refuses what is left of it. */
	r->len = 0;
	rebuild(m);
	r->opaque = m->spare;
	m->spare = r;
	end_change(m);
}

void memory_add_listener(struct memory *m, const struct memory_listener *l)
{
	assert(m->listeners < LISTENER_MAX);
	m->listener[m->listeners++] = *l;
}

void memory_remove_listener(struct memory *m, void *opaque)
{
	u32 kept = 0;

	for (u32 i = 0; i < m->listeners; i++)
		if (m->listener[i].opaque != opaque)
			m->listener[kept++] = m->listener[i];
	m->listeners = kept;
}

unsigned memory_ranges(const struct memory *m, struct memory_range *out, unsigned max)
{
	for (u32 i = 0; i < m->range_count && i < max; i++) {
		const struct flat_range *r = &m->range[i];

		out[i] = (struct memory_range){ r->first, r->last,
						r->kind == REGION_MMIO ? NULL : (u8 *)(r->addend + r->first),
						(enum region_kind)r->kind };
	}
	return m->range_count;
}

void memory_dump(struct memory *m, void (*line)(void *, const char *), void *opaque)
{
	static const char *const kind[] = { "ram", "rom", "mmio" };
	char buf[160];

	for (u32 i = 0; i < m->range_count; i++) {
		const struct flat_range *r = &m->range[i];

		snprintf(buf, sizeof(buf), "%016llx-%016llx %-4s %s +%llx prio %d", (unsigned long long)r->first,
			 (unsigned long long)r->last, kind[r->kind], r->region->name,
			 (unsigned long long)(r->first - r->base), r->region->prio);
		line(opaque, buf);
	}
	for (u32 i = 0; i < m->region_count; i++) {
		const struct region *r = m->region[i];

		if (r->visible && r->len)
			continue;
		snprintf(buf, sizeof(buf), "%016llx+%llx %-4s %s prio %d, hidden", (unsigned long long)r->gpa,
			 (unsigned long long)r->len, kind[r->kind], r->name, r->prio);
		line(opaque, buf);
	}
}
