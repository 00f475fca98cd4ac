/*
 * The answer to vm.snapshot: a stream (state/stream.h) of the machine's state
 * and memory at one moment. The machine is held until the state is saved, and
 * its memory is sent while it goes on (ram_copy.h); where that cannot be it is
 * held until the last piece has been read. If the client takes longer than a
 * memory of that size needs, the connection is cut before the stream's end.
 *
 * Besides the sections of machine_save() and "options" there are three kinds
 * that only exist on the way: "ram.size"; "ram.data", frames in order, those of
 * zeros left out; "ram.sum". Whoever receives them puts RAM into a file.
 */
#include <stdlib.h>
#include <string.h>

#include "base/host_time.h"
#include "ctl/api.h"
#include "ctl/limits.h"
#include "ctl/ram_copy.h"
#include "machine/state.h"
#include "state/ram.h"

#define PIECE (256 * KiB) /* of RAM, a section */

enum phase { SEND_STATE, SEND_RAM, SEND_END };

struct saving {
	struct api_stream stream;
	struct machine *m;
	u64 hold, until, still; /* number of the hold; host time; ns that the guest stood still, 0: all the time */
	struct ram_copy *copy;
	enum phase phase;
	struct stream_writer w;
	struct encoder out; /* made and not sent yet: [sent, len) */
	size_t sent;
	u64 at; /* in RAM: sent up to here */
	u8 page[PAGE_SIZE];
	bool has_page; /* what is at `at`, not zeros */
	struct ram_sum sum;
};

struct call {
	const struct api_machine *api;
	struct saving *s;
	int status; /* of HTTP */
	struct error e;
};

/* On the vCPU thread. */
static void begin(void *opaque)
{
	struct call *call = opaque;
	struct saving *s = call->s;
	u64 size = memory_ram_size(machine_memory(s->m)), start = host_ns();
	u64 limit = CTL_DUMP_MS + size / MiB * 1000 / CTL_DUMP_MIB_S;

	call->status = 409;
	s->until = start + limit * 1000000;
	s->hold = machine_hold(s->m, limit);
	if (!s->hold) {
		error_set(&call->e, "somebody else has the machine's memory read");
		return;
	}
	if (machine_quiesce(s->m, &call->e)) {
		machine_release(s->m, s->hold);
		return;
	}
	s->copy = ram_copy_start(s->m);
	if (!s->copy) {
		machine_release(s->m, s->hold);
		error_set(&call->e, "not enough host memory");
		return;
	}
	stream_begin(&s->w, &s->out);
	machine_save(s->m, &s->w);
	stream_section(&s->w, "options", STREAM_REQUIRED, call->api->options, call->api->options_len);
	stream_section_begin(&s->w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(&s->out, size);
	stream_section_end(&s->w);
	call->status = 200;
	if (!ram_copy_background(s->copy))
		return;
	machine_release(s->m, s->hold);
	s->still = MAX(host_ns() - start, 1ull);
}

/* Is what is read still of that moment? */
static bool good(const struct saving *s)
{
	return ram_copy_background(s->copy) ? host_ns() < s->until : machine_held(s->m, s->hold);
}

/* The next frame that is not zeros, at s->at. */
static bool find_page(struct saving *s)
{
	u64 size = memory_ram_size(machine_memory(s->m));

	while (!s->has_page) {
		s->at = ram_copy_next(s->copy, s->at);
		if (s->at >= size)
			return false;
		ram_copy_read(s->copy, s->at, s->page);
		s->has_page = !ram_page_zero(s->page);
		s->at += s->has_page ? 0 : PAGE_SIZE;
	}
	return true;
}

/* The next frames that are not zeros, as many as lie together, as a section. False: there are none. */
static bool add_ram(struct saving *s)
{
	u64 start, expected;

	if (!find_page(s))
		return false;
	start = expected = s->at;
	stream_section_begin(&s->w, RAM_DATA, STREAM_REQUIRED);
	enc_u64(&s->out, start);
	while (find_page(s) && s->at == expected && s->at - start < PIECE) {
		ram_sum_add(&s->sum, s->at / PAGE_SIZE, s->page);
		enc_bytes(&s->out, s->page, PAGE_SIZE);
		s->has_page = false;
		s->at += PAGE_SIZE;
		expected = s->at;
	}
	stream_section_end(&s->w);
	return true;
}

static void add_end(struct saving *s)
{
	stream_section_begin(&s->w, RAM_SUM, STREAM_REQUIRED);
	enc_u64(&s->out, s->sum.pages);
	enc_u64(&s->out, s->sum.sum);
	enc_u64(&s->out, s->still);
	stream_section_end(&s->w);
	stream_finish(&s->w);
}

/* Makes more to be sent; false: there is no more. */
static bool refill(struct saving *s)
{
	s->out.len = s->sent = 0;
	if (s->phase == SEND_END)
		return false;
	s->phase = SEND_RAM;
	if (add_ram(s))
		return true;
	s->phase = SEND_END;
	add_end(s);
	return true;
}

static ssize_t saving_read(struct api_stream *stream, u64 pos, void *buf, size_t n)
{
	struct saving *s = container_of(stream, struct saving, stream);

	if (s->sent == s->out.len) {
		if (!refill(s))
			return 0;
		/* after the look at memory */
		if (s->out.failed || !good(s))
			return -1;
		if (s->phase == SEND_END)
			machine_release(s->m, s->hold);
	}
	n = MIN(n, s->out.len - s->sent);
	memcpy(buf, s->out.data + s->sent, n);
	s->sent += n;
	return (ssize_t)n;
}

static void saving_release(struct api_stream *stream)
{
	struct saving *s = container_of(stream, struct saving, stream);

	machine_release(s->m, s->hold);
	ram_copy_end(s->copy);
	enc_free(&s->out);
	free(s);
}

void api_snapshot(const struct api_machine *m, struct api_reply *r)
{
	struct saving *s;
	struct call call = { .api = m };

	if (!m->options) {
		api_error(r, 409, "only machines of ectype run and ectype restore can be saved");
		return;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		api_error(r, 500, "not enough host memory");
		return;
	}
	s->stream.len = API_LEN_UNKNOWN;
	s->stream.read = saving_read;
	s->stream.release = saving_release;
	s->m = m->machine;
	call.s = s;
	if (machine_state(s->m) == MACHINE_DEBUGGED || !machine_call_within(s->m, begin, &call, CTL_ORDER_MS)) {
		api_no_answer(m, r);
	} else if (call.status != 200) {
		api_error(r, (unsigned)call.status, "%s", call.e.text);
	} else {
		*r = (struct api_reply){ .status = 200, .type = "application/octet-stream", .stream = &s->stream };
		return;
	}
	enc_free(&s->out);
	free(s);
}
