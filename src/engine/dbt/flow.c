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
	put(&t->e, 0xb9);
	put32(&t->e, t->insn);
	jump(&t->e, 0xe9, t->x->leave[LEAVE_STEP]);
	islands(t, 0, false);
}

void emit_safepoint(struct tr *t)
{
	unsigned stub = new_stub(t, STUB_LEAVE, LEAVE_SAFE, t->insn);

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
	t->x->insns[t->insn].host = (u16)(e->p - t->start);
}

/* t->insn: one past the segment's last instruction. */
void end_segment(struct tr *t)
{
	u32 n = t->insn - t->segment;

	if (t->charge && !t->e.overflow)
		__builtin_memcpy(t->charge, &n, 4);
	for (u32 k = t->segment; k < t->insn; k++)
		t->x->insns[k].left = (u8)(t->insn - k);
}

static u32 new_exit(struct tr *t, u64 lin)
{
	struct dbt *x = t->x;

	if (x->exits_n == x->exits_end) {
		t->failed = true;
		return 0;
	}
	x->exits[x->exits_n] = (struct texit){ .lin = lin, .block = (u32)(t->b - x->blocks) };
	return x->exits_n++;
}

/* rel32 of a jump, Jcc or call just opened, to be linked to `lin`. */
static void put_link(struct tr *t, u64 lin)
{
	u32 id = new_exit(t, lin);
	unsigned stub = new_stub(t, STUB_LINK, LEAVE_LINK, id);

	if (!t->failed)
		t->x->exits[id].patch = (u32)(t->e.p - t->x->rw);
	t->stub[stub].refs[0] = t->e.p;
	put32(&t->e, 0);
}

void emit_exit(struct tr *t, u64 lin)
{
	put(&t->e, 0xe9);
	put_link(t, lin);
	islands(t, 0, false);
}

/* R14 must be `lin`, else to `wrong`; `skip`: bytes to pass over when it is. */
static void emit_expect(struct tr *t, u64 lin, const u8 *wrong, unsigned skip)
{
	struct emit *e = &t->e;
	u64 neg = 0 - lin;

	if (fits32((s64)neg)) {
		lea(e, H_RCX, H_R14, (s32)neg);
	} else {
		mov_imm(e, H_RCX, neg);
		op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_R14, 0, 0);
	}
	put(e, 0xe3);
	put(e, 5 + skip);
	jump(e, 0xe9, wrong);
}

void emit_entries(struct tr *t)
{
	struct emit *e = &t->e;
	struct tblock *b = t->b;
	u32 id = (u32)(b - t->x->blocks);
	u8 *other;

	b->entry_indirect = (u32)(e->p - t->x->rw);
	emit_expect(t, b->lin, t->x->leave[LEAVE_INDIRECT], 10);
	other = e->p;
	put(e, 0xb9);
	put32(e, id);
	jump(e, 0xe9, t->x->leave[LEAVE_ENTRY]);
	b->entry_page = (u32)(e->p - t->x->rw);
	put_bytes(e, (const u8[]){ 0x41, 0x0f, 0xb6 }, 3); /* movzx ecx, byte [r15 + AUX_VALID + index] */
	put(e, 0x80 | H_RCX << 3 | (H_R15 & 7));
	put32(e, AUX_VALID + b->page->index);
	put_bytes(e, (const u8[]){ 0x67, 0xe3 }, 2);
	put(e, (u8)(other - (e->p + 1)));
	b->entry = b->body = (u32)(e->p - t->x->rw);
}

static u64 target(const struct tr *t)
{
	return t->lin + t->d->len + t->d->imm;
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

	if (to <= t->lin)
		emit_safepoint(t);
	islands(t, 20, true);
	end_at_branch(t);
	put(&t->e, 0x0f);
	put(&t->e, 0x80 | (t->d->opcode & 15));
	put_link(t, to);
	return true;
}

/* LOOP and JRCXZ in their 64-bit forms. */
static bool emit_loop(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned op = t->d->opcode;
	u64 to = target(t);

	if (t->d->addrsize != 8 || op < 0xe2)
		return false;
	emit_safepoint(t);
	islands(t, 40, true);
	end_at_branch(t);
	if (op == 0xe2)
		lea(e, home[1], home[1], -1);
	mov_rr(e, H_RCX, home[1]);
	if (op == 0xe2) {
		put_bytes(e, (const u8[]){ 0xe3, 5, 0xe9 }, 3);
		put_link(t, to);
	} else {
		put_bytes(e, (const u8[]){ 0xe3, 2, 0xeb, 5, 0xe9 }, 5);
		put_link(t, to);
	}
	return true;
}

static bool emit_call(struct tr *t)
{
	u64 to = target(t), ret = t->lin + t->d->len;

	t->b->calls = true;
	if (to <= t->lin)
		emit_safepoint(t);
	emit_push_const(t, ret);
	end_at_branch(t);
	islands(t, 40, true);
	put(&t->e, 0xe8);
	put_link(t, to);
	emit_expect(t, ret, t->x->ret_wrong, 0);
	return true;
}

/* ECX = the branch, should its target turn out not to be canonical. */
static void put_branch(struct tr *t)
{
	put(&t->e, 0xb9);
	put32(&t->e, t->insn);
}

/* R14 = the target of an indirect branch. */
static bool emit_target(struct tr *t)
{
	const struct dinsn *d = t->d;
	unsigned lin;

	if (!d->is_mem) {
		unsigned r = read_reg(t, d->rm, H_R14);

		if (r != H_R14)
			mov_rr(&t->e, H_R14, r);
		return true;
	}
	lin = emit_ea(t);
	emit_access(t, lin, 8, false);
	op_operand(&t->e, true, 0x8b, H_R14, lin);
	return true;
}

static bool emit_indirect(struct tr *t, bool call)
{
	struct emit *e = &t->e;
	u64 ret = t->lin + t->d->len;

	if (t->d->opsize != 8)
		return false;
	emit_safepoint(t);
	emit_target(t);
	if (!call) {
		end_at_branch(t);
		put_branch(t);
		jump(e, 0xe9, t->x->jump_indirect);
		islands(t, 0, false);
		return true;
	}
	t->b->calls = true;
	t->x->insns[t->insn].kind = KIND_CALL;
	store_gs(e, H_R14, HOT(value));
	emit_push_call(t, ret);
	end_at_branch(t);
	islands(t, 60, true);
	load_gs(e, H_R14, HOT(value));
	put_branch(t);
	jump(e, 0xe8, t->x->jump_indirect);
	emit_expect(t, ret, t->x->ret_wrong, 0);
	return true;
}

static bool emit_ret(struct tr *t)
{
	struct emit *e = &t->e;
	s32 pop = 8 + (t->d->opcode == 0xc2 ? (u16)t->d->imm : 0);

	if (t->d->opsize != 8)
		return false;
	emit_access(t, home[4], 8, false);
	op_operand(e, true, 0x8b, H_R14, home[4]);
	lea(e, home[4], home[4], pop);
	end_at_branch(t);
	t->x->insns[t->insn].kind = t->d->opcode == 0xc2 ? KIND_RET_IMM : KIND_RET;
	mov_gs_imm32(e, HOT(branch), t->insn);
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
		ok = d->opsize == 8 && emit_jcc(t);
	if (d->map != 0)
		return ok;
	if (op >= 0x70 && op <= 0x7f)
		ok = d->opsize == 8 && emit_jcc(t);
	else if (op >= 0xe0 && op <= 0xe3)
		ok = d->opsize == 8 && emit_loop(t);
	else if (op == 0xe8)
		ok = d->opsize == 8 && emit_call(t);
	else if (op == 0xe9 || op == 0xeb) {
		if (d->opsize != 8)
			return false;
		if (target(t) <= t->lin)
			emit_safepoint(t);
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
