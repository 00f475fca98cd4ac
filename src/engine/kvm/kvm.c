/*
 * Engine `kvm`: attach, detach, counters.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/pv.h"

/* Of single instructions; it is emptied when full. */
#define REFERENCE_ARENA (4 * MiB)

static void kvm_probe(struct engine_verdict *out)
{
	const char *why;
	const struct kvm_host *h = kvm_host(&why);

	out->optional = true;
	if (!h) {
		snprintf(out->reason, sizeof(out->reason), "%s", why);
		return;
	}
	out->usable = true;
	out->advisable = kvm_fast(h, out->reason, sizeof(out->reason));
	kvm_host_keep(false);
}

/* VMCALL is answered in the kernel. Where it does not keep the APICs it has no interrupt controller, no run queue and
 * no flag of a TLB flush to answer with. */
#define PV_NEEDS_APICS ((u32)(PV_UNHALT | PV_SEND_IPI | PV_SCHED_YIELD | PV_TLB_FLUSH))

static int kvm_needs(struct engine_needs *out, struct error *e)
{
	const char *why;
	const struct kvm_host *h = kvm_host(&why);

	if (!h)
		return error_set(e, "engine kvm: %s", why);
	kvm_host_keep(true);
	out->limited = true;
	out->cpu = *kvm_limits(h);
	out->pv_missing = h->splits && !out->turns ? 0 : PV_NEEDS_APICS;
	out->tsc_hz = h->scales_tsc ? 0 : h->tsc_khz * 1000ull;
	return 0;
}

/* Does the guest, whatever engine it began with, fit this KVM? */
static int check_guest(const struct vcpu *v, const struct kvm_host *h, struct error *e)
{
	struct error inner = { .text = "" };

	if (cpu_model_check_within(v->model, kvm_limits(h), &inner))
		return error_set(e, "engine kvm: %s; start the machine with --cpu-model kvm", inner.text);
	if ((v->model->pv_features & PV_NEEDS_APICS) && !kvm_split_wanted(v, h))
		return error_set(e,
				 "engine kvm: the guest was shown hypercalls, which need the local APICs in KVM; start "
				 "the machine with --cpu-model kvm, or --pv no-unhalt,no-ipi,no-yield,no-tlb-flush");
	if (!h->scales_tsc && v->model->tsc_hz / 1000 != h->tsc_khz)
		return error_set(
		    e,
		    "engine kvm: this host's processor does not scale the TSC: the guest's would run at %u "
		    "kHz, not %llu; start the machine with --cpu-model kvm",
		    h->tsc_khz, (unsigned long long)(v->model->tsc_hz / 1000));
	return 0;
}

static void free_engine(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	kvm_vm_leave(v);
	v->engine_data = NULL;
	free(x->xsave);
	free(x);
}

/* What is left in a processor that was used before is brought up to date by the first import. */
static int set_up(struct vcpu *v, struct error *e)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_guest_debug none = { .control = 0 };
	const struct kvm_enable_cap shown = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args[0] = 1 };

	if (kvm_vm_join(v, e) || kvm_set_cpuid(v, e))
		return -1;
	/* What the model does not show is not there. */
	kvm_ioctl(x->fd, KVM_ENABLE_CAP, &shown);
	if (x->host->scales_tsc && ioctl(x->fd, KVM_SET_TSC_KHZ, v->model->tsc_hz / 1000))
		return error_errno(e, errno, "engine kvm: KVM does not run the guest's TSC at %llu kHz",
				   (unsigned long long)(v->model->tsc_hz / 1000));
	kvm_ioctl(x->fd, KVM_SET_GUEST_DEBUG, &none);
	return 0;
}

static int kvm_attach(struct vcpu *v, struct error *e)
{
	struct kvm_vcpu *x;
	const char *why;
	const struct kvm_host *h = kvm_host(&why);

	if (!h)
		return error_set(e, "engine kvm: %s", why);
	if (check_guest(v, h, e))
		return -1;
	x = aligned_alloc(64, (sizeof(*x) + 63) & ~63ull);
	if (!x)
		return error_set(e, "engine kvm: out of memory");
	memset(x, 0, sizeof(*x));
	/* first, for it clears what it is inside of */
	if (interp_init(v, &x->interp, REFERENCE_ARENA, &x->peers, e)) {
		free(x);
		return -1;
	}
	x->host = h;
	x->fd = -1;
	x->xsave = aligned_alloc(64, (h->xsave_size + 63) & ~63ull);
	if (!x->xsave || set_up(v, e)) {
		if (!x->xsave)
			error_set(e, "engine kvm: out of memory");
		interp_fini(v, &x->interp);
		v->engine_data = x;
		free_engine(v);
		return -1;
	}
	return 0;
}

static void kvm_detach(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	/* The state was taken out when run() returned. */
	interp_fini(v, &x->interp);
	v->engine_data = x;
	free_engine(v);
}

static void kvm_debug_changed(struct vcpu *v)
{
	mmu_invalidate(v); /* the reference engine's; KVM is told at the next run() */
}

static const char *const count_name[COUNTS] = {
	[COUNT_RUNS] = "kvm_runs",
	[COUNT_PIO] = "exits_port",
	[COUNT_MMIO] = "exits_mmio",
	[COUNT_MSR] = "exits_msr",
	[COUNT_HALT] = "exits_halt",
	[COUNT_WINDOW] = "exits_window",
	[COUNT_SIGNAL] = "exits_signal",
	[COUNT_TPR] = "exits_tpr",
	[COUNT_EOI] = "exits_eoi",
	[COUNT_DEBUG] = "exits_debug",
	[COUNT_SHUTDOWN] = "exits_shutdown",
	[COUNT_OTHER] = "exits_error",
	[COUNT_INTERRUPTS] = "interrupts",
	[COUNT_NMIS] = "nmis",
	[COUNT_EXPORTS] = "state_exports",
	[COUNT_IMPORTS] = "state_imports",
	[COUNT_TSC_SET] = "tsc_corrections",
	[COUNT_FELL_EMULATION] = "reference_emulation",
	[COUNT_FELL_ENTRY] = "reference_entry",
	[COUNT_FELL_STATE] = "reference_state",
	[COUNT_FELL_DEBUG] = "reference_debug",
	[COUNT_FELL_EVENT] = "reference_event",
};

static unsigned kvm_counters(struct vcpu *v, struct engine_counter *out, unsigned max)
{
	const struct kvm_vcpu *x = kvm_of(v);
	unsigned n = 0;

	for (unsigned i = 0; i < COUNTS; i++, n++)
		if (n < max)
			out[n] = (struct engine_counter){ count_name[i], x->count[i] };
	if (n < max)
		out[n] = (struct engine_counter){ "memory_slots_set", x->vm->slots_set };
	n++;
	if (n < max)
		out[n] = (struct engine_counter){ "memory_unmapped", x->vm->unmapped };
	n++;
	for (unsigned i = 0; i < KVM_FELL_MAX && x->fell[i].row; i++, n++)
		if (n < max)
			out[n] = (struct engine_counter){ x->fell[i].name, x->fell[i].count };
	if (n < max)
		out[n] = (struct engine_counter){ "fell_others", x->fell_others };
	return n + 1;
}

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.summary = "hardware virtualization by the host's KVM; what it gives up on runs in the reference engine",
	.caps = ENGINE_SINGLE_STEP | ENGINE_SMP,
	.probe = kvm_probe,
	.needs = kvm_needs,
	.vcpu_attach = kvm_attach,
	.vcpu_detach = kvm_detach,
	.run = kvm_enter,
	.kick = kvm_kick,
	.debug_changed = kvm_debug_changed,
	.counters = kvm_counters,
	.apics = &kvm_apics,
};
