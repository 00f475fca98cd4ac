/* The I/O APIC: 24 inputs, redirection table, at FEC00000H. */
#ifndef ECTYPE_DEV_CHIPSET_IOAPIC_H
#define ECTYPE_DEV_CHIPSET_IOAPIC_H

#include "dev/chipset/lapic.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_PINS 24

/* Where its messages go; lapic_deliver() of the board. True: accepted. */
struct ioapic_output {
	bool (*deliver)(void *opaque, const struct apic_message *m);
	void *opaque;
	void (*routed)(void *opaque); /* what ioapic_level() answers may have changed; NULL: nobody asks */
};

/* `out` is copied. NULL on lack of memory. */
struct device *ioapic_create(struct board *b, const struct ioapic_output *out);
/* Level of input `n`, 0 to 23: true is asserted, whatever the polarity bit says. */
void ioapic_set_irq(struct device *d, unsigned n, bool level);
/* Is input `n` level-triggered? Then *m is what it sends, masked or not. */
bool ioapic_level(const struct device *d, unsigned n, struct apic_message *m);
/* A local APIC ended a level-triggered interrupt. */
void ioapic_eoi(struct device *d, u8 vector);

#endif
