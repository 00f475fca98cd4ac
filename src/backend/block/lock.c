/*
 * Locks on image files that QEMU understands. They are locks of the open file
 * description, so they end with its last descriptor, and two openings in one
 * process exclude each other as well. First all locks are taken, then the
 * opposite bytes are looked at: of two programs that start together at least
 * one sees the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "backend/block/file.h"
#include "base/log.h"

enum { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE, PERMISSIONS };
#define USED_BASE 100
#define UNSHARED_BASE 200
/* The kernel holds a killed process's file, and its locks, until the last request it had in io_uring is done. */
#define TRIES 10
#define PAUSE_MS 30

static int lock_byte(int fd, off_t at)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &l) < 0 ? errno : 0;
}

static bool held_by_others(int fd, off_t at)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

/* 0; EBUSY: somebody else is in the way; another errno value: there are no locks. */
static int try_lock(int fd, unsigned used, unsigned unshared)
{
	for (unsigned p = 0; p < PERMISSIONS; p++) {
		int rc = used & BIT(p) ? lock_byte(fd, USED_BASE + p) : 0;

		if (!rc && (unshared & BIT(p)))
			rc = lock_byte(fd, UNSHARED_BASE + p);
		if (rc)
			return rc == EAGAIN || rc == EACCES ? EBUSY : rc;
	}
	for (unsigned p = 0; p < PERMISSIONS; p++)
		if (((used & BIT(p)) && held_by_others(fd, UNSHARED_BASE + p)) ||
		    ((unshared & BIT(p)) && held_by_others(fd, USED_BASE + p)))
			return EBUSY;
	return 0;
}

void file_unlock(int fd)
{
	struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = USED_BASE, .l_len = 2 * USED_BASE };

	fcntl(fd, F_OFD_SETLK, &l);
}

int file_lock(int fd, const char *path, bool writable, struct error *e)
{
	unsigned used = writable ? BIT(CONSISTENT_READ) | BIT(WRITE) | BIT(RESIZE) : BIT(CONSISTENT_READ);
	/* QEMU's readers of raw images let others write; ours would not read what is being written */
	unsigned unshared = BIT(WRITE) | BIT(RESIZE) | (writable ? BIT(CONSISTENT_READ) : 0);
	const struct timespec pause = { .tv_nsec = PAUSE_MS * 1000000 };
	int rc = try_lock(fd, used, unshared);

	for (unsigned i = 0; rc == EBUSY && i < TRIES; i++) {
		file_unlock(fd);
		nanosleep(&pause, NULL);
		rc = try_lock(fd, used, unshared);
	}
	if (rc == EBUSY)
		return error_set(e, "%s: another process uses this image%s; stop it first", path,
				 writable ? "" : " for writing");
	if (rc) /* some network file systems */
		log_warn("block", "%s: the file system has no locks: nothing stops a second writer", path);
	return 0;
}
