/*
 * The janitor: a companion that waits for the end of its socket, which comes
 * when the monitor ends or is killed, and then removes what it was told of.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/companion.h"
#include "jail/jail.h"

#define PATHS_MAX 64

struct janitor {
	struct companion process;
	unsigned paths;
};

/* One packet. */
struct record {
	dev_t dev;
	ino_t ino;
	struct timespec made; /* numbers of inodes are used again at once */
	char path[PATH_MAX];
};

static bool get_record(int fd, struct record *r)
{
	ssize_t n;

	do
		n = recv(fd, r, sizeof(*r), 0);
	while (n < 0 && errno == EINTR);
	return n == sizeof(*r);
}

static bool same_file(const struct record *r, const struct stat *st)
{
	return st->st_dev == r->dev && st->st_ino == r->ino && st->st_mtim.tv_sec == r->made.tv_sec &&
	       st->st_mtim.tv_nsec == r->made.tv_nsec;
}

static void wait_and_sweep(int fd, const void *unused)
{
	static struct record list[PATHS_MAX], extra;
	unsigned n = 0;
	struct stat st;

	(void)unused;
	while (n < PATHS_MAX && get_record(fd, &list[n]))
		n++;
	while (n == PATHS_MAX && get_record(fd, &extra))
		;
	for (unsigned i = 0; i < n; i++)
		if (!lstat(list[i].path, &st) && same_file(&list[i], &st))
			unlink(list[i].path);
}

struct janitor *janitor_start(struct error *e)
{
	struct janitor *j = calloc(1, sizeof(*j));

	if (!j)
		error_set(e, "not enough host memory");
	else if (companion_start(&j->process, "ectype-janitor", false, wait_and_sweep, NULL, e)) {
		free(j);
		j = NULL;
	}
	return j;
}

int janitor_add(struct janitor *j, const char *path, struct error *e)
{
	struct record r;
	struct stat st;

	memset(&r, 0, sizeof(r));
	if (j->paths == PATHS_MAX || strlen(path) >= sizeof(r.path))
		return error_set(e, "%s: too many sockets to be removed, or too long a name", path);
	if (lstat(path, &st))
		return error_errno(e, errno, "%s", path);
	r.dev = st.st_dev;
	r.ino = st.st_ino;
	r.made = st.st_mtim;
	strcpy(r.path, path);
	if (send(j->process.fd, &r, sizeof(r), MSG_NOSIGNAL) != sizeof(r))
		return error_errno(e, errno, "%s cannot be removed at the end, its process has ended", path);
	j->paths++;
	return 0;
}

void janitor_finish(struct janitor *j)
{
	if (!j)
		return;
	companion_finish(&j->process);
	free(j);
}
