/*
 * Instructions that cross into the next page. Each is a block of its own, of
 * the page it begins in. What it takes from the other page is looked at each
 * time it runs: the set must map that page to the frame it was translated
 * from (AUX_VALID), and the bytes there must be the same. Otherwise the
 * reference engine fetches it. So nothing has to be told of a change there.
 */
#include "engine/dbt/translate.h"

/* shlx dst, dst, count (64 bit) */
static void shlx(struct emit *e, unsigned dst, unsigned count)
{
	put(e, 0xc4);
	put(e, (dst >> 3 ? 0 : 0x80) | 0x40 | (dst >> 3 ? 0 : 0x20) | 2);
	put(e, 0x80 | (~count & 15) << 3 | 1);
	put(e, 0xf7);
	put(e, 0xc0 | (dst & 7) << 3 | (dst & 7));
}

const u8 *cross_code(struct tr *t, struct crossing *c, const u8 *code, unsigned avail)
{
	c->next = t->steps_only ? NULL : dbt_next_page(t->v, t->b->page);
	c->first = avail;
	if (!c->next)
		return NULL;
	for (unsigned k = 0; k < avail; k++)
		c->bytes[k] = code[k];
	for (unsigned k = 0; k < 15; k++)
		c->bytes[avail + k] = c->next->host[k];
	return c->bytes;
}

void emit_cross_guard(struct tr *t, const struct crossing *c)
{
	struct emit *e = &t->e;
	unsigned n = t->d->len - c->first, shift = 64 - 8 * n;
	u64 expected = 0;

	for (unsigned k = 0; k < n; k++)
		expected |= (u64)c->bytes[c->first + k] << (8 * k);
	put_bytes(e, (const u8[]){ 0x41, 0x0f, 0xb6 }, 3); /* movzx ecx, byte [r15 + AUX_VALID + index] */
	put(e, 0x80 | H_RCX << 3 | (H_R15 & 7));
	put32(e, AUX_VALID + c->next->index);
	short_branch(t, true, new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn));
	mov_imm(e, H_RCX, (u64)(uintptr_t)c->next->host);
	op_rm(e, true, 0x8b, H_RCX, H_RCX, 0);
	if (shift) {
		mov_imm(e, H_R14, shift);
		shlx(e, H_RCX, H_R14);
	}
	mov_imm(e, H_R14, 0 - (expected << shift));
	op_rmx(e, true, 0x8d, H_RCX, H_RCX, H_R14, 0, 0);
	leave_unless_zero(t, LEAVE_STEP, t->insn);
}
