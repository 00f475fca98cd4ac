/*
 * A decoded instruction, independent of any engine: what the shared semantics
 * in src/cpu need of it. Produced by isa/decode.c from Zydis.
 */
#ifndef ECTYPE_ISA_DINSN_H
#define ECTYPE_ISA_DINSN_H

#include "base/types.h"

/* General registers in encoding order (RAX RCX RDX RBX RSP RBP RSI RDI R8..R15). */
enum { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI };
/* Pseudo registers of memory operands. */
#define REG_RIP 16 /* disp already counts from the start of the next instruction */
#define REG_NONE 17

/* Segment registers in encoding order. */
enum seg_reg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

enum dinsn_prefix {
	DI_LOCK = 1 << 0,
	DI_REP = 1 << 1,   /* F3 before a string instruction */
	DI_REPNE = 1 << 2, /* F2 before a string instruction; repeats those without a condition like F3 */
	DI_REX = 1 << 3,   /* a REX prefix is in effect: byte registers 4..7 are SPL BPL SIL DIL */
};

enum code_mode { CODE_16, CODE_32, CODE_64 }; /* CODE_16 also for real and virtual-8086 mode */

struct dinsn {
	u16 mnemonic;	 /* ZydisMnemonic */
	u8 len;		 /* 1..15 */
	u8 mode;	 /* enum code_mode it was decoded in */
	u8 opsize;	 /* effective operand size in bytes, 2 4 8 (1 for byte forms) */
	u8 addrsize;	 /* effective address size in bytes, 2 4 8 */
	u8 prefixes;	 /* enum dinsn_prefix */
	u8 opcode;	 /* last opcode byte */
	u8 map;		 /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A, others per VEX/EVEX */
	u8 mod, reg, rm; /* ModRM fields; reg and rm with REX bits, 0..15 */
	bool has_modrm;
	bool is_mem; /* ModRM names memory (or the instruction has an address-size moffs) */
	u8 seg;	     /* effective segment of the memory operand (string source, XLAT too), enum seg_reg */
	u8 base;     /* 0..15, REG_RIP, REG_NONE */
	u8 index;    /* 0..15, REG_NONE; a vector index (VSIB) is not shown */
	u8 scale;    /* 1 2 4 8 */
	s64 disp;
	u64 imm;  /* first immediate, sign-extended where the instruction does so;
		     offset of a far pointer, frame size of ENTER */
	u64 imm2; /* selector of a far pointer; nesting level of ENTER */
	u8 bytes[15];
};

#endif
