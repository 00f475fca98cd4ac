/*
 * The directory of copies (clone.h): the snapshot they share, and their disks.
 *
 * Its keeper is a process that waits for the copies' ends, then removes it. It
 * holds a lock on the directory, as `ectype clone` does until then; a directory
 * that nobody locks was left over by a keeper that was killed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/companion.h"
#include "cli/cli.h"
#include "cli/clone.h"
#include "cli/control.h"

#define PREFIX "ectype-clone-"
#define MARGIN (64 * MiB) /* to be left free on the file system */

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	if (remove(path))
		errno = 0; /* somebody else's; the rest goes all the same */
	return 0;
}

static void remove_tree(const char *path)
{
	nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static int lock_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static const char *place(void)
{
	const char *tmp = getenv("TMPDIR");

	return tmp && *tmp == '/' ? tmp : "/var/tmp";
}

bool clone_dir_temporary(const char *path)
{
	return strstr(path, "/" PREFIX);
}

/* Removes what nobody locks. A directory is locked a moment after it was made: a young one is left alone. */
static void sweep(const char *where)
{
	struct dirent *d;
	DIR *dir = opendir(where);

	while (dir && (d = readdir(dir))) {
		char path[PATH_MAX];
		struct stat st;
		int fd;

		if (strncmp(d->d_name, PREFIX, strlen(PREFIX)) ||
		    snprintf(path, sizeof(path), "%s/%s", where, d->d_name) >= PATH_MAX || lstat(path, &st) ||
		    !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || time(NULL) - st.st_mtime < 60)
			continue;
		fd = lock_dir(path);
		if (fd < 0)
			continue;
		remove_tree(path);
		close(fd);
	}
	if (dir)
		closedir(dir);
}

static int check_room(const char *where, u64 need, struct error *e)
{
	char room[16], wants[16];
	struct statvfs v;
	u64 bytes;

	if (!need || statvfs(where, &v))
		return 0; /* whoever writes there will tell */
	bytes = (u64)v.f_bavail * v.f_frsize;
	if (bytes >= need + MARGIN)
		return 0;
	format_bytes((double)bytes, room);
	format_bytes((double)(need + MARGIN), wants);
	return error_set(e,
			 "%s has %s free, and memory and disks of the machine may need %s: make room, or give --dir in "
			 "another file system",
			 where, room, wants);
}

/* The directory in which `path` is. */
static void parent_of(const char *path, char out[PATH_MAX])
{
	char *slash;

	snprintf(out, PATH_MAX, "%s", path);
	slash = strrchr(out, '/');
	if (!slash)
		strcpy(out, ".");
	else
		slash[slash == out] = 0;
}

int clone_dir_create(struct clone_dir *d, const char *wanted, u64 need, struct error *e)
{
	char where[PATH_MAX], path[PATH_MAX];

	*d = (struct clone_dir){ .keep = wanted, .lock = -1 };
	if (wanted && strlen(wanted) >= sizeof(path))
		return error_set(e, "--dir: the name is too long");
	if (wanted)
		parent_of(wanted, where);
	else
		snprintf(where, sizeof(where), "%s", place());
	if (!wanted)
		sweep(where);
	if (check_room(where, need, e))
		return -1;
	if (wanted)
		strcpy(path, wanted);
	else if (snprintf(path, sizeof(path), "%s/" PREFIX "XXXXXX", where) >= (int)sizeof(path))
		return error_set(e, "TMPDIR is too long");
	if (wanted ? mkdir(path, 0700) : !mkdtemp(path))
		return error_errno(e, errno, "cannot make the directory %s", path);
	d->lock = lock_dir(path);
	if (!realpath(path, d->path)) {
		error_errno(e, errno, "%s", path);
		strcpy(d->path, path);
		clone_dir_remove(d);
		return -1;
	}
	return 0;
}

void clone_dir_remove(struct clone_dir *d)
{
	if (d->path[0])
		remove_tree(d->path);
	if (d->lock >= 0)
		close(d->lock);
	*d = (struct clone_dir){ .lock = -1 };
}

/* ---- the keeper ---- */

struct keeping {
	const char *path;
	const struct clone *list;
	unsigned count;
};

static void keep(int fd, const void *arg)
{
	const struct keeping *k = arg;
	struct pollfd *p = calloc(k->count, sizeof(*p));
	int lock = open(k->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char ok = p && lock >= 0;
	unsigned left = k->count;

	/* no number can have gone to somebody else: the parent has waited for none */
	for (unsigned i = 0; ok && i < k->count; i++) {
		p[i] = (struct pollfd){ .fd = (int)syscall(SYS_pidfd_open, k->list[i].pid, 0), .events = POLLIN };
		ok = p[i].fd >= 0;
	}
	if (write(fd, &ok, 1) != 1 || !ok)
		return;
	flock(lock, LOCK_EX); /* when the parent has ended */
	while (left) {
		if (poll(p, k->count, -1) < 0)
			continue;
		for (unsigned i = 0; i < k->count; i++) {
			if (!p[i].revents)
				continue;
			close(p[i].fd);
			p[i] = (struct pollfd){ .fd = -1 };
			left--;
		}
	}
	remove_tree(k->path);
}

int clone_dir_leave(struct clone_dir *d, const struct clone *list, unsigned count, struct error *e)
{
	const struct keeping k = { d->path, list, count };
	struct companion c;
	char ok = 0;

	if (d->lock >= 0 && (d->keep || !d->path[0]))
		close(d->lock);
	if (d->keep || !d->path[0])
		return 0;
	if (companion_start(&c, "ectype-keeper", false, keep, &k, e))
		return -1;
	if (read(c.fd, &ok, 1) != 1 || !ok)
		return error_set(e, "the process that is to remove %s does not start", d->path);
	return 0; /* its end of the socket and the lock stay open until this process ends */
}
