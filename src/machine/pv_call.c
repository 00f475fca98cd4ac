/*
 * Hypercalls (Linux, Documentation/virt/kvm/x86/hypercalls.rst). Processors
 * are named by their APIC IDs.
 */
#include "cpu/pv.h"
#include "machine/internal.h"
#include "machine/pv.h"
#include "replay/door.h"

#define ICR_LOGICAL 0x800u
#define ICR_SHORTHAND 0xc0000u

/* The processor's HLT ends, or its next one does not begin. */
static u64 kick(struct machine *m, u64 apic_id)
{
	int n = lapic_find(m->lapics, apic_id);

	if (n < 0)
		return 0;
	if (m->apics_lent) {
		const struct apic_message kick_message = { .dest = (u32)apic_id,
							   .wide = true,
							   .mode = APIC_REMOTE_READ };

		machine_apics_deliver(m, &kick_message);
		return 0;
	}
	machine_vcpu(m, (unsigned)n)->kicked = true;
	m->cpu[n].kicks++;
	/* EV_TRAP makes a halted engine look at it. */
	wake_cpu(m, (unsigned)n, EV_TRAP | EV_KICK);
	return 0;
}

/* Wall time and TSC at one moment, for a guest that keeps its clock by the host's. */
static u64 pair_clocks(struct machine *m, unsigned n, gpa_t gpa, u64 type)
{
	struct kvm_clock_pairing p = { .tsc = 0 };
	u64 wall;

	if (type)
		return (u64)-KVM_EOPNOTSUPP;
	if (!memory_ptr(m->mem, gpa, sizeof(p), true))
		return (u64)-KVM_EFAULT;
	p.tsc = clock_tsc(m->clock);
	if (door_mode(m->door) == DOOR_VIRTUAL)
		wall = door_wall_epoch(m->door) * NSEC_PER_SEC + p.tsc;
	else
		wall = door_wall_ns(m->door);
	p.tsc += machine_vcpu(m, n)->cpu.tsc_offset;
	p.sec = (s64)(wall / NSEC_PER_SEC);
	p.nsec = (s64)(wall % NSEC_PER_SEC);
	memory_write(m->mem, gpa, &p, sizeof(p));
	return 0;
}

static u64 send_ipi(struct machine *m, const u64 args[4], bool wide)
{
	u32 icr = (u32)args[3];

	if (icr & (ICR_LOGICAL | ICR_SHORTHAND))
		return (u64)-KVM_EINVAL;
	return lapic_send_many(m->lapics, args[0], args[1], args[2], icr, wide);
}

/* For a processor that is preempted, and has an interrupt of this one's to take. Without the lock: another thread may
 * run meanwhile. */
static u64 step_aside(struct machine *m, unsigned n, u64 apic_id)
{
	machine_lock(m);
	int to = lapic_find(m->lapics, apic_id);

	machine_unlock(m);
	if (to >= 0 && to != (int)n)
		machine_yield(m, n, to);
	return 0;
}

static u64 answer(struct machine *m, unsigned n, u64 nr, const u64 args[4], bool wide)
{
	u32 has = m->model.pv_features;

	switch (nr) {
	case KVM_HC_VAPIC_POLL_IRQ: /* leaving the guest was all it is for */
		return 0;
	case KVM_HC_KICK_CPU:
		if (has & PV_UNHALT)
			return kick(m, args[1]);
		break;
	case KVM_HC_CLOCK_PAIRING:
		if (has & PV_CLOCK_ALL)
			return pair_clocks(m, n, args[0], args[1]);
		break;
	case KVM_HC_SEND_IPI:
		if (has & PV_SEND_IPI)
			return send_ipi(m, args, wide);
		break;
	}
	return (u64)-KVM_ENOSYS;
}

u64 pv_hypercall(void *machine, unsigned n, u64 nr, const u64 args[4], bool wide)
{
	struct machine *m = machine;
	u64 ret;

	if (nr == KVM_HC_SCHED_YIELD && (m->model.pv_features & PV_SCHED_YIELD))
		return step_aside(m, n, args[0]);
	machine_lock(m);
	ret = answer(m, n, nr, args, wide);
	machine_unlock(m);
	return ret;
}
