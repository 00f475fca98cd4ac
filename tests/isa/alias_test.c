/*
 * Addresses that select the table entry of another page (mem/flat.h): they
 * differ above bit 43, the host access faults, and the instruction must be
 * found as it was at its beginning.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

#define CODE 0x10000ull
#define DATA 0x20000ull
#define AT (DATA + 0x100)
#define NOT_CANONICAL BIT(50)

static const struct {
	const char *name;
	u8 len, code[10];
} insns[] = {
	{ "push rbx", 1, { 0x53 } },
	{ "push rsp", 1, { 0x54 } },
	{ "push r12", 2, { 0x41, 0x54 } },
	{ "push imm32", 5, { 0x68, 1, 2, 3, 4 } },
	{ "push [rdx]", 2, { 0xff, 0x32 } },
	{ "push [rdx+8]", 3, { 0xff, 0x72, 8 } },
	{ "pop rbx", 1, { 0x5b } },
	{ "pop rsp", 1, { 0x5c } },
	{ "pop r12", 2, { 0x41, 0x5c } },
	{ "pop [rdx]", 2, { 0x8f, 0x02 } },
	{ "call +0", 5, { 0xe8, 0, 0, 0, 0 } },
	{ "call rax", 2, { 0xff, 0xd0 } },
	{ "call [rdx]", 2, { 0xff, 0x12 } },
	{ "ret", 1, { 0xc3 } },
	{ "ret 16", 3, { 0xc2, 16, 0 } },
	{ "leave", 1, { 0xc9 } },
	{ "jmp [rsp]", 3, { 0xff, 0x24, 0x24 } },
	{ "add [rsp], rbx", 4, { 0x48, 0x01, 0x1c, 0x24 } },
	{ "add r12, [rsp]", 4, { 0x4c, 0x03, 0x24, 0x24 } },
	{ "xchg [rsp], r12", 4, { 0x4c, 0x87, 0x24, 0x24 } },
	{ "xadd [rsp], rbx", 5, { 0x48, 0x0f, 0xc1, 0x1c, 0x24 } },
	{ "movups [rsp], xmm0", 4, { 0x0f, 0x11, 0x04, 0x24 } },
};

static struct rig rig;

static void start(const u8 *code, unsigned len, u64 sp, u64 code_at)
{
	struct cpu *c = &rig.v->cpu;

	memory_write(rig.mem, code_at - CODE, code, len);
	for (unsigned r = 0; r < 16; r++)
		c->gpr[r] = 0x1111 * r;
	c->gpr[REG_RAX] = CODE + 0x800;
	c->gpr[REG_RDX] = DATA + 0x800;
	c->gpr[REG_RSP] = c->gpr[REG_RBP] = sp;
	c->rip = code_at;
}

static void check(unsigned k, u64 wrong, int vector)
{
	struct cpu *c = &rig.v->cpu;
	u64 before[16];
	u64 code_at = CODE + 32 * k;

	start(insns[k].code, insns[k].len, AT + wrong, code_at);
	memcpy(before, c->gpr, sizeof(before));
	if (rig_run(&rig, 1) != vector || memcmp(before, c->gpr, sizeof(before)) || c->rip != code_at)
		fail_msg("%s at %lx: vector %u, RSP %lx, RIP %lx", insns[k].name, (u64)(AT + wrong),
			 rig.v->fault.vector, c->gpr[REG_RSP], c->rip);
}

static void test_alias(void **state)
{
	static const u8 touch[] = { 0x48, 0x87, 0x04, 0x24 }; /* xchg [rsp], rax */

	rig_create(&rig, &engine_dbt);
	rig_map(&rig, CODE, 0, false);
	rig_map(&rig, DATA, PAGE_SIZE, true);
	for (unsigned k = 0; k < ARRAY_SIZE(insns); k++) {
		for (unsigned page = 0x800; page < 0x810; page += 8)
			memcpy(rig_ram(&rig, PAGE_SIZE + page), &(u64){ CODE + 0x800 }, 8);
		/* the entries of the page are there */
		start(touch, sizeof(touch), AT, CODE + 0x900);
		assert_int_equal(rig_run(&rig, 1), -1);
		check(k, BIT(44), EXC_PF);
		check(k, NOT_CANONICAL, EXC_SS);
	}
	rig_destroy(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_alias) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
