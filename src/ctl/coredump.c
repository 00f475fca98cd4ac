/*
 * The answer to vm.coredump: the machine is held at an instruction boundary while its memory is sent. It goes on when
 * the last piece has been read, when the client is gone or has taken nothing for IDLE_S (server.c), or when the time
 * for a memory of that size is up; then the connection is cut, so that nobody takes what came for a whole core.
 */
#include <stdlib.h>

#include "ctl/api.h"
#include "ctl/core.h"
#include "ctl/limits.h"
#include "mem/missing.h"

struct dump {
	struct api_stream stream;
	struct machine *m;
	struct core *core;
	u64 hold;
};

struct call {
	struct dump *d;
	bool paging;
	int status; /* of HTTP */
	struct error e;
};

/* On the vCPU thread. */
static void begin(void *opaque)
{
	struct call *call = opaque;
	struct dump *d = call->d;
	u64 mib = memory_ram_size(machine_memory(d->m)) / MiB;

	call->status = 409;
	if (memory_missing(machine_memory(d->m))) {
		error_set(&call->e, "the machine's memory has not all arrived yet");
		return;
	}
	d->hold = machine_hold(d->m, CTL_DUMP_MS + mib * 1000 / CTL_DUMP_MIB_S);
	if (!d->hold) {
		error_set(&call->e, "somebody else has the machine's memory read");
		return;
	}
	d->core = core_create(d->m, call->paging, &call->e);
	if (d->core)
		call->status = 200;
	else
		machine_release(d->m, d->hold);
}

static ssize_t dump_read(struct api_stream *s, u64 pos, void *buf, size_t n)
{
	struct dump *d = container_of(s, struct dump, stream);
	size_t done = core_read(d->core, pos, buf, n);

	/* after the look at memory */
	if (!machine_held(d->m, d->hold))
		return -1;
	if (pos + done == s->len)
		machine_release(d->m, d->hold);
	return (ssize_t)done;
}

static void dump_release(struct api_stream *s)
{
	struct dump *d = container_of(s, struct dump, stream);

	machine_release(d->m, d->hold);
	core_destroy(d->core);
	free(d);
}

void api_coredump(const struct api_machine *m, const struct api_request *q, struct api_reply *r)
{
	struct dump *d = calloc(1, sizeof(*d));
	struct call call = { .d = d, .paging = q->paging };

	if (!d) {
		api_error(r, 500, "not enough host memory");
		return;
	}
	d->stream.read = dump_read;
	d->stream.release = dump_release;
	d->m = m->machine;
	if (machine_state(d->m) == MACHINE_DEBUGGED || !machine_call_within(d->m, begin, &call, CTL_ORDER_MS)) {
		api_no_answer(m, r);
	} else if (call.status != 200) {
		api_error(r, (unsigned)call.status, "%s", call.e.text);
	} else {
		d->stream.len = core_size(d->core);
		*r = (struct api_reply){ .status = 200, .type = "application/octet-stream", .stream = &d->stream };
		return;
	}
	free(d);
}
