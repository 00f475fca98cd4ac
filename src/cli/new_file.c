#include "cli/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

/* From a signal handler. */
static void interrupted(void *opaque)
{
	struct new_file *f = opaque;

	unlink(f->temporary);
	_exit(EXIT_FAILED);
}

static int check_target(const char *path, bool replace, struct error *e)
{
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : error_errno(e, errno, "%s", path);
	if (!replace)
		return error_set(e, "%s is there already (--force replaces it)", path);
	return S_ISREG(st.st_mode) || S_ISLNK(st.st_mode) ? 0 : error_set(e, "%s is no file", path);
}

int new_file_create(struct new_file *f, const char *path, bool replace, struct error *e)
{
	*f = (struct new_file){ .path = path, .fd = -1, .replace = replace };
	if (check_target(path, replace, e))
		return -1;
	if (snprintf(f->temporary, sizeof(f->temporary), "%s.part-%d", path, (int)getpid()) >=
	    (int)sizeof(f->temporary))
		return error_set(e, "the name of the file is too long");
	f->fd = open(f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd < 0)
		return error_errno(e, errno, "cannot write %s", f->temporary);
	signals_install(interrupted, f);
	signal(SIGXFSZ, SIG_IGN); /* a limit is an error of write() */
	return 0;
}

static bool all_zero(const u8 *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

int write_all_at(int fd, const void *data, size_t n, u64 at)
{
	const u8 *p = data;

	while (n) {
		ssize_t done = pwrite(fd, p, n, (off_t)at);

		if (done < 0 && errno == EINTR)
			continue;
		if (!done)
			errno = ENOSPC;
		if (done <= 0)
			return -1;
		p += done;
		at += (u64)done;
		n -= (size_t)done;
	}
	return 0;
}

static int write_piece(const struct new_file *f, const u8 *p, size_t n, u64 at, struct error *e)
{
	return write_all_at(f->fd, p, n, at) ? error_errno(e, errno, "cannot write %s", f->temporary) : 0;
}

int new_file_write(struct new_file *f, const void *data, size_t n, u64 at, struct error *e)
{
	const u8 *p = data;
	size_t begin = 0, pos = 0;

	while (pos < n) {
		size_t page = MIN(n - pos, (size_t)(PAGE_SIZE - ((at + pos) & ~PAGE_MASK)));

		if (page == PAGE_SIZE && all_zero(p + pos, page)) {
			if (write_piece(f, p + begin, pos - begin, at + begin, e))
				return -1;
			begin = pos + page;
		}
		pos += page;
	}
	return write_piece(f, p + begin, n - begin, at + begin, e);
}

static int put_in_place(const struct new_file *f, struct error *e)
{
	int failed = renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->path, f->replace ? 0 : RENAME_NOREPLACE);

	/* a file system that cannot look and rename at once */
	if (failed && errno == EINVAL && !f->replace) {
		if (check_target(f->path, false, e))
			return -1;
		failed = rename(f->temporary, f->path);
	}
	if (failed && errno == EEXIST)
		return error_set(e, "%s is there already (--force replaces it)", f->path);
	return failed ? error_errno(e, errno, "cannot rename %s to %s", f->temporary, f->path) : 0;
}

void sync_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX] = ".";
	int fd;

	if (slash)
		snprintf(dir, sizeof(dir), "%.*s", (int)(slash == path ? 1 : slash - path), path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	fsync(fd);
	close(fd);
}

int new_file_finish(struct new_file *f, u64 size, struct error *e)
{
	int failed = ftruncate(f->fd, (off_t)size) || fsync(f->fd);

	if (failed) {
		error_errno(e, errno, "cannot write %s", f->temporary);
	} else {
		failed = put_in_place(f, e);
		if (!failed)
			sync_parent(f->path);
	}
	if (failed)
		unlink(f->temporary);
	signals_remove();
	close(f->fd);
	f->fd = -1;
	return failed ? -1 : 0;
}

void new_file_drop(struct new_file *f)
{
	if (f->fd < 0)
		return;
	unlink(f->temporary);
	signals_remove();
	close(f->fd);
	f->fd = -1;
}
