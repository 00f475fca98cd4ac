/*
 * The paravirtual interface as instructions reach it: VMCALL, VMMCALL, MSRs.
 * Both vendors' instructions are taken, so no code is patched (KVM rewrites
 * the other vendor's).
 */
#include "cpu/cpuid.h"
#include "cpu/pv.h"
#include "cpu/sys.h"

bool cpu_is_pv_msr(const struct vcpu *v, u32 msr)
{
	if (msr == MSR_KVM_WALL_CLOCK || msr == MSR_KVM_SYSTEM_TIME)
		return v->model->pv_features & PV_CLOCK_OLD;
	return msr >= MSR_KVM_FIRST && msr <= MSR_KVM_LAST && v->model->pv_features;
}

/*
 * RAX: the call, RBX, RCX, RDX, RSI: its arguments; RAX: the result. Outside
 * 64-bit mode only the lower halves count. The call is refused, not faulted,
 * to code above ring 0 (hypercalls.rst). Without the interface the
 * instruction does not exist.
 */
int sys_vmcall(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	bool wide = cpu_64bit(c);
	u64 mask = wide ? ~0ull : UINT32_MAX, ret = (u64)-KVM_EPERM;
	const u64 args[4] = { c->gpr[REG_RBX] & mask, c->gpr[REG_RCX] & mask, c->gpr[REG_RDX] & mask,
			      c->gpr[REG_RSI] & mask };

	if (!v->model->pv_features)
		return fault_ud(v);
	/* The call may end in another processor's time: this instruction is over then. */
	sys_advance(v, d);
	if (!cpu_cpl(c)) {
		fpu_park(v);
		ret = v->hooks->hypercall(v->machine, v->index, c->gpr[REG_RAX] & mask, args, wide);
	}
	c->gpr[REG_RAX] = ret & mask;
	return 0;
}
