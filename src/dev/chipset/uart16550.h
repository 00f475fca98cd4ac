/* National 16550A serial port. */
#ifndef ECTYPE_DEV_CHIPSET_UART16550_H
#define ECTYPE_DEV_CHIPSET_UART16550_H

#include "dev/device.h"

struct chr;

/*
 * Eight ports at `base`; `irq` is copied. `out` takes what the guest sends
 * (NULL: nobody) and stays the caller's. `sink_name` names the input's sink at
 * the door; uart_sink() is what chr_ops.start wants. NULL on lack of memory.
 */
struct device *uart_create(struct board *b, u16 base, const struct irq *irq, struct chr *out, const char *sink_name);
int uart_sink(const struct device *d);

#endif
