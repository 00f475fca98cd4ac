/*
 * Reads and writes through io_uring: submitted by the caller's thread under a
 * lock, reaped by a thread of the ring or by whoever calls uring_poll(). No
 * more are in flight than the completion queue holds. An operation whose item
 * is the ring itself does nothing: it stands where a submission was refused,
 * or wakes the thread.
 *
 * The thread waits in the kernel, where each completion wakes it. That is
 * wasted while somebody polls, and it is what costs most where processors are
 * woken slowly. So after some completions in a row that a poller was waiting
 * for, the thread is parked: it only looks every PARK_NS whether others still
 * reap. If nothing was reaped in between, or the poller gives up, it goes back
 * to waiting; so a completion that nobody polls for is late by two of these
 * periods at most, and then no further one is.
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
#include "base/thread.h"

#define PARK_NS 500000
#define PARK_AFTER 8 /* completions in a row found by pollers */
#define REAP_BATCH 32

struct uring {
	struct io_uring ring;
	void (*done)(void *opaque, void *item, int result);
	void *opaque;
	pthread_t thread;
	pthread_mutex_t lock;	   /* of the submission queue */
	pthread_mutex_t reap_lock; /* of the completion queue's head */
	atomic_uint inflight;
	atomic_uint reaped; /* counts, modulo 2^32 */
	atomic_uint streak; /* of polls that found something */
	_Atomic u32 parked; /* the thread need not wait for completions; a futex */
	atomic_bool quit;
};

struct reaped {
	void *item;
	int result;
};

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

bool uring_poll(struct uring *u)
{
	struct reaped r[REAP_BATCH];
	bool any = false;

	while (io_uring_cq_ready(&u->ring)) {
		unsigned n = take(u, r);

		atomic_fetch_sub(&u->inflight, n);
		atomic_fetch_add(&u->reaped, n);
		for (unsigned i = 0; i < n; i++)
			u->done(u->opaque, r[i].item, r[i].result);
		any |= n;
	}
	return any;
}

static void unpark(struct uring *u)
{
	if (atomic_exchange(&u->parked, 0))
		syscall(SYS_futex, &u->parked, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void uring_poll_ends(struct uring *u, bool found)
{
	if (!found) {
		atomic_store(&u->streak, 0);
		unpark(u);
	} else if (atomic_load(&u->streak) < PARK_AFTER && atomic_fetch_add(&u->streak, 1) + 1 == PARK_AFTER) {
		atomic_store(&u->parked, 1);
	}
}

unsigned uring_inflight(const struct uring *u)
{
	return atomic_load(&u->inflight);
}

static void park(struct uring *u)
{
	const struct timespec period = { .tv_nsec = PARK_NS };
	unsigned before = atomic_load(&u->reaped);

	syscall(SYS_futex, &u->parked, FUTEX_WAIT_PRIVATE, 1, &period, NULL, 0);
	if (atomic_load(&u->reaped) == before) {
		atomic_store(&u->streak, 0);
		atomic_store(&u->parked, 0);
	}
}

static void *reap(void *opaque)
{
	struct uring *u = opaque;

	while (!atomic_load(&u->quit)) {
		if (atomic_load(&u->parked)) {
			park(u);
			continue;
		}
		syscall(SYS_io_uring_enter, u->ring.ring_fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
		uring_poll(u);
	}
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
	if (thread_start(&u->thread, reap, u)) {
		pthread_mutex_destroy(&u->lock);
		pthread_mutex_destroy(&u->reap_lock);
		io_uring_queue_exit(&u->ring);
		free(u);
		return NULL;
	}
	return u;
}

/* Whether the kernel took all that is queued. */
static bool submit_queued(struct uring *u)
{
	int rc;

	do
		rc = io_uring_submit(&u->ring);
	while (rc == -EINTR);
	return !io_uring_sq_ready(&u->ring);
}

bool uring_submit(struct uring *u, int fd, bool write, u64 offset, const struct iovec *iov, unsigned n, void *item)
{
	struct io_uring_sqe *sqe = NULL;
	bool ok = false;

	if (n > IOV_MAX)
		return false;
	pthread_mutex_lock(&u->lock);
	if (atomic_load(&u->inflight) < URING_ENTRIES)
		sqe = io_uring_get_sqe(&u->ring);
	if (sqe) {
		if (write)
			io_uring_prep_writev(sqe, fd, iov, n, offset);
		else
			io_uring_prep_readv(sqe, fd, iov, n, offset);
		io_uring_sqe_set_data(sqe, item);
		/* before it can be reaped */
		atomic_fetch_add(&u->inflight, 1);
		ok = submit_queued(u);
		if (!ok) { /* the entry stays queued and goes with the next one: as one that does nothing */
			io_uring_prep_nop(sqe);
			io_uring_sqe_set_data(sqe, u);
			atomic_fetch_sub(&u->inflight, 1);
		}
	}
	pthread_mutex_unlock(&u->lock);
	return ok;
}

void uring_destroy(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (!u)
		return;
	atomic_store(&u->quit, true);
	unpark(u);
	pthread_mutex_lock(&u->lock);
	while (!(sqe = io_uring_get_sqe(&u->ring)))
		submit_queued(u);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, u);
	while (!submit_queued(u))
		sched_yield();
	pthread_mutex_unlock(&u->lock);
	pthread_join(u->thread, NULL);
	io_uring_queue_exit(&u->ring);
	pthread_mutex_destroy(&u->lock);
	pthread_mutex_destroy(&u->reap_lock);
	free(u);
}
