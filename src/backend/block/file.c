/* Files that hold images: opening, and access that says what went wrong. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/file.h"
#include "base/log.h"

#define IOV_BATCH 64 /* buffers for one system call */
#define ZERO_BUFFER (256 * KiB)
#define BOUNCE (256 * KiB)
#define BLOCK_ALIGN 512u /* what requests are aligned to */

static unsigned granule_of(const struct stat *st)
{
	u64 size = st->st_blksize;

	return size >= 512 && size <= MiB && !(size & (size - 1)) ? size : 4096;
}

struct file *file_from_fd(int fd, const char *path, unsigned flags)
{
	struct file *f = calloc(1, sizeof(*f));
	struct stat st;

	if (!f || !(f->path = strdup(path)) || fstat(fd, &st) < 0) {
		if (f)
			free(f->path);
		free(f);
		close(fd);
		return NULL;
	}
	f->fd = fd;
	f->direct_fd = -1;
	f->align = f->align_memory = 1;
	ranges_init(&f->around);
	f->writable = flags & FILE_WRITE;
	f->nosync = flags & FILE_NOSYNC;
	f->device = S_ISBLK(st.st_mode);
	f->granule = granule_of(&st);
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	return f;
}

static int open_error(const char *path, unsigned flags, struct error *e)
{
	bool permission = errno == EACCES || errno == EROFS || errno == EPERM;

	return error_errno(e, errno, "%s: cannot open the image%s", path,
			   permission && (flags & FILE_WRITE) ? " for writing ('readonly' opens it to read)" : "");
}

/* What direct access wants aligned; file systems that do not say so are asked by trying. */
static void find_alignment(struct file *f)
{
	void *page;
	ssize_t r = -1;
#ifdef STATX_DIOALIGN
	struct statx st;

	if (statx(f->direct_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 && (st.stx_mask & STATX_DIOALIGN) &&
	    st.stx_dio_offset_align) {
		f->align = MAX(st.stx_dio_offset_align, BLOCK_ALIGN);
		f->align_memory = MAX(st.stx_dio_mem_align, 1);
		return;
	}
#endif
	if (posix_memalign(&page, PAGE_SIZE, PAGE_SIZE) == 0) {
		r = pread(f->direct_fd, (char *)page + BLOCK_ALIGN, BLOCK_ALIGN, 0);
		free(page);
	}
	f->align = f->align_memory = r >= 0 ? BLOCK_ALIGN : PAGE_SIZE;
}

static int file_open_direct(struct file *f, struct error *e)
{
	char self[64];
	u64 size;

	/* the same file, whatever has happened to the path */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	f->direct_fd = open(self, (f->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_DIRECT);
	if (f->direct_fd < 0)
		return error_errno(e, errno, "%s: cache=none (O_DIRECT) does not work here; use cache=writeback",
				   f->path);
	find_alignment(f);
	if (f->align > BOUNCE || (f->align & (f->align - 1)) || (f->align_memory & (f->align_memory - 1)) ||
	    f->align_memory > PAGE_SIZE || file_size(f, &size)) {
		error_set(e, "%s: cache=none (O_DIRECT) does not work here; use cache=writeback", f->path);
		return -1;
	}
	if (f->align > BLOCK_ALIGN && size % f->align) {
		log_warn("block", "%s: not a whole number of blocks of %u bytes: cache=none is left out", f->path,
			 f->align);
		file_no_direct(f);
	}
	return 0;
}

struct file *file_open(const char *path, unsigned flags, struct error *e)
{
	/* O_NONBLOCK: opening a FIFO must not wait */
	int fd = open(path, ((flags & FILE_WRITE) ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct file *f;
	struct stat st;

	if (fd < 0) {
		open_error(path, flags, e);
		return NULL;
	}
	if (fstat(fd, &st) < 0) {
		error_errno(e, errno, "%s: cannot open the image", path);
		goto fail;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		error_set(e, "%s: an image must be a regular file or a block device", path);
		goto fail;
	}
	fcntl(fd, F_SETFL, 0);
	if (!(flags & FILE_NOLOCK) && file_lock(fd, path, flags & FILE_WRITE, e) < 0)
		goto fail;
	f = file_from_fd(fd, path, flags);
	if (!f) {
		error_set(e, "%s: out of memory", path);
	} else if ((flags & FILE_DIRECT) && file_open_direct(f, e) < 0) {
		file_close(f);
		f = NULL;
	}
	return f;
fail:
	close(fd);
	return NULL;
}

void file_no_direct(struct file *f)
{
	if (f->direct_fd >= 0)
		close(f->direct_fd);
	f->direct_fd = -1;
	f->align = f->align_memory = 1;
}

void file_close(struct file *f)
{
	if (!f)
		return;
	file_no_direct(f);
	close(f->fd);
	ranges_destroy(&f->around);
	free(f->path);
	free(f);
}

int file_size(const struct file *f, u64 *size)
{
	struct stat st;

	if (f->device)
		return ioctl(f->fd, BLKGETSIZE64, size) < 0 ? errno : 0;
	if (fstat(f->fd, &st) < 0)
		return errno;
	*size = st.st_size;
	return 0;
}

static int transfer(int fd, bool write, u64 offset, u64 length, struct view v)
{
	struct iovec part[IOV_BATCH];
	u64 covered;

	while (length) {
		unsigned n = view_slice(v, length, part, IOV_BATCH, &covered);
		ssize_t r = write ? pwritev(fd, part, n, offset) : preadv(fd, part, n, offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return errno == EFBIG ? ENOSPC : errno;
		if (r == 0)
			return EIO;
		offset += r;
		length -= r;
		v.skip += r;
	}
	return 0;
}

static bool aligned(const struct file *f, u64 offset, u64 length, struct view v)
{
	struct iovec part[IOV_BATCH];
	u64 covered;

	if ((offset | length) & (f->align - 1))
		return false;
	while (length) {
		unsigned n = view_slice(v, length, part, IOV_BATCH, &covered);

		for (unsigned i = 0; i < n; i++)
			if (((uintptr_t)part[i].iov_base & (f->align_memory - 1)) || (part[i].iov_len & (f->align - 1)))
				return false;
		length -= covered;
		v.skip += covered;
	}
	return true;
}

/* Direct access to [start, end), aligned, by way of `copy`. A read may end early at `need`: the end of the file. */
static int direct(struct file *f, bool write, u64 start, u64 end, void *copy, u64 need)
{
	for (u64 at = start; at < end;) {
		ssize_t r = write ? pwrite(f->direct_fd, (char *)copy + (at - start), end - at, at)
				  : pread(f->direct_fd, (char *)copy + (at - start), end - at, at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return errno == EFBIG ? ENOSPC : errno;
		at += r;
		if (!write && at >= need)
			return 0;
		if (r == 0 || (at & (f->align - 1)))
			return EIO;
	}
	return 0;
}

/* One bounce buffer full: at most BOUNCE bytes of it, *n of them. */
static int bounce(struct file *f, bool write, u64 offset, u64 length, struct view v, void *copy, u64 *n)
{
	u64 mask = f->align - 1, start = offset & ~mask, end = MIN((offset + length + mask) & ~mask, start + BOUNCE);
	bool around;
	struct range r;
	int rc = 0;

	*n = MIN(length, end - offset);
	around = *n != end - start;
	if (!write) {
		rc = direct(f, false, start, end, copy, offset + *n);
		if (!rc)
			view_put(v, (char *)copy + (offset - start), *n);
		return rc;
	}
	range_lock(&f->around, &r, start, end, around);
	if (around) {
		memset(copy, 0, end - start);
		rc = direct(f, false, start, end, copy, start);
	}
	view_get(v, (char *)copy + (offset - start), *n);
	if (!rc)
		rc = direct(f, true, start, end, copy, 0);
	range_unlock(&f->around, &r);
	return rc;
}

static int bounce_all(struct file *f, bool write, u64 offset, u64 length, struct view v)
{
	void *copy;
	int rc = posix_memalign(&copy, PAGE_SIZE, BOUNCE);

	if (rc)
		return rc;
	for (u64 n; !rc && length; offset += n, length -= n, v.skip += n)
		rc = bounce(f, write, offset, length, v, copy, &n);
	free(copy);
	return rc;
}

static int transfer_data(struct file *f, bool write, u64 offset, u64 length, struct view v)
{
	struct range r;
	int rc;

	if (f->direct_fd < 0)
		return transfer(f->fd, write, offset, length, v);
	if (!aligned(f, offset, length, v))
		return bounce_all(f, write, offset, length, v);
	if (!write || f->align <= BLOCK_ALIGN)
		return transfer(f->direct_fd, write, offset, length, v);
	range_lock(&f->around, &r, offset, offset + length, false);
	rc = transfer(f->direct_fd, write, offset, length, v);
	range_unlock(&f->around, &r);
	return rc;
}

int file_readv(struct file *f, u64 offset, u64 length, struct view v)
{
	return transfer_data(f, false, offset, length, v);
}

int file_writev(struct file *f, u64 offset, u64 length, struct view v)
{
	return transfer_data(f, true, offset, length, v);
}

bool file_pin(const struct file *f, bool write, u64 offset, u64 length, struct view v, int *fd, bool *cached)
{
	*cached = f->direct_fd < 0;
	*fd = *cached ? f->fd : f->direct_fd;
	if (v.skip || length > INT_MAX / 2)
		return false;
	if (*cached)
		return true;
	return !(write && f->align > BLOCK_ALIGN) && aligned(f, offset, length, v);
}

int file_read(struct file *f, u64 offset, void *buf, size_t n)
{
	struct iovec iov = { buf, n };

	return transfer(f->fd, false, offset, n, (struct view){ &iov, 1, 0 });
}

int file_write(struct file *f, u64 offset, const void *buf, size_t n)
{
	struct iovec iov = { (void *)buf, n };

	return transfer(f->fd, true, offset, n, (struct view){ &iov, 1, 0 });
}

int file_flush(struct file *f)
{
	int failed = atomic_load(&f->sync_failed);

	if (f->nosync || !f->writable)
		return 0;
	while (!failed && fdatasync(f->fd) < 0)
		if (errno != EINTR)
			atomic_store(&f->sync_failed, failed = errno);
	return failed;
}

/* EOPNOTSUPP stands for all ways to say that file system or kernel cannot do it. */
static int allocate(struct file *f, int mode, u64 offset, u64 length)
{
	while (fallocate(f->fd, mode, offset, length) < 0) {
		if (errno == EINTR)
			continue;
		return errno == ENOSYS || errno == ENODEV || errno == EINVAL || errno == ENOTTY ? EOPNOTSUPP : errno;
	}
	return 0;
}

static int write_zeroes(struct file *f, u64 offset, u64 length)
{
	size_t n = MIN((length + PAGE_SIZE - 1) & PAGE_MASK, ZERO_BUFFER);
	struct iovec iov = { NULL, n };
	int rc = posix_memalign(&iov.iov_base, PAGE_SIZE, n);

	if (rc)
		return rc;
	memset(iov.iov_base, 0, n);
	for (; !rc && length; length -= n, offset += n) {
		n = MIN(length, n);
		rc = file_writev(f, offset, n, (struct view){ &iov, 1, 0 });
	}
	free(iov.iov_base);
	return rc;
}

int file_zero(struct file *f, u64 offset, u64 length, bool unmap)
{
	int rc = EOPNOTSUPP;

	if (!length)
		return 0;
	if (unmap)
		rc = allocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
	if (rc == EOPNOTSUPP)
		rc = allocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
	return rc == EOPNOTSUPP ? write_zeroes(f, offset, length) : rc;
}

int file_discard(struct file *f, u64 offset, u64 length)
{
	int rc = length ? allocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) : 0;

	return rc == EOPNOTSUPP ? 0 : rc;
}

u64 file_next_data(const struct file *f, u64 offset, u64 limit, u64 *end)
{
	off_t data = lseek(f->fd, (off_t)offset, SEEK_DATA), hole;

	*end = limit;
	if (data < 0 && errno == ENXIO)
		return limit;
	if (data < (off_t)offset) /* a file system that knows no holes */
		return offset;
	if ((u64)data >= limit)
		return limit;
	hole = lseek(f->fd, data, SEEK_HOLE);
	if (hole > data)
		*end = MIN((u64)hole, limit);
	return (u64)data;
}
