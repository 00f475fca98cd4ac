/*
 * Thunks: one piece of host code for each distinct user-level instruction the
 * guest executes that the engine does not do itself. The instruction is the
 * guest's own, byte for byte, but for its memory operand, which becomes a host
 * pointer in a register.
 */
#ifndef ECTYPE_ENGINE_INTERP_THUNK_H
#define ECTYPE_ENGINE_INTERP_THUNK_H

#include "engine/interp/interp.h"
#include "isa/decode.h"

enum thunk_mem { THUNK_NO_MEM, THUNK_READ = 1, THUNK_WRITE = 2, THUNK_RMW = 3 };

/* What becomes of the x87 instruction and data pointers (SDM vol. 1, 8.1.8). */
enum x87_pointers {
	X87_KEEP, /* no x87 instruction, or a control instruction */
	X87_SET,
	X87_CLEAR, /* FNINIT */
};

struct thunk {
	const void *code;   /* in the executable view */
	struct thunk *next; /* hash chain */
	u32 hash, code_len;
	u8 mem;	       /* enum thunk_mem */
	u8 mem_size;   /* bytes the operand spans, 1..64 */
	u8 align;      /* 0, or the alignment whose lack is #GP before any page fault */
	u8 mask_reg;   /* 1..7: opmask register under which elements are accessed; 0: all */
	u8 element;    /* bytes an element, with a mask */
	bool whole;    /* a masked store that may fault anywhere in the operand */
	u8 packed;     /* active elements are contiguous (compress, expand) */
	u8 elements;   /* mask bits that count; more than the operand holds if it is broadcast */
	u8 x87;	       /* enum x87_pointers */
	bool converts; /* sets MXCSR before it stores */
	bool locked;   /* its access is one for all processors: LOCK, XCHG */
	bool waits;    /* a pending x87 exception comes before any fault of the operand */
};

struct thunk_cache;

/* Ordinary C (Zydis); guest vector state must be parked. NULL when the
 * instruction cannot be expressed (the caller makes it #UD) or there is no
 * room. */
struct thunk *thunk_make(struct thunk_cache *c, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops,
			 const struct dinsn *d, unsigned need);
bool thunk_room(const struct thunk_cache *c); /* for one block's worth */
void thunk_flush(struct thunk_cache *c);
unsigned thunk_count(const struct thunk_cache *c);

/* Run it. `mem`: host address of the memory operand. Returns 0, or 1 + the
 * host's trap number (0 #DE, 6 #UD, 13 #GP, 16 #MF, 19 #XM) if it faulted. */
int thunk_call(struct vcpu *v, void *mem, const void *code, u64 *sp_slot);

/* special_select.c: instructions whose memory access is not one operand; false: not such a one. */
bool select_special(struct vcpu *v, struct insn *i, const struct dinsn *d, const ZydisDecodedInstruction *z,
		    const ZydisDecodedOperand *ops);

/*
 * What the host in 64-bit mode must be told otherwise of an instruction of 16-
 * or 32-bit code.
 */
/* VEX.W or EVEX.W would choose a quadword of a general register, which there is not: ignored. */
bool narrow_ignores_w(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
/* Registers in an immediate (bits 7:4) are 0 to 7: bit 7 is ignored. */
bool narrow_has_is4(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
/* VZEROUPPER and VZEROALL leave registers 8 to 15 alone: host code that does
 * the same to 0 to 7. Returns its length, 0 for other instructions. */
#define NARROW_ZERO_BYTES 32
unsigned narrow_zero(unsigned mnemonic, u8 code[NARROW_ZERO_BYTES]);

/* Which unit the instruction needs enabled. */
enum fpu_need thunk_need(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);

#endif
