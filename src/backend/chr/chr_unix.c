/* A character stream on a listening unix socket, one client at a time; others wait in its backlog. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chr/chr_stream.h"
#include "backend/listen.h"

struct chr_unix {
	struct chr_stream stream;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static int unix_accept(struct chr_stream *s)
{
	return accept4(s->wait_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static ssize_t unix_send(int fd, const void *p, size_t n)
{
	return send(fd, p, n, MSG_NOSIGNAL);
}

static void unix_hang_up(struct chr_stream *s, int fd)
{
	close(fd);
}

static void unix_destroy(struct chr_stream *s)
{
	struct chr_unix *u = (struct chr_unix *)s;

	if (s->wait_fd >= 0) {
		close(s->wait_fd);
		unlink(u->path);
	}
}

static const struct chr_stream_kind unix_kind = {
	.name = "unix",
	.accept = unix_accept,
	.send = unix_send,
	.hang_up = unix_hang_up,
	.destroy = unix_destroy,
};

struct chr *chr_unix_create(const char *path, struct error *e)
{
	struct chr_unix *u;

	u = calloc(1, sizeof(*u));
	if (!u) {
		error_set(e, "stream socket %s: not enough host memory", path);
		return NULL;
	}
	if (!chr_stream_init(&u->stream, &unix_kind, e)) {
		u->stream.wait_fd = listen_unix("stream socket", path, 1, e);
		if (u->stream.wait_fd >= 0) {
			strcpy(u->path, path);
			return &u->stream.chr;
		}
	}
	u->stream.chr.ops->destroy(&u->stream.chr);
	return NULL;
}
