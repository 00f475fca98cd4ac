/*
 * Events at instruction boundaries: the order in which they are taken, what
 * blocks them, and what happens when delivery itself faults (SDM vol. 3,
 * 6.7-6.9, 6.15 "Interrupt 8", 18.3). The protocol with the engines is
 * written down in event.h; the mechanics of one delivery are in gate.c.
 */
#include "cpu/flow.h"

/* SDM vol. 3, table 6-4 */
enum exception_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

static enum exception_class class_of(unsigned vector)
{
	switch (vector) {
	case EXC_DE:
	case EXC_TS:
	case EXC_NP:
	case EXC_SS:
	case EXC_GP:
		return CLASS_CONTRIBUTORY;
	case EXC_PF:
		return CLASS_PAGE_FAULT;
	case EXC_DF:
		return CLASS_DOUBLE_FAULT;
	default:
		return CLASS_BENIGN;
	}
}

/*
 * RF in the pushed flags (SDM vol. 3, 18.3.1.1): set for every fault except
 * the one of an instruction breakpoint; machine check and double fault are
 * aborts.
 */
static bool fault_pushes_rf(const struct fault *f)
{
	if (f->vector == EXC_DB)
		return f->addr & DR6_BD;
	return f->vector != EXC_DF && f->vector != EXC_MC;
}

static void shut_down(struct vcpu *v)
{
	v->cpu.activity = ACT_SHUTDOWN;
	v->cpu.shadow = SHADOW_NONE;
	fpu_park(v);
	v->hooks->triple_fault(v->machine, v->index);
}

/* State that a fault or trap leaves behind before its handler is looked up. */
static void note_exception(struct cpu *c, const struct fault *f)
{
	if (f->vector == EXC_PF) {
		c->cr2 = f->addr;
	} else if (f->vector == EXC_DB) {
		c->dr[6] |= f->addr & (DR6_B0123 | DR6_BD | DR6_BS | DR6_BT);
		c->dr[7] &= ~DR7_GD;
		c->debugctl &= ~3ull; /* LBR and BTF: SDM vol. 3, 18.4.1 */
	}
}

/* Deliver `e`; `class` is what table 6-5 says of it as a first event. */
static void deliver(struct vcpu *v, struct delivery *e, enum exception_class class)
{
	struct cpu *c = &v->cpu;

	while (unlikely(deliver_once(v, e))) {
		struct fault f = v->fault;
		enum exception_class second = class_of(f.vector);

		note_exception(c, &f);
		if (class == CLASS_DOUBLE_FAULT && second != CLASS_BENIGN) {
			shut_down(v);
			return;
		}
		if ((class == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) ||
		    (class == CLASS_PAGE_FAULT && second != CLASS_BENIGN)) {
			f = (struct fault){ .vector = EXC_DF, .has_error = true };
			second = CLASS_DOUBLE_FAULT;
		}
		class = second;
		*e = (struct delivery){ .vector = f.vector,
					.kind = EVENT_EXCEPTION,
					.has_error = f.has_error,
					.rf = fault_pushes_rf(&f),
					.error = f.error,
					.rip = c->rip };
	}
	c->activity = ACT_RUNNING;
	c->shadow = SHADOW_NONE;
	v->window_seen = false;
}

void cpu_deliver_fault(struct vcpu *v)
{
	const struct fault f = v->fault;
	struct delivery e = { .vector = f.vector,
			      .kind = EVENT_EXCEPTION,
			      .has_error = f.has_error,
			      .rf = fault_pushes_rf(&f),
			      .error = f.error,
			      .rip = v->cpu.rip };

	note_exception(&v->cpu, &f);
	deliver(v, &e, class_of(f.vector));
}

void cpu_deliver(struct vcpu *v, u8 vector, enum event_kind kind, bool has_error, u32 error)
{
	struct delivery e = {
		.vector = vector, .kind = (u8)kind, .has_error = has_error, .error = error, .rip = v->cpu.rip
	};

	/* Only exceptions of the processor itself can make a double fault, whatever the vector is. */
	deliver(v, &e, kind == EVENT_EXCEPTION ? class_of(vector) : CLASS_BENIGN);
}

int cpu_soft_interrupt(struct vcpu *v, u8 vector, enum event_kind kind, u64 next_rip)
{
	struct cpu *c = &v->cpu;
	struct delivery e = { .vector = vector, .kind = (u8)kind, .rip = next_rip };
	bool tf = c->rflags & FL_TF;

	if (deliver_once(v, &e))
		return FAULT;
	if (kind == EVENT_PRIV_EXC && vector == EXC_DB)
		c->dr[7] &= ~DR7_GD;
	c->shadow = SHADOW_NONE;
	v->window_seen = false;
	if (tf)
		flow_suppress_step(v);
	return 0;
}

void flow_suppress_step(struct vcpu *v)
{
	v->step_suppressed = true;
	vcpu_raise(v, EV_TRAP); /* so that cpu_take_events() forgets it if the engine does not ask */
}

void flow_set_shadow(struct vcpu *v, enum shadow s)
{
	v->cpu.shadow = (u8)s;
	v->cpu.rflags &= ~FL_RF; /* the instruction it covered is this one */
	v->window_seen = false;
	vcpu_raise(v, EV_TRAP);
}

void flow_unblock_nmi(struct vcpu *v)
{
	if (unlikely(v->cpu.nmi_blocked)) {
		v->cpu.nmi_blocked = false;
		if (v->cpu.nmi_pending)
			vcpu_raise(v, EV_NMI);
	}
}

void flow_flags_loaded(struct vcpu *v, u64 old)
{
	u64 now = v->cpu.rflags;

	if ((old ^ now) & FL_AC)
		mmu_mode_changed(v);
	if (unlikely(now & (FL_TF | FL_RF))) {
		if (now & FL_RF)
			v->window_seen = false;
		vcpu_raise(v, EV_TRAP);
	}
	if (unlikely(v->intr_held) && (now & FL_IF))
		vcpu_raise(v, EV_INTR);
}

/* End the shadow and RF one instruction after cpu_take_events() first met them. */
static void update_window(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	if (likely(!c->shadow && !(c->rflags & FL_RF)))
		return;
	if (!v->window_seen) {
		v->window_seen = true;
		v->window_icount = v->icount;
	} else if (v->window_icount != v->icount) {
		c->shadow = SHADOW_NONE;
		c->rflags &= ~FL_RF;
		v->window_seen = false;
	}
}

static bool take_debug_trap(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	if (likely(!c->pending_db) || c->shadow == SHADOW_MOV_SS)
		return false;
	note_exception(c, &(struct fault){ .vector = EXC_DB, .addr = c->pending_db });
	c->pending_db = 0;
	cpu_deliver(v, EXC_DB, EVENT_EXCEPTION, false, 0);
	return true;
}

static bool take_nmi(struct vcpu *v)
{
	struct cpu *c = &v->cpu;

	if (c->shadow == SHADOW_MOV_SS)
		return false; /* EV_NMI stays raised */
	vcpu_clear(v, EV_NMI);
	if (!c->nmi_pending || c->nmi_blocked)
		return false;
	c->nmi_pending = false;
	cpu_deliver(v, EXC_NMI, EVENT_HARDWARE, false, 0);
	c->nmi_blocked = true;
	return true;
}

static bool take_interrupt(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	int vector;

	if (!(c->rflags & FL_IF)) {
		v->intr_held = true;
		vcpu_clear(v, EV_INTR);
		return false;
	}
	if (c->shadow) {
		vcpu_raise(v, EV_INTR);
		return false;
	}
	/* Cleared before the controller is asked: what arrives later raises it again. */
	vcpu_clear(v, EV_INTR);
	v->intr_held = false;
	fpu_park(v);
	if (!v->hooks->intr_pending(v->machine, v->index))
		return false;
	vector = v->hooks->intr_ack(v->machine, v->index);
	if (vector < 0)
		return false;
	cpu_deliver(v, (u8)vector, EVENT_HARDWARE, false, 0);
	fpu_park(v);
	if (c->activity == ACT_RUNNING && v->hooks->intr_pending(v->machine, v->index)) {
		if (c->rflags & FL_IF)
			vcpu_raise(v, EV_INTR);
		else
			v->intr_held = true;
	}
	return true;
}

static void raise_trap_if_needed(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;

	if (unlikely((c->rflags & (FL_TF | FL_RF)) || c->shadow || c->pending_db))
		vcpu_raise(v, EV_TRAP);
}

bool cpu_take_events(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	bool taken, was_halted = c->activity == ACT_HALTED;

	if (unlikely(c->activity >= ACT_SHUTDOWN)) {
		vcpu_clear(v, EV_INTR | EV_NMI | EV_TRAP);
		return false;
	}
	if (v->event & EV_TRAP)
		vcpu_clear(v, EV_TRAP);
	v->step_suppressed = false;
	update_window(v);
	taken = take_debug_trap(v);
	if (c->nmi_pending || (v->event & EV_NMI))
		taken |= take_nmi(v);
	if ((v->event & EV_INTR) || v->intr_held || c->activity == ACT_HALTED)
		taken |= take_interrupt(v);
	if (unlikely(v->kicked) && was_halted) {
		v->kicked = false; /* whatever woke it */
		c->activity = ACT_RUNNING;
	}
	if (c->activity < ACT_SHUTDOWN)
		raise_trap_if_needed(v);
	return taken;
}

void cpu_recheck_events(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;

	if (c->rflags & FL_IF) {
		fpu_park(v);
		if (v->hooks->intr_pending(v->machine, v->index))
			vcpu_raise(v, EV_INTR);
	} else {
		v->intr_held = true; /* not asked now: whatever sets IF will make us ask */
	}
	if (c->nmi_pending && !c->nmi_blocked)
		vcpu_raise(v, EV_NMI);
	raise_trap_if_needed(v);
}

/* What cannot be taken is put aside as cpu_take_events() does it, so that a thread may sleep until more comes. */
bool cpu_wakeup_pending(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;

	if (c->activity >= ACT_SHUTDOWN)
		return false;
	if (c->pending_db || (c->nmi_pending && !c->nmi_blocked))
		return true;
	if (unlikely(v->kicked)) {
		vcpu_raise(v, EV_TRAP); /* so that the engine looks */
		return true;
	}
	if (v->event & EV_NMI)
		vcpu_clear(v, EV_NMI);
	if (!(c->rflags & FL_IF)) {
		/* A guest that waits for a kick halts so. */
		if (v->event & EV_INTR) {
			v->intr_held = true;
			vcpu_clear(v, EV_INTR);
		}
		return false;
	}
	if (v->event & EV_INTR)
		vcpu_clear(v, EV_INTR); /* before the controller is asked */
	fpu_park(v);
	if (!v->hooks->intr_pending(v->machine, v->index))
		return false;
	vcpu_raise(v, EV_INTR);
	return true;
}
