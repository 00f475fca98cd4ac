/* Where `ectype migrate` connects to and `ectype receive` listens: tcp:HOST:PORT or unix:PATH. */
#ifndef ECTYPE_CLI_MIGRATE_TARGET_H
#define ECTYPE_CLI_MIGRATE_TARGET_H

#include "cli/tls.h"

struct migrate_target {
	const char *text; /* as given; NULL: not yet */
	const char *path; /* of a unix socket; NULL: TCP */
	char host[256], port[32];
	bool insecure;
	struct tls_files tls;
};

/* 0, or an exit status after a message. */
int migrate_target_parse(struct migrate_target *t, const char *command, const char *text);
/* Takes argv[*i] if it is an option of the target: -1; 0: it is none; or an exit status after a message. */
int migrate_target_option(struct migrate_target *t, const char *command, int argc, char **argv, int *i);
/* The lines of --help for them. */
void migrate_target_help(bool listens);
/* Do the options go together? Looks at files. 0, or -1 with *e. */
int migrate_target_check(struct migrate_target *t, bool listens, struct error *e);
/* A descriptor, or -1 with *e. *port: of TCP, the one it got. */
int migrate_listen(const struct migrate_target *t, u16 *port, struct error *e);
int migrate_connect(const struct migrate_target *t, struct error *e);
/* Removes a unix socket that was listened at. */
void migrate_unlink(const struct migrate_target *t);

#endif
