/*
 * The network device: virtqueues on one side, a backend (backend/net/net.h) on
 * the other.
 *
 * A packet from the guest is copied into the backend's ring on the vCPU
 * thread. While the backend has no room the chain stays in the available ring
 * and the driver is asked not to kick; the backend's `writable` goes on. A
 * packet for the guest waits in the backend until there are buffers for it; the
 * driver is asked to kick only while there are none.
 *
 * The backend's threads set a bit in `events` and signal the door; all else is
 * on the vCPU thread. Nothing is in flight between two calls, so state is what
 * the control queue has set.
 *
 * Queues (5.1.2): receive and transmit of pair 0, pair 1, ..., then the control
 * queue, which is number 2 for a driver without VIRTIO_NET_F_MQ.
 */
#include "dev/virtio/net.h"

#include <assert.h>
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dev/virtio/net_alias.h"
#include "replay/door.h"

#define QUEUE_SIZE 256
#define CTRL_QUEUE_SIZE 64
#define MERGE_MAX 64 /* buffers of one packet: 64 KiB in the smallest that Linux makes, and some */
#define MACS_MAX 64
#define ETH_ADDR 6u
#define ETH_MIN 14u

/* Feature bits (5.1.3). */
#define F_CSUM BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_CTRL_GUEST_OFFLOADS BIT(2)
#define F_MTU BIT(3)
#define F_MAC BIT(5)
#define F_GUEST_TSO4 BIT(7)
#define F_GUEST_TSO6 BIT(8)
#define F_GUEST_ECN BIT(9)
#define F_HOST_TSO4 BIT(11)
#define F_HOST_TSO6 BIT(12)
#define F_HOST_ECN BIT(13)
#define F_MRG_RXBUF BIT(15)
#define F_STATUS BIT(16)
#define F_CTRL_VQ BIT(17)
#define F_CTRL_RX BIT(18)
#define F_CTRL_RX_EXTRA BIT(20)
#define F_MQ BIT(22)
#define F_CTRL_MAC_ADDR BIT(23)
#define GUEST_OFFLOADS (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN)

/* Configuration (5.1.4). */
#define CONFIG_MAC 0
#define CONFIG_STATUS 6
#define CONFIG_PAIRS 8
#define CONFIG_MTU 10
#define CONFIG_LEN 12
#define STATUS_LINK_UP 1

#define EVENT_CONFIG BIT(31) /* the driver is to be told of another configuration */

struct filter {
	u8 mode; /* a bit for each command of class RX: VIRTIO_NET_CTRL_RX_* */
	bool uni_overflow, multi_overflow;
	u8 uni_n, multi_n;
	u8 mac[MACS_MAX][ETH_ADDR]; /* unicast, then multicast */
};

struct vnet {
	struct virtio v;
	struct net *net;
	u8 mac[ETH_ADDR]; /* of the command line, or saved; the driver's is in the configuration */
	bool own_mac;	  /* does not take the saved one over */
	/* The driver was told `alias.inside`; what others see, if there are any, is `mac`, and `alias.outside`. */
	bool aliased;
	struct net_alias alias;
	int source;
	atomic_uint events; /* bit q: pair q is readable, bit 16 + q: writable; EVENT_CONFIG */
	bool started;
	/* set through the control queue */
	unsigned pairs; /* in use */
	u64 guest_offloads;
	struct filter filter;
	/* agreed on: what the driver leaves to us */
	struct net_offload host;
	/* for the call that runs */
	struct virtq_buf tx;
	struct virtq_buf *rx; /* MERGE_MAX */
	struct iovec iov[VIRTQ_IOV_MAX + 2];
	u8 head[NET_ALIAS_HEAD]; /* of a frame that is translated */
};

static struct vnet *of(struct virtio *v)
{
	return container_of(v, struct vnet, v);
}

static struct virtq *rx_queue(struct vnet *n, unsigned pair)
{
	return &n->v.queue[2 * pair];
}

static struct virtq *tx_queue(struct vnet *n, unsigned pair)
{
	return &n->v.queue[2 * pair + 1];
}

static unsigned max_pairs(const struct vnet *n)
{
	return virtio_has(&n->v, F_MQ) ? n->net->queues : 1;
}

/* ---- from the guest ---- */

/* The readable part of n->tx without its first `skip` bytes, from n->iov[count] on; the number of pieces. */
static unsigned frame_pieces(struct vnet *n, size_t skip, unsigned count)
{

	for (unsigned i = 0; i < n->tx.out_n; i++) {
		struct iovec v = n->tx.iov[i];

		if (v.iov_len <= skip) {
			skip -= v.iov_len;
			continue;
		}
		n->iov[count++] = (struct iovec){ (u8 *)v.iov_base + skip, v.iov_len - skip };
		skip = 0;
	}
	return count;
}

/* The beginning of the frame comes from a copy, with the address that others see. */
static unsigned translated_pieces(struct vnet *n, size_t len, bool partial)
{
	size_t head = MIN(len, sizeof(n->head));

	virtq_copy_out(&n->tx, NET_HEADER, n->head, head);
	net_alias_out(&n->alias, n->head, head, partial);
	n->iov[1] = (struct iovec){ n->head, head };
	return frame_pieces(n, NET_HEADER + head, 2);
}

/* False: the backend has no room. A packet that breaks the rules is lost. */
static bool transmit(struct vnet *n, unsigned pair)
{
	struct virtio_net_hdr_v1 h;
	size_t len = n->tx.out_len - (size_t)NET_HEADER;
	unsigned pieces;

	if (n->tx.out_len < NET_HEADER + ETH_MIN || n->tx.out_len > NET_PACKET_MAX)
		return true;
	virtq_copy_out(&n->tx, 0, &h, sizeof(h));
	h.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h.num_buffers = 0;
	h.hdr_len = MIN(h.hdr_len, len);
	if (!net_header_ok(&h, len, &n->host))
		return true;
	n->iov[0] = (struct iovec){ &h, sizeof(h) };
	pieces = n->aliased && n->net->shared ? translated_pieces(n, len, h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
					      : frame_pieces(n, NET_HEADER, 1);
	if (!n->net->ops->send(n->net, pair, n->iov, pieces))
		return false;
	n->net->count.tx_packets++;
	n->net->count.tx_bytes += len;
	return true;
}

static void send_waiting(struct vnet *n, unsigned pair)
{
	struct virtq *q = tx_queue(n, pair);

	if (!n->started)
		return;
	if (q->no_notify)
		virtq_notify_enable(q);
	while (virtq_pop(q, &n->tx) > 0) {
		if (!transmit(n, pair)) {
			virtq_unpop(q, 1);
			virtq_notify_disable(q);
			break;
		}
		virtq_push(q, &n->tx, 0);
	}
	virtq_signal(q);
}

/* ---- to the guest ---- */

static bool listed(const struct filter *f, const u8 *mac, unsigned from, unsigned count)
{
	for (unsigned i = from; i < from + count; i++) {
		if (!memcmp(f->mac[i], mac, ETH_ADDR))
			return true;
	}
	return false;
}

/* Receive filtering (5.1.6.5.1). */
static bool wanted(const struct vnet *n, const u8 *mac)
{
	static const u8 broadcast[ETH_ADDR] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct filter *f = &n->filter;

	if ((f->mode & BIT(VIRTIO_NET_CTRL_RX_PROMISC)) || !virtio_has(&n->v, F_CTRL_RX))
		return true;
	if (!memcmp(mac, broadcast, ETH_ADDR))
		return !(f->mode & BIT(VIRTIO_NET_CTRL_RX_NOBCAST));
	if (mac[0] & 1)
		return !(f->mode & BIT(VIRTIO_NET_CTRL_RX_NOMULTI)) &&
		       (f->multi_overflow || (f->mode & BIT(VIRTIO_NET_CTRL_RX_ALLMULTI)) ||
			listed(f, mac, f->uni_n, f->multi_n));
	return !(f->mode & BIT(VIRTIO_NET_CTRL_RX_NOUNI)) &&
	       (f->uni_overflow || (f->mode & BIT(VIRTIO_NET_CTRL_RX_ALLUNI)) ||
		!memcmp(mac, n->v.config + CONFIG_MAC, ETH_ADDR) ||
		(n->aliased && !memcmp(mac, n->alias.inside, ETH_ADDR)) || listed(f, mac, 0, f->uni_n));
}

enum delivery { DELIVERED, NO_BUFFERS, TOO_LARGE };

/* Buffers for `len` bytes into n->rx; their number in *count. */
static enum delivery take_buffers(struct vnet *n, struct virtq *q, size_t len, unsigned *count)
{
	unsigned most = virtio_has(&n->v, F_MRG_RXBUF) ? MERGE_MAX : 1;
	size_t room = 0;

	for (*count = 0; room < len; ++*count) {
		if (*count == most)
			return TOO_LARGE;
		if (virtq_pop(q, &n->rx[*count]) <= 0) {
			virtq_unpop(q, *count);
			return NO_BUFFERS;
		}
		room += n->rx[*count].in_len;
	}
	return DELIVERED;
}

/* A packet that is too large for the driver's buffers costs those that were tried: they come back empty. */
static enum delivery deliver(struct vnet *n, struct virtq *q, const u8 *packet, size_t len)
{
	const struct virtq_buf *bufs[MERGE_MAX];
	struct virtio_net_hdr_v1 h;
	u32 written[MERGE_MAX];
	enum delivery r;
	unsigned count;
	size_t at = 0;

	r = take_buffers(n, q, len, &count);
	if (r == NO_BUFFERS)
		return r;
	for (unsigned i = 0; i < count; i++) {
		bufs[i] = &n->rx[i];
		written[i] = r == DELIVERED ? (u32)virtq_copy_in(bufs[i], 0, packet + at, len - at) : 0;
		at += written[i];
	}
	if (r == DELIVERED) {
		memcpy(&h, packet, sizeof(h));
		n->net->count.rx_packets++;
		n->net->count.rx_bytes += len - NET_HEADER;
		h.num_buffers = (u16)count;
		/* the first buffer may be shorter than the header */
		for (unsigned i = 0, done = 0; i < count && done < sizeof(h); i++)
			done += virtq_copy_in(bufs[i], 0, (const u8 *)&h + done, sizeof(h) - done);
	}
	virtq_push_many(q, bufs, written, count);
	return r;
}

static void translate_in(struct vnet *n, u8 *packet, size_t len)
{
	struct virtio_net_hdr_v1 h;

	memcpy(&h, packet, sizeof(h));
	net_alias_in(&n->alias, packet + NET_HEADER, MIN(len - NET_HEADER, NET_ALIAS_HEAD),
		     h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
}

static void receive_waiting(struct vnet *n, unsigned pair)
{
	struct virtq *q = rx_queue(n, pair);
	const struct net_ops *ops = n->net->ops;
	const u8 *packet;
	size_t len;

	while (n->started && q->enabled && virtio_running(&n->v) && (len = ops->peek(n->net, pair, &packet))) {
		if (n->aliased && n->net->shared)
			translate_in(n, (u8 *)(uintptr_t)packet, len);
		if (wanted(n, packet + NET_HEADER) && deliver(n, q, packet, len) == NO_BUFFERS) {
			if (!q->no_notify)
				break;
			/* tell the driver, then look once more */
			virtq_notify_enable(q);
			continue;
		}
		if (!q->no_notify)
			virtq_notify_disable(q);
		ops->next(n->net, pair);
	}
	virtq_signal(q);
}

/* ---- the backend's threads ---- */

static void readable(void *opaque, unsigned pair)
{
	struct vnet *n = opaque;

	atomic_fetch_or(&n->events, BIT(pair));
	door_signal(n->v.board->door, n->source);
}

static void writable(void *opaque, unsigned pair)
{
	struct vnet *n = opaque;

	atomic_fetch_or(&n->events, BIT(16 + pair));
	door_signal(n->v.board->door, n->source);
}

static void on_events(void *opaque)
{
	struct vnet *n = opaque;
	unsigned events = atomic_exchange(&n->events, 0);

	if (events & EVENT_CONFIG)
		virtio_config_changed(&n->v);
	for (unsigned i = 0; i < n->pairs; i++) {
		if (events & BIT(16 + i))
			send_waiting(n, i);
		if (events & BIT(i))
			receive_waiting(n, i);
	}
}

/* ---- the control queue (5.1.6.5) ---- */

static void set_guest_offloads(struct vnet *n, u64 bits)
{
	bool csum = bits & F_GUEST_CSUM;
	const struct net_offload o = {
		.csum = csum,
		.tso4 = csum && (bits & F_GUEST_TSO4),
		.tso6 = csum && (bits & F_GUEST_TSO6),
		.ecn = csum && (bits & F_GUEST_ECN),
	};

	n->guest_offloads = bits;
	if (n->started)
		n->net->ops->set_offload(n->net, &o);
}

static void set_pairs(struct vnet *n, unsigned pairs)
{
	n->pairs = pairs;
	if (n->started && n->net->ops->set_queues)
		n->net->ops->set_queues(n->net, pairs);
	for (unsigned i = 0; i < pairs; i++) {
		/* kicks and events of pairs that were not in use went nowhere; later, since a command is served here */
		if (n->started)
			writable(n, i);
		receive_waiting(n, i);
	}
}

static bool ctrl_rx(struct vnet *n, u8 cmd, const u8 *data, size_t len)
{
	u64 needs = cmd <= VIRTIO_NET_CTRL_RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA;

	if (cmd > VIRTIO_NET_CTRL_RX_NOBCAST || !virtio_has(&n->v, needs) || len < 1)
		return false;
	n->filter.mode &= ~BIT(cmd);
	n->filter.mode |= data[0] ? BIT(cmd) : 0;
	return true;
}

/* One of the two tables of MAC_TABLE_SET at *at: number of entries, entries. Those that find no room set *overflow. */
static bool table(struct filter *f, const struct virtq_buf *b, size_t *at, u8 *count, bool *overflow)
{
	unsigned first = f->uni_n + f->multi_n;
	u32 n;

	if (virtq_copy_out(b, *at, &n, sizeof(n)) != sizeof(n))
		return false;
	*at += sizeof(n);
	if ((b->out_len - *at) / ETH_ADDR < n)
		return false;
	if (n > MACS_MAX - first) {
		*overflow = true;
	} else {
		virtq_copy_out(b, *at, f->mac[first], (size_t)n * ETH_ADDR);
		*count = (u8)n;
	}
	*at += (size_t)n * ETH_ADDR;
	return true;
}

static bool ctrl_mac(struct vnet *n, u8 cmd, const struct virtq_buf *b, const u8 *data, size_t len)
{
	struct filter f = { .mode = n->filter.mode };
	size_t at = 2;

	switch (cmd) {
	case VIRTIO_NET_CTRL_MAC_TABLE_SET:
		if (!virtio_has(&n->v, F_CTRL_RX) || !table(&f, b, &at, &f.uni_n, &f.uni_overflow) ||
		    !table(&f, b, &at, &f.multi_n, &f.multi_overflow))
			return false;
		n->filter = f;
		return true;
	case VIRTIO_NET_CTRL_MAC_ADDR_SET:
		if (!virtio_has(&n->v, F_CTRL_MAC_ADDR) || len < ETH_ADDR)
			return false;
		memcpy(n->v.config + CONFIG_MAC, data, ETH_ADDR);
		return true;
	default:
		return false;
	}
}

static bool ctrl_mq(struct vnet *n, u8 cmd, const u8 *data, size_t len)
{
	unsigned pairs = data[0] | data[1] << 8;

	if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !virtio_has(&n->v, F_MQ) || len < 2 || pairs < 1 ||
	    pairs > max_pairs(n))
		return false;
	set_pairs(n, pairs);
	return true;
}

static bool ctrl_offloads(struct vnet *n, u8 cmd, const u8 *data, size_t len)
{
	u64 bits;

	if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || !virtio_has(&n->v, F_CTRL_GUEST_OFFLOADS) ||
	    len < sizeof(bits))
		return false;
	memcpy(&bits, data, sizeof(bits));
	if (bits & ~(n->v.features & GUEST_OFFLOADS))
		return false;
	set_guest_offloads(n, bits);
	return true;
}

static bool command(struct vnet *n, const struct virtq_buf *b)
{
	u8 in[2 + 8] = { 0 }; /* class, command, data */
	size_t len = virtq_copy_out(b, 0, in, sizeof(in));

	if (len < 2)
		return false;
	switch (in[0]) {
	case VIRTIO_NET_CTRL_RX:
		return ctrl_rx(n, in[1], in + 2, len - 2);
	case VIRTIO_NET_CTRL_MAC:
		return ctrl_mac(n, in[1], b, in + 2, len - 2);
	case VIRTIO_NET_CTRL_MQ:
		return ctrl_mq(n, in[1], in + 2, len - 2);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return ctrl_offloads(n, in[1], in + 2, len - 2);
	default:
		return false;
	}
}

static void control(struct vnet *n, struct virtq *q)
{
	while (virtq_pop(q, &n->tx) > 0) {
		u8 ack = command(n, &n->tx) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

		virtq_push(q, &n->tx, (u32)virtq_copy_in(&n->tx, 0, &ack, 1));
	}
	virtq_signal(q);
}

/* ---- as a virtio device ---- */

static void net_notify(struct virtio *v, unsigned q)
{
	struct vnet *n = of(v);

	if (virtio_has(v, F_CTRL_VQ) && q == 2 * max_pairs(n))
		control(n, &v->queue[q]);
	else if (q / 2 >= n->pairs)
		return;
	else if (q & 1)
		send_waiting(n, q / 2);
	else
		receive_waiting(n, q / 2);
}

static void start_backend(struct vnet *n)
{
	struct error e;

	n->host = (struct net_offload){
		.csum = virtio_has(&n->v, F_CSUM),
		.tso4 = virtio_has(&n->v, F_HOST_TSO4),
		.tso6 = virtio_has(&n->v, F_HOST_TSO6),
		.ecn = virtio_has(&n->v, F_HOST_ECN),
	};
	if (n->net->ops->start(n->net, readable, writable, n, &e)) {
		log_error("net", "%s", e.text);
		return;
	}
	n->started = true;
	set_guest_offloads(n, n->guest_offloads);
	set_pairs(n, n->pairs);
}

static void stop_backend(struct vnet *n)
{
	if (n->started)
		n->net->ops->stop(n->net);
	n->started = false;
	atomic_store(&n->events, 0);
}

static void net_start(struct virtio *v)
{
	struct vnet *n = of(v);

	n->guest_offloads = v->features & GUEST_OFFLOADS;
	start_backend(n);
}

static void net_reset(struct virtio *v)
{
	struct vnet *n = of(v);

	stop_backend(n);
	n->pairs = 1;
	n->guest_offloads = 0;
	n->filter = (struct filter){ .mode = BIT(VIRTIO_NET_CTRL_RX_PROMISC) };
	n->aliased = false; /* a driver that looks now is told what others see */
	memcpy(v->config + CONFIG_MAC, n->mac, ETH_ADDR);
}

static void net_destroy(struct virtio *v)
{
	struct vnet *n = of(v);

	stop_backend(n);
	free(n->rx);
	free(n);
}

/* ---- state: section "virtio-net", version 2; version 1 had neither `mac` nor what follows it ---- */

static void net_save(const struct virtio *v, struct encoder *e)
{
	const struct vnet *n = of((struct virtio *)(uintptr_t)v);
	const struct filter *f = &n->filter;

	enc_begin(e, v->ops->name, 2);
	enc_u8(e, (u8)n->pairs);
	enc_u64(e, n->guest_offloads);
	enc_u8(e, f->mode);
	enc_bool(e, f->uni_overflow);
	enc_bool(e, f->multi_overflow);
	enc_u8(e, f->uni_n);
	enc_u8(e, f->multi_n);
	enc_bytes(e, f->mac, sizeof(f->mac));
	enc_bytes(e, n->mac, ETH_ADDR);
	enc_bool(e, n->aliased);
	enc_bytes(e, n->alias.inside, ETH_ADDR);
	enc_end(e);
}

/* The address that others see, and the one that the driver was told if that is another one. */
struct saved_mac {
	bool known, aliased;
	u8 mac[ETH_ADDR], inside[ETH_ADDR];
};

static bool decode(const struct virtio *v, struct decoder *in, unsigned *pairs, u64 *offloads, struct filter *f,
		   struct saved_mac *m)
{
	struct decoder s;

	if (!dec_begin(in, v->ops->name, &s) || s.version < 1 || s.version > 2)
		return false;
	*m = (struct saved_mac){ .known = s.version > 1 };
	*pairs = dec_u8(&s);
	*offloads = dec_u64(&s);
	f->mode = dec_u8(&s);
	f->uni_overflow = dec_bool(&s);
	f->multi_overflow = dec_bool(&s);
	f->uni_n = dec_u8(&s);
	f->multi_n = dec_u8(&s);
	dec_bytes(&s, f->mac, sizeof(f->mac));
	if (m->known) {
		dec_bytes(&s, m->mac, ETH_ADDR);
		m->aliased = dec_bool(&s);
		dec_bytes(&s, m->inside, ETH_ADDR);
	}
	return dec_done(&s) && !(m->mac[0] & 1) && !(m->inside[0] & 1);
}

static int net_check(const struct virtio *v, struct decoder *in)
{
	const struct vnet *n = of((struct virtio *)(uintptr_t)v);
	unsigned pairs;
	struct filter f;
	struct saved_mac m;
	u64 offloads;

	if (!decode(v, in, &pairs, &offloads, &f, &m) || pairs < 1 || pairs > n->net->queues ||
	    (offloads & ~(v->offered & GUEST_OFFLOADS)) || f.uni_n + f.multi_n > MACS_MAX)
		return -1;
	return 0;
}

/* The common state, with the configuration, is loaded before. */
static void load_mac(struct vnet *n, const struct saved_mac *m)
{
	if (!n->own_mac) {
		if (m->known)
			memcpy(n->mac, m->mac, ETH_ADDR);
		n->aliased = m->aliased;
		memcpy(n->alias.inside, m->inside, ETH_ADDR);
	} else {
		const u8 *told = m->aliased ? m->inside : m->known ? m->mac : n->v.config + CONFIG_MAC;

		memcpy(n->alias.inside, told, ETH_ADDR);
		n->aliased = virtio_running(&n->v);
		memcpy(n->v.config + CONFIG_MAC, n->mac, ETH_ADDR);
	}
	memcpy(n->alias.outside, n->mac, ETH_ADDR);
}

static void net_load(struct virtio *v, struct decoder *in)
{
	struct vnet *n = of(v);
	struct saved_mac mac;

	stop_backend(n);
	if (!decode(v, in, &n->pairs, &n->guest_offloads, &n->filter, &mac))
		assert(!"checked before");
	load_mac(n, &mac);
	n->pairs = MIN(n->pairs, max_pairs(n));
	n->guest_offloads &= v->features;
	if (!virtio_running(v))
		return;
	start_backend(n);
	/* its interrupt can come when all devices are loaded */
	if (n->own_mac)
		atomic_fetch_or(&n->events, EVENT_CONFIG);
	/* where the saved machine's backend was full */
	for (unsigned i = 0; i < n->pairs; i++)
		writable(n, i);
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.pci_class = 0x020000,
	.reset = net_reset,
	.start = net_start,
	.notify = net_notify,
	.save = net_save,
	.check = net_check,
	.load = net_load,
	.destroy = net_destroy,
};

/* ---- construction ---- */

static u64 offer(const struct net *net)
{
	u64 f = F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_MAC_ADDR;

	f |= net->queues > 1 ? F_MQ : 0;
	f |= net->mtu >= 68 && net->mtu <= 65535 ? F_MTU : 0;
	if (net->takes.csum) {
		f |= F_CSUM;
		f |= net->takes.tso4 ? F_HOST_TSO4 : 0;
		f |= net->takes.tso6 ? F_HOST_TSO6 : 0;
		f |= net->takes.ecn ? F_HOST_ECN : 0;
	}
	if (net->gives.csum) {
		f |= F_GUEST_CSUM | F_CTRL_GUEST_OFFLOADS;
		f |= net->gives.tso4 ? F_GUEST_TSO4 : 0;
		f |= net->gives.tso6 ? F_GUEST_TSO6 : 0;
		f |= net->gives.ecn ? F_GUEST_ECN : 0;
	}
	return f;
}

static void configure(struct vnet *n)
{
	struct virtio *v = &n->v;

	v->ops = &net_ops;
	v->offered = offer(n->net);
	v->config_len = CONFIG_LEN;
	memcpy(v->config + CONFIG_MAC, n->mac, ETH_ADDR);
	v->config[CONFIG_STATUS] = STATUS_LINK_UP;
	v->config[CONFIG_PAIRS] = (u8)n->net->queues;
	v->config[CONFIG_MTU] = n->net->mtu & 0xff;
	v->config[CONFIG_MTU + 1] = n->net->mtu >> 8 & 0xff;
	v->queues = 2 * n->net->queues + 1;
	/* each can be the control queue, and all have to be there, as a driver may count on */
	for (unsigned i = 0; i < v->queues; i++)
		v->queue[i].size_max = i + 1 < v->queues ? QUEUE_SIZE : CTRL_QUEUE_SIZE;
}

int virtio_net_create(struct board *b, struct pci_bus *bus, unsigned slot, struct net *net, const u8 mac[6],
		      bool own_mac)
{
	struct vnet *n = calloc(1, sizeof(*n));

	_Static_assert(NET_QUEUES_MAX <= 15 && 2 * NET_QUEUES_MAX + 1 <= VIRTIO_QUEUES_MAX,
		       "`events` has a bit for each");
	_Static_assert(sizeof(struct virtio_net_hdr_v1) == NET_HEADER, "");
	if (!n)
		return -1;
	n->net = net;
	n->pairs = 1;
	n->own_mac = own_mac;
	memcpy(n->mac, mac, ETH_ADDR);
	configure(n);
	n->rx = calloc(MERGE_MAX, sizeof(*n->rx));
	n->source = door_add_source(b->door, "net", on_events, n);
	if (n->rx && n->source >= 0 && virtio_pci_create(b, bus, slot, &n->v) == 0)
		return 0;
	free(n->rx);
	free(n);
	return -1;
}
