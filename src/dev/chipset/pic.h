/* The two cascaded 8259A interrupt controllers of a PC. */
#ifndef ECTYPE_DEV_CHIPSET_PIC_H
#define ECTYPE_DEV_CHIPSET_PIC_H

#include "dev/device.h"

/* Ports 20h-21h, A0h-A1h, ELCR 4D0h-4D1h. `intr_out` (copied) follows the
 * master's INT pin. NULL on lack of memory. */
struct device *pic_create(struct board *b, const struct irq *intr_out);

/* Input pin `n`, 0 to 15; 2 is the cascade and ignored. */
void pic_set_irq(struct device *d, unsigned n, bool level);
/* Is the INT pin active? */
bool pic_pending(const struct device *d);
/* The processor's INTA cycle: the vector. With nothing pending any more it is
 * the spurious one (IR7), whose in-service bit stays clear. */
int pic_ack(struct device *d);

#endif
