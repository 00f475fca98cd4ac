/* machine_call(): work other threads want done on the vCPU thread. */
#include "machine/internal.h"

struct call {
	void (*fn)(void *);
	void *opaque;
	bool done;
	struct call *next;
};

/* Taken one by one: a record is its caller's again as soon as `done` is seen. */
static struct call *take(struct machine *m)
{
	struct call **at = &m->calls;

	if (!*at)
		return NULL;
	while ((*at)->next) /* newest first in the list, oldest served first */
		at = &(*at)->next;
	struct call *c = *at;

	*at = NULL;
	return c;
}

void machine_serve_calls(struct machine *m)
{
	struct call *c;

	if (!atomic_load(&m->have_calls))
		return;
	pthread_mutex_lock(&m->call_lock);
	while ((c = take(m))) {
		pthread_mutex_unlock(&m->call_lock);
		c->fn(c->opaque);
		pthread_mutex_lock(&m->call_lock);
		c->done = true;
		pthread_cond_broadcast(&m->call_done);
	}
	atomic_store(&m->have_calls, false);
	pthread_mutex_unlock(&m->call_lock);
}

void machine_call(struct machine *m, void (*fn)(void *), void *opaque)
{
	struct call c = { .fn = fn, .opaque = opaque };

	pthread_mutex_lock(&m->call_lock);
	if (!m->running || pthread_equal(m->thread, pthread_self())) {
		bool own = m->running;

		/* Nobody runs: holding the lock keeps it so. */
		if (own)
			pthread_mutex_unlock(&m->call_lock);
		fn(opaque);
		if (!own)
			pthread_mutex_unlock(&m->call_lock);
		return;
	}
	c.next = m->calls;
	m->calls = &c;
	atomic_store(&m->have_calls, true);
	wake_machine(m, EV_KICK);
	while (!c.done)
		pthread_cond_wait(&m->call_done, &m->call_lock);
	pthread_mutex_unlock(&m->call_lock);
}
