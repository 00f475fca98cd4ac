/*
 * Stack frames of control transfers: pushed and read as a whole, so that a
 * transfer that cannot complete has changed nothing; and the inner stacks
 * that the TSS names (SDM vol. 3, 5.8.5, 6.14.2, 8.2.1).
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

void stack_current(const struct vcpu *v, u32 ext, struct stack *st)
{
	const struct cpu *c = &v->cpu;

	st->ss = c->seg[SEG_SS];
	st->sp = c->gpr[REG_RSP];
	st->is64 = cpu_64bit(c);
	st->mask = st->is64 ? ~0ull : st->ss.attr & SEG_DB ? 0xffffffffull : 0xffffull;
	st->how = LIN_CPL;
	st->err = ext;
}

void stack_inner(struct stack *st, u32 err)
{
	st->is64 = false;
	st->mask = st->ss.attr & SEG_DB ? 0xffffffffull : 0xffffull;
	st->how = LIN_SUPERVISOR;
	st->err = err;
}

static gva_t stack_addr(const struct stack *st, u64 off)
{
	return st->is64 ? off : (u32)(st->ss.base + off);
}

/* Does [off, off + len) lie in one piece below the wrap of the stack pointer? */
static bool contiguous(const struct stack *st, u64 off, unsigned len)
{
	u64 last = off + len - 1;

	return last >= off && last <= st->mask;
}

/* A frame whose stack pointer wraps: value by value. */
static int push_wrapped(struct vcpu *v, struct stack *st, const u64 *val, unsigned n, unsigned size, u64 low)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		u64 off = (low + i * size) & st->mask;

		if (seg_check(&v->cpu, &st->ss, st->is64, off, size, SEG_ACC_WRITE))
			return fault_ss(v, st->err);
		if (lin_probe_write(v, stack_addr(st, off), size, st->how))
			return FAULT;
	}
	for (i = 0; i < n; i++) {
		if (lin_write(v, stack_addr(st, (low + i * size) & st->mask), &val[i], size, st->how))
			return FAULT;
	}
	st->sp = low;
	return 0;
}

int stack_push(struct vcpu *v, struct stack *st, const u64 *val, unsigned n, unsigned size)
{
	unsigned total = n * size, i;
	u64 low = (st->sp - total) & st->mask;
	u8 buf[40 * 4];
	const u8 *p = (const u8 *)val;

	if (!contiguous(st, low, total))
		return push_wrapped(v, st, val, n, size, low);
	if (seg_check(&v->cpu, &st->ss, st->is64, low, total, SEG_ACC_WRITE))
		return fault_ss(v, st->err);
	if (size == 4) {
		for (i = 0; i < n; i++)
			((u32 *)(void *)buf)[i] = (u32)val[i];
		p = buf;
	} else if (size == 2) {
		for (i = 0; i < n; i++)
			((u16 *)(void *)buf)[i] = (u16)val[i];
		p = buf;
	}
	if (lin_write(v, stack_addr(st, low), p, total, st->how))
		return FAULT;
	st->sp = low;
	return 0;
}

int stack_peek(struct vcpu *v, const struct stack *st, u64 skip, u64 *val, unsigned n, unsigned size)
{
	u64 low = (st->sp + skip) & st->mask;
	unsigned i;

	if (size == 8 && contiguous(st, low, n * size)) {
		if (seg_check(&v->cpu, &st->ss, st->is64, low, n * size, SEG_ACC_READ))
			return fault_ss(v, st->err);
		return lin_read(v, stack_addr(st, low), val, n * size, st->how);
	}
	for (i = 0; i < n; i++) {
		u64 off = (low + i * size) & st->mask;

		val[i] = 0;
		if (seg_check(&v->cpu, &st->ss, st->is64, off, size, SEG_ACC_READ))
			return fault_ss(v, st->err);
		if (lin_read(v, stack_addr(st, off), &val[i], size, st->how))
			return FAULT;
	}
	return 0;
}

/* The checks on a stack segment named by a TSS: #TS, and #SS if it is absent. */
static int check_inner_ss(struct vcpu *v, u16 sel, unsigned dpl, u32 ext, struct segment *ss)
{
	struct descriptor d;

	if (sel_null(sel))
		return fault_ts(v, ext);
	if (desc_fetch(v, sel, false, EXC_TS, ext, &d))
		return FAULT;
	if ((unsigned)(sel & 3) != dpl || attr_dpl(d.attr) != dpl || !attr_writable_data(d.attr))
		return fault_ts(v, sel_err(sel, ext));
	if (!(d.attr & SEG_P))
		return fault_ss(v, sel_err(sel, ext));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, ss);
	return 0;
}

int tss_inner_stack(struct vcpu *v, unsigned dpl, u32 ext, struct stack *st)
{
	const struct segment *tr = &v->cpu.tr;
	bool wide = tr->attr & 8;
	u32 off = wide ? 4 + dpl * 8 : 2 + dpl * 4;
	u32 sp = 0;
	u16 sel;

	if ((tr->attr & SEG_UNUSABLE) || off + (wide ? 5 : 3) > tr->limit)
		return fault_ts(v, sel_err(tr->sel, ext));
	if (lin_read(v, (u32)(tr->base + off), &sp, wide ? 4 : 2, LIN_SUPERVISOR) ||
	    lin_read(v, (u32)(tr->base + off + (wide ? 4 : 2)), &sel, 2, LIN_SUPERVISOR))
		return FAULT;
	if (check_inner_ss(v, sel, dpl, ext, &st->ss))
		return FAULT;
	stack_inner(st, sel_err(sel, ext));
	st->sp = sp;
	return 0;
}

int tss_rsp(struct vcpu *v, unsigned slot, u32 ext, u64 *rsp)
{
	const struct segment *tr = &v->cpu.tr;
	u32 off = 4 + slot * 8;

	if (off + 7 > tr->limit || (tr->attr & SEG_UNUSABLE))
		return fault_ts(v, sel_err(tr->sel, ext));
	return lin_read64(v, tr->base + off, rsp, LIN_SUPERVISOR);
}

/*
 * I/O permission (SDM vol. 1, 19.5.2): two bytes of the bitmap are always
 * read, so the limit must cover both; only a 32-bit (or 64-bit) TSS has one.
 */
int cpu_io_allowed(struct vcpu *v, u16 port, unsigned size)
{
	const struct cpu *c = &v->cpu;
	const struct segment *tr = &c->tr;
	u16 base, bits;
	u32 off;

	if (cpu_real(c) || (!(c->rflags & FL_VM) && cpu_cpl(c) <= (c->rflags & FL_IOPL) >> 12))
		return 0;
	if ((tr->attr & SEG_UNUSABLE) || (tr->attr & (SEG_TYPE & ~TSS_BUSY)) != ST_TSS32 || tr->limit < 103)
		return fault_gp(v, 0);
	if (lin_read(v, tr->base + 102, &base, 2, LIN_SUPERVISOR))
		return FAULT;
	off = base + port / 8u;
	if (off + 1 > tr->limit)
		return fault_gp(v, 0);
	if (lin_read(v, tr->base + off, &bits, 2, LIN_SUPERVISOR))
		return FAULT;
	if ((bits >> (port & 7)) & ((1u << size) - 1))
		return fault_gp(v, 0);
	return 0;
}
