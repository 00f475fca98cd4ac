#include "ctl/snapshot.h"

#include <stdlib.h>
#include <time.h>

#include "ctl/limits.h"

const char *const snapshot_exit_names[VCPU_EXIT_COUNT] = {
	[VCPU_EXIT_BUDGET] = "budget",
	[VCPU_EXIT_EVENT] = "event",
	[VCPU_EXIT_HALT] = "halt",
	[VCPU_EXIT_DEBUG] = "debug",
};

struct call {
	struct machine *m;
	struct snapshot *s;
};

static void take_cpu(struct vcpu *v, struct snapshot_cpu *c)
{
	const struct engine_ops *e = v->engine;

	c->counters = e->counters ? e->counters(v, c->counter, SNAPSHOT_COUNTERS) : 0;
	c->counters = MIN(c->counters, SNAPSHOT_COUNTERS);
	c->exits = e->costs ? e->costs(v, COSTS_EXITS, c->exit, SNAPSHOT_EXITS) : 0;
	c->exits = MIN(c->exits, SNAPSHOT_EXITS);
}

static u64 process_cpu_ns(void)
{
	struct timespec t;

	return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) ? 0 : (u64)t.tv_sec * NSEC_PER_SEC + (u64)t.tv_nsec;
}

/* On the vCPU thread. */
static void take(void *opaque)
{
	struct call *call = opaque;
	struct machine *m = call->m;
	struct snapshot *s = call->s;
	const struct machine_config *cfg = machine_config(m);
	const struct memory_stats *mem = memory_stats(machine_memory(m));
	const struct port_stats *ports = portmap_stats(machine_board(m)->ports);

	s->engine = machine_vcpu(m, 0)->engine->name;
	machine_stats(m, &s->stats);
	s->guest_ns = clock_now(machine_clock(m));
	s->process_cpu_ns = process_cpu_ns();
	s->ram = memory_ram_size(machine_memory(m));
	s->mmio_reads = mem->mmio_reads;
	s->mmio_writes = mem->mmio_writes;
	s->port_reads = ports->reads;
	s->port_writes = ports->writes;
	for (s->disks = 0; s->disks < cfg->disks; s->disks++)
		machine_disk_stats(m, s->disks, &s->disk[s->disks]);
	for (s->nets = 0; s->nets < cfg->net_count; s->nets++)
		s->net[s->nets] = cfg->nets[s->nets].net->count;
	if (machine_generation(m))
		guid_format(machine_generation(m), s->generation);
	s->has_balloon = machine_balloon(m) != NULL;
	if (s->has_balloon)
		virtio_balloon_info(machine_balloon(m), &s->balloon);
	for (unsigned n = 0; n < s->cpus; n++)
		take_cpu(machine_vcpu(m, n), &s->cpu[n]);
}

struct snapshot *snapshot_take(struct machine *m)
{
	unsigned cpus = machine_cpus(m);
	struct snapshot *s = calloc(1, sizeof(*s) + cpus * sizeof(s->cpu[0]));
	struct call call = { m, s };

	if (!s)
		return NULL;
	s->cpus = cpus;
	if (machine_call_within(m, take, &call, CTL_CALL_MS))
		return s;
	free(s);
	return NULL;
}
