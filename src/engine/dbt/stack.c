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

/* The same by a window, if there is one: RCX is the entry for [*lin + *disp] = RSP - 8. */
static void open_push(struct tr *t, unsigned *lin, s32 *disp)
{
	if (emit_window(t, WINDOW_STACK, lin, disp))
		return;
	emit_open_push(t);
	*lin = H_R14;
	*disp = 0;
}

/* RCX = the entry for an access of 8 bytes at register `lin0`, which is at [*lin + *disp]. */
void emit_pop_access(struct tr *t, unsigned lin0, unsigned *lin, s32 *disp)
{
	if (emit_window(t, WINDOW_STACK, lin, disp))
		return;
	emit_access(t, lin0, 8, false);
	*lin = lin0;
	*disp = 0;
}

/* R14 = host address of what a push writes. */
static void open_push_folded(struct tr *t)
{
	unsigned lin;
	s32 disp;

	open_push(t, &lin, &disp);
	op_rmx(&t->e, true, 0x8d, H_R14, lin, H_RCX, 0, disp + 1);
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
	unsigned lin;
	s32 disp;

	if (fits32((s64)value)) {
		open_push(t, &lin, &disp);
		op_rmx(e, true, 0xc7, 0, lin, H_RCX, 0, disp + 1);
		put32(e, (u32)value);
		lea(e, home[4], home[4], -8);
	} else {
		open_push_folded(t);
		mov_lin(e, H_RCX, value); /* immediates of PUSH fit: a return address */
		finish_push(t);
	}
}

void emit_push_call(struct tr *t, u64 ret)
{
	struct emit *e = &t->e;

	open_push_folded(t);
	op_rm(e, true, 0x8b, H_RCX, H_R14, 0);
	store_gs(e, H_RCX, HOT(old));
	mov_lin(e, H_RCX, ret);
	finish_push(t);
}

static void push_reg(struct tr *t, unsigned g)
{
	struct emit *e = &t->e;
	unsigned lin;
	s32 disp;

	if (home[g] != HOME_MEMORY) {
		open_push(t, &lin, &disp);
		op_rmx(e, true, 0x89, home[g], lin, H_RCX, 0, disp + 1); /* PUSH RSP: the old value */
		lea(e, home[4], home[4], -8);
		return;
	}
	open_push_folded(t);
	load_gs(e, H_RCX, gpr_off(g));
	finish_push(t);
}

static void push_mem(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned lin;
	s32 disp = 0;

	if (!emit_window(t, WINDOW_OPERAND, &lin, &disp)) {
		lin = emit_ea(t);
		emit_access(t, lin, 8, false);
	}
	op_rmx(e, true, 0x8b, H_RCX, lin, H_RCX, 0, disp + 1);
	store_gs(e, H_RCX, HOT(value));
	open_push_folded(t);
	load_gs(e, H_RCX, HOT(value));
	finish_push(t);
}

static void pop_reg(struct tr *t, unsigned g)
{
	struct emit *e = &t->e;
	unsigned lin;
	s32 disp;

	emit_pop_access(t, home[4], &lin, &disp);
	if (g == 4) {
		op_rmx(e, true, 0x8b, home[4], lin, H_RCX, 0, disp + 1);
		return;
	}
	if (home[g] != HOME_MEMORY) {
		op_rmx(e, true, 0x8b, home[g], lin, H_RCX, 0, disp + 1);
	} else {
		op_rmx(e, true, 0x8b, H_RCX, lin, H_RCX, 0, disp + 1);
		store_gs(e, H_RCX, gpr_off(g));
	}
	lea(e, home[4], home[4], 8);
}

static void leave(struct tr *t)
{
	struct emit *e = &t->e;
	unsigned lin;
	s32 disp;

	emit_pop_access(t, H_RBP, &lin, &disp);
	op_rmx(e, true, 0x8b, H_R14, lin, H_RCX, 0, disp + 1);
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
