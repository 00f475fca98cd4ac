/*
 * A character stream on a new pseudo-terminal. Somebody is connected while its
 * slave side is open: the master's poll() reports POLLHUP while it is not, and
 * inotify tells when it is opened, so that nobody needs to look from time to
 * time.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>

#include "backend/chr/chr_stream.h"

struct chr_pty {
	struct chr_stream stream;
	int master;
	char path[64];
};

static int pty_accept(struct chr_stream *s)
{
	struct chr_pty *p = (struct chr_pty *)s;
	struct pollfd f = { .fd = p->master, .events = POLLIN };
	char events[4096];

	while (read(s->wait_fd, events, sizeof(events)) > 0)
		;
	if (poll(&f, 1, 0) < 0)
		return -1;
	/* opened and closed again, but not before something was written, is a client too */
	return (f.revents & POLLIN) || !(f.revents & POLLHUP) ? p->master : -1;
}

static ssize_t pty_send(int fd, const void *p, size_t n)
{
	return write(fd, p, n);
}

/* What nobody read is not for the next one. */
static void pty_hang_up(struct chr_stream *s, int fd)
{
	tcflush(fd, TCOFLUSH);
}

static void pty_destroy(struct chr_stream *s)
{
	struct chr_pty *p = (struct chr_pty *)s;

	if (s->wait_fd >= 0)
		close(s->wait_fd);
	if (p->master >= 0)
		close(p->master);
}

static const struct chr_stream_kind pty_kind = {
	.name = "pty",
	.accept = pty_accept,
	.send = pty_send,
	.hang_up = pty_hang_up,
	.destroy = pty_destroy,
};

/* Raw: what the guest writes must not come back as an echo. Opened and closed once, the slave reports POLLHUP. */
static int set_raw(const char *path)
{
	struct termios t;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC), ret = -1;

	if (fd < 0)
		return -1;
	if (!tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		ret = tcsetattr(fd, TCSANOW, &t);
	}
	close(fd);
	return ret;
}

static int open_pty(struct chr_pty *p, struct error *e)
{
	p->master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (p->master < 0 || grantpt(p->master) || unlockpt(p->master) ||
	    ptsname_r(p->master, p->path, sizeof(p->path)))
		return error_errno(e, errno, "cannot make a pseudo-terminal");
	if (set_raw(p->path))
		return error_errno(e, errno, "cannot set up the pseudo-terminal %s", p->path);
	p->stream.wait_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (p->stream.wait_fd < 0 || inotify_add_watch(p->stream.wait_fd, p->path, IN_OPEN) < 0)
		return error_errno(e, errno, "cannot watch the pseudo-terminal %s", p->path);
	return 0;
}

struct chr *chr_pty_create(struct error *e)
{
	struct chr_pty *p = calloc(1, sizeof(*p));

	if (!p) {
		error_set(e, "pseudo-terminal: not enough host memory");
		return NULL;
	}
	p->master = -1;
	if (!chr_stream_init(&p->stream, &pty_kind, e) && !open_pty(p, e))
		return &p->stream.chr;
	p->stream.chr.ops->destroy(&p->stream.chr);
	return NULL;
}

const char *chr_pty_path(const struct chr *c)
{
	return ((const struct chr_pty *)c)->path;
}
