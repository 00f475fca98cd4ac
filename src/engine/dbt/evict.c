/*
 * Regions of the code cache, and what is dropped when it is full.
 *
 * The cache and the pools are divided into regions, each with its own share of
 * all. One is filled with the kernel's code and one with programs'. When one is
 * full an empty one follows it; when there is none, one is emptied: its
 * blocks are forgotten, links into it from other regions are taken back, and
 * so is whatever else may lead there, jump caches and return stacks. Pages
 * without blocks are freed.
 *
 * It is the oldest of the programs', unless the kernel has more than half of
 * all: code of programs that have ended is the larger part of what is dropped, and
 * programs that are started again are cloned from those before (clone.c), but
 * kernel code is translated anew.
 */
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/host_syscall.h"
#include "engine/dbt/dbt.h"

static u32 region_base(const struct dbt *x, u32 r)
{
	return x->start + r * x->per.used;
}

static void load_cursors(struct dbt *x, u32 r)
{
	const struct cursors *c = &x->region[r], *per = &x->per;

	x->current = r;
	x->used = c->used;
	x->blocks_n = c->blocks;
	x->insns_n = c->insns;
	x->exits_n = c->exits;
	x->sys_n = c->sys;
	x->recipes_n = c->recipes;
	x->fixes_n = c->fixes;
	x->region_end = region_base(x, r) + per->used;
	x->blocks_max = (r + 1) * per->blocks;
	x->insns_max = (r + 1) * per->insns;
	x->exits_max = (r + 1) * per->exits;
	x->sys_max = (r + 1) * per->sys;
	x->recipes_max = (r + 1) * per->recipes;
	x->fixes_max = (r + 1) * per->fixes;
}

void dbt_note_cursors(struct dbt *x)
{
	x->region[x->current] = (struct cursors){ .used = x->used,
						  .blocks = x->blocks_n,
						  .insns = x->insns_n,
						  .exits = x->exits_n,
						  .sys = x->sys_n,
						  .recipes = x->recipes_n,
						  .fixes = x->fixes_n };
}

static void empty(struct dbt *x, u32 r)
{
	const struct cursors *per = &x->per;

	x->region[r] = (struct cursors){ .used = region_base(x, r),
					 .blocks = r * per->blocks,
					 .insns = r * per->insns,
					 .exits = r * per->exits,
					 .sys = r * per->sys,
					 .recipes = r * per->recipes,
					 .fixes = r * per->fixes };
}

#define POPULATE ((u64)(64 * KiB))

/*
 * The next pages of the code cache and of the large pools, some at a time: a
 * fault for each costs as much as the translation of a small block.
 */
static void populate(void *pool, u64 size, u64 from, u64 to)
{
	u64 at = to & ~(POPULATE - 1);

	if (unlikely((from ^ to) & ~(POPULATE - 1)) && at < size)
		host_syscall3(SYS_madvise, (u8 *)pool + at, MIN(POPULATE, size - at), MADV_POPULATE_WRITE);
}

void dbt_take_records(struct dbt *x, const struct tblock *b)
{
	u32 insns = b->first + b->insns_max;

	populate(x->rw, x->size, x->used, b->host_max);
	populate(x->insns, x->regions * x->per.insns * sizeof(*x->insns), x->insns_n * sizeof(*x->insns),
		 insns * sizeof(*x->insns));
	populate(x->blocks, x->regions * x->per.blocks * sizeof(*x->blocks), x->blocks_n * sizeof(*x->blocks),
		 (x->blocks_n + 1) * sizeof(*x->blocks));
	x->used = b->host_max;
	x->insns_n = insns;
	for (u32 k = (b->first + INSNS_A_MARK - 1) / INSNS_A_MARK; k * INSNS_A_MARK < x->insns_n; k++)
		x->insn_block[k] = x->blocks_n;
	x->blocks_n++;
	dbt_note_cursors(x);
}

struct cursors dbt_in_use(const struct dbt *x)
{
	struct cursors sum = { 0 };

	for (u32 r = 0; r < x->regions; r++) {
		const struct cursors *at = &x->region[r], *per = &x->per;

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
	for (u32 r = 0; r < x->regions; r++) {
		empty(x, r);
		x->holds[r] = HOLDS_NOTHING;
	}
	x->fills[false] = 1;
	x->fills[true] = 0;
	x->holds[1] = HOLDS_KERNEL;
	x->holds[0] = HOLDS_USER;
	load_cursors(x, 0);
}

void dbt_choose_region(struct dbt *x)
{
	load_cursors(x, x->fills[x->user]);
}

/* ---- emptying one ---- */

static bool in_region(const struct dbt *x, u32 r, u32 host)
{
	return host - region_base(x, r) < x->per.used;
}

/* Out of the page's bucket; false: it was not there, since another took its place. */
static bool forget(struct dbt *x, struct tblock *b)
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
	if (!b->page->touched) {
		b->page->touched = true;
		b->page->next_touched = x->touched;
		x->touched = b->page;
	}
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
	for (u32 k = 0; k < x->pages_n; k++)
		x->pages[k].needed = false;
	for (u32 q = 0; q < x->regions; q++) {
		for (u32 k = q * x->per.blocks; k < x->region[q].blocks; k++) {
			struct tblock *b = &x->blocks[k];
			bool entered_here = in_region(x, r, b->door);

			if (q != r && !entered_here) {
				if (b->page2 && !b->dead)
					b->page2->needed = true;
			} else if (forget(x, b) && !entered_here) {
				return_entries(x, b);
			}
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
		for (u32 k = q * x->per.exits; q != r && k < x->region[q].exits; k++)
			if (x->exits[k].patch)
				unlink_exit(x, &x->exits[k], r);
}

static bool holds_blocks(const struct tpage *p)
{
	for (unsigned k = 0; k < TPAGE_BUCKETS; k++)
		if (p->bucket[k])
			return true;
	return false;
}

/* Where blocks went: what is left. */
static void look_at_pages(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	struct tpage *next;

	for (struct tpage *p = x->touched; p; p = p->next_touched)
		dbt_find_lines(p);
	for (struct tpage *p = x->touched; p; p = p->next_touched)
		dbt_frame_changed(v, p);
	for (struct tpage *p = x->touched; p; p = next) {
		next = p->next_touched;
		p->touched = false;
		if (!p->needed && !holds_blocks(p))
			dbt_free_page(x, p);
	}
	x->touched = NULL;
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

/* The region of those that hold `what` that was begun first, of those being filled none; x->regions: there is none. */
static u32 oldest(const struct dbt *x, enum region_use what)
{
	u32 found = x->regions;

	for (u32 r = 0; r < x->regions; r++)
		if (x->holds[r] == what && r != x->fills[0] && r != x->fills[1] &&
		    (found == x->regions || x->begun[r] < x->begun[found]))
			found = r;
	return found;
}

static u32 next_region(struct vcpu *v)
{
	const struct dbt *x = dbt_of(v);
	u32 kernel = 0, r = oldest(x, HOLDS_NOTHING);

	if (r < x->regions)
		return r;
	for (u32 k = 0; k < x->regions; k++)
		kernel += x->holds[k] == HOLDS_KERNEL;
	r = oldest(x, kernel + !x->user > x->regions / 2 ? HOLDS_KERNEL : HOLDS_USER);
	if (r == x->regions) /* each has but the one that is being filled, of one kind */
		r = x->fills[x->user];
	evict(v, r);
	return r;
}

void dbt_next_region(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	u32 r = next_region(v);

	x->holds[r] = x->user ? HOLDS_USER : HOLDS_KERNEL;
	x->begun[r] = x->stats.regions++;
	x->fills[x->user] = r;
	load_cursors(x, r);
}
