/*
 * VM Generation ID (Microsoft, "Virtual Machine Generation ID", 2012): 16 bytes by which a guest sees that it is a copy
 * of another one, or has gone back in time, and must not go on with the same random numbers, sessions and addresses.
 *
 * They lie in a page of ROM of their own, which an ACPI device names (boot/acpi.h). Whoever changes them raises the
 * device's event afterwards.
 */
#ifndef ECTYPE_DEV_CHIPSET_VMGENID_H
#define ECTYPE_DEV_CHIPSET_VMGENID_H

#include "base/guid.h"
#include "dev/device.h"

/* The page is at `gpa`, with priority `prio`. NULL on lack of memory. */
struct device *vmgenid_create(struct board *b, gpa_t gpa, int prio, const u8 guid[GUID_LEN]);
const u8 *vmgenid_get(const struct device *d);
/* On the vCPU thread. */
void vmgenid_set(struct device *d, const u8 guid[GUID_LEN]);

#endif
