/*
 * Life cycle of a machine. machine_create() checks the configuration and the
 * files before it builds anything; what it builds it builds once, restored or
 * not; machine_reset() is the reset button and ends creation too.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/chr/chr.h"
#include "backend/nvram/nvram.h"
#include "cpu/event.h"
#include "cpu/pv.h"
#include "cpu/xstate.h"
#include "cpu/linear.h"
#include "dev/chipset/uart16550.h"
#include "dev/virtio/console.h"
#include "machine/internal.h"
#include "machine/layout.h"
#include "machine/state.h"
#include "mem/mmu.h"
#include "replay/door.h"

/* One tick a nanosecond, with either clock: guest time has no finer grain, and
 * with the virtual clock the TSC counts instructions. */
#define TSC_HZ 1000000000ull

/* Model `kvm`: `host` so that KVM can take the guest over at any time, whatever engine it begins with. */
static int check_model(struct machine *m, struct error *e)
{
	const char *name = m->cfg.cpu_model ? m->cfg.cpu_model : "host";
	bool for_kvm = !strcmp(name, "kvm");
	const struct engine_ops *strictest = for_kvm ? &engine_kvm : m->engine;
	struct engine_needs needs = { .turns = m->cfg.turns || m->cfg.engine_options.own_apics };

	if (strictest->needs && strictest->needs(&needs, e))
		return -1;
	if (m->cfg.saved)
		return machine_load_model(m, needs.limited ? &needs.cpu : NULL, e);
	if (cpu_model_init_within(&m->model, for_kvm ? "host" : name, m->cfg.cpus, needs.tsc_hz ? needs.tsc_hz : TSC_HZ,
				  needs.limited ? &needs.cpu : NULL, e))
		return -1;
	/* kvmclock counts on guest time and TSC being one (pv.c) */
	cpu_model_offer_pv(&m->model, m->cfg.pv & ~needs.pv_missing & ~(needs.tsc_hz ? PV_CLOCK_ALL : 0));
	return 0;
}

static int check_config(struct machine *m, struct error *e)
{
	const struct machine_config *c = &m->cfg;
	u64 host = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);

	if (c->memory < LAYOUT_RAM_MIN || c->memory % MiB)
		return error_set(e, "memory must be at least %llu MiB and whole MiB", LAYOUT_RAM_MIN / MiB);
	if (c->memory > LAYOUT_RAM_MAX)
		return error_set(e, "memory of more than %llu GiB is not supported", LAYOUT_RAM_MAX / GiB);
	if (c->memory > host)
		return error_set(e, "memory of %llu MiB is more than this host has (%llu MiB)", c->memory / MiB,
				 host / MiB);
	if (c->memory_mergeable && c->vhost_users)
		return error_set(
		    e, "memory that devices of other processes share cannot be merged; leave mergeable=on out");
	_Static_assert(MACHINE_CPUS_MAX <= WORLD_MAX, "one place each");
	if (c->cpus < 1 || c->cpus > MACHINE_CPUS_MAX)
		return error_set(e, "%u processors; 1 to %u are possible", c->cpus, MACHINE_CPUS_MAX);
	if (c->balloon && c->balloon_target >= c->memory)
		return error_set(e, "a balloon of %llu MiB leaves nothing of %llu MiB of memory",
				 c->balloon_target / MiB, c->memory / MiB);
	if (!c->kernel == !c->firmware)
		return error_set(e, "give one of a kernel and a firmware image");
	if (c->firmware_vars && !c->firmware)
		return error_set(e, "firmware variables need firmware");
	if (c->firmware && (c->initrd || c->append))
		return error_set(e, "an initrd or a command line needs a kernel");
	if (machine_boot_check(c, e))
		return -1;
	m->engine = engine_choose_for(c->engine ? c->engine : "auto", machine_engine_caps(c), MACHINE_CAPS_PURPOSE,
				      &m->verdict, e);
	if (!m->engine)
		return -1;
	if (engine_options_translator(&c->engine_options) && !(m->engine->caps & ENGINE_TRANSLATES))
		return error_set(e, "engine '%s' does not translate: no --trace, --perf-map, --guest-symbols",
				 m->engine->name);
	return check_model(m, e);
}

static int load_files(struct machine *m, struct error *e)
{
	struct boot_known known;
	const struct boot_request r = {
		.known = m->cfg.saved ? &known : NULL,
		.kernel = m->cfg.kernel,
		.initrd = m->cfg.initrd,
		.append = m->cfg.append,
		.firmware = m->cfg.firmware,
		.firmware_vars = m->cfg.firmware_vars,
		.memory = m->cfg.memory,
	};

	u64 len;
	gpa_t base;

	if (m->cfg.saved && machine_load_known(m, &known, e))
		return -1;
	m->image = boot_load(&r, e);
	if (!m->image)
		return -1;
	if (!m->cfg.firmware_vars)
		return 0;
	boot_firmware_vars(m->image, &base, &len);
	return nvram_check(m->cfg.firmware_vars, len, true, e);
}

/* ---- events from other threads ---- */

static void on_input(void *opaque)
{
	wake_machine(opaque, EV_KICK);
}

/* On the vCPU thread: the earliest deadline moved closer. */
static void on_deadline(void *opaque)
{
	struct machine *m = opaque;

	if (m->cfg.clock == MACHINE_CLOCK_VIRTUAL)
		vcpu_raise(machine_current(m)->v, EV_TIMER); /* the budget is too long */
	else
		wake_arm(m);
}

/* ---- construction ---- */

static int create_parts(struct machine *m, struct error *e)
{
	bool virt = m->cfg.clock == MACHINE_CLOCK_VIRTUAL;

	m->mem = memory_create_as(
	    m->cfg.memory, (m->cfg.vhost_users ? MEMORY_SHARED : 0) | (m->cfg.memory_mergeable ? MEMORY_MERGEABLE : 0),
	    e);
	if (!m->mem)
		return -1;
	m->ports = portmap_create();
	m->door = door_create(virt ? DOOR_VIRTUAL : DOOR_REAL, m->cfg.seed);
	if (!m->ports || !m->door)
		return error_set(e, "not enough host memory");
	if (machine_cpus_create(m, e))
		return -1;
	m->clock =
	    clock_create(virt ? CLOCK_KIND_VIRTUAL : CLOCK_KIND_REAL, m->door, &m->cpu[0].v->icount, m->model.tsc_hz);
	if (!m->clock)
		return error_set(e, "not enough host memory");
	door_set_kick(m->door, on_input, m);
	machine_gate_connect(m);
	return machine_board_create(m, e);
}

/* The power-on state, then what was saved in its place. */
static int start_saved(struct machine *m, struct error *e)
{
	for (struct device *d = m->board.first; d; d = d->next)
		d->ops->reset(d);
	machine_cpus_reset(m);
	if (machine_load(m, e))
		return -1;
	boot_drop(m->image);
	/* it may be one of several copies; with the virtual clock they are to be the same */
	if (m->cfg.clock == MACHINE_CLOCK_REAL && !m->cfg.saved->same)
		machine_set_generation(m, NULL);
	return 0;
}

struct machine *machine_create(const struct machine_config *cfg, struct error *e)
{
	struct machine *m = calloc(1, sizeof(*m));

	if (!m) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	m->cfg = *cfg;
	m->timer_fd = -1;
	m->until = CLOCK_NEVER;
	m->turn_to = -1;
	atomic_init(&m->armed, CLOCK_NEVER);
	pthread_mutex_init(&m->call_lock, NULL);
	pthread_cond_init(&m->call_done, NULL);
	if (check_config(m, e) || load_files(m, e) || machine_disks_open(m, e) || machine_tables_create(m, e) ||
	    create_parts(m, e))
		goto fail;
	/* Guest time begins, or goes on, with the first instruction. */
	clock_stop(m->clock);
	if ((cfg->saved ? start_saved(m, e) : machine_start_anew(m, e)) || machine_cpus_attach(m, e))
		goto fail;
	machine_cpus_changed(m);
	clock_on_change(m->clock, on_deadline, m);
	m->cfg.saved = NULL;
	return m;
fail:
	machine_destroy(m);
	return NULL;
}

int machine_check(const struct machine_config *cfg, struct error *e)
{
	struct machine *m = calloc(1, sizeof(*m));
	int ret;

	if (!m)
		return error_set(e, "not enough host memory");
	m->cfg = *cfg;
	ret = check_config(m, e) || load_files(m, e) || machine_disks_check(cfg, e) ? -1 : 0;
	if (m->image)
		boot_free(m->image);
	free(m);
	return ret;
}

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	machine_cpus_detach(m);
	if (m->clock)
		machine_board_destroy(m);
	machine_disks_close(m);
	clock_destroy(m->clock);
	machine_cpus_destroy(m);
	if (m->door)
		door_destroy(m->door);
	if (m->ports)
		portmap_destroy(m->ports);
	if (m->mem)
		memory_destroy(m->mem);
	machine_tables_destroy(m);
	if (m->image)
		boot_free(m->image);
	pthread_cond_destroy(&m->call_done);
	pthread_mutex_destroy(&m->call_lock);
	free(m);
}

/* Memory keeps its contents, as on hardware, but for what is loaded into it. */
int machine_start_anew(struct machine *m, struct error *e)
{
	if (boot_fetch(m->image, e))
		return -1;
	if (m->nvram)
		nvram_sync(m->nvram);
	for (struct device *d = m->board.first; d; d = d->next)
		d->ops->reset(d);
	machine_cpus_reset(m);
	if (!boot_is_firmware(m->image)) {
		machine_tables_place(m);
		lapic_setup_virtual_wire(lapic_of(m->lapics, 0));
	}
	if (!boot_is_firmware(m->image))
		xstate_fninit(&m->cpu[0].v->cpu); /* as firmware leaves it: reset itself unmasks every x87 exception */
	boot_place(m->image, m->mem, &m->layout, m->cpu[0].v);
	boot_drop(m->image);
	machine_cpus_changed(m);
	return 0;
}

/* ---- running ---- */

static void set_running(struct machine *m, bool running)
{
	pthread_mutex_lock(&m->call_lock);
	m->running = running;
	m->over = !running;
	m->thread = pthread_self();
	pthread_cond_broadcast(&m->call_done);
	pthread_mutex_unlock(&m->call_lock);
}

static void machine_streams_start(struct machine *m)
{
	for (unsigned i = 0; i < MACHINE_SERIALS; i++)
		if (m->uart[i])
			m->cfg.serial[i]->ops->start(m->cfg.serial[i], m->door, uart_sink(m->uart[i]));
	if (m->console)
		virtio_console_start(m->console);
}

static void machine_streams_stop(struct machine *m)
{
	for (unsigned i = 0; i < MACHINE_SERIALS; i++)
		if (m->uart[i])
			m->cfg.serial[i]->ops->stop(m->cfg.serial[i]);
	if (m->console)
		virtio_console_stop(m->console);
}

/* Of the real clock: the timer, and what parallel processors need, parked at first. */
static int start_threads(struct machine *m, struct error *e)
{
	if (m->cfg.clock != MACHINE_CLOCK_REAL)
		return 0;
	if (wake_start(m, e))
		return -1;
	if (m->cfg.cpus == 1 || !parallel_start(m, e))
		return 0;
	wake_stop(m);
	return -1;
}

void machine_run(struct machine *m, struct machine_result *out)
{
	struct error e = { .text = "" };
	u64 start = host_ns();

	m->ended = false;
	m->result = (struct machine_result){ .end = MACHINE_END_FAILED };
	if (start_threads(m, &e)) {
		snprintf(m->result.text, sizeof(m->result.text), "%.255s", e.text);
		*out = m->result;
		return;
	}
	m->run_start = start;
	m->uncounted |= (m->engine->caps & ENGINE_COUNTS_IF_ASKED) != 0;
	m->uncountable |= !(m->engine->caps & ENGINE_EXACT_ICOUNT);
	set_running(m, true);
	machine_streams_start(m);
	machine_start_time(m);
	rest_start(m);
	machine_loop(m);
	clock_stop(m->clock);
	machine_guard_ended(m);
	machine_streams_stop(m);
	set_running(m, false);
	machine_serve_calls(m); /* those that came too late for the loop */
	if (m->cfg.clock == MACHINE_CLOCK_REAL && m->cfg.cpus > 1)
		parallel_stop(m);
	wake_stop(m);
	atomic_store(&m->stop, false);
	m->run_ns += host_ns() - start;
	m->run_start = 0;
	*out = m->result;
}

void machine_run_until(struct machine *m, u64 icount, struct machine_result *out)
{
	assert(m->cfg.clock == MACHINE_CLOCK_VIRTUAL);
	m->until = icount;
	machine_run(m, out);
	m->until = CLOCK_NEVER;
}

/* Async-signal-safe. */
void machine_stop(struct machine *m)
{
	atomic_store(&m->stop, true);
	wake_machine(m, EV_KICK);
}

bool machine_stopping(const struct machine *m)
{
	return atomic_load(&m->stop);
}

void machine_attach_debugger(struct machine *m, const struct machine_debugger *d)
{
	m->debugger = *d;
	m->has_debugger = true;
}

void machine_debug_interrupt(struct machine *m)
{
	atomic_store(&m->debug_interrupt, true);
	wake_machine(m, EV_KICK);
}

/* ---- access ---- */

const struct engine_verdict *machine_verdict(const struct machine *m)
{
	return &m->verdict;
}

const char *machine_guest(const struct machine *m)
{
	return boot_describe(m->image);
}

struct vcpu *machine_vcpu(struct machine *m, unsigned n)
{
	assert(n < m->cfg.cpus);
	return m->cpu[n].v;
}

unsigned machine_cpus(const struct machine *m)
{
	return m->cfg.cpus;
}

struct memory *machine_memory(struct machine *m)
{
	return m->mem;
}

struct clock *machine_clock(struct machine *m)
{
	return m->clock;
}

struct board *machine_board(struct machine *m)
{
	return &m->board;
}

struct virtio *machine_balloon(struct machine *m)
{
	return m->balloon;
}

const struct machine_config *machine_config(const struct machine *m)
{
	return &m->cfg;
}
