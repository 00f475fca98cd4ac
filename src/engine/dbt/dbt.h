/*
 * The translator: private declarations. docs/dbt.md is the tour.
 *
 * Guest instructions are copied into a code cache with their operands
 * corrected and run on the host. While translated code runs:
 *
 *   guest           host
 *   RAX RDX RBX RBP RSI RDI R8..R10   the same
 *   RCX, RSP, R12   R12, R13, R11
 *   R11, R13..R15   v->cpu.gpr
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

#include "engine/dbt/clone.h"
#include "engine/dbt/observe.h"
#include "engine/interp/interp.h"
#include "engine/stop.h"
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
	u32 saved; /* not 0: `flags` was not written as it left */
	u16 flags; /* as interp_hot.flags */
	u16 pad;
	s64 charge; /* counted code: -(instructions left) - 1 */
	u64 host_sp, ret_sp, ret_base;
	u64 pc;		   /* where to enter */
	u64 t0, t1;	   /* R14 and RCX */
	u64 value;	   /* scratch of one instruction */
	u16 host_flags;	   /* at a host fault */
	u64 old;	   /* what the return address of an indirect call overwrote */
	u32 branch;	   /* tinsn of the indirect branch that went to t0 */
	u32 cross_mask[7]; /* by log2 of the size: offset bits that are zero behind a page's end */
	u32 offset_mask, jump_mask, df_mask;
	u32 bit_mask[2]; /* 31, 63 */
	/* FS, GS in 32-bit code: how many bytes may be read and written; not 0 if there is no limit. */
	u64 seg_size[2];
	u32 unlimited[2];
	u32 slot_mask, one; /* of the routine that lets stores to code pages through */
	u64 page_mask, page_bits, spill[3];
	/* sysfast.c: bits that PEXT and PDEP keep */
	u32 all_but_if, all_but_df, all_but_ac, status, high17, inner16;
	u32 popf_fixed, popf_fixed_user; /* bits that POPF at CPL 0 and 3 may not change by itself */
	u32 sti_ok, fsgsbase, pkru_on;	 /* zero: leave */
#define WINDOW_SLOTS 8
	u64 window[WINDOW_SLOTS]; /* entries that several accesses share, see window.c */
#define LOOP_SLOTS 8
	u64 loop[LOOP_SLOTS], loop_limit; /* of the loop that runs, see loop.c */
	u32 loop_left, loop_warm;
	u32 ac_index[2]; /* by EFLAGS.AC: what mmu_mode_changed() chooses at CPL 0 */
	struct tlb_entry *ac_table[2];
	u8 *ac_base[2];
};
#define HOT_INDEX 32
#define HOT_OFF (offsetof(struct vcpu, engine_hot) + HOT_INDEX * 8)
#define HOT(field) ((u32)(HOT_OFF + offsetof(struct dbt_hot, field)))
_Static_assert(sizeof(struct interp_hot) <= HOT_INDEX * 8 &&
		   sizeof(struct dbt_hot) <= sizeof(((struct vcpu *)0)->engine_hot) - HOT_INDEX * 8,
	       "hot data fits");

/* Layout of a set's auxiliary area (mem/flat.h). */
#define PAGES_MAX 65536u
#define AUX_VALID 0u /* one byte a tpage: its code is what the set maps there */
#define JUMP_BITS 13
static inline u32 dbt_jump_slot(u64 lin)
{
	return (u32)((lin ^ lin >> 13) >> 2) & ((1u << JUMP_BITS) - 1);
}
/* Jump caches, one for each enum dbt_width: host addresses. */
#define AUX_JUMP(width) (PAGES_MAX + ((u32)(width) << (JUMP_BITS + 3)))
/*
 * Pages that hold translated code and may be written where it is not: what a
 * write entry would be, by bits 17:12 of the linear address (smc.c). Valid while
 * mmu->gen is what it was.
 */
struct code_store {
	u64 minus_page, minus_gen;
	u64 entry;	  /* as in a write table */
	const u64 *lines; /* of the frame: dbt_shared.lines */
	u64 unused[4];
};
#define CODE_STORES 64u
#define AUX_STORES (FLAT_AUX_SIZE - CODE_STORES * (u32)sizeof(struct code_store)) /* at the end */
_Static_assert(AUX_JUMP(2) <= AUX_STORES, "auxiliary area fits");

/* Code of one width never jumps to code of the other: each has jump caches of
 * its own, and the return stack is emptied in between. */
enum dbt_width { WIDTH_64, WIDTH_32, WIDTHS };

/*
 * Part of the key: what mode code is translated for. 0 is 64-bit mode. KEY_32:
 * 32-bit code in protected mode with CS and SS flat (base 0, limit 4 GiB) and a
 * 32-bit stack; KEY_SEG: data segment DS or ES is flat and writable. FS and GS
 * change too often to be in the key: code looks at hot->unlimited and seg_size.
 */
#define KEY_COUNTED BIT(8)
#define KEY_X87_UNMASKED BIT(9)
#define KEY_SINGLE BIT(10)
#define KEY_USER BIT(11)
#define KEY_32 BIT(16)
#define KEY_SEG(s) BIT(20 + (s))
#define MODE_OTHER (~0u) /* not translated */
u32 dbt_legacy_mode(const struct cpu *c);
void dbt_note_segments(struct vcpu *v); /* FS and GS for 32-bit code */
static inline u32 dbt_mode(const struct cpu *c)
{
	return likely(cpu_64bit(c)) ? 0 : dbt_legacy_mode(c);
}

/* One guest instruction of a block, which dbt_insn_block() finds. There are very many: 8 bytes. */
struct tinsn {
	u16 host;	      /* offset from the block's start in the cache */
	u16 guest;	      /* offset from the block's linear address */
	u8 left;	      /* instructions of the segment from this one on */
	u8 flags;	      /* where they are when it leaves: enum tinsn_flags */
	u8 stores;	      /* bytes that translated code writes to memory, STORES_RUN */
	u8 len : 4, kind : 4; /* kind: enum tinsn_kind */
};
_Static_assert(sizeof(struct tinsn) == 8, "many");
/* As many elements as RCX says, as far as the page reaches. */
#define STORES_RUN 0x80
enum tinsn_flags {
	TINSN_HOST,
	TINSN_SAVED,
	TINSN_RECIPE, /* and beyond: number of the recipe among its block's, from here */
};
/* How to set the flags again from registers that still hold what it takes, see flags.c. */
enum recipe_kind { RECIPE_NONE, RECIPE_ADD, RECIPE_SUB, RECIPE_CMP, RECIPE_TEST, RECIPE_LOGIC };
#define RECIPE_IMM 0xff
struct recipe {
	u8 kind, size; /* enum recipe_kind; bytes */
	u8 dst, src;   /* guest registers; RECIPE_IMM */
	s32 imm;
};
enum tinsn_kind { KIND_PLAIN, KIND_CALL /* indirect */, KIND_RET, KIND_RET_IMM, KIND_LOOP /* never gone on at */ };

struct tpage;
struct tblock {
	u64 lin;
	struct tpage *page;
	struct tblock *next; /* in the page's bucket */
	u32 host, host_end;  /* offsets in the cache; out-of-line parts included */
	/* Where it is entered: `body` from C; `entry` from the same page with the flags in the host, `entry_saved`
	 * with the flags in hot->flags, as do the next: from another page (looks at AUX_VALID), by a jump to t0
	 * (looks whether that is `lin`). */
	u32 body, entry, entry_saved, entry_page, entry_indirect;
	u32 recipes; /* index of the first */
	u32 first;   /* index of the first tinsn; n of them */
	u16 n, bytes;
	bool dead, fpu, saved; /* saved: the body begins with the flags in hot->flags */
	bool calls;	       /* the return stack may lead into it */
	u32 door;	       /* where all entries lead: the body, or a jump there */
	/* What the block may fill when it is translated again, see translate.c. */
	u32 host_max, exits, sys;
	u16 insns_max, exits_max, sys_max, recipes_max;
	/* One instruction that crosses into the next page, see cross.c. */
	bool crosses;
	u8 tail_len, tail[14]; /* its bytes there */
	struct tpage *page2;   /* NULL: could not be found when it was translated */
	u16 stubs;	       /* offset of the code out of line from the block's start */
	u16 fixes_n;	       /* bytes of fixes, see clone.c; 0: it cannot be cloned */
	u32 fixes;	       /* index of the first */
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
	bool touched, needed; /* evict.c */
	struct tpage *next_touched, *next_free;
	u16 longest; /* block, in bytes of guest code */
	struct tblock *bucket[TPAGE_BUCKETS];
};

struct texit {
	u64 lin;
	u32 patch; /* offset of the rel32; 0: none */
	/* From there to the rel32 to patch for another page, if not the same (or 0); and to where it leads unlinked. */
	u16 far, stub;
};

struct tsys {
	u32 insn;
	u8 sys;
	bool control; /* may change what settled() looks at */
	struct dinsn d;
};

/* Where code and records of a block are written, the first of each. */
struct placement {
	u8 *rw; /* what stands at offset 0 of the code cache */
	struct tinsn *insns;
	struct texit *exits;
	struct tsys *sys;
	struct recipe *recipes;
	u8 *fixes, *fixes_end;
};

/* What the pools hold, by the size of the code cache. */
#define BYTES_A_BLOCK 128
#define BYTES_AN_INSN 16
#define INSNS_A_MARK 16
#define BYTES_AN_EXIT 64
#define BYTES_A_RECIPE 64
#define BYTES_A_SYS 512
#define BYTES_A_FIX 16
#define TWIN_BITS 16
#define ENTRY_BLOCK_ID 1u /* where a block's code has its index, see emit_entries() */
#define LIN_HASH_BITS 14
#define CUTS 64u

enum rep_op { REP_STOS, REP_MOVS, REPE_CMPS, REPNE_CMPS, REPE_SCAS, REPNE_SCAS, REP_OPS };

/* How far the pools are used, as indices; `used`: the code cache, as an offset. */
struct cursors {
	u32 used, blocks, insns, exits, sys, recipes, fixes;
};
#define REGIONS_MAX 8u
/* What the world is stopped for. */
enum stop_cause {
	STOP_FRAME, /* a frame gets its first code */
	STOP_MIXED, /* code is added to one that is stored to */
	STOP_KILL,
	STOP_ROOM, /* a region is emptied, or all */
	STOP_CAUSES,
};
struct dbt_stats {
	u64 evictions;
	u64 clones, translations, insns, guest_bytes, host_bytes, translate_cycles, trace_cycles, links, kills, steps;
	u64 code_stores;	      /* that came to C */
	u64 other_modes, other_insns; /* runs and instructions of the reference engine in modes not translated */
	u64 lost_jumps, lost_returns; /* indirect branches and returns that had to look for their block */
	u64 return_resets;
	u64 leaves[LEAVE_COUNT], sys_calls[ISA_SYS_COUNT];
	u64 stops[STOP_CAUSES], lock_waits, discards;
};

/* Rarely changed state that translations or the hot data depend on. */
struct dbt_control {
	u64 cr0, cr4, efer, xcr0;
	bool intr_held, x87_unmasked;
};

/*
 * What the processors of a machine share: the code cache, its records, and what
 * is known of frames. Who changes it has the lock and is inside the world, or has
 * stopped the world; see "Several processors" in docs/dbt.md.
 */
struct dbt_shared {
	u8 *rw, *rx;	       /* two views of the code cache */
	u32 size, used, start; /* start: behind the trampolines */
	void (*enter_code)(struct vcpu *v);
	const u8 *leave[LEAVE_COUNT];	    /* in the executable view */
	const u8 *leave_saved[LEAVE_COUNT]; /* the same with the flags not in the host */
	const u8 *leave_host;		    /* where the signal handler resumes */
	const u8 *code_store;
	const u8 *ret_miss[WIDTHS], *ret_wrong[WIDTHS], *jump_indirect[WIDTHS];
	const u8 *rep[REP_OPS][4]; /* by log2 of the size, see rep.c */
	bool stale;		   /* the memory map changed: drop all */
	bool parallel;		   /* processors run at once */
	_Atomic u32 lock;	   /* smp.c */
	u64 changes;		   /* moves when a block dies or goes: what was found before may be something else */
	/* Of the region that is being filled; `region_end`: where it ends in the cache. */
	u32 blocks_n, insns_n, exits_n, sys_n, pages_n, region_end;
	u32 blocks_max, insns_max, exits_max, sys_max, recipes_n, recipes_max;
	u32 fixes_n, fixes_max;
	u32 regions, current; /* current: the region that is being filled */
	struct cursors per;   /* a region's shares */
	struct cursors region[REGIONS_MAX];
	enum region_use { HOLDS_NOTHING, HOLDS_KERNEL, HOLDS_USER } holds[REGIONS_MAX];
	u64 begun[REGIONS_MAX], begun_n; /* when; of all */
	u32 fills[2];			 /* the regions that are being filled with code of kernel, user */
	u64 flushes;			 /* and evictions: blocks found before may be gone */
	struct tpage *touched, *free_pages;
	struct tblock *blocks;
	struct tinsn *insns;
	u32 *insn_block; /* by tinsn / INSNS_A_MARK: the block that has it */
	struct recipe *recipes;
	struct texit *exits;
	struct tsys *sys;
	u8 *fixes;
	u32 *twins;		 /* by dbt_twin() */
	struct decoded *decoded; /* decode.c */
	struct tpage *pages;
	u64 *lines;   /* by RAM frame: bit k: translated code in bytes [64k, 64k+64) */
	u64 no_store; /* all ones: the lines of an empty struct code_store */
	u8 *ram;
	u64 frames;
	u64 cut[CUTS]; /* by dbt_cut() */
	struct tpage *by_lin[1u << LIN_HASH_BITS], *by_frame[1u << LIN_HASH_BITS];
	struct perf_map *perf;
	struct interp_peers peers; /* the processors */
};

/* vcpu->engine_data: what is a processor's own. */
struct dbt {
	struct interp interp; /* first: the embedded reference engine */
	struct dbt_shared *sh;
	struct vcpu *v;
	struct world *world;	       /* NULL: not parallel */
	u64 changes;		       /* sh->changes as translated code was left */
	void (*enter)(struct vcpu *v); /* sh->enter_code, or dbt_enter_observed */
	u32 key;		       /* of the blocks that run */
	u32 key_of[WIDTHS];	       /* of the jump caches' entries, KEY_USER apart */
	u32 mode;		       /* dbt_mode() the key was made for */
	struct dbt_control control;    /* what the key and the hot data were made for */
	const u8 *translating;	       /* the frame of which code is being translated while others run */
	struct dbt_draft *draft;       /* block.c; NULL: not parallel */
	struct tr *tr;		       /* translate.h: used up within a translation */
	bool user;		       /* CPL 3: translated code runs at CPL 0 and 3 only */
	u8 *user_base;		       /* set in which user code ran last */
	u64 user_sp;		       /* its return stack, while the kernel runs */
	u64 bottom[2];		       /* of the return stacks of kernel and user */
	bool counted, single;
	bool count_all;			      /* of the options */
	u32 trace;			      /* of the options */
	const struct engine_options *options; /* NULL: defaults */
	u64 end;			      /* icount at which the budget ends, if counted */
	struct dbt_stats stats;
	struct dbt_observe observe;
};

static inline struct dbt *dbt_of(struct vcpu *v)
{
	return v->engine_data;
}
/* A block ends where a store was once found to rewrite its own block: then the
 * store need not be done by the reference engine. */
static inline void dbt_cut(struct dbt *x, u64 lin)
{
	__atomic_store_n(&x->sh->cut[lin % CUTS], lin, __ATOMIC_RELAXED);
}
static inline struct tblock *dbt_insn_block(const struct dbt_shared *sh, const struct tinsn *i)
{
	u32 at = (u32)(i - sh->insns), b = sh->insn_block[at / INSNS_A_MARK];
	u32 end = sh->region[at / sh->per.insns].blocks;

	while (b + 1 < end && sh->blocks[b + 1].first <= at)
		b++;
	return &sh->blocks[b];
}
static inline struct dbt_hot *dhot(struct vcpu *v)
{
	return (struct dbt_hot *)&v->engine_hot[HOT_INDEX];
}

/* smp.c: nothing where processors do not run at once. */
void dbt_lock_slow(struct vcpu *v);
void dbt_unlock_slow(struct dbt_shared *sh);
bool dbt_stop(struct vcpu *v, enum stop_cause why); /* as stop_others() */
/* How often it was, by anyone. */
static inline u64 world_stops(const struct vcpu *v)
{
	const struct world *w = dbt_of((struct vcpu *)(uintptr_t)v)->world;

	return w ? __atomic_load_n(&w->stops, __ATOMIC_RELAXED) : 0;
}
static inline void dbt_go(struct vcpu *v)
{
	let_others_go(v);
}
/* For what is shared, while inside the world. Others may stop the world, and kill blocks, before it returns. */
static inline void dbt_lock(struct vcpu *v)
{
	struct dbt_shared *sh = dbt_of(v)->sh;
	u32 free = 0;

	if (unlikely(sh->parallel) &&
	    !__atomic_compare_exchange_n((u32 *)&sh->lock, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		dbt_lock_slow(v);
}
static inline void dbt_unlock(struct vcpu *v)
{
	struct dbt_shared *sh = dbt_of(v)->sh;

	if (unlikely(sh->parallel) && __atomic_exchange_n((u32 *)&sh->lock, 0, __ATOMIC_RELEASE) == 2)
		dbt_unlock_slow(sh);
}
/* What a leave of translated code named (blocks, instructions, exits) is still there. */
static inline bool unchanged(struct vcpu *v)
{
	return likely(dbt_of(v)->changes == dbt_of(v)->sh->changes);
}

/* find.c. With the lock, which may be let go meanwhile. NULL: fault in v->fault, vector 0xff: no RAM. */
struct tblock *dbt_find(struct vcpu *v, u64 lin);

/* cache.c. dbt_page_at, dbt_crossing_left, dbt_add_block: with the lock. */
void dbt_flush(struct vcpu *v);
void dbt_page_written(struct dbt_shared *sh, gpa_t gpa, unsigned len);
/* Kills what bytes [off, off + len) of the frame at `host` hold; returns the blocks left alive in it. World stopped. */
u32 dbt_frame_written(struct vcpu *v, const u8 *host, unsigned off, unsigned len);
/* Does a block that is alive hold any of them? */
bool dbt_frame_holds(struct dbt_shared *sh, const u8 *host, unsigned off, unsigned len);
void dbt_exec_changed(void *vcpu, u8 *base, gva_t lin, bool all);
void dbt_reset_returns(struct vcpu *v);
void dbt_reset_width(struct vcpu *v, enum dbt_width w); /* the processor's jump caches of one width, begun to be used */
void dbt_reset_all_jumps(struct dbt_shared *sh);	/* and returns and code stores, of all */
const struct tblock *dbt_block_at(const struct dbt_shared *sh, u32 host); /* by offset in the cache; NULL: none */
const struct tinsn *dbt_insn_at(const struct dbt_shared *sh, u32 host);	  /* by offset in the cache; NULL: none */

/* The page at linear address `page` as code, found or made; NULL: none, a fault or no RAM. */
struct tpage *dbt_page_at(struct vcpu *v, gva_t page);
/* The instruction of `b`, which crosses a page, was left to the reference engine: why? */
void dbt_crossing_left(struct vcpu *v, struct tblock *b);

void dbt_free_page(struct dbt_shared *sh, struct tpage *p); /* no block refers to it */

/* `b`, translated and of no page's yet, takes the place of `old` (NULL: there is none). */
void dbt_add_block(struct vcpu *v, struct tpage *p, struct tblock *b, struct tblock *old);
/* The frame at `gpa` holds translated code: stores to it take the slow path. World stopped, unless it does or it was
 * so already. */
void dbt_mark_frame(struct vcpu *v, gpa_t gpa);

/* evict.c: regions of the cache and the pools */
void dbt_empty_regions(struct dbt_shared *sh);
void dbt_choose_region(struct dbt *x); /* the one for code of the present ring */
void dbt_next_region(struct vcpu *v);  /* to be filled; blocks found before may be gone (dbt_shared.flushes) */
/* What lies behind `b`, the latest block, are free. */
void dbt_take_records(struct dbt_shared *sh, const struct tblock *b);
void dbt_note_cursors(struct dbt_shared *sh);
struct cursors dbt_in_use(const struct dbt_shared *sh); /* counts, of all regions together */
/* cache.c, for that */
struct tblock **dbt_bucket(struct tpage *p, u64 lin);
#define DOOR_BYTES 10u						   /* of what it puts there */
#define DOOR_REL 6u						   /* where that has its rel32 */
void dbt_shut_door(struct dbt_shared *sh, const struct tblock *b); /* its entries lead out of translated code */
void dbt_follow(struct dbt_shared *sh, const struct tblock *dead, const struct tblock *b);
void dbt_forget_exits(struct dbt_shared *sh, const struct tblock *b);
void dbt_find_lines(struct tpage *p);
void dbt_frame_changed(struct vcpu *v, const struct tpage *p); /* lines of pages with its frame did */

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
void dbt_drop_stores(struct vcpu *v); /* empties every struct code_store of the processor */
void dbt_drop_frame_stores(struct dbt_shared *sh, const u8 *host); /* those for a frame, of all; world stopped */
/* The lock is held: if no code is left in the frame it is no code page any more. */
bool dbt_frame_freed(struct vcpu *v, const u8 *host, gpa_t gpa);
u64 *dbt_lines(struct dbt_shared *sh, const u8 *host); /* of the frame at `host`; NULL: not in RAM */

extern const size_t dbt_decoded_size;

/* block.c: ordinary C, vector state parked. NULL: out of room. `old`: the
 * dead block of the same page and address; its entries stay where they are. */
struct tblock *dbt_translate(struct vcpu *v, struct tpage *p, gva_t lin, struct tblock *old);
/* The same into x->draft, without the lock, which dbt_publish() needs to put it in the cache, where there is room.
 * False: it cannot be done so. */
bool dbt_draft(struct vcpu *v, struct tpage *p, gva_t lin);
struct tblock *dbt_publish(struct dbt *x, struct tpage *p); /* NULL: the page holds something else */
extern const size_t dbt_draft_size, dbt_tr_size;
/* clone.c */
/* `from`, whose code, records and `fixes` are at `at`, as the latest block. */
struct tblock *dbt_copy_block(struct dbt *x, const struct tblock *from, const struct placement *at, u32 fixes,
			      struct tpage *p, u64 lin);
void dbt_note_twin(struct dbt *x, const struct tblock *b);				      /* it may be cloned */
const struct tblock *dbt_twin(struct dbt *x, const struct tpage *p, u64 lin);		      /* NULL: there is none */
struct tblock *dbt_clone(struct dbt *x, const struct tblock *from, struct tpage *p, u64 lin); /* NULL: no room */
/* cache.c: what b->entry_saved does: it puts the flags back, unless the body overwrites them before anything sees
 * them. `rw`: what stands at offset 0 of the cache. */
void dbt_entry_saved(u8 *rw, const struct tblock *b, bool unseen);
/* list.c: see engine_ops.describe. */
void dbt_describe(struct vcpu *v, gva_t lin, void (*line)(void *opaque, const char *text), void *opaque);
/* entry.c */
void dbt_make_trampolines(struct dbt_shared *sh);

/* sysfast.c */
void dbt_sysfast_init(struct vcpu *v); /* its constants among the hot data */

/* run.c */
/* For tests: blocks of one instruction, so that budgets of one run translated too. */
void dbt_translate_single(struct vcpu *v, bool on);
enum vcpu_exit dbt_run(struct vcpu *v, const struct run_budget *budget);

#endif
