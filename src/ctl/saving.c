/*
 * The answer to vm.snapshot: a stream (state/stream.h) of the machine's state,
 * memory and disks at one moment. The machine is held until the state is saved,
 * and the rest is sent while it goes on (ram_copy.h, disk_copy.h); where that
 * cannot be with memory it is held until that has been read. A client that
 * holds the machine for longer than a memory of that size needs, or takes
 * nothing for a while, is cut off before the stream's end.
 *
 * Besides the sections of machine_save() and "options" there are some that only
 * exist on the way: "ram.size"; "ram.data", frames in order, those of zeros
 * left out; "ram.sum"; and those of disks (state/disk.h). Memory comes first,
 * for copies of it take as much room as it likes; between it come pieces of
 * disks, when the guest's writes would have to wait.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/host_time.h"
#include "ctl/api.h"
#include "ctl/disk_copy.h"
#include "ctl/limits.h"
#include "ctl/ram_copy.h"
#include "machine/state.h"
#include "state/disk.h"

#define PIECE (256 * KiB) /* of RAM, a section */

#define QUIET_NS (NSEC_PER_SEC) /* for a moment when no disk flushes, which the guest would have to stand still for */
#define LOOK_NS 500000u
#define TAKE_NS (30 * NSEC_PER_SEC) /* for a client to take what lies there */

enum phase { SEND_STATE, SEND_RAM, SEND_DISKS, SEND_END };

struct saving {
	struct api_stream stream;
	struct machine *m;
	u64 hold, start, still; /* number of the hold; host time; ns that the guest stood still, 0: until now */
	u64 last;		/* host time: more was made */
	bool running;		/* the machine goes on */
	struct ram_copy *copy;
	struct disk_copies *disks; /* NULL: not wanted */
	enum phase phase;
	bool failed; /* and said so */
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
	const struct disk_backings *backing; /* NULL: no disks are wanted */
	struct saving *s;
	u64 patience; /* host time; until then another moment may come that is better */
	int status;   /* of HTTP; 0: it was no good moment */
	struct error e;
};

static void go_on(struct saving *s)
{
	machine_release(s->m, s->hold);
	s->still = MAX(host_ns() - s->start, 1ull);
	s->running = true;
}

/* Disks first: their sizes are sections. On failure what was started is for saving_release(). */
static int start_copies(struct saving *s, const struct disk_backings *backing, struct error *e)
{
	if (backing && !(s->disks = disk_copies_start(s->m, backing, &s->w, e)))
		return -1;
	s->copy = ram_copy_start(s->m);
	return s->copy ? 0 : error_set(e, "not enough host memory");
}

/* On the vCPU thread. */
static void begin(void *opaque)
{
	struct call *call = opaque;
	struct saving *s = call->s;
	u64 size = memory_ram_size(machine_memory(s->m));
	u64 limit = CTL_DUMP_MS + size / MiB * 1000 / CTL_DUMP_MIB_S;

	if (machine_disks_busy(s->m) && host_ns() < call->patience)
		return;
	call->status = 409;
	s->start = s->last = host_ns();
	s->hold = machine_hold(s->m, limit);
	if (!s->hold) {
		error_set(&call->e, "somebody else has the machine's memory read");
		return;
	}
	stream_begin(&s->w, &s->out);
	if (machine_quiesce_devices(s->m, &call->e) || start_copies(s, call->backing, &call->e)) {
		machine_release(s->m, s->hold);
		return;
	}
	machine_save(s->m, &s->w);
	stream_section(&s->w, "options", STREAM_REQUIRED, call->api->options, call->api->options_len);
	stream_section_begin(&s->w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(&s->out, size);
	stream_section_end(&s->w);
	call->status = 200;
	if (ram_copy_background(s->copy))
		go_on(s);
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

static void add_failure(struct saving *s, const struct error *e)
{
	s->failed = true;
	stream_section(&s->w, SAVING_FAILED, STREAM_REQUIRED, e->text, strlen(e->text));
	s->phase = SEND_END;
}

static void add_disks(struct saving *s)
{
	struct error e;
	int more = disk_copies_add(s->disks, &s->w, PIECE, &e);

	if (more < 0)
		add_failure(s, &e);
	else if (!more && s->phase == SEND_DISKS)
		s->phase = SEND_END;
}

/* Makes more to be sent. False: what was read before is not of that moment any more. */
static bool refill(struct saving *s)
{
	if (s->phase == SEND_STATE)
		s->phase = SEND_RAM;
	if (s->phase == SEND_RAM && !(s->disks && disk_copies_urgent(s->disks))) {
		bool more = add_ram(s);

		/* after the look at memory */
		if (!s->running && !machine_held(s->m, s->hold))
			return false;
		if (more)
			return true;
		if (!s->running)
			go_on(s);
		s->phase = SEND_DISKS;
	}
	if (s->disks)
		add_disks(s);
	else
		s->phase = SEND_END;
	if (s->phase == SEND_END && !s->failed)
		add_end(s);
	return true;
}

static ssize_t saving_read(struct api_stream *stream, u64 pos, void *buf, size_t n)
{
	struct saving *s = container_of(stream, struct saving, stream);

	if (s->sent == s->out.len) {
		if (s->phase == SEND_END)
			return 0;
		if (s->running && host_ns() - s->last > TAKE_NS)
			return -1;
		s->out.len = s->sent = 0;
		if (!refill(s) || s->out.failed)
			return -1;
		s->last = host_ns();
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
	disk_copies_end(s->disks);
	ram_copy_end(s->copy);
	enc_free(&s->out);
	free(s);
}

/* False: the machine does not answer. */
static bool find_moment(struct call *call)
{
	const struct timespec look = { .tv_nsec = LOOK_NS };

	call->patience = host_ns() + QUIET_NS;
	while (!call->status) {
		while (machine_disks_busy(call->s->m) && host_ns() < call->patience)
			nanosleep(&look, NULL);
		if (!machine_call_within(call->s->m, begin, call, CTL_ORDER_MS))
			return false;
	}
	return true;
}

void api_snapshot(const struct api_machine *m, const struct api_request *q, struct api_reply *r)
{
	struct saving *s;
	struct call call = { .api = m, .backing = q->no_disks ? NULL : &q->backing };

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
	if (machine_state(s->m) == MACHINE_DEBUGGED || !find_moment(&call)) {
		api_no_answer(m, r);
	} else if (call.status != 200) {
		api_error(r, (unsigned)call.status, "%s", call.e.text);
	} else {
		*r = (struct api_reply){ .status = 200, .type = "application/octet-stream", .stream = &s->stream };
		return;
	}
	saving_release(&s->stream);
}
