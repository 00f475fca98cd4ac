/*
 * A bench for one device: board, ports, memory, a door, a clock moved by hand,
 * interrupt lines that are recorded, and the save/load round trip that every
 * device must pass. Defines a fake clock, so include it in one file of a program.
 */
#ifndef ECTYPE_TESTS_DEV_RIG_H
#define ECTYPE_TESTS_DEV_RIG_H

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "dev/device.h"
#include "fakes.h"
#include "replay/door.h"

#define RIG_LINES 64
#define RIG_TIMERS 32

/* The fake clock. */
struct timer {
	struct clock *clock;
	timer_fn fn;
	void *opaque;
	u64 deadline, order;
	bool armed;
};
struct clock {
	u64 now, order;
	struct timer *timers[RIG_TIMERS];
};

u64 clock_now(struct clock *c)
{
	return c->now;
}
u64 clock_ns_to_ticks(u64 ns, u64 hz)
{
	return (u64)((unsigned __int128)ns * hz / NSEC_PER_SEC);
}
u64 clock_ticks_to_ns(u64 ticks, u64 hz)
{
	return (u64)(((unsigned __int128)ticks * NSEC_PER_SEC + hz - 1) / hz);
}

struct timer *timer_create_on(struct clock *c, const char *name, timer_fn fn, void *opaque)
{
	for (unsigned i = 0; i < RIG_TIMERS; i++)
		if (!c->timers[i]) {
			c->timers[i] = calloc(1, sizeof(struct timer));
			*c->timers[i] = (struct timer){ .clock = c, .fn = fn, .opaque = opaque };
			return c->timers[i];
		}
	return NULL;
}

void timer_free(struct timer *t)
{
	for (unsigned i = 0; i < RIG_TIMERS; i++)
		if (t->clock->timers[i] == t)
			t->clock->timers[i] = NULL;
	free(t);
}

void timer_arm(struct timer *t, u64 deadline_ns)
{
	t->armed = true;
	t->deadline = deadline_ns;
	t->order = t->clock->order++;
}

void timer_cancel(struct timer *t)
{
	t->armed = false;
}
bool timer_armed(const struct timer *t)
{
	return t->armed;
}
u64 timer_deadline(const struct timer *t)
{
	return t->deadline;
}

static struct timer *rig_next_timer(struct clock *c)
{
	struct timer *best = NULL;

	for (unsigned i = 0; i < RIG_TIMERS; i++) {
		struct timer *t = c->timers[i];

		if (t && t->armed &&
		    (!best || t->deadline < best->deadline ||
		     (t->deadline == best->deadline && t->order < best->order)))
			best = t;
	}
	return best;
}

struct rig {
	struct board board;
	struct clock clock;
	bool level[RIG_LINES];
	unsigned rises[RIG_LINES];
	unsigned requests;
	enum board_request last_request;
	int last_value;
	unsigned msis, msi_of[256]; /* messages in all, and by the low byte of their data */
	u64 msi_addr;
	void *extra; /* of a rig built on this one; freed with it */
};

static void rig_line(void *opaque, unsigned n, bool level)
{
	struct rig *r = opaque;

	r->level[n] = level;
	r->rises[n] += level;
}

static void rig_request(void *machine, enum board_request req, int value)
{
	struct rig *r = machine;

	r->requests++;
	r->last_request = req;
	r->last_value = value;
}

static void rig_msi(void *machine, u64 addr, u32 data)
{
	struct rig *r = machine;

	r->msis++;
	r->msi_of[data & 0xff]++;
	r->msi_addr = addr;
}

/* Line `n`, for a constructor. */
static inline struct irq rig_irq(struct rig *r, unsigned n)
{
	return (struct irq){ rig_line, r, n, false };
}

/* What RAM is to be, MEMORY_*: set before this header is included. */
#ifndef RIG_MEMORY
#define RIG_MEMORY 0
#endif

static inline struct rig *rig_create(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	r->board.mem = memory_create_as(2 * MiB, RIG_MEMORY, NULL);
	r->board.ports = portmap_create();
	r->board.clock = &r->clock;
	r->board.door = door_create(DOOR_VIRTUAL, 1);
	r->board.request = rig_request;
	r->board.msi = rig_msi;
	r->board.machine = r;
	memory_map_ram(r->board.mem, 0, 0, 2 * MiB, 0, "ram");
	return r;
}

static inline void rig_destroy(struct rig *r)
{
	struct device *d = r->board.first, *next;

	for (; d; d = next) {
		next = d->next;
		d->ops->destroy(d);
	}
	door_destroy(r->board.door);
	portmap_destroy(r->board.ports);
	memory_destroy(r->board.mem);
	free(r->extra);
	free(r);
}

static inline void rig_out(struct rig *r, u16 port, u32 v)
{
	port_write(r->board.ports, port, v, 1);
}
static inline u8 rig_in(struct rig *r, u16 port)
{
	return port_read(r->board.ports, port, 1);
}

/* Let time pass, firing timers exactly when due (at most `RIG_FIRES` of them). */
#define RIG_FIRES 20000
static inline void rig_to(struct rig *r, u64 ns)
{
	struct timer *t;

	for (unsigned i = 0; i < RIG_FIRES && (t = rig_next_timer(&r->clock)) && t->deadline <= ns; i++) {
		if (t->deadline > r->clock.now)
			r->clock.now = t->deadline;
		t->armed = false;
		t->fn(t->opaque);
	}
	r->clock.now = MAX(r->clock.now, ns);
}
static inline void rig_pass(struct rig *r, u64 ns)
{
	rig_to(r, r->clock.now + ns);
}

static inline struct encoder rig_save(const struct device *d)
{
	struct encoder e;

	enc_init(&e);
	d->ops->save(d, &e);
	assert(!e.failed);
	return e;
}

static inline int rig_check(const struct device *d, const u8 *p, size_t n)
{
	struct decoder in = { .data = p, .len = n };

	return d->ops->check(d, &in);
}

static inline void rig_load(struct device *d, const u8 *p, size_t n)
{
	struct decoder in = { .data = p, .len = n };

	d->ops->load(d, &in);
}

typedef struct device *(*rig_make)(struct rig *r);
typedef void (*rig_poke)(struct rig *r, struct device *d);

/*
 * Construct, poke, save, construct anew, check (which must change nothing),
 * load, save: the same bytes. Truncated records are refused; ones with a bit
 * flipped are refused, or load and keep running.
 */
static inline void rig_roundtrip(rig_make make, rig_poke poke)
{
	struct rig *a = rig_create(), *b = rig_create();
	struct device *da = make(a), *db = make(b);
	struct encoder saved, before, after;
	size_t flips, step;
	u8 *bad;

	poke(a, da);
	saved = rig_save(da);
	before = rig_save(db);
	b->clock.now = a->clock.now;
	assert(rig_check(db, saved.data, saved.len) == 0);
	after = rig_save(db);
	assert(before.len == after.len && !memcmp(before.data, after.data, after.len));
	enc_free(&after);
	rig_load(db, saved.data, saved.len);
	after = rig_save(db);
	assert(saved.len == after.len && !memcmp(saved.data, after.data, after.len));
	/* both go on alike */
	poke(a, da);
	poke(b, db);
	enc_free(&before);
	enc_free(&after);
	before = rig_save(da);
	after = rig_save(db);
	assert(before.len == after.len && !memcmp(before.data, after.data, after.len));

	step = saved.len / 512 + 1;
	for (size_t n = 0; n < saved.len; n += step) {
		u8 *cut = malloc(n ? n : 1); /* exact size: a sanitizer sees a read beyond */

		memcpy(cut, saved.data, n);
		assert(rig_check(db, cut, n) != 0);
		free(cut);
	}
	bad = malloc(saved.len);
	flips = saved.len * 8;
	for (size_t i = 0; i < flips; i += flips / 4096 + 1) {
		memcpy(bad, saved.data, saved.len);
		bad[i / 8] ^= 1u << i % 8;
		if (rig_check(db, bad, saved.len) == 0) {
			rig_load(db, bad, saved.len);
			if (i % 7 == 0)
				poke(b, db);
			db->ops->reset(db);
		}
	}
	free(bad);
	enc_free(&saved);
	enc_free(&before);
	enc_free(&after);
	rig_destroy(a);
	rig_destroy(b);
}

#endif
