#include "base/world.h"

#include <assert.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

_Thread_local unsigned world_self __attribute__((tls_model("initial-exec")));

static void futex_wait(_Atomic u32 *word, u32 val)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, val, NULL, NULL, 0);
}

static void futex_wake(_Atomic u32 *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, WORLD_MAX, NULL, NULL, 0);
}

void world_init(struct world *w, unsigned members, void (*kick)(void *opaque, unsigned who), void *opaque)
{
	assert(members >= 1 && members <= WORLD_MAX);
	w->members = members;
	atomic_init(&w->stopping, 0);
	atomic_init(&w->waiting, 0);
	pthread_mutex_init(&w->mutex, NULL);
	w->depth = 0;
	w->stops = 0;
	w->kick = kick;
	w->opaque = opaque;
	for (unsigned i = 0; i < WORLD_MAX; i++)
		atomic_init(&w->member[i].inside, 0);
}

void world_destroy(struct world *w)
{
	pthread_mutex_destroy(&w->mutex);
}

/* Is `who` the one that has stopped the world? Only it can be told so truly. */
static bool stopped_by(const struct world *w, unsigned who)
{
	return atomic_load(&w->stopping) == who + 1;
}

/* `inside` and `stopping` are each set before the other is looked at, both sequentially consistent: one of the two
 * threads sees the other. */
void world_enter(struct world *w, unsigned who)
{
	world_self = who;
	for (;;) {
		atomic_store(&w->member[who].inside, 1);
		u32 stopping = atomic_load(&w->stopping);

		if (likely(!stopping) || stopping == who + 1)
			return;
		world_leave(w, who);
		atomic_fetch_add(&w->waiting, 1); /* before the kernel looks at `stopping` again: see world_go() */
		futex_wait(&w->stopping, stopping);
		atomic_fetch_sub(&w->waiting, 1);
	}
}

void world_leave(struct world *w, unsigned who)
{
	atomic_store(&w->member[who].inside, 0);
	if (unlikely(atomic_load(&w->stopping)))
		futex_wake(&w->member[who].inside);
}

bool world_stop(struct world *w, unsigned who)
{
	if (w->members == 1)
		return false;
	if (stopped_by(w, who)) {
		w->depth++;
		return false;
	}
	bool inside = world_inside(w, who);
	u64 before = __atomic_load_n(&w->stops, __ATOMIC_ACQUIRE);

	if (pthread_mutex_trylock(&w->mutex)) {
		if (inside)
			world_leave(w, who);
		pthread_mutex_lock(&w->mutex);
	}
	bool others = w->stops != before;

	w->depth = 1;
	atomic_store(&w->stopping, who + 1);
	if (inside)
		atomic_store(&w->member[who].inside, 1);
	for (unsigned i = 0; i < w->members; i++) {
		if (i != who && atomic_load(&w->member[i].inside))
			w->kick(w->opaque, i);
	}
	for (unsigned i = 0; i < w->members; i++) {
		while (i != who && atomic_load(&w->member[i].inside))
			futex_wait(&w->member[i].inside, 1);
	}
	return others;
}

void world_go(struct world *w, unsigned who)
{
	if (w->members == 1)
		return;
	assert(stopped_by(w, who) && w->depth);
	if (--w->depth)
		return;
	__atomic_store_n(&w->stops, w->stops + 1, __ATOMIC_RELEASE);
	atomic_store(&w->stopping, 0);
	pthread_mutex_unlock(&w->mutex);
	if (atomic_load(&w->waiting))
		futex_wake(&w->stopping);
}
