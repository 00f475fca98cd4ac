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
/* Asked first on this thread: true if the fault was dealt with (NULL: nobody). Arguments are a handler's. */
#ifdef SI_USER /* who calls it has <signal.h> */
void host_fault_set_translated(bool (*fn)(int sig, siginfo_t *info, void *context));
#endif

/* thunk.c: is `pc` inside the executable view? Async-signal-safe. */
bool thunk_holds(const struct thunk_cache *c, const void *pc);

#endif
