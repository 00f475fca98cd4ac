/* What `ectype protect` tells the monitor, as a line of text. */
#include <stdio.h>
#include <string.h>

#include "ctl/protect.h"

#define ID_HEX 32

static const char *const losses[] = { [PROTECTION_HOLD] = "hold", [PROTECTION_CONTINUE] = "continue" };

const char *const protect_phase_names[] = {
	[PROTECT_NONE] = "none",	 [PROTECT_BEGINS] = "begins", [PROTECT_COPIES] = "copies",
	[PROTECT_PROTECTS] = "protects", [PROTECT_HELD] = "held",     [PROTECT_REPLACED] = "replaced",
};

size_t protect_terms_write(const struct protect_terms *t, char line[PROTECT_TERMS_MAX])
{
	int n = snprintf(line, PROTECT_TERMS_MAX, "rate=%u timeout=%u on-loss=%s witness=%u id=", t->rate,
			 t->timeout_ms, losses[t->on_loss], t->witness);

	for (unsigned i = 0; i < sizeof(t->id); i++)
		n += snprintf(line + n, PROTECT_TERMS_MAX - (size_t)n, "%02x", t->id[i]);
	n += snprintf(line + n, PROTECT_TERMS_MAX - (size_t)n, "\n");
	return (size_t)n;
}

int protect_terms_read(struct protect_terms *t, const char *line)
{
	char loss[16], id[ID_HEX + 1], again[PROTECT_TERMS_MAX];
	unsigned witness, byte;

	*t = (struct protect_terms){ .rate = 0 };
	if (strlen(line) >= PROTECT_TERMS_MAX ||
	    sscanf(line, "rate=%9u timeout=%9u on-loss=%15s witness=%1u id=%32[0-9a-f]", &t->rate, &t->timeout_ms, loss,
		   &witness, id) != 5 ||
	    strlen(id) != ID_HEX || witness > 1)
		return -1;
	t->on_loss = strcmp(loss, losses[PROTECTION_CONTINUE]) ? PROTECTION_HOLD : PROTECTION_CONTINUE;
	t->witness = witness;
	for (unsigned i = 0; i < sizeof(t->id); i++) {
		sscanf(id + 2 * i, "%2x", &byte);
		t->id[i] = (u8)byte;
	}
	/* there is one way to write it */
	protect_terms_write(t, again);
	return t->rate && t->rate <= PROTECT_RATE_MAX && t->timeout_ms >= PROTECT_TIMEOUT_MIN_MS &&
		       t->timeout_ms <= PROTECT_TIMEOUT_MAX_MS && !strcmp(line, again)
		   ? 0
		   : -1;
}
