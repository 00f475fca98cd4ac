/*
 * User-level instructions: the guest's own bytes with register numbers and the
 * memory operand replaced. Prefixes that name segments or the address size
 * have done their work in the effective address and are dropped.
 *
 * A register whose home is memory is loaded into a free one before and stored
 * after. Free are R14 and RCX, as far as the memory operand leaves them:
 *
 *   [lin + rcx + 1]   nothing is free
 *   folded: [r14]     RCX is
 *   folded: [rcx]     R14 is not, for it needs REX, which AH, BH and DH exclude
 */
#include "engine/dbt/translate.h"

#define NOT_GPR 0xff

struct plan {
	u8 reg, rm, vvvv, opcode; /* host register of the field, NOT_GPR: as it is */
	enum { MEM_NONE, MEM_PLAIN, MEM_R14, MEM_RCX } mem;
	u8 lin;
	s32 disp; /* MEM_PLAIN: [lin + rcx + disp + 1] */
	u8 size;  /* of the memory operand */
	bool read, write;
	bool high;     /* AH, CH, DH or BH: no REX */
	bool cl;       /* a count in CL */
	bool rcx_home; /* RCX stands for the guest's own RCX */
	bool rcx_written;
	bool r14_taken; /* as a destination, though it holds the operand's address */
	struct {
		u8 guest, temp;
		bool load, store;
	} borrow[2];
	unsigned borrowed;
};

static int gpr_number(ZydisRegister r)
{
	int id;

	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
		id = ZydisRegisterGetId(r); /* AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8B.. in Zydis' order */
		return id < 4 ? id : id - 4;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(r);
	default:
		return -1;
	}
}

static bool is_high(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static bool find_memory(struct tr *t, struct plan *p)
{
	for (unsigned k = 0; k < t->z->operand_count; k++) {
		const ZydisDecodedOperand *o = &t->ops[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || p->mem != MEM_NONE || !o->size || o->size > 512 ||
		    o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			return false;
		p->mem = MEM_PLAIN;
		p->size = (u8)(o->size / 8);
		p->read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
		p->write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	}
	return true;
}

/* A host register for guest register `g`; NOT_GPR: none is left. */
/* `keeps`: its old value is wanted. */
static u8 assign(struct plan *p, unsigned g, const ZydisDecodedOperand *o, bool keeps, const u8 *temps,
		 unsigned temps_n)
{
	bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	bool load = keeps || (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || o->size < 32 ||
		    (o->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);

	if (g == 1 && p->rcx_home) {
		p->rcx_written |= write;
		return H_RCX;
	}
	if (home[g] != HOME_MEMORY)
		return home[g];
	for (unsigned k = 0; k < p->borrowed; k++) {
		if (p->borrow[k].guest == g) {
			p->borrow[k].load |= load;
			p->borrow[k].store |= write;
			return p->borrow[k].temp;
		}
	}
	/* The address in R14 has been used when the instruction writes its results. */
	if (p->mem == MEM_R14 && !load && !p->r14_taken) {
		p->r14_taken = true;
		p->borrow[p->borrowed].guest = (u8)g;
		p->borrow[p->borrowed].temp = H_R14;
		p->borrow[p->borrowed].load = false;
		p->borrow[p->borrowed].store = write;
		return p->borrow[p->borrowed++].temp;
	}
	if (p->borrowed - p->r14_taken == temps_n)
		return NOT_GPR;
	p->borrow[p->borrowed].guest = (u8)g;
	p->borrow[p->borrowed].temp = temps[p->borrowed - p->r14_taken];
	p->borrow[p->borrowed].load = load;
	p->borrow[p->borrowed].store = write;
	return p->borrow[p->borrowed++].temp;
}

/* What the instruction does with general registers. False: not expressible. */
static bool find_registers(struct tr *t, struct plan *p)
{
	bool borrows = false;

	for (unsigned k = 0; k < t->z->operand_count; k++) {
		const ZydisDecodedOperand *o = &t->ops[k];
		int g = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(o->reg.value) : -1;

		if (g < 0)
			continue;
		p->high |= is_high(o->reg.value);
		borrows |= home[g] == HOME_MEMORY;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE && o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
		    g == 1)
			p->cl = true;
		if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || o->encoding == ZYDIS_OPERAND_ENCODING_NONE) {
			if (g == 1) {
				p->cl = true; /* a count, RCX:RBX of CMPXCHG16B, the result of PCMPISTRI */
				p->rcx_written |= (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
			} else if (home[g] != g) {
				return false;
			}
		}
	}
	p->rcx_home = p->high;
	if (p->mem != MEM_NONE) {
		if (p->high)
			p->mem = MEM_RCX, p->rcx_home = false;
		else if (borrows || p->cl)
			p->mem = MEM_R14;
	}
	return true;
}

/* Does another operand read what operand `n` writes? */
static bool read_elsewhere(const struct tr *t, unsigned n, int g)
{
	for (unsigned k = 0; k < t->z->operand_count; k++)
		if (k != n && t->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_number(t->ops[k].reg.value) == g &&
		    (t->ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_READ))
			return true;
	return false;
}

static bool assign_registers(struct tr *t, struct plan *p)
{
	static const u8 both[] = { H_R14, H_RCX }, rcx[] = { H_RCX };
	const u8 *temps = both;
	unsigned n = 2;
	/* of a zero source they leave the whole destination alone */
	bool keeps = t->z->mnemonic == ZYDIS_MNEMONIC_BSF || t->z->mnemonic == ZYDIS_MNEMONIC_BSR;

	if (p->mem == MEM_R14) {
		temps = rcx;
		n = p->cl ? 0 : 1;
	} else if (p->mem == MEM_PLAIN || p->mem == MEM_RCX || p->high) {
		n = 0;
	} else if (p->cl) {
		n = 1;
	}
	for (unsigned k = 0; k < t->z->operand_count; k++) {
		const ZydisDecodedOperand *o = &t->ops[k];
		int g = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(o->reg.value) : -1;
		u8 host;

		if (g < 0 || o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE)
			continue;
		host = assign(p, (unsigned)g, o, keeps || read_elsewhere(t, k, g), temps, n);
		if (host == NOT_GPR)
			return false;
		if (is_high(o->reg.value))
			host = (u8)(host + 4); /* AH is number 4 */
		switch (o->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			p->reg = host;
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			p->rm = host;
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD:
			p->vvvv = host;
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			p->opcode = host;
			break;
		default:
			return false;
		}
		if (p->high && host >= 8)
			return false;
	}
	return true;
}

static unsigned legacy_rex(const struct tr *t, const struct plan *p)
{
	const ZydisDecodedInstruction *z = t->z;
	unsigned old = z->attributes & ZYDIS_ATTRIB_HAS_REX ? t->d->bytes[z->raw.rex.offset] : 0, rex = old & 0x4f;

	if (p->reg != NOT_GPR)
		rex = (rex & ~4u) | (p->reg >> 3 && !p->high ? 4u : 0);
	if (p->mem == MEM_PLAIN)
		rex = (rex & ~3u) | p->lin >> 3;
	else if (p->mem == MEM_R14)
		rex = (rex & ~3u) | 1;
	else if (p->mem == MEM_RCX)
		rex = rex & ~3u;
	else if (p->rm != NOT_GPR)
		rex = (rex & ~3u) | (p->rm >> 3);
	if (p->opcode != NOT_GPR)
		rex = (rex & ~1u) | (p->opcode >> 3);
	return rex & 0xf ? rex | 0x40 : old ? 0x40 : 0;
}

/* The inverted R, X and B bits of VEX and EVEX, in bits 7, 6 and 5. */
static unsigned extension_bits(unsigned old, const struct plan *p)
{
	unsigned b = old & 0xe0;

	if (p->reg != NOT_GPR)
		b = (b & ~0x80u) | (p->reg >> 3 ? 0 : 0x80);
	if (p->mem == MEM_PLAIN)
		b = (b & ~0x60u) | 0x40 | (p->lin >> 3 ? 0 : 0x20);
	else if (p->mem == MEM_R14)
		b = (b & ~0x60u) | 0x40;
	else if (p->mem == MEM_RCX)
		b |= 0x60;
	else if (p->rm != NOT_GPR)
		b = (b & ~0x60u) | 0x40 | (p->rm >> 3 ? 0 : 0x20);
	return b;
}

static void put_vex(struct tr *t, const struct plan *p)
{
	const u8 *x = t->d->bytes + t->z->raw.vex.offset;
	bool three = t->z->raw.vex.size == 3;
	unsigned b1 = three ? x[1] : (x[1] & 0x80) | 0x61, b2 = three ? x[2] : x[1] & 0x7f;

	if (t->narrow) { /* registers 0 to 7, whatever the bits say */
		b1 |= 0xe0;
		b2 |= 0x40;
		if (narrow_ignores_w(t->z, t->ops))
			b2 &= 0x7f;
	}
	b1 = extension_bits(b1, p) | (b1 & 0x1f);
	if (p->vvvv != NOT_GPR)
		b2 = (b2 & ~0x78u) | (~(unsigned)p->vvvv & 15) << 3;
	put(&t->e, 0xc4);
	put(&t->e, b1);
	put(&t->e, b2);
}

static void put_evex(struct tr *t, const struct plan *p)
{
	const u8 *x = t->d->bytes + t->z->raw.evex.offset;
	unsigned p0 = x[1], p1 = x[2], p2 = x[3];

	if (t->narrow) {
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
		if (narrow_ignores_w(t->z, t->ops))
			p1 &= 0x7f;
	}
	put(&t->e, 0x62);
	put(&t->e, extension_bits(p0, p) | (p0 & 0x1f));
	put(&t->e, p1);
	put(&t->e, p2);
}

static void put_prefixes(struct tr *t)
{
	const ZydisDecodedInstruction *z = t->z;

	for (unsigned k = 0; k < z->raw.prefix_count; k++) {
		u8 b = z->raw.prefixes[k].value;

		if (b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0xf0)
			put(&t->e, b);
	}
}

static void put_modrm(struct tr *t, const struct plan *p)
{
	const ZydisDecodedInstruction *z = t->z;
	unsigned modrm = t->d->bytes[z->raw.modrm.offset];
	unsigned reg = p->reg != NOT_GPR ? p->reg & 7 : (modrm >> 3) & 7;

	switch (p->mem) {
	case MEM_PLAIN:
		if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
			put_base_index_disp32(&t->e, reg, p->lin, H_RCX, 0, p->disp + 1); /* 8 bits would be scaled */
		else
			put_base_index_disp(&t->e, reg, p->lin, H_RCX, 0, p->disp + 1);
		break;
	case MEM_R14:
		put(&t->e, reg << 3 | (H_R14 & 7));
		break;
	case MEM_RCX:
		put(&t->e, reg << 3 | H_RCX);
		break;
	default:
		put(&t->e, 0xc0 | reg << 3 | (p->rm != NOT_GPR ? p->rm & 7 : modrm & 7));
	}
}

static void put_instruction(struct tr *t, const struct plan *p)
{
	const ZydisDecodedInstruction *z = t->z;
	const u8 *bytes = t->d->bytes;
	unsigned at, tail, rex, n;
	u8 zero[NARROW_ZERO_BYTES];

	n = t->narrow ? narrow_zero(z, zero) : 0;
	if (n) {
		put_bytes(&t->e, zero, n);
		return;
	}
	put_prefixes(t);
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		put_vex(t, p);
		at = z->raw.vex.offset + z->raw.vex.size;
	} else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		put_evex(t, p);
		at = z->raw.evex.offset + 4u;
	} else {
		rex = legacy_rex(t, p);
		if (rex)
			put(&t->e, rex);
		at = z->raw.prefix_count;
	}
	if (!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
		while (at < t->d->len) {
			bool last_opcode = p->opcode != NOT_GPR && bytes[at] == z->opcode;

			put(&t->e, last_opcode ? (bytes[at] & 0xf8u) | (p->opcode & 7) : bytes[at]);
			at++;
			if (last_opcode)
				break;
		}
		put_bytes(&t->e, bytes + at, t->d->len - at);
		return;
	}
	if (t->narrow && at + 1u == z->raw.modrm.offset && t->d->map == 0 && bytes[at] == 0x82)
		put(&t->e, 0x80); /* its alias there is none on the host */
	else
		put_bytes(&t->e, bytes + at, z->raw.modrm.offset - at);
	put_modrm(t, p);
	tail = z->raw.modrm.offset + 1u + (z->attributes & ZYDIS_ATTRIB_HAS_SIB ? 1 : 0) + z->raw.disp.size / 8;
	if (t->narrow && narrow_has_is4(t->z, t->ops)) { /* a register in bits 7:4, bit 7 ignored */
		put(&t->e, bytes[tail] & 0x7f);
		return;
	}
	put_bytes(&t->e, bytes + tail, t->d->len - tail);
}

static bool is_masked_access(const struct tr *t)
{
	return t->z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && t->d->is_mem &&
	       t->z->avx.mask.reg != ZYDIS_REGISTER_K0 && t->z->avx.mask.reg != ZYDIS_REGISTER_NONE;
}

/* Does the host fault unless the operand is aligned to its size? Then it crosses no page. */
static bool must_be_aligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	default:
		return false;
	}
}

static void emit_memory(struct tr *t, struct plan *p)
{
	struct emit *e = &t->e;

	bool masked = is_masked_access(t);
	unsigned lin;

	t->ea_size = p->size;
	t->ea_aligned = !masked && must_be_aligned(t->z->mnemonic);
	if (masked || !emit_window(t, WINDOW_OPERAND, &lin, &p->disp)) {
		lin = emit_ea(t);
		if (masked)
			emit_masked_access(t, lin, p->size, p->write);
		else
			emit_access(t, lin, p->size, p->write);
	}
	p->lin = (u8)lin;
	if (p->mem == MEM_R14)
		op_rmx(e, true, 0x8d, H_R14, lin, H_RCX, 0, p->disp + 1);
	else if (p->mem == MEM_RCX)
		op_rmx(e, true, 0x8d, H_RCX, lin, H_RCX, 0, p->disp + 1);
}

bool emit_general(struct tr *t)
{
	struct plan p = { .reg = NOT_GPR, .rm = NOT_GPR, .vvvv = NOT_GPR, .opcode = NOT_GPR };
	struct emit *e = &t->e;

	if (!find_memory(t, &p) || !find_registers(t, &p) || !assign_registers(t, &p))
		return false;
	if (p.high && legacy_rex(t, &p))
		return false;
	islands(t, 100, true);
	note_of(t)->operand = p.mem == MEM_NONE	   ? OPERAND_NONE
			      : p.mem == MEM_PLAIN ? OPERAND_PLAIN
			      : p.mem == MEM_R14   ? OPERAND_R14
						   : OPERAND_RCX;
	for (unsigned k = 0; k < p.borrowed; k++) {
		note_of(t)->borrow[k][0] = p.borrow[k].guest;
		note_of(t)->borrow[k][1] = p.borrow[k].temp;
		note_of(t)->borrowed++;
	}
	if (p.mem != MEM_NONE)
		emit_memory(t, &p);
	if (p.rcx_home || p.cl)
		mov_rr(e, H_RCX, home[1]);
	for (unsigned k = 0; k < p.borrowed; k++)
		if (p.borrow[k].load)
			load_gs(e, p.borrow[k].temp, gpr_off(p.borrow[k].guest));
	put_instruction(t, &p);
	if (p.rcx_written)
		mov_rr(e, home[1], H_RCX);
	for (unsigned k = 0; k < p.borrowed; k++)
		if (p.borrow[k].store)
			store_gs(e, p.borrow[k].temp, gpr_off(p.borrow[k].guest));
	return true;
}
