/*
 * Images behind requests. block_submit() checks a request. Reads and writes
 * that are one transfer to one place of the file are done at once if the page
 * cache does it, else they go to io_uring, if the host has it; all others, and
 * those it did not do in full, go to a pool of threads that call the format's
 * synchronous functions.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/block/format.h"
#include "backend/block/now.h"
#include "backend/block/pool.h"
#include "backend/block/track_priv.h"
#include "backend/block/uring.h"
#include "base/log.h"

#define POOL_THREADS 8
#define DRAIN_S 1 /* until who makes requests wait must let them go */
#define PROBE_MAGIC "QFI\xfb"

struct transfer { /* a request that is one: done at once, or in the ring */
	struct block_request *r;
	struct pin pin;
	struct transfer *next; /* while free */
};

struct block {
	struct image *im;
	u64 size;
	bool guard_probe; /* raw by its first bytes: the guest must not make another format of it */
	struct pool *pool;
	struct uring *uring;	    /* or NULL */
	struct transfer *transfers; /* URING_ENTRIES of them, or NULL */
	struct now now;
	struct block_tracks tracks;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t idle;
	unsigned inflight;
	struct transfer *free;
};

static void finish(struct block *b, struct block_request *r, int error)
{
	if (block_tracks_any(&b->tracks) && block_changes(r))
		block_tracks_done(&b->tracks, r);
	r->done(r, error);
	pthread_mutex_lock(&b->lock);
	if (!--b->inflight)
		pthread_cond_broadcast(&b->idle);
	pthread_mutex_unlock(&b->lock);
}

/*
 * The format was found by looking at the file. If the guest could write
 * another format's header there, it would choose at the next start which files
 * of the host it reads. The first sector goes through a copy, because the
 * guest can change its buffer while it is written.
 */
static int write_first_sector(struct block *b, const struct block_request *r)
{
	struct view v = { r->iov, r->iov_n, 0 };
	u8 sector[BLOCK_SECTOR];
	struct iovec iov = { sector, sizeof(sector) };
	int rc;

	view_get(v, sector, sizeof(sector));
	if (!memcmp(sector, PROBE_MAGIC, 4))
		return EPERM;
	rc = b->im->ops->write(b->im, 0, sizeof(sector), (struct view){ &iov, 1, 0 });
	if (rc || r->length == sizeof(sector))
		return rc;
	return b->im->ops->write(b->im, sizeof(sector), r->length - sizeof(sector), view_at(v, sizeof(sector)));
}

static int run_request(struct block *b, const struct block_request *r)
{
	const struct format_ops *ops = b->im->ops;
	struct view v = { r->iov, r->iov_n, 0 };

	switch (r->op) {
	case BLOCK_READ:
		return ops->read(b->im, r->offset, r->length, v);
	case BLOCK_WRITE:
		if (!r->offset && b->guard_probe)
			return write_first_sector(b, r);
		return ops->write(b->im, r->offset, r->length, v);
	case BLOCK_FLUSH:
		return ops->flush(b->im);
	case BLOCK_DISCARD:
		return ops->discard(b->im, r->offset, r->length);
	case BLOCK_WRITE_ZEROES:
		return ops->zero(b->im, r->offset, r->length, r->unmap);
	}
	return EINVAL;
}

static void run_item(void *opaque, void *item)
{
	struct block *b = opaque;
	struct block_request *r = item;
	bool maintenance = r->op != BLOCK_READ && r->op != BLOCK_WRITE;
	int error;

	if (r->held && !block_tracks_pass(&b->tracks, r))
		return;
	if (maintenance)
		atomic_fetch_add(&b->now.maintenance, 1);
	error = run_request(b, r);
	if (maintenance)
		atomic_fetch_sub(&b->now.maintenance, 1);
	finish(b, r, error);
}

static struct transfer *take_transfer(struct block *b)
{
	struct transfer *t;

	pthread_mutex_lock(&b->lock);
	t = b->free;
	if (t)
		b->free = t->next;
	pthread_mutex_unlock(&b->lock);
	return t;
}

static void give_transfer(struct block *b, struct transfer *t)
{
	pthread_mutex_lock(&b->lock);
	t->next = b->free;
	b->free = t;
	pthread_mutex_unlock(&b->lock);
}

/* A short transfer is done again by the pool, which finds out why. */
static void uring_done(void *opaque, void *item, int result)
{
	struct block *b = opaque;
	struct transfer *t = item;
	struct block_request *r = t->r;

	b->im->ops->unpin(b->im, &t->pin);
	give_transfer(b, t);
	if (result >= 0 && (u64)result == r->length)
		finish(b, r, 0);
	else
		pool_put(b->pool, r);
}

/* True if the request is done, or in the ring. */
static bool start_transfer(struct block *b, struct transfer *t)
{
	struct block_request *r = t->r;
	bool write = r->op == BLOCK_WRITE, done = false;
	const struct pin *p = &t->pin;

	if (p->fd < 0 && (done = r->length <= NOW_MAX))
		view_zero((struct view){ r->iov, r->iov_n, 0 }, r->length);
	else if (p->fd >= 0 && p->cached)
		done = now_transfer(&b->now, p->fd, write, p->offset, r->length, r->iov, r->iov_n);
	if (!done)
		return p->fd >= 0 && b->uring && uring_submit(b->uring, p->fd, write, p->offset, r->iov, r->iov_n, t);
	b->im->ops->unpin(b->im, &t->pin);
	give_transfer(b, t);
	finish(b, r, 0);
	return true;
}

static bool try_transfer(struct block *b, struct block_request *r)
{
	bool write = r->op == BLOCK_WRITE;
	struct view v = { r->iov, r->iov_n, 0 };
	struct transfer *t;

	if ((!write && r->op != BLOCK_READ) || (write && !r->offset && b->guard_probe))
		return false;
	t = take_transfer(b);
	if (!t)
		return false;
	t->r = r;
	if (b->im->ops->pin(b->im, &t->pin, write, r->offset, r->length, v)) {
		if (start_transfer(b, t))
			return true;
		b->im->ops->unpin(b->im, &t->pin);
	}
	give_transfer(b, t);
	return false;
}

static int check_request(const struct block *b, const struct block_request *r)
{
	u64 sum = 0;

	if (r->op == BLOCK_FLUSH)
		return 0;
	if ((r->offset | r->length) % BLOCK_SECTOR || r->offset > b->size || r->length > b->size - r->offset)
		return EINVAL;
	if (r->op != BLOCK_READ && b->im->readonly)
		return EROFS;
	if (r->op == BLOCK_DISCARD || r->op == BLOCK_WRITE_ZEROES)
		return 0;
	for (unsigned i = 0; i < r->iov_n; i++)
		if (__builtin_add_overflow(sum, r->iov[i].iov_len, &sum))
			return EINVAL;
	return sum == r->length ? 0 : EINVAL;
}

void block_submit(struct block *b, struct block_request *r)
{
	int rc = check_request(b, r);

	pthread_mutex_lock(&b->lock);
	b->inflight++;
	pthread_mutex_unlock(&b->lock);
	r->held = false;
	if (rc || (r->op != BLOCK_FLUSH && !r->length))
		finish(b, r, rc);
	else if ((block_tracks_any(&b->tracks) && block_changes(r) && block_tracks_submit(&b->tracks, r)) ||
		 !try_transfer(b, r))
		pool_put(b->pool, r);
}

void block_again(struct block *b, struct block_request *r)
{
	pool_put(b->pool, r);
}

struct block_tracks *block_tracks_of(struct block *b)
{
	return &b->tracks;
}

bool block_pollable(const struct block *b)
{
	return b->uring && uring_inflight(b->uring) && uring_is_submitter(b->uring);
}

bool block_poll(struct block *b)
{
	return b->uring && uring_poll(b->uring);
}

void block_kick(struct block *b)
{
	if (b->uring)
		uring_kick(b->uring);
}

void block_poll_ends(struct block *b)
{
	if (b->uring)
		uring_unpark(b->uring);
}

/* Tracks may make requests wait for somebody else: not for long, then. */
static void drain_tracked(struct block *b)
{
	struct timespec until;

	block_tracks_drain(&b->tracks, true);
	pthread_mutex_lock(&b->lock);
	while (b->inflight) {
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += DRAIN_S;
		if (pthread_cond_timedwait(&b->idle, &b->lock, &until) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&b->lock);
		block_tracks_overdue(&b->tracks);
		pthread_mutex_lock(&b->lock);
	}
	pthread_mutex_unlock(&b->lock);
	block_tracks_drain(&b->tracks, false);
}

void block_drain(struct block *b)
{
	block_kick(b);
	block_poll_ends(b);
	if (block_tracks_any(&b->tracks)) {
		drain_tracked(b);
		return;
	}
	pthread_mutex_lock(&b->lock);
	while (b->inflight)
		pthread_cond_wait(&b->idle, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

bool block_drains_slowly(const struct block *b)
{
	return atomic_load(&b->now.maintenance);
}

static unsigned file_flags(const struct block_config *cfg)
{
	return (cfg->readonly || cfg->snapshot ? 0 : FILE_WRITE) |
	       (cfg->cache == BLOCK_CACHE_UNSAFE ? FILE_NOSYNC : 0) |
	       (cfg->cache == BLOCK_CACHE_NONE ? FILE_DIRECT : 0) | (cfg->unlocked ? FILE_NOLOCK : 0);
}

static struct image *open_image(const struct block_config *cfg, bool look, bool *probed_raw, struct error *e)
{
	struct image *im = chain_open(cfg->path, cfg->format, file_flags(cfg), NULL, look, probed_raw, e);

	if (!im || !cfg->snapshot || look)
		return im;
	*probed_raw = false;
	return snapshot_open(im, e);
}

/* Without: threads do it all. */
static void start_transfers(struct block *b)
{
	/* a write beyond `ulimit -f` is to fail on the caller's thread, too */
	signal(SIGXFSZ, SIG_IGN);
	b->transfers = calloc(URING_ENTRIES, sizeof(*b->transfers));
	if (!b->transfers)
		return;
	for (unsigned i = 0; i < URING_ENTRIES; i++)
		give_transfer(b, &b->transfers[i]);
	b->uring = uring_create(uring_done, b);
	if (!b->uring)
		log_debug("block", "%s: no io_uring here; threads do its work", b->im->file->path);
}

struct block *block_open(const struct block_config *cfg, struct error *e)
{
	pthread_condattr_t monotonic;
	struct block *b = calloc(1, sizeof(*b));

	if (!b || !(b->pool = pool_create(POOL_THREADS, run_item, b))) {
		error_set(e, "%s: out of memory", cfg->path);
		free(b);
		return NULL;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&b->idle, &monotonic);
	pthread_condattr_destroy(&monotonic);
	b->im = open_image(cfg, false, &b->guard_probe, e);
	if (!b->im) {
		block_close(b);
		return NULL;
	}
	b->size = b->im->size & ~(u64)(BLOCK_SECTOR - 1);
	block_tracks_init(&b->tracks, b);
	if (!cfg->threads)
		start_transfers(b);
	return b;
}

int block_check_config(const struct block_config *cfg, struct error *e)
{
	bool probed;
	struct image *im = open_image(cfg, true, &probed, e);

	if (!im)
		return -1;
	im->ops->close(im);
	return 0;
}

int block_close(struct block *b)
{
	int rc = 0;

	if (!b)
		return 0;
	block_drain(b);
	uring_destroy(b->uring);
	pool_destroy(b->pool);
	free(b->transfers);
	if (b->im) {
		block_tracks_destroy(&b->tracks);
		rc = b->im->ops->close(b->im);
	}
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->lock);
	free(b);
	return rc;
}

u64 block_size(const struct block *b)
{
	return b->size;
}

bool block_readonly(const struct block *b)
{
	return b->im->readonly;
}

const char *block_format_name(const struct block *b)
{
	return b->im->ops->name;
}

unsigned block_granularity(const struct block *b)
{
	return b->im->granularity;
}

void block_unlock(struct block *b)
{
	file_unlock(b->im->file->fd);
}

int block_relock(struct block *b, struct error *e)
{
	return file_lock(b->im->file->fd, b->im->file->path, b->im->file->writable, e);
}

static int content(struct block *b, enum block_op op, u64 offset, void *buf, u64 n)
{
	const struct iovec iov = { buf, n };
	struct block_request r = { .op = op, .unmap = true, .offset = offset, .length = n, .iov = &iov, .iov_n = 1 };
	int rc = check_request(b, &r);

	return rc || !n ? rc : run_request(b, &r);
}

int block_read_now(struct block *b, u64 offset, void *buf, u64 n)
{
	return content(b, BLOCK_READ, offset, buf, n);
}

int block_write_now(struct block *b, u64 offset, const void *buf, u64 n)
{
	const u8 *p = buf;
	bool zeros = n && !p[0] && !memcmp(p, p + 1, n - 1);

	return content(b, zeros ? BLOCK_WRITE_ZEROES : BLOCK_WRITE, offset, (void *)(uintptr_t)buf, n);
}

int block_zero_now(struct block *b, u64 offset, u64 n)
{
	return content(b, BLOCK_WRITE_ZEROES, offset, NULL, n);
}

bool block_builds_on(const struct block *b, const struct block_file *files, unsigned n)
{
	return chain_ends_with(b->im, files, n);
}

u64 block_next_above(struct block *b, const struct block_file *below, u64 offset, u64 *end)
{
	*end = b->size;
	return offset < b->size ? chain_next_above(b->im, below, offset, b->size, end) : b->size;
}

u64 block_next_data(struct block *b, u64 offset, u64 *end)
{
	*end = b->size;
	return offset < b->size ? b->im->ops->next_data(b->im, offset, b->size, end) : b->size;
}
