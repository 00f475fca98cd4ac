#include "cli/receive.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host_time.h"
#include "mem/physmem.h"
#include "state/frame_list.h"
#include "state/ram.h"

#define HELLO_MS 10000u
#define OBJECTION_MS 5000u
#define RAM_MAX (16384 * GiB) /* more than any machine has, and room to reckon with */

void receiver_init(struct receiver *r)
{
	*r = (struct receiver){ .fd = -1, .missing_fd = -1 };
}

static void forget(struct receiver *r)
{
	struct error e;

	received_disks_close(&r->disks, &e);
	if (r->fd >= 0) {
		channel_free(&r->c);
		close(r->fd);
	}
	stream_free(&r->offer);
	stream_free(&r->state);
	saved_options_free(&r->options);
	free(r->offer_data);
	free(r->state_data);
	free(r->missing);
	if (r->missing_fd >= 0)
		close(r->missing_fd);
	if (r->ram)
		munmap(r->ram, r->ram_size);
	receiver_init(r);
}

void receiver_free(struct receiver *r)
{
	forget(r);
}

/* ---- the offer ---- */

static int lost(struct receiver *r, struct error *e)
{
	return error_set(e, "%s", r->c.why.text);
}

static int next(struct receiver *r, unsigned ms, struct stream_section *s, struct error *e)
{
	int n = channel_next(&r->c, ms, s);

	if (n > 0)
		return 0;
	return n < 0 ? lost(r, e) : error_set(e, "the connection is lost: the source is silent");
}

/* A section's payload is a stream that is kept. */
static int keep(const struct stream_section *s, u8 **data, struct stream *out, struct error *e)
{
	*data = malloc(MAX(s->len, 1u));
	if (!*data)
		return error_set(e, "not enough host memory");
	memcpy(*data, s->payload, s->len);
	return stream_read(out, *data, s->len, "what the source sends", e);
}

static int read_hello(struct receiver *r, struct error *e)
{
	struct stream_section s;
	struct decoder d;
	u32 version;
	u8 kind;

	if (next(r, HELLO_MS, &s, e))
		return -1;
	d = stream_decoder(&s);
	version = dec_u32(&d);
	if (strcmp(s.name, MIGRATION_HELLO))
		return error_set(e, "the peer is no ectype that migrates a machine");
	if (version != MIGRATION_VERSION) {
		receiver_refuse(r, "it speaks another version of the protocol");
		return error_set(e, "the source speaks version %u of the protocol, this ectype version %u", version,
				 MIGRATION_VERSION);
	}
	dec_bytes(&d, r->id, sizeof(r->id));
	kind = dec_u8(&d);
	if (!dec_done(&d) || kind > MIGRATION_ASK)
		return error_set(e, "the hello of the source is not sound");
	if (kind == MIGRATION_MOVE)
		return 0;
	receiver_refuse(r, "it has no such machine, and cannot tell what became of yours");
	return error_set(e, "a source asks for another machine than one that is here");
}

static int read_offer(struct receiver *r, struct error *e)
{
	const struct stream_section *options, *ram, *post;
	struct stream_section s;
	struct decoder d;

	if (next(r, HELLO_MS, &s, e))
		return -1;
	if (strcmp(s.name, MIGRATION_OFFER))
		return error_set(e, "the source says '%s' where its offer has to be", s.name);
	if (keep(&s, &r->offer_data, &r->offer, e))
		return -1;
	options = stream_find(&r->offer, SAVED_OPTIONS_SECTION);
	ram = stream_find(&r->offer, RAM_SIZE);
	post = stream_find(&r->offer, MIGRATION_POST_COPY);
	if (received_disks_read(&r->disks, &r->offer) || !options || !ram || !post ||
	    saved_options_read(&r->options, stream_decoder(options)))
		return error_set(e, "the offer of the source is not sound");
	d = stream_decoder(ram);
	r->ram_size = dec_u64(&d);
	if (!dec_done(&d) || !r->ram_size || r->ram_size % PAGE_SIZE || r->ram_size > RAM_MAX)
		return error_set(e, "the offer of the source is not sound");
	d = stream_decoder(post);
	r->post_copy = dec_bool(&d);
	return dec_done(&d) ? 0 : error_set(e, "the offer of the source is not sound");
}

int receiver_meet(struct receiver *r, int fd, struct error *e)
{
	if (channel_init(&r->c, fd, NULL, NULL, 0)) {
		*e = r->c.why;
		close(fd);
		return -1;
	}
	r->fd = fd;
	r->start = host_ns();
	if (!read_hello(r, e) && !read_offer(r, e))
		return 0;
	forget(r);
	return -1;
}

void receiver_refuse(struct receiver *r, const char *text)
{
	channel_put(&r->c, MIGRATION_REFUSE, text, MIN(strlen(text), MIGRATION_TEXT_MAX), MIGRATION_STILL_MS);
}

int receiver_accept(struct receiver *r, struct error *e)
{
	r->ram = memory_area(r->ram_size, e);
	if (!r->ram)
		return -1;
	enc_u32(channel_begin(&r->c, MIGRATION_ACCEPT), r->missing_fd >= 0 ? MIGRATION_CAN_POST_COPY : 0);
	return channel_send(&r->c, MIGRATION_STILL_MS) ? lost(r, e) : 0;
}

/* ---- RAM ---- */

static bool whole_frames(u64 off, u64 len, u64 size)
{
	return !((off | len) & (PAGE_SIZE - 1)) && len && off <= size && len <= size - off;
}

/* What was never written stays without a page of the host's. */
static void zero(u8 *at, u64 len)
{
	for (; len; at += PAGE_SIZE, len -= PAGE_SIZE)
		if (!ram_page_zero(at))
			memset(at, 0, PAGE_SIZE);
}

int receive_ram_section(u8 *ram, u64 size, const struct stream_section *s)
{
	struct decoder d = stream_decoder(s);
	u64 off, len;

	if (!strcmp(s->name, RAM_DATA)) {
		off = dec_u64(&d);
		if (d.failed || !whole_frames(off, d.len - d.pos, size))
			return -1;
		memcpy(ram + off, d.data + d.pos, d.len - d.pos);
		return 1;
	}
	if (strcmp(s->name, MIGRATION_ZERO))
		return 0;
	off = dec_u64(&d);
	len = dec_u64(&d);
	if (!dec_done(&d) || !whole_frames(off, len, size))
		return -1;
	zero(ram + off, len);
	return 1;
}

/* The source hears why, unless it has gone. -1. */
static int objected(struct receiver *r, const struct error *e)
{
	u64 until = host_ns() + OBJECTION_MS * 1000000ull;
	struct stream_section s;

	receiver_refuse(r, e->text);
	/* a connection that is closed over its head loses the answer */
	while (host_ns() < until && channel_next(&r->c, OBJECTION_MS, &s) > 0 && strcmp(s.name, MIGRATION_CANCEL))
		;
	return -1;
}

static int answer_round(struct receiver *r, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);
	u32 round = dec_u32(&d);

	if (!dec_done(&d))
		return error_set(e, "what the source sends is not sound");
	/* a disk that is slow is to show in the time of the round, not at the end */
	if (received_disks_flush(&r->disks, e))
		return objected(r, e);
	enc_u32(channel_begin(&r->c, MIGRATION_ROUND), round);
	return channel_send(&r->c, MIGRATION_STILL_MS) ? lost(r, e) : 0;
}

static int close_disks(struct receiver *r, struct error *e)
{
	return received_disks_close(&r->disks, e) ? objected(r, e) : 0;
}

/* 1: it was a list of what comes later; 0; -1 with *e. */
static int take_missing(struct receiver *r, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);
	u64 frames = r->ram_size >> PAGE_SHIFT;

	if (strcmp(s->name, MIGRATION_MISSING))
		return 0;
	if (r->missing_fd < 0)
		return error_set(e, "the source keeps memory back, which was not accepted");
	if (!r->missing)
		r->missing = calloc(frames / 64 + 1, sizeof(*r->missing));
	if (!r->missing)
		return error_set(e, "not enough host memory");
	return frame_list_take(&d, r->missing, frames)
		   ? 1
		   : error_set(e, "what the source says of missing RAM is not sound");
}

int receiver_take_all(struct receiver *r, struct error *e)
{
	struct stream_section s;
	int n;

	for (;;) {
		if (next(r, MIGRATION_PATIENCE_MS, &s, e))
			return -1;
		n = take_missing(r, &s, e);
		if (n < 0)
			return -1;
		if (n)
			continue;
		n = receive_ram_section(r->ram, r->ram_size, &s);
		/* what is missing is so from then on */
		if (n < 0 || (n && r->missing))
			return error_set(e, "what the source sends of RAM is not sound");
		r->received += n ? s.len : 0;
		if (!n) {
			n = received_disks_take(&r->disks, &s, e);
			if (n < 0)
				return objected(r, e);
			r->received += n ? s.len : 0;
		}
		if (n)
			continue;
		if (!strcmp(s.name, MIGRATION_STATE))
			return keep(&s, &r->state_data, &r->state, e) ? -1 : close_disks(r, e);
		if (!strcmp(s.name, MIGRATION_CANCEL))
			return error_set(e, "the source has given the migration up");
		if (strcmp(s.name, MIGRATION_ROUND))
			return error_set(e, "the source says '%s' in the middle of RAM", s.name);
		if (answer_round(r, &s, e))
			return -1;
	}
}
