/*
 * The code cache of the reference engine: blocks by physical page.
 *
 * A page is known by its host address. Its frame carries PAGE_CODE, so that
 * every write to it comes to cache_page_written(), which compares it with the
 * 64-byte lines that hold decoded bytes: data beside code stays cheap. A hit
 * drops the whole page and moves mmu->gen, which makes every jump-cache entry
 * stale; the running block is left right after the store (EV_FLUSH).
 *
 * Direct branches inside a page are linked block to block. That is sound
 * because all blocks of a page are dropped together, and because a page that
 * runs was entered under the present translation: whatever changes
 * translations ends its block. A block whose one instruction runs into the
 * next page depends on two translations, so it is known to the jump cache
 * only, whose entries are keyed by mmu->gen.
 */
#include "engine/interp/thunk.h"
#include "engine/stop.h"

static unsigned page_hash(const u8 *host)
{
	u64 h = (uintptr_t)host >> PAGE_SHIFT;

	return (unsigned)(h ^ (h >> PAGE_HASH_BITS)) & ((1u << PAGE_HASH_BITS) - 1);
}

void *cache_alloc(struct interp *x, size_t n)
{
	void *p = x->arena + x->arena_used;

	n = (n + 15) & ~15ull;
	if (n > x->arena_size - x->arena_used)
		return NULL;
	x->arena_used += n;
	return p;
}

static struct code_page *find_page(struct interp *x, const u8 *host)
{
	struct code_page *p = x->pages[page_hash(host)];

	while (p && p->host != host)
		p = p->hash_next;
	return p;
}

static bool held(const struct interp_peers *all, const u8 *host)
{
	for (unsigned n = 0; n < all->n; n++)
		if (find_page(interp_of(all->v[n]), host))
			return true;
	return false;
}

static void mark_code(struct vcpu *v, gpa_t gpa)
{
	const struct interp_peers *all = interp_of(v)->peers;
	struct page_target t;

	if (!memory_page(v->mem, gpa, &t) || !t.flags || *t.flags & PAGE_CODE_INTERP)
		return;
	stop_others(v);
	/* Whatever they have changed meanwhile: */
	if (memory_page(v->mem, gpa, &t) && t.flags) {
		if (!(*t.flags & PAGE_CODE))
			mmu_protect_frame(v, gpa);
		else
			for (unsigned n = 0; n < all->n; n++)
				all->v[n]->mmu->gen++; /* another engine may let stores to the page through */
		*t.flags |= PAGE_CODE_INTERP;
	}
	let_others_go(v);
}

/* Unless another processor has decoded code there. */
static void unmark_code(struct vcpu *v, const struct code_page *p)
{
	struct page_target t;

	if (memory_page(v->mem, p->gpa, &t) && t.flags && !held(interp_of(v)->peers, p->host))
		*t.flags &= (u8)~PAGE_CODE_INTERP;
}

static struct code_page *make_page(struct vcpu *v, u8 *host, gpa_t gpa)
{
	struct interp *x = interp_of(v);
	struct code_page *p = cache_alloc(x, sizeof(*p));

	if (!p)
		return NULL;
	mark_code(v, gpa); /* before anyone can find it to drop it */
	/* member by member: clang makes memset() of an initialiser */
	p->hash_next = x->pages[page_hash(host)];
	p->gpa = gpa & PAGE_MASK;
	p->host = host;
	p->lines = 0;
	for (unsigned n = 0; n < PAGE_BUCKETS; n++)
		p->bucket[n] = NULL;
	x->pages[page_hash(host)] = p;
	return p;
}

static void drop_page(struct vcpu *v, struct code_page *p)
{
	struct interp *x = interp_of(v);
	struct code_page **at = &x->pages[page_hash(p->host)];

	while (*at != p)
		at = &(*at)->hash_next;
	*at = p->hash_next;
	unmark_code(v, p);
	v->mmu->gen++;
	x->page_drops++;
	vcpu_raise(v, EV_FLUSH);
}

void cache_page_written(struct interp_peers *all, gpa_t gpa, unsigned len)
{
	struct page_target t;
	unsigned first = (gpa & ~PAGE_MASK) >> 6, last;
	u64 lines;

	if (!len || !memory_page(all->mem, gpa, &t) || !t.host)
		return;
	last = (unsigned)(MIN((gpa & ~PAGE_MASK) + len, PAGE_SIZE) - 1) >> 6;
	lines = (last == 63 ? ~0ull : (BIT(last + 1) - 1)) & ~(BIT(first) - 1);
	if (*t.flags & PAGE_CODE_INTERP) {
		struct vcpu *own = own_processor(all->v[0]);

		stop_others(own);
		for (unsigned n = 0; n < all->n; n++) {
			struct code_page *p = find_page(interp_of(all->v[n]), t.host);

			if (p && (p->lines & lines))
				drop_page(all->v[n], p);
		}
		let_others_go(own);
	}
	if ((gpa & ~PAGE_MASK) + len > PAGE_SIZE) /* the rest lies in the next frame */
		cache_page_written(all, (gpa & PAGE_MASK) + PAGE_SIZE,
				   (unsigned)((gpa & ~PAGE_MASK) + len - PAGE_SIZE));
}

void cache_flush(struct vcpu *v)
{
	struct interp *x = interp_of(v);

	stop_others(v);

	for (unsigned k = 0; k < ARRAY_SIZE(x->pages); k++) {
		struct code_page *pages = x->pages[k];

		x->pages[k] = NULL;
		for (struct code_page *p = pages; p; p = p->hash_next)
			unmark_code(v, p);
	}
	x->arena_used = 0;
	x->arena_flushes++;
	v->mmu->gen++;
	/* a branch of the present instruction must not find what was flushed */
	hot(v)->key = (v->mmu->gen << 8) | (hot(v)->key & 0xff);
	let_others_go(v);
}

static void mark_lines(struct code_page *p, unsigned off, unsigned bytes)
{
	for (unsigned line = off >> 6; line <= (off + bytes - 1) >> 6 && line < 64; line++)
		p->lines |= BIT(line);
}

/* Copy x->build into the arena. */
static struct block *keep_block(struct interp *x, struct code_page *p)
{
	const struct block *b = x->build;
	size_t insns = b->n + 1u;
	struct block *k = cache_alloc(x, sizeof(*k) + insns * sizeof(struct insn));

	if (!k)
		return NULL;
	*k = *b;
	for (size_t n = 0; n < insns; n++)
		k->insn[n] = b->insn[n];
	k->page = p;
	mark_lines(p, k->off, k->bytes);
	x->blocks++;
	x->decoded += k->n;
	return k;
}

/* The first instruction at `lin` needs bytes of the next page too. */
static struct block *build_crossing(struct vcpu *v, struct code_page *p, gva_t lin)
{
	struct interp *x = interp_of(v);
	gva_t next_lin = (lin & PAGE_MASK) + PAGE_SIZE;
	unsigned in_first = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));
	struct code_page *q = NULL;
	struct block *k;
	struct xlat t;
	u8 bytes[32];
	int r;

	if (hot(v)->mode != BLOCK_64)
		next_lin = (u32)next_lin;
	if (mmu_translate(v, next_lin, MMU_EXEC, v->mmu->index, &t))
		return NULL;
	for (unsigned n = 0; n < in_first; n++)
		bytes[n] = p->host[(lin & ~PAGE_MASK) + n];
	if (t.host) {
		q = find_page(x, t.host);
		if (!q)
			q = make_page(v, t.host, t.gpa);
		for (unsigned n = 0; n < 15; n++)
			bytes[in_first + n] = t.host[n];
	} else {
		fpu_park(v);
		memory_read(v->mem, t.gpa, bytes + in_first, 15);
	}
	r = translate_block(v, x->build, bytes, in_first + 15, 1);
	if (r)
		return NULL;
	x->build->crosses = true;
	k = keep_block(x, p);
	if (q)
		q->lines |= 1;
	return k;
}

/* Code outside RAM and ROM: each instruction is fetched anew. */
static struct block *build_uncached(struct vcpu *v, const struct xlat *t, gva_t lin)
{
	struct interp *x = interp_of(v);
	unsigned avail = (unsigned)MIN(15, PAGE_SIZE - (lin & ~PAGE_MASK));
	u8 bytes[16];
	int r;

	fpu_park(v);
	memory_read(v->mem, t->gpa, bytes, avail);
	r = translate_block(v, x->build, bytes, avail, 1);
	if (r == TRANSLATE_CROSSES) {
		fault_ud(v); /* fetched from a device across a page: no hardware promises anything */
		return NULL;
	}
	return r ? NULL : cache_single(v, x->build);
}

struct block *cache_single(struct vcpu *v, const struct block *b)
{
	struct block *s = interp_of(v)->step;

	*s = *b;
	s->n = 1;
	s->insn[0] = b->insn[0];
	s->insn[0].left = 0;
	s->insn[1] = (struct insn){ .fn = op_end_of_step, .off = (u16)(b->insn[0].off + b->insn[0].len) };
	return s;
}

/* CS limit, for code that is neither 64-bit nor flat. Blocks that only run over
 * it later are cut to their first instruction. */
static struct block *check_limit(struct vcpu *v, struct block *b)
{
	u64 rip = v->cpu.rip, limit = v->cpu.seg[SEG_CS].limit;

	if (hot(v)->mode == BLOCK_64 || hot(v)->mode == BLOCK_32_FLAT || rip + b->bytes - 1 <= limit)
		return b;
	if (rip + b->insn[0].len - 1 > limit) {
		fault_gp(v, 0);
		return NULL;
	}
	return cache_single(v, b);
}

static struct block *build(struct vcpu *v, struct code_page *p, gva_t lin)
{
	struct interp *x = interp_of(v);
	unsigned off = lin & ~PAGE_MASK;
	struct block *b;
	int r;

	x->build->off = (u16)off;
	x->build->mode = hot(v)->mode;
	x->build->crosses = false;
	r = translate_block(v, x->build, p->host + off, (unsigned)PAGE_SIZE - off, BLOCK_MAX);
	if (r == TRANSLATE_CROSSES)
		return build_crossing(v, p, lin);
	if (r)
		return NULL;
	b = keep_block(x, p);
	if (b) {
		b->next = p->bucket[off % PAGE_BUCKETS];
		p->bucket[off % PAGE_BUCKETS] = b;
	}
	return b;
}

static struct block *lookup(const struct code_page *p, unsigned off, unsigned mode)
{
	struct block *b = p->bucket[off % PAGE_BUCKETS];

	while (b && (b->off != off || b->mode != mode))
		b = b->next;
	return b;
}

struct block *cache_find_near(struct vcpu *v, unsigned off)
{
	const struct block *from = hot(v)->block;

	if (!from->page || from == interp_of(v)->step)
		return NULL;
	return lookup(from->page, off, from->mode);
}

void cache_make_room(struct vcpu *v)
{
	struct interp *x = interp_of(v);

	if (likely(!x->stale) && x->arena_size - x->arena_used >= 256 * KiB && thunk_room(x->thunks))
		return;
	fpu_park(v);
	if (!thunk_room(x->thunks))
		thunk_flush(x->thunks);
	x->stale = false;
	cache_flush(v);
}

struct block *cache_find(struct vcpu *v, u64 lin)
{
	struct interp *x = interp_of(v);
	struct tlb_entry *e = tlb_slot(hot(v)->tlb, lin);
	struct code_page *p = NULL;
	struct block *b = NULL;
	struct xlat t;

	cache_make_room(v);
	if (e->tag[MMU_EXEC] == (lin & PAGE_MASK))
		p = find_page(x, (u8 *)((lin & PAGE_MASK) + e->addend));
	if (!p) {
		if (mmu_translate(v, lin, MMU_EXEC, v->mmu->index, &t))
			return NULL;
		if (!t.host) {
			x->build->off = lin & ~PAGE_MASK;
			x->build->mode = hot(v)->mode;
			x->build->page = NULL;
			b = build_uncached(v, &t, lin);
			return b ? check_limit(v, b) : NULL;
		}
		p = find_page(x, t.host - (lin & ~PAGE_MASK));
		if (!p)
			p = make_page(v, t.host - (lin & ~PAGE_MASK), t.gpa);
	}
	b = lookup(p, lin & ~PAGE_MASK, hot(v)->mode);
	if (!b)
		b = build(v, p, lin);
	if (!b)
		return NULL;
	/* Where the world was stopped meanwhile the page may have been dropped: it serves this once. */
	if ((hot(v)->mode == BLOCK_64 || hot(v)->mode == BLOCK_32_FLAT) && likely(find_page(x, p->host) == p)) {
		struct jump_entry *j = &x->jump[jump_hash(lin)];

		/* The key as of now: building may have moved the generation. */
		hot(v)->key = (v->mmu->gen << 8) | (hot(v)->key & 0xff);
		*j = (struct jump_entry){ .lin = lin, .key = hot(v)->key, .block = b };
	}
	return check_limit(v, b);
}
