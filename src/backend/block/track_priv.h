/* Tracks of an image, inside: what block.c and track.c share. */
#ifndef ECTYPE_BACKEND_BLOCK_TRACK_PRIV_H
#define ECTYPE_BACKEND_BLOCK_TRACK_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/block/track.h"

struct block_track {
	struct block_tracks *set;
	block_track_hook *before;
	void *opaque;
	unsigned running; /* calls of the hook */
	u64 count;	  /* noted */
	u64 first, end;	  /* words of `noted` that may not be zero */
	u64 noted[];
};

struct block_tracks {
	struct block *b;
	u64 granules;
	atomic_uint count; /* of tracks; changed under `lock` */
	pthread_mutex_t lock;
	pthread_cond_t idle; /* no hook of a track runs */
	struct block_track *track[BLOCK_TRACKS_MAX];
	struct block_request *waiting, **waiting_end;
	u64 wakes;
	unsigned drains; /* callers of block_drain() */
	bool overdue;	 /* of whom one has waited for too long */
};

void block_tracks_init(struct block_tracks *s, struct block *b);
void block_tracks_destroy(struct block_tracks *s);

static inline bool block_tracks_any(const struct block_tracks *s)
{
	return atomic_load_explicit(&s->count, memory_order_relaxed);
}
static inline bool block_changes(const struct block_request *r)
{
	return r->op != BLOCK_READ && r->op != BLOCK_FLUSH;
}
/* A request that changes something is submitted: notes it. True: it has to go through block_tracks_pass() first. */
bool block_tracks_submit(struct block_tracks *s, struct block_request *r);
/* On a thread that may wait: asks the hooks. False: the request waits, and will be handed to block_again(). */
bool block_tracks_pass(struct block_tracks *s, struct block_request *r);
/* It is done: notes it once more. */
void block_tracks_done(struct block_tracks *s, const struct block_request *r);
/* Somebody waits for all requests, from the first call to the second one. */
void block_tracks_drain(struct block_tracks *s, bool begin);
/* And has waited for long. */
void block_tracks_overdue(struct block_tracks *s);

/* block.c */
struct block_tracks *block_tracks_of(struct block *b);
/* The request is to be run again, on a thread that may wait. */
void block_again(struct block *b, struct block_request *r);

#endif
