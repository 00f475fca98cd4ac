/*
 * What watches translated code: traces, costs, the perf map. Nothing of it is
 * in generated code or in the run loop: with something to watch dbt->enter is
 * dbt_enter_observed, which enters translated code itself.
 */
#ifndef ECTYPE_ENGINE_DBT_OBSERVE_H
#define ECTYPE_ENGINE_DBT_OBSERVE_H

#include "engine/engine.h"
#include "isa/isa_sys.h"

struct dbt;
struct dbt_shared;
struct tblock;
struct tr;
struct perf_map;

struct dbt_measure {
	u64 samples, cycles;
};
/* Costs are measured of one exit in about 16, at distances that are not regular. */
struct dbt_observe {
	bool costs;
	u32 until, random; /* exits to the next sample */
	/* the exit that is being measured: */
	u64 start;     /* 0: none */
	u64 elsewhere; /* cycles of translation and traces at its start */
	u32 reason, sys;
	u64 overhead;		     /* of the measurement */
	struct dbt_measure *reasons; /* [LEAVE_COUNT], then [ISA_SYS_COUNT] */
};

/* observe.c: general registers only. */
void dbt_enter_observed(struct vcpu *v);
/* What is done until the next entry belongs to no exit. */
void dbt_observe_pause(struct dbt *x);
/* Block `b` is about to be killed; (b = NULL) everything is flushed. */
void dbt_observe_kill(struct vcpu *v, const struct tblock *b);

/* trace.c: ordinary C, vector state parked. */
void dbt_trace_enter(struct vcpu *v);
void dbt_trace_leave(struct vcpu *v);
void dbt_trace_kill(struct vcpu *v, const struct tblock *b);
/* A block was made: its trace and its line of the perf map. */
void dbt_trace_block(struct tr *t);

/* stats.c */
int dbt_start_perf_map(struct dbt_shared *sh, struct error *e);
int dbt_observe_init(struct dbt *x, const struct engine_options *o, struct error *e);
void dbt_observe_fini(struct dbt *x);
unsigned dbt_counters(struct vcpu *v, struct engine_counter *out, unsigned max);
unsigned dbt_costs(struct vcpu *v, enum engine_cost_table table, struct engine_cost *out, unsigned max);
const char *dbt_leave_name(unsigned reason); /* of enum leave_reason */

/* perf_map.c */
/* /tmp/perf-PID.map in the format of perf's JIT interface. NULL with *e. */
struct perf_map *perf_map_create(const char *path, struct error *e);
void perf_map_add(struct perf_map *p, const void *start, u32 size, const char *name);
void perf_map_close(struct perf_map *p); /* the file stays: perf report reads it */

#endif
