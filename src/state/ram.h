/*
 * RAM in a snapshot: the sections of it, and its sum. A leaf header any layer
 * may use.
 *
 * The sum does not depend on the order of frames, and frames of zeros do not
 * count: so it is the same for a file with holes and for frames that were saved
 * in the order in which a guest wrote them.
 */
#ifndef ECTYPE_STATE_RAM_H
#define ECTYPE_STATE_RAM_H

#include <string.h>
#include <xxhash.h>

#include "base/types.h"

/* On the way: u64 bytes; u64 offset and frames; u64 pages, u64 sum and for how long the guest stood still, u64 ns (0:
 * until now). */
#define RAM_SIZE "ram.size"
#define RAM_DATA "ram.data"
#define RAM_SUM "ram.sum"
/* In the snapshot, beside the file of RAM: u64 bytes, u64 pages, u64 sum. */
#define RAM_SECTION "ram"

struct ram_sum {
	u64 pages, sum;
};

static inline bool ram_page_zero(const u8 *page)
{
	u64 first;

	memcpy(&first, page, sizeof(first));
	return !first && !memcmp(page, page + 8, PAGE_SIZE - 8);
}

/* Of a frame that is not zeros: XXH3 (64 bit) of its content, seeded with its number. */
static inline void ram_sum_add(struct ram_sum *s, u64 frame, const u8 *page)
{
	s->pages++;
	s->sum += XXH3_64bits_withSeed(page, PAGE_SIZE, frame);
}

#endif
