/* Opening a qcow2 image. */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"
#include "base/log.h"

#define L2_CACHE_BYTES (16 * MiB)
#define BLOCK_CACHE_BYTES (2 * MiB)
#define SNAPSHOT_TABLES_MAX (4 * MiB) /* clusters of snapshots' L1 tables that are looked after */

static unsigned slots(u64 bytes, u64 cluster)
{
	return MIN(MAX(bytes / cluster, 16), 1024);
}

static int load_array(struct qcow2 *q, struct qcow2_array *a, u64 offset, u64 n)
{
	int rc;

	a->offset = offset;
	a->n = n;
	a->entry = malloc(MAX(n, 1) * sizeof(*a->entry));
	if (!a->entry)
		return ENOMEM;
	rc = n ? file_read(q->im.file, offset, a->entry, n * sizeof(*a->entry)) : 0;
	for (u64 i = 0; !rc && i < n; i++)
		a->entry[i] = be64toh(a->entry[i]);
	return rc;
}

static int add_tables(struct qcow2 *q, u64 offset, u64 bytes)
{
	u64 end = (offset + bytes + q->cluster - 1) >> q->cluster_bits;
	int rc = 0;

	for (u64 c = offset >> q->cluster_bits; !rc && c < end; c++)
		rc = qcow2_set_add(&q->tables, c);
	return rc;
}

/* Where metadata lie, so that nothing else is ever written there. EEXIST: they overlap. */
static int find_tables(struct qcow2 *q)
{
	int rc = add_tables(q, 0, q->cluster);

	if (!rc)
		rc = add_tables(q, q->l1.offset, q->l1.n * 8);
	if (!rc)
		rc = add_tables(q, q->reftable.offset, q->reftable.n * 8);
	for (u64 i = 0; !rc && i < q->l1.n; i++)
		if (q->l1.entry[i] & QCOW2_OFFSET)
			rc = add_tables(q, q->l1.entry[i] & QCOW2_OFFSET, q->cluster);
	for (u64 i = 0; !rc && i < q->reftable.n; i++)
		if (q->reftable.entry[i])
			rc = add_tables(q, q->reftable.entry[i], q->cluster);
	return rc;
}

/* Snapshots may share clusters of the active tables: only whole L1 tables and the list itself are theirs. */
static int find_snapshot_tables(struct qcow2 *q)
{
	u64 at = q->h.snapshots_offset, total = 0;
	struct qcow2_snapshot s;
	int rc = 0;

	for (u32 i = 0; !rc && i < q->h.snapshots; i++, at += s.entry_size) {
		rc = qcow2_snapshot_read(q->im.file, at, &s);
		total += ((u64)s.l1_size * 8 >> q->cluster_bits) + 1;
		if (!rc && total > SNAPSHOT_TABLES_MAX)
			rc = EFBIG;
		if (!rc && s.l1_size)
			rc = add_tables(q, s.l1_offset, (u64)s.l1_size * 8);
	}
	return rc || !q->h.snapshots ? rc : add_tables(q, q->h.snapshots_offset, at - q->h.snapshots_offset);
}

static int load(struct qcow2 *q, struct error *e)
{
	const char *path = q->im.file->path;
	int rc = load_array(q, &q->l1, q->h.l1_offset, q->h.l1_size);

	if (!rc)
		rc = load_array(q, &q->reftable, q->h.reftable_offset,
				(u64)q->h.reftable_clusters << (q->cluster_bits - 3));
	if (rc)
		return error_errno(e, rc, "%s: cannot read the tables of the qcow2 image", path);
	if (qcow2_cache_init(&q->l2, slots(L2_CACHE_BYTES, q->cluster)) ||
	    qcow2_cache_init(&q->blocks, slots(BLOCK_CACHE_BYTES, q->cluster)) || qcow2_unpacked_create(q))
		return error_set(e, "%s: out of memory", path);
	if (q->im.readonly)
		return 0;
	rc = find_tables(q);
	if (!rc)
		rc = find_snapshot_tables(q);
	if (rc == EEXIST)
		return error_set(e, "%s: tables of the qcow2 image overlap; see qemu-img check ('readonly' opens it)",
				 path);
	return rc ? error_errno(e, rc, "%s: cannot read the tables of the qcow2 image", path) : 0;
}

/* What the file must say before anybody writes to it: refcounts that are right, and of what we keep up to date. */
static int make_writable(struct file *f, struct qcow2_header *h, bool look, struct error *e)
{
	int rc;

	if (h->incompat & QCOW2_INCOMPAT_CORRUPT)
		return error_set(e,
				 "%s: the image is marked corrupt; repair it with qemu-img check -r all, or open it "
				 "with 'readonly'",
				 f->path);
	if (look)
		return 0;
	if (h->incompat & QCOW2_INCOMPAT_DIRTY) {
		log_info("block", "%s: was not closed; its refcounts are made anew", f->path);
		if (qcow2_rebuild(f, h, e) < 0)
			return -1;
	}
	if (!h->autoclear)
		return 0;
	h->autoclear = 0;
	rc = qcow2_header_update(f, h);
	return rc ? error_errno(e, rc, "%s: cannot write the image", f->path) : 0;
}

static void init(struct qcow2 *q, struct file *f, const struct qcow2_header *h, struct image *backing)
{
	q->im = (struct image){ .ops = &qcow2_ops, .file = f, .size = h->size, .readonly = !f->writable };
	q->im.granularity = 1u << h->cluster_bits;
	q->h = *h;
	q->im.backing = backing;
	q->cluster_bits = h->cluster_bits;
	q->cluster = BIT(h->cluster_bits);
	q->l2_bits = h->cluster_bits - 3;
	q->block_bits = h->cluster_bits + 3 - h->refcount_order;
	q->refcount_bits = 1u << h->refcount_order;
	ranges_init(&q->ranges);
	pthread_mutex_init(&q->sync_lock, NULL);
	pthread_mutex_init(&q->lock, NULL);
	/* tables go through the page cache: data must not share its pages */
	if (q->cluster < PAGE_SIZE)
		file_no_direct(f);
}

struct image *qcow2_open(struct file *f, const struct qcow2_header *h, struct image *backing, bool look,
			 struct error *e)
{
	struct qcow2 *q = calloc(1, sizeof(*q));

	if (!q) {
		error_set(e, "%s: out of memory", f->path);
		if (backing)
			backing->ops->close(backing);
		file_close(f);
		return NULL;
	}
	init(q, f, h, backing);
	if (file_size(f, &q->first_end)) {
		error_set(e, "%s: cannot read the image", f->path);
		q->broken = true;
	} else if ((f->writable && make_writable(f, &q->h, look, e) < 0) || load(q, e) < 0) {
		q->broken = true;
	}
	if (!q->broken)
		return &q->im;
	qcow2_ops.close(&q->im);
	return NULL;
}
