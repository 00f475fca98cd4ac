/*
 * Flat translation tables: the software MMU of translated code. A lazily
 * filled shadow of the guest's page tables in which a lookup needs neither a
 * compare nor the flags:
 *
 *     rorx  rcx, lin, 12
 *     mov   ecx, ecx                        idx = lin[43:12]
 *     mov   rcx, [base + rcx*8 + FLAT_R_DISP]      read entry
 *  or not   rcx ; mov rcx, [base + rcx*8 + FLAT_W_DISP]   write entry
 *     jecxz miss                            absent: low 32 bits are zero
 *     op    [lin + rcx + 1]
 *
 * An entry that is present is (host page - linear page - 1), so its low 12 bits
 * are all ones. Only 32 bits of the page number select the entry; the rest is
 * enforced by arithmetic: RAM lies at a host address that is unmapped in every
 * other 16 TiB window, so a linear address that differs from the entry's own
 * above bit 43 (another page, or a non-canonical address) meets a reservation
 * without access, or a host address that is not canonical, and faults. An
 * absent entry is a multiple of 4 GiB that leads, for its own page, into a
 * reserved hole of 4 GiB: a mispredicted miss branch reads nothing either.
 *
 * A *set* is a read and a write table with an auxiliary area of the engine's:
 * one set for each user address space (tagged by PCID), two for the kernel
 * (EFLAGS.AC clear and set), and one that is always empty (alignment checks).
 * mmu->flat_base is the base of the set of the present mode; it changes only
 * inside mmu_mode_changed() and the functions that load CR3.
 */
#ifndef ECTYPE_MEM_FLAT_H
#define ECTYPE_MEM_FLAT_H

#include "mem/mmu.h"

#define FLAT_R_DISP 0x40000000
#define FLAT_W_DISP (-0x40000000)
/* base .. base + FLAT_AUX_SIZE: the engine's own, readable and writable, zero at first. */
#define FLAT_AUX_SIZE (256u << 10)

struct flat_listener {
	/* Code translations of the set at `base` (NULL: of every set) may have changed: of page `lin`,
	 * or, if `all`, of any. Called with general registers only. */
	void (*exec_changed)(void *opaque, u8 *base, gva_t lin, bool all);
	void *opaque;
};

#define FLAT_NO_ROOM                                                                                                   \
	"the host's address space has no room for guest RAM and tables as translated code needs them (ulimit -v)"
/* Would flat_create() find address space for a small guest? Reserves it and gives it back: host calls, but no memory.
 */
bool flat_possible(void);

/* Make the tables of `v`; from then on mmu fills and flushes keep them.
 * 0, or -1 with *e (no address space). */
int flat_create(struct vcpu *v, const struct flat_listener *l, struct error *e);
void flat_destroy(struct vcpu *v);

/* Async-signal-safe. If `addr` lies in a table whose page was never touched:
 * initialise that page to absent entries and return true (retry). */
bool flat_table_fault(struct flat *f, const void *addr);

enum flat_result { FLAT_FILLED, FLAT_SLOW, FLAT_FAULT };
/*
 * Translated code found no entry for an access to [lin, lin + size) inside one
 * page. FLAT_FILLED: the entry (and present neighbours of the same guest page
 * table, as far as their A and D bits are set already) was filled: retry.
 * FLAT_SLOW: no entry can be given (MMIO, ROM, code page or watched page, non-RAM).
 * FLAT_FAULT: v->fault is filled.
 */
enum flat_result flat_miss(struct vcpu *v, gva_t lin, enum mmu_access acc);

/* After FLAT_SLOW for a write: does `lin` lead to RAM that only decoded code (PAGE_CODE) keeps from being written?
 * True with the byte's addresses; the dirty bit is set. */
bool flat_code_target(struct vcpu *v, gva_t lin, gpa_t *gpa, u8 **host);

/* Host bases of all sets, for the engine to initialise its auxiliary areas. */
unsigned flat_set_count(const struct flat *f);
u8 *flat_set_base(const struct flat *f, unsigned n);
/* Has code run in it, or may it? Not before an address space needs it: the listener then hears of it. */
bool flat_set_used(const struct flat *f, unsigned n);

struct flat_stats {
	u64 fills, misses, neighbours, flushes, page_flushes, table_pages, resets;
};
const struct flat_stats *flat_stats(const struct flat *f);

#endif
