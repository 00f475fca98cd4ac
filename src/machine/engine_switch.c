/*
 * Another engine under a running machine, all processors at a boundary. An
 * engine keeps nothing but caches of its own: what it hands back on detach
 * (struct cpu, events, icount) is all that the next one needs. Whether the
 * processors run at once or take turns may change with it; the loops see that
 * when they go on (loop.c, parallel.c).
 *
 * Guest time stands still meanwhile, so that the guest does not see how long
 * it takes to build an engine. It is short, for what the network or a disk
 * does goes on: the memory of the old engine is given back afterwards, by a
 * thread (base/reclaim.h).
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "machine/internal.h"
#include "machine/state.h"
#include "mem/missing.h"
#include "mem/track.h"

static int attach(struct machine *m, const struct engine_ops *engine, struct error *e)
{
	__atomic_store_n(&m->engine, engine, __ATOMIC_RELEASE);
	if (machine_cpus_attach(m, e))
		return -1;
	m->uncounted |= (engine->caps & ENGINE_COUNTS_IF_ASKED) != 0;
	m->uncountable |= !(engine->caps & ENGINE_EXACT_ICOUNT);
	/* what waits at this boundary, and what was asked of a processor that may not have a turn before it is done;
	 * then breakpoints of a debugger */
	machine_cpus_changed(m);
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		machine_serve_cpu(&m->cpu[n]);
		engine->debug_changed(m->cpu[n].v);
	}
	return 0;
}

static void fail(struct machine *m, const struct engine_ops *engine, const struct error *e)
{
	m->ended = true;
	m->result.end = MACHINE_END_FAILED;
	snprintf(m->result.text, sizeof(m->result.text), "engine %s cannot be had back: %.180s", engine->name, e->text);
}

static int replace(struct machine *m, const struct engine_ops *to, struct error *e)
{
	const struct engine_ops *from = m->engine;
	struct error again = { .text = "" };

	m->group.reclaim = &m->reclaim;
	machine_cpus_detach(m);
	m->group.reclaim = NULL;
	e->text[0] = 0;
	if (!attach(m, to, e))
		return 0;
	/* the old one may need the room that it had */
	reclaim_start(&m->reclaim);
	reclaim_wait(&m->reclaim);
	if (attach(m, from, &again))
		fail(m, from, &again);
	return -1;
}

int machine_replace_engine(struct machine *m, const struct engine_ops *to, struct error *e)
{
	int ret;

	reclaim_wait(&m->reclaim); /* of the change before */
	clock_stop(m->clock);
	ret = replace(m, to, e);
	machine_start_time(m);
	reclaim_start(&m->reclaim);
	return ret;
}

int machine_set_engine(struct machine *m, const char *name, struct error *e)
{
	struct engine_verdict verdict;
	const struct engine_ops *to =
	    engine_choose_for(name, machine_engine_caps(&m->cfg), MACHINE_CAPS_PURPOSE, &verdict, e);
	int ret;

	if (!to)
		return -1;
	if (to == m->engine) {
		rest_forget(m);
		return 0;
	}
	if (engine_options_translator(&m->cfg.engine_options) && !(to->caps & ENGINE_TRANSLATES))
		return error_set(e,
				 "engine '%s' does not translate, and the machine has --trace, --perf-map or "
				 "--guest-symbols",
				 to->name);
	if (to == &engine_kvm && memory_missing(m->mem))
		return error_set(e, "engine kvm cannot take over before all of the machine's memory has arrived");
	if (to == &engine_kvm && track_any(m->mem))
		return error_set(e,
				 "engine kvm cannot take over while the machine's memory is copied: try again later");
	ret = machine_replace_engine(m, to, e);
	if (!ret) {
		m->verdict = verdict;
		rest_forget(m);
	}
	return ret;
}

int machine_memory_can_miss(const struct machine_config *cfg, struct error *e)
{
	struct engine_verdict verdict;
	const struct engine_ops *engine = engine_choose_for(
	    cfg->engine ? cfg->engine : "auto", machine_engine_caps(cfg), MACHINE_CAPS_PURPOSE, &verdict, e);

	if (!engine)
		return -1;
	if (engine == &engine_kvm)
		return error_set(e, "engine kvm needs all of the memory at once; take --engine dbt");
	if (cfg->vhost_users)
		return error_set(e, "processes that share the memory need all of it at once");
	return 0;
}

const char *machine_engine_name(const struct machine *m)
{
	return __atomic_load_n(&m->engine, __ATOMIC_ACQUIRE)->name;
}

void machine_next_engine(struct machine *m)
{
	atomic_store(&m->next_engine, true);
	wake_machine(m, EV_KICK);
}

/* Those that cannot run here are passed over; one that then fails to attach is named. */
void machine_serve_next_engine(struct machine *m)
{
	struct engine_verdict verdict;
	const struct engine_ops *from = m->engine;
	struct error e;
	unsigned n = 0;

	atomic_store(&m->next_engine, false);
	while (engines[n] != from)
		n++;
	for (n++; engines[n] != from; n++) {
		if (!engines[n])
			n = 0;
		if (engines[n] == from)
			break;
		if (~engines[n]->caps & machine_engine_caps(&m->cfg))
			continue;
		verdict = (struct engine_verdict){ 0 };
		engines[n]->probe(&verdict);
		if (!verdict.usable)
			continue;
		if (machine_set_engine(m, engines[n]->name, &e))
			log_warn("engine", "%s goes on: %s", m->engine->name, e.text);
		else
			log_warn("engine", "%s goes on in place of %s", m->engine->name, from->name);
		return;
	}
	log_warn("engine", "%s goes on: no other engine runs here", from->name);
}
