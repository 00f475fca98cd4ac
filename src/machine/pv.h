/*
 * The paravirtual interface of a machine (cpu/pv.h): what processor `n` is
 * told and asks. Every function does nothing where the model offers none.
 */
#ifndef ECTYPE_MACHINE_PV_H
#define ECTYPE_MACHINE_PV_H

#include "base/error.h"
#include "base/types.h"
#include "cpu/apic_state.h"

struct machine;
struct pv;

/* A device of the board, "pv". 0, or -1 with *e. */
int pv_create(struct machine *m, struct error *e);
/* INIT: the processor forgets its structures. */
void pv_init_cpu(struct machine *m, unsigned n);

/* Hooks of struct vcpu_hooks, on the processor's own thread. */
int pv_msr_read(void *machine, unsigned n, u32 msr, u64 *val);
int pv_msr_write(void *machine, unsigned n, u32 msr, u64 val);
u64 pv_hypercall(void *machine, unsigned n, u64 nr, const u64 args[4], bool wide); /* pv_call.c */
void pv_tsc_moved(void *machine, unsigned n);

/* The processor is about to run guest code, on this thread. Reports stolen time, and flushes its TLB if another one
 * asked for that meanwhile. */
void pv_enter(struct machine *m, unsigned n);
/* It could run on, but gives its thread up to another one: until pv_enter() it is preempted. */
void pv_preempted(struct machine *m, unsigned n);
/* Around a sleep of its thread while it is halted. */
void pv_sleep(struct machine *m, unsigned n);
void pv_wake(struct machine *m, unsigned n);
/* May the host poll before it sleeps for a halted processor? Not if the guest does so itself. */
bool pv_may_poll(const struct machine *m, unsigned n);

/* The local APICs go to the engine, and what of the interface goes with them (machine/apics.c): stolen time is the
 * engine's affair until they are back. */
void pv_lend(struct machine *m, unsigned n, struct apic_state *s);
void pv_take_back(struct machine *m, unsigned n, const struct apic_state *s);

/* Wall time moved against guest time, as after a restore: sets PVCLOCK_GUEST_STOPPED for every processor, so that no
 * watchdog of the guest bites. A guest that asks for the wall clock then gets the right one. At a boundary. */
void pv_wall_moved(struct machine *m);
/* Does the guest take its time from here? */
bool pv_clock_used(const struct machine *m);

#endif
