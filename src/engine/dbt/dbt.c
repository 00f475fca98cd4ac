/*
 * Engine `dbt`: attach, detach, counters.
 */
#include "engine/dbt/dbt.h"
#include "base/reclaim.h"
#include "engine/dbt/signal.h"
#include "engine/dbt/translate.h"
#include "engine/interp/host_fault.h"
#include "engine/interp/thunk.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RET_STACK (64 * KiB)
#define RET_SPAN (RET_STACK + 2 * PAGE_SIZE) /* a guard below, the bottom entry above */
#define INTERP_ARENA                                                                                                   \
	(8 * MiB) /* single steps: an hour of stress-ng filled half of the 64 MiB interp has for itself                \
		   */

/* Behind struct dbt: what only ordinary C needs. */
struct dbt_host {
	struct dbt dbt; /* first */
	struct dbt_signal signal;
	u8 *ret_map;
};

static void *pool(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int map_cache(struct dbt_shared *sh, struct error *e)
{
	int fd = memfd_create("ectype-code", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, sh->size))
		goto fail;
	sh->rw = mmap(NULL, sh->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	sh->rx = mmap(NULL, sh->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (sh->rw == MAP_FAILED || sh->rx == MAP_FAILED)
		goto fail;
	close(fd);
	return 0;
fail:
	error_errno(e, errno, "engine dbt: cannot map %u MiB for code", sh->size >> 20);
	if (fd >= 0)
		close(fd);
	return -1;
}

#define POOLS 11u
struct pool_at {
	void **at;
	size_t size;
};

static void list_pools(struct dbt_shared *sh, struct pool_at out[POOLS])
{
	const struct cursors *per = &sh->per;
	const size_t n = sh->regions;
	const struct pool_at all[POOLS] = {
		{ (void **)&sh->blocks, n * per->blocks * sizeof(*sh->blocks) },
		{ (void **)&sh->insns, n * per->insns * sizeof(*sh->insns) },
		{ (void **)&sh->insn_block, n * per->insns / INSNS_A_MARK * sizeof(*sh->insn_block) },
		{ (void **)&sh->exits, n * per->exits * sizeof(*sh->exits) },
		{ (void **)&sh->recipes, n * per->recipes * sizeof(*sh->recipes) },
		{ (void **)&sh->sys, n * per->sys * sizeof(*sh->sys) },
		{ (void **)&sh->fixes, n * per->fixes },
		{ (void **)&sh->twins, sizeof(*sh->twins) << TWIN_BITS },
		{ (void **)&sh->pages, PAGES_MAX * sizeof(*sh->pages) },
		{ (void **)&sh->decoded, dbt_decoded_size },
		{ (void **)&sh->lines, sh->frames * sizeof(*sh->lines) },
	};

	memcpy(out, all, sizeof(all));
}

static bool make_pools(struct dbt_shared *sh)
{
	struct pool_at pools[POOLS];
	bool made = true;

	list_pools(sh, pools);
	for (unsigned n = 0; n < POOLS; n++) {
		*pools[n].at = pool(pools[n].size);
		made &= *pools[n].at != NULL;
	}
	return made;
}

static void free_pools(struct dbt_shared *sh, struct reclaim *later)
{
	struct pool_at pools[POOLS];

	list_pools(sh, pools);
	for (unsigned n = 0; n < POOLS; n++)
		if (*pools[n].at)
			reclaim_later(later, *pools[n].at, pools[n].size);
}

/* ---- what the processors share ---- */

static void map_changed(void *shared)
{
	struct dbt_shared *sh = shared;

	sh->stale = true;
	interp_map_changed(&sh->peers);
}

static void page_written(void *shared, gpa_t gpa, unsigned len)
{
	struct dbt_shared *sh = shared;

	cache_page_written(&sh->peers, gpa, len);
	dbt_page_written(sh, gpa, len);
}

static void track_armed(void *shared, bool on)
{
	if (on)
		interp_track_armed(&((struct dbt_shared *)shared)->peers);
}

static void set_sizes(struct dbt_shared *sh, const struct engine_options *o)
{
	u64 size = o && o->code_cache ? o->code_cache : CODE_CACHE_DEFAULT;

	sh->size = (u32)((size + ~PAGE_MASK) & PAGE_MASK);
	sh->regions = sh->size >= 32 * MiB ? REGIONS_MAX : REGIONS_MAX / 2;
	size = sh->size / sh->regions;
	sh->per = (struct cursors){ .used = (u32)((size - TRAMPOLINES_SIZE) & ~63ull),
				    .blocks = (u32)size / BYTES_A_BLOCK,
				    .insns = (u32)(size / BYTES_AN_INSN) & ~(INSNS_A_MARK - 1u),
				    .exits = (u32)size / BYTES_AN_EXIT,
				    .recipes = (u32)size / BYTES_A_RECIPE,
				    .sys = (u32)size / BYTES_A_SYS,
				    .fixes = (u32)size / BYTES_A_FIX };
}

static void free_shared(struct dbt_shared *sh, struct reclaim *later)
{
	if (sh->rw && sh->rw != MAP_FAILED)
		reclaim_later(later, sh->rw, sh->size);
	if (sh->rx && sh->rx != MAP_FAILED)
		reclaim_later(later, sh->rx, sh->size);
	free_pools(sh, later);
	perf_map_close(sh->perf);
	free(sh);
}

static struct dbt_shared *make_shared(struct vcpu *v, struct error *e)
{
	struct dbt_shared *sh = calloc(1, sizeof(*sh));

	if (!sh) {
		error_set(e, "engine dbt: out of memory");
		return NULL;
	}
	set_sizes(sh, v->engine_options);
	sh->ram = memory_ram(v->mem);
	sh->frames = memory_ram_size(v->mem) >> PAGE_SHIFT;
	sh->no_store = ~0ull;
	sh->parallel = world_of(v);
	if (map_cache(sh, e)) {
		free_shared(sh, NULL);
		return NULL;
	}
	if (!make_pools(sh)) {
		error_set(e, "engine dbt: out of memory");
		free_shared(sh, NULL);
		return NULL;
	}
	dbt_make_trampolines(sh);
	dbt_empty_regions(sh);
	if (v->engine_options && v->engine_options->perf_map && dbt_start_perf_map(sh, e)) {
		free_shared(sh, NULL);
		return NULL;
	}
	memory_add_listener(v->mem, &(struct memory_listener){ .map_changed = map_changed,
							       .page_written = page_written,
							       .opaque = sh,
							       .track_armed = track_armed });
	memory_set_world(v->mem, world_of(v));
	return sh;
}

/* The first processor of the group makes it. */
static struct dbt_shared *take_shared(struct vcpu *v, struct error *e)
{
	struct vcpu_group *g = v->group;
	struct dbt_shared *sh = g && g->engine_shared ? g->engine_shared : make_shared(v, e);

	if (sh && g) {
		g->engine_shared = sh;
		g->engine_users++;
	}
	return sh;
}

static void drop_shared(struct vcpu *v, struct dbt_shared *sh)
{
	struct vcpu_group *g = v->group;

	if (g && --g->engine_users)
		return;
	if (g)
		g->engine_shared = NULL;
	memory_remove_listener(v->mem, sh);
	memory_set_world(v->mem, NULL);
	memory_clear_flags(v->mem, PAGE_CODE_DBT | PAGE_STORES);
	free_shared(sh, vcpu_reclaim(v));
}

/* ---- one processor ---- */

static int map_returns(struct dbt_host *h, struct error *e)
{
	h->ret_map = pool(2 * RET_SPAN);
	if (!h->ret_map)
		return error_set(e, "engine dbt: out of memory");
	mprotect(h->ret_map, PAGE_SIZE, PROT_NONE);
	mprotect(h->ret_map + RET_SPAN, PAGE_SIZE, PROT_NONE);
	return 0;
}

static void set_up_hot(struct dbt_host *h)
{
	struct dbt *x = &h->dbt;
	struct dbt_hot *hot = dhot(x->v);

	for (unsigned n = 0; n < 2; n++) {
		u64 *bottom = (u64 *)(h->ret_map + n * RET_SPAN + PAGE_SIZE + RET_STACK);

		*bottom = (u64)(uintptr_t)x->sh->ret_miss[WIDTH_64];
		x->bottom[n] = (u64)(uintptr_t)bottom;
	}
	hot->ret_base = hot->ret_sp = x->bottom[0];
	for (unsigned log = 0; log < ARRAY_SIZE(hot->cross_mask); log++)
		hot->cross_mask[log] = 0xfffu & ~((1u << log) - 1);
	hot->offset_mask = 0xfff;
	hot->page_mask = PAGE_MASK;
	hot->page_bits = 0xfffffffful << PAGE_SHIFT;
	hot->slot_mask = (CODE_STORES - 1) << PAGE_SHIFT;
	hot->one = 1;
	hot->df_mask = FL_DF;
	hot->bit_mask[0] = 31;
	hot->bit_mask[1] = 63;
	hot->jump_mask = ((1u << JUMP_BITS) - 1) << 2;
	dbt_sysfast_init(x->v);
	h->signal = (struct dbt_signal){ .rx = x->sh->rx,
					 .size = x->sh->size,
					 .reason_value = LEAVE_HOST,
					 .reason = &hot->reason,
					 .info = &hot->info,
					 .flags = &hot->host_flags,
					 .home = home,
					 .gpr = x->v->cpu.gpr,
					 .t0 = &hot->t0,
					 .ret_sp = &hot->ret_sp,
					 .host_sp = &hot->host_sp,
					 .ret_base = &hot->ret_base,
					 .resume = x->sh->leave_host,
					 .guard = { h->ret_map, h->ret_map + RET_SPAN },
					 .flat = x->v->mmu->flat };
}

static void free_engine(struct dbt_host *h, struct reclaim *later)
{
	if (h->ret_map)
		reclaim_later(later, h->ret_map, 2 * RET_SPAN);
	if (h->dbt.draft)
		reclaim_later(later, h->dbt.draft, dbt_draft_size);
	if (h->dbt.tr)
		reclaim_later(later, h->dbt.tr, dbt_tr_size);
	dbt_observe_fini(&h->dbt);
	reclaim_later(later, h, sizeof(*h));
}

static int set_up(struct vcpu *v, struct dbt_host *h, struct error *e)
{
	struct dbt *x = &h->dbt;

	x->draft = x->world ? pool(dbt_draft_size) : NULL;
	x->tr = pool(dbt_tr_size);
	if (!x->tr || (x->world && !x->draft))
		return error_set(e, "engine dbt: out of memory");
	if (map_returns(h, e) || dbt_observe_init(x, v->engine_options, e) ||
	    flat_create(v, &(struct flat_listener){ dbt_exec_changed, v }, e))
		return -1;
	if (!interp_init(v, &x->interp, INTERP_ARENA, &x->sh->peers, e))
		return 0;
	flat_destroy(v);
	return -1;
}

static int dbt_attach(struct vcpu *v, struct error *e)
{
	struct dbt_host *h = pool(sizeof(*h));
	struct dbt *x = &h->dbt;

	if (!h)
		return error_set(e, "engine dbt: out of memory");
	x->v = v;
	x->world = world_of(v);
	x->sh = take_shared(v, e);
	if (!x->sh) {
		free_engine(h, NULL);
		return -1;
	}
	if (set_up(v, h, e)) {
		drop_shared(v, x->sh);
		free_engine(h, NULL);
		return -1;
	}
	set_up_hot(h);
	dbt_reset_returns(v);
	dbt_drop_stores(v);
	mmu_mode_changed(v);
	return 0;
}

static void dbt_detach(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);
	struct dbt_shared *sh = x->sh;

	fpu_park(v);
	if (unlikely(x->trace & TRACE_SMC) && sh->peers.n == 1)
		dbt_observe_kill(v, NULL);
	interp_fini(v, &x->interp);
	flat_destroy(v);
	free_engine((struct dbt_host *)x, vcpu_reclaim(v));
	drop_shared(v, sh);
}

static enum vcpu_exit dbt_enter(struct vcpu *v, const struct run_budget *b)
{
	struct dbt_host *h = v->engine_data;
	enum vcpu_exit why;

	syscall(SYS_arch_prctl, ARCH_SET_GS, v);
	host_fault_enter(h->dbt.interp.thunks, &hot(v)->thunk_sp);
	dbt_signal_enter(&h->signal);
	why = dbt_run(v, b);
	dbt_observe_pause(&h->dbt);
	dbt_signal_enter(NULL);
	host_fault_leave();
	return why;
}

static void dbt_debug_changed(struct vcpu *v)
{
	mmu_invalidate(v);
}

static void dbt_probe(struct engine_verdict *out)
{
	if (!cpu_host_has_bmi2()) {
		snprintf(out->reason, sizeof(out->reason), "this processor has no BMI2");
		return;
	}
	if (!flat_possible()) {
		snprintf(out->reason, sizeof(out->reason), "%s", FLAT_NO_ROOM);
		return;
	}
	out->usable = out->advisable = true;
	snprintf(out->reason, sizeof(out->reason), "translates; no hardware virtualization needed");
}

const struct engine_ops engine_dbt = {
	.name = "dbt",
	.summary = "binary translation: guest code runs on the host, sensitive instructions in software",
	.caps = ENGINE_EXACT_ICOUNT | ENGINE_SINGLE_STEP | ENGINE_SMP | ENGINE_TRANSLATES | ENGINE_COUNTS_IF_ASKED,
	.probe = dbt_probe,
	.vcpu_attach = dbt_attach,
	.vcpu_detach = dbt_detach,
	.run = dbt_enter,
	.debug_changed = dbt_debug_changed,
	.counters = dbt_counters,
	.costs = dbt_costs,
	.describe = dbt_describe,
};
