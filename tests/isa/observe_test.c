/*
 * Watching the translator: what traces print, that they change nothing of what
 * the guest computes, and that costs, counters and descriptions fit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/dbt/dbt.h"
#include "engine/symbols.h"
#include "rig.h"

#define CODE 0x10000ull
#define DATA 0x20000ull
#define OTHER 0x30000ull
#define ROUNDS 1000

/* clang-format off */
static const u8 code[] = {
	0x48, 0x8b, 0x03,	      /* 00 mov rax, [rbx] */
	0x48, 0x01, 0x03,	      /* 03 add [rbx], rax */
	0x4c, 0x03, 0x1b,	      /* 06 add r11, [rbx] */
	0x50,			      /* 09 push rax */
	0x58,			      /* 0a pop rax */
	0x66, 0x0f, 0xfe, 0x03,	      /* 0b paddd xmm0, [rbx] */
	0x48, 0xff, 0xc9,	      /* 0f dec rcx */
	0x75, 0xec,		      /* 12 jnz 00 */
	0x0f, 0xa2,		      /* 14 cpuid */
	0xf4,			      /* 16 hlt: #GP at CPL 3 */
};
/* clang-format on */

static struct rig rig;
static char *text; /* all lines */
static size_t text_n;

static void on_line(void *opaque, const char *line)
{
	size_t n = strlen(line);

	text = realloc(text, text_n + n + 2);
	assert_non_null(text);
	memcpy(text + text_n, line, n);
	text[text_n + n] = '\n';
	text[text_n + n + 1] = 0;
	text_n += n + 1;
}

static bool said(const char *what)
{
	return text && strstr(text, what);
}

static void forget(void)
{
	free(text);
	text = NULL;
	text_n = 0;
}

static struct engine_options tracing(u32 trace)
{
	return (struct engine_options){ .trace = trace, .trace_last = UINT64_MAX, .trace_line = on_line };
}

/* Runs `code`; the state is left in the rig. */
static void run(const struct engine_options *o)
{
	forget();
	rig_create_with(&rig, &engine_dbt, o);
	dbt_translate_single(rig.v, false);
	rig_map(&rig, CODE, 0, false);
	rig_map(&rig, DATA, PAGE_SIZE, true);
	memory_write(rig.mem, 0, code, sizeof(code));
	rig_ram(&rig, PAGE_SIZE)[0] = 3;
	rig.v->cpu.rip = CODE;
	rig.v->cpu.gpr[REG_RBX] = DATA;
	rig.v->cpu.gpr[REG_RCX] = ROUNDS;
	rig.v->cpu.gpr[REG_RSP] = DATA + 256;
	rig.v->cpu.gpr[11] = 0;
	assert_int_equal(rig_run(&rig, 1000000), EXC_GP);
	assert_int_equal(rig.v->cpu.rip, CODE + 0x16);
}

static void check_trace(void)
{
	struct engine_options o = tracing(0x3f);

	run(&o);
	assert_true(said("block 10000 (10000): "));
	assert_true(said("  10006  add r11, qword ptr [rbx]") || said("  10006  add r11, [rbx]"));
	/* analysis */
	assert_true(said("= innocuous, method core: host code, operands replaced; reads 8; "));
	assert_true(said("operand [r14]; r11 in rcx"));
	assert_true(said("stack; writes 8"));
	assert_true(said("shared semantics (sys_cpuid)"));
	assert_true(said("; segment of 8, charged"));
	/* host code, with names */
	assert_true(said("mov rcx, [r15+rcx*8+read_table]"));
	assert_true(said("mov rcx, [r15+rcx*8+write_table]"));
	assert_true(said("mov rcx, gs:[guest_r11]"));
	assert_true(said("cmp byte ptr gs:[fpu_live], 0x0"));
	assert_true(said("mov rcx, gs:[charge]"));
	assert_true(said("mov ecx, gs:[go]"));
	assert_true(said("jmp leave_miss_write"));
	assert_true(said("jmp leave_shared_semantics"));
	assert_false(said("bytes that are no instruction"));
	assert_false(said("vcpu+0x"));
	/* what ran */
	assert_true(said("enter block 10000 (10000) at +"));
	assert_true(said("leave miss_read of 20000 at 10000 (10000): mov rax, "));
	assert_true(said("leave vector_state at 1000b (1000b): paddd"));
	assert_true(said("leave link to 10000 (10000)"));
	assert_true(said("leave shared_semantics sys_cpuid at 10014 (10014): cpuid"));
	rig_destroy(&rig);
}

static void check_switches(void)
{
	struct engine_options o = tracing(TRACE_GUEST);

	run(&o);
	assert_true(said("  10014  cpuid"));
	assert_false(said("method"));
	assert_false(said("leave"));
	assert_false(said("enter block"));
	rig_destroy(&rig);
	o = tracing(TRACE_EXITS);
	run(&o);
	assert_true(said("leave "));
	assert_false(said("block 10000"));
	rig_destroy(&rig);
	/* a range that holds nothing of it, and one that holds one instruction */
	o = tracing(0x3f);
	o.trace_first = 0x40000;
	o.trace_last = 0x50000;
	run(&o);
	assert_false(said("leave ") || said("enter ") || said("block 10000"));
	rig_destroy(&rig);
	o = tracing(TRACE_EXITS);
	o.trace_first = o.trace_last = CODE + 0x14;
	run(&o);
	assert_true(said("sys_cpuid"));
	assert_false(said("miss_read"));
	rig_destroy(&rig);
}

static void check_names(void)
{
	char path[] = "/tmp/ectype-test-names-XXXXXX";
	struct engine_options o = tracing(TRACE_GUEST | TRACE_EXITS);
	struct guest_symbols *s;
	int fd = mkstemp(path);

	assert_int_equal(dprintf(fd, "0000000000010000 T loop\n") > 0, 1);
	close(fd);
	s = guest_symbols_load(path, NULL);
	unlink(path);
	assert_non_null(s);
	o.symbols = s;
	run(&o);
	assert_true(said("block 10000 (loop): "));
	assert_true(said("at 10014 (loop+0x14): cpuid"));
	rig_destroy(&rig);
	guest_symbols_free(s);
}

static void check_invalidation(void)
{
	struct engine_options o = tracing(TRACE_SMC);

	run(&o);
	assert_false(said("kill block"));
	memory_write(rig.mem, 0x15, "\xa2", 1);
	assert_true(said("kill block 10000 (10000): its code at 0 was written"));
	rig_destroy(&rig);
	assert_true(said("flush of "));
}

/* The same result with and without; vector state included. */
static void check_harmless(void)
{
	static struct cpu plain;
	struct engine_options o = tracing(0x3f);

	run(NULL);
	fpu_park(rig.v);
	plain = rig.v->cpu;
	rig_destroy(&rig);
	o.costs = true;
	run(&o);
	fpu_park(rig.v);
	assert_memory_equal(plain.gpr, rig.v->cpu.gpr, sizeof(plain.gpr));
	assert_memory_equal(plain.fpu, rig.v->cpu.fpu, 512);
	assert_int_equal(plain.rflags, rig.v->cpu.rflags);
	assert_int_not_equal(plain.gpr[11], 0);
	rig_destroy(&rig);
}

static void check_describe(void)
{
	run(NULL);
	engine_dbt.describe(rig.v, CODE + 6, on_line, NULL);
	assert_true(said("block 10000 (10000): "));
	assert_true(said("read_table"));
	assert_true(said("  10014  cpuid"));
	forget();
	engine_dbt.describe(rig.v, CODE + 7, on_line, NULL); /* inside of an instruction */
	engine_dbt.describe(rig.v, OTHER, on_line, NULL);
	assert_int_equal(text_n, 0);
	rig_destroy(&rig);
}

static const struct engine_cost *cost(enum engine_cost_table table, const char *name)
{
	static struct engine_cost c[128];
	unsigned n = engine_dbt.costs(rig.v, table, c, ARRAY_SIZE(c));

	for (unsigned k = 0; k < n; k++)
		if (!strcmp(c[k].name, name))
			return &c[k];
	return NULL;
}

static void check_costs(void)
{
	struct engine_options o = { .costs = true };

	run(&o);
	assert_non_null(cost(COSTS_EXITS, "miss_read"));
	assert_int_equal(cost(COSTS_EXITS, "miss_read")->count, 1);
	assert_int_equal(cost(COSTS_EXITS, "miss_read")->samples, 1);
	assert_int_equal(cost(COSTS_SYS, "cpuid")->count, 1);
	assert_int_equal(cost(COSTS_SYS, "cpuid")->samples, 1);
	assert_true(cost(COSTS_SYS, "cpuid")->cycles > 0);
	assert_null(cost(COSTS_SYS, "rdmsr"));
	rig_destroy(&rig);
	run(NULL);
	assert_int_equal(cost(COSTS_SYS, "cpuid")->count, 1);
	assert_int_equal(cost(COSTS_SYS, "cpuid")->samples, 0);
	rig_destroy(&rig);
}

/* Without a budget instructions are counted only if asked for. */
static void check_count(void)
{
	struct engine_options o = { .count = true };
	u64 least = (u64)ROUNDS * 8 + 1, counted;

	for (unsigned k = 0; k < 2; k++) {
		rig_create_with(&rig, &engine_dbt, k ? NULL : &o);
		dbt_translate_single(rig.v, false);
		rig_map(&rig, CODE, 0, false);
		rig_map(&rig, DATA, PAGE_SIZE, true);
		memory_write(rig.mem, 0, code, sizeof(code));
		rig.v->cpu.rip = CODE;
		rig.v->cpu.gpr[REG_RBX] = DATA;
		rig.v->cpu.gpr[REG_RCX] = ROUNDS;
		rig.v->cpu.gpr[REG_RSP] = DATA + 256;
		assert_int_equal(rig_run(&rig, UINT64_MAX), EXC_GP);
		counted = rig.v->icount;
		if (!k) /* with the HLT of the rig's handler */
			assert_int_equal(counted, least + 1);
		else
			assert_true(counted < least);
		rig_destroy(&rig);
	}
}

static void check_code_cache(void)
{
	struct engine_options o = { .code_cache = CODE_CACHE_MIN };

	run(&o);
	assert_int_equal(dbt_of(rig.v)->sh->size, CODE_CACHE_MIN);
	rig_destroy(&rig);
	run(NULL);
	assert_int_equal(dbt_of(rig.v)->sh->size, CODE_CACHE_DEFAULT);
	rig_destroy(&rig);
}

static void jump_at(u64 ram, gva_t lin, gva_t to)
{
	s32 rel = (s32)(to - (lin + 5));
	u8 jmp[5] = { 0xe9 };

	memcpy(jmp + 1, &rel, 4);
	memory_write(rig.mem, ram, jmp, sizeof(jmp));
}

/* A dead block that is shorter than what is written over it, whose page must be looked at again. */
static void check_dead_block(void)
{
	rig_create(&rig, &engine_dbt);
	dbt_translate_single(rig.v, false);
	rig_map(&rig, CODE, 0, false);
	rig_map(&rig, OTHER, 2 * PAGE_SIZE, false);
	rig_map(&rig, DATA, PAGE_SIZE, true);
	rig.v->cpu.gpr[REG_RSP] = DATA + 256;
	memory_write(rig.mem, 2 * PAGE_SIZE + 0x100, "\xf4", 1); /* hlt; a jump forward has no safepoint */
	memory_write(rig.mem, 2 * PAGE_SIZE + 0x200, "\xf4", 1);
	jump_at(0, CODE, OTHER);
	for (unsigned round = 0; round < 4; round++) {
		gva_t end = OTHER + (round < 2 ? 0x100 : 0x200);

		jump_at(2 * PAGE_SIZE, OTHER, end);
		if (round == 2)
			mmu_flush_all(rig.v);
		rig.v->cpu.rip = CODE;
		rig.v->cpu.gpr[REG_RCX] = rig.v->cpu.gpr[REG_RSP];
		assert_int_equal(rig_run(&rig, UINT64_MAX), EXC_GP); /* no charge in the body */
		assert_int_equal(rig.v->cpu.rip, end);
	}
	rig_destroy(&rig);
}

/* One test, for cmocka takes the signals the engine needs before each. */
static void test_observe(void **state)
{
	check_trace();
	check_switches();
	check_names();
	check_invalidation();
	check_harmless();
	check_describe();
	check_costs();
	check_count();
	check_code_cache();
	check_dead_block();
	forget();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_observe) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
