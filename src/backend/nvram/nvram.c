#include "backend/nvram/nvram.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

struct nvram {
	int fd;
	bool failed, dirty;
	bool unlocked; /* the file is another machine's for the time being */
	char *path;
};

static int write_all(int fd, const u8 *bytes, size_t len, u64 off)
{
	while (len) {
		ssize_t done = pwrite(fd, bytes, len, (off_t)off);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? errno : ENOSPC;
		bytes += done;
		off += (u64)done;
		len -= (size_t)done;
	}
	return 0;
}

static int directory_of(const char *path, char *dir, size_t size)
{
	char copy[PATH_MAX];

	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return -1;
	return snprintf(dir, size, "%s", dirname(copy)) < (int)size ? 0 : -1;
}

static int check_stat(const char *path, const struct stat *st, u64 size, struct error *e)
{
	if (!S_ISREG(st->st_mode))
		return error_set(e, "%s is not a regular file: firmware variables need one", path);
	if ((u64)st->st_size != size)
		return error_set(e, "%s has %llu bytes, not the %llu that this firmware's variables have", path,
				 (unsigned long long)st->st_size, (unsigned long long)size);
	return 0;
}

int nvram_check(const char *path, u64 size, bool create, struct error *e)
{
	char dir[PATH_MAX];
	struct stat st;

	if (stat(path, &st) == 0) {
		if (check_stat(path, &st, size, e))
			return -1;
		return access(path, R_OK | W_OK) ? error_errno(e, errno, "cannot write firmware variables to %s", path)
						 : 0;
	}
	if (errno != ENOENT || !create)
		return error_errno(e, errno, "cannot open firmware variables %s", path);
	if (directory_of(path, dir, sizeof(dir)))
		return error_set(e, "the path of the firmware variables is too long");
	if (access(dir, W_OK | X_OK))
		return error_errno(e, errno, "cannot create firmware variables %s", path);
	return 0;
}

/* A file in `dir`, by `name`: without one where the file system can, so that nothing stays if we are killed. */
static int temporary(const char *dir, char *name, size_t size, bool *named)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);

	*named = fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR);
	if (*named) {
		if (snprintf(name, size, "%s/.ectype-vars-%d", dir, (int)getpid()) >= (int)size) {
			errno = ENAMETOOLONG;
			return -1;
		}
		fd = open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
	} else {
		snprintf(name, size, "/proc/self/fd/%d", fd);
	}
	return fd;
}

/* Complete under another name first, then linked to its own: who finds it finds all of it. */
static int create_file(const char *path, const u8 *content, u64 size, struct error *e)
{
	char dir[PATH_MAX], name[PATH_MAX];
	int fd, err;
	bool named;

	if (directory_of(path, dir, sizeof(dir)))
		return error_set(e, "the path of the firmware variables is too long");
	fd = temporary(dir, name, sizeof(name), &named);
	if (fd < 0)
		return error_errno(e, errno, "cannot create firmware variables %s", path);
	err = write_all(fd, content, size, 0);
	if (!err && fdatasync(fd))
		err = errno;
	if (!err && linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW) && errno != EEXIST)
		err = errno;
	if (named)
		unlink(name);
	close(fd);
	return err ? error_errno(e, err, "cannot create firmware variables %s", path) : 0;
}

static int lock(int fd, const char *path, struct error *e)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return error_set(e, "firmware variables %s are in use by another machine: give each its own file",
				 path);
	return error_errno(e, errno, "cannot lock firmware variables %s", path);
}

void nvram_unlock(struct nvram *n)
{
	struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	nvram_sync(n);
	n->unlocked = true;
	fcntl(n->fd, F_OFD_SETLK, &l);
}

int nvram_relock(struct nvram *n, struct error *e)
{
	if (lock(n->fd, n->path, e))
		return -1;
	n->unlocked = false;
	return 0;
}

static int read_all(int fd, const char *path, u8 *content, u64 size, struct error *e)
{
	struct stat st;
	u64 pos = 0;

	if (fstat(fd, &st))
		return error_errno(e, errno, "cannot stat %s", path);
	if (check_stat(path, &st, size, e))
		return -1;
	while (pos < size) {
		ssize_t n = pread(fd, content + pos, size - pos, (off_t)pos);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_errno(e, n ? errno : EIO, "cannot read firmware variables %s", path);
		pos += (u64)n;
	}
	return 0;
}

struct nvram *nvram_open(const char *path, u8 *content, u64 size, unsigned flags, struct error *e)
{
	struct nvram *n = calloc(1, sizeof(*n));

	if (n)
		n->path = strdup(path);
	if (!n || !n->path) {
		free(n);
		error_set(e, "not enough host memory");
		return NULL;
	}
	n->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (n->fd < 0 && errno == ENOENT && (flags & NVRAM_CREATE)) {
		if (create_file(path, content, size, e))
			goto fail;
		n->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	}
	if (n->fd < 0) {
		error_errno(e, errno, "cannot open firmware variables %s", path);
		goto fail;
	}
	n->unlocked = flags & NVRAM_UNLOCKED;
	if ((!n->unlocked && lock(n->fd, path, e)) || read_all(n->fd, path, content, size, e))
		goto fail;
	return n;
fail:
	nvram_close(n);
	return NULL;
}

int nvram_write(struct nvram *n, u64 off, const u8 *bytes, size_t len)
{
	/* not ours yet: what is written is what another machine's file holds */
	if (n->unlocked)
		return 0;
	int err = write_all(n->fd, bytes, len, off);

	n->dirty = true;
	if (err && !n->failed)
		log_error("nvram", "%s: cannot write firmware variables (%s); the guest is told", n->path,
			  strerror(err));
	n->failed = err != 0;
	return err;
}

void nvram_sync(struct nvram *n)
{
	if (n->dirty && fdatasync(n->fd))
		log_error("nvram", "%s: cannot sync (%s)", n->path, strerror(errno));
	n->dirty = false;
}

void nvram_close(struct nvram *n)
{
	if (!n)
		return;
	if (n->fd >= 0) {
		nvram_sync(n);
		close(n->fd);
	}
	free(n->path);
	free(n);
}
