/* A character stream on a listening unix socket, one client at a time; others wait in its backlog. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chr/chr_stream.h"

struct chr_unix {
	struct chr_stream stream;
	struct sockaddr_un addr;
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
		unlink(u->addr.sun_path);
	}
}

static const struct chr_stream_kind unix_kind = {
	.name = "unix",
	.accept = unix_accept,
	.send = unix_send,
	.hang_up = unix_hang_up,
	.destroy = unix_destroy,
};

/* A socket file that nobody listens on any more is left over from an earlier run. */
static void remove_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd;

	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED)
		unlink(addr->sun_path);
	close(fd);
}

static int open_socket(struct chr_unix *u, const char *path, struct error *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_errno(e, errno, "stream socket %s", path);
	remove_stale(&u->addr);
	if (bind(fd, (struct sockaddr *)&u->addr, sizeof(u->addr)) < 0) {
		error_errno(e, errno, "stream socket %s: cannot listen", path);
		close(fd);
		return -1;
	}
	if (listen(fd, 1) < 0) {
		error_errno(e, errno, "stream socket %s: cannot listen", path);
		unlink(path);
		close(fd);
		return -1;
	}
	u->stream.wait_fd = fd;
	return 0;
}

struct chr *chr_unix_create(const char *path, struct error *e)
{
	struct chr_unix *u;

	if (strlen(path) >= sizeof(u->addr.sun_path)) {
		error_set(e, "stream socket %s: the path is too long (at most %zu bytes)", path,
			  sizeof(u->addr.sun_path) - 1);
		return NULL;
	}
	u = calloc(1, sizeof(*u));
	if (!u) {
		error_set(e, "stream socket %s: not enough host memory", path);
		return NULL;
	}
	u->addr.sun_family = AF_UNIX;
	strcpy(u->addr.sun_path, path);
	if (!chr_stream_init(&u->stream, &unix_kind, e) && !open_socket(u, path, e))
		return &u->stream.chr;
	u->stream.chr.ops->destroy(&u->stream.chr);
	return NULL;
}
