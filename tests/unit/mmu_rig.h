/*
 * A processor with an MMU, 16 MiB of RAM and a page-table builder, for the
 * tests of src/mem/mmu*.c. Tables grow from 1 MiB up; data frames are below.
 */
#ifndef ECTYPE_TESTS_MMU_RIG_H
#define ECTYPE_TESTS_MMU_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpuid.h"
#include "cpu/linear.h"
#include "mem/mmu.h"

#include "fakes.h"

#define E_P BIT(0)
#define E_W BIT(1)
#define E_U BIT(2)
#define E_A BIT(5)
#define E_D BIT(6)
#define E_PS BIT(7)
#define E_G BIT(8)
#define E_XD BIT(63)
#define E_ALL (E_P | E_W | E_U)

enum paging { M32, PAE, L4, L5, PAGINGS };

struct rig {
	struct vcpu v;
	struct cpu_model model;
	enum paging paging;
	gpa_t next_table;
	gpa_t entry[6]; /* where the last map() put the entry of each level (1: PTE) */
	u8 *ram;
};

static inline unsigned rig_entry_size(const struct rig *r)
{
	return r->paging == M32 ? 4 : 8;
}
static inline unsigned rig_levels(const struct rig *r)
{
	static const unsigned levels[] = { 2, 3, 4, 5 };

	return levels[r->paging];
}

static inline u64 rig_get(struct rig *r, gpa_t at)
{
	u64 e = 0;

	memory_read(r->v.mem, at, &e, rig_entry_size(r));
	return e;
}

static inline void rig_set(struct rig *r, gpa_t at, u64 e)
{
	memory_write(r->v.mem, at, &e, rig_entry_size(r));
}

static inline gpa_t rig_table(struct rig *r)
{
	gpa_t t = r->next_table;

	r->next_table += PAGE_SIZE;
	return t;
}

/* Back to empty tables of the given mode, CPL 0, all protections off. */
static inline void rig_mode(struct rig *r, enum paging p)
{
	struct cpu *c = &r->v.cpu;

	memset(c, 0, sizeof(*c));
	r->paging = p;
	memset(r->ram, 0, 3 * MiB); /* what tests write to */
	r->next_table = 1 * MiB;
	c->rflags = FL_FIXED1;
	c->cr0 = CR0_PE | CR0_PG;
	c->cr4 = CR4_PSE | CR4_PGE | (p != M32 ? CR4_PAE : 0) | (p == L5 ? CR4_LA57 : 0);
	c->efer = p >= L4 ? EFER_LMA | EFER_LME : 0;
	c->seg[SEG_CS].attr = SEG_P | SEG_S | SEG_TYPE_CODE | (p >= L4 ? SEG_L : SEG_DB);
	c->seg[SEG_SS].attr = SEG_P | SEG_S | SEG_TYPE_RW | SEG_DB;
	c->cr3 = rig_table(r);
	r->v.debug.count = 0;
	r->v.event = 0;
	mmu_mode_changed(&r->v);
	mmu_flush_all(&r->v);
}

static inline void rig_cpl(struct rig *r, unsigned cpl)
{
	r->v.cpu.seg[SEG_SS].attr = (r->v.cpu.seg[SEG_SS].attr & ~SEG_DPL) | cpl << SEG_DPL_SHIFT;
	mmu_mode_changed(&r->v);
}

/* Entry `leaf` at `level` for `lin`; tables above it allow everything. */
static inline gpa_t rig_map(struct rig *r, gva_t lin, unsigned level, u64 leaf)
{
	const unsigned bits = r->paging == M32 ? 10 : 9;
	gpa_t table = r->v.cpu.cr3 & PAGE_MASK;

	for (unsigned l = rig_levels(r);; l--) {
		gpa_t at = table + ((lin >> (12 + bits * (l - 1))) & (BIT(bits) - 1)) * rig_entry_size(r);

		r->entry[l] = at;
		if (l == level) {
			rig_set(r, at, leaf);
			return at;
		}
		if (!(rig_get(r, at) & E_P))
			rig_set(r, at, rig_table(r) | (r->paging == PAE && l == 3 ? E_P : E_ALL));
		table = rig_get(r, at) & 0xffffffffff000ull;
	}
}

static inline int rig_setup(void **state)
{
	struct rig *r = aligned_alloc(64, sizeof(*r));
	struct error e;

	memset(r, 0, sizeof(*r));
	r->v.mem = memory_create(16 * MiB, &e);
	r->v.mmu = mmu_create();
	r->v.model = &r->model;
	r->model.phys_bits = 40;
	r->model.lin_bits = 57;
	r->model.gbpages = true;
	r->ram = memory_ram(r->v.mem);
	memory_map_ram(r->v.mem, 0, 0, 16 * MiB, 0, "ram");
	/* the same RAM where large pages can reach it */
	memory_map_ram(r->v.mem, 1 * GiB, 0, 16 * MiB, 0, "at 1G");
	memory_map_ram(r->v.mem, 0x3340000000ull, 0, 16 * MiB, 0, "above 4G");
	rig_mode(r, L4);
	*state = r;
	return 0;
}

static inline int rig_teardown(void **state)
{
	struct rig *r = *state;

	mmu_destroy(r->v.mmu);
	memory_destroy(r->v.mem);
	free(r);
	return 0;
}

/* Translate; -1 for success, else the #PF error code (vector and address checked), 1000 + vector for others. */
static inline int rig_try(struct rig *r, gva_t lin, enum mmu_access acc, enum mmu_index index, struct xlat *x)
{
	struct xlat local;

	if (mmu_translate(&r->v, lin, acc, index, x ? x : &local) == 0)
		return -1;
	if (r->v.fault.vector != EXC_PF)
		return 1000 + r->v.fault.vector;
	assert_true(r->v.fault.has_error);
	assert_true(r->v.fault.addr == lin);
	return (int)r->v.fault.error;
}

#define RIG_TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

#endif
