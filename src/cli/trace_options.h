/* --trace: what is printed of the translator's work, and where it goes. */
#ifndef ECTYPE_CLI_TRACE_OPTIONS_H
#define ECTYPE_CLI_TRACE_OPTIONS_H

#include <stdio.h>

#include "engine/options.h"

/* "guest,host,addr=LO-HI": fills o->trace and the range. 0, or an exit status
 * after a message. */
int trace_options_parse(const char *list, struct engine_options *o);
/* engine_options.trace_line for a `FILE *`. */
void trace_options_line(void *file, const char *text);

#endif
