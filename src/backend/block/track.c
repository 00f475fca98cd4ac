/*
 * Tracks of written granules (see track.h). A request is noted in tracks
 * without a hook when it comes and when it is done. If a track with a hook has
 * not noted all of it, it goes to a thread of the pool, which asks the hook
 * for one run of granules after the other; where that has no room the request
 * lies in `waiting` until somebody calls block_track_wake().
 */
#include "backend/block/track_priv.h"

#include <stdlib.h>

void block_tracks_init(struct block_tracks *s, struct block *b)
{
	s->b = b;
	s->granules = (block_size(b) + BLOCK_GRANULE - 1) / BLOCK_GRANULE;
	s->waiting_end = &s->waiting;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->idle, NULL);
}

void block_tracks_destroy(struct block_tracks *s)
{
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->lock);
}

/* ---- bits, under the lock ---- */

static u64 words(u64 granules)
{
	return (granules + 63) / 64;
}

static bool bit(const struct block_track *t, u64 n)
{
	return t->noted[n / 64] & BIT(n % 64);
}

/* Of the word of granule `n`: the bits of [n, end). */
static u64 mask_of(u64 n, u64 end)
{
	u64 mask = ~0ull << n % 64, last = n - n % 64 + 63;

	return end > last ? mask : mask & ~(~0ull << end % 64);
}

static void note(struct block_track *t, u64 n, u64 end)
{
	if (n >= end)
		return;
	t->first = MIN(t->first, n / 64);
	t->end = MAX(t->end, words(end));
	for (; n < end; n += 64 - n % 64) {
		u64 more = mask_of(n, end) & ~t->noted[n / 64];

		t->noted[n / 64] |= more;
		t->count += (u64)__builtin_popcountll(more);
	}
}

/* The first granule in [n, end) that is noted, or is not; `end`: none. */
static u64 find(const struct block_track *t, u64 n, u64 end, bool noted)
{
	for (; n < end; n += 64 - n % 64) {
		u64 word = noted ? t->noted[n / 64] : ~t->noted[n / 64];

		word &= mask_of(n, end);
		if (word)
			return (n & ~63ull) + (u64)__builtin_ctzll(word);
	}
	return end;
}

/* ---- requests ---- */

static u64 first_of(const struct block_request *r)
{
	return r->offset / BLOCK_GRANULE;
}

static u64 end_of(const struct block_tracks *s, const struct block_request *r)
{
	return MIN((r->offset + r->length + BLOCK_GRANULE - 1) / BLOCK_GRANULE, s->granules);
}

/* A track whose hook has to be asked for granules [*n, *end), from *n on; NULL: none. */
static struct block_track *to_ask(struct block_tracks *s, u64 *n, u64 *end)
{
	struct block_track *found = NULL;
	u64 first = *end;

	for (unsigned i = 0; i < s->count; i++) {
		u64 at = s->track[i]->before ? find(s->track[i], *n, first, false) : first;

		if (at < first) {
			first = at;
			found = s->track[i];
		}
	}
	*n = first;
	if (found)
		*end = find(found, first, *end, true);
	return found;
}

bool block_tracks_submit(struct block_tracks *s, struct block_request *r)
{
	u64 n = first_of(r), end = end_of(s, r);

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < s->count; i++)
		if (!s->track[i]->before)
			note(s->track[i], n, end);
	r->held = to_ask(s, &n, &end);
	pthread_mutex_unlock(&s->lock);
	return r->held;
}

static void ask(struct block_tracks *s, struct block_track *t, u64 n, u64 end)
{
	u64 got;

	t->running++;
	pthread_mutex_unlock(&s->lock);
	got = t->before(t->opaque, n, end - n);
	pthread_mutex_lock(&s->lock);
	note(t, n, n + MIN(got, end - n));
	if (!--t->running)
		pthread_cond_broadcast(&s->idle);
}

bool block_tracks_pass(struct block_tracks *s, struct block_request *r)
{
	u64 n = first_of(r), end = end_of(s, r), wakes, from;
	struct block_track *t;

	pthread_mutex_lock(&s->lock);
	while (end = end_of(s, r), (t = to_ask(s, &n, &end))) {
		wakes = s->wakes;
		from = n;
		ask(s, t, n, end);
		end = end_of(s, r);
		if (to_ask(s, &n, &end) != t || n != from || wakes != s->wakes)
			continue; /* something was done, or may be now */
		r->next = NULL;
		*s->waiting_end = r;
		s->waiting_end = &r->next;
		break;
	}
	r->held = t;
	pthread_mutex_unlock(&s->lock);
	return !t;
}

void block_tracks_done(struct block_tracks *s, const struct block_request *r)
{
	if (r->offset > block_size(s->b) || r->length > block_size(s->b) - r->offset)
		return;
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < s->count; i++)
		if (!s->track[i]->before)
			note(s->track[i], first_of(r), end_of(s, r));
	pthread_mutex_unlock(&s->lock);
}

static void wake(struct block_tracks *s)
{
	struct block_request *r, *next;

	pthread_mutex_lock(&s->lock);
	s->wakes++;
	r = s->waiting;
	s->waiting = NULL;
	s->waiting_end = &s->waiting;
	pthread_mutex_unlock(&s->lock);
	for (; r; r = next) {
		next = r->next;
		block_again(s->b, r);
	}
}

void block_tracks_drain(struct block_tracks *s, bool begin)
{
	pthread_mutex_lock(&s->lock);
	s->drains += begin ? 1 : -1;
	if (!s->drains)
		s->overdue = false;
	pthread_mutex_unlock(&s->lock);
	if (begin)
		wake(s);
}

void block_tracks_overdue(struct block_tracks *s)
{
	bool any;

	pthread_mutex_lock(&s->lock);
	any = s->waiting;
	if (any)
		s->overdue = true;
	pthread_mutex_unlock(&s->lock);
	if (any)
		wake(s);
}

/* ---- users ---- */

u64 block_granules(const struct block *b)
{
	return (block_size(b) + BLOCK_GRANULE - 1) / BLOCK_GRANULE;
}

u64 block_track_words(const struct block *b)
{
	return words(block_granules(b));
}

struct block_track *block_track_start(struct block *b, block_track_hook *before, void *opaque, struct error *e)
{
	struct block_tracks *s = block_tracks_of(b);
	struct block_track *t = calloc(1, sizeof(*t) + words(s->granules) * sizeof(u64));

	if (!t) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	t->set = s;
	t->before = before;
	t->opaque = opaque;
	t->first = words(s->granules);
	pthread_mutex_lock(&s->lock);
	if (s->count == BLOCK_TRACKS_MAX) {
		free(t);
		t = NULL;
		error_set(e, "the writes to a disk are watched by too many already");
	} else {
		s->track[s->count] = t;
		atomic_fetch_add(&s->count, 1);
	}
	pthread_mutex_unlock(&s->lock);
	return t;
}

void block_track_stop(struct block_track *t)
{
	struct block_tracks *s;
	unsigned i = 0;

	if (!t)
		return;
	s = t->set;
	pthread_mutex_lock(&s->lock);
	while (s->track[i] != t)
		i++;
	s->track[i] = s->track[s->count - 1];
	atomic_fetch_sub(&s->count, 1);
	pthread_mutex_unlock(&s->lock);
	wake(s);
	pthread_mutex_lock(&s->lock);
	while (t->running)
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
	free(t);
}

u64 block_track_harvest(struct block_track *t, u64 *bitmap, bool rearm)
{
	u64 count;

	pthread_mutex_lock(&t->set->lock);
	count = t->count;
	for (u64 i = t->first; i < t->end; i++) {
		if (bitmap)
			bitmap[i] |= t->noted[i];
		if (rearm)
			t->noted[i] = 0;
	}
	if (rearm) {
		t->count = 0;
		t->first = words(t->set->granules);
		t->end = 0;
	}
	pthread_mutex_unlock(&t->set->lock);
	return count;
}

u64 block_track_count(const struct block_track *t)
{
	u64 count;

	pthread_mutex_lock(&t->set->lock);
	count = t->count;
	pthread_mutex_unlock(&t->set->lock);
	return count;
}

bool block_track_noted(const struct block_track *t, u64 granule)
{
	bool noted;

	pthread_mutex_lock(&t->set->lock);
	noted = granule < t->set->granules && bit(t, granule);
	pthread_mutex_unlock(&t->set->lock);
	return noted;
}

bool block_track_claim(struct block_track *t, u64 first, u64 n)
{
	bool clear;

	pthread_mutex_lock(&t->set->lock);
	clear = first < t->set->granules && !bit(t, first);
	note(t, first, MIN(first + n, t->set->granules));
	pthread_mutex_unlock(&t->set->lock);
	return clear;
}

void block_track_wake(struct block_track *t)
{
	wake(t->set);
}

enum block_hurry block_track_hurry(const struct block_track *t)
{
	enum block_hurry hurry;

	pthread_mutex_lock(&t->set->lock);
	hurry = t->set->overdue ? BLOCK_OVERDUE : t->set->drains ? BLOCK_DRAINING : BLOCK_AT_LEISURE;
	pthread_mutex_unlock(&t->set->lock);
	return hurry;
}
