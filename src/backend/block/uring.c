/*
 * Reads and writes through io_uring: submitted by the caller's thread under a
 * lock, reaped by a thread of the ring or by whoever calls uring_poll(). No
 * more are in flight than the completion queue holds. An operation whose item
 * is the ring itself does nothing: it stands where a submission was refused,
 * or wakes the thread.
 *
 * The thread waits in the kernel, where each completion wakes it. That is
 * wasted while others reap, and it is what costs most where processors are
 * woken slowly. So when others reap most completions the thread is parked: it
 * only looks every PARK_NS whether they still do. If nothing was reaped for
 * two of these periods, or a poller gives up, it goes back to waiting; so a
 * completion that nobody looks for is late by three periods at most, and then
 * no further one is.
 *
 * A submission costs a system call and often the doorbell of the host's disk.
 * While the thread is parked, that is while others come by often, submissions
 * are held back to go together: until there are HOLD_MAX, until the first is
 * HOLD_NS old when somebody comes by, and until the caller has nothing else to
 * do and says so (uring_kick()). The parked thread sees to those that grew
 * old. If that happens often, callers do not come by as often as it seemed,
 * and nothing is held back for a while, PAUSE_MIN to PAUSE_MAX.
 */
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "backend/block/uring.h"
#include "base/host_time.h"
#include "base/thread.h"

#define NSEC_PER_SEC 1000000000ull
#define PARK_NS 500000
#define VAIN_MAX 2    /* periods without a completion, while there are submissions in flight */
#define VAIN_IDLE 10  /* while there are none */
#define PARK_AFTER 16 /* the score: completions that others reaped, less twice those of the thread */
#define HOLD_MAX 8
#define HOLD_NS 100000
#define LATE_COSTS 8 /* batches in time that make up for a late one */
#define IN_TIME_MAX 64
#define PAUSE_MIN (NSEC_PER_SEC / 4)
#define PAUSE_MAX (32 * NSEC_PER_SEC)
#define REAP_BATCH 32

struct uring {
	struct io_uring ring;
	void (*done)(void *opaque, void *item, int result);
	void *opaque;
	pthread_t thread;
	pthread_mutex_t lock; /* of the submission queue, and this: */
	struct {
		struct io_uring_sqe *sqe;
		void *item;
	} held[HOLD_MAX];
	bool parked;		       /* the thread looks after what is held */
	unsigned in_time;	       /* batches, less what late ones cost */
	u64 held_since;		       /* host ns, of the first */
	u64 not_before, pause;	       /* host ns: when to hold again; how long the next pause is */
	atomic_uint n_held;	       /* written under the lock */
	atomic_uint inflight;	       /* held or submitted */
	const char *_Atomic submitter; /* who submitted the last */

	pthread_mutex_t reap_lock; /* of the completion queue's head */
	atomic_uint score;
	atomic_uint reaped; /* counts, modulo 2^32 */
	_Atomic u32 park;   /* the thread is to be parked; a futex */
	atomic_bool quit;
};

static _Thread_local char self; /* its address tells threads apart */

struct reaped {
	void *item;
	int result;
};

/* Something held goes at `now`: late may be a few, since hosts have other things to do as well. */
static void judge(struct uring *u, u64 now)
{
	if (now - u->held_since < 2 * HOLD_NS) {
		u->in_time = MIN(u->in_time + 1, IN_TIME_MAX);
	} else if (u->in_time >= LATE_COSTS) {
		u->in_time -= LATE_COSTS;
	} else {
		u->pause = now - u->not_before > 4 * u->pause ? PAUSE_MIN : MIN(2 * u->pause, PAUSE_MAX);
		u->not_before = now + u->pause;
	}
}

/* Gives what is held to the kernel. Fills in what it refused, and returns how many; under the lock. */
static unsigned submit_held(struct uring *u, struct reaped *refused)
{
	unsigned n = atomic_load(&u->n_held), left, out = 0;
	int rc;

	if (n && u->parked)
		judge(u, host_ns());
	do
		rc = io_uring_submit(&u->ring);
	while (rc == -EINTR);
	/* What is left stays in the kernel's queue and goes with the next ones: as operations that do nothing. Such
	 * ones may be left of earlier refusals as well, before these. */
	left = io_uring_sq_ready(&u->ring);
	for (unsigned i = n - MIN(left, n); i < n; i++) {
		refused[out++] = (struct reaped){ u->held[i].item, -EAGAIN };
		io_uring_prep_nop(u->held[i].sqe);
		io_uring_sqe_set_data(u->held[i].sqe, u);
	}
	atomic_store(&u->n_held, 0);
	atomic_fetch_sub(&u->inflight, out);
	return out;
}

static void tell(struct uring *u, const struct reaped *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		u->done(u->opaque, r[i].item, r[i].result);
}

void uring_kick(struct uring *u)
{
	struct reaped refused[HOLD_MAX];
	unsigned n;

	if (!atomic_load(&u->n_held))
		return;
	pthread_mutex_lock(&u->lock);
	n = submit_held(u, refused);
	pthread_mutex_unlock(&u->lock);
	tell(u, refused, n);
}

static void kick_old(struct uring *u)
{
	bool old;

	if (!atomic_load(&u->n_held))
		return;
	pthread_mutex_lock(&u->lock);
	old = host_ns() - u->held_since > HOLD_NS;
	pthread_mutex_unlock(&u->lock);
	if (old)
		uring_kick(u);
}

/* At most REAP_BATCH. */
static unsigned take(struct uring *u, struct reaped *out)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	pthread_mutex_lock(&u->reap_lock);
	while (n < REAP_BATCH && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		out[n].item = io_uring_cqe_get_data(cqe);
		out[n].result = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		n += out[n].item != u;
	}
	pthread_mutex_unlock(&u->reap_lock);
	return n;
}

static bool any_to_reap(const struct uring *u)
{
	const struct io_uring_cq *cq = &u->ring.cq;

	return __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE) != __atomic_load_n(cq->khead, __ATOMIC_RELAXED);
}

static unsigned reap(struct uring *u)
{
	struct reaped r[REAP_BATCH];
	unsigned sum = 0;

	while (any_to_reap(u)) {
		unsigned n = take(u, r);

		atomic_fetch_sub(&u->inflight, n);
		atomic_fetch_add(&u->reaped, n);
		tell(u, r, n);
		sum += n;
	}
	return sum;
}

bool uring_poll(struct uring *u)
{
	unsigned n = reap(u);

	if (n && !atomic_load(&u->park) && atomic_fetch_add(&u->score, n) + n >= PARK_AFTER)
		atomic_store(&u->park, 1);
	kick_old(u);
	return n;
}

void uring_unpark(struct uring *u)
{
	if (atomic_exchange(&u->park, 0))
		syscall(SYS_futex, &u->park, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

unsigned uring_inflight(const struct uring *u)
{
	return atomic_load(&u->inflight);
}

bool uring_is_submitter(const struct uring *u)
{
	return atomic_load(&u->submitter) == &self;
}

/* ---- the thread ---- */

static void wait_for_some(struct uring *u)
{
	unsigned n;

	syscall(SYS_io_uring_enter, u->ring.ring_fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	n = reap(u);
	/* not exact, since others add */
	atomic_fetch_sub(&u->score, MIN(atomic_load(&u->score), 2 * n));
}

static void set_parked(struct uring *u, bool parked)
{
	struct reaped refused[HOLD_MAX];
	unsigned n = 0;

	pthread_mutex_lock(&u->lock);
	u->parked = parked;
	if (!parked)
		n = submit_held(u, refused);
	pthread_mutex_unlock(&u->lock);
	tell(u, refused, n);
}

static void stay_parked(struct uring *u)
{
	const struct timespec period = { .tv_nsec = PARK_NS };
	unsigned vain = 0, before;

	set_parked(u, true);
	while (atomic_load(&u->park) && vain < (uring_inflight(u) ? VAIN_MAX : VAIN_IDLE)) {
		before = atomic_load(&u->reaped);
		syscall(SYS_futex, &u->park, FUTEX_WAIT_PRIVATE, 1, &period, NULL, 0);
		kick_old(u);
		vain = atomic_load(&u->reaped) == before ? vain + 1 : 0;
	}
	atomic_store(&u->score, 0);
	atomic_store(&u->park, 0);
	set_parked(u, false);
}

static void *thread_main(void *opaque)
{
	struct uring *u = opaque;

	while (!atomic_load(&u->quit))
		if (atomic_load(&u->park))
			stay_parked(u);
		else
			wait_for_some(u);
	return NULL;
}

/* The ring does reads and writes, nothing else: the system call filter of a running machine does not see what a ring
 * is told to do. */
static int init_ring(struct io_uring *ring)
{
	struct io_uring_restriction only[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV },
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV },
	};
	int rc = io_uring_queue_init(URING_ENTRIES, ring, IORING_SETUP_R_DISABLED);

	if (rc < 0)
		return -1;
	/* system calls: some builds of liburing lack these functions */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, only, ARRAY_SIZE(only)) < 0 ||
	    syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
		io_uring_queue_exit(ring);
		return -1;
	}
	return 0;
}

struct uring *uring_create(void (*done)(void *opaque, void *item, int result), void *opaque)
{
	struct uring *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	if (init_ring(&u->ring) < 0) {
		free(u);
		return NULL;
	}
	u->done = done;
	u->opaque = opaque;
	pthread_mutex_init(&u->lock, NULL);
	pthread_mutex_init(&u->reap_lock, NULL);
	if (thread_start(&u->thread, thread_main, u)) {
		pthread_mutex_destroy(&u->lock);
		pthread_mutex_destroy(&u->reap_lock);
		io_uring_queue_exit(&u->ring);
		free(u);
		return NULL;
	}
	return u;
}

/* Takes the entry; true if it is to wait for others. Under the lock. */
static bool hold(struct uring *u, struct io_uring_sqe *sqe, void *item)
{
	unsigned n = atomic_fetch_add(&u->n_held, 1);
	u64 now;

	atomic_fetch_add(&u->inflight, 1);
	u->held[n].sqe = sqe;
	u->held[n].item = item;
	if (!u->parked || n + 1 == HOLD_MAX)
		return false;
	now = host_ns();
	if (!n)
		u->held_since = now;
	return now >= u->not_before && now - u->held_since < HOLD_NS;
}

bool uring_submit(struct uring *u, int fd, bool write, u64 offset, const struct iovec *iov, unsigned n, void *item)
{
	struct reaped refused[HOLD_MAX];
	unsigned refusals = 0;
	struct io_uring_sqe *sqe = NULL;

	if (n > IOV_MAX)
		return false;
	pthread_mutex_lock(&u->lock);
	if (atomic_load(&u->inflight) < URING_ENTRIES)
		sqe = io_uring_get_sqe(&u->ring);
	atomic_store(&u->submitter, &self);
	if (sqe) {
		if (write)
			io_uring_prep_writev(sqe, fd, iov, n, offset);
		else
			io_uring_prep_readv(sqe, fd, iov, n, offset);
		io_uring_sqe_set_data(sqe, item);
		if (!hold(u, sqe, item))
			refusals = submit_held(u, refused);
	} else {
		refusals = submit_held(u, refused); /* room for the next one, should there be remains of refusals */
	}
	pthread_mutex_unlock(&u->lock);
	/* the last one is this one: its caller sees to it */
	tell(u, refused, sqe && refusals ? refusals - 1 : refusals);
	return sqe && !refusals;
}

void uring_destroy(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (!u)
		return;
	atomic_store(&u->quit, true);
	uring_unpark(u);
	pthread_mutex_lock(&u->lock);
	while (!(sqe = io_uring_get_sqe(&u->ring)))
		io_uring_submit(&u->ring);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, u);
	while (io_uring_submit(&u->ring), io_uring_sq_ready(&u->ring))
		sched_yield();
	pthread_mutex_unlock(&u->lock);
	pthread_join(u->thread, NULL);
	io_uring_queue_exit(&u->ring);
	pthread_mutex_destroy(&u->lock);
	pthread_mutex_destroy(&u->reap_lock);
	free(u);
}
