/*
 * Compressing RAM. Frames come in order and are gathered in groups. A group
 * that is whole goes round a ring: any of the workers compresses it, then the
 * caller, who comes back to its place, writes it; so groups are in the file in
 * order, and the caller waits when all places are taken.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/thread.h"
#include "cli/new_file.h"
#include "cli/snapshot_ram.h"

#define WORKERS_MAX 16u

enum place { PLACE_FREE, PLACE_FULL, PLACE_TAKEN, PLACE_DONE };

struct slot {
	enum place place;
	u32 number;
	u64 frames, sum;
	size_t raw_len, len; /* len 0: it could not be compressed */
	u8 *raw, *packed;
};
struct ram_packer {
	int fd, level;
	struct ram_index *index; /* the caller's */
	u64 at;
	pthread_mutex_t lock;
	pthread_cond_t full, done; /* there is something for a worker; one has finished */
	bool quit;
	unsigned workers, slots, fill, flush; /* fill: the slot that is gathered; flush: the oldest not written */
	pthread_t worker[WORKERS_MAX];
	struct slot slot[2 * WORKERS_MAX + 2];
};

/* ---- workers ---- */

static struct slot *find_full(struct ram_packer *p)
{
	for (unsigned i = 0; i < p->slots; i++) {
		struct slot *s = &p->slot[(p->flush + i) % p->slots];

		if (s->place == PLACE_FULL)
			return s;
	}
	return NULL;
}

static void compress_slot(const struct ram_packer *p, struct slot *s, ZSTD_CCtx *c)
{
	size_t n = c ? ZSTD_compressCCtx(c, s->packed, ram_group_packed_max(), s->raw, s->raw_len, p->level) : 0;

	s->len = ZSTD_isError(n) ? 0 : n;
	s->sum = XXH3_64bits_withSeed(s->packed, s->len, s->number);
}

static void *work(void *opaque)
{
	struct ram_packer *p = opaque;
	ZSTD_CCtx *c = ZSTD_createCCtx();

	pthread_mutex_lock(&p->lock);
	while (!p->quit) {
		struct slot *s = find_full(p);

		if (!s) {
			pthread_cond_wait(&p->full, &p->lock);
			continue;
		}
		s->place = PLACE_TAKEN;
		pthread_mutex_unlock(&p->lock);
		compress_slot(p, s, c);
		pthread_mutex_lock(&p->lock);
		s->place = PLACE_DONE;
		pthread_cond_signal(&p->done);
	}
	pthread_mutex_unlock(&p->lock);
	ZSTD_freeCCtx(c);
	return NULL;
}

/* ---- the caller ---- */

static int write_slot(struct ram_packer *p, struct slot *s)
{
	struct ram_group *g;

	if (!s->len || !(g = ram_index_add(p->index, s->number))) {
		errno = ENOMEM;
		return -1;
	}
	*g = (struct ram_group){
		.number = s->number, .frames = s->frames, .at = p->at, .len = (u32)s->len, .sum = s->sum
	};
	if (write_all_at(p->fd, s->packed, s->len, p->at))
		return -1;
	p->at += s->len;
	return 0;
}

/* Writes the oldest slot, waiting for it. */
static int flush_one(struct ram_packer *p)
{
	struct slot *s = &p->slot[p->flush];

	pthread_mutex_lock(&p->lock);
	while (s->place != PLACE_DONE)
		pthread_cond_wait(&p->done, &p->lock);
	s->place = PLACE_FREE; /* and ours until it is full again */
	p->flush = (p->flush + 1) % p->slots;
	pthread_mutex_unlock(&p->lock);
	return write_slot(p, s);
}

/* The gathered group goes to the workers. */
static int hand_over(struct ram_packer *p)
{
	struct slot *s = &p->slot[p->fill];

	pthread_mutex_lock(&p->lock);
	s->place = PLACE_FULL;
	pthread_cond_signal(&p->full);
	pthread_mutex_unlock(&p->lock);
	p->fill = (p->fill + 1) % p->slots;
	return p->fill == p->flush ? flush_one(p) : 0;
}

int ram_packer_add(struct ram_packer *p, u64 frame, const u8 *page)
{
	u32 number = (u32)(frame / RAM_GROUP_FRAMES);
	struct slot *s = &p->slot[p->fill];

	if (s->raw_len && s->number != number) {
		if (hand_over(p))
			return -1;
		s = &p->slot[p->fill];
		s->raw_len = 0;
	}
	if (!s->raw_len)
		s->frames = 0;
	s->number = number;
	s->frames |= BIT(frame % RAM_GROUP_FRAMES);
	if (page)
		memcpy(s->raw + s->raw_len, page, PAGE_SIZE);
	else
		memset(s->raw + s->raw_len, 0, PAGE_SIZE);
	s->raw_len += PAGE_SIZE;
	return 0;
}

int ram_packer_finish(struct ram_packer *p)
{
	if (p->slot[p->fill].raw_len && hand_over(p))
		return -1;
	p->slot[p->fill].raw_len = 0;
	while (p->flush != p->fill)
		if (flush_one(p))
			return -1;
	return 0;
}

u64 ram_packer_bytes(const struct ram_packer *p)
{
	return p->at;
}

/* ---- life ---- */

void ram_packer_free(struct ram_packer *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->quit = true;
	pthread_cond_broadcast(&p->full);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->workers; i++)
		pthread_join(p->worker[i], NULL);
	for (unsigned i = 0; i < p->slots; i++) {
		free(p->slot[i].raw);
		free(p->slot[i].packed);
	}
	pthread_cond_destroy(&p->full);
	pthread_cond_destroy(&p->done);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

struct ram_packer *ram_packer_create(int fd, int level, struct ram_index *x, struct error *e)
{
	struct ram_packer *p = calloc(1, sizeof(*p));
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned wanted = (unsigned)MIN(MAX(cpus, 1l), (long)WORKERS_MAX);

	if (!p) {
		error_set(e, "not enough memory");
		return NULL;
	}
	*p = (struct ram_packer){ .fd = fd, .level = level, .index = x };
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->full, NULL);
	pthread_cond_init(&p->done, NULL);
	for (; p->slots < 2 * wanted + 2; p->slots++) {
		struct slot *s = &p->slot[p->slots];

		s->raw = malloc(RAM_GROUP_BYTES);
		s->packed = malloc(ram_group_packed_max());
		if (s->raw && s->packed)
			continue;
		p->slots++;
		goto fail;
	}
	while (p->workers < wanted && !thread_start(&p->worker[p->workers], work, p))
		p->workers++;
	if (p->workers)
		return p;
fail:
	error_set(e, "not enough memory, or threads, to compress with");
	ram_packer_free(p);
	return NULL;
}
