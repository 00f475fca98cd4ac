/*
 * Returns: IRET and far RET (SDM vol. 2). Everything that can fault is done
 * before the first register changes.
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

#define FL_USER (FL_STATUS | FL_TF | FL_DF | FL_NT)

int flow_check_rip(struct vcpu *v, const struct segment *cs, u64 rip, u32 ext)
{
	if (attr_64bit(&v->cpu, cs->attr) ? lin_canonical(&v->cpu, rip) : rip <= cs->limit)
		return 0;
	return fault_gp(v, ext);
}

int flow_return_cs(struct vcpu *v, u16 sel, struct segment *cs)
{
	const struct cpu *c = &v->cpu;
	unsigned rpl = sel & 3, dpl;
	struct descriptor d;

	if (sel_null(sel))
		return fault_gp(v, 0);
	if (desc_fetch(v, sel, false, EXC_GP, 0, &d))
		return FAULT;
	dpl = attr_dpl(d.attr);
	if (!attr_is_code(d.attr) || rpl < cpu_cpl(c) || (attr_conforming(d.attr) ? dpl > rpl : dpl != rpl))
		return fault_gp(v, sel_err(sel, 0));
	if (cpu_long_mode(c) && (d.attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB))
		return fault_gp(v, sel_err(sel, 0));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(sel, 0));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, cs);
	return 0;
}

int flow_return_ss(struct vcpu *v, u16 sel, const struct segment *cs, struct segment *ss)
{
	unsigned rpl = cs->sel & 3;
	struct descriptor d;

	if (sel_null(sel)) {
		if (!attr_64bit(&v->cpu, cs->attr) || rpl == 3 || (sel & 3u) != rpl)
			return fault_gp(v, 0);
		seg_set_null(ss, sel, rpl);
		return 0;
	}
	if (desc_fetch(v, sel, false, EXC_GP, 0, &d))
		return FAULT;
	if ((sel & 3u) != rpl || !attr_writable_data(d.attr) || attr_dpl(d.attr) != rpl)
		return fault_gp(v, sel_err(sel, 0));
	if (!(d.attr & SEG_P))
		return fault_ss(v, sel_err(sel, 0));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, ss);
	return 0;
}

void flow_drop_segments(struct cpu *c, unsigned cpl)
{
	static const u8 data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(data); i++) {
		struct segment *s = &c->seg[data[i]];

		if ((s->attr & SEG_UNUSABLE) || attr_dpl(s->attr) >= cpl)
			continue;
		if (attr_is_code(s->attr) && attr_conforming(s->attr))
			continue;
		s->sel = 0;
		s->attr = SEG_UNUSABLE;
	}
}

/* The new stack pointer of a return that pops one. */
static u64 outer_sp(const struct cpu *c, const struct segment *cs, const struct segment *ss, u64 sp)
{
	if (attr_64bit(c, cs->attr))
		return sp;
	return ss->attr & SEG_DB ? (u32)sp : (c->gpr[REG_RSP] & ~0xffffull) | (u16)sp;
}

/* RF is kept only where it can do something: see event.h. */
static u64 useful_rf(const struct cpu *c, u64 flags)
{
	return c->dr[7] & DR7_ENABLED ? flags : flags & ~FL_RF;
}

static int iret_real(struct vcpu *v, unsigned size)
{
	struct cpu *c = &v->cpu;
	u64 f[3], old = c->rflags, mask = size == 4 ? 0x257fd5 : 0x7fd5;
	struct stack st;

	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, f, 3, size))
		return FAULT;
	if (f[0] > c->seg[SEG_CS].limit)
		return fault_gp(v, 0);
	seg_load_real(c, SEG_CS, (u16)f[1]);
	c->rip = f[0];
	c->rflags = useful_rf(c, (old & ~mask) | (f[2] & mask) | FL_FIXED1);
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + 3 * size);
	flow_unblock_nmi(v);
	flow_flags_loaded(v, old);
	return 0;
}

static int iret_v86(struct vcpu *v, unsigned size)
{
	struct cpu *c = &v->cpu;
	bool iopl3 = (c->rflags & FL_IOPL) == FL_IOPL;
	u64 f[3], old = c->rflags, mask = FL_USER | FL_IF, flags;
	struct stack st;

	if (!iopl3 && (!(c->cr4 & CR4_VME) || size != 2))
		return fault_gp(v, 0);
	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, f, 3, size))
		return FAULT;
	if (f[0] > c->seg[SEG_CS].limit)
		return fault_gp(v, 0);
	flags = f[2];
	if (iopl3) {
		if (size == 4)
			mask |= FL_RF | FL_AC | FL_ID;
	} else {
		if ((flags & FL_TF) || ((flags & FL_IF) && (old & FL_VIP)))
			return fault_gp(v, 0);
		mask = (mask & ~FL_IF) | FL_VIF;
		flags = (flags & ~FL_VIF) | (flags & FL_IF ? FL_VIF : 0);
	}
	seg_load_real(c, SEG_CS, (u16)f[1]);
	c->rip = f[0];
	c->rflags = useful_rf(c, (old & ~(mask | FL_RF)) | (flags & mask));
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + 3 * size);
	flow_unblock_nmi(v);
	flow_flags_loaded(v, old);
	return 0;
}

/* NT set: back to the task that the current TSS names (SDM vol. 3, 8.4). */
static int iret_task(struct vcpu *v, u64 next_rip)
{
	struct cpu *c = &v->cpu;
	struct descriptor d;
	u16 link;

	if (lin_read(v, (u32)c->tr.base, &link, 2, LIN_SUPERVISOR))
		return FAULT;
	if ((link & 4) || sel_null(link))
		return fault_ts(v, sel_err(link, 0));
	if (desc_fetch(v, link, false, EXC_TS, 0, &d))
		return FAULT;
	if ((d.attr & (SEG_S | (SEG_TYPE & ~8u))) != ST_TSS16_BUSY)
		return fault_ts(v, sel_err(link, 0));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(link, 0));
	if (task_switch(v, link, &d, TASK_IRET, next_rip, false, 0))
		return FAULT;
	flow_unblock_nmi(v);
	return 0;
}

static int iret_to_v86(struct vcpu *v, const struct stack *st)
{
	struct cpu *c = &v->cpu;
	u64 f[9], old = c->rflags; /* EIP CS EFLAGS ESP SS ES DS FS GS */

	if (stack_peek(v, st, 0, f, 9, 4))
		return FAULT;
	if (f[0] > 0xffff)
		return fault_gp(v, 0);
	c->rip = f[0];
	c->rflags = useful_rf(c, (f[2] & FL_VALID) | FL_FIXED1);
	c->gpr[REG_RSP] = (u32)f[3];
	seg_set_v86(&c->seg[SEG_CS], (u16)f[1]);
	seg_set_v86(&c->seg[SEG_SS], (u16)f[4]);
	seg_set_v86(&c->seg[SEG_ES], (u16)f[5]);
	seg_set_v86(&c->seg[SEG_DS], (u16)f[6]);
	seg_set_v86(&c->seg[SEG_FS], (u16)f[7]);
	seg_set_v86(&c->seg[SEG_GS], (u16)f[8]);
	mmu_mode_changed(v);
	flow_unblock_nmi(v);
	flow_flags_loaded(v, old);
	return 0;
}

/* The flags IRET may load at privilege level `cpl`. */
static u64 iret_flag_mask(const struct cpu *c, unsigned cpl, unsigned size)
{
	u64 mask = FL_USER;

	if (cpl <= (c->rflags & FL_IOPL) >> 12)
		mask |= FL_IF;
	if (cpl == 0)
		mask |= FL_IOPL;
	if (size > 2)
		mask |= FL_RF | FL_AC | FL_ID | (cpl == 0 ? FL_VIF | FL_VIP : 0);
	return mask;
}

static int iret_protected(struct vcpu *v, unsigned size)
{
	struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c), newcpl;
	bool is64 = cpu_64bit(c), pops_ss;
	u64 f[5], old = c->rflags, mask; /* RIP CS RFLAGS RSP SS */
	struct segment cs, ss;
	struct stack st;

	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, f, is64 ? 5 : 3, size))
		return FAULT;
	if (unlikely((f[2] & FL_VM) && cpl == 0 && size == 4 && !cpu_long_mode(c)))
		return iret_to_v86(v, &st);
	if (flow_return_cs(v, (u16)f[1], &cs))
		return FAULT;
	newcpl = cs.sel & 3;
	pops_ss = is64 || newcpl > cpl;
	if (pops_ss) {
		if (!is64 && stack_peek(v, &st, 3 * size, f + 3, 2, size))
			return FAULT;
		if (flow_return_ss(v, (u16)f[4], &cs, &ss))
			return FAULT;
	}
	if (flow_check_rip(v, &cs, f[0], 0))
		return FAULT;

	mask = iret_flag_mask(c, cpl, size);
	if (pops_ss) {
		c->gpr[REG_RSP] = outer_sp(c, &cs, &ss, f[3]);
		c->seg[SEG_SS] = ss;
	} else {
		c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + 3 * size);
	}
	c->seg[SEG_CS] = cs;
	c->rip = f[0];
	c->rflags = useful_rf(c, (old & ~mask) | (f[2] & mask));
	if (newcpl > cpl)
		flow_drop_segments(c, newcpl);
	mmu_mode_changed(v);
	flow_unblock_nmi(v);
	flow_flags_loaded(v, c->rflags); /* AC is dealt with already */
	return 0;
}

int sys_iret(struct vcpu *v, const struct dinsn *d)
{
	const struct cpu *c = &v->cpu;

	if (cpu_real(c))
		return iret_real(v, d->opsize);
	if (c->rflags & FL_VM)
		return iret_v86(v, d->opsize);
	if (unlikely(c->rflags & FL_NT))
		return cpu_long_mode(c) ? fault_gp(v, 0) : iret_task(v, flow_next_rip(v, d));
	return iret_protected(v, d->opsize);
}

static int ret_far_real(struct vcpu *v, unsigned size, u64 drop)
{
	struct cpu *c = &v->cpu;
	struct stack st;
	u64 f[2];

	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, f, 2, size))
		return FAULT;
	if (f[0] > c->seg[SEG_CS].limit)
		return fault_gp(v, 0);
	seg_load_real(c, SEG_CS, (u16)f[1]);
	c->rip = f[0];
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + 2 * size + drop);
	return 0;
}

int sys_ret_far(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	unsigned size = d->opsize, cpl = cpu_cpl(c);
	u64 f[2], sp[2], drop = d->opcode == 0xca ? (u16)d->imm : 0;
	struct segment cs, ss;
	struct stack st;
	bool outer;

	if (cpu_real(c) || (c->rflags & FL_VM))
		return ret_far_real(v, size, drop);
	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, f, 2, size) || flow_return_cs(v, (u16)f[1], &cs))
		return FAULT;
	outer = (cs.sel & 3u) > cpl;
	if (outer) {
		if (stack_peek(v, &st, 2 * size + drop, sp, 2, size) || flow_return_ss(v, (u16)sp[1], &cs, &ss))
			return FAULT;
	}
	if (flow_check_rip(v, &cs, f[0], 0))
		return FAULT;

	if (outer) {
		c->gpr[REG_RSP] = outer_sp(c, &cs, &ss, sp[0] + drop);
		c->seg[SEG_SS] = ss;
		flow_drop_segments(c, cs.sel & 3);
	} else {
		c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + 2 * size + drop);
	}
	c->seg[SEG_CS] = cs;
	c->rip = f[0];
	mmu_mode_changed(v);
	return 0;
}
