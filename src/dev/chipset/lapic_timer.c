/*
 * The local APIC's timer (SDM vol. 3, 11.5.4) on a bus of 1 GHz: the count
 * goes down once every `divider` nanoseconds. Nothing counts here; the count
 * is computed from guest time when it is read, and one event of the machine's
 * clock stands for the moment it reaches zero.
 *
 * A periodic timer whose events come late (the host was busy) loses the
 * periods it missed, as a level of IRR would merge them anyway.
 */
#include "dev/chipset/lapic_internal.h"

static u32 mode_of(const struct lapic *l)
{
	return l->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

/* DCR bits 3, 1 and 0: 2, 4, ... 128, and 1 (figure 11-10). */
static u64 divider(const struct lapic *l)
{
	unsigned n = (l->divide & 3) | (l->divide >> 1 & 4);

	return 1ull << ((n + 1) & 7);
}

/* Brings `count` and `start` to a moment not before `now` minus one period. */
static void settle(struct lapic *l, u64 now)
{
	if (!l->count)
		return;
	u64 end = l->start + l->count * divider(l);

	if (now < end)
		return;
	if (mode_of(l) != LVT_TIMER_PERIODIC || !l->init_count) {
		l->count = 0;
		return;
	}
	u64 period = l->init_count * divider(l);

	l->start = end + (now - end) / period * period;
	l->count = l->init_count;
}

/* First moment at which the guest's TSC has the value of IA32_TSC_DEADLINE. */
static u64 deadline_ns(struct lapic *l)
{
	struct clock *c = l->bus->board->clock;
	u64 host = clock_tsc(c), guest = host + l->bus->w.tsc_offset(l->bus->w.opaque, l->cpu);

	if (l->tsc_deadline <= guest)
		return 0;
	u64 ahead = l->tsc_deadline - guest;

	return ahead > UINT64_MAX - host ? CLOCK_NEVER : clock_tsc_to_ns(c, host + ahead);
}

void lapic_timer_update(struct lapic *l)
{
	u64 when = CLOCK_NEVER;

	if (!lapic_hw_enabled(l) || l->lent) {
		timer_cancel(l->timer);
		return;
	}
	if (mode_of(l) == LVT_TIMER_TSC_DEADLINE) {
		if (l->tsc_deadline)
			when = deadline_ns(l);
	} else if (l->count && !(l->lvt[LVT_TIMER] & LVT_MASKED)) {
		/* Perhaps past by now: it is an event all the same. */
		when = l->start + l->count * divider(l);
	}
	if (when == CLOCK_NEVER)
		timer_cancel(l->timer);
	else
		timer_arm(l->timer, when);
}

static void expire_deadline(struct lapic *l)
{
	l->tsc_deadline = 0;
	lapic_local_interrupt(l, LVT_TIMER);
}

void lapic_timer_fn(void *opaque)
{
	struct lapic *l = opaque;

	if (mode_of(l) == LVT_TIMER_TSC_DEADLINE) {
		/* The TSC may have been written since. */
		if (deadline_ns(l))
			lapic_timer_update(l);
		else
			expire_deadline(l);
		return;
	}
	lapic_local_interrupt(l, LVT_TIMER);
	settle(l, clock_now(l->bus->board->clock));
	lapic_timer_update(l);
}

/* What is due happens before a register changes, though the clock has not
 * come round to it yet. The moment that was looked at: a one-shot count that
 * ends behind it has its event still to come. */
static u64 catch_up(struct lapic *l)
{
	u64 now = clock_now(l->bus->board->clock);

	if (!timer_armed(l->timer)) {
		settle(l, now);
		return now;
	}
	if (timer_deadline(l->timer) > now)
		return now;
	timer_cancel(l->timer);
	lapic_timer_fn(l);
	return clock_now(l->bus->board->clock);
}

static u32 count_at(const struct lapic *l, u64 now)
{
	if (mode_of(l) == LVT_TIMER_TSC_DEADLINE || !l->count)
		return 0;

	/* An event that is due but has not been delivered must not be lost, so
	 * the state stays; only the answer is computed. */
	u64 passed = (now - l->start) / divider(l);

	if (passed < l->count)
		return l->count - (u32)passed;
	if (mode_of(l) != LVT_TIMER_PERIODIC)
		return 0;
	return l->init_count - (u32)((passed - l->count) % l->init_count);
}

u32 lapic_timer_settle(struct lapic *l)
{
	return count_at(l, catch_up(l));
}

u32 lapic_timer_count(struct lapic *l)
{
	return count_at(l, clock_now(l->bus->board->clock));
}

void lapic_timer_set_init(struct lapic *l, u32 count)
{
	if (mode_of(l) == LVT_TIMER_TSC_DEADLINE)
		return; /* writes are ignored, 11.5.4.1 */
	catch_up(l);
	l->init_count = l->count = count;
	l->start = clock_now(l->bus->board->clock);
	lapic_timer_update(l);
}

void lapic_timer_set_divide(struct lapic *l, u32 divide)
{
	u64 now = catch_up(l);
	/* The count goes on from where it is, at the new pace. */
	u32 count = count_at(l, now);

	l->divide = divide & 0xb;
	if (l->count) {
		l->count = count;
		l->start = now;
	}
	lapic_timer_update(l);
}

void lapic_timer_set_lvt(struct lapic *l, u32 lvt)
{
	bool was = mode_of(l) == LVT_TIMER_TSC_DEADLINE;

	catch_up(l);
	l->lvt[LVT_TIMER] = lvt;
	/* Going to or from TSC-deadline mode disarms the timer, 11.5.4.1. */
	if (was != (mode_of(l) == LVT_TIMER_TSC_DEADLINE)) {
		l->init_count = l->count = 0;
		l->tsc_deadline = 0;
	}
	lapic_timer_update(l);
}

void lapic_timer_set_deadline(struct lapic *l, u64 tsc)
{
	if (mode_of(l) != LVT_TIMER_TSC_DEADLINE)
		return;
	catch_up(l);
	l->tsc_deadline = tsc;
	/* One already past fires at once, without a trip through the clock. */
	if (tsc && !deadline_ns(l)) {
		timer_cancel(l->timer);
		expire_deadline(l);
	} else {
		lapic_timer_update(l);
	}
}

u64 lapic_timer_deadline(const struct lapic *l)
{
	return mode_of(l) == LVT_TIMER_TSC_DEADLINE ? l->tsc_deadline : 0;
}

u64 lapic_timer_when(const struct lapic *l)
{
	return timer_deadline(l->timer);
}

void lapic_tsc_changed(struct lapic *l)
{
	if (mode_of(l) == LVT_TIMER_TSC_DEADLINE && l->tsc_deadline)
		lapic_timer_update(l);
}

void lapic_timer_reset(struct lapic *l)
{
	l->init_count = l->count = l->divide = 0;
	l->start = 0;
	l->tsc_deadline = 0;
	timer_cancel(l->timer);
}
