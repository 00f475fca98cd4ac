/*
 * Lockstep finds the instruction at which one of two machines goes wrong. The
 * fault is put in by a wrapper around the real engine, installed in the second
 * machine, that changes state when a given instruction count is reached.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <unistd.h>

#include "replay/lockstep.h"

#define ROM_SIZE (64 * KiB)
#define FAULTY_RAM 0x2345

static char rom_path[] = "/tmp/ectype-test-lockstep-XXXXXX";

/* mov ax, 0; mov ds, ax; again: inc bx; add [bx], bl; in al, 40h; rdtsc; cmp ecx, 300000;
 * inc ecx; jb again; mov al, 5; out f4h, al */
static const u8 code[] = { 0xb8, 0x00, 0x00, 0x8e, 0xd8, 0x43, 0x00, 0x1f, 0xe4, 0x40, 0x0f, 0x31, 0x66, 0x81,
			   0xf9, 0xe0, 0x93, 0x04, 0x00, 0x66, 0x41, 0x72, 0xee, 0xb0, 0x05, 0xe6, 0xf4, 0xf4 };
#define LOOP_INSNS 7

static void write_rom(void)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
	static u8 rom[ROM_SIZE];
	FILE *f = fopen(rom_path, "w");

	memset(rom, 0xf4, sizeof(rom));
	memcpy(rom, code, sizeof(code));
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	assert_non_null(f);
	assert_int_equal(fwrite(rom, 1, sizeof(rom), f), sizeof(rom));
	fclose(f);
}

/* ---- the faulty engine ---- */

enum fault_kind { FAULT_NONE, FAULT_REGISTER, FAULT_RAM, FAULT_EXTRA_INSN };

static struct {
	enum fault_kind kind;
	u64 at;	       /* behind the instruction of this number, from 1 */
	u64 in_run_of; /* only in a run of at least so many instructions */
	unsigned built;
	unsigned once; /* only in the first so many machines */
} fault;

static void go_wrong(struct vcpu *v)
{
	switch (fault.kind) {
	case FAULT_NONE:
		break;
	case FAULT_REGISTER:
		v->cpu.gpr[REG_RBP] ^= 4;
		break;
	case FAULT_RAM:
		memory_ram(v->mem)[FAULTY_RAM] ^= 0x80;
		break;
	case FAULT_EXTRA_INSN:
		v->icount++;
		break;
	}
}

static enum vcpu_exit faulty_run(struct vcpu *v, const struct run_budget *b)
{
	u64 left = fault.at - v->icount;
	bool armed = v->icount < fault.at && b->insns >= left && b->insns >= fault.in_run_of &&
		     (!fault.once || fault.built <= fault.once);
	struct run_budget first = { .insns = armed ? left : b->insns };
	enum vcpu_exit why = engine_interp.run(v, &first);

	if (!armed || v->icount != fault.at)
		return why;
	go_wrong(v);
	if (why != VCPU_EXIT_BUDGET || b->insns == left)
		return why;
	first.insns = b->insns - left;
	return engine_interp.run(v, &first);
}

static struct engine_ops faulty;

static void machine_changed(void *opaque, unsigned which, struct machine *m)
{
	faulty = engine_interp;
	faulty.run = faulty_run;
	if (m && which == 1) {
		fault.built++;
		machine_vcpu(m, 0)->engine = &faulty;
	}
}

/* ---- lockstep ---- */

static char report[64 * 1024];

static void keep_line(void *opaque, const char *text)
{
	size_t n = strlen(report);

	snprintf(report + n, sizeof(report) - n, "%s\n", text);
}

static struct lockstep_result run(u64 every, u64 limit)
{
	const struct machine_config m = { .name = "test",
					  .memory = 4 * MiB,
					  .cpus = 1,
					  .clock = MACHINE_CLOCK_VIRTUAL,
					  .cpu_model = "host",
					  .firmware = rom_path,
					  .debug_exit = true,
					  .no_reboot = true };
	const struct lockstep_config c = { .machine = &m,
					   .engine = { "interp", "interp" },
					   .every = every,
					   .limit = limit,
					   .serial = true,
					   .machine_changed = machine_changed,
					   .line = keep_line };
	struct lockstep_result r;
	struct error e;

	report[0] = 0;
	fault.built = 0;
	assert_int_equal(lockstep_check(&c, &e), 0);
	lockstep_run(&c, &r);
	return r;
}

#define TOTAL (1 + 2 + 300001 * LOOP_INSNS + 2)

static void test_equal(void **state)
{
	memset(&fault, 0, sizeof(fault));
	for (u64 every = 1000; every <= 10000000; every *= 100) {
		struct lockstep_result r = run(every, 0);

		assert_int_equal(r.end, LOCKSTEP_EQUAL);
		assert_int_equal(r.guest.end, MACHINE_END_DEBUG_EXIT);
		assert_int_equal(r.guest.exit_code, 11);
		assert_int_equal(r.instructions, TOTAL);
		assert_int_equal(r.slices, (TOTAL + every - 1) / every);
		assert_string_equal(report, "");
	}
	struct lockstep_result r = run(1000, 12345);

	assert_int_equal(r.end, LOCKSTEP_EQUAL);
	assert_int_equal(r.guest.end, MACHINE_END_LIMIT);
	assert_int_equal(r.instructions, 12345);
}

static void found_at(u64 every, u64 at)
{
	struct lockstep_result r = run(every, 0);

	assert_int_equal(r.end, LOCKSTEP_DIVERGED);
	assert_true(r.repeated);
	assert_int_equal(r.equal, at - 1);
	assert_int_equal(r.different, at);
}

static void test_register(void **state)
{
	static const u64 places[] = { 1, 2, 999, 1000, 1001, 64000, 777777, 1000000, TOTAL - 1 };
	static const u64 lengths[] = { 1000, 64, 1000000, 5000000 };

	fault.kind = FAULT_REGISTER;
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		for (unsigned k = 0; k < ARRAY_SIZE(lengths); k++) {
			fault.at = places[i];
			fault.in_run_of = fault.once = 0;
			found_at(lengths[k], fault.at);
			assert_non_null(strstr(report, "* RBP "));
			assert_null(strstr(report, "memory differs"));
		}
	}
	fault.at = 7;
	found_at(1, 7);
}

/* Seen only when RAM is compared; no register tells. */
static void test_ram(void **state)
{
	fault.kind = FAULT_RAM;
	fault.in_run_of = fault.once = 0;
	fault.at = 1 + 2 + 100 * LOOP_INSNS + 2; /* add [bx], bl */
	found_at(1000, fault.at);
	assert_non_null(strstr(report, "instruction at f000:"));
	assert_non_null(strstr(report, "00 1f"));
	assert_non_null(strstr(report, "add [bx], bl"));
	assert_non_null(strstr(report, "memory differs from 2345 on, 1 bytes of that page"));
	assert_null(strstr(report, "\n* "));
	fault.at = 123456;
	found_at(5000, fault.at);
	found_at(100, fault.at);
}

/* An engine that runs further than it was told. */
static void test_count(void **state)
{
	fault.kind = FAULT_EXTRA_INSN;
	fault.in_run_of = fault.once = 0;
	fault.at = 54321;
	found_at(1000, fault.at);
	assert_non_null(strstr(report, "instructions retired: 54321 / 54322"));
}

/* A fault that shorter slices do not show: the interval is halved by whole runs. */
static void test_hides_from_short_runs(void **state)
{
	fault.kind = FAULT_REGISTER;
	fault.once = 0;
	fault.at = 20000 + 700;
	fault.in_run_of = 300;
	found_at(1000, fault.at);
	assert_non_null(strstr(report, "* RBP "));
}

/* A difference that does not come again is still reported, as that. */
static void test_not_repeated(void **state)
{
	fault.kind = FAULT_REGISTER;
	fault.at = 3456;
	fault.in_run_of = 0;
	fault.once = 1;
	struct lockstep_result r = run(1000, 0);

	assert_int_equal(r.end, LOCKSTEP_DIVERGED);
	assert_false(r.repeated);
	assert_true(r.equal < fault.at && r.different >= fault.at);
	assert_non_null(strstr(report, "did not show it again"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_equal),
		cmocka_unit_test(test_register),
		cmocka_unit_test(test_ram),
		cmocka_unit_test(test_count),
		cmocka_unit_test(test_hides_from_short_runs),
		cmocka_unit_test(test_not_repeated),
	};
	int fd = mkstemp(rom_path);

	if (fd < 0)
		return 1;
	close(fd);
	write_rom();
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	unlink(rom_path);
	return failed;
}
