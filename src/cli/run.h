/* Running a machine in this process: what `ectype run` and `ectype restore` share. */
#ifndef ECTYPE_CLI_RUN_H
#define ECTYPE_CLI_RUN_H

#include "cli/run_options.h"

struct run_plan {
	/* Fills in *o, which is zeroed. 0 (with o->help: nothing is to be run), or an exit status after a message. */
	int (*options)(void *opaque, struct run_options *o);
	void (*failed)(void *opaque); /* the machine could not be built; may be NULL */
	void (*ready)(void *opaque);  /* it is built, its first instruction comes next; may be NULL */
	void *opaque;
};

/* Builds the machine, runs it, and returns the exit status. */
int run_machine(const struct run_plan *p);

#endif
