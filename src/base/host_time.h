/*
 * The host's clock, for statistics, for how long to wait, and for what never
 * reaches a guest. What a guest can see of time comes through the replay door.
 */
#ifndef ECTYPE_BASE_HOST_TIME_H
#define ECTYPE_BASE_HOST_TIME_H

#include <time.h>

#include "base/types.h"

/* CLOCK_MONOTONIC in ns. Ordinary C, any thread, signal handlers too. */
static inline u64 host_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

#endif
