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
/* Or: it could not be built. */
void arrival_refuse(struct arrival *a, const char *text);
/* Any thread but the vCPU's. Somebody who knows says that it is to run: 1, it does; 0: it does anyway; -1 with *e. */
int arrival_resume(struct arrival *a, struct error *e);
enum arrival_phase arrival_phase(struct arrival *a);
/* After machine_run(). NULL is allowed. */
void arrival_destroy(struct arrival *a);

#endif
