/*
 * The janitor: a child that waits for the end of its pipe, which comes when
 * the monitor ends or is killed, and then removes what it was told of.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jail/jail.h"

#define PATHS_MAX 64

struct janitor {
	int pipe;
	pid_t pid;
	unsigned paths;
};

struct record {
	dev_t dev;
	ino_t ino;
	char path[PATH_MAX];
};

/* One record; records are larger than what a pipe takes at once, but there is one writer. */
static bool get_record(int fd, struct record *r)
{
	size_t got = 0;

	while (got < sizeof(*r)) {
		ssize_t n = read(fd, (char *)r + got, sizeof(*r) - got);

		if (n <= 0 && !(n < 0 && errno == EINTR))
			return false;
		got += n > 0 ? (size_t)n : 0;
	}
	return true;
}

static void wait_and_sweep(int fd)
{
	static struct record list[PATHS_MAX];
	unsigned n = 0;
	struct stat st;

	while (n < PATHS_MAX && get_record(fd, &list[n]))
		n++;
	for (unsigned i = 0; i < n; i++)
		if (!lstat(list[i].path, &st) && st.st_dev == list[i].dev && st.st_ino == list[i].ino)
			unlink(list[i].path);
}

struct janitor *janitor_start(struct error *e)
{
	struct janitor *j = calloc(1, sizeof(*j));
	int fds[2] = { -1, -1 }, ready[2];
	char none;

	if (!j || pipe2(fds, O_CLOEXEC) || pipe2(ready, O_CLOEXEC)) {
		if (fds[0] >= 0) {
			close(fds[0]);
			close(fds[1]);
		}
		free(j);
		error_errno(e, errno, "cannot start the janitor process");
		return NULL;
	}
	j->pid = fork();
	if (j->pid == 0) {
		/* outlive what ends the monitor: Ctrl-C, a closing terminal; and hold none of its files open */
		setsid();
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		prctl(PR_SET_NAME, "ectype-janitor");
		/* mounts of its own, or the jail's new root directory would become its own as well; without leave for
		 * that there is no new root either */
		if (unshare(CLONE_NEWNS))
			errno = 0;
		dup2(fds[0], 0);
		close_range(1, ~0u, 0);
		wait_and_sweep(0);
		_exit(0);
	}
	/* until it has its own mounts: this process may change those they share at any time. Its close_range() is
	 * the end of this pipe. */
	close(ready[1]);
	while (j->pid > 0 && read(ready[0], &none, 1) < 0 && errno == EINTR)
		;
	close(ready[0]);
	close(fds[0]);
	if (j->pid < 0) {
		close(fds[1]);
		free(j);
		error_errno(e, errno, "cannot start the janitor process");
		return NULL;
	}
	j->pipe = fds[1];
	return j;
}

int janitor_add(struct janitor *j, const char *path)
{
	struct record r;
	struct stat st;

	memset(&r, 0, sizeof(r));
	if (j->paths == PATHS_MAX || strlen(path) >= sizeof(r.path) || lstat(path, &st))
		return -1;
	r.dev = st.st_dev;
	r.ino = st.st_ino;
	strcpy(r.path, path);
	for (size_t at = 0; at < sizeof(r);) {
		ssize_t n = write(j->pipe, (const char *)&r + at, sizeof(r) - at);

		if (n < 0 && errno != EINTR)
			return -1;
		at += n > 0 ? (size_t)n : 0;
	}
	j->paths++;
	return 0;
}

void janitor_finish(struct janitor *j)
{
	if (!j)
		return;
	close(j->pipe);
	waitpid(j->pid, NULL, 0);
	free(j);
}
