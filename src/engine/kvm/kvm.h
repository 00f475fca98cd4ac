/*
 * Engine `kvm`: private declarations.
 *
 * The processor runs in KVM, and its local APIC where the machine lends it
 * (apic.c; KVM_CAP_SPLIT_IRQCHIP). Everything else stays ours: the chipset's
 * interrupt controllers, and the local APICs where the VM has none of its own
 * (KVM_INTERRUPT and the interrupt window), every MSR that is not in the
 * instruction path (the filter denies them, so they come out and go to
 * src/cpu/msr.c), CPUID (our model's table), timers of devices and time.
 *
 * Who holds the processor's state: outside run() it is in v->cpu, exact at an
 * instruction boundary. run() brings into KVM what differs from what KVM held
 * last (x->seen), and takes everything out before it returns. What KVM cannot
 * do is done by the reference engine, which is inside (reference.c).
 */
#ifndef ECTYPE_ENGINE_KVM_KVM_H
#define ECTYPE_ENGINE_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "engine/interp/interp.h"
#include "isa/isa.h"

#define KVM_SLOTS_MAX 128
#define KVM_VCPUS_MAX 256
#define KVM_MSRS_MAX 16

/* What the host's KVM is, found out once a process (host.c). */
struct kvm_host {
	int fd; /* /dev/kvm; -1: see `why` */
	char why[160];
	int run_size; /* of struct kvm_run and what follows it */
	size_t xsave_size;
	u64 xcr0; /* components KVM_SET_XSAVE takes */
	unsigned slots;
	bool scales_tsc; /* any rate of the guest's TSC; else only tsc_khz */
	u32 tsc_khz;
	bool splits;	       /* it can keep the local APICs: all that takes is there */
	bool steal;	       /* ... and count stolen time */
	u64 x2apic_flags;      /* of KVM_CAP_X2APIC_API */
	bool fails_out;	       /* KVM_CAP_EXIT_ON_EMULATION_FAILURE */
	u32 msr[KVM_MSRS_MAX]; /* of those the state needs, the ones KVM has */
	unsigned msrs;
	struct cpu_limits limits;
};
/* NULL if there is none that is complete enough; *why says what is missing. Opens /dev/kvm. */
const struct kvm_host *kvm_host(const char **why);
/* From now on /dev/kvm stays open for this process; or, if nobody wants that, it is closed until it is asked for. */
void kvm_host_keep(bool keep);
/* What a guest of this KVM may be offered: what KVM lists, and what it shows anyway. */
const struct cpu_limits *kvm_limits(const struct kvm_host *h);

/* One memory slot. `len` 0: the slot is free. */
struct kvm_slot {
	gpa_t gpa;
	u64 len;
	u8 *host;
	bool rom;
};

/* A VM of the kernel's: one a machine, shared by its processors (vm.c). */
struct kvm_vm {
	struct memory *mem;
	const struct vcpu_group *group; /* NULL: `alone` is the only processor */
	struct vcpu *alone;
	int fd;
	bool split;	      /* made so that it keeps the local APICs */
	pthread_mutex_t lock; /* of the slots */
	struct kvm_slot slot[KVM_SLOTS_MAX];
	unsigned slots_set; /* times KVM was told of a slot */
	unsigned unmapped;  /* pieces of RAM or ROM for which there is no slot: their accesses come out as MMIO */
	u64 tsc_offset;	    /* KVM's of a processor whose own is 0; under the lock */
	bool tsc_known;
	bool logs; /* written frames are noted */
	int vcpu_fd[KVM_VCPUS_MAX];
};

/* Which of KVM's exits a counter stands for. */
enum kvm_count {
	COUNT_RUNS,
	COUNT_PIO,
	COUNT_MMIO,
	COUNT_MSR,
	COUNT_HALT,
	COUNT_WINDOW,
	COUNT_SIGNAL,
	COUNT_TPR,
	COUNT_EOI,
	COUNT_DEBUG,
	COUNT_SHUTDOWN,
	COUNT_OTHER,
	COUNT_INTERRUPTS,
	COUNT_NMIS,
	COUNT_EXPORTS,
	COUNT_IMPORTS,
	COUNT_TSC_SET,
	COUNT_FELL_EMULATION, /* to the reference engine: KVM gave up on the instruction */
	COUNT_FELL_ENTRY,     /* ... the processor refused to enter */
	COUNT_FELL_STATE,     /* ... KVM refused the state */
	COUNT_FELL_DEBUG,     /* ... debugger's steps, and points KVM has no means for */
	COUNT_FELL_EVENT,     /* ... an exception that was under way when the state was taken out */
	COUNTS,
};

/* Instructions that went to the reference engine, by mnemonic. */
struct kvm_fell {
	const struct isa_row *row;
	char name[40];
	u64 count;
};
#define KVM_FELL_MAX 32

struct kvm_vcpu {
	struct interp interp;	   /* first: interp_of() */
	struct interp_peers peers; /* this processor alone: what it decoded is dropped before each use */
	const struct kvm_host *host;
	struct kvm_vm *vm;
	int fd;
	struct kvm_run *run;

	struct cpu seen;   /* what KVM holds, as of the last import or export */
	bool seen_valid;   /* false: bring in everything */
	bool in_kvm;	   /* KVM holds the state, v->cpu is old */
	bool incomplete;   /* the last exit's instruction is finished by the next KVM_RUN */
	bool events_left;  /* KVM still holds an event that was delivered by software */
	bool window_known; /* run->ready_for_interrupt_injection is of now */
	u64 tsc_last;	   /* guest's TSC when the state was taken out */
	u64 tsc_offset;	   /* cpu.tsc_offset that KVM's TSC was set with */
	bool tsc_stuck;	   /* KVM does not take a TSC */
	u64 apic_base;
	u8 cr8;		   /* what KVM was given; while it has the APIC, what it had last */
	bool cr8_changed;  /* ... by software */
	bool has_apic;	   /* the APIC was taken */
	u32 hidden_count;  /* initial count of a timer that has run out; KVM is told of none, or it would fire again */
	u32 lvtt;	   /* the timer's LVT entry as KVM was given it */
	u64 deadline;	   /* IA32_TSC_DEADLINE that waits for KVM's TSC; 0: none */
	bool extint_given; /* by KVM_INTERRUPT, and KVM_RUN was not called since */
	struct apic_state given; /* by take() */
	u32 debug_control;	 /* of KVM_SET_GUEST_DEBUG */

	pid_t thread; /* that ran it last */

	void *xsave;
	u64 count[COUNTS];
	struct kvm_fell fell[KVM_FELL_MAX];
	u64 fell_others;
};

static inline struct kvm_vcpu *kvm_of(struct vcpu *v)
{
	return v->engine_data;
}

/* ioctl() again after EINTR. */
int kvm_ioctl(int fd, unsigned long request, const void *arg);

/* vm.c. x->vm becomes that of v's machine, x->fd and x->run its processor: 0 or -1 with *e (then leave, too). */
int kvm_vm_join(struct vcpu *v, struct error *e);
void kvm_vm_leave(struct vcpu *v);

/* slots.c: KVM's slots follow the map. Any thread that may change the map. */
void kvm_slots_update(struct kvm_vm *vm);
/* KVM notes which frames its guest writes; what it noted since the last time goes to the tracks (mem/track.h). */
void kvm_log_written(struct kvm_vm *vm, bool on);
void kvm_report_written(struct kvm_vm *vm);

/* cpuid.c */
int kvm_set_cpuid(struct vcpu *v, struct error *e);
/* Fills `l` with what KVM supports. 0 or -1. */
int kvm_read_limits(int fd, struct cpu_limits *l, u64 *xcr0);

/* state.c. Both leave v->cpu exact; import changes nothing of it. */
void kvm_export(struct vcpu *v);
/* 0, or -1: KVM does not take this state. */
int kvm_import(struct vcpu *v);
/* What KVM has noted of events is out: it forgets them. */
void kvm_events_clear(struct vcpu *v);

/* state_msr.c */
extern const u32 kvm_state_msrs[];
extern const unsigned kvm_state_msr_count;
/* Which MSRs the guest of this model reaches without leaving KVM. 0 or -1. */
int kvm_set_msr_filter(const struct kvm_vm *vm, const struct kvm_host *h, const struct cpu_model *m);
/* One MSR of KVM's. False: KVM refuses. */
bool kvm_get_msr(const struct kvm_vcpu *x, u32 msr, u64 *val);
bool kvm_put_msr(const struct kvm_vcpu *x, u32 msr, u64 val);
void kvm_msrs_export(struct vcpu *v);
int kvm_msrs_import(struct vcpu *v);
/* Is it KVM alone that says what may be written to this MSR? */
bool kvm_msr_inside(const struct vcpu *v, u32 msr);
/* Our MSR changed while KVM has the state: those KVM needs to know. */
void kvm_msr_written(struct vcpu *v, u32 msr);
/* Bring KVM's TSC to the machine's time. */
void kvm_tsc_follow(struct vcpu *v);

/* run.c */
enum vcpu_exit kvm_enter(struct vcpu *v, const struct run_budget *b);
void kvm_kick(struct vcpu *v);
/* Finish what the last exit left open, so that the state is that of a boundary. */
void kvm_complete(struct vcpu *v);

/* apic_page.c: the registers' image of KVM, and what it says; s->base comes from elsewhere. `hide`: the initial count
 * to be remembered for kvm_page_to_apic(), see there. */
void kvm_apic_to_page(const struct apic_state *s, struct kvm_lapic_state *page, u32 *hide);
void kvm_page_to_apic(const struct kvm_lapic_state *page, u32 hidden, struct apic_state *s);

/* apic.c */
extern const struct engine_apics kvm_apics;
/* Is KVM to keep the APICs in a VM made for this processor's machine? */
bool kvm_split_wanted(const struct vcpu *v, const struct kvm_host *h);
/* KVM_CREATE_VM is done, no processor made yet. 0 or -1. */
int kvm_split_enable(int vm_fd, const struct kvm_host *h);
static inline bool kvm_keeps_apic(const struct vcpu *v)
{
	return ((const struct kvm_vcpu *)v->engine_data)->has_apic;
}
/* What KVM has waiting for the processor is done as far as no instruction is needed. It is between two calls of
 * KVM_RUN, on any thread. */
void kvm_settle(struct vcpu *v);
/* cpu.activity out and in; the APIC is KVM's. */
void kvm_activity_out(struct vcpu *v);
int kvm_activity_in(struct vcpu *v);
/* The state is in, KVM's TSC is right: arm what waits for that. `tsc_moved`: it was put right just now. */
void kvm_apic_follow(struct vcpu *v, bool tsc_moved);

/* exits.c: what KVM_RUN came back for. True: go on. False: the instruction at the boundary is for the reference
 * engine. */
enum kvm_next { NEXT_RUN, NEXT_REFERENCE, NEXT_LEAVE_DEBUG };
enum kvm_next kvm_handle_exit(struct vcpu *v);

/* reference.c. The state is in v->cpu, before and after. */
/* The map changed, or software wrote to a page of decoded code: told to the reference engine this thread is in. */
void kvm_reference_map_changed(void);
void kvm_reference_written(gpa_t gpa, unsigned len);
/* Is this thread in an instruction of it? */
bool kvm_reference_inside(void);
void kvm_reference_one(struct vcpu *v, enum kvm_count why);
/* Software delivery is about to use the MMU, and code in memory may have changed. */
void kvm_reference_prepare(struct vcpu *v);
enum vcpu_exit kvm_reference_run(struct vcpu *v, const struct run_budget *b);

/* debug.c */
/* Can KVM watch for all the debugger's points? */
bool kvm_debug_possible(const struct vcpu *v);
void kvm_debug_set(struct vcpu *v);
/* An exit for debugging: was it a debugger's point? Sets v->debug. The state is in v->cpu. */
bool kvm_debug_hit(struct vcpu *v);
/* Is there a debugger's breakpoint at the next instruction? */
bool kvm_debug_here(const struct vcpu *v);

/* probe.c: how fast this KVM is. False with `why` if it is emulated in software. */
/* Adds to `l` what CPUID shows to a guest that is given all KVM supports, and finds out kvm_debug_means(): which of a
 * debugger's points KVM stops at. */
void kvm_see_guest(const struct kvm_host *h, struct cpu_limits *l);
#define KVM_DEBUG_EXECUTION 1
#define KVM_DEBUG_DATA 2
u8 kvm_debug_means(void);
bool kvm_fast(const struct kvm_host *h, char *why, size_t size);

#endif
