/*
 * The memory balloon, see balloon.h.
 *
 * A request can be long (a chain of page numbers may have gigabytes), so it is
 * served by turns: what is left waits in the queue, with the position in its
 * first chain, for a timer of the guest's time. That is the same on every run
 * with the virtual clock.
 *
 * The number of the reporting queue: 5.5.2 counts queue 3 (free page hints)
 * even where it does not exist, drivers do not and use the next number that is
 * free. Here no queue but these means anything else, so each is taken.
 */
#include "dev/virtio/balloon.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define F_STATS_VQ BIT(1)
#define F_DEFLATE_ON_OOM BIT(2)
#define F_PAGE_POISON BIT(4)
#define F_REPORTING BIT(5)

/* Configuration (5.5.4) */
#define CONFIG_NUM_PAGES 0
#define CONFIG_ACTUAL 4
#define CONFIG_POISON_VAL 12
#define CONFIG_LEN 16

#define QUEUES 5
#define QUEUE_SIZE 128

#define PFN_SHIFT 12 /* of page numbers, whatever the guest's page size */
#define PFNS 256     /* looked at together; drivers send as many */
#define STAT_LEN 10  /* le16 tag, le64 value */
#define STATS_MAX 64 /* pairs looked at */

/* A turn's work: a page counts 1 and each call of the host some more. About 2 ms. */
#define TURN 16384u
#define CALL_COST 16u
#define NEXT_TURN_NS 1000u

struct balloon {
	struct virtio v;
	struct timer *next_turn; /* saved */
	u32 done[QUEUES];	 /* saved: bytes of a queue's first chain that are served */
	u64 inflated, reported, reports;
	u64 stat[BALLOON_STATS];
	struct virtq_buf buf;
	u32 pfn[PFNS];
};

static struct balloon *of(const struct virtio *v)
{
	return container_of((struct virtio *)(uintptr_t)v, struct balloon, v);
}

enum role { NONE, INFLATE, DEFLATE, STATS, REPORTING };

static enum role role(const struct balloon *b, unsigned queue)
{
	switch (queue) {
	case 0:
		return INFLATE;
	case 1:
		return DEFLATE;
	case 2:
		if (virtio_has(&b->v, F_STATS_VQ))
			return STATS;
		break;
	}
	return virtio_has(&b->v, F_REPORTING) ? REPORTING : NONE;
}

static u32 get_config(const struct virtio *v, unsigned at)
{
	u32 val;

	memcpy(&val, v->config + at, sizeof(val));
	return val;
}

static void put_config(struct virtio *v, unsigned at, u32 val)
{
	memcpy(v->config + at, &val, sizeof(val));
}

/* ---- pages ---- */

static bool discard(struct balloon *b, gpa_t gpa, u64 len, u64 *count, unsigned *turn)
{
	unsigned cost = CALL_COST + (unsigned)(len >> PAGE_SHIFT);

	*turn -= MIN(*turn, cost);
	if (memory_discard(b->v.board->mem, gpa, len))
		return false;
	*count += len;
	return true;
}

/* `count` page numbers in a row. Of a row that is not all RAM, what is. */
static void discard_row(struct balloon *b, u32 first, u32 count, unsigned *turn)
{
	gpa_t gpa = (gpa_t)first << PFN_SHIFT;

	if (discard(b, gpa, (u64)count << PFN_SHIFT, &b->inflated, turn))
		return;
	for (u32 i = 0; count > 1 && i < count; i++)
		discard(b, gpa + ((u64)i << PFN_SHIFT), PAGE_SIZE, &b->inflated, turn);
}

static int by_number(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

static void discard_pages(struct balloon *b, unsigned n, unsigned *turn)
{
	qsort(b->pfn, n, sizeof(b->pfn[0]), by_number);
	for (unsigned i = 0, next; i < n; i = next) {
		u32 count = 1;

		for (next = i + 1; next < n && b->pfn[next] - b->pfn[i] <= count; next++)
			count = b->pfn[next] - b->pfn[i] + 1; /* a number may stand there twice */
		discard_row(b, b->pfn[i], count, turn);
	}
}

/* Both of these serve the chain in b->buf from byte *done on. False: the turn is over first. */

static bool inflate(struct balloon *b, u32 *done, unsigned *turn)
{
	size_t n;

	while ((n = virtq_copy_out(&b->buf, *done, b->pfn, sizeof(b->pfn)) / sizeof(b->pfn[0]))) {
		if (!*turn)
			return false;
		discard_pages(b, (unsigned)n, turn);
		*done += (u32)(n * sizeof(b->pfn[0]));
	}
	return true;
}

/* 5.5.6.7: what is reported free keeps its content, or is the poison when the guest looks at it again. */
static bool report(struct balloon *b, u32 *done, unsigned *turn)
{
	const struct virtq_buf *buf = &b->buf;
	u64 start = 0; /* of the buffer within the chain */

	if (virtio_has(&b->v, F_PAGE_POISON) && get_config(&b->v, CONFIG_POISON_VAL))
		return true;
	for (unsigned i = buf->out_n; i < buf->out_n + buf->in_n; start += buf->iov[i++].iov_len) {
		while (*done < start + buf->iov[i].iov_len) {
			u64 off = *done - start, n = MIN(buf->iov[i].iov_len - off, (u64)TURN << PAGE_SHIFT);
			gpa_t from = (buf->gpa[i] + off + PAGE_SIZE - 1) & PAGE_MASK;
			gpa_t to = (buf->gpa[i] + off + n) & PAGE_MASK;

			if (!*turn)
				return false;
			if (from < to)
				discard(b, from, to - from, &b->reported, turn);
			else
				*turn -= 1;
			*done += (u32)n;
		}
	}
	return true;
}

/* ---- statistics ---- */

/*
 * The driver has one buffer in the queue all the time: it gets that back when
 * it is to tell again, and brings it with the answer (5.5.6.3). Between, it
 * stays in the ring.
 */
static void read_stats(struct balloon *b, struct virtq *q)
{
	u8 pair[STAT_LEN];
	u16 tag;

	if (virtq_pop(q, &b->buf) <= 0)
		return;
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		b->stat[i] = BALLOON_STAT_UNKNOWN;
	for (unsigned i = 0; i < STATS_MAX; i++) {
		if (virtq_copy_out(&b->buf, i * STAT_LEN, pair, STAT_LEN) != STAT_LEN)
			break;
		memcpy(&tag, pair, sizeof(tag));
		if (tag < BALLOON_STATS)
			memcpy(&b->stat[tag], pair + sizeof(tag), sizeof(b->stat[tag]));
	}
	b->reports++;
	virtq_unpop(q, 1);
}

bool virtio_balloon_ask_stats(struct virtio *v)
{
	struct balloon *b = of(v);
	struct virtq *q = &v->queue[2];

	if (role(b, 2) != STATS || virtq_pop(q, &b->buf) <= 0)
		return false;
	virtq_push(q, &b->buf, 0);
	virtq_signal(q);
	return true;
}

/* ---- queues ---- */

static void serve(struct balloon *b, unsigned queue)
{
	struct virtq *q = &b->v.queue[queue];
	enum role what = role(b, queue);
	unsigned turn = TURN;

	if (what == STATS) {
		read_stats(b, q);
		return;
	}
	while (virtq_pop(q, &b->buf) > 0) {
		bool whole = what == INFLATE	 ? inflate(b, &b->done[queue], &turn)
			     : what == REPORTING ? report(b, &b->done[queue], &turn)
						 : true;

		if (!whole) {
			virtq_unpop(q, 1);
			if (!timer_armed(b->next_turn))
				timer_arm(b->next_turn, clock_now(b->v.board->clock) + NEXT_TURN_NS);
			break;
		}
		b->done[queue] = 0;
		virtq_push(q, &b->buf, 0);
	}
	virtq_signal(q);
}

static void next_turn(void *opaque)
{
	struct balloon *b = opaque;

	for (unsigned i = 0; i < b->v.queues; i++)
		if (role(b, i) != STATS && b->v.queue[i].enabled)
			serve(b, i);
}

static void balloon_notify(struct virtio *v, unsigned queue)
{
	/* what waits for its next turn gets no more of them by being kicked */
	if (!of(v)->done[queue] || !timer_armed(of(v)->next_turn))
		serve(of(v), queue);
}

/* Drivers fill the queue of statistics before they start. */
static void balloon_start(struct virtio *v)
{
	for (unsigned i = 0; i < v->queues; i++)
		if (v->queue[i].enabled)
			serve(of(v), i);
}

static void balloon_reset(struct virtio *v)
{
	struct balloon *b = of(v);

	timer_cancel(b->next_turn);
	memset(b->done, 0, sizeof(b->done));
	for (unsigned i = 0; i < BALLOON_STATS; i++)
		b->stat[i] = BALLOON_STAT_UNKNOWN;
	put_config(v, CONFIG_ACTUAL, 0);
	put_config(v, CONFIG_POISON_VAL, 0);
}

/* ---- for the machine ---- */

void virtio_balloon_set_target(struct virtio *v, u64 bytes)
{
	u32 pages = (u32)(bytes >> PFN_SHIFT);

	if (get_config(v, CONFIG_NUM_PAGES) == pages)
		return;
	put_config(v, CONFIG_NUM_PAGES, pages);
	virtio_config_changed(v);
}

void virtio_balloon_info(const struct virtio *v, struct virtio_balloon_info *out)
{
	const struct balloon *b = of(v);

	*out = (struct virtio_balloon_info){
		.driver = virtio_running(v),
		.target = (u64)get_config(v, CONFIG_NUM_PAGES) << PFN_SHIFT,
		.actual = (u64)get_config(v, CONFIG_ACTUAL) << PFN_SHIFT,
		.inflated = b->inflated,
		.reported = b->reported,
		.reports = b->reports,
	};
	memcpy(out->stat, b->stat, sizeof(out->stat));
}

/* ---- state: section "virtio-balloon", version 1 ---- */

static void balloon_save(const struct virtio *v, struct encoder *e)
{
	const struct balloon *b = of(v);

	enc_begin(e, v->ops->name, 1);
	for (unsigned i = 0; i < QUEUES; i++)
		enc_u32(e, b->done[i]);
	enc_bool(e, timer_armed(b->next_turn));
	enc_u64(e, timer_armed(b->next_turn) ? timer_deadline(b->next_turn) : 0);
	enc_end(e);
}

static bool decode(const struct virtio *v, struct decoder *in, u32 done[QUEUES], bool *armed, u64 *deadline)
{
	struct decoder s;

	if (!dec_begin(in, v->ops->name, &s) || s.version != 1)
		return false;
	for (unsigned i = 0; i < QUEUES; i++)
		done[i] = dec_u32(&s);
	*armed = dec_bool(&s);
	*deadline = dec_u64(&s);
	return dec_done(&s);
}

static int balloon_check(const struct virtio *v, struct decoder *in)
{
	u32 done[QUEUES];
	u64 deadline;
	bool armed;

	return decode(v, in, done, &armed, &deadline) && (armed || !deadline) ? 0 : -1;
}

static void balloon_load(struct virtio *v, struct decoder *in)
{
	struct balloon *b = of(v);
	u64 deadline;
	bool armed;

	if (!decode(v, in, b->done, &armed, &deadline))
		assert(!"checked before");
	timer_cancel(b->next_turn);
	if (armed)
		timer_arm(b->next_turn, deadline);
	if (role(b, 2) == STATS)
		read_stats(b, &v->queue[2]);
}

static void balloon_free(struct balloon *b)
{
	if (b->next_turn)
		timer_free(b->next_turn);
	free(b);
}

static void balloon_destroy(struct virtio *v)
{
	balloon_free(of(v));
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.pci_class = 0x00ff00, /* no class fits */
	.reset = balloon_reset,
	.start = balloon_start,
	.notify = balloon_notify,
	.save = balloon_save,
	.check = balloon_check,
	.load = balloon_load,
	.destroy = balloon_destroy,
};

struct virtio *virtio_balloon_create(struct board *board, struct pci_bus *bus, unsigned slot,
				     const struct virtio_balloon_config *cfg)
{
	struct balloon *b = calloc(1, sizeof(*b));
	struct virtio *v;

	if (!b)
		return NULL;
	v = &b->v;
	v->ops = &balloon_ops;
	v->offered = F_STATS_VQ | F_DEFLATE_ON_OOM | (cfg->reporting ? F_REPORTING | F_PAGE_POISON : 0);
	v->config_len = CONFIG_LEN;
	put_config(v, CONFIG_NUM_PAGES, (u32)(cfg->target >> PFN_SHIFT));
	memset(v->config_wmask + CONFIG_ACTUAL, 0xff, 4);
	memset(v->config_wmask + CONFIG_POISON_VAL, 0xff, 4);
	v->queues = cfg->reporting ? QUEUES : 3;
	for (unsigned i = 0; i < v->queues; i++)
		v->queue[i].size_max = QUEUE_SIZE;
	memset(b->stat, 0xff, sizeof(b->stat)); /* BALLOON_STAT_UNKNOWN */
	b->next_turn = timer_create_on(board->clock, "balloon", next_turn, b);
	if (b->next_turn && virtio_pci_create(board, bus, slot, v) == 0)
		return v;
	balloon_free(b);
	return NULL;
}
