/*
 * Flat translation tables: the lookup as translated code does it, what is
 * filled and withheld, and every kind of flush.
 */
/* <signal.h> with it has names of registers, as isa/dinsn.h. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE

#include <setjmp.h>
#include <signal.h>

#include "mmu_rig.h"

#include "cpu/event.h"
#include "mem/flat_priv.h"
#include "mem/physmem_priv.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

static const gva_t USER = 0x12345000, FAR = 0x7ffe87654000, KERN = 0xffffc90012345000;

/* ---- signals: table pages come on demand, everything else is a fault ---- */

static struct flat *tables;
static sigjmp_buf faulted;
static unsigned table_faults;

static void on_segv(int sig, siginfo_t *info, void *context)
{
	if (tables && flat_table_fault(tables, info->si_addr)) {
		table_faults++;
		return;
	}
	siglongjmp(faulted, 1);
}

/* A load of the host's; false if it faults. */
static bool load(u64 addr, u64 *val)
{
	if (sigsetjmp(faulted, 1))
		return false;
	*val = *(const volatile u64_any *)addr;
	return true;
}

/* ---- the listener ---- */

#define REPORTS 64
static struct {
	u8 *base;
	gva_t lin;
	bool all;
} report[REPORTS];
static unsigned reports;

static void on_exec(void *opaque, u8 *base, gva_t lin, bool all)
{
	assert_ptr_equal(opaque, &reports);
	assert_true(reports < REPORTS);
	report[reports].base = base;
	report[reports].lin = lin;
	report[reports++].all = all;
}

/* Was `lin` of the set (or, with `all`, the whole of it) reported? */
static bool told(const u8 *base, gva_t lin, bool all)
{
	for (unsigned i = 0; i < reports; i++)
		if (report[i].base == base && report[i].all == all && (all || report[i].lin == lin))
			return true;
	return false;
}

/* ---- the rig ---- */

static int setup(void **state)
{
	static const struct flat_listener listener = { on_exec, &reports };
	struct error e;
	struct rig *r;

	rig_setup(state);
	r = *state;
	if (flat_create(&r->v, &listener, &e)) {
#ifndef SANITIZED
		fail_msg("%s", e.text);
#endif
		tables = NULL;
		return 0;
	}
	tables = r->v.mmu->flat;
	table_faults = 0;
	rig_mode(r, L4);
	r->v.cpu.cr0 |= CR0_WP;
	r->v.cpu.cr4 |= CR4_SMAP | CR4_PCIDE;
	mmu_mode_changed(&r->v);
	mmu_flush_all(&r->v);
	reports = 0;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	tables = NULL;
	flat_destroy(&r->v);
	assert_null(r->v.mmu->flat);
	return rig_teardown(state);
}

/* cmocka takes the signals when it calls a test. */
static void needs_tables(void)
{
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER };

	if (!tables)
		skip();
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

/* The entry as the sequence in flat.h loads it. */
static u64 entry(const u8 *base, gva_t lin, enum mmu_access acc)
{
	u64 rcx = (u32)(lin >> 12), val = 0;
	u64 at = acc == MMU_WRITE ? (u64)base + ~rcx * 8 + (u64)(s64)FLAT_W_DISP : (u64)base + rcx * 8 + FLAT_R_DISP;

	assert_true(load(at, &val));
	return val;
}

static bool has(const u8 *base, gva_t lin, enum mmu_access acc)
{
	return (u32)entry(base, lin, acc);
}

/* Address that `op` gets; the entry must be present. */
static u64 host_of(struct rig *r, gva_t lin, enum mmu_access acc)
{
	u64 e = entry(r->v.mmu->flat_base, lin, acc);

	assert_true((u32)e);
	assert_int_equal(e & 0xfff, 0xfff);
	return lin + e + 1;
}

static void expect_host(struct rig *r, gva_t lin, enum mmu_access acc, gpa_t gpa)
{
	assert_ptr_equal((u8 *)host_of(r, lin, acc), r->ram + gpa);
}

static enum flat_result miss(struct rig *r, gva_t lin, enum mmu_access acc)
{
	return flat_miss(&r->v, lin, acc);
}

static u8 *base_of(struct rig *r, unsigned set)
{
	return flat_set_base(r->v.mmu->flat, set);
}

static void load_cr3(struct rig *r, unsigned pcid, bool keep)
{
	r->v.cpu.cr3 = (r->v.cpu.cr3 & PAGE_MASK) | pcid;
	mmu_cr3_loaded(&r->v, keep);
}

static u64 random_state = 88172645463325252ull;
static u64 random64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 2685821657736338717ull;
}

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

#define FLAT_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

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
		FLAT_TEST(pcids),
		FLAT_TEST(without_pcids),
		FLAT_TEST(kernel_and_cr3),
		FLAT_TEST(page_flushes),
		FLAT_TEST(large_code),
		FLAT_TEST(everything),
		FLAT_TEST(protection_keys),
		FLAT_TEST(protect_frame),
		FLAT_TEST(cap),
		FLAT_TEST(auxiliary_area),
		FLAT_TEST(against_the_walk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
