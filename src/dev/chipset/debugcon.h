/* Debug console port, as QEMU's isa-debugcon: SeaBIOS and OVMF write their logs to it. */
#ifndef ECTYPE_DEV_CHIPSET_DEBUGCON_H
#define ECTYPE_DEV_CHIPSET_DEBUGCON_H

#include "dev/device.h"

struct chr;

#define DEBUGCON_PORT 0x402
#define DEBUGCON_MAGIC 0xe9 /* what a read gives: the port is there */

/* Bytes written go to `chr`, which stays the caller's. NULL on lack of memory. */
struct device *debugcon_create(struct board *b, struct chr *chr);

#endif
