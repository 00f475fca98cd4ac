/*
 * virtio-blk (VIRTIO 1.2, 5.2).
 *
 * A request is a chain of descriptors: a header and data to read, then data to
 * write and a status byte. Its data goes straight between the image and guest
 * RAM, by the pieces of the chain itself.
 *
 * A request is popped into a struct of a pool that has one for each entry of
 * each queue; a driver that has more in flight breaks the rules. The backend's
 * `done` comes on any thread and only appends to a list under a lock. The vCPU
 * thread takes the list as a whole, either behind a notification that
 * submitted requests or because the door's source was signalled, completes
 * what is on it and interrupts once a queue.
 *
 * Some requests take several steps of the backend (the segments of a discard,
 * the flush behind a write without a cache): the next is submitted when the
 * one before is taken off the list.
 *
 * With the virtual clock each step is waited for where it is submitted, so
 * that completions depend neither on host time nor on the order in which the
 * backend's threads come.
 */
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dev/virtio/blk.h"
#include "replay/door.h"

/* Feature bits (5.2.3) */
#define F_SEG_MAX BIT(2)
#define F_RO BIT(5)
#define F_BLK_SIZE BIT(6)
#define F_FLUSH BIT(9)
#define F_TOPOLOGY BIT(10)
#define F_CONFIG_WCE BIT(11)
#define F_MQ BIT(12)
#define F_DISCARD BIT(13)
#define F_WRITE_ZEROES BIT(14)

/* Request types and status (5.2.6) */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
#define STARTED (-1) /* no status yet: a step is with the backend */

/* Configuration layout (5.2.4), as far as it is offered */
enum {
	CFG_CAPACITY = 0,
	CFG_SEG_MAX = 12,
	CFG_BLK_SIZE = 20,
	CFG_PHYSICAL_BLOCK_EXP = 24,
	CFG_MIN_IO_SIZE = 26,
	CFG_OPT_IO_SIZE = 28,
	CFG_WRITEBACK = 32,
	CFG_NUM_QUEUES = 34,
	CFG_MAX_DISCARD_SECTORS = 36,
	CFG_MAX_DISCARD_SEG = 40,
	CFG_DISCARD_ALIGNMENT = 44,
	CFG_MAX_ZEROES_SECTORS = 48,
	CFG_MAX_ZEROES_SEG = 52,
	CFG_ZEROES_MAY_UNMAP = 56,
	CFG_LEN = 60,
};

#define PHYSICAL_EXP 3 /* 4 KiB: file systems align to pages of the host's cache */
#define SEGMENTS_MAX 8
#define DISCARD_SECTORS_MAX (1u << 21) /* 1 GiB */
#define ZEROES_SECTORS_MAX (1u << 18)  /* 128 MiB: it may be that they must be written */
#define SEGMENT_UNMAP 1u

/* A reset waits for what is in flight, so that has a bound in bytes, too: no request is larger than this, and no
 * further one is taken from a queue while as much is in flight. */
#define BYTES_MAX (1ull * GiB)

struct header {
	u32 type, reserved;
	u64 sector;
};

/* struct virtio_blk_discard_write_zeroes */
struct segment {
	u64 sector;
	u32 sectors, flags;
};

struct blk;

struct request {
	struct block_request block;
	struct blk *dev;
	struct virtq *q;
	struct request *next; /* of the list of done ones, or of free ones */
	int error;
	u32 type;
	bool flushing;	       /* this step is the flush behind a write */
	u64 bytes;	       /* of data, as counted in blk->bytes */
	struct iovec *trimmed; /* lacks the status byte while the backend has it */
	unsigned segment, segments;
	struct segment seg[SEGMENTS_MAX];
	struct virtq_buf buf;
};

struct blk {
	struct virtio v;
	struct block *image;
	const char *name;
	char serial[BLK_SERIAL_LEN];
	u64 sectors;
	bool readonly, synchronous;
	int source;
	struct disk_stats stats;
	int logged; /* error of the last line in the log */

	/* The pool: never used ones behind `fresh`, so that what is not needed is never touched. */
	struct request *pool, *free;
	unsigned fresh, pool_size;
	unsigned in_flight[BLK_QUEUES_MAX];
	u64 bytes;
	u32 waiting; /* queues not emptied because of BYTES_MAX */

	pthread_mutex_t lock;
	struct request *done, **done_tail;
	bool inside; /* the vCPU thread will look at the list: no signal needed */
};

static struct blk *of_virtio(const struct virtio *v)
{
	return container_of((struct virtio *)(uintptr_t)v, struct blk, v);
}

/* ---- the pool ---- */

static struct request *request_get(struct blk *b)
{
	struct request *r = b->free;

	if (r)
		b->free = r->next;
	else if (b->fresh < b->pool_size)
		r = &b->pool[b->fresh++];
	return r;
}

static void request_put(struct blk *b, struct request *r)
{
	r->next = b->free;
	b->free = r;
}

/* ---- the list of done steps ---- */

static void on_done(struct block_request *br, int error)
{
	struct request *r = container_of(br, struct request, block);
	struct blk *b = r->dev;
	bool signal;

	r->error = error;
	r->next = NULL;
	pthread_mutex_lock(&b->lock);
	signal = !b->done && !b->inside;
	*b->done_tail = r;
	b->done_tail = &r->next;
	pthread_mutex_unlock(&b->lock);
	if (signal)
		door_signal(b->v.board->door, b->source);
}

/* The list, oldest first. When it is empty, the vCPU thread's visit is over and a signal is needed again. */
static struct request *take_done(struct blk *b)
{
	struct request *r;

	pthread_mutex_lock(&b->lock);
	r = b->done;
	b->done = NULL;
	b->done_tail = &b->done;
	b->inside = r != NULL;
	pthread_mutex_unlock(&b->lock);
	return r;
}

static void submit(struct request *r)
{
	struct blk *b = r->dev;

	r->block.done = on_done;
	block_submit(b->image, &r->block);
	if (b->synchronous)
		block_drain(b->image);
}

/* ---- requests ---- */

/* Is [sector, sector + n) on the disk? */
static bool in_range(const struct blk *b, u64 sector, u64 n)
{
	return n <= b->sectors && sector <= b->sectors - n;
}

/* The data of a write: what the device reads, behind the header. The header's pieces are of no use any more. */
static void data_out(struct request *r)
{
	struct iovec *io = r->buf.iov;
	unsigned n = r->buf.out_n;
	size_t skip = sizeof(struct header);

	for (; n && skip >= io->iov_len; n--)
		skip -= (io++)->iov_len;
	if (n) {
		io->iov_base = (u8 *)io->iov_base + skip;
		io->iov_len -= skip;
	}
	r->block.iov = io;
	r->block.iov_n = n;
}

/* The data of a read: what the device writes, without the status byte at the end. */
static void data_in(struct request *r)
{
	struct iovec *first = r->buf.iov + r->buf.out_n, *last = first + r->buf.in_n - 1;

	while (!last->iov_len)
		last--;
	last->iov_len--;
	r->trimmed = last;
	r->block.iov = first;
	r->block.iov_n = (unsigned)(last - first) + (last->iov_len != 0);
}

static int start_transfer(struct request *r, enum block_op op, u64 sector, u64 bytes)
{
	struct blk *b = r->dev;

	if (bytes % BLOCK_SECTOR || bytes > BYTES_MAX || !in_range(b, sector, bytes / BLOCK_SECTOR) ||
	    (op == BLOCK_WRITE && b->readonly))
		return S_IOERR;
	if (!bytes)
		return S_OK;
	r->block.op = op;
	r->block.offset = sector * BLOCK_SECTOR;
	r->block.length = r->bytes = bytes;
	if (op == BLOCK_WRITE)
		data_out(r);
	else
		data_in(r);
	submit(r);
	return STARTED;
}

static int start_flush(struct request *r)
{
	r->block.op = BLOCK_FLUSH;
	r->block.offset = r->block.length = 0;
	submit(r);
	return STARTED;
}

static int start_get_id(struct request *r)
{
	struct blk *b = r->dev;

	virtq_copy_in(&r->buf, 0, b->serial, MIN(sizeof(b->serial), r->buf.in_len - 1));
	return S_OK;
}

static void submit_segment(struct request *r)
{
	const struct segment *s = &r->seg[r->segment];

	r->block.op = r->type == T_DISCARD ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;
	r->block.unmap = s->flags & SEGMENT_UNMAP;
	r->block.offset = s->sector * BLOCK_SECTOR;
	r->block.length = (u64)s->sectors * BLOCK_SECTOR;
	submit(r);
}

/* All segments are checked before the first is started (5.2.6.2). */
static int start_segments(struct request *r, u32 max_sectors)
{
	struct blk *b = r->dev;
	u32 len = r->buf.out_len - (u32)sizeof(struct header);

	if (!virtio_has(&b->v, r->type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES))
		return S_UNSUPP;
	if (b->readonly || !len || len % sizeof(struct segment) || len / sizeof(struct segment) > SEGMENTS_MAX)
		return S_IOERR;
	if (virtq_copy_out(&r->buf, sizeof(struct header), r->seg, len) != len)
		return S_IOERR;
	r->segment = 0;
	r->segments = len / (u32)sizeof(struct segment);
	for (unsigned i = 0; i < r->segments; i++) {
		struct segment *s = &r->seg[i];

		s->sector = le64toh(s->sector);
		s->sectors = le32toh(s->sectors);
		s->flags = le32toh(s->flags);
		if (s->flags & ~(r->type == T_DISCARD ? 0 : SEGMENT_UNMAP))
			return S_UNSUPP;
		if (!s->sectors || s->sectors > max_sectors || !in_range(b, s->sector, s->sectors))
			return S_IOERR;
		if (r->type == T_WRITE_ZEROES)
			r->bytes += (u64)s->sectors * BLOCK_SECTOR;
	}
	submit_segment(r);
	return STARTED;
}

/* A status, or STARTED. The chain has room for a status byte. */
static int start(struct request *r)
{
	struct header h;

	if (virtq_copy_out(&r->buf, 0, &h, sizeof(h)) != sizeof(h))
		return S_IOERR;
	r->type = le32toh(h.type);
	switch (r->type) {
	case T_IN:
		return start_transfer(r, BLOCK_READ, le64toh(h.sector), r->buf.in_len - 1);
	case T_OUT:
		return start_transfer(r, BLOCK_WRITE, le64toh(h.sector), r->buf.out_len - sizeof(h));
	case T_FLUSH:
		return start_flush(r);
	case T_GET_ID:
		return start_get_id(r);
	case T_DISCARD:
		return start_segments(r, DISCARD_SECTORS_MAX);
	case T_WRITE_ZEROES:
		return start_segments(r, ZEROES_SECTORS_MAX);
	default:
		return S_UNSUPP;
	}
}

/* ---- completion ---- */

static void count(struct disk_stats *s, const struct request *r, int status)
{
	s->errors += status == S_IOERR;
	switch (r->type) {
	case T_IN:
		s->reads++;
		s->read_bytes += status ? 0 : r->bytes;
		break;
	case T_OUT:
		s->writes++;
		s->written_bytes += status ? 0 : r->bytes;
		break;
	case T_FLUSH:
		s->flushes++;
		break;
	case T_DISCARD:
		s->discards++;
		break;
	case T_WRITE_ZEROES:
		s->zeroes++;
		break;
	default:
		s->others++;
	}
}

/* A whole disk or a vanished file fails every request: one line for each kind of error in a row. */
static void log_failure(struct blk *b, const struct request *r)
{
	static const char *const names[] = { "read", "write", "flush", "discard", "write of zeroes" };

	if (r->error == b->logged)
		return;
	b->logged = r->error;
	log_warn("blk", "%s: %s at byte %lu failed: %s; the guest sees an I/O error", b->name, names[r->block.op],
		 r->block.offset, strerror(r->error));
}

/* Out of the backend's hands: the chain is as it was popped. */
static void recover(struct request *r)
{
	struct blk *b = r->dev;

	if (r->trimmed)
		r->trimmed->iov_len++;
	r->trimmed = NULL;
	b->bytes -= r->bytes;
	b->in_flight[r->q->index]--;
}

/*
 * The status is the last writable byte; the whole writable part counts as
 * written, for a read that failed may have stored any of it.
 */
static void complete(struct request *r, int status)
{
	struct blk *b = r->dev;
	u8 byte = (u8)status;

	count(&b->stats, r, status);
	recover(r);
	virtq_copy_in(&r->buf, r->buf.in_len - 1, &byte, 1);
	virtq_push(r->q, &r->buf, r->buf.in_len);
	request_put(b, r);
}

/* Must what a write stored be on stable storage when it completes (5.2.6.2)? */
static bool write_through(const struct blk *b)
{
	if (virtio_has(&b->v, F_CONFIG_WCE))
		return !b->v.config[CFG_WRITEBACK];
	return !virtio_has(&b->v, F_FLUSH);
}

/* A step is done: the next one, or the request is complete (true). */
static bool advance(struct request *r)
{
	struct blk *b = r->dev;
	bool writes = r->type == T_OUT || r->type == T_DISCARD || r->type == T_WRITE_ZEROES;

	if (r->error) {
		if (r->error != EOPNOTSUPP)
			log_failure(b, r);
		complete(r, r->error == EOPNOTSUPP ? S_UNSUPP : S_IOERR);
		return true;
	}
	if (++r->segment < r->segments) {
		submit_segment(r);
		return false;
	}
	if (writes && !r->flushing && write_through(b)) {
		r->flushing = true;
		start_flush(r);
		return false;
	}
	complete(r, S_OK);
	return true;
}

/* The next request of the queue, NULL if there is none or the driver broke a rule. */
static struct request *pop(struct blk *b, struct virtq *q)
{
	struct request *r = request_get(b);

	if (!r) {
		virtio_broken(&b->v, "more block requests than the queue has entries");
		return NULL;
	}
	if (virtq_pop(q, &r->buf) <= 0) {
		request_put(b, r);
		return NULL;
	}
	if (!r->buf.in_len) {
		request_put(b, r);
		virtio_broken(&b->v, "a block request without room for its status");
		return NULL;
	}
	r->dev = b;
	r->q = q;
	r->type = ~0u;
	r->flushing = false;
	r->bytes = 0;
	r->trimmed = NULL;
	r->segment = r->segments = 0;
	b->in_flight[q->index]++;
	return r;
}

/* True if the request is complete at once. */
static bool begin(struct request *r)
{
	int status = start(r);

	if (status == STARTED) {
		r->dev->bytes += r->bytes;
		return false;
	}
	r->bytes = 0;
	complete(r, status);
	return true;
}

/* Starts what queue `n` has. True if something was completed at once. */
static bool serve(struct blk *b, unsigned n)
{
	struct virtq *q = &b->v.queue[n];
	struct request *r;
	bool completed = false;

	b->waiting &= ~(1u << n);
	virtq_notify_disable(q);
	do {
		while (b->bytes < BYTES_MAX && (r = pop(b, q)))
			completed |= begin(r);
		virtq_notify_enable(q);
	} while (b->bytes < BYTES_MAX && !virtq_empty(q));
	if (b->bytes >= BYTES_MAX)
		b->waiting |= 1u << n;
	return completed;
}

/* Serves the queues of the mask, then completes until the list is empty. */
static void visit(struct blk *b, u32 queues)
{
	u32 signal = 0;

	pthread_mutex_lock(&b->lock);
	b->inside = true;
	pthread_mutex_unlock(&b->lock);
	for (;;) {
		struct request *r, *next;

		for (; queues; queues &= queues - 1) {
			unsigned n = (unsigned)__builtin_ctz(queues);

			signal |= serve(b, n) ? 1u << n : 0;
		}
		block_poll(b->image);
		r = take_done(b);
		if (!r)
			break;
		for (; r; r = next) {
			unsigned n = r->q->index;

			next = r->next;
			signal |= advance(r) ? 1u << n : 0;
		}
		queues = b->waiting;
	}
	for (; signal; signal &= signal - 1)
		virtq_signal(&b->v.queue[__builtin_ctz(signal)]);
}

static void on_source(void *opaque)
{
	visit(opaque, 0);
}

/* ---- virtio's side ---- */

static void blk_notify(struct virtio *v, unsigned q)
{
	visit(of_virtio(v), 1u << q);
}

/* Guest memory that a read may have changed although nobody completes it: engines must hear of it. */
static void announce(struct blk *b, const struct request *r)
{
	const struct virtq_buf *c = &r->buf;

	for (unsigned i = c->out_n; r->type == T_IN && i < c->out_n + c->in_n; i++)
		memory_notify_written(b->v.board->mem, c->gpa[i], (unsigned)c->iov[i].iov_len);
}

static void blk_reset(struct virtio *v)
{
	struct blk *b = of_virtio(v);
	struct request *r, *next;

	block_drain(b->image);
	while ((r = take_done(b))) {
		for (; r; r = next) {
			next = r->next;
			recover(r);
			announce(b, r);
			request_put(b, r);
		}
	}
	b->waiting = 0;
	v->config[CFG_WRITEBACK] = 1;
}

/* 5.2.5: no volatile cache for a driver that cannot flush it. */
static void blk_start(struct virtio *v)
{
	if (!virtio_has(v, F_FLUSH))
		v->config[CFG_WRITEBACK] = 0;
}

/* Nothing is in flight behind this; what waits in the rings is served on resume. */
static void blk_quiesce(struct virtio *v)
{
	struct blk *b = of_virtio(v);
	unsigned n;

	do {
		block_drain(b->image);
		visit(b, 0);
		n = 0;
		for (unsigned i = 0; i < v->queues; i++)
			n += b->in_flight[i];
	} while (n);
}

static void blk_resume(struct virtio *v)
{
	if (virtio_running(v))
		for (unsigned i = 0; i < v->queues; i++)
			if (v->queue[i].enabled)
				visit(of_virtio(v), 1u << i);
}

/*
 * Section "virtio-blk", version 1: sectors (u64), read-only (bool). Nothing is
 * in flight when a machine is saved; the two say that the image is the same.
 */
static void blk_save(const struct virtio *v, struct encoder *e)
{
	const struct blk *b = of_virtio(v);

	enc_begin(e, v->ops->name, 1);
	enc_u64(e, b->sectors);
	enc_bool(e, b->readonly);
	enc_end(e);
}

static int blk_check(const struct virtio *v, struct decoder *in)
{
	const struct blk *b = of_virtio(v);
	struct decoder s;
	u64 sectors;
	bool readonly;

	if (!dec_begin(in, v->ops->name, &s) || s.version != 1)
		return -1;
	sectors = dec_u64(&s);
	readonly = dec_bool(&s);
	return dec_done(&s) && sectors == b->sectors && readonly == b->readonly ? 0 : -1;
}

static void blk_load(struct virtio *v, struct decoder *in)
{
	(void)blk_check(v, in);
}

static void blk_free(struct blk *b)
{
	pthread_mutex_destroy(&b->lock);
	free(b->pool);
	free(b);
}

static void blk_destroy(struct virtio *v)
{
	block_drain(of_virtio(v)->image);
	blk_free(of_virtio(v));
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.pci_class = 0x010000, /* SCSI storage controller */
	.reset = blk_reset,
	.start = blk_start,
	.notify = blk_notify,
	.quiesce = blk_quiesce,
	.resume = blk_resume,
	.save = blk_save,
	.check = blk_check,
	.load = blk_load,
	.destroy = blk_destroy,
};

/* ---- construction ---- */

static void put16(struct virtio *v, unsigned off, u16 val)
{
	val = htole16(val);
	memcpy(v->config + off, &val, sizeof(val));
}

static void put32(struct virtio *v, unsigned off, u32 val)
{
	val = htole32(val);
	memcpy(v->config + off, &val, sizeof(val));
}

static void fill_config(struct blk *b, const struct blk_config *cfg, unsigned queue_size)
{
	struct virtio *v = &b->v;
	u32 granularity = MAX(block_granularity(b->image), BLOCK_SECTOR) / BLOCK_SECTOR;
	u64 sectors = htole64(b->sectors);

	v->offered = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_MQ;
	v->offered |= b->readonly ? F_RO : F_DISCARD | F_WRITE_ZEROES;
	v->config_len = CFG_LEN;
	memcpy(v->config + CFG_CAPACITY, &sectors, sizeof(sectors));
	put32(v, CFG_SEG_MAX, queue_size - 2); /* a chain of header, data and status, without indirect descriptors */
	put32(v, CFG_BLK_SIZE, BLOCK_SECTOR);
	v->config[CFG_PHYSICAL_BLOCK_EXP] = PHYSICAL_EXP;
	put16(v, CFG_MIN_IO_SIZE, 1 << PHYSICAL_EXP);
	put32(v, CFG_OPT_IO_SIZE, granularity > 1 << PHYSICAL_EXP ? granularity : 0);
	v->config[CFG_WRITEBACK] = v->config_wmask[CFG_WRITEBACK] = 1;
	put16(v, CFG_NUM_QUEUES, (u16)cfg->queues);
	if (b->readonly)
		return;
	put32(v, CFG_MAX_DISCARD_SECTORS, DISCARD_SECTORS_MAX);
	put32(v, CFG_MAX_DISCARD_SEG, SEGMENTS_MAX);
	put32(v, CFG_DISCARD_ALIGNMENT, granularity);
	put32(v, CFG_MAX_ZEROES_SECTORS, ZEROES_SECTORS_MAX);
	put32(v, CFG_MAX_ZEROES_SEG, SEGMENTS_MAX);
	v->config[CFG_ZEROES_MAY_UNMAP] = 1;
}

struct virtio *blk_create(struct board *board, struct pci_bus *bus, const struct blk_config *cfg)
{
	struct blk *b = calloc(1, sizeof(*b));
	unsigned queue_size = cfg->queue_size ? cfg->queue_size : BLK_QUEUE_SIZE;

	if (!b)
		return NULL;
	pthread_mutex_init(&b->lock, NULL);
	b->done_tail = &b->done;
	b->v.ops = &blk_ops;
	b->v.queues = cfg->queues;
	for (unsigned i = 0; i < cfg->queues; i++)
		b->v.queue[i].size_max = (u16)queue_size;
	b->image = cfg->image;
	b->name = cfg->name;
	if (cfg->serial)
		memcpy(b->serial, cfg->serial, strnlen(cfg->serial, sizeof(b->serial)));
	b->sectors = block_size(b->image) / BLOCK_SECTOR;
	b->readonly = block_readonly(b->image);
	b->synchronous = door_mode(board->door) == DOOR_VIRTUAL;
	b->pool_size = cfg->queues * queue_size;
	fill_config(b, cfg, queue_size);
	/* large and mostly never touched: the host provides zeros on demand */
	b->pool = calloc(b->pool_size, sizeof(*b->pool));
	b->source = b->pool ? door_add_source(board->door, cfg->name, on_source, b) : -1;
	if (b->source < 0 || virtio_pci_create(board, bus, cfg->slot, &b->v) < 0) {
		blk_free(b);
		return NULL;
	}
	return &b->v;
}

const struct disk_stats *blk_stats(const struct virtio *v)
{
	return &of_virtio(v)->stats;
}
