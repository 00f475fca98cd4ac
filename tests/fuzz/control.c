/*
 * Fuzz target: requests of the control socket: method, path and body, each to
 * the end of its line, any bytes. What is accepted keeps within its bounds;
 * what is not has an answer that is JSON.
 */
#include <jansson.h>
#include <stdlib.h>

#include "ctl/api.h"
#include "fuzz.h"

/* The next line, NUL at its end; a number below 32 at its begin names a known one. */
static void take_word(struct input *in, char *out, size_t size, bool path)
{
	size_t n = 0;

	if (in->p < in->end && *in->p < 32 && *in->p != '\n') {
		const struct api_route *r = &api_routes[*in->p++ % api_route_count];

		strcpy(out, path ? r->path : r->method);
		return;
	}
	while (in->p < in->end && *in->p != '\n' && n + 1 < size)
		out[n++] = (char)*in->p++;
	out[n] = 0;
	in->p += in->p < in->end;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	char method[16], path[256];
	struct api_request q = { .op = API_OPS };
	struct api_reply r;

	take_word(&in, method, sizeof(method), false);
	take_word(&in, path, sizeof(path), true);
	if (api_parse(method, path, (const char *)in.p, (size_t)(in.end - in.p), &q, &r)) {
		if (q.op >= API_OPS || r.body || strnlen(q.engine, sizeof(q.engine)) == sizeof(q.engine) ||
		    (q.op == API_ENGINE) != (q.engine[0] != 0) || (q.op == API_RESIZE) != q.has_balloon ||
		    q.desired_balloon % PAGE_SIZE || q.desired_balloon > INT64_MAX ||
		    (q.paging && q.op != API_COREDUMP) || (q.has_generation && q.op != API_GENERATION))
			abort();
	} else {
		json_t *j = r.body ? json_loadb(r.body, r.len, 0, NULL) : NULL;

		if (r.status < 400 || r.status > 499 || !json_string_value(json_object_get(j, "error")))
			abort();
		json_decref(j);
	}
	api_reply_free(&r);
	return 0;
}
