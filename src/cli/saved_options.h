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
/* Takes the options named as `arg` ("--serial=none") off the list. -1 after a message: it cannot be given anew to
 * `command`. */
int saved_options_replace(struct saved_options *s, const char *command, const char *arg);

/* Takes the options called `name` ("--serial") off the list. */
void saved_options_drop(struct saved_options *s, const char *name);
/* Is `arg` ("--eager") an option of `ectype restore` that takes no value behind it? */
bool saved_options_flag(const char *arg);

/*
 * Options of ectype run that a command was given for a machine of which it has the saved ones. `option` has room for
 * argc of them, `argv` lives as long as the machine; both are the caller's to free.
 */
struct given_options {
	char **option;
	unsigned count;
	char **argv;
	char self[16];
};
/* Takes argv[*i]; "--name value" becomes "--name=value". 0, or an exit status after a message. */
int given_options_take(struct given_options *g, const char *command, int argc, char **argv, int *i);
/* The lines of --help for them. */
void given_options_help(void);
/* They replace saved ones. 0, or an exit status after a message: one that is the machine's own. */
int given_options_replace(const struct given_options *g, struct saved_options *s, const char *command);
/* Parses both; *s is empty afterwards, its strings are the machine's. 0, or an exit status after a message. */
int given_options_parse(struct given_options *g, struct saved_options *s, const char *command, struct run_options *o);

#endif
