/*
 * Delivery of exceptions and interrupts (SDM vol. 3, chapter 6), control
 * transfers through gates, tasks. Shared by all software engines.
 */
#ifndef ECTYPE_CPU_EVENT_H
#define ECTYPE_CPU_EVENT_H

#include "cpu/vcpu.h"

enum event_kind {
	EVENT_HARDWARE,  /* external interrupt or NMI */
	EVENT_EXCEPTION, /* fault, trap or abort raised by the processor */
	EVENT_SOFT_INT,  /* INT n: gate DPL is checked, VME applies */
	EVENT_SOFT_EXC,  /* INT3, INTO: gate DPL is checked */
	EVENT_PRIV_EXC,  /* INT1: gate DPL is not checked */
};

/*
 * Deliver v->fault: sets CR2 or DR6, pushes RF as the manual says, delivers
 * through the IDT, turns a second fault into #DF and a third into shutdown
 * (activity ACT_SHUTDOWN, hooks->triple_fault). cpu.rip is the faulting
 * instruction's. Never fails.
 */
void cpu_deliver_fault(struct vcpu *v);

/* Deliver event `vector`; cpu.rip is the address to return to. Nested faults
 * are handled inside as above. Never fails. */
void cpu_deliver(struct vcpu *v, u8 vector, enum event_kind kind, bool has_error, u32 error);

/* INT n and friends: 0, or FAULT if the gate itself refuses (then cpu.rip is
 * still that of the instruction). `next_rip` is the return address. */
int must_check cpu_soft_interrupt(struct vcpu *v, u8 vector, enum event_kind kind, u64 next_rip);

/*
 * Called at an instruction boundary when v->event is not zero or cpu.activity
 * is not ACT_RUNNING. Takes, in the order of SDM vol. 3 table 6-2, pending
 * debug traps, NMI and maskable interrupts (IF, shadow, NMI blocking
 * respected), waking the processor from HLT. Clears shadow when it expires.
 * Returns true if state changed (rip may be elsewhere). Clears EV_INTR and
 * EV_NMI and EV_TRAP as they are dealt with; EV_INTR stays clear while
 * interrupts are blocked: whatever unblocks them (STI, POPF, IRET, CR8 ...)
 * must call cpu_recheck_events().
 */
bool cpu_take_events(struct vcpu *v);
/* Raise EV_INTR if an interrupt is pending and IF is set, EV_NMI if an NMI is
 * deliverable, EV_TRAP if TF, a shadow or pending_db needs attention. */
void cpu_recheck_events(struct vcpu *v);
/* Would an interrupt or NMI end HLT now? */
bool cpu_wakeup_pending(struct vcpu *v);

/* Guest debug registers: is a data access at linear `addr` of `len` bytes a
 * hit? Accumulates DR6 bits into cpu.pending_db and raises EV_TRAP.
 * `write`: 1 store, 0 load. */
void cpu_data_breakpoint(struct vcpu *v, gva_t addr, unsigned len, bool write);
/* Instruction breakpoint at cpu.rip's linear address, RF clear: FAULT with
 * #DB in v->fault. */
int must_check cpu_insn_breakpoint(struct vcpu *v);

/* INIT and power-up state (SDM vol. 3, table 9-1). `init` keeps what INIT keeps. */
void cpu_reset(struct vcpu *v, bool init);

#endif
