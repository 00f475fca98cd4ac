/*
 * From guest code to a block of host code.
 *
 * The instruction table decides the kind of each instruction: METHOD_SYS calls
 * the shared semantics, the others are emitted by flow.c, stack.c, rewrite.c,
 * and what none of them can express is left to the reference engine. Where code
 * and records go is block.c's affair.
 */
#include "cpu/cpuid.h"
#include "cpu/xstate.h"
#include "engine/dbt/translate.h"
#include "isa/isa.h"

#include <string.h>

/* Instructions whose host semantics would need more than their operands. */
static bool is_odd(const struct dinsn *d)
{
	switch (d->mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
	case ZYDIS_MNEMONIC_XLAT:
		return true;
	default:
		break;
	}
	if (d->map == 1 && d->is_mem) { /* bit strings reach beyond their operand: what odd.c leaves */
		unsigned op = d->opcode;

		return op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb;
	}
	return false;
}

static bool is_nop(const struct dinsn *d)
{
	if (d->map == 1)
		return d->opcode == 0x0d || (d->opcode >= 0x18 && d->opcode <= 0x1f);
	return d->map == 0 && d->opcode == 0x90 &&
	       (d->mnemonic == ZYDIS_MNEMONIC_NOP || d->mnemonic == ZYDIS_MNEMONIC_PAUSE);
}

static void emit_lea(struct tr *t)
{
	const struct dinsn *d = t->d;
	struct dinsn plain = *d;
	struct emit *e = &t->e;
	unsigned lin, dst = home[d->reg];

	if (dst != HOME_MEMORY && d->opsize >= 4 && d->addrsize >= 4) {
		emit_address(t, d->opsize == 8 && d->addrsize == 8, dst);
		return;
	}
	plain.seg = SEG_DS;
	t->d = &plain;
	lin = emit_ea(t);
	t->d = d;
	if (dst == HOME_MEMORY) {
		if (d->opsize == 8) {
			store_gs(e, lin, gpr_off(d->reg));
		} else if (d->opsize == 4) {
			op_rr(e, false, 0x89, lin, H_RCX);
			store_gs(e, H_RCX, gpr_off(d->reg));
		} else {
			put_bytes(e, (const u8[]){ 0x65, 0x66, 0x40 | (lin >> 3) << 2, 0x89 }, 4);
			put_gs_operand(e, lin, gpr_off(d->reg));
		}
		return;
	}
	if (d->opsize == 2)
		put(e, 0x66);
	op_rr(e, d->opsize == 8, 0x89, lin, dst);
}

/* MOV between the accumulator and an absolute address. */
static void emit_moffs(struct tr *t)
{
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;
	bool load = d->opcode < 0xa2, byte = !(d->opcode & 1);

	t->ea_size = byte ? 1 : d->opsize;
	emit_ea(t);
	emit_access(t, H_R14, byte ? 1 : d->opsize, !load);
	if (!byte && d->opsize == 2)
		put(e, 0x66);
	op_operand(e, !byte && d->opsize == 8, (load ? 0x8a : 0x88) | !byte, H_RAX, H_R14);
}

/* MOV between registers of which one at least lives in memory: without the detour over a free one. */
static void emit_mov_home(struct tr *t)
{
	const struct dinsn *d = t->d;
	bool w = d->opsize == 8, load = d->opcode == 0x8b;
	unsigned dst = load ? d->reg : d->rm, src = load ? d->rm : d->reg, from = home[src];
	struct emit *e = &t->e;

	if (home[dst] != HOME_MEMORY) {
		op_gs(e, w, 0x8b, home[dst], gpr_off(src));
		return;
	}
	if (from == HOME_MEMORY || !w) {
		if (from == HOME_MEMORY)
			op_gs(e, w, 0x8b, H_RCX, gpr_off(src));
		else
			op_rr(e, false, 0x89, from, H_RCX);
		from = H_RCX;
	}
	store_gs(e, from, gpr_off(dst));
}

static void check_fpu(struct tr *t)
{
	unsigned stub;

	t->b->fpu = true;
	if (t->fpu_checked)
		return;
	t->fpu_checked = true;
	islands(t, 60, true);
	if (t->clobber && (t->d->is_mem || t->flags != FLAGS_HOST || t->recipe.kind != RECIPE_NONE)) {
		flags_clobber(t);
		stub = new_stub(t, STUB_LEAVE, LEAVE_FPU, t->insn);
		put_bytes(&t->e, (const u8[]){ 0x65, 0x80 }, 2); /* cmp byte gs:[fpu_live], 0 ; je */
		put_gs_operand(&t->e, 7, (u32)offsetof(struct vcpu, fpu_live));
		put(&t->e, 0);
		long_branch(t, 4, stub);
		t->stub[stub].resume = t->e.p;
		return;
	}
	stub = new_stub(t, STUB_LEAVE, LEAVE_FPU, t->insn);
	put_bytes(&t->e, (const u8[]){ 0x65, 0x0f, 0xb6 }, 3); /* movzx ecx, byte gs:[fpu_live] */
	put_gs_operand(&t->e, H_RCX, (u32)offsetof(struct vcpu, fpu_live));
	short_branch(t, true, stub);
	t->stub[stub].resume = t->e.p;
}

static void emit_x87_pointer(struct tr *t)
{
	switch (t->d->mnemonic) {
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return;
	default:
		break;
	}
	mov_lin(&t->e, H_R14, t->lin);
	store_gs(&t->e, H_R14, (u32)(offsetof(struct cpu, fpu) + FX_FIP));
}

static bool emit_host(struct tr *t)
{
	unsigned need = t->g->need;

	if (!(t->g->traits & TRAIT_HOST) || (need == FPU_X87 && (t->x->key & KEY_X87_UNMASKED)) ||
	    (t->narrow && t->d->is_mem && !legacy_segment(t)))
		return false;
	if (need != FPU_NONE) {
		if (!(t->x->key >> need & 1))
			return false;
		check_fpu(t);
	}
	if (t->d->mnemonic == ZYDIS_MNEMONIC_FLDCW)
		emit_control_word_check(t);
	if (!emit_general(t))
		return false;
	if (need == FPU_X87)
		emit_x87_pointer(t);
	return true;
}

/* Control goes elsewhere, or the mode changes. */
bool leaves_block(const struct dinsn *d)
{
	switch (d->mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
		return true;
	default:
		return false;
	}
}

/* May it change what the run loop calls settled? */
static bool is_control(unsigned sys)
{
	switch (sys) {
	case ISA_SYS_mov_cr:
	case ISA_SYS_clts:
	case ISA_SYS_lmsw:
	case ISA_SYS_wrmsr:
	case ISA_SYS_xsetbv:
	case ISA_SYS_xrstor:
	case ISA_SYS_xrstors:
	case ISA_SYS_fxrstor:
	case ISA_SYS_fnsave:
	case ISA_SYS_frstor:
	case ISA_SYS_fnstenv:
	case ISA_SYS_fldenv:
		return true;
	default:
		return false;
	}
}

u32 new_sys(struct tr *t, unsigned sys)
{
	if (t->sys_n == t->b->sys_max) {
		t->failed = true;
		return 0;
	}
	t->at.sys[t->sys_n] = (struct tsys){ .insn = t->insn, .sys = (u8)sys, .control = is_control(sys), .d = *t->d };
	return t->b->sys + t->sys_n++;
}

static void emit_sys(struct tr *t, unsigned sys)
{
	flags_prepare(t, false);
	put_info(&t->e, LEAVE_SYS, new_sys(t, sys));
	note_of(t)->how = HOW_SYS;
	jump(&t->e, 0xe9, t->x->sh->leave[LEAVE_SYS]);
	islands(t, 0, false);
}

/* Instructions of string.c and odd.c, which expect the flags in the host. */
static bool is_special(const struct dinsn *d)
{
	unsigned op = d->opcode;

	if (d->map == 0)
		return (op >= 0xa4 && op <= 0xa7) || (op >= 0xaa && op <= 0xaf) || op == 0xd7 || op == 0x8f ||
		       (op >= 0xe0 && op <= 0xe3);
	return d->map == 1 && d->is_mem && (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb || op == 0xae);
}

static enum group group_of(const struct dinsn *d)
{
	unsigned op = d->opcode, sub = d->reg & 7;

	if (is_nop(d))
		return GROUP_NOP;
	if (d->mnemonic == ZYDIS_MNEMONIC_CLD || d->mnemonic == ZYDIS_MNEMONIC_STD)
		return GROUP_DIRECTION;
	if (d->map == 1) {
		if (op >= 0x80 && op <= 0x8f)
			return GROUP_FLOW;
		return d->is_mem && (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb || op == 0xae)
			   ? GROUP_ODD
			   : GROUP_GENERAL;
	}
	if (d->map != 0)
		return GROUP_GENERAL;
	if (d->mode == CODE_32 && op >= 0x40 && op <= 0x4f)
		return GROUP_INC;
	if ((op >= 0x70 && op <= 0x7f) || (op >= 0xe0 && op <= 0xe3) || op == 0xe8 || op == 0xe9 || op == 0xeb ||
	    op == 0xc2 || op == 0xc3 || (op == 0xff && (sub == 2 || sub == 4)))
		return GROUP_FLOW;
	if (op == 0x8d && d->is_mem)
		return GROUP_LEA;
	if ((op == 0x89 || op == 0x8b) && !d->is_mem && d->opsize >= 4 &&
	    (home[d->reg] == HOME_MEMORY || home[d->rm] == HOME_MEMORY))
		return GROUP_MOV;
	if (op >= 0xa0 && op <= 0xa3)
		return GROUP_MOFFS;
	if ((op >= 0x50 && op <= 0x61) || op == 0x68 || op == 0x6a || op == 0xc9 || (op == 0xff && sub == 6))
		return GROUP_STACK;
	if ((op >= 0xa4 && op <= 0xa7) || (op >= 0xaa && op <= 0xaf))
		return GROUP_STRING;
	return op == 0xd7 || op == 0x8f ? GROUP_ODD : GROUP_GENERAL;
}

void classify(const struct dbt *x, struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	const struct isa_row *row = isa_row_of(&g->d);
	bool branch = z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE, core = row->method == METHOD_CORE;
	bool model = cpu_model_has_isa_set(x->v->model, z->meta.isa_set);

	g->method = row->method;
	g->sys = (u8)row->sys;
	g->group = core ? group_of(&g->d) : GROUP_GENERAL;
	g->need = (u8)thunk_need(z, ops);
	if (model)
		g->traits |= TRAIT_MODEL;
	if (branch)
		g->traits |= TRAIT_BRANCH;
	if (model && !branch && !is_odd(&g->d) && (g->d.mode == CODE_64 || legacy_expressible(&g->d, z)))
		g->traits |= TRAIT_HOST;
	if ((core || row->method == METHOD_HOST) && !is_special(&g->d))
		g->traits |= TRAIT_AWARE;
	if (is_nop(&g->d))
		g->traits |= TRAIT_NOP;
}

/* By its group. False: it is one for emit_host(), or left to the reference engine. */
static bool emit_group(struct tr *t, bool *ends, bool *cut)
{
	struct note *note = note_of(t);

	switch ((enum group)t->g->group) {
	case GROUP_NOP:
		note->how = HOW_NOP;
		return true;
	case GROUP_DIRECTION:
		emit_direction(t, t->d->mnemonic == ZYDIS_MNEMONIC_STD);
		return true;
	case GROUP_INC:
		emit_legacy_inc(t);
		note->how = HOW_ODD;
		return true;
	case GROUP_FLOW:
		*cut = emit_flow(t, ends);
		note->how = *cut ? HOW_FLOW : note->how;
		return *cut;
	case GROUP_LEA:
		note->how = HOW_LEA;
		emit_lea(t);
		return true;
	case GROUP_MOV:
		emit_mov_home(t);
		return true;
	case GROUP_MOFFS:
		note->how = HOW_MOFFS;
		emit_moffs(t);
		return true;
	case GROUP_STACK:
		note->how = HOW_STACK;
		return t->narrow ? emit_stack32(t) : emit_stack(t);
	case GROUP_STRING:
		note->how = HOW_STRING;
		return emit_string(t);
	case GROUP_ODD:
		note->how = HOW_ODD;
		return emit_odd(t);
	case GROUP_GENERAL:
		break;
	}
	return false;
}

/* In 32-bit code: a memory operand in a segment that translated code cannot use. */
static bool hidden_operand(const struct tr *t)
{
	switch ((enum group)t->g->group) {
	case GROUP_NOP:
	case GROUP_DIRECTION:
	case GROUP_INC:
	case GROUP_LEA:
		return false;
	default:
		return t->d->is_mem && !legacy_segment(t);
	}
}

/* Sets *ends if control never falls through, *cut if a new segment begins behind it. */
static void emit_kind(struct tr *t, bool *ends, bool *cut)
{
	const struct ginsn *g = t->g;

	*ends = *cut = false;
	t->ea_aligned = false;
	if (g->method == METHOD_SYS) {
		if (emit_sensitive(t, g->sys))
			return;
		emit_sys(t, g->sys);
		*ends = leaves_block(t->d);
		return;
	}
	if (g->method == METHOD_UD) {
		emit_step(t);
		*ends = true;
		return;
	}
	if (!(t->narrow && hidden_operand(t))) {
		t->ea_size = 0;
		if (emit_group(t, ends, cut))
			return;
		note_of(t)->how = HOW_HOST;
		if (emit_host(t))
			return;
	}
	emit_step(t);
	*ends = leaves_block(t->d);
}

void emit_insn(struct tr *t, bool *ends, bool *cut)
{
	const struct ginsn *g = t->g;
	unsigned stubs = t->stubs_n;
	bool sys = g->method == METHOD_SYS;

	t->aware = sys ? sensitive_aware(g->sys) : g->traits & TRAIT_AWARE;
	t->clobber = flags_prepare(t, t->aware);
	emit_kind(t, ends, cut);
	if (t->opening)
		flags_opening(t, stubs);
	if (t->aware && !sys)
		flags_done(t);
	else if (!t->aware)
		t->recipe.kind = RECIPE_NONE;
	t->clobber = false;
}

void new_insn(struct tr *t, unsigned len)
{
	*insn_of(t, t->insn) =
	    (struct tinsn){ .host = (u16)(t->e.p - t->start), .guest = (u16)(t->lin - t->b->lin), .len = len & 15 };
	*note_of(t) = (struct note){ .how = HOW_HOST };
}

/* The block's first instruction does not end in its page: perhaps its other bytes can be had. */
static enum decode_status decode_crossing(struct tr *t)
{
	const u8 *both;
	enum decode_status s;

	t->crosses = true;
	if (t->draft) {
		t->failed = true;
		return DECODE_MORE;
	}
	both = crossing_bytes(t, t->code, &t->avail);
	if (!both)
		return DECODE_MORE;
	t->code = both;
	t->decoded = DECODE_OK;
	s = decode_next(t, 0);
	/* RET n: undo_branch() reads it in its page */
	return s == DECODE_OK && t->g->d.opcode == 0xc2 ? DECODE_INVALID : s;
}

unsigned emit_block(struct tr *t)
{
	unsigned at = 0, n = 0, max = t->x->single ? 1 : BLOCK_INSNS;
	bool ends = false, cut = true;

	plan_windows(t);
	while (!ends && !t->failed && n < max && at < t->avail && t->stubs_n < STUBS_MAX - 8) {
		enum decode_status s = decode_next(t, n);
		unsigned len;

		t->g = &t->ginsn[n];
		t->d = &t->g->d;
		if (t->insn == t->insn_end) {
			t->failed = true;
			break;
		}
		t->lin = t->b->lin + at;
		if (s == DECODE_MORE && n)
			break; /* it crosses into the next page: a block of its own */
		if (s == DECODE_MORE) {
			max = 1;
			s = decode_crossing(t);
		}
		len = s == DECODE_OK ? t->d->len : 1; /* crosses, or no instruction: the reference engine fetches it */
		if (t->steps_only)
			s = DECODE_INVALID;
		islands(t, 110, true);
		new_insn(t, len);
		if (cut)
			begin_segment(t);
		if (s == DECODE_OK && t->b->crosses) {
			t->opening = false;
			emit_crossing_check(t);
		}
		if (s != DECODE_OK) {
			emit_step(t);
			ends = true;
			cut = false;
		} else {
			bool shadow = t->shadow;

			t->next_here = n + 1 < max && at + len + 15 <= t->avail && t->stubs_n < STUBS_MAX - 32;
			emit_insn(t, &ends, &cut);
			if (shadow)
				t->shadow = false;
			if (t->d->opcode == 0xe8 || t->d->opcode == 0xff) /* behind a call */
				t->fpu_checked = false;
		}
		at += len;
		t->insn++;
		n++;
		if (cut)
			t->segment = t->insn;
		if (cut && n >= CUT_INSNS)
			break;
		if (is_cut(t, t->b->lin + at))
			break;
	}
	if (!cut)
		end_segment(t);
	if (!ends)
		emit_exit(t, code_address(t, t->b->lin + at));
	t->b->bytes = (u16)at;
	return n;
}

bool begins_with_access(struct tr *t)
{
	for (unsigned n = 0; n < 6 && t->ginsn_at[n] < t->avail; n++) {
		const struct ginsn *g = &t->ginsn[n];

		if (decode_next(t, n) != DECODE_OK || !(g->traits & TRAIT_AWARE))
			return false;
		if (g->traits & TRAIT_NOP || (g->d.map == 0 && g->d.opcode == 0x8d))
			continue;
		if (g->traits & TRAIT_MEMORY)
			return true;
		if (g->traits & TRAIT_FLAGS)
			return false;
		if (g->traits & TRAIT_BRANCH)
			return true;
	}
	return true;
}
