/*
 * What of the legacy modes is translated: 32-bit code in protected mode (and
 * in compatibility mode) with flat CS and SS.
 */
#include "engine/dbt/dbt.h"

/* Readable and writable from offset 0 to the limit. */
static bool plain_data(const struct segment *s)
{
	return !(s->attr & (SEG_UNUSABLE | SEG_TYPE_CODE | SEG_TYPE_EC)) &&
	       (s->attr & (SEG_P | SEG_S | SEG_TYPE_RW)) == (SEG_P | SEG_S | SEG_TYPE_RW);
}

static bool flat(const struct segment *s)
{
	return plain_data(s) && !s->base && s->limit == 0xffffffffu;
}

u32 dbt_legacy_mode(const struct cpu *c)
{
	const struct segment *cs = &c->seg[SEG_CS], *ss = &c->seg[SEG_SS];

	if (cpu_real(c) || cpu_code_mode(c) != CODE_32 || cs->base || cs->limit != 0xffffffffu)
		return MODE_OTHER;
	if (!flat(ss) || !(ss->attr & SEG_DB))
		return MODE_OTHER;
	return KEY_32 | (flat(&c->seg[SEG_DS]) ? KEY_SEG(SEG_DS) : 0) | (flat(&c->seg[SEG_ES]) ? KEY_SEG(SEG_ES) : 0);
}

void dbt_note_segments(struct vcpu *v)
{
	for (unsigned n = 0; n < 2; n++) {
		const struct segment *s = &v->cpu.seg[SEG_FS + n];

		dhot(v)->seg_size[n] = plain_data(s) ? s->limit + 1ull : 0;
		dhot(v)->unlimited[n] = (u32)(dhot(v)->seg_size[n] >> 32);
	}
}
