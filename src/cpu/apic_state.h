/*
 * A local APIC's architectural state (SDM vol. 3, chapter 11), as it passes
 * between the machine's own (src/dev/chipset) and an engine that keeps the
 * APICs itself (engine/engine.h, struct engine_apics).
 */
#ifndef ECTYPE_CPU_APIC_STATE_H
#define ECTYPE_CPU_APIC_STATE_H

#include "base/types.h"

#define APIC_LVTS 6  /* timer, thermal, performance, LINT0, LINT1, error */
#define APIC_PINS 24 /* of the IOAPIC */

struct apic_state {
	u64 base; /* IA32_APIC_BASE */
	u32 id;	  /* xAPIC ID, 8 bits; no matter in x2APIC mode, where it is the processor's number */
	u32 tpr, ldr, dfr, svr, esr;
	u64 icr; /* destination in bits 63:56, in x2APIC mode 63:32 */
	u32 lvt[APIC_LVTS];
	u32 isr[8], tmr[8], irr[8];
	/* The timer at this moment: `count` is what is left, 0 if it stands. One tick of the bus is a nanosecond. */
	u32 init_count, count, divide;
	u64 tsc_deadline; /* 0: not armed */
	/* MSRs of the paravirtual interface that go with the APIC and its processor */
	u64 pv_eoi, steal_time, poll_control;
};

/* A message on the bus of the APICs, as an MSI (SDM vol. 3, 11.11): bits 31:8 of a wide destination are in address
 * bits 63:40. */
struct apic_msi {
	u64 addr;
	u32 data;
};

/* Inputs of the IOAPIC whose level-triggered interrupts' EOIs it wants to hear of: bit n of `used`, pin n. */
struct apic_routes {
	u32 used;
	struct apic_msi pin[APIC_PINS];
};

#endif
