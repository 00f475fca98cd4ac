/* --disk ID=PATH of a process that becomes a machine from elsewhere: where the files of its disks are here. */
#ifndef ECTYPE_CLI_DISK_PLACES_H
#define ECTYPE_CLI_DISK_PLACES_H

#include "machine/machine.h"

struct disk_places {
	char **place; /* with room for all arguments; the caller's */
	unsigned count;
};

/* Takes argv[*i] if it is the option: -1; 0: it is not; or an exit status after a message. */
int disk_places_option(struct disk_places *p, const char *command, int argc, char **argv, int *i);
/* The path that was given for disk `id`, the last one if there are several; NULL: none. */
const char *disk_places_of(const struct disk_places *p, const char *id);
/* Gives the machine's disks the paths that were given for them. 0; or -1 with *e: there is none of a name. */
int disk_places_apply(const struct disk_places *p, struct machine_config *m, struct error *e);

#endif
