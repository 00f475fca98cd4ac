/* Inside of the translator proper. Ordinary C: vector state is parked. */
#ifndef ECTYPE_ENGINE_DBT_TRANSLATE_H
#define ECTYPE_ENGINE_DBT_TRANSLATE_H

#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"
#include "engine/interp/thunk.h"
#include "isa/decode.h"

#define BLOCK_INSNS 48
#define STUBS_MAX (BLOCK_INSNS * 6)
#define HOST_BYTES_MAX 24576 /* room a block may take in the cache */
#define ROOM_EXITS 200

/* Where a guest's general register lives, or HOME_MEMORY. */
#define HOME_MEMORY 0xff
extern const u8 home[16];
static inline u32 gpr_off(unsigned guest)
{
	return guest * 8;
}

/* Code out of line, made when the block is complete. */
enum stub_kind { STUB_LEAVE, STUB_CROSS, STUB_MISS, STUB_STORE, STUB_LINK };
struct stub {
	u8 kind;   /* enum stub_kind */
	u8 reason; /* enum leave_reason */
	u8 reg;	   /* register that holds the linear address */
	u8 size;   /* of a store */
	u32 info;
	u8 *resume;  /* where it goes on, in the writable view */
	u8 *refs[2]; /* rel32 fields to set to its address */
};

struct tr {
	struct vcpu *v;
	struct dbt *x;
	struct tblock *b;
	struct emit e;
	u8 *start;
	u64 lin;  /* of the instruction being translated */
	u32 insn; /* its tinsn */
	u32 insn_end;
	const struct dinsn *d;
	const ZydisDecodedInstruction *z;
	const ZydisDecodedOperand *ops;
	bool fpu_checked, failed, steps_only;
	u8 *charge;  /* imm32 of the present segment's charge, if counted */
	u32 segment; /* first tinsn of the present segment */
	unsigned stubs_n, pending_n;
	struct stub stub[STUBS_MAX];
	struct { /* short branches that wait for an island */
		u8 *at;
		u16 stub;
	} pending[16];
};

/* emit_mem.c */
/* A branch of 8 bits (op E3H, with 67H before it if `narrow`) to `stub`. */
void short_branch(struct tr *t, bool narrow, unsigned stub);
/* Land pending short branches if they would get out of reach within `room`
 * bytes; `inline_code`: execution falls through here. */
void islands(struct tr *t, unsigned room, bool inline_code);
unsigned new_stub(struct tr *t, enum stub_kind kind, enum leave_reason reason, u32 info);
void emit_stubs(struct tr *t);
/* Linear address of the memory operand; returns the register that holds it. */
unsigned emit_ea(struct tr *t);
/* RCX = table entry for an access of `size` bytes at register `lin`: the
 * operand is [lin + rcx + 1]. */
void emit_access(struct tr *t, unsigned lin, unsigned size, bool write);
/* [lin + rcx + 1] with opcode `op`, register field `reg`. */
void op_operand(struct emit *e, bool w, unsigned op, unsigned reg, unsigned lin);

/* rewrite.c: user-level instructions in general. False: not expressible. */
bool emit_general(struct tr *t);

/* flow.c. True if it was translated; sets *ends if control never falls through. */
bool emit_flow(struct tr *t, bool *ends);
/* The block's entries, see struct tblock. */
void emit_entries(struct tr *t);
void begin_segment(struct tr *t);
void end_segment(struct tr *t);
/* `next`: jump to linear address `lin` at the end of the block. */
void emit_exit(struct tr *t, u64 lin);

/* stack.c */
bool emit_stack(struct tr *t);
void emit_push_const(struct tr *t, u64 value);
/* Of an indirect call: keeps what it overwrites in hot->old. */
void emit_push_call(struct tr *t, u64 ret);

/* The instruction is left to the reference engine. */
void emit_step(struct tr *t);
void emit_safepoint(struct tr *t);
/* Guest register `g` in a host register: its home, or `temp` loaded. */
unsigned read_reg(struct tr *t, unsigned g, unsigned temp);

#endif
