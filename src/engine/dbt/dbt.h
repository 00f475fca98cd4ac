/*
 * The translator: private declarations. docs/dbt.md is the tour.
 *
 * Guest instructions are copied into a code cache with their operands
 * corrected and run on the host. While translated code runs:
 *
 *   guest           host
 *   RAX RDX RBX RBP RSI RDI R8..R11   the same
 *   RCX, RSP        R12, R13
 *   R12..R15        v->cpu.gpr
 *   status flags    status flags: translated code adds none that clobber them
 *   vector, x87     the same, if v->fpu_live; each block that uses them looks
 *   -               RCX and R14 are free for every instruction, R15 is mmu->flat_base,
 *                   GS:0 is the struct vcpu, RSP the return stack
 *
 * At the host address of an instruction (struct tinsn) the state is that of
 * its beginning, so that it can be begun again or be left to the reference
 * engine, which is embedded here: what is not translated, faults and crosses
 * pages runs there, one instruction at a time.
 *
 * Virtual clock: blocks are translated *counted*. A segment (from the block's
 * start, a branch not taken or a return to the next of these) charges its
 * instructions as it begins and leaves if the budget does not cover them.
 */
#ifndef ECTYPE_ENGINE_DBT_DBT_H
#define ECTYPE_ENGINE_DBT_DBT_H

#include "engine/interp/interp.h"
#include "mem/flat.h"

/* Why translated code was left: dbt_hot.reason. `info` says where. */
enum leave_reason {
	LEAVE_LINK,	/* an exit that leads nowhere yet; info: index of texit */
	LEAVE_INDIRECT, /* to the linear address in t0 */
	LEAVE_ENTRY,	/* block `info` is dead, or its page must be looked at again */
	LEAVE_MISS_R,	/* no table entry for t0; info: index of tinsn; go on at `resume` */
	LEAVE_MISS_W,
	LEAVE_STEP, /* instruction `info` is for the reference engine */
	LEAVE_SYS,  /* shared semantics; info: index of tsys */
	LEAVE_SAFE, /* safepoint or end of budget at instruction `info` */
	LEAVE_FPU,  /* vector state wanted by instruction `info`; go on at `resume` */
	LEAVE_HOST, /* host fault at code offset `info` */
	LEAVE_COUNT,
};

/* Overlays vcpu->engine_hot behind interp's part. Translated code reads it at GS:offset. */
struct dbt_hot {
	u32 reason, info, resume;
	u16 flags; /* as interp_hot.flags */
	u16 pad;
	s64 charge; /* counted code: -(instructions left) - 1 */
	u64 host_sp, ret_sp, ret_base;
	u64 pc;		   /* where to enter */
	u64 t0, t1;	   /* R14 and RCX */
	u64 value;	   /* scratch of one instruction */
	u64 old;	   /* what the return address of an indirect call overwrote */
	u32 branch;	   /* tinsn of the indirect branch that went to t0 */
	u32 cross_mask[7]; /* by log2 of the size: offset bits that are zero behind a page's end */
	u32 offset_mask, jump_mask;
	u32 slot_mask, one;	   /* of the routine that lets stores to code pages through */
	u64 page_mask, saved[3];
};
#define HOT_INDEX 32
#define HOT_OFF (offsetof(struct vcpu, engine_hot) + HOT_INDEX * 8)
#define HOT(field) ((u32)(HOT_OFF + offsetof(struct dbt_hot, field)))
_Static_assert(sizeof(struct interp_hot) <= HOT_INDEX * 8 &&
		   sizeof(struct dbt_hot) <= sizeof(((struct vcpu *)0)->engine_hot) - HOT_INDEX * 8,
	       "hot data fits");

/* Layout of a set's auxiliary area (mem/flat.h). */
#define PAGES_MAX 65536u
#define AUX_VALID 0u	   /* one byte a tpage: its code is what the set maps there */
#define AUX_JUMP PAGES_MAX /* jump cache: host addresses */
#define JUMP_BITS 12
/*
 * Pages that hold translated code and may be written where it is not: what a
 * write entry would be, by bits 17:12 of the linear address (smc.c). Valid while
 * mmu->gen is what it was.
 */
struct code_store {
	u64 minus_page, minus_gen;
	u64 entry;	  /* as in a write table */
	const u64 *lines; /* of the frame: dbt.lines */
	u64 unused[4];
};
#define CODE_STORES 64u
#define AUX_STORES (FLAT_AUX_SIZE - CODE_STORES * (u32)sizeof(struct code_store)) /* at the end */
_Static_assert(AUX_JUMP + (8u << JUMP_BITS) <= AUX_STORES, "auxiliary area fits");

/* One guest instruction of a block. */
struct tinsn {
	u32 block; /* index of its tblock */
	u16 host;  /* offset from the block's start in the cache */
	u16 guest; /* offset from the block's linear address */
	u8 left;   /* instructions of the segment from this one on */
	u8 len;
	u8 kind; /* enum tinsn_kind */
	u8 stores; /* bytes it writes to memory by translated code */
};
enum tinsn_kind { KIND_PLAIN, KIND_CALL /* indirect */, KIND_RET, KIND_RET_IMM };

struct tpage;
struct tblock {
	u64 lin;
	struct tpage *page;
	struct tblock *next;   /* in the page's bucket */
	u32 host, host_end;    /* offsets in the cache; out-of-line parts included */
	u32 entry, entry_page; /* from the same page; from another (looks at AUX_VALID) */
	u32 entry_indirect;    /* from a jump to t0 (looks whether that is `lin`) */
	u32 first;	       /* index of the first tinsn; n of them */
	u16 n, bytes;
	bool dead, fpu;
	bool calls; /* the return stack may lead into it */
	/* What the block may fill when it is translated again: see translate.c. */
	u16 insns_max, exits_max, sys_max;
	u32 body; /* where the code begins: `entry`, or jumped to from there */
	u32 host_max, exits, sys;
};

/* A page of guest code as it appears at one linear address, for one key. */
#define TPAGE_BUCKETS 32 /* by address: 128 bytes each */
struct tpage {
	gva_t lin;
	u8 *host;
	gpa_t gpa;
	u32 key, index;
	struct tpage *lin_next, *frame_next; /* hash chains by `lin` and by `host` */
	u64 lines;			     /* bit k: translated code in bytes [64k, 64k+64) */
	u32 live;
	u16 longest; /* block, in bytes of guest code */
	struct tblock *bucket[TPAGE_BUCKETS];
};

struct texit {
	u64 lin;
	u32 patch; /* offset of the rel32 */
	u32 block;
};

struct tsys {
	u32 insn;
	u8 sys;
	bool ends; /* control never falls through */
	struct dinsn d;
};

#define BLOCKS_MAX (1u << 19)
#define INSNS_MAX (1u << 22)
#define EXITS_MAX (1u << 20)
#define SYS_MAX (1u << 17)
#define LIN_HASH_BITS 14
#define CUTS 64u

struct dbt_stats {
	u64 translations, insns, host_bytes, links, kills, flushes, steps, sys;
	u64 code_stores; /* that came to C */
	u64 leaves[LEAVE_COUNT], leave_cycles[LEAVE_COUNT];
};

/* vcpu->engine_data. */
struct dbt {
	struct interp interp; /* first: the embedded reference engine */
	struct vcpu *v;
	u8 *rw, *rx;	       /* two views of the code cache */
	u32 size, used, start; /* start: behind the trampolines */
	void (*enter)(struct vcpu *v);
	const u8 *leave[LEAVE_COUNT]; /* in the executable view */
	const u8 *leave_host;	      /* where the signal handler resumes */
	const u8 *ret_miss, *ret_wrong, *jump_indirect, *code_store;
	u64 *ret_stack;
	u32 key; /* of the blocks that run: see dbt_key() */
	bool counted, x87_unmasked, stale, single;
	u64 end; /* icount at which the budget ends, if counted */
	u32 blocks_n, insns_n, exits_n, sys_n, pages_n;
	u32 exits_end, sys_end; /* of the block being translated */
	u64 cut[CUTS];		/* by dbt_cut_slot() */
	struct tblock *blocks;
	struct tinsn *insns;
	struct texit *exits;
	struct tsys *sys;
	struct tpage *pages;
	u64 *lines; /* by RAM frame: bit k: translated code in bytes [64k, 64k+64) */
	u64 no_store; /* all ones: the lines of an empty struct code_store */
	u8 *ram;
	u64 frames;
	struct tpage *by_lin[1u << LIN_HASH_BITS], *by_frame[1u << LIN_HASH_BITS];
	struct dbt_stats stats;
};

static inline struct dbt *dbt_of(struct vcpu *v)
{
	return v->engine_data;
}
/* A block ends where a store was once found to rewrite its own block: then the
 * store need not be done by the reference engine. */
static inline u64 *dbt_cut_slot(struct dbt *x, u64 lin)
{
	return &x->cut[lin % CUTS];
}
static inline struct dbt_hot *dhot(struct vcpu *v)
{
	return (struct dbt_hot *)&v->engine_hot[HOT_INDEX];
}

/* cache.c */
struct tblock *dbt_find(struct vcpu *v, u64 lin); /* NULL: fault in v->fault, or *not_code set */
void dbt_flush(struct vcpu *v);
void dbt_page_written(void *vcpu, gpa_t gpa, unsigned len);
/* Kills what bytes [off, off + len) of the frame at `host` hold; returns the blocks left alive in it. */
u32 dbt_frame_written(struct vcpu *v, const u8 *host, unsigned off, unsigned len);
void dbt_exec_changed(void *vcpu, u8 *base, gva_t lin, bool all);
void dbt_reset_returns(struct vcpu *v);
const struct tinsn *dbt_insn_at(const struct dbt *x, u32 host); /* by offset in the cache; NULL: none */

/* smc.c: stores to pages with translated code. */
enum code_store_result {
	STORE_NONE,  /* no entry can be given */
	STORE_ONCE,  /* *entry serves this one store */
	STORE_RETRY, /* the page holds no code any more */
};
/*
 * A translated store of `size` bytes at `lin`, within one page, has no write
 * entry. Both kill the blocks it hits, perhaps its own. The first serves pages
 * for which a struct code_store was made (false: none was); the second makes
 * one after flat_miss() said FLAT_SLOW.
 */
bool dbt_known_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry);
enum code_store_result dbt_new_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry);
void dbt_drop_stores(struct vcpu *v); /* empties every struct code_store */
u64 *dbt_lines(struct dbt *x, const u8 *host); /* of the frame at `host`; NULL: not in RAM */

/* translate.c: ordinary C, vector state parked. NULL: out of room. */
/* `old`: the dead block of the same page and address; its entries stay where they are. */
struct tblock *dbt_translate(struct vcpu *v, struct tpage *p, gva_t lin, struct tblock *old);
/* entry.c */
void dbt_make_trampolines(struct dbt *x);

/* run.c */
/* For tests: blocks of one instruction, so that budgets of one run translated too. */
void dbt_translate_single(struct vcpu *v, bool on);
enum vcpu_exit dbt_run(struct vcpu *v, const struct run_budget *budget);

#endif
