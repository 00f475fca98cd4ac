/*
 * Stores to pages that hold translated code. Such pages have no write entry in
 * the flat tables. What a translated store meets instead:
 *
 *  - the routine `code_store` (entry.c), which knows the page from a struct
 *    code_store and lets the store through if the lines of 64 bytes it touches
 *    hold no code: some ten cycles;
 *  - these functions: the blocks that overlap the store are killed before it is
 *    done, and then the store, too, is let through by an entry for this once.
 *    Only a store into its own block is left to the reference engine, for what
 *    follows it in the block is out of date.
 *
 * General registers only: the guest's vector state is live.
 */
#include "engine/dbt/dbt.h"

static struct code_store *slot_of(struct vcpu *v, gva_t lin)
{
	struct code_store *s = (struct code_store *)(v->mmu->flat_base + AUX_STORES);

	return &s[(lin >> PAGE_SHIFT) % CODE_STORES];
}

void dbt_drop_stores(struct vcpu *v)
{
	const struct flat *f = v->mmu->flat;

	for (unsigned n = 0; n < flat_set_count(f); n++) {
		struct code_store *s = (struct code_store *)(flat_set_base(f, n) + AUX_STORES);

		for (unsigned k = 0; k < CODE_STORES; k++) {
			s[k].minus_page = s[k].minus_gen = s[k].entry = 0;
			s[k].lines = &dbt_of(v)->sh->no_store;
		}
	}
}

void dbt_drop_frame_stores(struct dbt_shared *sh, const u8 *host)
{
	const u64 *lines = dbt_lines(sh, host);

	for (unsigned p = 0; lines && p < sh->peers.n; p++) {
		const struct flat *f = sh->peers.v[p]->mmu->flat;

		for (unsigned n = 0; n < flat_set_count(f); n++) {
			struct code_store *s = (struct code_store *)(flat_set_base(f, n) + AUX_STORES);

			for (unsigned k = 0; k < CODE_STORES; k++)
				if (s[k].lines == lines)
					s[k].lines = &sh->no_store;
		}
	}
}

u64 *dbt_lines(struct dbt_shared *sh, const u8 *host)
{
	u64 frame = (u64)(host - sh->ram) >> PAGE_SHIFT;

	return frame < sh->frames ? &sh->lines[frame] : NULL;
}

static bool serves(struct vcpu *v, const struct code_store *s, gva_t lin)
{
	return lin + s->minus_page < PAGE_SIZE && !(v->mmu->gen + s->minus_gen) && s->lines != &dbt_of(v)->sh->no_store;
}

bool dbt_known_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry)
{
	const struct code_store *s = slot_of(v, lin);
	struct dbt_shared *sh = dbt_of(v)->sh;
	const u8 *host;

	if (!serves(v, s, lin))
		return false;
	host = (const u8 *)((lin & PAGE_MASK) + s->entry + 1);
	if (sh->parallel && dbt_frame_holds(sh, host, lin & ~PAGE_MASK, size))
		return false;
	dbt_of(v)->stats.code_stores++;
	if (!sh->parallel)
		dbt_frame_written(v, host, lin & ~PAGE_MASK, size);
	*entry = s->entry;
	return true;
}

/*
 * Processors that run at once, with the lock: a store that overwrites code is
 * left to the reference engine, which kills it when it is done, and so is one
 * to code that a reference engine has decoded. Other stores may be done beside
 * the code. From then on others stop the world before they add code to the frame.
 */
static enum code_store_result store_beside(struct vcpu *v, const struct page_target *t, gpa_t gpa, const u8 *host,
					   unsigned size)
{
	const u8 *frame = host - (gpa & ~PAGE_MASK);

	if (*t->flags & PAGE_CODE_INTERP)
		return STORE_NONE;
	if (dbt_frame_freed(v, frame, gpa))
		return STORE_RETRY;
	if (dbt_frame_holds(dbt_of(v)->sh, frame, gpa & ~PAGE_MASK, size))
		return STORE_NONE;
	*t->flags |= PAGE_STORES;
	return STORE_ONCE;
}

static enum code_store_result new_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry)
{
	struct dbt_shared *sh = dbt_of(v)->sh;
	struct code_store *s = slot_of(v, lin);
	enum code_store_result r;
	struct page_target t;
	u64 *lines;
	gpa_t gpa;
	u8 *host;

	if (!flat_code_target(v, lin, &gpa, &host) || !memory_page(v->mem, gpa, &t))
		return STORE_NONE;
	lines = dbt_lines(sh, host);
	if (!lines)
		return STORE_NONE;
	dbt_of(v)->stats.code_stores++;
	if (sh->parallel) {
		r = store_beside(v, &t, gpa, host, size);
		if (r != STORE_ONCE)
			return r;
	} else {
		memory_notify_written(v->mem, gpa, size);
		if (!(*t.flags & PAGE_CODE))
			return STORE_RETRY;
	}
	*entry = (uintptr_t)host - lin - 1;
	if (!(*t.flags & PAGE_CODE_INTERP)) {
		s->minus_page = 0 - (lin & PAGE_MASK);
		s->minus_gen = 0 - v->mmu->gen;
		s->entry = *entry;
		s->lines = lines;
	}
	return STORE_ONCE;
}

enum code_store_result dbt_new_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry)
{
	enum code_store_result r;

	dbt_lock(v);
	r = new_store(v, lin, size, entry);
	dbt_unlock(v);
	return r;
}
