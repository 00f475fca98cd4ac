/*
 * Lockstep: two machines of one configuration, each run by its own engine, in
 * step on the virtual clock. After every slice of instructions their state is
 * compared; a difference is narrowed down to the first instruction that makes
 * one, and described.
 *
 * There are no snapshots: to look at a point again both machines are built
 * anew and run to it with the same slices as before, which the virtual clock
 * makes exact. All on the caller's thread.
 */
#ifndef ECTYPE_REPLAY_LOCKSTEP_H
#define ECTYPE_REPLAY_LOCKSTEP_H

#include "machine/machine.h"

struct lockstep_config {
	/* Clock and memory are taken as they are (the clock must be virtual);
	 * `engine`, `serial` and `insn_limit` are not looked at. */
	const struct machine_config *machine;
	const char *engine[2];
	u64 every; /* instructions a slice, from 1 */
	u64 limit; /* stop after so many instructions; 0: at the guest's end */
	bool serial;
	bool round_trip; /* the second machine is saved after every slice, and another one built from that goes on */
	bool alternate;	 /* the second machine has either engine in turn, a slice each */
	/* Callbacks, each may be NULL. */
	/* Both serial ports wrote these bytes (compared before). Each byte once. */
	void (*console)(void *opaque, const u8 *bytes, size_t n);
	/* Machine `which` was built, or (NULL) is about to be destroyed. */
	void (*machine_changed)(void *opaque, unsigned which, struct machine *m);
	/* Between slices; true: give up with LOCKSTEP_STOPPED. */
	bool (*stopping)(void *opaque);
	/* After a slice at `icount`; `phase`: what is being done ("running", "narrowing"). */
	void (*progress)(void *opaque, const char *phase, u64 icount);
	/* A line of the report on a difference. */
	void (*line)(void *opaque, const char *text);
	void *opaque;
};

enum lockstep_end {
	LOCKSTEP_EQUAL,	   /* to the guest's end or the limit */
	LOCKSTEP_DIVERGED, /* a report was made */
	LOCKSTEP_STOPPED,  /* `stopping`, or someone called machine_stop() */
	LOCKSTEP_FAILED,   /* the host failed: `text` */
};

struct lockstep_result {
	enum lockstep_end end;
	struct machine_result guest; /* LOCKSTEP_EQUAL: how it ended; MACHINE_END_LIMIT at the limit */
	u64 instructions, slices;    /* compared */
	u64 ram_compares;
	/* LOCKSTEP_DIVERGED: state is equal after `equal` instructions, and not
	 * after `different`, the next one; further apart only where running
	 * again did not show the difference again (`repeated` is false). */
	u64 equal, different;
	bool repeated;
	char text[256];
};

/* Could both machines be built? 0, or -1 with *e. Changes nothing. */
int lockstep_check(const struct lockstep_config *c, struct error *e);
void lockstep_run(const struct lockstep_config *c, struct lockstep_result *out);

#endif
