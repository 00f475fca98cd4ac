/*
 * The answer to vm.snapshot: a stream (state/stream.h) of the machine's state
 * and memory, made while the machine is held. It goes on when the last piece
 * has been read, when the client is gone, or when the time for a memory of that
 * size is up; then the connection is cut before the stream's end.
 *
 * Besides the sections of machine_save() and "options" there are three kinds
 * that only exist on the way: "ram.size"; "ram.data", frames in order, those of
 * zeros left out; "ram.sum". Whoever receives them puts RAM into a file.
 */
#include <stdlib.h>
#include <string.h>

#include "ctl/api.h"
#include "ctl/limits.h"
#include "machine/state.h"
#include "state/ram.h"

#define PIECE (256 * KiB) /* of RAM, a section */

enum phase { SEND_STATE, SEND_RAM, SEND_END };

struct saving {
	struct api_stream stream;
	struct machine *m;
	u64 hold;
	enum phase phase;
	struct stream_writer w;
	struct encoder out; /* made and not sent yet: [sent, len) */
	size_t sent;
	u64 at, data_end; /* in RAM: sent up to `at`; the piece that may hold data ends at `data_end` */
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
	u64 size = memory_ram_size(machine_memory(s->m));

	call->status = 409;
	s->hold = machine_hold(s->m, CTL_DUMP_MS + size / MiB * 1000 / CTL_DUMP_MIB_S);
	if (!s->hold) {
		error_set(&call->e, "somebody else has the machine's memory read");
		return;
	}
	if (machine_quiesce(s->m, &call->e)) {
		machine_release(s->m, s->hold);
		return;
	}
	stream_begin(&s->w, &s->out);
	machine_save(s->m, &s->w);
	stream_section(&s->w, "options", STREAM_REQUIRED, call->api->options, call->api->options_len);
	stream_section_begin(&s->w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(&s->out, size);
	stream_section_end(&s->w);
	call->status = 200;
}

/* The next frames that are not zeros, as many as lie together, as a section. False: there are none. */
static bool add_ram(struct saving *s)
{
	struct memory *mem = machine_memory(s->m);
	const u8 *ram = memory_ram(mem);
	u64 size = memory_ram_size(mem), start;

	for (;; s->at += PAGE_SIZE) {
		if (s->at >= s->data_end)
			s->at = memory_next_data(mem, s->at, &s->data_end);
		if (s->at >= size)
			return false;
		if (!ram_page_zero(ram + s->at))
			break;
	}
	for (start = s->at; s->at < s->data_end && s->at - start < PIECE && !ram_page_zero(ram + s->at);
	     s->at += PAGE_SIZE)
		ram_sum_add(&s->sum, s->at / PAGE_SIZE, ram + s->at);
	stream_section_begin(&s->w, RAM_DATA, STREAM_REQUIRED);
	enc_u64(&s->out, start);
	enc_bytes(&s->out, ram + start, s->at - start);
	stream_section_end(&s->w);
	return true;
}

static void add_end(struct saving *s)
{
	stream_section_begin(&s->w, RAM_SUM, STREAM_REQUIRED);
	enc_u64(&s->out, s->sum.pages);
	enc_u64(&s->out, s->sum.sum);
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
		if (s->out.failed || !machine_held(s->m, s->hold))
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
