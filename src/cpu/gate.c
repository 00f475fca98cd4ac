/*
 * Delivery of one event through the interrupt vector table or the IDT: the
 * operation of INT n in SDM vol. 2 and chapter 6 of vol. 3, mode by mode.
 * Each function computes into locals and commits at its end: a fault on the
 * way leaves the processor as it was, so that event.c can decide between a
 * second exception and a double fault.
 */
#include "cpu/flow.h"

#define FL_ENTRY_CLEARED (FL_TF | FL_NT | FL_RF | FL_VM)

/* INT n, INT3 and INTO: the gate's DPL counts, and faults carry no EXT bit. */
static bool software(const struct delivery *e)
{
	return e->kind == EVENT_SOFT_INT || e->kind == EVENT_SOFT_EXC;
}

static u32 ext_of(const struct delivery *e)
{
	return !software(e);
}

/* The error code that names a vector: IDT bit and EXT (SDM vol. 3, 6.13). */
static u32 idt_err(const struct delivery *e)
{
	return e->vector * 8u + 2 + ext_of(e);
}

static int deliver_real(struct vcpu *v, const struct delivery *e)
{
	struct cpu *c = &v->cpu;
	u16 entry[2]; /* IP, CS */
	struct stack st;
	u64 frame[3];

	if (e->vector * 4u + 3 > c->idtr.limit)
		return fault_gp(v, 0);
	if (lin_read(v, c->idtr.base + e->vector * 4u, entry, 4, LIN_SUPERVISOR))
		return FAULT;
	if (entry[0] > c->seg[SEG_CS].limit)
		return fault_gp(v, 0);
	frame[0] = e->rip;
	frame[1] = c->seg[SEG_CS].sel;
	frame[2] = c->rflags | (e->rf ? FL_RF : 0);
	stack_current(v, 0, &st);
	if (stack_push(v, &st, frame, 3, 2))
		return FAULT;
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	c->rflags &= ~(FL_IF | FL_TF | FL_AC | FL_RF);
	seg_load_real(c, SEG_CS, entry[1]);
	c->rip = entry[0];
	mmu_mode_changed(v);
	return 0;
}

/* The code segment of an interrupt or trap gate. */
static int gate_cs(struct vcpu *v, u16 sel, u32 ext, struct descriptor *d)
{
	struct cpu *c = &v->cpu;

	if (sel_null(sel))
		return fault_gp(v, ext);
	if (desc_fetch(v, sel, false, EXC_GP, ext, d))
		return FAULT;
	if (!attr_is_code(d->attr) || attr_dpl(d->attr) > cpu_cpl(c))
		return fault_gp(v, sel_err(sel, ext));
	if (!(d->attr & SEG_P))
		return fault_np(v, sel_err(sel, ext));
	if (cpu_long_mode(c) && (d->attr & (SEG_L | SEG_DB)) != SEG_L)
		return fault_gp(v, sel_err(sel, ext));
	return 0;
}

static int deliver_long(struct vcpu *v, const struct delivery *e)
{
	struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c), newcpl, ist, n = 0;
	u32 ext = ext_of(e);
	struct descriptor d;
	u32 gate[4];
	u64 rip, rsp, frame[6];
	enum lin_how how = LIN_CPL;
	u16 sel;

	if (e->vector * 16u + 15 > c->idtr.limit)
		return fault_gp(v, idt_err(e));
	if (lin_read(v, c->idtr.base + e->vector * 16u, gate, 16, LIN_SUPERVISOR))
		return FAULT;
	if ((gate[1] & 0x1e00) != ST_INT32 << 8 || (software(e) && ((gate[1] >> 13) & 3) < cpl))
		return fault_gp(v, idt_err(e));
	if (!(gate[1] & BIT(15)))
		return fault_np(v, idt_err(e));
	sel = (u16)(gate[0] >> 16);
	rip = (u64)gate[2] << 32 | (gate[1] & 0xffff0000u) | (gate[0] & 0xffffu);
	ist = gate[1] & 7;
	if (gate_cs(v, sel, ext, &d))
		return FAULT;
	newcpl = attr_conforming(d.attr) ? cpl : attr_dpl(d.attr);
	rsp = c->gpr[REG_RSP];
	if (ist || newcpl < cpl) {
		if (tss_rsp(v, ist ? ist + 3 : newcpl, ext, &rsp))
			return FAULT;
		if (newcpl < 3)
			how = LIN_SUPERVISOR;
	}
	rsp &= ~15ull;
	if (e->has_error)
		frame[n++] = e->error;
	frame[n] = e->rip;
	frame[n + 1] = c->seg[SEG_CS].sel;
	frame[n + 2] = c->rflags | (e->rf ? FL_RF : 0);
	frame[n + 3] = c->gpr[REG_RSP];
	frame[n + 4] = c->seg[SEG_SS].sel;
	n += 5;
	rsp -= n * 8;
	if (!lin_canonical(c, rsp) || !lin_canonical(c, rsp + n * 8 - 1))
		return fault_ss(v, ext);
	if (!lin_canonical(c, rip))
		return fault_gp(v, ext);
	if (desc_set_accessed(v, &d) || lin_write(v, rsp, frame, n * 8, how))
		return FAULT;

	desc_to_segment(&d, (u16)((sel & ~3u) | newcpl), &c->seg[SEG_CS]);
	if (newcpl != cpl)
		seg_set_null(&c->seg[SEG_SS], (u16)newcpl, newcpl);
	c->gpr[REG_RSP] = rsp;
	c->rip = rip;
	c->rflags &= ~(FL_ENTRY_CLEARED | (gate[1] & 0x100 ? 0 : FL_IF));
	mmu_mode_changed(v);
	return 0;
}

/* An event through a task gate: the error code goes onto the new task's stack. */
static int deliver_task(struct vcpu *v, const struct delivery *e, u16 tss)
{
	struct cpu *c = &v->cpu;
	u64 err = e->error;
	struct stack st;

	if (task_gate(v, tss, TASK_GATE, e->rip, e->rf, ext_of(e)))
		return FAULT;
	if (!e->has_error)
		return 0;
	stack_current(v, ext_of(e), &st);
	if (stack_push(v, &st, &err, 1, c->tr.attr & 8 ? 4 : 2))
		return FAULT;
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	return 0;
}

/* Fills the frame, lowest address first; returns the number of values. */
static unsigned protected_frame(const struct cpu *c, const struct delivery *e, bool inner, u64 *f)
{
	unsigned n = 0;

	if (e->has_error)
		f[n++] = e->error;
	f[n++] = e->rip;
	f[n++] = c->seg[SEG_CS].sel;
	f[n++] = c->rflags | (e->rf ? FL_RF : 0);
	if (inner) {
		f[n++] = c->gpr[REG_RSP];
		f[n++] = c->seg[SEG_SS].sel;
	}
	if (c->rflags & FL_VM) {
		f[n++] = c->seg[SEG_ES].sel;
		f[n++] = c->seg[SEG_DS].sel;
		f[n++] = c->seg[SEG_FS].sel;
		f[n++] = c->seg[SEG_GS].sel;
	}
	return n;
}

static int deliver_interrupt_gate(struct vcpu *v, const struct delivery *e, const u32 *gate)
{
	struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c), newcpl, n, size = gate[1] & 0x800 ? 4 : 2, s;
	u32 rip = size == 4 ? (gate[1] & 0xffff0000u) | (gate[0] & 0xffffu) : gate[0] & 0xffffu;
	u16 sel = (u16)(gate[0] >> 16);
	u32 ext = ext_of(e);
	struct descriptor d;
	struct stack st;
	u64 frame[10];

	if (gate_cs(v, sel, ext, &d))
		return FAULT;
	newcpl = attr_conforming(d.attr) ? cpl : attr_dpl(d.attr);
	if ((c->rflags & FL_VM) && newcpl != 0)
		return fault_gp(v, sel_err(sel, ext));
	if (newcpl < cpl) {
		if (tss_inner_stack(v, newcpl, ext, &st))
			return FAULT;
	} else {
		stack_current(v, ext, &st);
	}
	if (rip > d.limit)
		return fault_gp(v, ext);
	n = protected_frame(c, e, newcpl < cpl, frame);
	if (desc_set_accessed(v, &d) || stack_push(v, &st, frame, n, size))
		return FAULT;

	if (c->rflags & FL_VM) {
		for (s = SEG_ES; s < SEG_COUNT; s++)
			if (s != SEG_CS && s != SEG_SS)
				seg_set_null(&c->seg[s], 0, 0);
	}
	if (newcpl < cpl)
		c->seg[SEG_SS] = st.ss;
	c->gpr[REG_RSP] = newcpl < cpl && st.mask == 0xffff ? (u16)st.sp : stack_merge(&st, c->gpr[REG_RSP], st.sp);
	desc_to_segment(&d, (u16)((sel & ~3u) | newcpl), &c->seg[SEG_CS]);
	c->rip = rip;
	c->rflags &= ~(FL_ENTRY_CLEARED | (gate[1] & 0x100 ? 0 : FL_IF));
	mmu_mode_changed(v);
	return 0;
}

static int deliver_protected(struct vcpu *v, const struct delivery *e)
{
	struct cpu *c = &v->cpu;
	u32 gate[2];
	unsigned type;

	if (e->vector * 8u + 7 > c->idtr.limit)
		return fault_gp(v, idt_err(e));
	if (lin_read(v, (u32)(c->idtr.base + e->vector * 8u), gate, 8, LIN_SUPERVISOR))
		return FAULT;
	type = (gate[1] >> 8) & 0x1f;
	if (type != ST_TASK_GATE && type != ST_INT16 && type != ST_TRAP16 && type != ST_INT32 && type != ST_TRAP32)
		return fault_gp(v, idt_err(e));
	if (software(e) && ((gate[1] >> 13) & 3) < cpu_cpl(c))
		return fault_gp(v, idt_err(e));
	if (!(gate[1] & BIT(15)))
		return fault_np(v, idt_err(e));
	if (type == ST_TASK_GATE)
		return deliver_task(v, e, (u16)(gate[0] >> 16));
	return deliver_interrupt_gate(v, e, gate);
}

/*
 * INT n in virtual-8086 mode (SDM vol. 3, 20.3.3, table 20-2). Returns 1 if
 * the protected-mode handler is to be used, 0 if the 8086 one was entered.
 */
static int deliver_v86_int(struct vcpu *v, const struct delivery *e)
{
	struct cpu *c = &v->cpu;
	bool iopl3 = (c->rflags & FL_IOPL) == FL_IOPL;
	u64 flags = c->rflags, frame[3];
	u16 iomap, entry[2];
	struct stack st;
	u8 redirect = 0xff;

	if (c->cr4 & CR4_VME) {
		/* The 32 bytes below the I/O bitmap: a clear bit keeps the interrupt in the 8086 program. */
		if (c->tr.limit < 103)
			return fault_gp(v, 0);
		if (lin_read(v, (u32)(c->tr.base + 102), &iomap, 2, LIN_SUPERVISOR))
			return FAULT;
		if (iomap < 32 || iomap - 32u + e->vector / 8 > c->tr.limit)
			return fault_gp(v, 0);
		if (lin_read(v, (u32)(c->tr.base + iomap - 32u + e->vector / 8), &redirect, 1, LIN_SUPERVISOR))
			return FAULT;
	}
	if (redirect & (1u << (e->vector & 7)))
		return iopl3 ? 1 : fault_gp(v, 0);
	if (lin_read(v, e->vector * 4u, entry, 4, LIN_CPL))
		return FAULT;
	if (!iopl3)
		flags = (flags & ~FL_IF) | FL_IOPL | (flags & FL_VIF ? FL_IF : 0);
	frame[0] = e->rip;
	frame[1] = c->seg[SEG_CS].sel;
	frame[2] = flags;
	stack_current(v, 0, &st);
	if (stack_push(v, &st, frame, 3, 2))
		return FAULT;
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	c->rflags &= ~(FL_TF | FL_RF | (iopl3 ? FL_IF : FL_VIF));
	seg_load_real(c, SEG_CS, entry[1]);
	c->rip = entry[0];
	return 0;
}

int deliver_once(struct vcpu *v, const struct delivery *e)
{
	struct cpu *c = &v->cpu;
	int rc;

	if (cpu_long_mode(c))
		return deliver_long(v, e);
	if (cpu_real(c))
		return deliver_real(v, e);
	if ((c->rflags & FL_VM) && e->kind == EVENT_SOFT_INT) {
		rc = deliver_v86_int(v, e);
		if (rc <= 0)
			return rc;
	}
	return deliver_protected(v, e);
}
