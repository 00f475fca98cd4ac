/*
 * A disk's content at one moment, all of it or what an overlay has of it, read piece by piece while the guest goes on
 * writing: what it is about to change is copied first (track.h). No more than
 * BLOCK_COPY_ROOM bytes of copies are held; a write that finds no room waits
 * until the reader has taken some.
 *
 * One reader. It has to read, or end: requests may wait for it. If the devices
 * wait for their requests meanwhile (block_drain()) copies get four times the
 * room, and if that is not enough for a second, the copy fails instead.
 */
#ifndef ECTYPE_BACKEND_BLOCK_COPY_H
#define ECTYPE_BACKEND_BLOCK_COPY_H

#include "backend/block/track.h"

#define BLOCK_COPY_ROOM (16 * MiB)
#define BLOCK_COPY_PIECE BLOCK_GRANULE

struct block_copy;

/* The moment is this one: no request is in flight. `below`, or NULL: only what lies above this file of its backing
 * chain (track.h), zeros as well. NULL with *e. */
struct block_copy *block_copy_start(struct block *b, const struct block_file *below, struct error *e);
/* Had better be read soon: copies fill half of their room, or a write waits. */
bool block_copy_urgent(struct block_copy *c);
/*
 * The next piece that is not all zeros (with `below` also those), in no order, each once: *offset and *n bytes, at most
 * BLOCK_COPY_PIECE, in `buf`. 1, also with *n 0 after it has read many zeros; 0: there is no more, and writes go on as
 * ever; or -1 with *e, and again with each further call.
 */
int block_copy_next(struct block_copy *c, u64 *offset, void *buf, u64 *n, struct error *e);
/* Ends it, whatever was read. Any thread. NULL is allowed. */
void block_copy_end(struct block_copy *c);

#endif
