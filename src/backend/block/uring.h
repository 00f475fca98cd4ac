/* Reads and writes through io_uring. */
#ifndef ECTYPE_BACKEND_BLOCK_URING_H
#define ECTYPE_BACKEND_BLOCK_URING_H

#include <sys/uio.h>

#include "base/types.h"

struct uring;

/* `done` is called on a thread of the ring, or by the functions below, with the bytes transferred or -errno (also
 * -EAGAIN: not tried). NULL: the host has no io_uring for us (kernel, container or limits forbid it). */
struct uring *uring_create(void (*done)(void *opaque, void *item, int result), void *opaque);
/* Any thread. `iov` stays valid until `done`. False: the ring is full or refuses; there will be no `done`. It may be
 * that the kernel gets it later, when others are done or with uring_kick(). */
bool uring_submit(struct uring *u, int fd, bool write, u64 offset, const struct iovec *iov, unsigned n, void *item);
/* Any thread: calls `done` of what the host has finished. True if there was any. Costs one load if there is none. */
bool uring_poll(struct uring *u);
/* Any thread: the kernel gets what was submitted. */
void uring_kick(struct uring *u);
/* Whoever found something by uring_poll(), as it did before, will not look any more, for it is going to sleep. */
void uring_unpark(struct uring *u);
/* Whether the calling thread submitted the last one. */
bool uring_is_submitter(const struct uring *u);
unsigned uring_inflight(const struct uring *u); /* submissions whose `done` was not called */
/* After all submissions are done. NULL is allowed. */
void uring_destroy(struct uring *u);

#define URING_ENTRIES 256u /* submissions at most in flight */

#endif
