/* machine_call(): work other threads want done on the vCPU thread. */
#include "machine/internal.h"

#include <errno.h>
#include <time.h>

struct call {
	void (*fn)(void *);
	void *opaque;
	bool taken, done;
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
	c->taken = true;
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

static struct timespec in_ms(unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= (long)NSEC_PER_SEC) {
		t.tv_sec++;
		t.tv_nsec -= (long)NSEC_PER_SEC;
	}
	return t;
}

/* Under the lock. */
static void withdraw(struct machine *m, struct call *c)
{
	struct call **at = &m->calls;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
}

bool machine_call_within(struct machine *m, void (*fn)(void *), void *opaque, unsigned ms)
{
	const struct timespec until = in_ms(ms);
	struct call c = { .fn = fn, .opaque = opaque };
	int err = 0;

	pthread_mutex_lock(&m->call_lock);
	while (!m->running && !m->over && err != ETIMEDOUT)
		err = pthread_cond_clockwait(&m->call_done, &m->call_lock, CLOCK_MONOTONIC, &until);
	if (!m->running) {
		pthread_mutex_unlock(&m->call_lock);
		return false;
	}
	c.next = m->calls;
	m->calls = &c;
	atomic_store(&m->have_calls, true);
	wake_machine(m, EV_KICK);
	/* what has begun is waited for: its arguments are this thread's */
	while (!c.done && (err != ETIMEDOUT || c.taken))
		err = c.taken ? pthread_cond_wait(&m->call_done, &m->call_lock)
			      : pthread_cond_clockwait(&m->call_done, &m->call_lock, CLOCK_MONOTONIC, &until);
	if (!c.done)
		withdraw(m, &c);
	pthread_mutex_unlock(&m->call_lock);
	return c.done;
}
