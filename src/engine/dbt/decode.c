/*
 * Decoded instructions, kept: the same few thousand encodings make up all code,
 * with other displacements and immediates. What Zydis found is reused for bytes
 * that agree everywhere else; those two are then filled in from the code.
 *
 * That is sound because where they lie and what they mean is decided by the
 * bytes before them. EVEX scales its displacement and some VEX instructions
 * name a register in the immediate: there all bytes must agree.
 */
#include "engine/dbt/translate.h"

#include <string.h>

#define DECODED 1024u

struct decoded {
	u64 key[2], mask[2]; /* of the first 16 bytes; no mask: empty */
	bool exact;	     /* all bytes are in the mask */
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

const size_t dbt_decoded_size = DECODED * sizeof(struct decoded);

static bool has_modrm(unsigned map, unsigned op)
{
	if (map == 0) {
		if (op < 0x40)
			return (op & 7) < 4;
		return op == 0x63 || op == 0x69 || op == 0x6b || (op & 0xf0) == 0x80 || (op & 0xfe) == 0xc0 ||
		       (op & 0xfe) == 0xc6 || (op & 0xfc) == 0xd0 || (op & 0xf8) == 0xd8 || (op & 0xf6) == 0xf6;
	}
	return (op & 0xf0) != 0x80 && (op & 0xf8) != 0xc8 && (op & 0xf8) != 0x30 && op != 0x05 && op != 0x0b;
}

/* Of the bytes up to ModRM and SIB. Where it errs an entry is only not found. */
static unsigned slot_of(const u8 *code)
{
	unsigned n = 0, map = 0;
	u64 head;

	while ((code[n] & 0xf0) == 0x40 || (code[n] & 0xfc) == 0x64 || (code[n] & 0xfe) == 0xf2 || code[n] == 0xf0) {
		if (++n == 5)
			break;
	}
	if (code[n] == 0xc4 || code[n] == 0xc5) {
		n += code[n] == 0xc4 ? 3 : 2;
		map = 1;
	} else if (code[n] == 0x0f) {
		map = 1;
		n += code[n + 1] == 0x38 || code[n + 1] == 0x3a ? 2 : 1;
	}
	if (has_modrm(map, code[n])) {
		n++;
		if (code[n] < 0xc0 && (code[n] & 7) == 4)
			n++;
	}
	n = MIN(n + 1, 8u);
	memcpy(&head, code, 8);
	head &= ~0ull >> (64 - 8 * n);
	return (unsigned)(head * 0x9e3779b97f4a7c15ull >> 54) % DECODED;
}

static void unmask(struct decoded *s, unsigned offset, unsigned bits)
{
	memset((u8 *)s->mask + offset, 0, bits / 8);
}

static void set_mask(struct decoded *s)
{
	s->exact =
	    s->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && s->z.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX;

	for (unsigned k = 0; k < s->z.operand_count; k++)
		s->exact |= s->ops[k].encoding == ZYDIS_OPERAND_ENCODING_IS4;
	memset(s->mask, 0, sizeof(s->mask));
	memset(s->mask, 0xff, s->z.length);
	if (s->exact)
		return;
	unmask(s, s->z.raw.disp.offset, s->z.raw.disp.size);
	for (unsigned k = 0; k < 2; k++)
		unmask(s, s->z.raw.imm[k].offset, s->z.raw.imm[k].size);
}

static s64 field(const u8 *code, unsigned offset, unsigned bits, bool is_signed)
{
	u64 v = 0;

	memcpy(&v, code + offset, bits / 8);
	return is_signed ? (s64)(v << (64 - bits)) >> (64 - bits) : (s64)v;
}

/* The displacement and the immediates that `code` has. */
static void fill_in(struct decoded *s, const u8 *code)
{
	ZydisDecodedInstruction *z = &s->z;
	unsigned imm = 0;

	if (z->raw.disp.size)
		z->raw.disp.value = field(code, z->raw.disp.offset, z->raw.disp.size, true);
	for (unsigned k = 0; k < 2; k++)
		if (z->raw.imm[k].size)
			z->raw.imm[k].value.s =
			    field(code, z->raw.imm[k].offset, z->raw.imm[k].size, z->raw.imm[k].is_signed);
	for (unsigned k = 0; k < z->operand_count; k++) {
		ZydisDecodedOperand *o = &s->ops[k];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.disp.has_displacement)
			o->mem.disp.value = z->raw.disp.value;
		else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
			 o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && imm < 2 && z->raw.imm[imm].size)
			o->imm.value.s = z->raw.imm[imm++].value.s;
	}
}

enum decode_status dbt_decode(struct dbt *x, const u8 *code, unsigned avail, enum code_mode mode,
			      const ZydisDecodedInstruction **z, const ZydisDecodedOperand **ops, struct dinsn *d)
{
	bool keep = mode == CODE_64 && avail >= 16;
	struct decoded *s = &x->decoded[keep ? slot_of(code) : 0];
	enum decode_status status;
	u64 bytes[2] = { 0, 0 };

	*z = &s->z;
	*ops = s->ops;
	memcpy(bytes, code, MIN(16u, avail));
	if (keep && s->mask[0] && !((bytes[0] ^ s->key[0]) & s->mask[0]) && !((bytes[1] ^ s->key[1]) & s->mask[1])) {
		if (!s->exact)
			fill_in(s, code);
		dinsn_from_zydis(d, &s->z, s->ops, code, mode);
		return DECODE_OK;
	}
	s->mask[0] = 0;
	status = isa_decode_full(&s->z, s->ops, code, MIN(15u, avail), mode);
	if (status != DECODE_OK)
		return status;
	dinsn_from_zydis(d, &s->z, s->ops, code, mode);
	if (keep) {
		s->key[0] = bytes[0];
		s->key[1] = bytes[1];
		set_mask(s);
	}
	return status;
}
