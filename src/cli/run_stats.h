/* --stats of `ectype run`. */
#ifndef ECTYPE_CLI_RUN_STATS_H
#define ECTYPE_CLI_RUN_STATS_H

#include <stdio.h>

#include "machine/machine.h"

/* Could `path` be written later? Creates nothing. 0 or -1 with *e. */
int run_stats_check(const char *path, struct error *e);
/* Opened before the jail closes; what the file holds stays until run_stats_json(). NULL with *e. */
FILE *run_stats_open(const char *path, struct error *e);
int run_stats_json(struct machine *m, const struct machine_result *r, FILE *f, struct error *e);
void run_stats_text(struct machine *m);

#endif
