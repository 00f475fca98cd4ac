/*
 * From bytes to struct dinsn.
 *
 * Zydis parses prefixes, opcode, ModRM, SIB, displacement and immediates and
 * refuses what is undefined (LOCK where it is not allowed, too). Its operand
 * decoding is skipped: base, index, segment and sizes follow from the raw
 * fields by SDM vol. 2, 2.1.5 and 2.2.1, at two thirds of the time. A unit
 * test compares both ways over all opcodes.
 */
#include "isa/decode.h"

#include <string.h>

/*
 * Zydis' settings as constant data, so that there is nothing to initialise:
 * what ZydisDecoderInit() and ZydisDecoderEnableMode() would make (a unit test
 * compares). Off: AMD's 66H on near branches, Knights Corner, MPX (its opcodes
 * are NOPs then), WBNOINVD (F3 is ignored before WBINVD).
 */
#define MODES                                                                                                          \
	{                                                                                                              \
		[ZYDIS_DECODER_MODE_CET] = ZYAN_TRUE, [ZYDIS_DECODER_MODE_LZCNT] = ZYAN_TRUE,                          \
		[ZYDIS_DECODER_MODE_TZCNT] = ZYAN_TRUE, [ZYDIS_DECODER_MODE_CLDEMOTE] = ZYAN_TRUE,                     \
	}
static const ZydisDecoder decoders[] = {
	[CODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16, MODES },
	[CODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32, MODES },
	[CODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64, MODES },
};

static enum decode_status status_of(ZyanStatus s)
{
	if (ZYAN_SUCCESS(s))
		return DECODE_OK;
	if (s == ZYDIS_STATUS_NO_MORE_DATA)
		return DECODE_MORE;
	if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return DECODE_TOO_LONG;
	return DECODE_INVALID;
}

/* Encodings Zydis knows that mean #UD on every processor we model. */
static bool foreign(const ZydisDecodedInstruction *z)
{
	if (z->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP || z->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ||
	    z->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX)
		return true;
	return z->meta.isa_ext == ZYDIS_ISA_EXT_KNC || z->meta.isa_ext == ZYDIS_ISA_EXT_KNCE ||
	       z->meta.isa_ext == ZYDIS_ISA_EXT_KNCV;
}

static bool is_string(unsigned map, unsigned opcode)
{
	return map == 0 && ((opcode >= 0x6c && opcode <= 0x6f) || (opcode >= 0xa4 && opcode <= 0xa7) ||
			    (opcode >= 0xaa && opcode <= 0xaf));
}

/* IN, OUT, INS and OUTS know no 64-bit operand: REX.W is ignored. */
static bool is_io32(unsigned map, unsigned opcode)
{
	return map == 0 && ((opcode & 0xfd) == 0x6d || (opcode & 0xf5) == 0xe5);
}

/* VSIB: the index is a vector register, which a dinsn has no place for. */
static bool is_vsib(const ZydisDecodedInstruction *z)
{
	return z->meta.category == ZYDIS_CATEGORY_AVX2GATHER || z->meta.category == ZYDIS_CATEGORY_GATHER ||
	       z->meta.category == ZYDIS_CATEGORY_SCATTER;
}

/* The extension bits of the ModRM and SIB fields, 0 or 8. */
struct rex_bits {
	u8 r, x, b;
};

static struct rex_bits rex_bits(const ZydisDecodedInstruction *z, enum code_mode mode)
{
	struct rex_bits e = { 0, 0, 0 };

	if (mode != CODE_64)
		return e;
	switch (z->encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
		if (z->attributes & ZYDIS_ATTRIB_HAS_REX)
			e = (struct rex_bits){ z->raw.rex.R, z->raw.rex.X, z->raw.rex.B };
		break;
	case ZYDIS_INSTRUCTION_ENCODING_VEX: /* stored inverted */
		e = (struct rex_bits){ !z->raw.vex.R, !z->raw.vex.X, !z->raw.vex.B };
		break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX:
		e = (struct rex_bits){ !z->raw.evex.R, !z->raw.evex.X, !z->raw.evex.B };
		break;
	default:
		break;
	}
	return (struct rex_bits){ (u8)(e.r << 3), (u8)(e.x << 3), (u8)(e.b << 3) };
}

/* Base and index of the eight 16-bit forms (SDM vol. 2, table 2-1). */
static void address16(struct dinsn *d, unsigned rm)
{
	static const u8 base[8] = { REG_RBX, REG_RBX, REG_RBP, REG_RBP, REG_RSI, REG_RDI, REG_RBP, REG_RBX };
	static const u8 index[8] = { REG_RSI, REG_RDI, REG_RSI, REG_RDI, REG_NONE, REG_NONE, REG_NONE, REG_NONE };

	if (d->mod == 0 && rm == 6)
		return;
	d->base = base[rm];
	d->index = index[rm];
}

/* 32- and 64-bit forms (tables 2-2 and 2-3). */
static void address32(struct dinsn *d, const ZydisDecodedInstruction *z, unsigned rm, struct rex_bits e)
{
	if (rm == 4) {
		if (z->raw.sib.base != 5 || d->mod != 0)
			d->base = (u8)(z->raw.sib.base | e.b);
		if ((z->raw.sib.index | e.x) != 4 && !is_vsib(z))
			d->index = (u8)(z->raw.sib.index | e.x);
		if (d->index != REG_NONE)
			d->scale = (u8)(1u << z->raw.sib.scale);
	} else if (rm == 5 && d->mod == 0) {
		if (d->mode == CODE_64)
			d->base = REG_RIP;
	} else {
		d->base = (u8)(rm | e.b);
	}
}

/* Legacy prefixes: the segment override (0xff: none) and the repeat prefix,
 * the last of each kind counts. In 64-bit mode ES, CS, SS and DS overrides do
 * not exist. */
static u8 scan_prefixes(struct dinsn *d, const ZydisDecodedInstruction *z)
{
	u8 seg = 0xff, rep = 0;

	for (unsigned i = 0; i < z->raw.prefix_count; i++) {
		u8 p = z->raw.prefixes[i].value;

		switch (p) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			if (d->mode != CODE_64)
				seg = (p >> 3) & 3;
			break;
		case 0x64:
		case 0x65:
			seg = p == 0x64 ? SEG_FS : SEG_GS;
			break;
		case 0xf2:
			rep = DI_REPNE;
			break;
		case 0xf3:
			rep = DI_REP;
			break;
		}
	}
	if (is_string(d->map, d->opcode))
		d->prefixes |= rep;
	if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		d->prefixes |= DI_LOCK;
	if (z->attributes & ZYDIS_ATTRIB_HAS_REX)
		d->prefixes |= DI_REX;
	return seg;
}

/* `disp`: with the compressed displacement of EVEX scaled. */
static void convert(struct dinsn *d, const ZydisDecodedInstruction *z, const u8 *bytes, enum code_mode mode, s64 disp)
{
	struct rex_bits e = rex_bits(z, mode);
	u8 override;

	memset(d, 0, sizeof(*d));
	d->mnemonic = (u16)z->mnemonic;
	d->len = z->length;
	d->mode = (u8)mode;
	d->opsize = z->operand_width / 8;
	d->addrsize = z->address_width / 8;
	d->opcode = z->opcode;
	d->map = (u8)z->opcode_map;
	d->base = REG_NONE;
	d->index = REG_NONE;
	d->scale = 1;
	d->imm = z->raw.imm[0].value.u;
	d->imm2 = z->raw.imm[1].value.u;
	memcpy(d->bytes, bytes, z->length);
	override = scan_prefixes(d, z);
	if (d->opsize == 8 && is_io32(d->map, d->opcode))
		d->opsize = 4;

	if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		d->has_modrm = true;
		d->mod = z->raw.modrm.mod;
		d->reg = z->raw.modrm.reg | e.r;
		d->rm = z->raw.modrm.rm | e.b;
		/* MOV to and from CR and DR ignore mod: it is always a register. */
		if (d->map == ZYDIS_OPCODE_MAP_0F && d->opcode >= 0x20 && d->opcode <= 0x23)
			d->mod = 3;
		d->is_mem = d->mod != 3;
		if (d->is_mem) {
			d->disp = disp;
			if (d->addrsize == 2)
				address16(d, z->raw.modrm.rm);
			else
				address32(d, z, z->raw.modrm.rm, e);
		}
	} else if (d->map == ZYDIS_OPCODE_MAP_DEFAULT && d->opcode >= 0xa0 && d->opcode <= 0xa3) {
		/* moffs: an address, not a displacement */
		d->is_mem = true;
		d->disp = d->addrsize == 2 ? (u16)disp : d->addrsize == 4 ? (s64)(u32)disp : disp;
	}

	if (override != 0xff)
		d->seg = override;
	else
		d->seg = d->base == REG_RSP || d->base == REG_RBP ? SEG_SS : SEG_DS;
}

enum decode_status dinsn_decode(struct dinsn *d, const u8 *bytes, unsigned len, enum code_mode mode)
{
	ZydisDecoderContext ctx;
	ZydisDecodedInstruction z;
	enum decode_status s = status_of(ZydisDecoderDecodeInstruction(&decoders[mode], &ctx, bytes, len, &z));

	if (s != DECODE_OK)
		return s;
	if (foreign(&z))
		return DECODE_INVALID;
	s64 disp = z.raw.disp.value;
	if (z.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && z.raw.disp.size == 8)
		disp *= ctx.cd8_scale;
	convert(d, &z, bytes, mode, disp);
	return DECODE_OK;
}

/* Zydis 4.0 takes REX.B with 67H, mod 0 and SIB base 5 for [r13d + index]; it
 * is [disp32 + index] whatever REX.B says (SDM vol. 2, table 2-5). */
static void repair_no_base(const ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		ZydisDecodedOperandMem *m = &ops[i].mem;

		if (ops[i].type != ZYDIS_OPERAND_TYPE_MEMORY || m->base != ZYDIS_REGISTER_R13D ||
		    ops[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
			continue;
		m->base = ZYDIS_REGISTER_NONE;
		m->disp.has_displacement = ZYAN_TRUE;
		m->disp.value = insn->raw.disp.value;
	}
}

enum decode_status isa_decode_full(ZydisDecodedInstruction *insn, ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT],
				   const u8 *bytes, unsigned len, enum code_mode mode)
{
	enum decode_status s = status_of(ZydisDecoderDecodeFull(&decoders[mode], bytes, len, insn, ops));

	if (s != DECODE_OK)
		return s;
	if (foreign(insn))
		return DECODE_INVALID;
	if (insn->address_width == 32 && insn->raw.modrm.mod == 0 && insn->raw.sib.base == 5)
		repair_no_base(insn, ops);
	return DECODE_OK;
}

void dinsn_from_zydis(struct dinsn *d, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
		      const u8 *bytes, enum code_mode mode)
{
	s64 disp = insn->raw.disp.value;

	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		for (unsigned i = 0; i < insn->operand_count; i++)
			if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
				disp = ops[i].mem.disp.value;
	}
	convert(d, insn, bytes, mode, disp);
}
