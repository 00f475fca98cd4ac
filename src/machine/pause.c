/* Pause and resume, and the buttons of the case. */
#include "machine/internal.h"

#include "dev/chipset/acpi_pm.h"

void machine_add_pause(struct machine *m, enum pause_reason why)
{
	if (!atomic_fetch_or(&m->paused, why))
		clock_stop(m->clock);
}

void machine_unquiesce(struct machine *m)
{
	if (!m->quiesced)
		return;
	m->quiesced = false;
	for (struct device *d = m->board.first; d; d = d->next)
		if (d->ops->resume)
			d->ops->resume(d);
}

void machine_drop_pause(struct machine *m, enum pause_reason why)
{
	if (atomic_fetch_and(&m->paused, ~(u32)why) != (u32)why || !m->running)
		return;
	clock_start(m->clock);
	machine_unquiesce(m);
}

void machine_pause(struct machine *m)
{
	machine_add_pause(m, PAUSE_ORDERED);
}

void machine_resume(struct machine *m)
{
	machine_drop_pause(m, PAUSE_ORDERED);
}

void machine_wait_resumed(struct machine *m)
{
	while (atomic_load(&m->paused) && !atomic_load(&m->stop)) {
		wake_wait_kick(m);
		/* before looking at what it announces */
		vcpu_clear(m->cpu[0].v, EV_KICK);
		machine_serve_calls(m);
	}
}

enum machine_state machine_state(const struct machine *m)
{
	if (atomic_load(&m->debugged))
		return MACHINE_DEBUGGED;
	return atomic_load(&m->paused) ? MACHINE_PAUSED : MACHINE_RUNNING;
}

void machine_press_power(struct machine *m)
{
	acpi_pm_power_button(m->pm);
}

void machine_press_reset(struct machine *m)
{
	machine_request(m, REQUEST_RESET);
}
