/* What a disk has done for the guest, whatever its controller. */
#ifndef ECTYPE_DEV_STORAGE_DISK_STATS_H
#define ECTYPE_DEV_STORAGE_DISK_STATS_H

#include "base/types.h"

struct disk_stats {
	u64 reads, writes, flushes, discards, zeroes, others; /* requests; `others`: identity, unknown, malformed */
	u64 read_bytes, written_bytes;
	u64 errors; /* requests that failed */
};

#endif
