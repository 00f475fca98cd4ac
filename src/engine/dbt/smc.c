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

u64 *dbt_lines(struct dbt *x, const u8 *host)
{
	u64 frame = (u64)(host - x->sh->ram) >> PAGE_SHIFT;

	return frame < x->sh->frames ? &x->sh->lines[frame] : NULL;
}

bool dbt_known_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry)
{
	const struct code_store *s = slot_of(v, lin);
	const u8 *host;

	if (lin + s->minus_page >= PAGE_SIZE || v->mmu->gen + s->minus_gen || s->lines == &dbt_of(v)->sh->no_store)
		return false;
	dbt_of(v)->stats.code_stores++;
	host = (const u8 *)((lin & PAGE_MASK) + s->entry + 1);
	dbt_frame_written(v, host, lin & ~PAGE_MASK, size);
	*entry = s->entry;
	return true;
}

enum code_store_result dbt_new_store(struct vcpu *v, gva_t lin, unsigned size, u64 *entry)
{
	struct dbt *x = dbt_of(v);
	struct code_store *s = slot_of(v, lin);
	struct page_target t;
	u64 *lines;
	gpa_t gpa;
	u8 *host;

	if (!flat_code_target(v, lin, &gpa, &host) || !memory_page(v->mem, gpa, &t))
		return STORE_NONE;
	lines = dbt_lines(x, host);
	if (!lines)
		return STORE_NONE;
	x->stats.code_stores++;
	memory_notify_written(v->mem, gpa, size);
	if (!(*t.flags & PAGE_CODE))
		return STORE_RETRY;
	*entry = (uintptr_t)host - lin - 1;
	if (!(*t.flags & PAGE_CODE_INTERP)) {
		s->minus_page = 0 - (lin & PAGE_MASK);
		s->minus_gen = 0 - v->mmu->gen;
		s->entry = *entry;
		s->lines = lines;
	}
	return STORE_ONCE;
}
