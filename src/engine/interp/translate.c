/*
 * From bytes to handlers: decodes a run of instructions and selects for each
 * the handler that does it. The instruction table decides the kind; integer
 * instructions that have no handler of their own, and every locked one, go to
 * the host by thunk like the arithmetic.
 *
 * Ordinary C: runs with the guest's vector state parked.
 */
#include "cpu/cpuid.h"
#include "engine/interp/ops.h"
#include "engine/interp/thunk.h"
#include "isa/isa.h"

/* Selection in progress. */
struct select {
	struct vcpu *v;
	struct insn *i;
	const struct dinsn *d;
	unsigned sz; /* log2 of the operand size */
	unsigned ea; /* EA_* of the memory operand */
	bool fast;   /* near branches need no checks (64-bit or flat 32-bit code, full-width operand) */
	bool ends;
};

static unsigned log2_size(unsigned bytes)
{
	return bytes >= 8 ? 3 : bytes == 4 ? 2 : bytes == 2 ? 1 : 0;
}

/* Byte offset of byte register n: AH CH DH BH without REX. */
static u8 reg8(const struct dinsn *d, unsigned n)
{
	return (u8)(n >= 4 && n < 8 && !(d->prefixes & DI_REX) ? (n - 4) * 8 + 1 : n * 8);
}
static u8 reg_off(const struct dinsn *d, unsigned n, unsigned sz)
{
	return sz == 0 ? reg8(d, n) : (u8)(n * 8);
}

static void set_memory(struct select *s)
{
	const struct dinsn *d = s->d;
	struct insn *i = s->i;

	i->base = (u8)(d->base * 8);
	i->index = (u8)(d->index * 8);
	i->shift = d->scale == 8 ? 3 : d->scale == 4 ? 2 : d->scale == 2 ? 1 : 0;
	i->disp = d->disp;
	if (d->base == REG_RIP)
		i->disp += i->off + i->len;
	i->seg = d->seg;
	if (d->mode == CODE_64 && d->addrsize == 8 && d->seg < SEG_FS)
		s->ea = d->index == REG_NONE ? EA_BASE : EA_INDEXED;
	else
		s->ea = EA_GENERIC;
}

static void copy_dinsn(struct select *s)
{
	struct dinsn *keep = cache_alloc(interp_of(s->v), sizeof(*keep));

	*keep = *s->d; /* cache_find keeps room for a whole block */
	s->i->d = keep;
}

static bool set_sys(struct select *s, unsigned sys)
{
	copy_dinsn(s);
	s->i->sys = (u8)sys;
	s->i->fn = op_sys;
	s->ends = true;
	return true;
}

static bool set_ud(struct select *s)
{
	s->i->fn = op_ud;
	s->ends = true;
	return true;
}

static bool set(struct select *s, op_fn fn)
{
	s->i->fn = fn;
	return fn != NULL;
}

/* Arithmetic of the regular opcode block and group 1. */
static bool alu(struct select *s, unsigned op, unsigned form)
{
	const struct dinsn *d = s->d;
	struct insn *i = s->i;

	switch (form) {
	case 0: /* E, G */
	case 1:
		i->src = reg_off(d, d->reg, s->sz);
		if (d->is_mem)
			return set(s, alu_mr[op][s->sz][s->ea]);
		i->dst = reg_off(d, d->rm, s->sz);
		return set(s, alu_rr[op][s->sz]);
	case 2: /* G, E */
	case 3:
		i->dst = reg_off(d, d->reg, s->sz);
		if (d->is_mem)
			return set(s, alu_rm[op][s->sz][s->ea]);
		i->src = reg_off(d, d->rm, s->sz);
		return set(s, alu_rr[op][s->sz]);
	case 4: /* rAX, I */
		i->dst = 0;
		return set(s, alu_ri[op][s->sz]);
	default: /* E, I */
		if (d->is_mem)
			return set(s, alu_mi[op][s->sz][s->ea]);
		i->dst = reg_off(d, d->rm, s->sz);
		return set(s, alu_ri[op][s->sz]);
	}
}

static bool unary(struct select *s, unsigned op)
{
	if (s->d->is_mem)
		return set(s, unary_m[op][s->sz][s->ea]);
	s->i->dst = reg_off(s->d, s->d->rm, s->sz);
	return set(s, unary_r[op][s->sz]);
}

/* ROL, ROR of a register by an immediate other than 1: OF is undefined, so it is to be what the host makes of it. */
static bool rotate(struct select *s)
{
	if (!rotate_keeps_of())
		return false; /* by thunk */
	s->i->dst = reg_off(s->d, s->d->rm, s->sz);
	return set(s, rotate_rk[s->d->reg & 7][s->sz]);
}

static bool shift(struct select *s)
{
	const struct dinsn *d = s->d;
	bool by_cl = d->opcode == 0xd2 || d->opcode == 0xd3;
	bool by_imm = d->opcode == 0xc0 || d->opcode == 0xc1;

	if (by_imm && !d->is_mem && (d->reg & 7) < 2 && (s->i->imm & (s->sz == 3 ? 63 : 31)) != 1)
		return rotate(s);

	if (d->opcode == 0xd0 || d->opcode == 0xd1)
		s->i->imm = 1;
	if (d->is_mem)
		return set(s, (by_cl ? shift_mc : shift_mi)[d->reg & 7][s->sz][s->ea]);
	s->i->dst = reg_off(d, d->rm, s->sz);
	return set(s, (by_cl ? shift_rc : shift_ri)[d->reg & 7][s->sz]);
}

/* MOV in the E,G / G,E forms. */
static bool mov(struct select *s)
{
	const struct dinsn *d = s->d;
	bool load = d->opcode == 0x8a || d->opcode == 0x8b;

	if (d->is_mem && load) {
		s->i->dst = reg_off(d, d->reg, s->sz);
		return set(s, mov_rm[s->sz][s->ea]);
	}
	if (d->is_mem) {
		s->i->src = reg_off(d, d->reg, s->sz);
		return set(s, mov_mr[s->sz][s->ea]);
	}
	s->i->dst = reg_off(d, load ? d->reg : d->rm, s->sz);
	s->i->src = reg_off(d, load ? d->rm : d->reg, s->sz);
	return set(s, mov_rr[s->sz]);
}

static bool extend(struct select *s, bool sign, unsigned from)
{
	const struct dinsn *d = s->d;

	if (s->sz == 0)
		return false;
	s->i->dst = (u8)(d->reg * 8);
	if (d->is_mem)
		return set(s, sign ? movsx_rm[from][s->sz][s->ea] : movzx_rm[from][s->sz][s->ea]);
	s->i->src = reg_off(d, d->rm, from);
	return set(s, sign ? movsx_rr[from][s->sz] : movzx_rr[from][s->sz]);
}

static bool stack64(const struct select *s)
{
	return s->d->mode == CODE_64 && s->sz == 3;
}

static bool push(struct select *s)
{
	const struct dinsn *d = s->d;

	s->i->size = d->opsize;
	if (d->opcode >= 0x50 && d->opcode <= 0x57) {
		s->i->seg = SEG_SS;
		s->i->src = (u8)(((d->opcode & 7) | (d->prefixes & DI_REX && d->bytes[d->len - 2] & 1 ? 8 : 0)) * 8);
		return set(s, stack64(s) ? push_r64 : push_r);
	}
	if (d->opcode == 0x68 || d->opcode == 0x6a) {
		s->i->seg = SEG_SS;
		return set(s, stack64(s) ? push_i64 : push_i);
	}
	if (d->is_mem)
		return set(s, stack64(s) ? push_m64[s->ea] : push_m);
	s->i->seg = SEG_SS;
	s->i->src = (u8)(d->rm * 8);
	return set(s, stack64(s) ? push_r64 : push_r);
}

static bool pop(struct select *s)
{
	const struct dinsn *d = s->d;

	s->i->size = d->opsize;
	if (d->opcode >= 0x58 && d->opcode <= 0x5f)
		s->i->dst = (u8)(((d->opcode & 7) | (d->prefixes & DI_REX && d->bytes[d->len - 2] & 1 ? 8 : 0)) * 8);
	else if (d->is_mem)
		return set(s, pop_m);
	else
		s->i->dst = (u8)(d->rm * 8);
	s->i->seg = SEG_SS;
	return set(s, stack64(s) ? pop_r64 : pop_r);
}

static bool near_branch(struct select *s)
{
	const struct dinsn *d = s->d;
	struct insn *i = s->i;
	unsigned op = d->opcode;

	i->imm = d->imm + i->off + i->len;
	i->size = d->opsize;
	i->seg = SEG_SS; /* of the pushed return address */
	if (op == 0xe8) {
		s->ends = true;
		return set(s, s->fast && d->mode == CODE_64 ? call_near64 : call_any);
	}
	if (op == 0xe9 || op == 0xeb) {
		s->ends = true;
		return set(s, s->fast ? jmp_near : jmp_any);
	}
	if (d->map == 0 && op >= 0xe0 && op <= 0xe3) {
		i->cond = op & 3;
		return set(s, loop_any);
	}
	i->cond = op & 15;
	return set(s, s->fast ? jcc_near[i->cond] : jcc_any);
}

static bool ret(struct select *s)
{
	s->ends = true;
	s->i->size = s->d->opsize;
	s->i->seg = SEG_SS;
	s->i->imm = s->d->opcode == 0xc2 ? (u16)s->d->imm : 0;
	return set(s, stack64(s) ? ret_near64 : ret_any);
}

/* FF /2 /4: near indirect CALL and JMP. */
static bool indirect(struct select *s, bool call)
{
	const struct dinsn *d = s->d;

	s->ends = true;
	s->i->size = d->opsize;
	s->i->cond = d->is_mem;
	s->i->src = (u8)(d->rm * 8);
	if (!stack64(s))
		return set(s, call ? call_rm_any : jmp_rm_any);
	if (d->is_mem)
		return set(s, call ? call_m64[s->ea] : jmp_m64[s->ea]);
	s->i->seg = SEG_SS;
	return set(s, call ? call_r64 : jmp_r64);
}

static bool string(struct select *s, enum string_op op)
{
	s->i->size = s->d->opsize;
	s->i->seg = s->d->seg;
	s->i->cond = s->d->prefixes & DI_REPNE ? 2 : s->d->prefixes & DI_REP ? 1 : 0;
	return set(s, string_ops[op]);
}

static bool bcd(struct select *s, unsigned which)
{
	s->i->cond = (u8)which;
	return set(s, op_bcd[which]);
}

/* One-byte opcodes 80H and up; false: no handler, use a thunk. */
static bool select_high(struct select *s)
{
	const struct dinsn *d = s->d;
	struct insn *i = s->i;
	unsigned op = d->opcode;

	switch (op) {
	case 0x80 ... 0x83:
		return alu(s, d->reg & 7, 5);
	case 0x84 ... 0x85:
		return alu(s, ALU_TEST, 0);
	case 0x86 ... 0x87:
		if (d->is_mem)
			return false;
		i->dst = reg_off(d, d->rm, s->sz);
		i->src = reg_off(d, d->reg, s->sz);
		return set(s, xchg_rr[s->sz]);
	case 0x88 ... 0x8b:
		return mov(s);
	case 0x8d:
		if (!d->is_mem)
			return set_ud(s);
		i->dst = (u8)(d->reg * 8);
		/* an override changes nothing: only the address size decides */
		return set(
		    s,
		    lea_r[s->sz][d->mode == CODE_64 && d->addrsize == 8 ? (d->index == REG_NONE ? EA_BASE : EA_INDEXED)
									: EA_GENERIC]);
	case 0x8f:
		return pop(s);
	case 0x90 ... 0x97: {
		unsigned r = (op & 7) | (d->prefixes & DI_REX && d->bytes[d->len - 2] & 1 ? 8 : 0);

		if (r == 0 || d->mnemonic == ZYDIS_MNEMONIC_PAUSE) /* with REX.B too */
			return set(s, op_nop);
		i->dst = (u8)(r * 8);
		i->src = 0;
		return set(s, xchg_rr[s->sz]);
	}
	case 0x98:
		return set(s, op_cbw[s->sz]);
	case 0x99:
		return set(s, op_cwd[s->sz]);
	case 0x9e:
		return set(s, op_sahf);
	case 0x9f:
		return set(s, op_lahf);
	case 0xa0 ... 0xa1:
		i->dst = 0;
		return set(s, mov_rm[s->sz][s->ea]);
	case 0xa2 ... 0xa3:
		i->src = 0;
		return set(s, mov_mr[s->sz][s->ea]);
	case 0xa4 ... 0xa5:
		return string(s, STR_MOVS);
	case 0xa6 ... 0xa7:
		return string(s, STR_CMPS);
	case 0xa8 ... 0xa9:
		return alu(s, ALU_TEST, 4);
	case 0xaa ... 0xab:
		return string(s, STR_STOS);
	case 0xac ... 0xad:
		return string(s, STR_LODS);
	case 0xae ... 0xaf:
		return string(s, STR_SCAS);
	case 0xb0 ... 0xbf: {
		unsigned rex_at = d->len - 2u - (op < 0xb8 ? 1u : d->opsize);
		unsigned r = (op & 7) | (d->prefixes & DI_REX && d->bytes[rex_at] & 1 ? 8 : 0);

		i->dst = op < 0xb8 ? reg8(d, r) : (u8)(r * 8);
		return set(s, mov_ri[s->sz]);
	}
	case 0xc0 ... 0xc1:
	case 0xd0 ... 0xd3:
		return shift(s);
	case 0xc2 ... 0xc3:
		return ret(s);
	case 0xc6 ... 0xc7:
		i->dst = reg_off(d, d->rm, s->sz);
		return set(s, d->is_mem ? mov_mi[s->sz][s->ea] : mov_ri[s->sz]);
	case 0xc9:
		i->size = d->opsize;
		i->seg = SEG_SS;
		return set(s, stack64(s) ? leave64 : leave_any);
	case 0xd4:
		return bcd(s, 4);
	case 0xd5:
		return bcd(s, 5);
	case 0xd6:
		return set(s, op_salc);
	case 0xd7:
		i->base = REG_RBX * 8;
		i->index = REG_NONE * 8;
		i->seg = d->seg;
		return set(s, op_xlat);
	case 0xe0 ... 0xe3:
	case 0xe8 ... 0xe9:
	case 0xeb:
		return near_branch(s);
	case 0xf5:
		return set(s, op_cmc);
	case 0xf6 ... 0xf7:
		switch (d->reg & 7) {
		case 0:
		case 1:
			return alu(s, ALU_TEST, 5);
		case 2:
			return unary(s, UN_NOT);
		case 3:
			return unary(s, UN_NEG);
		default:
			return false;
		}
	case 0xf8:
		return set(s, op_clc);
	case 0xf9:
		return set(s, op_stc);
	case 0xfc:
		return set(s, op_cld);
	case 0xfd:
		return set(s, op_std);
	case 0xfe ... 0xff:
		switch (d->reg & 7) {
		case 0:
			return unary(s, UN_INC);
		case 1:
			return unary(s, UN_DEC);
		case 2:
			return indirect(s, true);
		case 4:
			return indirect(s, false);
		default:
			return push(s);
		}
	default:
		return false;
	}
}

static bool select_one_byte(struct select *s)
{
	const struct dinsn *d = s->d;
	unsigned op = d->opcode;

	if (op < 0x40) {
		if ((op & 7) < 6)
			return alu(s, op >> 3, (op & 7) == 5 ? 4 : op & 7);
		return bcd(s, op == 0x37 ? 0 : op == 0x3f ? 1 : op == 0x27 ? 2 : 3);
	}
	if (op < 0x50) { /* INC and DEC r outside 64-bit mode */
		s->i->dst = (u8)((op & 7) * 8);
		return set(s, unary_r[op < 0x48 ? UN_INC : UN_DEC][s->sz]);
	}
	if (op < 0x58)
		return push(s);
	if (op < 0x60)
		return pop(s);
	switch (op) {
	case 0x60:
		s->i->size = d->opsize;
		return set(s, pusha);
	case 0x61:
		s->i->size = d->opsize;
		return set(s, popa);
	case 0x63:
		return extend(s, true, s->sz == 1 ? 1 : 2); /* 16 bits to 16 bits with 66H */
	case 0x68:
	case 0x6a:
		return push(s);
	case 0x69:
	case 0x6b:
		if (d->is_mem)
			return false;
		s->i->dst = (u8)(d->reg * 8);
		s->i->src = (u8)(d->rm * 8);
		return set(s, imul_rri[s->sz]);
	case 0x70 ... 0x7f:
		return near_branch(s);
	default:
		return op >= 0x80 && select_high(s);
	}
}

static bool select_two_byte(struct select *s)
{
	const struct dinsn *d = s->d;
	struct insn *i = s->i;
	unsigned op = d->opcode;

	switch (op) {
	case 0x0d:
	case 0x18 ... 0x1f:
		return set(s, op_nop); /* PREFETCH, NOP Ev, ENDBR, CLDEMOTE: memory is not touched */
	case 0x40 ... 0x4f:
		i->cond = op & 15;
		i->dst = (u8)(d->reg * 8);
		i->src = (u8)(d->rm * 8);
		return set(s, d->is_mem ? cmov_rm[s->sz][s->ea] : cmov_rr[s->sz]);
	case 0x80 ... 0x8f:
		return near_branch(s);
	case 0x90 ... 0x9f:
		i->cond = op & 15;
		i->dst = reg8(d, d->rm);
		return set(s, d->is_mem ? setcc_m[s->ea] : setcc_r);
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb:
		if (!d->is_mem)
			return false;
		copy_dinsn(s);
		i->src = (u8)(d->reg * 8);
		return set(s, op_bit_mem);
	case 0xae: /* fences; CLFLUSH, CLFLUSHOPT, CLWB check their operand for reading */
		return set(s, d->is_mem ? op_touch : op_nop);
	case 0xaf:
		if (d->is_mem)
			return false;
		i->dst = (u8)(d->reg * 8);
		i->src = (u8)(d->rm * 8);
		return set(s, imul_rr[s->sz]);
	case 0xb6:
		return extend(s, false, 0);
	case 0xb7:
		return extend(s, false, 1);
	case 0xbe:
		return extend(s, true, 0);
	case 0xbf:
		return extend(s, true, 1);
	case 0xc8 ... 0xcf:
		i->dst = (u8)(((op & 7) | (d->prefixes & DI_REX && d->bytes[d->len - 3] & 1 ? 8 : 0)) * 8);
		return set(s, bswap_r[s->sz]);
	default:
		return false;
	}
}

static void select_host(struct select *s, bool check_model);

/* A model without LZCNT or BMI1 ignores the F3 of LZCNT and TZCNT: they are BSR and BSF. */
static bool select_without_f3(struct select *s, unsigned mnemonic)
{
	struct dinsn plain;
	u8 bytes[15];
	unsigned n = 0;

	if (mnemonic != ZYDIS_MNEMONIC_LZCNT && mnemonic != ZYDIS_MNEMONIC_TZCNT)
		return false;
	for (unsigned k = 0; k < s->d->len; k++) {
		bool prefix = k < s->d->len - 2u && n == k; /* up to the first F3 everything was kept */

		if (!prefix || s->d->bytes[k] != 0xf3)
			bytes[n++] = s->d->bytes[k];
	}
	if (dinsn_decode(&plain, bytes, n, s->d->mode) != DECODE_OK)
		return false;
	s->d = &plain;
	select_host(s, false);
	return true;
}

/* The host does it: vector and x87 arithmetic, and what has no handler. */
static void select_host(struct select *s, bool check_model)
{
	const struct dinsn *d = s->d;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	enum fpu_need need;

	if (isa_decode_full(&z, ops, d->bytes, d->len, d->mode) != DECODE_OK) {
		set_ud(s);
		return;
	}
	if (check_model && !cpu_model_has_isa_set(s->v->model, z.meta.isa_set)) {
		if (!select_without_f3(s, z.mnemonic))
			set_ud(s);
		return;
	}
	need = thunk_need(&z, ops);
	s->i->fpu = (u8)need;
	if (select_special(s->v, s->i, d, &z, ops))
		return;
	s->i->thunk = thunk_make(interp_of(s->v)->thunks, &z, ops, d, need);
	s->i->fn = op_host;
	if (need == FPU_X87) /* FOP: it has no immediates */
		s->i->imm = (d->opcode & 7u) << 8 | d->bytes[z.raw.modrm.offset];
	if (!s->i->thunk)
		set_ud(s);
}

void select_op(struct vcpu *v, struct insn *i, const struct dinsn *d, bool *ends)
{
	const struct isa_row *row = isa_row_of(d);
	unsigned mode = hot(v)->mode;
	struct select s = { .v = v, .i = i, .d = d, .sz = log2_size(d->opsize) };
	bool done = false;

	s.fast = (mode == BLOCK_64 && d->opsize == 8) || (mode == BLOCK_32_FLAT && d->opsize == 4);
	i->imm = d->imm;
	i->addrsize = d->addrsize;
	i->size = d->opsize;
	i->base = i->index = REG_NONE * 8;
	if (d->is_mem)
		set_memory(&s);
	if (row->method == METHOD_SYS) {
		done = set_sys(&s, row->sys);
	} else if (row->method == METHOD_UD) {
		done = set_ud(&s);
	} else if (row->method == METHOD_CORE && (!(d->prefixes & DI_LOCK) || (d->map == 1 && d->is_mem))) {
		/* LOCK BTS with a register offset is the one locked form with a handler */
		if (d->map == 0)
			done = select_one_byte(&s);
		else if (d->map == 1 &&
			 (!(d->prefixes & DI_LOCK) || d->opcode == 0xab || d->opcode == 0xb3 || d->opcode == 0xbb))
			done = select_two_byte(&s);
	}
	if (!done)
		select_host(&s, row->method == METHOD_HOST);
	*ends = s.ends;
}

static void set_left(struct block *b)
{
	for (unsigned k = 0; k < b->n; k++)
		b->insn[k].left = (u16)(b->n - 1 - k);
}

/* The bytes at the start of the block are no instruction at all. */
static void bad_instruction(struct block *b, op_fn fn, unsigned len)
{
	b->insn[0] = (struct insn){ .fn = fn, .off = b->off, .len = (u8)len };
	b->n = 1;
	b->bytes = (u16)len;
}

int translate_block(struct vcpu *v, struct block *b, const u8 *bytes, unsigned avail, unsigned max)
{
	enum code_mode mode = b->mode == BLOCK_32_FLAT ? CODE_32 : (enum code_mode)b->mode;
	unsigned at = 0;
	bool ends = false;

	fpu_park(v);
	b->n = 0;
	while (b->n < max && at < avail && !ends) {
		struct insn *i = &b->insn[b->n];
		struct dinsn d;
		enum decode_status s = dinsn_decode(&d, bytes + at, MIN(15, avail - at), mode);

		if (s != DECODE_OK) {
			if (b->n)
				break; /* a block of its own deals with it when it is reached */
			if (s == DECODE_MORE)
				return TRANSLATE_CROSSES;
			bad_instruction(b, s == DECODE_TOO_LONG ? op_too_long : op_ud, 1);
			return 0;
		}
		*i = (struct insn){ .off = (u16)(b->off + at), .len = d.len };
		select_op(v, i, &d, &ends);
		at += d.len;
		b->n++;
	}
	b->bytes = (u16)at;
	b->insn[b->n] = (struct insn){ .fn = op_end_of_block, .off = (u16)(b->off + at) };
	set_left(b);
	return 0;
}
