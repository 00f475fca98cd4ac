/*
 * Control flow: segments and their charge, branches, calls, returns.
 *
 * A branch is the host's own, first to code out of line that leaves to be
 * linked, later straight to its target. A call pushes the guest's return
 * address on the guest's stack and calls on the host's: RSP is the return
 * stack. A return pops the guest's address into R14 and returns on the host;
 * the code behind the call looks whether R14 is its own address. So the host's
 * return predictor predicts the guest's returns.
 *
 * Every loop has a backward branch or an indirect one: there the safepoint
 * looks at vcpu->go.
 */
#include "engine/dbt/translate.h"

void emit_step(struct tr *t)
{
	flags_prepare(t, false);
	t->aware = false;
	*note_of(t) = (struct note){ .how = HOW_STEP };
	put_info(&t->e, LEAVE_STEP, t->insn);
	jump(&t->e, 0xe9, t->x->sh->leave[LEAVE_STEP]);
	islands(t, 0, false);
}

void emit_safepoint(struct tr *t, bool accesses)
{
	unsigned stub;

	if (t->shadow) /* the STI looks at vcpu->go itself */
		return;
	if (t->clobber && (accesses || t->flags != FLAGS_HOST)) {
		flags_clobber(t);
		stub = new_stub(t, STUB_LEAVE, LEAVE_SAFE, t->insn);
		put_bytes(&t->e, (const u8[]){ 0x65, 0x83 }, 2); /* cmp dword gs:[go], 0 ; je */
		put_gs_operand(&t->e, 7, (u32)offsetof(struct vcpu, go));
		put(&t->e, 0);
		long_branch(t, 4, stub);
		return;
	}
	stub = new_stub(t, STUB_LEAVE, LEAVE_SAFE, t->insn);
	islands(t, 40, true);
	op_gs(&t->e, false, 0x8b, H_RCX, (u32)offsetof(struct vcpu, go));
	short_branch(t, true, stub);
}

void begin_segment(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned stub;

	t->segment = t->insn;
	t->charge = NULL;
	if (!t->x->counted)
		return;
	islands(t, 60, true);
	load_gs(e, H_RCX, HOT(charge));
	put_bytes(e, (const u8[]){ 0x48, 0x8d, 0x89 }, 3); /* lea rcx, [rcx + disp32] */
	t->charge = e->p;
	put32(e, 0);
	store_gs(e, H_RCX, HOT(charge));
	rorx(e, H_RCX, H_RCX, 32); /* negative: the budget covers it */
	stub = new_stub(t, STUB_LEAVE, LEAVE_SAFE, t->insn);
	short_branch(t, true, stub);
	insn_of(t, t->insn)->host = (u16)(e->p - t->start);
}

/* t->insn: one past the segment's last instruction. */
void end_segment(struct tr *t)
{
	u32 n = t->insn - t->segment;

	if (t->charge && !t->e.overflow)
		__builtin_memcpy(t->charge, &n, 4);
	for (u32 k = t->segment; k < t->insn; k++)
		insn_of(t, k)->left = (u8)(t->insn - k);
}

static u32 new_exit(struct tr *t, u64 lin)
{
	if (t->exits_n == t->b->exits_max) {
		t->failed = true;
		return 0;
	}
	t->at.exits[t->exits_n] = (struct texit){ .lin = lin };
	return t->b->exits + t->exits_n++;
}

/* rel32 of a jump, Jcc or call just opened, to be linked to `lin`; flags are in the host or saved. */
static void put_link(struct tr *t, u64 lin)
{
	u32 id = new_exit(t, lin);
	unsigned stub = new_stub(t, STUB_LINK, LEAVE_LINK, id);

	if (!t->failed)
		exit_of(t, id)->patch = code_offset(t, t->e.p);
	t->stub[stub].refs[0] = t->e.p;
	put32(&t->e, 0);
}

void align_link(struct tr *t, unsigned bytes)
{
	static const u8 nop[][3] = { { 0x90 }, { 0x66, 0x90 }, { 0x0f, 0x1f, 0x00 } };
	unsigned at = (unsigned)((uintptr_t)t->e.p + bytes) & 7;

	if (t->x->sh->parallel && at > 4)
		put_bytes(&t->e, nop[7 - at], 8 - at);
}

void emit_exit(struct tr *t, u64 lin)
{
	if (t->flags == FLAGS_LOST)
		flags_to_host(t);
	align_link(t, 1);
	put(&t->e, 0xe9);
	put_link(t, lin);
	islands(t, 0, false);
}

/* R14 must be `lin`, else to `wrong`. The flags are saved. */
static void emit_expect(struct tr *t, u64 lin, const u8 *wrong)
{
	struct emit *e = &t->e;

	if (t->narrow || fits32((s64)lin)) {
		put(e, t->narrow ? 0x41 : 0x49); /* cmp r14, imm32 */
		put(e, 0x81);
		put(e, 0xc0 | 7 << 3 | (H_R14 & 7));
		put32(e, (u32)lin);
		if (e->fixes)
			e->fixes->none = true;
	} else {
		mov_lin(e, H_RCX, lin);
		op_rr(e, true, 0x39, H_RCX, H_R14);
	}
	put(e, 0x0f); /* jne */
	jump(e, 0x85, wrong);
}

void emit_entries(struct tr *t)
{
	struct emit *e = &t->e;
	struct tblock *b = t->b;
	u8 *skip = NULL, *other = e->p; /* not out of line: that changes when the block is translated again */

	put(e, 0xb9);
	put32(e, t->id); /* at ENTRY_BLOCK_ID */
	jump(e, 0xe9, t->x->sh->leave_saved[LEAVE_ENTRY]);
	t->flags = FLAGS_SAVED;
	b->entry_indirect = code_offset(t, e->p);
	emit_expect(t, b->lin, t->x->sh->leave_saved[LEAVE_INDIRECT]);
	b->entry_page = code_offset(t, e->p);
	put_bytes(e, (const u8[]){ 0x41, 0x80 }, 2); /* cmp byte [r15 + AUX_VALID + index], 0 ; je */
	put(e, 0x80 | 7 << 3 | (H_R15 & 7));
	note_fix(e, FIX_PAGE);
	put32(e, AUX_VALID + b->page->index);
	put(e, 0);
	put(e, 0x0f);
	jump(e, 0x84, other + e->to_rx);
	if (b->saved) { /* entry: save */
		put(e, 0xeb);
		skip = e->p;
		put(e, 0);
		b->entry = code_offset(t, e->p);
		emit_save_flags(t);
		if (!e->overflow)
			*skip = (u8)(e->p - (skip + 1));
		b->entry_saved = code_offset(t, e->p);
	} else {
		b->entry_saved = code_offset(t, e->p);
		emit_restore_flags(t);
		b->entry = code_offset(t, e->p);
		t->flags = FLAGS_HOST;
	}
	align_link(t, DOOR_REL); /* of what is put there when it is dead */
	b->body = b->door = code_offset(t, e->p);
}

static u64 target(const struct tr *t)
{
	return code_address(t, t->lin + t->d->len + t->d->imm);
}

static void end_at_branch(struct tr *t)
{
	t->insn++;
	end_segment(t);
	t->insn--;
}

static bool emit_jcc(struct tr *t)
{
	u64 to = target(t);
	bool loops = is_loop_branch(t);

	if (loops && t->loop.fast) {
		end_at_branch(t);
		emit_loop_branch(t);
		return true;
	}
	if (to <= t->lin)
		emit_safepoint(t, false);
	islands(t, 40, true);
	end_at_branch(t);
	align_link(t, 2);
	put(&t->e, 0x0f);
	put(&t->e, 0x80 | (t->d->opcode & 15));
	if (loops)
		put_loop_branch(t);
	else
		put_link(t, to);
	return true;
}

/* LOOP and JRCXZ, JECXZ. */
static bool emit_loop(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned op = t->d->opcode;
	u64 to = target(t);
	bool w = t->d->addrsize == 8;

	if (t->d->addrsize == 2 || op < 0xe2)
		return false;
	emit_safepoint(t, false);
	islands(t, 40, true);
	end_at_branch(t);
	if (op == 0xe2)
		op_rm(e, w, 0x8d, home[1], home[1], -1);
	op_rr(e, w, 0x89, home[1], H_RCX);
	if (op == 0xe2) {
		align_link(t, 3);
		put_bytes(e, (const u8[]){ 0xe3, 5, 0xe9 }, 3);
		put_link(t, to);
	} else {
		align_link(t, 5);
		put_bytes(e, (const u8[]){ 0xe3, 2, 0xeb, 5, 0xe9 }, 5);
		put_link(t, to);
	}
	return true;
}

static bool emit_call(struct tr *t)
{
	u64 to = target(t), ret = code_address(t, t->lin + t->d->len);

	if (to <= t->lin)
		emit_safepoint(t, true);
	if (t->narrow)
		emit_push_const32(t, 4, (u32)ret);
	else
		emit_push_const(t, ret);
	end_at_branch(t);
	flags_to_memory(t);
	islands(t, 40, true);
	align_link(t, 1);
	put(&t->e, 0xe8);
	put_link(t, to);
	t->b->calls = true;
	emit_expect(t, ret, t->x->sh->ret_wrong[t->narrow]);
	return true;
}

/*
 * JMP (op 4) or CALL (2) to R14 through the set's jump cache. In place, so that
 * the host predicts each branch by itself. The branch is noted, should its
 * target turn out not to be canonical.
 */
static void put_cached_jump(struct tr *t, unsigned op)
{
	struct emit *e = &t->e;

	mov_gs_fix(e, HOT(branch), FIX_INSN, t->insn);
	put_jump_slot(e);
	put_bytes(e, (const u8[]){ 0x41, 0xff }, 2); /* [r15 + rcx*8 + AUX_JUMP] */
	put_base_index_disp(e, op, H_R15, H_RCX, 3, (s32)AUX_JUMP(t->narrow ? WIDTH_32 : WIDTH_64));
}

/* R14 = the target of an indirect branch. */
static bool emit_target(struct tr *t)
{
	const struct dinsn *d = t->d;
	unsigned lin;
	s32 disp = 0;

	if (!d->is_mem) {
		unsigned r = read_reg(t, d->rm, H_R14);

		if (r != H_R14)
			op_rr(&t->e, !t->narrow, 0x89, r, H_R14);
		return true;
	}
	t->ea_size = t->word;
	if (!emit_window(t, WINDOW_OPERAND, &lin, &disp)) {
		lin = emit_ea(t);
		emit_access(t, lin, t->word, false);
	}
	op_rmx(&t->e, !t->narrow, 0x8b, H_R14, lin, H_RCX, 0, disp + 1);
	return true;
}

static bool emit_indirect(struct tr *t, bool call)
{
	struct emit *e = &t->e;
	u64 ret = code_address(t, t->lin + t->d->len);

	if (t->d->opsize != t->word)
		return false;
	emit_safepoint(t, call || t->d->is_mem);
	emit_target(t);
	if (!call) {
		end_at_branch(t);
		flags_to_memory(t);
		put_cached_jump(t, 4);
		islands(t, 0, false);
		return true;
	}
	insn_of(t, t->insn)->kind = KIND_CALL;
	store_gs(e, H_R14, HOT(value));
	if (t->narrow) /* no target of 32 bits must be undone */
		emit_push_const32(t, 4, (u32)ret);
	else
		emit_push_call(t, ret);
	end_at_branch(t);
	flags_to_memory(t);
	islands(t, 60, true);
	load_gs(e, H_R14, HOT(value));
	put_cached_jump(t, 2);
	t->b->calls = true;
	emit_expect(t, ret, t->x->sh->ret_wrong[t->narrow]);
	return true;
}

static bool emit_ret(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned lin;
	s32 disp, pop = t->word + (t->d->opcode == 0xc2 ? (u16)t->d->imm : 0);

	/* do_indirect() may want to read the immediate again */
	if (t->d->opsize != t->word || (t->d->opcode == 0xc2 && t->b->crosses))
		return false;
	if (t->narrow) {
		op_rr(e, false, 0x89, home[4], H_R14);
		emit_access(t, H_R14, 4, false);
		op_operand(e, false, 0x8b, H_R14, H_R14);
		op_rm(e, false, 0x8d, home[4], home[4], pop);
	} else {
		emit_pop_access(t, home[4], &lin, &disp);
		op_rmx(e, true, 0x8b, H_R14, lin, H_RCX, 0, disp + 1);
		lea(e, home[4], home[4], pop);
	}
	end_at_branch(t);
	insn_of(t, t->insn)->kind = t->d->opcode == 0xc2 ? KIND_RET_IMM : KIND_RET;
	flags_to_memory(t);
	mov_gs_fix(e, HOT(branch), FIX_INSN, t->insn);
	put(e, 0xc3);
	islands(t, 0, false);
	return true;
}

bool emit_flow(struct tr *t, bool *ends)
{
	const struct dinsn *d = t->d;
	unsigned op = d->opcode;
	bool ok = false;

	*ends = false;
	if (d->map == 1 && op >= 0x80 && op <= 0x8f)
		ok = d->opsize == t->word && emit_jcc(t);
	if (d->map != 0)
		return ok;
	if (op >= 0x70 && op <= 0x7f)
		ok = d->opsize == t->word && emit_jcc(t);
	else if (op >= 0xe0 && op <= 0xe3)
		ok = d->opsize == t->word && emit_loop(t);
	else if (op == 0xe8)
		ok = d->opsize == t->word && emit_call(t);
	else if (op == 0xe9 || op == 0xeb) {
		if (d->opsize != t->word)
			return false;
		if (target(t) <= t->lin)
			emit_safepoint(t, false);
		end_at_branch(t);
		emit_exit(t, target(t));
		*ends = ok = true;
	} else if (op == 0xc2 || op == 0xc3) {
		*ends = ok = emit_ret(t);
	} else if (op == 0xff && (d->reg & 7) == 2) {
		ok = emit_indirect(t, true);
	} else if (op == 0xff && (d->reg & 7) == 4) {
		*ends = ok = emit_indirect(t, false);
	}
	return ok;
}
