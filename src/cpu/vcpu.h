/*
 * A virtual processor: architectural state plus what ties it to its machine.
 * Layers above fill in the hooks; the shared semantics in src/cpu and every
 * engine reach the outside world only through them.
 */
#ifndef ECTYPE_CPU_VCPU_H
#define ECTYPE_CPU_VCPU_H

#include "cpu/cpu.h"
#include "cpu/fpu.h"

struct vcpu;
struct mmu;
struct memory;
struct portmap;
struct cpu_model;
struct engine_ops;
struct engine_options;
struct reclaim;
struct world;

/* The processors of one machine. */
struct vcpu_group {
	unsigned count;	     /* 1 to 64 */
	struct vcpu **vcpu;  /* by index */
	bool parallel;	     /* each on a host thread of its own; else all on one, in turns */
	struct world *world; /* of their threads (base/world.h), by index: inside while the engine runs. NULL: not
				parallel */
	/* What the attached engine shares among them: made by the first vcpu_attach, freed by the last vcpu_detach.
	 * Neither happens while another processor runs. */
	void *engine_shared;
	unsigned engine_users;
	struct reclaim *reclaim; /* where vcpu_detach puts mappings to be given back later (base/reclaim.h), or NULL */
};

/*
 * A fault raised while an instruction executes. Shared semantics return 0 on
 * success; on a fault they return -1 (FAULT) with `vcpu->fault` filled and
 * architectural state unchanged, so that the engine can deliver it with
 * cpu_deliver_fault().
 */
#define FAULT (-1)
struct fault {
	u8 vector;
	bool has_error;
	u32 error;
	u64 addr; /* EXC_PF: value for CR2. EXC_DB: DR6 bits to set */
};

/* Bits of vcpu->event: reasons to leave translated or interpreted code at the
 * next instruction boundary. Set from any thread with vcpu_raise(). */
enum vcpu_event {
	EV_KICK = 1 << 0, /* the machine wants the vCPU thread (input, stop, gdb) */
	EV_INTR = 1 << 1, /* the interrupt controller has something deliverable: look at hooks->intr_pending */
	EV_NMI = 1 << 2,
	EV_TIMER = 1 << 3, /* the next deadline changed: recompute the budget */
	EV_RESET = 1 << 4, /* reset, shutdown or power-off was requested */
	EV_TRAP = 1 << 5,  /* pending_db, TF or a shadow must be looked at before the next instruction */
	EV_FLUSH = 1 << 6, /* code caches must be looked at (engine-internal use) */
	EV_WORLD = 1 << 7, /* another processor stops the world: the engine clears it and calls world_yield() */
};

struct vcpu_hooks {
	/* Guest TSC of the machine before tsc_offset is added. */
	u64 (*tsc)(void *m);
	/* Local APIC. */
	/* An interrupt above PPR waits (ExtINT included). Whenever the answer turns from no to
	 * yes (arrival, EOI, unmasking, a lower TPR) the controller raises EV_INTR. */
	bool (*intr_pending)(void *m, unsigned cpu);
	int (*intr_ack)(void *m, unsigned cpu); /* acknowledge: vector, or -1 if it went away */
	u64 (*cr8_read)(void *m, unsigned cpu);
	void (*cr8_write)(void *m, unsigned cpu, u64 v); /* v in 0..15 */
	int (*apic_msr_read)(void *m, unsigned cpu, u32 msr,
			     u64 *v); /* APIC_BASE, x2APIC range, TSC_DEADLINE; -1: #GP */
	int (*apic_msr_write)(void *m, unsigned cpu, u32 msr, u64 v);
	/* While the APICs are lent to the engine (engine/engine.h); NULL where they never are. */
	bool (*apics_lent)(void *m);
	void (*apics_back)(void *m);			    /* have them back now; where no other processor runs */
	bool (*extint)(void *m, unsigned cpu);		    /* the 8259s want an interrupt of this processor */
	int (*extint_ack)(void *m, unsigned cpu);	    /* INTA: a vector, or -1 */
	void (*apic_eoi)(void *m, unsigned cpu, u8 vector); /* of a level-triggered interrupt, for the IOAPIC */
	/* The paravirtual interface (cpu/pv.h), where the model offers it. */
	int (*pv_msr_read)(void *m, unsigned cpu, u32 msr, u64 *v); /* -1: #GP */
	int (*pv_msr_write)(void *m, unsigned cpu, u32 msr, u64 v);
	/* What goes to RAX. `wide`: called from 64-bit mode */
	u64 (*hypercall)(void *m, unsigned cpu, u64 nr, const u64 args[4], bool wide);
	void (*tsc_moved)(void *m, unsigned cpu); /* cpu.tsc_offset has changed */

	void (*pause)(void *m, unsigned cpu);	    /* PAUSE was executed; may be NULL. Not called where one is alone */
	void (*random)(void *m, void *p, size_t n); /* RDRAND, RDSEED: the replay door */
	void (*triple_fault)(void *m, unsigned cpu); /* activity is already ACT_SHUTDOWN */
};

/* Breakpoints set by a debugger, not by the guest. */
#define DEBUG_MAX_POINTS 64
struct debug_point {
	u64 addr;
	u8 len;	 /* 1 for execution */
	u8 kind; /* 0 execution, 1 write, 2 read, 3 access */
};
struct vcpu_debug {
	unsigned count;
	struct debug_point point[DEBUG_MAX_POINTS];
	u64 hit_addr; /* of the watchpoint that ended run() with VCPU_EXIT_DEBUG */
	u8 hit_kind;
};

struct vcpu {
	struct cpu cpu; /* first: engines address it at offset 0 */

	struct fault fault;
	_Atomic u32 event;     /* enum vcpu_event */
	_Atomic u32 go;	       /* 0 once something was raised: what translated code looks at, since zero is what it
				  can branch on without the flags. Set by the engine as it enters */
	_Atomic int in_kernel; /* thread that is, or is about to be, in the host's kernel on behalf of this processor,
				  and comes out for a signal (engine kvm); 0: none */
	u64 icount;	       /* instructions retired since the machine started; exact whenever
				  hooks or devices are called */
	unsigned index;
	_Atomic bool kicked; /* KVM_HC_KICK_CPU came: the next HLT does not halt, or the present one ends */
	bool fpu_live;	     /* guest vector state is in the host's registers, not in cpu.fpu */

	/* Owned by cpu/event.c; see "Instruction boundaries" there. Not architectural: zero is always sound. */
	bool intr_held;	      /* EV_INTR was seen while interrupts were blocked */
	bool window_seen;     /* cpu_take_events() met the shadow or RF at the boundary window_icount */
	bool step_suppressed; /* the instruction just executed makes no single-step trap */
	u64 window_icount;

	const struct cpu_model *model;
	const struct vcpu_hooks *hooks;
	void *machine;		  /* first argument of the hooks */
	struct vcpu_group *group; /* NULL: a processor without a machine (tests), alone */
	struct mmu *mmu;
	struct memory *mem;
	struct portmap *ports;
	struct vcpu_debug debug;

	const struct engine_ops *engine;
	const struct engine_options *engine_options; /* read by vcpu_attach; NULL: defaults */
	void *engine_data;
	_Alignas(64) u64 engine_hot[96]; /* the attached engine's most used private data */
};

static inline struct reclaim *vcpu_reclaim(const struct vcpu *v)
{
	return v->group ? v->group->reclaim : NULL;
}

static inline void vcpu_raise(struct vcpu *v, u32 events)
{
	__atomic_fetch_or((u32 *)&v->event, events, __ATOMIC_SEQ_CST);
	__atomic_store_n((u32 *)&v->go, 0, __ATOMIC_RELEASE);
}
static inline void vcpu_clear(struct vcpu *v, u32 events)
{
	__atomic_fetch_and((u32 *)&v->event, ~events, __ATOMIC_SEQ_CST);
}

/* Hooks and devices are ordinary C that may use vector registers: put the
 * guest's away first. Every call out of the general-registers-only layers
 * goes through one of these. */
static inline u64 vcpu_tsc(struct vcpu *v)
{
	fpu_park(v);
	return v->hooks->tsc(v->machine) + v->cpu.tsc_offset;
}

/* Raise a fault: fill v->fault and return FAULT. */
static inline int fault_raise(struct vcpu *v, enum exception vec, bool has_error, u32 error, u64 addr)
{
	v->fault = (struct fault){ .vector = (u8)vec, .has_error = has_error, .error = error, .addr = addr };
	return FAULT;
}
static inline int fault_ud(struct vcpu *v)
{
	return fault_raise(v, EXC_UD, false, 0, 0);
}
static inline int fault_nm(struct vcpu *v)
{
	return fault_raise(v, EXC_NM, false, 0, 0);
}
static inline int fault_gp(struct vcpu *v, u32 error)
{
	return fault_raise(v, EXC_GP, true, error, 0);
}
static inline int fault_ss(struct vcpu *v, u32 error)
{
	return fault_raise(v, EXC_SS, true, error, 0);
}
static inline int fault_np(struct vcpu *v, u32 error)
{
	return fault_raise(v, EXC_NP, true, error, 0);
}
static inline int fault_ts(struct vcpu *v, u32 error)
{
	return fault_raise(v, EXC_TS, true, error, 0);
}

#endif
