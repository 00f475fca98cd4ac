/* Helper threads. */
#ifndef ECTYPE_BASE_THREAD_H
#define ECTYPE_BASE_THREAD_H

#include <pthread.h>

/* Starts a thread with all signals blocked: they belong to the thread that
 * runs the machine. 0, or an errno value. */
int thread_start(pthread_t *t, void *(*fn)(void *), void *arg);
/* The calling thread takes signals of its own faults, by which engines find out about the guest's. */
void thread_take_faults(void);

/* Calls fn(arg) with all signals blocked: for a library that starts threads of its own. */
void thread_masked(void (*fn)(void *), void *arg);

#endif
