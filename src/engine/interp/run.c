/*
 * The run loop: events, budgets, careful execution, and the passage between
 * the exact state of `struct cpu` and the running form (interp.h).
 */
#include "engine/interp/interp.h"
#include "engine/stop.h"

/* Bit per segment: accesses through it need only truncation (interp_ea). */
static u16 flat_segments(const struct cpu *c)
{
	u16 flat = 0;

	if (cpu_64bit(c))
		return 0x0f0f & ~(0x0101u << SEG_FS) & ~(0x0101u << SEG_GS);
	for (unsigned s = 0; s < SEG_COUNT; s++) {
		const struct segment *g = &c->seg[s];
		bool code = g->attr & SEG_TYPE_CODE;

		if (g->base || g->limit != 0xffffffffu || (g->attr & SEG_UNUSABLE) || !(g->attr & SEG_P) ||
		    !(g->attr & SEG_S) || (!code && (g->attr & SEG_TYPE_EC)))
			continue;
		if (!code || (g->attr & SEG_TYPE_RW))
			flat |= (u16)(1u << s);
		if (!code && (g->attr & SEG_TYPE_RW))
			flat |= (u16)(0x100u << s);
	}
	return flat;
}

/* Which kinds of host-unit instructions are enabled (SDM vol. 3, 2.5 and 13). */
u8 interp_fpu_enabled(const struct cpu *c)
{
	bool em = c->cr0 & CR0_EM, ts = c->cr0 & CR0_TS;
	u8 ok = 1u << FPU_NONE;

	if (!((c->cr0 & CR0_MP) && ts))
		ok |= 1u << FPU_WAIT;
	if (ts)
		return ok;
	if (!em)
		ok |= 1u << FPU_X87 | 1u << FPU_MMX;
	if (!em && (c->cr4 & CR4_OSFXSR))
		ok |= 1u << FPU_SSE;
	if ((c->cr4 & CR4_OSXSAVE) && (c->cr0 & CR0_PE) && !(c->rflags & FL_VM)) {
		if ((c->xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX))
			ok |= 1u << FPU_AVX;
		if ((c->xcr0 & (XCR0_SSE | XCR0_AVX | XCR0_AVX512)) == (XCR0_SSE | XCR0_AVX | XCR0_AVX512))
			ok |= 1u << FPU_AVX512;
	}
	return ok;
}

static bool insn_breakpoints(const struct cpu *c)
{
	for (unsigned n = 0; n < 4; n++)
		if ((c->dr[7] >> (2 * n) & 3) && !(c->dr[7] >> (16 + 4 * n) & 3))
			return true;
	return false;
}

static bool debugger_exec_points(const struct vcpu *v)
{
	for (unsigned n = 0; n < v->debug.count; n++)
		if (v->debug.point[n].kind == 0)
			return true;
	return false;
}

void sync_in(struct vcpu *v)
{
	struct interp_hot *h = hot(v);
	const struct cpu *c = &v->cpu;

	h->tlb = v->mmu->current;
	flags_to_hot(v);
	h->mode = cpu_code_mode(c);
	if (h->mode == CODE_32 && c->seg[SEG_CS].base == 0 && c->seg[SEG_CS].limit == 0xffffffffu)
		h->mode = BLOCK_32_FLAT;
	h->cs_base = h->mode == BLOCK_64 ? 0 : c->seg[SEG_CS].base;
	h->flat = flat_segments(c);
	h->fpu_ok = interp_fpu_enabled(c);
	h->careful = (c->rflags & (FL_TF | FL_RF)) || insn_breakpoints(c) || debugger_exec_points(v);
	h->key = (v->mmu->gen << 8) | (u64)v->mmu->index << 4 | h->mode;
}

static u64 exact_rip(const struct vcpu *v, u64 rip)
{
	return hot((struct vcpu *)(uintptr_t)v)->mode == BLOCK_64 ? rip : (u32)rip;
}

static void flags_out(struct vcpu *v)
{
	v->cpu.rflags = (v->cpu.rflags & ~FL_STATUS) | hot_to_flags(hot(v)->flags);
}

void sync_out(struct vcpu *v, const struct insn *i)
{
	sync_icount(v, i);
	v->cpu.rip = exact_rip(v, v->cpu.rip + i->off);
	flags_out(v);
}

static void unpoison(struct vcpu *v)
{
	struct interp_hot *h = hot(v);

	if (h->poison) {
		h->poison->fn = h->poison_fn;
		h->poison = NULL;
	}
}

void break_after(struct vcpu *v, const struct insn *i)
{
	struct interp_hot *h = hot(v);
	struct insn *n = (struct insn *)(uintptr_t)(i + 1);

	/* The last instruction of a block goes through ENTER_BLOCK(), which looks at v->event. */
	if (!i->left || h->poison == n)
		return;
	h->poison = n;
	h->poison_fn = n->fn;
	n->fn = op_poisoned;
}

OP(op_poisoned)
{
	return interp_leave(v, i);
}

const struct insn *interp_leave(struct vcpu *v, const struct insn *i)
{
	unpoison(v);
	sync_out(v, i);
	return NULL;
}

const struct insn *interp_leave_at(struct vcpu *v, u64 rip)
{
	unpoison(v);
	v->icount = hot(v)->icount_end - (u64)hot(v)->budget;
	v->cpu.rip = exact_rip(v, rip);
	flags_out(v);
	return NULL;
}

const struct insn *interp_fault(struct vcpu *v, const struct insn *i)
{
	unpoison(v);
	sync_out(v, i);
	interp_of(v)->faults++;
	cpu_deliver_fault(v);
	return NULL;
}

/* ENTER_BLOCK() for functions that are no handlers: run_chain() calls the instruction. */
static const struct insn *start_block(struct vcpu *v, struct block *b)
{
	struct interp_hot *h = hot(v);

	if (unlikely(v->event) || unlikely(h->budget < b->n))
		return interp_leave_at(v, v->cpu.rip + b->off);
	h->budget -= b->n;
	h->block = b;
	return b->insn;
}

const struct insn *interp_continue(struct vcpu *v)
{
	const struct interp_hot *h = hot(v);
	u64 lin = h->mode == BLOCK_64 ? v->cpu.rip : (u32)(v->cpu.rip + h->cs_base);
	const struct jump_entry *e = &interp_of(v)->jump[jump_hash(lin)];

	if (unlikely(e->lin != lin) || unlikely(e->key != h->key))
		return interp_dispatch_slow(v, lin);
	v->cpu.rip = (lin & PAGE_MASK) - h->cs_base;
	return start_block(v, e->block);
}

const struct insn *interp_dispatch_slow(struct vcpu *v, u64 lin)
{
	struct interp_hot *h = hot(v);
	struct block *b;

	v->cpu.rip = exact_rip(v, lin - h->cs_base);
	if (v->event)
		return interp_leave_at(v, v->cpu.rip);
	v->icount = h->icount_end - (u64)h->budget;
	b = cache_find(v, lin);
	if (!b) {
		interp_leave_at(v, v->cpu.rip);
		interp_of(v)->faults++;
		cpu_deliver_fault(v);
		return NULL;
	}
	v->cpu.rip = (lin & PAGE_MASK) - h->cs_base;
	return start_block(v, b);
}

OP(op_end_of_block)
{
	struct block *b;
	u64 lin;

	if (likely(i->link))
		ENTER_BLOCK(v, i->link);
	b = i->off < PAGE_SIZE ? cache_find_near(v, i->off) : NULL;
	if (b) {
		((struct insn *)(uintptr_t)i)->link = b;
		ENTER_BLOCK(v, b);
	}
	lin = v->cpu.rip + i->off + hot(v)->cs_base;
	DISPATCH(v, hot(v)->mode == BLOCK_64 ? lin : (u32)lin);
}

OP(op_end_of_step)
{
	return interp_leave_at(v, v->cpu.rip + i->off);
}

static void run_chain(struct vcpu *v, struct block *b, u64 lin)
{
	const struct insn *i = b->insn;

	hot(v)->budget -= b->n;
	hot(v)->block = b;
	v->cpu.rip = (lin & PAGE_MASK) - hot(v)->cs_base;
	while (i)
		i = i->fn(v, i);
}

/* Does a debugger's breakpoint stop execution at `lin`? */
static bool debugger_stops(const struct vcpu *v, u64 lin)
{
	for (unsigned n = 0; n < v->debug.count; n++)
		if (v->debug.point[n].kind == 0 && v->debug.point[n].addr == lin)
			return true;
	return false;
}

static void run_single(struct vcpu *v, struct block *b, u64 lin)
{
	/* A budget of one: a branch leaves at its target. */
	hot(v)->icount_end = v->icount + 1;
	hot(v)->budget = 1;
	run_chain(v, b, lin);
}

/* One instruction with every check before and after. */
static void step(struct vcpu *v, u64 lin)
{
	struct interp *x = interp_of(v);
	bool tf = v->cpu.rflags & FL_TF;
	u64 before = v->icount;
	struct block *b;

	x->steps++;
	if (!(v->cpu.rflags & FL_RF) && insn_breakpoints(&v->cpu) && cpu_insn_breakpoint(v)) {
		cpu_deliver_fault(v);
		return;
	}
	b = cache_find(v, lin);
	if (!b) {
		x->faults++;
		cpu_deliver_fault(v);
		return;
	}
	v->cpu.rflags &= ~FL_RF;
	run_single(v, cache_single(v, b), lin);
	if (tf && v->icount != before)
		cpu_single_step_done(v);
}

void interp_single(struct vcpu *v)
{
	u64 lin = v->cpu.rip;
	struct block *b;

	sync_in(v);
	if (hot(v)->mode != BLOCK_64 || hot(v)->careful) {
		step(v, hot(v)->mode == BLOCK_64 ? lin : (u32)(lin + hot(v)->cs_base));
		return;
	}
	interp_of(v)->steps++;
	b = cache_single_at(v, lin);
	if (b) {
		run_single(v, b, lin);
	} else {
		interp_of(v)->faults++;
		cpu_deliver_fault(v);
	}
}

bool interp_careful(const struct vcpu *v)
{
	return (v->cpu.rflags & (FL_TF | FL_RF)) || insn_breakpoints(&v->cpu);
}

enum vcpu_exit interp_run(struct vcpu *v, const struct run_budget *budget)
{
	struct interp_hot *h = hot(v);
	u64 end = v->icount + MIN(budget->insns, 1ull << 62);
	bool first = true;
	enum vcpu_exit why;

	v->debug.hit_kind = 0;
	for (;; first = false) {
		u64 lin;
		struct block *b;

		if (v->event) {
			vcpu_clear(v, EV_FLUSH);
			if (unlikely(v->event & EV_WORLD)) {
				fpu_park(v);
				wait_for_others(v);
			}
			if (v->event & (EV_KICK | EV_TIMER | EV_RESET)) {
				why = v->debug.hit_kind ? VCPU_EXIT_DEBUG : VCPU_EXIT_EVENT;
				break;
			}
			if (v->event) {
				interp_of(v)->events++;
				cpu_take_events(v);
			}
		}
		if (v->cpu.activity != ACT_RUNNING) {
			why = VCPU_EXIT_HALT;
			break;
		}
		if (v->icount >= end) {
			why = VCPU_EXIT_BUDGET;
			break;
		}
		if (interp_of(v)->until && interp_of(v)->until(v)) {
			why = VCPU_EXIT_BUDGET;
			break;
		}
		sync_in(v);
		h->icount_end = end;
		h->budget = (s64)(end - v->icount);
		lin = h->mode == BLOCK_64 ? v->cpu.rip : (u32)(v->cpu.rip + h->cs_base);
		if (!first && debugger_stops(v, lin)) {
			why = VCPU_EXIT_DEBUG;
			break;
		}
		if (h->careful || v->event) {
			step(v, lin);
			continue;
		}
		b = cache_find(v, lin);
		if (!b) {
			interp_of(v)->faults++;
			cpu_deliver_fault(v);
		} else if (b->n > h->budget) {
			step(v, lin);
		} else {
			run_chain(v, b, lin);
		}
	}
	fpu_park(v);
	return why;
}
