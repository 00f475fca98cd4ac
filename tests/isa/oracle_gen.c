/*
 * From a form to an instance: random bytes of that form, random registers, and
 * where the instruction accesses memory, registers and displacement that lead
 * to a chosen address.
 */
#include <string.h>

#include "cpu/xstate.h"
#include "oracle.h"

const u8 data_page_kind[DATA_PAGES] = { PAGE_NONE, PAGE_RW, PAGE_RW, PAGE_NONE, PAGE_RO, PAGE_RW, PAGE_RO, PAGE_NONE };

struct bytes {
	u8 b[32];
	unsigned n;
};

static void put(struct bytes *e, unsigned v)
{
	e->b[e->n++] = (u8)v;
}

/* Prefixes without meaning for the form, and those with one for any: FS, GS, 67H. */
static void extra_prefixes(struct bytes *e, struct rng *r, const struct form *f)
{
	static const u8 any[] = { 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x67, 0x67, 0x64, 0x65 };
	static const u8 legacy[] = { 0x66, 0xf2, 0xf3 };
	unsigned n = (unsigned)rng_below(r, 3);

	for (unsigned k = 0; k < n; k++) {
		u8 p = any[rng_below(r, ARRAY_SIZE(any))];

		if (f->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && rng_percent(r, 25))
			p = legacy[rng_below(r, 3)];
		if ((p == 0x64 || p == 0x65) && !oracle_has_bases())
			continue;
		/* A vector or x87 store through CS of 32-bit code faults early, late or, masked off, not at all. */
		if (p == 0x2e && oracle_mode != CODE_64 && !f->core)
			continue;
		put(e, p);
	}
}

static void legacy_opcode(struct bytes *e, struct rng *r, const struct form *f, bool plain)
{
	static const u8 prefix[6][2] = { { 0 }, { 0x66 }, { 0xf3 }, { 0xf2 }, { 0x66, 0xf2 }, { 0x66, 0xf3 } };

	if (!plain && f->mem && rng_percent(r, 10))
		put(e, 0xf0);
	for (unsigned k = 0; k < 2 && prefix[f->pp][k]; k++)
		put(e, prefix[f->pp][k]);
	if (f->w)
		put(e, 0x48 | (unsigned)rng_below(r, 8));
	else if (oracle_mode == CODE_64 && rng_percent(r, 50))
		put(e, 0x40 | (unsigned)rng_below(r, 8));
	if (f->map)
		put(e, 0x0f);
	if (f->map > 1)
		put(e, f->map == 2 ? 0x38 : 0x3a);
	put(e, f->opcode);
}

static void vex_opcode(struct bytes *e, struct rng *r, const struct form *f)
{
	u64 x = rng_next(r);
	unsigned vvvv = rng_percent(r, 30) ? 15 : (unsigned)(x & 15);
	bool narrow = oracle_mode != CODE_64; /* two bits tell it from LDS and LES */

	if (f->map == 1 && !f->w && rng_percent(r, 30)) {
		put(e, 0xc5);
		put(e, (unsigned)(narrow ? 0xc0 : x & 0x80) | vvvv << 3 | f->l << 2 | f->eff_pp);
	} else {
		put(e, 0xc4);
		put(e, (unsigned)(x & 0xe0) | (narrow ? 0xc0 : 0) | f->map);
		put(e, f->w << 7 | vvvv << 3 | f->l << 2 | f->eff_pp);
	}
	put(e, f->opcode);
}

static void evex_opcode(struct bytes *e, struct rng *r, const struct form *f)
{
	u64 x = rng_next(r);
	unsigned vvvv = rng_percent(r, 30) ? 15 : (unsigned)(x & 15), aaa = rng_percent(r, 35) ? 0 : x >> 4 & 7;
	unsigned v2 = rng_percent(r, 50) ? 1 : x >> 12 & 1;
	unsigned l = f->b && !f->mem ? x >> 8 & 3 : f->l;

	put(e, 0x62);
	put(e, (unsigned)(x >> 16 & 0xf0) | (oracle_mode != CODE_64 ? 0xc0 : 0) | f->map);
	put(e, f->w << 7 | vvvv << 3 | 4 | f->eff_pp);
	put(e, (aaa && (x >> 10 & 1) ? 0x80 : 0) | l << 5 | f->b << 4 | v2 << 3 | aaa);
	put(e, f->opcode);
}

static void put_modrm(struct bytes *e, struct rng *r, const struct form *f)
{
	u64 x = rng_next(r);
	unsigned reg = 0, rm, mod;

	if (!f->mem) {
		unsigned bit = x & 63;

		while (!(f->modrm >> bit & 1))
			bit = (bit + 1) & 63;
		put(e, 0xc0 | bit);
		return;
	}
	for (reg = x & 7; !(f->modrm >> (8 * reg) & 0xff);)
		reg = (reg + 1) & 7;
	rm = f->vsib ? 4 : x >> 8 & 7;
	mod = (unsigned)rng_below(r, 3);
	put(e, mod << 6 | reg << 3 | rm);
	if (rm == 4)
		put(e, (unsigned)(x >> 16 & 0xff));
}

/* Displacement and immediate: random bytes, often small numbers. */
static void put_tail(struct bytes *e, struct rng *r)
{
	u64 a = rng_percent(r, 40) ? rng_value(r) : rng_next(r), b = rng_next(r);

	memcpy(e->b + e->n, &a, 8);
	memcpy(e->b + e->n + 8, &b, 8);
	if (rng_percent(r, 30))
		e->b[e->n + rng_below(r, 5)] &= 0x1f;
}

/* Bytes of the form; false if what came out is another instruction. */
static bool make_bytes(struct oracle *o, struct instance *n, struct rng *r, bool plain)
{
	const struct form *f = n->form;
	struct bytes e = { .n = 0 };

	if (!plain && rng_percent(r, 25))
		extra_prefixes(&e, r, f);
	if (f->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		legacy_opcode(&e, r, f, plain);
	else if (f->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		vex_opcode(&e, r, f);
	else
		evex_opcode(&e, r, f);
	if (f->has_modrm)
		put_modrm(&e, r, f);
	if (e.n > 15)
		return false;
	put_tail(&e, r);
	memcpy(n->bytes, e.b, 15);
	if (isa_decode_full(&n->z, n->ops, n->bytes, 15, oracle_mode) != DECODE_OK)
		return false;
	n->len = n->z.length;
	memset(n->bytes + n->len, 0, 15 - n->len);
	return forms_find(&o->forms, &n->z, n->ops) == f;
}

/* Where an operand of `size` bytes shall lie (in the low view). */
static u64 pick_target(struct rng *r, unsigned size)
{
	unsigned p = (unsigned)rng_below(r, 100);
	u64 x = rng_next(r);

	if (p < 60) {
		u64 at = DATA_LIN + PAGE_SIZE + x % (2 * PAGE_SIZE - 256);

		return p < 42 && size && !(size & (size - 1)) ? at & ~(u64)(size - 1) : at;
	}
	if (p < 82) /* across or up to a boundary of pages */
		return DATA_LIN + (x % (DATA_PAGES + 1)) * PAGE_SIZE - (x >> 32) % (size + 2u);
	if (p < 92)
		return DATA_LIN + 4 * PAGE_SIZE + x % (3 * PAGE_SIZE);
	if (p < 97)
		return DATA_LIN + x % DATA_SIZE;
	if (p < 99) /* up to and beyond what is canonical, or the end of the segment */
		return (oracle_mode == CODE_64 ? 0x00007ffffffff000ull : 0xfffff000u) + x % 0x1100;
	return rng_next(r);
}

static u64 segment_base(const struct instance *n)
{
	return n->d.seg == SEG_FS ? n->in.fs_base : n->d.seg == SEG_GS ? n->in.gs_base : 0;
}

static void patch_data(struct instance *n, struct rng *r, u64 lin, unsigned len)
{
	struct patch *p = &n->patch[n->patches];

	if (lin >= DATA_HIGH)
		lin -= DATA_HIGH;
	if (n->patches == ARRAY_SIZE(n->patch) || len > sizeof(p->bytes) || lin < DATA_LIN ||
	    lin + len > DATA_LIN + DATA_SIZE)
		return;
	p->lin = lin;
	p->len = len;
	rng_fill(r, p->bytes, sizeof(p->bytes));
	n->patches++;
}

static void set_disp(struct instance *n, u64 val)
{
	memcpy(n->bytes + n->z.raw.disp.offset, &val, n->z.raw.disp.size / 8);
}

/* VSIB: elements near each other, now and then one far off. */
static void set_vector_index(struct instance *n, struct rng *r, const ZydisDecodedOperand *m)
{
	unsigned reg = (unsigned)ZydisRegisterGetId(m->mem.index), size = n->z.opcode & 1 ? 8 : 4;

	for (unsigned k = 0; k < 64 / size; k++) {
		s64 x = (s64)rng_below(r, 64) - 32;
		unsigned at = k * size;
		u8 *p = n->in.fpu;

		if (rng_percent(r, 8))
			x = (s64)rng_below(r, 8192) - 4096;
		if (rng_percent(r, 1))
			x = (s64)rng_next(r);
		p += reg >= 16 ? fpu_component_offset(7) + 64 * (reg - 16) + at
		     : at < 16 ? FX_XMM + 16 * reg + at
		     : at < 32 ? fpu_component_offset(2) + 16 * reg + at - 16
			       : fpu_component_offset(6) + 32 * reg + at - 32;
		memcpy(p, &x, size);
	}
}

/* Registers and displacement of the ModRM (or moffs) operand so that it is at `target`. */
static void aim(struct instance *n, struct rng *r, const ZydisDecodedOperand *m, u64 target)
{
	const struct dinsn *d = &n->d;
	u64 *g = n->in.gpr, want, scale = d->scale;

	if (d->addrsize == 8 && target >= DATA_LIN && target < DATA_LIN + DATA_SIZE && rng_percent(r, 30) &&
	    (d->base < 16 || d->index < 16 || !d->has_modrm))
		target += DATA_HIGH;
	want = target - segment_base(n);
	if (n->form->vsib)
		set_vector_index(n, r, m);
	if (d->base == REG_NONE && d->index == REG_NONE) {
		set_disp(n, want);
		return;
	}
	if (d->base == REG_RIP) {
		set_disp(n, want - (n->in.rip + n->len));
		return;
	}
	want -= (u64)d->disp;
	if (d->index == REG_NONE) {
		g[d->base] = want;
	} else if (d->base == REG_NONE) {
		g[d->index] = (d->addrsize == 4 ? (u32)want : want) / scale;
	} else if (d->base == d->index) {
		g[d->base] = (d->addrsize == 4 ? (u32)want : want) / (scale + 1);
	} else {
		g[d->index] = rng_percent(r, 60) ? rng_below(r, 4096) : rng_value(r);
		g[d->base] = want - g[d->index] * scale;
	}
	if (d->addrsize == 4 && rng_percent(r, 50)) { /* the upper halves are ignored */
		if (d->base < 16)
			g[d->base] = (u32)g[d->base] | rng_next(r) << 32;
		if (d->index < 16)
			g[d->index] = (u32)g[d->index] | rng_next(r) << 32;
	}
}

/* Memory named by fixed registers: string instructions, the stack, XLAT, MASKMOV. */
static void aim_implicit(struct instance *n, struct rng *r, const ZydisDecodedOperand *m)
{
	int reg = m->mem.base == ZYDIS_REGISTER_NONE ? -1 : ZydisRegisterGetId(m->mem.base);
	unsigned size = MAX(m->size / 8u, 1u);
	u64 target = pick_target(r, size);

	if (reg < 0 || ZydisRegisterGetClass(m->mem.base) == ZYDIS_REGCLASS_IP)
		return;
	if (reg == REG_RSP || reg == REG_RBP) /* the defaults are good; sometimes elsewhere */
		if (rng_percent(r, 70))
			return;
	if (n->d.addrsize == 8 && rng_percent(r, 20))
		target += DATA_HIGH;
	n->in.gpr[reg] = target - (m->mem.segment == ZYDIS_REGISTER_FS	 ? n->in.fs_base
				   : m->mem.segment == ZYDIS_REGISTER_GS ? n->in.gs_base
									 : 0);
	if (n->d.addrsize == 4 && rng_percent(r, 30))
		n->in.gpr[reg] = (u32)n->in.gpr[reg] | rng_next(r) << 32;
	patch_data(n, r, target, 64);
}

static void aim_all(struct instance *n, struct rng *r)
{
	for (unsigned k = 0; k < n->z.operand_count; k++) {
		const ZydisDecodedOperand *m = &n->ops[k];
		unsigned size = m->size / 8u;
		u64 target;

		if (m->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (m->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM && n->d.has_modrm &&
		    m->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			continue;
		if (m->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
		    n->z.meta.category == ZYDIS_CATEGORY_STRINGOP) {
			aim_implicit(n, r, m);
			continue;
		}
		if (n->z.mnemonic == ZYDIS_MNEMONIC_FXSAVE || n->z.mnemonic == ZYDIS_MNEMONIC_FXRSTOR)
			size = 512;
		target = pick_target(r, size);
		patch_data(n, r, target, size <= 64 ? 64 : 128);
		aim(n, r, m, target);
	}
}

static struct patch *patch_at(struct instance *n, u64 lin)
{
	if (lin >= DATA_HIGH)
		lin -= DATA_HIGH;
	for (unsigned k = 0; k < n->patches; k++)
		if (n->patch[k].lin == lin)
			return &n->patch[k];
	return NULL;
}

static void branch_values(struct instance *n, struct rng *r)
{
	u64 target = CODE_LIN + rng_below(r, CODE_PAGES * PAGE_SIZE);

	if (rng_percent(r, 5))
		target = rng_percent(r, 50) ? 0x0000800000000000ull + rng_next(r) % 64 : rng_next(r);
	if (n->z.mnemonic == ZYDIS_MNEMONIC_RET && rng_percent(r, 90)) {
		if (n->patches < ARRAY_SIZE(n->patch))
			patch_data(n, r, n->in.gpr[REG_RSP], 8);
		if (patch_at(n, n->in.gpr[REG_RSP]))
			memcpy(patch_at(n, n->in.gpr[REG_RSP])->bytes, &target, 8);
	} else if ((n->z.mnemonic == ZYDIS_MNEMONIC_JMP || n->z.mnemonic == ZYDIS_MNEMONIC_CALL) && n->d.has_modrm) {
		if (n->d.is_mem && n->patches)
			memcpy(n->patch[0].bytes, &target, 8);
		else if (!n->d.is_mem && rng_percent(r, 95))
			n->in.gpr[n->d.rm] = target;
	}
}

/* Values without which an instruction nearly always does the same. */
static void special_values(struct instance *n, struct rng *r)
{
	u64 *g = n->in.gpr;
	u32 mxcsr = (u32)rng_next(r) & 0xffff;

	switch (n->z.mnemonic) {
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		if (rng_percent(r, 60))
			g[REG_RDX] = rng_percent(r, 50) ? 0 : (u64)((s64)g[REG_RAX] >> 63);
		if (n->d.opsize == 1 && rng_percent(r, 60))
			g[REG_RAX] &= 0xff;
		break;
	case ZYDIS_MNEMONIC_CMPXCHG:
		if (n->d.is_mem && n->patches && rng_percent(r, 50))
			memcpy(&g[REG_RAX], n->patch[0].bytes, 8);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B: {
		unsigned half = n->d.opsize == 8 ? 8 : 4;

		if (n->patches && rng_percent(r, 50)) {
			memcpy(&g[REG_RAX], n->patch[0].bytes, half);
			memcpy(&g[REG_RDX], n->patch[0].bytes + half, half);
		}
		break;
	}
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		if (n->patches && rng_percent(r, 85))
			memcpy(n->patch[0].bytes, &mxcsr, 4);
		break;
	case ZYDIS_MNEMONIC_FXRSTOR:
		if (n->patches && rng_percent(r, 85))
			memcpy(n->patch[0].bytes + FX_MXCSR, &mxcsr, 4);
		break;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		if (n->d.is_mem && n->d.opcode != 0xba && rng_percent(r, 80) && n->d.reg != n->d.base &&
		    n->d.reg != n->d.index)
			g[n->d.reg] = (g[n->d.reg] & ~0xffffull) | (rng_next(r) & 0xffff);
		if (rng_percent(r, 60) && n->d.is_mem && n->d.opcode != 0xba && n->d.reg != n->d.base &&
		    n->d.reg != n->d.index)
			g[n->d.reg] = (u64)((s64)rng_below(r, 4096) - 2048);
		break;
	case ZYDIS_MNEMONIC_ENTER: /* the level is the last byte; sizes mostly small */
		n->bytes[n->len - 1] &= rng_percent(r, 70) ? 3 : 0xff;
		n->bytes[n->len - 2] &= rng_percent(r, 70) ? 3 : 0xff;
		break;
	case ZYDIS_MNEMONIC_POPA: /* the host keeps what it popped before a fault */
	case ZYDIS_MNEMONIC_POPAD:
		g[REG_RSP] &= ~31ull;
		break;
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		break;
	default:
		break;
	}
	if ((n->repeats && !n->form->vsib) || n->z.mnemonic == ZYDIS_MNEMONIC_LOOP ||
	    n->z.mnemonic == ZYDIS_MNEMONIC_LOOPE || n->z.mnemonic == ZYDIS_MNEMONIC_LOOPNE ||
	    n->z.mnemonic == ZYDIS_MNEMONIC_JRCXZ || n->z.mnemonic == ZYDIS_MNEMONIC_JECXZ) {
		u64 count = rng_percent(r, 5) ? rng_below(r, 100) : rng_below(r, 10);

		g[REG_RCX] = count;
		if (n->d.addrsize == 4)
			g[REG_RCX] |= rng_next(r) << 32;
	}
	if (n->z.meta.category == ZYDIS_CATEGORY_COND_BR || n->z.meta.category == ZYDIS_CATEGORY_UNCOND_BR ||
	    n->z.meta.category == ZYDIS_CATEGORY_CALL || n->z.meta.category == ZYDIS_CATEGORY_RET)
		branch_values(n, r);
}

static bool names_mmx(const struct instance *n)
{
	for (unsigned k = 0; k < n->z.operand_count; k++)
		if (n->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(n->ops[k].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

static u64 pick_rip(struct instance *n, struct rng *r, bool plain)
{
	unsigned p = (unsigned)rng_below(r, 100), back = n->len > 1 ? 1 + (unsigned)rng_below(r, n->len - 1) : 1;

	if (plain || p < 85)
		return CODE_LIN + rng_below(r, CODE_PAGES * PAGE_SIZE - 32);
	if (p < 93)
		return CODE_LIN + PAGE_SIZE - back;
	if (p < 96)
		return CODE_LIN + CODE_PAGES * PAGE_SIZE - n->len;
	return CODE_LIN + CODE_PAGES * PAGE_SIZE - back; /* the rest of it is not mapped */
}

static void make_registers(struct instance *n, struct rng *r, bool plain)
{
	struct oracle_state *s = &n->in;

	for (unsigned k = 0; k < 16; k++)
		s->gpr[k] = rng_value(r);
	s->gpr[REG_RSP] = DATA_LIN + PAGE_SIZE + rng_below(r, 2 * PAGE_SIZE);
	s->gpr[REG_RBP] = rng_percent(r, 50) ? DATA_LIN + PAGE_SIZE + rng_below(r, 2 * PAGE_SIZE) : rng_value(r);
	if (rng_percent(r, 85))
		s->gpr[REG_RSP] &= ~7ull;
	s->rflags = FL_FIXED1 | FL_IF | (rng_next(r) & FL_STATUS) | (rng_percent(r, 20) ? FL_DF : 0);
	s->fs_base = oracle_has_bases() ? (rng_percent(r, 50) ? rng_below(r, 65536) : rng_next(r) >> 18) : 0;
	s->gs_base = oracle_has_bases() ? (rng_percent(r, 50) ? rng_below(r, 65536) : rng_next(r) >> 18) : 0;
	s->rip = pick_rip(n, r, plain);
	rng_fpu(r, s->fpu, names_mmx(n) && rng_percent(r, 70));
}

bool make_instance(struct oracle *o, struct instance *n, struct form *f, u64 seed, bool plain)
{
	struct rng r = { seed };
	unsigned tries = 0;

	n->seed = seed;
	n->form = f;
	n->patches = 0;
	while (!make_bytes(o, n, &r, plain || tries > 40))
		if (++tries == 200)
			return false;
	dinsn_from_zydis(&n->d, &n->z, n->ops, n->bytes, oracle_mode);
	/* A gather that faults after some elements takes the single-step trap first (SDM vol. 2, VPGATHERDD). */
	n->repeats =
	    f->vsib || (n->z.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE));
	make_registers(n, &r, plain);
	if (!plain || !f->mem || f->kind == FORM_USER)
		aim_all(n, &r);
	special_values(n, &r);
	for (unsigned k = 0; k < 8 && oracle_mode != CODE_64; k++)
		n->in.gpr[k] = (u32)n->in.gpr[k];
	return true;
}

/* Change an encoding so that it may mean nothing: a prefix more, other bits. */
static void spoil(struct instance *n, struct rng *r)
{
	static const u8 prefixes[] = { 0xf0, 0x66, 0xf2, 0xf3, 0x48 };
	unsigned changes = 1 + (unsigned)rng_below(r, 3);

	if (rng_percent(r, 30)) {
		memmove(n->bytes + 1, n->bytes, 14);
		n->bytes[0] = prefixes[rng_below(r, ARRAY_SIZE(prefixes))];
	}
	for (unsigned k = 0; k < changes && rng_percent(r, 85); k++)
		n->bytes[rng_below(r, 6)] ^= (u8)(1u << rng_below(r, 8));
	if (rng_percent(r, 10))
		for (unsigned k = 0; k < 15; k++)
			n->bytes[k] = (u8)rng_next(r);
}

bool make_refused(struct oracle *o, struct instance *n, struct form *f, u64 seed)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	struct rng r = { ~seed };

	if (!make_instance(o, n, f, seed, true))
		return false;
	for (unsigned tries = 0; tries < 20; tries++) {
		spoil(n, &r);
		if (isa_decode_full(&z, ops, n->bytes, 15, oracle_mode) != DECODE_INVALID)
			continue;
		n->len = 15;
		n->patches = 0;
		n->repeats = false;
		n->z.cpu_flags = NULL;
		return true;
	}
	return false;
}
