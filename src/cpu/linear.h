/*
 * Access to guest-linear memory with translation and protection, as the
 * shared semantics need it. Implemented by src/mem (mmu.c) for engines that
 * translate in software.
 *
 * All return 0, or FAULT with v->fault describing the #PF (CR2 is set only on
 * delivery). No segmentation here: see cpu/seg.h. Accesses may cross pages;
 * a write that would fault on its second page changes nothing. Accessed and
 * dirty bits are set as SDM vol. 3, 4.8 says. MMIO is dispatched to devices.
 */
#ifndef ECTYPE_CPU_LINEAR_H
#define ECTYPE_CPU_LINEAR_H

#include "cpu/vcpu.h"

enum lin_how {
	LIN_CPL = 0,	    /* an ordinary access at the current privilege level */
	LIN_SUPERVISOR = 1, /* implicit supervisor access: descriptor tables, TSS (SMAP applies
			       whatever EFLAGS.AC says), and stack pushes to an inner level */
	LIN_USER = 2,	    /* as if CPL were 3 */
};

int must_check lin_read(struct vcpu *v, gva_t lin, void *dst, unsigned len, enum lin_how how);
int must_check lin_write(struct vcpu *v, gva_t lin, const void *src, unsigned len, enum lin_how how);
/* Fault as a write of `len` bytes would, without writing. */
int must_check lin_probe_write(struct vcpu *v, gva_t lin, unsigned len, enum lin_how how);
int must_check lin_probe_read(struct vcpu *v, gva_t lin, unsigned len, enum lin_how how);
/* Locked OR of a byte: the accessed and busy bits of descriptors. */
int must_check lin_or8(struct vcpu *v, gva_t lin, u8 bits, enum lin_how how);
int must_check lin_and8(struct vcpu *v, gva_t lin, u8 bits, enum lin_how how);

static inline int must_check lin_read64(struct vcpu *v, gva_t lin, u64 *val, enum lin_how how)
{
	return lin_read(v, lin, val, 8, how);
}

/* Invalidation of cached translations (SDM vol. 3, 4.10.4). Engines with
 * further caches are told through mmu->gen and flat_listener (see mem/mmu.h,
 * mem/flat.h). Not every cache is tagged by PCID: each write of CR3 that
 * changes it must be told, whatever its bit 63 says. Writes of DR0-3 and DR7
 * that change which data accesses are watched must mmu_flush_all(). */
void mmu_flush_all(struct vcpu *v); /* global ones too, every PCID */
/* CR3 has its new value. `keep`: bit 63 was set, what is cached for its PCID may stay. */
void mmu_cr3_loaded(struct vcpu *v, bool keep);
/* Non-global translations of `pcid` (0 without CR4.PCIDE), or those of one page: INVPCID. */
void mmu_flush_pcid(struct vcpu *v, unsigned pcid);
void mmu_flush_pcid_page(struct vcpu *v, unsigned pcid, gva_t lin);
void mmu_flush_page(struct vcpu *v, gva_t lin); /* of the current PCID, and global ones: INVLPG */
/* CR0, CR4, EFER, CPL, PKRU or EFLAGS.AC may have changed: choose the table
 * for the new mode. Cheap; called by everything that changes one of them. */
void mmu_mode_changed(struct vcpu *v);

/* A byte of an operand that begins lower: outside 64-bit mode it goes on at 0 behind 4 GiB. */
static inline gva_t lin_operand(const struct cpu *c, gva_t lin)
{
	return cpu_64bit(c) ? lin : (u32)lin;
}

/* Is `lin` canonical for the current paging mode (48 or 57 bits)? */
static inline bool lin_canonical(const struct cpu *c, gva_t lin)
{
	unsigned bits = c->cr4 & CR4_LA57 ? 57 : 48;
	return (u64)((s64)(lin << (64 - bits)) >> (64 - bits)) == lin;
}

#endif
