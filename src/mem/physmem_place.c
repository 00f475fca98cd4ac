/*
 * Where RAM lies in the host's address space. A flat translation table
 * (mem/flat.h) tells apart only linear addresses that agree above bit 43 by
 * making all others miss RAM: hence the windows of physmem_priv.h.
 *
 * One block a window:  hole 4 GiB | guard | up to 2 MiB | RAM | guard
 */
#include <sys/mman.h>
#include <sys/resource.h>

#include "mem/physmem_priv.h"

/* The host keeps programs, their heaps, libraries and stacks off these offsets in every window; mostly: what is
 * taken is skipped. */
#define OFF_FIRST (1024 * GiB)
#define OFF_STEP (64 * GiB)

#define RAM_IN_BLOCK (4 * GiB + 2 * MiB)
_Static_assert(RAM_IN_BLOCK >= 4 * GiB + PLACE_GUARD, "the hole has a guard");

static u8 *block_at(unsigned window, u64 off)
{
	return (u8 *)(((u64)window << PLACE_WINDOW_BITS) + off);
}

static void release(u64 off, u64 len, unsigned windows)
{
	for (unsigned i = 0; i < windows; i++)
		munmap(block_at(i, off), len);
}

/* The same block in every window, or nothing. */
static bool reserve(u64 off, u64 len)
{
	for (unsigned i = 0; i < PLACE_WINDOWS; i++) {
		u8 *want = block_at(i, off);
		u8 *got = mmap(want, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
			       -1, 0);

		if (got == want)
			continue;
		/* Kernels before 4.17 take the address for a hint. */
		if (got != MAP_FAILED)
			munmap(got, len);
		release(off, len, i);
		return false;
	}
	return true;
}

/* A limit on the address space is better spent on what cannot be done without. */
static bool limited(void)
{
	struct rlimit rl;

	return getrlimit(RLIMIT_AS, &rl) == 0 && rl.rlim_cur != RLIM_INFINITY;
}

/* Reserves blocks of `len` bytes; their offset in the windows, 0 if there is no room. */
static u64 find_room(u64 len)
{
	u64 off = OFF_FIRST;

	if (limited())
		return 0;
	while (off + len <= PLACE_OFF_LAST && !reserve(off, len))
		off += OFF_STEP;
	return off + len <= PLACE_OFF_LAST ? off : 0;
}

bool memory_place_possible(void)
{
	const u64 len = RAM_IN_BLOCK + PAGE_SIZE + PLACE_GUARD;
	u64 off = find_room(len);

	if (off)
		release(off, len, PLACE_WINDOWS);
	return off;
}

bool memory_place(struct memory *m)
{
	const u64 len = RAM_IN_BLOCK + m->ram_size + PLACE_GUARD;
	u64 off;
	u8 *ram;

	if (m->ram_size > PLACE_OFF_LAST)
		return false;
	off = find_room(len);
	if (!off)
		return false;
	ram = block_at(0, off) + RAM_IN_BLOCK;
	if (memory_map_host_ram(m, ram) != ram) {
		release(off, len, PLACE_WINDOWS);
		return false;
	}
	m->ram = ram;
	m->place_off = off;
	m->place_len = len;
	return true;
}

void memory_unplace(struct memory *m)
{
	release(m->place_off, m->place_len, PLACE_WINDOWS);
	m->place_len = 0;
	m->ram = NULL;
}
