/* A machine saved, and another one made from that. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* RAM as a file. -1 with *e. */
static int save_ram(struct machine *m, struct error *e)
{
	struct memory *mem = machine_memory(m);
	u64 size = memory_ram_size(mem), end;
	int fd = memfd_create("ectype-round-trip", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size)) {
		error_errno(e, errno, "cannot make a file for RAM");
		goto fail;
	}
	for (u64 at = memory_next_data(mem, 0, &end); at < size; at = memory_next_data(mem, end, &end)) {
		while (at < end) {
			ssize_t n = pwrite(fd, memory_ram(mem) + at, end - at, (off_t)at);

			if (n <= 0) {
				error_errno(e, errno, "cannot write RAM to a file");
				goto fail;
			}
			at += (u64)n;
		}
	}
	return fd;
fail:
	if (fd >= 0)
		close(fd);
	return -1;
}

static struct machine *rebuild(struct machine *m, const struct machine_config *cfg, const struct encoder *first,
			       struct error *e)
{
	struct stream stream;
	struct encoder second = { 0 };
	struct machine *copy = NULL;

	if (stream_read(&stream, first->data, first->len, "the record", e))
		return NULL;
	/* either way of getting RAM back */
	const struct machine_saved saved = {
		.stream = &stream,
		.ram_fd = save_ram(m, e),
		.eager = machine_icount(m) & 1,
	};
	struct machine_config with = *cfg;

	with.saved = &saved;
	if (saved.ram_fd >= 0) {
		copy = machine_create(&with, e);
		close(saved.ram_fd);
	}
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
