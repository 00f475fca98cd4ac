/*
 * RAM of a machine that moves: rounds, when they are enough, and what is done
 * when the guest writes faster than they get through.
 */
#include <stdlib.h>
#include <string.h>

#include "base/host_time.h"
#include "base/thread.h"
#include "ctl/limits.h"
#include "ctl/migrate_priv.h"

#define BUILD_NS 25000000ull   /* the other machine is built and loaded while this one stands still */
#define SAMPLE_BYTES (4 * MiB) /* a round of less says little about bandwidth */
#define THROTTLE_PERIOD_MS 40u
#define THROTTLE_STEP 20u
#define THROTTLE_MAX 95u
#define POST_COPY_ROUNDS 3u /* with post-copy it takes no more of them */
#define RUN_FRAMES (MIGRATION_PIECE / PAGE_SIZE)

/* ---- throttling ---- */

static void hold_a_while(struct migration *g)
{
	u64 percent;

	pthread_mutex_lock(&g->lock);
	percent = g->fig.throttle;
	pthread_mutex_unlock(&g->lock);
	/* ends by itself */
	g->throttle_hold = machine_hold(g->m, THROTTLE_PERIOD_MS * percent / 100);
}

/* The processors stand still for a share of the time. */
static void *throttle(void *opaque)
{
	struct migration *g = opaque;
	const struct timespec period = { .tv_nsec = THROTTLE_PERIOD_MS * 1000000 };

	while (atomic_load(&g->throttling)) {
		migration_call(g, hold_a_while);
		nanosleep(&period, NULL);
	}
	return NULL;
}

static void throttle_more(struct migration *g)
{
	pthread_mutex_lock(&g->lock);
	g->fig.throttle = MIN(g->fig.throttle + THROTTLE_STEP, THROTTLE_MAX);
	pthread_mutex_unlock(&g->lock);
	if (atomic_exchange(&g->throttling, true))
		return;
	if (thread_start(&g->throttle_thread, throttle, g))
		atomic_store(&g->throttling, false);
}

static void throttle_end(struct migration *g)
{
	if (atomic_exchange(&g->throttling, false))
		pthread_join(g->throttle_thread, NULL);
	if (g->throttle_hold)
		machine_release(g->m, g->throttle_hold);
	g->throttle_hold = 0;
}

/* ---- sending frames ---- */

bool migration_too_late(struct migration *g)
{
	u64 limit;

	pthread_mutex_lock(&g->lock);
	limit = g->set.timeout_s * 1000000000ull;
	pthread_mutex_unlock(&g->lock);
	return limit && host_ns() - g->fig.start > limit;
}

enum kind { FRAME_NONE, FRAME_ZERO, FRAME_DATA };

static enum kind kind_of(const struct migration *g, u64 frame)
{
	if (!(g->todo[frame / 64] & BIT(frame % 64)))
		return FRAME_NONE;
	return ram_page_zero(memory_ram(machine_memory(g->m)) + frame * PAGE_SIZE) ? FRAME_ZERO : FRAME_DATA;
}

static int send_run(struct migration *g, enum kind kind, u64 first, u64 n)
{
	struct encoder *out = channel_begin(&g->c, kind == FRAME_ZERO ? MIGRATION_ZERO : RAM_DATA);

	enc_u64(out, first * PAGE_SIZE);
	if (kind == FRAME_ZERO)
		enc_u64(out, n * PAGE_SIZE);
	else
		enc_bytes(out, memory_ram(machine_memory(g->m)) + first * PAGE_SIZE, n * PAGE_SIZE);
	return channel_send(&g->c, MIGRATION_PATIENCE_MS);
}

int migration_send_alike(struct migration *g, u64 first, u64 *n)
{
	enum kind kind = kind_of(g, first);
	u64 run = 1;

	while (run < *n && kind_of(g, first + run) == kind)
		run++;
	*n = run;
	return send_run(g, kind, first, run);
}

int migration_objection(struct migration *g, struct error *e)
{
	struct stream_section s;

	if (!channel_readable(&g->c))
		return 0;
	return migration_hear(g, NULL, MIGRATION_PATIENCE_MS, &s, e);
}

void migration_note_sent(struct migration *g, u64 bytes)
{
	pthread_mutex_lock(&g->lock);
	g->fig.sent = g->sent_before + g->c.sent;
	g->fig.remaining -= MIN(g->fig.remaining, bytes);
	pthread_mutex_unlock(&g->lock);
}

/* Sends the frames of `todo`; zeros only if `zeros`: a receiver begins with them. */
static int send_todo(struct migration *g, bool zeros, struct error *e)
{
	u64 frames = memory_ram_size(machine_memory(g->m)) >> PAGE_SHIFT;

	for (u64 at = 0; at < frames;) {
		enum kind kind;
		u64 n = 1;

		if (!(at % 64) && !g->todo[at / 64]) {
			at += 64;
			continue;
		}
		kind = kind_of(g, at);
		while (kind != FRAME_NONE && n < RUN_FRAMES && at + n < frames && kind_of(g, at + n) == kind)
			n++;
		if (kind == FRAME_DATA || (kind == FRAME_ZERO && zeros)) {
			if (migration_objection(g, e))
				return -1;
			if (!g->hold && migration_too_late(g))
				return error_set(e, "the guest's memory is not there after %llu s",
						 (unsigned long long)g->set.timeout_s);
			if (send_run(g, kind, at, n))
				return error_set(e, "%s", g->c.why.text);
		}
		if (kind != FRAME_NONE)
			migration_note_sent(g, n * PAGE_SIZE);
		at += n;
	}
	return 0;
}

/* ---- rounds ---- */

static void start_track(struct migration *g)
{
	struct error e;

	g->track = track_start(machine_memory(g->m), NULL, NULL, &e);
	if (!g->track)
		g->call_error = e;
}

/* Bytes, of RAM and disks. */
static u64 to_send(const struct migration *g)
{
	u64 n = 0;

	for (u64 i = 0; i < track_words(machine_memory(g->m)); i++)
		n += (u64)__builtin_popcountll(g->todo[i]);
	return n * PAGE_SIZE + sent_disks_left(&g->disks);
}

static void harvest(struct migration *g)
{
	memset(g->todo, 0, track_words(machine_memory(g->m)) * sizeof(*g->todo));
	track_harvest(g->track, g->todo, true);
	sent_disks_harvest(&g->disks);
}

/* What the guest has of its memory. What it gets while this looks is noted by the track. */
static void find_all(struct migration *g)
{
	struct memory *mem = machine_memory(g->m);
	u64 end, size = memory_ram_size(mem);

	for (u64 at = memory_next_data(mem, 0, &end); at < size; at = memory_next_data(mem, end, &end))
		for (u64 frame = at >> PAGE_SHIFT; frame < end >> PAGE_SHIFT; frame++)
			g->todo[frame / 64] |= BIT(frame % 64);
}

/* All of the round has arrived. */
static int end_round(struct migration *g, u32 round, struct error *e)
{
	struct stream_section s;
	struct decoder d;

	enc_u32(channel_begin(&g->c, MIGRATION_ROUND), round);
	if (channel_send(&g->c, MIGRATION_PATIENCE_MS))
		return error_set(e, "%s", g->c.why.text);
	if (migration_hear(g, MIGRATION_ROUND, MIGRATION_PATIENCE_MS, &s, e))
		return -1;
	d = stream_decoder(&s);
	if (dec_u32(&d) != round || !dec_done(&d))
		return error_set(e, "the receiver names another round than the one that was sent");
	return 0;
}

/* The rest of the disks has to be there first, memory need not. Under the lock. */
static bool post_copy_now(const struct migration *g, u64 todo, u64 dirty)
{
	u64 disks = BUILD_NS + (u64)((double)sent_disks_left(&g->disks) * 1e9 / (double)g->fig.bandwidth);

	return g->set.post_copy && g->post_possible && disks <= MAX(g->set.downtime_ms * 1000000, BUILD_NS) &&
	       (g->fig.round >= POST_COPY_ROUNDS || dirty * 3 > todo);
}

/* After a round that had `todo` to send, and sent `bytes` in `ns`: what to expect. True: the rest is small enough, or
 * can come later. */
static bool judge(struct migration *g, u64 todo, u64 bytes, u64 ns, u64 dirty, u64 *before)
{
	bool enough, slow;

	pthread_mutex_lock(&g->lock);
	if (bytes >= SAMPLE_BYTES || !g->fig.bandwidth)
		g->fig.bandwidth = MAX((u64)((double)bytes * 1e9 / (double)MAX(ns, 1ull)), 1ull);
	g->fig.remaining = g->fig.dirty = dirty;
	g->fig.expected_ns = BUILD_NS + (u64)((double)g->fig.remaining * 1e9 / (double)g->fig.bandwidth);
	enough = g->fig.expected_ns <= g->set.downtime_ms * 1000000 || !dirty;
	/* less than a third fewer than before: it would take for ever */
	slow = *before && dirty * 3 > *before * 2;
	*before = dirty;
	g->post = !enough && post_copy_now(g, todo, dirty);
	enough |= g->post;
	pthread_mutex_unlock(&g->lock);
	if (!enough && slow)
		throttle_more(g);
	return enough;
}

int migration_send_rounds(struct migration *g, struct error *e)
{
	u64 before = 0;

	migration_forget_ram(g);
	g->todo = calloc(track_words(machine_memory(g->m)), sizeof(*g->todo));
	if (!g->todo)
		return error_set(e, "not enough host memory");
	g->call_error.text[0] = 0;
	if (!migration_call(g, start_track) || !g->track)
		return error_set(e, "%s", g->call_error.text[0] ? g->call_error.text : "the machine does not answer");
	if (migration_start_disks(g, e))
		return -1;
	find_all(g);
	for (u32 round = 1;; round++) {
		u64 start = host_ns(), sent = g->c.sent, todo = to_send(g);

		pthread_mutex_lock(&g->lock);
		g->fig.round = round;
		g->fig.remaining = todo;
		pthread_mutex_unlock(&g->lock);
		if (send_todo(g, round > 1, e) || migration_send_disks(g, e) || end_round(g, round, e))
			return -1;
		if (!migration_call(g, harvest))
			return error_set(e, "the machine has ended, or does not answer");
		if (judge(g, todo, g->c.sent - sent, host_ns() - start, to_send(g), &before))
			break;
		if (migration_too_late(g))
			return error_set(e, "the guest writes faster than its memory can be sent (%llu s are over)",
					 (unsigned long long)g->set.timeout_s);
	}
	throttle_end(g);
	return 0;
}

int migration_send_rest(struct migration *g, struct error *e)
{
	if (g->post ? migration_send_missing(g, e) : send_todo(g, true, e))
		return -1;
	return migration_send_disks(g, e);
}

static void stop_track(struct migration *g)
{
	track_stop(g->track);
	g->track = NULL;
}

void migration_end_ram(struct migration *g)
{
	throttle_end(g);
	/* a machine that has ended takes its tracks with it */
	if (g->track)
		migration_call(g, stop_track);
	g->track = NULL;
	migration_end_disks(g);
}

void migration_forget_ram(struct migration *g)
{
	free(g->todo);
	g->todo = NULL;
	g->post = false;
}
