/*
 * The source of a migration by post-copy: it stands still, and sends what is
 * missing there, what somebody waits for first. What goes by itself keeps a
 * window, so that a wanted frame does not wait behind much of it.
 */
#include <string.h>

#include "ctl/limits.h"
#include "ctl/migrate_priv.h"
#include "state/frame_list.h"

#define WINDOW_NS 50000000ull /* as much as goes in that time is under way */
#define WINDOW_LEAST (128 * KiB)
#define WINDOW_MOST (16 * MiB)
#define PUSH_FRAMES (64 * KiB / PAGE_SIZE)
#define WANTED_FRAMES (32 * KiB / PAGE_SIZE) /* with those behind it, which are wanted next as a rule */

static u64 frames_of(const struct migration *g)
{
	return memory_ram_size(machine_memory(g->m)) >> PAGE_SHIFT;
}

static void note_left(struct migration *g, u64 left)
{
	pthread_mutex_lock(&g->lock);
	g->post_left = left;
	g->fig.remaining = left * PAGE_SIZE;
	pthread_mutex_unlock(&g->lock);
}

int migration_send_missing(struct migration *g, struct error *e)
{
	u64 frames = frames_of(g), left = 0, at = 0;

	for (at = frame_list_next(g->todo, frames, 0); at < frames;) {
		left += frame_list_put(channel_begin(&g->c, MIGRATION_MISSING), g->todo, frames, &at);
		if (channel_send(&g->c, MIGRATION_STILL_MS))
			return error_set(e, "%s", g->c.why.text);
	}
	note_left(g, left);
	g->post = left;
	g->post_flying = g->post_at = 0;
	return 0;
}

/* ---- what is missing ---- */

static int unsound(struct error *e)
{
	return error_set(e, "what the receiver says of missing memory is not sound");
}

/* Frames from `first` on that were not sent, at most `most`. */
static int send_from(struct migration *g, u64 first, u64 most, struct error *e)
{
	u64 n = frame_list_run(g->todo, frames_of(g), first, most);

	for (u64 at = first, run; at < first + n; at += run) {
		run = first + n - at;
		if (migration_send_alike(g, at, &run))
			return error_set(e, "%s", g->c.why.text);
	}
	frame_list_clear(g->todo, first, n);
	g->post_flying += n * PAGE_SIZE;
	g->post_at = first + n;
	note_left(g, g->post_left - n);
	pthread_mutex_lock(&g->lock);
	g->fig.sent = g->sent_before + g->c.sent;
	pthread_mutex_unlock(&g->lock);
	return 0;
}

static int serve(struct migration *g, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);

	if (!s->len || s->len % 8)
		return unsound(e);
	while (d.pos < d.len) {
		u64 frame = dec_u64(&d);

		if (frame >= frames_of(g))
			return unsound(e);
		pthread_mutex_lock(&g->lock);
		g->fig.wanted++;
		pthread_mutex_unlock(&g->lock);
		/* else it is on its way */
		if (send_from(g, frame, WANTED_FRAMES, e))
			return -1;
	}
	return 0;
}

int migration_post_heard(struct migration *g, const struct stream_section *s, struct error *e)
{
	struct decoder d = stream_decoder(s);
	u64 bytes;

	if (!strcmp(s->name, MIGRATION_NEED))
		return serve(g, s, e) ? -1 : 1;
	if (strcmp(s->name, MIGRATION_GOT))
		return 0;
	bytes = dec_u64(&d);
	if (!dec_done(&d))
		return unsound(e);
	g->post_flying -= MIN(g->post_flying, bytes);
	return 1;
}

int migration_hear_missing(struct migration *g, struct stream_section *s, struct error *e)
{
	u64 left = 0;

	if (g->post)
		memset(g->todo, 0, track_words(machine_memory(g->m)) * sizeof(*g->todo));
	while (!strcmp(s->name, MIGRATION_MISSING)) {
		struct decoder d = stream_decoder(s);
		u64 n = g->post ? frame_list_take(&d, g->todo, frames_of(g)) : 0;
		int got;

		if (g->post && !n)
			return unsound(e);
		left += n;
		got = channel_next(&g->c, MIGRATION_STILL_MS, s);
		if (got <= 0)
			return error_set(e, "%s", got ? g->c.why.text : "the receiver is silent");
	}
	if (g->post)
		note_left(g, left);
	g->post_flying = g->post_at = 0;
	return 0;
}

/* ---- all of it ---- */

static u64 window(struct migration *g)
{
	u64 bytes;

	pthread_mutex_lock(&g->lock);
	bytes = (u64)((double)g->fig.bandwidth * WINDOW_NS / 1e9);
	pthread_mutex_unlock(&g->lock);
	return MIN(MAX(bytes, WINDOW_LEAST), WINDOW_MOST);
}

static int send_next(struct migration *g, struct error *e)
{
	u64 frames = frames_of(g), at = frame_list_next(g->todo, frames, g->post_at);

	if (at == frames)
		at = frame_list_next(g->todo, frames, 0);
	if (at < frames)
		return send_from(g, at, PUSH_FRAMES, e);
	note_left(g, 0);
	return 0;
}

int migration_post_push(struct migration *g, struct error *e)
{
	for (;;) {
		bool can = g->post_left && g->post_flying < window(g);
		struct stream_section s;
		int n;

		if (can && !channel_readable(&g->c)) {
			if (send_next(g, e))
				return -1;
			continue;
		}
		n = channel_next(&g->c, MIGRATION_PATIENCE_MS, &s);
		if (n <= 0)
			return error_set(e, "%s", n ? g->c.why.text : "the connection is lost: the receiver is silent");
		if (!strcmp(s.name, MIGRATION_ALL))
			return 0;
		if (!strcmp(s.name, MIGRATION_REFUSE))
			return error_set(e, "the receiver: %.*s", (int)MIN(s.len, MIGRATION_TEXT_MAX),
					 (const char *)s.payload);
		n = migration_post_heard(g, &s, e);
		if (n <= 0)
			return n ? -1 : unsound(e);
	}
}
