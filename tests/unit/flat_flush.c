/*
 * Flat translation tables: every kind of flush, and random mappings against the walk.
 */
#include "flat_rig.h"

/* ---- flushes ---- */

static void pcids(void **state)
{
	struct rig *r = *state;
	u8 *first, *second, *kernel;

	needs_tables();
	kernel = base_of(r, SET_KERNEL);
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	load_cr3(r, 1, false);
	rig_cpl(r, 3);
	first = r->v.mmu->flat_base;
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	reports = 0;
	load_cr3(r, 2, false);
	second = r->v.mmu->flat_base;
	assert_ptr_not_equal(first, second);
	/* its first address space */
	assert_true(told(second, 0, true));
	assert_int_equal(reports, 1);
	reports = 0;
	assert_false(has(second, USER, MMU_READ));
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	load_cr3(r, 1, true);
	assert_ptr_equal(r->v.mmu->flat_base, first);
	assert_true(has(first, USER, MMU_READ));
	assert_int_equal(reports, 0);
	load_cr3(r, 2, false);
	assert_false(has(second, USER, MMU_READ));
	assert_true(has(first, USER, MMU_READ));
	assert_true(told(second, 0, true));
	assert_false(told(first, 0, true));
	assert_false(told(kernel, 0, true));
	/* six more, then a ninth takes the set that was not used for longest: the first */
	for (unsigned pcid = 3; pcid <= 8; pcid++)
		load_cr3(r, pcid, false);
	assert_true(has(first, USER, MMU_READ));
	reports = 0;
	load_cr3(r, 9, true);
	assert_ptr_equal(r->v.mmu->flat_base, first);
	assert_false(has(first, USER, MMU_READ));
	assert_true(told(first, 0, true));
	assert_int_equal(reports, 1);
}

static void without_pcids(void **state)
{
	struct rig *r = *state;
	u8 *user;

	needs_tables();
	r->v.cpu.cr4 &= ~CR4_PCIDE;
	mmu_flush_all(&r->v);
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	load_cr3(r, 0x18, false); /* cache attributes, not a PCID */
	assert_ptr_equal(r->v.mmu->flat_base, user);
	assert_false(has(user, USER, MMU_READ));
}

static void kernel_and_cr3(void **state)
{
	struct rig *r = *state;
	u8 *kernel;
	const gva_t global = KERN + 4 * MiB;

	needs_tables();
	kernel = base_of(r, SET_KERNEL);
	rig_map(r, KERN, 1, 0x5000 | E_P | E_W | E_A | E_D | E_XD);
	rig_map(r, global, 1, 0x6000 | E_P | E_W | E_A | E_D | E_G);
	r->v.cpu.efer |= EFER_NXE;
	mmu_mode_changed(&r->v);
	assert_int_equal(miss(r, KERN, MMU_WRITE), FLAT_FILLED);
	assert_int_equal(miss(r, global, MMU_WRITE), FLAT_FILLED);
	assert_int_equal(rig_try(r, global, MMU_EXEC, MMU_KERNEL, NULL), -1);
	reports = 0;
	load_cr3(r, 3, true); /* the kernel's sets have no tag */
	assert_false(has(kernel, KERN, MMU_READ));
	assert_false(has(kernel, KERN, MMU_WRITE));
	assert_true(has(kernel, global, MMU_WRITE));
	assert_false(told(kernel, 0, true)); /* nothing executable went */
	/* an executable page that is not global */
	rig_map(r, KERN, 1, 0x5000 | E_P | E_W | E_A | E_D);
	assert_int_equal(rig_try(r, KERN, MMU_EXEC, MMU_KERNEL, NULL), -1);
	load_cr3(r, 4, true);
	assert_true(told(kernel, 0, true));
	reports = 0;
	load_cr3(r, 5, true);
	assert_false(told(kernel, 0, true));
	/* the empty set's code counts too */
	rig_map(r, USER, 1, 0x7000 | E_ALL);
	assert_int_equal(rig_try(r, USER, MMU_EXEC, MMU_USER_ALIGN, NULL), -1);
	load_cr3(r, 6, true);
	assert_true(told(base_of(r, SET_EMPTY), 0, true));
}

static void page_flushes(void **state)
{
	struct rig *r = *state;
	u8 *first, *second, *kernel;

	needs_tables();
	kernel = base_of(r, SET_KERNEL);
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	rig_map(r, USER + PAGE_SIZE, 1, 0x6000 | E_ALL | E_A | E_D | E_G);
	rig_map(r, USER + 2 * PAGE_SIZE, 1, 0x7000 | E_ALL | E_A | E_D);
	rig_map(r, KERN, 1, 0x8000 | E_P | E_W | E_A | E_D | E_G);
	load_cr3(r, 1, false);
	assert_int_equal(miss(r, KERN, MMU_WRITE), FLAT_FILLED);
	rig_cpl(r, 3);
	first = r->v.mmu->flat_base;
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	load_cr3(r, 2, false);
	second = r->v.mmu->flat_base;
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	reports = 0;
	mmu_flush_page(&r->v, USER + 8);
	assert_false(has(second, USER, MMU_READ));
	assert_false(has(second, USER, MMU_WRITE));
	assert_true(has(second, USER + PAGE_SIZE, MMU_READ));
	assert_true(told(second, USER, false));
	assert_true(told(kernel, USER, false));
	assert_true(told(base_of(r, SET_KERNEL_AC), USER, false));
	assert_true(told(base_of(r, SET_EMPTY), USER, false));
	/* global: of every address space */
	mmu_flush_page(&r->v, USER + PAGE_SIZE);
	assert_false(has(first, USER + PAGE_SIZE, MMU_READ));
	assert_false(has(second, USER + PAGE_SIZE, MMU_READ));
	assert_true(told(first, USER + PAGE_SIZE, false));
	mmu_flush_page(&r->v, KERN);
	assert_false(has(kernel, KERN, MMU_WRITE));
	/* INVPCID types 0 and 1 of another address space */
	assert_true(has(first, USER + 2 * PAGE_SIZE, MMU_READ));
	assert_true(has(second, USER + 2 * PAGE_SIZE, MMU_READ));
	mmu_flush_pcid_page(&r->v, 1, USER + 2 * PAGE_SIZE);
	assert_false(has(first, USER + 2 * PAGE_SIZE, MMU_READ));
	assert_true(has(second, USER + 2 * PAGE_SIZE, MMU_READ));
	load_cr3(r, 1, true);
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	load_cr3(r, 2, true);
	reports = 0;
	mmu_flush_pcid(&r->v, 1);
	assert_false(has(first, USER, MMU_READ));
	assert_true(told(first, 0, true));
	assert_false(told(second, 0, true));
	assert_true(has(second, USER + 2 * PAGE_SIZE, MMU_READ));
	mmu_flush_pcid(&r->v, 2);
	assert_false(has(second, USER + 2 * PAGE_SIZE, MMU_READ));
}

/* INVLPG next to a large page with code: its size is not kept, so all is reported. */
static void large_code(void **state)
{
	struct rig *r = *state;
	u8 *kernel;
	const gva_t text = 0xffffffff80000000;

	needs_tables();
	kernel = base_of(r, SET_KERNEL);
	rig_map(r, text, 2, 0x400000 | E_P | E_W | E_PS | E_G);
	assert_int_equal(rig_try(r, text + 0x5000, MMU_EXEC, MMU_KERNEL, NULL), -1);
	reports = 0;
	mmu_flush_page(&r->v, KERN);
	assert_true(told(kernel, KERN, false));
	assert_false(told(kernel, 0, true));
	mmu_flush_page(&r->v, text + 0x7000);
	assert_true(told(kernel, 0, true));
}

static void everything(void **state)
{
	struct rig *r = *state;
	u8 *user;

	needs_tables();
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	rig_map(r, KERN, 1, 0x6000 | E_P | E_W | E_A | E_D | E_G);
	assert_int_equal(miss(r, KERN, MMU_WRITE), FLAT_FILLED);
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FILLED);
	reports = 0;
	r->v.cpu.cr0 &= ~CR0_WP;
	mmu_mode_changed(&r->v);
	assert_false(has(user, USER, MMU_READ));
	assert_false(has(base_of(r, SET_KERNEL), KERN, MMU_WRITE));
	assert_true(told(NULL, 0, true));
	assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FILLED);
	mmu_invalidate(&r->v);
	assert_false(has(user, USER, MMU_WRITE));
}

static void protection_keys(void **state)
{
	struct rig *r = *state;
	u8 *user;

	needs_tables();
	r->v.cpu.cr4 |= CR4_PKE;
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	rig_map(r, USER + PAGE_SIZE, 1, 0x6000 | E_ALL | E_A | E_D | 5ull << 59);
	rig_map(r, KERN, 1, 0x7000 | E_P | E_W | E_A | E_D | E_G);
	r->v.cpu.rflags |= FL_AC;
	mmu_mode_changed(&r->v);
	assert_int_equal(miss(r, KERN, MMU_READ), FLAT_FILLED);
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	assert_true(has(base_of(r, SET_KERNEL_AC), USER + PAGE_SIZE, MMU_WRITE)); /* a neighbour */
	r->v.cpu.rflags &= ~FL_AC;
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	assert_true(has(user, USER + PAGE_SIZE, MMU_READ));
	r->v.cpu.pkru = 3 << 8; /* key 4: not in use */
	mmu_mode_changed(&r->v);
	assert_true(has(user, USER + PAGE_SIZE, MMU_READ));
	reports = 0;
	r->v.cpu.pkru = 3 << 10; /* key 5, known from neighbours alone */
	mmu_mode_changed(&r->v);
	assert_false(has(user, USER + PAGE_SIZE, MMU_READ));
	assert_false(has(base_of(r, SET_KERNEL_AC), USER + PAGE_SIZE, MMU_WRITE));
	assert_true(has(base_of(r, SET_KERNEL_AC), KERN, MMU_READ));
	assert_int_equal(reports, 0);
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	assert_false(has(user, USER + PAGE_SIZE, MMU_READ));
}

/* A frame mapped at many addresses of several sets becomes a code page. */
static void protect_frame(void **state)
{
	struct rig *r = *state;
	static const unsigned counts[] = { 1, 2, 3, 20 };

	needs_tables();
	for (unsigned c = 0; c < ARRAY_SIZE(counts); c++) {
		u8 *set[2];

		for (unsigned s = 0; s < 2; s++) {
			r->v.cpu.rflags |= FL_AC;
			if (s == 1)
				rig_cpl(r, 3);
			mmu_mode_changed(&r->v);
			set[s] = r->v.mmu->flat_base;
			for (unsigned i = 0; i < counts[c]; i++) {
				gva_t lin = USER + i * 16 * MiB;

				rig_map(r, lin, 1, 0x5000 | E_ALL | E_A | E_D);
				rig_map(r, lin + PAGE_SIZE, 1, 0x9000 | E_ALL | E_A | E_D);
				assert_int_equal(miss(r, lin, MMU_WRITE), FLAT_FILLED);
			}
		}
		mmu_protect_frame(&r->v, 1 * GiB + 0x5000); /* by an alias */
		for (unsigned s = 0; s < 2; s++) {
			for (unsigned i = 0; i < counts[c]; i++) {
				gva_t lin = USER + i * 16 * MiB;

				assert_true(has(set[s], lin, MMU_READ));
				assert_false(has(set[s], lin, MMU_WRITE));
				assert_true(has(set[s], lin + PAGE_SIZE, MMU_WRITE));
			}
		}
		rig_cpl(r, 0);
		mmu_flush_all(&r->v);
	}
}

/* Reading absent entries everywhere must not use up the host's memory. */
static void cap(void **state)
{
	struct rig *r = *state;
	const struct flat_stats *st;
	u8 *user;

	needs_tables();
	st = flat_stats(tables);
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FILLED);
	rig_map(r, FAR, 1, 0x6000 | E_ALL | E_A | E_D);
	reports = 0;
	for (u64 i = 0; i < FLAT_PAGES_MAX + 100; i++) {
		if (i == FLAT_PAGES_MAX / 2)
			assert_int_equal(miss(r, FAR, MMU_WRITE), FLAT_FILLED);
		assert_int_equal((u32)entry(user, 0x100000000000 + i * 6 * MiB, i & 1 ? MMU_READ : MMU_WRITE), 0);
	}
	assert_int_equal(st->resets, 1);
	assert_true(st->table_pages < 200);
	/* where the frame's entry was is not looked at: that table page has no memory */
	if (sigsetjmp(faulted, 1))
		fail();
	tables = NULL;
	mmu_protect_frame(&r->v, 0x6000);
	tables = r->v.mmu->flat;
	assert_false(has(user, USER, MMU_WRITE));
	assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FILLED);
	expect_host(r, USER, MMU_WRITE, 0x5000);
	mmu_protect_frame(&r->v, 0x5000);
	assert_false(has(user, USER, MMU_WRITE));
	/* what is no table is nobody's */
	assert_false(flat_table_fault(tables, user));
	assert_false(flat_table_fault(tables, user + FLAT_AUX_SIZE));
	assert_false(flat_table_fault(tables, &st));
	assert_false(flat_table_fault(tables, NULL));
}

/* The table pages that a miss's neighbours take are the last: its own entry is there all the same. */
static void cap_in_a_miss(void **state)
{
	struct rig *r = *state;
	const struct flat_stats *st;
	u64 found, lin = 0x100000000000;
	u8 *user;

	needs_tables();
	st = flat_stats(tables);
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	rig_map(r, FAR, 1, 0x5000 | E_P | E_U | E_A);
	rig_map(r, FAR + PAGE_SIZE, 1, 0x6000 | E_ALL | E_A | E_D);
	for (; st->table_pages < FLAT_PAGES_MAX - 1; lin += 6 * MiB)
		entry(user, lin, MMU_READ);
	assert_int_equal(miss(r, FAR, MMU_READ), FLAT_FILLED);
	assert_int_equal(st->resets, 1);
	tables = NULL; /* no page is made for who looks */
	found = entry(user, FAR, MMU_READ);
	tables = r->v.mmu->flat;
	assert_ptr_equal((u8 *)(FAR + found + 1), r->ram + 0x5000);
}

static void auxiliary_area(void **state)
{
	struct rig *r = *state;

	needs_tables();
	assert_int_equal(flat_set_count(tables), FLAT_SETS);
	for (unsigned n = 0; n < flat_set_count(tables); n++) {
		u8 *base = base_of(r, n);

		assert_int_equal(base[0] | base[FLAT_AUX_SIZE - 1], 0);
		base[0] = base[FLAT_AUX_SIZE - 1] = 1;
	}
	mmu_flush_all(&r->v);
	assert_int_equal(base_of(r, 0)[0], 1);
}

/* Random mappings, rights, flushes and protections against the walk itself: an entry never says more. */
static void against_the_walk(void **state)
{
	struct rig *r = *state;
	struct page_target t;

	needs_tables();
	for (unsigned round = 0; round < 20000; round++) {
		gva_t lin = (random64() & 1 ? USER : KERN) + (random64() % 48) * PAGE_SIZE;
		gpa_t gpa = 0x800000 + (random64() % 32) * PAGE_SIZE;
		unsigned what = (unsigned)(random64() % 8);
		enum mmu_access acc = random64() & 1 ? MMU_WRITE : MMU_READ;
		struct xlat x;

		reports = 0;
		rig_cpl(r, random64() & 1 ? 3 : 0);
		if (what == 0) {
			rig_map(r, lin, 1, gpa | (random64() & (E_ALL | E_A | E_D | E_G)));
			mmu_flush_page(&r->v, lin);
		} else if (what == 1) {
			assert_true(memory_page(r->v.mem, gpa, &t));
			*t.flags ^= PAGE_CODE;
			if (*t.flags & PAGE_CODE)
				mmu_protect_frame(&r->v, gpa);
		} else if (what == 2) {
			load_cr3(r, (unsigned)(random64() % 12), false);
		} else {
			(void)!miss(r, lin, acc);
		}
		if ((u32)entry(r->v.mmu->flat_base, lin, acc)) {
			assert_int_equal(rig_try(r, lin, acc, r->v.mmu->index, &x), -1);
			assert_true(acc == MMU_READ || x.writable);
			assert_ptr_equal((u8 *)host_of(r, lin, acc), x.host);
		}
	}
	assert_true(flat_stats(tables)->fills > 1000 && flat_stats(tables)->flushes > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FLAT_TEST(pcids),	    FLAT_TEST(without_pcids),  FLAT_TEST(kernel_and_cr3),
		FLAT_TEST(page_flushes),    FLAT_TEST(large_code),     FLAT_TEST(everything),
		FLAT_TEST(protection_keys), FLAT_TEST(protect_frame),  FLAT_TEST(cap),
		FLAT_TEST(cap_in_a_miss),   FLAT_TEST(auxiliary_area), FLAT_TEST(against_the_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
