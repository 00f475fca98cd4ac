/*
 * 32-bit code (see KEY_32). The host is in 64-bit mode: an instruction whose
 * 32-bit encoding means something else there is encoded anew, or left to the
 * reference engine. Results of 32 bits clear the upper halves of registers on
 * both, so only addresses must be truncated: they are computed in 32 bits,
 * never taken from a register as it is.
 */
#include "engine/dbt/translate.h"

bool legacy_segment(const struct tr *t)
{
	switch (t->d->seg) {
	case SEG_DS:
	case SEG_ES:
		return t->x->key & KEY_SEG(t->d->seg);
	case SEG_CS: /* never writable */
		return false;
	default:
		return true;
	}
}

bool legacy_expressible(const struct dinsn *d, const ZydisDecodedInstruction *z)
{
	if (d->map == 0 && z->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		switch (d->opcode) {
		case 0x27: /* DAA, DAS, AAA, AAS */
		case 0x2f:
		case 0x37:
		case 0x3f:
		case 0xd4: /* AAM, AAD, SALC */
		case 0xd5:
		case 0xd6:
			return false;
		}
	}
	return true;
}

/* Operand-size prefix of a 16-bit operand. */
static void put_size(struct emit *e, unsigned size)
{
	if (size == 2)
		put(e, 0x66);
}

static void mov32(struct emit *e, unsigned dst, unsigned src)
{
	op_rr(e, false, 0x89, src, dst);
}

static void lea32(struct emit *e, unsigned dst, unsigned base, s32 disp)
{
	op_rm(e, false, 0x8d, dst, base, disp);
}

/* INC and DEC in their one-byte forms, which are REX prefixes on the host. */
void emit_legacy_inc(struct tr *t)
{
	const struct dinsn *d = t->d;

	put_size(&t->e, d->opsize);
	op_rr(&t->e, false, 0xff, d->opcode >> 3 & 1, home[d->opcode & 7]);
}

/* R14 = ESP - bytes, RCX its write entry. */
static void open_push(struct tr *t, unsigned bytes)
{
	lea32(&t->e, H_R14, home[4], -(s32)bytes);
	emit_access(t, H_R14, bytes, true);
}

/* R14 = `reg`, RCX its read entry. */
static void open_pop(struct tr *t, unsigned reg, unsigned bytes)
{
	mov32(&t->e, H_R14, reg);
	emit_access(t, H_R14, bytes, false);
}

void emit_push_const32(struct tr *t, unsigned size, u32 value)
{
	struct emit *e = &t->e;

	open_push(t, size);
	put_size(e, size);
	op_operand(e, false, 0xc7, 0, H_R14);
	put(e, value & 0xff);
	put(e, value >> 8 & 0xff);
	if (size == 4) {
		put(e, value >> 16 & 0xff);
		put(e, value >> 24);
	}
	mov32(e, home[4], H_R14);
}

static void push_reg(struct tr *t, unsigned size, unsigned g)
{
	struct emit *e = &t->e;

	open_push(t, size);
	put_size(e, size);
	op_operand(e, false, 0x89, home[g], H_R14); /* PUSH ESP: the old value */
	mov32(e, home[4], H_R14);
}

static void push_mem(struct tr *t, unsigned size)
{
	struct emit *e = &t->e;
	unsigned lin;

	t->ea_size = (u8)size;
	lin = emit_ea(t);
	emit_access(t, lin, size, false);
	put_size(e, size);
	op_operand(e, false, 0x8b, H_RCX, lin);
	store_gs(e, H_RCX, HOT(value));
	open_push(t, size);
	mov32(e, home[4], H_R14);
	op_operand(e, true, 0x8d, H_R14, H_R14);
	load_gs(e, H_RCX, HOT(value));
	put_size(e, size);
	op_rm(e, false, 0x89, H_RCX, H_R14, 0);
}

static void pop_reg(struct tr *t, unsigned size, unsigned g)
{
	struct emit *e = &t->e;

	open_pop(t, home[4], size);
	if (g == 4) { /* the loaded value wins */
		put_size(e, size);
		op_operand(e, false, 0x8b, H_RCX, H_R14);
		lea32(e, home[4], home[4], (s32)size);
		put_size(e, size);
		op_rr(e, false, 0x89, H_RCX, home[4]);
		return;
	}
	put_size(e, size);
	op_operand(e, false, 0x8b, home[g], H_R14);
	lea32(e, home[4], home[4], (s32)size);
}

static void leave(struct tr *t)
{
	struct emit *e = &t->e;

	open_pop(t, H_RBP, 4);
	op_operand(e, false, 0x8b, H_R14, H_R14);
	lea32(e, home[4], H_RBP, 4);
	mov32(e, H_RBP, H_R14);
}

/* PUSHAD and POPAD as one access of 32 bytes: EDI lowest. */
static void push_all(struct tr *t)
{
	struct emit *e = &t->e;

	open_push(t, 32);
	op_operand(e, true, 0x8d, H_R14, H_R14);
	for (unsigned g = 0; g < 8; g++)
		op_rm(e, false, 0x89, home[g], H_R14, (s32)(7 - g) * 4);
	lea32(e, home[4], home[4], -32);
}

static void pop_all(struct tr *t)
{
	struct emit *e = &t->e;

	open_pop(t, home[4], 32);
	op_operand(e, true, 0x8d, H_R14, H_R14);
	for (unsigned g = 0; g < 8; g++)
		if (g != 4)
			op_rm(e, false, 0x8b, home[g], H_R14, (s32)(7 - g) * 4);
	lea32(e, home[4], home[4], 32);
}

bool emit_stack32(struct tr *t)
{
	const struct dinsn *d = t->d;
	unsigned op = d->opcode, size = d->opsize;

	if (d->map != 0 || (size != 4 && size != 2))
		return false;
	if (op >= 0x50 && op <= 0x57)
		push_reg(t, size, op & 7);
	else if (op >= 0x58 && op <= 0x5f)
		pop_reg(t, size, op & 7);
	else if (op == 0x68 || op == 0x6a)
		emit_push_const32(t, size, (u32)d->imm);
	else if (op == 0xff && (d->reg & 7) == 6 && d->is_mem)
		push_mem(t, size);
	else if (op == 0xff && (d->reg & 7) == 6)
		push_reg(t, size, d->rm);
	else if (op == 0xc9 && size == 4)
		leave(t);
	else if (op == 0x60 && size == 4)
		push_all(t);
	else if (op == 0x61 && size == 4)
		pop_all(t);
	else
		return false;
	return true;
}

void emit_step_if(struct tr *t, u32 insn, bool saved)
{
	struct emit *e = &t->e;

	put_bytes(e, (const u8[]){ 0x67, 0xe3, 10 }, 3); /* jecxz over mov, jmp */
	put_info(e, LEAVE_STEP, insn);
	jump(e, 0xe9, saved ? t->x->sh->leave_saved[LEAVE_STEP] : t->x->sh->leave[LEAVE_STEP]);
}

/*
 * R14 = offset in FS or GS; makes it the linear address. With a limit, which
 * is checked out of line, or without the right to read and write, it may
 * leave to a step.
 */
void emit_legacy_base(struct tr *t)
{
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;
	unsigned fs = d->seg - SEG_FS, stub;

	islands(t, 60, true);
	op_gs(e, false, 0x8b, H_RCX, HOT(unlimited) + 4 * fs);
	stub = new_stub(t, t->ea_size ? STUB_LIMIT : STUB_LEAVE, LEAVE_STEP, t->insn);
	short_branch(t, true, stub);
	if (t->ea_size) {
		t->stub[stub].reg = (u8)fs;
		t->stub[stub].size = t->ea_size;
		t->stub[stub].resume = e->p;
	}
	load_gs(e, H_RCX,
		(u32)(offsetof(struct cpu, seg) + d->seg * sizeof(struct segment) + offsetof(struct segment, base)));
	op_rmx(e, false, 0x8d, H_R14, H_R14, H_RCX, 0, 0);
}

void emit_limit_check(struct tr *t, const struct stub *s)
{
	static const u8 not_r14[] = { 0x49, 0xf7, 0xd6 };
	struct emit *e = &t->e;

	load_gs(e, H_RCX, HOT(seg_size) + 8u * s->reg);
	put_bytes(e, not_r14, 3);
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_R14, 0, 1 - s->size); /* seg_size - offset - size */
	put_bytes(e, not_r14, 3);
	rorx(e, H_RCX, H_RCX, 32); /* not 0 if negative */
	emit_step_if(t, s->info, s->saved);
}
