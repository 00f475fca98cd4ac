/*
 * Loops with pointers that move, against the reference engine: into pages that
 * are missing or cannot be written, across pages, with the budget's end
 * anywhere and without one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/fpu.h"
#include "engine/dbt/dbt.h"
#include "rig.h"

#define CODE 0x10000ull
#define DATA 0x555555600000ull
#define PAGES 8u
#define DATA_RAM (16 * PAGE_SIZE)
#define PROGRAMS 40000

static struct rig rigs[2]; /* the reference engine, the translator */
static u32 seed = 1;

static u32 draw(u32 n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

struct text {
	u8 b[160];
	unsigned n, exits;
	bool indexed; /* R13 is an index */
	u8 exit[4];   /* offsets of displacements of branches out of the loop */
};

static void add(struct text *t, const u8 *b, unsigned n)
{
	memcpy(t->b + t->n, b, n);
	t->n += n;
}
#define ADD(...) add(t, (const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ }))

static void add_access(struct text *t)
{
	u8 d = (u8)draw(256);

	switch (draw(12)) {
	case 0:
		ADD(0x48, 0x03, 0x43, d); /* add rax, [rbx] */
		break;
	case 1:
		ADD(0x48, 0x89, 0x46, d); /* mov [rsi], rax */
		break;
	case 2:
		ADD(0x48, 0x33, 0x54, 0xcf, d); /* xor rdx, [rdi + rcx * 8] */
		break;
	case 3:
		ADD(0x88, 0x54, 0x0b, d); /* mov [rbx + rcx], dl */
		break;
	case 4:
		ADD(0x4d, 0x03, 0x7d, d); /* add r15, [r13] */
		break;
	case 5:
		ADD(0x0f, 0x10, 0x43, d); /* movups xmm0, [rbx] */
		break;
	case 6:
		ADD(0x0f, 0x11, 0x46, d); /* movups [rsi], xmm0 */
		break;
	case 7:
		ADD(0x48, 0x11, 0x47, d); /* adc [rdi], rax */
		break;
	case 8:
		ADD(0x4c, 0x0f, 0xb6, 0xc0, 0x4b, 0x03, 0x14, 0xc6); /* movzx r8, al ; add rdx, [r14 + r8 * 8] */
		break;
	case 9:
		t->indexed = true;
		ADD(0x42, 0x8b, 0x44, 0x2b, d); /* mov eax, [rbx + r13] */
		break;
	case 10:
		ADD(0x66, 0x0f, 0x6f, 0x06); /* movdqa xmm0, [rsi] */
		break;
	default:
		ADD(0x66, 0x01, 0x56, d); /* add [rsi], dx */
		break;
	}
}

static void add_step(struct text *t)
{
	u8 d = (u8)(draw(4) ? draw(5) * 8 : draw(256));

	switch (draw(7)) {
	case 0:
		ADD(0x48, 0x83, 0xc3, d); /* add rbx, d */
		break;
	case 1:
		ADD(0x48, 0x83, 0xee, d); /* sub rsi, d */
		break;
	case 2:
		ADD(0x48, 0x8d, 0x7f, d); /* lea rdi, [rdi + d] */
		break;
	case 3:
		ADD(0x49, 0xff, 0xc5); /* inc r13 */
		break;
	case 4:
		ADD(0x48, 0x83, 0xc6, d); /* add rsi, d */
		break;
	case 5:
		ADD(0x83, 0xc3, d); /* add ebx, d: no stride */
		break;
	default:
		if (t->exits == sizeof(t->exit))
			break;
		ADD(0x80, 0xfa, d, 0x74, 0); /* cmp dl, d ; jz out */
		t->exit[t->exits++] = (u8)(t->n - 1);
		break;
	}
}

static struct text make_program(void)
{
	struct text text = { .n = 0 }, *t = &text;
	unsigned accesses = 1 + draw(5), steps = draw(5);

	while (accesses || steps) {
		if (accesses && draw(2))
			accesses--, add_access(t);
		else if (steps)
			steps--, add_step(t);
	}
	switch (draw(3)) {
	case 0:
		ADD(0x48, 0xff, 0xc9); /* dec rcx */
		break;
	case 1:
		ADD(0x48, 0x83, 0xe9, 0x01); /* sub rcx, 1 */
		break;
	default:
		ADD(0x48, 0xff, 0xc9, 0x48, 0x85, 0xc9); /* dec rcx ; test rcx, rcx */
		break;
	}
	ADD(0x75, (u8) - (t->n + 2));
	for (unsigned k = 0; k < t->exits; k++)
		t->b[t->exit[k]] = (u8)(t->n - (t->exit[k] + 1u));
	ADD(0xf4); /* hlt: #GP at CPL 3 */
	return text;
}

static u64 place(void)
{
	return DATA + draw(PAGES * PAGE_SIZE) / (draw(4) ? 16 : 1) * (draw(4) ? 16 : 1) % (PAGES * PAGE_SIZE);
}

static void set_up(struct rig *r, const struct text *t, u32 from)
{
	struct cpu *c = &r->v->cpu;
	unsigned odd;

	seed = from;
	odd = draw(4 * PAGES);
	rig_reset(r);
	memory_write(r->mem, 0, t->b, t->n);
	for (unsigned k = 0; k < PAGES; k++) {
		rig_unmap(r, DATA + k * PAGE_SIZE);
		if (k != odd || draw(2))
			rig_map(r, DATA + k * PAGE_SIZE, DATA_RAM + k * PAGE_SIZE, k != odd);
	}
	for (unsigned k = 0; k < PAGES * PAGE_SIZE / 8; k++)
		((u64 *)rig_ram(r, DATA_RAM))[k] = k * 0x9e3779b97f4a7c15ull;
	c->rip = CODE;
	c->gpr[REG_RBX] = place();
	c->gpr[REG_RSI] = place();
	c->gpr[REG_RDI] = place();
	c->gpr[13] = draw(2) ? place() : draw(64);
	if (t->indexed)
		c->gpr[13] = draw(64);
	c->gpr[14] = DATA + draw(PAGES - 1) * PAGE_SIZE;
	c->gpr[REG_RCX] = 1 + draw(600);
	c->gpr[REG_RAX] = draw(1 << 20);
	if (!draw(16))
		c->gpr[REG_RBX] ^= BIT(44 + draw(20)); /* an address that only looks like one that is mapped */
}

static void check_one(u32 from)
{
	struct cpu *a = &rigs[0].v->cpu, *b = &rigs[1].v->cpu;
	struct text t;
	int why[2];
	u64 insns;

	seed = from;
	t = make_program();
	insns = draw(2) ? 1 + draw(6000) : 1ull << 62;
	for (unsigned n = 0; n < 2; n++) {
		set_up(&rigs[n], &t, from);
		why[n] = rig_run(&rigs[n], insns);
	}
	if (why[0] != why[1] || a->rip != b->rip || a->rflags != b->rflags || memcmp(a->gpr, b->gpr, sizeof(a->gpr)) ||
	    memcmp(a->fpu + 160, b->fpu + 160, 16) ||
	    memcmp(rig_ram(&rigs[0], DATA_RAM), rig_ram(&rigs[1], DATA_RAM), PAGES * PAGE_SIZE))
		fail_msg("program %u, %lu instructions: exception %d at %lx, reference engine %d at %lx", from, insns,
			 why[1], b->rip, why[0], a->rip);
}

static void check_loops(void **state)
{
	rig_create(&rigs[0], &engine_interp);
	rig_create(&rigs[1], &engine_dbt);
	dbt_translate_single(rigs[1].v, false);
	for (unsigned n = 0; n < 2; n++)
		rig_map(&rigs[n], CODE, 0, false);
	for (u32 k = 1; k <= PROGRAMS; k++)
		check_one(k);
	rig_destroy(&rigs[1]);
	rig_destroy(&rigs[0]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(check_loops) };

	return cmocka_run_group_tests_name("loops", tests, NULL, NULL);
}
