/*
 * Image formats: what block.c and a backing chain see of an open image.
 * Synchronous, called from any thread, several at once; the caller has checked
 * offsets. Functions return 0 or an errno value.
 */
#ifndef ECTYPE_BACKEND_BLOCK_FORMAT_H
#define ECTYPE_BACKEND_BLOCK_FORMAT_H

#include "backend/block/block.h"
#include "backend/block/file.h"

#define CHAIN_MAX 64 /* images in a backing chain */

struct image;

/* A request that is one transfer to one place of a file, for an engine that waits for it elsewhere. */
struct pin {
	int fd;	     /* -1: a read of zeroes */
	bool cached; /* goes through the page cache */
	u64 offset;  /* in the file */
	struct range range;
};

struct format_ops {
	const char *name;
	int (*read)(struct image *im, u64 offset, u64 length, struct view v);
	int (*write)(struct image *im, u64 offset, u64 length, struct view v);
	int (*flush)(struct image *im);
	int (*discard)(struct image *im, u64 offset, u64 length);
	int (*zero)(struct image *im, u64 offset, u64 length, bool unmap);
	/* Whether the request is such a transfer, found without waiting; unpin() when it is done. */
	bool (*pin)(struct image *im, struct pin *p, bool write, u64 offset, u64 length, struct view v);
	void (*unpin)(struct image *im, struct pin *p);
	/* Is what it has at `offset` its own, data or zeros, and not its backing image's? *end: up to where that is so,
	 * at most `limit`. NULL: all is. */
	bool (*own)(struct image *im, u64 offset, u64 limit, u64 *end);
	/* The first byte in [offset, limit) that may be other than zero, `limit` if there is none; *end: up to where.
	 */
	u64 (*next_data)(struct image *im, u64 offset, u64 limit, u64 *end);
	int (*close)(struct image *im); /* frees it; the error of the last flush */
};

struct image {
	const struct format_ops *ops;
	struct file *file;
	struct image *backing; /* or NULL */
	u64 size;	       /* bytes; a raw file's need not be whole sectors: the rest of the last reads zero */
	bool readonly;
	unsigned granularity;
};

struct link { /* an image of a chain, and those above it */
	const struct file *file;
	const struct link *above;
};

/* Opens an image and what it is backed by, which is only read. `above`: what this one backs, or NULL. `look`: nothing
 * is changed, not even what an image that was not closed needs. `flags`: of file_open(). *probed_raw (or NULL): it is
 * raw because it looked like nothing else. NULL with *e. */
struct image *chain_open(const char *path, enum block_format format, unsigned flags, const struct link *above,
			 bool look, bool *probed_raw, struct error *e);
/* Of block_builds_on() and block_next_above(), see track.h. */
bool chain_ends_with(const struct image *im, const struct block_file *files, unsigned n);
u64 chain_next_above(struct image *im, const struct block_file *below, u64 offset, u64 limit, u64 *end);
/* An overlay in a temporary file without a name over `base`, which it takes over, also in case of failure. */
struct image *snapshot_open(struct image *base, struct error *e);

/* -1 with *e if the file is an image of a format that we know by name only, 0 if not. `may_be_raw`: say how to take it
 * as raw. */
int foreign_refuse(struct file *f, bool may_be_raw, struct error *e);

/* Takes the file over, also in case of failure. NULL with *e. */
struct image *raw_open(struct file *f, struct error *e);

#endif
