/*
 * What the reference engine does inside this one: the instructions KVM gives up
 * on, states KVM refuses, a debugger's steps.
 *
 * KVM's guest writes to memory behind the back of the software MMU and of the
 * reference engine's cache: what they hold is dropped before each use.
 */
#include "engine/kvm/kvm.h"

#include <stdio.h>
#include <string.h>

void kvm_reference_prepare(struct vcpu *v)
{
	mmu_flush_all(v);
	mmu_mode_changed(v);
	if (interp_of(v)->arena_used)
		cache_flush(v);
}

static _Thread_local struct kvm_vcpu *inside;

bool kvm_reference_inside(void)
{
	return inside;
}

void kvm_reference_map_changed(void)
{
	if (inside)
		interp_map_changed(&inside->peers);
}

void kvm_reference_written(gpa_t gpa, unsigned len)
{
	if (inside)
		cache_page_written(&inside->peers, gpa, len);
}

/* ---- what fell ---- */

static void count_row(struct kvm_vcpu *x, const struct isa_row *row)
{
	for (unsigned i = 0; i < KVM_FELL_MAX; i++) {
		struct kvm_fell *f = &x->fell[i];

		if (!f->row) {
			f->row = row;
			snprintf(f->name, sizeof(f->name), "fell_%s", row->name);
		}
		if (f->row == row) {
			f->count++;
			return;
		}
	}
	x->fell_others++;
}

/* By what is in memory now: the instruction may change it. */
static void count_fell(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	bool wide = cpu_64bit(c);
	gva_t lin = wide ? c->rip : (u32)(c->seg[SEG_CS].base + c->rip);
	unsigned have = 0;
	struct dinsn d;
	u8 bytes[15];

	while (have < sizeof(bytes)) {
		gva_t at = wide ? lin + have : (u32)(lin + have);
		unsigned n = MIN((unsigned)sizeof(bytes) - have, (unsigned)(PAGE_SIZE - (at & ~PAGE_MASK)));
		gpa_t gpa;

		if (!mmu_debug_translate(v, at, &gpa) || !memory_ptr(v->mem, gpa, n, false))
			break;
		memcpy(bytes + have, memory_ptr(v->mem, gpa, n, false), n);
		have += n;
	}
	if (have && dinsn_decode(&d, bytes, have, cpu_code_mode(c)) == DECODE_OK)
		count_row(kvm_of(v), isa_row_of(&d));
	else
		kvm_of(v)->fell_others++;
}

/* ---- running ---- */

void kvm_reference_one(struct vcpu *v, enum kvm_count why)
{
	struct kvm_vcpu *x = kvm_of(v);

	x->count[why]++;
	if (why != COUNT_FELL_DEBUG)
		count_fell(v);
	kvm_reference_prepare(v);
	/* A shadow that covers this instruction ends with it, unless it begins another. */
	v->window_seen = true;
	v->window_icount = v->icount;
	inside = x;
	interp_single(v);
	fpu_park(v);
	inside = NULL;
	if (v->window_seen) {
		v->cpu.shadow = SHADOW_NONE;
		v->window_seen = false;
	}
	vcpu_clear(v, EV_FLUSH | EV_TRAP);
}

enum vcpu_exit kvm_reference_run(struct vcpu *v, const struct run_budget *b)
{
	u64 before = v->icount;
	enum vcpu_exit why;

	kvm_reference_prepare(v);
	cpu_recheck_events(v);
	inside = kvm_of(v);
	why = interp_run(v, b);
	fpu_park(v);
	inside = NULL;
	kvm_of(v)->count[COUNT_FELL_DEBUG] += v->icount - before;
	return why;
}
