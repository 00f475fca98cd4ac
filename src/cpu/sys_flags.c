/*
 * Instructions on the flags, software interrupts, BOUND and ENTER (SDM
 * vol. 2; vol. 3, 20.3 and 20.4 for the virtual interrupt flag).
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

#define FL_POPF (FL_STATUS | FL_TF | FL_DF | FL_NT)

static unsigned iopl(const struct cpu *c)
{
	return (c->rflags & FL_IOPL) >> 12;
}

int sys_pushf(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 image = c->rflags & ~(FL_VM | FL_RF);
	struct stack st;

	if ((c->rflags & FL_VM) && iopl(c) < 3) {
		if (!(c->cr4 & CR4_VME) || d->opsize != 2)
			return fault_gp(v, 0);
		image = (image & ~FL_IF) | FL_IOPL | (image & FL_VIF ? FL_IF : 0);
	}
	stack_current(v, 0, &st);
	if (stack_push(v, &st, &image, 1, d->opsize))
		return FAULT;
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	sys_advance(v, d);
	return 0;
}

/* Virtual-8086 mode with IOPL < 3: IF of the image is VIF. */
static int popf_vme(struct vcpu *v, const struct dinsn *d, u64 *image, u64 *mask)
{
	const struct cpu *c = &v->cpu;

	if (!(c->cr4 & CR4_VME) || d->opsize != 2)
		return fault_gp(v, 0);
	if ((*image & FL_TF) || ((*image & FL_IF) && (c->rflags & FL_VIP)))
		return fault_gp(v, 0);
	*image = (*image & ~FL_VIF) | (*image & FL_IF ? FL_VIF : 0);
	*mask = FL_POPF | FL_VIF;
	return 0;
}

int sys_popf(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 image, old = c->rflags, mask = FL_POPF;
	unsigned cpl = cpu_cpl(c);
	struct stack st;

	if ((old & FL_VM) && iopl(c) < 3 && (!(c->cr4 & CR4_VME) || d->opsize != 2))
		return fault_gp(v, 0);
	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, &image, 1, d->opsize))
		return FAULT;
	if ((old & FL_VM) && iopl(c) < 3) {
		if (popf_vme(v, d, &image, &mask))
			return FAULT;
	} else {
		if (cpl <= iopl(c))
			mask |= FL_IF;
		if (cpl == 0)
			mask |= FL_IOPL;
		if (d->opsize > 2)
			mask |= FL_AC | FL_ID;
	}
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + d->opsize);
	c->rflags = (old & ~(mask | FL_RF)) | (image & mask);
	sys_advance(v, d);
	flow_flags_loaded(v, old);
	return 0;
}

/* May CLI and STI touch IF (1), VIF instead (0), or nothing: #GP. */
static int if_control(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c);

	if (likely(cpl <= iopl(c)))
		return 1;
	if (c->rflags & FL_VM ? c->cr4 & CR4_VME : cpl == 3 && (c->cr4 & CR4_PVI))
		return 0;
	return fault_gp(v, 0);
}

int sys_cli(struct vcpu *v, const struct dinsn *d)
{
	int which = if_control(v);

	if (which < 0)
		return FAULT;
	v->cpu.rflags &= which ? ~FL_IF : ~FL_VIF;
	sys_advance(v, d);
	return 0;
}

int sys_sti(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	int which = if_control(v);

	if (which < 0)
		return FAULT;
	if (which) {
		if (!(c->rflags & FL_IF)) {
			c->rflags |= FL_IF;
			flow_set_shadow(v, SHADOW_STI);
		}
	} else {
		if (c->rflags & FL_VIP)
			return fault_gp(v, 0);
		c->rflags |= FL_VIF;
	}
	sys_advance(v, d);
	return 0;
}

int sys_int(struct vcpu *v, const struct dinsn *d)
{
	return cpu_soft_interrupt(v, (u8)d->imm, EVENT_SOFT_INT, flow_next_rip(v, d));
}

int sys_int1(struct vcpu *v, const struct dinsn *d)
{
	return cpu_soft_interrupt(v, EXC_DB, EVENT_PRIV_EXC, flow_next_rip(v, d));
}

int sys_int3(struct vcpu *v, const struct dinsn *d)
{
	return cpu_soft_interrupt(v, EXC_BP, EVENT_SOFT_EXC, flow_next_rip(v, d));
}

int sys_into(struct vcpu *v, const struct dinsn *d)
{
	if (v->cpu.rflags & FL_OF)
		return cpu_soft_interrupt(v, EXC_OF, EVENT_SOFT_EXC, flow_next_rip(v, d));
	sys_advance(v, d);
	return 0;
}

int sys_bound(struct vcpu *v, const struct dinsn *d)
{
	unsigned size = d->opsize;
	s64 index, lower, upper;
	gva_t lin;

	if (!d->is_mem)
		return fault_ud(v);
	if (sys_mem_linear(v, d, size * 2, SEG_ACC_READ, &lin))
		return FAULT;
	index = (s64)sys_reg_read(v, d, d->reg, size);
	if (size == 2) {
		s16 b[2];

		if (lin_read(v, lin, b, 4, LIN_CPL))
			return FAULT;
		index = (s16)index;
		lower = b[0];
		upper = b[1];
	} else {
		s32 b[2];

		if (lin_read(v, lin, b, 8, LIN_CPL))
			return FAULT;
		index = (s32)index;
		lower = b[0];
		upper = b[1];
	}
	if (index < lower || index > upper)
		return fault_raise(v, EXC_BR, false, 0, 0);
	sys_advance(v, d);
	return 0;
}

/*
 * ENTER. Frame pointers are copied one by one, as the processor does, because
 * the old frame may overlap the new one. A fault on the way leaves only
 * memory below the stack pointer changed, in a way that a restart repeats;
 * a write at the final stack pointer must be possible too.
 */
int sys_enter(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	unsigned size = d->opsize, level = d->imm2 & 31, i;
	u64 val = c->gpr[REG_RBP], frame, final;
	struct stack st, link;

	stack_current(v, 0, &st);
	link = st;
	link.sp = val & st.mask;
	if (stack_push(v, &st, &val, 1, size))
		return FAULT;
	frame = st.sp;
	for (i = 1; i < level; i++) {
		link.sp = (link.sp - size) & st.mask;
		if (stack_peek(v, &link, 0, &val, 1, size) || stack_push(v, &st, &val, 1, size))
			return FAULT;
	}
	if (level && stack_push(v, &st, &frame, 1, size))
		return FAULT;
	final = (st.sp - (u16)d->imm) & st.mask;
	if (seg_check(c, &st.ss, st.is64, final, size, SEG_ACC_WRITE))
		return fault_ss(v, 0);
	if (lin_probe_write(v, st.is64 ? final : (u32)(st.ss.base + final), size, LIN_CPL))
		return FAULT;
	/* The frame pointer is as wide as the operand; the stack pointer as the stack. */
	sys_reg_write(v, d, REG_RBP, size,
		      size == 8 || st.mask != 0xffff ? frame : (c->gpr[REG_RSP] & ~0xffffull) | frame);
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], final);
	sys_advance(v, d);
	return 0;
}
