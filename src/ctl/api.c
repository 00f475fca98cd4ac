/* Doing what a client asks, on the vCPU thread where the machine's state is concerned. */
#include "ctl/api.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/host_time.h"
#include "ctl/arrival.h"
#include "ctl/limits.h"
#include "ctl/migrate.h"
#include "ctl/openapi.h"
#include "ctl/protect.h"
#include "ctl/report.h"
#include "mem/missing.h"

#define JSON "application/json"

void api_no_answer(const struct api_machine *m, struct api_reply *r)
{
	if (machine_state(m->machine) == MACHINE_DEBUGGED)
		api_error(r, 503, "a debugger holds machine '%s'", m->name);
	else
		api_error(r, 503, "machine '%s' does not run or does not answer", m->name);
}

/* Takes `j`. */
static void reply_json(json_t *j, struct api_reply *r)
{
	char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;

	json_decref(j);
	if (!text) {
		api_error(r, 500, "not enough host memory");
		return;
	}
	*r = (struct api_reply){ .status = 200, .type = JSON, .body = text, .len = strlen(text) };
}

/* ---- questions ---- */

static void ping(struct api_reply *r)
{
	reply_json(json_pack("{s:s, s:s, s:i, s:[s, s, s, s, s, s, s]}", "build_version", "ectype " ECTYPE_VERSION,
			     "version", ECTYPE_VERSION, "pid", (int)getpid(), "features", "engine-switch", "console",
			     "openmetrics", "coredump", "snapshot", "migration", "protection"),
		   r);
}

static void info(const struct api_machine *m, struct api_reply *r)
{
	struct snapshot *s = snapshot_take(m->machine);

	reply_json(report_info(m, s), r);
	free(s);
}

static void counters(const struct api_machine *m, struct api_reply *r)
{
	struct snapshot *s = snapshot_take(m->machine);

	if (s)
		reply_json(report_counters(s), r);
	else
		api_no_answer(m, r);
	free(s);
}

static void metrics(const struct api_machine *m, struct api_reply *r)
{
	struct snapshot *s = snapshot_take(m->machine);

	if (!s) {
		api_no_answer(m, r);
		return;
	}
	*r = (struct api_reply){ .status = 200, .type = "application/openmetrics-text; version=1.0.0; charset=utf-8" };
	r->body = report_metrics(m, s, &r->len);
	free(s);
	if (!r->body)
		api_error(r, 500, "not enough host memory");
}

/* ---- orders ---- */

struct order {
	struct machine *m;
	const struct api_request *q;
	const char *engine, *before;
	int failed;
	u64 ns;
	char generation[GUID_TEXT_LEN + 1], generation_before[GUID_TEXT_LEN + 1];
	struct error e;
};

static void do_pause(void *opaque)
{
	machine_pause(((struct order *)opaque)->m);
}
static void do_resume(void *opaque)
{
	machine_resume(((struct order *)opaque)->m);
}
static void do_power(void *opaque)
{
	machine_press_power(((struct order *)opaque)->m);
}
static void do_reset(void *opaque)
{
	machine_press_reset(((struct order *)opaque)->m);
}

static void do_resize(void *opaque)
{
	struct order *o = opaque;
	u64 ram = memory_ram_size(machine_memory(o->m));

	if (!machine_balloon(o->m))
		o->failed = error_set(&o->e, "the machine has no balloon");
	else if (o->q->desired_balloon >= ram)
		o->failed = error_set(&o->e, "a balloon of %lu bytes leaves nothing of %lu bytes of memory",
				      o->q->desired_balloon, ram);
	else
		virtio_balloon_set_target(machine_balloon(o->m), o->q->desired_balloon);
}

static void do_engine(void *opaque)
{
	struct order *o = opaque;
	struct clock *clock = machine_clock(o->m);
	u64 host = host_ns(), guest = clock_now(clock);

	o->before = machine_engine_name(o->m);
	o->failed = machine_set_engine(o->m, o->q->engine, &o->e);
	o->engine = machine_engine_name(o->m);
	/* what passed for the host and not for the guest */
	o->ns = host_ns() - host - (clock_now(clock) - guest);
}

static void do_generation(void *opaque)
{
	struct order *o = opaque;
	const u8 *before = machine_generation(o->m);

	if (!before) {
		o->failed = error_set(&o->e, "the machine has no VM Generation ID");
		return;
	}
	guid_format(before, o->generation_before);
	machine_set_generation(o->m, o->q->has_generation ? o->q->generation : NULL);
	guid_format(machine_generation(o->m), o->generation);
}

static void give_order(const struct api_machine *m, const struct api_request *q, void (*fn)(void *),
		       struct api_reply *r)
{
	struct order o = { .m = m->machine, .q = q };

	if (machine_state(m->machine) == MACHINE_DEBUGGED || !machine_call_within(m->machine, fn, &o, CTL_ORDER_MS))
		api_no_answer(m, r);
	else if (o.failed)
		api_error(r, 409, "%s", o.e.text);
	else if (o.engine)
		reply_json(json_pack("{s:s, s:s, s:I}", "engine", o.engine, "previous", o.before, "microseconds",
				     (json_int_t)(o.ns / 1000)),
			   r);
	else if (o.generation[0])
		reply_json(json_pack("{s:s, s:s}", "generation", o.generation, "previous", o.generation_before), r);
	else
		*r = (struct api_reply){ .status = 204 };
}

static bool engine_known(const char *name)
{
	for (const struct engine_ops *const *p = engines; *p; p++)
		if (!strcmp(name, (*p)->name))
			return true;
	return !strcmp(name, "auto");
}

static void set_engine(const struct api_machine *m, const struct api_request *q, struct api_reply *r)
{
	struct error e;

	if (engine_known(q->engine)) {
		give_order(m, q, do_engine, r);
		return;
	}
	engine_choose(q->engine, NULL, &e);
	api_error(r, 400, "%s", e.text);
}

/* ---- protection ---- */

static void protect(const struct api_machine *m, struct api_reply *r)
{
	struct error e;

	if (!m->protect)
		api_error(r, 409, "only machines of ectype run and ectype restore can be protected");
	else if (protect_possible(m->protect, &e))
		api_error(r, 409, "%s", e.text);
	else
		*r = (struct api_reply){ .status = 101, .attach = API_ATTACH_PROTECTION };
}

static void unprotect(const struct api_machine *m, struct api_reply *r)
{
	struct error e;

	if (!m->protect)
		api_error(r, 409, "the machine is not protected");
	else if (protect_stop(m->protect, &e))
		api_error(r, 409, "%s", e.text);
}

static void protection(const struct api_machine *m, struct api_reply *r)
{
	struct protect_status s;

	protect_status(m->protect, &s);
	reply_json(report_protection(&s), r);
}

static bool held_by_protection(const struct api_machine *m)
{
	struct protect_status s;

	protect_status(m->protect, &s);
	return s.phase == PROTECT_HELD;
}

/* ---- moving ---- */

/* One that stands still because nobody knows where it is to run goes on only if the disks are free. */
static void resume(const struct api_machine *m, const struct api_request *q, struct api_reply *r)
{
	struct error e;
	int n = migration_resume(m->migration, &e);

	if (!n && m->arrival)
		n = arrival_resume(m->arrival, &e);
	if (n < 0)
		api_error(r, 409, "%s", e.text);
	else if (!n)
		give_order(m, q, do_resume, r);
}

static void migrate(const struct api_machine *m, struct api_reply *r)
{
	struct error e;

	if (m->arrival && arrival_phase(m->arrival) != ARRIVAL_STARTED)
		api_error(r, 409, "the machine has not arrived yet");
	else if (memory_missing(machine_memory(m->machine)))
		api_error(r, 409, "the machine's memory has not all arrived yet");
	else if (migration_ready(m->migration, &e))
		api_error(r, 409, "%s", e.text);
	else
		*r = (struct api_reply){ .status = 101, .attach = API_ATTACH_MIGRATION };
}

static void set_migration(const struct api_machine *m, const struct api_request *q, struct api_reply *r)
{
	struct migration_settings s;
	struct error e;

	migration_get(m->migration, &s);
	if (q->has_downtime)
		s.downtime_ms = q->downtime_ms;
	if (q->has_timeout)
		s.timeout_s = q->timeout_s;
	if (q->has_copy_disks)
		s.copy_disks = q->copy_disks;
	if (q->has_post_copy)
		s.post_copy = q->post_copy;
	if (migration_set(m->migration, &s, &e))
		api_error(r, 409, "%s", e.text);
}

static void migration(const struct api_machine *m, struct api_reply *r)
{
	json_t *j = migration_report(m->migration);
	struct arrival_post_figures f;

	if (j && m->arrival && arrival_post_figures(m->arrival, &f))
		json_object_set_new(j, "arrival",
				    json_pack("{s:I, s:I, s:f, s:b, s:b}", "missing_bytes", (json_int_t)f.missing,
					      "faults", (json_int_t)f.faults, "longest_wait_ms",
					      (double)f.longest / 1e6, "connected", f.connected, "waiting", f.waiting));
	reply_json(j, r);
}

static void cancel_migration(const struct api_machine *m, struct api_reply *r)
{
	struct error e;

	if (migration_cancel(m->migration, &e))
		api_error(r, 409, "%s", e.text);
}

void api_perform(const struct api_machine *m, const struct api_request *q, struct api_reply *r)
{
	*r = (struct api_reply){ .status = 204 };
	switch (q->op) {
	case API_PING:
		ping(r);
		break;
	case API_INFO:
		info(m, r);
		break;
	case API_COUNTERS:
		counters(m, r);
		break;
	case API_METRICS:
		metrics(m, r);
		break;
	case API_OPENAPI:
		*r = (struct api_reply){
			.status = 200, .type = JSON, .constant = openapi_json, .len = openapi_json_len
		};
		break;
	case API_PAUSE:
		give_order(m, q, do_pause, r);
		break;
	case API_RESUME:
		if (held_by_protection(m))
			api_error(r, 409,
				  "the standby is lost and may go on in this machine's place; if there is none, "
				  "ectype protect --stop lets it go on");
		else
			resume(m, q, r);
		break;
	case API_POWER_BUTTON:
		give_order(m, q, do_power, r);
		break;
	case API_REBOOT:
		give_order(m, q, do_reset, r);
		break;
	case API_SHUTDOWN:
		r->then_stop = true;
		break;
	case API_ENGINE:
		set_engine(m, q, r);
		break;
	case API_RESIZE:
		give_order(m, q, do_resize, r);
		break;
	case API_CONSOLE:
		if (m->console)
			*r = (struct api_reply){ .status = 101, .attach = API_ATTACH_CONSOLE };
		else
			api_error(r, 409, "the machine has no serial console");
		break;
	case API_GENERATION:
		give_order(m, q, do_generation, r);
		break;
	case API_MIGRATE:
		migrate(m, r);
		break;
	case API_MIGRATION:
		migration(m, r);
		break;
	case API_MIGRATION_SET:
		set_migration(m, q, r);
		break;
	case API_MIGRATION_CANCEL:
		cancel_migration(m, r);
		break;
	case API_COREDUMP:
		api_coredump(m, q, r);
		break;
	case API_SNAPSHOT:
		api_snapshot(m, q, r);
		break;
	case API_PROTECT:
		protect(m, r);
		break;
	case API_UNPROTECT:
		unprotect(m, r);
		break;
	case API_PROTECTION:
		protection(m, r);
		break;
	case API_OPS:
		api_error(r, 500, "no such operation");
		break;
	}
}
