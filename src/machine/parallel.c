/*
 * Processors that run at once, each on a host thread. Processor 0's thread, the
 * caller of machine_run(), serves the machine as well (loop.c).
 *
 * All but the guest's instructions happens with the machine's lock held: it is
 * let go while the engine runs and while a thread sleeps, and taken again where
 * the engine calls out (machine_lock()). What needs every processor at a
 * boundary (calls of other threads, reset, the end) pauses the others first.
 */
#include <assert.h>
#include <stdio.h>

#include "base/thread.h"
#include "machine/internal.h"
#include "machine/pv.h"
#include "replay/door.h"

/* The loops' own hold on the lock; see machine_unlock(). */
static void loop_lock(struct machine_cpu *c)
{
	pthread_mutex_lock(&c->m->lock);
	c->depth = 1;
}

static void loop_unlock(struct machine_cpu *c)
{
	c->depth = 0;
	c->waits_for = NULL;
	pthread_mutex_unlock(&c->m->lock);
}

/* One run of the engine, without the lock. */
static void run_unlocked(struct machine_cpu *c)
{
	const struct run_budget unlimited = { .insns = CLOCK_NEVER };
	struct machine *m = c->m;
	unsigned who = c->v->index;
	enum vcpu_exit why;

	pv_enter(m, who);
	loop_unlock(c);
	world_enter(&m->world, who);
	why = c->v->engine->run(c->v, &unlimited);
	fpu_park(c->v);
	world_leave(&m->world, who);
	loop_lock(c);
	assert(why < VCPU_EXIT_COUNT);
	c->exits[why]++;
}

static void sleep_unlocked(struct machine_cpu *c, u64 deadline)
{
	struct machine *m = c->m;

	loop_unlock(c);
	u64 start = host_ns();

	bool found = poll_sleep(c, deadline);
	u64 slept = host_ns() - start;

	loop_lock(c);
	/* rather than to leave it to processor 0, which may sleep */
	if (found && door_pending(m->door))
		door_deliver(m->door, machine_icount(m));
	c->halts++;
	c->halted_ns += slept;
	if (c == &m->cpu[0])
		rest_slept(m, start + slept, slept);
}

static void park(struct machine_cpu *c)
{
	struct machine *m = c->m;

	c->parked = true;
	pthread_cond_signal(&m->parked);
	while (m->pausing && !m->quitting)
		pthread_cond_wait(&m->go_on, &m->lock);
	c->parked = false;
}

static void *cpu_main(void *opaque)
{
	struct machine_cpu *c = opaque;
	struct machine *m = c->m;

	thread_take_faults();
	machine_set_current(c);
	/* so that the world knows this thread before it runs device code */
	world_enter(&m->world, c->v->index);
	world_leave(&m->world, c->v->index);
	loop_lock(c);
	for (;;) {
		if (m->pausing)
			park(c);
		if (m->quitting)
			break;
		/* Before looking at what they announce. */
		vcpu_clear(c->v, EV_KICK | EV_TIMER | EV_RESET);
		machine_serve_cpu(c);
		if (cpu_runnable(c)) {
			run_unlocked(c);
		} else if (cpu_may_sleep(c)) {
			u64 deadline = lapic_timer_when(lapic_of(m->lapics, c->v->index));

			sleep_unlocked(c, deadline);
			if (deadline != CLOCK_NEVER)
				machine_serve_timers(m);
		}
	}
	loop_unlock(c);
	machine_set_current(NULL);
	return NULL;
}

/* ---- processor 0's thread ---- */

static bool all_parked(const struct machine *m)
{
	for (unsigned n = 1; n < m->cfg.cpus; n++)
		if (!m->cpu[n].parked)
			return false;
	return true;
}

void parallel_pause(struct machine *m)
{
	m->pausing = true;
	pthread_cond_broadcast(&m->served);
	for (unsigned n = 1; n < m->cfg.cpus; n++)
		if (!m->cpu[n].parked)
			wake_cpu(m, n, EV_KICK);
	while (!all_parked(m))
		pthread_cond_wait(&m->parked, &m->lock);
}

void parallel_resume(struct machine *m)
{
	machine_apics_lend(m);
	m->pausing = false;
	pthread_cond_broadcast(&m->go_on);
}

/* They begin parked. */
int parallel_start(struct machine *m, struct error *e)
{
	m->pausing = true;
	m->quitting = false;
	for (unsigned n = 1; n < m->cfg.cpus; n++) {
		int err = thread_start(&m->cpu[n].thread, cpu_main, &m->cpu[n]);

		if (!err)
			continue;
		m->quitting = true;
		while (--n)
			pthread_join(m->cpu[n].thread, NULL);
		return error_errno(e, err, "cannot start the thread of a processor");
	}
	return 0;
}

void parallel_stop(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	m->quitting = true;
	pthread_cond_broadcast(&m->go_on);
	for (unsigned n = 1; n < m->cfg.cpus; n++)
		wake_cpu(m, n, EV_KICK);
	pthread_mutex_unlock(&m->lock);
	for (unsigned n = 1; n < m->cfg.cpus; n++)
		pthread_join(m->cpu[n].thread, NULL);
}

void parallel_loop(struct machine *m)
{
	struct machine_cpu *c = &m->cpu[0];

	loop_lock(c);
	machine_set_current(c);
	parallel_resume(m);
	while (!m->ended && m->group.parallel) {
		vcpu_clear(c->v, EV_KICK | EV_TIMER | EV_RESET);
		machine_serve(m);
		if (m->ended || !m->group.parallel)
			break;
		if (cpu_runnable(c))
			run_unlocked(c);
		else if (!m->requests && cpu_may_sleep(c))
			sleep_unlocked(c, clock_next_deadline(m->clock));
	}
	parallel_pause(m);
	machine_apics_back(m);
	machine_set_current(NULL);
	loop_unlock(c);
}
