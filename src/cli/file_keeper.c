#include "cli/file_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/pass_fd.h"
#include "base/types.h"

struct files {
	const char *const *path;
	unsigned n;
};

/* Answers with the descriptor, or with errno. */
static bool make(int fd, const char *path)
{
	int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), err = file < 0 ? errno : 0;

	if (file >= 0)
		fd_pass(fd, &err, sizeof(err), &file, 1);
	else if (send(fd, &err, sizeof(err), MSG_NOSIGNAL) < 0)
		return false; /* nobody waits for it any more */
	if (file >= 0)
		close(file);
	return file >= 0;
}

static void work(int fd, const void *arg)
{
	const struct files *f = arg;
	bool made[FILE_KEEPER_MAX] = { false };
	ssize_t n;
	u8 word;

	for (;;) {
		do
			n = recv(fd, &word, 1, 0);
		while (n < 0 && errno == EINTR);
		if (n <= 0 || !word)
			break;
		if (word <= f->n)
			made[word - 1] |= make(fd, f->path[word - 1]);
	}
	for (unsigned i = 0; n <= 0 && i < f->n; i++)
		if (made[i])
			unlink(f->path[i]);
}

int file_keeper_start(struct companion *c, const char *const *path, unsigned n, struct error *e)
{
	const struct files f = { path, n };

	return companion_start(c, "ectype-keeper", true, work, &f, e);
}

int file_keeper_make(struct companion *c, unsigned i, struct error *e)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	u8 word = (u8)(i + 1);
	int err = EPIPE, fd = -1;
	unsigned count = 0;

	if (send(c->fd, &word, 1, MSG_NOSIGNAL) == 1) {
		while (poll(&p, 1, -1) < 0 && errno == EINTR)
			;
		if (fd_receive(c->fd, &err, sizeof(err), &fd, 1, &count) != sizeof(err))
			err = EPIPE;
	}
	return count ? fd : error_set(e, "%s", strerror(err));
}

void file_keeper_stay(struct companion *c)
{
	if (send(c->fd, "", 1, MSG_NOSIGNAL) < 0)
		return; /* it has ended, and removed nothing */
}
