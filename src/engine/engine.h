/*
 * The boundary between the machine and the technique that runs its
 * processors. As wide as KVM's: memory and its changes, run and exit reasons,
 * the whole processor state in and out, and a kick.
 */
#ifndef ECTYPE_ENGINE_ENGINE_H
#define ECTYPE_ENGINE_ENGINE_H

#include "base/error.h"
#include "cpu/apic_state.h"
#include "cpu/cpuid.h"
#include "engine/options.h"
#include "mem/physmem.h"

enum vcpu_exit {
	VCPU_EXIT_BUDGET, /* the instruction budget is spent, to the instruction */
	VCPU_EXIT_EVENT,  /* v->event holds something the engine does not deal with itself */
	VCPU_EXIT_HALT,	  /* cpu.activity is no longer ACT_RUNNING (HLT, shutdown) */
	VCPU_EXIT_DEBUG,  /* a debugger's breakpoint or watchpoint, see v->debug */
	VCPU_EXIT_COUNT,
};

struct run_budget {
	u64 insns; /* stop after exactly so many, CLOCK_NEVER for no limit */
};

enum engine_caps {
	ENGINE_EXACT_ICOUNT = 1 << 0,
	ENGINE_SINGLE_STEP = 1 << 1,
	ENGINE_SMP = 1 << 2,
	ENGINE_TRANSLATES = 1 << 3,	 /* engine_options_translator() is for it */
	ENGINE_COUNTS_IF_ASKED = 1 << 4, /* without a budget v->icount misses instructions, unless options->count */
};

/* Why an engine is or is not chosen by --engine auto. */
struct engine_verdict {
	bool usable, advisable;
	bool passed_over; /* --engine auto: one that it would rather take cannot run here; the reason says why */
	bool optional;	  /* nobody misses it where it is not taken */
	char reason[320];
};

/* What an engine can show a guest, known before the CPU model is made. Zero: no limit. */
struct engine_needs {
	/* in: the processors are to run in turns, on one thread */
	bool turns;
	/* out */
	bool limited; /* `cpu` holds */
	struct cpu_limits cpu;
	u64 tsc_hz;	/* the only rate it can give the guest's TSC */
	u32 pv_missing; /* PV_* of cpu/pv.h that it cannot offer */
};

/* A named counter of an engine, for --stats. */
struct engine_counter {
	const char *name;
	u64 value;
};

/* How often something was done and what it cost. `cycles` are of `samples` of
 * the `count` times; none if options->costs is off. */
struct engine_cost {
	const char *name;
	u64 count, samples, cycles;
};
enum engine_cost_table {
	COSTS_EXITS, /* of translated code, by cause */
	COSTS_SYS,   /* those to the shared semantics, by function */
	COSTS_TABLES,
};

/*
 * For an engine that keeps the local APICs itself while its guest runs: then
 * interrupts among processors, timers and halts never leave it. The machine
 * lends all of them or none, with every processor at a boundary, and has them
 * back whenever somebody is to look at the machine's state. While they are
 * lent run() is called for processors that halt or wait for SIPI as well, and
 * returns for events alone; the vcpu_hooks ask for what they need of the APIC
 * here, the 8259s' interrupts are had from hooks->extint_ack, and the IOAPIC
 * hears of EOIs by hooks->apic_eoi.
 */
struct engine_apics {
	/* Would it take them now? */
	bool (*wanted)(struct vcpu *v);
	/* Of processor v; give() undoes take(). On any thread. take(): 0, or -1 with *e. settle() is called for all
	 * before the first give(): what processors have done is done for others, too. */
	int (*take)(struct vcpu *v, const struct apic_state *s, struct error *e);
	void (*settle)(struct vcpu *v);
	void (*give)(struct vcpu *v, struct apic_state *s);
	/* Any thread, while lent; v is any processor. True: somebody accepted it. */
	bool (*deliver)(struct vcpu *v, const struct apic_msi *msi);
	void (*set_routes)(struct vcpu *v, const struct apic_routes *r);
	/* On v's thread, inside run(), while lent. -1: #GP. */
	int (*msr_read)(struct vcpu *v, u32 msr, u64 *val);
	int (*msr_write)(struct vcpu *v, u32 msr, u64 val);
	u64 (*cr8_read)(struct vcpu *v);
	void (*cr8_write)(struct vcpu *v, u64 val);
};

struct engine_ops {
	const char *name;
	const char *summary; /* one line for --help */
	u32 caps;
	void (*probe)(struct engine_verdict *out);
	/* NULL: the engine needs nothing. Otherwise it also gets ready for vcpu_attach() inside the jail. 0 or -1 with
	 * *e. */
	int (*needs)(struct engine_needs *out, struct error *e);
	/* Take over at an instruction boundary; v->cpu is exact. 0 or -1 with *e. */
	int (*vcpu_attach)(struct vcpu *v, struct error *e);
	/* Give up; v->cpu is exact and cpu.fpu holds the vector state. */
	void (*vcpu_detach)(struct vcpu *v);
	/*
	 * Run until the budget is spent or something else comes up. Interrupts
	 * and exceptions are taken inside (cpu/event.h). On return v->cpu,
	 * v->icount and cpu.fpu are exact. The engine leaves soon after
	 * EV_KICK, EV_TIMER or EV_RESET is raised (it does not clear those).
	 * A budget of 0 takes what is pending at this boundary and runs nothing.
	 */
	enum vcpu_exit (*run)(struct vcpu *v, const struct run_budget *b);
	/* From any thread, after an event was raised: run() must look at v->event soon. NULL: it does by itself. */
	void (*kick)(struct vcpu *v);
	/* v->debug changed. */
	void (*debug_changed)(struct vcpu *v);
	/* Fills up to `max` counters, returns how many there are. */
	unsigned (*counters)(struct vcpu *v, struct engine_counter *out, unsigned max);
	/* The same for the lines of one table of costs; those that never happened are left out. May be NULL. */
	unsigned (*costs)(struct vcpu *v, enum engine_cost_table table, struct engine_cost *out, unsigned max);
	/* Lists the translated code that holds the guest instruction at linear address `lin` in the present mode,
	 * one call of `line` a line; nothing if there is none. Changes nothing. NULL: no translation to show. */
	void (*describe)(struct vcpu *v, gva_t lin, void (*line)(void *opaque, const char *text), void *opaque);
	const struct engine_apics *apics; /* NULL: the local APICs are always the machine's */
};

extern const struct engine_ops engine_dbt, engine_interp, engine_kvm;

/* NULL-terminated, in the order --engine auto considers them. */
extern const struct engine_ops *const engines[];
/* By name, or for "auto" the first usable and advisable one; the reason goes
 * to `why`. NULL with *e if there is none. */
const struct engine_ops *engine_choose(const char *name, struct engine_verdict *why, struct error *e);
/* The same among those that have all of `caps` (enum engine_caps); `purpose` says in a message what needs them. */
const struct engine_ops *engine_choose_for(const char *name, u32 caps, const char *purpose, struct engine_verdict *why,
					   struct error *e);

#endif
