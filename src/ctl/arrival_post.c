/*
 * The receiver of a migration by post-copy: memory that comes while the machine
 * runs. The arrival's thread serves whoever waits for a frame (mem/missing.h):
 * asks the source for it, and places what the source sends. It waits for no
 * lock and for no other thread, for they may wait for memory.
 *
 * When the connection is lost those who wait go on waiting. They never see
 * anything in place of their memory.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/host_time.h"
#include "base/log.h"
#include "ctl/arrival_priv.h"
#include "mem/missing.h"
#include "state/frame_list.h"
#include "state/ram.h"

#define WAITS_MAX 256u /* that are known by time and asked for again: more threads than most machines have */
#define FAULTS_MAX 64u
#define LOAD_MS 5u /* between two looks whether the machine is loaded */
#define SLICE_MS 50u
#define LONG_NS 1000000000ull /* who waits so long is worth a word */

struct wait {
	u64 frame, since;
};

struct arrival_post {
	struct missing *missing;
	u64 frames;
	struct wait wait[WAITS_MAX]; /* the thread's */
	unsigned waits;
	u64 heard, received;  /* host time when bytes came last, and how many had */
	pthread_mutex_t lock; /* of what follows */
	struct arrival_post_figures fig;
};

struct arrival_post *arrival_post_create(struct memory *m, int fd, const u64 *missing, struct error *e)
{
	struct arrival_post *p = calloc(1, sizeof(*p));

	if (!p) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	p->missing = missing_begin(m, fd, missing, e);
	if (!p->missing) {
		free(p);
		return NULL;
	}
	pthread_mutex_init(&p->lock, NULL);
	p->frames = memory_ram_size(m) >> PAGE_SHIFT;
	p->fig.missing = missing_left(p->missing) * PAGE_SIZE;
	p->fig.connected = true;
	p->heard = host_ns();
	return p;
}

void arrival_post_destroy(struct arrival_post *p)
{
	if (!p)
		return;
	missing_destroy(p->missing);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void note(struct arrival_post *p, bool connected)
{
	u64 oldest = 0;

	for (unsigned i = 0; i < p->waits; i++)
		if (!oldest || p->wait[i].since < oldest)
			oldest = p->wait[i].since;
	pthread_mutex_lock(&p->lock);
	p->fig.missing = missing_left(p->missing) * PAGE_SIZE;
	p->fig.oldest = oldest;
	p->fig.connected = connected;
	pthread_mutex_unlock(&p->lock);
}

bool arrival_post_figures(struct arrival *a, struct arrival_post_figures *fig)
{
	struct arrival_post *p = a->post;

	if (!p)
		return false;
	pthread_mutex_lock(&p->lock);
	*fig = p->fig;
	pthread_mutex_unlock(&p->lock);
	fig->waiting = fig->missing && fig->oldest && (!fig->connected || host_ns() - fig->oldest > LONG_NS);
	return true;
}

/* ---- who waits ---- */

/* Who waits for something that has come does not any more. */
static void end_waits(struct arrival_post *p)
{
	const u64 *bits = missing_bits(p->missing);
	u64 now = host_ns(), longest = 0;
	unsigned n = 0;

	for (unsigned i = 0; i < p->waits; i++) {
		struct wait w = p->wait[i];

		if (bits[w.frame / 64] & BIT(w.frame % 64))
			p->wait[n++] = w;
		else
			longest = MAX(longest, now - w.since);
	}
	p->waits = n;
	pthread_mutex_lock(&p->lock);
	p->fig.longest = MAX(p->fig.longest, longest);
	pthread_mutex_unlock(&p->lock);
}

/* False: it is asked for already. */
static bool add_wait(struct arrival_post *p, u64 frame)
{
	for (unsigned i = 0; i < p->waits; i++)
		if (p->wait[i].frame == frame)
			return false;
	if (p->waits < WAITS_MAX)
		p->wait[p->waits++] = (struct wait){ frame, host_ns() };
	pthread_mutex_lock(&p->lock);
	p->fig.faults++;
	pthread_mutex_unlock(&p->lock);
	return true;
}

/* Notes who waits that did not before: which frames, how many. */
static unsigned look(struct arrival_post *p, u64 frame[FAULTS_MAX])
{
	unsigned n = missing_faults(p->missing, frame, FAULTS_MAX), wanted = 0;

	for (unsigned i = 0; i < n; i++)
		if (add_wait(p, frame[i]))
			frame[wanted++] = frame[i];
	return wanted;
}

static int ask(struct arrival *a)
{
	u64 frame[FAULTS_MAX];
	unsigned wanted = look(a->post, frame);
	struct encoder *out;

	if (!wanted)
		return 0;
	out = channel_begin(&a->c, MIGRATION_NEED);
	for (unsigned i = 0; i < wanted; i++)
		enc_u64(out, frame[i]);
	return channel_send(&a->c, MIGRATION_STILL_MS);
}

/* ---- what comes ---- */

static int unsound(struct arrival *a, const char *text)
{
	a->c.failed = true;
	return error_set(&a->c.why, "%s", text);
}

static int say_all(struct arrival *a)
{
	missing_end(a->post->missing);
	return channel_put(&a->c, MIGRATION_ALL, NULL, 0, MIGRATION_STILL_MS);
}

/* 1: it was memory; 0; -1: the channel has failed. */
static int take(struct arrival *a, const struct stream_section *s)
{
	struct arrival_post *p = a->post;
	struct decoder d = stream_decoder(s);
	bool zero = !strcmp(s->name, MIGRATION_ZERO), left = missing_left(p->missing);
	u64 off, len;
	struct error e;

	if (!zero && strcmp(s->name, RAM_DATA))
		return 0;
	off = dec_u64(&d);
	len = zero ? dec_u64(&d) : d.len - d.pos;
	if (d.failed || (zero && !dec_done(&d)) || (off | len) & ~PAGE_MASK || !len || off >> PAGE_SHIFT > p->frames ||
	    len >> PAGE_SHIFT > p->frames - (off >> PAGE_SHIFT))
		return unsound(a, "what the source sends of RAM is not sound");
	if (missing_place(p->missing, off >> PAGE_SHIFT, len >> PAGE_SHIFT, zero ? NULL : d.data + d.pos, &e)) {
		log_error("receive", "%s", e.text);
		return unsound(a, e.text);
	}
	end_waits(p);
	note(p, true);
	enc_u64(channel_begin(&a->c, MIGRATION_GOT), len);
	if (channel_send(&a->c, MIGRATION_STILL_MS))
		return -1;
	if (!left || missing_left(p->missing))
		return 1;
	/* before "started" nobody expects it */
	return arrival_phase(a) == ARRIVAL_STARTED && say_all(a) ? -1 : 1;
}

/* Has the source been silent for too long, while memory is missing? */
static bool silent(struct arrival *a)
{
	struct arrival_post *p = a->post;
	u64 now = host_ns();

	if (a->c.received != p->received || !missing_left(p->missing)) {
		p->received = a->c.received;
		p->heard = now;
	}
	return arrival_phase(a) == ARRIVAL_STARTED && now - p->heard > MIGRATION_STILL_MS * 1000000ull;
}

int arrival_next(struct arrival *a, unsigned ms, struct stream_section *s)
{
	u64 until = host_ns() + ms * 1000000ull;
	int n;

	if (!a->post)
		return channel_next(&a->c, ms, s);
	for (;;) {
		struct pollfd p[2] = { { .fd = a->c.fd, .events = POLLIN },
				       { .fd = missing_fd(a->post->missing), .events = POLLIN } };

		if (a->c.failed)
			return -1;
		if (a->c.in_at == a->c.in_len)
			poll(p, 2, (int)MIN(ms, SLICE_MS));
		if (atomic_load(&a->ending))
			return unsound(a, "the machine ends");
		if (ask(a))
			return -1;
		if (channel_readable(&a->c)) {
			n = channel_next(&a->c, MIGRATION_STILL_MS, s);
			if (n > 0)
				n = take(a, s);
			if (n < 0)
				return -1;
			if (!n)
				return 1;
			continue;
		}
		note(a->post, true);
		if (silent(a))
			return unsound(a, "the connection is lost: the source is silent");
		if (host_ns() >= until)
			return 0;
	}
}

/* ---- another connection ---- */

void arrival_post_alone(struct arrival *a)
{
	u64 frame[FAULTS_MAX];

	if (!a->post)
		return;
	/* zeros come from nobody; what is missing is asked for later */
	look(a->post, frame);
	note(a->post, false);
}

int arrival_post_say_missing(struct arrival *a)
{
	struct arrival_post *p = a->post;
	u64 at;

	if (!p)
		return 0;
	p->heard = host_ns();
	p->received = 0;
	for (at = frame_list_next(missing_bits(p->missing), p->frames, 0); at < p->frames;) {
		frame_list_put(channel_begin(&a->c, MIGRATION_MISSING), missing_bits(p->missing), p->frames, &at);
		if (channel_send(&a->c, MIGRATION_STILL_MS))
			return -1;
	}
	return 0;
}

int arrival_post_say_more(struct arrival *a)
{
	struct arrival_post *p = a->post;
	struct encoder *out;

	if (!p)
		return 0;
	if (!missing_left(p->missing))
		return arrival_phase(a) == ARRIVAL_STARTED ? say_all(a) : 0;
	if (!p->waits)
		return 0;
	out = channel_begin(&a->c, MIGRATION_NEED);
	for (unsigned i = 0; i < p->waits; i++)
		enc_u64(out, p->wait[i].frame);
	return channel_send(&a->c, MIGRATION_STILL_MS);
}

bool arrival_post_misses(const struct arrival *a)
{
	return a->post && missing_left(a->post->missing);
}

void arrival_post_lost(struct arrival *a)
{
	if (!a->post)
		return;
	note(a->post, false);
	if (!arrival_post_misses(a) || arrival_phase(a) != ARRIVAL_STARTED)
		return;
	if (atomic_load(&a->ending)) {
		/* the rest is of no use to anybody */
		a->c.failed = false;
		channel_put(&a->c, MIGRATION_ALL, NULL, 0, 0);
		return;
	}
	log_warn("receive",
		 "%llu MiB of the machine's memory have not come, and the source is not heard any more (%s). Who "
		 "needs them waits until the source, or its `ectype migrate`, connects again; if the source is gone "
		 "for good the machine is lost: ectype stop --force",
		 (unsigned long long)((missing_left(a->post->missing) * PAGE_SIZE + MiB - 1) / MiB), a->c.why.text);
}

/* ---- begin and end ---- */

static void discard(struct arrival *a)
{
	pthread_mutex_lock(&a->lock);
	a->phase = ARRIVAL_DISCARDED;
	pthread_mutex_unlock(&a->lock);
}

bool arrival_post_load(struct arrival *a)
{
	struct stream_section s;

	while (!atomic_load(&a->loaded)) {
		int n = arrival_next(a, LOAD_MS, &s);

		if (!n)
			continue;
		/* "cancel", or no source any more: it has not said "go", so it goes on there */
		discard(a);
		return false;
	}
	return true;
}

void arrival_post_end(struct arrival *a)
{
	struct arrival_post *p = a->post;

	if (arrival_phase(a) == ARRIVAL_DISCARDED)
		missing_give_up(p->missing);
	note(p, false);
}
