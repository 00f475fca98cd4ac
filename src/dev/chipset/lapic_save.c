/*
 * The local APIC in a state stream. Section "lapic", version 2, one a
 * processor, in order: the fields of decode() below.
 *
 * When the end of an interrupt by the guest's flag is noticed (lapic_pv_eoi.c)
 * is the engine's affair; the stream has it as if that were at once.
 */
#include "dev/chipset/lapic_internal.h"

void lapic_save(const struct device *d, struct encoder *e)
{
	struct lapic s = *container_of(d, const struct lapic, dev), *l = &s;

	if (l->pv_eoi_open && lapic_pv_eoi_ended(l)) {
		l->pv_eoi_open = false;
		lapic_isr_pop(l);
	}
	enc_begin(e, d->ops->name, 2);
	enc_u32(e, l->cpu);
	enc_u64(e, l->base);
	enc_u8(e, (u8)l->id);
	enc_u8(e, (u8)l->tpr);
	enc_u8(e, (u8)l->ppr);
	enc_u32(e, l->ldr);
	enc_u32(e, l->dfr);
	enc_u32(e, l->svr);
	enc_u32(e, l->esr);
	enc_u32(e, l->esr_pending);
	enc_u64(e, l->icr);
	for (int i = 0; i < LVT_COUNT; i++)
		enc_u32(e, l->lvt[i]);
	for (int i = 0; i < 8; i++) {
		enc_u32(e, l->isr[i]);
		enc_u32(e, l->tmr[i]);
		enc_u32(e, l->irr[i]);
	}
	enc_bool(e, l->lint[0]);
	enc_bool(e, l->lint[1]);
	enc_u32(e, l->init_count);
	enc_u32(e, l->count);
	enc_u8(e, (u8)l->divide);
	enc_u64(e, l->start);
	enc_u64(e, l->tsc_deadline);
	enc_u64(e, l->pv_eoi);
	enc_bool(e, l->pv_eoi_open);
	enc_end(e);
}

static bool sound(const struct lapic *l, const struct lapic *s)
{
	if (s->cpu != l->cpu || (s->base & ~((BIT(l->bus->w.phys_bits) - PAGE_SIZE) | BASE_BSP | BASE_EXTD | BASE_EN)))
		return false;
	if ((s->base & BASE_EXTD) && (!(s->base & BASE_EN) || !l->bus->w.x2apic))
		return false;
	if (s->count > s->init_count || (s->divide & ~0xbu))
		return false;
	if ((s->pv_eoi & 2) || (s->pv_eoi_open && !(s->pv_eoi & 1)))
		return false;
	/* The first sixteen vectors never get past acceptance. */
	return !((s->isr[0] | s->irr[0]) & 0xffff);
}

static bool decode(const struct device *d, struct decoder *in, struct lapic *s)
{
	struct decoder sec;

	if (!dec_begin(in, d->ops->name, &sec) || sec.version != 2)
		return false;
	s->cpu = dec_u32(&sec);
	s->base = dec_u64(&sec);
	s->id = dec_u8(&sec);
	s->tpr = dec_u8(&sec);
	s->ppr = dec_u8(&sec);
	s->ldr = dec_u32(&sec);
	s->dfr = dec_u32(&sec);
	s->svr = dec_u32(&sec);
	s->esr = dec_u32(&sec);
	s->esr_pending = dec_u32(&sec);
	s->icr = dec_u64(&sec);
	for (int i = 0; i < LVT_COUNT; i++)
		s->lvt[i] = dec_u32(&sec);
	s->irr_words = 0;
	for (int i = 0; i < 8; i++) {
		s->isr[i] = dec_u32(&sec);
		s->tmr[i] = dec_u32(&sec);
		s->irr[i] = dec_u32(&sec);
		if (s->irr[i])
			s->irr_words |= 1u << i;
	}
	s->lint[0] = dec_bool(&sec);
	s->lint[1] = dec_bool(&sec);
	s->init_count = dec_u32(&sec);
	s->count = dec_u32(&sec);
	s->divide = dec_u8(&sec);
	s->start = dec_u64(&sec);
	s->tsc_deadline = dec_u64(&sec);
	s->pv_eoi = dec_u64(&sec);
	s->pv_eoi_open = dec_bool(&sec);
	return dec_done(&sec);
}

int lapic_check(const struct device *d, struct decoder *in)
{
	const struct lapic *l = container_of(d, const struct lapic, dev);
	struct lapic s = { 0 };

	return decode(d, in, &s) && sound(l, &s) ? 0 : -1;
}

/* The clock, the processor's TSC offset and its state are loaded before. */
void lapic_load(struct device *d, struct decoder *in)
{
	struct lapic *l = container_of(d, struct lapic, dev);
	u64 now = clock_now(l->bus->board->clock);

	if (!decode(d, in, l))
		return;
	l->start = MIN(l->start, now);
	lapic_map(l);
	lapic_timer_update(l);
	lapic_notify(l);
}
