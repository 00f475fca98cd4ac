/*
 * Local APICs in KVM (KVM_CAP_SPLIT_IRQCHIP), while the machine lends them
 * (engine/engine.h, struct engine_apics). IOAPIC, 8259s and timers of devices
 * stay ours:
 *
 *   messages       KVM_SIGNAL_MSI
 *   EOIs           KVM_EXIT_IOAPIC_EOI, for the vectors KVM_SET_GSI_ROUTING names
 *   ExtINT         KVM_INTERRUPT, when KVM says that one can be taken (run.c)
 *   halts, INIT    in KVM_RUN; cpu.activity goes in and out as KVM_SET_MP_STATE has it
 *
 * INIT, SIPI, NMI and fixed interrupts come to a processor in KVM at any time,
 * also while its state is in v->cpu: what KVM has noted of them is left alone
 * there until the APIC is given back.
 */
#include "engine/kvm/kvm.h"
#include "engine/kvm/kicks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/msr.h"
#include "cpu/pv.h"

#define MSR_TSC_DEADLINE 0x6e0
#define BASE_X2APIC BIT(10)
#define TIMER_MODE (3u << 17)
#define TIMER_DEADLINE (2u << 17)

/* ---- the VM ---- */

bool kvm_split_wanted(const struct vcpu *v, const struct kvm_host *h)
{
	/* One thread for several cannot sleep in KVM_RUN of one of them. */
	bool threads = v->group && (v->group->count == 1 || v->group->parallel);

	return h->splits && threads && v->hooks->apics_lent && !(v->engine_options && v->engine_options->own_apics);
}

static int enable(int fd, u32 cap, u64 arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args[0] = arg };

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &c);
}

int kvm_split_enable(int vm_fd, const struct kvm_host *h)
{
	return enable(vm_fd, KVM_CAP_SPLIT_IRQCHIP, APIC_PINS) || enable(vm_fd, KVM_CAP_X2APIC_API, h->x2apic_flags);
}

static bool deliver(struct vcpu *v, const struct apic_msi *msi)
{
	struct kvm_msi m = { .address_lo = (u32)msi->addr, .address_hi = (u32)(msi->addr >> 32), .data = msi->data };

	return kvm_ioctl(kvm_of(v)->vm->fd, KVM_SIGNAL_MSI, &m) > 0;
}

static void set_routes(struct vcpu *v, const struct apic_routes *r)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[APIC_PINS];
	} table = { .head.nr = 0 };

	for (unsigned n = 0; n < APIC_PINS; n++) {
		const struct apic_msi *m = &r->pin[n];

		if (!(r->used & BIT(n)))
			continue;
		table.entry[table.head.nr++] = (struct kvm_irq_routing_entry){
			.gsi = n,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (u32)m->addr, .address_hi = (u32)(m->addr >> 32), .data = m->data },
		};
	}
	kvm_ioctl(kvm_of(v)->vm->fd, KVM_SET_GSI_ROUTING, &table);
}

/* ---- registers on their way in and out ---- */

static bool deadline_mode(u32 lvtt)
{
	return (lvtt & TIMER_MODE) == TIMER_DEADLINE;
}

static int set_page(struct kvm_vcpu *x, const struct apic_state *s)
{
	struct kvm_lapic_state page;
	bool was = deadline_mode(x->lvtt);

	kvm_apic_to_page(s, &page, &x->hidden_count);
	x->lvtt = s->lvt[0];
	if (was)
		kvm_put_msr(x, MSR_TSC_DEADLINE, 0);
	/* A change from or to deadline mode forgets the counts: they go in with the second call. */
	if (was != deadline_mode(x->lvtt) && kvm_ioctl(x->fd, KVM_SET_LAPIC, &page))
		return -1;
	return kvm_ioctl(x->fd, KVM_SET_LAPIC, &page);
}

/* What the guest reaches of the paravirtual interface without an exit. KVM without one of them says no. */
static void set_pv(struct vcpu *v, const struct apic_state *s)
{
	const struct kvm_vcpu *x = kvm_of(v);
	u32 has = v->model->pv_features;

	kvm_of(v)->given = *s;
	if (has & PV_EOI)
		kvm_put_msr(x, MSR_KVM_PV_EOI_EN, s->pv_eoi);
	if ((has & PV_STEAL_TIME) && x->host->steal)
		kvm_put_msr(x, MSR_KVM_STEAL_TIME, s->steal_time);
	if (has & PV_POLL_CONTROL)
		kvm_put_msr(x, MSR_KVM_POLL_CONTROL, s->poll_control);
}

static void get_pv(struct vcpu *v, struct apic_state *s)
{
	const struct kvm_vcpu *x = kvm_of(v);
	u32 has = v->model->pv_features;

	s->pv_eoi = x->given.pv_eoi;
	s->steal_time = x->given.steal_time;
	s->poll_control = x->given.poll_control;
	if (has & PV_EOI)
		kvm_get_msr(x, MSR_KVM_PV_EOI_EN, &s->pv_eoi);
	if ((has & PV_STEAL_TIME) && x->host->steal) {
		kvm_get_msr(x, MSR_KVM_STEAL_TIME, &s->steal_time);
		/* or KVM would go on to write there */
		kvm_put_msr(x, MSR_KVM_STEAL_TIME, 0);
	}
	if (has & PV_POLL_CONTROL)
		kvm_get_msr(x, MSR_KVM_POLL_CONTROL, &s->poll_control);
}

/* A kick that came before the HLT it is to end: KVM has such a message, too. */
static void set_kicked(struct vcpu *v)
{
	struct apic_msi m = { .addr = 0xfee00000 | (u64)(v->index & 0xff) << 12, .data = 3 << 8 };

	v->kicked = false;
	deliver(v, &m);
}

static int take(struct vcpu *v, const struct apic_state *state, struct error *e)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct apic_state s = *state;

	if (s.base & BASE_X2APIC)
		s.id = v->index;
	/* The mode first: it says how the page is to be read. */
	if (!kvm_put_msr(x, MSR_APIC_BASE, s.base) || set_page(x, &s))
		return error_errno(e, errno, "engine kvm: KVM does not take the state of local APIC %u", v->index);
	x->apic_base = s.base;
	x->cr8 = (u8)(s.tpr >> 4);
	x->cr8_changed = false;
	x->deadline = deadline_mode(s.lvt[0]) ? s.tsc_deadline : 0;
	set_pv(v, &s);
	x->has_apic = true;
	if (v->cpu.activity == ACT_HALTED && v->kicked) {
		v->cpu.activity = ACT_RUNNING;
		v->kicked = false;
	}
	return 0;
}

void kvm_apic_follow(struct vcpu *v, bool tsc_moved)
{
	struct kvm_vcpu *x = kvm_of(v);

	if (tsc_moved && !x->deadline && deadline_mode(x->lvtt))
		kvm_get_msr(x, MSR_TSC_DEADLINE, &x->deadline);
	if (x->deadline)
		kvm_put_msr(x, MSR_TSC_DEADLINE, x->deadline);
	x->deadline = 0;
	if (v->kicked)
		set_kicked(v);
}

/* ---- what KVM has waiting ---- */

/*
 * KVM_RUN with a signal that waits: it ends before the next instruction, but
 * behind what KVM does on its way there: timers that have run out set their
 * bits in IRR, an EOI comes out, an interrupt given to it begins to be
 * delivered, which the state shows.
 */
void kvm_settle(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	kicks_prepare(x->fd);
	for (unsigned i = 0; i < 8; i++) {
		int r;

		kicks_send(gettid());
		x->run->immediate_exit = 0;
		x->run->request_interrupt_window = 0;
		r = ioctl(x->fd, KVM_RUN, 0);
		x->extint_given = false;
		if (r || x->run->exit_reason != KVM_EXIT_IOAPIC_EOI)
			break;
		v->hooks->apic_eoi(v->machine, v->index, x->run->eoi.vector);
	}
	kicks_consume();
}

static bool read_page(struct vcpu *v, struct apic_state *s)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_lapic_state page;

	if (!kvm_get_msr(x, MSR_APIC_BASE, &s->base) || kvm_ioctl(x->fd, KVM_GET_LAPIC, &page))
		return false;
	kvm_page_to_apic(&page, x->hidden_count, s);
	x->lvtt = s->lvt[0];
	return true;
}

/* May its timer have run out without a bit in IRR, having been seen with `before`? */
static bool may_be_due(const struct apic_state *s, const struct apic_state *before)
{
	switch (s->lvt[0] & TIMER_MODE) {
	case TIMER_DEADLINE: /* the register says */
		return false;
	case 0:
		return before->count && !s->count;
	default:
		return s->count > before->count;
	}
}

/* No interrupt and no NMI begins to be delivered while KVM looks at what waits. */
static void hold_events(struct vcpu *v)
{
	const struct kvm_vcpu_events hold = {
		.flags = KVM_VCPUEVENT_VALID_SHADOW,
		.interrupt.shadow = KVM_X86_SHADOW_INT_STI,
		.nmi.masked = v->cpu.nmi_blocked,
	};

	kvm_ioctl(kvm_of(v)->fd, KVM_SET_VCPU_EVENTS, &hold);
}

/* The registers, with the bits in IRR of timers that have run out. */
static void collect(struct vcpu *v, struct apic_state *s, bool at_boundary)
{
	struct apic_state before = { .count = 0 };

	for (unsigned i = 0; i < 4; i++) {
		read_page(v, &before);
		kvm_settle(v);
		if (at_boundary) /* an INIT that waits changes what comes below */
			kvm_activity_out(v);
		if (!read_page(v, s) || !may_be_due(s, &before))
			break;
	}
}

/* A pending NMI goes to v->cpu. */
static void nmi_out(struct vcpu *v)
{
	struct kvm_vcpu_events e = { .flags = 0 };

	kvm_ioctl(kvm_of(v)->fd, KVM_GET_VCPU_EVENTS, &e);
	if (e.nmi.pending)
		v->cpu.nmi_pending = true;
	kvm_events_clear(v);
}

/* The processor's state goes in, since an INIT that waits changes it there. Not inside an instruction of the reference
 * engine, where it is half done, and on its own thread. */
static void settle(struct vcpu *v)
{
	if (!kvm_reference_inside() && v->cpu.activity != ACT_SHUTDOWN)
		kvm_import(v);
	hold_events(v);
	kvm_settle(v);
}

static void give(struct vcpu *v, struct apic_state *s)
{
	struct kvm_vcpu *x = kvm_of(v);
	bool whole = x->in_kvm;
	u8 shadow = v->cpu.shadow;

	*s = (struct apic_state){ .base = x->apic_base };
	collect(v, s, whole);
	/* Of a deadline that waits for KVM's TSC, KVM knows nothing. */
	if (x->deadline)
		s->tsc_deadline = x->deadline;
	else if (deadline_mode(s->lvt[0]))
		kvm_get_msr(x, MSR_TSC_DEADLINE, &s->tsc_deadline);
	x->deadline = 0;
	/* KVM_SET_SREGS drops what CR8 does not have. */
	if (s->tpr == (x->given.tpr & 0xf0))
		s->tpr = x->given.tpr;
	get_pv(v, s);
	if (whole) {
		kvm_export(v);
		if (v->cpu.shadow == SHADOW_STI)
			v->cpu.shadow = shadow;
	}
	nmi_out(v);
	x->has_apic = false;
	/* KVM does not say whether a kick waits; one too many does no harm. */
	if ((v->model->pv_features & PV_UNHALT) && v->cpu.activity == ACT_RUNNING)
		v->kicked = true;
}

/* ---- activity ---- */

void kvm_activity_out(struct vcpu *v)
{
	struct kvm_mp_state s = { .mp_state = KVM_MP_STATE_RUNNABLE };

	/* Takes an INIT or SIPI that waits: before the registers are read. */
	if (v->cpu.activity == ACT_SHUTDOWN || kvm_ioctl(kvm_of(v)->fd, KVM_GET_MP_STATE, &s))
		return;
	switch (s.mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		v->cpu.activity = ACT_RUNNING;
		break;
	case KVM_MP_STATE_HALTED:
		v->cpu.activity = ACT_HALTED;
		break;
	default:
		v->cpu.activity = ACT_WAIT_FOR_SIPI;
		break;
	}
}

int kvm_activity_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_mp_state s = { .mp_state = KVM_MP_STATE_RUNNABLE };

	if (x->seen_valid && v->cpu.activity == x->seen.activity)
		return 0;
	if (v->cpu.activity == ACT_HALTED)
		s.mp_state = KVM_MP_STATE_HALTED;
	else if (v->cpu.activity != ACT_RUNNING)
		s.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	return kvm_ioctl(x->fd, KVM_SET_MP_STATE, &s);
}

/* ---- for the processor's hooks ---- */

static int msr_read(struct vcpu *v, u32 msr, u64 *val)
{
	return kvm_get_msr(kvm_of(v), msr, val) ? 0 : -1;
}

static int msr_write(struct vcpu *v, u32 msr, u64 val)
{
	struct kvm_vcpu *x = kvm_of(v);

	if (!kvm_put_msr(x, msr, val))
		return -1;
	if (msr == MSR_APIC_BASE)
		x->apic_base = val;
	return 0;
}

static u64 cr8_read(struct vcpu *v)
{
	return kvm_of(v)->cr8;
}

static void cr8_write(struct vcpu *v, u64 val)
{
	kvm_of(v)->cr8 = val & 15;
	kvm_of(v)->cr8_changed = true;
}

static bool wanted(struct vcpu *v)
{
	return kvm_of(v)->vm->split && kvm_debug_possible(v);
}

const struct engine_apics kvm_apics = {
	.wanted = wanted,
	.take = take,
	.settle = settle,
	.give = give,
	.deliver = deliver,
	.set_routes = set_routes,
	.msr_read = msr_read,
	.msr_write = msr_write,
	.cr8_read = cr8_read,
	.cr8_write = cr8_write,
};
