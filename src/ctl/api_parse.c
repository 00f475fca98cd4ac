/* From method, path and body to a checked request. */
#include "ctl/api.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define V1 "/api/v1/"

const struct api_route api_routes[] = {
	{ V1 "vmm.ping", "GET", API_PING },
	{ V1 "vm.info", "GET", API_INFO },
	{ V1 "vm.counters", "GET", API_COUNTERS },
	{ V1 "vm.pause", "PUT", API_PAUSE },
	{ V1 "vm.resume", "PUT", API_RESUME },
	{ V1 "vm.power-button", "PUT", API_POWER_BUTTON },
	{ V1 "vm.reboot", "PUT", API_REBOOT },
	{ V1 "vm.shutdown", "PUT", API_SHUTDOWN },
	{ V1 "vmm.shutdown", "PUT", API_SHUTDOWN },
	{ V1 "vm.engine", "PUT", API_ENGINE },
	{ V1 "vm.resize", "PUT", API_RESIZE },
	{ V1 "vm.console", "GET", API_CONSOLE },
	{ V1 "vm.coredump", "PUT", API_COREDUMP },
	{ V1 "vm.generation", "PUT", API_GENERATION },
	{ V1 "vm.migrate", "GET", API_MIGRATE },
	{ V1 "vm.migration", "GET", API_MIGRATION },
	{ V1 "vm.migration-set", "PUT", API_MIGRATION_SET },
	{ V1 "vm.migration-cancel", "PUT", API_MIGRATION_CANCEL },
	{ V1 "vm.snapshot", "PUT", API_SNAPSHOT },
	{ V1 "openapi.json", "GET", API_OPENAPI },
	{ "/metrics", "GET", API_METRICS },
	{ V1 "vm.protect", "GET", API_PROTECT },
	{ V1 "vm.unprotect", "PUT", API_UNPROTECT },
	{ V1 "vm.protection", "GET", API_PROTECTION },
};
const unsigned api_route_count = ARRAY_SIZE(api_routes);

void api_error(struct api_reply *r, unsigned status, const char *fmt, ...)
{
	char text[600];
	json_t *j;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	api_reply_free(r);
	*r = (struct api_reply){ .status = status, .type = "application/json" };
	/* what a client sent may be cut in the middle of a character */
	j = json_string(text);
	j = json_pack("{s:o}", "error", j ? j : json_string("(not UTF-8)"));
	r->body = j ? json_dumps(j, JSON_COMPACT) : NULL;
	r->len = r->body ? strlen(r->body) : 0;
	json_decref(j);
}

void api_reply_free(struct api_reply *r)
{
	free(r->body);
	r->body = NULL;
	if (r->stream)
		r->stream->release(r->stream);
	r->stream = NULL;
}

/* The members of `j` are among `names`, a list that ends with NULL. */
static bool known_members(json_t *j, const char *const *names, struct api_reply *r)
{
	const char *key;
	json_t *value;

	json_object_foreach(j, key, value)
	{
		const char *const *n = names;

		while (*n && strcmp(*n, key))
			n++;
		if (!*n) {
			api_error(r, 400, "unknown member '%.64s'", key);
			return false;
		}
	}
	return true;
}

static bool parse_engine(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { "engine", NULL };
	const char *name = json_string_value(json_object_get(j, "engine"));

	if (!known_members(j, members, r))
		return false;
	if (!name || !*name || strlen(name) >= sizeof(q->engine)) {
		api_error(r, 400, "the body must be {\"engine\": NAME}");
		return false;
	}
	strcpy(q->engine, name);
	return true;
}

static bool parse_resize(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { "desired_balloon", NULL };
	json_t *size = json_object_get(j, "desired_balloon");

	if (!known_members(j, members, r))
		return false;
	if (!json_is_integer(size) || json_integer_value(size) < 0 ||
	    json_integer_value(size) % (json_int_t)PAGE_SIZE) {
		api_error(r, 400, "the body must be {\"desired_balloon\": BYTES}, a multiple of 4096");
		return false;
	}
	q->has_balloon = true;
	q->desired_balloon = (u64)json_integer_value(size);
	return true;
}

static bool parse_coredump(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { "paging", NULL };
	json_t *paging = json_object_get(j, "paging");

	if (!known_members(j, members, r))
		return false;
	if (paging && !json_is_boolean(paging)) {
		api_error(r, 400, "\"paging\" is true or false");
		return false;
	}
	q->paging = json_is_true(paging);
	return true;
}

/* {"ID": [device, inode, ...], ...}: numbers of stat(), as 64 bits with a sign. */
static bool parse_backing(json_t *j, struct disk_backings *to)
{
	const char *id;
	json_t *files;

	json_object_foreach(j, id, files)
	{
		size_t n = json_array_size(files), i;
		struct disk_backing *d = &to->disk[to->count];
		json_t *number;

		if (to->count == ARRAY_SIZE(to->disk) || strlen(id) >= sizeof(d->id) || !n || n % 2 ||
		    n > 2 * ARRAY_SIZE(d->file))
			return false;
		json_array_foreach(files, i, number)
		{
			u64 value = (u64)json_integer_value(number);

			if (!json_is_integer(number))
				return false;
			*(i % 2 ? &d->file[i / 2].ino : &d->file[i / 2].dev) = value;
		}
		strcpy(d->id, id);
		d->files = (unsigned)n / 2;
		to->count++;
	}
	return !j || json_is_object(j);
}

static bool parse_snapshot(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { "disks", "backing", NULL };
	json_t *disks = json_object_get(j, "disks");

	if (!known_members(j, members, r))
		return false;
	if (disks && !json_is_boolean(disks)) {
		api_error(r, 400, "\"disks\" is true or false");
		return false;
	}
	q->no_disks = json_is_false(disks);
	if (!parse_backing(json_object_get(j, "backing"), &q->backing)) {
		api_error(r, 400, "\"backing\" must be {ID: [DEVICE, INODE, ...], ...}");
		return false;
	}
	return true;
}

static bool parse_generation(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { "generation", NULL };
	const char *text = json_string_value(json_object_get(j, "generation"));

	if (!known_members(j, members, r))
		return false;
	q->has_generation = text && strcmp(text, "auto");
	if (text && (!q->has_generation || guid_parse(text, q->generation)))
		return true;
	api_error(r, 400, "the body must be {\"generation\": GUID or \"auto\"}");
	return false;
}

/* A number of an object, up to `max`. */
static bool take_number(json_t *j, const char *name, u64 max, bool *has, u64 *out, struct api_reply *r)
{
	json_t *n = json_object_get(j, name);

	if (!n)
		return true;
	if (!json_is_integer(n) || json_integer_value(n) < 0 || (u64)json_integer_value(n) > max) {
		api_error(r, 400, "\"%s\" must be a number from 0 to %llu", name, (unsigned long long)max);
		return false;
	}
	*has = true;
	*out = (u64)json_integer_value(n);
	return true;
}

static bool take_bool(json_t *j, const char *key, bool *has, bool *out, struct api_reply *r)
{
	json_t *b = json_object_get(j, key);

	*has = b;
	*out = json_is_true(b);
	if (!b || json_is_boolean(b))
		return true;
	api_error(r, 400, "\"%s\" must be true or false", key);
	return false;
}

static bool parse_migration(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { "downtime_ms", "timeout_s", "copy_disks", "post_copy", NULL };

	return known_members(j, members, r) && take_bool(j, "copy_disks", &q->has_copy_disks, &q->copy_disks, r) &&
	       take_bool(j, "post_copy", &q->has_post_copy, &q->post_copy, r) &&
	       take_number(j, "downtime_ms", 3600000, &q->has_downtime, &q->downtime_ms, r) &&
	       take_number(j, "timeout_s", 86400 * 365, &q->has_timeout, &q->timeout_s, r);
}

static bool parse_none(json_t *j, struct api_request *q, struct api_reply *r)
{
	static const char *const members[] = { NULL };

	return known_members(j, members, r);
}

static bool (*parser(enum api_op op))(json_t *j, struct api_request *q, struct api_reply *r)
{
	switch (op) {
	case API_ENGINE:
		return parse_engine;
	case API_RESIZE:
		return parse_resize;
	case API_COREDUMP:
		return parse_coredump;
	case API_SNAPSHOT:
		return parse_snapshot;
	case API_GENERATION:
		return parse_generation;
	case API_MIGRATION_SET:
		return parse_migration;
	default:
		return parse_none;
	}
}

static bool parse_body(const char *body, size_t len, struct api_request *q, struct api_reply *r)
{
	json_error_t error;
	json_t *j;
	bool good;

	if (len > API_BODY_MAX) {
		api_error(r, 413, "the body is larger than %llu bytes", API_BODY_MAX);
		return false;
	}
	j = len ? json_loadb(body, len, JSON_REJECT_DUPLICATES, &error) : json_object();
	if (!j) {
		api_error(r, 400, "the body is no JSON: %.120s (line %d, column %d)", len ? error.text : "", error.line,
			  error.column);
		return false;
	}
	if (!json_is_object(j)) {
		api_error(r, 400, "the body is no JSON object");
		good = false;
	} else {
		good = parser(q->op)(j, q, r);
	}
	json_decref(j);
	return good;
}

bool api_parse(const char *method, const char *path, const char *body, size_t len, struct api_request *q,
	       struct api_reply *r)
{
	const struct api_route *route = NULL;

	for (unsigned i = 0; i < api_route_count && !route; i++)
		if (!strcmp(api_routes[i].path, path))
			route = &api_routes[i];
	*r = (struct api_reply){ .status = 0 };
	if (!route) {
		api_error(r, 404, "there is no %.128s (see " V1 "openapi.json)", path);
		return false;
	}
	if (strcmp(route->method, method)) {
		api_error(r, 405, "%s wants %s", path, route->method);
		r->allow = route->method;
		return false;
	}
	*q = (struct api_request){ .op = route->op };
	return parse_body(body, len, q, r);
}
