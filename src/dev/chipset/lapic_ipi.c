/*
 * Messages between APICs: who is addressed (SDM vol. 3, 11.6.2), what the
 * receiver does, the interrupt command register and MSIs.
 */
#include "dev/chipset/lapic_internal.h"

/* ICR (figure 11-12) */
#define ICR_LOGICAL BIT(11)
#define ICR_ASSERT BIT(14)
#define ICR_LEVEL BIT(15)
#define ICR_SHORTHAND(icr) ((icr) >> 18 & 3)
enum { TO_DEST, TO_SELF, TO_ALL, TO_OTHERS };

static bool is_broadcast(const struct apic_message *m)
{
	return m->dest == (m->wide ? 0xffffffff : 0xff);
}

static bool logical_match(const struct lapic *l, u32 dest)
{
	if (lapic_x2(l))
		return dest >> 16 == l->ldr >> 16 && (dest & l->ldr & 0xffff);
	u32 ldr = l->ldr >> 24;

	if (dest > 0xff)
		return false;
	if (l->dfr >> 28 == 0xf) /* flat model */
		return dest & ldr;
	if (l->dfr >> 28) /* neither flat nor cluster */
		return false;
	return (dest >> 4 == ldr >> 4 || dest >> 4 == 0xf) && (dest & ldr & 0xf);
}

static bool addressed(const struct lapic *l, const struct apic_message *m)
{
	if (!lapic_hw_enabled(l))
		return false;
	if (is_broadcast(m))
		return true;
	return m->logical ? logical_match(l, m->dest) : m->dest == lapic_id(l);
}

static bool receive(struct lapic *l, const struct apic_message *m)
{
	const struct lapic_wiring *w = &l->bus->w;

	switch (m->mode) {
	case APIC_FIXED:
	case APIC_LOWEST_PRIORITY:
		return lapic_accept(l, m->vector, m->level);
	case APIC_NMI:
		w->nmi(w->opaque, l->cpu);
		return true;
	case APIC_INIT:
		w->init(w->opaque, l->cpu);
		return true;
	case APIC_STARTUP:
		w->sipi(w->opaque, l->cpu, m->vector);
		return true;
	case APIC_EXTINT:
		/* A redirection entry in ExtINT mode stands for the 8259s, whose
		 * output reaches LINT0 here; SMI: there is no SMM. */
	default:
		return false;
	}
}

/* Lowest priority: the addressed processor with the lowest PPR, of equal ones
 * the first (11.6.2.4 leaves the choice open). */
static bool deliver_lowest(struct lapic_bus *bus, const struct apic_message *m, const struct lapic *except)
{
	struct lapic *best = NULL;

	for (unsigned i = 0; i < bus->w.cpus; i++) {
		struct lapic *l = bus->cpu[i];

		if (l == except || !addressed(l, m) || !lapic_sw_enabled(l))
			continue;
		if (!best || l->ppr < best->ppr)
			best = l;
	}
	return best && receive(best, m);
}

static bool deliver(struct lapic_bus *bus, const struct apic_message *m, const struct lapic *except)
{
	bool accepted = false;

	if (m->mode == APIC_LOWEST_PRIORITY)
		return deliver_lowest(bus, m, except);
	for (unsigned i = 0; i < bus->w.cpus; i++) {
		struct lapic *l = bus->cpu[i];

		if (l != except && addressed(l, m))
			accepted |= receive(l, m);
	}
	return accepted;
}

bool lapic_deliver(struct lapic_bus *bus, const struct apic_message *m)
{
	if (bus->cpu[0]->lent)
		return bus->w.lent_deliver(bus->w.opaque, m);
	return deliver(bus, m, NULL);
}

bool lapic_msi(struct lapic_bus *bus, gpa_t addr, u32 data)
{
	struct apic_message m = {
		.dest = addr >> 12 & 0xff,
		.logical = addr & BIT(2),
		.level = data & BIT(15),
		.mode = data >> 8 & 7,
		.vector = (u8)data,
	};

	/* The redirection hint asks for one of the logical set (11.11.1). */
	if ((addr & BIT(3)) && m.mode == APIC_FIXED)
		m.mode = APIC_LOWEST_PRIORITY;
	return lapic_deliver(bus, &m);
}

void lapic_send_icr(struct lapic *l)
{
	struct lapic_bus *bus = l->bus;
	struct apic_message m = {
		.dest = lapic_x2(l) ? (u32)(l->icr >> 32) : (u32)(l->icr >> 56),
		.wide = lapic_x2(l),
		.logical = l->icr & ICR_LOGICAL,
		.level = l->icr & ICR_LEVEL,
		.mode = l->icr >> 8 & 7,
		.vector = (u8)l->icr,
	};
	unsigned shorthand = ICR_SHORTHAND(l->icr);
	struct apic_message all = m;

	/* An INIT level de-assert only synchronised the arbitration IDs of old. */
	if (m.mode == APIC_INIT && m.level && !(l->icr & ICR_ASSERT))
		return;
	if ((m.mode == APIC_FIXED || m.mode == APIC_LOWEST_PRIORITY) && m.vector < 16) {
		lapic_error(l, ESR_SEND_VECTOR);
		return;
	}
	/* IPIs are edge triggered; the level bit is for INIT alone (table 11-3). */
	m.level = false;
	all = m;
	all.wide = true;
	all.dest = 0xffffffff;
	switch (shorthand) {
	case TO_DEST:
		deliver(bus, &m, NULL);
		break;
	case TO_SELF:
		/* Only fixed interrupts may be sent to oneself (table 11-3). */
		if (m.mode == APIC_FIXED)
			lapic_accept(l, m.vector, false);
		break;
	case TO_ALL:
		deliver(bus, &all, NULL);
		break;
	case TO_OTHERS:
		deliver(bus, &all, l);
		break;
	}
}

int lapic_find(const struct lapic_bus *bus, u64 apic_id)
{
	/* An ID that the guest has changed meanwhile is not known here. */
	if (bus->cpu[0]->lent)
		return apic_id < bus->w.cpus ? (int)apic_id : -1;
	for (unsigned i = 0; i < bus->w.cpus; i++)
		if (lapic_hw_enabled(bus->cpu[i]) && lapic_id(bus->cpu[i]) == apic_id)
			return (int)i;
	return -1;
}

unsigned lapic_send_many(struct lapic_bus *bus, u64 low, u64 high, u64 min, u32 icr, bool wide)
{
	struct apic_message m = { .wide = true, .mode = icr >> 8 & 7, .vector = (u8)icr };
	unsigned half = wide ? 64 : 32, taken = 0;

	for (unsigned i = 0; i < bus->w.cpus; i++) {
		struct lapic *l = bus->cpu[i];
		u64 id = l->lent ? l->cpu : lapic_id(l), n = id - min;

		if ((!l->lent && !lapic_hw_enabled(l)) || id < min || n >= 2 * half)
			continue;
		if (!((n < half ? low >> n : high >> (n - half)) & 1))
			continue;
		m.dest = (u32)id;
		taken += l->lent ? bus->w.lent_deliver(bus->w.opaque, &m) : receive(l, &m);
	}
	return taken;
}
