/* The device that bare-metal x86 test suites expect of a monitor. */
#ifndef ECTYPE_DEV_CHIPSET_TESTDEV_H
#define ECTYPE_DEV_CHIPSET_TESTDEV_H

#include "dev/device.h"

#define TESTDEV_IRQS 24
#define TESTDEV_MMIO 0xff000000u
#define TESTDEV_MMIO_LEN (64 * KiB)

struct testdev_config {
	struct irq irqs[TESTDEV_IRQS]; /* copied; driven by ports 2000h + n */
	/* A write to port E4h: forget what is cached of the translation or content
	 * of the page at this address. May be NULL. */
	void (*flush_page)(void *opaque, u32 addr);
	void *opaque;
	int prio; /* of the memory at TESTDEV_MMIO */
};

/* Latch at E0h-E3h, page flush at E4h, interrupt lines at 2000h-2017h, 64 KiB
 * of memory behind MMIO handlers. NULL on lack of memory. */
struct device *testdev_create(struct board *b, const struct testdev_config *cfg);

#endif
