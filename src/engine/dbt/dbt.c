/*
 * Engine `dbt`: attach, detach, counters.
 */
#include "engine/dbt/dbt.h"
#include "engine/dbt/signal.h"
#include "engine/dbt/translate.h"
#include "engine/interp/host_fault.h"
#include "engine/interp/thunk.h"

#include <asm/prctl.h>
#include <cpuid.h>
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

static int map_cache(struct dbt *x, struct error *e)
{
	int fd = memfd_create("ectype-code", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, x->size))
		goto fail;
	x->rw = mmap(NULL, x->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	x->rx = mmap(NULL, x->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (x->rw == MAP_FAILED || x->rx == MAP_FAILED)
		goto fail;
	close(fd);
	return 0;
fail:
	error_errno(e, errno, "engine dbt: cannot map %u MiB for code", x->size >> 20);
	if (fd >= 0)
		close(fd);
	return -1;
}

static int map_pools(struct dbt_host *h, struct error *e)
{
	struct dbt *x = &h->dbt;

	x->blocks = pool(x->regions * x->per.blocks * sizeof(*x->blocks));
	x->insns = pool(x->regions * x->per.insns * sizeof(*x->insns));
	x->insn_block = pool(x->regions * x->per.insns / INSNS_A_MARK * sizeof(*x->insn_block));
	x->exits = pool(x->regions * x->per.exits * sizeof(*x->exits));
	x->recipes = pool(x->regions * x->per.recipes * sizeof(*x->recipes));
	x->sys = pool(x->regions * x->per.sys * sizeof(*x->sys));
	x->fixes = pool(x->regions * x->per.fixes);
	x->twins = pool(sizeof(*x->twins) << TWIN_BITS);
	x->pages = pool(PAGES_MAX * sizeof(*x->pages));
	x->decoded = pool(dbt_decoded_size);
	x->ram = memory_ram(x->v->mem);
	x->frames = memory_ram_size(x->v->mem) >> PAGE_SHIFT;
	x->lines = pool(x->frames * sizeof(*x->lines));
	x->no_store = ~0ull;
	h->ret_map = pool(2 * RET_SPAN);
	if (!x->blocks || !x->insns || !x->insn_block || !x->exits || !x->recipes || !x->sys || !x->fixes ||
	    !x->twins || !x->pages || !x->lines || !x->decoded || !h->ret_map)
		return error_set(e, "engine dbt: out of memory");
	mprotect(h->ret_map, PAGE_SIZE, PROT_NONE);
	mprotect(h->ret_map + RET_SPAN, PAGE_SIZE, PROT_NONE);
	return 0;
}

static void map_changed(void *dbt)
{
	struct dbt *x = dbt;

	x->stale = true;
	mmu_invalidate(x->v);
}

static void page_written(void *dbt, gpa_t gpa, unsigned len)
{
	dbt_page_written(((struct dbt *)dbt)->v, gpa, len);
}

static void set_up_hot(struct dbt_host *h)
{
	struct dbt *x = &h->dbt;
	struct dbt_hot *hot = dhot(x->v);

	for (unsigned n = 0; n < 2; n++) {
		u64 *bottom = (u64 *)(h->ret_map + n * RET_SPAN + PAGE_SIZE + RET_STACK);

		*bottom = (u64)(uintptr_t)x->ret_miss[WIDTH_64];
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
	h->signal = (struct dbt_signal){ .rx = x->rx,
					 .size = x->size,
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
					 .resume = x->leave_host,
					 .guard = { h->ret_map, h->ret_map + RET_SPAN },
					 .flat = x->v->mmu->flat };
}

static void free_engine(struct dbt_host *h)
{
	struct dbt *x = &h->dbt;

	if (x->rw && x->rw != MAP_FAILED)
		munmap(x->rw, x->size);
	if (x->rx && x->rx != MAP_FAILED)
		munmap(x->rx, x->size);
	if (x->blocks)
		munmap(x->blocks, x->regions * x->per.blocks * sizeof(*x->blocks));
	if (x->insns)
		munmap(x->insns, x->regions * x->per.insns * sizeof(*x->insns));
	if (x->insn_block)
		munmap(x->insn_block, x->regions * x->per.insns / INSNS_A_MARK * sizeof(*x->insn_block));
	if (x->exits)
		munmap(x->exits, x->regions * x->per.exits * sizeof(*x->exits));
	if (x->recipes)
		munmap(x->recipes, x->regions * x->per.recipes * sizeof(*x->recipes));
	if (x->sys)
		munmap(x->sys, x->regions * x->per.sys * sizeof(*x->sys));
	if (x->fixes)
		munmap(x->fixes, x->regions * x->per.fixes);
	if (x->twins)
		munmap(x->twins, sizeof(*x->twins) << TWIN_BITS);
	if (x->pages)
		munmap(x->pages, PAGES_MAX * sizeof(*x->pages));
	if (x->decoded)
		munmap(x->decoded, dbt_decoded_size);
	if (x->lines)
		munmap(x->lines, x->frames * sizeof(*x->lines));
	if (h->ret_map)
		munmap(h->ret_map, 2 * RET_SPAN);
	dbt_observe_fini(x);
	free(h);
}

static void set_sizes(struct dbt *x, const struct engine_options *o)
{
	u64 size = o && o->code_cache ? o->code_cache : CODE_CACHE_DEFAULT;

	x->size = (u32)((size + ~PAGE_MASK) & PAGE_MASK);
	x->regions = x->size >= 32 * MiB ? REGIONS_MAX : REGIONS_MAX / 2;
	size = x->size / x->regions;
	x->per = (struct cursors){ .used = (u32)((size - TRAMPOLINES_SIZE) & ~63ull),
				   .blocks = (u32)size / BYTES_A_BLOCK,
				   .insns = (u32)(size / BYTES_AN_INSN) & ~(INSNS_A_MARK - 1u),
				   .exits = (u32)size / BYTES_AN_EXIT,
				   .recipes = (u32)size / BYTES_A_RECIPE,
				   .sys = (u32)size / BYTES_A_SYS,
				   .fixes = (u32)size / BYTES_A_FIX };
}

static int dbt_attach(struct vcpu *v, struct error *e)
{
	struct dbt_host *h = aligned_alloc(64, (sizeof(*h) + 63) & ~63ull);
	struct dbt *x = &h->dbt;

	if (!h)
		return error_set(e, "engine dbt: out of memory");
	memset(h, 0, sizeof(*h));
	x->v = v;
	set_sizes(x, v->engine_options);
	if (map_cache(x, e) || map_pools(h, e)) {
		free_engine(h);
		return -1;
	}
	dbt_make_trampolines(x);
	if (dbt_observe_init(x, v->engine_options, e) || interp_init(v, &x->interp, INTERP_ARENA, e)) {
		free_engine(h);
		return -1;
	}
	if (flat_create(v, &(struct flat_listener){ dbt_exec_changed, v }, e)) {
		interp_fini(v, &x->interp);
		free_engine(h);
		return -1;
	}
	set_up_hot(h);
	dbt_flush(v);
	x->stats.flushes = 0;
	memory_add_listener(v->mem, &(struct memory_listener){ map_changed, page_written, x });
	mmu_mode_changed(v);
	return 0;
}

static void dbt_detach(struct vcpu *v)
{
	struct dbt *x = dbt_of(v);

	fpu_park(v);
	dbt_flush(v);
	memory_remove_listener(v->mem, x);
	flat_destroy(v);
	interp_fini(v, &x->interp);
	free_engine((struct dbt_host *)x);
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
	u32 a, b = 0, c, d;

	__get_cpuid_count(7, 0, &a, &b, &c, &d);
	if (!(b & (1u << 8))) {
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
	.caps = ENGINE_EXACT_ICOUNT | ENGINE_SINGLE_STEP | ENGINE_TRANSLATES | ENGINE_COUNTS_IF_ASKED,
	.probe = dbt_probe,
	.vcpu_attach = dbt_attach,
	.vcpu_detach = dbt_detach,
	.run = dbt_enter,
	.debug_changed = dbt_debug_changed,
	.counters = dbt_counters,
	.costs = dbt_costs,
	.describe = dbt_describe,
};
