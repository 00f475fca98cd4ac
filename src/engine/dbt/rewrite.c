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
 *
 * Where nobody else touches guest RAM, LOCK is dropped: nothing comes between
 * the accesses of one instruction. The lock of XCHG is in the instruction
 * itself, so it becomes three moves.
 */
#include "engine/dbt/translate.h"

#define NOT_GPR 0xff

struct plan {
	const ZydisDecodedInstruction *z;
	const ZydisDecodedOperand *ops;
	const struct dinsn *d;
	u8 reg, rm, vvvv, opcode; /* host register of the field, NOT_GPR: as it is */
	enum rewrite_mem mem;
	bool alone;    /* no locks */
	bool narrow;   /* 32-bit code */
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

static bool find_memory(struct plan *p)
{
	for (unsigned k = 0; k < p->z->operand_count; k++) {
		const ZydisDecodedOperand *o = &p->ops[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || p->mem != MEM_NONE || !o->size || o->size > 512 ||
		    o->mem.type != ZYDIS_MEMOP_TYPE_MEM)
			return false;
		p->mem = MEM_PLAIN;
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
static bool find_registers(struct plan *p)
{
	bool borrows = false;

	for (unsigned k = 0; k < p->z->operand_count; k++) {
		const ZydisDecodedOperand *o = &p->ops[k];
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
static bool read_elsewhere(const struct plan *p, unsigned n, int g)
{
	for (unsigned k = 0; k < p->z->operand_count; k++)
		if (k != n && p->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_number(p->ops[k].reg.value) == g &&
		    (p->ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_READ))
			return true;
	return false;
}

static bool assign_registers(struct plan *p)
{
	static const u8 both[] = { H_R14, H_RCX }, rcx[] = { H_RCX };
	const u8 *temps = both;
	unsigned n = 2;
	/* of a zero source they leave the whole destination alone */
	bool keeps = p->z->mnemonic == ZYDIS_MNEMONIC_BSF || p->z->mnemonic == ZYDIS_MNEMONIC_BSR;

	if (p->mem == MEM_R14) {
		temps = rcx;
		n = p->cl ? 0 : 1;
	} else if (p->mem == MEM_PLAIN || p->mem == MEM_RCX || p->high) {
		n = 0;
	} else if (p->cl) {
		n = 1;
	}
	for (unsigned k = 0; k < p->z->operand_count; k++) {
		const ZydisDecodedOperand *o = &p->ops[k];
		int g = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_number(o->reg.value) : -1;
		u8 host;

		if (g < 0 || o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_NONE)
			continue;
		host = assign(p, (unsigned)g, o, keeps || read_elsewhere(p, k, g), temps, n);
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

/* The REX byte, or 0; of [lin + rcx] with a `lin` of 0 to 7. */
static unsigned legacy_rex(const struct plan *p)
{
	const ZydisDecodedInstruction *z = p->z;
	unsigned old = z->attributes & ZYDIS_ATTRIB_HAS_REX ? p->d->bytes[z->raw.rex.offset] : 0, rex = old & 0x4f;

	if (p->reg != NOT_GPR)
		rex = (rex & ~4u) | (p->reg >> 3 && !p->high ? 4u : 0);
	if (p->mem == MEM_R14)
		rex = (rex & ~3u) | 1;
	else if (p->mem != MEM_NONE)
		rex = rex & ~3u;
	else if (p->rm != NOT_GPR)
		rex = (rex & ~3u) | (p->rm >> 3);
	if (p->opcode != NOT_GPR)
		rex = (rex & ~1u) | (p->opcode >> 3);
	return rex & 0xf ? rex | 0x40 : old ? 0x40 : 0;
}

/* The inverted R, X and B bits of VEX and EVEX, in bits 7, 6 and 5; of [lin + rcx] likewise. */
static unsigned extension_bits(unsigned old, const struct plan *p)
{
	unsigned b = old & 0xe0;

	if (p->reg != NOT_GPR)
		b = (b & ~0x80u) | (p->reg >> 3 ? 0 : 0x80);
	if (p->mem == MEM_R14)
		b = (b & ~0x60u) | 0x40;
	else if (p->mem != MEM_NONE)
		b |= 0x60;
	else if (p->rm != NOT_GPR)
		b = (b & ~0x60u) | 0x40 | (p->rm >> 3 ? 0 : 0x20);
	return b;
}

static void add(struct rewrite *r, unsigned b)
{
	r->head |= (u64)(b & 0xff) << (8 * r->head_len++);
}

static void add_vex(struct rewrite *r, const struct plan *p)
{
	const u8 *x = p->d->bytes + p->z->raw.vex.offset;
	bool three = p->z->raw.vex.size == 3;
	unsigned b1 = three ? x[1] : (x[1] & 0x80) | 0x61, b2 = three ? x[2] : x[1] & 0x7f;

	if (p->narrow) { /* registers 0 to 7, whatever the bits say */
		b1 |= 0xe0;
		b2 |= 0x40;
		if (narrow_ignores_w(p->z, p->ops))
			b2 &= 0x7f;
	}
	b1 = extension_bits(b1, p) | (b1 & 0x1f);
	if (p->vvvv != NOT_GPR)
		b2 = (b2 & ~0x78u) | (~(unsigned)p->vvvv & 15) << 3;
	add(r, 0xc4);
	add(r, b1);
	add(r, b2);
}

static void add_evex(struct rewrite *r, const struct plan *p)
{
	const u8 *x = p->d->bytes + p->z->raw.evex.offset;
	unsigned p0 = x[1], p1 = x[2], p2 = x[3];

	if (p->narrow) {
		p0 |= 0xf0;
		p1 |= 0x40;
		p2 |= 0x08;
		if (narrow_ignores_w(p->z, p->ops))
			p1 &= 0x7f;
	}
	add(r, 0x62);
	add(r, extension_bits(p0, p) | (p0 & 0x1f));
	add(r, p1);
	add(r, p2);
}

/* False: more of them than there is any use for. */
static bool add_prefixes(struct rewrite *r, const struct plan *p)
{
	const ZydisDecodedInstruction *z = p->z;

	for (unsigned k = 0; k < z->raw.prefix_count; k++) {
		u8 b = z->raw.prefixes[k].value;

		if (b != 0x66 && b != 0xf2 && b != 0xf3 && b != 0xf0)
			continue;
		if (b == 0xf0 && p->alone)
			continue;
		if (r->head_len == 4)
			return false;
		add(r, b);
	}
	return true;
}

/* Up to the opcode, `end` in the guest's bytes. */
static bool add_head(struct rewrite *r, const struct plan *p, unsigned end)
{
	const ZydisDecodedInstruction *z = p->z;
	const u8 *bytes = p->d->bytes;
	unsigned at, rex;

	if (!add_prefixes(r, p))
		return false;
	r->ext_at = r->head_len;
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		at = z->raw.vex.offset + z->raw.vex.size;
		r->ext = EXT_INVERTED;
		r->ext_at++;
		add_vex(r, p);
	} else if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		at = z->raw.evex.offset + 4u;
		r->ext = EXT_INVERTED;
		r->ext_at++;
		add_evex(r, p);
	} else {
		at = z->raw.prefix_count;
		rex = legacy_rex(p);
		r->ext = rex ? EXT_REX : EXT_NO_REX;
		if (rex)
			add(r, rex);
	}
	if (p->mem != MEM_PLAIN)
		r->ext = EXT_NONE;
	if (at > end || r->head_len + (end - at) > 8 - (r->ext == EXT_NO_REX))
		return false;
	for (; at < end; at++) {
		unsigned b = bytes[at];

		if (p->opcode != NOT_GPR && at + 1 == end)
			b = (b & 0xf8) | (p->opcode & 7);
		else if (p->narrow && b == 0x82 && p->d->map == 0 && p->d->has_modrm)
			b = 0x80; /* its alias there is none on the host */
		add(r, b);
	}
	return true;
}

static bool add_bytes(struct rewrite *r, const struct plan *p)
{
	const ZydisDecodedInstruction *z = p->z;
	unsigned len = p->d->len, modrm, reg;

	r->is4 = p->narrow && narrow_has_is4(z, p->ops);
	r->zeroes = p->narrow && (z->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || z->mnemonic == ZYDIS_MNEMONIC_VZEROALL);
	if (!(z->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
		r->tail_at = (u8)(len - (z->raw.disp.size + z->raw.imm[0].size + z->raw.imm[1].size) / 8u);
		return add_head(r, p, r->tail_at);
	}
	modrm = p->d->bytes[z->raw.modrm.offset];
	reg = p->reg != NOT_GPR ? p->reg & 7 : (modrm >> 3) & 7;
	r->modrm = (u8)(reg << 3);
	if (p->mem == MEM_NONE)
		r->modrm |= 0xc0 | (p->rm != NOT_GPR ? p->rm & 7 : modrm & 7);
	else if (p->mem == MEM_R14)
		r->modrm |= H_R14 & 7;
	else if (p->mem == MEM_RCX)
		r->modrm |= H_RCX;
	r->tail_at =
	    (u8)(z->raw.modrm.offset + 1u + (z->attributes & ZYDIS_ATTRIB_HAS_SIB ? 1 : 0) + z->raw.disp.size / 8);
	return r->tail_at <= len && add_head(r, p, z->raw.modrm.offset);
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

void find_rewrite(struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, bool alone)
{
	struct plan p = { .z = z,
			  .ops = ops,
			  .d = &g->d,
			  .alone = alone,
			  .narrow = g->d.mode != CODE_64,
			  .reg = NOT_GPR,
			  .rm = NOT_GPR,
			  .vvvv = NOT_GPR,
			  .opcode = NOT_GPR };
	struct rewrite *r = &g->rewrite;

	if (!find_memory(&p) || !find_registers(&p))
		return;
	r->exchange = alone && z->mnemonic == ZYDIS_MNEMONIC_XCHG && p.mem == MEM_PLAIN;
	if (r->exchange)
		p.mem = MEM_R14;
	if (!assign_registers(&p) || (p.high && legacy_rex(&p)))
		return;
	r->mem = p.mem & 3;
	r->masked = z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && g->d.is_mem &&
		    z->avx.mask.reg != ZYDIS_REGISTER_K0 && z->avx.mask.reg != ZYDIS_REGISTER_NONE;
	r->evex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	r->aligned = !r->masked && must_be_aligned(z->mnemonic);
	r->rcx_in = p.rcx_home || p.cl;
	r->rcx_out = p.rcx_written;
	r->borrowed = p.borrowed & 3;
	for (unsigned k = 0; k < p.borrowed; k++) {
		r->borrow[k].guest = p.borrow[k].guest & 15;
		r->borrow[k].temp = p.borrow[k].temp & 15;
		r->borrow[k].load = p.borrow[k].load;
		r->borrow[k].store = p.borrow[k].store;
	}
	r->ok = add_bytes(r, &p);
}

/* Prefixes and opcode, for a memory operand [lin + rcx]. */
static void put_head(struct emit *e, const struct rewrite *r, unsigned lin)
{
	unsigned shift = 8u * r->ext_at, len = r->head_len;
	u64 head = r->head, low = BIT(shift) - 1;

	if (lin >> 3) {
		switch ((enum rewrite_ext)r->ext) {
		case EXT_NONE:
			break;
		case EXT_REX:
			head |= 1ull << shift;
			break;
		case EXT_NO_REX:
			head = (head & low) | 0x41ull << shift | (head & ~low) << 8;
			len++;
			break;
		case EXT_INVERTED:
			head &= ~(0x20ull << shift);
			break;
		}
	}
	put_chunk(e, head, len);
}

/* XCHG of [R14] with a register that has a home: RCX is free. */
static void put_exchange(struct tr *t)
{
	const struct dinsn *d = t->d;
	unsigned wide = d->opcode & 1, rex = 0x40 | (wide && d->opsize == 8 ? 8 : 0), reg = home[d->reg];
	struct emit *e = &t->e;

	for (unsigned k = 0; k < 3; k++) {
		static const u8 op[] = { 0x8a, 0x88, 0x88 }; /* mov rcx, [r14]; mov [r14], reg; mov reg, rcx */
		unsigned r = k == 1 ? reg : H_RCX, rm = k == 2 ? reg : H_R14;

		if (wide && d->opsize == 2)
			put(e, 0x66);
		put(e, rex | (r >> 3) << 2 | rm >> 3);
		put(e, op[k] | wide);
		put(e, (k == 2 ? 0xc0 : 0) | (r & 7) << 3 | (rm & 7));
	}
}

/* `lin`, `disp`: of MEM_PLAIN, where the operand is [lin + rcx + disp + 1]. */
static void put_instruction(struct tr *t, unsigned lin, s32 disp)
{
	const struct rewrite *r = &t->g->rewrite;
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;

	if (unlikely(r->zeroes)) {
		u8 zero[NARROW_ZERO_BYTES];

		put_bytes(e, zero, narrow_zero(d->mnemonic, zero));
		return;
	}
	if (unlikely(r->exchange)) {
		put_exchange(t);
		return;
	}
	put_head(e, r, lin);
	if (r->mem == MEM_PLAIN && r->evex) /* 8 bits would be scaled */
		put_base_index_disp32(e, r->modrm >> 3, lin, H_RCX, 0, disp + 1);
	else if (r->mem == MEM_PLAIN)
		put_base_index_disp(e, r->modrm >> 3, lin, H_RCX, 0, disp + 1);
	else if (d->has_modrm)
		put(e, r->modrm);
	if (unlikely(r->is4)) /* a register in bits 7:4, bit 7 ignored */
		put(e, d->bytes[r->tail_at] & 0x7f);
	else
		put_bytes(e, d->bytes + r->tail_at, d->len - r->tail_at);
}

/* Look the operand up; returns the register and, in *disp, the displacement it is at. */
static unsigned emit_memory(struct tr *t, s32 *disp)
{
	const struct ginsn *g = t->g;
	struct emit *e = &t->e;
	bool write = g->traits & TRAIT_WRITES;
	unsigned lin;

	*disp = 0;
	t->ea_size = g->size;
	t->ea_aligned = g->rewrite.aligned;
	if (g->rewrite.masked || !emit_window(t, WINDOW_OPERAND, &lin, disp)) {
		lin = emit_ea(t);
		if (g->rewrite.masked)
			emit_masked_access(t, lin, g->size, write);
		else
			emit_access(t, lin, g->size, write);
	}
	if (g->rewrite.mem == MEM_R14)
		op_rmx(e, true, 0x8d, H_R14, lin, H_RCX, 0, *disp + 1);
	else if (g->rewrite.mem == MEM_RCX)
		op_rmx(e, true, 0x8d, H_RCX, lin, H_RCX, 0, *disp + 1);
	return lin;
}

bool emit_general(struct tr *t)
{
	static const u8 operand[] = {
		[MEM_NONE] = OPERAND_NONE, [MEM_PLAIN] = OPERAND_PLAIN, [MEM_R14] = OPERAND_R14, [MEM_RCX] = OPERAND_RCX
	};
	const struct rewrite *r = &t->g->rewrite;
	struct note *note = note_of(t);
	struct emit *e = &t->e;
	unsigned lin = 0;
	s32 disp = 0;

	if (!r->ok)
		return false;
	islands(t, 100, true);
	note->operand = operand[r->mem];
	for (unsigned k = 0; k < r->borrowed; k++) {
		note->borrow[k][0] = r->borrow[k].guest;
		note->borrow[k][1] = r->borrow[k].temp;
		note->borrowed++;
	}
	if (r->mem != MEM_NONE)
		lin = emit_memory(t, &disp);
	if (r->rcx_in)
		mov_rr(e, H_RCX, home[1]);
	for (unsigned k = 0; k < r->borrowed; k++)
		if (r->borrow[k].load)
			load_gs(e, r->borrow[k].temp, gpr_off(r->borrow[k].guest));
	put_instruction(t, lin, disp);
	if (r->rcx_out)
		mov_rr(e, home[1], H_RCX);
	for (unsigned k = 0; k < r->borrowed; k++)
		if (r->borrow[k].store)
			store_gs(e, r->borrow[k].temp, gpr_off(r->borrow[k].guest));
	return true;
}
