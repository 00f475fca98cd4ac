/* The gate before a network: packets of each queue, in order. */
#include "backend/gate/gate_priv.h"

#include <stdlib.h>
#include <string.h>

#include "backend/net/net.h"

struct gate_net {
	struct gate_port port;
	struct gate *g;
	struct net *net;
	const struct net_ops *inner; /* the backend's own */
	struct net_ops ops;
	struct gate_queue queue[NET_QUEUES_MAX];
	bool waits[NET_QUEUES_MAX];	    /* the device does, for room */
	void (*readable)(void *, unsigned); /* the device's */
	void (*writable)(void *, unsigned);
	void *opaque;
};

static struct gate_net *of(const struct net *n)
{
	return container_of(n->ops, struct gate_net, ops);
}

/* Any thread of the backend, both. */
static void inner_readable(void *opaque, unsigned queue)
{
	struct gate_net *gn = opaque;

	gn->readable(gn->opaque, queue);
}

static void inner_writable(void *opaque, unsigned queue)
{
	struct gate_net *gn = opaque;

	if (atomic_load(&gn->g->waiting))
		gate_poke(gn->g);
	gn->writable(gn->opaque, queue);
}

static void serve_queue(struct gate_net *gn, unsigned n)
{
	struct gate_queue *q = &gn->queue[n];
	struct gate_record *r;
	struct iovec v;

	while ((r = gate_queue_ready(gn->g, q))) {
		v = (struct iovec){ r->data, r->len };
		if (!gn->inner->send(gn->net, n, &v, 1))
			break;
		gate_queue_pop(gn->g, q);
	}
	if (gn->waits[n] && q->bytes <= GATE_NET_MAX / 2) {
		gn->waits[n] = false;
		gn->writable(gn->opaque, n);
	}
}

static void serve(struct gate_port *p)
{
	struct gate_net *gn = container_of(p, struct gate_net, port);

	for (unsigned i = 0; i < gn->net->queues; i++)
		serve_queue(gn, i);
}

static bool held_send(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n)
{
	struct gate_net *gn = of(n);
	struct gate_queue *q = &gn->queue[queue];
	struct gate_record *r = NULL;
	size_t len = 0;

	if (gate_passes(gn->g, q))
		return gn->inner->send(n, queue, iov, iov_n);
	for (unsigned i = 0; i < iov_n; i++)
		len += iov[i].iov_len;
	if (gate_queue_with(q, len) <= GATE_NET_MAX)
		r = gate_queue_add(gn->g, q, 0, 0, len);
	if (!r) {
		gn->waits[queue] = true;
		gate_refused(gn->g);
		return false;
	}
	for (unsigned i = 0; i < iov_n; i++) {
		memcpy(r->data + r->len, iov[i].iov_base, iov[i].iov_len);
		r->len += (u32)iov[i].iov_len;
	}
	gate_queue_look(gn->g, q, GATE_NET_MAX);
	return true;
}

static int held_start(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		      void *opaque, struct error *e)
{
	struct gate_net *gn = of(n);

	gn->writable = writable;
	gn->opaque = opaque;
	gn->readable = readable;
	return gn->inner->start(n, inner_readable, inner_writable, gn, e);
}

/* Packets on their way are dropped, as by the backend. */
static void held_stop(struct net *n)
{
	struct gate_net *gn = of(n);

	gn->inner->stop(n);
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++) {
		gate_queue_clear(gn->g, &gn->queue[i]);
		gn->waits[i] = false;
	}
}

static void detach(struct gate_port *p)
{
	struct gate_net *gn = container_of(p, struct gate_net, port);

	for (unsigned i = 0; i < NET_QUEUES_MAX; i++)
		gate_queue_clear(gn->g, &gn->queue[i]);
	gn->net->ops = gn->inner;
	free(gn);
}

int gate_net(struct gate *g, struct net *n)
{
	struct gate_net *gn = calloc(1, sizeof(*gn));

	if (!gn)
		return -1;
	gn->port = (struct gate_port){ .serve = serve, .detach = detach };
	gn->g = g;
	gn->net = n;
	gn->inner = n->ops;
	gn->ops = *n->ops;
	gn->ops.start = held_start;
	gn->ops.stop = held_stop;
	gn->ops.send = held_send;
	for (unsigned i = 0; i < NET_QUEUES_MAX; i++)
		gate_queue_init(&gn->queue[i]);
	n->ops = &gn->ops;
	gate_add_port(g, &gn->port);
	return 0;
}
