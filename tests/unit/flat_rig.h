/*
 * The flat tables with the MMU's rig and a listener, for the tests of
 * src/mem/flat*.c: the lookup as translated code does it. One include a test
 * program.
 */
#ifndef ECTYPE_TESTS_FLAT_RIG_H
#define ECTYPE_TESTS_FLAT_RIG_H

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

static inline void on_segv(int sig, siginfo_t *info, void *context)
{
	if (tables && flat_table_fault(tables, info->si_addr)) {
		table_faults++;
		return;
	}
	siglongjmp(faulted, 1);
}

/* A load of the host's; false if it faults. */
static inline bool load(u64 addr, u64 *val)
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

static inline void on_exec(void *opaque, u8 *base, gva_t lin, bool all)
{
	assert_ptr_equal(opaque, &reports);
	assert_true(reports < REPORTS);
	report[reports].base = base;
	report[reports].lin = lin;
	report[reports++].all = all;
}

/* Was `lin` of the set (or, with `all`, the whole of it) reported? */
static inline bool told(const u8 *base, gva_t lin, bool all)
{
	for (unsigned i = 0; i < reports; i++)
		if (report[i].base == base && report[i].all == all && (all || report[i].lin == lin))
			return true;
	return false;
}

/* ---- the rig ---- */

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
	struct rig *r = *state;

	tables = NULL;
	flat_destroy(&r->v);
	assert_null(r->v.mmu->flat);
	return rig_teardown(state);
}

/* cmocka takes the signals when it calls a test. */
static inline void needs_tables(void)
{
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER };

	if (!tables)
		skip();
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

/* The entry as the sequence in flat.h loads it. */
static inline u64 entry(const u8 *base, gva_t lin, enum mmu_access acc)
{
	u64 rcx = (u32)(lin >> 12), val = 0;
	u64 at = acc == MMU_WRITE ? (u64)base + ~rcx * 8 + (u64)(s64)FLAT_W_DISP : (u64)base + rcx * 8 + FLAT_R_DISP;

	assert_true(load(at, &val));
	return val;
}

static inline bool has(const u8 *base, gva_t lin, enum mmu_access acc)
{
	return (u32)entry(base, lin, acc);
}

/* Address that `op` gets; the entry must be present. */
static inline u64 host_of(struct rig *r, gva_t lin, enum mmu_access acc)
{
	u64 e = entry(r->v.mmu->flat_base, lin, acc);

	assert_true((u32)e);
	assert_int_equal(e & 0xfff, 0xfff);
	return lin + e + 1;
}

static inline void expect_host(struct rig *r, gva_t lin, enum mmu_access acc, gpa_t gpa)
{
	assert_ptr_equal((u8 *)host_of(r, lin, acc), r->ram + gpa);
}

static inline enum flat_result miss(struct rig *r, gva_t lin, enum mmu_access acc)
{
	return flat_miss(&r->v, lin, acc);
}

static inline u8 *base_of(struct rig *r, unsigned set)
{
	return flat_set_base(r->v.mmu->flat, set);
}

static inline void load_cr3(struct rig *r, unsigned pcid, bool keep)
{
	r->v.cpu.cr3 = (r->v.cpu.cr3 & PAGE_MASK) | pcid;
	mmu_cr3_loaded(&r->v, keep);
}

static u64 random_state = 88172645463325252ull;
static inline u64 random64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * 2685821657736338717ull;
}

#define FLAT_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
