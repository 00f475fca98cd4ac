/* System calls in place, for code that runs while the guest's vector state is live: the C library may touch it. */
#ifndef ECTYPE_BASE_HOST_SYSCALL_H
#define ECTYPE_BASE_HOST_SYSCALL_H

#include "base/types.h"

/* System call `n`; returns what the kernel does, -errno for an error. */
static inline long host_syscall3(long n, const void *a, u64 b, u64 c)
{
	long rc;

	__asm__ volatile("syscall" : "=a"(rc) : "0"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return rc;
}
static inline long host_syscall4(long n, const void *a, u64 b, u64 c, const void *d)
{
	register const void *r10 __asm__("r10") = d;
	long rc;

	__asm__ volatile("syscall" : "=a"(rc) : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return rc;
}

#endif
