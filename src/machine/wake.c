/*
 * Waking the threads that run processors.
 *
 * Events are bits of vcpu->event; a running engine polls them, and a halted
 * processor's thread sleeps in a futex on that very word; the one thread of
 * processors in turns sleeps on processor 0's. `sleeping` saves the
 * wake-up call while it runs: the sleeper sets it and then looks at the word,
 * the waker raises a bit and then looks at it, both sequentially consistent,
 * so at least one sees the other.
 *
 * With the real clock a timerfd and a thread that reads it raise EV_TIMER at
 * the next deadline. A guest arms its timer thousands of times a second,
 * nearly always later than what is armed already: the timerfd is set only when
 * the new deadline is earlier, and one that fires for a deadline since moved
 * costs one look at the clock.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "machine/internal.h"
#include "machine/pv.h"

static void wake(struct machine_cpu *c, u32 events)
{
	vcpu_raise(c->v, events);
	if (c->v->engine && c->v->engine->kick)
		c->v->engine->kick(c->v);
	if (atomic_load(&c->sleeping))
		syscall(SYS_futex, &c->v->event, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* In turns it may be anybody's turn; processor 0 is the one whose word is slept on. */
void wake_machine(struct machine *m, u32 events)
{
	for (unsigned i = m->group.parallel ? 0 : m->cfg.cpus - 1; i > 0; i--)
		vcpu_raise(m->cpu[i].v, events);
	wake(&m->cpu[0], events);
}

void wake_cpu(struct machine *m, unsigned n, u32 events)
{
	wake(&m->cpu[n], events);
}

#define WAKING (EV_KICK | EV_INTR | EV_NMI | EV_TIMER | EV_RESET)

bool wake_pending(const struct machine_cpu *c)
{
	return atomic_load(&c->v->event) & WAKING;
}

void wake_sleep(struct machine_cpu *c, u64 deadline)
{
	struct machine *m = c->m;
	struct timespec timeout, *limit = NULL;

	if (deadline != CLOCK_NEVER) {
		u64 now = clock_now(m->clock);

		if (deadline <= now)
			return;
		timeout.tv_sec = (time_t)((deadline - now) / NSEC_PER_SEC);
		timeout.tv_nsec = (long)((deadline - now) % NSEC_PER_SEC);
		limit = &timeout;
	}
	atomic_store(&c->sleeping, 1);
	u32 seen = atomic_load(&c->v->event);

	pv_sleep(m, c->v->index);
	if (!(seen & WAKING))
		syscall(SYS_futex, &c->v->event, FUTEX_WAIT_PRIVATE, seen, limit, NULL, 0);
	pv_wake(m, c->v->index);
	atomic_store(&c->sleeping, 0);
}

void wake_wait_kick(struct machine *m, u64 until)
{
	struct machine_cpu *c = &m->cpu[0];
	struct timespec limit;
	u32 seen;

	atomic_store(&c->sleeping, 1);
	while (!((seen = atomic_load(&c->v->event)) & EV_KICK)) {
		u64 now = host_ns();

		if (now >= until)
			break;
		limit = (struct timespec){ .tv_sec = (time_t)((until - now) / NSEC_PER_SEC),
					   .tv_nsec = (long)((until - now) % NSEC_PER_SEC) };
		syscall(SYS_futex, &c->v->event, FUTEX_WAIT_PRIVATE, seen, until == CLOCK_NEVER ? NULL : &limit, NULL,
			0);
	}
	atomic_store(&c->sleeping, 0);
}

void wake_arm(struct machine *m)
{
	u64 next = clock_next_deadline(m->clock);

	if (m->timer_fd < 0 || next >= atomic_load(&m->armed))
		return;
	u64 now = clock_now(m->clock);

	if (next <= now) {
		wake_machine(m, EV_TIMER);
		return;
	}
	struct itimerspec t = {
		.it_value = { .tv_sec = (time_t)((next - now) / NSEC_PER_SEC),
			      .tv_nsec = (long)((next - now) % NSEC_PER_SEC) },
	};

	atomic_store(&m->armed, next);
	timerfd_settime(m->timer_fd, 0, &t, NULL);
}

static void *timer_main(void *opaque)
{
	struct machine *m = opaque;
	u64 expirations;

	while (!atomic_load(&m->timer_quit)) {
		if (read(m->timer_fd, &expirations, sizeof(expirations)) < 0 && errno != EINTR)
			break;
		/* Before the event: whoever sees it arms anew. */
		atomic_store(&m->armed, CLOCK_NEVER);
		wake_machine(m, EV_TIMER);
	}
	return NULL;
}

int wake_start(struct machine *m, struct error *e)
{
	int err;

	atomic_store(&m->armed, CLOCK_NEVER);
	m->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (m->timer_fd < 0)
		return error_errno(e, errno, "cannot create a timer");
	err = thread_start(&m->timer_thread, timer_main, m);
	if (err) {
		close(m->timer_fd);
		m->timer_fd = -1;
		return error_errno(e, err, "cannot start the timer thread");
	}
	return 0;
}

void wake_stop(struct machine *m)
{
	const struct itimerspec now = { .it_value.tv_nsec = 1 };

	if (m->timer_fd < 0)
		return;
	atomic_store(&m->timer_quit, true);
	timerfd_settime(m->timer_fd, 0, &now, NULL);
	pthread_join(m->timer_thread, NULL);
	close(m->timer_fd);
	m->timer_fd = -1;
}
