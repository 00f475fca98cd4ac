/*
 * Fuzz target: dinsn_decode(), its full sibling and the printer on any bytes,
 * in every mode. The two decoders must agree and every field stay in range.
 * The first byte chooses the mode; up to 15 follow.
 */
#include <stdlib.h>
#include <string.h>

#include "isa/decode.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	ZydisDecodedInstruction z;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct dinsn d, e;
	enum code_mode mode;
	enum decode_status s;
	unsigned len;
	char text[128];
	u8 bytes[15];

	if (size < 2)
		return 0;
	mode = (enum code_mode)(data[0] % 3);
	len = (unsigned)MIN(size - 1, sizeof(bytes));
	memcpy(bytes, data + 1, len);
	dinsn_format(bytes, len, mode, 0x1000, text, sizeof(text));
	s = dinsn_decode(&d, bytes, len, mode);
	check(isa_decode_full(&z, ops, bytes, len, mode) == s);
	if (s == DECODE_MORE)
		check(len < 15);
	if (s != DECODE_OK)
		return 0;
	dinsn_from_zydis(&e, &z, ops, bytes, mode);
	check(memcmp(&d, &e, sizeof(d)) == 0);
	check(d.len >= 1 && d.len <= len);
	check(d.opsize == 1 || d.opsize == 2 || d.opsize == 4 || d.opsize == 8);
	check(d.addrsize == 2 || d.addrsize == 4 || d.addrsize == 8);
	check(d.seg < SEG_COUNT && d.reg < 16 && d.rm < 16 && d.mod < 4);
	check(d.base <= REG_NONE && (d.index < 16 || d.index == REG_NONE));
	check(d.scale == 1 || d.scale == 2 || d.scale == 4 || d.scale == 8);
	check(d.base != REG_RIP || mode == CODE_64);
	check(isa_row_of(&d)->mnemonic == d.mnemonic);
	/* fewer bytes never decode to something else */
	for (unsigned n = 1; n < d.len; n++)
		check(dinsn_decode(&e, bytes, n, mode) != DECODE_OK);
	return 0;
}
