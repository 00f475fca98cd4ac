/*
 * Which parts of a disk are written: for migration and replication, which send
 * again what has changed, and for snapshots of a running machine, which save a
 * part before it changes. What mem/track.h is for RAM; it sits on what the
 * guest sees, above formats and engines.
 *
 * A disk is counted in *granules* of 64 KiB, the last one may be shorter. A
 * *track* is one user's view: from block_track_start() on each granule that a
 * write, discard or write-zeroes touches is noted in it. A granule may be noted
 * that was not written, never the reverse:
 *
 *  - It is noted when the request is submitted, before anything is written, and
 *    once more when the request is done. So one that was in flight when its
 *    granules were harvested, and read half-written, is noted again.
 *  - A track with a hook hears of a granule before it changes. It is started
 *    with no request in flight: pause the devices first (device_ops.quiesce).
 *
 * Not armed, all this costs one load and a branch for each request.
 *
 * All functions may be called by any thread. But a harvest is of the same
 * moment as that of RAM only while no processor runs and devices are quiesced.
 */
#ifndef ECTYPE_BACKEND_BLOCK_TRACK_H
#define ECTYPE_BACKEND_BLOCK_TRACK_H

#include "backend/block/block.h"

#define BLOCK_GRANULE (64 * KiB)
#define BLOCK_TRACKS_MAX 4u

struct block_track; /* handle */

u64 block_granules(const struct block *b);
/* Words of 64 bits that a bitmap of all granules has: bit n % 64 of word n / 64 is granule n. */
u64 block_track_words(const struct block *b);

/*
 * Called before the first change of granules [first, first + n), on a thread that may wait for the disk, several at
 * once. Returns how many of them, from the first one on, may be changed from here on; they are noted then. Less than n:
 * the request waits until block_track_wake().
 */
typedef u64 block_track_hook(void *opaque, u64 first, u64 n);

/* Arms all granules. `before` may be NULL. NULL with *e: out of memory, or BLOCK_TRACKS_MAX tracks are there. */
struct block_track *block_track_start(struct block *b, block_track_hook *before, void *opaque, struct error *e);
/* Returns when the hook does not run, and never will again; what waited goes on. The handle is gone. NULL is allowed.
 * Before block_close(). */
void block_track_stop(struct block_track *t);

/*
 * The granules noted since they were armed last are OR-ed into `bitmap` (block_track_words(); NULL: not wanted), and
 * with `rearm` armed again, all at one time. Returns how many.
 */
u64 block_track_harvest(struct block_track *t, u64 *bitmap, bool rearm);

u64 block_track_count(const struct block_track *t); /* noted */
bool block_track_noted(const struct block_track *t, u64 granule);
/*
 * Notes granules [first, first + n). True if the first was not noted until now: who has read it before, of a track
 * with a hook, has read what it held when it was armed.
 */
bool block_track_claim(struct block_track *t, u64 first, u64 n);
/* Requests that wait for the hook try again. */
void block_track_wake(struct block_track *t);

/* Does somebody wait for all requests to be done (block_drain()), and for so long that it must end? For hooks. */
enum block_hurry { BLOCK_AT_LEISURE, BLOCK_DRAINING, BLOCK_OVERDUE };
enum block_hurry block_track_hurry(const struct block_track *t);

/* ---- content, past the queues of requests: wait for the disk, 0 or an errno value ---- */

/* What [offset, offset + n) hold now: multiples of BLOCK_SECTOR within the disk. */
int block_read_now(struct block *b, u64 offset, void *buf, u64 n);
/* Writes them; if all are zeros they become a hole where the image can. Past all tracks: for who receives a disk. */
int block_write_now(struct block *b, u64 offset, const void *buf, u64 n);
/* The first byte at or behind `offset` that may be other than zero, block_size() if there is none; *end: up to where
 * that is so. */
u64 block_next_data(struct block *b, u64 offset, u64 *end);
/* [offset, offset + n) become zeros, as if they were written with block_write_now(). */
int block_zero_now(struct block *b, u64 offset, u64 n);

/* ---- overlays: what lies above a file of the backing chain, which nobody writes to ---- */

/* Are these the files of the backing chain from some image on, all that are below it, from the top down? The first
 * file, which the guest writes to, is none of them. */
bool block_builds_on(const struct block *b, const struct block_file *files, unsigned n);
/* The first byte at or behind `offset` that images above the file `below` have something of their own for, data or
 * zeros; block_size() if there is none. *end: up to where that is so. Without that file in the chain it is all. */
u64 block_next_above(struct block *b, const struct block_file *below, u64 offset, u64 *end);

#endif
