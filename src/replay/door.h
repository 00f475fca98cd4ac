/*
 * The replay door: the one place where host time, host input and randomness
 * enter the machine. A leaf header any layer may use.
 *
 * Devices and engines run on the vCPU thread and ask the door; the I/O thread
 * only posts input. With the virtual clock the door never reads host time,
 * and its random numbers come from a seeded generator (--seed), so that two
 * runs with the same inputs are identical. Recording and replaying is logging
 * what passes through here, stamped with the instruction count.
 */
#ifndef ECTYPE_REPLAY_DOOR_H
#define ECTYPE_REPLAY_DOOR_H

#include "base/types.h"
#include "state/codec.h"

struct door;

enum door_mode {
	DOOR_REAL,    /* host clocks, host entropy */
	DOOR_VIRTUAL, /* no host time at all; seeded entropy; fixed wall-clock epoch */
};

/* NULL on lack of memory. `seed` is used with DOOR_VIRTUAL only. */
struct door *door_create(enum door_mode mode, u64 seed);
void door_destroy(struct door *d);

enum door_mode door_mode(const struct door *d);

/* Host CLOCK_MONOTONIC in ns. Must not be called with DOOR_VIRTUAL (asserts). */
u64 door_monotonic_ns(struct door *d);
/* Host CLOCK_REALTIME in ns since 1970. Not with DOOR_VIRTUAL. */
u64 door_wall_ns(struct door *d);
/* How long the calling thread has run, in ns (CLOCK_THREAD_CPUTIME_ID; a system call). Not with DOOR_VIRTUAL. */
u64 door_thread_ns(struct door *d);
/* Wall clock at machine start, seconds since 1970 (UTC). With DOOR_VIRTUAL the
 * fixed epoch 2020-01-01 00:00:00. */
u64 door_wall_epoch(struct door *d);
/* Fills p with n random bytes. */
void door_random(struct door *d, void *p, size_t n);

/*
 * Input. A sink is registered once at machine construction; its id is the
 * order of registration. door_post() may be called from any thread: it copies
 * the bytes into the queue and calls the kick function so that the vCPU thread
 * comes to an instruction boundary soon. door_deliver() runs on the vCPU
 * thread at an instruction boundary, hands queued bytes to their sinks in
 * order, and stamps them with `icount`. A sink takes as much as it has room
 * for and returns the number of bytes taken; the rest stays queued and is
 * offered again after door_sink_ready().
 */
typedef size_t (*door_sink_fn)(void *opaque, const u8 *bytes, size_t n);
int door_add_sink(struct door *d, const char *name, door_sink_fn fn, void *opaque);
void door_set_kick(struct door *d, void (*kick)(void *), void *opaque);
/* Returns how many bytes were queued (the queue of a sink is bounded, 64 KiB). */
size_t door_post(struct door *d, int sink, const void *bytes, size_t n);
void door_sink_ready(struct door *d, int sink);
/* Bytes that wait for the sink. Any thread; not from within the sink, for what it is offered counts still. */
size_t door_queued(struct door *d, int sink);
/*
 * Sources: what is too much to be copied through a queue (packets, finished
 * disk requests) waits with its backend. door_signal(), from any thread, says
 * that there is something; door_deliver() then calls `fn` on the vCPU thread at
 * an instruction boundary, once for any number of signals before. Ids as
 * those of sinks, counted apart. -1 if there are too many.
 */
typedef void (*door_source_fn)(void *opaque);
int door_add_source(struct door *d, const char *name, door_source_fn fn, void *opaque);
void door_signal(struct door *d, int source);
/* True if door_deliver() would have something to hand over. Cheap, any thread. */
bool door_pending(const struct door *d);
void door_deliver(struct door *d, u64 icount);

/*
 * Section "door": the wall clock at machine start, sources that are signalled and, of DOOR_VIRTUAL, the generator of
 * random numbers. Bytes that wait for a sink are not part of it: they are the host's. A door of the other mode, or one
 * with other sources, refuses the record.
 */
void door_save(const struct door *d, struct encoder *e);
int door_check(const struct door *d, struct decoder *in);
void door_load(struct door *d, struct decoder *in);

#endif
