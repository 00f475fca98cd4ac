/*
 * One instruction for an engine that has this one inside. What was decoded is
 * kept by linear address and compared with the bytes in memory before each use:
 * the page does not become a code page, to which stores are slow.
 */
#include "engine/interp/ops.h"
#include "engine/interp/thunk.h"

static bool same_bytes(const u8 *a, const u8 *b, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		if (a[k] != b[k])
			return false;
	return true;
}

/* Host address of the code at `lin`; NULL: a fault, or (fault.vector 0xff) outside RAM. */
static const u8 *fetch_address(struct vcpu *v, gva_t lin)
{
	const struct tlb_entry *e = tlb_slot(hot(v)->tlb, lin);
	struct xlat t;

	if (likely(e->tag[MMU_EXEC] == (lin & PAGE_MASK)))
		return (const u8 *)(lin + e->addend);
	v->fault.vector = 0xff;
	return mmu_translate(v, lin, MMU_EXEC, v->mmu->index, &t) ? NULL : t.host;
}

static int decode(struct vcpu *v, gva_t lin, const u8 *code, unsigned avail)
{
	struct interp *x = interp_of(v);

	cache_make_room(v);
	x->build->off = lin & ~PAGE_MASK;
	x->build->mode = hot(v)->mode;
	x->build->page = NULL;
	x->build->crosses = false;
	return translate_block(v, x->build, code, avail, 1);
}

struct block *cache_single_at(struct vcpu *v, gva_t lin)
{
	struct interp *x = interp_of(v);
	struct single *s = &x->single[(lin ^ lin >> 8) % SINGLES];
	unsigned avail = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));
	const u8 *code = fetch_address(v, lin);
	struct block *b;
	int r;

	if (!code) {
		if (v->fault.vector != 0xff)
			return NULL;
		b = cache_find(v, lin);
		return b ? cache_single(v, b) : NULL;
	}
	if (s->compared && s->lin == lin && s->flushes == x->arena_flushes && s->compared <= avail &&
	    same_bytes(s->bytes, code, s->compared)) {
		*x->step = (struct block){ .off = lin & ~PAGE_MASK, .bytes = s->insn.len, .n = 1, .mode = BLOCK_64 };
		x->step->insn[0] = s->insn;
		x->step->insn[1] = (struct insn){ .fn = op_end_of_step, .off = (u16)(s->insn.off + s->insn.len) };
		return x->step;
	}
	r = decode(v, lin, code, avail);
	if (r == TRANSLATE_CROSSES) {
		b = cache_find(v, lin);
		return b ? cache_single(v, b) : NULL;
	}
	if (r)
		return NULL;
	b = cache_single(v, x->build);
	/* What is no instruction may be one with other bytes behind the first. */
	s->compared = b->insn[0].fn == op_ud || b->insn[0].fn == op_too_long ? (u8)MIN(15, avail) : b->insn[0].len;
	s->lin = lin;
	s->flushes = x->arena_flushes;
	s->insn = b->insn[0];
	for (unsigned k = 0; k < s->compared; k++)
		s->bytes[k] = code[k];
	return b;
}
