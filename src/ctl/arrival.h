/*
 * A machine that came from another monitor (docs/migrate.md; the protocol:
 * state/migration.h), from when it is loaded: it stands still until the source
 * says that it does not run there any more. A thread speaks with the source. If
 * the connection is lost it waits for another one, by which the source asks;
 * and, in doubt, for a person who says vm.resume or vm.shutdown.
 */
#ifndef ECTYPE_CTL_ARRIVAL_H
#define ECTYPE_CTL_ARRIVAL_H

#include "machine/machine.h"
#include "state/channel.h"
#include "state/migration.h"

struct arrival;

enum arrival_phase {
	ARRIVAL_READY,	  /* the source is to say "go" */
	ARRIVAL_IN_DOUBT, /* the same, but it is not connected */
	ARRIVAL_STARTED,
	ARRIVAL_DISCARDED, /* the source goes on: this machine ends, and has never run */
};

/* Takes the channel over, with its descriptor, and `fd` of listen.h, where the source can ask. NULL on
 * lack of memory, and nothing was taken. */
struct arrival *arrival_create(struct channel *c, int fd, const u8 id[MIGRATION_ID_LEN]);
/* `fd` gets a byte of 0 when the machine is to run; the caller's. Before arrival_begin(). */
void arrival_keeper(struct arrival *a, int fd);
/* The machine is loaded and in the jail, machine_run() comes next: tells the source. 0, or -1 with *e. */
int arrival_begin(struct arrival *a, struct machine *m, struct error *e);
/*
 * Before that, when the machine's memory has been made, and nobody has touched it: the frames that are set in `missing`
 * come later. They are asked for from now on. Takes `fd` of missing_open() over. 0, or -1 with *e.
 */
int arrival_expect(struct arrival *a, struct memory *m, int fd, const u64 *missing, struct error *e);
/* After machine_run(), before the machine goes. */
void arrival_stop(struct arrival *a);
/* Or: it could not be built. */
void arrival_refuse(struct arrival *a, const char *text);
/* Any thread but the vCPU's. Somebody who knows says that it is to run: 1, it does; 0: it does anyway; -1 with *e. */
int arrival_resume(struct arrival *a, struct error *e);
enum arrival_phase arrival_phase(struct arrival *a);
/* Any thread. Of memory that comes while the machine runs; false: it all came before. */
struct arrival_post_figures {
	u64 missing;	/* bytes */
	u64 faults;	/* frames that somebody waited for */
	u64 longest;	/* nanoseconds */
	u64 oldest;	/* host time since when somebody waits, 0: nobody does */
	bool connected; /* with the source */
	bool waiting;	/* for long */
};
bool arrival_post_figures(struct arrival *a, struct arrival_post_figures *fig);
/* After machine_run() and when the machine has gone. NULL is allowed. */
void arrival_destroy(struct arrival *a);

#endif
