/*
 * What a processor's page tables map, as runs of contiguous pages: for a core that a debugger reads by virtual
 * addresses. The tables are the guest's: in circles, endless, or out of memory.
 */
#ifndef ECTYPE_CTL_CORE_MAP_H
#define ECTYPE_CTL_CORE_MAP_H

#include "base/error.h"
#include "cpu/cpu.h"
#include "mem/physmem.h"

struct core_mapping {
	u64 virt, phys, len; /* no sum goes beyond 2^64 - 1 */
};

#define CORE_MAPPINGS_MAX 32768u /* that core_map_finish() leaves */
#define CORE_TABLES_MAX 262144u	 /* that are looked at, for all processors */

/* Begins as zeros. */
struct core_map {
	struct core_mapping *at; /* freed with free() */
	size_t count, size;
	unsigned tables;
	u64 seen[64][2]; /* CR3 and CR4 of processors that were walked */
	unsigned seen_count;
};

/* Adds what processor `c` maps by its present page tables; nothing without paging. `phys_bits`: of its model. -1 with
 * *e if that is too much. */
int core_map_add(struct core_map *map, struct memory *mem, const struct cpu *c, unsigned phys_bits, struct error *e);
/* Ascending by virtual address, each once, neighbours joined. -1 with *e: more than CORE_MAPPINGS_MAX are left. */
int core_map_finish(struct core_map *map, struct error *e);

#endif
