/*
 * Delivery of exceptions and interrupts (SDM vol. 3, chapter 6), control
 * transfers through gates, tasks. Shared by all software engines.
 */
#ifndef ECTYPE_CPU_EVENT_H
#define ECTYPE_CPU_EVENT_H

#include "cpu/vcpu.h"

enum event_kind {
	EVENT_HARDWARE,	 /* external interrupt or NMI */
	EVENT_EXCEPTION, /* fault, trap or abort raised by the processor */
	EVENT_SOFT_INT,	 /* INT n: gate DPL is checked, VME applies */
	EVENT_SOFT_EXC,	 /* INT3, INTO: gate DPL is checked */
	EVENT_PRIV_EXC,	 /* INT1: gate DPL is not checked */
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
 * Instruction boundaries: what engines do.
 *
 *  - After any sys_ function, and wherever they look at v->event: if one of
 *    EV_INTR, EV_NMI, EV_TRAP is set, or cpu.activity is not ACT_RUNNING, make
 *    v->icount exact and call cpu_take_events().
 *  - If EV_TRAP is set when it returns, execute exactly one instruction, then
 *    call it again. (All iterations of a REP string instruction count as one;
 *    so v->icount moves on by one.)
 *  - If TF was set when an instruction began and it retired (no fault), call
 *    cpu_single_step_done() before that.
 *  - A fault is delivered with cpu_deliver_fault(), then the same applies.
 *  - Where DR7 enables breakpoints, cpu_insn_breakpoint() before each instruction.
 *
 * Shadows (SDM vol. 3, 6.8.3): STI with IF clear, MOV SS and POP SS set
 * cpu.shadow and raise EV_TRAP. The call at the boundary that follows delivers
 * no interrupt and leaves shadow and EV_TRAP (and EV_INTR) set; the call one
 * instruction later, which is told by v->icount, clears the shadow and takes
 * what waits. A shadow of STI holds back maskable interrupts; one of MOV SS
 * NMIs and debug traps as well, which stay in pending_db. The shadow is so
 * part of the state at the boundary it covers, and saving, restoring or
 * changing the engine there keeps it. A second call at one boundary changes
 * nothing.
 *
 * RFLAGS.RF loaded by IRET or a task switch lasts one instruction in the same
 * way; engines need not clear it. (IRET loads it only while DR7 enables a
 * breakpoint: RF has no other effect.)
 */

/*
 * Takes, in the order of SDM vol. 3 table 6-2, pending debug traps, NMI and
 * maskable interrupts (IF, shadow, NMI blocking respected), waking the
 * processor from HLT. Returns true if an event was delivered (rip is
 * elsewhere). Clears EV_INTR, EV_NMI and EV_TRAP as they are dealt with;
 * EV_INTR stays clear while interrupts are blocked: whatever unblocks them
 * raises it again. The functions in src/cpu that load IF do so cheaply by
 * themselves; others call cpu_recheck_events().
 */
bool cpu_take_events(struct vcpu *v);
/* Raise EV_INTR if an interrupt is pending and IF is set, EV_NMI if an NMI is
 * deliverable, EV_TRAP if TF, RF, a shadow or pending_db needs attention. To be
 * called when an engine is attached, after a restore or a debugger's change of
 * the registers, and by what lowers CR8. */
void cpu_recheck_events(struct vcpu *v);
/* An instruction that began with TF set has retired: a single-step trap (DR6.BS)
 * becomes pending, unless the instruction was one that makes none (INT n and
 * relatives, SYSCALL that masks TF, a task switch). */
void cpu_single_step_done(struct vcpu *v);
/* Would an interrupt, an NMI or a kick (vcpu.kicked) end HLT now? */
bool cpu_wakeup_pending(struct vcpu *v);

/* Guest debug registers: is a data access at linear `addr` of `len` bytes a
 * hit? Accumulates DR6 bits into cpu.pending_db and raises EV_TRAP.
 * `write`: 1 store, 0 load. */
void cpu_data_breakpoint(struct vcpu *v, gva_t addr, unsigned len, bool write);
/* The same for an access to I/O ports (CR4.DE, R/W 10B: SDM vol. 3, 18.2.4). */
void cpu_io_breakpoint(struct vcpu *v, u16 port, unsigned len);
/* Instruction breakpoint at cpu.rip's linear address, RF clear: FAULT with
 * #DB in v->fault. */
int must_check cpu_insn_breakpoint(struct vcpu *v);

/* INIT and power-up state (SDM vol. 3, table 9-1). `init` keeps what INIT keeps. */
void cpu_reset(struct vcpu *v, bool init);

#endif
