/* Which engines there are, and how one is chosen. */
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

const struct engine_ops *const engines[] = { &engine_kvm, &engine_dbt, &engine_interp, NULL };

static const struct engine_ops *choose_auto(u32 caps, struct engine_verdict *why, struct error *e)
{
	char reasons[256] = "";
	bool missed = false;

	for (const struct engine_ops *const *p = engines; *p; p++) {
		size_t used = strlen(reasons), said;

		if (~(*p)->caps & caps)
			continue;
		*why = (struct engine_verdict){ 0 };
		(*p)->probe(why);
		if (why->usable && why->advisable) {
			said = strlen(why->reason);
			snprintf(why->reason + said, sizeof(why->reason) - said, "%s", reasons);
			why->passed_over = missed;
			return *p;
		}
		missed |= !why->optional;
		snprintf(reasons + used, sizeof(reasons) - used, "; not %s: %.200s", (*p)->name, why->reason);
	}
	error_set(e, "no engine runs on this host%s", reasons);
	return NULL;
}

const struct engine_ops *engine_choose(const char *name, struct engine_verdict *why, struct error *e)
{
	return engine_choose_for(name, 0, "", why, e);
}

const struct engine_ops *engine_choose_for(const char *name, u32 caps, const char *purpose, struct engine_verdict *why,
					   struct error *e)
{
	struct engine_verdict scratch;
	char known[128] = "auto";

	if (!why)
		why = &scratch;
	if (!strcmp(name, "auto"))
		return choose_auto(caps, why, e);
	for (const struct engine_ops *const *p = engines; *p; p++) {
		size_t used = strlen(known);

		if (!strcmp(name, (*p)->name)) {
			if (~(*p)->caps & caps) {
				error_set(e, "engine '%s' cannot do what %s needs; use dbt or interp", name, purpose);
				return NULL;
			}
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
