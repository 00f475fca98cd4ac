/*
 * Guest time and its events. One clock a machine; used on the vCPU thread
 * only.
 *
 * CLOCK_REAL: time is the host's monotonic clock since start, through the
 * replay door. CLOCK_VIRTUAL: time is a function of instructions retired:
 * one nanosecond an instruction, plus what was skipped while the processor
 * was halted (halted time jumps to the next deadline). The guest's TSC is
 * derived from the same nanoseconds at tsc_hz.
 */
#ifndef ECTYPE_DEV_CLOCK_H
#define ECTYPE_DEV_CLOCK_H

#include "base/types.h"
#include "state/codec.h"

struct door;

enum clock_kind { CLOCK_KIND_REAL, CLOCK_KIND_VIRTUAL };
#define NSEC_PER_SEC 1000000000ull
#define CLOCK_NEVER UINT64_MAX

struct clock;
struct timer;
typedef void (*timer_fn)(void *opaque);

/* `icount`: where the retired-instruction count can be read (virtual clock). clock_now(), clock_tsc() and
 * clock_tsc_hz() may be called by any thread. */
struct clock *clock_create(enum clock_kind kind, struct door *door, const u64 *icount, u64 tsc_hz);
void clock_destroy(struct clock *c);

/* Virtual clock: from here on time goes on with another count. Nothing with a real one. */
void clock_set_source(struct clock *c, const u64 *icount);

enum clock_kind clock_kind(const struct clock *c);
u64 clock_now(struct clock *c); /* guest ns since power-on; never goes back */
u64 clock_tsc(struct clock *c); /* TSC ticks since power-on */
u64 clock_tsc_hz(const struct clock *c);
u64 clock_tsc_to_ns(const struct clock *c, u64 tsc); /* when the TSC will have that value; saturates to CLOCK_NEVER */
/* muldiv without overflow: ns * hz / 1e9 and back (rounding up), for device counters. */
u64 clock_ns_to_ticks(u64 ns, u64 hz);
u64 clock_ticks_to_ns(u64 ticks, u64 hz);
/* Pause and resume of the whole machine: real time stops between. */
void clock_stop(struct clock *c);
void clock_start(struct clock *c);
/* As clock_start(), but the time since clock_stop() has passed for the guest, too. */
void clock_start_late(struct clock *c);
/* Real clock only: time goes on from `ns` later. Timers that are due by then fire at the next clock_run(). */
void clock_advance(struct clock *c, u64 ns);

/* Timers: one-shot, absolute guest ns; a deadline in the past fires at the
 * next clock_run(). Equal deadlines fire in order of arming. */
struct timer *timer_create_on(struct clock *c, const char *name, timer_fn fn, void *opaque);
void timer_free(struct timer *t);
void timer_arm(struct timer *t, u64 deadline_ns);
void timer_cancel(struct timer *t);
bool timer_armed(const struct timer *t);
u64 timer_deadline(const struct timer *t);

u64 clock_next_deadline(const struct clock *c); /* CLOCK_NEVER if none */
/* Called when the earliest deadline moved closer (so that a running engine is stopped). */
void clock_on_change(struct clock *c, void (*fn)(void *), void *opaque);
/* Fire everything that is due. */
void clock_run(struct clock *c);
/* Virtual clock only: jump to `ns` (processor halted). */
void clock_warp(struct clock *c, u64 ns);

/* The clock's own state (timers belong to their devices, which re-arm in load). */
void clock_save(const struct clock *c, struct encoder *e);
int clock_check(struct decoder *d);
void clock_load(struct clock *c, struct decoder *d);
/* The host's wall clock (ns since 1970) when the time that was loaded stopped, or was saved; 0: not known, or virtual.
 */
u64 clock_loaded_wall(const struct clock *c);
/* Which of the armed timers were armed first: to be loaded when all devices are. */
void clock_save_order(const struct clock *c, struct encoder *e);
int clock_check_order(const struct clock *c, struct decoder *d);
void clock_load_order(struct clock *c, struct decoder *d);

#endif
