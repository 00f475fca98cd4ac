/*
 * The local APIC's state on its way to an engine that keeps the APICs itself,
 * and back. What an engine does not know of stays here: levels of the pins,
 * and errors the guest has not latched.
 */
#include "dev/chipset/lapic_internal.h"

#include <string.h>

#define SVR_KEPT (0xffu | SVR_ENABLE | SVR_FOCUS)

bool lapic_is_lent(const struct lapic *l)
{
	return l->lent;
}

bool lapic_extint(const struct lapic *l)
{
	return l->lent && l->lint[0];
}

int lapic_extint_ack(struct lapic *l)
{
	return lapic_extint(l) ? l->bus->w.pic_ack(l->bus->w.opaque) : -1;
}

void lapic_lend(struct lapic *l, struct apic_state *s)
{
	u32 count = lapic_timer_settle(l);

	_Static_assert(APIC_LVTS == LVT_COUNT, "one set of LVT entries");
	lapic_pv_eoi_sync(l);
	lapic_pv_eoi_close(l);
	*s = (struct apic_state){
		.base = l->base,
		.id = l->id,
		.tpr = l->tpr,
		.ldr = l->ldr,
		.dfr = l->dfr,
		.svr = l->svr,
		.esr = l->esr,
		.icr = l->icr,
		.init_count = l->init_count,
		.count = count,
		.divide = l->divide,
		.tsc_deadline = lapic_timer_deadline(l),
		.pv_eoi = l->pv_eoi,
	};
	memcpy(s->lvt, l->lvt, sizeof(s->lvt));
	memcpy(s->isr, l->isr, sizeof(s->isr));
	memcpy(s->tmr, l->tmr, sizeof(s->tmr));
	memcpy(s->irr, l->irr, sizeof(s->irr));
	timer_cancel(l->timer);
	l->lent = true;
}

/* No vector below 16 is ever accepted (11.5.2). */
static void load_vectors(u32 *to, const u32 *from)
{
	memcpy(to, from, 8 * sizeof(*to));
	to[0] &= 0xffff0000;
}

/* What comes is the engine's word, and the guest's through it: bits that no register here has are dropped. */
void lapic_take_back(struct lapic *l, const struct apic_state *s)
{
	const struct lapic_wiring *w = &l->bus->w;
	u64 base = (BIT(w->phys_bits) - PAGE_SIZE) | BASE_BSP | BASE_EN | (w->x2apic ? BASE_EXTD : 0);

	l->lent = false;
	l->base = s->base & base;
	if (!(l->base & BASE_EN))
		l->base &= ~BASE_EXTD;
	if (!lapic_x2(l))
		l->id = s->id & 0xff;
	l->tpr = s->tpr & 0xff;
	l->ldr = lapic_x2(l) ? lapic_x2_ldr(l->cpu) : s->ldr & 0xff000000;
	l->dfr = s->dfr | 0x0fffffff;
	l->svr = s->svr & SVR_KEPT;
	l->esr = s->esr & 0xff;
	l->icr = s->icr & 0xffffffff000ccfffull;
	for (enum lvt n = 0; n < LVT_COUNT; n++)
		l->lvt[n] = lapic_lvt_value(l, n, s->lvt[n]);
	load_vectors(l->isr, s->isr);
	load_vectors(l->tmr, s->tmr);
	load_vectors(l->irr, s->irr);
	l->irr_words = 0;
	for (unsigned i = 0; i < 8; i++)
		l->irr_words |= l->irr[i] ? 1u << i : 0;
	l->init_count = s->init_count;
	l->count = MIN(s->count, s->init_count);
	l->divide = s->divide & 0xb;
	if (l->count)
		l->start = clock_now(l->bus->board->clock);
	l->tsc_deadline = s->tsc_deadline;
	l->pv_eoi = s->pv_eoi & 2 ? 0 : s->pv_eoi;
	lapic_update_ppr(l);
	lapic_map(l);
	lapic_timer_update(l);
	lapic_notify(l);
}
