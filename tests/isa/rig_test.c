/* The rig of tests/isa: instructions retire, exceptions come back with what was delivered, state as at the fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

#define CODE 0x10000ull
#define DATA 0x20000ull

static struct rig rig;

static int setup(void **state)
{
	rig_create(&rig, &engine_interp);
	rig_map(&rig, CODE, 0, false);
	rig_map(&rig, DATA, PAGE_SIZE, true);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

static int run(const char *bytes, unsigned len, u64 insns)
{
	memory_write(rig.mem, 0, bytes, len);
	rig.v->cpu.rip = CODE;
	return rig_run(&rig, insns);
}

static void test_retires(void **state)
{
	struct cpu *c = &rig.v->cpu;

	c->gpr[REG_RAX] = 1;
	assert_int_equal(run("\x48\xff\xc0\x48\xff\xc0", 6, 2), -1); /* inc rax twice */
	assert_int_equal(c->gpr[REG_RAX], 3);
	assert_int_equal(c->rip, CODE + 6);
	assert_int_equal(cpu_cpl(c), 3);
}

static void test_page_fault(void **state)
{
	struct cpu *c = &rig.v->cpu;

	c->gpr[REG_RSP] = DATA + 64;
	c->gpr[REG_RCX] = DATA + PAGE_SIZE - 4;
	assert_int_equal(run("\x48\x89\x01", 3, 1), EXC_PF); /* mov [rcx], rax across the end */
	assert_int_equal(rig.v->fault.error, 6);
	assert_int_equal(rig.v->fault.addr, DATA + PAGE_SIZE);
	assert_int_equal(c->rip, CODE);
	assert_int_equal(c->gpr[REG_RSP], DATA + 64);
	c->gpr[REG_RCX] = DATA;
	assert_int_equal(run("\x48\x89\x01", 3, 1), -1);
}

/* Not #DE and its like: cmocka takes the signals the engine needs for them. */
static void test_other_faults(void **state)
{
	assert_int_equal(run("\x0f\x0b", 2, 1), EXC_UD);
	assert_int_equal(run("\xf4", 1, 1), EXC_GP); /* hlt */
	assert_int_equal(rig.v->fault.error, 0);
	assert_int_equal(run("\xe4\x60", 2, 1), EXC_GP); /* in al, 60h: no I/O permission */
	rig_unmap(&rig, DATA);
	rig.v->cpu.gpr[REG_RCX] = DATA;
	assert_int_equal(run("\x8a\x01", 2, 1), EXC_PF);
	assert_int_equal(rig.v->fault.error, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_retires, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_fault, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_faults, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
