/*
 * Transfers on the thread that asks for them: what the page cache has, or
 * takes, costs a few microseconds, a handful of thread switches ten times that.
 */
#ifndef ECTYPE_BACKEND_BLOCK_NOW_H
#define ECTYPE_BACKEND_BLOCK_NOW_H

#include <stdatomic.h>
#include <sys/uio.h>

#include "base/types.h"

#define NOW_MAX (256 * KiB) /* bytes of a transfer */

/* Zeroed at first; any thread. */
struct now {
	atomic_bool blocking;	 /* the file system knows no writes that do not wait */
	_Atomic u64 not_before;	 /* host ns; earlier, nothing that may wait is tried */
	_Atomic u64 pause_ns;	 /* how long the next pause is */
	atomic_uint maintenance; /* flushes, discards and the like under way, which make writers wait */
};

/* True if all `length` bytes at `offset` of `fd`, which is not O_DIRECT, were transferred. Reads never wait for the
 * disk; a write that does wait is followed by a pause in which none is done here. */
bool now_transfer(struct now *n, int fd, bool write, u64 offset, u64 length, const struct iovec *iov, unsigned iov_n);

#endif
