/*
 * One processor with an engine and a little memory, without a machine: runs a
 * few instructions in 64-bit or compatibility mode with mapped pages and tells what
 * became of them. Shared by the engine's unit tests and the host-as-oracle
 * test.
 */
#ifndef ECTYPE_TESTS_ISA_RIG_H
#define ECTYPE_TESTS_ISA_RIG_H

#include "base/world.h"
#include "cpu/cpuid.h"
#include "engine/engine.h"
#include "mem/mmu.h"

struct rig {
	struct memory *mem;
	struct vcpu *v;
	struct cpu_model model;
	bool compatibility; /* mode, instead of 64-bit mode */
	/* Of rig_create_group(): */
	struct vcpu_group group;
	struct vcpu *cpu[WORLD_MAX]; /* the first is `v` */
	struct world world;
};

#define RIG_RAM (64 * MiB)

/* Exits with a message if anything fails, with status 77 (skipped) if the engine cannot run on this host. The processor
 * is in 64-bit mode at CPL 3 with every extension enabled; no page is mapped but those rig_map() adds. Exceptions end
 * rig_run(). */
void rig_create(struct rig *r, const struct engine_ops *engine);
/* The same with options, which outlive the rig; NULL: defaults. */
void rig_create_with(struct rig *r, const struct engine_ops *engine, const struct engine_options *options);
/* Several processors on one memory, for rig_run_cpu() in turns or, if `parallel`, by a thread each. */
void rig_create_group(struct rig *r, const struct engine_ops *engine, const struct engine_options *options, unsigned n,
		      bool parallel);
int rig_run_cpu(struct rig *r, unsigned n, u64 insns);
void rig_destroy(struct rig *r);
/* The processor as rig_create() leaves it, in 64-bit mode; memory and mappings stay. General registers are zero. */
void rig_reset(struct rig *r);
/* Go over to 32-bit code in compatibility mode, segments flat. */
void rig_compatibility_mode(struct rig *r);
/* Map the page of `lin` to RAM offset `off`. */
void rig_map(struct rig *r, gva_t lin, u64 off, bool writable);
void rig_unmap(struct rig *r, gva_t lin);
u8 *rig_ram(struct rig *r, u64 off);

/* Run `insns` instructions from cpu.rip. Returns -1 if all retired, else the
 * vector of the exception that came up; v->fault has the details and the
 * processor's state is as at the instruction. */
int rig_run(struct rig *r, u64 insns);

#endif
