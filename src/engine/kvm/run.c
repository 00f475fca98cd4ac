/*
 * The run loop: events in, KVM_RUN, exits out.
 *
 * Where the interrupt controllers are ours, an interrupt goes in by
 * KVM_INTERRUPT when KVM says that one can be taken (or the state, before it
 * went in, says so); else KVM is asked to come back as soon as that is so.
 * Where KVM has the local APIC that holds for what the 8259s send alone, and a
 * processor that halts or waits for SIPI does so in KVM_RUN.
 *
 * Kicks: v->event is raised first; then a signal goes to the thread that
 * v->in_kernel names. The thread names itself and only then looks at v->event:
 * one of the two always sees the other, and the signal is only let through in
 * KVM_RUN, where it waits to end it. The kicker touches nothing that is the
 * engine's: the engine may be on its way out.
 */
#include "engine/kvm/kvm.h"
#include "base/world.h"
#include "engine/interp/host_fault.h"
#include "engine/kvm/kicks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define LEAVE (EV_KICK | EV_TIMER | EV_RESET)

/* ---- kicks ---- */

void kvm_kick(struct vcpu *v)
{
	pid_t thread;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	thread = v->in_kernel;
	if (thread)
		kicks_send(thread);
}

/* KVM_RUN, unless something came up: 0, or a negative errno. */
static int enter(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct world *w = v->group ? v->group->world : NULL; /* nothing of it is used in there */
	int r = -EINTR;

	x->run->immediate_exit = 0;
	v->in_kernel = x->thread;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!v->event) {
		x->count[COUNT_RUNS]++;
		if (w)
			world_leave(w, v->index);
		r = ioctl(x->fd, KVM_RUN, 0) ? -errno : 0;
		if (w)
			world_enter(w, v->index);
		x->incomplete = false;
		x->extint_given = false;
		x->window_known = true;
	}
	v->in_kernel = 0;
	if (r == -EINTR)
		kicks_consume();
	return r;
}

void kvm_complete(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	while (x->incomplete) {
		x->incomplete = false;
		x->run->immediate_exit = 1;
		if (ioctl(x->fd, KVM_RUN, 0) == 0)
			switch (x->run->exit_reason) {
			case KVM_EXIT_IO:
			case KVM_EXIT_MMIO:
			case KVM_EXIT_X86_RDMSR:
			case KVM_EXIT_X86_WRMSR:
				kvm_handle_exit(v);
				break;
			default: /* it comes again */
				break;
			}
	}
}

/* ---- events ---- */

static void give_cr8(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	x->cr8 = (u8)v->hooks->cr8_read(v->machine, v->index);
	x->run->cr8 = x->cr8;
}

static void take_cr8(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	if (!x->has_apic && (u8)x->run->cr8 != x->cr8)
		v->hooks->cr8_write(v->machine, v->index, x->run->cr8 & 15);
}

static bool interrupt_fits(const struct vcpu *v)
{
	const struct kvm_vcpu *x = v->engine_data;

	if (x->window_known)
		return x->run->ready_for_interrupt_injection;
	return (v->cpu.rflags & FL_IF) && !v->cpu.shadow;
}

static void inject(struct vcpu *v, int vector)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_interrupt i = { .irq = (u32)vector };

	kvm_ioctl(x->fd, KVM_INTERRUPT, &i);
	x->count[COUNT_INTERRUPTS]++;
	/* one at a time: KVM has room for no second */
	x->window_known = true;
	x->run->ready_for_interrupt_injection = 0;
}

/* The 8259s' interrupts, past the APIC that KVM has. */
static void give_extint(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	if (v->hooks->extint(v->machine, v->index) && x->window_known && x->run->ready_for_interrupt_injection) {
		int vector = v->hooks->extint_ack(v->machine, v->index);

		if (vector >= 0) {
			inject(v, vector);
			x->extint_given = true;
		}
	}
	x->run->request_interrupt_window = v->hooks->extint(v->machine, v->index);
}

/* The state is in KVM. */
static void give_events(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	bool pending;

	if (v->cpu.nmi_pending && ioctl(x->fd, KVM_NMI) == 0) {
		v->cpu.nmi_pending = false;
		x->count[COUNT_NMIS]++;
	}
	if (x->has_apic) {
		give_extint(v);
		return;
	}
	pending = v->hooks->intr_pending(v->machine, v->index);
	if (pending && interrupt_fits(v)) {
		int vector = v->hooks->intr_ack(v->machine, v->index);

		if (vector >= 0)
			inject(v, vector);
		pending = v->hooks->intr_pending(v->machine, v->index);
	}
	x->run->request_interrupt_window = pending;
	give_cr8(v);
}

/* ---- the loop ---- */

/* With the state in v->cpu: is there something to run? Wakes a halted processor for what ends HLT. In KVM it waits
 * itself. */
static bool awake(struct vcpu *v)
{
	if (kvm_keeps_apic(v))
		return v->cpu.activity != ACT_SHUTDOWN;
	if (v->cpu.activity == ACT_HALTED && cpu_wakeup_pending(v))
		v->cpu.activity = ACT_RUNNING;
	return v->cpu.activity == ACT_RUNNING;
}

/* Bring the state in; what KVM refuses is run here, an instruction at a time, until it is taken. */
static bool brought_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	if (x->in_kvm)
		return true;
	if (v->cpu.pending_db && v->cpu.shadow != SHADOW_MOV_SS) {
		kvm_reference_prepare(v);
		cpu_take_events(v);
		fpu_park(v);
		return false;
	}
	if (kvm_import(v) == 0)
		return true;
	kvm_reference_one(v, COUNT_FELL_STATE);
	return false;
}

static enum kvm_count why_fell(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? COUNT_FELL_EMULATION : COUNT_FELL_ENTRY;
}

/* One entry into KVM and what it came back for. */
static enum kvm_next round_trip(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	enum kvm_next next;
	int r;

	give_events(v);
	r = enter(v);
	take_cr8(v);
	if (r == -EINTR || r == -EAGAIN) {
		x->count[COUNT_SIGNAL]++;
		return NEXT_RUN;
	}
	if (r < 0)
		x->run->exit_reason = KVM_EXIT_UNKNOWN;
	next = kvm_handle_exit(v);
	if (next == NEXT_REFERENCE) {
		enum kvm_count why = why_fell(x->run);

		kvm_export(v);
		if (v->cpu.activity == ACT_RUNNING) /* else another processor's INIT has come */
			kvm_reference_one(v, why);
	}
	return next;
}

static enum vcpu_exit loop(struct vcpu *v)
{
	v->debug.hit_kind = 0;
	for (bool first = true;; first = false) {
		if (v->event & LEAVE)
			return v->debug.hit_kind ? VCPU_EXIT_DEBUG : VCPU_EXIT_EVENT;
		/* the reference engine has had the APIC taken back: the machine lends it again */
		if (kvm_of(v)->vm->split && !kvm_keeps_apic(v))
			return VCPU_EXIT_EVENT;
		if (v->event & EV_WORLD) {
			vcpu_clear(v, EV_WORLD);
			world_yield(v->group->world, v->index);
		}
		/* Before their causes are looked at. */
		vcpu_clear(v, EV_INTR | EV_NMI | EV_TRAP | EV_FLUSH);
		if (!kvm_of(v)->in_kvm) {
			if (!awake(v))
				return VCPU_EXIT_HALT;
			if (kvm_debug_here(v)) {
				if (!first)
					return VCPU_EXIT_DEBUG;
				kvm_reference_one(v, COUNT_FELL_DEBUG);
				continue;
			}
			if (!brought_in(v))
				continue;
		}
		if (round_trip(v) == NEXT_LEAVE_DEBUG)
			return VCPU_EXIT_DEBUG;
	}
}

enum vcpu_exit kvm_enter(struct vcpu *v, const struct run_budget *b)
{
	struct kvm_vcpu *x = kvm_of(v);
	enum vcpu_exit why;

	if (x->thread != gettid()) {
		x->thread = gettid();
		kicks_prepare(x->fd);
	}
	host_fault_enter(x->interp.thunks, &hot(v)->thunk_sp);
	/* A debugger's step, and points KVM has no means for: by the reference engine, to the instruction. */
	if (b->insns != UINT64_MAX || !kvm_debug_possible(v) || x->vm->split != x->has_apic) {
		if (x->has_apic)
			v->hooks->apics_back(v->machine);
		why = kvm_reference_run(v, b);
	} else {
		kvm_debug_set(v);
		why = loop(v);
		kvm_export(v);
		cpu_recheck_events(v);
	}
	host_fault_leave();
	return why;
}
