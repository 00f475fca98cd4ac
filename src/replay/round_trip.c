/* A machine saved, and another one made from that. */
#include <string.h>

#include "machine/state.h"
#include "replay/lockstep_internal.h"

static int save(struct machine *m, struct encoder *e, struct error *err)
{
	struct stream_writer w;

	enc_init(e);
	if (machine_quiesce(m, err))
		return -1;
	stream_begin(&w, e);
	machine_save(m, &w);
	stream_finish(&w);
	return e->failed ? error_set(err, "not enough host memory") : 0;
}

/* The section at which two streams part. */
static void explain(const struct stream *a, const struct encoder *b, struct error *e)
{
	struct stream other;

	if (stream_read(&other, b->data, b->len, "the second record", e))
		return;
	error_set(e, "a record of the restored machine has other sections");
	for (unsigned i = 0; i < a->count; i++) {
		const struct stream_section *x = &a->section[i], *y = stream_find(&other, x->name);

		if (y && y->len == x->len && !memcmp(x->payload, y->payload, x->len))
			continue;
		error_set(e, "section %s is not what it was in a record of the restored machine", x->name);
		break;
	}
	stream_free(&other);
}

static struct machine *rebuild(struct machine *m, const struct machine_config *cfg, const struct encoder *first,
			       struct error *e)
{
	struct stream stream;
	struct encoder second = { 0 };
	struct machine *copy = NULL;

	if (stream_read(&stream, first->data, first->len, "the record", e))
		return NULL;
	const struct machine_saved saved = { .stream = &stream, .ram_fd = memory_ram_fd(machine_memory(m)) };
	struct machine_config with = *cfg;

	with.saved = &saved;
	copy = machine_create(&with, e);
	if (copy &&
	    (save(copy, &second, e) || second.len != first->len || memcmp(first->data, second.data, first->len))) {
		explain(&stream, &second, e);
		machine_destroy(copy);
		copy = NULL;
	}
	enc_free(&second);
	stream_free(&stream);
	return copy;
}

struct machine *round_trip(struct machine *m, const struct machine_config *cfg, struct error *e)
{
	struct encoder first;
	struct machine *copy = NULL;

	if (!save(m, &first, e))
		copy = rebuild(m, cfg, &first, e);
	enc_free(&first);
	return copy;
}
