/*
 * A host file or block device that holds an image: synchronous access, locks,
 * holes. Functions return 0 or an errno value and may be called from any thread.
 */
#ifndef ECTYPE_BACKEND_BLOCK_FILE_H
#define ECTYPE_BACKEND_BLOCK_FILE_H

#include <stdatomic.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "backend/block/range.h"
#include "base/error.h"
#include "base/types.h"

/* Part of a list of buffers: what is left after `skip` bytes of it. */
struct view {
	const struct iovec *iov;
	unsigned n;
	u64 skip;
};

struct file {
	int fd;			      /* through the page cache */
	int direct_fd;		      /* O_DIRECT, or -1 */
	unsigned align, align_memory; /* of direct access, bytes; powers of two */
	struct ranges around;	      /* read-modify-write around what is not aligned */
	bool writable;
	bool nosync; /* file_flush() does nothing */
	/* errno of the first fdatasync() that failed. Linux then takes the pages for clean and may drop them, so that
	 * no later one can say that what was written is there. */
	atomic_int sync_failed;
	bool device;	  /* a block device */
	unsigned granule; /* of holes, bytes; a power of two */
	dev_t dev;	  /* which file it is */
	ino_t ino;
	char *path; /* for messages */
};

enum { FILE_WRITE = 1, FILE_NOSYNC = 2, FILE_NOLOCK = 4, FILE_DIRECT = 8 };

/* Opens an existing regular file or block device and locks it. NULL with *e. */
struct file *file_open(const char *path, unsigned flags, struct error *e);
/* Takes an open file description over, closing it if there is no memory (NULL). Without locks. */
struct file *file_from_fd(int fd, const char *path, unsigned flags);
void file_close(struct file *f); /* NULL is allowed */

int file_size(const struct file *f, u64 *size);
/*
 * The data path: exactly `length` bytes at `offset`; a read past the end is
 * EIO. With FILE_DIRECT past the page cache, through a copy where buffers or
 * offsets are not aligned.
 */
int file_readv(struct file *f, u64 offset, u64 length, struct view v);
int file_writev(struct file *f, u64 offset, u64 length, struct view v);
/* Whether an asynchronous transfer may go to *fd as it is; *cached: that is through the page cache. */
bool file_pin(const struct file *f, bool write, u64 offset, u64 length, struct view v, int *fd, bool *cached);
/* Always through the page cache: not for bytes that share a page with data. */
int file_read(struct file *f, u64 offset, void *buf, size_t n);
int file_write(struct file *f, u64 offset, const void *buf, size_t n);
/* The data path goes through the page cache from here on. Before any other thread uses the file. */
void file_no_direct(struct file *f);
/* Once it has failed, it fails for ever. */
int file_flush(struct file *f);
/* Makes the bytes read zero; `unmap`: may deallocate them. */
int file_zero(struct file *f, u64 offset, u64 length, bool unmap);
/* The first byte in [offset, limit) that is not in a hole, `limit` if there is none; *end: up to where. */
u64 file_next_data(const struct file *f, u64 offset, u64 limit, u64 *end);
/* Deallocates where the host can; done without effect where it cannot. */
int file_discard(struct file *f, u64 offset, u64 length);

/* At most `max` buffers of the `length` bytes at `v`; *covered says how many bytes they hold. */
unsigned view_slice(struct view v, u64 length, struct iovec *out, unsigned max, u64 *covered);
void view_zero(struct view v, u64 length);
void view_put(struct view v, const void *from, size_t n); /* into the buffers */
void view_get(struct view v, void *to, size_t n);	  /* out of the buffers */
static inline struct view view_at(struct view v, u64 skip)
{
	v.skip += skip;
	return v;
}

/*
 * QEMU's locks (its block/file-posix.c): for each permission a process uses it
 * holds a shared lock on byte 100 + permission; for each it does not let others
 * use, on byte 200 + permission. 0, or -1 with *e: another process is in the way.
 */
int file_lock(int fd, const char *path, bool writable, struct error *e);
void file_unlock(int fd);

#endif
