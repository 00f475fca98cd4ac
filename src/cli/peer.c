#include "cli/peer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

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
