/*
 * A code cache much smaller than the code that runs, part of which changes from
 * round to round so that it does not fit in its former place, at an address that
 * changes, too: what the guest computes must not depend on which blocks were
 * evicted, killed, replaced, cloned and linked anew in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/dbt/dbt.h"
#include "rig.h"

#define DATA 0x10000ull
#define DATA_RAM (RIG_RAM - PAGE_SIZE)
#define SLOT 80u /* some instructions cross a page */
#define SLOTS 1000u
#define ROUNDS 300
#define CELLS 8u

/* Where the code appears. It is cloned between the last three. */
static const u64 places[] = { 0x400000, 0x555555554000, 0x7f1234567000, 0x7fff00000000 };

/* A piece of the guest's program: it goes on at slot `next`. */
struct slot {
	u32 factor, next;
	u8 add, mix, branches; /* cells; branches to the next instruction */
};

static struct rig rig;
static struct slot slot[SLOTS];
static u64 cell[CELLS];
static u32 seed = 1;

static u32 draw(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

/*
 * imul rax, rax, factor ; add [rbx + ..], rax ; jz .. ; xor rax, [rbx + ..]
 * xor eax, [rip + ..]: the factor
 * call .+5 ; pop rcx ; sub rcx, rdi ; add rax, rcx: its distance from the code's begin
 * jmp next, or HLT at the end
 */
static void write_slot(u32 n)
{
	const struct slot *s = &slot[n];
	u8 b[SLOT] = { 0x48, 0x69, 0xc0 }, *p = b + 7;
	s32 rel;

	memcpy(b + 3, &s->factor, 4);
	memcpy(p, (const u8[]){ 0x48, 0x01, 0x43, s->add * 8 }, 4);
	p += 4;
	for (unsigned k = 0; k < s->branches; k++, p += 2)
		memcpy(p, (const u8[]){ k & 1 ? 0x75 : 0x74, 0 }, 2);
	memcpy(p, (const u8[]){ 0x48, 0x33, 0x43, s->mix * 8 }, 4);
	p += 4;
	memcpy(p, (const u8[]){ 0x33, 0x05 }, 2);
	rel = (s32)(b + 3 - (p + 6));
	memcpy(p + 2, &rel, 4);
	p += 6;
	memcpy(p, (const u8[]){ 0xe8, 0, 0, 0, 0, 0x59, 0x48, 0x29, 0xf9, 0x48, 0x01, 0xc8 }, 12);
	p += 12;
	*p++ = s->next < SLOTS ? 0xe9 : 0xf4;
	rel = (s32)(s->next * SLOT) - (s32)(n * SLOT + (u32)(p - b) + 4);
	if (s->next < SLOTS)
		memcpy(p, &rel, 4);
	memory_write(rig.mem, n * SLOT, b, SLOT);
}

/* One chain through all slots in random order, which begins at slot 0. */
static u32 order[SLOTS];

static void make_program(void)
{

	for (u32 n = 0; n < SLOTS; n++)
		order[n] = n;
	for (u32 n = SLOTS - 1; n > 1; n--) {
		u32 k = 1 + draw() % n, was = order[n];

		order[n] = order[k];
		order[k] = was;
	}
	for (u32 n = 0; n < SLOTS; n++)
		slot[order[n]] = (struct slot){ .factor = draw() | 1,
						.next = n + 1 < SLOTS ? order[n + 1] : SLOTS,
						.add = (u8)(draw() % CELLS),
						.mix = (u8)(draw() % CELLS) };
	for (u32 n = 0; n < SLOTS; n++)
		write_slot(n);
}

static void set_next(u32 at)
{
	slot[order[at]].next = at + 1 < SLOTS ? order[at + 1] : SLOTS;
	write_slot(order[at]);
}

/* Two stretches of the chain change places. */
static void change_order(void)
{
	static u32 copy[SLOTS];
	u32 a = 1 + draw() % (SLOTS - 2), b = 1 + draw() % (SLOTS - 2), c = MAX(a, b) + 1, n = 0;

	b = MAX(MIN(a, b), 1);
	c = c < SLOTS ? c : SLOTS;
	a = 1 + draw() % b;
	if (a >= b || b >= c)
		return;
	for (u32 k = b; k < c; k++)
		copy[n++] = order[k];
	for (u32 k = a; k < b; k++)
		copy[n++] = order[k];
	memcpy(order + a, copy, n * sizeof(*copy));
	set_next(a - 1);
	set_next(a + (c - b) - 1);
	set_next(c - 1);
}

static u64 expected(u64 rax)
{
	for (u32 n = 0; n < SLOTS; n = slot[n].next) {
		rax *= (u64)(s64)(s32)slot[n].factor;
		cell[slot[n].add] += rax;
		rax ^= cell[slot[n].mix];
		rax = (u32)rax ^ slot[n].factor;
		rax += n * SLOT + 7 + 4 + 2 * slot[n].branches + 4 + 6 + 5;
	}
	return rax;
}

static void check_eviction(void)
{
	const struct engine_options o = { .code_cache = 4 * MiB };
	const struct dbt *x;
	u64 rax = 1;

	rig_create_with(&rig, &engine_dbt, &o);
	dbt_translate_single(rig.v, false);
	x = dbt_of(rig.v);
	for (unsigned k = 0; k < ARRAY_SIZE(places); k++)
		for (u32 off = 0; off < SLOTS * SLOT; off += PAGE_SIZE)
			rig_map(&rig, places[k] + off, off, false);
	rig_map(&rig, DATA, DATA_RAM, true);
	make_program();
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned k = 0; round && k < SLOTS / 8; k++) {
			u32 n = draw() % SLOTS;

			slot[n].branches = slot[n].branches ? 0 : (u8)(draw() % 16);
			write_slot(n);
		}
		for (unsigned k = 0; k < 100; k++)
			change_order();
		rig.v->cpu.rip = rig.v->cpu.gpr[REG_RDI] = places[round < ROUNDS / 2 ? 0 : round % ARRAY_SIZE(places)];
		rig.v->cpu.gpr[REG_RSP] = DATA + PAGE_SIZE;
		rig.v->cpu.gpr[REG_RAX] = rax;
		rig.v->cpu.gpr[REG_RBX] = DATA;
		assert_int_equal(rig_run(&rig, 1u << 30), EXC_GP);
		rax = expected(rax);
		assert_int_equal(rig.v->cpu.gpr[REG_RAX], rax);
		assert_memory_equal(rig_ram(&rig, DATA_RAM), cell, sizeof(cell));
	}
	assert_true(x->stats.evictions > ROUNDS / 2);
	assert_true(x->stats.kills > 100 * ROUNDS);
	assert_true(x->stats.clones > 10 * ROUNDS);
	rig_destroy(&rig);
}

static void test_eviction(void **state)
{
	(void)state;
	check_eviction();
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_eviction) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
