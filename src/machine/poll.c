/*
 * What a halted processor's thread does before it sleeps: it looks for disks'
 * completions, or lets others run.
 *
 * A request that goes past the page cache is done by the host in some tens of
 * microseconds, and as many again pass until a thread that sleeps for it runs
 * on a processor that sleeps as well. So while such requests of its own are in
 * flight the thread looks for their completions itself for a while, at most a
 * window that follows the disk: it grows while waits are short enough to be
 * polled through and shrinks to nothing while they are not, as KVM's
 * halt_poll_ns does. Without requests in flight this costs nothing.
 */
#include "machine/internal.h"

#include <sched.h>

#include "machine/pv.h"

#define WINDOW_MAX_NS 200000u
#define WINDOW_MIN_NS 25000u

/* What was held back goes to the host. True if this thread may find it done. */
static bool kick(const struct machine *m)
{
	bool pollable = false;

	for (unsigned i = 0; i < m->cfg.disks; i++) {
		block_kick(m->disk[i].image);
		pollable |= block_pollable(m->disk[i].image);
	}
	return pollable;
}

static bool look(const struct machine *m)
{
	bool found = false;

	for (unsigned i = 0; i < m->cfg.disks; i++)
		found |= block_poll(m->disk[i].image);
	return found;
}

static void leave(const struct machine *m)
{
	for (unsigned i = 0; i < m->cfg.disks; i++)
		if (block_pollable(m->disk[i].image))
			block_poll_ends(m->disk[i].image);
}

static void adapt(u64 *window, u64 waited)
{
	if (waited <= *window)
		return;
	if (waited > WINDOW_MAX_NS)
		*window = *window > WINDOW_MIN_NS ? *window / 2 : 0;
	else
		*window = MIN(MAX(2 * *window, WINDOW_MIN_NS), WINDOW_MAX_NS);
}

/*
 * A processor that waits for another one, or for a timer, is woken in some
 * tens of microseconds, and on a host with more to do than processors in
 * milliseconds, for who sleeps has to queue again. So for a short while it
 * steps aside instead, as often as it gets its turn: the others have the
 * host's processor whenever they want it, and the answer is seen at once.
 * (Two processes that pass a byte to and fro on two processors, beside a load
 * of 18 on two cores: 0.06 to 0.26 ms a round, 2 to 7 ms with sleep alone,
 * with half the processor time. PAUSE instead of stepping aside brings
 * nothing there.)
 */
static void wait_for_others(struct machine_cpu *c, u64 deadline)
{
	u64 start = host_ns(), now = start;
	u64 window = pv_may_poll(c->m, c->v->index) ? c->halt_window : 0;

	for (; now - start < window && !wake_pending(c); now = host_ns())
		sched_yield();
	if (!wake_pending(c)) {
		wake_sleep(c, deadline);
		now = host_ns();
	}
	adapt(&c->halt_window, now - start);
}

bool poll_sleep(struct machine_cpu *c, u64 deadline)
{
	struct machine *m = c->m;
	bool found = false;

	if (!kick(m)) {
		wait_for_others(c, deadline);
		return false;
	}
	u64 start = host_ns(), now = start, guest = clock_now(m->clock);
	u64 window = MIN(c->poll_window, deadline > guest ? deadline - guest : 0);

	if (!pv_may_poll(m, c->v->index))
		window = 0;

	for (; now - start < window && !wake_pending(c) && !(found = look(m)); now = host_ns())
		__builtin_ia32_pause();
	if (!found && !wake_pending(c)) {
		leave(m);
		wake_sleep(c, deadline);
		now = host_ns();
	}
	adapt(&c->poll_window, now - start);
	return found;
}
