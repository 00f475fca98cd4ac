/*
 * Several processors at once: the lock of what they share. A processor that
 * waits for it is outside the world, for who has it may stop the world.
 */
#include <linux/futex.h>
#include <sys/syscall.h>

#include "base/host_syscall.h"
#include "engine/dbt/dbt.h"

#define SPINS 200u

enum { LOCK_FREE, LOCK_HELD, LOCK_AWAITED };

static bool spin(struct dbt_shared *sh)
{
	for (unsigned k = 0; k < SPINS; k++) {
		u32 free = LOCK_FREE;

		if (!__atomic_load_n((u32 *)&sh->lock, __ATOMIC_RELAXED) &&
		    __atomic_compare_exchange_n((u32 *)&sh->lock, &free, LOCK_HELD, false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return true;
		__builtin_ia32_pause();
	}
	return false;
}

void dbt_lock_slow(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	bool live = v->fpu_live;

	x->stats.lock_waits++;
	if (spin(x->sh))
		return;
	fpu_park(v);
	world_leave(x->world, v->index);
	while (__atomic_exchange_n((u32 *)&x->sh->lock, LOCK_AWAITED, __ATOMIC_ACQUIRE) != LOCK_FREE)
		host_syscall4(SYS_futex, (const void *)&x->sh->lock, FUTEX_WAIT_PRIVATE, LOCK_AWAITED, NULL);
	world_enter(x->world, v->index);
	if (live)
		fpu_load(v);
}

void dbt_unlock_slow(struct dbt_shared *sh)
{
	host_syscall3(SYS_futex, (const void *)&sh->lock, FUTEX_WAKE_PRIVATE, 1);
}

bool dbt_stop(struct vcpu *v, enum stop_cause why)
{
	if (likely(!dbt_of(v)->world))
		return false;
	dbt_of(v)->stats.stops[why]++;
	return stop_others(v);
}
