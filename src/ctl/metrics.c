/*
 * OpenMetrics text (the specification of version 1.0: families announced by
 * TYPE, counters end in _total, `# EOF` at the end).
 */
#include <stdio.h>
#include <stdlib.h>

#include "ctl/report.h"

struct out {
	FILE *f;
	const char *family, *machine;
};

/* Within quotes: backslash, quote and line end are escaped. */
static void print_value(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '\n')
			fputs("\\n", f);
		else if (*s == '"' || *s == '\\')
			fprintf(f, "\\%c", *s);
		else
			fputc(*s, f);
	}
}

static void family(struct out *o, const char *name, const char *type, const char *unit, const char *help)
{
	o->family = name;
	fprintf(o->f, "# TYPE %s %s\n", name, type);
	if (unit)
		fprintf(o->f, "# UNIT %s %s\n", name, unit);
	fprintf(o->f, "# HELP %s %s\n", name, help);
}

/* One sample of the family: `suffix` behind its name, up to two labels; a NULL name ends them. */
static void labels(struct out *o, const char *suffix, const char *n1, const char *v1, const char *n2, const char *v2)
{
	const char *const pair[] = { n1, v1, n2, v2 };

	fprintf(o->f, "%s%s{machine=\"", o->family, suffix);
	print_value(o->f, o->machine);
	for (unsigned i = 0; i < 4 && pair[i]; i += 2) {
		fprintf(o->f, "\",%s=\"", pair[i]);
		print_value(o->f, pair[i + 1]);
	}
	fputs("\"} ", o->f);
}

static void count(struct out *o, const char *n1, const char *v1, const char *n2, const char *v2, u64 value)
{
	labels(o, "_total", n1, v1, n2, v2);
	fprintf(o->f, "%lu\n", value);
}

static void gauge(struct out *o, const char *n1, const char *v1, double value)
{
	labels(o, "", n1, v1, NULL, NULL);
	fprintf(o->f, "%.17g\n", value);
}

static void put_machine(struct out *o, const struct api_machine *m, const struct snapshot *s)
{
	family(o, "ectype", "info", NULL, "The machine and its engine.");
	labels(o, "_info", "engine", s->engine, "version", ECTYPE_VERSION);
	fputs("1\n", o->f);
	family(o, "ectype_paused", "gauge", NULL, "1 while the machine is paused.");
	gauge(o, NULL, NULL, machine_state(m->machine) == MACHINE_PAUSED);
	family(o, "ectype_uptime_seconds", "gauge", "seconds", "Host time since the start.");
	gauge(o, NULL, NULL, s->stats.seconds);
	family(o, "ectype_guest_time_seconds", "gauge", "seconds", "Guest time since the start.");
	gauge(o, NULL, NULL, (double)s->guest_ns / 1e9);
	family(o, "ectype_halted_seconds", "counter", "seconds", "Host time with all processors halted.");
	labels(o, "_total", NULL, NULL, NULL, NULL);
	fprintf(o->f, "%.9f\n", s->stats.halted_seconds);
	family(o, "ectype_process_cpu_seconds", "counter", "seconds", "Processor time of the monitor's process.");
	labels(o, "_total", NULL, NULL, NULL, NULL);
	fprintf(o->f, "%.9f\n", (double)s->process_cpu_ns / 1e9);
	family(o, "ectype_memory_bytes", "gauge", "bytes", "RAM of the guest.");
	gauge(o, NULL, NULL, (double)s->ram);
	if (s->stats.counted) {
		family(o, "ectype_instructions", "counter", NULL, "Instructions retired.");
		count(o, NULL, NULL, NULL, NULL, s->stats.instructions);
	}
	family(o, "ectype_halts", "counter", NULL, "Times that the machine went to sleep.");
	count(o, NULL, NULL, NULL, NULL, s->stats.halts);
	family(o, "ectype_exits", "counter", NULL, "Returns of the engine, by reason.");
	for (unsigned i = 0; i < VCPU_EXIT_COUNT; i++)
		count(o, "reason", snapshot_exit_names[i], NULL, NULL, s->stats.exits[i]);
	family(o, "ectype_io_accesses", "counter", NULL, "Accesses of the guest to ports and memory-mapped registers.");
	count(o, "space", "mmio", "direction", "read", s->mmio_reads);
	count(o, "space", "mmio", "direction", "write", s->mmio_writes);
	count(o, "space", "port", "direction", "read", s->port_reads);
	count(o, "space", "port", "direction", "write", s->port_writes);
}

static void put_cpus(struct out *o, const struct snapshot *s)
{
	char cpu[16];

	family(o, "ectype_code_exits", "counter", NULL, "Leaves of translated code, by cause.");
	for (unsigned n = 0; n < s->cpus; n++) {
		snprintf(cpu, sizeof(cpu), "%u", n);
		for (unsigned i = 0; i < s->cpu[n].exits; i++)
			count(o, "cpu", cpu, "cause", s->cpu[n].exit[i].name, s->cpu[n].exit[i].count);
	}
	family(o, "ectype_engine", "unknown", NULL, "Counters and sizes of the engine, by its own names.");
	for (unsigned n = 0; n < s->cpus; n++) {
		snprintf(cpu, sizeof(cpu), "%u", n);
		for (unsigned i = 0; i < s->cpu[n].counters; i++) {
			labels(o, "", "cpu", cpu, "name", s->cpu[n].counter[i].name);
			fprintf(o->f, "%lu\n", s->cpu[n].counter[i].value);
		}
	}
}

static void put_disks(struct out *o, const struct snapshot *s)
{
	family(o, "ectype_disk_requests", "counter", NULL, "Requests of the guest, by kind.");
	for (unsigned i = 0; i < s->disks; i++) {
		const struct disk_stats *d = &s->disk[i].count;
		const char *id = s->disk[i].id;

		count(o, "disk", id, "kind", "read", d->reads);
		count(o, "disk", id, "kind", "write", d->writes);
		count(o, "disk", id, "kind", "flush", d->flushes);
		count(o, "disk", id, "kind", "discard", d->discards);
		count(o, "disk", id, "kind", "write_zeroes", d->zeroes);
		count(o, "disk", id, "kind", "other", d->others);
	}
	family(o, "ectype_disk_bytes", "counter", "bytes", "Bytes read and written.");
	for (unsigned i = 0; i < s->disks; i++) {
		count(o, "disk", s->disk[i].id, "direction", "read", s->disk[i].count.read_bytes);
		count(o, "disk", s->disk[i].id, "direction", "write", s->disk[i].count.written_bytes);
	}
	family(o, "ectype_disk_errors", "counter", NULL, "Requests that failed.");
	for (unsigned i = 0; i < s->disks; i++)
		count(o, "disk", s->disk[i].id, NULL, NULL, s->disk[i].count.errors);
}

static void put_nets(struct out *o, const struct snapshot *s)
{
	char net[16];

	family(o, "ectype_net_frames", "counter", NULL, "Frames received and sent by the guest.");
	for (unsigned i = 0; i < s->nets; i++) {
		snprintf(net, sizeof(net), "net%u", i);
		count(o, "net", net, "direction", "rx", s->net[i].rx_packets);
		count(o, "net", net, "direction", "tx", s->net[i].tx_packets);
	}
	family(o, "ectype_net_bytes", "counter", "bytes", "Bytes of them.");
	for (unsigned i = 0; i < s->nets; i++) {
		snprintf(net, sizeof(net), "net%u", i);
		count(o, "net", net, "direction", "rx", s->net[i].rx_bytes);
		count(o, "net", net, "direction", "tx", s->net[i].tx_bytes);
	}
}

static void put_balloon(struct out *o, const struct snapshot *s)
{
	if (!s->has_balloon)
		return;
	family(o, "ectype_balloon_bytes", "gauge", "bytes", "What the balloon is to hold, and what it holds.");
	gauge(o, "kind", "target", (double)s->balloon.target);
	gauge(o, "kind", "actual", (double)s->balloon.actual);
}

char *report_metrics(const struct api_machine *m, const struct snapshot *s, size_t *len)
{
	char *text = NULL;
	struct out o = { .f = open_memstream(&text, len), .machine = m->name };

	if (!o.f)
		return NULL;
	put_machine(&o, m, s);
	put_cpus(&o, s);
	put_disks(&o, s);
	put_nets(&o, s);
	put_balloon(&o, s);
	fputs("# EOF\n", o.f);
	if (fclose(o.f)) {
		free(text);
		return NULL;
	}
	return text;
}
