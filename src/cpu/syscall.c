/*
 * Fast system calls (SDM vol. 2): SYSCALL and SYSRET as Intel's processors do
 * them (64-bit mode only), SYSENTER and SYSEXIT. They load flat segments
 * without looking at descriptors.
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

#define SYSRET_FLAGS 0x3c7fd7ull

static void load_flat_pair(struct cpu *c, u16 cs, u32 mode, u16 ss, unsigned dpl)
{
	seg_set_flat(&c->seg[SEG_CS], cs, SEG_ATTR_CODE | ATTR_DPL(dpl) | mode);
	seg_set_flat(&c->seg[SEG_SS], ss, SEG_ATTR_DATA | ATTR_DPL(dpl) | SEG_DB);
}

int sys_syscall(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u16 sel = (u16)(c->star >> 32) & 0xfffc;
	u64 old = c->rflags;

	if (!(c->efer & EFER_SCE) || !cpu_64bit(c))
		return fault_ud(v);
	c->gpr[REG_RCX] = c->rip + d->len;
	c->gpr[11] = old & ~FL_RF;
	c->rip = c->lstar;
	c->rflags = (old & ~(c->sfmask | FL_RF)) | FL_FIXED1;
	load_flat_pair(c, sel, SEG_L, (u16)(sel + 8), 0);
	/* A TF that the mask takes away makes no trap: the kernel's first instruction is not the user's to step. */
	if (unlikely((old & ~c->rflags) & FL_TF))
		flow_suppress_step(v);
	mmu_mode_changed(v);
	return 0;
}

int sys_sysret(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u16 sel = (u16)(c->star >> 48);
	u64 rip = c->gpr[REG_RCX];

	if (!(c->efer & EFER_SCE) || !cpu_64bit(c))
		return fault_ud(v);
	if (cpu_cpl(c) != 0)
		return fault_gp(v, 0);
	if (d->opsize == 8) {
		if (!lin_canonical(c, rip))
			return fault_gp(v, 0);
		c->rip = rip;
		load_flat_pair(c, (u16)(sel + 16) | 3, SEG_L, (u16)(sel + 8) | 3, 3);
	} else {
		c->rip = (u32)rip;
		load_flat_pair(c, sel | 3, SEG_DB, (u16)(sel + 8) | 3, 3);
	}
	c->rflags = (c->gpr[11] & SYSRET_FLAGS) | FL_FIXED1;
	mmu_mode_changed(v);
	flow_flags_loaded(v, c->rflags);
	return 0;
}

int sys_sysenter(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u16 sel = (u16)c->sysenter_cs & 0xfffc;
	bool lm = cpu_long_mode(c);

	if (cpu_real(c) || !sel)
		return fault_gp(v, 0);
	c->rflags &= ~(FL_VM | FL_IF | FL_RF);
	c->gpr[REG_RSP] = lm ? c->sysenter_esp : (u32)c->sysenter_esp;
	c->rip = lm ? c->sysenter_eip : (u32)c->sysenter_eip;
	load_flat_pair(c, sel, lm ? SEG_L : SEG_DB, (u16)(sel + 8), 0);
	mmu_mode_changed(v);
	return 0;
}

int sys_sysexit(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u16 sel = (u16)c->sysenter_cs & 0xfffc;
	u64 rsp = c->gpr[REG_RCX], rip = c->gpr[REG_RDX];

	if (!sel || cpu_real(c) || cpu_cpl(c) != 0)
		return fault_gp(v, 0);
	if (d->opsize == 8) {
		if (!lin_canonical(c, rsp) || !lin_canonical(c, rip))
			return fault_gp(v, 0);
		load_flat_pair(c, (u16)(sel + 32) | 3, SEG_L, (u16)(sel + 40) | 3, 3);
	} else {
		rsp = (u32)rsp;
		rip = (u32)rip;
		load_flat_pair(c, (u16)(sel + 16) | 3, SEG_DB, (u16)(sel + 24) | 3, 3);
	}
	c->gpr[REG_RSP] = rsp;
	c->rip = rip;
	mmu_mode_changed(v);
	return 0;
}
