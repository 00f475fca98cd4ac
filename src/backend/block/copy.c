/*
 * A disk at one moment (see copy.h). The reader goes over the disk once, and
 * takes what was copied in between. A granule is his who claims it first in
 * the track: the reader, after he has read it, or the one who copies it for a
 * writer. So nobody waits for anybody, but for room.
 */
#include "backend/block/copy.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SLOTS (BLOCK_COPY_ROOM / BLOCK_GRANULE)
#define SLOTS_MAX (4 * SLOTS) /* while somebody waits for the requests */
#define READ_MAX (8 * MiB)    /* of nothing that is to be sent, in one call */
#define AREA (SLOTS_MAX * BLOCK_GRANULE)

struct block_copy {
	struct block *b;
	struct block_track *track;
	bool above; /* only what lies above the file `below` */
	struct block_file below;
	u64 size, granules;
	u64 data_end; /* the reader's: up to there it is to be read */
	pthread_mutex_t lock;
	u8 *area; /* SLOTS_MAX granules */
	u16 free[SLOTS_MAX], full[SLOTS_MAX];
	unsigned frees, fulls;
	u64 granule[SLOTS_MAX]; /* that a full slot holds */
	u64 at;			/* granules before are done with, or copied */
	bool wanting;		/* a request found no room */
	bool emptying;		/* the reader takes copies first */
	int error;		/* of a read */
	bool late;		/* ended because the reader was too slow */
};

static u8 *data_of(struct block_copy *c, unsigned slot)
{
	return c->area + slot * BLOCK_GRANULE;
}

static u64 bytes_of(const struct block_copy *c, u64 granule)
{
	return MIN(c->size - granule * BLOCK_GRANULE, BLOCK_GRANULE);
}

/* The first byte from `offset` on that is to be copied, c->size: none; *end: up to where. */
static u64 next_wanted(struct block_copy *c, u64 offset, u64 *end)
{
	return c->above ? block_next_above(c->b, &c->below, offset, end) : block_next_data(c->b, offset, end);
}

static bool zeros(const u8 *p, u64 n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

/* ---- for the writers ---- */

enum { NO_ROOM = -1, ENDED = -2 };

/* A slot, or one of these. */
static int take_slot(struct block_copy *c)
{
	enum block_hurry hurry = block_track_hurry(c->track);
	unsigned limit = hurry == BLOCK_AT_LEISURE ? SLOTS : SLOTS_MAX;
	int slot = NO_ROOM;

	pthread_mutex_lock(&c->lock);
	if (c->late || c->error)
		slot = ENDED;
	else if (SLOTS_MAX - c->frees < limit)
		slot = c->free[--c->frees];
	else if (hurry == BLOCK_OVERDUE)
		c->late = true;
	else
		c->wanting = true;
	pthread_mutex_unlock(&c->lock);
	return slot;
}

/* False: it cannot be read, and the copy ends here. */
static bool copy_granule(struct block_copy *c, u64 granule, unsigned slot)
{
	u64 n = bytes_of(c, granule);
	int error = block_read_now(c->b, granule * BLOCK_GRANULE, data_of(c, slot), n);
	bool keep = !error && (c->above || !zeros(data_of(c, slot), n));

	pthread_mutex_lock(&c->lock);
	if (!block_track_claim(c->track, granule, 1))
		error = keep = false; /* it is the reader's, or another writer's */
	if (error)
		c->error = error;
	if (keep) {
		c->granule[slot] = granule;
		c->full[c->fulls++] = (u16)slot;
	} else {
		c->free[c->frees++] = (u16)slot;
	}
	pthread_mutex_unlock(&c->lock);
	return !error;
}

/* How many granules from `first` on need no copy: behind the reader, in a hole (or not of the overlay), or after an
 * error all. */
static u64 no_copy(struct block_copy *c, u64 first, u64 n)
{
	u64 end, data, at;
	bool ended;

	pthread_mutex_lock(&c->lock);
	ended = c->error || c->late;
	at = c->at;
	pthread_mutex_unlock(&c->lock);
	if (ended)
		return n;
	if (first < at)
		return MIN(n, at - first);
	data = next_wanted(c, first * BLOCK_GRANULE, &end);
	data = data == c->size ? c->granules : data / BLOCK_GRANULE;
	return MIN(n, data - first);
}

static u64 before_write(void *opaque, u64 first, u64 n)
{
	struct block_copy *c = opaque;
	u64 done = 0;

	while (done < n) {
		u64 free = no_copy(c, first + done, n - done);
		int slot;

		if (free) {
			block_track_claim(c->track, first + done, free);
			done += free;
			continue;
		}
		slot = take_slot(c);
		if (slot == NO_ROOM)
			break;
		if (slot >= 0 && !copy_granule(c, first + done, (unsigned)slot))
			block_track_wake(c->track); /* nobody has to wait any more */
		else if (slot >= 0)
			done++;
	}
	return done;
}

/* ---- for the reader ---- */

static bool take_copy(struct block_copy *c, u64 *offset, void *buf, u64 *n)
{
	bool found, wake;
	unsigned slot;

	pthread_mutex_lock(&c->lock);
	if (c->fulls >= SLOTS / 2 || c->wanting || c->at == c->granules)
		c->emptying = true;
	found = c->emptying && c->fulls;
	if (found) {
		slot = c->full[--c->fulls];
		*offset = c->granule[slot] * BLOCK_GRANULE;
		*n = bytes_of(c, c->granule[slot]);
		memcpy(buf, data_of(c, slot), *n);
		c->free[c->frees++] = (u16)slot;
	}
	if (!c->fulls)
		c->emptying = false;
	wake = c->wanting && !c->fulls;
	if (wake)
		c->wanting = false;
	pthread_mutex_unlock(&c->lock);
	if (wake)
		block_track_wake(c->track);
	return found;
}

/* Moves on to granule `to`. */
static void pass(struct block_copy *c, u64 to)
{
	pthread_mutex_lock(&c->lock);
	c->at = to;
	pthread_mutex_unlock(&c->lock);
}

/* The next granule that was not written yet, or *n 0 after some that are zeros. False: there is none. */
static bool read_ahead(struct block_copy *c, u64 *offset, void *buf, u64 *n)
{
	for (u64 read = 0; c->at < c->granules; read += BLOCK_GRANULE) {
		u64 at = c->at * BLOCK_GRANULE;
		bool mine;
		int error;

		if (at >= c->data_end) {
			at = next_wanted(c, at, &c->data_end);
			if (at == c->size) {
				pass(c, c->granules);
				break;
			}
			pass(c, at / BLOCK_GRANULE);
		}
		if (block_track_noted(c->track, c->at)) {
			pass(c, c->at + 1);
			continue;
		}
		*offset = c->at * BLOCK_GRANULE;
		*n = bytes_of(c, c->at);
		error = block_read_now(c->b, *offset, buf, *n);
		pthread_mutex_lock(&c->lock);
		mine = block_track_claim(c->track, c->at, 1);
		if (mine && error)
			c->error = error;
		c->at++;
		pthread_mutex_unlock(&c->lock);
		if (mine && error)
			return false;
		if (mine && (c->above || !zeros(buf, *n)))
			return true;
		if (read >= READ_MAX) {
			*n = 0;
			return true;
		}
	}
	return false;
}

static bool failed(struct block_copy *c, struct error *e)
{
	int error;
	bool late;

	pthread_mutex_lock(&c->lock);
	error = c->error;
	late = c->late;
	pthread_mutex_unlock(&c->lock);
	if (error)
		error_errno(e, error, "cannot be read");
	else if (late)
		error_set(e, "the guest wrote faster than its old content could be sent, and could not wait");
	return error || late;
}

int block_copy_next(struct block_copy *c, u64 *offset, void *buf, u64 *n, struct error *e)
{
	while (c->track) {
		if (failed(c, e)) {
			block_track_wake(c->track);
			return -1;
		}
		if (take_copy(c, offset, buf, n) || read_ahead(c, offset, buf, n))
			return 1;
		pthread_mutex_lock(&c->lock);
		if (c->at == c->granules && !c->fulls && !c->error && !c->late) {
			pthread_mutex_unlock(&c->lock);
			block_track_stop(c->track);
			c->track = NULL;
			return 0;
		}
		pthread_mutex_unlock(&c->lock);
	}
	return failed(c, e) ? -1 : 0;
}

bool block_copy_urgent(struct block_copy *c)
{
	bool urgent;

	pthread_mutex_lock(&c->lock);
	urgent = c->fulls >= SLOTS / 2 || c->wanting || c->emptying || c->error || c->late;
	pthread_mutex_unlock(&c->lock);
	return urgent;
}

/* ---- life ---- */

static void destroy(struct block_copy *c)
{
	if (c->area)
		munmap(c->area, AREA);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

struct block_copy *block_copy_start(struct block *b, const struct block_file *below, struct error *e)
{
	struct block_copy *c = calloc(1, sizeof(*c));

	if (!c) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	pthread_mutex_init(&c->lock, NULL);
	c->b = b;
	c->above = below;
	if (below)
		c->below = *below;
	c->size = block_size(b);
	c->granules = block_granules(b);
	while (c->frees < SLOTS_MAX) {
		c->free[c->frees] = (u16)(SLOTS_MAX - 1 - c->frees);
		c->frees++;
	}
	c->area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->area == MAP_FAILED) {
		c->area = NULL;
		error_set(e, "not enough host memory");
	} else {
		c->track = block_track_start(b, before_write, c, e);
	}
	if (c->track)
		return c;
	destroy(c);
	return NULL;
}

void block_copy_end(struct block_copy *c)
{
	if (!c)
		return;
	block_track_stop(c->track);
	destroy(c);
}
