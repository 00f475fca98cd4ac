/*
 * PUSH, POP, LEAVE in their 64-bit forms. RSP changes when nothing can fault
 * any more.
 */
#include "engine/dbt/translate.h"

void emit_open_push(struct tr *t)
{
	lea(&t->e, H_R14, home[4], -8);
	emit_access(t, H_R14, 8, true);
}

/* [R14] = RCX. An address that the entry is not for faults here: RSP still has its old value. */
static void finish_push(struct tr *t)
{
	op_rm(&t->e, true, 0x89, H_RCX, H_R14, 0);
	lea(&t->e, home[4], home[4], -8);
}

void emit_push_const(struct tr *t, u64 value)
{
	struct emit *e = &t->e;

	emit_open_push(t);
	if (fits32((s64)value)) {
		op_operand(e, true, 0xc7, 0, H_R14);
		put32(e, (u32)value);
		mov_rr(e, home[4], H_R14);
	} else {
		op_operand(e, true, 0x8d, H_R14, H_R14);
		mov_imm(e, H_RCX, value);
		finish_push(t);
	}
}

void emit_push_call(struct tr *t, u64 ret)
{
	struct emit *e = &t->e;

	emit_open_push(t);
	op_operand(e, true, 0x8d, H_R14, H_R14);
	op_rm(e, true, 0x8b, H_RCX, H_R14, 0);
	store_gs(e, H_RCX, HOT(old));
	mov_imm(e, H_RCX, ret);
	finish_push(t);
}

static void push_reg(struct tr *t, unsigned g)
{
	struct emit *e = &t->e;

	emit_open_push(t);
	if (home[g] != HOME_MEMORY) {
		op_operand(e, true, 0x89, home[g], H_R14); /* PUSH RSP: the old value */
		mov_rr(e, home[4], H_R14);
		return;
	}
	op_operand(e, true, 0x8d, H_R14, H_R14);
	load_gs(e, H_RCX, gpr_off(g));
	finish_push(t);
}

static void push_mem(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned lin = emit_ea(t);

	emit_access(t, lin, 8, false);
	op_operand(e, true, 0x8b, H_RCX, lin);
	store_gs(e, H_RCX, HOT(value));
	emit_open_push(t);
	op_operand(e, true, 0x8d, H_R14, H_R14);
	load_gs(e, H_RCX, HOT(value));
	finish_push(t);
}

static void pop_reg(struct tr *t, unsigned g)
{
	struct emit *e = &t->e;

	emit_access(t, home[4], 8, false);
	if (g == 4) {
		op_operand(e, true, 0x8b, home[4], home[4]);
		return;
	}
	if (home[g] != HOME_MEMORY) {
		op_operand(e, true, 0x8b, home[g], home[4]);
	} else {
		op_operand(e, true, 0x8b, H_RCX, home[4]);
		store_gs(e, H_RCX, gpr_off(g));
	}
	lea(e, home[4], home[4], 8);
}

static void leave(struct tr *t)
{
	struct emit *e = &t->e;

	emit_access(t, H_RBP, 8, false);
	op_operand(e, true, 0x8b, H_R14, H_RBP);
	lea(e, home[4], H_RBP, 8);
	mov_rr(e, H_RBP, H_R14);
}

static unsigned opcode_reg(const struct dinsn *d)
{
	return (d->opcode & 7) | (d->prefixes & DI_REX && d->bytes[d->len - 2] & 1 ? 8 : 0);
}

bool emit_stack(struct tr *t)
{
	const struct dinsn *d = t->d;
	unsigned op = d->opcode;

	if (d->map != 0 || d->opsize != 8)
		return false;
	if (op >= 0x50 && op <= 0x57)
		push_reg(t, opcode_reg(d));
	else if (op >= 0x58 && op <= 0x5f)
		pop_reg(t, opcode_reg(d));
	else if (op == 0x68 || op == 0x6a)
		emit_push_const(t, d->imm);
	else if (op == 0xff && (d->reg & 7) == 6 && d->is_mem)
		push_mem(t);
	else if (op == 0xff && (d->reg & 7) == 6)
		push_reg(t, d->rm);
	else if (op == 0xc9)
		leave(t);
	else
		return false;
	return true;
}
