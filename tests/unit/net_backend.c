/* Network backends: a scripted guest before libslirp, a tap interface where permitted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "backend/net/packet.h"
#include "fakes.h"
#include "net_frames.h"

#define LIMIT_NS 5000000000ull

static u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void nap(void)
{
	const struct timespec t = { .tv_nsec = 1000000 };

	nanosleep(&t, NULL);
}

/* ---- libslirp ---- */

struct box {
	struct net *net;
	atomic_uint readable, writable;
};

static void on_readable(void *opaque, unsigned q)
{
	atomic_fetch_add(&((struct box *)opaque)->readable, 1);
}
static void on_writable(void *opaque, unsigned q)
{
	atomic_fetch_add(&((struct box *)opaque)->writable, 1);
}

static void open_user(struct box *b, const struct net_user_config *cfg)
{
	struct error e;

	memset(b, 0, sizeof(*b));
	b->net = net_user_create(cfg, &e);
	assert_non_null(b->net);
	assert_int_equal(b->net->ops->start(b->net, on_readable, on_writable, b, &e), 0);
}

static void close_box(struct box *b)
{
	b->net->ops->stop(b->net);
	b->net->ops->destroy(b->net);
}

static void give(struct box *b, const struct virtio_net_hdr_v1 *h, const u8 *f, size_t len)
{
	struct virtio_net_hdr_v1 none = { 0 };
	struct iovec v[3] = { { (void *)(h ? h : &none), NET_HEADER },
			      { (void *)f, 14 },
			      { (void *)(f + 14), len - 14 } };
	u64 end = now() + LIMIT_NS;

	while (!b->net->ops->send(b->net, 0, v, 3)) {
		assert_true(now() < end);
		nap();
	}
}

/* The next packet, frame in `f`; 0 if none comes. */
static size_t take(struct box *b, struct virtio_net_hdr_v1 *h, u8 *f, u64 limit_ns)
{
	u64 end = now() + limit_ns;
	const u8 *p;
	size_t n;

	while (!(n = b->net->ops->peek(b->net, 0, &p))) {
		if (now() > end)
			return 0;
		nap();
	}
	assert_true(n >= NET_HEADER + 14 && n <= NET_PACKET_MAX);
	memcpy(h, p, NET_HEADER);
	memcpy(f, p + NET_HEADER, n - NET_HEADER);
	b->net->ops->next(b->net, 0);
	return n - NET_HEADER;
}

/* The next IPv4 frame of a protocol from a port to ours. */
static size_t take_ip(struct box *b, struct virtio_net_hdr_v1 *h, u8 *f, unsigned proto, unsigned to_port)
{
	u64 end = now() + LIMIT_NS;
	size_t n;

	while (now() < end) {
		n = take(b, h, f, LIMIT_NS);
		if (n > 38 && get16(f + 12) == 0x800 && f[23] == proto && get16(f + 36) == to_port)
			return n;
	}
	return 0;
}

/* libslirp learns the guest's address; it asks for ours too. */
static void arp(struct box *b)
{
	u8 f[2000] = { 0 };
	struct virtio_net_hdr_v1 h;
	size_t n;

	memset(f, 0xff, 6);
	memcpy(f + 6, guest_mac, 6);
	memcpy(f + 12, "\x08\x06\0\x01\x08\0\x06\x04\0\x01", 10);
	memcpy(f + 22, guest_mac, 6);
	put32(f + 28, GUEST);
	put32(f + 38, GATEWAY);
	give(b, NULL, f, 60);
	n = take(b, &h, f, LIMIT_NS);
	assert_true(n >= 42);
	assert_memory_equal(f + 12, "\x08\x06\0\x01\x08\0\x06\x04\0\x02", 10);
	assert_int_equal(get32(f + 28), GATEWAY);
	assert_memory_equal(f, guest_mac, 6);
}

static void test_dhcp(void **state)
{
	struct net_user_config cfg = { .hostname = "somebody" };
	struct virtio_net_hdr_v1 h;
	struct box b;
	u8 f[2000], m[300] = { 1, 1, 6, 0, 1, 2, 3, 4 };
	size_t n;

	open_user(&b, &cfg);
	memcpy(m + 28, guest_mac, 6);
	memcpy(m + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8); /* DISCOVER */
	n = udp(f, 0, 68, 0xffffffff, 67, m, sizeof(m));
	memset(f, 0xff, 6);
	give(&b, NULL, f, n);
	n = take_ip(&b, &h, f, 17, 68);
	assert_true(n > 300);
	assert_true(sound(f));
	assert_int_equal(get32(f + 42 + 16), GUEST);
	assert_memory_equal(f + 42 + 236, "\x63\x82\x53\x63\x35\x01\x02", 7); /* OFFER */
	assert_non_null(memmem(f, n, "\x0c\x08somebody", 10));
	assert_non_null(memmem(f, n, "\x03\x04\x0a\x00\x02\x02", 6)); /* router */
	assert_non_null(memmem(f, n, "\x06\x04\x0a\x00\x02\x03", 6)); /* name server */
	assert_int_equal(h.flags, 0);				      /* nothing agreed on */
	close_box(&b);
}

static int host_socket(int type, unsigned *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int s = socket(AF_INET, type, 0);

	assert_true(s >= 0);
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(s, 4), 0);
	getsockname(s, (struct sockaddr *)&a, &len);
	*port = ntohs(a.sin_port);
	return s;
}

static ssize_t read_for(int fd, void *p, size_t n)
{
	struct pollfd w = { .fd = fd, .events = POLLIN };

	return poll(&w, 1, 5000) == 1 ? read(fd, p, n) : -1;
}

static void test_udp(void **state)
{
	static u8 f[70000], big[60000], got[70000];
	struct net_user_config cfg = { 0 };
	struct virtio_net_hdr_v1 h = { 0 };
	struct sockaddr_in a;
	socklen_t alen = sizeof(a);
	struct box b;
	unsigned port;
	int s = host_socket(SOCK_DGRAM, &port);
	size_t n, have = 0;

	open_user(&b, &cfg);
	arp(&b);
	/* its checksum left to us */
	n = udp(f, GUEST, 4000, GATEWAY, port, "hello", 5);
	put16(f + 40, pseudo(f + 14, 13));
	h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h.csum_start = 34;
	h.csum_offset = 6;
	give(&b, &h, f, n);
	assert_int_equal(recvfrom(s, got, sizeof(got), 0, (struct sockaddr *)&a, &alen), 5);
	assert_memory_equal(got, "hello", 5);
	b.net->ops->set_offload(b.net, &(struct net_offload){ .csum = true });
	assert_int_equal(sendto(s, "there", 5, 0, (struct sockaddr *)&a, alen), 5);
	assert_int_equal(take_ip(&b, &h, f, 17, 4000), 47);
	assert_true(sound(f));
	assert_memory_equal(f + 42, "there", 5);
	assert_int_equal(h.flags, VIRTIO_NET_HDR_F_DATA_VALID);
	/* a large one comes in fragments of the network's MTU */
	fill(big, sizeof(big), 3);
	assert_int_equal(sendto(s, big, 9000, 0, (struct sockaddr *)&a, alen), 9000);
	while (have < 9008) {
		n = take(&b, &h, f, LIMIT_NS);
		assert_true(n > 34 && n <= NET_FRAME);
		assert_int_equal((get16(f + 20) & 0x1fff) * 8, have);
		memcpy(got + have, f + 34, get16(f + 16) - 20u);
		have += get16(f + 16) - 20u;
	}
	assert_memory_equal(got + 8, big, 9000);
	/* and so does the guest's, the last one first */
	n = udp(got, GUEST, 4000, GATEWAY, port, big, 8000);
	for (int at = 7400; at >= 0; at -= 1480)
		give(&b, NULL, f, fragment(f, got, (unsigned)at, MIN(1480u, 8008u - (unsigned)at), at < 7400));
	assert_int_equal(n, 8042);
	assert_int_equal(recv(s, got, sizeof(got), 0), 8000);
	assert_memory_equal(got, big, 8000);
	/* one alone, of the kind that is the end of a libslirp which gets it */
	for (unsigned id = 0; id < 100; id++) {
		n = udp(got, GUEST, 4000, GATEWAY, port, big, 8000);
		put16(got + 18, id);
		give(&b, NULL, f, fragment(f, got, 1480, 64, false));
	}
	n = udp(f, GUEST, 4000, GATEWAY, port, "alive", 5);
	give(&b, NULL, f, n);
	assert_int_equal(recv(s, got, sizeof(got), 0), 5);
	close(s);
	close_box(&b);
}

struct conn {
	struct box *b;
	unsigned port, peer, mss;
	u32 seq, ack;
};

static void tcp_send(struct conn *c, unsigned flags, unsigned mss, const void *data, size_t n)
{
	static u8 f[70000];
	size_t len = tcp(f, c->port, GATEWAY, c->peer, c->seq, c->ack, flags, mss, data, n);
	struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .csum_start = 34,
				       .csum_offset = 16,
				       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				       .gso_size = 1460 };

	give(c->b, n > 1460 ? &h : NULL, f, len);
	c->seq += (u32)n + (flags & 2 ? 1 : 0);
}

static void tcp_open(struct conn *c, unsigned mss)
{
	struct virtio_net_hdr_v1 h;
	u8 f[2000];

	c->seq = 1000;
	c->ack = 0;
	c->mss = mss;
	tcp_send(c, 2, mss, NULL, 0);
	assert_true(take_ip(c->b, &h, f, 6, c->port) >= 54);
	assert_int_equal(f[47], 0x12); /* SYN ACK */
	c->ack = get32(f + 38) + 1;
	tcp_send(c, 0x10, 0, NULL, 0);
}

/* Take `n` bytes of the stream, acknowledging; the longest segment. */
static size_t tcp_read(struct conn *c, u8 *to, size_t n, bool whole)
{
	static u8 f[70000];
	struct virtio_net_hdr_v1 h;
	struct net_tcp t;
	size_t longest = 0, have = 0;

	while (have < n) {
		size_t len = take_ip(c->b, &h, f, 6, c->port);

		assert_true(len && net_parse_tcp(f, len, &t));
		if (h.gso_type) {
			assert_int_equal(h.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
			assert_int_equal(h.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
			assert_int_equal(h.gso_size, c->mss);
			assert_int_equal(h.csum_start, 34);
			/* what is there is the sum of the pseudo header, so that finishing it makes it right */
			put16(f + 50, 0xffff ^ fold(f + 34, len - 34, 0));
		}
		assert_true(sound(f));
		assert_true(whole || t.payload <= c->mss);
		if (!t.payload || get32(f + 38) != c->ack)
			continue;
		assert_true(have + t.payload <= n);
		memcpy(to + have, f + 34 + t.tcp_len, t.payload);
		have += t.payload;
		c->ack += t.payload;
		longest = MAX(longest, t.payload);
		tcp_send(c, 0x10, 0, NULL, 0);
	}
	return longest;
}

#define STREAM 200000u
static void *host_writer(void *fd)
{
	static u8 data[STREAM];
	size_t at = 0;
	ssize_t n;

	fill(data, STREAM, 5);
	while (at < STREAM && (n = write(*(int *)fd, data + at, STREAM - at)) > 0)
		at += (size_t)n;
	return NULL;
}

/* `agreed`: the guest takes large segments. `mss`: what its SYN offers. Returns the longest segment. */
static size_t stream(bool agreed, bool withdrawn, unsigned mss)
{
	static u8 got[STREAM], want[STREAM];
	struct net_user_config cfg = { 0 };
	struct conn c = { .port = 5000 };
	struct box b;
	pthread_t t;
	int s = host_socket(SOCK_STREAM, &c.peer), fd;
	size_t longest, at = 0;

	c.b = &b;
	open_user(&b, &cfg);
	b.net->ops->set_offload(b.net, &(struct net_offload){ .csum = agreed, .tso4 = agreed });
	arp(&b);
	tcp_open(&c, mss);
	fd = accept(s, NULL, NULL);
	assert_true(fd >= 0);
	/* out: a segment of 40,000 bytes in one piece */
	fill(want, STREAM, 4);
	tcp_send(&c, 0x18, 0, want, 40000);
	while (at < 40000) {
		ssize_t n = read_for(fd, got + at, 40000 - at);

		assert_true(n > 0);
		at += (size_t)n;
	}
	assert_memory_equal(got, want, 40000);
	/* in */
	if (withdrawn)
		b.net->ops->set_offload(b.net, &(struct net_offload){ 0 });
	assert_int_equal(pthread_create(&t, NULL, host_writer, &fd), 0);
	longest = tcp_read(&c, got, STREAM, agreed && !withdrawn);
	pthread_join(t, NULL);
	fill(want, STREAM, 5);
	assert_memory_equal(got, want, STREAM);
	close(fd);
	close(s);
	close_box(&b);
	return longest;
}

static void test_tcp(void **state)
{
	assert_true(stream(true, false, 1460) > 10000);
	assert_int_equal(stream(false, false, 1460), 1460);
	/* segments libslirp makes long for an earlier promise are cut */
	assert_int_equal(stream(true, true, 1460), 1460);
	/* the size of the pieces is the guest's */
	assert_true(stream(true, false, 1000) > 10000);
	assert_int_equal(stream(false, false, 1000), 1000);
}

static unsigned free_port(int type)
{
	unsigned port;

	close(host_socket(type, &port));
	return port;
}

static void test_forward(void **state)
{
	struct net_user_config cfg = { .forwards = 2 };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct virtio_net_hdr_v1 h;
	struct conn c;
	struct box b;
	u8 f[2000], got[100];
	int s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);

	cfg.forward[0] = (struct net_forward){ .host_port = (u16)free_port(SOCK_STREAM), .guest_port = 22 };
	cfg.forward[1] = (struct net_forward){ .udp = true, .host_port = (u16)free_port(SOCK_DGRAM), .guest_port = 53 };
	open_user(&b, &cfg);
	arp(&b);
	/* from the host to the guest's port 53 */
	a.sin_port = htons(cfg.forward[1].host_port);
	assert_int_equal(sendto(u, "ask", 3, 0, (struct sockaddr *)&a, sizeof(a)), 3);
	assert_int_equal(take_ip(&b, &h, f, 17, 53), 45);
	assert_memory_equal(f + 42, "ask", 3);
	give(&b, NULL, f, udp(f, GUEST, 53, GATEWAY, get16(f + 34), "tell", 4));
	assert_int_equal(read_for(u, got, sizeof(got)), 4);
	/* a connection */
	a.sin_port = htons(cfg.forward[0].host_port);
	assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_true(take_ip(&b, &h, f, 6, 22) >= 54);
	assert_int_equal(f[47], 2);
	c = (struct conn){ &b, 22, get16(f + 34), 1460, 7000, get32(f + 38) + 1 };
	tcp_send(&c, 0x12, 1460, NULL, 0);
	tcp_send(&c, 0x18, 0, "SSH-", 4);
	assert_int_equal(read_for(s, got, sizeof(got)), 4);
	assert_memory_equal(got, "SSH-", 4);
	assert_int_equal(write(s, "abc", 3), 3);
	tcp_read(&c, got, 3, false);
	assert_memory_equal(got, "abc", 3);
	close(s);
	close(u);
	close_box(&b);
}

static void test_restricted(void **state)
{
	struct net_user_config cfg = { .restricted = true };
	struct virtio_net_hdr_v1 h;
	struct box b;
	unsigned port;
	int s = host_socket(SOCK_DGRAM, &port), l;
	struct conn c = { .b = &b, .port = 5000, .seq = 1 };
	u8 f[2000], got[10];

	open_user(&b, &cfg);
	arp(&b);
	l = host_socket(SOCK_STREAM, &c.peer);
	tcp_send(&c, 2, 1460, NULL, 0);
	give(&b, NULL, f, udp(f, GUEST, 4000, GATEWAY, port, "hello", 5));
	give(&b, NULL, f, udp(f, GUEST, 4000, GATEWAY + 1, 53, "hello", 5));
	for (size_t n; (n = take(&b, &h, f, 300000000));)
		assert_false(get16(f + 12) == 0x800 && f[23] == 6 && f[47] == 0x12);
	assert_int_equal(recv(s, got, sizeof(got), MSG_DONTWAIT), -1);
	fcntl(l, F_SETFL, O_NONBLOCK);
	assert_int_equal(accept(l, NULL, NULL), -1);
	close(l);
	close(s);
	close_box(&b);
}

static void test_bad_forwards(void **state)
{
	struct net_user_config cfg = { .forwards = 1 };
	unsigned tcp_port, udp_port;
	int t = host_socket(SOCK_STREAM, &tcp_port), u = host_socket(SOCK_DGRAM, &udp_port);
	struct {
		struct net_forward f;
		const char *word;
	} bad[] = {
		{ { .host_port = (u16)tcp_port, .guest_port = 1 }, "in use" },
		{ { .udp = true, .host_port = (u16)udp_port, .guest_port = 1 }, "in use" },
		{ { .host_addr = "192.0.2.1", .host_port = 9999, .guest_port = 1 }, "192.0.2.1" },
		{ { .host_port = 9999, .guest_addr = "10.0.3.15", .guest_port = 1 }, "10.0.3.15" },
		{ { .host_port = 9999, .guest_addr = "10.0.2.2", .guest_port = 1 }, "10.0.2.2" },
	};
	struct error e;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		cfg.forward[0] = bad[i].f;
		assert_null(net_user_create(&cfg, &e));
		assert_non_null(strstr(e.text, bad[i].word));
	}
	close(t);
	close(u);
}

/* More than the rings hold, with nobody taking it: bounded, and alive afterwards. */
static void test_flood(void **state)
{
	struct net_user_config cfg = { 0 };
	struct virtio_net_hdr_v1 h;
	static u8 f[70000], big[60000];
	struct box b;
	unsigned full = 0;

	open_user(&b, &cfg);
	arp(&b);
	for (unsigned i = 0; i < 3000; i++) {
		struct virtio_net_hdr_v1 none = { 0 };
		size_t n = udp(f, GUEST, 4000, GATEWAY, 9, big, sizeof(big));
		struct iovec v[2] = { { &none, NET_HEADER }, { f, n } };

		full += !b.net->ops->send(b.net, 0, v, 2);
	}
	if (full) {
		u64 end = now() + LIMIT_NS;

		while (!atomic_load(&b.writable) && now() < end)
			nap();
		assert_true(atomic_load(&b.writable));
	}
	while (take(&b, &h, f, 100000000))
		;
	arp(&b);
	/* again from the start */
	b.net->ops->stop(b.net);
	struct error e;
	assert_int_equal(b.net->ops->start(b.net, on_readable, on_writable, &b, &e), 0);
	arp(&b);
	close_box(&b);
}

/* ---- tap ---- */

#define TAP "ectypeunit0"

/* An interface for as long as the descriptor is open, which takes no part in its traffic; -1: not permitted. */
static int make_tap(bool multi)
{
	struct ifreq r = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi ? IFF_MULTI_QUEUE : 0)) };
	int fd = open("/dev/net/tun", O_RDWR), s = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(r.ifr_name, TAP);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0) {
		close(fd);
		close(s);
		return -1;
	}
	r.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(s, SIOCSIFFLAGS, &r), 0);
	close(s);
	r.ifr_flags = IFF_DETACH_QUEUE;
	if (multi)
		assert_int_equal(ioctl(fd, TUNSETQUEUE, &r), 0);
	return fd;
}

/* A socket for frames of the type the tests use. */
static int tap_socket(void)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5) };
	int s = socket(AF_PACKET, SOCK_RAW, htons(0x88b5));

	assert_true(s >= 0);
	a.sll_ifindex = (int)if_nametoindex(TAP);
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	return s;
}

static void test_tap(void **state)
{
	struct net_tap_config cfg = { TAP, 2 };
	struct virtio_net_hdr_v1 h;
	struct error e;
	struct box b = { 0 };
	u8 f[2000] = { 0 }, got[2000];
	int owner = make_tap(true), s;

	if (owner < 0)
		skip();
	b.net = net_tap_create(&cfg, &e);
	assert_non_null(b.net);
	assert_int_equal(b.net->queues, 2);
	assert_int_equal(b.net->mtu, 1500);
	assert_true(b.net->takes.tso6 && b.net->gives.tso4);
	assert_int_equal(b.net->ops->start(b.net, on_readable, on_writable, &b, &e), 0);
	b.net->ops->set_offload(b.net, &b.net->gives);
	b.net->ops->set_queues(b.net, 2);
	b.net->ops->set_queues(b.net, 1);
	s = tap_socket();
	memset(f, 0xff, 6);
	memcpy(f + 6, guest_mac, 6);
	memcpy(f + 12, "\x88\xb5up", 4);
	give(&b, NULL, f, 60);
	assert_int_equal(read_for(s, got, sizeof(got)), 60);
	assert_memory_equal(got, f, 60);
	memcpy(f + 14, "dn", 2);
	assert_int_equal(send(s, f, 60, 0), 60);
	while (take(&b, &h, got, LIMIT_NS) && get16(got + 12) != 0x88b5) /* the kernel's own */
		;
	assert_memory_equal(got, f, 60);
	close(s);
	b.net->ops->stop(b.net);
	b.net->ops->destroy(b.net);
	close(owner);
}

/* Interfaces that are there but are not to be had. */
static void test_tap_refused(void **state)
{
	struct net_tap_config one = { TAP, 1 }, two = { TAP, 2 };
	struct error e;
	int owner;

	assert_null(net_tap_create(&one, &e));
	assert_non_null(strstr(e.text, "does not exist"));
	assert_int_equal(if_nametoindex(TAP), 0);
	owner = make_tap(false);
	if (owner < 0)
		skip();
	assert_null(net_tap_create(&one, &e));
	assert_non_null(strstr(e.text, "in use"));
	assert_null(net_tap_create(&two, &e));
	assert_non_null(strstr(e.text, "several queues"));
	close(owner);
}

static void test_tap_names(void **state)
{
	const char *bad[] = { "", "a/b", "averyveryverylongname", "x y", "tap%d", "lo", "noectypetap" };
	struct error e;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct net_tap_config cfg = { bad[i], 1 };

		assert_null(net_tap_create(&cfg, &e));
		assert_non_null(strstr(e.text, "tap"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dhcp),	    cmocka_unit_test(test_udp),
		cmocka_unit_test(test_tcp),	    cmocka_unit_test(test_forward),
		cmocka_unit_test(test_restricted),  cmocka_unit_test(test_bad_forwards),
		cmocka_unit_test(test_flood),	    cmocka_unit_test(test_tap),
		cmocka_unit_test(test_tap_refused), cmocka_unit_test(test_tap_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
