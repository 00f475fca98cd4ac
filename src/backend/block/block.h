/*
 * Disk images: raw and qcow2 files behind one asynchronous interface.
 *
 * A request may be submitted from any thread; its `done` is called once, on
 * any thread, also from within block_submit(). Requests may be done in any
 * order. A flush covers the writes, discards and write-zeroes that were done
 * (their `done` called) when it was submitted: after it they are on stable
 * storage, unless the cache mode is BLOCK_CACHE_UNSAFE.
 */
#ifndef ECTYPE_BACKEND_BLOCK_BLOCK_H
#define ECTYPE_BACKEND_BLOCK_BLOCK_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

#define BLOCK_SECTOR 512u

struct block; /* an open image; opaque */

enum block_format { BLOCK_FORMAT_AUTO, BLOCK_FORMAT_RAW, BLOCK_FORMAT_QCOW2 };
enum block_cache {
	BLOCK_CACHE_WRITEBACK, /* default: the host's page cache; a flush is fdatasync() */
	BLOCK_CACHE_NONE,      /* O_DIRECT; the same durability */
	BLOCK_CACHE_UNSAFE,    /* a flush does nothing */
};

struct block_config {
	const char *path;
	enum block_format format; /* AUTO: qcow2 by its magic, else raw */
	enum block_cache cache;
	bool readonly;
	bool snapshot; /* writes go to an overlay that is gone with the process; the file is only read */
	bool threads;  /* do not try io_uring */
	bool unlocked; /* another process has it still: block_relock() comes before the first request */
};

/* A file of the host: st_dev and st_ino of stat(). */
struct block_file {
	u64 dev, ino;
};

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_request {
	enum block_op op;
	bool unmap;		 /* WRITE_ZEROES: may deallocate */
	u64 offset, length;	 /* bytes; multiples of BLOCK_SECTOR within the image (FLUSH: ignored) */
	const struct iovec *iov; /* READ, WRITE: together `length` bytes; stays valid until done */
	unsigned iov_n;
	/* `error`: 0 or an errno value (EIO, ENOSPC, ...). Part of a failed write may be in the image. */
	void (*done)(struct block_request *r, int error);
	void *opaque;
	/* block.c's, while it is submitted */
	bool held; /* by a track (track.h) */
	struct block_request *next;
};

/*
 * Opens and locks an image: shared for readers, exclusive for writers, by open
 * file description locks on the same bytes as QEMU's, so that neither program
 * opens what the other writes. A backing chain is opened read-only. NULL with
 * *e (what, which file, what to do), and nothing was changed.
 */
struct block *block_open(const struct block_config *cfg, struct error *e);
/* The checks of block_open() alone; the file is closed again. */
int block_check_config(const struct block_config *cfg, struct error *e);
/* Waits for all requests, flushes, writes caches of metadata back, unlocks, frees. 0 or an errno value of the
 * last flush. NULL is allowed. */
int block_close(struct block *b);

u64 block_size(const struct block *b); /* bytes; a raw file's odd end is cut off */
bool block_readonly(const struct block *b);
const char *block_format_name(const struct block *b); /* "raw", "qcow2" */
unsigned block_granularity(const struct block *b);    /* of discards that free space, bytes; a power of two */

/* Offsets are checked again: a request outside the image is done with EINVAL (writes to a readonly one: EROFS). */
void block_submit(struct block *b, struct block_request *r);
/*
 * Polling: requests that the host does by itself need no other thread to be
 * found done, if somebody looks. block_poll() calls their `done`, true if
 * there was any; it costs a few loads if there is none. Where it finds things
 * often, others stop looking: so who has called it says by block_poll_ends()
 * that it is going to sleep. Any thread.
 *
 * Requests may also be held back for a moment to go to the host together, not
 * longer than others are in flight or half a millisecond; block_kick() lets
 * them go.
 */
/* There are such requests, and the calling thread submitted the last one: others had better leave them to it. */
bool block_pollable(const struct block *b);
bool block_poll(struct block *b);
void block_poll_ends(struct block *b);
void block_kick(struct block *b);
/* Returns when all requests submitted before are done. */
void block_drain(struct block *b);
/* That would take a while: a flush, discard or write-zeroes is under way. Any thread. */
bool block_drains_slowly(const struct block *b);

/* Another process may open the image, until it is locked again. Nothing is in flight, and a flush has left nothing to
 * be written. block_relock(): 0; or -1 with *e: somebody has it. */
void block_unlock(struct block *b);
int block_relock(struct block *b, struct error *e);

#endif
