/* Helper threads. */
#ifndef ECTYPE_BASE_THREAD_H
#define ECTYPE_BASE_THREAD_H

#include <pthread.h>

/* Starts a thread with all signals blocked: they belong to the thread that
 * runs the machine. 0, or an errno value. */
int thread_start(pthread_t *t, void *(*fn)(void *), void *arg);

/* Calls fn(arg) with all signals blocked: for a library that starts threads of its own. */
void thread_masked(void (*fn)(void *), void *arg);

#endif
