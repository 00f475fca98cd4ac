#include "cli/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host_time.h"
#include "cli/tls.h"

void peer_init(struct peer *p, int fd, struct tls *tls)
{
	int flags = fcntl(fd, F_GETFL);

	*p = (struct peer){ .fd = fd, .tls = tls };
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

void peer_close(struct peer *p)
{
	tls_close(p->tls);
	p->tls = NULL;
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

ssize_t peer_read(struct peer *p, void *buf, size_t n)
{
	return p->tls ? tls_read(p->tls, buf, n) : recv(p->fd, buf, n, 0);
}

ssize_t peer_write(struct peer *p, const void *buf, size_t n)
{
	return p->tls ? tls_write(p->tls, buf, n) : send(p->fd, buf, n, MSG_NOSIGNAL);
}

bool peer_pending(const struct peer *p)
{
	return p->tls && tls_pending(p->tls);
}

bool peer_over(const struct peer *p)
{
	return p->tls && tls_over(p->tls);
}

static bool later(ssize_t n)
{
	return n < 0 && (errno == EAGAIN || errno == EINTR);
}

void peer_end(struct peer *p, unsigned ms)
{
	u64 end = host_ns() + ms * 1000000ull;
	bool told = false;
	char rest[4096];

	while (host_ns() < end) {
		struct pollfd f = { .fd = p->fd, .events = told ? POLLIN : POLLIN | POLLOUT };
		ssize_t n;

		if (!told && !(p->tls && tls_end(p->tls))) {
			shutdown(p->fd, SHUT_WR);
			told = true;
			continue;
		}
		poll(&f, 1, 100);
		n = recv(p->fd, rest, sizeof(rest), 0); /* nobody wants to know what it says */
		if (n <= 0 && !later(n))
			return;
	}
}
