/*
 * The software MMU: page-table walk and a TLB per privilege of access, for
 * the engines that translate in software.
 *
 * An entry holds three tags, one per kind of access, each the page's linear
 * address, or TLB_NONE where that access must take the slow path (not yet
 * walked, MMIO, code page or clean page on write, watched page). The host
 * address of a byte is its linear address plus `addend`. The comparison is
 *     tag == ((lin + size - 1) & PAGE_MASK)
 * with the entry chosen by `lin`, so that an access that crosses a page never
 * hits. An alignment check (EFLAGS.AC at CPL 3 with CR0.AM) uses a table of
 * its own that is never filled for data.
 */
#ifndef ECTYPE_MEM_MMU_H
#define ECTYPE_MEM_MMU_H

#include "cpu/linear.h"
#include "mem/physmem.h"

#define TLB_BITS 10
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_NONE 1ull /* never equal to a page address */

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

struct tlb_entry {
	u64 tag[3]; /* by enum mmu_access */
	uintptr_t addend;
};

enum mmu_index {
	MMU_USER,	/* CPL 3 */
	MMU_KERNEL,	/* CPL 0-2, EFLAGS.AC clear: SMAP applies; also implicit supervisor accesses */
	MMU_KERNEL_AC,	/* CPL 0-2, EFLAGS.AC set */
	MMU_USER_ALIGN, /* CPL 3 with alignment checking */
	MMU_INDEX_COUNT,
};

struct flat;

struct mmu {
	struct flat *flat;	   /* mem/flat.h; NULL without */
	u8 *flat_base;		   /* set of the present mode */
	struct tlb_entry *current; /* table for explicit accesses in the present mode */
	u8 index;		   /* its enum mmu_index */
	u64 gen;		   /* changes whenever any translation may have been dropped or changed: engines
				      key their own caches of linear-to-physical code translations on it */
	struct tlb_entry tlb[MMU_INDEX_COUNT][TLB_SIZE];
	u64 fills, flushes, page_flushes, walks; /* statistics */
};

/* Higher bits are folded in, so that buffers whole multiples of 4 MiB apart do
 * not fight over one slot (a copy between such: 30 times faster; an integer
 * loop: no difference). */
static inline unsigned tlb_index(gva_t lin)
{
	return (unsigned)((lin >> PAGE_SHIFT) ^ (lin >> (PAGE_SHIFT + TLB_BITS))) & (TLB_SIZE - 1);
}
static inline struct tlb_entry *tlb_slot(struct tlb_entry *table, gva_t lin)
{
	return &table[tlb_index(lin)];
}

struct mmu *mmu_create(void);
void mmu_destroy(struct mmu *m);

/* What a translation found. */
struct xlat {
	gpa_t gpa;
	u8 *host;      /* host address of the byte, NULL for MMIO and holes */
	bool writable; /* host may be written directly: RAM, and no PAGE_CODE or watch on it */
	struct region *mmio;
	u64 mmio_off;
};

/*
 * Translate `lin` for `acc` with the rights of `index`: walk, check, set
 * accessed and dirty bits, fill the TLB. Returns 0, or FAULT with #PF (or, for
 * a non-canonical address, #GP(0)) in v->fault.
 */
int must_check mmu_translate(struct vcpu *v, gva_t lin, enum mmu_access acc, enum mmu_index index, struct xlat *x);

/* Explicit data accesses of 1..64 bytes with the rights of mmu->index: page
 * crossing, MMIO, code pages, breakpoints (guest's and debugger's) and
 * alignment checks are dealt with. 0 or FAULT. */
int must_check mmu_read(struct vcpu *v, gva_t lin, void *dst, unsigned len);
int must_check mmu_write(struct vcpu *v, gva_t lin, const void *src, unsigned len);

/* What mmu_mode_changed() chooses at CPL 0 with EFLAGS.AC as given: the index, its table and the set's base. Holds
 * until CR4 changes. For code that changes AC by itself. */
enum mmu_index mmu_kernel_mode(struct vcpu *v, bool ac, struct tlb_entry **table, u8 **base);

/* Debugger's view: translate without side effects. False if not mapped. */
bool mmu_debug_translate(struct vcpu *v, gva_t lin, gpa_t *gpa);
/* Is `lin` mapped in the present address space so that it may be executed and not written? Leaves no mark, as above. */
bool mmu_is_text(struct vcpu *v, gva_t lin, gpa_t *gpa);

/* The write tags of every TLB entry that maps frame `gpa` are dropped, on all processors of the group: it becomes a
 * code page. Of those that run at once the others have been stopped (base/world.h). */
void mmu_protect_frame(struct vcpu *v, gpa_t gpa);
/* Drop every write entry: frames are tracked afresh (mem/track.h). As above of those that run at once. */
void mmu_drop_writes(struct vcpu *v);
/* Drop every entry (map changed, breakpoints changed). */
void mmu_invalidate(struct vcpu *v);

#endif
