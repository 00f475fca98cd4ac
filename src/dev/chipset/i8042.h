/* i8042 keyboard controller with a keyboard, and port 92h. */
#ifndef ECTYPE_DEV_CHIPSET_I8042_H
#define ECTYPE_DEV_CHIPSET_I8042_H

#include "dev/device.h"

/* Ports 60h, 64h, 92h; `irq1` is copied. There is no auxiliary port. NULL on
 * lack of memory. */
struct device *i8042_create(struct board *b, const struct irq *irq1);

#endif
