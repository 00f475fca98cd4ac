/*
 * The options of a machine in a snapshot, section "options": how `ectype
 * restore` builds it again.
 *
 *   u32 count, then strings of u16 length and bytes: "--name" or "--name=value"
 *
 * What says only how a process runs (--name, --stats, --gdb ...) is left out;
 * defaults that are found out (the cache's kernel, a disk without --disk) are
 * written in full, names of files from the root on.
 */
#ifndef ECTYPE_CLI_SAVED_OPTIONS_H
#define ECTYPE_CLI_SAVED_OPTIONS_H

#include "cli/run_options.h"
#include "state/codec.h"

#define SAVED_OPTIONS_SECTION "options"

/* 0, or -1 with *e. */
int saved_options_write(const struct run_options *o, struct encoder *e, struct error *err);

struct saved_options {
	char **option; /* `count` of them */
	unsigned count;
};
/* 0, or -1: the section is not sound, or there is not enough memory. */
int saved_options_read(struct saved_options *s, struct decoder d);
void saved_options_free(struct saved_options *s);
/* Takes the options named as `arg` ("--serial=none") off the list. -1 after a message: it cannot be given anew. */
int saved_options_replace(struct saved_options *s, const char *arg);

#endif
