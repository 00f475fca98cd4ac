/*
 * Polling for disks before a halted processor's thread sleeps.
 *
 * A request that goes past the page cache is done by the host in some tens of
 * microseconds, and as many again pass until a thread that sleeps for it runs
 * on a processor that sleeps as well. So while such requests are in flight the
 * thread looks for their completions itself for a while, at most a window that
 * follows the disk: it grows while waits are short enough to be polled through
 * and shrinks to nothing while they are not, as KVM's halt_poll_ns does. A
 * guest without requests in flight costs nothing here.
 */
#include "machine/internal.h"

#define WINDOW_MAX_NS 200000u
#define WINDOW_MIN_NS 25000u

static bool pollable(const struct machine *m)
{
	for (unsigned i = 0; i < m->cfg.disks; i++)
		if (block_pollable(m->disk[i].image))
			return true;
	return false;
}

static bool look(struct machine *m)
{
	bool found = false;

	for (unsigned i = 0; i < m->cfg.disks; i++)
		found |= block_poll(m->disk[i].image);
	return found;
}

/* True if there is something to wake up for. */
static bool spin(struct machine *m, u64 until)
{
	do {
		if (look(m) || wake_pending(m))
			return true;
		__builtin_ia32_pause();
	} while (host_ns() < until);
	return false;
}

static void adapt(struct poll *p, u64 waited)
{
	if (waited <= p->window)
		return;
	if (waited > WINDOW_MAX_NS)
		p->window = p->window > WINDOW_MIN_NS ? p->window / 2 : 0;
	else
		p->window = MIN(MAX(2 * p->window, WINDOW_MIN_NS), WINDOW_MAX_NS);
}

void poll_sleep(struct machine *m, u64 deadline)
{
	u64 start = host_ns();

	if (!pollable(m)) {
		wake_sleep(m, deadline);
		return;
	}
	for (unsigned i = 0; i < m->cfg.disks; i++)
		block_kick(m->disk[i].image);
	/* the host's timer raises EV_TIMER at the deadline */
	if (!m->poll.window || !spin(m, start + m->poll.window)) {
		for (unsigned i = 0; i < m->cfg.disks; i++)
			block_poll_ends(m->disk[i].image);
		wake_sleep(m, deadline);
	}
	adapt(&m->poll, host_ns() - start);
}
