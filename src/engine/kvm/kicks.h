/* The signal that takes a thread out of KVM_RUN. Apart from kvm.h, whose names <signal.h> takes too. */
#ifndef ECTYPE_ENGINE_KVM_KICKS_H
#define ECTYPE_ENGINE_KVM_KICKS_H

#include <sys/types.h>
#include <time.h>

#include "base/types.h"

/* This thread, from now on, is only interrupted by the signal. */
void kicks_catch(void);
/* Async-signal-safe. */
void kicks_send(pid_t thread);
/* The signal comes to this thread again and again, every `ns`, until timer_delete(). */
bool kicks_timer(timer_t *t, long ns);

#endif
