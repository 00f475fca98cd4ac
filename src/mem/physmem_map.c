/*
 * The guest-physical map, changing side: creation, regions, and the flat view
 * built from them. Ordinary C; called at construction and from device handlers.
 *
 * The flat view is rebuilt as a whole on every change. Maps have tens of
 * regions and change when firmware places BARs, so the quadratic sweep (about
 * 10 us for 50 regions) is not worth anything cleverer.
 */
#include "mem/physmem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/world.h"
#include "mem/physmem_priv.h"

/* "512M", "4G": as one would type it. */
static void format_size(char *buf, size_t n, u64 size)
{
	if (size && size % GiB == 0)
		snprintf(buf, n, "%lluG", (unsigned long long)(size / GiB));
	else if (size && size % MiB == 0)
		snprintf(buf, n, "%lluM", (unsigned long long)(size / MiB));
	else
		snprintf(buf, n, "%llu", (unsigned long long)size);
}

static int check_host(u64 size, struct error *e)
{
	static const struct {
		int resource;
		const char *what;
	} limit[] = {
		{ RLIMIT_AS, "the address-space limit (ulimit -v)" },
		{ RLIMIT_FSIZE, "the file-size limit (ulimit -f), which counts for shared memory," },
	};
	struct sysinfo si;
	struct rlimit rl;
	char name[32];

	format_size(name, sizeof(name), size);
	if (!size || size % PAGE_SIZE)
		return error_set(e, "memory %s: must be a positive multiple of 4 KiB", name);
	if (sysinfo(&si) == 0 && size / si.mem_unit > si.totalram)
		return error_set(e, "memory %s: this host has %.1f GiB; use a smaller --memory", name,
				 (double)si.totalram * si.mem_unit / (double)GiB);
	for (unsigned i = 0; i < ARRAY_SIZE(limit); i++) {
		if (getrlimit(limit[i].resource, &rl) == 0 && rl.rlim_cur != RLIM_INFINITY && size > rl.rlim_cur)
			return error_set(e, "memory %s: %s is %.1f GiB; raise it or use a smaller --memory", name,
					 limit[i].what, (double)rl.rlim_cur / (double)GiB);
	}
	return 0;
}

struct memory *memory_create(u64 size, struct error *e)
{
	char name[32];
	struct memory *m;
	void *ram = MAP_FAILED;
	int err;

	if (check_host(size, e))
		return NULL;
	format_size(name, sizeof(name), size);
	m = calloc(1, sizeof(*m));
	if (!m) {
		error_errno(e, ENOMEM, "memory %s", name);
		return NULL;
	}
	m->ram_size = size;
	m->mixed = (struct region){
		.mem = m, .len = UINT64_MAX, .kind = REGION_MMIO, .ops = &memory_mixed_ops, .opaque = m, .name = "mixed"
	};
	m->range_cap = 1;
	/* Its size is final: a process it is shared with could else cut it off under us. */
	m->fd = memfd_create("ectype-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->fd >= 0 && ftruncate(m->fd, (off_t)size) == 0 &&
	    fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		ram = memory_place(m) ? m->ram : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	err = errno;
	if (ram != MAP_FAILED) {
		m->ram = ram;
		err = ENOMEM;
		m->range = calloc(m->range_cap, sizeof(*m->range));
		/* One byte a frame; large callocs come untouched from the kernel. */
		m->frame_flags = calloc(size >> PAGE_SHIFT, 1);
	}
	if (!m->ram || !m->range || !m->frame_flags) {
		error_errno(e, err, "memory %s: cannot allocate guest RAM; use a smaller --memory", name);
		memory_destroy(m);
		return NULL;
	}
	return m;
}

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
	free(m->frame_flags);
	if (m->place_len)
		memory_unplace(m);
	else if (m->ram)
		munmap(m->ram, m->ram_size);
	if (m->fd >= 0)
		close(m->fd);
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

/* Where the host cannot punch a hole (a signal in the way is none), the zeros are written: the guest sees no
 * difference. */
static void punch(struct memory *m, u64 off, u64 len)
{
	int r;

	do
		r = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		memset(m->ram + off, 0, len);
}

int memory_discard(struct memory *m, gpa_t gpa, u64 len)
{
	u64 off = (uintptr_t)memory_ptr(m, gpa, len, true) - (uintptr_t)m->ram;

	/* no pointer, and memory that is not from the memfd, is an offset beyond RAM */
	if (((gpa | len) & ~PAGE_MASK) || off >= m->ram_size || len > m->ram_size - off)
		return -1;
	punch(m, off, len);
	for (u64 at = 0; at < len; at += GiB)
		memory_notify_written(m, gpa + at, (unsigned)MIN(len - at, GiB));
	return 0;
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
