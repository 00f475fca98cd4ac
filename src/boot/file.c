/*
 * Host files into memory: regular files only, with a size limit. The content is
 * dropped while nobody needs it and read again for a reset; it must be the same
 * then, for what was checked of it and for determinism.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "boot/image.h"

static int blob_alloc(struct boot_blob *f, const char *name, size_t len, struct error *e)
{
	/* whole pages, so that a ROM can be mapped straight from here, and dropped */
	u8 *data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	f->fd = -1;
	f->name = strdup(name);
	f->data = data == MAP_FAILED ? NULL : data;
	f->len = len;
	if (!f->name || !f->data) {
		blob_free(f);
		return error_set(e, "not enough host memory to read %s (%zu bytes)", name, len);
	}
	return 0;
}

static int blob_fill(struct boot_blob *f, int fd, size_t len, const char *what, struct error *e)
{
	size_t pos = 0;

	while (pos < len) {
		ssize_t n = pread(fd, f->data + pos, len - pos, (off_t)pos);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(e, errno, "cannot read %s %s", what, f->name);
		if (n == 0)
			return error_set(e, "%s %s became shorter while it was read: try again", what, f->name);
		pos += (size_t)n;
	}
	return 0;
}

/* The checks that need no byte of the file. */
static int blob_stat(int fd, const char *path, const char *what, u64 max, const char *limit, u64 *size, u64 *written,
		     struct error *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(e, errno, "cannot stat %s %s", what, path);
	if (!S_ISREG(st.st_mode))
		return error_set(e, "%s %s is %s, not a regular file: give a file", what, path,
				 S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
	if (st.st_size == 0)
		return error_set(e, "%s %s is empty: get the file again", what, path);
	if ((u64)st.st_size > max)
		return error_set(e, "%s %s has %llu KiB, more than %s (%llu KiB)", what, path,
				 (unsigned long long)(((u64)st.st_size + 1023) / KiB), limit,
				 (unsigned long long)(max / KiB));
	*size = (u64)st.st_size;
	*written = (u64)st.st_mtim.tv_sec * 1000000000u + (u64)st.st_mtim.tv_nsec;
	return 0;
}

int blob_check_known(const struct boot_blob *f, const struct boot_known_file *known, struct error *e)
{
	if (f->len == known->len && f->hash == known->hash)
		return 0;
	return error_set(e, "file %s is not what it was when the machine was started: give it back", f->name);
}

int blob_read(struct boot_blob *f, const char *path, const char *what, u64 max, const char *limit, struct error *e)
{
	return blob_read_known(f, path, what, max, limit, NULL, e);
}

int blob_read_known(struct boot_blob *f, const char *path, const char *what, u64 max, const char *limit,
		    const struct boot_known_file *known, struct error *e)
{
	u64 size = 0, written = 0;
	int ret = -1;
	/* O_NONBLOCK: opening a FIFO must not wait for its writer */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return error_errno(e, errno, "cannot open %s %s", what, path);
	if (blob_stat(fd, path, what, max, limit, &size, &written, e) < 0)
		goto out;
	if (blob_alloc(f, path, size, e) < 0)
		goto out;
	f->dropped = known && known->len == size && known->written == written && size > BLOB_HEAD;
	ret = blob_fill(f, fd, f->dropped ? BLOB_HEAD : f->len, what, e);
	if (ret == 0) {
		f->written = written;
		f->hash = f->dropped ? known->hash : XXH3_64bits(f->data, f->len);
		ret = known ? blob_check_known(f, known, e) : 0;
	}
	if (ret < 0) {
		blob_free(f);
		goto out;
	}
	f->fd = fd;
	return 0;
out:
	close(fd);
	return ret;
}

void blob_drop(struct boot_blob *f)
{
	if (f->data && f->fd >= 0 && madvise(f->data, f->len, MADV_DONTNEED) == 0)
		f->dropped = true;
}

int blob_fetch(struct boot_blob *f, struct error *e)
{
	if (!f->dropped)
		return 0;
	if (blob_fill(f, f->fd, f->len, "file", e) < 0)
		return -1;
	if (XXH3_64bits(f->data, f->len) != f->hash)
		return error_set(e, "file %s has changed since the machine was started: start it anew", f->name);
	f->dropped = false;
	return 0;
}

int blob_copy(struct boot_blob *f, const char *name, const void *data, size_t len, struct error *e)
{
	if (!len)
		return error_set(e, "%s is empty", name);
	if (blob_alloc(f, name, len, e) < 0)
		return -1;
	memcpy(f->data, data, len);
	f->hash = XXH3_64bits(f->data, f->len);
	return 0;
}

void blob_free(struct boot_blob *f)
{
	free(f->name);
	if (f->data) {
		munmap(f->data, f->len);
		if (f->fd >= 0)
			close(f->fd);
	}
	*f = (struct boot_blob){ 0 };
}
