/*
 * The reference engine: private declarations.
 *
 * Guest code is decoded once into arrays of `struct insn` ("blocks"), cached
 * per physical page, and run by threaded dispatch: each instruction has a
 * handler that does its work and goes on to the next one by a tail call. A
 * build without sibling-call optimisation (sanitizers, -O0) returns to a loop
 * instead; see GO.
 *
 * While a block runs:
 *   - general registers live in v->cpu.gpr;
 *   - v->cpu.rip holds the *page base*: the linear address of the code page
 *     minus the CS base. The address of an instruction is rip + insn->off, and
 *     RIP-relative operands use rip as an ordinary base register;
 *   - the status flags live in hot->flags as LAHF and SETO leave them
 *     (AH: SF ZF AF PF CF, AL: OF), the rest of RFLAGS in v->cpu.rflags;
 *   - hot->budget has already been charged with the whole block.
 * sync_out() makes v->cpu and v->icount exact, sync_in() enters this form.
 */
#ifndef ECTYPE_ENGINE_INTERP_INTERP_H
#define ECTYPE_ENGINE_INTERP_INTERP_H

#include "base/world.h"
#include "cpu/event.h"
#include "cpu/seg.h"
#include "cpu/sys.h"
#include "engine/engine.h"
#include "isa/dinsn.h"
#include "mem/mmu.h"

struct insn;
struct block;
struct thunk;
typedef const struct insn *(*op_fn)(struct vcpu *v, const struct insn *i);

#define OP(name) const struct insn *name(struct vcpu *v, const struct insn *i)

struct insn {
	op_fn fn;
	s64 disp; /* of the memory operand; RIP-relative ones count from the page base */
	u64 imm;  /* immediate; branches: offset of the target from the page base */
	union {
		const struct dinsn *d; /* shared semantics, generic handlers */
		struct thunk *thunk;
		struct block *link; /* direct branch inside the page: the target once known */
	};
	u8 dst, src;	/* byte offsets into v->cpu of register operands (AH: 1) */
	u8 base, index; /* byte offsets into v->cpu.gpr; absent: REG_NONE * 8 */
	u8 shift;	/* log2 of the scale */
	u8 len;
	u8 seg;	 /* enum seg_reg of the memory operand */
	u8 size; /* operand size in bytes, where the handler does not know it */
	u16 off; /* of the instruction in its page */
	u8 addrsize;
	u8 cond;  /* condition code of Jcc, SETcc, CMOVcc; REP kind of string instructions */
	u8 sys;	  /* enum isa_sys for shared semantics */
	u8 fpu;	  /* enum fpu_need */
	u16 left; /* instructions of the block behind this one */
};
_Static_assert(sizeof(struct insn) == 48, "an instruction fits in 48 bytes");

struct code_page;

/* What a block's decoding depends on: enum code_mode, and whether CS is flat
 * (base 0, limit 4 GiB), so that 32-bit branches need no checks. */
enum block_mode { BLOCK_16 = CODE_16, BLOCK_32 = CODE_32, BLOCK_64 = CODE_64, BLOCK_32_FLAT };

struct block {
	struct block *next; /* in its page's bucket */
	struct code_page *page;
	u16 off;	    /* of the first instruction in the page */
	u16 bytes;	    /* code bytes covered */
	u16 n;		    /* instructions */
	u8 mode;	    /* enum block_mode */
	bool crosses;	    /* one instruction that runs into the next page ... */
	gpa_t next_gpa;	    /* ... which was this frame */
	struct insn insn[]; /* n of them, plus an `end of block` where the last one does not branch */
};

#define PAGE_BUCKETS 64
struct code_page {
	struct code_page *hash_next;
	gpa_t gpa;
	u8 *host;
	u64 lines; /* bit k: decoded code in bytes [64k, 64k+64) */
	struct block *bucket[PAGE_BUCKETS];
};

/* What an instruction needs enabled before it may run on the host's units. */
enum fpu_need { FPU_NONE, FPU_X87, FPU_MMX, FPU_SSE, FPU_AVX, FPU_AVX512, FPU_WAIT, FPU_NEED_COUNT };

#define JUMP_CACHE_BITS 12
struct jump_entry {
	u64 lin;
	u64 key; /* hot->key it was made under */
	struct block *block;
};

/* Overlays vcpu->engine_hot. */
struct interp_hot {
	struct tlb_entry *tlb; /* mmu->current */
	s64 budget;	       /* instructions left after the running block */
	u64 icount_end;	       /* v->icount when budget reaches 0 */
	u16 flags;	       /* AH:AL as LAHF, SETO leave them */
	u8 fpu_ok;	       /* bit per enum fpu_need: may run without a look */
	u8 mode;	       /* enum block_mode */
	u16 flat;	       /* bit per segment: base 0, no limit to check (read), +8: write */
	bool careful;	       /* one instruction at a time: TF, breakpoints */
	u64 key;	       /* of jump cache entries: translation generation, rights, mode */
	struct block *block;   /* the one that runs */
	struct insn *poison;   /* see break_after() */
	op_fn poison_fn;
	u64 cs_base;
	u64 tmp[8];   /* result of slow loads: not a local, so that handlers stay tail calls */
	u64 thunk_sp; /* host stack pointer inside thunk_call() */
};
_Static_assert(sizeof(struct interp_hot) <= sizeof(((struct vcpu *)0)->engine_hot), "hot data fits");

/* What single.c decoded. */
struct single {
	u64 lin;
	u64 flushes; /* interp.arena_flushes at that time: its records may lie in the arena */
	struct insn insn;
	u8 compared; /* bytes it depends on; 0: empty */
	u8 bytes[15];
};
#define SINGLES 256u

/* The processors of a machine that have this engine, alone or inside another: code that one decoded another may write.
 */
struct interp_peers {
	struct memory *mem;
	unsigned n;
	struct vcpu *v[WORLD_MAX];
};

#define PAGE_HASH_BITS 14
struct interp {
	struct vcpu *v;
	struct interp_peers *peers;
	struct jump_entry jump[1u << JUMP_CACHE_BITS];
	struct code_page *pages[1u << PAGE_HASH_BITS];
	u8 *arena;
	size_t arena_used, arena_size;
	struct block *build; /* scratch: BLOCK_MAX instructions */
	struct block *step;  /* scratch: one instruction for careful execution */
	struct thunk_cache *thunks;
	struct single single[SINGLES];
	/* For an engine that has this one inside: interp_run() returns as if its budget were spent
	 * before the next instruction after a system instruction, fault or event made this true. */
	bool (*until)(const struct vcpu *v);
	bool stale; /* the physical map changed: drop all code at the next lookup */
	u64 blocks, decoded, page_drops, arena_flushes, steps, thunk_runs, faults, events;
	u8 bounce[192] __attribute__((aligned(64)));
};

static inline struct interp_hot *hot(struct vcpu *v)
{
	return (struct interp_hot *)v->engine_hot;
}
static inline struct interp *interp_of(struct vcpu *v)
{
	return v->engine_data;
}

/*
 * ECTYPE_TAIL_CALLS comes from src/meson.build: an optimised build without
 * sanitizers. Clang is told that the call must be a jump; gcc makes it one at
 * -O2, which scripts/check-symbols.py verifies. Everything off the fast path
 * returns the next instruction, or NULL, to run_chain() instead.
 */
#ifndef __has_attribute
#define __has_attribute(x) 0
#endif
#if !defined(ECTYPE_TAIL_CALLS)
#define GO(v, i) return (i)
#else
#define GO(v, i) TAIL(i)->fn((v), (i))
#endif
/* Return what another function of type op_fn returns, by a jump. */
#if defined(ECTYPE_TAIL_CALLS) && __has_attribute(musttail)
#define TAIL __attribute__((musttail)) return
#else
#define TAIL return
#endif
#define NEXT GO(v, i + 1)

/* Guest memory, and registers at odd offsets (AH), as the host's instructions
 * access them: at any alignment. */
typedef u8 any_u8 __attribute__((may_alias));
typedef u16 any_u16 __attribute__((may_alias, aligned(1)));
typedef u32 any_u32 __attribute__((may_alias, aligned(1)));
typedef u64 any_u64 __attribute__((may_alias, aligned(1)));

/* Register file by byte offset. */
#define R8(o) (*((u8 *)v + (o)))
#define R16(o) (*(any_u16 *)((u8 *)v + (o)))
#define R32(o) (*(any_u32 *)((u8 *)v + (o)))
#define R64(o) (*(any_u64 *)((u8 *)v + (o)))

/* run.c */
void sync_in(struct vcpu *v);
void sync_out(struct vcpu *v, const struct insn *i);
/* Leave to the run loop with v->cpu exact at the start of `i` (not retired). */
const struct insn *interp_leave(struct vcpu *v, const struct insn *i);
/* v->fault was raised by `i`: deliver it, go on where it leads. */
const struct insn *interp_fault(struct vcpu *v, const struct insn *i);
/* Between blocks, v->cpu.rip exact, the rest in running form: go on there. */
const struct insn *interp_continue(struct vcpu *v);
/* Something must be looked at right after `i`: make the next instruction of
 * the block leave to the run loop. */
void break_after(struct vcpu *v, const struct insn *i);
/* Between blocks: go on at linear address `lin`, which the jump cache does not know. */
const struct insn *interp_dispatch_slow(struct vcpu *v, u64 lin);
/* Between blocks: leave to the run loop with the next instruction at `rip`. */
const struct insn *interp_leave_at(struct vcpu *v, u64 rip);

/*
 * memory.c: accesses that miss the TLB. 0, or FAULT. Loads put the value into
 * hot->tmp. They keep v->icount exact for devices and call break_after() when
 * an event came up.
 *
 * Handlers reach them through stubs that preserve every register but RAX, so
 * that the fast path saves nothing (gcc would push four registers in each
 * handler: 25 % of an integer loop) and every handler stays a leaf that ends
 * in a jump. Needs -mno-red-zone.
 */
#define SLOW_CALL(name, ...)                                                                                           \
	({                                                                                                             \
		int r_;                                                                                                \
		__asm__ volatile("call " #name "_stub" : "=a"(r_) : __VA_ARGS__ : "memory", "cc");                     \
		r_;                                                                                                    \
	})
static inline __attribute__((always_inline)) int load_slow(struct vcpu *v, const struct insn *i, gva_t lin,
							   unsigned size)
{
	return SLOW_CALL(interp_load, "D"(v), "S"(i), "d"(lin), "c"(size));
}
/* Translate for writing, then read the old value into hot->tmp[0]. */
static inline __attribute__((always_inline)) int rmw_slow(struct vcpu *v, const struct insn *i, gva_t lin,
							  unsigned size)
{
	return SLOW_CALL(interp_rmw, "D"(v), "S"(i), "d"(lin), "c"(size));
}
/* The value is passed in hot->tmp[1]. */
static inline __attribute__((always_inline)) int store_slow(struct vcpu *v, const struct insn *i, gva_t lin, u64 val,
							    unsigned size)
{
	hot(v)->tmp[1] = val;
	return SLOW_CALL(interp_store, "D"(v), "S"(i), "d"(lin), "c"(size));
}
/* Segmented effective address of `size` bytes in modes or segments that are
 * not flat. 0 with hot->tmp[7] = linear address, or FAULT. */
static inline __attribute__((always_inline)) int ea_slow(struct vcpu *v, const struct insn *i, unsigned size,
							 bool write)
{
	return SLOW_CALL(interp_ea, "D"(v), "S"(i), "d"(size), "c"((unsigned)write));
}
int interp_load(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size);
int interp_rmw(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size);
int interp_store(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size);
int interp_ea(struct vcpu *v, const struct insn *i, unsigned size, unsigned write);
/* The second half: hot->tmp[6] is the offset in i->seg. */
int interp_segment(struct vcpu *v, const struct insn *i, unsigned size, unsigned write);
/* FAULT with #SS(0) if `i` addresses the stack and [lin, lin+size) is not canonical. */
int interp_stack_canonical(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size);
/* The first and last byte of `active` (bit n: lin + n): FAULT if one is not canonical. */
int interp_masked_canonical(struct vcpu *v, const struct insn *i, gva_t lin, u64 active, gva_t *first, gva_t *last);
/* May the bytes of `active` (bit n: lin + n) be written? As on hardware a fault
 * of the second page names the last of them. */
int interp_probe_masked(struct vcpu *v, const struct insn *i, gva_t lin, u64 active);
void sync_icount(struct vcpu *v, const struct insn *i);

/*
 * cache.c. Blocks, pages and their instructions live in one arena that is
 * emptied as a whole when full: only between blocks (cache_find), never while
 * one runs.
 */
struct block *cache_find(struct vcpu *v, u64 lin); /* NULL: fault in v->fault */
/* The block at offset `off` of the page that `from` runs in; NULL: look it up by address. */
struct block *cache_find_near(struct vcpu *v, unsigned off);
/* A write hit a page with PAGE_CODE. Who holds it drops the page's blocks if it touched bytes he decoded. */
void cache_page_written(struct interp_peers *all, gpa_t gpa, unsigned len);
void cache_flush(struct vcpu *v);
/* Empties the arena if less is left of it, or of the thunks, than one block may take. Between blocks. */
void cache_make_room(struct vcpu *v);
/* Make x->step a copy of the first instruction of `b`, alone. */
struct block *cache_single(struct vcpu *v, const struct block *b);
/* single.c: x->step for the one instruction at `lin` in 64-bit mode; NULL: fault in v->fault. */
struct block *cache_single_at(struct vcpu *v, gva_t lin);

/*
 * translate.c: decode up to `max` instructions starting at `off` of `page`.
 * `avail` bytes may be read from page + off; they end at the page's end, or,
 * when the caller found that the first instruction crosses it, beyond. Fills
 * b->n, b->bytes and b->insn (with the end-of-block one). Returns 0, or
 * FAULT if the first instruction cannot be decoded, or TRANSLATE_CROSSES if it
 * runs beyond `avail`. Extra records come from cache_alloc().
 */
#define TRANSLATE_CROSSES 1
#define BLOCK_MAX 64
int translate_block(struct vcpu *v, struct block *b, const u8 *bytes, unsigned avail, unsigned max);
/* Fills i->fn and all else for `d`; sets *ends if control never falls through to i + 1. */
void select_op(struct vcpu *v, struct insn *i, const struct dinsn *d, bool *ends);
void *cache_alloc(struct interp *x, size_t n); /* NULL: out of room in this block's reserve */
OP(op_end_of_block);			       /* not an instruction: falls into the next block */
OP(op_end_of_step);			       /* leaves to the run loop */
OP(op_poisoned);			       /* see break_after() */

/* ops_host.c: the unit an instruction needs is not enabled. */
int interp_unit_fault(struct vcpu *v, unsigned need);
enum vcpu_exit interp_run(struct vcpu *v, const struct run_budget *budget);
/* For an engine that has this one inside: run one instruction, v->cpu exact before and after. */
void interp_single(struct vcpu *v);
/* TF, RF or instruction breakpoints of the guest: to be run by interp_run(). */
bool interp_careful(const struct vcpu *v);
/* Bit per enum fpu_need: such instructions are enabled. */
u8 interp_fpu_enabled(const struct cpu *c);
/* Make and undo what the engine keeps, for `x` at v->engine_data, all zero before, which is then one of `all`; `arena`:
 * bytes for what was decoded. The caller listens to the memory map and passes on what happens: */
int interp_init(struct vcpu *v, struct interp *x, size_t arena, struct interp_peers *all, struct error *e);
void interp_fini(struct vcpu *v, struct interp *x);
void interp_map_changed(struct interp_peers *all);
/* memory_listener.track_armed */
void interp_track_armed(struct interp_peers *all);

/* thunk.c */
struct thunk_cache *thunk_cache_create(struct error *e);
void thunk_cache_destroy(struct thunk_cache *c, struct reclaim *later);

/* status flags */
static inline void flags_to_hot(struct vcpu *v)
{
	u64 f = v->cpu.rflags;
	hot(v)->flags = (u16)(((f & 0xff) << 8) | ((f >> 11) & 1));
}
static inline u64 hot_to_flags(u16 h)
{
	return ((h >> 8) & 0xd5) | 2 | ((u64)(h & 1) << 11);
}

/* Inline effective address: 64-bit mode, 8-byte addresses, no FS or GS. */
static inline __attribute__((always_inline)) u64 ea_fast(struct vcpu *v, const struct insn *i)
{
	return R64(i->base) + (R64(i->index) << i->shift) + (u64)i->disp;
}
static inline __attribute__((always_inline)) u64 ea_base(struct vcpu *v, const struct insn *i)
{
	return R64(i->base) + (u64)i->disp;
}

/* Kinds of effective address a handler is instantiated for. */
#define EA_b(lin, size, wr) u64 lin = ea_base(v, i)
#define EA_s(lin, size, wr) u64 lin = ea_fast(v, i)
#define EA_x(lin, size, wr)                                                                                            \
	if (unlikely(ea_slow(v, i, size, wr)))                                                                         \
		return interp_fault(v, i);                                                                             \
	u64 lin = hot(v)->tmp[7]

static inline unsigned jump_hash(u64 lin)
{
	return (unsigned)(lin ^ (lin >> JUMP_CACHE_BITS)) & ((1u << JUMP_CACHE_BITS) - 1);
}

/* Run block `b` of the current page. Ends the handler, as do the next ones; macros, for GO() in them
 * must stand in the handler itself. */
#define ENTER_BLOCK(v, b)                                                                                              \
	do {                                                                                                           \
		struct block *b_ = (b);                                                                                \
		s64 left_ = hot(v)->budget - b_->n;                                                                    \
		if (unlikely((v)->event) || unlikely(left_ < 0))                                                       \
			return interp_leave_at((v), (v)->cpu.rip + b_->off);                                           \
		hot(v)->budget = left_;                                                                                \
		hot(v)->block = b_;                                                                                    \
		GO(v, b_->insn);                                                                                       \
	} while (0)

/* Between blocks: go on at linear address `lin` (in a new page, perhaps). */
#define DISPATCH(v, to)                                                                                                \
	do {                                                                                                           \
		u64 lin_ = (to);                                                                                       \
		const struct jump_entry *e_ = &interp_of(v)->jump[jump_hash(lin_)];                                    \
		if (unlikely(e_->lin != lin_) || unlikely(e_->key != hot(v)->key))                                     \
			return interp_dispatch_slow((v), lin_);                                                        \
		(v)->cpu.rip = (lin_ & PAGE_MASK) - hot(v)->cs_base;                                                   \
		ENTER_BLOCK(v, e_->block);                                                                             \
	} while (0)

#define TLB_HIT(e, lin, acc, size) ((e)->tag[acc] == (((lin) + (size)-1) & PAGE_MASK))

#define LOAD(T, var, lin)                                                                                              \
	T var;                                                                                                         \
	do {                                                                                                           \
		struct tlb_entry *e_ = tlb_slot(hot(v)->tlb, (lin));                                                   \
		if (likely(TLB_HIT(e_, (lin), MMU_READ, sizeof(T)))) {                                                 \
			var = *(const any_##T *)((lin) + e_->addend);                                                  \
		} else {                                                                                               \
			if (unlikely(load_slow(v, i, (lin), sizeof(T))))                                               \
				return interp_fault(v, i);                                                             \
			var = (T)hot(v)->tmp[0];                                                                       \
		}                                                                                                      \
	} while (0)

#define STORE(T, lin, val)                                                                                             \
	do {                                                                                                           \
		struct tlb_entry *e_ = tlb_slot(hot(v)->tlb, (lin));                                                   \
		if (likely(TLB_HIT(e_, (lin), MMU_WRITE, sizeof(T)))) {                                                \
			*(any_##T *)((lin) + e_->addend) = (T)(val);                                                   \
		} else if (unlikely(store_slow(v, i, (lin), (T)(val), sizeof(T)))) {                                   \
			return interp_fault(v, i);                                                                     \
		}                                                                                                      \
	} while (0)

/* A push of an instruction whose i->seg is that of its memory operand. */
#define STORE_STACK(T, lin, val)                                                                                       \
	do {                                                                                                           \
		struct tlb_entry *e_ = tlb_slot(hot(v)->tlb, (lin));                                                   \
		if (likely(TLB_HIT(e_, (lin), MMU_WRITE, sizeof(T)))) {                                                \
			*(T *)((lin) + e_->addend) = (T)(val);                                                         \
		} else if (unlikely(store_slow(v, i, (lin), (T)(val), sizeof(T)))) {                                   \
			if (v->fault.vector == EXC_GP) /* not canonical */                                             \
				v->fault.vector = EXC_SS;                                                              \
			return interp_fault(v, i);                                                                     \
		}                                                                                                      \
	} while (0)

/* Read-modify-write: on a hit `p` points at the operand in host memory, else
 * at hot->tmp[0] and RMW_END writes it back. A miss probes the write first. */
#define RMW_BEGIN(T, p, lin)                                                                                           \
	any_##T *p;                                                                                                    \
	bool slow_ = false;                                                                                            \
	do {                                                                                                           \
		struct tlb_entry *e_ = tlb_slot(hot(v)->tlb, (lin));                                                   \
		if (likely(TLB_HIT(e_, (lin), MMU_WRITE, sizeof(T)))) {                                                \
			p = (any_##T *)((lin) + e_->addend);                                                           \
		} else {                                                                                               \
			if (unlikely(rmw_slow(v, i, (lin), sizeof(T))))                                                \
				return interp_fault(v, i);                                                             \
			p = (any_##T *)&hot(v)->tmp[0];                                                                \
			slow_ = true;                                                                                  \
		}                                                                                                      \
	} while (0)
#define RMW_END(T, p, lin)                                                                                             \
	do {                                                                                                           \
		if (unlikely(slow_) && store_slow(v, i, (lin), *p, sizeof(T)))                                         \
			return interp_fault(v, i);                                                                     \
	} while (0)

#endif
