/* What the files of src/backend/gate share. */
#ifndef ECTYPE_BACKEND_GATE_GATE_PRIV_H
#define ECTYPE_BACKEND_GATE_GATE_PRIV_H

#include <stdatomic.h>

#include "backend/gate/gate.h"

/* A packet, some bytes of a stream, or something that is done to a stream. */
struct gate_record {
	struct gate_record *next;
	u64 epoch;
	u32 kind, arg; /* the port's own */
	u32 at, len, room;
	u8 data[];
};

struct gate_queue {
	struct gate_record *first, **last;
	size_t bytes;
};

/* A backend with the gate in front of it. */
struct gate_port {
	struct gate_port *next;
	/* Passes on what may leave. */
	void (*serve)(struct gate_port *p);
	/* The backend's own functions again; frees the port. */
	void (*detach)(struct gate_port *p);
};

struct gate {
	struct gate_config cfg;
	struct gate_port *ports;
	bool armed, told_full;
	u64 epoch;	       /* of what is sent now */
	atomic_ullong allowed; /* epochs up to this may leave */
	atomic_bool pending;
	atomic_ullong waiting, most, refused, dropped;
};

void gate_add_port(struct gate *g, struct gate_port *p);
/* Any thread: there may be something to do for gate_serve(). */
void gate_poke(struct gate *g);
/* A device must wait. */
void gate_refused(struct gate *g);

void gate_queue_init(struct gate_queue *q);
/* A new record at the end, with room for `n` bytes; NULL on lack of memory. */
struct gate_record *gate_queue_add(struct gate *g, struct gate_queue *q, u32 kind, u32 arg, size_t n);
/* Adds bytes of a stream, to the last record where that may be. How many were taken: less on lack of memory. */
size_t gate_queue_bytes(struct gate *g, struct gate_queue *q, u32 kind, const u8 *p, size_t n);
/* What `n` bytes more would make of it. */
size_t gate_queue_with(const struct gate_queue *q, size_t n);
/* The first record, if it may leave; else NULL. */
struct gate_record *gate_queue_ready(struct gate *g, const struct gate_queue *q);
/* The first one has left. */
void gate_queue_pop(struct gate *g, struct gate_queue *q);
void gate_queue_clear(struct gate *g, struct gate_queue *q);
/* Reports that `q`, of at most `max` bytes, has too much in it. */
void gate_queue_look(struct gate *g, const struct gate_queue *q, size_t max);

/* Output need not wait. */
static inline bool gate_passes(const struct gate *g, const struct gate_queue *q)
{
	return !g->armed && !q->first;
}

#endif
