/*
 * String instructions with addresses as wide as the code's: 64 bits in 64-bit mode, 32 in 32-bit code.
 *
 * One that is not repeated is emitted in place. A repeated one looks up its
 * operands for the first iteration, touches them and calls a routine of rep.c,
 * which does the iterations that lie in the same pages; then the next pages are
 * looked up. Between pages the registers are exact and the instruction can be
 * left and begun again.
 *
 * With EFLAGS.DF set all but REP MOVS and REP STOS are left to the reference
 * engine.
 */
#include "engine/dbt/translate.h"

enum string_op { STR_MOVS, STR_CMPS, STR_STOS, STR_LODS, STR_SCAS, STR_NONE };

static enum string_op string_op(const struct dinsn *d)
{
	if (d->map != 0)
		return STR_NONE;
	switch (d->opcode) {
	case 0xa4 ... 0xa5:
		return STR_MOVS;
	case 0xa6 ... 0xa7:
		return STR_CMPS;
	case 0xaa ... 0xab:
		return STR_STOS;
	case 0xac ... 0xad:
		return STR_LODS;
	case 0xae ... 0xaf:
		return STR_SCAS;
	default:
		return STR_NONE;
	}
}

/* Register that holds the source's linear address. */
static unsigned source(struct tr *t)
{
	struct dinsn d = *t->d;
	const struct dinsn *was = t->d;
	unsigned lin;

	d.base = REG_RSI;
	d.index = REG_NONE;
	d.disp = 0;
	t->d = &d;
	lin = emit_ea(t);
	t->d = was;
	return lin;
}

/* An instruction of operand size `size`: `op` for more than one byte, op - 1 for one. */
static void put_sized(struct tr *t, unsigned op, unsigned reg, unsigned base, s32 disp)
{
	unsigned size = t->d->opsize;

	if (size == 2)
		put(&t->e, 0x66);
	op_rm(&t->e, size == 8, size == 1 ? op - 1 : op, reg, base, disp);
}
static void put_sized_operand(struct tr *t, unsigned op, unsigned reg, unsigned lin)
{
	unsigned size = t->d->opsize;

	if (size == 2)
		put(&t->e, 0x66);
	op_operand(&t->e, size == 8, size == 1 ? op - 1 : op, reg, lin);
}

/* Register that holds the destination's linear address. */
static unsigned destination(struct tr *t)
{
	if (!t->narrow)
		return H_RDI;
	op_rr(&t->e, false, 0x89, H_RDI, H_R14);
	return H_R14;
}

static void leave_if_backward(struct tr *t)
{
	struct emit *e = &t->e;

	islands(t, 40, true);
	op_gs(e, false, 0x8b, H_RCX, (u32)offsetof(struct cpu, rflags));
	put_bytes(e, (const u8[]){ 0xf7, 0xd1 }, 2); /* not ecx */
	pext_gs(e, H_RCX, H_RCX, HOT(df_mask));
	short_branch(t, true, new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn));
}

/* The operand at `lin` to hot->value. */
static void keep_operand(struct tr *t, unsigned lin)
{
	put_sized_operand(t, 0x8b, H_R14, lin);
	store_gs(&t->e, H_R14, HOT(value));
}

static void advance(struct tr *t, unsigned reg)
{
	op_rm(&t->e, !t->narrow, 0x8d, reg, reg, t->d->opsize);
}

static void single(struct tr *t, enum string_op op)
{
	struct emit *e = &t->e;
	unsigned size = t->d->opsize, lin;

	leave_if_backward(t);
	switch (op) {
	case STR_STOS:
		lin = destination(t);
		emit_access(t, lin, size, true);
		put_sized_operand(t, 0x89, H_RAX, lin);
		break;
	case STR_SCAS:
		lin = destination(t);
		emit_access(t, lin, size, false);
		put_sized_operand(t, 0x3b, H_RAX, lin);
		break;
	case STR_LODS:
		lin = source(t);
		emit_access(t, lin, size, false);
		put_sized_operand(t, 0x8b, H_RAX, lin);
		break;
	case STR_MOVS:
		lin = source(t);
		emit_access(t, lin, size, false);
		keep_operand(t, lin);
		lin = destination(t);
		emit_access(t, lin, size, true);
		op_operand(e, true, 0x8d, H_R14, lin);
		load_gs(e, H_RCX, HOT(value));
		put_sized(t, 0x89, H_RCX, H_R14, 0);
		break;
	default: /* CMPS: a fault of the second operand comes first */
		lin = destination(t);
		emit_access(t, lin, size, false);
		keep_operand(t, lin);
		lin = source(t);
		emit_access(t, lin, size, false);
		op_operand(e, true, 0x8d, H_R14, lin);
		load_gs(e, H_RCX, HOT(value));
		put_sized(t, 0x39, H_RCX, H_R14, 0);
		break;
	}
	if (op != STR_STOS && op != STR_SCAS)
		advance(t, H_RSI);
	if (op != STR_LODS)
		advance(t, H_RDI);
}

/* R14 = host address of the operand at `lin`, after touching it: an address
 * that the entry is not for faults here. */
static void touch(struct tr *t, unsigned lin, bool write)
{
	struct emit *e = &t->e;

	emit_page_access(t, lin, t->d->opsize, write);
	op_operand(e, true, 0x8d, H_R14, lin);
	op_rm(e, false, 0x8a, H_RCX, H_R14, 0);
}

static enum rep_op touch_operands(struct tr *t, enum string_op op)
{
	bool ne = t->d->prefixes & DI_REPNE;

	switch (op) {
	case STR_STOS:
		touch(t, H_RDI, true);
		return REP_STOS;
	case STR_SCAS:
		touch(t, H_RDI, false);
		return ne ? REPNE_SCAS : REPE_SCAS;
	case STR_MOVS:
		touch(t, source(t), false);
		store_gs(&t->e, H_R14, HOT(value));
		touch(t, H_RDI, true);
		return REP_MOVS;
	default:
		touch(t, H_RDI, false);
		store_gs(&t->e, H_R14, HOT(value));
		touch(t, source(t), false);
		return ne ? REPNE_CMPS : REPE_CMPS;
	}
}

/* The routines take 64 bits of the count and of what they advance. */
static void step_if_wide(struct tr *t)
{
	const u8 reg[] = { home[REG_RCX], H_RSI, H_RDI };

	for (unsigned k = 0; k < ARRAY_SIZE(reg); k++) {
		islands(t, 40, true);
		rorx(&t->e, H_RCX, reg[k], 32);
		emit_step_if(t, t->insn, t->flags != FLAGS_HOST);
	}
}

/* In 32-bit code: can the operands' segments be used? */
static bool segments_ok(const struct tr *t, enum string_op op)
{
	if (op != STR_LODS && !(t->x->key & KEY_SEG(SEG_ES)))
		return false;
	return op == STR_STOS || op == STR_SCAS || (t->d->seg < SEG_FS && legacy_segment(t));
}

static void repeated(struct tr *t, enum string_op op)
{
	struct emit *e = &t->e;
	unsigned done = new_stub(t, STUB_JUMP, LEAVE_COUNT, 0);
	enum rep_op rep;
	u8 *again, *skip;

	if (t->narrow)
		step_if_wide(t);
	islands(t, 40, true);
	again = e->p;
	mov_rr(e, H_RCX, home[REG_RCX]);
	short_branch(t, false, done);
	rep = touch_operands(t, op);
	islands(t, 100, true); /* none in what `skip` skips */
	jump(e, 0xe8, t->x->sh->rep[rep][31 - __builtin_clz(t->d->opsize)]);
	if (t->narrow) { /* behind the last page comes the first */
		op_rr(e, false, 0x89, H_RSI, H_RSI);
		op_rr(e, false, 0x89, H_RDI, H_RDI);
	}
	put(e, 0xe3); /* jrcxz */
	skip = e->p;
	put(e, 0);
	lea(e, H_RCX, H_RCX, 1);
	short_branch(t, false, new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn));
	t->shadow = false; /* it ended with the first iteration */
	emit_safepoint(t, false);
	jump(e, 0xe9, again + e->to_rx);
	if (e->overflow || e->p - (skip + 1) > 127)
		t->failed = true;
	else
		*skip = (u8)(e->p - (skip + 1));
	t->stub[done].resume = e->p;
}

bool emit_string(struct tr *t)
{
	const struct dinsn *d = t->d;
	enum string_op op = string_op(d);
	bool rep = d->prefixes & (DI_REP | DI_REPNE);

	if (op == STR_NONE || d->addrsize != t->word || (rep && op == STR_LODS) || (t->narrow && !segments_ok(t, op)))
		return false;
	if (rep)
		repeated(t, op);
	else
		single(t, op);
	return true;
}
