/*
 * Images behind requests: block_submit() checks a request and gives it to a
 * pool of threads, which call the format's synchronous functions.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/format.h"
#include "backend/block/pool.h"

#define POOL_THREADS 8
#define PROBE_MAGIC "QFI\xfb"

struct block {
	struct image *im;
	u64 size;
	bool guard_probe; /* raw by its first bytes: the guest must not make another format of it */
	struct pool *pool;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t idle;
	unsigned inflight;
};

static void finish(struct block *b, struct block_request *r, int error)
{
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
	finish(opaque, item, run_request(opaque, item));
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
	if (rc || (r->op != BLOCK_FLUSH && !r->length))
		finish(b, r, rc);
	else
		pool_put(b->pool, r);
}

void block_drain(struct block *b)
{
	pthread_mutex_lock(&b->lock);
	while (b->inflight)
		pthread_cond_wait(&b->idle, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

static unsigned file_flags(const struct block_config *cfg)
{
	return (cfg->readonly || cfg->snapshot ? 0 : FILE_WRITE) | (cfg->cache == BLOCK_CACHE_UNSAFE ? FILE_NOSYNC : 0);
}

static bool is_qcow2(struct file *f)
{
	char magic[4];

	return file_read(f, 0, magic, sizeof(magic)) == 0 && !memcmp(magic, PROBE_MAGIC, 4);
}

static struct image *open_image(const struct block_config *cfg, bool *probed_raw, struct error *e)
{
	enum block_format format = cfg->format;
	struct file *f = file_open(cfg->path, file_flags(cfg), e);

	if (!f)
		return NULL;
	if (format == BLOCK_FORMAT_AUTO) {
		format = is_qcow2(f) ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
		*probed_raw = format == BLOCK_FORMAT_RAW;
	}
	if (format == BLOCK_FORMAT_QCOW2) {
		error_set(e, "%s: qcow2 images are not supported", f->path);
		file_close(f);
		return NULL;
	}
	return raw_open(f, e);
}

struct block *block_open(const struct block_config *cfg, struct error *e)
{
	struct block *b = calloc(1, sizeof(*b));

	if (!b || !(b->pool = pool_create(POOL_THREADS, run_item, b))) {
		error_set(e, "%s: out of memory", cfg->path);
		free(b);
		return NULL;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->idle, NULL);
	b->im = open_image(cfg, &b->guard_probe, e);
	if (!b->im) {
		block_close(b);
		return NULL;
	}
	b->size = b->im->size & ~(u64)(BLOCK_SECTOR - 1);
	return b;
}

int block_check_config(const struct block_config *cfg, struct error *e)
{
	bool probed;
	struct image *im = open_image(cfg, &probed, e);

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
	pool_destroy(b->pool);
	if (b->im)
		rc = b->im->ops->close(b->im);
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
