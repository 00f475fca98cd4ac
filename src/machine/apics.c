/*
 * The local APICs in an engine that keeps them (engine/engine.h, struct
 * engine_apics). They are lent just before the guest goes on, and taken back
 * before anybody looks at or changes the machine as a whole: calls of other
 * threads, reset, the debugger, another engine. All of them or none: what one
 * sends another never has to cross.
 */
#include <stdio.h>

#include "machine/internal.h"
#include "machine/pv.h"

static struct apic_msi msi(const struct apic_message *m)
{
	struct apic_msi out = {
		.addr = 0xfee00000 | (u64)(m->dest & 0xff) << 12 | (m->logical ? 1 << 2 : 0),
		.data = m->vector | (u32)m->mode << 8 | 1 << 14 | (m->level ? 1u << 15 : 0),
	};

	if (m->wide)
		out.addr |= (u64)(m->dest >> 8) << 40;
	return out;
}

bool machine_apics_deliver(struct machine *m, const struct apic_message *msg)
{
	const struct apic_msi out = msi(msg);

	/* An entry of the IOAPIC for the 8259s, whose output has a pin of its own; there is no SMM. */
	if (msg->mode == APIC_EXTINT || msg->mode == APIC_SMI)
		return false;
	return m->engine->apics->deliver(m->cpu[0].v, &out);
}

void machine_apics_route(struct machine *m)
{
	struct apic_routes r = { .used = 0 };

	_Static_assert(APIC_PINS == IOAPIC_PINS, "a route each");
	if (!m->apics_lent)
		return;
	for (unsigned n = 0; n < IOAPIC_PINS; n++) {
		struct apic_message msg;

		if (!ioapic_level(m->ioapic, n, &msg))
			continue;
		r.used |= 1u << n;
		r.pin[n] = msi(&msg);
	}
	m->engine->apics->set_routes(m->cpu[0].v, &r);
}

static void fail(struct machine *m, const struct error *e)
{
	m->ended = true;
	m->result.end = MACHINE_END_FAILED;
	snprintf(m->result.text, sizeof(m->result.text), "%s", e->text);
}

void machine_apics_lend(struct machine *m)
{
	const struct engine_apics *to = m->attached ? m->engine->apics : NULL;
	struct error e = { .text = "" };

	if (m->apics_lent || !to || !to->wanted(m->cpu[0].v))
		return;
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		struct apic_state s;

		lapic_lend(lapic_of(m->lapics, n), &s);
		pv_lend(m, n, &s);
		if (to->take(m->cpu[n].v, &s, &e))
			fail(m, &e);
	}
	m->apics_lent = true;
	machine_apics_route(m);
}

void machine_apics_back(struct machine *m)
{
	if (!m->apics_lent)
		return;
	for (unsigned n = 0; n < m->cfg.cpus; n++)
		m->engine->apics->settle(m->cpu[n].v);
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		struct apic_state s;

		m->engine->apics->give(m->cpu[n].v, &s);
		lapic_take_back(lapic_of(m->lapics, n), &s);
		pv_take_back(m, n, &s);
	}
	m->apics_lent = false;
	for (unsigned n = 0; n < m->cfg.cpus; n++)
		cpu_recheck_events(m->cpu[n].v);
}
