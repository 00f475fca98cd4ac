/* Pause and hold, and the buttons of the case. */
#include "machine/internal.h"

#include "dev/chipset/acpi_pm.h"

bool machine_stands(const struct machine *m)
{
	return atomic_load(&m->paused) || atomic_load(&m->held);
}

void machine_start_time(struct machine *m)
{
	if (!m->running || machine_stands(m))
		return;
	if (m->hold_passes)
		clock_start_late(m->clock);
	else
		clock_start(m->clock);
	m->hold_passes = false;
	machine_unquiesce(m);
}

void machine_pause(struct machine *m)
{
	m->hold_passes = false;
	if (!atomic_exchange(&m->paused, true))
		clock_stop(m->clock);
}

void machine_resume(struct machine *m)
{
	if (atomic_exchange(&m->paused, false))
		machine_start_time(m);
}

u64 machine_hold(struct machine *m, u64 ms)
{
	if (!m->running || m->ended || atomic_load(&m->held))
		return 0;
	m->held_until = host_ns() + ms * 1000000;
	m->hold_passes = !atomic_load(&m->paused) && !atomic_load(&m->debugged);
	clock_stop(m->clock);
	atomic_store(&m->held, ++m->holds);
	return m->holds;
}

bool machine_held(const struct machine *m, u64 id)
{
	return atomic_load(&m->held) == id;
}

void machine_release(struct machine *m, u64 id)
{
	if (atomic_compare_exchange_strong(&m->held, &id, 0))
		wake_machine(m, EV_KICK);
}

static void end_late_hold(struct machine *m)
{
	if (atomic_load(&m->held) && host_ns() >= m->held_until)
		atomic_store(&m->held, 0);
}

void machine_wait_resumed(struct machine *m)
{
	while (machine_stands(m) && !atomic_load(&m->stop)) {
		wake_wait_kick(m, atomic_load(&m->held) ? m->held_until : CLOCK_NEVER);
		/* before looking at what it announces */
		vcpu_clear(m->cpu[0].v, EV_KICK);
		machine_serve_calls(m);
		machine_gate_serve(m);
		end_late_hold(m);
	}
	atomic_store(&m->held, 0);
	/* one that ends starts nothing: another machine may have its disks already */
	if (!atomic_load(&m->stop))
		machine_start_time(m);
}

bool machine_paused_by_order(const struct machine *m)
{
	return atomic_load(&m->paused);
}

enum machine_state machine_state(const struct machine *m)
{
	if (atomic_load(&m->debugged))
		return MACHINE_DEBUGGED;
	return machine_stands(m) ? MACHINE_PAUSED : MACHINE_RUNNING;
}

void machine_press_power(struct machine *m)
{
	acpi_pm_power_button(m->pm);
}

void machine_press_reset(struct machine *m)
{
	machine_request(m, REQUEST_RESET);
}
