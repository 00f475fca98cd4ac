#include "backend/listen.h"

#include "base/log.h"
#include "base/pass_fd.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

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

int listen_unix(const char *what, const char *path, int backlog, struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(e, "%s %s: the path is too long (at most %zu bytes)", what, path,
				 sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(e, errno, "%s %s", what, path);
	remove_stale(&addr);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		error_errno(e, errno, "%s %s: cannot listen", what, path);
		close(fd);
		return -1;
	}
	if (listen(fd, backlog) < 0) {
		error_errno(e, errno, "%s %s: cannot listen", what, path);
		unlink(path);
		close(fd);
		return -1;
	}
	return fd;
}

static int listen_at(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, off = 0, err;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (!bind(fd, a->ai_addr, a->ai_addrlen))
		return fd;
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

static u16 port_of(int fd)
{
	struct sockaddr_storage s = { 0 };
	socklen_t n = sizeof(s);

	if (getsockname(fd, (struct sockaddr *)&s, &n))
		return 0;
	return ntohs(s.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&s)->sin6_port
					     : ((struct sockaddr_in *)&s)->sin_port);
}

int listen_tcp(const char *what, const char *host, const char *port, int backlog, u16 *got, struct error *e)
{
	const struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM };
	struct addrinfo *list;
	int err = getaddrinfo(!*host || !strcmp(host, "*") ? "::" : host, port, &hints, &list), fd = -1;

	if (err)
		return error_set(e, "%s %s:%s: %s", what, host, port, gai_strerror(err));
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = listen_at(a);
	err = errno;
	freeaddrinfo(list);
	if (fd < 0)
		return error_errno(e, err, "%s %s:%s: cannot listen", what, host, port);
	if (listen(fd, backlog) < 0) {
		err = errno;
		close(fd);
		return error_errno(e, err, "%s %s:%s: cannot listen", what, host, port);
	}
	*got = port_of(fd);
	return fd;
}

static int receive_fd(int fd)
{
	char text[256];
	unsigned count;
	int got;
	ssize_t n = fd_receive(fd, text, sizeof(text) - 1, &got, 1, &count);

	if (n > 0 && !count) {
		text[n] = 0;
		log_warn("door", "%s", text);
	}
	return count ? got : -1;
}

int listen_next(int fd, unsigned ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	socklen_t n = sizeof(int);
	int listens = 0;

	if (poll(&p, 1, (int)ms) <= 0)
		return -1;
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n);
	if (listens)
		return accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	return receive_fd(fd);
}
