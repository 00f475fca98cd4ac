/* The signal that takes a thread out of KVM_RUN. Apart from kvm.h, whose names <signal.h> takes too. */
#ifndef ECTYPE_ENGINE_KVM_KICKS_H
#define ECTYPE_ENGINE_KVM_KICKS_H

#include <sys/types.h>
#include <time.h>

#include "base/types.h"

/*
 * The signal is blocked in this thread from now on, and comes through while it
 * is in KVM_RUN of processor `fd` alone: one that comes before waits there, so
 * that none is lost and no handler runs. 0 or -1.
 */
int kicks_prepare(int fd);
/* KVM_RUN was interrupted: if by the signal, that is done with. */
void kicks_consume(void);
/* Async-signal-safe. */
void kicks_send(pid_t thread);
/* For a thread that does not run a machine: the signal interrupts its calls every `ns`, until kicks_timer_end(). */
bool kicks_timer(timer_t *t, long ns);
void kicks_timer_end(timer_t t);

#endif
