/*
 * Locks on image files that QEMU understands. They are locks of the open file
 * description, so they end with its last descriptor, and two openings in one
 * process exclude each other as well. First all locks are taken, then the
 * opposite bytes are looked at: of two programs that start together at least
 * one sees the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backend/block/file.h"
#include "base/log.h"

enum { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE, PERMISSIONS };
#define USED_BASE 100
#define UNSHARED_BASE 200

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

int file_lock(int fd, const char *path, bool writable, struct error *e)
{
	unsigned used = writable ? BIT(CONSISTENT_READ) | BIT(WRITE) | BIT(RESIZE) : BIT(CONSISTENT_READ);
	unsigned unshared = BIT(WRITE) | BIT(RESIZE);

	for (unsigned p = 0; p < PERMISSIONS; p++) {
		int rc = used & BIT(p) ? lock_byte(fd, USED_BASE + p) : 0;

		if (!rc && (unshared & BIT(p)))
			rc = lock_byte(fd, UNSHARED_BASE + p);
		if (rc == EAGAIN || rc == EACCES)
			return error_set(e, "%s: another process uses this image; stop it first", path);
		if (rc) { /* some network file systems */
			log_warn("block", "%s: the file system has no locks: nothing stops a second writer", path);
			return 0;
		}
	}
	for (unsigned p = 0; p < PERMISSIONS; p++)
		if (((used & BIT(p)) && held_by_others(fd, UNSHARED_BASE + p)) ||
		    ((unshared & BIT(p)) && held_by_others(fd, USED_BASE + p)))
			return error_set(e, "%s: another process uses this image%s; stop it first", path,
					 writable ? "" : " for writing");
	return 0;
}
