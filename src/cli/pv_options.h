/* The value of --pv. */
#ifndef ECTYPE_CLI_PV_OPTIONS_H
#define ECTYPE_CLI_PV_OPTIONS_H

#include "base/types.h"

/* "on", "off", or names with commas between; "on,no-NAME" leaves some out. 0 or an exit status; *features as PV_* of
 * cpu/pv.h. *no_pause as in struct machine_config: "no-pause" is among them. */
int pv_option_parse(const char *value, u32 *features, bool *no_pause);

#endif
