/*
 * The decoder: known byte sequences in the three modes, and a comparison of
 * the fields derived from raw bytes with Zydis' own operands over all opcodes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "isa/decode.h"

struct expect {
	enum code_mode mode;
	const char *bytes;
	unsigned len;
	const char *row;
	u8 opsize, addrsize, prefixes;
	int seg; /* -1: no memory operand */
	u8 base, index, scale;
	s64 disp;
	u64 imm, imm2;
};
#define B(s) s, sizeof(s) - 1
#define N REG_NONE

static const struct expect known[] = {
	/* 64-bit addressing */
	{ CODE_64, B("\x48\x8b\x44\x8b\x10"), "MOV", 8, 8, DI_REX, SEG_DS, REG_RBX, REG_RCX, 4, 0x10, 0, 0 },
	{ CODE_64, B("\x8d\x05\xf0\xff\xff\xff"), "LEA", 4, 8, 0, SEG_DS, REG_RIP, N, 1, -16, 0, 0 },
	{ CODE_64, B("\x67\x8d\x05\x01\0\0\0"), "LEA", 4, 4, 0, SEG_DS, REG_RIP, N, 1, 1, 0, 0 },
	{ CODE_64, B("\x8b\x04\x25\0\0\0\x80"), "MOV", 4, 8, 0, SEG_DS, N, N, 1, -0x80000000ll, 0, 0 },
	{ CODE_64, B("\x8b\x04\x24"), "MOV", 4, 8, 0, SEG_SS, REG_RSP, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x41\x8b\x04\x24"), "MOV", 4, 8, DI_REX, SEG_DS, 12, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x41\x8b\x45\x00"), "MOV", 4, 8, DI_REX, SEG_DS, 13, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x42\x8b\x04\x20"), "MOV", 4, 8, DI_REX, SEG_DS, REG_RAX, 12, 1, 0, 0, 0 },
	{ CODE_64, B("\x8b\x45\x08"), "MOV", 4, 8, 0, SEG_SS, REG_RBP, N, 1, 8, 0, 0 },
	{ CODE_64, B("\x3e\x8b\x45\x08"), "MOV", 4, 8, 0, SEG_SS, REG_RBP, N, 1, 8, 0, 0 },
	{ CODE_64, B("\x2e\x64\x3e\x8b\x00"), "MOV", 4, 8, 0, SEG_FS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xa1\x88\x77\x66\x55\x44\x33\x22\x91"), "MOV", 4, 8, 0, SEG_DS, N, N, 1,
	  (s64)0x9122334455667788ull, 0, 0 },
	{ CODE_64, B("\x67\xa1\xff\xff\xff\xff"), "MOV", 4, 4, 0, SEG_DS, N, N, 1, 0xffffffffll, 0, 0 },
	{ CODE_64, B("\x62\xf1\x7c\x48\x10\x40\x01"), "VMOVUPS", 4, 8, 0, SEG_DS, REG_RAX, N, 1, 0x40, 0, 0 },
	{ CODE_64, B("\xc4\xe2\xf1\x90\x04\x13"), "VPGATHERDQ", 8, 8, 0, SEG_DS, REG_RBX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x67\x45\x03\x3c\x0d\x72\x77\x27\x09"), "ADD", 4, 4, DI_REX, SEG_DS, N, REG_RCX, 1, 0x09277772, 0,
	  0 },
	/* operand sizes of 64-bit mode */
	{ CODE_64, B("\x66\xe8\1\2\3\4"), "CALL", 8, 8, 0, -1, N, N, 1, 0, 0x04030201, 0 },
	{ CODE_64, B("\x55"), "PUSH", 8, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x66\x55"), "PUSH", 2, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x6a\xff"), "PUSH", 8, 8, 0, -1, N, N, 1, 0, ~0ull, 0 },
	{ CODE_64, B("\xcb"), "RET_FAR", 4, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xc2\xff\xff"), "RET", 8, 8, 0, -1, N, N, 1, 0, 0xffff, 0 },
	{ CODE_64, B("\x48\xff\x28"), "JMP_FAR", 8, 8, DI_REX, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xff\x18"), "CALL_FAR", 4, 8, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xff\x10"), "CALL", 8, 8, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x0f\xa0"), "PUSH_SREG", 8, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x0f\xa9"), "POP_SREG", 8, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x0f\x22\x18"), "MOV_CR", 8, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x0f\x21\xc0"), "MOV_DR", 8, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x8e\xd8"), "MOV_TO_SREG", 4, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x8c\xd8"), "MOV_FROM_SREG", 4, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xc8\xff\xff\xff"), "ENTER", 8, 8, 0, -1, N, N, 1, 0, 0xffff, 0xff },
	{ CODE_64, B("\x48\xcf"), "IRETQ", 8, 8, DI_REX, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x9d"), "POPFQ", 8, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x48\x6d"), "INSD", 4, 8, DI_REX, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x67\xe3\xfe"), "JECXZ", 8, 4, 0, -1, N, N, 1, 0, ~1ull, 0 },
	{ CODE_64, B("\x48\xc7\x00\xff\xff\xff\xff"), "MOV", 8, 8, DI_REX, SEG_DS, REG_RAX, N, 1, 0, ~0ull, 0 },
	{ CODE_64, B("\x48\xb8\1\2\3\4\5\6\7\x88"), "MOV", 8, 8, DI_REX, -1, N, N, 1, 0, 0x8807060504030201ull, 0 },
	{ CODE_64, B("\xcd\x80"), "INT", 4, 8, 0, -1, N, N, 1, 0, 0x80, 0 },
	/* prefixes */
	{ CODE_64, B("\xf3\xa4"), "MOVSB", 1, 8, DI_REP, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xf2\x48\xa5"), "MOVSQ", 8, 8, DI_REPNE | DI_REX, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xf3\xf2\xae"), "SCASB", 1, 8, DI_REPNE, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xf3\x90"), "PAUSE", 4, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xf0\x01\x00"), "ADD", 4, 8, DI_LOCK, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x48\x66\x01\x00"), "ADD", 2, 8, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 }, /* dead REX */
	/* hints and what MPX and CET are without the extension */
	{ CODE_64, B("\xf3\x0f\x1e\xfa"), "ENDBR64", 4, 8, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x0f\x1f\x40\x00"), "NOP", 4, 8, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xf3\x0f\x1b\x00"), "NOP", 4, 8, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\x0f\x0d\x08"), "PREFETCHW", 4, 8, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_64, B("\xf3\x0f\x09"), "WBINVD", 4, 8, 0, -1, N, N, 1, 0, 0, 0 },
	/* 32-bit */
	{ CODE_32, B("\x8d\x05\1\0\0\0"), "LEA", 4, 4, 0, SEG_DS, N, N, 1, 1, 0, 0 },
	{ CODE_32, B("\x66\xe8\1\x82"), "CALL", 2, 4, 0, -1, N, N, 1, 0, 0xffffffffffff8201ull, 0 },
	{ CODE_32, B("\x9a\xff\xff\xff\xff\x34\x12"), "CALL_FAR", 4, 4, 0, -1, N, N, 1, 0, 0xffffffff, 0x1234 },
	{ CODE_32, B("\x3e\x8b\x45\x08"), "MOV", 4, 4, 0, SEG_DS, REG_RBP, N, 1, 8, 0, 0 },
	{ CODE_32, B("\x26\x2e\x8b\x00"), "MOV", 4, 4, 0, SEG_CS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_32, B("\x67\x8b\x02"), "MOV", 4, 2, 0, SEG_SS, REG_RBP, REG_RSI, 1, 0, 0, 0 },
	{ CODE_32, B("\x06"), "PUSH_SREG", 4, 4, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_32, B("\x1f"), "POP_SREG", 4, 4, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_32, B("\x50"), "PUSH", 4, 4, 0, -1, N, N, 1, 0, 0, 0 },
	{ CODE_32, B("\xd4\x0a"), "AAM", 4, 4, 0, -1, N, N, 1, 0, 10, 0 },
	{ CODE_32, B("\x62\x00"), "BOUND", 4, 4, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	{ CODE_32, B("\xc5\x00"), "LDS", 4, 4, 0, SEG_DS, REG_RAX, N, 1, 0, 0, 0 },
	/* 16-bit */
	{ CODE_16, B("\x8b\x46\x02"), "MOV", 2, 2, 0, SEG_SS, REG_RBP, N, 1, 2, 0, 0 },
	{ CODE_16, B("\x8b\x06\x34\x12"), "MOV", 2, 2, 0, SEG_DS, N, N, 1, 0x1234, 0, 0 },
	{ CODE_16, B("\x8b\x81\x34\x12"), "MOV", 2, 2, 0, SEG_DS, REG_RBX, REG_RDI, 1, 0x1234, 0, 0 },
	{ CODE_16, B("\xa1\xff\xff"), "MOV", 2, 2, 0, SEG_DS, N, N, 1, 0xffff, 0, 0 },
	{ CODE_16, B("\x66\x67\x8b\x04\x4c"), "MOV", 4, 4, 0, SEG_SS, REG_RSP, REG_RCX, 2, 0, 0, 0 },
	{ CODE_16, B("\xea\xfe\xff\x34\x12"), "JMP_FAR", 2, 2, 0, -1, N, N, 1, 0, 0xfffe, 0x1234 },
	{ CODE_16, B("\xeb\xfe"), "JMP", 2, 2, 0, -1, N, N, 1, 0, ~1ull, 0 },
	{ CODE_16, B("\x66\xcf"), "IRETD", 4, 2, 0, -1, N, N, 1, 0, 0, 0 },
};

static void test_known(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		const struct expect *k = &known[i];
		struct dinsn d;
		char text[96];

		dinsn_format((const u8 *)k->bytes, k->len, k->mode, 0, text, sizeof(text));
		print_message("%zu: %s\n", i, text);
		assert_int_equal(dinsn_decode(&d, (const u8 *)k->bytes, k->len, k->mode), DECODE_OK);
		assert_int_equal(d.len, k->len);
		assert_int_equal(d.mode, k->mode);
		assert_memory_equal(d.bytes, k->bytes, k->len);
		assert_string_equal(isa_row_of(&d)->name, k->row);
		assert_int_equal(d.opsize, k->opsize);
		assert_int_equal(d.addrsize, k->addrsize);
		assert_int_equal(d.prefixes, k->prefixes);
		assert_int_equal(d.is_mem, k->seg >= 0);
		if (k->seg >= 0)
			assert_int_equal(d.seg, k->seg);
		assert_int_equal(d.base, k->base);
		assert_int_equal(d.index, k->index);
		assert_int_equal(d.scale, k->scale);
		assert_true(d.disp == k->disp);
		assert_true(d.imm == k->imm);
		assert_true(d.imm2 == k->imm2);
	}
}

static void test_status(void **state)
{
	static const struct {
		enum code_mode mode;
		const char *bytes;
		unsigned len;
		enum decode_status status;
	} t[] = {
		{ CODE_64, B("\xf0\x01\xc0"), DECODE_INVALID },		  /* LOCK without memory */
		{ CODE_64, B("\xf0\x8b\x00"), DECODE_INVALID },		  /* LOCK MOV */
		{ CODE_64, B("\x06"), DECODE_INVALID },			  /* PUSH ES */
		{ CODE_64, B("\x8e\xc8"), DECODE_INVALID },		  /* MOV CS */
		{ CODE_64, B("\x0f\x22\xc8"), DECODE_INVALID },		  /* MOV CR1 */
		{ CODE_64, B("\xd4\x0a"), DECODE_INVALID },		  /* AAM */
		{ CODE_64, B("\x0f\x0f\xc0\x9e"), DECODE_INVALID },	  /* 3DNow! */
		{ CODE_64, B("\x8f\xe8\x78\xc0\xc0\1"), DECODE_INVALID }, /* XOP */
		{ CODE_64, B("\x66\xc5\xf8\x58\xc0"), DECODE_INVALID },	  /* 66 before VEX */
		{ CODE_32, B("\x0f\x05\x90"), DECODE_OK },		  /* SYSCALL: the CPU decides */
		{ CODE_64, B("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66"), DECODE_TOO_LONG },
		{ CODE_64, B("\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x2e\x01\x40\x10"), DECODE_OK },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct dinsn d;

		assert_int_equal(dinsn_decode(&d, (const u8 *)t[i].bytes, t[i].len, t[i].mode), t[i].status);
	}
	/* every proper prefix of an instruction asks for more */
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		struct dinsn d;

		for (unsigned n = 1; n < known[i].len; n++)
			assert_int_equal(dinsn_decode(&d, (const u8 *)known[i].bytes, n, known[i].mode), DECODE_MORE);
	}
}

static u64 rng = 0x9e3779b97f4a7c15ull;
static u8 rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (u8)(rng >> 24);
}

static u8 reg_number(ZydisRegister r)
{
	if (r == ZYDIS_REGISTER_NONE)
		return REG_NONE;
	if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
		return REG_RIP;
	return (u8)ZydisRegisterGetId(r);
}

static void fail_at(const u8 *b, enum code_mode mode, const char *what)
{
	char text[96];

	dinsn_format(b, 15, mode, 0, text, sizeof(text));
	print_error("mode %d, %s differs: %s:", mode, what, text);
	for (int i = 0; i < 15; i++)
		print_error(" %02x", b[i]);
	print_error("\n");
	fail();
}
#define SAME(cond, what)                                                                                               \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			fail_at(b, mode, what);                                                                        \
	} while (0)

static bool is_notrack_form(const ZydisDecodedInstruction *z)
{
	return (z->mnemonic == ZYDIS_MNEMONIC_CALL || z->mnemonic == ZYDIS_MNEMONIC_JMP) && z->opcode == 0xff;
}

static void compare_mem(const struct dinsn *d, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
			const u8 *b, enum code_mode mode)
{
	u64 mask = d->addrsize == 8 ? ~0ull : BIT(d->addrsize * 8) - 1;
	bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;

	SAME(d->is_mem, "is_mem");
	SAME(d->base == reg_number(o->mem.base), "base");
	SAME(d->index == (vsib ? REG_NONE : reg_number(o->mem.index)), "index");
	SAME(d->index == REG_NONE || d->scale == o->mem.scale, "scale");
	SAME(((u64)d->disp & mask) == ((u64)o->mem.disp.value & mask), "disp");
	/* 3E before an indirect branch is NOTRACK to Zydis; to us it is still DS, too */
	if (!is_notrack_form(z) && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
		SAME(d->seg == o->mem.segment - ZYDIS_REGISTER_ES, "segment");
}

/* Returns true if the bytes decode. */
static bool compare(const u8 *b, enum code_mode mode)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct dinsn d, e;
	enum decode_status s = isa_decode_full(&z, ops, b, 15, mode);
	bool mem = false, imm = false;

	memset(&d, 0xee, sizeof(d));
	SAME(dinsn_decode(&d, b, 15, mode) == s, "status");
	if (s != DECODE_OK)
		return false;
	memset(&e, 0xdd, sizeof(e));
	dinsn_from_zydis(&e, &z, ops, b, mode);
	SAME(memcmp(&d, &e, sizeof(d)) == 0, "conversion from the full record");
	SAME(d.mnemonic == z.mnemonic && d.len == z.length && d.map == z.opcode_map && d.opcode == z.opcode, "opcode");
	SAME(d.addrsize * 8 == z.address_width, "addrsize");
	SAME(d.opsize * 8 == z.operand_width || (d.opsize == 4 && (z.meta.category == ZYDIS_CATEGORY_IO ||
								   z.meta.category == ZYDIS_CATEGORY_IOSTRINGOP)),
	     "opsize");
	SAME(d.opsize == 1 || d.opsize == 2 || d.opsize == 4 || d.opsize == 8, "opsize range");
	for (unsigned i = 0; i < z.operand_count; i++) {
		const ZydisDecodedOperand *o = &ops[i];

		if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM && o->type == ZYDIS_OPERAND_TYPE_REGISTER)
			SAME(!d.is_mem, "register operand");
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
							     o->encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64)) {
			compare_mem(&d, &z, o, b, mode);
			mem = true;
		}
		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->encoding != ZYDIS_OPERAND_ENCODING_NONE &&
		    o->encoding != ZYDIS_OPERAND_ENCODING_IS4 && !imm) {
			SAME(d.imm == o->imm.value.u, "imm");
			imm = true;
		}
		if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
			SAME((u32)d.imm == o->ptr.offset && d.imm2 == o->ptr.segment, "far pointer");
		/* general registers: the low four bits of what Zydis found */
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG &&
		    ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR64)
			SAME(d.reg == ZydisRegisterGetId(o->reg.value), "reg");
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM &&
		    ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_GPR64)
			SAME(d.rm == ZydisRegisterGetId(o->reg.value), "rm");
	}
	SAME(mem || !d.is_mem || z.meta.category == ZYDIS_CATEGORY_WIDENOP || z.meta.category == ZYDIS_CATEGORY_NOP,
	     "memory operand only in the dinsn");
	/* what the table says exists */
	SAME(isa_row_of(&d)->mnemonic == z.mnemonic, "row");
	return true;
}

static void test_all_opcodes(void **state)
{
	static const char *const prefixes[] = { "",	    "\x66",	"\x67",	    "\xf2",	"\xf3",	   "\xf0",
						"\x2e",	    "\x36",	"\x3e",	    "\x26",	"\x64",	   "\x65",
						"\x66\x67", "\x66\xf3", "\x48",	    "\x41",	"\x42",	   "\x44",
						"\x4f",	    "\x66\x48", "\x64\x49", "\x2e\x4d", "\x67\x4f" };
	static const char *const maps[] = { "", "\x0f", "\x0f\x38", "\x0f\x3a" };
	unsigned long decoded = 0, tried = 0;

	(void)state;
	for (enum code_mode mode = CODE_16; mode <= CODE_64; mode++)
		for (size_t p = 0; p < ARRAY_SIZE(prefixes); p++)
			for (size_t m = 0; m < ARRAY_SIZE(maps); m++)
				for (unsigned op = 0; op < 256; op++)
					for (unsigned n = 0; n < 24; n++) {
						u8 b[15];
						size_t k = strlen(prefixes[p]), l = strlen(maps[m]);

						for (size_t i = 0; i < sizeof(b); i++)
							b[i] = rnd();
						memcpy(b, prefixes[p], k);
						memcpy(b + k, maps[m], l);
						b[k + l] = (u8)op;
						decoded += compare(b, mode);
						tried++;
					}
	print_message("%lu of %lu byte sequences decode\n", decoded, tried);
}

static void test_vector_prefixes(void **state)
{
	unsigned long decoded = 0;

	(void)state;
	for (unsigned n = 0; n < 1500000; n++) {
		u8 b[15];

		for (size_t i = 0; i < sizeof(b); i++)
			b[i] = rnd();
		switch (n % 4) {
		case 0:
			b[0] = 0xc5;
			break;
		case 1:
			b[0] = 0xc4;
			b[1] = (u8)((b[1] & 0xe0) | (1 + b[1] % 3));
			break;
		default:
			b[0] = 0x62;
			b[1] = (u8)((b[1] & 0xf0) | (1 + b[1] % 6));
			b[2] |= 4;
			if (n & 8)
				b[2] |= 0x78;
			break;
		}
		decoded += compare(b, n & 16 ? CODE_32 : CODE_64);
	}
	print_message("%lu VEX and EVEX instructions decode\n", decoded);
	assert_true(decoded > 100000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_all_opcodes),
		cmocka_unit_test(test_vector_prefixes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
