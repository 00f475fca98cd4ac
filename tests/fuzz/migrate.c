/*
 * Fuzz target: what a receiver is sent. Either any bytes; or sections with
 * right sums, of the names of the protocol or others, with payloads that are
 * nearly sound. The peer closes behind them, so that nobody waits. What comes
 * behind the state of a machine by post-copy is memory that was missing.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/receive.h"
#include "ctl/arrival_priv.h"
#include "fuzz.h"
#include "mem/missing.h"
#include "state/frame_list.h"
#include "state/ram.h"

#define RAM (64 * KiB)
#define DISK (100 * KiB) /* a granule, and a shorter one */
#define ROOM (160 * KiB) /* that a socket takes without anybody reading */

static void put_hello(struct channel *c, struct input *in)
{
	u8 id[MIGRATION_ID_LEN] = { 0 };
	struct encoder *out = channel_begin(c, MIGRATION_HELLO);

	enc_u32(out, MIGRATION_VERSION + (take(in, 1) > 250));
	enc_bytes(out, id, sizeof(id));
	enc_u8(out, (u8)(take(in, 1) % 80 == 79));
	channel_send(c, 0);
}

static void put_options(struct encoder *out, struct input *in)
{
	u32 n = (u32)take(in, 1) % 4 + 1;

	enc_u32(out, take(in, 1) > 240 ? (u32)take(in, 4) : n);
	for (u32 i = 0; i < n; i++) {
		u8 text[32] = "--memory=64K";
		u16 len = (u16)(take(in, 1) > 200 ? take(in, 1) % sizeof(text) : 12);

		if (take(in, 1) > 200)
			take_bytes(in, text, sizeof(text));
		enc_u16(out, take(in, 1) > 250 ? (u16)take(in, 2) : len);
		enc_bytes(out, text, len);
	}
}

static void put_disks(struct encoder *out, struct input *in)
{
	u32 n = take(in, 1) % 3;

	enc_u32(out, take(in, 1) > 240 ? (u32)take(in, 4) : n);
	for (u32 i = 0; i < n; i++) {
		enc_u8(out, take(in, 1) > 240 ? (u8)take(in, 1) : 1);
		enc_u8(out, 'd');
		enc_u64(out, take(in, 1) > 240 ? take(in, 8) : DISK);
	}
}

static void put_offer(struct channel *c, struct input *in)
{
	struct encoder *out = channel_begin(c, MIGRATION_OFFER);
	struct stream_writer w;

	stream_begin(&w, out);
	stream_section_begin(&w, SAVED_OPTIONS_SECTION, STREAM_REQUIRED);
	put_options(out, in);
	stream_section_end(&w);
	stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(out, take(in, 1) > 240 ? take(in, 8) : RAM);
	stream_section_end(&w);
	if (take(in, 1) < 200) {
		stream_section_begin(&w, MIGRATION_DISKS, STREAM_REQUIRED);
		put_disks(out, in);
		stream_section_end(&w);
	}
	if (take(in, 1) < 240) {
		stream_section_begin(&w, MIGRATION_POST_COPY, STREAM_REQUIRED);
		enc_u8(out, take(in, 1) % 129 ? 1 : 2);
		stream_section_end(&w);
	}
	if (take(in, 1) < 250)
		stream_finish(&w);
	channel_send(c, 0);
}

static void put_frames(struct encoder *out, struct input *in)
{
	for (unsigned n = take(in, 1) % 4; n; n--)
		frame_list_put_run(out, take(in, 1) > 240 ? take(in, 8) : take(in, 1) % 8,
				   take(in, 1) > 240 ? take(in, 8) : take(in, 1) % 4);
}

static void put_state(struct encoder *out)
{
	struct stream_writer w;

	stream_begin(&w, out);
	stream_finish(&w);
}

/* An offset or a length near what there is. */
static u64 place(struct input *in)
{
	u64 v = take(in, 1) % (RAM / PAGE_SIZE + 2) * PAGE_SIZE;

	return take(in, 1) > 200 ? take(in, 8) : v;
}

static void put_granule(struct encoder *out, struct input *in, bool zeros)
{
	static const u8 bytes[64 * KiB];
	bool second = take(in, 1) & 1;
	u64 n = second ? DISK - sizeof(bytes) : sizeof(bytes);

	enc_u32(out, take(in, 1) % 3);
	enc_u64(out, take(in, 1) > 240 ? take(in, 8) : second ? sizeof(bytes) : 0);
	if (take(in, 1) > 240)
		n = take(in, 2);
	if (zeros)
		enc_u64(out, n);
	else
		enc_bytes(out, bytes, MIN(n, sizeof(bytes)));
}

static void put_any(struct channel *c, struct input *in)
{
	static const char *const names[] = { RAM_DATA,		RAM_DATA,	 MIGRATION_ZERO,      MIGRATION_ZERO,
					     MIGRATION_ROUND,	MIGRATION_STATE, MIGRATION_CANCEL,    "x",
					     MIGRATION_DISK,	MIGRATION_DISK,	 MIGRATION_DISK_ZERO, MIGRATION_MISSING,
					     MIGRATION_MISSING, MIGRATION_GO };
	static u8 bytes[64 * KiB];
	const char *name = names[take(in, 1) % ARRAY_SIZE(names)];
	struct encoder *out = channel_begin(c, name);

	if (!strcmp(name, MIGRATION_DISK) || !strcmp(name, MIGRATION_DISK_ZERO)) {
		put_granule(out, in, !strcmp(name, MIGRATION_DISK_ZERO));
		channel_send(c, 0);
		return;
	}
	if (!strcmp(name, MIGRATION_MISSING))
		put_frames(out, in);
	else if (!strcmp(name, RAM_DATA) || !strcmp(name, MIGRATION_ZERO))
		enc_u64(out, place(in));
	if (!strcmp(name, MIGRATION_ZERO))
		enc_u64(out, place(in));
	else if (!strcmp(name, RAM_DATA))
		enc_bytes(out, bytes, take(in, 1) > 220 ? take(in, 2) % sizeof(bytes) : PAGE_SIZE);
	else if (!strcmp(name, MIGRATION_ROUND))
		enc_u32(out, (u32)take(in, 2));
	else if (!strcmp(name, MIGRATION_STATE) && take(in, 1) < 200)
		put_state(out);
	else
		enc_bytes(out, bytes, strcmp(name, MIGRATION_MISSING) ? take(in, 1) : 0);
	channel_send(c, 0);
}

static void send_sections(int fd, struct input *in)
{
	struct channel c;

	if (channel_init(&c, fd, NULL, NULL, 0))
		abort();
	put_hello(&c, in);
	put_offer(&c, in);
	for (unsigned n = 0; n < 12 && in->p < in->end && !c.failed; n++)
		put_any(&c, in);
	channel_free(&c);
}

/* As ectype receive has made them: of the sizes that were offered, which a host may refuse. */
static bool open_disks(struct receiver *r)
{
	struct error e;

	for (unsigned i = 0; i < r->disks.count; i++) {
		char path[32];
		int fd = memfd_create("disk", MFD_CLOEXEC);

		if (fd < 0)
			abort();
		r->disks.fd[i] = fd;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		if (r->disks.size[i] > MiB || ftruncate(fd, (off_t)r->disks.size[i]) ||
		    received_disks_open(&r->disks, i, path, &e))
			return false;
	}
	return true;
}

/* What is missing comes, or something else does. */
static void receive_missing(struct receiver *r)
{
	struct arrival a = { .c = r->c, .fd = r->fd, .phase = ARRIVAL_STARTED };
	struct memory *m = memory_create(RAM, NULL);
	int fd = r->missing_fd;
	struct stream_section s;
	struct error e;

	if (!m)
		abort();
	r->fd = r->missing_fd = -1;
	pthread_mutex_init(&a.lock, NULL);
	a.c.w.to = &a.c.out;
	a.post = arrival_post_create(m, fd, r->missing, &e);
	while (a.post && arrival_next(&a, 0, &s) > 0)
		;
	memory_destroy(m);
	arrival_post_destroy(a.post);
	pthread_mutex_destroy(&a.lock);
	channel_free(&a.c);
	close(a.fd);
}

static void receive_all(int fd)
{
	struct receiver r;
	struct error e = { .text = "" };

	receiver_init(&r);
	if (receiver_meet(&r, fd, &e)) {
		assert(e.text[0]);
		return;
	}
	if (r.disks.count && !open_disks(&r)) {
		receiver_free(&r);
		return;
	}
	if (r.post_copy)
		r.missing_fd = missing_open(&e);
	/* ectype receive compares it with the machine's options */
	if (r.ram_size == RAM && !receiver_accept(&r, &e)) {
		if (receiver_take_all(&r, &e))
			assert(e.text[0]);
		else if (r.missing)
			receive_missing(&r);
	}
	receiver_free(&r);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + MIN(size, ROOM) };
	bool sections = take(&in, 1) & 1;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		abort();
	if (sections)
		send_sections(pair[0], &in);
	else if (in.p < in.end && send(pair[0], in.p, (size_t)(in.end - in.p), MSG_DONTWAIT) < 0)
		abort();
	shutdown(pair[0], SHUT_WR);
	receive_all(pair[1]);
	close(pair[0]);
	return 0;
}
