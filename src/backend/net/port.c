#include "backend/net/port.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int net_port_init(struct net_port *p, unsigned index, u32 tx_size, u32 rx_size)
{
	p->index = index;
	p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->wake < 0)
		return -1;
	return net_ring_init(&p->tx, tx_size) || net_ring_init(&p->rx, rx_size) ? -1 : 0;
}

void net_port_free(struct net_port *p)
{
	if (p->wake >= 0)
		close(p->wake);
	p->wake = -1;
	net_ring_free(&p->tx);
	net_ring_free(&p->rx);
}

void net_port_start(struct net_port *p, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		    void *opaque)
{
	net_ring_clear(&p->tx);
	net_ring_clear(&p->rx);
	p->readable = readable;
	p->writable = writable;
	p->opaque = opaque;
	atomic_store(&p->stop, false);
	net_port_woken(p);
}

void net_port_wake(struct net_port *p)
{
	u64 one = 1;
	ssize_t r = write(p->wake, &one, sizeof(one));

	(void)r; /* a full counter wakes as well */
}

void net_port_woken(struct net_port *p)
{
	u64 n;
	ssize_t r = read(p->wake, &n, sizeof(n));

	(void)r; /* it may be empty */
}

bool net_port_send(struct net_port *p, const struct iovec *iov, unsigned iov_n)
{
	size_t len = 0;
	u8 *to;

	for (unsigned i = 0; i < iov_n; i++)
		len += iov[i].iov_len;
	to = net_ring_reserve(&p->tx, (u32)len);
	if (!to) {
		if (net_ring_want_room(&p->tx, (u32)len))
			return false;
		to = net_ring_reserve(&p->tx, (u32)len);
	}
	for (unsigned i = 0; i < iov_n; i++) {
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
		to += iov[i].iov_len;
	}
	if (net_ring_put(&p->tx, (u32)len))
		net_port_wake(p);
	return true;
}

size_t net_port_peek(struct net_port *p, const u8 **packet)
{
	size_t len = net_ring_peek(&p->rx, packet);

	if (!len && !net_ring_want_data(&p->rx))
		len = net_ring_peek(&p->rx, packet);
	return len;
}

void net_port_next(struct net_port *p)
{
	if (net_ring_next(&p->rx))
		net_port_wake(p);
}

void net_port_taken(struct net_port *p)
{
	if (net_ring_next(&p->tx))
		p->writable(p->opaque, p->index);
}

void net_port_put(struct net_port *p, u32 len)
{
	if (net_ring_put(&p->rx, len))
		p->readable(p->opaque, p->index);
}

bool net_port_sleep(struct net_port *p)
{
	return net_ring_want_data(&p->tx) && !atomic_load(&p->stop);
}
