/* The figures of a run, for people and for programs. */
#include "cli/run_stats.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dev/virtio/balloon.h"

#define COUNTERS_MAX 64

static const char *const exit_names[VCPU_EXIT_COUNT] = {
	[VCPU_EXIT_BUDGET] = "budget",
	[VCPU_EXIT_EVENT] = "event",
	[VCPU_EXIT_HALT] = "halt",
	[VCPU_EXIT_DEBUG] = "debug",
};

static const char *const end_names[] = {
	[MACHINE_END_POWER_OFF] = "power-off",	 [MACHINE_END_RESET] = "reset",
	[MACHINE_END_DEBUG_EXIT] = "debug-exit", [MACHINE_END_TRIPLE_FAULT] = "triple-fault",
	[MACHINE_END_STOPPED] = "stopped",	 [MACHINE_END_LIMIT] = "instruction-limit",
	[MACHINE_END_HALTED] = "halted",	 [MACHINE_END_FAILED] = "failed",
};

int run_stats_check(const char *path, struct error *e)
{
	struct stat st;
	char copy[4096];

	if (strlen(path) >= sizeof(copy))
		return error_set(e, "--stats: the path is too long");
	if (!stat(path, &st)) {
		if (S_ISDIR(st.st_mode))
			return error_set(e, "--stats: %s is a directory", path);
		return access(path, W_OK) ? error_errno(e, errno, "--stats: cannot write %s", path) : 0;
	}
	strcpy(copy, path);
	return access(dirname(copy), W_OK) ? error_errno(e, errno, "--stats: cannot create %s", path) : 0;
}

#define COSTS_MAX 128
static const char *const cost_tables[COSTS_TABLES] = { "exits_of_code", "shared_semantics" };
static const char *const cost_titles[COSTS_TABLES] = { "exits of translated code", "shared semantics" };

static unsigned costs_of(struct vcpu *v, enum engine_cost_table table, struct engine_cost *out)
{
	unsigned n = v->engine->costs ? v->engine->costs(v, table, out, COSTS_MAX) : 0;

	return MIN(n, COSTS_MAX);
}

/* Mean of the samples; the total follows from it. */
static double mean_cost(const struct engine_cost *c)
{
	return c->samples ? (double)c->cycles / (double)c->samples : 0;
}

/* Million instructions a second of the time the processor was not halted. */
static double mips(const struct machine_stats *s)
{
	double busy = s->seconds - s->halted_seconds;

	return busy > 0 ? (double)s->instructions / busy / 1e6 : 0;
}

static json_t *counters_json(struct vcpu *v)
{
	struct engine_counter c[COUNTERS_MAX];
	unsigned n = v->engine->counters ? v->engine->counters(v, c, COUNTERS_MAX) : 0;
	json_t *out = json_object();

	for (unsigned i = 0; i < n && i < COUNTERS_MAX; i++)
		json_object_set_new(out, c[i].name, json_integer((json_int_t)c[i].value));
	return out;
}

static json_t *costs_json(struct vcpu *v, enum engine_cost_table table)
{
	struct engine_cost c[COSTS_MAX];
	unsigned n = costs_of(v, table, c);
	json_t *out = json_object();

	for (unsigned i = 0; i < n; i++)
		json_object_set_new(out, c[i].name,
				    json_pack("{s:I, s:I, s:f, s:f}", "count", (json_int_t)c[i].count, "samples",
					      (json_int_t)c[i].samples, "mean_cycles", mean_cost(&c[i]), "cycles",
					      mean_cost(&c[i]) * (double)c[i].count));
	return out;
}

/* Null where instructions are not counted. */
static void put_counted(json_t *top, const struct machine_stats *s)
{
	json_object_set_new(top, "instructions", s->counted ? json_integer((json_int_t)s->instructions) : json_null());
	json_object_set_new(top, "mips", s->counted ? json_real(mips(s)) : json_null());
}

static json_t *disks_json(struct machine *m)
{
	json_t *out = json_array();

	for (unsigned i = 0; i < machine_config(m)->disks; i++) {
		struct machine_disk_stats d;
		const struct disk_stats *c = &d.count;

		machine_disk_stats(m, i, &d);
		json_array_append_new(out, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "id",
						     d.id, "format", d.format, "reads", (json_int_t)c->reads, "writes",
						     (json_int_t)c->writes, "flushes", (json_int_t)c->flushes,
						     "discards", (json_int_t)c->discards, "write_zeroes",
						     (json_int_t)c->zeroes, "others", (json_int_t)c->others,
						     "read_bytes", (json_int_t)c->read_bytes, "written_bytes",
						     (json_int_t)c->written_bytes, "errors", (json_int_t)c->errors));
	}
	return out;
}

static void print_disks(struct machine *m)
{
	for (unsigned i = 0; i < machine_config(m)->disks; i++) {
		struct machine_disk_stats d;
		const struct disk_stats *c = &d.count;

		machine_disk_stats(m, i, &d);
		fprintf(stderr,
			"disk: %-18s %lu reads (%.1f MB), %lu writes (%.1f MB), %lu flushes, %lu discards, %lu write "
			"zeroes, %lu others, %lu errors\n",
			d.id, c->reads, (double)c->read_bytes / 1e6, c->writes, (double)c->written_bytes / 1e6,
			c->flushes, c->discards, c->zeroes, c->others, c->errors);
	}
}

static json_t *balloon_json(struct machine *m)
{
	struct virtio_balloon_info i;

	if (!machine_balloon(m))
		return json_null();
	virtio_balloon_info(machine_balloon(m), &i);
	return json_pack("{s:b, s:I, s:I, s:I, s:I}", "driver", i.driver, "target", (json_int_t)i.target, "actual",
			 (json_int_t)i.actual, "inflated", (json_int_t)i.inflated, "reported", (json_int_t)i.reported);
}

static void print_balloon(struct machine *m)
{
	struct virtio_balloon_info i;

	if (!machine_balloon(m))
		return;
	virtio_balloon_info(machine_balloon(m), &i);
	fprintf(stderr, "%-24s %lu MiB of %lu; given back: %lu MiB from inside, %lu MiB reported free\n", "balloon",
		i.actual >> 20, i.target >> 20, i.inflated >> 20, i.reported >> 20);
}

FILE *run_stats_open(const char *path, struct error *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

	if (!f) {
		error_errno(e, errno, "--stats: cannot write %s", path);
		if (fd >= 0)
			close(fd);
	}
	return f;
}

int run_stats_json(struct machine *m, const struct machine_result *r, FILE *f, struct error *e)
{
	struct vcpu *v = machine_vcpu(m, 0);
	const struct memory_stats *mem = memory_stats(machine_memory(m));
	const struct port_stats *ports = portmap_stats(machine_board(m)->ports);
	struct machine_stats s;
	json_t *exits = json_object(), *top;
	char hash[17];

	machine_stats(m, &s);
	snprintf(hash, sizeof(hash), "%016lx", machine_state_hash(m));
	for (unsigned i = 0; i < VCPU_EXIT_COUNT; i++)
		json_object_set_new(exits, exit_names[i], json_integer((json_int_t)s.exits[i]));
	top = json_pack("{s:s, s:s, s:i, s:s, s:f, s:f, s:I, s:I, s:I, s:o, s:o, s:{s:I, s:I, s:I}, s:{s:I, s:I}}",
			"engine", v->engine->name, "end", end_names[r->end], "exit_code", r->exit_code, "state_hash",
			hash, "seconds", s.seconds, "halted_seconds", s.halted_seconds, "halts", (json_int_t)s.halts,
			"yields", (json_int_t)s.yields, "kicks", (json_int_t)s.kicks, "exits", exits, "counters",
			counters_json(v), "memory", "ram", (json_int_t)memory_ram_size(machine_memory(m)), "mmio_reads",
			(json_int_t)mem->mmio_reads, "mmio_writes", (json_int_t)mem->mmio_writes, "ports", "reads",
			(json_int_t)ports->reads, "writes", (json_int_t)ports->writes);
	if (top) {
		put_counted(top, &s);
		json_object_set_new(top, "disks", disks_json(m));
		json_object_set_new(top, "balloon", balloon_json(m));
	}
	for (unsigned t = 0; top && t < COSTS_TABLES; t++)
		json_object_set_new(top, cost_tables[t], costs_json(v, t));
	/* a pipe has nothing to cut off */
	int failed =
	    !top || (ftruncate(fileno(f), 0) && errno != EINVAL) || json_dumpf(top, f, JSON_INDENT(1)) || fflush(f);

	json_decref(top);
	return failed ? error_set(e, "--stats: writing the figures failed") : 0;
}

static int by_total(const void *a, const void *b)
{
	const struct engine_cost *p = a, *q = b;
	double d = mean_cost(q) * (double)q->count - mean_cost(p) * (double)p->count;

	return d > 0 ? 1 : d < 0 ? -1 : p->count < q->count ? 1 : p->count > q->count ? -1 : 0;
}

/* The dearest first; the shares are of the count and of the cycles. */
static void print_costs(struct vcpu *v, enum engine_cost_table table)
{
	struct engine_cost c[COSTS_MAX];
	unsigned n = costs_of(v, table, c);
	double count = 0, cycles = 0;

	if (!n)
		return;
	for (unsigned i = 0; i < n; i++) {
		count += (double)c[i].count;
		cycles += mean_cost(&c[i]) * (double)c[i].count;
	}
	qsort(c, n, sizeof(*c), by_total);
	fprintf(stderr, "%-24s %12s %7s %12s %12s %7s\n", cost_titles[table], "count", "share", "mean cycles",
		"Mcycles", "share");
	for (unsigned i = 0; i < n; i++) {
		double total = mean_cost(&c[i]) * (double)c[i].count;

		fprintf(stderr, "  %-22s %12lu %6.1f%% ", c[i].name, c[i].count, 100 * (double)c[i].count / count);
		if (c[i].samples)
			fprintf(stderr, "%12.0f %12.1f %6.1f%%\n", mean_cost(&c[i]), total / 1e6,
				cycles > 0 ? 100 * total / cycles : 0);
		else
			fprintf(stderr, "%12s %12s %7s\n", "-", "-", "-");
	}
}

void run_stats_text(struct machine *m)
{
	struct vcpu *v = machine_vcpu(m, 0);
	const struct memory_stats *mem = memory_stats(machine_memory(m));
	const struct port_stats *ports = portmap_stats(machine_board(m)->ports);
	struct engine_counter c[COUNTERS_MAX];
	unsigned n = v->engine->counters ? v->engine->counters(v, c, COUNTERS_MAX) : 0;
	struct machine_stats s;

	machine_stats(m, &s);
	fprintf(stderr, "%-24s %s\n%-24s %.3f (%.3f of them halted, %lu times)\n", "engine", v->engine->name, "seconds",
		s.seconds, s.halted_seconds, s.halts);
	if (machine_cpus(m) > 1)
		fprintf(stderr, "%-24s %lu\n%-24s %lu\n", "yields", s.yields, "kicks", s.kicks);
	if (s.counted)
		fprintf(stderr, "%-24s %lu\n%-24s %.1f\n", "instructions", s.instructions, "million instructions/s",
			mips(&s));
	else
		fprintf(stderr, "%-24s not counted (--count-instructions)\n", "instructions");
	for (unsigned i = 0; i < VCPU_EXIT_COUNT; i++)
		fprintf(stderr, "exits: %-17s %lu\n", exit_names[i], s.exits[i]);
	for (unsigned t = 0; t < COSTS_TABLES; t++)
		print_costs(v, t);
	for (unsigned i = 0; i < n && i < COUNTERS_MAX; i++)
		fprintf(stderr, "%-24s %lu\n", c[i].name, c[i].value);
	fprintf(stderr, "%-24s %lu reads, %lu writes\n%-24s %lu reads, %lu writes\n", "MMIO", mem->mmio_reads,
		mem->mmio_writes, "ports", ports->reads, ports->writes);
	print_disks(m);
	print_balloon(m);
}
