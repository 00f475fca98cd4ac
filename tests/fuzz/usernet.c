/*
 * Fuzz target: user-mode networking, libslirp behind it, before a hostile
 * guest: frames of any content, and connections whose segments are nearly
 * right, with offload headers that the device lets through.
 *
 * All on one thread, with a clock of the input's. In a network namespace of its
 * own, where a TCP and a UDP socket of the target answer; where there can be no
 * namespace the network is a restricted one, so that nothing is sent anywhere.
 */
#include "fuzz.h"

#include <assert.h>
#include <net/if.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <time.h>

static u64 time_ns;

static int fuzz_clock(clockid_t id, struct timespec *t)
{
	*t = (struct timespec){ (time_t)(time_ns / 1000000000), (long)(time_ns % 1000000000) };
	return 0;
}

#define clock_gettime fuzz_clock
#include "backend/net/net_user.c" /* its thread's functions are called here */
#include "net_frames.h"

#define STEPS 200
#define SERVER_PORT 9
#define FORWARD_PORT 10
#define CLIENTS 4

struct fuzz {
	struct net_user *u;
	struct input in;
	int listener, datagrams; /* -1 in a restricted network */
	int client[CLIENTS];
	u32 seq[4], ack[4]; /* of the guest's ports 1000 to 1003 */
	bool reading, tso4;
	u8 frame[NET_PACKET_MAX], data[65536];
};

/* ---- the host ---- */

static bool isolate(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int s;
	bool up;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	s = socket(AF_INET, SOCK_DGRAM, 0);
	up = ioctl(s, SIOCSIFFLAGS, &r) == 0;
	close(s);
	return up;
}

static int server(int type)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(SERVER_PORT) };
	int s = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert(bind(s, (struct sockaddr *)&a, sizeof(a)) == 0);
	assert(type != SOCK_STREAM || listen(s, 16) == 0);
	return s;
}

/* Without lingering, so that no port is used up. */
static void drop(int *fd)
{
	struct linger l = { 1, 0 };

	if (*fd >= 0) {
		setsockopt(*fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
		close(*fd);
	}
	*fd = -1;
}

static void connect_forward(struct fuzz *f, int *c)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(FORWARD_PORT) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	drop(c);
	*c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	connect(*c, (struct sockaddr *)&a, sizeof(a));
}

static void host_step(struct fuzz *f)
{
	u8 how = take(&f->in, 1);
	int *c = &f->client[how & (CLIENTS - 1)];
	struct sockaddr_in from;
	socklen_t n = sizeof(from);
	size_t len = take(&f->in, 2);

	if (f->listener < 0)
		return;
	switch (how >> 4 & 7) {
	case 0:
		drop(c);
		*c = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK);
		break;
	case 1:
		connect_forward(f, c);
		break;
	case 2 ... 3:
		if (*c >= 0)
			send(*c, f->data, len, MSG_NOSIGNAL | (how & 8 ? MSG_OOB : 0));
		break;
	case 4:
		if (*c >= 0)
			recv(*c, f->frame, len, 0);
		break;
	case 5:
		if (*c >= 0)
			shutdown(*c, how & 8 ? SHUT_RD : SHUT_WR);
		break;
	case 6:
		drop(c);
		break;
	case 7:
		if (recvfrom(f->datagrams, f->frame, sizeof(f->frame), 0, (struct sockaddr *)&from, &n) >= 0)
			sendto(f->datagrams, f->data, len, 0, (struct sockaddr *)&from, n);
		break;
	}
}

/* ---- the guest ---- */

/* As the device does: what its header check refuses goes nowhere. */
static void put_frame(struct fuzz *f, const struct virtio_net_hdr_v1 *h, size_t len)
{
	const struct net_offload takes = f->u->net.takes;
	const struct iovec v[2] = { { (void *)(uintptr_t)h, NET_HEADER }, { f->frame, len } };

	if (len >= ETH_HEADER && net_header_ok(h, len, &takes))
		user_send(&f->u->net, 0, v, 2);
}

/* A header, right for the frame or as the input says; now and then a byte of the frame is another. */
static void send_frame(struct fuzz *f, size_t len, bool segment)
{
	struct virtio_net_hdr_v1 h = { 0 };
	u8 how = take(&f->in, 1);

	if (how & 0x40)
		take_bytes(&f->in, (u8 *)&h, sizeof(h));
	else if (segment && (how & 1))
		h = (struct virtio_net_hdr_v1){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
						.hdr_len = 54,
						.gso_size = (u16)(536 + how),
						.csum_start = 34,
						.csum_offset = 16 };
	if (how & 0x80)
		f->frame[take(&f->in, 1) % MIN(len, 90)] = (u8)take(&f->in, 1);
	put_frame(f, &h, len);
}

static void tcp_step(struct fuzz *f)
{
	u8 how = take(&f->in, 1), flags = take(&f->in, 1), i = how & 3;
	unsigned len = how & 0x10 ? take(&f->in, 2) % 65000 : how & 0x20 ? take(&f->in, 1) : 0;
	u32 seq = f->seq[i] + (how & 0x40 ? (u32)take(&f->in, 4) : 0);
	/* port 1003 is the forward's */
	unsigned port = i == 3 ? FORWARD_PORT : 1000u + i, to = how & 4 ? (unsigned)take(&f->in, 2) : SERVER_PORT;
	u32 addr = how & 8 ? (u32)take(&f->in, 4) : GATEWAY;

	if (flags & 2)
		len = 0;
	send_frame(f,
		   tcp(f->frame, port, addr, to, seq, f->ack[i], flags, flags & 2 ? (unsigned)take(&f->in, 2) : 0,
		       f->data, len),
		   true);
	if (!(how & 0x40))
		f->seq[i] += len + !!(flags & 3);
}

static void udp_step(struct fuzz *f)
{
	static const u16 ports[] = { 67, 69, 53, SERVER_PORT };
	u8 how = take(&f->in, 1);
	size_t len = how & 0x10 ? take(&f->in, 2) % 65000 : take(&f->in, 1) & 127;
	u32 to = how & 4 ? HOST_DNS : how & 8 ? 0xffffffff : GATEWAY;

	if (how & 0x20)
		to = (u32)take(&f->in, 4);
	take_bytes(&f->in, f->data, MIN(len, 300));
	if ((how & 3) == 0 && (how & 0x40))
		memcpy(f->data + 236, "\x63\x82\x53\x63\x35\x01", 6); /* DHCP's cookie, a message type */
	send_frame(f, udp(f->frame, how & 0x80 ? 0 : GUEST, 1000 + (how & 1), to, ports[how & 3], f->data, len), false);
}

static void ip_step(struct fuzz *f)
{
	u8 how = take(&f->in, 1), body[64];
	size_t n;

	take_bytes(&f->in, body, sizeof(body));
	n = ipv4(f->frame,
		 how & 1   ? 1
		 : how & 2 ? 6
			   : 17,
		 GUEST, how & 4 ? HOST_DNS : GATEWAY, body, 8 + (how >> 3 & 7) * 8, how & 1 ? 2 : 6);
	if (how & 0x40) { /* a fragment */
		put16(f->frame + 20, (unsigned)take(&f->in, 2));
		put16(f->frame + 18, how & 7);
		put16(f->frame + 24, 0);
		put16(f->frame + 24, 0xffff ^ fold(f->frame + 14, 20, 0));
	}
	send_frame(f, n, false);
}

static void raw_step(struct fuzz *f)
{
	size_t len = ETH_HEADER + take(&f->in, 1);

	take_bytes(&f->in, f->frame, len);
	if (f->frame[0] & 1)
		memcpy(f->frame + 12, "\x08\x06\0\1\x08\0\6\4", 8); /* ARP */
	send_frame(f, len, false);
}

/* What came is whole, or says what is left to do as was agreed. */
static void read_frames(struct fuzz *f)
{
	const u8 *p;
	size_t len;

	while (f->reading && (len = user_peek(&f->u->net, 0, &p))) {
		const u8 *frame = p + NET_HEADER;
		struct virtio_net_hdr_v1 h;
		struct net_tcp t;

		memcpy(&h, p, NET_HEADER);
		assert(len >= NET_HEADER + ETH_HEADER && len <= NET_PACKET_MAX);
		len -= NET_HEADER;
		assert(h.gso_type ? f->tso4 : len <= NET_FRAME);
		if (!h.gso_type && get16(frame + 12) == 0x800)
			assert(sound(frame));
		if (net_parse_tcp(frame, len, &t)) {
			unsigned port = get16(frame + ETH_HEADER + t.ip_len + 2);
			u32 i = port == FORWARD_PORT ? 3 : port - 1000, seq = get32(frame + ETH_HEADER + t.ip_len + 4);
			u8 flags = frame[ETH_HEADER + t.ip_len + 13];

			if (i < 4)
				f->ack[i] = seq + t.payload + !!(flags & 3);
		}
		user_next(&f->u->net, 0);
	}
}

static void pump(struct fuzz *f)
{
	net_port_wake(&f->u->port); /* it shall not sleep */
	take_input(f->u);
	serve_sockets(f->u);
	read_frames(f);
}

static void step(struct fuzz *f)
{
	u8 op = take(&f->in, 1);
	struct net_offload o = { 0 };

	switch (op & 15) {
	case 0 ... 4:
		tcp_step(f);
		break;
	case 5 ... 6:
		udp_step(f);
		break;
	case 7:
		ip_step(f);
		break;
	case 8:
		raw_step(f);
		break;
	case 9:
		time_ns += take(&f->in, 2) * 1000000;
		break;
	case 10:
		f->reading = !f->reading;
		break;
	case 11:
		read_frames(f);
		o.csum = op & 0x10;
		o.tso4 = op & 0x20;
		/* packets in the ring are of what was agreed on before */
		if (!user_peek(&f->u->net, 0, &(const u8 *){ NULL })) {
			user_set_offload(&f->u->net, &o);
			f->tso4 = o.tso4;
		}
		break;
	default:
		host_step(f);
		break;
	}
	pump(f);
}

static void nothing(void *opaque, unsigned q) {}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static struct fuzz f;
	static struct net_user_config cfg = { .forward[0] = { .host_port = FORWARD_PORT, .guest_port = FORWARD_PORT } };
	struct error e;

	if (!f.listener) {
		cfg.restricted = !isolate();
		cfg.forwards = !cfg.restricted;
		f.listener = cfg.restricted ? -1 : server(SOCK_STREAM);
		f.datagrams = cfg.restricted ? -1 : server(SOCK_DGRAM);
		memset(f.client, 0xff, sizeof(f.client));
	}
	f.in = (struct input){ data, data + size };
	memset(f.seq, 0, sizeof(f.seq));
	memset(f.ack, 0, sizeof(f.ack));
	f.reading = true;
	f.tso4 = false;
	time_ns = 1000000000;
	f.u = (struct net_user *)net_user_create(&cfg, &e);
	assert(f.u);
	net_port_start(&f.u->port, nothing, nothing, NULL);
	for (unsigned i = 0; i < STEPS && f.in.p < f.in.end; i++)
		step(&f);
	for (unsigned i = 0; i < CLIENTS; i++)
		drop(&f.client[i]);
	/* libslirp forgets to free packets that wait for the guest's address; they expire */
	f.reading = true;
	for (unsigned i = 0; i < 3; i++) {
		time_ns += 10000000000;
		pump(&f);
	}
	user_destroy(&f.u->net);
	return 0;
}
