/* The values of --disk and --cdrom: a file, and settings behind commas. */
#ifndef ECTYPE_CLI_DISK_OPTIONS_H
#define ECTYPE_CLI_DISK_OPTIONS_H

#include "cli/run_options.h"

/*
 * FILE[,KEY[=VALUE]]...; a comma in a file name or value is written twice.
 * Appends a disk to o->machine. 0, or an exit status after a message.
 */
int disk_option_add(struct run_options *o, const char *value);
int disk_option_add_cdrom(struct run_options *o, const char *value);
/* The value that makes a disk like *d, with all its settings; to be freed. NULL on lack of memory. */
char *disk_option_text(const struct machine_disk *d);

#endif
