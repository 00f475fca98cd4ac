/*
 * The gate before a vsock: each stream has a queue of its own, so that a client
 * of the host that does not read holds up nobody else; connections that the
 * guest asks for have one more.
 *
 * A stream that the device has closed lives on in the backend until what waits
 * before its end has left; its events are not the device's any more.
 */
#include "backend/gate/gate_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vsock/vsock.h"

enum record {
	DATA,
	SHUTDOWN, /* arg: enum shut */
	CLOSE,
	DIAL, /* arg: id; the data is the port */
};
enum shut { SHUT_SENDS = 1, SHUT_RECEIVES = 2 };

/* The gate's part of a stream that the device was told of. */
struct held {
	struct held *next, **back;
	struct gate_vsock *gv;
	struct vsock_stream *stream;
	struct gate_queue queue;
	bool waits;    /* the device does, for room */
	bool has_room; /* and is to be told of it */
	bool closed;   /* by the device */
};

struct gate_vsock {
	struct gate_port port;
	struct gate *g;
	struct vsock *vsock;
	const struct vsock_ops *inner; /* the backend's own */
	struct vsock_ops ops;
	struct held *streams;
	struct gate_queue dials;
	unsigned dial_count;	     /* in `dials` and `failed` */
	u32 failed[VSOCK_DIALS_MAX]; /* dials, for next() */
	unsigned failed_n;
	bool some_have_room;
	size_t bytes; /* that wait, of all streams */
	void (*wake)(void *);
	void *opaque;
};

static struct gate_vsock *of(const struct vsock *v)
{
	return container_of(v->ops, struct gate_vsock, ops);
}

static struct held *add_held(struct gate_vsock *gv, struct vsock_stream *s)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->gv = gv;
	h->stream = s;
	gate_queue_init(&h->queue);
	h->next = gv->streams;
	h->back = &gv->streams;
	if (h->next)
		h->next->back = &h->next;
	gv->streams = h;
	s->gate = h;
	return h;
}

static void clear(struct held *h)
{
	h->gv->bytes -= h->queue.bytes;
	gate_queue_clear(h->gv->g, &h->queue);
}

static void free_held(struct held *h)
{
	clear(h);
	*h->back = h->next;
	if (h->next)
		h->next->back = h->back;
	free(h);
}

static void close_now(struct held *h)
{
	struct gate_vsock *gv = h->gv;
	struct vsock_stream *s = h->stream;

	free_held(h);
	s->gate = NULL;
	gv->inner->close(gv->vsock, s);
}

/* ---- out ---- */

enum passed { PASSED, NO_ROOM, CLOSED /* the stream is no more */ };

static enum passed pass_on(struct held *h, struct gate_record *r)
{
	const struct vsock_ops *inner = h->gv->inner;
	struct iovec v = { r->data + r->at, r->len - r->at };
	ssize_t n;

	switch (r->kind) {
	case DATA:
		n = inner->send(h->stream, &v, 1);
		if (n == -EAGAIN)
			return NO_ROOM;
		/* nobody reads it any more: the device hears so from the backend */
		r->at = n < 0 ? r->len : r->at + (u32)n;
		return r->at == r->len ? PASSED : NO_ROOM;
	case SHUTDOWN:
		inner->shutdown(h->stream, r->arg & SHUT_SENDS, r->arg & SHUT_RECEIVES);
		return PASSED;
	default:
		close_now(h);
		return CLOSED;
	}
}

/* False: the stream is no more. */
static bool serve_stream(struct held *h)
{
	struct gate_vsock *gv = h->gv;
	struct gate_record *r;

	while ((r = gate_queue_ready(gv->g, &h->queue))) {
		size_t before = h->queue.bytes;
		enum passed p = pass_on(h, r);

		if (p == CLOSED)
			return false;
		if (p == NO_ROOM)
			break;
		gate_queue_pop(gv->g, &h->queue);
		gv->bytes -= before - h->queue.bytes;
	}
	if (h->waits && h->queue.bytes <= GATE_STREAM_MAX / 2 && gv->bytes <= GATE_VSOCK_MAX / 2) {
		h->waits = false;
		h->has_room = gv->some_have_room = true;
	}
	return true;
}

static void serve_dials(struct gate_vsock *gv)
{
	struct gate_record *r;
	u32 port;

	while ((r = gate_queue_ready(gv->g, &gv->dials))) {
		memcpy(&port, r->data, sizeof(port));
		if (!gv->inner->dial(gv->vsock, port, r->arg))
			gv->failed[gv->failed_n++] = r->arg;
		else
			gv->dial_count--;
		gate_queue_pop(gv->g, &gv->dials);
	}
}

static void serve(struct gate_port *p)
{
	struct gate_vsock *gv = container_of(p, struct gate_vsock, port);
	struct held *next;

	for (struct held *h = gv->streams; h; h = next) {
		next = h->next;
		serve_stream(h);
	}
	serve_dials(gv);
	if ((gv->some_have_room || gv->failed_n) && gv->wake)
		gv->wake(gv->opaque);
}

static void account(struct held *h, size_t before)
{
	struct gate_vsock *gv = h->gv;

	gv->bytes += h->queue.bytes - before;
	gate_queue_look(gv->g, &h->queue, GATE_STREAM_MAX);
}

static ssize_t held_send(struct vsock_stream *s, const struct iovec *iov, unsigned iov_n)
{
	struct held *h = s->gate;
	size_t before = h->queue.bytes, room, taken = 0, want = 0;

	if (gate_passes(h->gv->g, &h->queue))
		return h->gv->inner->send(s, iov, iov_n);
	room = before < GATE_STREAM_MAX && h->gv->bytes < GATE_VSOCK_MAX ? GATE_STREAM_MAX - before : 0;
	for (unsigned i = 0; i < iov_n; i++) {
		size_t n = MIN(iov[i].iov_len, room - taken);

		want += iov[i].iov_len;
		taken += gate_queue_bytes(h->gv->g, &h->queue, DATA, iov[i].iov_base, n);
	}
	account(h, before);
	if (taken || !want)
		return (ssize_t)taken;
	h->waits = true;
	gate_refused(h->gv->g);
	return -EAGAIN;
}

/* Lack of memory loses the order, not the message. */
static void held_shutdown(struct vsock_stream *s, bool sends, bool receives)
{
	struct held *h = s->gate;
	size_t before = h->queue.bytes;
	u32 how = (sends ? SHUT_SENDS : 0) | (receives ? SHUT_RECEIVES : 0);

	if (gate_passes(h->gv->g, &h->queue) || !gate_queue_add(h->gv->g, &h->queue, SHUTDOWN, how, 0))
		h->gv->inner->shutdown(s, sends, receives);
	else
		account(h, before);
}

static void held_close(struct vsock *v, struct vsock_stream *s)
{
	struct held *h = s->gate;
	size_t before;

	if (!h) { /* it was never told of */
		of(v)->inner->close(v, s);
		return;
	}
	before = h->queue.bytes;
	if (gate_passes(h->gv->g, &h->queue) || !gate_queue_add(h->gv->g, &h->queue, CLOSE, 0, 0)) {
		close_now(h);
		return;
	}
	account(h, before);
	h->closed = true;
	h->waits = h->has_room = false;
}

static bool held_dial(struct vsock *v, u32 port, u32 id)
{
	struct gate_vsock *gv = of(v);
	struct gate_record *r;

	if (gate_passes(gv->g, &gv->dials))
		return gv->inner->dial(v, port, id);
	if (gv->dial_count == VSOCK_DIALS_MAX)
		return false;
	r = gate_queue_add(gv->g, &gv->dials, DIAL, id, sizeof(port));
	if (!r)
		return false;
	memcpy(r->data, &port, sizeof(port));
	r->len = sizeof(port);
	gv->dial_count++;
	return true;
}

/* ---- events ---- */

static bool own_event(struct gate_vsock *gv, struct vsock_event *ev)
{
	if (gv->failed_n) {
		*ev = (struct vsock_event){ .kind = VSOCK_DIALLED, .id = gv->failed[--gv->failed_n] };
		gv->dial_count--;
		return true;
	}
	if (!gv->some_have_room)
		return false;
	for (struct held *h = gv->streams; h; h = h->next) {
		if (!h->has_room)
			continue;
		h->has_room = false;
		*ev = (struct vsock_event){ .kind = VSOCK_READY, .stream = h->stream, .writable = true };
		return true;
	}
	gv->some_have_room = false;
	return false;
}

/* A stream that is new to the device. False: there is no memory for it. */
static bool meet(struct gate_vsock *gv, struct vsock_event *ev)
{
	if (add_held(gv, ev->stream))
		return true;
	gv->inner->close(gv->vsock, ev->stream);
	ev->stream = NULL;
	return ev->kind == VSOCK_DIALLED; /* the device learns that nobody is there */
}

/* What happened to a stream that the device knows. False: it is not the device's affair. */
static bool ready(struct vsock_event *ev)
{
	struct held *h = ev->stream->gate;

	if (!h)
		return false;
	if (h->closed && ev->gone) {
		close_now(h);
		return false;
	}
	if (ev->writable && h->queue.first && !serve_stream(h))
		return false;
	return !h->closed;
}

static bool held_next(struct vsock *v, struct vsock_event *ev)
{
	struct gate_vsock *gv = of(v);

	if (own_event(gv, ev))
		return true;
	while (gv->inner->next(v, ev)) {
		if (ev->kind == VSOCK_READY ? ready(ev) : !ev->stream || meet(gv, ev))
			return true;
	}
	return own_event(gv, ev);
}

/* ---- life ---- */

static int held_start(struct vsock *v, void (*wake)(void *), void *opaque, struct error *e)
{
	struct gate_vsock *gv = of(v);

	gv->wake = wake;
	gv->opaque = opaque;
	return gv->inner->start(v, wake, opaque, e);
}

static void forget(struct gate_vsock *gv)
{
	while (gv->streams) {
		gv->streams->stream->gate = NULL;
		free_held(gv->streams);
	}
	gate_queue_clear(gv->g, &gv->dials);
	gv->dial_count = gv->failed_n = 0;
	gv->some_have_room = false;
	gv->wake = NULL;
}

/* All streams are closed; what waits is dropped with them. */
static void held_stop(struct vsock *v)
{
	forget(of(v));
	of(v)->inner->stop(v);
}

static void detach(struct gate_port *p)
{
	struct gate_vsock *gv = container_of(p, struct gate_vsock, port);

	forget(gv);
	gv->vsock->ops = gv->inner;
	free(gv);
}

int gate_vsock(struct gate *g, struct vsock *v)
{
	struct gate_vsock *gv = calloc(1, sizeof(*gv));

	if (!gv)
		return -1;
	gv->port = (struct gate_port){ .serve = serve, .detach = detach };
	gv->g = g;
	gv->vsock = v;
	gv->inner = v->ops;
	gv->ops = *v->ops;
	gv->ops.start = held_start;
	gv->ops.stop = held_stop;
	gv->ops.next = held_next;
	gv->ops.dial = held_dial;
	gv->ops.send = held_send;
	gv->ops.shutdown = held_shutdown;
	gv->ops.close = held_close;
	gate_queue_init(&gv->dials);
	v->ops = &gv->ops;
	gate_add_port(g, &gv->port);
	return 0;
}
