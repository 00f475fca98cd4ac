/* What the machine tells of itself, as JSON and as OpenMetrics text. */
#ifndef ECTYPE_CTL_REPORT_H
#define ECTYPE_CTL_REPORT_H

#include <jansson.h>

#include "ctl/api.h"
#include "ctl/snapshot.h"

/* `s` may be NULL: the machine does not answer. NULL on lack of memory. */
json_t *report_info(const struct api_machine *m, const struct snapshot *s);
json_t *report_counters(const struct snapshot *s);
/* From malloc(), NULL on lack of memory. */
char *report_metrics(const struct api_machine *m, const struct snapshot *s, size_t *len);

/* "Running", "Paused", "BreakPoint" (a debugger holds it), "Busy" (no answer). */
const char *report_state(const struct api_machine *m, const struct snapshot *s);

struct protect_status;
/* What vm.protection answers. */
json_t *report_protection(const struct protect_status *s);

#endif
