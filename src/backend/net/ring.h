/*
 * A ring of packets between two threads: one puts in, one takes out, neither
 * locks. A packet lies in one piece, so that it is copied once on each side.
 *
 * Whoever finds the ring empty (full) says so by net_ring_want_data()
 * (net_ring_want_room()) before it sleeps; the other side then learns from
 * net_ring_put() (net_ring_next()) that it has to wake it.
 */
#ifndef ECTYPE_BACKEND_NET_RING_H
#define ECTYPE_BACKEND_NET_RING_H

#include <stdatomic.h>

#include "base/types.h"

struct net_ring {
	u8 *data;
	u32 size;			    /* a power of two, at least four of the largest packets */
	_Alignas(64) atomic_ullong head;    /* bytes ever put in */
	_Alignas(64) atomic_ullong tail;    /* bytes ever taken out */
	_Alignas(64) atomic_bool want_data; /* the consumer sleeps */
	atomic_bool want_room;		    /* the producer sleeps */
};

/* 0, or -1 on lack of memory. */
int net_ring_init(struct net_ring *r, u32 size);
void net_ring_free(struct net_ring *r);
/* Neither side may run. */
void net_ring_clear(struct net_ring *r);

/* Producer. Room for a packet of up to `len` bytes, NULL if there is none. */
u8 *net_ring_reserve(struct net_ring *r, u32 len);
/* Puts in what was stored at net_ring_reserve(), not more than that. True: the consumer waits for it. */
bool net_ring_put(struct net_ring *r, u32 len);
/* Asks to be told of room. False: by now there is room for `len` bytes. */
bool net_ring_want_room(struct net_ring *r, u32 len);
/* Bytes in the ring, about. Either side. */
u32 net_ring_used(const struct net_ring *r);

/* Consumer. The length of the next packet, 0 if there is none. */
u32 net_ring_peek(struct net_ring *r, const u8 **packet);
/* Takes it out. True: the producer waits for room, and half the ring is free. */
bool net_ring_next(struct net_ring *r);
/* Asks to be told of the next packet. False: there is one by now. */
bool net_ring_want_data(struct net_ring *r);

#endif
