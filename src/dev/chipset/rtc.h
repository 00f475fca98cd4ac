/* MC146818 real-time clock and 128 bytes of CMOS RAM. */
#ifndef ECTYPE_DEV_CHIPSET_RTC_H
#define ECTYPE_DEV_CHIPSET_RTC_H

#include "dev/device.h"

struct rtc_config {
	u64 ram_below_4g, ram_above_4g; /* bytes; told to firmware in CMOS as QEMU's boards do */
	unsigned cpus;
	u8 boot_order[3]; /* QEMU's numbers: 1 floppy, 2 disk, 3 CD-ROM, 4 network, 0 none */
};

/* Ports 70h and 71h; `irq8` is copied. The date is the door's wall clock at
 * machine start plus guest time. NULL on lack of memory. */
struct device *rtc_create(struct board *b, const struct rtc_config *cfg, const struct irq *irq8);

/* The date moves `ns` on, guest time does not: as if the battery's time had passed. */
void rtc_advance(struct device *d, u64 ns);

/* Bit 7 of port 70h: NMIs are masked. */
bool rtc_nmi_masked(const struct device *d);

#endif
