#include "base/companion.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void become(const char *name, bool own_mounts, int fd)
{
	/* outlive Ctrl-C and a closing terminal, and hold none of the monitor's files open */
	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, name);
	/* or the jail's new root directory would become its own as well; without leave for that there is no new root
	 * either */
	if (own_mounts && unshare(CLONE_NEWNS))
		errno = 0;
	dup2(fd, 0);
	close_range(1, ~0u, 0);
}

int companion_start(struct companion *c, const char *name, bool own_mounts, void (*work)(int fd, const void *arg),
		    const void *arg, struct error *e)
{
	int pair[2] = { -1, -1 }, ready[2] = { -1, -1 };
	sigset_t all, old;
	char none;

	c->fd = -1;
	c->pid = -1;
	/* what is sent to the terminal's processes finds it with its signals ignored */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) && !pipe2(ready, O_CLOEXEC))
		c->pid = fork();
	if (c->pid == 0) {
		become(name, own_mounts, pair[1]);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		work(0, arg);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (c->pid < 0)
		error_errno(e, errno, "cannot start the process %s", name);
	if (ready[1] >= 0)
		close(ready[1]);
	/* until it has its own mounts: this process may change those they share at any time. Its close_range() is
	 * the end of this pipe. */
	while (own_mounts && c->pid > 0 && read(ready[0], &none, 1) < 0 && errno == EINTR)
		;
	if (ready[0] >= 0)
		close(ready[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	if (c->pid > 0) {
		c->fd = pair[0];
		return 0;
	}
	if (pair[0] >= 0)
		close(pair[0]);
	c->pid = 0;
	return -1;
}

void companion_finish(struct companion *c)
{
	close(c->fd);
	while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
