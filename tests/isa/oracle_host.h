/*
 * The host's side of the host-as-oracle test: runs one instruction on the real
 * processor and tells what became of it. Knows nothing of the engines (and
 * must not: <ucontext.h> has its own REG_RAX).
 */
#ifndef ECTYPE_TESTS_ISA_ORACLE_HOST_H
#define ECTYPE_TESTS_ISA_ORACLE_HOST_H

#include "base/types.h"

#define ORACLE_FPU_SIZE 4096

/* User-level processor state. */
struct oracle_state {
	u64 gpr[16]; /* in encoding order */
	u64 rip, rflags, fs_base, gs_base;
	u8 fpu[ORACLE_FPU_SIZE] __attribute__((aligned(64))); /* standard-format XSAVE image, host offsets */
};

struct oracle_outcome {
	int vector; /* -1: the instruction retired */
	u32 error;
	u64 addr; /* page faults: CR2 */
	struct oracle_state s;
};

/* Takes over SIGTRAP and the fault signals; what comes up outside
 * host_step() goes to the handlers that were there. `compatibility`: instructions
 * run in compatibility mode. False if the host cannot (no XSAVE). */
bool host_init(u64 xstate_mask, bool compatibility);
/* May FS and GS have bases other than the process's own? */
bool host_has_fsgsbase(void);
/* Execute one instruction from `in`. `repeats`: one that may trap with some
 * of its work done (REP after every iteration): go on until it is done. */
void host_step(const struct oracle_state *in, bool repeats, struct oracle_outcome *out);
/* Called with the text to print before the process ends because an
 * instruction hangs (no progress for ten seconds). */
void host_watchdog(const char *what);

#endif
