/*
 * The decoder's own interface: Zydis' full record for the engines that need
 * operands, actions and flags, decoded exactly as dinsn_decode() does.
 */
#ifndef ECTYPE_ISA_DECODE_H
#define ECTYPE_ISA_DECODE_H

#include <Zydis/Zydis.h>

#include "isa/isa.h"

/* Decode `len` (1..15) bytes with all operands. What no Intel processor we
 * model has (XOP, 3DNow!, Knights Corner's encodings) is DECODE_INVALID. */
enum decode_status isa_decode_full(ZydisDecodedInstruction *insn, ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT],
				   const u8 *bytes, unsigned len, enum code_mode mode);

/* The same instruction as a dinsn. `insn`, `ops` and `bytes` are those of a
 * successful isa_decode_full() in `mode`. */
void dinsn_from_zydis(struct dinsn *d, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
		      const u8 *bytes, enum code_mode mode);

#endif
