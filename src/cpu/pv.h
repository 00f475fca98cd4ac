/*
 * The paravirtual interface: the guest ABI of KVM, as Linux's documents give
 * it (Documentation/virt/kvm/x86: cpuid.rst, msr.rst, hypercalls.rst). Numbers
 * and layouts; machine/pv.c is what answers.
 */
#ifndef ECTYPE_CPU_PV_H
#define ECTYPE_CPU_PV_H

#include "base/types.h"

/* CPUID 40000001H EAX: what of it is there (cpu_model.pv_features). */
#define PV_CLOCK_OLD BIT(0) /* kvmclock by its old MSRs */
#define PV_NO_IO_DELAY BIT(1)
#define PV_CLOCK BIT(3)
#define PV_STEAL_TIME BIT(5)
#define PV_EOI BIT(6)
#define PV_UNHALT BIT(7)
#define PV_TLB_FLUSH BIT(9)
#define PV_SEND_IPI BIT(11)
#define PV_POLL_CONTROL BIT(12)
#define PV_SCHED_YIELD BIT(13)
#define PV_CLOCK_STABLE BIT(24) /* time does not go back from one processor to another */

#define PV_CLOCK_ALL ((u32)(PV_CLOCK_OLD | PV_CLOCK | PV_CLOCK_STABLE))
#define PV_ALL                                                                                                         \
	((u32)(PV_CLOCK_ALL | PV_NO_IO_DELAY | PV_STEAL_TIME | PV_EOI | PV_UNHALT | PV_TLB_FLUSH | PV_SEND_IPI |       \
	       PV_POLL_CONTROL | PV_SCHED_YIELD))

#define MSR_KVM_WALL_CLOCK 0x11
#define MSR_KVM_SYSTEM_TIME 0x12
#define MSR_KVM_FIRST 0x4b564d00
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_STEAL_TIME 0x4b564d03
#define MSR_KVM_PV_EOI_EN 0x4b564d04
#define MSR_KVM_POLL_CONTROL 0x4b564d05
#define MSR_KVM_LAST 0x4b564dff
#define KVM_MSR_ENABLED BIT(0)

/* pvclock ABI: the time of a processor. While it is written `version` is odd. */
struct pvclock_vcpu_time_info {
	u32 version, pad0;
	u64 tsc_timestamp, system_time; /* ns since power-on at that TSC */
	u32 tsc_to_system_mul;
	s8 tsc_shift;
	u8 flags, pad[2];
} __attribute__((packed, aligned(4)));
_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "pvclock ABI");
#define PVCLOCK_TSC_STABLE BIT(0)
#define PVCLOCK_GUEST_STOPPED BIT(1)

/* Wall clock at system time 0. */
struct pvclock_wall_clock {
	u32 version, sec, nsec;
} __attribute__((packed, aligned(4)));

struct kvm_steal_time {
	u64 steal; /* ns */
	u32 version, flags;
	u8 preempted, pad0[3];
	u32 pad[11];
};
_Static_assert(sizeof(struct kvm_steal_time) == 64, "layout of steal time");
#define KVM_VCPU_PREEMPTED BIT(0)
#define KVM_VCPU_FLUSH_TLB BIT(1)

struct kvm_clock_pairing {
	s64 sec, nsec;
	u64 tsc;
	u32 flags, pad[9];
};
_Static_assert(sizeof(struct kvm_clock_pairing) == 64, "layout of a clock pairing");

enum kvm_hypercall {
	KVM_HC_VAPIC_POLL_IRQ = 1,
	KVM_HC_KICK_CPU = 5,
	KVM_HC_CLOCK_PAIRING = 9,
	KVM_HC_SEND_IPI = 10,
	KVM_HC_SCHED_YIELD = 11,
};
/* What hypercalls return, negated. */
#define KVM_EPERM 1
#define KVM_EFAULT 14
#define KVM_EINVAL 22
#define KVM_EOPNOTSUPP 95
#define KVM_ENOSYS 1000

#endif
