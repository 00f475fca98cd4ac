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
	NEXT_JUMP,  /* v->cpu is exact: through the jump cache to rip */
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

/* Translations and hot data are still those of the present state. */
static bool settled(struct vcpu *v)
{
	const struct dbt_control *n = &dbt_of(v)->control;
	const struct cpu *c = &v->cpu;

	return likely(n->cr0 == c->cr0 && n->cr4 == c->cr4 && n->efer == c->efer && n->xcr0 == c->xcr0 &&
		      n->intr_held == v->intr_held && n->x87_unmasked == x87_unmasked(v));
}

/* Hot data that follows from x->control. */
static void settle_hot(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;
	struct dbt_hot *h = dhot(v);

	h->sti_ok = !v->intr_held;
	h->popf_fixed_user = FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_AC | FL_ID;
	h->popf_fixed = h->popf_fixed_user & ~(u32)(v->intr_held ? 0 : FL_IF);
	h->fsgsbase = (c->cr4 & CR4_FSGSBASE) && !(c->cr4 & CR4_LA57);
	h->pkru_on = c->cr4 & CR4_PKE;
	for (unsigned ac = 0; ac < 2; ac++)
		h->ac_index[ac] = mmu_kernel_mode(v, ac, &h->ac_table[ac], &h->ac_base[ac]);
}

/* What translations depend on beside their bytes, and what translated code looks at. */
static void settle(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	const struct cpu *c = &v->cpu;
	enum dbt_width w;
	u32 key;

	if (unlikely(!settled(v))) {
		x->control = (struct dbt_control){ .cr0 = c->cr0,
						   .cr4 = c->cr4,
						   .efer = c->efer,
						   .xcr0 = c->xcr0,
						   .intr_held = v->intr_held,
						   .x87_unmasked = x87_unmasked(v) };
		settle_hot(v);
	}
	x->mode = dbt_mode(c);
	if (x->mode & KEY_32)
		dbt_note_segments(v);
	key = interp_fpu_enabled(c) | (x->counted ? (u32)KEY_COUNTED : 0) |
	      (x->control.x87_unmasked ? (u32)KEY_X87_UNMASKED : 0) | (x->single ? (u32)KEY_SINGLE : 0) | x->mode;
	if (likely(key == (x->key & ~(u32)KEY_USER)))
		return;
	w = key & KEY_32 ? WIDTH_32 : WIDTH_64;
	x->key = key | (x->user ? (u32)KEY_USER : 0);
	dbt_reset_returns(v);
	for (unsigned n = 0; n < 2; n++)
		*(u64 *)(uintptr_t)x->bottom[n] = (u64)(uintptr_t)x->sh->ret_miss[w];
	if (key == x->key_of[w])
		return;
	x->key_of[w] = key;
	dbt_reset_width(v, w);
}

/*
 * Blocks of kernel and user have different keys and meet in no set's jump
 * cache. Each has a return stack: what the kernel expects must not be what a
 * return of the user's finds, and the user's own stays while the kernel runs,
 * as long as it comes back to the same set.
 */
static void choose_ring(struct vcpu *v, bool user)
{
	struct dbt *x = dbt_of(v);
	struct dbt_hot *h = dhot(v);

	if (user && (x->user || x->user_base != v->mmu->flat_base))
		x->user_sp = x->bottom[1];
	else if (x->user)
		x->user_sp = h->ret_sp;
	if (user)
		x->user_base = v->mmu->flat_base;
	x->user = user;
	x->key = (x->key & ~(u32)KEY_USER) | (user ? (u32)KEY_USER : 0);
	h->ret_base = x->bottom[user];
	h->ret_sp = user ? x->user_sp : x->bottom[0];
}

/* False: translated code does not run at this privilege level. */
static bool right_ring(struct vcpu *v)
{
	const struct dbt *x = dbt_of(v);
	unsigned dpl = v->cpu.seg[SEG_SS].attr & SEG_DPL;
	bool user = dpl == SEG_DPL;

	if (unlikely(dpl && !user))
		return false;
	if (user != x->user || (user && unlikely(v->mmu->flat_base != x->user_base)))
		choose_ring(v, user);
	return true;
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
	dhot(v)->pc = (u64)(uintptr_t)(dbt_of(v)->sh->rx + b->body);
	return NEXT_ENTER;
}

static enum next look(struct vcpu *v)
{
	struct tblock *b;

	dbt_lock(v);
	b = dbt_find(v, v->cpu.rip);
	dbt_unlock(v);
	if (likely(b != NULL))
		return enter_block(v, b);
	if (v->fault.vector == 0xff)
		interp_single(v); /* code outside RAM */
	else
		cpu_deliver_fault(v);
	return NEXT_LOOP;
}

static const u8 **jump_cache(struct vcpu *v)
{
	return (const u8 **)(v->mmu->flat_base + AUX_JUMP(dbt_of(v)->key & KEY_32 ? WIDTH_32 : WIDTH_64));
}

/* Into the block at rip if the set's jump cache has it, else LEAVE_INDIRECT. */
static enum next jump(struct vcpu *v)
{
	struct dbt_hot *h = dhot(v);

	if (unlikely(!lin_canonical(&v->cpu, v->cpu.rip)))
		return look(v);
	if (!charge(v, 0))
		return NEXT_LOOP;
	h->t0 = v->cpu.rip;
	h->pc = (u64)(uintptr_t)jump_cache(v)[dbt_jump_slot(v->cpu.rip)];
	return NEXT_ENTER;
}

static bool undisturbed(const struct vcpu *v)
{
	return !v->event && v->cpu.activity == ACT_RUNNING && !interp_careful(v);
}

/* v->cpu is exact, control went elsewhere. */
static enum next go_elsewhere(struct vcpu *v)
{
	return likely(undisturbed(v)) && likely(dbt_mode(&v->cpu) == dbt_of(v)->mode) ? NEXT_JUMP : NEXT_LOOP;
}

/* An instruction was done in C: go on behind `i` in the block, if that is where it leads. */
static enum next go_on(struct vcpu *v, const struct tinsn *i)
{
	struct dbt *x = dbt_of(v);
	const struct tinsn *n = i + 1;
	const struct tblock *b;

	if (unlikely(!undisturbed(v)) || unlikely(dbt_mode(&v->cpu) != x->mode) || unlikely(!right_ring(v)))
		return NEXT_LOOP;
	if (x->mode & KEY_32)
		dbt_note_segments(v);
	if (!unchanged(v))
		return NEXT_JUMP;
	b = dbt_insn_block(x->sh, i);
	if (n == &x->sh->insns[b->first] + b->n || n->kind == KIND_LOOP || v->cpu.rip != b->lin + n->guest || b->dead ||
	    b->page->key != x->key)
		return NEXT_JUMP;
	if (!v->mmu->flat_base[AUX_VALID + b->page->index])
		return NEXT_LOOK;
	if (!charge(v, n->left))
		return NEXT_LOOP;
	flags_to_dbt(v);
	if (b->fpu)
		fpu_load(v);
	dhot(v)->pc = (u64)(uintptr_t)(x->sh->rx + b->host + n->host);
	return NEXT_ENTER;
}

/* State at the beginning of `i`. */
static void exact_at(struct vcpu *v, const struct tinsn *i)
{
	count(v, i->left);
	v->cpu.rip = dbt_insn_block(dbt_of(v)->sh, i)->lin + i->guest;
}

/* Translated code will go on in the middle of a block. */
static void drop_windows(struct vcpu *v)
{
	for (unsigned k = 0; k < WINDOW_SLOTS; k++)
		dhot(v)->window[k] = 0;
}

static enum next do_step(struct vcpu *v, const struct tinsn *i)
{
	struct dbt *x = dbt_of(v);
	struct tblock *b;

	x->stats.steps++;
	drop_windows(v);
	exact_at(v, i);
	b = dbt_insn_block(x->sh, i);
	if (unlikely(b->crosses)) {
		dbt_lock(v);
		dbt_crossing_left(v, b);
		dbt_unlock(v);
	}
	interp_single(v);
	if (!settled(v))
		return NEXT_LOOP;
	return go_on(v, i);
}

static enum next do_sys(struct vcpu *v, const struct tsys *s)
{
	struct dbt *x = dbt_of(v);
	const struct tinsn *i = &x->sh->insns[s->insn];
	struct tsys copy;
	u64 rip;

	if (unlikely(x->world != NULL)) { /* devices are waited for outside the world */
		copy = *s;
		s = &copy;
		__atomic_thread_fence(__ATOMIC_SEQ_CST); /* many of them serialize */
	}
	x->stats.sys_calls[s->sys]++;
	exact_at(v, i);
	rip = v->cpu.rip;
	if (unlikely(sys_table[s->sys](v, &s->d))) {
		cpu_deliver_fault(v);
		return go_elsewhere(v);
	}
	if (unlikely(v->cpu.rip == rip) && (s->sys == ISA_SYS_ins || s->sys == ISA_SYS_outs))
		return NEXT_LOOP; /* an iteration of REP INS or OUTS: the instruction is not done */
	v->icount++;
	if (s->control && !settled(v))
		return NEXT_LOOP;
	return go_on(v, i);
}

/* Others may run through it: one store, and where they run at once it lies in a word of 8 bytes. */
static void link(struct dbt *x, const struct texit *exit, const struct tblock *b, bool same_page)
{
	u32 patch = same_page ? exit->patch : exit->patch + exit->far;
	u32 to = !same_page ? b->entry_page : exit->far ? b->entry : b->entry_saved;

	*(volatile any_u32 *)(x->sh->rw + patch) = to - (patch + 4);
	x->stats.links++;
}

static enum next do_link(struct vcpu *v, u32 id)
{
	struct dbt *x = dbt_of(v);
	const struct texit *exit = &x->sh->exits[id];
	u32 patch = exit->patch;
	const struct tpage *from;
	struct tblock *b;

	count(v, 0);
	v->cpu.rip = exit->lin;
	if (unlikely(!patch)) /* its block died while it ran */
		return NEXT_LOOK;
	dbt_lock(v);
	from = unchanged(v) ? dbt_block_at(x->sh, patch)->page : NULL;
	b = dbt_find(v, v->cpu.rip);
	if (b && unchanged(v))
		link(x, exit, b, b->page == from);
	dbt_unlock(v);
	return b ? enter_block(v, b) : NEXT_LOOK;
}

/* The block's page must be looked at again, or it is dead. */
static enum next do_entry(struct vcpu *v, const struct tblock *entered)
{
	struct dbt *x = dbt_of(v);
	struct tblock *b;

	count(v, 0);
	v->cpu.rip = entered->lin;
	if (likely(!x->world))
		return NEXT_LOOK;
	dbt_lock(v);
	b = dbt_find(v, v->cpu.rip);
	if (b && unchanged(v) && entered->dead)
		dbt_follow(x->sh, entered, b);
	dbt_unlock(v);
	return b ? enter_block(v, b) : NEXT_LOOK;
}

/* The target is not canonical: that is a fault of the branch. Undo it. */
static enum next undo_branch(struct vcpu *v, const struct tinsn *i)
{
	const u8 *code = i->len + dbt_insn_block(dbt_of(v)->sh, i)->page->host +
			 ((dbt_insn_block(dbt_of(v)->sh, i)->lin + i->guest) & ~PAGE_MASK);
	u64 sp = v->cpu.gpr[REG_RSP];

	count(v, 1);
	v->cpu.rip = dbt_insn_block(dbt_of(v)->sh, i)->lin + i->guest;
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

	if (unlikely(!lin_canonical(&v->cpu, lin)))
		return undo_branch(v, &x->sh->insns[dhot(v)->branch]);
	if (x->sh->insns[dhot(v)->branch].kind >= KIND_RET)
		x->stats.lost_returns++;
	else
		x->stats.lost_jumps++;
	count(v, 0);
	v->cpu.rip = lin;
	dbt_lock(v);
	b = dbt_find(v, lin);
	dbt_unlock(v);
	if (!b)
		return NEXT_LOOK;
	jump_cache(v)[dbt_jump_slot(lin)] = x->sh->rx + b->entry_indirect;
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

static unsigned stored_bytes(const struct vcpu *v, const struct tinsn *i, gva_t lin)
{
	u64 left = PAGE_SIZE - (lin & ~PAGE_MASK), size = i->stores & ~STORES_RUN;

	if (i->stores & STORES_RUN)
		size = v->cpu.gpr[REG_RCX] > PAGE_SIZE ? left : size * v->cpu.gpr[REG_RCX];
	return (unsigned)MIN(size, left);
}

/* The store kills its own block: from here on the block ends behind it. */
static bool into_itself(struct vcpu *v, const struct tinsn *i)
{
	struct dbt *x = dbt_of(v);
	u64 lin = dbt_insn_block(x->sh, i)->lin + i->guest + i->len;

	dbt_cut(x, lin);
	return false;
}

/* False, too, for a store into its own block. */
static bool write_entry(struct vcpu *v, const struct tinsn *i)
{
	struct dbt_hot *h = dhot(v);
	const struct tblock *b = dbt_insn_block(dbt_of(v)->sh, i);
	unsigned size = stored_bytes(v, i, h->t0);
	enum flat_result found;

	if (dbt_known_store(v, h->t0, size, &h->t1))
		return !b->dead || into_itself(v, i);
	found = flat_miss(v, h->t0, MMU_WRITE);
	if (found == FLAT_SLOW) {
		switch (dbt_new_store(v, h->t0, size, &h->t1)) {
		case STORE_ONCE:
			return !b->dead || into_itself(v, i);
		case STORE_RETRY:
			found = flat_miss(v, h->t0, MMU_WRITE);
			break;
		default:
			return false;
		}
	}
	if (found != FLAT_FILLED) /* there may be no table */
		return false;
	h->t1 = *(const u64 *)(v->mmu->flat_base + FLAT_W_DISP - 8 * ((u64)(u32)(h->t0 >> PAGE_SHIFT) + 1));
	return !b->dead;
}

/* What was left has changed: the instruction at rip, to which state was brought back, in the reference engine. */
static enum next do_alone(struct vcpu *v)
{
	dbt_of(v)->stats.steps++;
	interp_single(v);
	return NEXT_LOOP;
}

static enum next do_miss(struct vcpu *v, const struct tinsn *i, bool write)
{
	struct dbt *x = dbt_of(v);
	struct dbt_hot *h = dhot(v);
	unsigned left = i->left;
	u64 rip = 0;
	bool found;

	drop_windows(v);
	if (unlikely(x->world != NULL))
		rip = dbt_insn_block(x->sh, i)->lin + i->guest;
	found = write ? write_entry(v, i) : read_entry(v);
	if (unlikely(x->world != NULL) && !unchanged(v)) {
		count(v, left);
		v->cpu.rip = rip;
		return do_alone(v);
	}
	if (!found)
		return do_step(v, i);
	h->pc = (u64)(uintptr_t)(x->sh->rx + h->resume);
	return NEXT_ENTER;
}

/* The status flags of SUB, CMP (`sum` false) and ADD, of operands of `bits` bits. */
static u64 arithmetic_flags(u64 a, u64 b, bool sum, unsigned bits)
{
	u64 mask = ~0ull >> (64 - bits), r = (sum ? a + b : a - b) & mask, sign = BIT(bits - 1), f = 0;
	u64 overflow = sum ? ~(a ^ b) & (a ^ r) : (a ^ b) & (a ^ r);

	a &= mask;
	b &= mask;
	f |= (sum ? r < a : a < b) ? FL_CF : 0;
	f |= overflow & sign ? FL_OF : 0;
	f |= ((a ^ b ^ r) & 0x10) ? FL_AF : 0;
	f |= r & sign ? FL_SF : 0;
	f |= r ? 0 : FL_ZF;
	f |= __builtin_parity((unsigned)(r & 0xff)) ? 0 : FL_PF;
	return f;
}

/* Flags that are lost are set again from the registers, see flags.c. */
static u64 recipe_flags(const struct vcpu *v, const struct recipe *r)
{
	u64 dst = v->cpu.gpr[r->dst], src = r->src == RECIPE_IMM ? (u64)(s64)r->imm : v->cpu.gpr[r->src];
	unsigned bits = r->size * 8u;

	switch ((enum recipe_kind)r->kind) {
	case RECIPE_ADD:
		return arithmetic_flags(dst - src, src, true, bits);
	case RECIPE_SUB:
		return arithmetic_flags(dst + src, src, false, bits);
	case RECIPE_CMP:
		return arithmetic_flags(dst, src, false, bits);
	case RECIPE_TEST:
		return arithmetic_flags(dst & src, 0, false, bits);
	default:
		return arithmetic_flags(dst, 0, false, bits);
	}
}

/* hot->flags as of instruction `i`, which was left at a point where they may be anywhere. */
static void find_flags(struct vcpu *v, const struct tinsn *i)
{
	const struct dbt *x = dbt_of(v);
	u64 f;

	if (i->flags < TINSN_RECIPE)
		return;
	f = recipe_flags(v, &x->sh->recipes[dbt_insn_block(x->sh, i)->recipes + i->flags - TINSN_RECIPE]);
	dhot(v)->flags = (u16)(((f & 0xff) << 8) | ((f >> 11) & 1));
}

/* The instruction that is left, NULL: none in particular. */
static const struct tinsn *left_insn(const struct dbt *x, const struct dbt_hot *h)
{
	switch ((enum leave_reason)h->reason) {
	case LEAVE_MISS_R:
	case LEAVE_MISS_W:
	case LEAVE_STEP:
	case LEAVE_SAFE:
	case LEAVE_FPU:
		return &x->sh->insns[h->info];
	case LEAVE_SYS:
		return &x->sh->insns[x->sh->sys[h->info].insn];
	default:
		return NULL;
	}
}

static enum next leave(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	struct dbt_hot *h = dhot(v);

	x->stats.leaves[h->reason]++;
	x->changes = x->sh->changes;
	if (h->saved && left_insn(x, h))
		find_flags(v, left_insn(x, h));
	flags_from_hot(v);
	switch ((enum leave_reason)h->reason) {
	case LEAVE_LINK:
		return do_link(v, h->info);
	case LEAVE_INDIRECT:
		return do_indirect(v);
	case LEAVE_ENTRY:
		return do_entry(v, &x->sh->blocks[h->info]);
	case LEAVE_MISS_R:
		return do_miss(v, &x->sh->insns[h->info], false);
	case LEAVE_MISS_W:
		return do_miss(v, &x->sh->insns[h->info], true);
	case LEAVE_STEP:
		return do_step(v, &x->sh->insns[h->info]);
	case LEAVE_SYS:
		return do_sys(v, &x->sh->sys[h->info]);
	case LEAVE_FPU:
		fpu_load(v);
		h->pc = (u64)(uintptr_t)(x->sh->rx + h->resume);
		return NEXT_ENTER;
	case LEAVE_HOST: {
		const struct tinsn *i = dbt_insn_at(x->sh, h->info);

		if (i) {
			if (i->flags == TINSN_HOST)
				h->flags = h->host_flags;
			find_flags(v, i);
			flags_from_hot(v);
			return do_step(v, i);
		}
		__builtin_trap(); /* a fault of the trampolines: a bug of ours */
	}
	default:
		exact_at(v, &x->sh->insns[h->info]);
		return NEXT_LOOP;
	}
}

/* Translated code is about to run: make a later vcpu_raise() visible to it. */
static void arm(struct vcpu *v)
{
	if (likely(v->go))
		return;
	__atomic_store_n((u32 *)&v->go, 1, __ATOMIC_SEQ_CST);
	if (unlikely(v->event))
		__atomic_store_n((u32 *)&v->go, 0, __ATOMIC_SEQ_CST);
}

/* Translated code from rip on, until something else must be looked at. */
static void run_translated(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	enum next next = NEXT_JUMP;

	settle(v);
	for (;;) {
		if (next == NEXT_JUMP || next == NEXT_LOOK) {
			if (unlikely(!right_ring(v)))
				return;
			flags_to_dbt(v);
			next = next == NEXT_JUMP ? jump(v) : look(v);
		}
		if (next == NEXT_LOOP)
			return;
		arm(v);
		v->cpu.rflags &= ~FL_STATUS; /* they are the host's */
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

static bool translatable_mode(const struct vcpu *v)
{
	unsigned cpl = cpu_cpl(&v->cpu);

	return dbt_mode(&v->cpu) != MODE_OTHER && (cpl == 0 || cpl == 3);
}

static bool translates(struct vcpu *v, u64 insns)
{
	const struct dbt *x = dbt_of(v);

	return translatable_mode(v) && (!x->counted || insns >= BUDGET_MIN || x->single);
}

enum vcpu_exit dbt_run(struct vcpu *v, const struct run_budget *budget)
{
	struct dbt *x = dbt_of(v);
	u64 end = v->icount + MIN(budget->insns, 1ull << 62), start;
	enum vcpu_exit why;

	v->debug.hit_kind = 0;
	if (v->debug.count)
		return interp_run(v, budget);
	x->counted = budget->insns < 1ull << 62 || x->count_all;
	x->end = end;
	for (;;) {
		struct run_budget slice = { .insns = end - v->icount };

		if (v->event) {
			vcpu_clear(v, EV_FLUSH);
			if (unlikely(v->event & EV_WORLD)) {
				dbt_observe_pause(x);
				fpu_park(v);
				wait_for_others(v);
			}
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
		} else if (!translatable_mode(v)) {
			x->interp.until = translatable_mode;
			x->stats.other_modes++;
		}
		start = v->icount;
		if (slice.insns > 1)
			dbt_observe_pause(x); /* long, and not the cost of the last exit */
		why = interp_run(v, &slice);
		x->stats.other_insns += x->interp.until ? v->icount - start : 0;
		x->interp.until = NULL;
		if (why != VCPU_EXIT_BUDGET)
			return why;
	}
	fpu_park(v);
	return why;
}
