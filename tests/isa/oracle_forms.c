/*
 * Every instruction form that Zydis knows in the mode tested: all opcode maps of
 * the legacy, VEX and EVEX encodings with every mandatory prefix, W, L, b,
 * opcode and ModRM, decoded, and merged where nothing but a register number
 * or a prefix without meaning differs.
 */
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

#define HASH_SIZE 65536u

static bool key_equal(const struct form *a, const struct form *b)
{
	return a->mnemonic == b->mnemonic && a->encoding == b->encoding && a->map == b->map && a->opcode == b->opcode &&
	       a->eff_pp == b->eff_pp && a->mem == b->mem && a->l == b->l && a->b == b->b &&
	       (a->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || a->w == b->w) &&
	       !memcmp(a->size, b->size, sizeof(a->size));
}

static u32 key_hash(const struct form *f)
{
	u64 h = f->mnemonic | (u64)f->encoding << 16 | (u64)f->map << 20 | (u64)f->opcode << 28 | (u64)f->eff_pp << 36 |
		(u64)f->mem << 40 | (u64)f->l << 41 | (u64)f->b << 43;

	h ^= (u64)f->size[0] << 44 ^ (u64)f->size[1] << 50 ^ (u64)f->size[2] << 55;
	return (u32)(h * 0x9e3779b97f4a7c15ull >> 40) % HASH_SIZE;
}

static u8 prefix_code(u8 byte)
{
	return byte == 0x66 ? 1 : byte == 0xf3 ? 2 : 3;
}

/* The identity of an instruction's form. */
static void form_key(struct form *f, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	memset(f, 0, sizeof(*f));
	f->mnemonic = (u16)z->mnemonic;
	f->encoding = (u8)z->encoding;
	f->map = (u8)z->opcode_map;
	f->opcode = z->opcode;
	f->isa_set = (u8)z->meta.isa_set;
	f->has_modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	f->mem = f->has_modrm && z->raw.modrm.mod != 3;
	f->vsib = z->meta.category == ZYDIS_CATEGORY_AVX2GATHER || z->meta.category == ZYDIS_CATEGORY_GATHER ||
		  z->meta.category == ZYDIS_CATEGORY_SCATTER;
	switch (z->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_VEX:
		f->eff_pp = z->raw.vex.pp;
		f->w = z->raw.vex.W;
		f->l = z->raw.vex.L;
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		f->eff_pp = z->raw.evex.pp;
		f->w = z->raw.evex.W;
		f->b = z->raw.evex.b;
		f->l =
		    f->b && !f->mem ? 0 : (u8)(z->raw.evex.L2 << 1 | z->raw.evex.L); /* then L'L is the rounding mode */
		break;
	default:
		for (unsigned k = 0; k < z->raw.prefix_count; k++)
			if (z->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
				f->eff_pp |= (u8)(1u << prefix_code(z->raw.prefixes[k].value));
		if (z->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
			f->eff_pp |= 4;
		if (z->attributes & ZYDIS_ATTRIB_HAS_REPNE)
			f->eff_pp |= 8;
		for (unsigned k = 0; k < 3 && k < z->operand_count; k++)
			f->size[k] = ops[k].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ? 0 : (u16)ops[k].size;
	}
}

static u32 lookup(struct form_list *l, const struct form *f)
{
	u32 h = key_hash(f);

	while (l->hash[h] && !key_equal(&l->form[l->hash[h] - 1], f))
		h = (h + 1) % HASH_SIZE;
	return h;
}

struct form *forms_find(struct form_list *l, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	struct form f;
	u32 h;

	form_key(&f, z, ops);
	h = lookup(l, &f);
	return l->hash[h] ? &l->form[l->hash[h] - 1] : NULL;
}

/* System instructions that a user program may execute with the same result on
 * both sides: nothing in it depends on the host's own tables or time. */
static bool comparable_sys(unsigned sys)
{
	switch (sys) {
	case ISA_SYS_enter:
	case ISA_SYS_fnsave:
	case ISA_SYS_frstor:
	case ISA_SYS_fnstenv:
	case ISA_SYS_fldenv:
	case ISA_SYS_fxsave:
	case ISA_SYS_fxrstor:
	case ISA_SYS_rdfsbase:
	case ISA_SYS_rdgsbase:
	case ISA_SYS_wrfsbase:
	case ISA_SYS_wrgsbase:
	case ISA_SYS_rdpkru:
	case ISA_SYS_wrpkru:
		return true;
	case ISA_SYS_arpl:
	case ISA_SYS_bound:
		return oracle_mode != CODE_64;
	default:
		return false;
	}
}

static void classify(struct form *f, const struct dinsn *d)
{
	const struct isa_row *row = isa_row_of(d);

	f->core = row->method == METHOD_CORE;
	f->kind = FORM_USER;
	if (row->method == METHOD_UD) {
		f->kind = FORM_EXCLUDED;
		f->excluded = "in no processor model we offer";
	} else if (row->method == METHOD_SYS && !comparable_sys(row->sys)) {
		if (row->class == CLASS_PRIVILEGED) {
			f->kind = FORM_PRIVILEGED;
		} else {
			f->kind = FORM_EXCLUDED;
			f->excluded = "depends on the host's system state (segments, tables, time, kernel entry)";
		}
	}
	if (!oracle_has_bases() && (row->sys >= ISA_SYS_rdfsbase && row->sys <= ISA_SYS_wrgsbase)) {
		f->kind = FORM_EXCLUDED;
		f->excluded = "the host's kernel keeps FSGSBASE off";
	}
}

/* Decode one candidate; true if it has a ModRM byte or is none at all. */
static bool candidate(struct form_list *l, const u8 *bytes, struct form *shape)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	struct form f, *known;
	struct dinsn d;
	u32 h;

	if (isa_decode_full(&z, ops, bytes, 15, oracle_mode) != DECODE_OK)
		return true;
	form_key(&f, &z, ops);
	f.pp = shape->pp;
	if (f.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		f.w = shape->w;
	h = lookup(l, &f);
	if (!l->hash[h]) {
		if (l->count == l->cap) {
			l->cap = l->cap ? 2 * l->cap : 4096;
			l->form = realloc(l->form, l->cap * sizeof(*l->form));
			if (!l->form || l->cap >= HASH_SIZE)
				abort();
		}
		dinsn_from_zydis(&d, &z, ops, bytes, oracle_mode);
		classify(&f, &d);
		l->form[l->count++] = f;
		l->hash[h] = l->count;
	}
	known = &l->form[l->hash[h] - 1];
	if (f.has_modrm && known->pp == f.pp && known->w == f.w)
		known->modrm |= BIT(z.raw.modrm.reg * 8 + z.raw.modrm.rm);
	return f.has_modrm;
}

/* All ModRM bytes behind `n` bytes of prefixes and opcode. */
static void all_modrm(struct form_list *l, u8 *bytes, unsigned n, struct form *shape, bool brief)
{
	memset(bytes + n, 0, 15 - n);
	for (unsigned m = 0; m < 72; m++) {
		unsigned reg = m & 7, rm = m >> 3;

		/* rm 8 stands for memory, with a SIB byte: base RAX, index RSI */
		if (brief && rm != 8 && rm != 1)
			continue;
		bytes[n] = (u8)(rm == 8 ? reg << 3 | 4 : 0xc0 | reg << 3 | rm);
		bytes[n + 1] = rm == 8 ? 0x30 : 0;
		if (!candidate(l, bytes, shape))
			return;
	}
}

static bool is_prefix(unsigned map, unsigned op)
{
	if (map)
		return map == 1 && (op == 0x38 || op == 0x3a || op == 0x0f);
	return op == 0x0f || op == 0x26 || op == 0x2e || op == 0x36 || op == 0x3e ||
	       (oracle_mode == CODE_64 && op >= 0x40 && op <= 0x4f) || op == 0x62 || (op >= 0x64 && op <= 0x67) ||
	       op == 0xc4 || op == 0xc5 || op == 0xf0 || op == 0xf2 || op == 0xf3;
}

static void legacy(struct form_list *l)
{
	static const u8 prefix[6][2] = { { 0 }, { 0x66 }, { 0xf3 }, { 0xf2 }, { 0x66, 0xf2 }, { 0x66, 0xf3 } };

	for (unsigned c = 0; c < 4 * 2 * 6 * 256; c++) {
		unsigned map = c >> 8 & 3, w = c >> 10 & 1, pp = c >> 11, n = 0, op = c & 255;
		struct form shape = { .w = (u8)w, .pp = (u8)pp };
		u8 b[16];

		if (is_prefix(map, op) || (w && oracle_mode != CODE_64))
			continue;
		for (unsigned k = 0; k < 2 && prefix[pp][k]; k++)
			b[n++] = prefix[pp][k];
		if (w)
			b[n++] = 0x48;
		if (map)
			b[n++] = 0x0f;
		if (map > 1)
			b[n++] = map == 2 ? 0x38 : 0x3a;
		b[n++] = (u8)op;
		all_modrm(l, b, n, &shape, false);
	}
}

static void vex(struct form_list *l)
{
	for (unsigned c = 0; c < 3 * 4 * 2 * 2 * 256; c++) {
		unsigned map = 1 + c / 4096, pp = c >> 8 & 3, w = c >> 10 & 1, len = c >> 11 & 1;
		struct form shape = { .pp = (u8)pp };
		u8 b[16];

		/* once without and once with a register in vvvv */
		for (unsigned vvvv = 15; vvvv >= 8; vvvv -= 7) {
			b[0] = 0xc4;
			b[1] = (u8)(0xe0 | map);
			b[2] = (u8)(w << 7 | vvvv << 3 | len << 2 | pp);
			b[3] = (u8)c;
			shape.w = (u8)w;
			all_modrm(l, b, 4, &shape, false);
		}
	}
}

static void evex(struct form_list *l)
{
	static const u8 maps[] = { 1, 2, 3, 5, 6 };

	for (unsigned c = 0; c < 5 * 4 * 2 * 4 * 2 * 2 * 256; c++) {
		unsigned map = maps[c >> 15], pp = c >> 8 & 3, w = c >> 10 & 1, len = c >> 11 & 3, bc = c >> 13 & 1,
			 masked = c >> 14 & 1;
		struct form shape = { .w = (u8)w, .pp = (u8)pp };
		u8 b[16];

		b[0] = 0x62;
		b[1] = (u8)(0xf0 | map);
		b[2] = (u8)(w << 7 | 15 << 3 | 4 | pp);
		b[3] = (u8)(len << 5 | bc << 4 | 8 | masked);
		b[4] = (u8)c;
		all_modrm(l, b, 5, &shape, true);
	}
}

void forms_enumerate(struct form_list *l)
{
	memset(l, 0, sizeof(*l));
	l->hash = calloc(HASH_SIZE, sizeof(*l->hash));
	if (!l->hash)
		abort();
	legacy(l);
	vex(l);
	evex(l);
}

void forms_free(struct form_list *l)
{
	free(l->form);
	free(l->hash);
}
