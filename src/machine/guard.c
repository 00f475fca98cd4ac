/* The output gate, as the vCPU loop serves it, and whoever holds it shut. */
#include "machine/internal.h"

#include <time.h>

#include "backend/gate/gate.h"

static void on_wake(void *opaque)
{
	wake_machine(opaque, EV_KICK);
}

/* Inside a device: the next boundary is soon enough. */
static void on_full(void *opaque)
{
	struct machine *m = opaque;

	atomic_store(&m->gate_full, true);
	vcpu_raise(machine_current(m)->v, EV_KICK);
	if (m->group.parallel)
		wake_machine(m, EV_KICK);
}

void machine_gate_connect(struct machine *m)
{
	const struct gate_config cfg = { .wake = on_wake, .full = on_full, .opaque = m };

	if (m->cfg.gate)
		gate_connect(m->cfg.gate, &cfg);
}

void machine_gate_serve(struct machine *m)
{
	if (m->cfg.gate && gate_pending(m->cfg.gate))
		gate_serve(m->cfg.gate);
}

void machine_gate_full(struct machine *m)
{
	if (atomic_exchange(&m->gate_full, false) && m->guard.full)
		m->guard.full(m->guard.opaque);
}

void machine_set_guard(struct machine *m, const struct machine_guard *guard)
{
	m->guard = guard ? *guard : (struct machine_guard){ .full = NULL };
}

void machine_guard_ended(struct machine *m)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	/* the guard may be waiting for a call */
	while (m->guard.ended && !m->guard.ended(m->guard.opaque, &m->result)) {
		nanosleep(&pause, NULL);
		machine_serve_calls(m);
	}
	machine_set_guard(m, NULL);
	machine_gate_serve(m);
}
