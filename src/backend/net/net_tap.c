/*
 * A tap interface of the host, with several queues if wanted. A queue is a
 * descriptor of its own, with a port and a thread that moves packets between
 * them. The kernel does the offloads, with the same header in front of a packet
 * as virtio's (Documentation/networking/tuntap.rst, IFF_VNET_HDR).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "backend/net/net.h"
#include "backend/net/port.h"
#include "base/log.h"
#include "base/thread.h"

#define TUN_DEVICE "/dev/net/tun"
#define TX_RING (1u << 20)
#define RX_RING (1u << 20)

struct tap_queue {
	struct net_port port;
	int fd;
	atomic_bool attached; /* receives; else the descriptor is not to be polled */
	pthread_t thread;
	bool running;
	bool dead; /* the thread's own: the interface is gone */
};

struct net_tap {
	struct net net;
	char name[IFNAMSIZ];
	struct tap_queue queue[NET_QUEUES_MAX];
};

/* ---- a queue's thread ---- */

/* False: the interface takes no more for now. A packet it refuses, as while it is down, is lost. */
static bool drain_tx(struct tap_queue *q)
{
	const u8 *packet;
	u32 len;

	while ((len = net_ring_peek(&q->port.tx, &packet)) && !atomic_load(&q->port.stop)) {
		if (write(q->fd, packet, len) < 0 && errno == EAGAIN)
			return false;
		net_port_taken(&q->port);
	}
	return true;
}

/* False: the guest's ring is full. */
static bool fill_rx(struct tap_queue *q)
{
	for (unsigned i = 0; i < 64; i++) { /* so that the other direction has its turn */
		u8 *to = net_ring_reserve(&q->port.rx, NET_PACKET_MAX);
		ssize_t n;

		if (!to)
			return false;
		n = read(q->fd, to, NET_PACKET_MAX);
		if (n <= 0) {
			/* so is one that is detached meanwhile */
			q->dead = n < 0 && errno == EBADFD && atomic_load(&q->attached);
			return true;
		}
		if (n > (ssize_t)NET_HEADER)
			net_port_put(&q->port, (u32)n);
	}
	return true;
}

static void *tap_thread(void *opaque)
{
	struct tap_queue *q = opaque;
	bool tx_open = true, rx_open = true;

	while (!atomic_load(&q->port.stop)) {
		struct pollfd p[2] = { { .fd = q->port.wake, .events = POLLIN }, { .fd = q->fd } };
		int timeout = -1;

		tx_open = drain_tx(q);
		rx_open = !net_ring_want_room(&q->port.rx, NET_PACKET_MAX);
		p[1].events = (short)((rx_open ? POLLIN : 0) | (tx_open ? 0 : POLLOUT));
		if (q->dead || !p[1].events || !atomic_load(&q->attached))
			p[1].fd = -1;
		if (tx_open && !net_port_sleep(&q->port))
			timeout = 0;
		if (poll(p, 2, timeout) < 0)
			continue;
		if (p[0].revents)
			net_port_woken(&q->port);
		if (rx_open && (p[1].revents & (POLLIN | POLLERR | POLLHUP)))
			fill_rx(q);
		if (q->dead && p[1].fd >= 0)
			log_warn("net", "a tap interface is gone: its network is cut off");
	}
	return NULL;
}

/* ---- the backend ---- */

static void set_kernel_offload(struct net_tap *t, const struct net_offload *o)
{
	unsigned flags = 0;

	if (o->csum) {
		flags |= TUN_F_CSUM;
		flags |= o->tso4 ? TUN_F_TSO4 : 0;
		flags |= o->tso6 ? TUN_F_TSO6 : 0;
		flags |= o->ecn && (o->tso4 || o->tso6) ? TUN_F_TSO_ECN : 0;
	}
	if (ioctl(t->queue[0].fd, TUNSETOFFLOAD, flags) < 0)
		log_warn("net", "tap %s: offloads refused: %s", t->name, strerror(errno));
}

static void tap_set_offload(struct net *n, const struct net_offload *o)
{
	set_kernel_offload((struct net_tap *)n, o);
}

static int attach(struct tap_queue *q, bool on)
{
	struct ifreq r = { .ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

	if (atomic_load(&q->attached) == on)
		return 0;
	atomic_store(&q->attached, false);
	if (ioctl(q->fd, TUNSETQUEUE, &r) < 0)
		return -1;
	atomic_store(&q->attached, on);
	net_port_wake(&q->port);
	return 0;
}

/* The kernel spreads flows over the queues that are attached. */
static void tap_set_queues(struct net *n, unsigned active)
{
	struct net_tap *t = (struct net_tap *)n;

	for (unsigned i = 1; i < n->queues; i++) {
		if (attach(&t->queue[i], i < active) < 0)
			log_warn("net", "tap %s: queue %u: %s", t->name, i, strerror(errno));
	}
}

static void tap_stop(struct net *n)
{
	struct net_tap *t = (struct net_tap *)n;

	for (unsigned i = 0; i < n->queues; i++) {
		atomic_store(&t->queue[i].port.stop, true);
		if (t->queue[i].running)
			net_port_wake(&t->queue[i].port);
	}
	for (unsigned i = 0; i < n->queues; i++) {
		if (t->queue[i].running)
			pthread_join(t->queue[i].thread, NULL);
		t->queue[i].running = false;
	}
}

static int tap_start(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		     void *opaque, struct error *e)
{
	struct net_tap *t = (struct net_tap *)n;
	u8 stale[2048];

	set_kernel_offload(t, &(struct net_offload){ 0 });
	if (n->queues > 1)
		tap_set_queues(n, 1);
	for (unsigned i = 0; i < n->queues; i++) {
		struct tap_queue *q = &t->queue[i];
		int err;

		/* what came before there was a driver, perhaps with offloads it does not know */
		for (unsigned k = 0; k < 4096 && read(q->fd, stale, sizeof(stale)) > 0; k++)
			;
		net_port_start(&q->port, readable, writable, opaque);
		err = thread_start(&q->thread, tap_thread, q);
		if (err) {
			tap_stop(n);
			return error_errno(e, err, "tap %s: cannot start its thread", t->name);
		}
		q->running = true;
	}
	return 0;
}

static bool tap_send(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n)
{
	return net_port_send(&((struct net_tap *)n)->queue[queue].port, iov, iov_n);
}

static size_t tap_peek(struct net *n, unsigned queue, const u8 **packet)
{
	return net_port_peek(&((struct net_tap *)n)->queue[queue].port, packet);
}

static void tap_next(struct net *n, unsigned queue)
{
	net_port_next(&((struct net_tap *)n)->queue[queue].port);
}

static void tap_destroy(struct net *n)
{
	struct net_tap *t = (struct net_tap *)n;

	tap_stop(n);
	for (unsigned i = 0; i < n->queues; i++) {
		if (t->queue[i].fd >= 0)
			close(t->queue[i].fd);
		net_port_free(&t->queue[i].port);
	}
	free(t);
}

static const struct net_ops ops = {
	.name = "tap",
	.start = tap_start,
	.stop = tap_stop,
	.send = tap_send,
	.peek = tap_peek,
	.next = tap_next,
	.set_offload = tap_set_offload,
	.set_queues = tap_set_queues,
	.destroy = tap_destroy,
};

/* ---- construction ---- */

static int refuse(const struct net_tap *t, int err, struct error *e)
{
	const char *multi = t->net.queues > 1 ? " multi_queue" : "";

	switch (err) {
	case EPERM:
		return error_set(e,
				 "tap %s belongs to another user: make one that is yours: sudo ip tuntap add dev NAME "
				 "mode tap%s user $USER",
				 t->name, multi);
	case EBUSY:
		return error_set(e, "tap %s is in use by another program, or is no tap interface", t->name);
	case EINVAL:
		return error_set(e,
				 "tap %s is no tap interface with %s: sudo ip tuntap add dev NAME mode tap%s user "
				 "$USER makes one",
				 t->name, t->net.queues > 1 ? "several queues" : "one queue", multi);
	default:
		return error_errno(e, err, "tap %s", t->name);
	}
}

static int set_interface(int fd, const char *name, int flags)
{
	struct ifreq r = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags) };

	memcpy(r.ifr_name, name, strlen(name));
	return ioctl(fd, TUNSETIFF, &r);
}

static int open_queue(struct net_tap *t, struct tap_queue *q, struct error *e)
{
	int size = NET_HEADER;

	q->fd = open(TUN_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (q->fd < 0)
		return error_errno(e, errno, "tap %s: %s", t->name, TUN_DEVICE);
	/* an interface made for several queues has to be opened as one */
	if (set_interface(q->fd, t->name, t->net.queues > 1 ? IFF_MULTI_QUEUE : 0) < 0 &&
	    (errno != EINVAL || t->net.queues > 1 || set_interface(q->fd, t->name, IFF_MULTI_QUEUE) < 0))
		return refuse(t, errno, e);
	q->attached = true;
	if (ioctl(q->fd, TUNSETVNETHDRSZ, &size) < 0)
		return error_errno(e, errno, "tap %s: its header's size", t->name);
	return 0;
}

static int interface_ioctl(struct net_tap *t, unsigned long op, struct ifreq *r)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret;

	if (s < 0)
		return -1;
	memcpy(r->ifr_name, t->name, IFNAMSIZ);
	ret = ioctl(s, op, r);
	close(s);
	return ret;
}

static void find_offloads(struct net_tap *t)
{
	struct ifreq r = { 0 };

	t->net.takes = (struct net_offload){ .csum = true, .tso4 = true, .tso6 = true, .ecn = true };
	t->net.gives = t->net.takes;
	if (ioctl(t->queue[0].fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0)
		t->net.gives = (struct net_offload){ 0 };
	if (interface_ioctl(t, SIOCGIFMTU, &r) == 0)
		t->net.mtu = (unsigned)r.ifr_mtu;
}

struct net *net_tap_create(const struct net_tap_config *cfg, struct error *e)
{
	struct net_tap *t;

	if (!*cfg->name || strlen(cfg->name) >= IFNAMSIZ || strpbrk(cfg->name, "/%: \t\n")) {
		error_set(e, "tap '%s' is no name of an interface (1 to %d characters)", cfg->name, IFNAMSIZ - 1);
		return NULL;
	}
	/* TUNSETIFF would make one, which nobody has given an address or a bridge */
	if (!if_nametoindex(cfg->name)) {
		error_set(e, "tap %s does not exist: sudo ip tuntap add dev %s mode tap%s user $USER makes it",
			  cfg->name, cfg->name, cfg->queues > 1 ? " multi_queue" : "");
		return NULL;
	}
	t = aligned_alloc(_Alignof(struct net_tap), sizeof(*t));
	if (!t) {
		error_set(e, "tap %s: out of memory", cfg->name);
		return NULL;
	}
	memset(t, 0, sizeof(*t));
	t->net.ops = &ops;
	t->net.shared = true;
	t->net.queues = cfg->queues;
	strcpy(t->name, cfg->name);
	for (unsigned i = 0; i < cfg->queues; i++)
		t->queue[i].fd = t->queue[i].port.wake = -1;
	for (unsigned i = 0; i < cfg->queues; i++) {
		if (net_port_init(&t->queue[i].port, i, TX_RING, RX_RING)) {
			error_set(e, "tap %s: not enough memory or descriptors", t->name);
			goto fail;
		}
		if (open_queue(t, &t->queue[i], e))
			goto fail;
	}
	find_offloads(t);
	return &t->net;
fail:
	tap_destroy(&t->net);
	return NULL;
}
