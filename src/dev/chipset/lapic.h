/*
 * Local APICs (SDM vol. 3, chapter 11) and the bus between them: interprocessor
 * interrupts, the IOAPIC's messages and MSIs all go through lapic_deliver().
 *
 * One `struct lapic` a processor. Calls come from one thread at a time, except
 * lapic_pending(), which only the processor's own thread asks at any time. INIT,
 * SIPI and NMI are handed over by the board's callbacks.
 */
#ifndef ECTYPE_DEV_CHIPSET_LAPIC_H
#define ECTYPE_DEV_CHIPSET_LAPIC_H

#include "cpu/apic_state.h"
#include "dev/device.h"

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_MAX_CPUS 254

#define MSR_IA32_APIC_BASE 0x1b
#define MSR_IA32_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_FIRST 0x800
#define MSR_X2APIC_LAST 0x8ff

struct lapic;
struct lapic_bus;

/* SDM vol. 3, table 11-9 (the codes in ICR, LVT and redirection entries). */
enum apic_delivery_mode {
	APIC_FIXED,
	APIC_LOWEST_PRIORITY,
	APIC_SMI,
	APIC_REMOTE_READ, /* reserved since the Pentium 4 */
	APIC_NMI,
	APIC_INIT,
	APIC_STARTUP,
	APIC_EXTINT,
};

struct apic_message {
	u32 dest;     /* 8 bits unless `wide` */
	bool wide;    /* the sender is in x2APIC mode: dest has 32 bits */
	bool logical; /* destination mode */
	bool level;   /* trigger mode */
	u8 mode;      /* enum apic_delivery_mode */
	u8 vector;
};

/* What the APICs need of the board. `opaque` is the first argument of all. */
struct lapic_wiring {
	void *opaque;
	unsigned cpus;
	unsigned phys_bits;	   /* width of a guest-physical address */
	bool x2apic, tsc_deadline; /* what the CPU model has */
	/* Processor `cpu` may have an interrupt to take: EV_INTR. */
	void (*intr)(void *opaque, unsigned cpu);
	void (*nmi)(void *opaque, unsigned cpu);
	/* The receiver calls lapic_reset(l, true) when it takes the INIT. */
	void (*init)(void *opaque, unsigned cpu);
	void (*sipi)(void *opaque, unsigned cpu, u8 vector);
	/* ExtINT: acknowledge the 8259s (INTA); a vector or -1. */
	int (*pic_ack)(void *opaque);
	/* EOI of a level-triggered interrupt, for the IOAPICs. */
	void (*eoi)(void *opaque, u8 vector);
	/* Guest TSC minus the clock's, as the processor's WRMSRs made it. */
	u64 (*tsc_offset)(void *opaque, unsigned cpu);
	/* Which processor the calling thread runs (MMIO goes to its own APIC). */
	unsigned (*current)(void *opaque);
	/* While the APICs are lent (lapic_lend()). A message for them: true if one accepted it. */
	bool (*lent_deliver)(void *opaque, const struct apic_message *m);
	/* Somebody reads or writes the APIC's page: have them back for it, if that is possible now. */
	bool (*lent_back)(void *opaque);
};

/* Creates the APICs, attached to the board as devices, in power-up state, with
 * their page mapped. NULL on lack of memory. The board destroys them. */
struct lapic_bus *lapic_bus_create(struct board *b, const struct lapic_wiring *w);
struct lapic *lapic_of(struct lapic_bus *bus, unsigned cpu);

/* As firmware leaves the bootstrap processor's APIC: enabled, LINT0 ExtINT,
 * LINT1 NMI (virtual wire mode, MultiProcessor Specification 3.6.2.2). */
void lapic_setup_virtual_wire(struct lapic *l);

/* Power-up reset, or INIT (which keeps APIC ID and APIC_BASE). */
void lapic_reset(struct lapic *l, bool init);

/* Is there anything for INTR: a vector above PPR, or ExtINT? */
bool lapic_pending(struct lapic *l);
/* Acknowledge it: the vector, or -1 if it went away. */
int lapic_ack(struct lapic *l);

u64 lapic_cr8_read(const struct lapic *l);
void lapic_cr8_write(struct lapic *l, u64 val); /* 0..15 */

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC range. 0, or -1: #GP. */
int lapic_msr_read(struct lapic *l, u32 msr, u64 *val);
int lapic_msr_write(struct lapic *l, u32 msr, u64 val);
u64 lapic_base(const struct lapic *l); /* IA32_APIC_BASE */
u32 lapic_id(const struct lapic *l);

/*
 * Paravirtual EOI: MSR_KVM_PV_EOI_EN (Linux, Documentation/virt/kvm/x86/msr.rst).
 * Writing: 0, or -1 (#GP) if the address is not aligned to 4 bytes or no RAM.
 */
int lapic_set_pv_eoi(struct lapic *l, u64 val);
u64 lapic_pv_eoi(const struct lapic *l);
/* Is the guest's flag out? Then what lapic_pending() does is more than a look. */
bool lapic_pv_eoi_is_open(const struct lapic *l);

/* The processor's TSC was written: what depends on it is computed anew. */
void lapic_tsc_changed(struct lapic *l);

/* Guest time at which its timer fires, CLOCK_NEVER if it is not armed. */
u64 lapic_timer_when(const struct lapic *l);

/*
 * Lending: an engine keeps the APICs' state itself (struct engine_apics), all
 * of them or none. Meanwhile nothing is pending here and no timer runs;
 * messages go to wiring.lent_deliver, and the pins keep their levels. Lend
 * and take back with every processor at a boundary.
 */
void lapic_lend(struct lapic *l, struct apic_state *s); /* *s: its state at this moment */
void lapic_take_back(struct lapic *l, const struct apic_state *s);
bool lapic_is_lent(const struct lapic *l);
/* While lent: does the 8259s' INTR output stand at its pin? And what INTA gives: a vector, or -1. */
bool lapic_extint(const struct lapic *l);
int lapic_extint_ack(struct lapic *l);

/* Levels of the pins: 0 is the 8259's INTR output, 1 NMI. */
void lapic_set_lint(struct lapic *l, unsigned pin, bool level);

/* Hands the message to every processor it addresses. True if one accepted it. */
bool lapic_deliver(struct lapic_bus *bus, const struct apic_message *m);
/* An IPI as of the command register `icr`, of which mode and vector count, to
 * the APIC IDs min + n for each bit n of low:high (128 bits; 64, a half each,
 * unless `wide`). How many took it. */
unsigned lapic_send_many(struct lapic_bus *bus, u64 low, u64 high, u64 min, u32 icr, bool wide);
/* The processor with that APIC ID, or -1. */
int lapic_find(const struct lapic_bus *bus, u64 apic_id);
/* A message-signalled interrupt: a write of `data` to `addr` (SDM vol. 3, 11.11). */
bool lapic_msi(struct lapic_bus *bus, gpa_t addr, u32 data);

#endif
