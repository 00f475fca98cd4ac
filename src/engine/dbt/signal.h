/*
 * Host faults inside translated code. Apart from dbt.h because <ucontext.h>
 * has its own REG_RAX.
 */
#ifndef ECTYPE_ENGINE_DBT_SIGNAL_H
#define ECTYPE_ENGINE_DBT_SIGNAL_H

#include "base/types.h"

struct flat;

/* What the handler must know; all of it outlives the run. */
struct dbt_signal {
	const u8 *rx; /* the code cache, executable view */
	u32 size;
	u32 reason_value; /* LEAVE_HOST */
	u32 *reason, *info;
	u16 *flags;
	u64 *gpr, *t0, *ret_sp, *host_sp;
	const u64 *ret_base;
	const u8 *resume;
	const u8 *guard[2]; /* pages below the return stacks */
	struct flat *flat;
};

/* On the calling thread translated code of `s` runs (NULL: no longer). The
 * first call on a thread gives it a signal stack. 0, or -1 without memory. */
int dbt_signal_enter(const struct dbt_signal *s);

#endif
