/* The primary as the control socket sees it: beginning, end, and how it goes. */
#include "ctl/protect_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backend/gate/gate.h"
#include "base/host_time.h"
#include "base/thread.h"
#include "ctl/limits.h"
#include "machine/state.h"

/* ---- status ---- */

void protect_set_phase(struct protect *p, enum protect_phase phase)
{
	pthread_mutex_lock(&p->lock);
	p->status.phase = phase;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

void protect_set_why(struct protect *p, const char *why)
{
	pthread_mutex_lock(&p->lock);
	snprintf(p->status.why, sizeof(p->status.why), "%.255s", why);
	pthread_mutex_unlock(&p->lock);
}

void protect_status(struct protect *p, struct protect_status *out)
{
	struct gate_stats g = { .waiting = 0 };

	*out = (struct protect_status){ .phase = PROTECT_NONE };
	if (!p)
		return;
	if (p->gate)
		g = gate_stats(p->gate);
	pthread_mutex_lock(&p->lock);
	*out = p->status;
	out->lag_ns = p->kept_at ? host_ns() - p->kept_at : 0;
	pthread_mutex_unlock(&p->lock);
	out->waiting = g.waiting;
	out->waiting_most = g.most;
}

void protect_poke(struct protect *p)
{
	u64 one = 1;
	ssize_t r = write(p->wake, &one, sizeof(one));

	(void)r; /* a full counter wakes as well */
}

/* ---- life ---- */

struct protect *protect_create(struct machine *m, const u8 *options, size_t options_len)
{
	struct protect *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->m = m;
	p->options = options;
	p->options_len = options_len;
	p->gate = machine_config(m)->gate;
	p->control = p->fd = p->witness = -1;
	p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	if (p->wake >= 0)
		return p;
	free(p);
	return NULL;
}

void protect_end(struct protect *p)
{
	if (!p)
		return;
	atomic_store(&p->quit, true);
	protect_poke(p);
	if (p->joinable)
		pthread_join(p->thread, NULL);
	p->joinable = false;
}

void protect_destroy(struct protect *p)
{
	if (!p)
		return;
	protect_end(p);
	close(p->wake);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int protect_possible(struct protect *p, struct error *e)
{
	const struct machine_config *c = machine_config(p->m);

	if (!p->options || !p->gate)
		return error_set(e, "only machines of ectype run and ectype restore can be protected");
	if (c->clock != MACHINE_CLOCK_REAL)
		return error_set(e, "a machine with the virtual clock cannot be protected");
	return machine_can_be_saved(p->m, e);
}

int protect_begin(struct protect *p, int fd, void (*done)(void *), void *opaque)
{
	bool free_now;
	u64 n;

	pthread_mutex_lock(&p->lock);
	free_now = !p->running && !atomic_load(&p->quit);
	p->running |= free_now;
	pthread_mutex_unlock(&p->lock);
	if (!free_now)
		return -1;
	if (p->joinable)
		pthread_join(p->thread, NULL);
	p->joinable = false;
	p->control = fd;
	p->done = done;
	p->opaque = opaque;
	p->number = 0;
	memset(&p->now, 0, sizeof(p->now));
	while (read(p->wake, &n, sizeof(n)) > 0)
		; /* nothing is left of the last one */
	atomic_store(&p->stop, false);
	atomic_store(&p->urgent, false);
	atomic_store(&p->said, false);
	protect_set_phase(p, PROTECT_BEGINS);
	if (!thread_start(&p->thread, protect_thread, p)) {
		p->joinable = true;
		return 0;
	}
	protect_set_phase(p, PROTECT_NONE);
	pthread_mutex_lock(&p->lock);
	p->running = false;
	pthread_mutex_unlock(&p->lock);
	return -1;
}

int protect_stop(struct protect *p, struct error *e)
{
	struct timespec until;
	bool was_held;
	int err = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += CTL_ORDER_MS / 1000 + 2;
	pthread_mutex_lock(&p->lock);
	if (!p->running) {
		pthread_mutex_unlock(&p->lock);
		return error_set(e, "the machine is not protected");
	}
	atomic_store(&p->stop, true);
	protect_poke(p);
	was_held = p->status.phase == PROTECT_HELD;
	while (p->running && (was_held || p->status.phase != PROTECT_HELD) && !err)
		err = pthread_cond_timedwait(&p->changed, &p->lock, &until);
	err = p->running ? error_set(e, "the machine is still '%s'", protect_phase_names[p->status.phase]) : 0;
	pthread_mutex_unlock(&p->lock);
	return err;
}
