/* Inside of the software MMU, shared by mmu.c, mmu_walk.c and mmu_create.c. Private to src/mem. */
#ifndef ECTYPE_MEM_MMU_PRIV_H
#define ECTYPE_MEM_MMU_PRIV_H

#include "mem/mmu.h"

#define TLB_WORDS (TLB_SIZE / 64)

/*
 * The bitmaps say which slots hold anything (`filled`; every slot with a tag
 * other than TLB_NONE has its bit set), which of them came from a global page
 * and which from a large page, so that flushes touch only what is there.
 */
struct mmu_impl {
	struct mmu mmu; /* first */
	u64 filled[MMU_INDEX_COUNT][TLB_WORDS];
	u64 global[MMU_INDEX_COUNT][TLB_WORDS];
	u64 large[MMU_INDEX_COUNT][TLB_WORDS];
	u64 rights; /* CR0, CR4 and EFER bits the entries were checked under, see mmu_mode_changed */
	u32 pkru;
	u16 keys; /* protection keys of user pages among the entries */
	u8 *flat_base_of[MMU_INDEX_COUNT];
};

static inline struct mmu_impl *mmu_impl(struct vcpu *v)
{
	return (struct mmu_impl *)v->mmu;
}

/* #PF error code (SDM vol. 3, 4.7) */
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u
#define PF_PK 32u

/* Paging-structure entries (SDM vol. 3, 4.3 to 4.5) */
#define PTE_P BIT(0)
#define PTE_RW BIT(1)
#define PTE_US BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_XD BIT(63)

#define WALK_LEVELS 5

enum walk_end { WALK_MAPPED, WALK_ABSENT, WALK_RESERVED };

/* One paging-structure entry that was used. */
struct walk_step {
	void *entry; /* host address; NULL where it cannot be written (ROM, MMIO, hole) or has no A bit */
	gpa_t gpa;
	u64 value;
	u8 *flags;
};

/* What a walk found. Rights are those of all levels together. */
struct walk {
	gpa_t frame; /* 4 KiB frame of the linear address */
	bool user, writable, no_exec, global, large, dirty;
	u8 key;
	u8 shift;  /* log2 of the page's size */
	bool wide; /* 8-byte entries */
	u64 above; /* R/W, U/S and XD of the levels above the last, together */
	unsigned steps;
	struct walk_step step[WALK_LEVELS];
};

/* Walk the paging structures of CR3 for `lin` (CR0.PG is 1, `lin` canonical or
 * below 4 GiB). Reads only. */
enum walk_end mmu_walk(struct vcpu *v, gva_t lin, struct walk *w);
/* Set the accessed bit of every entry used, and for `write` the dirty bit of
 * the last. False if an entry changed meanwhile: walk again. */
bool mmu_walk_mark(struct vcpu *v, struct walk *w, bool write);
/* Error code of the fault that `acc` with the rights of `index` meets on a
 * page so mapped; 0 if it is allowed. */
u32 mmu_denied(const struct cpu *c, const struct walk *w, enum mmu_access acc, enum mmu_index index);
/* W, U and I bits of the error code. */
u32 mmu_error_kind(const struct cpu *c, enum mmu_access acc, enum mmu_index index);
/* `leaf` is another entry of the 4 KiB page table that `w` ended in: what a
 * walk to it would find, or false if it is not present, has a reserved bit, or
 * its accessed bit is clear. */
bool mmu_walk_neighbour(struct vcpu *v, const struct walk *w, u64 leaf, struct walk *n);

/* Where one page's worth of an access goes. */
struct place {
	struct xlat x;
	bool rom;
	bool noted; /* a write that had to be noted first (mem/track.h) */
	u8 *flags;
};
/* mmu_translate() with all that was found. `w` has no steps if CR0.PG is 0. */
int must_check mmu_locate(struct vcpu *v, gva_t lin, enum mmu_access acc, enum mmu_index index, struct place *p,
			  struct walk *w);
/* Does a breakpoint of the guest or the debugger watch any data? */
static inline bool mmu_watching(const struct vcpu *v)
{
	return unlikely((v->cpu.dr[7] & 0xff) || v->debug.count);
}

#endif
