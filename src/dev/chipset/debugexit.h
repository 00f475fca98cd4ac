/* Debug-exit port, as QEMU's isa-debug-exit: a write ends the machine. */
#ifndef ECTYPE_DEV_CHIPSET_DEBUGEXIT_H
#define ECTYPE_DEV_CHIPSET_DEBUGEXIT_H

#include "dev/device.h"

#define DEBUG_EXIT_PORT 0xf4

/* A write of 1, 2 or 4 bytes requests BOARD_DEBUG_EXIT with its value. NULL on
 * lack of memory. */
struct device *debugexit_create(struct board *b);

#endif
