/*
 * The page-table walk (SDM vol. 3, 4.3 to 4.7): 32-bit with PSE and PSE-36,
 * PAE, 4-level and 5-level paging.
 *
 *   mmu_walk       reads entries, checks presence and reserved bits
 *   mmu_denied     rights, on what the walk found
 *   mmu_walk_mark  accessed and dirty bits, after everything was allowed
 *
 * so that a translation that faults leaves no mark. PDPTEs of PAE paging are
 * read at each walk, as AMD processors do; the state has no registers for them.
 * Entries outside RAM and ROM read as all ones.
 */
#include "cpu/cpuid.h"
#include "mem/mmu_priv.h"
#include "mem/track_priv.h"

static u64 read_entry(struct vcpu *v, gpa_t gpa, bool wide, struct walk_step *s)
{
	const struct flat_range *r = flat_find(v->mem, gpa);
	void *p;

	s->gpa = gpa;
	s->entry = NULL;
	/* Entries are aligned and RAM ranges end on 8-byte borders or at a device's odd one. */
	if (unlikely(!r || r->kind == REGION_MMIO || r->last - gpa < (wide ? 7 : 3))) {
		s->value = wide ? ~0ull : 0xffffffffull;
		return s->value;
	}
	p = flat_host(r, gpa);
	if (likely(r->kind == REGION_RAM)) {
		s->entry = p;
		s->flags = flat_flags(r, gpa);
	}
	s->value = wide ? __atomic_load_n((u64 *)p, __ATOMIC_RELAXED) : __atomic_load_n((u32 *)p, __ATOMIC_RELAXED);
	return s->value;
}

static void finish(struct vcpu *v, struct walk *w, u64 leaf)
{
	w->global = (leaf & PTE_G) && (v->cpu.cr4 & CR4_PGE);
	w->dirty = leaf & PTE_D;
}

/* 32-bit paging, SDM vol. 3, 4.3 */
static enum walk_end walk_32bit(struct vcpu *v, gva_t lin, struct walk *w)
{
	unsigned phys = MIN(v->model->phys_bits, 40u);
	u64 pde, pte;

	w->wide = false;
	w->no_exec = false;
	w->key = 0;
	pde = read_entry(v, (v->cpu.cr3 & 0xfffff000u) + (lin >> 22) * 4, false, &w->step[0]);
	w->steps = 1;
	if (!(pde & PTE_P))
		return WALK_ABSENT;
	w->large = (pde & PTE_PS) && (v->cpu.cr4 & CR4_PSE);
	if (w->large) {
		/* PSE-36: bits 20:13 are address bits 39:32 as far as the processor has them */
		u64 high = (pde >> 13) & 0xff;

		if ((pde & BIT(21)) || (phys < 40 && high >> (phys > 32 ? phys - 32 : 0)))
			return WALK_RESERVED;
		w->shift = 22;
		w->frame = high << 32 | (pde & 0xffc00000u) | (lin & 0x3ff000u);
		w->user = pde & PTE_US;
		w->writable = pde & PTE_RW;
		finish(v, w, pde);
		return WALK_MAPPED;
	}
	pte = read_entry(v, (pde & 0xfffff000u) + ((lin >> 12) & 0x3ff) * 4, false, &w->step[1]);
	w->steps = 2;
	if (!(pte & PTE_P))
		return WALK_ABSENT;
	w->shift = PAGE_SHIFT;
	w->above = pde & (PTE_US | PTE_RW);
	w->frame = pte & 0xfffff000u;
	w->user = pde & pte & PTE_US;
	w->writable = pde & pte & PTE_RW;
	finish(v, w, pte);
	return WALK_MAPPED;
}

/* Physical address bits of a paging-structure entry, and the bits that are
 * reserved in every one that is 8 bytes wide. */
static u64 address_bits(const struct vcpu *v)
{
	return (BIT(v->model->phys_bits) - 1) & PAGE_MASK;
}

static u64 reserved_bits(const struct vcpu *v)
{
	const u64 efer = v->cpu.efer;
	u64 reserved = ~(address_bits(v) | ~PAGE_MASK) & (efer & EFER_LMA ? BIT(52) - 1 : BIT(63) - 1);

	return efer & EFER_NXE ? reserved : reserved | PTE_XD;
}

/* PAE, 4-level and 5-level paging, SDM vol. 3, 4.4 and 4.5 */
static enum walk_end walk_wide(struct vcpu *v, gva_t lin, struct walk *w)
{
	const struct cpu *c = &v->cpu;
	const bool longm = c->efer & EFER_LMA;
	const u64 addr = address_bits(v), reserved = reserved_bits(v);
	u64 rights = PTE_US | PTE_RW, xd = 0, e, table, span;
	unsigned level;

	w->wide = true;
	w->steps = 0;
	if (longm) {
		table = c->cr3 & addr;
		level = c->cr4 & CR4_LA57 ? 5 : 4;
	} else {
		/* The PDPTE has no rights and no accessed bit. */
		e = read_entry(v, (c->cr3 & 0xffffffe0u) + (lin >> 30) * 8, true, &w->step[0]);
		if (!(e & PTE_P))
			return WALK_ABSENT;
		if (e & (reserved | PTE_XD | 0x1e6))
			return WALK_RESERVED;
		table = e & addr;
		level = 2;
	}
	for (;; level--) {
		unsigned shift = 3 + 9 * level;
		bool leaf = level == 1;
		u64 bad = reserved;

		e = read_entry(v, table + ((lin >> shift) & 0x1ff) * 8, true, &w->step[w->steps++]);
		if (!(e & PTE_P))
			return WALK_ABSENT;
		span = BIT(shift) - 1;
		if (level > 1 && (e & PTE_PS)) {
			leaf = true;
			/* A large page's address has no bits below its size; bit 12 is PAT. */
			bad |= level > 3 || (level == 3 && !v->model->gbpages) ? PTE_PS : span & ~0x1fffull;
		}
		if (unlikely(e & bad))
			return WALK_RESERVED;
		w->above = rights | xd;
		rights &= e;
		xd |= e & PTE_XD;
		if (leaf)
			break;
		table = e & addr;
	}
	w->frame = (e & addr & ~span) | (lin & span & PAGE_MASK);
	w->user = rights & PTE_US;
	w->writable = rights & PTE_RW;
	w->no_exec = xd;
	w->large = level > 1;
	w->shift = (u8)(3 + 9 * level);
	w->key = (e >> 59) & 15;
	finish(v, w, e);
	return WALK_MAPPED;
}

enum walk_end mmu_walk(struct vcpu *v, gva_t lin, struct walk *w)
{
	((struct mmu *)v->mmu)->walks++;
	return v->cpu.cr4 & CR4_PAE ? walk_wide(v, lin, w) : walk_32bit(v, lin, w);
}

bool mmu_walk_neighbour(struct vcpu *v, const struct walk *w, u64 leaf, struct walk *n)
{
	if ((leaf & (PTE_P | PTE_A)) != (PTE_P | PTE_A) || (w->wide && (leaf & reserved_bits(v))))
		return false;
	n->frame = leaf & (w->wide ? address_bits(v) : 0xfffff000u);
	n->user = w->above & leaf & PTE_US;
	n->writable = w->above & leaf & PTE_RW;
	n->no_exec = w->wide && ((w->above | leaf) & PTE_XD);
	n->key = w->wide ? (leaf >> 59) & 15 : 0;
	n->large = false;
	n->shift = PAGE_SHIFT;
	finish(v, n, leaf);
	return true;
}

bool mmu_walk_mark(struct vcpu *v, struct walk *w, bool write)
{
	for (unsigned i = 0; i < w->steps; i++) {
		struct walk_step *s = &w->step[i];
		u64 set = PTE_A | (write && i + 1 == w->steps ? PTE_D : 0);
		u64 want = s->value | set;

		if (want == s->value || !s->entry)
			continue;
		track_write(v->mem, s->entry, w->wide ? 8 : 4);
		if (w->wide) {
			if (!__atomic_compare_exchange_n((u64 *)s->entry, &s->value, want, false, __ATOMIC_SEQ_CST,
							 __ATOMIC_RELAXED))
				return false;
		} else {
			u32 old = (u32)s->value;

			if (!__atomic_compare_exchange_n((u32 *)s->entry, &old, (u32)want, false, __ATOMIC_SEQ_CST,
							 __ATOMIC_RELAXED))
				return false;
		}
		if (unlikely(*s->flags & PAGE_CODE))
			memory_notify_written(v->mem, s->gpa, w->wide ? 8 : 4);
		if (set & PTE_D)
			w->dirty = true;
	}
	return true;
}

u32 mmu_error_kind(const struct cpu *c, enum mmu_access acc, enum mmu_index index)
{
	u32 err = index == MMU_USER || index == MMU_USER_ALIGN ? PF_U : 0;

	if (acc == MMU_WRITE)
		err |= PF_W;
	if (acc == MMU_EXEC && ((c->cr4 & CR4_SMEP) || ((c->cr4 & CR4_PAE) && (c->efer & EFER_NXE))))
		err |= PF_I;
	return err;
}

/* Access rights, SDM vol. 3, 4.6.1 */
static bool denied_by_mode(const struct cpu *c, const struct walk *w, enum mmu_access acc, enum mmu_index index)
{
	if (index == MMU_USER || index == MMU_USER_ALIGN) {
		if (!w->user)
			return true;
		return acc == MMU_EXEC ? w->no_exec : acc == MMU_WRITE && !w->writable;
	}
	if (acc == MMU_EXEC)
		return w->no_exec || (w->user && (c->cr4 & CR4_SMEP));
	if (w->user && index == MMU_KERNEL && (c->cr4 & CR4_SMAP))
		return true;
	return acc == MMU_WRITE && !w->writable && (c->cr0 & CR0_WP);
}

/* Protection keys, SDM vol. 3, 4.6.2 */
static bool denied_by_key(const struct cpu *c, const struct walk *w, enum mmu_access acc, enum mmu_index index)
{
	u32 bits;

	if (acc == MMU_EXEC || !w->user || !(c->cr4 & CR4_PKE) || !(c->efer & EFER_LMA))
		return false;
	bits = c->pkru >> (2 * w->key);
	if (bits & 1)
		return true;
	return (bits & 2) && acc == MMU_WRITE && (index == MMU_USER || index == MMU_USER_ALIGN || (c->cr0 & CR0_WP));
}

u32 mmu_denied(const struct cpu *c, const struct walk *w, enum mmu_access acc, enum mmu_index index)
{
	bool key = denied_by_key(c, w, acc, index);

	if (likely(!key && !denied_by_mode(c, w, acc, index)))
		return 0;
	return PF_P | (key ? PF_PK : 0) | mmu_error_kind(c, acc, index);
}
