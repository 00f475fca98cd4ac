/*
 * What the command line asks of an engine beside running: sizes, traces,
 * measurements. Zero is the default of everything.
 */
#ifndef ECTYPE_ENGINE_OPTIONS_H
#define ECTYPE_ENGINE_OPTIONS_H

#include "base/types.h"

struct guest_symbols;

#define CODE_CACHE_MIN (4 * MiB)
#define CODE_CACHE_MAX (1 * GiB)
#define CODE_CACHE_DEFAULT (64 * MiB)

/* What --trace prints. */
enum trace_switch {
	TRACE_GUEST = 1 << 0,	 /* the guest's code of each block translated */
	TRACE_ANALYSIS = 1 << 1, /* what was made of each instruction, and why */
	TRACE_HOST = 1 << 2,	 /* the host's code of each block */
	TRACE_EXEC = 1 << 3,	 /* each entry into translated code */
	TRACE_EXITS = 1 << 4,	 /* each leave of translated code, with its cause */
	TRACE_SMC = 1 << 5,	 /* blocks invalidated, caches flushed */
};
#define TRACE_BLOCKS (TRACE_GUEST | TRACE_ANALYSIS | TRACE_HOST)

struct engine_options {
	u64 code_cache; /* bytes for translated code, CODE_CACHE_MIN..CODE_CACHE_MAX; 0: the default. No matter to
			   an engine without one */
	bool alone;	/* only this processor touches guest RAM while the engine runs: LOCK may be left out */
	bool count;	/* v->icount counts every instruction, even where nothing depends on it */
	bool own_apics; /* the local APICs stay the machine's, though the engine could keep them */
	bool costs;	/* measure what exits cost, in host cycles */
	bool perf_map;	/* write /tmp/perf-PID.map */

	u32 trace;		     /* enum trace_switch */
	u64 trace_first, trace_last; /* only what touches these guest addresses, both included */
	/* Takes one line, without its end. On the vCPU thread, in ordinary C. */
	void (*trace_line)(void *opaque, const char *text);
	void *trace_opaque;
	const struct guest_symbols *symbols; /* names for guest addresses; NULL: none. Outlives the engine */
};

/* Is something asked for that only an engine that translates can show? */
static inline bool engine_options_translator(const struct engine_options *o)
{
	return o->perf_map || o->trace || o->symbols;
}

#endif
