/* Files that hold images: opening, and access that says what went wrong. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/file.h"

#define IOV_BATCH 64 /* buffers for one system call */
#define ZERO_BUFFER (256 * KiB)

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
			   permission && (flags & FILE_WRITE) ? " for writing (readonly=on opens it to read)" : "");
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
	if (!f)
		error_set(e, "%s: out of memory", path);
	return f;
fail:
	close(fd);
	return NULL;
}

void file_close(struct file *f)
{
	if (!f)
		return;
	close(f->fd);
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

static int transfer(struct file *f, bool write, u64 offset, u64 length, struct view v)
{
	struct iovec part[IOV_BATCH];
	u64 covered;

	while (length) {
		unsigned n = view_slice(v, length, part, IOV_BATCH, &covered);
		ssize_t r = write ? pwritev(f->fd, part, n, offset) : preadv(f->fd, part, n, offset);

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

int file_readv(struct file *f, u64 offset, u64 length, struct view v)
{
	return transfer(f, false, offset, length, v);
}

int file_writev(struct file *f, u64 offset, u64 length, struct view v)
{
	return transfer(f, true, offset, length, v);
}

int file_read(struct file *f, u64 offset, void *buf, size_t n)
{
	struct iovec iov = { buf, n };

	return transfer(f, false, offset, n, (struct view){ &iov, 1, 0 });
}

int file_write(struct file *f, u64 offset, const void *buf, size_t n)
{
	struct iovec iov = { (void *)buf, n };

	return transfer(f, true, offset, n, (struct view){ &iov, 1, 0 });
}

int file_flush(struct file *f)
{
	if (f->nosync || !f->writable)
		return 0;
	while (fdatasync(f->fd) < 0)
		if (errno != EINTR)
			return errno;
	return 0;
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
	size_t n = MIN(length, ZERO_BUFFER);
	void *zeroes = calloc(1, n);
	int rc = zeroes ? 0 : ENOMEM;

	for (; !rc && length; length -= n, offset += n) {
		n = MIN(length, n);
		rc = file_write(f, offset, zeroes, n);
	}
	free(zeroes);
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
