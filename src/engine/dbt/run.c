/*
 * The run loop of the translator, and what is done when translated code leaves.
 * Runs with the guest's vector state live: general registers only.
 */
#include "cpu/sys_table.h"
#include "cpu/xstate.h"
#include "engine/dbt/dbt.h"

/* What a leave leads to. */
enum next {
	NEXT_ENTER, /* hot->pc is set */
	NEXT_LOOK,  /* v->cpu is exact: find the block at rip */
	NEXT_LOOP,  /* v->cpu is exact: back to the run loop */
};

static bool x87_unmasked(struct vcpu *v)
{
	u16 fcw;

	if (v->fpu_live)
		__asm__ volatile("fnstcw %0" : "=m"(fcw));
	else
		__builtin_memcpy(&fcw, v->cpu.fpu + FX_FCW, 2);
	return (fcw & 0x3f) != 0x3f;
}

/* What the translation of a block depends on beside its bytes. */
static void update_key(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	u32 key;

	x->x87_unmasked = x87_unmasked(v);
	key = interp_fpu_enabled(&v->cpu) | (u32)x->counted << 8 | (u32)x->x87_unmasked << 9 | (u32)x->single << 10;
	if (likely(key == x->key))
		return;
	x->key = key;
	dbt_reset_returns(v);
	for (unsigned n = 0; n < flat_set_count(v->mmu->flat); n++) {
		const u8 **jump = (const u8 **)(flat_set_base(v->mmu->flat, n) + AUX_JUMP);

		for (unsigned k = 0; k < 1u << JUMP_BITS; k++)
			jump[k] = x->leave[LEAVE_INDIRECT];
	}
}

/* v->icount exact, `pending` charged instructions not done. */
static void count(struct vcpu *v, unsigned pending)
{
	struct dbt *x = dbt_of(v);

	if (x->counted)
		v->icount = x->end - (u64)(-(dhot(v)->charge + 1) + (s64)pending);
}

/* Charge for `left` instructions; false: the budget does not cover them. */
static bool charge(struct vcpu *v, unsigned left)
{
	struct dbt *x = dbt_of(v);
	s64 remaining;

	if (!x->counted)
		return true;
	remaining = (s64)(x->end - v->icount);
	if (remaining < left)
		return false;
	dhot(v)->charge = -(remaining - left) - 1;
	return true;
}

static void flags_from_hot(struct vcpu *v)
{
	v->cpu.rflags = (v->cpu.rflags & ~FL_STATUS) | hot_to_flags(dhot(v)->flags);
}
static void flags_to_dbt(struct vcpu *v)
{
	u64 f = v->cpu.rflags;

	dhot(v)->flags = (u16)(((f & 0xff) << 8) | ((f >> 11) & 1));
}

static enum next enter_block(struct vcpu *v, const struct tblock *b)
{
	if (!charge(v, 0))
		return NEXT_LOOP;
	dhot(v)->pc = (u64)(uintptr_t)(dbt_of(v)->rx + b->entry);
	return NEXT_ENTER;
}

static enum next look(struct vcpu *v)
{
	struct tblock *b = dbt_find(v, v->cpu.rip);

	if (likely(b != NULL))
		return enter_block(v, b);
	if (v->fault.vector == 0xff)
		interp_single(v); /* code outside RAM */
	else
		cpu_deliver_fault(v);
	return NEXT_LOOP;
}

static bool undisturbed(const struct vcpu *v)
{
	return !v->event && v->cpu.activity == ACT_RUNNING && !interp_careful(v);
}

/* An instruction was done in C: go on behind `i` in the block, if that is where it leads. */
static enum next go_on(struct vcpu *v, const struct tinsn *i, u64 gen)
{
	struct dbt *x = dbt_of(v);
	const struct tblock *b = &x->blocks[i->block];
	const struct tinsn *n = i + 1;

	if (unlikely(!undisturbed(v)) || unlikely(!cpu_64bit(&v->cpu)))
		return NEXT_LOOP;
	flags_to_dbt(v);
	if (b->dead || v->mmu->gen != gen || n == &x->insns[b->first] + b->n || v->cpu.rip != b->lin + n->guest)
		return NEXT_LOOK;
	if (!charge(v, n->left))
		return NEXT_LOOP;
	if (b->fpu)
		fpu_load(v);
	dhot(v)->pc = (u64)(uintptr_t)(x->rx + b->host + n->host);
	return NEXT_ENTER;
}

/* State at the beginning of `i`. */
static void exact_at(struct vcpu *v, const struct tinsn *i)
{
	count(v, i->left);
	v->cpu.rip = dbt_of(v)->blocks[i->block].lin + i->guest;
}

static enum next do_step(struct vcpu *v, const struct tinsn *i)
{
	struct dbt *x = dbt_of(v);
	u64 gen = v->mmu->gen;
	u32 flushes = (u32)x->stats.flushes;

	x->stats.steps++;
	exact_at(v, i);
	interp_single(v);
	if (unlikely(x87_unmasked(v) != x->x87_unmasked))
		return NEXT_LOOP;
	if ((u32)x->stats.flushes != flushes)
		return NEXT_LOOP;
	return go_on(v, i, gen);
}

static enum next do_sys(struct vcpu *v, const struct tsys *s)
{
	struct dbt *x = dbt_of(v);
	const struct tinsn *i = &x->insns[s->insn];
	u64 gen = v->mmu->gen, rip;

	x->stats.sys++;
	exact_at(v, i);
	rip = v->cpu.rip;
	if (unlikely(sys_table[s->sys](v, &s->d))) {
		cpu_deliver_fault(v);
		return NEXT_LOOP;
	}
	if (unlikely(v->cpu.rip == rip) && (s->sys == ISA_SYS_ins || s->sys == ISA_SYS_outs))
		return NEXT_LOOP; /* an iteration of REP INS or OUTS: the instruction is not done */
	v->icount++;
	if (unlikely(interp_fpu_enabled(&v->cpu) != (u8)x->key) || unlikely(x87_unmasked(v) != x->x87_unmasked))
		return NEXT_LOOP;
	return go_on(v, i, gen);
}

static enum next do_link(struct vcpu *v, u32 id)
{
	struct dbt *x = dbt_of(v);
	const struct texit *exit = &x->exits[id];
	const struct tpage *from = x->blocks[exit->block].page;
	u64 flushes = x->stats.flushes;
	u32 patch = exit->patch;
	struct tblock *b;
	s32 rel;

	count(v, 0);
	v->cpu.rip = exit->lin;
	b = dbt_find(v, exit->lin);
	if (!b || x->stats.flushes != flushes)
		return NEXT_LOOK;
	rel = (s32)((b->page == from ? b->entry : b->entry_page) - (patch + 4));
	__builtin_memcpy(x->rw + patch, &rel, 4);
	x->stats.links++;
	return enter_block(v, b);
}

/* The target is not canonical: that is a fault of the branch. Undo it. */
static enum next undo_branch(struct vcpu *v, const struct tinsn *i)
{
	const u8 *code = i->len + dbt_of(v)->blocks[i->block].page->host +
			 ((dbt_of(v)->blocks[i->block].lin + i->guest) & ~PAGE_MASK);
	u64 sp = v->cpu.gpr[REG_RSP];

	count(v, 1);
	v->cpu.rip = dbt_of(v)->blocks[i->block].lin + i->guest;
	if (i->kind == KIND_RET) {
		v->cpu.gpr[REG_RSP] = sp - 8;
	} else if (i->kind == KIND_RET_IMM) {
		v->cpu.gpr[REG_RSP] = sp - 8 - (code[-2] | (u64)code[-1] << 8);
	} else if (i->kind == KIND_CALL) {
		if (mmu_write(v, sp, &dhot(v)->old, 8))
			return NEXT_LOOP; /* cannot be: it was just written */
		v->cpu.gpr[REG_RSP] = sp + 8;
	}
	dbt_reset_returns(v);
	interp_single(v);
	return NEXT_LOOP;
}

static enum next do_indirect(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	u64 lin = dhot(v)->t0;
	struct tblock *b;
	u32 slot;

	if (unlikely(!lin_canonical(&v->cpu, lin)))
		return undo_branch(v, &x->insns[dhot(v)->branch]);
	count(v, 0);
	v->cpu.rip = lin;
	b = dbt_find(v, lin);
	if (!b)
		return NEXT_LOOK;
	slot = (u32)(lin >> 2) & ((1u << JUMP_BITS) - 1);
	((const u8 **)(v->mmu->flat_base + AUX_JUMP))[slot] = x->rx + b->entry_indirect;
	return enter_block(v, b);
}

/* hot->t1 = the entry for the access at t0. */
static bool read_entry(struct vcpu *v)
{
	struct dbt_hot *h = dhot(v);

	if (flat_miss(v, h->t0, MMU_READ) != FLAT_FILLED)
		return false;
	h->t1 = *(const u64 *)(v->mmu->flat_base + FLAT_R_DISP + 8 * (u64)(u32)(h->t0 >> PAGE_SHIFT));
	return true;
}

/* The store kills its own block: from here on the block ends behind it. */
static bool into_itself(struct vcpu *v, const struct tinsn *i)
{
	struct dbt *x = dbt_of(v);
	u64 lin = x->blocks[i->block].lin + i->guest + i->len;

	*dbt_cut_slot(x, lin) = lin;
	return false;
}

/* False, too, for a store into its own block. */
static bool write_entry(struct vcpu *v, const struct tinsn *i)
{
	struct dbt_hot *h = dhot(v);
	const struct tblock *b = &dbt_of(v)->blocks[i->block];
	enum flat_result found;

	if (dbt_known_store(v, h->t0, i->stores, &h->t1))
		return !b->dead || into_itself(v, i);
	found = flat_miss(v, h->t0, MMU_WRITE);
	if (found == FLAT_SLOW) {
		switch (dbt_new_store(v, h->t0, i->stores, &h->t1)) {
		case STORE_ONCE:
			return !b->dead || into_itself(v, i);
		case STORE_RETRY:
			found = flat_miss(v, h->t0, MMU_WRITE);
			break;
		default:
			return false;
		}
	}
	h->t1 = *(const u64 *)(v->mmu->flat_base + FLAT_W_DISP - 8 * ((u64)(u32)(h->t0 >> PAGE_SHIFT) + 1));
	return found == FLAT_FILLED && !b->dead;
}

static enum next do_miss(struct vcpu *v, const struct tinsn *i, bool write)
{
	struct dbt *x = dbt_of(v);
	struct dbt_hot *h = dhot(v);

	if (write ? !write_entry(v, i) : !read_entry(v))
		return do_step(v, i);
	h->pc = (u64)(uintptr_t)(x->rx + h->resume);
	return NEXT_ENTER;
}

static enum next leave(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	struct dbt_hot *h = dhot(v);

	x->stats.leaves[h->reason]++;
	flags_from_hot(v);
	switch ((enum leave_reason)h->reason) {
	case LEAVE_LINK:
		return do_link(v, h->info);
	case LEAVE_INDIRECT:
		return do_indirect(v);
	case LEAVE_ENTRY:
		count(v, 0);
		v->cpu.rip = x->blocks[h->info].lin;
		return NEXT_LOOK;
	case LEAVE_MISS_R:
		return do_miss(v, &x->insns[h->info], false);
	case LEAVE_MISS_W:
		return do_miss(v, &x->insns[h->info], true);
	case LEAVE_STEP:
		return do_step(v, &x->insns[h->info]);
	case LEAVE_SYS:
		return do_sys(v, &x->sys[h->info]);
	case LEAVE_FPU:
		fpu_load(v);
		h->pc = (u64)(uintptr_t)(x->rx + h->resume);
		return NEXT_ENTER;
	case LEAVE_HOST: {
		const struct tinsn *i = dbt_insn_at(x, h->info);

		if (i)
			return do_step(v, i);
		__builtin_trap(); /* a fault of the trampolines: a bug of ours */
	}
	default:
		exact_at(v, &x->insns[h->info]);
		return NEXT_LOOP;
	}
}

/* Translated code from rip on, until something else must be looked at. */
static void run_translated(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	enum next next;

	update_key(v);
	flags_to_dbt(v);
	next = look(v);
	for (;;) {
		if (next == NEXT_LOOK) {
			flags_to_dbt(v);
			next = look(v);
		}
		if (next == NEXT_LOOP)
			return;
		__atomic_store_n((u32 *)&v->go, 1, __ATOMIC_SEQ_CST);
		if (unlikely(v->event))
			__atomic_store_n((u32 *)&v->go, 0, __ATOMIC_SEQ_CST);
		x->enter(v);
		next = leave(v);
	}
}

void dbt_translate_single(struct vcpu *v, bool on)
{
	dbt_of(v)->single = on;
}

/* Below this an exact budget is left to the reference engine. */
#define BUDGET_MIN 64
#define OTHER_MODE_SLICE 20000

static bool translates(struct vcpu *v, u64 insns)
{
	const struct dbt *x = dbt_of(v);

	return cpu_64bit(&v->cpu) && (!x->counted || insns >= BUDGET_MIN || x->single);
}

enum vcpu_exit dbt_run(struct vcpu *v, const struct run_budget *budget)
{
	struct dbt *x = dbt_of(v);
	u64 end = v->icount + MIN(budget->insns, 1ull << 62);
	enum vcpu_exit why;

	v->debug.hit_kind = 0;
	if (v->debug.count)
		return interp_run(v, budget);
	x->counted = budget->insns < 1ull << 62;
	x->end = end;
	for (;;) {
		struct run_budget slice = { .insns = end - v->icount };

		if (v->event) {
			vcpu_clear(v, EV_FLUSH);
			if (v->event & (EV_KICK | EV_TIMER | EV_RESET)) {
				why = v->debug.hit_kind ? VCPU_EXIT_DEBUG : VCPU_EXIT_EVENT;
				break;
			}
			if (v->event)
				cpu_take_events(v);
		}
		if (v->cpu.activity != ACT_RUNNING) {
			why = VCPU_EXIT_HALT;
			break;
		}
		if (x->counted && v->icount >= end) {
			why = VCPU_EXIT_BUDGET;
			break;
		}
		if (v->event || interp_careful(v))
			slice.insns = 1;
		else if (translates(v, slice.insns)) {
			run_translated(v);
			continue;
		} else if (!cpu_64bit(&v->cpu)) {
			slice.insns = MIN(slice.insns, OTHER_MODE_SLICE);
		}
		why = interp_run(v, &slice);
		if (why != VCPU_EXIT_BUDGET)
			return why;
	}
	fpu_park(v);
	return why;
}
