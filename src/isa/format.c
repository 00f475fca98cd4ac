/* Text of an instruction, for logs and debuggers. */
#include <stdio.h>

#include "isa/decode.h"

void dinsn_format(const u8 *bytes, unsigned len, enum code_mode mode, u64 addr, char *out, size_t size)
{
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisFormatter f;

	if (size == 0)
		return;
	if (isa_decode_full(&insn, ops, bytes, len, mode) != DECODE_OK ||
	    !ZYAN_SUCCESS(ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL)) ||
	    !ZYAN_SUCCESS(
		ZydisFormatterFormatInstruction(&f, &insn, ops, insn.operand_count_visible, out, size, addr, NULL)))
		snprintf(out, size, "(bad)");
}
