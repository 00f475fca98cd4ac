/*
 * Reads and writes through io_uring: submitted by the caller's thread under a
 * lock, reaped by a thread of the ring. No more are in flight than the
 * completion queue holds. An empty operation with no item ends the thread;
 * one whose item is the ring itself stands where a submission was refused.
 */
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/block/uring.h"
#include "base/thread.h"

struct uring {
	struct io_uring ring;
	void (*done)(void *opaque, void *item, int result);
	void *opaque;
	pthread_t thread;
	pthread_mutex_t lock; /* of the submission queue and what follows */
	unsigned inflight;
};

static void *reap(void *opaque)
{
	struct uring *u = opaque;
	struct io_uring_cqe *cqe;

	for (;;) {
		void *item;
		int result;

		if (io_uring_wait_cqe(&u->ring, &cqe) < 0)
			continue; /* EINTR */
		item = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		if (!item)
			return NULL;
		if (item == u)
			continue;
		pthread_mutex_lock(&u->lock);
		u->inflight--;
		pthread_mutex_unlock(&u->lock);
		u->done(u->opaque, item, result);
	}
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
	if (thread_start(&u->thread, reap, u)) {
		pthread_mutex_destroy(&u->lock);
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
	if (u->inflight < URING_ENTRIES)
		sqe = io_uring_get_sqe(&u->ring);
	if (sqe) {
		if (write)
			io_uring_prep_writev(sqe, fd, iov, n, offset);
		else
			io_uring_prep_readv(sqe, fd, iov, n, offset);
		io_uring_sqe_set_data(sqe, item);
		ok = submit_queued(u);
		u->inflight += ok;
		if (!ok) { /* the entry stays queued and goes with the next one: as one that does nothing */
			io_uring_prep_nop(sqe);
			io_uring_sqe_set_data(sqe, u);
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
	pthread_mutex_lock(&u->lock);
	while (!(sqe = io_uring_get_sqe(&u->ring)))
		submit_queued(u);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	while (!submit_queued(u))
		sched_yield();
	pthread_mutex_unlock(&u->lock);
	pthread_join(u->thread, NULL);
	io_uring_queue_exit(&u->ring);
	pthread_mutex_destroy(&u->lock);
	free(u);
}
