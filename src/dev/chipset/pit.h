/* The 8254 interval timer and the system control port 61h. */
#ifndef ECTYPE_DEV_CHIPSET_PIT_H
#define ECTYPE_DEV_CHIPSET_PIT_H

#include "dev/device.h"

#define PIT_HZ 1193182u

/* Ports 40h-43h and 61h. `irq0` (copied) follows OUT of channel 0. NULL on
 * lack of memory. */
struct device *pit_create(struct board *b, const struct irq *irq0);

#endif
