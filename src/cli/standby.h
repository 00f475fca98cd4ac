/*
 * The standby of a protected machine (docs/protect.md): keeps what the primary
 * sends (state/protection.h), whole checkpoint after whole checkpoint, until
 * it is to go on in its place or is not needed any more.
 *
 * The primary is hostile as far as this process is concerned: what it sends is
 * bounded and checked. But who lets a primary in will run what it sent.
 */
#ifndef ECTYPE_CLI_STANDBY_H
#define ECTYPE_CLI_STANDBY_H

#include "base/error.h"
#include "machine/machine.h"
#include "state/channel.h"
#include "state/protection.h"

struct standby;

struct standby_offer {
	u64 ram; /* bytes */
	/* disks that the guest can write to, in the machine's order: their sizes, and where the copies go, which are
	 * of that size and of zeros */
	unsigned disks;
	u64 size[MACHINE_DISKS_MAX];
	struct block *image[MACHINE_DISKS_MAX];
	int staged; /* a file for what belongs to the checkpoint that comes, if there are disks */
};

struct standby_config {
	int fd;	     /* connected; stays the caller's */
	int witness; /* a descriptor; -1: none */
	const atomic_bool *quit;
	/*
	 * What the primary offers: a stream with the sections options, cpu-model, boot and ram.size, sound as such; the
	 * machine's parts that are copied. Sets o->image and o->staged. 0; or -1 with *e: it is refused.
	 */
	int (*offer)(void *opaque, const struct stream *s, struct standby_offer *o, struct error *e);
	/* It has the first whole checkpoint. May be NULL. */
	void (*ready)(void *opaque);
	void *opaque;
};

enum standby_end {
	STANDBY_TAKES_OVER, /* the primary is gone */
	STANDBY_STOPPED,    /* it goes on without this one */
	STANDBY_ENDED,	    /* its machine has ended */
	STANDBY_LOST,	    /* *e says why; nobody goes on here */
	STANDBY_STRANGER,   /* *e says why: who connected is no primary, and nothing was begun */
};

/* NULL with *e. */
struct standby *standby_create(const struct standby_config *cfg, struct error *e);
/* Waits and keeps, until one of these. */
enum standby_end standby_serve(struct standby *s, struct error *e);
void standby_destroy(struct standby *s);

/* After STANDBY_TAKES_OVER: the state as a stream, and RAM, of memory_area(), which becomes the caller's. `why`: how
 * the primary was lost. */
struct standby_kept {
	const u8 *state;
	size_t state_len;
	void *ram;
	u64 number; /* of the checkpoint */
	const char *why;
};
void standby_take(struct standby *s, struct standby_kept *out);

#endif
