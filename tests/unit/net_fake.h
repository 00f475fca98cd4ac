/* A network backend without a network: what the device sends is kept, what it is to receive is put in by the test. All
 * on one thread; packets sent are copied into a malloc of their size, so that a sanitizer sees a read beyond. */
#ifndef ECTYPE_TESTS_NET_FAKE_H
#define ECTYPE_TESTS_NET_FAKE_H

#include <stdlib.h>
#include <string.h>

#include "backend/net/net.h"

#define FAKE_PACKETS 64

struct fake_packet {
	u8 *data;
	size_t len;
};
struct fake_queue {
	struct fake_packet in[FAKE_PACKETS];
	unsigned in_n, in_at;
};
struct fake_net {
	struct net net;
	struct fake_queue queue[NET_QUEUES_MAX];
	bool running, full;
	struct net_offload offload;
	unsigned active, starts, sent;
	struct fake_packet last; /* sent */
	unsigned last_queue;
	void (*readable)(void *, unsigned);
	void (*writable)(void *, unsigned);
	void *opaque;
};

static int fake_start(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		      void *opaque, struct error *e)
{
	struct fake_net *f = (struct fake_net *)n;

	assert(!f->running);
	f->running = true;
	f->starts++;
	f->active = 1;
	f->readable = readable;
	f->writable = writable;
	f->opaque = opaque;
	f->offload = (struct net_offload){ 0 };
	return 0;
}

static void fake_stop(struct net *n)
{
	struct fake_net *f = (struct fake_net *)n;

	assert(f->running);
	f->running = false;
	for (unsigned i = 0; i < n->queues; i++) {
		for (unsigned k = f->queue[i].in_at; k < f->queue[i].in_n; k++)
			free(f->queue[i].in[k].data);
		f->queue[i].in_at = f->queue[i].in_n = 0;
	}
}

static bool fake_send(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n)
{
	struct fake_net *f = (struct fake_net *)n;
	size_t len = 0, at = 0;

	assert(f->running && queue < n->queues);
	if (f->full)
		return false;
	for (unsigned i = 0; i < iov_n; i++)
		len += iov[i].iov_len;
	assert(len >= NET_HEADER + 14 && len <= NET_PACKET_MAX);
	free(f->last.data);
	f->last = (struct fake_packet){ malloc(len), len };
	for (unsigned i = 0; i < iov_n; at += iov[i++].iov_len)
		memcpy(f->last.data + at, iov[i].iov_base, iov[i].iov_len);
	f->last_queue = queue;
	f->sent++;
	return true;
}

static size_t fake_peek(struct net *n, unsigned queue, const u8 **packet)
{
	struct fake_queue *q = &((struct fake_net *)n)->queue[queue];

	assert(((struct fake_net *)n)->running && queue < n->queues);
	if (q->in_at == q->in_n)
		return 0;
	*packet = q->in[q->in_at].data;
	return q->in[q->in_at].len;
}

static void fake_next(struct net *n, unsigned queue)
{
	struct fake_queue *q = &((struct fake_net *)n)->queue[queue];

	assert(q->in_at < q->in_n);
	free(q->in[q->in_at++].data);
	if (q->in_at == q->in_n)
		q->in_at = q->in_n = 0;
}

static void fake_set_offload(struct net *n, const struct net_offload *o)
{
	((struct fake_net *)n)->offload = *o;
}

static void fake_set_queues(struct net *n, unsigned active)
{
	assert(active >= 1 && active <= n->queues);
	((struct fake_net *)n)->active = active;
}

static const struct net_ops fake_ops = {
	.name = "fake",
	.start = fake_start,
	.stop = fake_stop,
	.send = fake_send,
	.peek = fake_peek,
	.next = fake_next,
	.set_offload = fake_set_offload,
	.set_queues = fake_set_queues,
};

static inline void fake_init(struct fake_net *f, unsigned queues)
{
	const struct net_offload all = { true, true, true, true };

	*f =
	    (struct fake_net){ .net = { .ops = &fake_ops, .queues = queues, .takes = all, .gives = all, .mtu = 1500 } };
}

static inline void fake_free(struct fake_net *f)
{
	assert(!f->running);
	free(f->last.data);
	f->last.data = NULL;
}

/* A packet of `len` bytes in all, to `mac`, for the device; false if it does not run or has many waiting. */
static inline bool fake_put(struct fake_net *f, unsigned queue, const u8 mac[6], size_t len, u8 fill)
{
	struct fake_queue *q = &f->queue[queue];
	u8 *data;

	if (!f->running || q->in_n == FAKE_PACKETS)
		return false;
	data = malloc(len);
	memset(data, fill, len);
	memset(data, 0, NET_HEADER);
	memcpy(data + NET_HEADER, mac, 6);
	q->in[q->in_n++] = (struct fake_packet){ data, len };
	f->readable(f->opaque, queue);
	return true;
}

#endif
