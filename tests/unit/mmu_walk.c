/*
 * The page walk in every paging mode: addresses, page sizes, reserved bits,
 * error codes, accessed and dirty bits; and access rights against the tables
 * of SDM vol. 3, 4.6 written out line by line below.
 */
#include "mmu_rig.h"

static const gva_t LIN = 0x12345000;

static const char *const paging_name[] = { "32-bit", "PAE", "4-level", "5-level" };

static void sizes(void **state)
{
	static const struct {
		enum paging p;
		unsigned level, shift;
		u64 frame;
	} row[] = {
		{ M32, 1, 12, 0x234000 },     { M32, 2, 22, 0x40000000 },   { PAE, 1, 12, 0x234000 },
		{ PAE, 1, 12, 0x3340123000 }, { PAE, 2, 21, 0x3340200000 }, { L4, 1, 12, 0x3340123000 },
		{ L4, 2, 21, 0x3340200000 },  { L4, 3, 30, 0x3340000000 },  { L5, 1, 12, 0x234000 },
		{ L5, 2, 21, 0x40000000 },    { L5, 3, 30, 0x40000000 },
	};
	struct rig *r = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		u64 offset = 0x12345678 & (BIT(row[i].shift) - 1) & 0xffffff;
		struct xlat x;
		gpa_t gpa;

		rig_mode(r, row[i].p);
		rig_map(r, 0x12345678, row[i].level, row[i].frame | E_ALL | (row[i].level > 1 ? E_PS : 0));
		/* keep inside the 16 MiB that are there */
		assert_int_equal(
		    rig_try(r, (0x12345678 & ~(BIT(row[i].shift) - 1)) | offset, MMU_WRITE, MMU_KERNEL, &x), -1);
		assert_true(x.gpa == (row[i].frame | offset));
		assert_true(x.writable && x.host == r->ram + (x.gpa & 0xffffff));
		assert_true(mmu_debug_translate(&r->v, 0x12345678, &gpa));
		assert_true(gpa == (row[i].frame | (0x12345678 & (BIT(row[i].shift) - 1))));
	}
}

static void high_addresses(void **state)
{
	struct rig *r = *state;
	struct xlat x;

	rig_map(r, 0xffffffff81000000, 1, 0x5000 | E_ALL);
	assert_int_equal(rig_try(r, 0xffffffff81000123, MMU_READ, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0x5123);
	assert_int_equal(rig_try(r, 0x800000000000, MMU_READ, MMU_KERNEL, NULL), 1000 + EXC_GP);
	assert_int_equal(r->v.fault.error, 0);
	assert_int_equal(rig_try(r, 0xffff7fffffffffff, MMU_EXEC, MMU_USER, NULL), 1000 + EXC_GP);
	assert_int_equal(rig_try(r, 0xffff800000000000, MMU_READ, MMU_KERNEL, NULL), 0);
	rig_mode(r, L5);
	rig_map(r, 0xfe12345678000, 1, 0x5000 | E_ALL);
	assert_int_equal(rig_try(r, 0xfe12345678000, MMU_READ, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0x5000);
	assert_int_equal(rig_try(r, BIT(56), MMU_READ, MMU_KERNEL, NULL), 1000 + EXC_GP);
	assert_int_equal(rig_try(r, 0x800000000000, MMU_READ, MMU_KERNEL, NULL), 0);
	/* paging off: identity, 32 bits */
	rig_mode(r, M32);
	r->v.cpu.cr0 = 0;
	mmu_mode_changed(&r->v);
	assert_int_equal(rig_try(r, 0x100005123, MMU_WRITE, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0x5123);
}

static void pse36(void **state)
{
	struct rig *r = *state;
	struct xlat x;

	rig_mode(r, M32);
	/* bits 20:13 are address bits 39:32: 0x33_4000_0000 */
	rig_map(r, 0x400000, 2, 0x40000000u | 0x33u << 13 | E_ALL | E_PS);
	assert_int_equal(rig_try(r, 0x400123, MMU_READ, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0x3340000123ull);
	rig_set(r, r->entry[2], 0x40000000u | 0x33u << 13 | BIT(21) | E_ALL | E_PS);
	assert_int_equal(rig_try(r, 0x400123, MMU_READ, MMU_KERNEL, NULL), 9);
	/* 36 bits: bit 36 is reserved */
	r->model.phys_bits = 36;
	rig_set(r, r->entry[2], 0x40000000u | 0x10u << 13 | E_ALL | E_PS);
	assert_int_equal(rig_try(r, 0x400123, MMU_READ, MMU_KERNEL, NULL), 9);
	rig_set(r, r->entry[2], 0x40000000u | 0xfu << 13 | E_ALL | E_PS);
	assert_int_equal(rig_try(r, 0x400123, MMU_READ, MMU_KERNEL, NULL), -1);
	/* more than 40 bits change nothing */
	r->model.phys_bits = 46;
	rig_set(r, r->entry[2], 0x40000000u | 0xffu << 13 | E_ALL | E_PS);
	assert_int_equal(rig_try(r, 0x400123, MMU_READ, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0xff40000123ull);
	/* without PSE the bit is ignored */
	r->v.cpu.cr4 &= ~CR4_PSE;
	mmu_mode_changed(&r->v);
	rig_set(r, r->entry[2], 0x200000 | E_ALL | E_PS);
	rig_set(r, 0x200000, 0x6000 | E_ALL);
	assert_int_equal(rig_try(r, 0x400123, MMU_READ, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0x6123);
}

/* Every bit of every entry, against the figures of SDM vol. 3, 4.3 to 4.5 as masks. */
static void reserved_bits(void **state)
{
	struct rig *r = *state;
	const u64 high = 0xfffffull << 32 & ~0xffull << 32; /* 51:40 */
	const struct {
		enum paging p;
		unsigned level;
		bool large;
		u64 mask; /* reserved with 40 physical bits and NXE set */
	} row[] = {
		{ M32, 1, false, 0 },
		{ M32, 2, false, 0 },
		{ M32, 2, true, BIT(21) },
		{ PAE, 1, false, high | 0x7ffull << 52 },
		{ PAE, 2, false, high | 0x7ffull << 52 },
		{ PAE, 2, true, high | 0x7ffull << 52 | 0x1fe000 },
		{ PAE, 3, false, high | 0xfffull << 52 | 0x1e6 },
		{ L4, 1, false, high },
		{ L4, 2, false, high },
		{ L4, 2, true, high | 0x1fe000 },
		{ L4, 3, false, high },
		{ L4, 3, true, high | 0x3fffe000 },
		{ L4, 4, false, high | E_PS },
		{ L5, 4, false, high | E_PS },
		{ L5, 5, false, high | E_PS },
		{ L5, 3, true, high | 0x3fffe000 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
		for (unsigned bit = 3; bit < (row[i].p == M32 ? 32 : 64); bit++) {
			for (unsigned nxe = 0; nxe < 2; nxe++) {
				u64 mask = row[i].mask | (!nxe && row[i].p != M32 ? E_XD : 0), e;
				bool is_ps = bit == 7 && row[i].level > 1 && !(mask & E_PS);
				struct xlat x;
				int got;

				if (is_ps) /* another kind of entry, another row */
					continue;
				if (row[i].level > 1 && !row[i].large && bit >= 12 &&
				    bit < 40) /* leads to another table */
					continue;
				rig_mode(r, row[i].p);
				r->v.cpu.efer |= nxe ? EFER_NXE : 0;
				mmu_mode_changed(&r->v);
				rig_map(r, LIN, 1, 0x5000 | E_ALL);
				e = row[i].large ? E_ALL | E_PS : rig_get(r, r->entry[row[i].level]);
				rig_set(r, r->entry[row[i].level], e | BIT(bit));
				got = rig_try(r, LIN, MMU_READ, MMU_KERNEL, &x);
				if ((mask & BIT(bit)) ? got != 9 : got == 9)
					fail_msg("%s level %u large %d bit %u nxe %u: %d", paging_name[row[i].p],
						 row[i].level, row[i].large, bit, nxe, got);
				/* nothing was marked by a walk that failed */
				if (got == 9)
					assert_true(rig_get(r, r->entry[row[i].level]) == (e | BIT(bit)));
			}
		}
	}
	/* 1 GiB pages only where the model has them */
	rig_mode(r, L4);
	rig_map(r, LIN, 3, E_ALL | E_PS);
	r->model.gbpages = false;
	assert_int_equal(rig_try(r, LIN, MMU_WRITE, MMU_USER, NULL), 0xf);
	/* absent entries are not looked at further; a later reserved bit wins over rights */
	rig_mode(r, L4);
	rig_map(r, LIN, 1, ~E_P);
	assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_KERNEL, NULL), 0);
	rig_set(r, r->entry[2], rig_get(r, r->entry[2]) & ~E_U);
	rig_set(r, r->entry[1], BIT(50) | E_P);
	assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_USER, NULL), 0xd);
}

static void absent_codes(void **state)
{
	struct rig *r = *state;

	for (enum paging p = M32; p < PAGINGS; p++) {
		for (unsigned level = 1; level <= rig_levels(r); level++) {
			rig_mode(r, p);
			if (level > rig_levels(r))
				break;
			rig_map(r, LIN, 1, 0x5000 | E_ALL);
			rig_set(r, r->entry[level], rig_get(r, r->entry[level]) & ~E_P);
			assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_KERNEL, NULL), 0);
			assert_int_equal(rig_try(r, LIN, MMU_WRITE, MMU_KERNEL, NULL), 2);
			assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_USER, NULL), 4);
			assert_int_equal(rig_try(r, LIN, MMU_WRITE, MMU_USER, NULL), 6);
			assert_int_equal(rig_try(r, LIN, MMU_EXEC, MMU_USER, NULL), 4);
			/* the I bit exists with SMEP, or with NX in a mode that has it */
			r->v.cpu.efer |= EFER_NXE;
			mmu_mode_changed(&r->v);
			assert_int_equal(rig_try(r, LIN, MMU_EXEC, MMU_USER, NULL), p == M32 ? 4 : 0x14);
			r->v.cpu.efer &= ~EFER_NXE;
			r->v.cpu.cr4 |= CR4_SMEP;
			mmu_mode_changed(&r->v);
			assert_int_equal(rig_try(r, LIN, MMU_EXEC, MMU_KERNEL, NULL), 0x10);
			/* nothing marked */
			for (unsigned l = 1; l <= rig_levels(r); l++)
				assert_int_equal(rig_get(r, r->entry[l]) & (E_A | E_D), 0);
			gpa_t gpa;
			assert_false(mmu_debug_translate(&r->v, LIN, &gpa));
		}
	}
}

static void marks(void **state)
{
	struct rig *r = *state;

	for (enum paging p = M32; p < PAGINGS; p++) {
		for (unsigned top = 1; top <= (p == M32 || p == PAE ? 2u : 3u); top++) {
			struct xlat x;
			gpa_t gpa;

			rig_mode(r, p);
			rig_map(r, 0x40000000, top, (top > 1 ? E_PS : 0) | E_ALL);
			mmu_debug_translate(&r->v, 0x40000000, &gpa);
			for (unsigned l = top; l <= rig_levels(r); l++)
				assert_int_equal(rig_get(r, r->entry[l]) & (E_A | E_D), 0);
			assert_int_equal(rig_try(r, 0x40000000, MMU_READ, MMU_KERNEL, &x), -1);
			for (unsigned l = top; l <= rig_levels(r); l++) {
				bool has_a = !(p == PAE && l == 3);

				assert_int_equal(rig_get(r, r->entry[l]) & (E_A | E_D), has_a ? E_A : 0);
			}
			assert_int_equal(tlb_slot(r->v.mmu->tlb[MMU_KERNEL], 0x40000000)->tag[MMU_READ], 0x40000000);
			assert_int_equal(tlb_slot(r->v.mmu->tlb[MMU_KERNEL], 0x40000000)->tag[MMU_WRITE], TLB_NONE);
			assert_int_equal(rig_try(r, 0x40000000, MMU_WRITE, MMU_KERNEL, &x), -1);
			assert_int_equal(tlb_slot(r->v.mmu->tlb[MMU_KERNEL], 0x40000000)->tag[MMU_WRITE], 0x40000000);
			for (unsigned l = top; l <= rig_levels(r); l++)
				assert_int_equal(!!(rig_get(r, r->entry[l]) & E_D), l == top);
			/* D already set: a read fills the write tag too */
			mmu_flush_all(&r->v);
			assert_int_equal(rig_try(r, 0x40000000, MMU_READ, MMU_KERNEL, &x), -1);
			assert_int_equal(tlb_slot(r->v.mmu->tlb[MMU_KERNEL], 0x40000000)->tag[MMU_WRITE], 0x40000000);
		}
		/* a walk refused for its rights marks nothing */
		rig_mode(r, p);
		r->v.cpu.cr0 |= CR0_WP;
		mmu_mode_changed(&r->v);
		rig_map(r, LIN, 1, 0x5000 | E_P);
		assert_int_equal(rig_try(r, LIN, MMU_WRITE, MMU_KERNEL, NULL), 3);
		assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_USER, NULL), 5);
		for (unsigned l = 1; l <= rig_levels(r); l++)
			assert_int_equal(rig_get(r, r->entry[l]) & (E_A | E_D), 0);
	}
}

/* Tables in ROM, in MMIO, nowhere, and tables that contain themselves. */
static void odd_tables(void **state)
{
	struct rig *r = *state;
	u64 *rom = aligned_alloc(4096, 4096);
	struct xlat x;

	for (enum paging p = M32; p < PAGINGS; p++) {
		rig_mode(r, p);
		r->v.cpu.cr3 = 0xf0000000; /* hole: all ones */
		/* 32-bit: PDE FFFFFFFFH is a 4 MiB page with the reserved bit 21 set; others: reserved bits */
		assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_KERNEL, NULL), 9);
	}
	rig_mode(r, L4);
	memset(rom, 0, 4096);
	for (unsigned i = 0; i < 512; i++)
		rom[i] = 0x5000 | E_ALL;
	memory_map_host(r->v.mem, 0x80000000, rom, 4096, REGION_ROM, 0, "rom");
	rig_map(r, LIN, 2, 0x80000000 | E_ALL);
	assert_int_equal(rig_try(r, LIN, MMU_WRITE, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == 0x5000);
	assert_true(rom[0] == (0x5000 | E_ALL));
	/* D can never be seen set: each write walks */
	assert_int_equal(tlb_slot(r->v.mmu->tlb[MMU_KERNEL], LIN)->tag[MMU_WRITE], TLB_NONE);
	rig_mode(r, L4);
	rig_set(r, r->v.cpu.cr3, r->v.cpu.cr3 | E_ALL); /* entry 0 of every level is the same entry */
	assert_int_equal(rig_try(r, 0, MMU_WRITE, MMU_KERNEL, &x), -1);
	assert_true(x.gpa == r->v.cpu.cr3);
	assert_true(rig_get(r, r->v.cpu.cr3) == (r->v.cpu.cr3 | E_ALL | E_A | E_D));
	/* CR3 bits above the physical address width and below the table are no address */
	rig_map(r, LIN, 1, 0x5000 | E_ALL);
	r->v.cpu.cr3 |= 0x1a | BIT(45);
	assert_int_equal(rig_try(r, LIN, MMU_READ, MMU_KERNEL, NULL), -1);
	free(rom);
}

/*
 * SDM vol. 3, 4.6.1, one line a rule, first match decides. Columns: mode (U
 * user, K supervisor with AC clear or implicit, A supervisor with AC set),
 * access, page U/S, page R/W, page XD, SMEP, SMAP, WP; '.' matches anything.
 */
static const struct {
	char match[9];
	bool allowed;
} rule[] = {
	{ "U.S.....", false }, /* user access to a supervisor page */
	{ "UrU.....", true },
	{ "UwUR....", false },
	{ "UwUW....", true },
	{ "UxU.X...", false },
	{ "UxU.-...", true },
	/* supervisor fetches */
	{ ".x..X...", false },
	{ ".xU..1..", false },
	{ ".xU..0..", true },
	{ ".xS.....", true },
	/* supervisor reads */
	{ ".rS.....", true },
	{ "KrU...1.", false },
	{ ".rU.....", true },
	/* supervisor writes */
	{ ".wSW....", true },
	{ ".wSR...1", false },
	{ ".wSR...0", true },
	{ "KwU...1.", false },
	{ ".wUW....", true },
	{ ".wUR...1", false },
	{ ".wUR...0", true },
};

static bool ruled(const char *situation)
{
	for (unsigned i = 0; i < ARRAY_SIZE(rule); i++) {
		unsigned k = 0;

		while (k < 8 && (rule[i].match[k] == '.' || rule[i].match[k] == situation[k]))
			k++;
		if (k == 8)
			return rule[i].allowed;
	}
	fail_msg("no rule for %s", situation);
	return false;
}

/* 4.6.2: key rights by PKRU bits WD:AD, for a user page: which accesses are refused. */
static const char *const key_refuses[4][2] = {
	/* supervisor with WP=0; user or WP=1 */
	{ "", "" },
	{ "rw", "rw" },
	{ "", "w" },
	{ "rw", "rw" },
};

static void rights_case(struct rig *r, enum paging p, unsigned setting, unsigned page, unsigned where, unsigned pk)
{
	static const char access_name[] = "rwx", mode_name[] = "UKA";
	struct cpu *c = &r->v.cpu;
	const bool smep = setting & 1, smap = setting & 2, wp = setting & 4, pke = setting & 8;
	const bool us = page & 1, rw = page & 2, xd = (page & 4) && p != M32;
	u64 deny = (us ? 0 : E_U) | (rw ? 0 : E_W), e;
	const u64 key = 5;

	rig_mode(r, p);
	c->cr4 |= (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0) | (pke ? CR4_PKE : 0);
	c->cr0 |= wp ? CR0_WP : 0;
	c->efer |= p != M32 ? EFER_NXE : 0;
	c->pkru = pk << (2 * key);
	mmu_mode_changed(&r->v);
	rig_map(r, LIN, 1, 0x5000 | E_ALL | (p >= L4 ? key << 59 : 0));
	e = rig_get(r, r->entry[where]);
	rig_set(r, r->entry[where], (e & ~deny) | (xd ? E_XD : 0));
	for (unsigned m = 0; m < 3; m++) {
		for (unsigned a = 0; a < 3; a++) {
			char s[9] = { mode_name[m],	access_name[a], us ? 'U' : 'S',
				      rw ? 'W' : 'R',	xd ? 'X' : '-', smep ? '1' : '0',
				      smap ? '1' : '0', wp ? '1' : '0', 0 };
			bool by_key =
			    pke && p >= L4 && us && a != 2 && strchr(key_refuses[pk][m == 0 || wp], access_name[a]);
			bool allowed = ruled(s) && !by_key;
			int want = -1, got;

			mmu_flush_all(&r->v);
			if (!allowed)
				want = 1 | (a == 1) << 1 | (m == 0) << 2 | (a == 2 && (smep || p != M32)) << 4 |
				       by_key << 5;
			got = rig_try(r, LIN, (enum mmu_access)a,
				      m == 0   ? MMU_USER
				      : m == 1 ? MMU_KERNEL
					       : MMU_KERNEL_AC,
				      NULL);
			if (got != want)
				fail_msg("%s %s level %u pk %u: %d, not %d", paging_name[p], s, where, pk, got, want);
		}
	}
	/* What one access left in the TLB says the same about the others. */
	for (unsigned m = 0; m < 3; m++) {
		enum mmu_index index = m == 0 ? MMU_USER : m == 1 ? MMU_KERNEL : MMU_KERNEL_AC;

		for (unsigned a = 0; a < 3; a++) {
			struct tlb_entry *t = tlb_slot(r->v.mmu->tlb[index], LIN);

			if (t->tag[a] == LIN)
				assert_int_equal(rig_try(r, LIN, (enum mmu_access)a, index, NULL), -1);
			else
				assert_int_equal(t->tag[a], TLB_NONE);
		}
	}
}

static void rights(void **state)
{
	for (enum paging p = M32; p < PAGINGS; p++)
		for (unsigned setting = 0; setting < 16; setting++)
			for (unsigned page = 0; page < 8; page++)
				for (unsigned where = 1; where <= (p == M32 || p == PAE ? 2u
								   : p == L4		? 4u
											: 5u);
				     where++)
					for (unsigned pk = 0; pk < (setting & 8 ? 4 : 1); pk++)
						rights_case(*state, p, setting, page, where, pk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(sizes),	RIG_TEST(high_addresses), RIG_TEST(pse36),	RIG_TEST(reserved_bits),
		RIG_TEST(absent_codes), RIG_TEST(marks),	  RIG_TEST(odd_tables), RIG_TEST(rights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
