/* `ectype exec`: what its parts share. */
#ifndef ECTYPE_CLI_EXEC_H
#define ECTYPE_CLI_EXEC_H

#include "cli/run_options.h"

#define EXEC_FAILED 125 /* as of env, timeout and others that run a command: they could not */
#define EXEC_LIST_MAX 64

struct exec_options {
	struct run_options run; /* of the machine */
	const char *rw[EXEC_LIST_MAX], *env[EXEC_LIST_MAX];
	unsigned rws, envs;
	bool net, help;
	char **command; /* NULL-terminated */
};

/* 0, or an exit status after a message. */
int exec_options_parse(struct exec_options *o, int argc, char **argv);
void exec_options_help(void);

/*
 * The initial RAM disk: the cache's exec-initramfs, and behind it the file with
 * what to do (guest/exec_init.c). A descriptor of memory, or -1 with *e.
 * `tty`: which of the standard streams are terminals, of the letters i, o, e.
 */
int exec_image_create(const struct exec_options *o, const char *base, const char *tty, struct error *e);

#endif
