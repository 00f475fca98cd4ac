/*
 * Regions of the code cache, and what is dropped when it is full.
 *
 * The cache and the pools are divided into regions, each with its own share of
 * all. A region is filled with code of user mode or of the kernel; the kernel's
 * stays useful, while that of processes that have ended is never run again
 * (each has its program elsewhere). When there is no free region the oldest of
 * the kind that has more than its part is emptied: its blocks are forgotten,
 * links into it from other regions are taken back, and so is whatever else may
 * lead there, jump caches and return stacks. Pages stay.
 */
#include "engine/dbt/dbt.h"

static u32 region_base(const struct dbt *x, u32 r)
{
	return x->start + r * x->per.used;
}

static void load_cursors(struct dbt *x, u32 r)
{
	const struct cursors *c = &x->region[r].at, *per = &x->per;

	x->current = r;
	x->used = c->used;
	x->blocks_n = c->blocks;
	x->insns_n = c->insns;
	x->exits_n = c->exits;
	x->sys_n = c->sys;
	x->recipes_n = c->recipes;
	x->region_end = region_base(x, r) + per->used;
	x->blocks_max = (r + 1) * per->blocks;
	x->insns_max = (r + 1) * per->insns;
	x->exits_max = (r + 1) * per->exits;
	x->sys_max = (r + 1) * per->sys;
	x->recipes_max = (r + 1) * per->recipes;
}

void dbt_note_cursors(struct dbt *x)
{
	x->region[x->current].at = (struct cursors){ .used = x->used,
						     .blocks = x->blocks_n,
						     .insns = x->insns_n,
						     .exits = x->exits_n,
						     .sys = x->sys_n,
						     .recipes = x->recipes_n };
}

static void empty(struct dbt *x, u32 r)
{
	const struct cursors *per = &x->per;

	x->region[r] = (struct region){ .at = { .used = region_base(x, r),
						.blocks = r * per->blocks,
						.insns = r * per->insns,
						.exits = r * per->exits,
						.sys = r * per->sys,
						.recipes = r * per->recipes } };
}

struct cursors dbt_in_use(const struct dbt *x)
{
	struct cursors sum = { 0 };

	for (u32 r = 0; r < x->regions; r++) {
		const struct cursors *at = &x->region[r].at, *per = &x->per;

		sum.used += at->used - region_base(x, r);
		sum.blocks += at->blocks - r * per->blocks;
		sum.insns += at->insns - r * per->insns;
		sum.exits += at->exits - r * per->exits;
		sum.sys += at->sys - r * per->sys;
		sum.recipes += at->recipes - r * per->recipes;
	}
	return sum;
}

void dbt_empty_regions(struct dbt *x)
{
	for (u32 r = 0; r < x->regions; r++)
		empty(x, r);
	x->filling[0] = x->filling[1] = NO_REGION;
	load_cursors(x, 0);
}

/* ---- emptying one ---- */

static bool in_region(const struct dbt *x, u32 r, u32 host)
{
	return host - region_base(x, r) < x->per.used;
}

/* Out of the page's bucket; false: it was not there, since another took its place. */
static bool forget(struct tblock *b)
{
	struct tblock **at = dbt_bucket(b->page, b->lin);

	while (*at && *at != b)
		at = &(*at)->next;
	if (!*at)
		return false;
	*at = b->next;
	if (!b->dead)
		b->page->live--;
	b->dead = true;
	b->page->lines = 0; /* to be found anew */
	b->page->touched = true;
	return true;
}

/* `b` goes, but its entries are those of a dead block elsewhere: that one is to be translated again. */
static void return_entries(struct dbt *x, const struct tblock *b)
{
	struct tblock *owner = (struct tblock *)dbt_block_at(x, b->door), **at = dbt_bucket(b->page, b->lin);

	dbt_shut_door(x, owner);
	owner->next = *at;
	*at = owner;
}

static void forget_blocks(struct dbt *x, u32 r)
{
	for (u32 q = 0; q < x->regions; q++) {
		for (u32 k = q * x->per.blocks; k < x->region[q].at.blocks; k++) {
			struct tblock *b = &x->blocks[k];
			bool entered_here = in_region(x, r, b->door);

			if ((q == r || entered_here) && forget(b) && !entered_here)
				return_entries(x, b);
		}
	}
}

/* A link into region `r` leads out of translated code again. */
static void unlink_exit(struct dbt *x, const struct texit *e, u32 r)
{
	u32 at[2] = { e->patch, e->far ? e->patch + e->far : 0 };

	for (unsigned k = 0; k < 2; k++) {
		s32 rel;

		if (!at[k])
			continue;
		__builtin_memcpy(&rel, x->rw + at[k], 4);
		if (!in_region(x, r, at[k] + 4 + (u32)rel))
			continue;
		rel = k ? 0 : (s32)e->stub - 4;
		__builtin_memcpy(x->rw + at[k], &rel, 4);
	}
}

static void unlink_exits(struct dbt *x, u32 r)
{
	for (u32 q = 0; q < x->regions; q++)
		for (u32 k = q * x->per.exits; q != r && k < x->region[q].at.exits; k++)
			if (x->exits[k].patch)
				unlink_exit(x, &x->exits[k], r);
}

static void look_at_pages(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);

	for (u32 k = 0; k < x->pages_n; k++)
		if (x->pages[k].touched)
			dbt_find_lines(&x->pages[k]);
	for (u32 k = 0; k < x->pages_n; k++) {
		if (x->pages[k].touched)
			dbt_frame_changed(v, &x->pages[k]);
		x->pages[k].touched = false;
	}
}

static void evict(struct vcpu *v, u32 r)
{
	struct dbt *x = dbt_of(v);

	forget_blocks(x, r);
	unlink_exits(x, r);
	look_at_pages(v);
	dbt_drop_stores(v);
	for (unsigned n = 0; n < flat_set_count(v->mmu->flat); n++)
		for (unsigned w = 0; w < WIDTHS; w++)
			dbt_reset_jumps(x, flat_set_base(v->mmu->flat, n), w);
	dbt_reset_returns(v);
	empty(x, r);
	x->stats.evictions++;
	x->stats.flushes++;
}

/* ---- choice ---- */

static u32 oldest(const struct dbt *x, bool user)
{
	u32 found = NO_REGION;

	for (u32 r = 0; r < x->regions; r++)
		if (x->region[r].born && x->region[r].user == user &&
		    (found == NO_REGION || x->region[r].born < x->region[found].born))
			found = r;
	return found;
}

static u32 victim(const struct dbt *x, bool user)
{
	u32 kinds[2] = { 0, 0 };
	bool from;

	for (u32 r = 0; r < x->regions; r++) {
		if (!x->region[r].born)
			return r;
		kinds[x->region[r].user]++;
	}
	from = kinds[user] >= x->regions / 2 ? user : !user;
	return oldest(x, from);
}

void dbt_open_region(struct vcpu *v, bool user)
{
	struct dbt *x = dbt_of(v);
	u32 r = x->filling[user];

	if (r == NO_REGION || x->region[r].full) {
		r = victim(x, user);
		if (x->region[r].born)
			evict(v, r);
		if (x->filling[!user] == r)
			x->filling[!user] = NO_REGION;
		x->region[r].born = ++x->births;
		x->region[r].user = user;
		x->filling[user] = r;
	}
	load_cursors(x, r);
}
