/*
 * Finding blocks, and making those that are missing.
 *
 * Where processors run at once, each translates without the lock (block.c) what
 * is of a frame that is known to hold code. Under the lock it then looks whether
 * that is still so, whether the bytes are the same, and whether another was
 * first. The first code of a frame takes a stop before, in which write entries
 * go, of some more text too. Where code and stores meet in a frame it is translated with the others
 * stopped.
 */
#include "engine/dbt/dbt.h"
#include "cpu/xstate.h"

#define TRIES 4
#define TEXT_BESIDE (64 * KiB) /* Linux maps so much of a file at a time */

/* In the region that is being filled. */
static bool room(const struct dbt_shared *sh)
{
	return sh->region_end - sh->used > 32768 && sh->blocks_n < sh->blocks_max - 1 &&
	       sh->insns_n < sh->insns_max - 128 && sh->exits_n < sh->exits_max - 256 && sh->sys_n < sh->sys_max - 64 &&
	       sh->recipes_n < sh->recipes_max - 256;
}

static bool must_flush(const struct dbt_shared *sh)
{
	return unlikely(sh->stale) || unlikely(!sh->free_pages && sh->pages_n >= PAGES_MAX - 1);
}

/* Room for a block of the present mode. Blocks found before may be gone. */
static void make_room(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);

	if (must_flush(x->sh)) {
		dbt_stop(v, STOP_ROOM);
		dbt_flush(v);
		dbt_go(v);
	}
	if (x->sh->current != x->sh->fills[x->user])
		dbt_choose_region(x);
	if (unlikely(!room(x->sh))) {
		dbt_stop(v, STOP_ROOM);
		dbt_next_region(v);
		dbt_go(v);
	}
}

/* The block at `lin` of the page `*p`, dead or alive. NULL: there is none, or (*p NULL) no such page. */
static struct tblock *look_up(struct vcpu *v, u64 lin, struct tpage **p)
{
	struct tblock *b;

	make_room(v);
	v->fault.vector = 0xff;
	*p = dbt_page_at(v, lin & PAGE_MASK);
	if (!*p) {
		v->fault.addr = v->fault.vector == EXC_PF ? lin : v->fault.addr;
		return NULL;
	}
	v->mmu->flat_base[AUX_VALID + (*p)->index] = 1;
	for (b = *dbt_bucket(*p, lin); b && b->lin != lin; b = b->next)
		;
	return b;
}

static bool alive(const struct tblock *b)
{
	return likely(b && !b->dead);
}

static struct tblock *clone_twin(struct vcpu *v, struct tpage *p, u64 lin)
{
	const struct tblock *twin = dbt_twin(dbt_of(v), p, lin);

	return twin ? dbt_clone(dbt_of(v), twin, p, lin) : NULL;
}

static struct tblock *translate_or_clone(struct vcpu *v, struct tpage *p, u64 lin, struct tblock *old)
{
	struct tblock *b = old ? NULL : clone_twin(v, p, lin);

	if (b)
		return b;
	fpu_park(v);
	return dbt_translate(v, p, lin, old);
}

static struct tblock *make_block(struct vcpu *v, struct tpage *p, u64 lin, struct tblock *old)
{
	struct tblock *b = translate_or_clone(v, p, lin, old);

	dbt_add_block(v, p, b, old);
	return b;
}

/*
 * What must the others be stopped for before the code is read? For the first
 * code in a frame, since their write entries go first, and where they may be
 * about to store without looking again.
 */
static bool needs_stop(struct vcpu *v, const struct tpage *p, enum stop_cause *why)
{
	struct page_target t;

	*why = STOP_FRAME;
	if (!memory_page(v->mem, p->gpa, &t) || !t.flags || t.host != p->host || !(*t.flags & PAGE_CODE_DBT))
		return true;
	*why = STOP_MIXED;
	return *t.flags & PAGE_STORES;
}

/* With the others stopped. */
static struct tblock *make_block_stopped(struct vcpu *v, struct tpage *p, u64 lin, struct tblock *old)
{
	struct page_target t;
	struct tblock *b;

	dbt_mark_frame(v, p->gpa);
	if (memory_page(v->mem, p->gpa, &t) && t.flags && *t.flags & PAGE_STORES) {
		dbt_drop_frame_stores(dbt_of(v)->sh, t.host);
		*t.flags &= (u8)~PAGE_STORES;
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the mark, before the code is read: devices are not stopped */
	b = translate_or_clone(v, p, lin, NULL);
	dbt_add_block(v, p, b, old);
	return b;
}

/* There is no such block, with the others running: stop them, and look again. */
static struct tblock *find_stopped(struct vcpu *v, u64 lin, enum stop_cause why)
{
	struct tpage *p;
	struct tblock *b;

	dbt_stop(v, why);
	b = look_up(v, lin, &p);
	if (p && !alive(b))
		b = make_block_stopped(v, p, lin, b);
	dbt_go(v);
	return b;
}

/*
 * A frame is about to get its first code. Those beside it that are mapped as
 * text are likely to follow, so one stop is to do for all: to be marked without
 * holding code costs a frame no more than its next store's way through C.
 */
static void open_frames(struct vcpu *v, u64 lin)
{
	struct tpage *p;
	u64 first = lin & ~(TEXT_BESIDE - 1);
	gpa_t gpa;

	dbt_stop(v, STOP_FRAME);
	look_up(v, lin, &p);
	if (p)
		dbt_mark_frame(v, p->gpa);
	for (u64 at = first; p && at - first < TEXT_BESIDE; at += PAGE_SIZE)
		if (mmu_is_text(v, at, &gpa))
			dbt_mark_frame(v, gpa);
	dbt_go(v);
}

/* In its place, with the lock. NULL: the world was stopped meanwhile. */
static struct tblock *translate_locked(struct vcpu *v, struct tpage *p, u64 lin)
{
	u64 stops = world_stops(v);
	struct tblock *b;

	fpu_park(v);
	b = dbt_translate(v, p, lin, NULL);
	if (likely(world_stops(v) == stops))
		return b;
	b->dead = true;
	return NULL;
}

/*
 * The same while others run: who writes to the frame meanwhile sees
 * x->translating, and then waits until this is outside the world. NULL:
 * something else came in between.
 */
static struct tblock *make_block_beside(struct vcpu *v, struct tpage *p, u64 lin, struct tblock *old)
{
	struct tblock *b = old ? NULL : clone_twin(v, p, lin);
	struct dbt *x = dbt_of(v);
	enum stop_cause why;
	struct tpage *now;
	bool drafted;

	if (b) {
		dbt_add_block(v, p, b, NULL);
		return b;
	}
	__atomic_store_n(&x->translating, p->host, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	dbt_unlock(v);
	fpu_park(v);
	drafted = dbt_draft(v, p, lin);
	dbt_lock(v);
	old = look_up(v, lin, &now);
	if (now == p && !alive(old) && !needs_stop(v, p, &why))
		b = drafted ? dbt_publish(x, p) : translate_locked(v, p, lin);
	if (b)
		dbt_add_block(v, p, b, old);
	else
		x->stats.discards++;
	__atomic_store_n(&x->translating, NULL, __ATOMIC_RELEASE);
	return b;
}

struct tblock *dbt_find(struct vcpu *v, u64 lin)
{
	enum stop_cause why = STOP_MIXED;
	struct tpage *p;
	struct tblock *b = look_up(v, lin, &p);

	if (!p || alive(b))
		return b;
	if (likely(!dbt_of(v)->world))
		return make_block(v, p, lin, b);
	for (unsigned tries = 0; p && !alive(b) && tries < TRIES; tries++) {
		if (!needs_stop(v, p, &why)) {
			b = make_block_beside(v, p, lin, b);
			if (b)
				return b;
		} else if (why == STOP_FRAME) {
			open_frames(v, lin);
		} else {
			break;
		}
		b = look_up(v, lin, &p);
	}
	return p && !alive(b) ? find_stopped(v, lin, why) : b;
}
