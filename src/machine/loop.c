/*
 * The vCPU loop: between two runs of the engine, at an instruction boundary,
 * everything that waits is served in a fixed order (requests of the guest,
 * calls of other threads, debugger, input, timers), so that with the virtual
 * clock the order depends on instruction counts alone.
 *
 * With the virtual clock the engine's budget ends exactly at the next
 * deadline, and a halted processor jumps there; with the real clock the budget
 * is unlimited and EV_TIMER ends the run.
 *
 * Several processors run at once (parallel.c), or here in turns: one at a time,
 * each for TURN instructions or until it halts. Guest time is then the sum of
 * what all have retired, so that with the virtual clock everything depends on
 * instruction counts alone.
 */
#include "machine/internal.h"

#include <assert.h>
#include <stdio.h>

#include "cpu/event.h"
#include "cpu/linear.h"
#include "machine/pv.h"
#include "replay/door.h"

static void end(struct machine *m, enum machine_end how, int exit_code, const char *text)
{
	m->ended = true;
	m->result.end = how;
	m->result.exit_code = exit_code;
	snprintf(m->result.text, sizeof(m->result.text), "%s", text);
}

void machine_reset(struct machine *m)
{
	struct error e = { .text = "" };

	if (machine_start_anew(m, &e))
		end(m, MACHINE_END_FAILED, 0, e.text);
}

void machine_request(struct machine *m, u32 request)
{
	m->requests |= request;
	vcpu_raise(machine_current(m)->v, EV_RESET);
	if (m->group.parallel)
		wake_machine(m, EV_RESET);
}

static enum debug_go ask_debugger(struct machine *m, enum debug_stop why)
{
	/* Guest time stands still while a human thinks. */
	clock_stop(m->clock);
	atomic_store(&m->debugged, true);
	enum debug_go go = m->debugger.wait(m->debugger.opaque, why);

	atomic_store(&m->debugged, false);
	if (!atomic_load(&m->paused))
		clock_start(m->clock);
	return go;
}

static void debug_stop(struct machine *m, enum debug_stop why)
{
	m->stepping = false;
	machine_apics_back(m);
	switch (ask_debugger(m, why)) {
	case DEBUG_CONTINUE:
		break;
	case DEBUG_STEP:
		m->stepping = true;
		break;
	case DEBUG_DETACH:
		m->has_debugger = false;
		break;
	case DEBUG_KILL:
		end(m, MACHINE_END_STOPPED, 0, "killed by the debugger");
		break;
	}
	/* It may have changed registers, memory or breakpoints. */
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		mmu_mode_changed(m->cpu[n].v);
		cpu_recheck_events(m->cpu[n].v);
	}
}

static void triple_fault(struct machine *m)
{
	if (m->has_debugger)
		debug_stop(m, DEBUG_STOP_TRIPLE_FAULT);
	if (m->ended)
		return;
	if (m->cfg.no_reboot)
		end(m, MACHINE_END_TRIPLE_FAULT, 0, "triple fault");
	else
		machine_reset(m);
}

static void serve_requests(struct machine *m)
{
	u32 requests = m->requests;

	m->requests = 0;
	if (requests & REQUEST_DEBUG_EXIT)
		end(m, MACHINE_END_DEBUG_EXIT, (int)((u32)m->debug_exit_value << 1 | 1), "debug exit");
	else if (requests & REQUEST_POWER_OFF)
		end(m, MACHINE_END_POWER_OFF, 0, "the guest powered off");
	else if ((requests & REQUEST_RESET) && m->cfg.no_reboot)
		end(m, MACHINE_END_RESET, 0, "the guest reset the machine");
	else if (requests & REQUEST_RESET)
		machine_reset(m);
	else if (requests & REQUEST_TRIPLE_FAULT)
		triple_fault(m);
	else if (requests & REQUEST_INIT) {
		/* the board's INIT# is wired to all */
		for (unsigned n = 0; n < m->cfg.cpus; n++) {
			m->cpu[n].asked = ASKED_INIT;
			machine_serve_cpu(&m->cpu[n]);
		}
	}
}

void machine_serve_timers(struct machine *m)
{
	u64 next = clock_next_deadline(m->clock);

	if (next != CLOCK_NEVER && next <= clock_now(m->clock))
		clock_run(m->clock);
	wake_arm(m);
}

/* The instruction count to stop at, CLOCK_NEVER for none. */
static u64 limit(const struct machine *m)
{
	return m->cfg.insn_limit ? MIN(m->until, m->cfg.insn_limit) : m->until;
}

/* At the end of a slice: deliver what the engine would deliver at this
 * boundary if it went on. Whether it has done so already depends on why it
 * left, which is the engine's affair. */
static void settle(struct machine_cpu *c)
{
	const struct run_budget none = { .insns = 0 };
	struct vcpu *v = c->v;

	vcpu_clear(v, EV_KICK | EV_TIMER | EV_RESET);
	if (v->event && cpu_runnable(c))
		v->engine->run(v, &none);
}

/* ---- in turns ---- */

/* Long enough that changing over costs little, short enough for a processor that waits for another's answer. */
#define TURN 10000u

static void take_turn(struct machine *m, unsigned n)
{
	struct vcpu *v = m->cpu[m->turn].v;

	fpu_park(v);
	if (n != m->turn && v->cpu.activity == ACT_RUNNING)
		pv_preempted(m, m->turn);
	m->turn = n;
	m->turn_left = TURN;
	m->turn_to = -1;
	clock_set_source(m->clock, &m->cpu[n].v->icount);
}

void machine_take_turn(struct machine *m, unsigned n)
{
	assert(n < m->cfg.cpus);
	if (n != m->turn)
		take_turn(m, n);
}

static bool next_turn(struct machine *m)
{
	struct machine_cpu *c = &m->cpu[m->turn];

	if ((m->turn_left || m->cfg.cpus == 1 || m->stepping) && cpu_runnable(c))
		return true;
	for (unsigned i = m->turn_to < 0; i <= m->cfg.cpus; i++) {
		unsigned n = i ? (m->turn + i) % m->cfg.cpus : (unsigned)m->turn_to;

		if (!cpu_runnable(&m->cpu[n]))
			continue;
		settle(c);
		take_turn(m, n);
		return true;
	}
	return false;
}

static bool pause_wanted(struct machine *m)
{
	return atomic_load(&m->have_calls) || atomic_load(&m->stop) || atomic_load(&m->debug_interrupt) ||
	       atomic_load(&m->paused) || atomic_load(&m->next_engine) || atomic_load(&m->gate_full) || m->requests ||
	       m->rest.wanted;
}

/* What wants every processor at a boundary. */
static void serve_paused(struct machine *m)
{
	machine_serve_calls(m);
	machine_gate_full(m);
	machine_wait_resumed(m); /* a hold may have come and gone in the calls: time stands still */
	if (atomic_load(&m->stop)) {
		end(m, MACHINE_END_STOPPED, 0, "stopped");
		return;
	}
	if (atomic_load(&m->next_engine))
		machine_serve_next_engine(m);
	if (m->rest.wanted && !m->ended)
		machine_serve_rest(m);
	if (m->requests)
		serve_requests(m);
	if (!m->ended && atomic_exchange(&m->debug_interrupt, false) && m->has_debugger)
		debug_stop(m, DEBUG_STOP_INTERRUPT);
}

void machine_serve(struct machine *m)
{
	if (pause_wanted(m)) {
		if (m->group.parallel) {
			parallel_pause(m);
			machine_apics_back(m);
			serve_paused(m);
			if (m->group.parallel) /* else another engine has them take turns: their threads stay parked */
				parallel_resume(m);
		} else {
			machine_apics_back(m);
			serve_paused(m);
		}
	}
	if (m->ended)
		return;
	machine_serve_cpu(machine_current(m));
	machine_gate_serve(m);
	if (door_pending(m->door))
		door_deliver(m->door, machine_icount(m));
	machine_serve_timers(m);
	if (limit(m) != CLOCK_NEVER && machine_icount(m) >= limit(m)) {
		next_turn(m);
		settle(machine_current(m));
		end(m, MACHINE_END_LIMIT, 0, "instruction limit");
	}
}

static void idle(struct machine *m)
{
	struct machine_cpu *c = &m->cpu[0];
	u64 next = clock_next_deadline(m->clock);

	c->halts++;
	if (m->cfg.clock == MACHINE_CLOCK_VIRTUAL && next != CLOCK_NEVER) {
		clock_warp(m->clock, next);
		return;
	}
	if (m->until != CLOCK_NEVER && !door_pending(m->door)) {
		end(m, MACHINE_END_HALTED, 0, "halted for ever");
		return;
	}
	if (!cpu_may_sleep(c))
		return;
	u64 start = host_ns();

	poll_sleep(c, next);
	u64 now = host_ns();

	c->halted_ns += now - start;
	rest_slept(m, now, now - start);
}

static u64 budget(struct machine *m)
{
	u64 insns = rest_budget(m);

	if (m->stepping)
		return 1;
	if (limit(m) != CLOCK_NEVER)
		insns = MIN(insns, limit(m) - machine_icount(m));
	if (m->cfg.cpus > 1)
		insns = MIN(insns, m->turn_left);
	if (m->cfg.clock == MACHINE_CLOCK_VIRTUAL) {
		u64 next = clock_next_deadline(m->clock);

		if (next != CLOCK_NEVER) {
			u64 now = clock_now(m->clock);

			/* A device that armed in the past still lets the guest go on. */
			insns = MIN(insns, next > now ? next - now : 1);
		}
	}
	return insns;
}

static void run_engine(struct machine *m)
{
	struct machine_cpu *c = &m->cpu[m->turn];
	struct run_budget b = { .insns = budget(m) };
	u64 before = c->v->icount;

	pv_enter(m, m->turn);
	enum vcpu_exit why = c->v->engine->run(c->v, &b);

	assert(why < VCPU_EXIT_COUNT);
	c->exits[why]++;
	rest_ran(m);
	m->turn_left -= MIN(m->turn_left, c->v->icount - before);
	if (why == VCPU_EXIT_DEBUG && m->has_debugger)
		debug_stop(m, DEBUG_STOP_BREAKPOINT);
	else if (m->stepping && (why == VCPU_EXIT_BUDGET || why == VCPU_EXIT_HALT))
		debug_stop(m, DEBUG_STOP_STEP);
}

static void turns_loop(struct machine *m)
{
	while (!m->ended && !m->group.parallel) {
		/* Before looking at what they announce. */
		vcpu_clear(m->cpu[m->turn].v, EV_KICK | EV_TIMER | EV_RESET);
		if (m->turn) /* its word is the one that is slept on */
			vcpu_clear(m->cpu[0].v, EV_KICK | EV_TIMER | EV_RESET);
		machine_serve(m);
		if (m->ended || m->group.parallel)
			break;
		if (!m->stepping && limit(m) == CLOCK_NEVER)
			machine_apics_lend(m);
		if (m->ended)
			break;
		if (next_turn(m))
			run_engine(m);
		else if (m->stepping)
			debug_stop(m, DEBUG_STOP_STEP);
		else if (!m->requests)
			idle(m);
	}
	machine_apics_back(m);
	fpu_park(m->cpu[m->turn].v);
}

void machine_loop(struct machine *m)
{
	if (m->has_debugger)
		debug_stop(m, DEBUG_STOP_START);
	while (!m->ended) {
		if (m->group.parallel)
			parallel_loop(m);
		else
			turns_loop(m);
	}
	if (m->has_debugger)
		m->debugger.wait(m->debugger.opaque, DEBUG_STOP_END);
}
