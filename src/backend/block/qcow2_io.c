/*
 * Requests to a qcow2 image.
 *
 * A write goes to clusters that are there in place. What is not allocated yet,
 * compressed, or shared with a snapshot gets new clusters: they are written as
 * a whole, with what the request leaves out read from where it is so far, and
 * only then are they put into the L2 table.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"

static struct qcow2 *qcow2_of(struct image *im)
{
	return container_of(im, struct qcow2, im);
}

static u64 cluster_start(const struct qcow2 *q, u64 offset)
{
	return offset & ~(q->cluster - 1);
}

static u64 cluster_end(const struct qcow2 *q, u64 offset)
{
	return cluster_start(q, offset + q->cluster - 1);
}

/* ---- reading ---- */

static int read_backing(struct qcow2 *q, u64 offset, u64 length, struct view v)
{
	u64 size = q->im.backing ? q->im.backing->size : 0;
	u64 inside = offset < size ? MIN(length, size - offset) : 0;

	view_zero(view_at(v, inside), length - inside);
	return inside ? q->im.backing->ops->read(q->im.backing, offset, inside, v) : 0;
}

/* The file may end within its last cluster, where it was so when it was opened; what is missing reads zero. */
static int read_data(struct qcow2 *q, u64 host, u64 length, struct view v)
{
	int rc = file_readv(q->im.file, host, length, v);
	u64 size, inside;

	if (rc != EIO || file_size(q->im.file, &size) || size < q->first_end || cluster_start(q, host) >= size)
		return rc;
	if (host + length <= size)
		return rc;
	inside = host < size ? size - host : 0;
	view_zero(view_at(v, inside), length - inside);
	return file_readv(q->im.file, host, inside, v);
}

static int map_locked(struct qcow2 *q, u64 offset, u64 length, struct qcow2_extent *x)
{
	int rc;

	pthread_mutex_lock(&q->lock);
	while ((rc = qcow2_map(q, offset, length, false, x)) == EAGAIN)
		if ((rc = qcow2_make_room(q)))
			break;
	pthread_mutex_unlock(&q->lock);
	return rc;
}

static int read_extent(struct qcow2 *q, const struct qcow2_extent *x, u64 offset, struct view v)
{
	switch (x->kind) {
	case QCOW2_UNALLOCATED:
		return read_backing(q, offset, x->length, v);
	case QCOW2_ZEROES:
		view_zero(v, x->length);
		return 0;
	case QCOW2_DATA:
		return read_data(q, x->host, x->length, v);
	case QCOW2_PACKED:
		return qcow2_read_packed(q, x->host, offset & (q->cluster - 1), x->length, v);
	}
	return EIO;
}

int qcow2_read_guest(struct qcow2 *q, u64 offset, u64 length, struct view v)
{
	struct qcow2_extent x;
	int rc = 0;

	for (; !rc && length; offset += x.length, length -= x.length, v.skip += x.length) {
		rc = map_locked(q, offset, length, &x);
		if (!rc)
			rc = read_extent(q, &x, offset, v);
	}
	return rc;
}

static int qcow2_read(struct image *im, u64 offset, u64 length, struct view v)
{
	struct qcow2 *q = qcow2_of(im);
	struct range r;
	int rc;

	range_lock(&q->ranges, &r, cluster_start(q, offset), cluster_end(q, offset + length), false);
	rc = qcow2_read_guest(q, offset, length, v);
	range_unlock(&q->ranges, &r);
	return rc;
}

/* ---- writing ---- */

/* New clusters for a part of a request. */
struct fresh {
	u64 offset, length; /* the part, bytes of the disk */
	u64 host, n;	    /* clusters */
	bool reused;	    /* one that a zero cluster had allocated */
};

static bool keeps_cluster(struct qcow2 *q, u64 entry)
{
	u64 host = entry & QCOW2_OFFSET;

	return qcow2_kind_of(q, entry) == QCOW2_ZEROES && host && (entry & QCOW2_COPIED) &&
	       !(host & (q->cluster - 1)) && !qcow2_set_has(&q->tables, host >> q->cluster_bits);
}

/* Clusters for what is at the start of the part and must move; under `lock`. */
static int allocate(struct qcow2 *q, u64 offset, u64 length, struct fresh *f)
{
	u64 i = offset >> q->cluster_bits & (BIT(q->l2_bits) - 1), want, in_l2 = BIT(q->l2_bits) - i;
	struct qcow2_table *t;
	int rc = qcow2_l2_for_write(q, offset, &t);

	*f = (struct fresh){ 0 };
	if (rc)
		return rc;
	f->offset = offset;
	want = MIN((cluster_end(q, offset + length) - cluster_start(q, offset)) >> q->cluster_bits, in_l2);
	if (keeps_cluster(q, qcow2_get64(t->data, i))) {
		f->host = qcow2_get64(t->data, i) & QCOW2_OFFSET;
		f->n = 1;
		f->reused = true;
	} else {
		u64 n = 1;

		/* up to the first that stays where it is */
		while (n < want) {
			u64 entry = qcow2_get64(t->data, i + n);

			if (keeps_cluster(q, entry) ||
			    (qcow2_kind_of(q, entry) == QCOW2_DATA && (entry & QCOW2_COPIED)))
				break;
			n++;
		}
		rc = qcow2_alloc(q, n, &f->host, &f->n);
	}
	f->length = MIN(length, cluster_start(q, offset) + (f->n << q->cluster_bits) - offset);
	return rc;
}

static int link_fresh(struct qcow2 *q, const struct fresh *f)
{
	u64 i = f->offset >> q->cluster_bits & (BIT(q->l2_bits) - 1);
	struct qcow2_table *t;
	int rc = qcow2_l2_for_write(q, f->offset, &t);

	for (u64 k = 0; !rc && k < f->n && !f->reused; k++)
		rc = qcow2_free_entry(q, qcow2_get64(t->data, i + k), false);
	if (rc)
		return rc;
	for (u64 k = 0; k < f->n; k++)
		qcow2_set64(t->data, i + k, (f->host + (k << q->cluster_bits)) | QCOW2_COPIED);
	qcow2_table_dirty(t, i * 8, (i + f->n) * 8);
	return 0;
}

/* Writes the clusters as a whole: `head` and `tail` bytes around the part are copied from what the disk reads so far.
 */
static int fill_fresh(struct qcow2 *q, const struct fresh *f, struct view v)
{
	u64 start = cluster_start(q, f->offset), end = start + (f->n << q->cluster_bits);
	u64 head = f->offset - start, tail = end - f->offset - f->length;
	struct iovec edge;
	void *copy = NULL;
	int rc = 0;

	if (head + tail && posix_memalign(&copy, PAGE_SIZE, MAX(head, tail)))
		return ENOMEM;
	edge = (struct iovec){ copy, head };
	if (head)
		rc = qcow2_read_guest(q, start, head, (struct view){ &edge, 1, 0 });
	if (!rc && head)
		rc = file_writev(q->im.file, f->host, head, (struct view){ &edge, 1, 0 });
	if (!rc)
		rc = file_writev(q->im.file, f->host + head, f->length, v);
	edge = (struct iovec){ copy, tail };
	if (!rc && tail)
		rc = qcow2_read_guest(q, end - tail, tail, (struct view){ &edge, 1, 0 });
	if (!rc && tail)
		rc = file_writev(q->im.file, f->host + head + f->length, tail, (struct view){ &edge, 1, 0 });
	free(copy);
	return rc;
}

static int write_fresh(struct qcow2 *q, u64 offset, u64 length, struct view v, u64 *done)
{
	struct fresh f;
	int rc;

	pthread_mutex_lock(&q->lock);
	while ((rc = allocate(q, offset, length, &f)) == EAGAIN)
		if ((rc = qcow2_make_room(q)))
			break;
	pthread_mutex_unlock(&q->lock);
	if (rc)
		return rc;
	rc = fill_fresh(q, &f, v);
	pthread_mutex_lock(&q->lock);
	while (!rc && (rc = link_fresh(q, &f)) == EAGAIN)
		rc = qcow2_make_room(q);
	if (rc && !f.reused && !q->broken)
		qcow2_unalloc(q, f.host, f.n);
	pthread_mutex_unlock(&q->lock);
	*done = f.length;
	return rc;
}

/* From `offset` on; stops at what must move unless `may_move`. */
static int write_range(struct qcow2 *q, u64 offset, u64 length, struct view v, bool may_move, u64 *done)
{
	struct qcow2_extent x;
	int rc = 0;

	*done = 0;
	for (u64 n; !rc && *done < length; *done += rc ? 0 : n) {
		struct view at = view_at(v, *done);

		rc = map_locked(q, offset + *done, length - *done, &x);
		if (rc)
			break;
		n = x.length;
		if (x.kind == QCOW2_DATA && x.in_place)
			rc = q->broken ? EIO : file_writev(q->im.file, x.host, n, at);
		else if (may_move)
			rc = write_fresh(q, offset + *done, x.length, at, &n);
		else
			break;
	}
	return rc;
}

static int qcow2_write(struct image *im, u64 offset, u64 length, struct view v)
{
	struct qcow2 *q = qcow2_of(im);
	struct range r;
	u64 done;
	int rc;

	range_lock(&q->ranges, &r, cluster_start(q, offset), cluster_end(q, offset + length), false);
	rc = write_range(q, offset, length, v, false, &done);
	range_unlock(&q->ranges, &r);
	if (rc || done == length)
		return rc;
	offset += done;
	length -= done;
	v.skip += done;
	range_lock(&q->ranges, &r, cluster_start(q, offset), cluster_end(q, offset + length), true);
	rc = write_range(q, offset, length, v, true, &done);
	range_unlock(&q->ranges, &r);
	return rc;
}

/* ---- discard and write-zeroes ---- */

enum what { DISCARD, ZERO, ZERO_UNMAP };

/* The entry a cluster gets; false: it cannot be done by an entry. */
static bool entry_for(struct qcow2 *q, u64 offset, u64 entry, enum what what, u64 *to)
{
	enum qcow2_kind kind = qcow2_kind_of(q, entry);
	bool covered = q->im.backing && offset < q->im.backing->size;

	*to = entry;
	if (kind == QCOW2_UNALLOCATED && (what == DISCARD || !covered))
		return true;
	if (kind == QCOW2_ZEROES && (what == ZERO || !(entry & QCOW2_OFFSET)))
		return true;
	if (!covered && what != ZERO) {
		*to = 0;
		return true;
	}
	if (q->h.version < 3)
		return what == DISCARD;
	*to = QCOW2_ZERO;
	if (what == ZERO && kind == QCOW2_DATA && (entry & QCOW2_COPIED))
		*to = entry | QCOW2_ZERO;
	return true;
}

/* Some clusters of one L2 table, from `offset` on; under `lock`. *done counts bytes, 0 at what entries cannot do. */
static int set_entries(struct qcow2 *q, u64 offset, u64 length, enum what what, u64 *done)
{
	u64 i = offset >> q->cluster_bits & (BIT(q->l2_bits) - 1);
	u64 n = MIN(cluster_end(q, length) >> q->cluster_bits, BIT(q->l2_bits) - i);
	struct qcow2_table *t;
	u64 k, to;
	int rc;

	*done = n << q->cluster_bits;
	if (!(q->l1.entry[offset >> (q->cluster_bits + q->l2_bits)] & QCOW2_OFFSET) &&
	    (what == DISCARD || !q->im.backing || offset >= q->im.backing->size))
		return q->broken ? EIO : 0; /* nothing there */
	rc = qcow2_l2_for_write(q, offset, &t);
	if (rc)
		return rc;
	for (k = 0; k < n && !rc; k++) {
		u64 entry = qcow2_get64(t->data, i + k);

		if (!entry_for(q, offset + (k << q->cluster_bits), entry, what, &to))
			break;
		if (to == entry)
			continue;
		if ((to & QCOW2_OFFSET) != (entry & QCOW2_OFFSET) || (entry & QCOW2_COMPRESSED))
			rc = qcow2_free_entry(q, entry, true);
		if (rc)
			break;
		qcow2_set64(t->data, i + k, to);
		qcow2_table_dirty(t, (i + k) * 8, (i + k) * 8 + 8);
	}
	*done = k << q->cluster_bits;
	return rc;
}

static int write_zeroes(struct qcow2 *q, u64 offset, u64 length)
{
	struct iovec iov = { NULL, MIN(length, 256 * KiB) };
	struct qcow2_extent x;
	u64 done;
	int rc = map_locked(q, offset, length, &x);

	if (!rc && x.length == length &&
	    (x.kind == QCOW2_ZEROES ||
	     (x.kind == QCOW2_UNALLOCATED && (!q->im.backing || offset >= q->im.backing->size))))
		return 0;
	if (!rc && posix_memalign(&iov.iov_base, PAGE_SIZE, (iov.iov_len + PAGE_SIZE - 1) & PAGE_MASK))
		rc = ENOMEM;
	if (rc)
		return rc;
	memset(iov.iov_base, 0, iov.iov_len);
	for (; !rc && length; offset += done, length -= done) {
		u64 n = MIN(length, iov.iov_len);

		rc = write_range(q, offset, n, (struct view){ &iov, 1, 0 }, true, &done);
	}
	free(iov.iov_base);
	return rc;
}

static int change_clusters(struct qcow2 *q, u64 offset, u64 length, enum what what)
{
	int rc = 0;

	for (u64 done = 0; !rc && length; offset += done, length -= MIN(done, length)) {
		bool many;

		pthread_mutex_lock(&q->lock);
		while ((rc = set_entries(q, offset, length, what, &done)) == EAGAIN)
			if ((rc = qcow2_make_room(q)))
				break;
		many = q->freed.n > QCOW2_RUNS_MAX;
		pthread_mutex_unlock(&q->lock);
		if (!rc && many)
			rc = qcow2_sync(q, false);
		if (!rc && !done) {
			done = MIN(length, q->cluster);
			rc = write_zeroes(q, offset, done);
		}
	}
	return rc;
}

static int with_clusters(struct qcow2 *q, u64 offset, u64 length, enum what what)
{
	u64 end = offset + length;
	u64 first = cluster_end(q, offset), last = end == q->im.size ? end : cluster_start(q, end);
	struct range r;
	int rc = 0;

	range_lock(&q->ranges, &r, cluster_start(q, offset), cluster_end(q, end), true);
	if (first >= last) {
		if (what != DISCARD)
			rc = write_zeroes(q, offset, length);
	} else {
		if (what != DISCARD && first > offset)
			rc = write_zeroes(q, offset, first - offset);
		if (!rc)
			rc = change_clusters(q, first, last - first, what);
		if (!rc && what != DISCARD && end > last)
			rc = write_zeroes(q, last, end - last);
	}
	range_unlock(&q->ranges, &r);
	return rc;
}

static int qcow2_discard(struct image *im, u64 offset, u64 length)
{
	return with_clusters(qcow2_of(im), offset, length, DISCARD);
}

static int qcow2_zero(struct image *im, u64 offset, u64 length, bool unmap)
{
	return with_clusters(qcow2_of(im), offset, length, unmap ? ZERO_UNMAP : ZERO);
}

/* ---- the rest ---- */

static int qcow2_flush(struct image *im)
{
	return im->readonly ? 0 : qcow2_sync(qcow2_of(im), true);
}

static void qcow2_unpin(struct image *im, struct pin *p)
{
	if (!im->readonly)
		range_unlock(&qcow2_of(im)->ranges, &p->range);
}

static bool pin_extent(struct qcow2 *q, struct pin *p, bool write, u64 offset, u64 length, struct view v,
		       const struct qcow2_extent *x)
{
	u64 backed = q->im.backing ? q->im.backing->size : 0;

	switch (x->kind) {
	case QCOW2_DATA:
		p->offset = x->host;
		return file_pin(q->im.file, write, x->host, length, v, &p->fd, &p->cached);
	case QCOW2_UNALLOCATED:
		if (offset < backed)
			return offset + length <= backed &&
			       q->im.backing->ops->pin(q->im.backing, p, false, offset, length, v);
		/* fall through */
	case QCOW2_ZEROES:
		p->fd = -1;
		return true;
	case QCOW2_PACKED:
		break;
	}
	return false;
}

/* Nobody writes to an image that is only read: its ranges need no locks. */
static bool qcow2_pin(struct image *im, struct pin *p, bool write, u64 offset, u64 length, struct view v)
{
	struct qcow2 *q = qcow2_of(im);
	struct qcow2_extent x;
	bool ok;

	if (!im->readonly &&
	    !range_trylock(&q->ranges, &p->range, cluster_start(q, offset), cluster_end(q, offset + length), false))
		return false;
	ok = pthread_mutex_trylock(&q->lock) == 0;
	if (ok) {
		ok = qcow2_map(q, offset, length, true, &x) == 0 && x.length == length &&
		     (!write || (x.kind == QCOW2_DATA && x.in_place && !q->broken));
		pthread_mutex_unlock(&q->lock);
	}
	if (ok && pin_extent(q, p, write, offset, length, v, &x))
		return true;
	qcow2_unpin(im, p);
	return false;
}

/* What cannot be found out is for who reads it. */
static bool qcow2_own(struct image *im, u64 offset, u64 limit, u64 *end)
{
	struct qcow2 *q = qcow2_of(im);
	struct qcow2_extent x;

	if (map_locked(q, offset, limit - offset, &x))
		x = (struct qcow2_extent){ .kind = QCOW2_DATA, .length = MIN(q->cluster, limit - offset) };
	*end = offset + x.length;
	return x.kind != QCOW2_UNALLOCATED;
}

static u64 qcow2_next_data(struct image *im, u64 offset, u64 limit, u64 *end)
{
	struct qcow2 *q = qcow2_of(im);
	struct qcow2_extent x;

	for (; offset < limit; offset += x.length) {
		u64 backed = q->im.backing ? q->im.backing->size : 0, stop, found;

		/* what cannot be read is for who reads it */
		if (map_locked(q, offset, limit - offset, &x))
			x = (struct qcow2_extent){ .kind = QCOW2_DATA, .length = MIN(q->cluster, limit - offset) };
		*end = offset + x.length;
		if (x.kind == QCOW2_DATA || x.kind == QCOW2_PACKED)
			return offset;
		if (x.kind == QCOW2_ZEROES || offset >= backed)
			continue;
		stop = MIN(*end, backed);
		found = q->im.backing->ops->next_data(q->im.backing, offset, stop, end);
		if (found < stop)
			return found;
	}
	*end = limit;
	return limit;
}

static void cache_destroy(struct qcow2 *q)
{
	qcow2_cache_free(&q->l2);
	qcow2_cache_free(&q->blocks);
	free(q->l1.entry);
	free(q->reftable.entry);
	free(q->tables.slot);
	free(q->freed.run);
	qcow2_unpacked_destroy(q);
}

static int qcow2_close(struct image *im)
{
	struct qcow2 *q = qcow2_of(im);
	int rc = 0, rc2 = 0;

	if (!im->readonly && !q->broken) {
		/* the second one writes the refcounts that the first one made free */
		rc = qcow2_sync(q, true);
		rc2 = rc ? 0 : qcow2_sync(q, true);
	}
	cache_destroy(q);
	if (q->im.backing)
		q->im.backing->ops->close(q->im.backing);
	file_close(im->file);
	ranges_destroy(&q->ranges);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->sync_lock);
	free(q);
	return rc ? rc : rc2;
}

const struct format_ops qcow2_ops = {
	.name = "qcow2",
	.read = qcow2_read,
	.write = qcow2_write,
	.flush = qcow2_flush,
	.discard = qcow2_discard,
	.zero = qcow2_zero,
	.pin = qcow2_pin,
	.unpin = qcow2_unpin,
	.own = qcow2_own,
	.next_data = qcow2_next_data,
	.close = qcow2_close,
};
