/*
 * Far CALL and JMP: direct, through call gates, task gates and to TSSs (SDM
 * vol. 2 CALL and JMP, vol. 3, 5.8). Returns are in iret.c.
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

struct far_target {
	u16 sel;
	u64 off;
	u64 next; /* return address */
	unsigned size;
	bool call;
};

static int far_operand(struct vcpu *v, const struct dinsn *d, struct far_target *t)
{
	u8 buf[10];
	gva_t lin;

	t->size = d->opsize;
	t->next = flow_next_rip(v, d);
	if (!d->is_mem) {
		t->off = trunc_size(d->imm, t->size);
		t->sel = (u16)d->imm2;
		return 0;
	}
	if (sys_mem_linear(v, d, t->size + 2, SEG_ACC_READ, &lin) || lin_read(v, lin, buf, t->size + 2, LIN_CPL))
		return FAULT;
	t->off = 0;
	if (t->size == 8)
		__builtin_memcpy(&t->off, buf, 8);
	else if (t->size == 4)
		__builtin_memcpy(&t->off, buf, 4);
	else
		__builtin_memcpy(&t->off, buf, 2);
	__builtin_memcpy(&t->sel, buf + t->size, 2);
	return 0;
}

/* Push CS and the return address on the current stack; st->sp is the new stack pointer. */
static int push_return(struct vcpu *v, const struct far_target *t, unsigned size, struct stack *st)
{
	u64 frame[2] = { t->next, v->cpu.seg[SEG_CS].sel };

	stack_current(v, 0, st);
	return stack_push(v, st, frame, 2, size);
}

static int far_real(struct vcpu *v, const struct far_target *t)
{
	struct cpu *c = &v->cpu;
	struct stack st;

	if (t->off > c->seg[SEG_CS].limit)
		return fault_gp(v, 0);
	if (t->call) {
		if (push_return(v, t, t->size, &st))
			return FAULT;
		c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	}
	seg_load_real(c, SEG_CS, t->sel);
	c->rip = t->off;
	return 0;
}

/* Continue at cs:rip at the same privilege level, pushing the return address if it is a call. */
static int enter_same_level(struct vcpu *v, const struct far_target *t, struct descriptor *d, u16 sel, u64 rip,
			    unsigned size)
{
	struct cpu *c = &v->cpu;
	struct segment cs;
	struct stack st;

	desc_to_segment(d, (u16)((sel & ~3u) | cpu_cpl(c)), &cs);
	if (flow_check_rip(v, &cs, rip, 0) || desc_set_accessed(v, d))
		return FAULT;
	cs.attr = d->attr;
	if (t->call) {
		if (push_return(v, t, size, &st))
			return FAULT;
		c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	}
	c->seg[SEG_CS] = cs;
	c->rip = rip;
	mmu_mode_changed(v);
	return 0;
}

static int far_direct(struct vcpu *v, const struct far_target *t, struct descriptor *d)
{
	const struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c), dpl = attr_dpl(d->attr);

	if (cpu_long_mode(c) && (d->attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB))
		return fault_gp(v, sel_err(t->sel, 0));
	if (attr_conforming(d->attr) ? dpl > cpl : (unsigned)(t->sel & 3) > cpl || dpl != cpl)
		return fault_gp(v, sel_err(t->sel, 0));
	if (!(d->attr & SEG_P))
		return fault_np(v, sel_err(t->sel, 0));
	return enter_same_level(v, t, d, t->sel, t->off, t->size);
}

struct call_gate {
	u16 sel;
	unsigned params;
	unsigned size; /* of what is pushed: 2, 4 or 8 */
	u64 off;
};

/* A call gate to an inner level in long mode: RSP from the TSS, a null SS, no parameters. */
static int enter_inner_long(struct vcpu *v, const struct far_target *t, const struct call_gate *g, struct descriptor *d)
{
	struct cpu *c = &v->cpu;
	unsigned dpl = attr_dpl(d->attr);
	u64 frame[4] = { t->next, c->seg[SEG_CS].sel, c->gpr[REG_RSP], c->seg[SEG_SS].sel };
	u64 rsp;

	if (tss_rsp(v, dpl, 0, &rsp))
		return FAULT;
	rsp -= sizeof(frame);
	if (!lin_canonical(c, rsp) || !lin_canonical(c, rsp + sizeof(frame) - 1))
		return fault_ss(v, 0);
	if (!lin_canonical(c, g->off))
		return fault_gp(v, 0);
	if (desc_set_accessed(v, d) || lin_write(v, rsp, frame, sizeof(frame), LIN_SUPERVISOR))
		return FAULT;
	desc_to_segment(d, (u16)((g->sel & ~3u) | dpl), &c->seg[SEG_CS]);
	seg_set_null(&c->seg[SEG_SS], (u16)dpl, dpl);
	c->gpr[REG_RSP] = rsp;
	c->rip = g->off;
	mmu_mode_changed(v);
	return 0;
}

static int enter_inner(struct vcpu *v, const struct far_target *t, const struct call_gate *g, struct descriptor *d)
{
	struct cpu *c = &v->cpu;
	unsigned dpl = attr_dpl(d->attr), n = 0;
	struct stack outer, st;
	u64 frame[4 + 31];

	if (tss_inner_stack(v, dpl, 0, &st))
		return FAULT;
	if (g->off > d->limit)
		return fault_gp(v, 0);
	frame[n++] = t->next;
	frame[n++] = c->seg[SEG_CS].sel;
	stack_current(v, 0, &outer);
	if (stack_peek(v, &outer, 0, frame + n, g->params, g->size))
		return FAULT;
	n += g->params;
	frame[n++] = c->gpr[REG_RSP];
	frame[n++] = c->seg[SEG_SS].sel;
	if (desc_set_accessed(v, d) || stack_push(v, &st, frame, n, g->size))
		return FAULT;
	c->seg[SEG_SS] = st.ss;
	c->gpr[REG_RSP] = st.sp;
	desc_to_segment(d, (u16)((g->sel & ~3u) | dpl), &c->seg[SEG_CS]);
	c->rip = g->off;
	mmu_mode_changed(v);
	return 0;
}

static int far_call_gate(struct vcpu *v, const struct far_target *t, const struct descriptor *gate)
{
	const struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c), dpl;
	bool lm = cpu_long_mode(c), conforming;
	struct call_gate g = { .sel = (u16)(gate->lo >> 16), .params = gate->hi & 31 };
	struct descriptor d;

	g.size = lm ? 8 : (gate->attr & SEG_TYPE) == ST_CALL32 ? 4 : 2;
	g.off = gate->lo & 0xffffu;
	if (g.size > 2)
		g.off |= gate->hi & 0xffff0000u;
	if (lm)
		g.off |= gate->base & 0xffffffff00000000ull;
	if (sel_null(g.sel))
		return fault_gp(v, 0);
	if (desc_fetch(v, g.sel, false, EXC_GP, 0, &d))
		return FAULT;
	dpl = attr_dpl(d.attr);
	conforming = attr_conforming(d.attr);
	if (!attr_is_code(d.attr) || dpl > cpl || (!t->call && !conforming && dpl != cpl))
		return fault_gp(v, sel_err(g.sel, 0));
	if (lm && (d.attr & (SEG_L | SEG_DB)) != SEG_L)
		return fault_gp(v, sel_err(g.sel, 0));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(g.sel, 0));
	if (!conforming && dpl < cpl)
		return lm ? enter_inner_long(v, t, &g, &d) : enter_inner(v, t, &g, &d);
	return enter_same_level(v, t, &d, g.sel, g.off, g.size);
}

static int far_system(struct vcpu *v, const struct far_target *t, struct descriptor *d)
{
	const struct cpu *c = &v->cpu;
	unsigned type = d->attr & SEG_TYPE, dpl;
	bool lm = cpu_long_mode(c);
	enum task_reason why = t->call ? TASK_CALL : TASK_JMP;

	if (lm && type == ST_CALL32) {
		if (desc_fetch(v, t->sel, true, EXC_GP, 0, d))
			return FAULT;
	} else if (lm || !(type == ST_CALL16 || type == ST_CALL32 || type == ST_TASK_GATE || type == ST_TSS16 ||
			   type == ST_TSS32)) {
		return fault_gp(v, sel_err(t->sel, 0));
	}
	dpl = attr_dpl(d->attr);
	if (dpl < cpu_cpl(c) || dpl < (unsigned)(t->sel & 3))
		return fault_gp(v, sel_err(t->sel, 0));
	if (type == ST_TSS16 || type == ST_TSS32)
		return task_gate(v, t->sel, why, t->next, false, 0);
	if (!(d->attr & SEG_P))
		return fault_np(v, sel_err(t->sel, 0));
	if (type == ST_TASK_GATE)
		return task_gate(v, (u16)(d->lo >> 16), why, t->next, false, 0);
	return far_call_gate(v, t, d);
}

static int far_transfer(struct vcpu *v, const struct dinsn *di, bool call)
{
	struct far_target t = { .call = call };
	struct descriptor d;

	if (far_operand(v, di, &t))
		return FAULT;
	if (cpu_real(&v->cpu) || (v->cpu.rflags & FL_VM))
		return far_real(v, &t);
	if (sel_null(t.sel))
		return fault_gp(v, 0);
	if (desc_fetch(v, t.sel, false, EXC_GP, 0, &d))
		return FAULT;
	if (!(d.attr & SEG_S))
		return far_system(v, &t, &d);
	if (!attr_is_code(d.attr))
		return fault_gp(v, sel_err(t.sel, 0));
	return far_direct(v, &t, &d);
}

int sys_call_far(struct vcpu *v, const struct dinsn *d)
{
	return far_transfer(v, d, true);
}
int sys_jmp_far(struct vcpu *v, const struct dinsn *d)
{
	return far_transfer(v, d, false);
}
