/*
 * NOR flash with the Intel command set (JEDEC JESD68.01, Common Flash Interface; command set 0001h) on an 8-bit bus,
 * as firmware keeps its variables in.
 */
#ifndef ECTYPE_DEV_CHIPSET_PFLASH_H
#define ECTYPE_DEV_CHIPSET_PFLASH_H

#include "dev/device.h"

#define PFLASH_BLOCK 4096u /* what is erased at once, bytes */
#define PFLASH_MAX (16 * MiB)

struct pflash_config {
	gpa_t base;	   /* page-aligned */
	u64 size;	   /* bytes, a multiple of PFLASH_BLOCK, at most PFLASH_MAX */
	const u8 *content; /* `size` bytes, copied */
	int prio;
	/* Called with each change, in the guest's order, before the guest goes on; never more than a block, within one.
	 * Not 0: the guest is told that programming failed, and the change is not made. May be NULL. */
	int (*store)(void *opaque, u64 off, const u8 *bytes, size_t n);
	void *opaque;
};

/* NULL on lack of memory. */
struct device *pflash_create(struct board *b, const struct pflash_config *cfg);

#endif
