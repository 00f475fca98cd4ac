/*
 * The code cache: blocks by page and linear address, invalidation.
 *
 * A block belongs to a tpage: a guest page as it appears at one linear address.
 * Jumps inside a page go straight to the block's entry. Jumps from other pages
 * first look at the tpage's byte in the present set (AUX_VALID): it says that
 * the set maps this linear address to this frame for execution. Flushes clear
 * the bytes; the first jump into each page then looks at the page tables again,
 * and all links stay. So address spaces share translations.
 *
 * A write to translated bytes kills the blocks that hold them: where the
 * block's entries lead (its door) a jump out is put. The entries stay the
 * block's: translated again they lead to the new code, so that links and jump
 * caches stay good, and the new code takes the place of the old if it fits.
 * Whatever returns expected a dead block or another mapping is forgotten by
 * emptying the return stack.
 */
#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"
#include "cpu/xstate.h"

static unsigned lin_hash(gva_t lin)
{
	u64 h = lin >> PAGE_SHIFT;

	return (unsigned)(h ^ (h >> LIN_HASH_BITS)) & ((1u << LIN_HASH_BITS) - 1);
}
static unsigned frame_hash(const u8 *host)
{
	return lin_hash((uintptr_t)host);
}
static unsigned bucket_of(u64 lin)
{
	return (unsigned)((lin & ~PAGE_MASK) / (PAGE_SIZE / TPAGE_BUCKETS));
}

static void set_code_flag(struct vcpu *v, gpa_t gpa, bool on)
{
	struct page_target t;

	if (!memory_page(v->mem, gpa, &t) || !t.flags)
		return;
	if (!on) {
		if (*t.flags & PAGE_STORES)
			dbt_drop_frame_stores(dbt_of(v)->sh, t.host);
		*t.flags &= (u8) ~(PAGE_CODE_DBT | PAGE_STORES);
		return;
	}
	if (!(*t.flags & PAGE_CODE))
		mmu_protect_frame(v, gpa);
	*t.flags |= PAGE_CODE_DBT;
}

void dbt_mark_frame(struct vcpu *v, gpa_t gpa)
{
	set_code_flag(v, gpa, true);
}

void dbt_reset_returns(struct vcpu *v)
{
	dhot(v)->ret_sp = dhot(v)->ret_base;
	dbt_of(v)->user_sp = dbt_of(v)->bottom[1];
	dbt_of(v)->stats.return_resets++;
}

static void reset_jumps(const struct dbt_shared *sh, u8 *base, enum dbt_width w)
{
	const u8 **jump = (const u8 **)(base + AUX_JUMP(w));

	for (unsigned k = 0; k < 1u << JUMP_BITS; k++)
		jump[k] = sh->leave_saved[LEAVE_INDIRECT];
}

/* Of one set, or of all of the processor's. */
static void set_invalid(struct vcpu *v, u8 *base, u32 index)
{
	if (base) {
		base[AUX_VALID + index] = 0;
		return;
	}
	for (unsigned n = 0; n < flat_set_count(v->mmu->flat); n++)
		flat_set_base(v->mmu->flat, n)[AUX_VALID + index] = 0;
}

static void reset_all_returns(struct dbt_shared *sh)
{
	for (unsigned n = 0; n < sh->peers.n; n++)
		dbt_reset_returns(sh->peers.v[n]);
}

void dbt_reset_width(struct vcpu *v, enum dbt_width w)
{
	const struct flat *f = v->mmu->flat;

	for (unsigned n = 0; n < flat_set_count(f); n++)
		if (flat_set_used(f, n))
			reset_jumps(dbt_of(v)->sh, flat_set_base(f, n), w);
}

static void reset_own_jumps(struct vcpu *v)
{
	for (unsigned w = 0; w < WIDTHS; w++)
		if (dbt_of(v)->key_of[w])
			dbt_reset_width(v, w);
	dbt_reset_returns(v);
}

/* The set at `base` may be a new one, whose caches nobody has filled. */
static void fill_jumps(const struct dbt *x, u8 *base)
{
	for (unsigned w = 0; w < WIDTHS; w++)
		if (x->key_of[w] && !*(const u8 **)(base + AUX_JUMP(w)))
			reset_jumps(x->sh, base, w);
}

void dbt_reset_all_jumps(struct dbt_shared *sh)
{
	for (unsigned n = 0; n < sh->peers.n; n++) {
		reset_own_jumps(sh->peers.v[n]);
		dbt_drop_stores(sh->peers.v[n]);
	}
}

/* Returns that expect code of the set at `base` (NULL: of any). */
static void forget_returns(struct vcpu *v, const u8 *base)
{
	struct dbt *x = dbt_of(v);

	if (!base || x->user || base == dhot(v)->ac_base[0] || base == dhot(v)->ac_base[1])
		dbt_reset_returns(v);
	else
		x->user_sp = x->bottom[1];
}

static void invalidate_all(const struct dbt_shared *sh, const struct flat *f)
{
	for (unsigned n = 0; n < flat_set_count(f); n++)
		zero_words(flat_set_base(f, n) + AUX_VALID, (sh->pages_n + 63) & ~63u);
}

void dbt_exec_changed(void *vcpu, u8 *base, gva_t lin, bool all)
{
	struct vcpu *v = vcpu;
	struct dbt *x = dbt_of(v);

	if (!x) /* being attached */
		return;
	if (!all) {
		bool known = false;

		lin &= PAGE_MASK;
		for (struct tpage *p = x->sh->by_lin[lin_hash(lin)]; p; p = p->lin_next) {
			if (p->lin == lin) {
				set_invalid(v, base, p->index);
				known = true;
			}
		}
		if (!known)
			return;
	} else if (base) {
		zero_words(base + AUX_VALID, (x->sh->pages_n + 63) & ~63u);
		fill_jumps(x, base);
	} else {
		invalidate_all(x->sh, v->mmu->flat);
	}
	forget_returns(v, base);
}

void dbt_entry_saved(u8 *rw, const struct tblock *b, bool unseen)
{
	struct emit e = { .p = rw + b->entry_saved, .end = rw + b->entry };

	if (b->saved)
		return;
	if (!unseen) {
		put_restore_flags(&e, HOT(flags));
		return;
	}
	put(&e, 0xeb); /* jmp over it */
	put(&e, (unsigned)(e.end - (e.p + 1)));
	while (e.p < e.end)
		put(&e, 0x90);
}

/* At the door: mov ecx, index ; jmp leave. */
void dbt_shut_door(struct dbt_shared *sh, const struct tblock *b)
{
	u8 *p = sh->rw + b->door;
	const u8 *to = b->saved ? sh->leave_saved[LEAVE_ENTRY] : sh->leave[LEAVE_ENTRY];
	u32 id = (u32)(b - sh->blocks);
	s32 rel = (s32)(to - (sh->rx + b->door + DOOR_BYTES));

	dbt_entry_saved(sh->rw, b, false);
	p[0] = 0xb9;
	__builtin_memcpy(p + 1, &id, 4);
	p[5] = 0xe9;
	__builtin_memcpy(p + DOOR_REL, &rel, 4);
}

/* Before something else lies where its links are. */
void dbt_forget_exits(struct dbt_shared *sh, const struct tblock *b)
{
	for (u32 k = 0; k < b->exits_max; k++)
		sh->exits[b->exits + k].patch = 0;
}

static void kill_block(struct dbt *x, struct tblock *b)
{
	if (unlikely(x->trace & TRACE_SMC))
		dbt_observe_kill(x->v, b);
	b->dead = true;
	x->sh->changes++;
	if (b->calls)
		reset_all_returns(x->sh);
	b->page->live--;
	dbt_forget_exits(x->sh, b);
	dbt_shut_door(x->sh, b);
	x->stats.kills++;
}

static u64 line_mask(unsigned off, unsigned len)
{
	unsigned first = off >> 6, last = (unsigned)(MIN(off + len, PAGE_SIZE) - 1) >> 6;

	return (last == 63 ? ~0ull : BIT(last + 1) - 1) & ~(BIT(first) - 1);
}

/* The lines of `lines` that hold code of live blocks. */
static u64 lines_in_use(const struct tpage *p, u64 lines)
{
	unsigned first = (unsigned)__builtin_ctzll(lines) * 64,
		 last = (63 - (unsigned)__builtin_clzll(lines)) * 64 + 63;
	u64 used = 0;

	for (unsigned k = bucket_of(first - MIN(first, p->longest)); k <= bucket_of(last); k++)
		for (const struct tblock *b = p->bucket[k]; b; b = b->next)
			if (!b->dead)
				used |= line_mask(b->lin & ~PAGE_MASK, b->bytes);
	return lines & used;
}

void dbt_find_lines(struct tpage *p)
{
	p->lines = 0;
	for (unsigned k = 0; k < TPAGE_BUCKETS; k++)
		for (const struct tblock *b = p->bucket[k]; b; b = b->next)
			if (!b->dead)
				p->lines |= line_mask(b->lin & ~PAGE_MASK, b->bytes);
}

void dbt_frame_changed(struct vcpu *v, const struct tpage *p)
{
	struct dbt *x = dbt_of(v);
	u64 *frame_lines = dbt_lines(x->sh, p->host), lines = 0;
	u32 live = 0;

	for (const struct tpage *q = x->sh->by_frame[frame_hash(p->host)]; q; q = q->frame_next) {
		if (q->host != p->host)
			continue;
		lines |= q->lines;
		live += q->live;
	}
	if (frame_lines)
		*frame_lines = lines;
	if (!live && !x->sh->parallel) /* else it is likely to be translated again: without a stop, then */
		set_code_flag(v, p->gpa, false);
}

struct tblock **dbt_bucket(struct tpage *p, u64 lin)
{
	return &p->bucket[bucket_of(lin)];
}

static void page_written(struct vcpu *v, struct tpage *p, unsigned off, unsigned len)
{
	u64 lines = 0;

	if (!(p->lines & line_mask(off, len)))
		return;
	for (unsigned k = bucket_of(off - MIN(off, p->longest)); k <= bucket_of(off + len - 1); k++) {
		for (struct tblock *b = p->bucket[k]; b; b = b->next) {
			unsigned at = b->lin & ~PAGE_MASK;

			if (b->dead || at >= off + len || off >= at + b->bytes)
				continue;
			kill_block(dbt_of(v), b);
			lines |= line_mask(at, b->bytes);
		}
	}
	if (lines)
		p->lines = (p->lines & ~lines) | lines_in_use(p, lines);
}

static bool page_holds(const struct tpage *p, unsigned off, unsigned len)
{
	if (!(p->lines & line_mask(off, len)))
		return false;
	for (unsigned k = bucket_of(off - MIN(off, p->longest)); k <= bucket_of(off + len - 1); k++)
		for (const struct tblock *b = p->bucket[k]; b; b = b->next)
			if (!b->dead && (b->lin & ~PAGE_MASK) < off + len && off < (b->lin & ~PAGE_MASK) + b->bytes)
				return true;
	return false;
}

bool dbt_frame_holds(struct dbt_shared *sh, const u8 *host, unsigned off, unsigned len)
{
	for (const struct tpage *p = sh->by_frame[frame_hash(host)]; p; p = p->frame_next)
		if (p->host == host && page_holds(p, off, len))
			return true;
	return false;
}

u32 dbt_frame_written(struct vcpu *v, const u8 *host, unsigned off, unsigned len)
{
	struct dbt *x = dbt_of(v);
	u64 *frame_lines = dbt_lines(x->sh, host), lines = 0;
	u32 live = 0;

	for (struct tpage *p = x->sh->by_frame[frame_hash(host)]; p; p = p->frame_next) {
		if (p->host != host)
			continue;
		page_written(v, p, off, len);
		lines |= p->lines;
		live += p->live;
	}
	if (frame_lines)
		*frame_lines = lines;
	return live;
}

static bool being_translated(const struct dbt_shared *sh, const u8 *host)
{
	for (unsigned n = 0; n < sh->peers.n; n++)
		if (__atomic_load_n(&dbt_of(sh->peers.v[n])->translating, __ATOMIC_ACQUIRE) == host)
			return true;
	return false;
}

void dbt_page_written(struct dbt_shared *sh, gpa_t gpa, unsigned len)
{
	struct vcpu *v = sh->peers.n ? own_processor(sh->peers.v[0]) : NULL;
	unsigned off = gpa & ~PAGE_MASK;
	struct page_target t;

	if (!len || !v)
		return;
	if (off + len > PAGE_SIZE) { /* the rest lies in the next frame */
		dbt_page_written(sh, (gpa & PAGE_MASK) + PAGE_SIZE, (unsigned)(off + len - PAGE_SIZE));
		len = (unsigned)PAGE_SIZE - off;
	}
	if (!memory_page(v->mem, gpa, &t) || !t.host || !t.flags || !(*t.flags & PAGE_CODE_DBT))
		return;
	if (!sh->parallel) {
		if (!dbt_frame_written(v, t.host, off, len))
			set_code_flag(v, gpa, false);
		return;
	}
	/* The bytes were written before this, and what is being translated is marked before it is read. That the frame
	 * may hold no code any more is left to the next store: code that is patched will be back soon. */
	if (!being_translated(sh, t.host) && !dbt_frame_holds(sh, t.host, off, len))
		return;
	dbt_stop(v, STOP_KILL);
	dbt_frame_written(v, t.host, off, len);
	dbt_go(v);
}

bool dbt_frame_freed(struct vcpu *v, const u8 *host, gpa_t gpa)
{
	struct dbt_shared *sh = dbt_of(v)->sh;

	for (const struct tpage *p = sh->by_frame[frame_hash(host)]; p; p = p->frame_next)
		if (p->host == host && p->live)
			return false;
	set_code_flag(v, gpa, false);
	return true;
}

void dbt_flush(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);

	if (unlikely(x->trace & TRACE_SMC))
		dbt_observe_kill(v, NULL);
	for (u32 k = 0; k < x->sh->pages_n; k++) {
		u64 *lines = dbt_lines(x->sh, x->sh->pages[k].host);

		if (lines)
			*lines = 0;
		set_code_flag(v, x->sh->pages[k].gpa, false);
	}
	for (unsigned p = 0; p < x->sh->peers.n; p++)
		invalidate_all(x->sh, x->sh->peers.v[p]->mmu->flat);
	dbt_reset_all_jumps(x->sh);
	for (unsigned k = 0; k < 1u << LIN_HASH_BITS; k++)
		x->sh->by_lin[k] = x->sh->by_frame[k] = NULL;
	x->sh->pages_n = 0;
	x->sh->free_pages = NULL;
	dbt_empty_regions(x->sh);
	zero_words(x->sh->cut, CUTS * 8);
	zero_words((u8 *)x->sh->twins, sizeof(*x->sh->twins) << TWIN_BITS);
	x->sh->stale = false;
	x->sh->flushes++;
	x->sh->changes++;
}

static struct tpage *find_page(struct dbt *x, gva_t lin, const u8 *host)
{
	struct tpage *p = x->sh->by_lin[lin_hash(lin)];

	while (p && (p->lin != lin || p->host != host || p->key != x->key))
		p = p->lin_next;
	return p;
}

static struct tpage *make_page(struct vcpu *v, gva_t lin, u8 *host, gpa_t gpa)
{
	struct dbt *x = dbt_of(v);
	struct tpage *p = x->sh->free_pages;

	if (p)
		x->sh->free_pages = p->next_free;
	else
		p = &x->sh->pages[x->sh->pages_n++];
	p->lin = lin;
	p->host = host;
	p->gpa = gpa & PAGE_MASK;
	p->key = x->key;
	p->index = (u32)(p - x->sh->pages);
	p->lines = 0;
	p->live = 0;
	p->longest = 0;
	p->touched = p->needed = false;
	for (unsigned k = 0; k < TPAGE_BUCKETS; k++)
		p->bucket[k] = NULL;
	/* looked through by others without the lock */
	p->lin_next = x->sh->by_lin[lin_hash(lin)];
	__atomic_store_n(&x->sh->by_lin[lin_hash(lin)], p, __ATOMIC_RELEASE);
	p->frame_next = x->sh->by_frame[frame_hash(host)];
	__atomic_store_n(&x->sh->by_frame[frame_hash(host)], p, __ATOMIC_RELEASE);
	return p;
}

void dbt_free_page(struct dbt_shared *sh, struct tpage *p)
{
	struct tpage **at = &sh->by_lin[lin_hash(p->lin)];

	while (*at != p)
		at = &(*at)->lin_next;
	*at = p->lin_next;
	for (at = &sh->by_frame[frame_hash(p->host)]; *at != p; at = &(*at)->frame_next)
		;
	*at = p->frame_next;
	for (unsigned n = 0; n < sh->peers.n; n++)
		set_invalid(sh->peers.v[n], NULL, p->index);
	p->live = 0;
	p->lines = 0;
	p->next_free = sh->free_pages;
	sh->free_pages = p;
}

static void open_door(struct dbt_shared *sh, const struct tblock *b)
{
	s32 rel = (s32)(b->body - (b->door + 5));

	if (b->door == b->body)
		return;
	sh->rw[b->door] = 0xe9;
	__builtin_memcpy(sh->rw + b->door + 1, &rel, 4);
}

static void put_in_bucket(struct tpage *p, struct tblock *b, struct tblock *old)
{
	struct tblock **at = &p->bucket[bucket_of(b->lin)];

	while (old && *at != old)
		at = &(*at)->next;
	b->next = old ? old->next : *at;
	__atomic_store_n(at, b, __ATOMIC_RELEASE);
}

void dbt_add_block(struct vcpu *v, struct tpage *p, struct tblock *b, struct tblock *old)
{
	struct dbt *x = dbt_of(v);
	u64 *lines = dbt_lines(x->sh, p->host);

	dbt_note_twin(x, b);
	b->dead = false;
	p->longest = MAX(p->longest, b->bytes);
	p->lines |= line_mask(b->lin & ~PAGE_MASK, b->bytes);
	if (lines)
		*lines |= p->lines;
	p->live++;
	if (b != old)
		put_in_bucket(p, b, old);
	open_door(x->sh, b);
	set_code_flag(v, p->gpa, true);
}

/*
 * Where processors run at once a dead block is not translated again in its
 * place, for others may be on their way through its entries. Its door leads on
 * to the one that has followed it.
 */
void dbt_follow(struct dbt_shared *sh, const struct tblock *dead, const struct tblock *b)
{
	u32 to = dead->saved ? b->entry_saved : b->entry;

	if (b->page == dead->page) /* the rel32 of the jump there: a word of 8 bytes holds it */
		*(volatile any_u32 *)(sh->rw + dead->door + DOOR_REL) = to - (dead->door + DOOR_BYTES);
}

struct tpage *dbt_page_at(struct vcpu *v, gva_t page)
{
	const struct tlb_entry *e = tlb_slot(v->mmu->current, page);
	struct dbt *x = dbt_of(v);
	struct tpage *p;
	struct xlat t;

	if (e->tag[MMU_EXEC] == page) {
		p = find_page(x, page, (u8 *)(page + e->addend));
		if (likely(p != NULL))
			return p;
	}
	if (mmu_translate(v, page, MMU_EXEC, v->mmu->index, &t))
		return NULL;
	if (!t.host) {
		v->fault.vector = 0xff;
		return NULL;
	}
	p = find_page(x, page, t.host);
	return p || (!x->sh->free_pages && x->sh->pages_n == PAGES_MAX) ? p : make_page(v, page, t.host, t.gpa);
}

void dbt_crossing_left(struct vcpu *v, struct tblock *b)
{
	gva_t next;
	struct tpage *p;
	bool same;

	if (!unchanged(v))
		return;
	next = (b->lin & PAGE_MASK) + PAGE_SIZE;
	p = dbt_page_at(v, cpu_64bit(&v->cpu) ? next : (u32)next);
	if (!p || !unchanged(v))
		return;
	same = p == b->page2;
	for (unsigned k = 0; same && k < b->tail_len; k++)
		same = p->host[k] == b->tail[k];
	if (same) {
		v->mmu->flat_base[AUX_VALID + p->index] = 1;
		return;
	}
	dbt_stop(v, STOP_KILL);
	if (unchanged(v) && !b->dead)
		kill_block(dbt_of(v), b);
	dbt_go(v);
}

const struct tblock *dbt_block_at(const struct dbt_shared *sh, u32 host)
{
	u32 r = (host - sh->start) / sh->per.used, lo, hi;

	if (host < sh->start || r >= sh->regions)
		return NULL;
	lo = r * sh->per.blocks;
	hi = sh->region[r].blocks;
	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (sh->blocks[mid].host_end <= host)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo == sh->region[r].blocks || host < sh->blocks[lo].host ? NULL : &sh->blocks[lo];
}

const struct tinsn *dbt_insn_at(const struct dbt_shared *sh, u32 host)
{
	const struct tblock *b = dbt_block_at(sh, host);
	const struct tinsn *i;

	if (!b || !b->n)
		return NULL;
	i = &sh->insns[b->first];
	while (i + 1 < &sh->insns[b->first] + b->n && b->host + i[1].host <= host)
		i++;
	return i;
}
