#include "ctl/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ctl/arrival.h"
#include "ctl/migrate.h"
#include "ctl/protect.h"

#define INT(v) ((json_int_t)(v))

const char *report_state(const struct api_machine *m, const struct snapshot *s)
{
	switch (machine_state(m->machine)) {
	case MACHINE_DEBUGGED:
		return "BreakPoint";
	case MACHINE_PAUSED:
		return "Paused";
	case MACHINE_RUNNING:
		break;
	}
	return s ? "Running" : "Busy";
}

/* ---- vm.info ---- */

static void put_string(json_t *o, const char *key, const char *value)
{
	/* paths and command lines need not be UTF-8 */
	json_t *text = value ? json_string(value) : NULL;

	if (value)
		json_object_set_new(o, key, text ? text : json_string("(not UTF-8)"));
}

/* From the root on. */
static void put_file(json_t *o, const char *key, const char *path, const char *cwd)
{
	char *whole;

	if (*path == '/' || !cwd) {
		put_string(o, key, path);
	} else if (asprintf(&whole, "%s/%s", cwd, path) >= 0) {
		put_string(o, key, whole);
		free(whole);
	}
}

static json_t *payload(const struct machine_config *c)
{
	json_t *o = json_object();

	put_string(o, "kernel", c->kernel);
	put_string(o, "initramfs", c->initrd);
	put_string(o, "cmdline", c->append);
	put_string(o, "firmware", c->firmware);
	return o;
}

static json_t *disks(const struct machine_config *c, const char *cwd)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->disks; i++) {
		const struct machine_disk *d = &c->disk[i];
		json_t *o = json_object();

		put_string(o, "id", d->id);
		put_file(o, "path", d->image.path, cwd);
		json_object_set_new(o, "readonly", json_boolean(d->image.readonly));
		json_array_append_new(list, o);
	}
	return list;
}

/* "tcp:127.0.0.1:2222-10.0.2.15:22", as --net would have it. */
static json_t *forwards(const struct net *n)
{
	json_t *list = json_array();
	char text[128];

	for (unsigned i = 0; i < n->forwards; i++) {
		const struct net_forward *f = &n->forward[i];

		snprintf(text, sizeof(text), "%s:%s:%u-%s:%u", f->udp ? "udp" : "tcp",
			 *f->host_addr ? f->host_addr : "127.0.0.1", f->host_port, f->guest_addr, f->guest_port);
		json_array_append_new(list, json_string(text));
	}
	return list;
}

static json_t *nets(const struct machine_config *c)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < c->net_count; i++) {
		const u8 *m = c->nets[i].mac;
		char mac[18], id[16];

		snprintf(id, sizeof(id), "net%u", i);
		snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "id", id, "mac", mac, "kind",
						      c->nets[i].net->ops->name, "hostfwd", forwards(c->nets[i].net)));
	}
	return list;
}

static json_t *config(const struct machine_config *c, const char *cwd, const struct snapshot *s)
{
	json_t *o =
	    json_pack("{s:{s:i, s:i}, s:{s:I}, s:o, s:o, s:o}", "cpus", "boot_vcpus", c->cpus, "max_vcpus", c->cpus,
		      "memory", "size", INT(c->memory), "payload", payload(c), "disks", disks(c, cwd), "net", nets(c));

	if (o && c->balloon)
		json_object_set_new(o, "balloon",
				    json_pack("{s:I, s:b}", "size",
					      INT(s && s->has_balloon ? s->balloon.target : c->balloon_target),
					      "free_page_reporting", c->balloon_reporting));
	return o;
}

/* NULL: it does not move, and has not. */
static const char *moving(const struct api_machine *m)
{
	struct arrival_post_figures fig;
	enum migration_phase phase = m->migration ? migration_phase(m->migration) : MIGRATION_NONE;

	if (phase != MIGRATION_NONE && phase != MIGRATION_FAILED && phase != MIGRATION_CANCELLED)
		return migration_phase_names[phase];
	if (!m->arrival)
		return NULL;
	if (arrival_phase(m->arrival) == ARRIVAL_STARTED && arrival_post_figures(m->arrival, &fig) && fig.missing)
		return fig.waiting ? "waiting for memory" : "post-copy";
	switch (arrival_phase(m->arrival)) {
	case ARRIVAL_READY:
		return "arriving";
	case ARRIVAL_IN_DOUBT:
		return "in doubt";
	case ARRIVAL_STARTED:
	case ARRIVAL_DISCARDED:
		break;
	}
	return NULL;
}

/* NULL: nobody keeps a copy of it up to date. */
static const char *protection(const struct api_machine *m)
{
	struct protect_status s;

	protect_status(m->protect, &s);
	return s.phase == PROTECT_NONE ? NULL : protect_phase_names[s.phase];
}

json_t *report_info(const struct api_machine *m, const struct snapshot *s)
{
	const struct machine_config *c = machine_config(m->machine);
	json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:o, s:b}", "name", m->name, "pid", (int)getpid(), "version",
			      ECTYPE_VERSION, "state", report_state(m, s), "clock",
			      c->clock == MACHINE_CLOCK_VIRTUAL ? "virtual" : "real", "config", config(c, m->cwd, s),
			      "console", m->console);

	if (!o)
		return NULL;
	put_string(o, "guest", machine_guest(m->machine));
	put_string(o, "engine", machine_engine_name(m->machine));
	put_string(o, "migration", moving(m));
	put_string(o, "protection", protection(m));
	if (!s)
		return o;
	json_object_set_new(o, "memory_actual_size",
			    json_integer(INT(s->ram - (s->has_balloon ? MIN(s->balloon.actual, s->ram) : 0))));
	if (s->generation[0])
		put_string(o, "generation", s->generation);
	json_object_set_new(o, "uptime_seconds", json_real(s->stats.seconds));
	json_object_set_new(o, "guest_time_ns", json_integer(INT(s->guest_ns)));
	return o;
}

/* ---- vm.counters ---- */

static void put(json_t *o, const char *key, u64 v)
{
	json_object_set_new(o, key, json_integer(INT(v)));
}

static json_t *machine_counters(const struct snapshot *s)
{
	json_t *o = json_object();
	char key[40];

	put(o, "uptime_ns", (u64)(s->stats.seconds * 1e9));
	put(o, "halted_ns", (u64)(s->stats.halted_seconds * 1e9));
	put(o, "guest_ns", s->guest_ns);
	put(o, "process_cpu_ns", s->process_cpu_ns);
	put(o, "halts", s->stats.halts);
	for (unsigned i = 0; i < VCPU_EXIT_COUNT; i++) {
		snprintf(key, sizeof(key), "exits_%s", snapshot_exit_names[i]);
		put(o, key, s->stats.exits[i]);
	}
	if (s->stats.counted)
		put(o, "instructions", s->stats.instructions);
	put(o, "mmio_reads", s->mmio_reads);
	put(o, "mmio_writes", s->mmio_writes);
	put(o, "port_reads", s->port_reads);
	put(o, "port_writes", s->port_writes);
	return o;
}

static json_t *cpu_counters(const struct snapshot_cpu *c)
{
	json_t *o = json_object();
	char key[64];

	for (unsigned i = 0; i < c->counters; i++)
		put(o, c->counter[i].name, c->counter[i].value);
	for (unsigned i = 0; i < c->exits; i++) {
		snprintf(key, sizeof(key), "exits_%s", c->exit[i].name);
		put(o, key, c->exit[i].count);
	}
	return o;
}

static void put_disks(json_t *top, const struct snapshot *s)
{
	char key[300];

	for (unsigned i = 0; i < s->disks; i++) {
		const struct disk_stats *d = &s->disk[i].count;
		json_t *o = json_object();

		put(o, "reads", d->reads);
		put(o, "writes", d->writes);
		put(o, "read_bytes", d->read_bytes);
		put(o, "write_bytes", d->written_bytes);
		put(o, "flushes", d->flushes);
		put(o, "discards", d->discards);
		put(o, "write_zeroes", d->zeroes);
		put(o, "others", d->others);
		put(o, "errors", d->errors);
		snprintf(key, sizeof(key), "disk:%s", s->disk[i].id);
		json_object_set_new(top, key, o);
	}
}

static void put_nets(json_t *top, const struct snapshot *s)
{
	char key[20];

	for (unsigned i = 0; i < s->nets; i++) {
		json_t *o = json_object();

		put(o, "rx_frames", s->net[i].rx_packets);
		put(o, "rx_bytes", s->net[i].rx_bytes);
		put(o, "tx_frames", s->net[i].tx_packets);
		put(o, "tx_bytes", s->net[i].tx_bytes);
		snprintf(key, sizeof(key), "net:net%u", i);
		json_object_set_new(top, key, o);
	}
}

static json_t *balloon_counters(const struct virtio_balloon_info *b)
{
	json_t *o = json_object();

	put(o, "driver", b->driver);
	put(o, "target_bytes", b->target);
	put(o, "actual_bytes", b->actual);
	put(o, "inflated_bytes", b->inflated);
	put(o, "reported_bytes", b->reported);
	return o;
}

json_t *report_counters(const struct snapshot *s)
{
	json_t *top = json_object();
	char key[16];

	json_object_set_new(top, "machine", machine_counters(s));
	for (unsigned n = 0; n < s->cpus; n++) {
		snprintf(key, sizeof(key), "cpu%u", n);
		json_object_set_new(top, key, cpu_counters(&s->cpu[n]));
	}
	put_disks(top, s);
	put_nets(top, s);
	if (s->has_balloon)
		json_object_set_new(top, "balloon", balloon_counters(&s->balloon));
	return top;
}

/* ---- vm.protection ---- */

json_t *report_protection(const struct protect_status *s)
{
	json_t *o = json_pack("{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "state",
			      protect_phase_names[s->phase], "rate", (int)s->rate, "timeout_ms", (int)s->timeout_ms,
			      "checkpoints", INT(s->checkpoints), "early", INT(s->early), "sent_bytes", INT(s->bytes),
			      "changed_bytes", INT(s->dirty), "standstill_ns", INT(s->still_ns), "standstill_max_ns",
			      INT(s->still_max_ns), "lag_ns", INT(s->lag_ns), "waiting_bytes", INT(s->waiting),
			      "waiting_max_bytes", INT(s->waiting_most));

	if (o && s->why[0])
		put_string(o, "reason", s->why);
	return o;
}
