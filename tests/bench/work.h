/* What the workloads of `make bench` share. work.c describes how they are run. */
#ifndef ECTYPE_BENCH_WORK_H
#define ECTYPE_BENCH_WORK_H

#include <stddef.h>
#include <stdint.h>

/*
 * A workload NAME is run_NAME(): `count` units of work, and a result that must
 * be the same on every machine. Its set-up, if any, is not measured.
 */
#define WORKLOAD(group, name, units, setup)                                                                            \
	void setup(void);                                                                                              \
	uint64_t run_##name(uint64_t count);
#include "work_table.h"
#undef WORKLOAD

/* This program's path, for the workloads that exec it. */
extern const char *work_self;

/* A directory on a tmpfs where workloads may make files. */
extern const char *work_dir;

/* Print `what` and errno, end the process with status 1. */
void die(const char *what) __attribute__((noreturn));

/* `bytes` of fresh private memory with the protection `prot`, all zero; dies if there is none. */
void *pages(size_t bytes, int prot);

/* xorshift64: the next of a fixed sequence; `*x` must not be 0. */
static inline uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* A step of FNV-1a, with a word for a byte. */
static inline uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x100000001b3ull;
}

#endif
