/* Inside of the translator proper. Ordinary C: vector state is parked. */
#ifndef ECTYPE_ENGINE_DBT_TRANSLATE_H
#define ECTYPE_ENGINE_DBT_TRANSLATE_H

#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"
#include "engine/interp/thunk.h"
#include "isa/decode.h"

#define BLOCK_INSNS 48
#define LOOP_INSNS 32 /* of the second copy of a loop, see loop.c */
#define BLOCK_RECORDS (BLOCK_INSNS + LOOP_INSNS)
/* A block ends at the first branch or call behind so many: what lies beyond is often never run (gcc and a shell
 * that forks much: 7 and 19 % faster than without; compute loops: no difference). */
#define CUT_INSNS 10
#define STUBS_MAX (BLOCK_RECORDS * 6)
#define HOST_BYTES_MAX 24576 /* room a block may take in the cache */
#define BLOCK_EXITS_MAX 250
#define BLOCK_RECIPES_MAX 250

/* Where a guest's general register lives, or HOME_MEMORY. */
#define HOME_MEMORY 0xff
extern const u8 home[16];
static inline u32 gpr_off(unsigned guest)
{
	return guest * 8;
}

/* Whose it is to translate, if its method is METHOD_CORE. */
enum group {
	GROUP_GENERAL,
	GROUP_NOP,
	GROUP_DIRECTION,
	GROUP_INC, /* of one byte, in 32-bit code */
	GROUP_FLOW,
	GROUP_LEA,
	GROUP_MOV, /* between registers of which one at least lives in memory */
	GROUP_MOFFS,
	GROUP_STACK,
	GROUP_STRING,
	GROUP_ODD
};
enum trait {
	TRAIT_MODEL = 1 << 0,	  /* the CPU model has it */
	TRAIT_HOST = 1 << 1,	  /* the host may run it, as far as can be told from its bytes */
	TRAIT_BRANCH = 1 << 2,	  /* transfers control */
	TRAIT_AWARE = 1 << 3,	  /* is emitted by code that keeps track of flags, if it is not METHOD_SYS */
	TRAIT_NOP = 1 << 4,	  /* does nothing */
	TRAIT_MEMORY = 1 << 5,	  /* has a memory operand, hidden or not */
	TRAIT_OPERAND = 1 << 6,	  /* ModRM names its only one, of `size` bytes */
	TRAIT_WRITES = 1 << 7,	  /* and it is written */
	TRAIT_SETS_ALL = 1 << 8,  /* sets all status flags whatever they were before */
	TRAIT_FLAGS = 1 << 9,	  /* has to do with status flags */
	TRAIT_MODIFIES = 1 << 10, /* changes some of them */
	TRAIT_ENDS = 1 << 11,	  /* a block ends behind it */
	TRAIT_CUTS = 1 << 12	  /* and behind this, if it has become long enough */
};
/* How rewrite.c puts its bytes: up to the opcode, ModRM, SIB and displacement, the rest. */
struct rewrite {
	u64 head;		    /* prefixes and opcode, the first byte lowest */
	u8 head_len, tail_at;	    /* bytes; of the guest's bytes, where the rest begins */
	u8 modrm;		    /* of the register form; of the others only the reg field */
	u8 ext_at;		    /* where REX is or would be, or the byte with the inverted B bit */
	u8 ext : 2, mem : 2;	    /* enum rewrite_ext, enum rewrite_mem */
	u8 borrowed : 2, ok : 1;    /* ok: it can be expressed */
	u8 masked : 1;		    /* a memory operand of which a mask selects parts */
	u8 rcx_in : 1, rcx_out : 1; /* RCX stands for the guest's: to be loaded, to be stored */
	u8 is4 : 1;		    /* 32-bit code: a register in the last byte, bit 7 ignored */
	u8 evex : 1, aligned : 1;   /* aligned: the host faults if the operand is not */
	u8 zeroes : 1;		    /* 32-bit code: VZEROUPPER, VZEROALL */
	u8 exchange : 1;	    /* XCHG with memory as moves, without its lock */
	struct {
		u8 guest : 4, temp : 4;
		u8 load : 1, store : 1;
	} borrow[2];
};
enum rewrite_ext { EXT_NONE, EXT_NO_REX, EXT_REX, EXT_INVERTED };
enum rewrite_mem { MEM_NONE, MEM_PLAIN, MEM_R14, MEM_RCX };

/*
 * A guest instruction and what follows from its bytes alone, which decode.c
 * keeps: each of the passes finds what it asks for ready.
 */
struct ginsn {
	struct dinsn d;
	struct rewrite rewrite;
	struct recipe recipe;	     /* of the flags it sets, but for `imm`; RECIPE_NONE */
	u16 traits, writes;	     /* enum trait; general registers, by number */
	u8 method, sys, group, need; /* as in struct isa_row; enum group, enum fpu_need */
	u8 size;		     /* bytes of the operand that ModRM names */
	u8 plan;		     /* enum plan_kind of window.c */
	/* Where code has its displacement and immediate, and how many bits; 0: none. */
	u8 disp_at, disp_bits, imm_at, imm_bits;
	bool disp_signed, imm_signed;
};

/* Code out of line, made when the block is complete. */
enum stub_kind {
	STUB_LEAVE,
	STUB_ALIGN,
	STUB_CROSS,
	STUB_MISS,
	STUB_STORE,
	STUB_LINK,
	STUB_JUMP,
	STUB_LIMIT,
	STUB_WINDOW
};
struct stub {
	bool saved; /* flags are not in the host */
	u8 kind;    /* enum stub_kind */
	u8 reason;  /* enum leave_reason */
	u8 reg;	    /* register that holds the linear address; STUB_LIMIT: 0 FS, 1 GS */
	u8 size;    /* bytes of the access */
	bool write; /* STUB_WINDOW: of the access at reg + disp; `slot` is made absent */
	u8 slot;
	s32 disp;
	u32 info;
	u8 *resume;  /* where it goes on, in the writable view */
	u8 *refs[2]; /* rel32 fields to set to its address */
};

/* How an instruction was translated, for --trace analysis. Filled as it is. */
enum how { HOW_HOST, HOW_NOP, HOW_LEA, HOW_MOFFS, HOW_FLOW, HOW_STACK, HOW_STRING, HOW_ODD, HOW_SYS, HOW_STEP };
struct note {
	u8 how;			   /* enum how */
	u8 operand;		   /* what the memory operand became, enum note_operand */
	u8 accesses, access[2];	   /* bytes of each table lookup, NOTE_WRITE */
	u8 borrowed, borrow[2][2]; /* guest register, host register */
	bool opens, shares;	   /* a lookup for others too; another's lookup */
};
#define NOTE_WRITE 0x80
enum note_operand { OPERAND_NONE, OPERAND_PLAIN, OPERAND_R14, OPERAND_RCX };

/* A group of accesses that share a lookup, see window.c. */
#define WINDOWS_MAX 32
#define WINDOW_NONE 0xff
enum window_use { WINDOW_OPERAND, WINDOW_STACK }; /* an instruction's own operand; what it does to the stack */
struct window {
	u32 origin, index; /* of the registers; index 0: none */
	s32 low, high;	   /* the bytes, from there on */
	u8 segment;	   /* of its first access */
	u8 scale;
	u8 last; /* instruction of the block that uses it */
	u8 slot;
	bool write, open; /* open: the slot is written */
};
struct window_ref {
	u8 window, base, index, size; /* WINDOW_NONE; guest registers; bytes */
	bool write, indexed;
	s32 disp, at; /* from the registers, from the window's origin */
};

struct windows {
	unsigned n;
	struct window window[WINDOWS_MAX];
	struct window_ref ref[BLOCK_INSNS][2];
};

/* A loop from the block's start to a backward branch, see loop.c. */
struct loop {
	unsigned n; /* instructions; 0: none */
	u64 end;    /* linear address behind its branch */
	bool fast;  /* its second copy is being translated */
	bool usable;
	u32 first;	      /* tinsn of the second copy */
	u8 *branch, *after;   /* rel32 of the first copy's branch; behind it */
	u8 *head;	      /* of the second copy */
	struct recipe recipe; /* of the flags at the branch */
	s32 recipe_at;
	unsigned counter; /* guest register that changes by `step` each time round */
	s32 step;
	s32 stride[WINDOWS_MAX];		  /* what a window moves by */
	u8 base[WINDOWS_MAX], index[WINDOWS_MAX]; /* guest registers of its origin, REG_NONE */
	bool folded[WINDOWS_MAX];		  /* the slot includes the base */
	struct windows windows;			  /* `slot` is one of hot->loop */
};

/* Where the guest's flags are, see flags.c. */
enum flag_state { FLAGS_HOST, FLAGS_SAVED, FLAGS_LOST };

struct tr {
	struct vcpu *v;
	struct dbt *x;
	struct tblock *b;
	struct placement at;
	u32 id;			       /* of the block */
	u32 exits_n, sys_n, recipes_n; /* made */
	struct emit e;
	struct fixes fixes;
	u8 *start;
	u64 lin;	 /* of the instruction being translated */
	const u64 *cuts; /* dbt_shared.cut, or a copy of it */
	u32 insn;	 /* its tinsn */
	u32 insn_end;
	const struct ginsn *g; /* the same, decoded */
	const struct dinsn *d; /* g->d, or what stands for it */
	bool fpu_checked, failed, steps_only;
	bool draft;	/* without the lock */
	bool crosses;	/* the block's instruction crosses a page */
	bool shadow;	/* right behind an STI: no event may be looked at */
	bool next_here; /* the next instruction will be in this block too */
	bool aware;	/* the present instruction is emitted by code that keeps track of flags */
	bool clobber;	/* the present instruction's accesses may clobber the host's flags */
	bool dying;	/* nobody sees the flags behind it: the recipe is still good at it */
	bool opening;	/* nothing could leave or touched the flags so far */
	bool unseen;	/* the flags that the block is entered with are overwritten before anything can leave */
	enum flag_state flags;
	struct recipe recipe; /* of the flags, if they are in the host or lost */
	s32 recipe_at;	      /* its number in the block; -1: not recorded */
	u8 *known_at;	      /* here R14 holds the linear address `known` */
	u64 known;
	bool ea_aligned; /* the host faults if it is not */
	u8 ea_size;	 /* bytes accessed at emit_ea()'s address, 0: not known */
	bool narrow;	 /* 32-bit code */
	u8 word;	 /* bytes of an address on the stack: 8, 4 */
	u8 *charge;	 /* imm32 of the present segment's charge, if counted */
	u32 segment;	 /* first tinsn of the present segment */
	u8 crossing[15]; /* bytes of an instruction that crosses a page */
	unsigned stubs_n, pending_n;
	const u8 *code; /* the block's guest code, `avail` bytes in its page */
	unsigned avail;
	unsigned ginsns_n, planned; /* decoded; looked at by window.c */
	enum decode_status decoded; /* of the last of them */
	struct stub stub[STUBS_MAX];
	struct { /* short branches that wait for an island */
		u8 *at;
		u16 stub;
	} pending[16];
	struct note note[BLOCK_RECORDS];
	struct ginsn ginsn[BLOCK_INSNS];
	u16 ginsn_at[BLOCK_INSNS + 1]; /* offsets in `code` */
	/* Where others may write to them meanwhile: what is asked twice is to have one answer. */
	u8 copy[15 * (BLOCK_INSNS + 1) + 16];
	u64 cuts_copy[CUTS];
	struct windows windows;
	struct loop loop;
};
static inline struct note *note_of(struct tr *t)
{
	return &t->note[t->insn - t->b->first];
}

/* By what code says: index of the tinsn, of the texit. */
static inline struct tinsn *insn_of(const struct tr *t, u32 insn)
{
	return &t->at.insns[insn - t->b->first];
}
static inline struct texit *exit_of(const struct tr *t, u32 id)
{
	return &t->at.exits[id - t->b->exits];
}
/* Does a block end before `lin`? See dbt_cut(). */
static inline bool is_cut(const struct tr *t, u64 lin)
{
	return t->cuts[lin % CUTS] == lin;
}
static inline u32 code_offset(const struct tr *t, const u8 *p)
{
	return (u32)(p - t->at.rw);
}

/* emit_mem.c */
/* A branch of 8 bits (op E3H, with 67H before it if `narrow`) to `stub`. */
void short_branch(struct tr *t, bool narrow, unsigned stub);
/* Land pending short branches if they would get out of reach within `room`
 * bytes; `inline_code`: execution falls through here. */
void land_branches(struct tr *t, unsigned room, bool inline_code);
static inline void islands(struct tr *t, unsigned room, bool inline_code)
{
	if (unlikely(t->pending_n))
		land_branches(t, room, inline_code);
}
unsigned new_stub(struct tr *t, enum stub_kind kind, enum leave_reason reason, u32 info);
void emit_stubs(struct tr *t);
/* Linear address of the memory operand; returns the register that holds it. */
unsigned emit_ea(struct tr *t);
/* Register `dst` = offset of the memory operand, in 64 bits or 32; address sizes of 8 and 4. */
void emit_address(struct tr *t, bool w, unsigned dst);
/* RCX = table entry for an access of `size` bytes at register `lin`: the
 * operand is [lin + rcx + 1]. */
void emit_access(struct tr *t, unsigned lin, unsigned size, bool write);
/* The same for the first of a run of RCX elements: the entry serves them all, up to the page's end. */
void emit_page_access(struct tr *t, unsigned lin, unsigned size, bool write);
/* The same for an operand of which a mask selects parts: A and D bits are not
 * set for what is masked off, so without an entry the instruction is left to
 * the reference engine. */
void emit_masked_access(struct tr *t, unsigned lin, unsigned size, bool write);
/* RCX = the entry for register `lin`, nothing checked. */
void put_lookup(struct emit *e, unsigned lin, bool write);
/* The Z flag: does an access cross no page? */
void put_cross_test(struct emit *e, unsigned lin, unsigned size);
/* The Z flag: is it aligned? */
void put_align_test(struct emit *e, unsigned lin, unsigned size);
/* ECX = what `info` of a leave for `reason` is to be: a constant. */
void put_info(struct emit *e, enum leave_reason reason, u32 info);
void emit_leave(struct tr *t, const struct stub *s, unsigned reason);

/* Does control go elsewhere for certain, or the mode change? Far transfers and the like. */
bool leaves_block(const struct dinsn *d);

/* window.c */
void plan_windows(struct tr *t);
/* The access by a lookup shared with others: it is at [*lin + rcx + *disp + 1]. False: it shares none. */
bool emit_window(struct tr *t, enum window_use use, unsigned *lin, s32 *disp);
void emit_window_stub(struct tr *t, const struct stub *s);
/* R14 = the operand's address less `back`. */
void emit_window_address(struct tr *t, const struct window_ref *r, s32 back);

/* loop.c */
/* Is t->insn the branch of the loop? */
bool is_loop_branch(const struct tr *t);
/* In the first copy: the rel32 of its branch, opened, and what follows. */
void put_loop_branch(struct tr *t);
/* In the second copy: all of it. */
void emit_loop_branch(struct tr *t);
/* The second copy, behind the block; returns its instructions. */
unsigned emit_second_copy(struct tr *t);
/* As emit_window(). */
bool emit_loop_window(struct tr *t, enum window_use use, unsigned *lin, s32 *disp);

/* translate.c */
/* Returns the number of instructions translated. */
unsigned emit_block(struct tr *t);
/* Does the block access memory before it touches the flags? Then its body begins with the flags saved. */
bool begins_with_access(struct tr *t);
void new_insn(struct tr *t, unsigned len);
/* Sets *ends if control never falls through, *cut if a new segment begins behind it. */
void emit_insn(struct tr *t, bool *ends, bool *cut);

/* [lin + rcx + 1] with opcode `op`, register field `reg`. */
void op_operand(struct emit *e, bool w, unsigned op, unsigned reg, unsigned lin);

/* Jcc (condition cc) of 32 bits to `stub`; clobbers nothing. */
void long_branch(struct tr *t, unsigned cc, unsigned stub);

/* If RCX is not zero: leave. Clobbers nothing. */
void leave_unless_zero(struct tr *t, enum leave_reason reason, u32 info);

/* RCX = slot of the jump cache for R14, as dbt_jump_slot() has it. Clobbers the flags. */
static inline void put_jump_slot(struct emit *e)
{
	rorx(e, H_RCX, H_R14, 13);
	op_rr(e, false, 0x31, H_R14, H_RCX); /* xor ecx, r14d */
	pext_gs(e, H_RCX, H_RCX, HOT(jump_mask));
}

/* flags.c. RCX is free for all of them. */
/* Before an instruction. `aware`: it is emitted by code that keeps track of
 * flags. True if its accesses may clobber them. */
bool flags_prepare(struct tr *t, bool aware);
void flags_clobber(struct tr *t); /* before code that clobbers the host's */
void flags_done(struct tr *t);	  /* behind an aware instruction */
/* Behind an instruction at the block's start; `stubs`: stubs_n before it. */
void flags_opening(struct tr *t, unsigned stubs);
void flags_to_host(struct tr *t);
void flags_to_memory(struct tr *t);
void note_flags(struct tr *t);
void emit_save_flags(struct tr *t);
void emit_restore_flags(struct tr *t);

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
/* Before code of `bytes` bytes that ends in a rel32 to be linked: processors that run through it while it is patched
 * must find the old one or the new. */
void align_link(struct tr *t, unsigned bytes);

/* sysfast.c: a sensitive instruction done in place. False: not expressible. */
bool emit_sensitive(struct tr *t, unsigned sys);
/* Does that leave the flags alone, wherever they are? */
bool sensitive_aware(unsigned sys);
void emit_direction(struct tr *t, bool down); /* CLD, STD */
/* Number of its record for LEAVE_SYS. */
u32 new_sys(struct tr *t, unsigned sys);

/* stack.c */
/* R14 = RSP - 8, RCX its write entry. */
void emit_open_push(struct tr *t);
/* Of POP, LEAVE, RET: RCX = the entry for 8 bytes at register `lin0`; they are at [*lin + rcx + *disp + 1]. */
void emit_pop_access(struct tr *t, unsigned lin0, unsigned *lin, s32 *disp);
bool emit_stack(struct tr *t);
/* A return address, or a sign-extended immediate of 32 bits. */
void emit_push_const(struct tr *t, u64 value);
/* Of an indirect call: keeps what it overwrites in hot->old. */
void emit_push_call(struct tr *t, u64 ret);

/* string.c: MOVS, STOS, LODS, CMPS, SCAS */
bool emit_string(struct tr *t);

/* odd.c: instructions that need more than their operands corrected */
bool emit_odd(struct tr *t);
/* Of FLDCW: leave to the reference engine if it would unmask an exception. */
void emit_control_word_check(struct tr *t);
/* legacy.c: 32-bit code */
/* Is the segment of the memory operand such that translated code can use it? */
bool legacy_segment(const struct tr *t);
/* May the host run it, but for registers and the operand's address? */
bool legacy_expressible(const struct dinsn *d, const ZydisDecodedInstruction *z);
void emit_legacy_inc(struct tr *t);
bool emit_stack32(struct tr *t);
/* `size`: 2 or 4 bytes. */
void emit_push_const32(struct tr *t, unsigned size, u32 value);
void emit_legacy_base(struct tr *t);
/* Out of line: the operand must lie within the limit of FS or GS. */
void emit_limit_check(struct tr *t, const struct stub *s);
/* Leave instruction `insn` to the reference engine unless ECX is 0. `saved`: flags are not in the host. */
void emit_step_if(struct tr *t, u32 insn, bool saved);
/* An instruction pointer, truncated as the mode has it. */
static inline u64 code_address(const struct tr *t, u64 lin)
{
	return t->narrow ? (u32)lin : lin;
}

/* decode.c: of at most `avail` bytes, from what was decoded before. */
enum decode_status dbt_decode(struct dbt *x, const u8 *code, unsigned avail, enum code_mode mode, struct ginsn *g);
/* Instruction `n` of the block, those before it having been asked for: in ginsn[n]; sets `decoded`. */
enum decode_status decode_next(struct tr *t, unsigned n);
/* What its parts find out about an instruction just decoded. */
void classify(const struct dbt *x, struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
void find_flags_use(struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
void find_plan(struct ginsn *g);
void find_operand(struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops);
/* `alone`: without locks (struct engine_options). */
void find_rewrite(struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops, bool alone);
/* cross.c: an instruction that crosses into the next page */
/* All its bytes and perhaps more, *n of them; NULL: those of the next page cannot be had. */
const u8 *crossing_bytes(struct tr *t, const u8 *code, unsigned *n);
/* t->d: leave to the reference engine if the next page is not what it was. */
void emit_crossing_check(struct tr *t);

/* The instruction is left to the reference engine. */
void emit_step(struct tr *t);
/* `accesses`: the instruction accesses memory, and may clobber the flags for it anyhow. */
void emit_safepoint(struct tr *t, bool accesses);
/* Guest register `g` in a host register: its home, or `temp` loaded. */
unsigned read_reg(struct tr *t, unsigned g, unsigned temp);

#endif
