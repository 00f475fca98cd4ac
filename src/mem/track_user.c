/* Tracks of written frames, the side of the users: start, harvest, stop. Ordinary C. */
#include <stdlib.h>
#include <string.h>

#include "base/host_time.h"
#include "base/world.h"
#include "mem/track_priv.h"

u64 track_words(const struct memory *m)
{
	return ((m->ram_size >> PAGE_SHIFT) + 63) / 64;
}

/* ---- with the world stopped ---- */

static u64 stop(struct memory *m)
{
	if (m->world)
		world_stop(m->world, world_self);
	return host_ns();
}

static void go(struct memory *m, u64 since)
{
	if (m->track_kept)
		m->track_kept->stats.stop_ns += host_ns() - since;
	if (m->world)
		world_go(m->world, world_self);
}

/* Whatever lets a processor write without a look at the track goes. */
static void tell_armed(struct memory *m, bool on)
{
	for (u32 i = 0; i < m->listeners; i++)
		if (m->listener[i].track_armed)
			m->listener[i].track_armed(m->listener[i].opaque, on);
}

static void collect(struct memory *m)
{
	for (u32 i = 0; i < m->listeners; i++)
		if (m->listener[i].track_collect)
			m->listener[i].track_collect(m->listener[i].opaque);
}

/* With the lock: a frame is open if no track waits for its first write. */
static void recompute_open(struct track_set *s)
{
	for (u64 i = 0; i < (s->frames + 63) / 64; i++) {
		u64 open = ~0ull;

		for (unsigned k = 0; k < s->count; k++)
			open &= s->track[k]->noted[i];
		__atomic_store_n(&s->open[i], open, __ATOMIC_RELEASE);
	}
}

/* ---- start and stop ---- */

static struct track_set *set_of(struct memory *m)
{
	struct track_set *s = m->track_kept;

	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->frames = m->ram_size >> PAGE_SHIFT;
	s->open = calloc(track_words(m), sizeof(*s->open));
	if (!s->open) {
		free(s);
		return NULL;
	}
	m->track_kept = s;
	return s;
}

static void free_track(struct track *t)
{
	if (t)
		free(t->noted);
	free(t);
}

void track_free_set(struct memory *m)
{
	if (!m->track_kept)
		return;
	for (unsigned i = 0; i < m->track_kept->count; i++)
		free_track(m->track_kept->track[i]);
	free(m->track_kept->open);
	free(m->track_kept);
	m->tracks = m->track_kept = NULL;
}

static struct track *make_track(struct memory *m, track_hook *before, void *opaque)
{
	struct track *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	*t = (struct track){ m, before, opaque, calloc(track_words(m), sizeof(*t->noted)) };
	if (t->noted)
		return t;
	free_track(t);
	return NULL;
}

struct track *track_start(struct memory *m, track_hook *before, void *opaque, struct error *e)
{
	struct track_set *s;
	struct track *t;
	u64 since;

	if (m->flags & MEMORY_SHARED) {
		error_set(e,
			  "what devices of other processes write to memory cannot be tracked (--share, --vhost-user)");
		return NULL;
	}
	s = set_of(m);
	t = s ? make_track(m, before, opaque) : NULL;
	if (!t) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	if (s->count == TRACKS_MAX) {
		error_set(e, "memory is tracked by %u others already", TRACKS_MAX);
		free_track(t);
		return NULL;
	}
	since = stop(m);
	/* what was written unseen until now is not this track's */
	if (s->count)
		collect(m);
	track_lock(s);
	s->track[s->count++] = t;
	recompute_open(s);
	s->stats.harvests++;
	track_unlock(s);
	__atomic_store_n(&m->tracks, s, __ATOMIC_RELEASE);
	tell_armed(m, true);
	go(m, since);
	return t;
}

void track_stop(struct track *t)
{
	struct track_set *s;
	struct memory *m;
	unsigned i = 0;
	u64 since;

	if (!t)
		return;
	m = t->m;
	s = m->track_kept;
	since = stop(m);
	track_lock(s);
	while (s->track[i] != t)
		i++;
	s->track[i] = s->track[--s->count];
	recompute_open(s);
	track_unlock(s);
	if (!s->count) {
		__atomic_store_n(&m->tracks, NULL, __ATOMIC_RELEASE);
		tell_armed(m, false);
	}
	go(m, since);
	free_track(t);
}

/* ---- harvest ---- */

u64 track_harvest(struct track *t, u64 *bitmap, bool rearm)
{
	struct track_set *s = t->m->track_kept;
	u64 count = 0, words = track_words(t->m), since = stop(t->m);

	collect(t->m);
	track_lock(s);
	for (u64 i = 0; i < words; i++) {
		u64 bits = t->noted[i];

		if (!bits)
			continue;
		count += (u64)__builtin_popcountll(bits);
		if (bitmap)
			bitmap[i] |= bits;
		if (rearm) {
			__atomic_store_n(&t->noted[i], 0, __ATOMIC_RELEASE);
			__atomic_store_n(&s->open[i], s->open[i] & ~bits, __ATOMIC_RELEASE);
		}
	}
	s->stats.harvests++;
	track_unlock(s);
	if (rearm && count)
		tell_armed(t->m, true);
	go(t->m, since);
	return count;
}

u64 track_noted_count(const struct track *t)
{
	u64 count = 0;

	for (u64 i = 0; i < track_words(t->m); i++)
		count += (u64)__builtin_popcountll(__atomic_load_n(&t->noted[i], __ATOMIC_ACQUIRE));
	return count;
}

struct track_stats track_stats(const struct memory *m)
{
	return m->track_kept ? m->track_kept->stats : (struct track_stats){ 0 };
}
