/* The processors: life, reset, what one asks of another, and the lock under which those that run at once meet. */
#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear.h"
#include "machine/internal.h"
#include "machine/pv.h"
#include "mem/mmu.h"

/* Of parallel threads: the processor this one runs. */
static _Thread_local struct machine_cpu *own;

void machine_set_current(struct machine_cpu *c)
{
	own = c;
}

struct machine_cpu *machine_current(struct machine *m)
{
	return m->group.parallel && own ? own : &m->cpu[m->turn];
}

/* Whoever waits is outside the world: the holder may stop it. */
static void lock_contended(struct machine *m)
{
	unsigned who = own ? own->v->index : 0;

	if (!own || !world_inside(&m->world, who)) {
		pthread_mutex_lock(&m->lock);
		return;
	}
	world_leave(&m->world, who);
	pthread_mutex_lock(&m->lock);
	world_enter(&m->world, who);
}

void machine_lock(struct machine *m)
{
	if (!m->group.parallel)
		return;
	if (pthread_mutex_trylock(&m->lock))
		lock_contended(m);
	if (own)
		own->depth++;
}

/*
 * The processor has sent an INIT. Hardware takes it within microseconds; a
 * thread that the host does not let run may take milliseconds, in which the
 * guest has gone on to use what the other still writes to. So the sender waits,
 * unless it is to stop itself.
 */
static void wait_for_init(struct machine *m)
{
	unsigned who = own->v->index;
	const struct machine_cpu *to = own->waits_for;
	bool inside = world_inside(&m->world, who);

	own->waits_for = NULL;
	if (inside)
		world_leave(&m->world, who);
	while ((to->asked & ASKED_INIT) && !own->asked && !m->pausing)
		pthread_cond_wait(&m->served, &m->lock);
	pthread_mutex_unlock(&m->lock);
	if (inside)
		world_enter(&m->world, who);
}

void machine_unlock(struct machine *m)
{
	if (!m->group.parallel)
		return;
	if (own && !--own->depth && own->waits_for)
		wait_for_init(m);
	else
		pthread_mutex_unlock(&m->lock);
}

/* ---- waiting for another processor ---- */

/* The mark of preemption lets others flush its TLB by a flag instead of waiting for it to take their interrupt. */
static void yield_thread(struct machine *m, unsigned n)
{
	machine_lock(m);
	pv_preempted(m, n);
	machine_unlock(m);
	world_leave(&m->world, n);
	sched_yield();
	world_enter(&m->world, n);
	machine_lock(m);
	pv_enter(m, n);
	machine_unlock(m);
}

void machine_yield(struct machine *m, unsigned n, int to)
{
	if (m->group.parallel) {
		yield_thread(m, n);
	} else if (m->cfg.cpus > 1) {
		m->turn_left = 0;
		m->turn_to = to;
		vcpu_raise(m->cpu[n].v, EV_KICK);
	}
}

/*
 * A guest's spin lock is a loop of PAUSEs. If its holder has lost its host
 * processor to the one that waits, the loop ends sooner if that steps aside.
 * PAUSEs no further apart than PAUSE_GAP belong to one loop, and one that lasts
 * for PAUSE_WINDOW steps aside. If it goes on after that, it has only looked
 * whether the answer is there, and steps aside again after half the time:
 * locks that are handed over in an order (Linux's queue) come to each waiter,
 * of which one alone can go on. In turns any PAUSE ends the turn.
 */
#define PAUSE_GAP 4000u	    /* ns */
#define PAUSE_WINDOW 40000u /* ns */
#define PAUSE_WINDOW_MIN 2500u

void machine_paused(struct machine *m, unsigned n)
{
	struct machine_cpu *c = &m->cpu[n];
	u64 now;

	if (!m->group.parallel) {
		machine_yield(m, n, -1);
		return;
	}
	/* of the kernel alone: user code that waits long makes a system call */
	if (m->cfg.no_pause || cpu_cpl(&c->v->cpu))
		return;
	now = host_ns();
	if (now - c->pause_last > PAUSE_GAP) {
		c->pause_first = now;
		c->pause_window = PAUSE_WINDOW;
	}
	c->pause_last = now;
	if (now - c->pause_first < c->pause_window)
		return;
	yield_thread(m, n);
	c->pause_window = MAX(c->pause_window / 2, PAUSE_WINDOW_MIN);
	c->pause_first = c->pause_last = host_ns();
	c->yields++;
}

static void lock_io(void *opaque)
{
	machine_lock(opaque);
}

static void unlock_io(void *opaque)
{
	machine_unlock(opaque);
}

static void stop_world(void *opaque, unsigned who)
{
	vcpu_raise(((struct machine *)opaque)->cpu[who].v, EV_WORLD);
}

static int create_one(struct machine *m, unsigned n, struct error *e)
{
	struct vcpu *v = aligned_alloc(_Alignof(struct vcpu), sizeof(*v));

	if (!v)
		return error_set(e, "not enough host memory");
	memset(v, 0, sizeof(*v));
	m->cpu[n] = (struct machine_cpu){ .m = m, .v = v };
	m->group.vcpu[n] = v;
	v->index = n;
	v->model = &m->model;
	v->hooks = &machine_hooks;
	v->machine = m;
	v->group = &m->group;
	v->mem = m->mem;
	v->ports = m->ports;
	v->engine_options = &m->cfg.engine_options;
	v->mmu = mmu_create();
	return v->mmu ? 0 : error_set(e, "not enough host memory");
}

int machine_cpus_create(struct machine *m, struct error *e)
{
	const struct io_guard guard = { lock_io, unlock_io, m };
	pthread_mutexattr_t again;

	pthread_mutexattr_init(&again);
	pthread_mutexattr_settype(&again, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&m->lock, &again);
	pthread_mutexattr_destroy(&again);
	pthread_cond_init(&m->parked, NULL);
	pthread_cond_init(&m->go_on, NULL);
	pthread_cond_init(&m->served, NULL);
	world_init(&m->world, m->cfg.cpus, stop_world, m);
	m->cpu = calloc(m->cfg.cpus, sizeof(*m->cpu));
	m->group = (struct vcpu_group){ .count = m->cfg.cpus, .vcpu = calloc(m->cfg.cpus, sizeof(*m->group.vcpu)) };
	if (!m->cpu || !m->group.vcpu)
		return error_set(e, "not enough host memory");
	for (unsigned n = 0; n < m->cfg.cpus; n++)
		if (create_one(m, n, e))
			return -1;
	if (m->cfg.cpus > 1) {
		memory_set_guard(m->mem, &guard);
		portmap_set_guard(m->ports, &guard);
	}
	return 0;
}

void machine_cpus_destroy(struct machine *m)
{
	if (!m->cpu) {
		free(m->group.vcpu);
		return;
	}
	for (unsigned n = 0; n < m->cfg.cpus && m->cpu[n].v; n++) {
		if (m->cpu[n].v->mmu)
			mmu_destroy(m->cpu[n].v->mmu);
		free(m->cpu[n].v);
	}
	reclaim_wait(&m->reclaim);
	world_destroy(&m->world);
	pthread_cond_destroy(&m->served);
	pthread_cond_destroy(&m->go_on);
	pthread_cond_destroy(&m->parked);
	pthread_mutex_destroy(&m->lock);
	free(m->group.vcpu);
	free(m->cpu);
	m->cpu = NULL;
}

/* Each on a thread of its own, if engine and clock allow it, and nobody steps through the guest. */
static bool can_be_parallel(const struct machine *m)
{
	return m->cfg.cpus > 1 && (m->engine->caps & ENGINE_SMP) && m->cfg.clock == MACHINE_CLOCK_REAL &&
	       !m->cfg.turns && !m->cfg.insn_limit;
}

int machine_cpus_attach(struct machine *m, struct error *e)
{
	m->group.parallel = can_be_parallel(m);
	m->group.world = m->group.parallel ? &m->world : NULL;
	/* time is the count, also while no deadline gives the engine a budget */
	m->cfg.engine_options.count |= m->cfg.clock == MACHINE_CLOCK_VIRTUAL;
	/* devices run on the one thread; other processes know no such order */
	m->cfg.engine_options.alone = !m->group.parallel && !m->cfg.vhost_users;
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		m->cpu[n].v->engine = m->engine;
		if (!m->engine->vcpu_attach(m->cpu[n].v, e))
			continue;
		while (n--)
			m->engine->vcpu_detach(m->cpu[n].v);
		return -1;
	}
	m->attached = true;
	return 0;
}

void machine_cpus_detach(struct machine *m)
{
	machine_apics_back(m);
	for (unsigned n = 0; m->attached && n < m->cfg.cpus; n++)
		m->engine->vcpu_detach(m->cpu[n].v);
	m->attached = false;
}

static void changed(struct vcpu *v)
{
	mmu_flush_all(v);
	mmu_mode_changed(v);
	cpu_recheck_events(v);
}

void machine_cpus_changed(struct machine *m)
{
	for (unsigned n = 0; n < m->cfg.cpus; n++)
		changed(m->cpu[n].v);
}

void machine_cpus_reset(struct machine *m)
{
	for (unsigned n = 0; n < m->cfg.cpus; n++) {
		struct machine_cpu *c = &m->cpu[n];

		cpu_reset(c->v, false);
		c->asked = 0;
		c->tsc_offset = c->v->cpu.tsc_offset;
	}
}

u64 machine_icount(const struct machine *m)
{
	u64 sum = 0;

	for (unsigned n = 0; n < m->cfg.cpus; n++)
		sum += m->cpu[n].v->icount;
	return sum;
}

unsigned machine_turn(const struct machine *m)
{
	return m->turn;
}

/* ---- what one processor does to another ---- */

/* INIT: the processor alone, APIC included; memory and devices stay. */
static void init_cpu(struct machine_cpu *c)
{
	lapic_reset(lapic_of(c->m->lapics, c->v->index), true);
	pv_init_cpu(c->m, c->v->index);
	cpu_reset(c->v, true);
	changed(c->v);
}

/* SDM vol. 3, 9.4.4.2: execution starts at VV000H in real mode. Ignored unless it is waited for. */
static void start_cpu(struct machine_cpu *c)
{
	struct cpu *s = &c->v->cpu;

	if (s->activity != ACT_WAIT_FOR_SIPI)
		return;
	s->seg[SEG_CS].sel = (u16)(c->sipi_vector << 8);
	s->seg[SEG_CS].base = (u64)c->sipi_vector << 12;
	s->rip = 0;
	s->activity = ACT_RUNNING;
	mmu_mode_changed(c->v);
	cpu_recheck_events(c->v);
}

void machine_serve_cpu(struct machine_cpu *c)
{
	u32 asked = c->asked;

	c->asked = 0;
	if (asked & ASKED_INIT) {
		init_cpu(c);
		pthread_cond_broadcast(&c->m->served);
	}
	if (asked & ASKED_SIPI)
		start_cpu(c);
	if (asked & ASKED_NMI) {
		c->v->cpu.nmi_pending = true;
		vcpu_raise(c->v, EV_NMI);
	}
	if (c->v->cpu.tsc_offset != c->tsc_offset) {
		c->tsc_offset = c->v->cpu.tsc_offset;
		lapic_tsc_changed(lapic_of(c->m->lapics, c->v->index));
	}
}

void machine_ask_cpu(struct machine *m, unsigned n, u32 request)
{
	struct machine_cpu *c = &m->cpu[n];

	/* An INIT takes back what was asked before. */
	c->asked = request & ASKED_INIT ? request : c->asked | request;
	if (m->group.parallel && own && own != c && (request & ASKED_INIT)) {
		own->waits_for = c;
		pthread_cond_broadcast(&m->served); /* perhaps it waits for this one */
	}
	if (c == machine_current(m) || m->group.parallel)
		wake_cpu(m, n, EV_KICK);
	else
		machine_serve_cpu(c); /* in turns: it is at a boundary */
}
