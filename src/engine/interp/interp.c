/*
 * Engine `interp`: attach, detach, counters.
 */
#include "engine/interp/interp.h"
#include "base/reclaim.h"
#include "engine/interp/host_fault.h"
#include "engine/interp/thunk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA_SIZE (64 * MiB)

void interp_map_changed(struct interp_peers *all)
{
	for (unsigned n = 0; n < all->n; n++) {
		mmu_invalidate(all->v[n]);
		interp_of(all->v[n])->stale = true;
		vcpu_raise(all->v[n], EV_FLUSH);
	}
}

/* Behind the arena lie two blocks of scratch. */
#define SCRATCH ((sizeof(struct block) + (BLOCK_MAX + 1) * sizeof(struct insn) + 63) & ~63ull)

static void free_parts(struct interp *x, struct reclaim *later)
{
	thunk_cache_destroy(x->thunks, later);
	if (x->arena)
		reclaim_later(later, x->arena, x->arena_size + 2 * SCRATCH);
}

int interp_init(struct vcpu *v, struct interp *x, size_t arena, struct interp_peers *all, struct error *e)
{
	u8 *map =
	    mmap(NULL, arena + 2 * SCRATCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	x->v = v;
	x->arena_size = arena;
	if (map != MAP_FAILED) {
		x->arena = map;
		x->build = (struct block *)(map + arena);
		x->step = (struct block *)(map + arena + SCRATCH);
	}
	x->thunks = thunk_cache_create(e);
	if (!x->thunks || !x->arena) {
		free_parts(x, NULL);
		return e && e->text[0] ? -1 : error_set(e, "engine interp: out of memory");
	}
	host_fault_install();
	memset(v->engine_hot, 0, sizeof(v->engine_hot));
	v->engine_data = x;
	x->peers = all;
	all->mem = v->mem;
	all->v[all->n++] = v;
	mmu_invalidate(v);
	mmu_mode_changed(v);
	return 0;
}

void interp_fini(struct vcpu *v, struct interp *x)
{
	fpu_park(v);
	for (unsigned n = 0; n < x->peers->n; n++)
		if (x->peers->v[n] == v)
			x->peers->v[n] = x->peers->v[--x->peers->n];
	if (!x->peers->n)
		memory_clear_flags(v->mem, PAGE_CODE_INTERP);
	v->engine_data = NULL;
	free_parts(x, vcpu_reclaim(v));
}

void interp_track_armed(struct interp_peers *all)
{
	for (unsigned n = 0; n < all->n; n++)
		mmu_drop_writes(all->v[n]);
}

static void map_changed(void *all)
{
	interp_map_changed(all);
}

static void page_written(void *all, gpa_t gpa, unsigned len)
{
	cache_page_written(all, gpa, len);
}

static void track_armed(void *all, bool on)
{
	if (on)
		interp_track_armed(all);
}

/* What the processors of the group have together; the first makes it. */
static struct interp_peers *take_peers(struct vcpu *v)
{
	struct vcpu_group *g = v->group;
	struct interp_peers *all = g ? g->engine_shared : NULL;

	if (!all) {
		all = calloc(1, sizeof(*all));
		if (!all)
			return NULL;
		memory_add_listener(v->mem, &(struct memory_listener){ .map_changed = map_changed,
								       .page_written = page_written,
								       .opaque = all,
								       .track_armed = track_armed });
	}
	if (g) {
		g->engine_shared = all;
		g->engine_users++;
	}
	return all;
}

static void drop_peers(struct vcpu *v, struct interp_peers *all)
{
	struct vcpu_group *g = v->group;

	if (g && --g->engine_users)
		return;
	if (g)
		g->engine_shared = NULL;
	memory_remove_listener(v->mem, all);
	free(all);
}

static int interp_attach(struct vcpu *v, struct error *e)
{
	struct interp *x = mmap(NULL, sizeof(*x), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct interp_peers *all = x != MAP_FAILED ? take_peers(v) : NULL;

	if (!all) {
		if (x != MAP_FAILED)
			munmap(x, sizeof(*x));
		return error_set(e, "engine interp: out of memory");
	}
	if (interp_init(v, x, ARENA_SIZE, all, e)) {
		drop_peers(v, all);
		munmap(x, sizeof(*x));
		return -1;
	}
	return 0;
}

static void interp_detach(struct vcpu *v)
{
	struct interp *x = interp_of(v);

	interp_fini(v, x);
	drop_peers(v, x->peers);
	reclaim_later(vcpu_reclaim(v), x, sizeof(*x));
}

static enum vcpu_exit interp_enter(struct vcpu *v, const struct run_budget *b)
{
	const struct interp *x = interp_of(v);
	enum vcpu_exit why;

	host_fault_enter(x->thunks, &hot(v)->thunk_sp);
	why = interp_run(v, b);
	host_fault_leave();
	return why;
}

static void interp_debug_changed(struct vcpu *v)
{
	mmu_invalidate(v);
}

static void interp_probe(struct engine_verdict *out)
{
	out->usable = out->advisable = true;
	snprintf(out->reason, sizeof(out->reason), "runs everywhere; every instruction is simulated");
}

static unsigned interp_counters(struct vcpu *v, struct engine_counter *out, unsigned max)
{
	const struct interp *x = interp_of(v);
	const struct engine_counter all[] = {
		{ "blocks", x->blocks },
		{ "decoded_instructions", x->decoded },
		{ "thunks", thunk_count(x->thunks) },
		{ "thunk_runs", x->thunk_runs },
		{ "faults", x->faults },
		{ "events", x->events },
		{ "single_steps", x->steps },
		{ "code_page_drops", x->page_drops },
		{ "code_cache_flushes", x->arena_flushes },
		{ "code_cache_bytes", x->arena_used },
		{ "tlb_fills", v->mmu->fills },
		{ "tlb_flushes", v->mmu->flushes },
		{ "tlb_page_flushes", v->mmu->page_flushes },
	};
	unsigned n = MIN(max, (unsigned)ARRAY_SIZE(all));

	memcpy(out, all, n * sizeof(*out));
	return ARRAY_SIZE(all);
}

const struct engine_ops engine_interp = {
	.name = "interp",
	.summary = "simulation: every instruction in software, the reference",
	.caps = ENGINE_EXACT_ICOUNT | ENGINE_SINGLE_STEP,
	.probe = interp_probe,
	.vcpu_attach = interp_attach,
	.vcpu_detach = interp_detach,
	.run = interp_enter,
	.debug_changed = interp_debug_changed,
	.counters = interp_counters,
};
