/*
 * Several processors of one machine with shared translations: in turns, and at
 * once with a host thread each. Locked accesses of every kind, code that another
 * processor rewrites with and without a handshake, a code cache much smaller
 * than what runs, a memory map and devices that change under it, code that a
 * device rewrites as it is translated.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/dbt/dbt.h"
#include "rig.h"

#define PROGRAM(name) extern const u8 smp_##name[], smp_##name##_end[]
PROGRAM(count);
PROGRAM(reader);
PROGRAM(writer);
PROGRAM(follow);
PROGRAM(lead);
PROGRAM(order);

#define CODE 0x400000ull /* programs, a page each */
#define PATCHED 0x500000ull
#define SHARED 0x600000ull
#define STACKS 0x700000ull
#define RAM_SHARED (1 * MiB)
#define RAM_PATCHED (2 * MiB)
#define RAM_STACKS (3 * MiB)
#define RAM_CODE (4 * MiB)
#define CPUS 4u
#define FOREVER (~0ull)

static struct rig rig;
static int ended[WORLD_MAX];
static u64 budget = FOREVER;

static void create_many(unsigned cpus, bool parallel, const struct engine_options *o)
{
	rig_create_group(&rig, &engine_dbt, o, cpus, parallel);
	for (unsigned n = 0; n < 2; n++)
		rig_map(&rig, SHARED + n * PAGE_SIZE, RAM_SHARED + n * PAGE_SIZE, true);
	rig_map(&rig, PATCHED, RAM_PATCHED, true);
	for (unsigned n = 0; n < cpus; n++)
		rig_map(&rig, STACKS + n * PAGE_SIZE, RAM_STACKS + n * PAGE_SIZE, true);
}

static void create(bool parallel, const struct engine_options *o)
{
	create_many(CPUS, parallel, o);
}

/* Program in page `page` for processor `n`. */
static struct cpu *load(unsigned n, unsigned page, const u8 *from, const u8 *end)
{
	struct cpu *c = &rig.cpu[n]->cpu;

	assert_true(end - from <= (long)PAGE_SIZE);
	rig_map(&rig, CODE + page * PAGE_SIZE, RAM_CODE + page * PAGE_SIZE, false);
	memory_write(rig.mem, RAM_CODE + page * PAGE_SIZE, from, (u64)(end - from));
	c->rip = CODE + page * PAGE_SIZE;
	c->gpr[REG_RSP] = STACKS + (n + 1) * PAGE_SIZE;
	c->gpr[REG_RDI] = SHARED;
	c->gpr[REG_RBX] = PATCHED;
	ended[n] = -1;
	return c;
}

static void *run_one(void *arg)
{
	unsigned n = (unsigned)(uintptr_t)arg;

	ended[n] = rig_run_cpu(&rig, n, FOREVER);
	return NULL;
}

/* All of the first `cpus`, until each has ended. */
static void run_all(unsigned cpus)
{
	pthread_t t[WORLD_MAX];
	unsigned left = cpus;

	for (unsigned n = 0; rig.group.parallel && n < cpus; n++)
		assert_int_equal(pthread_create(&t[n], NULL, run_one, (void *)(uintptr_t)n), 0);
	for (unsigned n = 0; rig.group.parallel && n < cpus; n++)
		pthread_join(t[n], NULL);
	for (unsigned n = 0; !rig.group.parallel && left; n = (n + 1) % cpus) {
		if (ended[n] >= 0)
			continue;
		ended[n] = rig_run_cpu(&rig, n, budget);
		left -= ended[n] >= 0;
	}
	for (unsigned n = 0; n < cpus; n++)
		assert_int_equal(ended[n], EXC_GP);
}

static u64 shared(unsigned off)
{
	u64 val;

	memcpy(&val, rig_ram(&rig, RAM_SHARED + off), 8);
	return val;
}

static void show_stops(const char *what)
{
	struct engine_counter c[128];
	unsigned n = engine_dbt.counters(rig.v, c, ARRAY_SIZE(c));

	for (unsigned k = 0; k < n; k++)
		if ((!strncmp(c[k].name, "world_", 6) || !strncmp(c[k].name, "translations", 12)) && c[k].value)
			printf("%s: %s %lu\n", what, c[k].name, c[k].value);
}

static void check_counters(unsigned cpus, u64 times, bool parallel)
{
	create_many(cpus, parallel, NULL);
	for (unsigned n = 0; n < cpus; n++)
		load(n, 0, smp_count, smp_count_end)->gpr[REG_RSI] = times;
	run_all(cpus);
	for (unsigned off = 0; off <= 40; off += 8)
		if (off != 24)
			assert_int_equal(shared(off), cpus * times);
	assert_int_equal(shared(0xffc), cpus * (times / 16));
	assert_int_equal(shared(64), cpus * (times / 16));
	show_stops("locks");
	rig_destroy(&rig);
}

static void put_patched(u32 round)
{
	u8 code[] = { 0xb8, 0, 0, 0, 0, 0xc3 }; /* mov eax, round ; ret */

	memcpy(code + 1, &round, 4);
	memory_write(rig.mem, RAM_PATCHED + 3, code, sizeof(code));
}

static void check_handshake(bool parallel)
{
	/* a processor that spins must be scheduled to be stopped: slow where there are fewer of the host's */
	const u64 rounds = parallel ? 100 : 300;
	const unsigned cpus = parallel ? 3 : CPUS;

	create(parallel, NULL);
	put_patched(0);
	for (unsigned n = 0; n < cpus; n++) {
		struct cpu *c = n ? load(n, 0, smp_reader, smp_reader_end) : load(n, 1, smp_writer, smp_writer_end);

		c->gpr[REG_RBX] = PATCHED + 3;
		c->gpr[REG_RSI] = rounds;
		c->gpr[8] = cpus - 1;
		c->gpr[REG_RBP] = SHARED + 64 * n;
	}
	run_all(cpus);
	show_stops("handshake");
	rig_destroy(&rig);
}

static void check_follow(bool parallel)
{
	const u64 rounds = parallel ? 4000 : 2000;
	const unsigned cpus = parallel ? 2 : CPUS;

	create(parallel, NULL);
	put_patched(0);
	for (unsigned n = 0; n < cpus; n++) {
		struct cpu *c = n ? load(n, 0, smp_follow, smp_follow_end) : load(n, 1, smp_lead, smp_lead_end);

		c->gpr[REG_RBX] = PATCHED + 3;
		c->gpr[REG_RSI] = rounds;
	}
	run_all(cpus);
	show_stops("follow");
	rig_destroy(&rig);
}

/* With a fence one of the two at least sees what the other stored. */
static void check_order(void)
{
	const u32 rounds = 20000;
	const u32 *seen[2];

	create(true, NULL);
	for (unsigned n = 0; n < 2; n++) {
		struct cpu *c = load(n, 0, smp_order, smp_order_end);
		const u64 results = 0x10000000 + n * MiB;

		for (u64 off = 0; off <= 4 * rounds; off += PAGE_SIZE)
			rig_map(&rig, results + off, (16 + n) * MiB + off, true);
		seen[n] = (const u32 *)(const void *)rig_ram(&rig, (16 + n) * MiB);
		c->gpr[REG_RBP] = results;
		c->gpr[REG_RSI] = rounds;
		c->gpr[8] = n;
	}
	run_all(2);
	for (u32 k = 1; k <= rounds; k++)
		assert_true(seen[0][k] >= k || seen[1][k] >= k);
	rig_destroy(&rig);
}

/* ---- much code, little room ---- */

#define SLOT 80u
#define SLOTS 6000u
#define RAM_CHAIN (8 * MiB)
#define DATA 0x10000ull
#define RAM_DATA (6 * MiB)
#define LAPS 12

static const u64 places[] = { 0x10400000, 0x555555554000, 0x7f1234567000 };
static u32 factor[SLOTS], next_slot[SLOTS];

/* imul rax, rax, factor ; add rax, [rbx] ; xor [rbx + 8], rax ; call .+5 ; pop rcx ; jmp next, or HLT */
static void write_chain_slot(u32 n)
{
	u8 b[SLOT] = { 0x48, 0x69, 0xc0, 0, 0, 0, 0, 0x48, 0x03, 0x03, 0x48, 0x31, 0x43, 0x08, 0xe8, 0, 0, 0, 0, 0x59 };
	s32 rel = (s32)(next_slot[n] * SLOT) - (s32)(n * SLOT + 25);

	memcpy(b + 3, &factor[n], 4);
	b[20] = next_slot[n] < SLOTS ? 0xe9 : 0xf4;
	if (next_slot[n] < SLOTS)
		memcpy(b + 21, &rel, 4);
	memory_write(rig.mem, RAM_CHAIN + n * SLOT, b, SLOT);
}

static void make_chain(void)
{
	static u32 order[SLOTS];
	u32 seed = 1;

	for (u32 n = 0; n < SLOTS; n++)
		order[n] = n;
	for (u32 n = SLOTS - 1; n > 1; n--) {
		u32 k, was = order[n];

		seed = seed * 1664525 + 1013904223;
		k = 1 + (seed >> 8) % n;
		order[n] = order[k];
		order[k] = was;
	}
	for (u32 n = 0; n < SLOTS; n++) {
		factor[order[n]] = order[n] * 2 + 3;
		next_slot[order[n]] = n + 1 < SLOTS ? order[n + 1] : SLOTS;
	}
	for (u32 n = 0; n < SLOTS; n++)
		write_chain_slot(n);
}

static u64 lap(u64 rax, u64 *cell)
{
	for (u32 n = 0; n < SLOTS; n = next_slot[n]) {
		rax = rax * factor[n] + cell[0];
		cell[1] ^= rax;
	}
	return rax;
}

static void *run_chain(void *arg)
{
	unsigned n = (unsigned)(uintptr_t)arg;
	struct cpu *c = &rig.cpu[n]->cpu;
	u64 rax = n + 1, cell[2] = { n, 0 };

	memcpy(rig_ram(&rig, RAM_DATA + n * PAGE_SIZE), cell, sizeof(cell));
	for (unsigned k = 0; k < LAPS; k++) {
		c->rip = places[(n + k) % ARRAY_SIZE(places)];
		c->gpr[REG_RAX] = rax;
		c->gpr[REG_RBX] = DATA + n * PAGE_SIZE;
		c->gpr[REG_RSP] = STACKS + (n + 1) * PAGE_SIZE;
		ended[n] = rig_run_cpu(&rig, n, FOREVER);
		rax = lap(rax, cell);
		if (ended[n] != EXC_GP || c->gpr[REG_RAX] != rax ||
		    memcmp(rig_ram(&rig, RAM_DATA + n * PAGE_SIZE), cell, sizeof(cell)) != 0) {
			ended[n] = -2;
			break;
		}
	}
	return NULL;
}

static void map_chain(void)
{
	for (unsigned k = 0; k < ARRAY_SIZE(places); k++)
		for (u32 off = 0; off < SLOTS * SLOT; off += PAGE_SIZE)
			rig_map(&rig, places[k] + off, RAM_CHAIN + off, false);
	for (unsigned n = 0; n < CPUS; n++)
		rig_map(&rig, DATA + n * PAGE_SIZE, RAM_DATA + n * PAGE_SIZE, true);
	make_chain();
}

static void check_chain(bool parallel)
{
	const struct engine_options o = { .code_cache = 4 * MiB };
	pthread_t t[CPUS];

	create(parallel, &o);
	map_chain();
	for (unsigned n = 0; n < CPUS; n++) {
		if (!parallel)
			run_chain((void *)(uintptr_t)n);
		else
			assert_int_equal(pthread_create(&t[n], NULL, run_chain, (void *)(uintptr_t)n), 0);
	}
	for (unsigned n = 0; n < CPUS; n++) {
		if (parallel)
			pthread_join(t[n], NULL);
		assert_int_equal(ended[n], EXC_GP);
	}
	show_stops("chain");
	assert_true(dbt_of(rig.v)->sh->flushes > 10);
	rig_destroy(&rig);
}

/* ---- the map, and writes of devices ---- */

static bool stop_devices;

/* As a device at a boundary of the last processor, which does not run. */
static void *run_devices(void *arg)
{
	const struct io_ops none = { .min_size = 1, .max_size = 1 };
	struct region *r;

	world_enter(&rig.world, CPUS - 1);
	world_leave(&rig.world, CPUS - 1);
	r = memory_map_mmio(rig.mem, 1ull << 40, PAGE_SIZE, &none, NULL, 0, "moves");
	for (u32 k = 0; !__atomic_load_n(&stop_devices, __ATOMIC_ACQUIRE); k++) {
		if (k % 8 == 0)
			region_set(rig.mem, r, (1ull << 40) + k * PAGE_SIZE, k & 8);
		write_chain_slot(k * 7 % SLOTS); /* the same as before */
		for (unsigned wait = 0; wait < 200; wait++)
			__builtin_ia32_pause();
	}
	region_remove(rig.mem, r);
	return NULL;
}

static void check_devices(void)
{
	const struct engine_options o = { .code_cache = 4 * MiB };
	pthread_t t[CPUS];

	create(true, &o);
	map_chain();
	stop_devices = false;
	assert_int_equal(pthread_create(&t[CPUS - 1], NULL, run_devices, NULL), 0);
	for (unsigned n = 0; n + 1 < CPUS; n++)
		assert_int_equal(pthread_create(&t[n], NULL, run_chain, (void *)(uintptr_t)n), 0);
	for (unsigned n = 0; n + 1 < CPUS; n++) {
		pthread_join(t[n], NULL);
		assert_int_equal(ended[n], EXC_GP);
	}
	__atomic_store_n(&stop_devices, true, __ATOMIC_RELEASE);
	pthread_join(t[CPUS - 1], NULL);
	show_stops("devices");
	rig_destroy(&rig);
}

/* ---- code that a device rewrites while processors translate it, each at other addresses ---- */

#define ALIASES 16u
#define ALIAS(n) (0x555500000000ull + (n)*64 * KiB)
#define REWRITES 500u

static unsigned rewritten, laps;

static void *run_rewriter(void *arg)
{
	(void)arg;
	world_enter(&rig.world, CPUS - 1);
	world_leave(&rig.world, CPUS - 1);
	for (unsigned k = 1; k <= REWRITES; k++) {
		u8 imm = (u8)k;
		unsigned seen = __atomic_load_n(&laps, __ATOMIC_RELAXED);

		while (__atomic_load_n(&laps, __ATOMIC_RELAXED) == seen)
			sched_yield();
		memory_write(rig.mem, RAM_PATCHED + 1, &imm, 1);
		__atomic_store_n(&rewritten, k, __ATOMIC_RELEASE);
		for (unsigned wait = 0; wait < k % 32 * 64; wait++)
			__builtin_ia32_pause();
	}
	return NULL;
}

/* What a processor runs after a rewrite has ended is not older than that. */
static void *run_rewritten(void *arg)
{
	unsigned n = (unsigned)(uintptr_t)arg, before = 0, after;
	struct cpu *c = &rig.cpu[n]->cpu;
	int run;

	ended[n] = EXC_GP;
	for (u32 k = n; before < REWRITES; k += 3) {
		before = __atomic_load_n(&rewritten, __ATOMIC_ACQUIRE);
		c->rip = ALIAS(k % ALIASES);
		run = rig_run_cpu(&rig, n, FOREVER);
		after = __atomic_load_n(&rewritten, __ATOMIC_ACQUIRE) + 1; /* it may be under way */
		if (run != EXC_GP || (after - before < 256 && (u8)(c->gpr[REG_RAX] - before) > after - before))
			ended[n] = -2;
		__atomic_fetch_add(&laps, 1, __ATOMIC_RELAXED); /* one that failed goes on: others wait for it */
	}
	return NULL;
}

static void check_rewritten(void)
{
	static const u8 code[] = { 0xb8, 0, 0, 0, 0, 0xf4 }; /* mov eax, imm32 ; hlt */
	pthread_t t[CPUS];

	create(true, NULL);
	memory_write(rig.mem, RAM_PATCHED, code, sizeof(code));
	for (unsigned k = 0; k < ALIASES; k++)
		rig_map(&rig, ALIAS(k), RAM_PATCHED, false);
	rewritten = 0;
	for (unsigned n = 0; n + 1 < CPUS; n++)
		assert_int_equal(pthread_create(&t[n], NULL, run_rewritten, (void *)(uintptr_t)n), 0);
	assert_int_equal(pthread_create(&t[CPUS - 1], NULL, run_rewriter, NULL), 0);
	for (unsigned n = 0; n < CPUS; n++)
		pthread_join(t[n], NULL);
	for (unsigned n = 0; n + 1 < CPUS; n++)
		assert_int_equal(ended[n], EXC_GP);
	show_stops("rewritten");
	rig_destroy(&rig);
}

static void check_turns(void)
{
	for (budget = 37; budget < 10000; budget = budget * 7 + 1) {
		check_counters(CPUS, 4000, false);
		check_handshake(false);
		check_follow(false);
	}
	check_chain(false);
}

static const char *only;

static bool wanted(const char *name)
{
	return !only || !strcmp(only, name);
}

/* One test: cmocka takes the signals that the engine needs before each. */
static void test_processors(void **state)
{
	(void)state;
	if (wanted("turns"))
		check_turns();
	if (wanted("locks"))
		check_counters(CPUS, 20000, true);
	if (wanted("many"))
		check_counters(WORLD_MAX, 160, true);
	if (wanted("handshake"))
		check_handshake(true);
	if (wanted("follow"))
		check_follow(true);
	if (wanted("order"))
		check_order();
	if (wanted("chain"))
		check_chain(true);
	if (wanted("devices"))
		check_devices();
	if (wanted("rewritten"))
		check_rewritten();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_processors) };

	only = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
