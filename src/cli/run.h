/* Running a machine in this process: what `ectype run` and `ectype restore` share. */
#ifndef ECTYPE_CLI_RUN_H
#define ECTYPE_CLI_RUN_H

#include "cli/run_options.h"

struct arrival;

struct run_plan {
	/* Fills in *o, which is zeroed. 0 (with o->help: nothing is to be run), or an exit status after a message. */
	int (*options)(void *opaque, struct run_options *o);
	const char *socket;			  /* a path to be removed at the end; NULL: none */
	struct arrival *(*arrival)(void *opaque); /* how the machine came, for its control socket; may be NULL */
	void (*failed)(void *opaque);		  /* the machine could not be built; may be NULL */
	/* It is built, its first instruction comes next; may be NULL. An exit status after a message: it does not run.
	 */
	int (*ready)(void *opaque, struct machine *m);
	/* It has run; returns the exit status in place of `status`. May be NULL. */
	int (*ended)(void *opaque, int status);
	void *opaque;
};

/* Builds the machine, runs it, and returns the exit status. */
int run_machine(const struct run_plan *p);

#endif
