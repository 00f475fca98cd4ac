/*
 * Stopping the world: a rendezvous of threads that share what they read
 * without a lock (translated code, translation tables, the memory map), for
 * the moments at which one of them changes it.
 *
 * A thread is *inside* while it may hold anything it read from what is shared,
 * and *outside* else: while it sleeps, or waits for any lock. world_stop()
 * returns when every other thread is outside, and none comes inside before
 * world_go(). A thread that is inside for long is asked to look by the `kick`
 * function and then calls world_yield().
 *
 * Order of locks: those that a thread inside waits for are waited for outside
 * (world_leave(), lock, world_enter()); the world is stopped last, and whoever
 * has stopped it waits for no other lock.
 *
 * With one member everything here is a few instructions and nothing waits.
 */
#ifndef ECTYPE_BASE_WORLD_H
#define ECTYPE_BASE_WORLD_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/types.h"

#define WORLD_MAX 64u

/* Which member this thread is: of the world it came inside last. */
extern _Thread_local unsigned world_self __attribute__((tls_model("initial-exec")));

struct world_member {
	_Alignas(64) _Atomic u32 inside;
};

struct world {
	unsigned members;
	_Atomic u32 stopping;
	_Atomic u32 waiting;   /* members that sleep until it has ended */
	pthread_mutex_t mutex; /* held by who stops */
	unsigned depth;	       /* under it */
	u64 stops;	       /* ended so far; written under it */
	/* From the thread that stops: member `who`, which is inside, is to call world_yield() soon. */
	void (*kick)(void *opaque, unsigned who);
	void *opaque;
	struct world_member member[WORLD_MAX];
};

/* `members`: 1 to WORLD_MAX; all outside. */
void world_init(struct world *w, unsigned members, void (*kick)(void *opaque, unsigned who), void *opaque);
void world_destroy(struct world *w);

/*
 * Member `who` comes inside: waits while another has stopped the world.
 * Ordinary C: vector state is parked. As are the three below.
 */
void world_enter(struct world *w, unsigned who);
void world_leave(struct world *w, unsigned who);
static inline void world_yield(struct world *w, unsigned who)
{
	world_leave(w, who);
	world_enter(w, who);
}
static inline bool world_inside(const struct world *w, unsigned who)
{
	return atomic_load_explicit(&w->member[who].inside, memory_order_relaxed);
}

/*
 * Member `who`, inside or outside, stops the others. It may do so again while it
 * has; each needs a world_go(). Others may have stopped the world and changed
 * anything while this waited for its turn: returns true if so.
 */
bool world_stop(struct world *w, unsigned who);
void world_go(struct world *w, unsigned who);

#endif
