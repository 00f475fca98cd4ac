/*
 * Clones of blocks: the same code of the same frame at another linear address.
 *
 * A program that is started again is somewhere else (ASLR), and so is a library
 * in each process. Translating it again costs some thousand cycles a block,
 * copying what was translated some hundred: all that differs are constants, and
 * where they lie is noted as they are emitted ("fixes").
 *
 * A fix is a byte: kind and distance from the one before. Only blocks that were
 * translated once and in one go have any; a block without is not cloned. Drafts
 * (block.c) get to their place the same way.
 */
#include "engine/dbt/clone.h"
#include "engine/dbt/dbt.h"

/* Of a fix's byte: kind << 5 | distance; FIX_SKIP: distance of (low bits + 1) * 32 more. */
#define FIX_SHIFT 5
#define FIX_FAR 32u
#define FIX_SKIP (FIX_KINDS << FIX_SHIFT)

void fixes_begin(struct fixes *f, u8 *at, u8 *end, u8 *code, const u8 *trampolines)
{
	*f = (struct fixes){ .first = at, .at = at, .end = end, .code = code, .trampolines = trampolines };
}

void fix_note(struct fixes *f, enum fix_kind kind, const u8 *where)
{
	u32 distance = (u32)(where - f->code);

	f->code = (u8 *)(uintptr_t)where;
	for (; distance >= FIX_FAR && f->at < f->end; distance -= MIN(distance / FIX_FAR, FIX_FAR) * FIX_FAR)
		*f->at++ = (u8)(FIX_SKIP | (MIN(distance / FIX_FAR, FIX_FAR) - 1));
	if (f->at >= f->end) {
		f->none = f->full = true;
		return;
	}
	*f->at++ = (u8)(kind << FIX_SHIFT | distance);
}

/* ---- the latest block of the same code that can be cloned ---- */

static u32 *twin_slot(struct dbt *x, const struct tpage *p, u64 lin)
{
	u64 at = (uintptr_t)p->host + (lin & ~PAGE_MASK);

	return &x->sh->twins[(at ^ at >> TWIN_BITS ^ p->key) & ((1u << TWIN_BITS) - 1)];
}

void dbt_note_twin(struct dbt *x, const struct tblock *b)
{
	if (b->fixes_n)
		*twin_slot(x, b->page, b->lin) = (u32)(b - x->sh->blocks) + 1;
}

/* Slots are hints, but what a block that is not dead says of itself is true. */
const struct tblock *dbt_twin(struct dbt *x, const struct tpage *p, u64 lin)
{
	u32 n = *twin_slot(x, p, lin);
	const struct tblock *b = n ? &x->sh->blocks[n - 1] : NULL;

	if (!b || b->dead || !b->fixes_n || b->page->host != p->host || b->page->key != p->key ||
	    (b->lin ^ lin) & ~PAGE_MASK)
		return NULL;
	return b;
}

/* ---- copying ---- */

static void add32(u8 *at, u32 n)
{
	u32 v;

	__builtin_memcpy(&v, at, 4);
	v += n;
	__builtin_memcpy(at, &v, 4);
}

static void add64(u8 *at, u64 n)
{
	u64 v;

	__builtin_memcpy(&v, at, 8);
	v += n;
	__builtin_memcpy(at, &v, 8);
}

static void fix_code(struct dbt *x, const struct tblock *b, const struct tblock *from, const u8 *fix, u32 fixes)
{
	const u8 *end = fix + fixes;
	u8 *at = x->sh->rw + b->host;
	const u32 id = (u32)(b - x->sh->blocks), add[FIX_KINDS] = {
		[FIX_TRAMPOLINE] = from->host - b->host,
		[FIX_CODE] = b->host - from->host,
		[FIX_INSN] = b->first - from->first,
		[FIX_EXIT] = b->exits - from->exits,
		[FIX_SYS] = b->sys - from->sys,
		[FIX_PAGE] = b->page->index - from->page->index,
		[FIX_LIN] = 0,
	};

	__builtin_memcpy(at + ENTRY_BLOCK_ID, &id, 4);
	for (; fix < end; fix++) {
		unsigned kind = *fix >> FIX_SHIFT, low = *fix & (FIX_FAR - 1);

		if (kind == FIX_KINDS) {
			at += (low + 1) * FIX_FAR;
			continue;
		}
		at += low;
		if (kind == FIX_LIN)
			add64(at, b->lin - from->lin);
		else
			add32(at, add[kind]);
	}
}

/* Exits that lead nowhere yet. */
static void copy_exits(struct dbt *x, const struct tblock *b, const struct tblock *from, const struct placement *at)
{
	for (u32 k = 0; k < b->exits_max; k++) {
		struct texit *e = &x->sh->exits[b->exits + k];
		s32 rel;

		*e = at->exits[k];
		if (!e->patch)
			continue;
		e->lin += b->lin - from->lin;
		e->patch += b->host - from->host;
		rel = (s32)e->stub - 4;
		__builtin_memcpy(x->sh->rw + e->patch, &rel, 4);
		if (!e->far)
			continue;
		rel = 0;
		__builtin_memcpy(x->sh->rw + e->patch + e->far, &rel, 4);
	}
}

/* No C library: the guest's vector state may be live. */
static void copy(void *to, const void *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void copy_records(struct dbt *x, const struct tblock *b, const struct tblock *from, const struct placement *at)
{
	copy(x->sh->rw + b->host, at->rw + from->host, from->host_end - from->host);
	copy(&x->sh->insns[b->first], at->insns, b->n * sizeof(*x->sh->insns));
	copy(&x->sh->recipes[b->recipes], at->recipes, b->recipes_max * sizeof(*x->sh->recipes));
	copy(x->sh->fixes + b->fixes, at->fixes, b->fixes_n);
	for (u32 k = 0; k < b->sys_max; k++) {
		x->sh->sys[b->sys + k] = at->sys[k];
		x->sh->sys[b->sys + k].insn += b->first - from->first;
	}
}

struct tblock *dbt_copy_block(struct dbt *x, const struct tblock *from, const struct placement *at, u32 fixes,
			      struct tpage *p, u64 lin)
{
	struct tblock *b = &x->sh->blocks[x->sh->blocks_n];
	u32 moved = x->sh->used - from->host;

	*b = *from;
	if (x->sh->fixes_max - x->sh->fixes_n < from->fixes_n)
		b->fixes_n = 0;
	b->lin = lin;
	b->page = p;
	b->host += moved;
	b->host_end += moved;
	b->host_max += moved;
	b->body += moved;
	b->door += moved;
	b->entry += moved;
	b->entry_saved += moved;
	b->entry_page += moved;
	b->entry_indirect += moved;
	b->first = x->sh->insns_n;
	b->exits = x->sh->exits_n;
	b->sys = x->sh->sys_n;
	b->recipes = x->sh->recipes_n;
	b->fixes = x->sh->fixes_n;
	copy_records(x, b, from, at);
	copy_exits(x, b, from, at);
	fix_code(x, b, from, at->fixes, fixes);
	x->sh->exits_n += b->exits_max;
	x->sh->sys_n += b->sys_max;
	x->sh->recipes_n += b->recipes_max;
	x->sh->fixes_n += b->fixes_n;
	dbt_take_records(x->sh, b);
	return b;
}

struct tblock *dbt_clone(struct dbt *x, const struct tblock *from, struct tpage *p, u64 lin)
{
	const struct dbt_shared *sh = x->sh;
	const struct placement at = { .rw = sh->rw,
				      .insns = &sh->insns[from->first],
				      .exits = &sh->exits[from->exits],
				      .sys = &sh->sys[from->sys],
				      .recipes = &sh->recipes[from->recipes],
				      .fixes = sh->fixes + from->fixes };

	if (sh->fixes_max - sh->fixes_n < from->fixes_n)
		return NULL;
	x->stats.clones++;
	return dbt_copy_block(x, from, &at, from->fixes_n, p, lin);
}
