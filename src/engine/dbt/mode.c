/*
 * What of the legacy modes is translated: 32-bit code in protected mode (and
 * in compatibility mode) with flat CS and SS.
 */
#include "engine/dbt/dbt.h"

/* Readable and writable, without a limit: accesses through it need no checks. */
static bool unlimited(const struct segment *s)
{
	return !(s->attr & (SEG_UNUSABLE | SEG_TYPE_CODE | SEG_TYPE_EC)) &&
	       (s->attr & (SEG_P | SEG_S | SEG_TYPE_RW)) == (SEG_P | SEG_S | SEG_TYPE_RW) && s->limit == 0xffffffffu;
}

u32 dbt_legacy_mode(const struct cpu *c)
{
	const struct segment *cs = &c->seg[SEG_CS], *ss = &c->seg[SEG_SS];
	u32 mode = KEY_32;

	if (cpu_real(c) || cpu_code_mode(c) != CODE_32 || cs->base || cs->limit != 0xffffffffu)
		return MODE_OTHER;
	if (!unlimited(ss) || ss->base || !(ss->attr & SEG_DB))
		return MODE_OTHER;
	for (unsigned s = SEG_DS; s < SEG_COUNT; s++)
		if (unlimited(&c->seg[s]) && (s >= SEG_FS || !c->seg[s].base))
			mode |= KEY_SEG(s);
	if (unlimited(&c->seg[SEG_ES]) && !c->seg[SEG_ES].base)
		mode |= KEY_SEG(SEG_ES);
	return mode;
}
