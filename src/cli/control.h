/* What the commands for running machines share. */
#ifndef ECTYPE_CLI_CONTROL_H
#define ECTYPE_CLI_CONTROL_H

#include "cli/cli.h"
#include "ctl/client.h"

/* Exit status for what ctl_ask() and others return, after a message: "ectype: COMMAND: ..." if it is no success. */
int control_status(const char *command, int ret, const struct error *e);

/* Numbers and strings of an answer by path, "config/memory/size"; 0 and "" where there is none. */
u64 json_number(json_t *j, const char *path);
double json_fraction(json_t *j, const char *path);
const char *json_text(json_t *j, const char *path);

/* "3d 4h", "12m", "7.5s" */
void format_seconds(double s, char out[16]);
/* "512M", "1.5G" */
void format_bytes(double bytes, char out[16]);

/* Resident bytes of a process, 0 if that cannot be read. */
u64 process_resident(int pid);

#endif
