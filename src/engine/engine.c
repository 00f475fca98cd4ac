/* Which engines there are, and how one is chosen. */
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

const struct engine_ops *const engines[] = { &engine_dbt, &engine_interp, NULL };

static const struct engine_ops *choose_auto(struct engine_verdict *why, struct error *e)
{
	char reasons[256] = "";

	for (const struct engine_ops *const *p = engines; *p; p++) {
		size_t used = strlen(reasons), said;

		*why = (struct engine_verdict){ 0 };
		(*p)->probe(why);
		if (why->usable && why->advisable) {
			said = strlen(why->reason);
			snprintf(why->reason + said, sizeof(why->reason) - said, "%s", reasons);
			why->passed_over = used;
			return *p;
		}
		snprintf(reasons + used, sizeof(reasons) - used, "; not %s: %s", (*p)->name, why->reason);
	}
	error_set(e, "no engine runs on this host%s", reasons);
	return NULL;
}

const struct engine_ops *engine_choose(const char *name, struct engine_verdict *why, struct error *e)
{
	struct engine_verdict scratch;
	char known[128] = "auto";

	if (!why)
		why = &scratch;
	if (!strcmp(name, "auto"))
		return choose_auto(why, e);
	for (const struct engine_ops *const *p = engines; *p; p++) {
		size_t used = strlen(known);

		if (!strcmp(name, (*p)->name)) {
			*why = (struct engine_verdict){ 0 };
			(*p)->probe(why);
			if (why->usable)
				return *p;
			error_set(e, "engine '%s' cannot run here: %s", name, why->reason);
			return NULL;
		}
		snprintf(known + used, sizeof(known) - used, ", %s", (*p)->name);
	}
	error_set(e, "no engine '%s' in this build (there is: %s)", name, known);
	return NULL;
}
