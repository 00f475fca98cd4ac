/*
 * The local APIC's heart: acceptance, priority and acknowledgement of
 * interrupts (SDM vol. 3, 11.8), reset states and construction.
 *
 *   lapic.c        this
 *   lapic_regs.c   registers: MMIO page, x2APIC MSRs, APIC_BASE transitions
 *   lapic_timer.c  the timer
 *   lapic_ipi.c    messages: ICR, destinations, MSI
 *   lapic_pv_eoi.c EOI by a flag in guest memory
 *   lapic_lend.c   the state goes to an engine that keeps the APICs, and back
 *   lapic_save.c   the state stream
 *
 * The question asked most often is lapic_pending(): every STI, POPF or IRET
 * that enables interrupts asks it. `irr_words` says which of the eight words
 * of the IRR may hold something, so that the usual answer costs two loads.
 */
#include "dev/chipset/lapic_internal.h"

#include <assert.h>
#include <stdlib.h>

/* ---- request and service bits ---- */

static int highest(const u32 words[8], u32 candidates)
{
	while (candidates) {
		unsigned w = 31 - (unsigned)__builtin_clz(candidates);
		u32 bits = __atomic_load_n(&words[w], __ATOMIC_ACQUIRE);

		if (bits)
			return (int)(w * 32 + 31 - (unsigned)__builtin_clz(bits));
		candidates &= ~(1u << w);
	}
	return -1;
}

static int highest_irr(const struct lapic *l)
{
	return highest(l->irr, __atomic_load_n(&l->irr_words, __ATOMIC_ACQUIRE));
}

static int highest_isr(const struct lapic *l)
{
	return highest(l->isr, 0xff);
}

static void irr_set(struct lapic *l, u8 vector)
{
	__atomic_fetch_or(&l->irr[vector / 32], 1u << vector % 32, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&l->irr_words, 1u << vector / 32, __ATOMIC_SEQ_CST);
}

/* The summary bit goes first and comes back if the word is not empty: a
 * request that arrives in between is never hidden. */
static void irr_clear(struct lapic *l, u8 vector)
{
	unsigned w = vector / 32;

	__atomic_fetch_and(&l->irr_words, ~(1u << w), __ATOMIC_SEQ_CST);
	if (__atomic_and_fetch(&l->irr[w], ~(1u << vector % 32), __ATOMIC_SEQ_CST))
		__atomic_fetch_or(&l->irr_words, 1u << w, __ATOMIC_SEQ_CST);
}

/* SDM vol. 3, 11.8.3.1 */
void lapic_update_ppr(struct lapic *l)
{
	int isr = highest_isr(l);
	u32 in_service = isr < 0 ? 0 : (u32)isr & 0xf0;

	l->ppr = (l->tpr & 0xf0) >= in_service ? l->tpr : in_service;
}

/* ---- INTR ---- */

/* The 8259s reach the processor through LINT0 in ExtINT mode, or directly
 * where there is no APIC (11.4.3). */
static bool extint_pending(const struct lapic *l)
{
	if (!l->lint[0])
		return false;
	if (!lapic_hw_enabled(l))
		return true;
	u32 lvt = l->lvt[LVT_LINT0];

	return !(lvt & LVT_MASKED) && (lvt & LVT_MODE) >> LVT_MODE_SHIFT == APIC_EXTINT;
}

static bool pending(const struct lapic *l)
{
	if (l->lint[0] && extint_pending(l))
		return true;
	if (!__atomic_load_n(&l->irr_words, __ATOMIC_ACQUIRE) || !lapic_hw_enabled(l))
		return false;
	int irr = highest_irr(l);

	return irr >= 0 && ((u32)irr & 0xf0) > (l->ppr & 0xf0);
}

bool lapic_pending(struct lapic *l)
{
	if (unlikely(l->lent))
		return false;
	lapic_pv_eoi_sync(l);
	return pending(l);
}

int lapic_ack(struct lapic *l)
{
	if (l->lent)
		return -1;
	lapic_pv_eoi_sync(l);
	if (extint_pending(l))
		return l->bus->w.pic_ack(l->bus->w.opaque);
	if (!lapic_hw_enabled(l))
		return -1;
	int irr = highest_irr(l);

	if (irr < 0 || ((u32)irr & 0xf0) <= (l->ppr & 0xf0))
		return -1;
	irr_clear(l, (u8)irr);
	l->isr[irr / 32] |= 1u << irr % 32;
	lapic_update_ppr(l);
	if (l->pv_eoi & 1)
		lapic_pv_eoi_offer(l, (u8)irr);
	return irr;
}

void lapic_notify(struct lapic *l)
{
	/* Perhaps on another processor's thread: the flag of a paravirtual EOI is for its own to look at. */
	if (l->pv_eoi_open || pending(l))
		l->bus->w.intr(l->bus->w.opaque, l->cpu);
}

bool lapic_accept(struct lapic *l, u8 vector, bool level)
{
	if (!lapic_sw_enabled(l))
		return false;
	if (vector < 16) {
		lapic_error(l, ESR_RECEIVE_VECTOR);
		return false;
	}
	if (level)
		__atomic_fetch_or(&l->tmr[vector / 32], 1u << vector % 32, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(&l->tmr[vector / 32], ~(1u << vector % 32), __ATOMIC_SEQ_CST);
	irr_set(l, vector);
	/* A receiver below its PPR looks again when it lowers it. */
	l->bus->w.intr(l->bus->w.opaque, l->cpu);
	return true;
}

void lapic_error(struct lapic *l, u32 esr_bit)
{
	bool first = !(l->esr_pending & esr_bit);

	l->esr_pending |= esr_bit;
	/* An error vector that is itself illegal must not recurse. */
	if (first && (l->lvt[LVT_ERROR] & LVT_VECTOR) >= 16)
		lapic_local_interrupt(l, LVT_ERROR);
}

void lapic_local_interrupt(struct lapic *l, enum lvt n)
{
	u32 lvt = l->lvt[n];
	bool lint = n == LVT_LINT0 || n == LVT_LINT1;

	if ((lvt & LVT_MASKED) || !lapic_hw_enabled(l))
		return;
	switch (n == LVT_TIMER || n == LVT_ERROR ? APIC_FIXED : (lvt & LVT_MODE) >> LVT_MODE_SHIFT) {
	case APIC_FIXED:
		/* LINT1 is always edge triggered (11.5.1, Trigger Mode). */
		if (lint && n == LVT_LINT0 && (lvt & LVT_LEVEL)) {
			if (!(lvt & LVT_REMOTE_IRR) && lapic_accept(l, lvt & LVT_VECTOR, true))
				l->lvt[n] |= LVT_REMOTE_IRR;
		} else {
			lapic_accept(l, lvt & LVT_VECTOR, false);
		}
		break;
	case APIC_NMI:
		l->bus->w.nmi(l->bus->w.opaque, l->cpu);
		break;
	case APIC_INIT:
		l->bus->w.init(l->bus->w.opaque, l->cpu);
		break;
	case APIC_EXTINT:
		if (n == LVT_LINT0)
			lapic_notify(l);
		break;
	default:
		break; /* SMI: there is no SMM here */
	}
}

void lapic_set_lint(struct lapic *l, unsigned pin, bool level)
{
	assert(pin < 2);
	bool rise = level && !l->lint[pin];

	l->lint[pin] = level;
	if (!rise)
		return;
	if (l->lent && !pin)
		l->bus->w.intr(l->bus->w.opaque, l->cpu);
	else if (!l->lent && lapic_hw_enabled(l))
		lapic_local_interrupt(l, pin ? LVT_LINT1 : LVT_LINT0);
	else if (pin)
		l->bus->w.nmi(l->bus->w.opaque, l->cpu);
	else
		lapic_notify(l);
}

/* ---- TPR and EOI ---- */

void lapic_set_tpr(struct lapic *l, u32 tpr)
{
	lapic_pv_eoi_sync(l);
	l->tpr = tpr;
	lapic_update_ppr(l);
	lapic_notify(l);
}

u64 lapic_cr8_read(const struct lapic *l)
{
	return l->tpr >> 4;
}

void lapic_cr8_write(struct lapic *l, u64 val)
{
	lapic_set_tpr(l, (u32)(val & 0xf) << 4);
}

int lapic_isr_pop(struct lapic *l)
{
	int vector = highest_isr(l);

	if (vector >= 0) {
		l->isr[vector / 32] &= ~(1u << vector % 32);
		lapic_update_ppr(l);
	}
	return vector;
}

void lapic_eoi(struct lapic *l)
{
	lapic_pv_eoi_sync(l);
	lapic_pv_eoi_close(l);
	int vector = lapic_isr_pop(l);

	if (vector < 0)
		return;
	if (l->tmr[vector / 32] & 1u << vector % 32) {
		u32 *lint0 = &l->lvt[LVT_LINT0];

		if ((*lint0 & LVT_REMOTE_IRR) && (*lint0 & LVT_VECTOR) == (u32)vector) {
			*lint0 &= ~(u32)LVT_REMOTE_IRR;
			if (l->lint[0])
				lapic_local_interrupt(l, LVT_LINT0);
		}
		l->bus->w.eoi(l->bus->w.opaque, (u8)vector);
	}
	lapic_notify(l);
}

/* ---- reset and construction ---- */

/* SDM vol. 3, 11.4.7.1 and 11.4.7.3. */
static void reset_registers(struct lapic *l)
{
	lapic_pv_eoi_close(l);
	l->tpr = l->ppr = 0;
	l->ldr = 0;
	l->dfr = 0xffffffff;
	l->svr = 0xff;
	l->esr = l->esr_pending = 0;
	l->icr = 0;
	for (int i = 0; i < LVT_COUNT; i++)
		l->lvt[i] = LVT_MASKED;
	for (int i = 0; i < 8; i++)
		l->isr[i] = l->tmr[i] = l->irr[i] = 0;
	l->irr_words = 0;
	lapic_timer_reset(l);
	if (lapic_x2(l))
		l->ldr = lapic_x2_ldr(l->cpu);
}

void lapic_reset(struct lapic *l, bool init)
{
	if (!init) {
		l->base = LAPIC_DEFAULT_BASE | BASE_EN | (l->cpu == 0 ? BASE_BSP : 0);
		l->id = l->cpu & 0xff;
	}
	reset_registers(l);
	l->pv_eoi = 0;
	lapic_map(l);
}

void lapic_setup_virtual_wire(struct lapic *l)
{
	l->svr |= SVR_ENABLE;
	l->lvt[LVT_LINT0] = (u32)APIC_EXTINT << LVT_MODE_SHIFT;
	l->lvt[LVT_LINT1] = (u32)APIC_NMI << LVT_MODE_SHIFT;
	lapic_notify(l);
}

u64 lapic_base(const struct lapic *l)
{
	return l->base;
}

u32 lapic_id(const struct lapic *l)
{
	return lapic_x2(l) ? l->cpu : l->id;
}

struct lapic *lapic_of(struct lapic_bus *bus, unsigned cpu)
{
	assert(cpu < bus->w.cpus);
	return bus->cpu[cpu];
}

static void device_reset(struct device *d)
{
	lapic_reset(container_of(d, struct lapic, dev), false);
}

static void device_destroy(struct device *d)
{
	struct lapic *l = container_of(d, struct lapic, dev);
	struct lapic_bus *bus = l->bus;

	timer_free(l->timer);
	/* The last one takes the bus with it. */
	bus->cpu[l->cpu] = NULL;
	free(l);
	for (unsigned i = 0; i < bus->w.cpus; i++) {
		if (bus->cpu[i])
			return;
	}
	region_remove(bus->board->mem, bus->region);
	free(bus);
}

static const struct device_ops lapic_device_ops = {
	.name = "lapic",
	.reset = device_reset,
	.save = lapic_save,
	.check = lapic_check,
	.load = lapic_load,
	.destroy = device_destroy,
};

struct lapic_bus *lapic_bus_create(struct board *b, const struct lapic_wiring *w)
{
	assert(w->cpus >= 1 && w->cpus <= LAPIC_MAX_CPUS);
	struct lapic_bus *bus = calloc(1, sizeof(*bus) + w->cpus * sizeof(bus->cpu[0]));

	if (!bus)
		return NULL;
	bus->w = *w;
	bus->board = b;
	for (unsigned i = 0; i < w->cpus; i++) {
		struct lapic *l = calloc(1, sizeof(*l));

		bus->cpu[i] = l;
		if (l)
			l->timer = timer_create_on(b->clock, "lapic", lapic_timer_fn, l);
		if (!l || !l->timer)
			goto fail;
		l->dev.ops = &lapic_device_ops;
		l->bus = bus;
		l->cpu = i;
	}
	bus->region =
	    memory_map_mmio(b->mem, LAPIC_DEFAULT_BASE, PAGE_SIZE, &lapic_mmio_ops, bus, LAPIC_REGION_PRIO, "lapic");
	if (!bus->region)
		goto fail;
	for (unsigned i = 0; i < w->cpus; i++) {
		lapic_reset(bus->cpu[i], false);
		board_attach(b, &bus->cpu[i]->dev);
	}
	return bus;
fail:
	for (unsigned i = 0; i < w->cpus && bus->cpu[i]; i++) {
		timer_free(bus->cpu[i]->timer);
		free(bus->cpu[i]);
	}
	free(bus);
	return NULL;
}
