/* The gate itself: epochs, and queues of what waits. See gate.h. */
#include "backend/gate/gate_priv.h"

#include <stdlib.h>
#include <string.h>

#define STREAM_RECORD 4096u /* bytes of a stream in a record */

static void nobody(void *opaque) {}

void gate_connect(struct gate *g, const struct gate_config *cfg)
{
	g->cfg = cfg ? *cfg : (struct gate_config){ nobody, nobody, NULL };
}

struct gate *gate_create(void)
{
	struct gate *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	gate_connect(g, NULL);
	g->epoch = 1;
	return g;
}

void gate_destroy(struct gate *g)
{
	struct gate_port *next;

	if (!g)
		return;
	for (struct gate_port *p = g->ports; p; p = next) {
		next = p->next;
		p->detach(p);
	}
	free(g);
}

void gate_add_port(struct gate *g, struct gate_port *p)
{
	p->next = g->ports;
	g->ports = p;
}

void gate_poke(struct gate *g)
{
	if (!atomic_exchange(&g->pending, true))
		g->cfg.wake(g->cfg.opaque);
}

void gate_refused(struct gate *g)
{
	atomic_fetch_add_explicit(&g->refused, 1, memory_order_relaxed);
	if (g->armed && !g->told_full) {
		g->told_full = true;
		g->cfg.full(g->cfg.opaque);
	}
}

u64 gate_arm(struct gate *g)
{
	g->armed = true;
	g->told_full = false;
	return g->epoch;
}

u64 gate_mark(struct gate *g)
{
	g->told_full = false;
	return g->epoch++;
}

void gate_release(struct gate *g, u64 epoch)
{
	u64 was = atomic_load(&g->allowed);

	while (was < epoch && !atomic_compare_exchange_weak(&g->allowed, &was, epoch))
		;
	gate_poke(g);
}

void gate_disarm(struct gate *g)
{
	if (!g->armed)
		return;
	g->armed = false;
	gate_release(g, g->epoch++);
}

bool gate_armed(const struct gate *g)
{
	return g->armed;
}

bool gate_pending(const struct gate *g)
{
	return atomic_load_explicit(&g->pending, memory_order_acquire);
}

void gate_serve(struct gate *g)
{
	if (!atomic_exchange(&g->pending, false))
		return;
	for (struct gate_port *p = g->ports; p; p = p->next)
		p->serve(p);
}

struct gate_stats gate_stats(const struct gate *g)
{
	return (struct gate_stats){ .waiting = atomic_load(&g->waiting),
				    .most = atomic_load(&g->most),
				    .refused = atomic_load(&g->refused),
				    .dropped = atomic_load(&g->dropped) };
}

/* ---- queues ---- */

void gate_queue_init(struct gate_queue *q)
{
	*q = (struct gate_queue){ .last = &q->first };
}

/* `waiting` is written by the vCPU thread alone. */
static void count(struct gate *g, struct gate_queue *q, size_t more, size_t less)
{
	u64 all = atomic_load_explicit(&g->waiting, memory_order_relaxed) + more - less;

	q->bytes += more - less;
	atomic_store_explicit(&g->waiting, all, memory_order_relaxed);
	if (all > atomic_load_explicit(&g->most, memory_order_relaxed))
		atomic_store_explicit(&g->most, all, memory_order_relaxed);
}

static size_t record_size(const struct gate_record *r)
{
	return sizeof(*r) + r->room;
}

/* Behind what waits for its backend alone, output is not held. */
static u64 epoch_of(const struct gate *g)
{
	return g->armed ? g->epoch : 0;
}

struct gate_record *gate_queue_add(struct gate *g, struct gate_queue *q, u32 kind, u32 arg, size_t n)
{
	struct gate_record *r = malloc(sizeof(*r) + n);

	if (!r)
		return NULL;
	*r = (struct gate_record){ .epoch = epoch_of(g), .kind = kind, .arg = arg, .room = (u32)n };
	*q->last = r;
	q->last = &r->next;
	count(g, q, record_size(r), 0);
	return r;
}

static struct gate_record *last_of(const struct gate_queue *q)
{
	return q->first ? container_of(q->last, struct gate_record, next) : NULL;
}

size_t gate_queue_bytes(struct gate *g, struct gate_queue *q, u32 kind, const u8 *p, size_t n)
{
	struct gate_record *r = last_of(q);
	size_t done = 0, part;

	while (done < n) {
		if (!r || r->epoch != epoch_of(g) || r->kind != kind || r->len == r->room)
			r = gate_queue_add(g, q, kind, 0, STREAM_RECORD);
		if (!r)
			break;
		part = MIN(n - done, (size_t)(r->room - r->len));
		memcpy(r->data + r->len, p + done, part);
		r->len += (u32)part;
		done += part;
	}
	return done;
}

size_t gate_queue_with(const struct gate_queue *q, size_t n)
{
	return q->bytes + sizeof(struct gate_record) + n;
}

struct gate_record *gate_queue_ready(struct gate *g, const struct gate_queue *q)
{
	return q->first && q->first->epoch <= atomic_load(&g->allowed) ? q->first : NULL;
}

void gate_queue_pop(struct gate *g, struct gate_queue *q)
{
	struct gate_record *r = q->first;

	count(g, q, 0, record_size(r));
	q->first = r->next;
	if (!q->first)
		q->last = &q->first;
	free(r);
}

void gate_queue_clear(struct gate *g, struct gate_queue *q)
{
	while (q->first)
		gate_queue_pop(g, q);
}

void gate_queue_look(struct gate *g, const struct gate_queue *q, size_t max)
{
	if (!g->armed || g->told_full || q->bytes < max / 4)
		return;
	g->told_full = true;
	g->cfg.full(g->cfg.opaque);
}
