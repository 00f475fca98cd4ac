/*
 * The guest-physical map, reading side: flat view lookup, RAM copies, MMIO
 * dispatch. Runs while guest vector state may be live; whoever dispatches to a
 * device has parked it (see cpu/fpu.h).
 *
 * Device handlers may change the map while a copy is under way (a BAR moved by
 * DMA into its own configuration window), so no pointer into the flat view is
 * kept across a call out.
 */
#include "mem/physmem.h"
#include "base/world.h"

#include "mem/track_priv.h"

u8 *memory_ram(struct memory *m)
{
	return m->ram;
}
u64 memory_ram_size(const struct memory *m)
{
	return m->ram_size;
}
int memory_ram_fd(const struct memory *m)
{
	return m->fd;
}
const struct memory_stats *memory_stats(const struct memory *m)
{
	return &m->stats;
}

const struct flat_range *flat_search(struct memory *m, gpa_t gpa)
{
	u32 lo = 0, hi = m->range_count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (m->range[mid].last < gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == m->range_count)
		return NULL;
	/* Page walks and fills are nearly all in RAM: device accesses in between do not lose its hint. */
	if (m->range[lo].kind == REGION_RAM)
		__atomic_store_n(&m->hint, lo, __ATOMIC_RELAXED);
	return &m->range[lo];
}

bool memory_page(struct memory *m, gpa_t gpa, struct page_target *t)
{
	const gpa_t first = gpa & PAGE_MASK, last = gpa | ~PAGE_MASK;
	const struct flat_range *r = flat_find(m, first);

	t->host = NULL;
	t->writable = false;
	t->mmio = NULL;
	t->mmio_off = 0;
	t->flags = NULL;
	if (likely(r && r->last >= last && r->kind != REGION_MMIO)) {
		t->host = flat_host(r, first);
		t->writable = r->kind == REGION_RAM;
		t->flags = flat_flags(r, first);
		return true;
	}
	if (!r)
		r = flat_search(m, first);
	if (!r || r->first > last)
		return false;
	/* A region smaller than a page, with nothing else around it, can take the whole page: offsets
	 * outside it (wrapping below zero in front) are refused by the dispatch. */
	if (r->kind == REGION_MMIO && (r->last >= last || r == &m->range[m->range_count - 1] || r[1].first > last)) {
		t->mmio = r->region;
		t->mmio_off = first - r->base;
	} else {
		t->mmio = &m->mixed;
		t->mmio_off = first;
	}
	return true;
}

/* One access within the handler's sizes, or refused. */
static u64 piece_read(struct region *r, u64 off, unsigned size)
{
	if (size < r->ops->min_size || off >= r->len || r->len - off < size)
		return size_mask(size);
	return r->ops->read(r->opaque, off, size) & size_mask(size);
}

static void piece_write(struct region *r, u64 off, u64 val, unsigned size)
{
	if (size < r->ops->min_size || off >= r->len || r->len - off < size)
		return;
	r->ops->write(r->opaque, off, val & size_mask(size), size);
}

/*
 * A guest can point a device's DMA at that device's own registers; each write
 * then starts the next. Real buses refuse sooner or later, and so does this.
 */
#define DISPATCH_DEPTH_MAX 8

static bool enter(struct region *r)
{
	struct memory *m = r->mem;

	guard_lock(&m->guard);
	if (r->kind == REGION_MMIO && m->depth < DISPATCH_DEPTH_MAX) {
		m->depth++;
		return true;
	}
	guard_unlock(&m->guard);
	return false;
}

static void leave(struct memory *m)
{
	m->depth--;
	guard_unlock(&m->guard);
}

void memory_set_guard(struct memory *m, const struct io_guard *g)
{
	m->guard = *g;
}

u64 region_mmio_read(struct region *r, u64 off, unsigned size)
{
	struct memory *m = r->mem;
	unsigned step;
	u64 val = 0;

	if (!enter(r))
		return size_mask(size);
	step = MIN(size, r->ops->max_size);
	if (r != &m->mixed)
		m->stats.mmio_reads++;
	for (unsigned i = 0; i < size; i += step)
		val |= piece_read(r, off + i, step) << (8 * i);
	leave(m);
	return val;
}

void region_mmio_write(struct region *r, u64 off, u64 val, unsigned size)
{
	struct memory *m = r->mem;
	unsigned step;

	if (!enter(r))
		return;
	step = MIN(size, r->ops->max_size);
	if (r != &m->mixed)
		m->stats.mmio_writes++;
	for (unsigned i = 0; i < size; i += step)
		piece_write(r, off + i, val >> (8 * i), step);
	leave(m);
}

static u64 mixed_read(void *opaque, u64 off, unsigned size)
{
	u64 val = 0;

	memory_read(opaque, off, &val, size);
	return val;
}

static void mixed_write(void *opaque, u64 off, u64 val, unsigned size)
{
	memory_write(opaque, off, &val, size);
}

const struct io_ops memory_mixed_ops = { .read = mixed_read, .write = mixed_write, .min_size = 1, .max_size = 8 };

/* Bytes from `gpa` to the end of `len`, of the range, or of the hole (r NULL), whichever is first. */
static u64 span_at(struct memory *m, const struct flat_range *r, gpa_t gpa, u64 len)
{
	u64 to_last;

	if (r) {
		to_last = r->last - gpa;
	} else {
		r = flat_search(m, gpa);
		to_last = r ? r->first - 1 - gpa : ~gpa;
	}
	return to_last >= len ? len : to_last + 1;
}

static void fill_ones(u8 *p, u64 n)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0xff) : "memory");
}

int memory_read(struct memory *m, gpa_t gpa, void *dst, u64 len)
{
	u8 *to = dst;
	int rc = 0;

	while (len) {
		const struct flat_range *r = flat_find(m, gpa);
		u64 n = span_at(m, r, gpa, len);

		if (!r) {
			fill_ones(to, n);
			rc = -1;
		} else if (r->kind != REGION_MMIO) {
			guest_copy(to, flat_host(r, gpa), n);
		} else {
			u64 val;

			n = natural_piece(gpa, n);
			val = region_mmio_read(r->region, gpa - r->base, (unsigned)n);
			guest_copy(to, &val, n);
		}
		gpa += n;
		to += n;
		len -= n;
	}
	return rc;
}

/* Devices write from outside the world as well, where what listeners look through may change under them. */
static bool come_inside(const struct memory *m)
{
	if (likely(!m->world) || world_inside(m->world, world_self))
		return false;
	world_enter(m->world, world_self);
	return true;
}

static void tell_written(struct memory *m, gpa_t gpa, unsigned len)
{
	bool entered = come_inside(m);

	for (u32 i = 0; i < m->listeners; i++)
		if (m->listener[i].page_written)
			m->listener[i].page_written(m->listener[i].opaque, gpa, len);
	if (entered)
		world_leave(m->world, world_self);
}

/* `len` is at most what is left of the address space. */
static void notify(struct memory *m, gpa_t gpa, u64 len)
{
	while (len) {
		u64 n = MIN(len, PAGE_SIZE - (gpa & ~PAGE_MASK));
		const struct flat_range *r = flat_find(m, gpa);

		if (r && r->kind != REGION_MMIO) {
			track_write(m, flat_host(r, gpa), n);
			if (*flat_flags(r, gpa) & PAGE_CODE)
				tell_written(m, gpa, (unsigned)n);
		}
		gpa += n;
		len -= n;
	}
}

/* A processor that decodes code marks its frame and then reads it; a writer writes and then looks at the mark. */
static inline void order_marks(const struct memory *m)
{
	if (unlikely(m->world != NULL))
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void memory_notify_written(struct memory *m, gpa_t gpa, unsigned len)
{
	order_marks(m);
	notify(m, gpa, len);
}

int memory_write(struct memory *m, gpa_t gpa, const void *src, u64 len)
{
	const u8 *from = src;
	int rc = 0;

	while (len) {
		const struct flat_range *r = flat_find(m, gpa);
		u64 n = span_at(m, r, gpa, len);

		if (!r || r->kind == REGION_ROM) {
			rc = -1;
		} else if (r->kind == REGION_RAM) {
			track_write(m, flat_host(r, gpa), n);
			guest_copy(flat_host(r, gpa), from, n);
			order_marks(m);
			notify(m, gpa, n);
		} else {
			u64 val = 0;

			n = natural_piece(gpa, n);
			guest_copy(&val, from, n);
			region_mmio_write(r->region, gpa - r->base, val, (unsigned)n);
		}
		gpa += n;
		from += n;
		len -= n;
	}
	return rc;
}

/* The kernel does not wait for a page that is still to come (mem/missing.h): this thread does. */
static void wait_for_pages(const u8 *host, u64 len)
{
	const u8 *last = (const u8 *)(((uintptr_t)host + len - 1) & PAGE_MASK);

	for (const u8 *p = host; p <= last; p = (const u8 *)((uintptr_t)p & PAGE_MASK) + PAGE_SIZE)
		*(const volatile u8 *)p;
	*(const volatile u8 *)(host + len - 1);
}

void *memory_ptr(struct memory *m, gpa_t gpa, u64 len, bool write)
{
	const struct flat_range *r = flat_find(m, gpa), *end = m->range + m->range_count;
	u8 *host;

	if (!len || !r || r->kind == REGION_MMIO || (write && r->kind == REGION_ROM))
		return NULL;
	host = flat_host(r, gpa);
	/* Neighbours that continue each other in the host count as one piece. */
	while (len - 1 > r->last - gpa) {
		const struct flat_range *next = r + 1;

		if (next == end || next->first != r->last + 1 || next->kind == REGION_MMIO ||
		    (write && next->kind == REGION_ROM) || next->addend != r->addend)
			return NULL;
		r = next;
	}
	if (unlikely(__atomic_load_n(&m->missing, __ATOMIC_RELAXED)))
		wait_for_pages(host, len);
	if (write)
		track_write(m, host, len);
	return host;
}
