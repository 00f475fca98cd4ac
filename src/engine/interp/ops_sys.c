/*
 * Sensitive instructions: the shared semantics of src/cpu, called with exact
 * state. Each ends its block, for it may have changed the mode, the mapping
 * or whether interrupts are open.
 */
#include "cpu/sys_table.h"
#include "engine/interp/ops.h"
#include "isa/isa.h"

/* Leave to the run loop; v->cpu is exact, flags included. */
static const struct insn *leave_exact(struct vcpu *v)
{
	v->icount = hot(v)->icount_end - (u64)hot(v)->budget;
	return NULL;
}

static OP(sys)
{
	struct interp_hot *h = hot(v);
	u64 rip;

	sync_out(v, i);
	rip = v->cpu.rip;
	if (unlikely(sys_table[i->sys](v, i->d))) {
		interp_of(v)->faults++;
		cpu_deliver_fault(v);
		return NULL;
	}
	h->budget += i->left; /* 0 but for the last of a cut block */
	if (unlikely(v->cpu.rip == rip) && (i->sys == ISA_SYS_ins || i->sys == ISA_SYS_outs)) {
		h->budget++; /* an iteration of REP INS or OUTS: the instruction is not done */
		return leave_exact(v);
	}
	if (unlikely(v->event) || unlikely(v->cpu.activity != ACT_RUNNING))
		return leave_exact(v);
	sync_in(v);
	if (unlikely(h->careful) || unlikely(interp_of(v)->until != NULL))
		return leave_exact(v);
	return interp_continue(v);
}
const op_fn op_sys = sys;

static OP(ud)
{
	fault_ud(v);
	return interp_fault(v, i);
}
const op_fn op_ud = ud;

static OP(gp0)
{
	fault_gp(v, 0);
	return interp_fault(v, i);
}
const op_fn op_too_long = gp0;
