/*
 * Records are a 32-bit length and the packet, at multiples of 8 bytes. What
 * does not fit before the end of the ring starts at its beginning, behind a
 * record of length SKIP.
 *
 * Positions count bytes since the start and are taken modulo the size. Sleeping
 * is Dekker's scheme: a side sets its flag, then looks once more; the other
 * moves its position, then looks at the flag. All four are sequentially
 * consistent.
 */
#include "backend/net/ring.h"

#include <assert.h>
#include <stdlib.h>

#define HEAD 8u
#define SKIP 0xffffffffu

int net_ring_init(struct net_ring *r, u32 size)
{
	assert(size && !(size & (size - 1)));
	r->data = aligned_alloc(64, size);
	r->size = size;
	net_ring_clear(r);
	return r->data ? 0 : -1;
}

void net_ring_free(struct net_ring *r)
{
	free(r->data);
	r->data = NULL;
}

void net_ring_clear(struct net_ring *r)
{
	atomic_store(&r->head, 0);
	atomic_store(&r->tail, 0);
	atomic_store(&r->want_data, true); /* as if it had been looked at before */
	atomic_store(&r->want_room, false);
}

static u32 record(u32 len)
{
	return (HEAD + len + 7) & ~7u;
}

static u32 *length_at(const struct net_ring *r, u64 at)
{
	return (u32 *)(r->data + (at & (r->size - 1)));
}

/* Where a packet of `len` bytes would lie, from `head` on: behind a skip, if it would cross the end. */
static u64 place(const struct net_ring *r, u64 head, u32 len)
{
	u32 left = r->size - (u32)(head & (r->size - 1));

	return record(len) <= left ? head : head + left;
}

static bool fits(const struct net_ring *r, u64 head, u64 tail, u32 len)
{
	return place(r, head, len) + record(len) - tail <= r->size;
}

u8 *net_ring_reserve(struct net_ring *r, u32 len)
{
	u64 head = atomic_load_explicit(&r->head, memory_order_relaxed);
	u64 tail = atomic_load_explicit(&r->tail, memory_order_acquire), at;

	if (!fits(r, head, tail, len))
		return NULL;
	at = place(r, head, len);
	if (at != head) {
		*length_at(r, head) = SKIP;
		/* nobody is woken for it: the consumer sees it with the packet behind */
		atomic_store_explicit(&r->head, at, memory_order_release);
	}
	return (u8 *)length_at(r, at) + HEAD;
}

bool net_ring_put(struct net_ring *r, u32 len)
{
	u64 head = atomic_load_explicit(&r->head, memory_order_relaxed);

	*length_at(r, head) = len;
	atomic_store(&r->head, head + record(len));
	return atomic_load(&r->want_data) && atomic_exchange(&r->want_data, false);
}

bool net_ring_want_room(struct net_ring *r, u32 len)
{
	u64 head = atomic_load_explicit(&r->head, memory_order_relaxed);

	atomic_store(&r->want_room, true);
	if (!fits(r, head, atomic_load(&r->tail), len))
		return true;
	atomic_store(&r->want_room, false);
	return false;
}

u32 net_ring_used(const struct net_ring *r)
{
	u64 tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	return (u32)MIN(atomic_load_explicit(&r->head, memory_order_relaxed) - tail, (u64)r->size);
}

/* The position of the next record that is none to skip, or of the head. */
static u64 skip(struct net_ring *r, u64 head)
{
	u64 tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	if (tail != head && *length_at(r, tail) == SKIP) {
		tail = (tail | (r->size - 1)) + 1;
		atomic_store_explicit(&r->tail, tail, memory_order_release);
	}
	return tail;
}

u32 net_ring_peek(struct net_ring *r, const u8 **packet)
{
	u64 head = atomic_load_explicit(&r->head, memory_order_acquire), tail = skip(r, head);

	if (tail == head)
		return 0;
	*packet = (const u8 *)length_at(r, tail) + HEAD;
	return *length_at(r, tail);
}

bool net_ring_next(struct net_ring *r)
{
	u64 tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	tail += record(*length_at(r, tail));
	atomic_store(&r->tail, tail);
	return atomic_load(&r->want_room) && atomic_load(&r->head) - tail <= r->size / 2 &&
	       atomic_exchange(&r->want_room, false);
}

bool net_ring_want_data(struct net_ring *r)
{
	u64 head;

	atomic_store(&r->want_data, true);
	head = atomic_load(&r->head);
	if (skip(r, head) == head)
		return true;
	atomic_store(&r->want_data, false);
	return false;
}
