/* Reads and writes through io_uring. */
#ifndef ECTYPE_BACKEND_BLOCK_URING_H
#define ECTYPE_BACKEND_BLOCK_URING_H

#include <sys/uio.h>

#include "base/types.h"

struct uring;

/* `done` is called on a thread of the ring with the bytes transferred or -errno. NULL: the host has no io_uring for
 * us (kernel, container or limits forbid it). */
struct uring *uring_create(void (*done)(void *opaque, void *item, int result), void *opaque);
/* Any thread. `iov` stays valid until `done`. False: the ring is full or refuses; nothing was submitted. */
bool uring_submit(struct uring *u, int fd, bool write, u64 offset, const struct iovec *iov, unsigned n, void *item);
/* After all submissions are done. NULL is allowed. */
void uring_destroy(struct uring *u);

#define URING_ENTRIES 256u /* submissions at most in flight */

#endif
