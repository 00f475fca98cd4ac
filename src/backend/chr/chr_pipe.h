/*
 * Character streams of one direction, on a descriptor of the process: the
 * standard input, output and error of a command in the guest. Nothing is lost
 * or dropped: a slow reader makes the guest wait, a full guest leaves the
 * input where it is.
 *
 * Where a stream ends is not part of it. The input says so when it has posted
 * the last byte, the output when all that was expected of it has been written,
 * or when nobody reads it any more; both count bytes, so that another stream
 * can say where the end is.
 */
#ifndef ECTYPE_BACKEND_CHR_CHR_PIPE_H
#define ECTYPE_BACKEND_CHR_CHR_PIPE_H

#include "backend/chr/chr.h"

/* `end` is called once, on any thread, with the number of bytes posted in all. `fd` stays the caller's. */
struct chr *chr_pipe_in_create(int fd, void (*end)(void *opaque, u64 bytes), void *opaque, struct error *e);
/* Before start(): calls `watch` with all that is read, on the stream's thread. */
void chr_pipe_in_watch(struct chr *c, void (*watch)(void *opaque, const u8 *bytes, size_t n));

/*
 * `end` is called once for each of the two things that can happen, on any
 * thread and without locks held: all bytes are written (`error` 0), or they
 * cannot be, for the errno `error` (EPIPE: the reader is gone), and what the
 * guest sends is thrown away from now on.
 */
struct chr *chr_pipe_out_create(int fd, void (*end)(void *opaque, int error), void *opaque, struct error *e);
/* Any thread: the stream has `bytes` bytes, from its beginning, and no more. */
void chr_pipe_out_expect(struct chr *c, u64 bytes);

#endif
