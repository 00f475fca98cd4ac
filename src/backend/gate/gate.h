/*
 * The output gate: while a machine is protected (docs/protect.md), what it
 * sends to the outside world waits here until the state it came from is safe
 * with the standby. It stands between the devices and the backends of
 * networks, character streams and vsock, in the direction from the guest
 * outwards only; what comes in is not touched.
 *
 * Output is numbered by *epochs*. gate_arm() begins the first, gate_mark(),
 * called at a checkpoint, ends one and begins the next; gate_release(n) lets out
 * what belongs to epochs up to n. Order within a stream, or a queue of a card,
 * is kept, across gate_disarm() too: what a backend does not take at once stays
 * here, and later output queues behind it.
 *
 * What waits is bounded, by GATE_*_MAX. A full network queue refuses packets, a
 * full vsock or paced console stream takes no bytes: the device stops taking
 * from the guest as with a slow backend. A stream that cannot say no (serial
 * ports, the debug console) reports early (gate_config.full, at a quarter) so
 * that a checkpoint is taken and the guest held meanwhile; what is beyond its
 * bound is dropped, as chr_ops.write() always does.
 *
 * A gate is put in front of a backend in place: the backend's `ops` are
 * replaced by copies of which some functions are the gate's. Not armed and
 * empty, that is a call and a branch for each packet or write.
 *
 * All functions are for the vCPU thread, but those marked.
 */
#ifndef ECTYPE_BACKEND_GATE_GATE_H
#define ECTYPE_BACKEND_GATE_GATE_H

#include "base/types.h"

struct gate;
struct net;
struct chr;
struct vsock;

/* What waits at most, in bytes, records' heads included: of a queue of a card, a character stream, a vsock stream, and
 * all streams of a vsock. */
#define GATE_NET_MAX (2 * MiB)
#define GATE_CHR_MAX (1 * MiB)
#define GATE_STREAM_MAX (256 * KiB)
#define GATE_VSOCK_MAX (8 * MiB)

struct gate_config {
	/* Any thread: gate_serve() is to be called soon. */
	void (*wake)(void *opaque);
	/* vCPU thread, inside a device's function: something is a quarter full; once until it is released. */
	void (*full)(void *opaque);
	void *opaque;
};

/* NULL on lack of memory. */
struct gate *gate_create(void);
/* Before anything is armed; the machine's. NULL: nobody is told. */
void gate_connect(struct gate *g, const struct gate_config *cfg);
/* Gives the backends their own functions back; what waits is lost. They are stopped. NULL is allowed. */
void gate_destroy(struct gate *g);

/* Before the backend is started. 0, or -1 on lack of memory. The backend must outlive the gate. */
int gate_net(struct gate *g, struct net *n);
int gate_chr(struct gate *g, struct chr *c);
int gate_vsock(struct gate *g, struct vsock *v);

/* From now on all output waits. Returns the number of the epoch that begins. */
u64 gate_arm(struct gate *g);
/* Ends an epoch, whose number it returns, and begins the next. */
u64 gate_mark(struct gate *g);
/* Any thread: what belongs to epochs up to `epoch` may leave; it does when gate_serve() is called. */
void gate_release(struct gate *g, u64 epoch);
/* All that waits may leave, and what follows is not held any more. */
void gate_disarm(struct gate *g);
bool gate_armed(const struct gate *g);

/* Any thread: gate_serve() has something to do. Cheap. */
bool gate_pending(const struct gate *g);
/* Passes on what may leave, as far as the backends take it. */
void gate_serve(struct gate *g);

struct gate_stats {
	u64 waiting, most; /* bytes that wait, and the most there ever were */
	u64 refused;	   /* times that a device was told to wait */
	u64 dropped;	   /* bytes of streams that cannot wait */
};
/* Any thread. */
struct gate_stats gate_stats(const struct gate *g);

#endif
