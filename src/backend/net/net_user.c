/*
 * User-mode networking: libslirp ends the guest's connections in sockets of
 * this process.
 *
 * One thread runs libslirp and nothing else calls it while that thread runs.
 * It sleeps in poll() on libslirp's sockets and on the port's eventfd.
 *
 * A packet costs libslirp about the same whatever its length, so it shall be
 * long. The guest hands over TCP segments of up to 64 KiB (TSO), and libslirp
 * takes them whole, once their checksums are right. Towards the guest libslirp
 * makes segments of 32 KiB: where it looks at the maximum that the guest's SYN
 * offers (it does for forwards only), that is raised on the way. A long segment
 * is handed over with the virtio header that says "cut it into so many bytes"
 * (GUEST_TSO4), which a driver does not need to do for its own host; for a
 * driver that does not take them it is cut here. How many is what the SYN really
 * said, which is remembered for each port of the guest: less than 1460 may be
 * right for a network behind it.
 *
 * libslirp's MTU is therefore large, and datagrams above 1500 bytes that are not
 * TCP are cut here into IP fragments.
 *
 * Only ARP and IPv4 frames with a sound header get to libslirp, and never a
 * fragment: datagrams are put together here. Debian 12's build of libslirp
 * 4.7.0 takes the list of fragments for empty when the last one comes first,
 * and then writes where the guest's data say (its C breaks the rules on
 * aliasing, and the compiler made use of that).
 *
 * The name server at 10.0.2.3 is the host's first one, read from resolv.conf
 * at the start; libslirp would read it again and again, which a process in the
 * jail cannot. So libslirp's own is off, and addresses are translated here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/net/packet.h"
#include "backend/net/port.h"
#include "backend/net/reassembly.h"
#include "base/log.h"
#include "base/thread.h"

#define SLIRP_MTU 65521u  /* libslirp's limit */
#define RAISED_MSS 32768u /* libslirp's own limit of a segment */
#define TX_RING (1u << 20)
#define RX_RING (2u << 20)
#define INPUT_BATCH 256
#define TIMERS 4
#define DNS_PORT 53

#define NETWORK 0x0a000200u /* 10.0.2.0/24 */
#define NETMASK 0xffffff00u
#define HOST_GATEWAY (NETWORK + 2)
#define HOST_DNS (NETWORK + 3)
#define HOST_GUEST (NETWORK + 15)

struct slirp_timer {
	SlirpTimerCb fn;
	void *opaque;
	s64 at; /* ms, -1: not armed */
};

/* Guest ports whose last packet to port 53 went to 10.0.2.3: answers have to come from there. */
struct dns {
	u32 server;		/* of the host, 0: none */
	u8 ports[2][65536 / 8]; /* UDP, TCP */
};

struct net_user {
	struct net net;
	struct net_port port;
	Slirp *slirp;
	char hostname[NET_HOSTNAME_MAX + 1];
	pthread_t thread;
	bool running;
	/* agreed on, read by the thread */
	atomic_bool csum, tso4;
	/* the thread's own */
	struct slirp_timer timer[TIMERS];
	struct pollfd *fds;
	unsigned fds_n, fds_max;
	struct dns dns;
	struct net_reassembly *fragments;
	struct net_forward *forward; /* net.forward */
	u16 mss[65536];		     /* of TCP ports, 0: NET_MSS */
	u8 scratch[NET_PACKET_MAX];
};

/* ---- the name server ---- */

static u32 host_name_server(void)
{
	FILE *f = fopen("/etc/resolv.conf", "re");
	char line[512], addr[64];
	struct in_addr a;
	u32 found = 0;

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, " nameserver %63s", addr) == 1 && inet_pton(AF_INET, addr, &a) == 1)
			found = ntohl(a.s_addr);
	}
	if (f)
		fclose(f);
	return found;
}

/* A frame of the guest. False: it goes nowhere. */
static bool dns_out(struct dns *d, u8 *frame, size_t len)
{
	struct net_flow f;
	u8 *byte, bit;

	if (!net_parse_flow(frame, len, &f))
		return true;
	byte = &d->ports[f.tcp][f.source_port / 8];
	bit = (u8)(1 << f.source_port % 8);
	if (f.dest != HOST_DNS) {
		if (f.dest_port == DNS_PORT)
			*byte &= ~bit;
		return true;
	}
	if (f.dest_port != DNS_PORT || !d->server)
		return false;
	*byte |= bit;
	net_set_address(frame, false, d->server);
	return true;
}

/* A frame to the guest is an answer to what dns_out() translated. */
static bool dns_answer(const struct dns *d, const u8 *frame, size_t len)
{
	struct net_flow f;

	return d->server && net_parse_flow(frame, len, &f) && f.source == d->server && f.source_port == DNS_PORT &&
	       (d->ports[f.tcp][f.dest_port / 8] >> f.dest_port % 8 & 1);
}

/* ---- to the guest ---- */

static void put(struct net_user *u, const struct virtio_net_hdr_v1 *h, const u8 *head, size_t head_len, const u8 *body,
		size_t body_len)
{
	u32 len = (u32)(NET_HEADER + head_len + body_len);
	u8 *to = net_ring_reserve(&u->port.rx, len);

	if (!to)
		return; /* the guest does not keep up; TCP sends again */
	memcpy(to, h, NET_HEADER);
	memcpy(to + NET_HEADER, head, head_len);
	memcpy(to + NET_HEADER + head_len, body, body_len);
	net_port_put(&u->port, len);
}

/* Whole, with checksums made here. */
static void put_piece(void *opaque, const u8 *head, size_t head_len, const u8 *body, size_t body_len)
{
	struct net_user *u = opaque;
	struct virtio_net_hdr_v1 h = { .flags = atomic_load(&u->csum) ? VIRTIO_NET_HDR_F_DATA_VALID : 0 };

	put(u, &h, head, head_len, body, body_len);
}

static void put_segment(struct net_user *u, const u8 *frame, const struct net_tcp *t, u16 mss)
{
	size_t head_len = ETH_HEADER + t->ip_len + t->tcp_len;
	struct virtio_net_hdr_v1 h;
	u8 head[ETH_HEADER + 60 + 60];

	if (!atomic_load(&u->tso4)) {
		net_segment(frame, t, mss, put_piece, u);
		return;
	}
	memcpy(head, frame, head_len);
	net_gso_header(&h, head, t, mss);
	put(u, &h, head, head_len, frame + head_len, t->payload);
}

static u16 mss_of(const struct net_user *u, const u8 *frame, const struct net_tcp *t)
{
	const u8 *port = frame + ETH_HEADER + t->ip_len + 2;
	u16 mss = u->mss[port[0] << 8 | port[1]];

	return mss ? mss : NET_MSS;
}

static ssize_t cb_send_packet(const void *buf, size_t len, void *opaque)
{
	const u8 *frame = buf;
	struct net_user *u = opaque;
	struct net_tcp t;

	if (len < ETH_HEADER || len > NET_PACKET_MAX - NET_HEADER)
		return (ssize_t)len;
	if (dns_answer(&u->dns, frame, len)) {
		frame = memcpy(u->scratch, buf, len);
		net_set_address(u->scratch, true, HOST_DNS);
	}
	if (net_parse_tcp(frame, len, &t) && t.payload > mss_of(u, frame, &t))
		put_segment(u, frame, &t, mss_of(u, frame, &t));
	else if (len <= NET_FRAME)
		put_piece(u, frame, ETH_HEADER, frame + ETH_HEADER, len - ETH_HEADER);
	else
		net_fragment(frame, len, put_piece, u);
	return (ssize_t)len;
}

/* ---- what libslirp wants of its host ---- */

static void cb_guest_error(const char *msg, void *opaque)
{
	log_debug("net", "%s", msg);
}

static int64_t cb_clock(void *opaque)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (s64)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void *cb_timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
	struct net_user *u = opaque;

	for (unsigned i = 0; i < TIMERS; i++) {
		if (!u->timer[i].fn) {
			u->timer[i] = (struct slirp_timer){ fn, fn_opaque, -1 };
			return &u->timer[i];
		}
	}
	return NULL;
}

static void cb_timer_free(void *timer, void *opaque)
{
	if (timer)
		*(struct slirp_timer *)timer = (struct slirp_timer){ .at = -1 };
}

static void cb_timer_mod(void *timer, int64_t at, void *opaque)
{
	if (timer)
		((struct slirp_timer *)timer)->at = at;
}

/* The descriptors are asked for before every poll(), on the thread that changes them. */
static void cb_poll_fd(int fd, void *opaque) {}
static void cb_notify(void *opaque) {}

static const SlirpCb callbacks = {
	.send_packet = cb_send_packet,
	.guest_error = cb_guest_error,
	.clock_get_ns = cb_clock,
	.timer_new = cb_timer_new,
	.timer_free = cb_timer_free,
	.timer_mod = cb_timer_mod,
	.register_poll_fd = cb_poll_fd,
	.unregister_poll_fd = cb_poll_fd,
	.notify = cb_notify,
};

/* ---- the thread ---- */

static int add_poll(int fd, int events, void *opaque)
{
	struct net_user *u = opaque;

	if (u->fds_n == u->fds_max) {
		struct pollfd *more = realloc(u->fds, sizeof(*more) * 2 * u->fds_max);

		if (!more)
			return -1;
		u->fds = more;
		u->fds_max *= 2;
	}
	u->fds[u->fds_n] = (struct pollfd){
		.fd = fd,
		.events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
				  (events & SLIRP_POLL_PRI ? POLLPRI : 0)),
	};
	return (int)u->fds_n++;
}

static int get_revents(int i, void *opaque)
{
	struct net_user *u = opaque;
	int r = i >= 0 && (unsigned)i < u->fds_n ? u->fds[i].revents : 0;

	return (r & POLLIN ? SLIRP_POLL_IN : 0) | (r & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (r & POLLPRI ? SLIRP_POLL_PRI : 0) | (r & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (r & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static void note_syn(struct net_user *u, u8 *frame, size_t len)
{
	u16 mss = net_raise_mss(frame, len, RAISED_MSS);
	const u8 *port = frame + ETH_HEADER + (frame[ETH_HEADER] & 15) * 4;

	if (mss)
		u->mss[port[0] << 8 | port[1]] = (u16)MAX(MIN(mss, NET_MSS), NET_MSS_DEFAULT);
}

/* A whole frame with right checksums. */
static void input(struct net_user *u, u8 *frame, size_t len)
{
	if (net_is_fragment(frame, len)) {
		frame = net_reassemble(u->fragments, frame, len, (u64)cb_clock(u) / 1000000, &len);
		if (!frame)
			return;
	}
	if (!dns_out(&u->dns, frame, len))
		return;
	note_syn(u, frame, len);
	slirp_input(u->slirp, frame, (int)len);
}

static bool is_arp(const u8 *frame)
{
	return frame[12] == 0x08 && frame[13] == 0x06;
}

static void take_input(struct net_user *u)
{
	const u8 *packet;
	u32 len, total;

	/* sockets and timers have their turn while the guest goes on sending */
	for (unsigned i = 0; i < INPUT_BATCH && (len = net_ring_peek(&u->port.tx, &packet)); i++) {
		struct virtio_net_hdr_v1 h;
		/* the ring's copy: nobody else writes it */
		u8 *frame = (u8 *)(uintptr_t)packet + NET_HEADER;

		memcpy(&h, packet, NET_HEADER);
		len -= NET_HEADER;
		if (net_finish(frame, len, &h) && (is_arp(frame) || net_parse_ip(frame, len, &total)))
			input(u, frame, len);
		net_port_taken(&u->port);
	}
}

static u32 run_timers(struct net_user *u, u32 timeout)
{
	s64 now = cb_clock(u) / 1000000;

	for (unsigned i = 0; i < TIMERS; i++) {
		struct slirp_timer *t = &u->timer[i];

		if (!t->fn || t->at < 0)
			continue;
		if (t->at <= now) {
			t->at = -1;
			t->fn(t->opaque);
		}
		if (t->at >= 0)
			timeout = (u32)MIN((s64)timeout, MAX(t->at - now, 0));
	}
	return timeout;
}

/* Sleep until there is something to do, and let libslirp do what its sockets want. While the guest's ring is full
 * they wait. */
static void serve_sockets(struct net_user *u)
{
	bool full = net_ring_want_room(&u->port.rx, RX_RING / 4);
	u32 timeout = UINT32_MAX;
	int r;

	u->fds[0] = (struct pollfd){ .fd = u->port.wake, .events = POLLIN };
	u->fds_n = 1;
	if (!full)
		slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
	timeout = run_timers(u, timeout);
	if (!net_port_sleep(&u->port))
		timeout = 0;
	r = poll(u->fds, u->fds_n, timeout > INT32_MAX ? -1 : (int)timeout);
	if (r > 0 && u->fds[0].revents)
		net_port_woken(&u->port);
	if (!full)
		slirp_pollfds_poll(u->slirp, r < 0, get_revents, u);
}

static void *user_thread(void *opaque)
{
	struct net_user *u = opaque;

	while (!atomic_load(&u->port.stop)) {
		take_input(u);
		serve_sockets(u);
	}
	return NULL;
}

/* ---- the backend ---- */

static int user_start(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		      void *opaque, struct error *e)
{
	struct net_user *u = (struct net_user *)n;
	int err;

	net_port_start(&u->port, readable, writable, opaque);
	atomic_store(&u->csum, false);
	atomic_store(&u->tso4, false);
	err = thread_start(&u->thread, user_thread, u);
	if (err)
		return error_errno(e, err, "user network: cannot start its thread");
	u->running = true;
	return 0;
}

static void user_stop(struct net *n)
{
	struct net_user *u = (struct net_user *)n;

	if (!u->running)
		return;
	atomic_store(&u->port.stop, true);
	net_port_wake(&u->port);
	pthread_join(u->thread, NULL);
	u->running = false;
}

static bool user_send(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n)
{
	return net_port_send(&((struct net_user *)n)->port, iov, iov_n);
}

static size_t user_peek(struct net *n, unsigned queue, const u8 **packet)
{
	return net_port_peek(&((struct net_user *)n)->port, packet);
}

static void user_next(struct net *n, unsigned queue)
{
	net_port_next(&((struct net_user *)n)->port);
}

static void user_set_offload(struct net *n, const struct net_offload *o)
{
	struct net_user *u = (struct net_user *)n;

	atomic_store(&u->csum, o->csum);
	atomic_store(&u->tso4, o->tso4);
}

static void user_destroy(struct net *n)
{
	struct net_user *u = (struct net_user *)n;

	user_stop(n);
	if (u->slirp)
		slirp_cleanup(u->slirp);
	net_port_free(&u->port);
	net_reassembly_free(u->fragments);
	free(u->forward);
	free(u->fds);
	free(u);
}

static const struct net_ops ops = {
	.name = "user",
	.start = user_start,
	.stop = user_stop,
	.send = user_send,
	.peek = user_peek,
	.next = user_next,
	.set_offload = user_set_offload,
	.destroy = user_destroy,
};

/* ---- construction ---- */

/* libslirp binds with SO_REUSEADDR, by which two processes can share a UDP port: whether it is free shows without. */
static int check_port(const struct net_forward *f, struct in_addr host, struct error *e)
{
	const struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(f->host_port), .sin_addr = host };
	const char *kind = f->udp ? "udp" : "tcp", *addr = *f->host_addr ? f->host_addr : "127.0.0.1";
	int fd = socket(AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0), one = 1, err;

	if (fd < 0)
		return error_errno(e, errno, "user network: no socket");
	if (!f->udp) /* or connections that linger would be in the way */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	err = bind(fd, (const struct sockaddr *)&a, sizeof(a)) || (!f->udp && listen(fd, 1)) ? errno : 0;
	close(fd);
	switch (err) {
	case 0:
		return 0;
	case EADDRINUSE:
		return error_set(e, "hostfwd: host port %s %s:%u is in use: choose another", kind, addr, f->host_port);
	case EACCES:
		return error_set(e, "hostfwd: host port %s %s:%u needs privileges: choose one from 1024", kind, addr,
				 f->host_port);
	case EADDRNOTAVAIL:
		return error_set(e, "hostfwd: %s is no address of this host", addr);
	default:
		return error_errno(e, err, "hostfwd: host port %s %s:%u", kind, addr, f->host_port);
	}
}

static int forward_addresses(const struct net_forward *f, struct in_addr *host, struct in_addr *guest, struct error *e)
{
	u32 a;

	host->s_addr = htonl(INADDR_LOOPBACK);
	guest->s_addr = htonl(HOST_GUEST);
	if (*f->host_addr && inet_pton(AF_INET, f->host_addr, host) != 1)
		return error_set(e, "hostfwd: '%s' is not an IPv4 address", f->host_addr);
	if (*f->guest_addr && inet_pton(AF_INET, f->guest_addr, guest) != 1)
		return error_set(e, "hostfwd: '%s' is not an IPv4 address", f->guest_addr);
	a = ntohl(guest->s_addr);
	if ((a & NETMASK) != NETWORK || a == NETWORK || a == (NETWORK | ~NETMASK) || a == HOST_GATEWAY || a == HOST_DNS)
		return error_set(e, "hostfwd: '%s' is no guest's address: it must be in 10.0.2.0/24, like 10.0.2.15",
				 f->guest_addr);
	return 0;
}

/* Chooses a free port for one that is to be any: the socket that holds it until libslirp, which binds with SO_REUSEADDR
 * as well, has it. -1 with *e. */
static int choose_port(struct net_forward *f, struct in_addr host, struct error *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = host };
	int fd = socket(AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0), one = 1;
	socklen_t len = sizeof(a);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (const struct sockaddr *)&a, sizeof(a)) || getsockname(fd, (struct sockaddr *)&a, &len)) {
		error_errno(e, errno, "hostfwd: no free %s port of %s", f->udp ? "udp" : "tcp",
			    *f->host_addr ? f->host_addr : "127.0.0.1");
		if (fd >= 0)
			close(fd);
		return -1;
	}
	f->host_port = ntohs(a.sin_port);
	return fd;
}

static int add_forward(struct net_user *u, struct net_forward *f, struct error *e)
{
	struct in_addr host, guest;
	int held = -1, ret = 0;

	if (forward_addresses(f, &host, &guest, e))
		return -1;
	if (f->host_port ? check_port(f, host, e) : (held = choose_port(f, host, e)) < 0)
		return -1;
	if (slirp_add_hostfwd(u->slirp, f->udp, host, f->host_port, guest, f->guest_port) < 0)
		ret = error_errno(e, errno, "hostfwd: host port %s %u", f->udp ? "udp" : "tcp", f->host_port);
	if (held >= 0)
		close(held);
	return ret;
}

static int add_forwards(struct net_user *u, const struct net_user_config *cfg, struct error *e)
{
	u->forward = calloc(cfg->forwards + 1, sizeof(*u->forward));
	if (!u->forward)
		return error_set(e, "user network: out of memory");
	memcpy(u->forward, cfg->forward, cfg->forwards * sizeof(*u->forward));
	u->net.forward = u->forward;
	for (; u->net.forwards < cfg->forwards; u->net.forwards++)
		if (add_forward(u, &u->forward[u->net.forwards], e))
			return -1;
	return 0;
}

static Slirp *create_slirp(struct net_user *u, const struct net_user_config *cfg)
{
	const SlirpConfig c = {
		.version = 3,
		.restricted = cfg->restricted,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(NETWORK),
		.vnetmask.s_addr = htonl(NETMASK),
		.vhost.s_addr = htonl(HOST_GATEWAY),
		.vnameserver.s_addr = htonl(HOST_DNS),
		.vdhcp_start.s_addr = htonl(HOST_GUEST),
		.vhostname = u->hostname[0] ? u->hostname : NULL,
		.if_mtu = SLIRP_MTU,
		.if_mru = SLIRP_MTU,
		.disable_dns = true,
	};

	return slirp_new(&c, &callbacks, u);
}

struct net *net_user_create(const struct net_user_config *cfg, struct error *e)
{
	struct net_user *u = aligned_alloc(_Alignof(struct net_user), sizeof(*u));

	if (!u) {
		error_set(e, "user network: out of memory");
		return NULL;
	}
	memset(u, 0, sizeof(*u));
	u->net = (struct net){
		.ops = &ops,
		.queues = 1,
		.takes = { .csum = true, .tso4 = true },
		.gives = { .csum = true, .tso4 = true },
		.mtu = NET_MTU,
	};
	if (cfg->hostname)
		snprintf(u->hostname, sizeof(u->hostname), "%s", cfg->hostname);
	u->dns.server = host_name_server();
	u->fds_max = 64;
	u->fds = calloc(u->fds_max, sizeof(*u->fds));
	u->fragments = net_reassembly_create();
	if (net_port_init(&u->port, 0, TX_RING, RX_RING) || !u->fds || !u->fragments) {
		error_set(e, "user network: not enough memory or descriptors");
		goto fail;
	}
	u->slirp = create_slirp(u, cfg);
	if (!u->slirp) {
		error_set(e, "user network: libslirp refused");
		goto fail;
	}
	if (add_forwards(u, cfg, e))
		goto fail;
	return &u->net;
fail:
	user_destroy(&u->net);
	return NULL;
}
