/* Figures of the translator, and what must be set up to measure them. */
#include "engine/dbt/list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "isa/isa.h"

static const char *const leave_names[LEAVE_COUNT] = {
	[LEAVE_LINK] = "link",
	[LEAVE_INDIRECT] = "indirect",
	[LEAVE_ENTRY] = "entry",
	[LEAVE_MISS_R] = "miss_read",
	[LEAVE_MISS_W] = "miss_write",
	[LEAVE_STEP] = "step",
	[LEAVE_SYS] = "shared_semantics",
	[LEAVE_SAFE] = "safepoint",
	[LEAVE_FPU] = "vector_state",
	[LEAVE_HOST] = "host_fault",
};

const char *dbt_leave_name(unsigned reason)
{
	return reason < LEAVE_COUNT && leave_names[reason] ? leave_names[reason] : "?";
}

/* What a measurement of nothing shows. */
static u64 overhead(void)
{
	u64 least = UINT64_MAX;

	for (unsigned k = 0; k < 200; k++) {
		u64 start = __builtin_ia32_rdtsc(), d = __builtin_ia32_rdtsc() - start;

		least = MIN(least, d);
	}
	return least;
}

int dbt_start_perf_map(struct dbt_shared *sh, struct error *e)
{
	char path[64];

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	sh->perf = perf_map_create(path, e);
	if (!sh->perf)
		return -1;
	perf_map_add(sh->perf, sh->rx, sh->start, "ectype:trampolines");
	return 0;
}

int dbt_observe_init(struct dbt *x, const struct engine_options *o, struct error *e)
{
	x->enter = x->sh->enter_code;
	if (!o)
		return 0;
	x->options = o;
	x->trace = o->trace_line ? o->trace : 0;
	x->count_all = o->count;
	x->observe.costs = o->costs;
	x->observe.until = 1;
	x->observe.random = 0x9e3779b9;
	x->observe.overhead = overhead();
	x->observe.reasons = calloc(LEAVE_COUNT + ISA_SYS_COUNT, sizeof(*x->observe.reasons));
	if (!x->observe.reasons)
		return error_set(e, "engine dbt: out of memory");
	if (o->costs || o->trace & (TRACE_EXEC | TRACE_EXITS))
		x->enter = dbt_enter_observed;
	if (x->trace & TRACE_HOST && !o->trace_first && !x->sh->peers.n)
		dbt_list_trampolines(x);
	return 0;
}

void dbt_observe_fini(struct dbt *x)
{
	free(x->observe.reasons);
}

/* Both are counters and nothing else. */
static void add_counters(void *sum, const void *add, size_t size)
{
	u64 *to = sum;
	const u64 *from = add;

	for (size_t k = 0; k < size / sizeof(*to); k++)
		to[k] += from[k];
}

static u64 sum_of_stops(const struct dbt_stats *s)
{
	u64 sum = 0;

	for (unsigned k = 0; k < STOP_CAUSES; k++)
		sum += s->stops[k];
	return sum;
}

unsigned dbt_counters(struct vcpu *v, struct engine_counter *out, unsigned max)
{
	const struct dbt_shared *sh = dbt_of(v)->sh;
	struct dbt_stats sum = { 0 }, *s = &sum;
	struct flat_stats tables = { 0 }, *f = &tables;

	for (unsigned k = 0; k < sh->peers.n; k++) {
		add_counters(s, &dbt_of(sh->peers.v[k])->stats, sizeof(*s));
		add_counters(f, flat_stats(sh->peers.v[k]->mmu->flat), sizeof(*f));
	}
	const struct engine_counter all[] = {
		{ "translations", s->translations },
		{ "cloned_blocks", s->clones },
		{ "translated_instructions", s->insns },
		{ "translated_guest_bytes", s->guest_bytes },
		{ "translated_host_bytes", s->host_bytes },
		{ "host_bytes_per_100_guest", s->guest_bytes ? s->host_bytes * 100 / s->guest_bytes : 0 },
		{ "cycles_per_translation", s->translations ? s->translate_cycles / s->translations : 0 },
		{ "code_cache_bytes", dbt_in_use(sh).used },
		{ "code_cache_evictions", s->evictions },
		{ "code_cache_flushes", sh->flushes - s->evictions },
		{ "killed_blocks", s->kills },
		{ "stores_to_code_pages", s->code_stores },
		{ "chained_jumps", s->links },
		{ "jump_cache_misses", s->lost_jumps },
		{ "return_misses", s->lost_returns },
		{ "return_stack_resets", s->return_resets },
		{ "reference_steps", s->steps },
		{ "untranslated_mode_runs", s->other_modes },
		{ "untranslated_mode_instructions", s->other_insns },
		{ "world_stops", world_stops(v) },
		{ "world_stops_first_code", s->stops[STOP_FRAME] },
		{ "world_stops_mixed_frame", s->stops[STOP_MIXED] },
		{ "world_stops_code_written", s->stops[STOP_KILL] },
		{ "world_stops_room", s->stops[STOP_ROOM] },
		{ "world_stops_memory_map", memory_map_stops(v->mem) },
		{ "world_stops_interpreter", world_stops(v) - sum_of_stops(s) - memory_map_stops(v->mem) },
		{ "translator_lock_waits", s->lock_waits },
		{ "translations_discarded", s->discards },
		{ "mmu_fills", f->fills },
		{ "mmu_misses", f->misses },
		{ "mmu_neighbours", f->neighbours },
		{ "mmu_flushes", f->flushes },
		{ "mmu_page_flushes", f->page_flushes },
		{ "mmu_table_pages", f->table_pages },
		{ "mmu_resets", f->resets },
	};
	unsigned n = MIN(max, (unsigned)ARRAY_SIZE(all));

	memcpy(out, all, n * sizeof(*out));
	return ARRAY_SIZE(all);
}

unsigned dbt_costs(struct vcpu *v, enum engine_cost_table table, struct engine_cost *out, unsigned max)
{
	const struct dbt_shared *sh = dbt_of(v)->sh;
	bool exits = table == COSTS_EXITS;
	unsigned n = 0, rows = exits ? (unsigned)LEAVE_COUNT : (unsigned)ISA_SYS_COUNT;

	for (unsigned k = 0; k < rows; k++) {
		struct engine_cost sum = { .name = exits ? dbt_leave_name(k) : isa_sys_name(k) };

		for (unsigned p = 0; p < sh->peers.n; p++) {
			const struct dbt *x = dbt_of(sh->peers.v[p]);
			const struct dbt_measure *m = x->observe.reasons;

			sum.count += exits ? x->stats.leaves[k] : x->stats.sys_calls[k];
			sum.samples += m ? m[exits ? k : LEAVE_COUNT + k].samples : 0;
			sum.cycles += m ? m[exits ? k : LEAVE_COUNT + k].cycles : 0;
		}
		if (!sum.count)
			continue;
		if (n < max)
			out[n] = sum;
		n++;
	}
	return n;
}
