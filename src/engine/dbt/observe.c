/*
 * Entries into translated code that are watched. Runs with the guest's vector
 * state live: it is put away around ordinary C and loaded again, since code in
 * the middle of a block relies on it.
 */
#include "engine/dbt/dbt.h"

#define SAMPLE_MEAN 16
#define OUTLIER (4u << 20) /* cycles: the host ran something else */
#define SAMPLES_ALWAYS 64  /* of what is rare */

static void ordinary(struct vcpu *v, void (*fn)(struct vcpu *))
{
	bool live = v->fpu_live;

	fpu_park(v);
	fn(v);
	if (live)
		fpu_load(v);
}

static void begin_sample(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	struct dbt_observe *o = &x->observe;
	const struct dbt_hot *h = dhot(v);

	/* Distances of 1 .. 2 * SAMPLE_MEAN - 1, so that no loop of the guest is in step with them. */
	o->random ^= o->random << 13;
	o->random ^= o->random >> 17;
	o->random ^= o->random << 5;
	o->until = 1 + o->random % (2 * SAMPLE_MEAN - 1);
	o->reason = h->reason;
	o->sys = h->reason == LEAVE_SYS ? x->sh->sys[h->info].sys : ISA_SYS_none;
	o->elsewhere = x->stats.translate_cycles + x->stats.trace_cycles;
	o->start = __builtin_ia32_rdtsc();
}

/* Is the exit of a kind of which little was measured? */
static bool rare(struct vcpu *v)
{
	const struct dbt *x = dbt_of(v);
	const struct dbt_hot *h = dhot(v);
	const struct dbt_measure *m = x->observe.reasons;

	if (h->reason == LEAVE_SYS)
		return m[LEAVE_COUNT + x->sh->sys[h->info].sys].samples < SAMPLES_ALWAYS;
	return m[h->reason].samples < SAMPLES_ALWAYS;
}

void dbt_observe_pause(struct dbt *x)
{
	struct dbt_observe *o = &x->observe;
	u64 cycles;

	if (!o->start)
		return;
	cycles = __builtin_ia32_rdtsc() - o->start;
	cycles -= x->stats.translate_cycles + x->stats.trace_cycles - o->elsewhere;
	cycles = (s64)(cycles - o->overhead) > 0 ? cycles - o->overhead : 0;
	o->start = 0;
	if (cycles > OUTLIER)
		return;
	o->reasons[o->reason].samples++;
	o->reasons[o->reason].cycles += cycles;
	if (o->sys == ISA_SYS_none)
		return;
	o->reasons[LEAVE_COUNT + o->sys].samples++;
	o->reasons[LEAVE_COUNT + o->sys].cycles += cycles;
}

void dbt_enter_observed(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);

	dbt_observe_pause(x);
	if (x->trace & TRACE_EXEC)
		ordinary(v, dbt_trace_enter);
	x->sh->enter_code(v);
	if (x->trace & TRACE_EXITS)
		ordinary(v, dbt_trace_leave);
	if (x->observe.costs && (--x->observe.until == 0 || rare(v)))
		begin_sample(v);
}

void dbt_observe_kill(struct vcpu *v, const struct tblock *b)
{
	bool live = v->fpu_live;

	fpu_park(v);
	dbt_trace_kill(v, b);
	if (live)
		fpu_load(v);
}
