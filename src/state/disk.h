/*
 * The content of disks on the way from the monitor: sections of the stream of
 * vm.snapshot. A leaf header any layer may use.
 *
 * Blocks of 4 KiB that come with their content count as pages of RAM do in its sum (state/ram.h); of a disk
 * whose last block is shorter, that is filled up with zeros.
 */
#ifndef ECTYPE_STATE_DISK_H
#define ECTYPE_STATE_DISK_H

#include "state/ram.h"

/* u8 number, counted from 0; u8 length and id; u64 bytes, a multiple of 512; and u8 1 if only what lies above the
 * backing files that were asked for comes. Before all else of the disk. */
#define DISK_SIZE "disk.size"
/* u8 number; u64 offset, a multiple of 4096; blocks, the last one of the disk may be shorter. In no order; may
 * be none, so that a client hears of something. Blocks that do not come are zeros, or what the backing files have. */
#define DISK_DATA "disk.data"
/* u8 number; u64 offset; u64 bytes, both multiples of 65536 but at the disk's end: zeros. Only above backing files. */
#define DISK_ZERO "disk.zero"
/* u8 number, u64 blocks, u64 sum. After all else of the disk. */
#define DISK_SUM "disk.sum"
/* In place of all that is still to come: why there is nothing more, text. */
#define SAVING_FAILED "failed"

#define DISK_BLOCK 4096u

/* Of a block that is not zeros, at `offset`; `n` bytes, DISK_BLOCK at most. */
static inline void disk_sum_add(struct ram_sum *s, u64 offset, const u8 *data, u64 n)
{
	u8 block[DISK_BLOCK];

	if (n < DISK_BLOCK) {
		memcpy(block, data, n);
		memset(block + n, 0, DISK_BLOCK - n);
		data = block;
	}
	ram_sum_add(s, offset / DISK_BLOCK, data);
}

static inline bool disk_block_zero(const u8 *data, u64 n)
{
	return !data[0] && !memcmp(data, data + 1, n - 1);
}

#endif
