/* The gate before a character stream: its bytes, and what its user tells it in between. */
#include "backend/gate/gate_priv.h"

#include <stdlib.h>

#include "backend/chr/chr.h"
#include "base/log.h"

enum record {
	WRITTEN, /* by write(), which takes all */
	SENT,	 /* by send() */
	GONE,
	GUEST_OPEN, /* arg: bool */
};

struct gate_chr {
	struct gate_port port;
	struct gate *g;
	struct chr *chr;
	const struct chr_ops *inner; /* the stream's own */
	struct chr_ops ops;
	struct gate_queue queue;
	bool waits;		 /* the user does, for room */
	void (*changed)(void *); /* the user's, while the stream is started */
	void *opaque;
};

static struct gate_chr *of(const struct chr *c)
{
	return container_of(c->ops, struct gate_chr, ops);
}

static bool started(const struct gate_chr *gc)
{
	return gc->changed;
}

/* False: the stream has no more room now. */
static bool pass_on(struct gate_chr *gc, struct gate_record *r)
{
	switch (r->kind) {
	case WRITTEN:
		gc->inner->write(gc->chr, r->data + r->at, r->len - r->at);
		return true;
	case SENT:
		r->at += (u32)gc->inner->send(gc->chr, r->data + r->at, r->len - r->at);
		return r->at == r->len;
	case GONE:
		gc->inner->gone(gc->chr);
		return true;
	default:
		gc->inner->guest_open(gc->chr, r->arg);
		return true;
	}
}

static void serve(struct gate_port *p)
{
	struct gate_chr *gc = container_of(p, struct gate_chr, port);
	struct gate_record *r;

	while ((r = gate_queue_ready(gc->g, &gc->queue)) && pass_on(gc, r))
		gate_queue_pop(gc->g, &gc->queue);
	if (gc->waits && gc->queue.bytes <= GATE_CHR_MAX / 2) {
		gc->waits = false;
		if (started(gc))
			gc->changed(gc->opaque);
	}
}

static void held_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct gate_chr *gc = of(c);
	u64 lost = n;

	if (gate_passes(gc->g, &gc->queue)) {
		gc->inner->write(c, bytes, n);
		return;
	}
	if (gate_queue_with(&gc->queue, n) <= GATE_CHR_MAX)
		lost -= gate_queue_bytes(gc->g, &gc->queue, WRITTEN, bytes, n);
	if (lost && !atomic_fetch_add(&gc->g->dropped, lost))
		log_warn("gate", "output of a serial port is lost: more than %u KiB wait for the standby",
			 (unsigned)(GATE_CHR_MAX / KiB));
	gate_queue_look(gc->g, &gc->queue, GATE_CHR_MAX);
}

static size_t held_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct gate_chr *gc = of(c);
	size_t room, taken = 0;

	if (gate_passes(gc->g, &gc->queue))
		return gc->inner->send(c, bytes, n);
	room = gc->queue.bytes < GATE_CHR_MAX ? GATE_CHR_MAX - gc->queue.bytes : 0;
	taken = gate_queue_bytes(gc->g, &gc->queue, SENT, bytes, MIN(n, room));
	gate_queue_look(gc->g, &gc->queue, GATE_CHR_MAX);
	if (taken < n) {
		gc->waits = true;
		gate_refused(gc->g);
	}
	return taken;
}

/* Lack of memory loses the order, not the message. */
static void held_gone(struct chr *c)
{
	struct gate_chr *gc = of(c);

	if (gate_passes(gc->g, &gc->queue) || !gate_queue_add(gc->g, &gc->queue, GONE, 0, 0))
		gc->inner->gone(c);
}

static void held_guest_open(struct chr *c, bool open)
{
	struct gate_chr *gc = of(c);

	if (gate_passes(gc->g, &gc->queue) || !gate_queue_add(gc->g, &gc->queue, GUEST_OPEN, open, 0))
		gc->inner->guest_open(c, open);
}

/* Any thread. */
static void inner_changed(void *opaque)
{
	struct gate_chr *gc = opaque;

	if (atomic_load(&gc->g->waiting))
		gate_poke(gc->g);
	gc->changed(gc->opaque);
}

static void held_start(struct chr *c, struct door *door, int sink)
{
	struct gate_chr *gc = of(c);

	if (c->changed) {
		gc->changed = c->changed;
		gc->opaque = c->opaque;
		c->opaque = gc;
		c->changed = inner_changed;
	}
	gc->inner->start(c, door, sink);
}

/* The end of the machine: what may leave does, as far as the stream takes it. */
static void held_stop(struct chr *c)
{
	struct gate_chr *gc = of(c);

	serve(&gc->port);
	gate_queue_clear(gc->g, &gc->queue);
	gc->inner->stop(c);
	gc->waits = false;
	if (gc->changed) {
		c->changed = gc->changed;
		c->opaque = gc->opaque;
		gc->changed = NULL;
	}
}

static void detach(struct gate_port *p)
{
	struct gate_chr *gc = container_of(p, struct gate_chr, port);

	gate_queue_clear(gc->g, &gc->queue);
	gc->chr->ops = gc->inner;
	free(gc);
}

int gate_chr(struct gate *g, struct chr *c)
{
	struct gate_chr *gc = calloc(1, sizeof(*gc));

	if (!gc)
		return -1;
	gc->port = (struct gate_port){ .serve = serve, .detach = detach };
	gc->g = g;
	gc->chr = c;
	gc->inner = c->ops;
	gc->ops = *c->ops;
	gc->ops.write = held_write;
	gc->ops.start = held_start;
	gc->ops.stop = held_stop;
	gc->ops.send = c->ops->send ? held_send : NULL;
	gc->ops.gone = c->ops->gone ? held_gone : NULL;
	gc->ops.guest_open = c->ops->guest_open ? held_guest_open : NULL;
	gate_queue_init(&gc->queue);
	c->ops = &gc->ops;
	gate_add_port(g, &gc->port);
	return 0;
}
