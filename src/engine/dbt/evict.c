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

static u32 region_base(const struct dbt_shared *sh, u32 r)
{
	return sh->start + r * sh->per.used;
}

static void load_cursors(struct dbt_shared *sh, u32 r)
{
	const struct cursors *c = &sh->region[r], *per = &sh->per;

	sh->current = r;
	sh->used = c->used;
	sh->blocks_n = c->blocks;
	sh->insns_n = c->insns;
	sh->exits_n = c->exits;
	sh->sys_n = c->sys;
	sh->recipes_n = c->recipes;
	sh->fixes_n = c->fixes;
	sh->region_end = region_base(sh, r) + per->used;
	sh->blocks_max = (r + 1) * per->blocks;
	sh->insns_max = (r + 1) * per->insns;
	sh->exits_max = (r + 1) * per->exits;
	sh->sys_max = (r + 1) * per->sys;
	sh->recipes_max = (r + 1) * per->recipes;
	sh->fixes_max = (r + 1) * per->fixes;
}

void dbt_note_cursors(struct dbt_shared *sh)
{
	sh->region[sh->current] = (struct cursors){ .used = sh->used,
						    .blocks = sh->blocks_n,
						    .insns = sh->insns_n,
						    .exits = sh->exits_n,
						    .sys = sh->sys_n,
						    .recipes = sh->recipes_n,
						    .fixes = sh->fixes_n };
}

static void empty(struct dbt_shared *sh, u32 r)
{
	const struct cursors *per = &sh->per;

	sh->region[r] = (struct cursors){ .used = region_base(sh, r),
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

void dbt_take_records(struct dbt_shared *sh, const struct tblock *b)
{
	u32 insns = b->first + b->insns_max;

	populate(sh->rw, sh->size, sh->used, b->host_max);
	populate(sh->insns, sh->regions * sh->per.insns * sizeof(*sh->insns), sh->insns_n * sizeof(*sh->insns),
		 insns * sizeof(*sh->insns));
	populate(sh->blocks, sh->regions * sh->per.blocks * sizeof(*sh->blocks), sh->blocks_n * sizeof(*sh->blocks),
		 (sh->blocks_n + 1) * sizeof(*sh->blocks));
	sh->used = b->host_max;
	sh->insns_n = insns;
	for (u32 k = (b->first + INSNS_A_MARK - 1) / INSNS_A_MARK; k * INSNS_A_MARK < sh->insns_n; k++)
		sh->insn_block[k] = sh->blocks_n;
	sh->blocks_n++;
	dbt_note_cursors(sh);
}

struct cursors dbt_in_use(const struct dbt_shared *sh)
{
	struct cursors sum = { 0 };

	for (u32 r = 0; r < sh->regions; r++) {
		const struct cursors *at = &sh->region[r], *per = &sh->per;

		sum.used += at->used - region_base(sh, r);
		sum.blocks += at->blocks - r * per->blocks;
		sum.insns += at->insns - r * per->insns;
		sum.exits += at->exits - r * per->exits;
		sum.sys += at->sys - r * per->sys;
		sum.recipes += at->recipes - r * per->recipes;
	}
	return sum;
}

void dbt_empty_regions(struct dbt_shared *sh)
{
	for (u32 r = 0; r < sh->regions; r++) {
		empty(sh, r);
		sh->holds[r] = HOLDS_NOTHING;
	}
	sh->fills[false] = 1;
	sh->fills[true] = 0;
	sh->holds[1] = HOLDS_KERNEL;
	sh->holds[0] = HOLDS_USER;
	load_cursors(sh, 0);
}

void dbt_choose_region(struct dbt *x)
{
	load_cursors(x->sh, x->sh->fills[x->user]);
}

/* ---- emptying one ---- */

static bool in_region(const struct dbt_shared *sh, u32 r, u32 host)
{
	return host - region_base(sh, r) < sh->per.used;
}

/* Out of the page's bucket; false: it was not there, since another took its place. */
static bool forget(struct dbt_shared *sh, struct tblock *b)
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
		b->page->next_touched = sh->touched;
		sh->touched = b->page;
	}
	return true;
}

/* `b` goes, but its entries are those of a dead block elsewhere: that one is to be translated again. */
static void return_entries(struct dbt_shared *sh, const struct tblock *b)
{
	struct tblock *owner = (struct tblock *)dbt_block_at(sh, b->door), **at = dbt_bucket(b->page, b->lin);

	dbt_shut_door(sh, owner);
	owner->next = *at;
	*at = owner;
}

/* The door of a dead block leads out again, not to a block in region `r` that has followed it. */
static void shut_again(struct dbt_shared *sh, const struct tblock *b, u32 r)
{
	s32 rel;

	__builtin_memcpy(&rel, sh->rw + b->door + DOOR_REL, 4);
	if (in_region(sh, r, b->door + DOOR_BYTES + (u32)rel))
		dbt_shut_door(sh, b);
}

static void forget_blocks(struct dbt_shared *sh, u32 r)
{
	for (u32 k = 0; k < sh->pages_n; k++)
		sh->pages[k].needed = false;
	for (u32 q = 0; q < sh->regions; q++) {
		for (u32 k = q * sh->per.blocks; k < sh->region[q].blocks; k++) {
			struct tblock *b = &sh->blocks[k];
			bool entered_here = in_region(sh, r, b->door);

			if (sh->parallel && q != r && b->dead)
				shut_again(sh, b, r);
			if (q != r && !entered_here) {
				if (b->page2 && !b->dead)
					b->page2->needed = true;
			} else if (forget(sh, b) && !entered_here) {
				return_entries(sh, b);
			}
		}
	}
}

/* A link into region `r` leads out of translated code again. */
static void unlink_exit(struct dbt_shared *sh, const struct texit *e, u32 r)
{
	u32 at[2] = { e->patch, e->far ? e->patch + e->far : 0 };

	for (unsigned k = 0; k < 2; k++) {
		s32 rel;

		if (!at[k])
			continue;
		__builtin_memcpy(&rel, sh->rw + at[k], 4);
		if (!in_region(sh, r, at[k] + 4 + (u32)rel))
			continue;
		rel = k ? 0 : (s32)e->stub - 4;
		__builtin_memcpy(sh->rw + at[k], &rel, 4);
	}
}

static void unlink_exits(struct dbt_shared *sh, u32 r)
{
	for (u32 q = 0; q < sh->regions; q++)
		for (u32 k = q * sh->per.exits; q != r && k < sh->region[q].exits; k++)
			if (sh->exits[k].patch)
				unlink_exit(sh, &sh->exits[k], r);
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

	for (struct tpage *p = x->sh->touched; p; p = p->next_touched)
		dbt_find_lines(p);
	for (struct tpage *p = x->sh->touched; p; p = p->next_touched)
		dbt_frame_changed(v, p);
	for (struct tpage *p = x->sh->touched; p; p = next) {
		next = p->next_touched;
		p->touched = false;
		if (!p->needed && !holds_blocks(p))
			dbt_free_page(x->sh, p);
	}
	x->sh->touched = NULL;
}

static void evict(struct vcpu *v, u32 r)
{
	struct dbt *x = dbt_of(v);

	forget_blocks(x->sh, r);
	unlink_exits(x->sh, r);
	look_at_pages(v);
	dbt_reset_all_jumps(x->sh);
	empty(x->sh, r);
	x->stats.evictions++;
	x->sh->flushes++;
	x->sh->changes++;
}

/* The region of those that hold `what` that was begun first, of those being filled none; x->sh->regions: there is none.
 */
static u32 oldest(const struct dbt_shared *sh, enum region_use what)
{
	u32 found = sh->regions;

	for (u32 r = 0; r < sh->regions; r++)
		if (sh->holds[r] == what && r != sh->fills[0] && r != sh->fills[1] &&
		    (found == sh->regions || sh->begun[r] < sh->begun[found]))
			found = r;
	return found;
}

static u32 next_region(struct vcpu *v)
{
	const struct dbt *x = dbt_of(v);
	u32 kernel = 0, r = oldest(x->sh, HOLDS_NOTHING);

	if (r < x->sh->regions)
		return r;
	for (u32 k = 0; k < x->sh->regions; k++)
		kernel += x->sh->holds[k] == HOLDS_KERNEL;
	r = oldest(x->sh, kernel + !x->user > x->sh->regions / 2 ? HOLDS_KERNEL : HOLDS_USER);
	if (r == x->sh->regions) /* each has but the one that is being filled, of one kind */
		r = x->sh->fills[x->user];
	evict(v, r);
	return r;
}

void dbt_next_region(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	u32 r = next_region(v);

	x->sh->holds[r] = x->user ? HOLDS_USER : HOLDS_KERNEL;
	x->sh->begun[r] = x->sh->begun_n++;
	x->sh->fills[x->user] = r;
	load_cursors(x->sh, r);
}
