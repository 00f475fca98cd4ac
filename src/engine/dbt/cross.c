/*
 * Instructions that cross into the next page. Each is a block of its own, kept
 * like others by its first page. Nothing is kept by the second one: whenever it
 * runs, the block looks whether the present set maps that page as it did
 * (AUX_VALID of its tpage) and whether the bytes there are still the same.
 * If not, the reference engine does the instruction, after dbt_crossing_left()
 * has set right what it can.
 */
#include "engine/dbt/translate.h"

#include <string.h>

const u8 *crossing_bytes(struct tr *t, const u8 *code, unsigned *n)
{
	gva_t next = (t->lin & PAGE_MASK) + PAGE_SIZE;
	struct tblock *b = t->b;

	b->crosses = true;
	b->page2 = dbt_page_at(t->v, code_address(t, next));
	if (!b->page2)
		return NULL;
	memcpy(t->crossing, code, *n);
	memcpy(t->crossing + *n, b->page2->host, sizeof(t->crossing) - *n);
	*n = sizeof(t->crossing);
	return t->crossing;
}

/* Go on if RCX is 0, else leave. */
static void step_unless_zero(struct tr *t)
{
	unsigned stub = new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn);

	put_bytes(&t->e, (const u8[]){ 0xe3, 5, 0xe9 }, 3); /* jrcxz over the jump */
	t->stub[stub].refs[0] = t->e.p;
	put32(&t->e, 0);
}

/* `n` <= 8 bytes at host address `at` must be those at `want`. */
static void emit_compare(struct tr *t, const u8 *at, const u8 *want, unsigned n)
{
	struct emit *e = &t->e;
	u64 bytes = 0;

	memcpy(&bytes, want, n);
	bytes <<= 64 - 8 * n;
	mov_imm(e, H_RCX, 64 - 8 * n);
	mov_imm(e, H_R14, (uintptr_t)at);
	put_bytes(e, (const u8[]){ 0xc4, 0xc2, 0xf1, 0xf7, 0x0e }, 5); /* shlx rcx, [r14], rcx */
	mov_imm(e, H_R14, 0 - bytes);
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_R14, 0, 0);
	step_unless_zero(t);
}

void emit_crossing_check(struct tr *t)
{
	struct tblock *b = t->b;
	unsigned first = (unsigned)(PAGE_SIZE - (t->lin & ~PAGE_MASK));
	struct emit *e = &t->e;

	b->tail_len = (u8)(t->d->len - first);
	memcpy(b->tail, t->crossing + first, b->tail_len);
	islands(t, 120, true);
	put_bytes(e, (const u8[]){ 0x41, 0x0f, 0xb6 }, 3); /* movzx ecx, byte [r15 + AUX_VALID + index] */
	put(e, 0x80 | H_RCX << 3 | (H_R15 & 7));
	put32(e, AUX_VALID + b->page2->index);
	short_branch(t, true, new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn));
	for (unsigned at = 0; at < b->tail_len; at += 8)
		emit_compare(t, b->page2->host + at, b->tail + at, MIN(8u, b->tail_len - at));
}
