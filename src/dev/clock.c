/*
 * Guest time and its events (contract in dev/clock.h).
 *
 * Time is kept in whole nanoseconds. Every counter a guest can read is
 * derived from it by floor(ns * hz / 10^9), computed exactly: with
 * ns = s * 10^9 + f the result is s * hz + floor(f * hz / 10^9), and f * hz
 * fits in 64 bits for any hz up to HZ_MAX. The only divisions are by a
 * constant, so that RDTSC costs a few multiplications.
 *
 * The inverse rounds up: clock_ticks_to_ns(t) is the first nanosecond at
 * which the counter has reached t. A timer armed there never fires early and
 * never has to be armed again.
 *
 * Armed timers are in a binary heap ordered by deadline, then by the order of
 * arming; each knows its place in the heap.
 */
#include "dev/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "replay/door.h"

#define HZ_MAX 18000000000ull
#define NOT_ARMED SIZE_MAX

struct timer {
	struct clock *clock;
	const char *name;
	timer_fn fn;
	void *opaque;
	u64 deadline, seq;
	size_t pos; /* index in the heap, or NOT_ARMED */
	u32 id;	    /* order of creation */
};

struct clock {
	enum clock_kind kind;
	struct door *door;
	const u64 *icount;
	u64 tsc_hz;
	/* Guest time = source + offset, modulo 2^64; the source is the door's
	 * monotonic clock or *icount. While a real clock is stopped, `offset`
	 * alone is the time. */
	u64 offset;
	bool stopped;
	u64 last;		       /* real clock: time never is below */
	u64 stopped_at;		       /* the source, then */
	u64 stopped_wall, loaded_wall; /* the host's wall clock at the stop; see clock_loaded_wall() */

	struct timer **heap;
	size_t count, cap;
	size_t timers; /* created: the heap has room for all of them */
	u64 seq;
	u32 next_id;
	bool running; /* inside clock_run() */
	void (*change)(void *);
	void *change_opaque;
};

static u64 source(const struct clock *c)
{
	if (c->kind == CLOCK_KIND_VIRTUAL)
		return *c->icount;
	return c->stopped ? 0 : door_monotonic_ns(c->door);
}

struct clock *clock_create(enum clock_kind kind, struct door *door, const u64 *icount, u64 tsc_hz)
{
	assert(tsc_hz > 0 && tsc_hz <= HZ_MAX);
	assert(kind == CLOCK_KIND_REAL ? door != NULL : icount != NULL);
	struct clock *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->kind = kind;
	c->door = door;
	c->icount = icount;
	c->tsc_hz = tsc_hz;
	c->offset = 0 - source(c);
	return c;
}

void clock_set_source(struct clock *c, const u64 *icount)
{
	if (c->kind == CLOCK_KIND_VIRTUAL)
		c->offset += *c->icount - *icount;
	c->icount = icount;
}

void clock_destroy(struct clock *c)
{
	if (!c)
		return;
	free(c->heap);
	free(c);
}

enum clock_kind clock_kind(const struct clock *c)
{
	return c->kind;
}

u64 clock_now(struct clock *c)
{
	u64 now = source(c) + c->offset;

	if (c->kind == CLOCK_KIND_VIRTUAL)
		return now;
	/* The host's clock never goes back, on any thread; `last` is from before a stop or a restore. */
	return MAX(now, c->last);
}

u64 clock_ns_to_ticks(u64 ns, u64 hz)
{
	assert(hz <= HZ_MAX);
	unsigned __int128 t = (unsigned __int128)(ns / NSEC_PER_SEC) * hz + ns % NSEC_PER_SEC * hz / NSEC_PER_SEC;

	return t > UINT64_MAX ? UINT64_MAX : (u64)t;
}

u64 clock_ticks_to_ns(u64 ticks, u64 hz)
{
	assert(hz > 0 && hz <= HZ_MAX);
	unsigned __int128 ns = (unsigned __int128)(ticks / hz) * NSEC_PER_SEC;

	ns += (ticks % hz * NSEC_PER_SEC + hz - 1) / hz;
	return ns > CLOCK_NEVER ? CLOCK_NEVER : (u64)ns;
}

u64 clock_tsc(struct clock *c)
{
	return clock_ns_to_ticks(clock_now(c), c->tsc_hz);
}

u64 clock_tsc_hz(const struct clock *c)
{
	return c->tsc_hz;
}

u64 clock_tsc_to_ns(const struct clock *c, u64 tsc)
{
	return clock_ticks_to_ns(tsc, c->tsc_hz);
}

void clock_stop(struct clock *c)
{
	if (c->kind == CLOCK_KIND_VIRTUAL || c->stopped)
		return;
	c->stopped_at = source(c);
	c->last = c->offset = MAX(c->stopped_at + c->offset, c->last);
	c->stopped = true;
	c->stopped_wall = door_wall_ns(c->door);
}

void clock_start(struct clock *c)
{
	if (!c->stopped)
		return;
	c->stopped = false;
	c->offset -= source(c);
}

void clock_start_late(struct clock *c)
{
	if (!c->stopped)
		return;
	c->stopped = false;
	c->offset -= c->stopped_at;
}

void clock_advance(struct clock *c, u64 ns)
{
	assert(c->kind == CLOCK_KIND_REAL);
	c->last = clock_now(c) + ns;
	c->offset += ns;
	if (c->change)
		c->change(c->change_opaque);
}

void clock_warp(struct clock *c, u64 ns)
{
	assert(c->kind == CLOCK_KIND_VIRTUAL);
	u64 now = clock_now(c);

	if (ns > now)
		c->offset += ns - now;
}

/* ---- the heap ---- */

static bool before(const struct timer *a, const struct timer *b)
{
	return a->deadline != b->deadline ? a->deadline < b->deadline : a->seq < b->seq;
}

static void place(struct clock *c, size_t pos, struct timer *t)
{
	c->heap[pos] = t;
	t->pos = pos;
}

/* Puts `t` where it belongs, given a free place at `pos`. */
static void sift(struct clock *c, size_t pos, struct timer *t)
{
	while (pos > 0 && before(t, c->heap[(pos - 1) / 2])) {
		place(c, pos, c->heap[(pos - 1) / 2]);
		pos = (pos - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * pos + 1;

		if (child + 1 < c->count && before(c->heap[child + 1], c->heap[child]))
			child++;
		if (child >= c->count || !before(c->heap[child], t))
			break;
		place(c, pos, c->heap[child]);
		pos = child;
	}
	place(c, pos, t);
}

static void unlink_timer(struct timer *t)
{
	struct clock *c = t->clock;
	size_t pos = t->pos;

	if (pos == NOT_ARMED)
		return;
	t->pos = NOT_ARMED;
	struct timer *last = c->heap[--c->count];

	if (last != t)
		sift(c, pos, last);
}

struct timer *timer_create_on(struct clock *c, const char *name, timer_fn fn, void *opaque)
{
	struct timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	/* Room is made here so that arming cannot fail. */
	if (c->timers == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 16;
		struct timer **heap = realloc(c->heap, cap * sizeof(*heap));

		if (!heap) {
			free(t);
			return NULL;
		}
		c->heap = heap;
		c->cap = cap;
	}
	c->timers++;
	*t = (struct timer){ .clock = c, .name = name, .fn = fn, .opaque = opaque, .pos = NOT_ARMED };
	t->id = c->next_id++;
	return t;
}

void timer_free(struct timer *t)
{
	if (!t)
		return;
	unlink_timer(t);
	t->clock->timers--;
	free(t);
}

void timer_arm(struct timer *t, u64 deadline_ns)
{
	struct clock *c = t->clock;
	u64 earliest = clock_next_deadline(c);

	unlink_timer(t);
	t->deadline = deadline_ns;
	t->seq = c->seq++;
	c->count++;
	sift(c, c->count - 1, t);
	if (deadline_ns < earliest && c->change && !c->running)
		c->change(c->change_opaque);
}

void timer_cancel(struct timer *t)
{
	unlink_timer(t);
}

bool timer_armed(const struct timer *t)
{
	return t->pos != NOT_ARMED;
}

u64 timer_deadline(const struct timer *t)
{
	return timer_armed(t) ? t->deadline : CLOCK_NEVER;
}

u64 clock_next_deadline(const struct clock *c)
{
	return c->count ? c->heap[0]->deadline : CLOCK_NEVER;
}

void clock_on_change(struct clock *c, void (*fn)(void *), void *opaque)
{
	c->change = fn;
	c->change_opaque = opaque;
}

/* Time is read once: timers that arm themselves again at most catch up with
 * that moment, so the loop ends. */
void clock_run(struct clock *c)
{
	if (!c->count)
		return;
	u64 now = clock_now(c);

	c->running = true;
	while (c->count && c->heap[0]->deadline <= now && c->heap[0]->deadline != CLOCK_NEVER) {
		struct timer *t = c->heap[0];

		unlink_timer(t);
		t->fn(t->opaque);
	}
	c->running = false;
}

/*
 * ---- state: section "clock", version 2: kind u8, now u64, and the host's wall
 * clock at that moment u64, ns since 1970, 0 with the virtual clock ----
 *
 * Version 1 had no wall clock.
 */

void clock_save(const struct clock *c, struct encoder *e)
{
	enc_begin(e, "clock", 2);
	enc_u8(e, (u8)c->kind);
	enc_u64(e, source(c) + c->offset);
	if (c->kind == CLOCK_KIND_VIRTUAL)
		enc_u64(e, 0);
	else
		enc_u64(e, c->stopped ? c->stopped_wall : door_wall_ns(c->door));
	enc_end(e);
}

int clock_check(struct decoder *d)
{
	struct decoder in;

	if (!dec_begin(d, "clock", &in) || in.version < 1 || in.version > 2 || dec_u8(&in) > CLOCK_KIND_VIRTUAL)
		return -1;
	dec_u64(&in);
	if (in.version > 1)
		dec_u64(&in);
	return dec_done(&in) ? 0 : -1;
}

/* The kind is not taken over: a machine may be restored under another clock. */
void clock_load(struct clock *c, struct decoder *d)
{
	struct decoder in;

	if (!dec_begin(d, "clock", &in))
		return;
	dec_u8(&in);
	c->last = dec_u64(&in);
	c->offset = c->last - source(c);
	c->loaded_wall = in.version > 1 ? dec_u64(&in) : 0;
}

u64 clock_loaded_wall(const struct clock *c)
{
	return c->kind == CLOCK_KIND_REAL ? c->loaded_wall : 0;
}

/*
 * ---- the order of timers: section "timers", version 1: count u32, then the ids
 * of armed timers in the order in which they were armed ----
 *
 * Timers of one deadline fire in that order, and devices arm theirs again in the
 * order in which they are loaded.
 */

static int by_seq(const void *a, const void *b)
{
	const struct timer *x = *(struct timer *const *)a, *y = *(struct timer *const *)b;

	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

void clock_save_order(const struct clock *c, struct encoder *e)
{
	struct timer **sorted = malloc((c->count + 1) * sizeof(*sorted));

	enc_begin(e, "timers", 1);
	enc_u32(e, (u32)c->count);
	if (sorted) {
		memcpy(sorted, c->heap, c->count * sizeof(*sorted));
		qsort(sorted, c->count, sizeof(*sorted), by_seq);
	}
	for (size_t i = 0; sorted && i < c->count; i++)
		enc_u32(e, sorted[i]->id);
	e->failed |= !sorted;
	enc_end(e);
	free(sorted);
}

int clock_check_order(const struct clock *c, struct decoder *d)
{
	struct decoder in;
	u32 n;

	if (!dec_begin(d, "timers", &in) || in.version != 1)
		return -1;
	n = dec_u32(&in);
	if (n > c->timers)
		return -1;
	while (n--)
		if (dec_u32(&in) >= c->next_id)
			return -1;
	return dec_done(&in) ? 0 : -1;
}

/* Timers that are not named come last. */
void clock_load_order(struct clock *c, struct decoder *d)
{
	struct decoder in;
	size_t armed = c->count;
	u32 n;

	if (!dec_begin(d, "timers", &in))
		return;
	n = dec_u32(&in);
	for (size_t i = 0; i < armed; i++)
		c->heap[i]->seq += n;
	c->seq += n;
	for (u32 k = 0; k < n; k++) {
		u32 id = dec_u32(&in);

		for (size_t i = 0; i < armed; i++)
			if (c->heap[i]->id == id)
				c->heap[i]->seq = k;
	}
	/* a heap again, from the front */
	for (c->count = 0; c->count < armed;) {
		struct timer *t = c->heap[c->count];

		c->count++;
		sift(c, c->count - 1, t);
	}
}
