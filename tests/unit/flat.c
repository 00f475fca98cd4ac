/*
 * Flat translation tables: reservations, what is filled and withheld.
 */
#include "flat_rig.h"

/* ---- reservations ---- */

static void absent_entries_lead_nowhere(void **state)
{
	struct rig *r = *state;
	u64 val;

	needs_tables();
	for (unsigned i = 0; i < 400; i++) {
		unsigned set = (unsigned)(random64() % flat_set_count(tables));
		gva_t page = (random64() & (BIT(44) - 1)), lin;

		for (unsigned acc = MMU_READ; acc <= MMU_WRITE; acc++) {
			u64 e = entry(base_of(r, set), page, (enum mmu_access)acc);

			assert_int_equal((u32)e, 0);
			for (unsigned w = 0; w < 16; w++) {
				lin = page | (u64)w << 44 | (w >= 8 ? 0xffff000000000000 : 0);
				assert_false(load(lin + e + 1, &val));
				/* its own half: the hole itself, not just some address that happens to be free */
				if ((w >= 8) == (set == SET_KERNEL || set == SET_KERNEL_AC)) {
					u64 hole = r->v.mem->place_off + ((u64)(w & 7) << 44);

					assert_true(lin + e + 1 - hole <= 4 * GiB);
				}
			}
		}
	}
	assert_true(table_faults > 700);
}

struct area {
	u64 first, end;
	bool open;
};

/* What the kernel says is mapped at `at`. */
static bool area_at(u64 at, struct area *a)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512], prot[8];
	bool found = false;

	assert_non_null(f);
	while (!found && fgets(line, sizeof(line), f)) {
		unsigned long long first, end;

		assert_int_equal(sscanf(line, "%llx-%llx %7s", &first, &end, prot), 3);
		found = at >= first && at < end;
		*a = (struct area){ first, end, prot[0] == 'r' };
	}
	fclose(f);
	return found;
}

static void windows_are_reserved(void **state)
{
	struct rig *r = *state;
	const u64 ram = (u64)r->ram & (BIT(44) - 1), hole = r->v.mem->place_off;

	needs_tables();
	assert_int_equal(hole % (4 * GiB), 0);
	for (unsigned w = 0; w < 8; w++) {
		const u64 base = (u64)w << 44;
		struct area a;

		assert_true(area_at(base + hole, &a));
		assert_false(a.open);
		assert_true(a.first <= base + hole && a.end >= base + hole + 4 * GiB + PLACE_GUARD);
		for (u64 at = base + ram; at < base + ram + 16 * MiB + PLACE_GUARD; at = a.end) {
			assert_true(area_at(at, &a));
			assert_int_equal(a.open, a.first == (u64)r->ram);
		}
	}
}

/* Present entries are of no use to other addresses that select them. */
static void aliases_fault(void **state)
{
	struct rig *r = *state;
	u64 e, val;

	needs_tables();
	rig_cpl(r, 3);
	rig_map(r, FAR, 1, 0x5000 | E_ALL | E_A | E_D);
	assert_int_equal(miss(r, FAR, MMU_READ), FLAT_FILLED);
	e = entry(r->v.mmu->flat_base, FAR, MMU_READ);
	assert_true(load(FAR + e + 1, &val));
	for (u64 k = 1; k < BIT(20); k += k < 32 ? 1 : 997)
		assert_false(load(FAR + (k << 44) + e + 1, &val));
}

static void two_machines(void **state)
{
	struct rig *r = *state;
	struct flat *first = tables;
	u8 *ram = r->ram;
	void *second;

	needs_tables();
	assert_int_equal(setup(&second), 0);
	assert_non_null(tables);
	assert_ptr_not_equal(((struct rig *)second)->ram, ram);
	absent_entries_lead_nowhere(&second);
	teardown(&second);
	tables = first;
}

/* ---- filling ---- */

static void fill_and_lookup(void **state)
{
	struct rig *r = *state;
	u64 val;

	needs_tables();
	rig_cpl(r, 3);
	rig_map(r, USER, 1, 0x5000 | E_ALL);
	*(u64 *)(r->ram + 0x5120) = 0x1122334455667788;
	assert_false(has(r->v.mmu->flat_base, USER, MMU_READ));
	assert_int_equal(miss(r, USER + 0x120, MMU_READ), FLAT_FILLED);
	expect_host(r, USER + 0x120, MMU_READ, 0x5120);
	assert_true(load(host_of(r, USER + 0x120, MMU_READ), &val));
	assert_true(val == 0x1122334455667788);
	/* D is clear: the first write must walk */
	assert_false(has(r->v.mmu->flat_base, USER, MMU_WRITE));
	assert_int_equal(miss(r, USER + 0x120, MMU_WRITE), FLAT_FILLED);
	assert_true(rig_get(r, r->entry[1]) & E_D);
	expect_host(r, USER + 0x120, MMU_WRITE, 0x5120);
	/* faults */
	assert_int_equal(miss(r, USER + 64 * PAGE_SIZE, MMU_READ), FLAT_FAULT);
	assert_int_equal(r->v.fault.vector, EXC_PF);
	assert_int_equal(miss(r, 0x800000000000, MMU_READ), FLAT_FAULT);
	assert_int_equal(r->v.fault.vector, EXC_GP);
	/* ordinary accesses of the MMU fill as well */
	rig_map(r, FAR, 1, 0x6000 | E_ALL);
	assert_int_equal(mmu_write(&r->v, FAR, &val, 8), 0);
	expect_host(r, FAR, MMU_READ, 0x6000);
	expect_host(r, FAR, MMU_WRITE, 0x6000);
}

static void what_is_withheld(void **state)
{
	struct rig *r = *state;
	static _Alignas(4096) u8 rom[4096];
	struct page_target t;
	u8 *user;

	needs_tables();
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	rig_map(r, USER, 1, 0x5000 | E_P | E_U | E_A | E_D); /* read-only */
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FAULT);
	assert_false(has(user, USER, MMU_WRITE));
	/* code page */
	rig_map(r, FAR, 1, 0x6000 | E_ALL | E_A | E_D);
	assert_true(memory_page(r->v.mem, 0x6000, &t));
	*t.flags |= PAGE_CODE;
	assert_int_equal(miss(r, FAR, MMU_WRITE), FLAT_SLOW);
	assert_true(has(user, FAR, MMU_READ));
	assert_false(has(user, FAR, MMU_WRITE));
	*t.flags = 0;
	assert_int_equal(miss(r, FAR, MMU_WRITE), FLAT_FILLED);
	/* host memory other than RAM, and holes */
	assert_non_null(memory_map_host(r->v.mem, 0x8000000, rom, sizeof(rom), REGION_ROM, 0, "rom"));
	rig_map(r, FAR, 1, 0x8000000 | E_ALL | E_A | E_D);
	mmu_flush_page(&r->v, FAR);
	assert_int_equal(miss(r, FAR, MMU_READ), FLAT_SLOW);
	rig_map(r, FAR, 1, 0x9000000 | E_ALL | E_A | E_D);
	assert_int_equal(miss(r, FAR, MMU_READ), FLAT_SLOW);
	/* the guest's breakpoints */
	r->v.cpu.dr[0] = USER + 8;
	r->v.cpu.dr[7] = 0x400 | 1 | 3 << 16; /* read or write */
	mmu_flush_all(&r->v);
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_SLOW);
	assert_false(has(user, USER, MMU_READ));
	r->v.cpu.dr[7] = 0x400;
	/* alignment checks: a set that stays empty */
	mmu_flush_all(&r->v);
	r->v.cpu.cr0 |= CR0_AM;
	r->v.cpu.rflags |= FL_AC;
	mmu_mode_changed(&r->v);
	assert_ptr_equal(r->v.mmu->flat_base, base_of(r, SET_EMPTY));
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_SLOW);
	assert_false(has(r->v.mmu->flat_base, USER, MMU_READ));
}

static void kernel_sets(void **state)
{
	struct rig *r = *state;

	needs_tables();
	rig_map(r, USER, 1, 0x5000 | E_ALL | E_A | E_D);
	rig_map(r, KERN, 1, 0x6000 | E_P | E_W | E_A | E_D);
	assert_ptr_equal(r->v.mmu->flat_base, base_of(r, SET_KERNEL));
	assert_int_equal(miss(r, KERN, MMU_WRITE), FLAT_FILLED);
	expect_host(r, KERN, MMU_WRITE, 0x6000);
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FAULT); /* SMAP */
	r->v.cpu.rflags |= FL_AC;
	mmu_mode_changed(&r->v);
	assert_ptr_equal(r->v.mmu->flat_base, base_of(r, SET_KERNEL_AC));
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	assert_false(has(base_of(r, SET_KERNEL), USER, MMU_READ));
	/* without SMAP */
	r->v.cpu.rflags &= ~FL_AC;
	r->v.cpu.cr4 &= ~CR4_SMAP;
	mmu_mode_changed(&r->v);
	assert_ptr_equal(r->v.mmu->flat_base, base_of(r, SET_KERNEL_AC));
	assert_false(has(r->v.mmu->flat_base, USER, MMU_READ));
	assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
	expect_host(r, USER, MMU_READ, 0x5000);
	rig_cpl(r, 3);
	assert_true(r->v.mmu->flat_base != base_of(r, SET_KERNEL_AC));
	assert_false(has(r->v.mmu->flat_base, USER, MMU_READ));
}

static void neighbours(void **state)
{
	struct rig *r = *state;
	u8 *user;

	needs_tables();
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	for (unsigned i = 0; i < 40; i++)
		rig_map(r, USER + i * PAGE_SIZE, 1, (0x40000 + i * PAGE_SIZE) | E_ALL | E_A | E_D);
	rig_map(r, USER + 17 * PAGE_SIZE, 1, 0x51000 | E_ALL);			     /* A clear */
	rig_map(r, USER + 18 * PAGE_SIZE, 1, 0x52000 | E_ALL | E_A);		     /* D clear */
	rig_map(r, USER + 19 * PAGE_SIZE, 1, 0x53000 | E_P | E_W | E_A | E_D);	     /* supervisor */
	rig_map(r, USER + 22 * PAGE_SIZE, 1, 0x56000 | E_ALL | E_A | E_D | BIT(51)); /* reserved bit */
	rig_map(r, USER + 23 * PAGE_SIZE, 1, 0x57000 | E_P | E_U | E_A | E_D);	     /* read-only */
	assert_int_equal(miss(r, USER + 20 * PAGE_SIZE, MMU_READ), FLAT_FILLED);
	for (unsigned i = 0; i < 40; i++) {
		bool near = i >= 12 && i <= 28, r_ok = near && i != 17 && i != 19 && i != 22;

		assert_int_equal(has(user, USER + i * PAGE_SIZE, MMU_READ), r_ok);
		assert_int_equal(has(user, USER + i * PAGE_SIZE, MMU_WRITE), r_ok && i != 18 && i != 23);
		if (r_ok)
			expect_host(r, USER + i * PAGE_SIZE, MMU_READ, 0x40000 + i * PAGE_SIZE);
	}
	assert_false(rig_get(r, r->entry[1] - 6 * 8) & E_A); /* looked at, not marked */
	/* rights of the levels above hold for neighbours */
	mmu_flush_all(&r->v);
	rig_set(r, r->entry[2], rig_get(r, r->entry[2]) & ~E_W);
	assert_int_equal(miss(r, USER + 30 * PAGE_SIZE, MMU_READ), FLAT_FILLED);
	assert_true(has(user, USER + 31 * PAGE_SIZE, MMU_READ));
	assert_false(has(user, USER + 31 * PAGE_SIZE, MMU_WRITE));
}

static void neighbours_32bit(void **state)
{
	struct rig *r = *state;

	needs_tables();
	rig_mode(r, M32);
	for (unsigned i = 0; i < 4; i++)
		rig_map(r, USER + i * PAGE_SIZE, 1, (0x40000 + i * PAGE_SIZE) | E_ALL | E_A | E_D);
	assert_int_equal(miss(r, USER + PAGE_SIZE, MMU_READ), FLAT_FILLED);
	for (unsigned i = 0; i < 4; i++) {
		expect_host(r, USER + i * PAGE_SIZE, MMU_READ, 0x40000 + i * PAGE_SIZE);
		expect_host(r, USER + i * PAGE_SIZE, MMU_WRITE, 0x40000 + i * PAGE_SIZE);
	}
	/* paging off: a stretch of RAM at a time, as far as it goes */
	r->v.cpu.cr0 &= ~CR0_PG;
	mmu_mode_changed(&r->v);
	assert_int_equal(miss(r, 0x345678, MMU_WRITE), FLAT_FILLED);
	expect_host(r, 0x200000, MMU_WRITE, 0x200000);
	expect_host(r, 0x3ff000, MMU_READ, 0x3ff000);
	assert_false(has(r->v.mmu->flat_base, 0x400000, MMU_READ));
}

static void large_pages(void **state)
{
	struct rig *r = *state;
	const gva_t lin = 0x40000000;
	struct page_target t;
	u8 *user;

	needs_tables();
	rig_cpl(r, 3);
	user = r->v.mmu->flat_base;
	assert_true(memory_page(r->v.mem, 0x405000, &t));
	*t.flags |= PAGE_CODE;
	rig_map(r, lin, 2, 0x400000 | E_ALL | E_PS | E_A | E_D);
	rig_map(r, lin + 2 * MiB, 2, 0x600000 | E_ALL | E_PS | E_A | E_D);
	assert_int_equal(miss(r, lin + 0x123456, MMU_READ), FLAT_FILLED);
	for (unsigned i = 0; i < 512; i++) {
		expect_host(r, lin + i * PAGE_SIZE, MMU_READ, 0x400000 + i * PAGE_SIZE);
		assert_int_equal(has(user, lin + i * PAGE_SIZE, MMU_WRITE), i != 5);
	}
	assert_false(has(user, lin + 2 * MiB, MMU_READ));
	assert_int_equal(miss(r, lin + 2 * MiB, MMU_READ), FLAT_FILLED);
	/* INVLPG of any byte of it drops all of it, and only it */
	mmu_flush_page(&r->v, lin + 0x1ff000);
	for (unsigned i = 0; i < 512; i++) {
		assert_false(has(user, lin + i * PAGE_SIZE, MMU_READ));
		assert_false(has(user, lin + i * PAGE_SIZE, MMU_WRITE));
	}
	*t.flags = 0;
	/* a page of 1 GiB, of which RAM is the first 16 MiB */
	mmu_flush_all(&r->v);
	rig_map(r, lin, 3, 1 * GiB | E_ALL | E_PS | E_A | E_D);
	assert_int_equal(miss(r, lin + 5 * MiB, MMU_WRITE), FLAT_FILLED);
	assert_int_equal(miss(r, lin + 9 * MiB, MMU_WRITE), FLAT_FILLED);
	expect_host(r, lin + 4 * MiB, MMU_WRITE, 4 * MiB);
	assert_int_equal(miss(r, lin + 17 * MiB, MMU_WRITE), FLAT_SLOW);
	mmu_flush_page(&r->v, lin + 700 * MiB);
	assert_false(has(user, lin + 4 * MiB, MMU_WRITE));
	assert_false(has(user, lin + 9 * MiB, MMU_READ));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FLAT_TEST(absent_entries_lead_nowhere),
		FLAT_TEST(windows_are_reserved),
		FLAT_TEST(aliases_fault),
		FLAT_TEST(two_machines),
		FLAT_TEST(fill_and_lookup),
		FLAT_TEST(what_is_withheld),
		FLAT_TEST(kernel_sets),
		FLAT_TEST(neighbours),
		FLAT_TEST(neighbours_32bit),
		FLAT_TEST(large_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
