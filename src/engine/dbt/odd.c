/*
 * Instructions whose host form reaches beyond its operand or has other
 * effects: bit strings, cache lines, XLAT, POP to memory.
 */
#include "engine/dbt/translate.h"

/* R14 = host address of the operand at `lin` */
static void fold(struct tr *t, unsigned lin)
{
	op_operand(&t->e, true, 0x8d, H_R14, lin);
}

/* RCX = offset >> log2(bits of the operand), sign-extended. */
static void unit(struct tr *t, bool wide)
{
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;
	unsigned reg = home[d->reg];

	mov_imm(e, H_RCX, wide ? 6 : 5);
	if (reg == HOME_MEMORY)
		put(e, 0x65);
	/* sarx rcx, offset, rcx */
	put(e, 0xc4);
	put(e, 0xc0 | (reg != HOME_MEMORY && reg >> 3 ? 0 : 0x20) | 2);
	put(e, wide << 7 | (~H_RCX & 15) << 3 | 2);
	put(e, 0xf7);
	if (reg == HOME_MEMORY)
		put_gs_operand(e, H_RCX, gpr_off(d->reg));
	else
		put(e, 0xc0 | H_RCX << 3 | (reg & 7));
	if (!wide)
		op_rr(e, true, 0x63, H_RCX, H_RCX); /* movsxd */
}

/* 0F `op` with a register operand, or with memory at `base`. */
static void op_0f(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm, bool mem)
{
	put(e, 0x40 | w << 3 | (reg >> 3) << 2 | rm >> 3);
	put(e, 0x0f);
	put(e, op);
	if (mem)
		put_base_disp(e, reg, rm, 0);
	else
		put(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/*
 * BT, BTS, BTR, BTC on memory with the offset in a register, which also selects
 * the operand. The host's register form takes the offset modulo the size; its
 * memory form gets it reduced.
 */
static bool bit_string(struct tr *t)
{
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;
	bool wide = d->opsize == 8, write = d->opcode != 0xa3;
	unsigned lin;

	if (d->opsize < 4 || d->addrsize != t->word || (t->narrow && d->seg >= SEG_FS))
		return false;
	islands(t, 100, true);
	lin = emit_ea(t);
	unit(t, wide);
	op_rmx(e, !t->narrow, 0x8d, H_R14, lin, H_RCX, wide ? 3 : 2, 0);
	emit_access(t, H_R14, d->opsize, write);
	fold(t, H_R14);
	if (!write) {
		op_rm(e, wide, 0x8b, H_R14, H_R14, 0);
		op_0f(e, wide, 0xa3, read_reg(t, d->reg, H_RCX), H_R14, false);
	} else if (home[d->reg] == HOME_MEMORY || d->prefixes & DI_LOCK) {
		pext_gs(e, H_RCX, read_reg(t, d->reg, H_RCX), HOT(bit_mask) + 4 * wide);
		if (d->prefixes & DI_LOCK && !(t->x->options && t->x->options->alone))
			put(e, 0xf0);
		op_0f(e, wide, d->opcode, H_RCX, H_R14, true);
	} else {
		op_rm(e, wide, 0x8b, H_RCX, H_R14, 0);
		op_0f(e, wide, d->opcode, home[d->reg], H_RCX, false);
		op_rm(e, wide, 0x89, H_RCX, H_R14, 0);
	}
	return true;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: the operand is checked for reading. */
static bool cache_line(struct tr *t)
{
	unsigned lin;

	if (!(t->g->traits & TRAIT_MODEL))
		return false;
	lin = emit_ea(t);
	emit_access(t, lin, 1, false);
	op_operand(&t->e, false, 0x8a, H_RCX, lin);
	return true;
}

static bool xlat(struct tr *t)
{
	struct emit *e = &t->e;

	if (t->d->addrsize != 8 || t->d->seg >= SEG_FS)
		return false;
	put_bytes(e, (const u8[]){ 0x0f, 0xb6, 0xc8 }, 3); /* movzx ecx, al */
	op_rmx(e, true, 0x8d, H_R14, H_RBX, H_RCX, 0, 0);
	emit_access(t, H_R14, 1, false);
	op_operand(e, false, 0x8a, H_RAX, H_R14);
	return true;
}

/* The destination's address is computed with RSP behind the operand. */
static bool pop_memory(struct tr *t)
{
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;
	struct dinsn popped = *d;
	unsigned lin;

	if (d->opsize != 8)
		return false;
	if (d->base == REG_RSP)
		popped.disp += 8;
	emit_access(t, home[REG_RSP], 8, false);
	op_operand(e, true, 0x8b, H_R14, home[REG_RSP]);
	store_gs(e, H_R14, HOT(value));
	t->d = &popped;
	lin = emit_ea(t);
	t->d = d;
	emit_access(t, lin, 8, true);
	fold(t, lin);
	load_gs(e, H_RCX, HOT(value));
	op_rm(e, true, 0x89, H_RCX, H_R14, 0);
	lea(e, home[REG_RSP], home[REG_RSP], 8);
	return true;
}

void emit_control_word_check(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned lin, stub;

	islands(t, 100, true);
	lin = emit_ea(t);
	emit_access(t, lin, 2, false);
	put(e, 0x66);
	op_operand(e, false, 0x8b, H_RCX, lin);
	put_bytes(e, (const u8[]){ 0xf7, 0xd1 }, 2); /* not ecx */
	pext_gs(e, H_RCX, H_RCX, HOT(bit_mask) + 4);
	put_bytes(e, (const u8[]){ 0x67, 0xe3, 5, 0xe9 }, 4); /* jecxz over the jump */
	stub = new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn);
	t->stub[stub].refs[0] = e->p;
	put32(e, 0);
}

bool emit_odd(struct tr *t)
{
	const struct dinsn *d = t->d;
	unsigned op = d->opcode;

	if (d->map == 0 && op == 0xd7)
		return xlat(t);
	if (d->map == 0 && op == 0x8f && d->is_mem)
		return pop_memory(t);
	if (d->map != 1 || !d->is_mem)
		return false;
	if (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb)
		return bit_string(t);
	return op == 0xae && cache_line(t);
}
