/* Pause and resume, and the buttons of the case. */
#include "machine/internal.h"

#include "dev/chipset/acpi_pm.h"

void machine_pause(struct machine *m)
{
	if (!atomic_exchange(&m->paused, true))
		clock_stop(m->clock);
}

void machine_resume(struct machine *m)
{
	if (atomic_exchange(&m->paused, false) && m->running)
		clock_start(m->clock);
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
