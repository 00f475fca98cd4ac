/* Faults of the host inside thunks, see host_fault.c. */
#ifndef ECTYPE_ENGINE_INTERP_HOST_FAULT_H
#define ECTYPE_ENGINE_INTERP_HOST_FAULT_H

#include "base/types.h"

struct thunk_cache;

/* Once a process; further calls do nothing. */
void host_fault_install(void);
/* This thread runs thunks of `c`; thunk_call() keeps its stack pointer in *sp. */
void host_fault_enter(const struct thunk_cache *c, const u64 *sp);
void host_fault_leave(void);

/* thunk.c: is `pc` inside the executable view? Async-signal-safe. */
bool thunk_holds(const struct thunk_cache *c, const void *pc);

#endif
