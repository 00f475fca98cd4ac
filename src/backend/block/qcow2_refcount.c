/*
 * Refcounts: finding free clusters, freeing them, growing the refcount table.
 *
 * A cluster taken here has refcount 1 in memory at once; the sync that writes
 * a table which refers to it writes the refcount before. A cluster given back
 * keeps its refcount until a sync has written the tables that no longer refer
 * to it.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"
#include "base/log.h"

u64 qcow2_refcount_get(const u8 *block, u64 index, unsigned bits)
{
	u64 v = 0;

	if (bits < 8)
		return block[index * bits / 8] >> (index * bits % 8) & (BIT(bits) - 1);
	for (unsigned i = 0; i < bits / 8; i++)
		v = v << 8 | block[index * (bits / 8) + i];
	return v;
}

void qcow2_refcount_set(u8 *block, u64 index, unsigned bits, u64 value)
{
	if (bits < 8) {
		u8 *b = &block[index * bits / 8];
		unsigned shift = index * bits % 8;

		*b = (*b & ~((BIT(bits) - 1) << shift)) | value << shift;
		return;
	}
	for (unsigned i = bits / 8; i--; value >>= 8)
		block[index * (bits / 8) + i] = value;
}

int qcow2_broken(struct qcow2 *q, const char *what)
{
	if (!q->broken)
		log_error("block", "%s: %s; nothing more is written to it; see qemu-img check", q->im.file->path, what);
	q->broken = true;
	return EIO;
}

static u64 block_mask(const struct qcow2 *q)
{
	return BIT(q->block_bits) - 1;
}

static void set_counts(struct qcow2 *q, struct qcow2_table *t, u64 from, u64 n, u64 value)
{
	for (u64 i = from; i < from + n; i++)
		qcow2_refcount_set(t->data, i, q->refcount_bits, value);
	qcow2_table_dirty(t, from * q->refcount_bits / 8, ((from + n) * q->refcount_bits + 7) / 8);
}

/* A refcount block in the first of the clusters it counts: with no block there they are all free. */
static int new_block(struct qcow2 *q, u64 index)
{
	u64 cluster = index << q->block_bits;
	struct qcow2_table *t;
	int rc = qcow2_cache_reserve(q, &q->blocks, &t);

	if (rc)
		return rc;
	rc = qcow2_set_add(&q->tables, cluster);
	if (rc == EEXIST)
		return qcow2_broken(q, "its refcounts say that a table's cluster is free");
	if (rc)
		return rc;
	memset(t->data, 0, q->cluster);
	qcow2_cache_insert(&q->blocks, t, cluster << q->cluster_bits);
	set_counts(q, t, 0, 1, 1);
	qcow2_table_dirty(t, 0, q->cluster);
	q->reftable.entry[index] = cluster << q->cluster_bits;
	qcow2_array_dirty(&q->reftable, index, index + 1);
	return 0;
}

/* The refcount block of `cluster`; ENOENT if there is none. */
static int get_block(struct qcow2 *q, u64 cluster, struct qcow2_table **t)
{
	u64 index = cluster >> q->block_bits;

	if (index >= q->reftable.n || !q->reftable.entry[index])
		return ENOENT;
	return qcow2_cache_get(q, &q->blocks, q->reftable.entry[index], t);
}

/* In the block of cluster `from` and behind it: the first free one, and how many follow it. ENOSPC: none. */
static int find_in_block(struct qcow2 *q, struct qcow2_table *t, u64 from, u64 want, u64 *first, u64 *n)
{
	u64 i = from & block_mask(q), end = BIT(q->block_bits), count = 0;

	while (i < end && qcow2_refcount_get(t->data, i, q->refcount_bits))
		i++;
	while (i + count < end && count < want && !qcow2_refcount_get(t->data, i + count, q->refcount_bits))
		count++;
	if (!count)
		return ENOSPC;
	*first = (from & ~block_mask(q)) + i;
	*n = count;
	return 0;
}

int qcow2_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *n)
{
	struct qcow2_table *t;
	u64 at = q->hint;
	int rc;

	if (q->broken)
		return EIO;
	for (;; at = (at | block_mask(q)) + 1) {
		if (at >= QCOW2_MAX_OFFSET >> (q->cluster_bits + 1))
			return ENOSPC;
		if (at >> q->block_bits >= q->reftable.n) {
			q->want_grow = true;
			return EAGAIN;
		}
		rc = get_block(q, at, &t);
		if (rc == ENOENT) {
			rc = new_block(q, at >> q->block_bits);
			if (!rc)
				rc = get_block(q, at, &t);
		}
		if (rc)
			return rc;
		rc = find_in_block(q, t, at, want, &at, n);
		if (!rc)
			break;
	}
	for (u64 i = 0; i < *n; i++)
		if (qcow2_set_has(&q->tables, at + i))
			return qcow2_broken(q, "its refcounts say that a table's cluster is free");
	set_counts(q, t, at & block_mask(q), *n, 1);
	q->hint = at + *n;
	*offset = at << q->cluster_bits;
	return 0;
}

static void drop_one(struct qcow2 *q, u64 cluster, bool table)
{
	struct qcow2_table *t;
	u64 i = cluster & block_mask(q), count;

	if (get_block(q, cluster, &t))
		return; /* a leak */
	count = qcow2_refcount_get(t->data, i, q->refcount_bits);
	if (!count) {
		qcow2_broken(q, "a cluster in use has no refcount");
		return;
	}
	set_counts(q, t, i, 1, count - 1);
	if (count == 1) {
		q->hint = MIN(q->hint, cluster);
		if (table)
			qcow2_set_remove(&q->tables, cluster);
	}
}

void qcow2_unalloc(struct qcow2 *q, u64 offset, u64 n)
{
	for (u64 i = 0; i < n; i++)
		drop_one(q, (offset >> q->cluster_bits) + i, false);
}

int qcow2_free_later(struct qcow2 *q, u64 cluster, u64 n, bool table, bool punch)
{
	struct qcow2_runs *r = &q->freed;
	struct qcow2_run *last = r->n ? &r->run[r->n - 1] : NULL;

	if (last && last->first + last->count == cluster && last->table == table && last->punch == punch) {
		last->count += n;
		return 0;
	}
	if (r->n == r->room) {
		size_t room = r->room ? r->room * 2 : 64;
		struct qcow2_run *run = realloc(r->run, room * sizeof(*run));

		if (!run)
			return ENOMEM;
		r->run = run;
		r->room = room;
	}
	r->run[r->n++] = (struct qcow2_run){ cluster, n, table, punch };
	return 0;
}

static bool used_once(struct qcow2 *q, u64 cluster)
{
	struct qcow2_table *t;

	return !get_block(q, cluster, &t) &&
	       qcow2_refcount_get(t->data, cluster & block_mask(q), q->refcount_bits) == 1 &&
	       !qcow2_set_has(&q->tables, cluster);
}

/* Nobody else can get at the clusters while their refcount stands, so that the holes are made without `lock`. */
static void punch_run(struct qcow2 *q, const struct qcow2_run *r)
{
	for (u64 i = 0, n; i < r->count; i += n) {
		bool once = used_once(q, r->first + i);

		for (n = 1; i + n < r->count && n < 4096 && used_once(q, r->first + i + n) == once; n++)
			;
		if (!once)
			continue;
		pthread_mutex_unlock(&q->lock);
		file_discard(q->im.file, (r->first + i) << q->cluster_bits, n << q->cluster_bits);
		pthread_mutex_lock(&q->lock);
	}
}

void qcow2_free_runs(struct qcow2 *q, struct qcow2_runs *r)
{
	for (size_t i = 0; i < r->n && !q->broken; i++) {
		if (r->run[i].punch)
			punch_run(q, &r->run[i]);
		for (u64 k = 0; k < r->run[i].count; k++)
			drop_one(q, r->run[i].first + k, r->run[i].table);
	}
}

struct growth { /* behind what the table covers: `blocks` refcount blocks, then the table, of `clusters` */
	u64 at, blocks, clusters, entries;
};

static int plan_growth(const struct qcow2 *q, struct growth *g)
{
	g->at = q->reftable.n << q->block_bits;
	for (g->blocks = 1;; g->blocks++) {
		g->entries = MAX(q->reftable.n * 2, q->reftable.n + g->blocks);
		g->clusters = (g->entries * 8 + q->cluster - 1) >> q->cluster_bits;
		if (g->blocks + g->clusters <= g->blocks << q->block_bits)
			break;
	}
	g->entries = g->clusters << (q->cluster_bits - 3);
	return g->entries > QCOW2_MAX_REFTABLE ? ENOSPC : 0;
}

static int write_growth(struct qcow2 *q, const struct growth *g, u64 *entry)
{
	u64 total = g->blocks + g->clusters;
	u8 *b = malloc(MAX(q->cluster, g->entries * 8));
	int rc = b ? 0 : ENOMEM;

	for (u64 i = 0; !rc && i < g->blocks; i++) {
		memset(b, 0, q->cluster);
		for (u64 c = i << q->block_bits; c < MIN(total, (i + 1) << q->block_bits); c++)
			qcow2_refcount_set(b, c & block_mask(q), q->refcount_bits, 1);
		entry[q->reftable.n + i] = (g->at + i) << q->cluster_bits;
		rc = file_write(q->im.file, entry[q->reftable.n + i], b, q->cluster);
	}
	for (u64 i = 0; !rc && i < g->entries; i++)
		qcow2_set64(b, i, entry[i]);
	if (!rc)
		rc = file_write(q->im.file, (g->at + g->blocks) << q->cluster_bits, b, g->entries * 8);
	free(b);
	return rc;
}

static int write_dirty_blocks(struct qcow2 *q)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < q->blocks.n; i++) {
		struct qcow2_table *t = &q->blocks.slots[i];

		if (t->dirty_from == t->dirty_to)
			continue;
		rc = file_write(q->im.file, t->offset + t->dirty_from, t->data + t->dirty_from,
				t->dirty_to - t->dirty_from);
		if (!rc)
			t->dirty_from = t->dirty_to = 0;
	}
	return rc;
}

static int claim_growth(struct qcow2 *q, const struct growth *g)
{
	for (u64 i = 0; i < g->blocks + g->clusters; i++) {
		int rc = qcow2_set_add(&q->tables, g->at + i);

		if (!rc)
			continue;
		while (i--)
			qcow2_set_remove(&q->tables, g->at + i);
		return rc == EEXIST ? qcow2_broken(q, "a table lies where no refcount is") : rc;
	}
	return 0;
}

/* Blocks and table first, then the header that points to the table; the old table is free after that. */
static int grow(struct qcow2 *q, const struct growth *g, u64 *entry)
{
	struct qcow2_header h = q->h;
	u64 old = q->reftable.offset >> q->cluster_bits, old_n = q->h.reftable_clusters;
	int rc = write_dirty_blocks(q);

	if (!rc)
		rc = write_growth(q, g, entry);
	if (!rc)
		rc = file_flush(q->im.file);
	if (rc)
		return rc;
	h.reftable_offset = (g->at + g->blocks) << q->cluster_bits;
	h.reftable_clusters = g->clusters;
	rc = qcow2_header_update(q->im.file, &h);
	if (!rc)
		rc = file_flush(q->im.file);
	if (rc) /* which of the two tables the header names is not known */
		return qcow2_broken(q, "cannot write its header");
	q->h = h;
	free(q->reftable.entry);
	q->reftable = (struct qcow2_array){ entry, g->entries, h.reftable_offset, 0, 0 };
	for (u64 i = 0; i < old_n; i++)
		drop_one(q, old + i, true);
	return 0;
}

int qcow2_grow(struct qcow2 *q)
{
	struct growth g;
	u64 *entry = NULL;
	int rc;

	pthread_mutex_lock(&q->sync_lock);
	pthread_mutex_lock(&q->lock);
	rc = q->want_grow ? 0 : EALREADY;
	q->want_grow = false;
	if (!rc)
		rc = q->broken ? EIO : plan_growth(q, &g);
	if (!rc && !(entry = calloc(g.entries, sizeof(*entry))))
		rc = ENOMEM;
	if (!rc)
		rc = claim_growth(q, &g);
	if (!rc) {
		memcpy(entry, q->reftable.entry, q->reftable.n * sizeof(*entry));
		rc = grow(q, &g, entry);
		if (rc)
			for (u64 i = 0; i < g.blocks + g.clusters; i++)
				qcow2_set_remove(&q->tables, g.at + i);
	}
	if (rc)
		free(entry);
	pthread_mutex_unlock(&q->lock);
	pthread_mutex_unlock(&q->sync_lock);
	return rc == EALREADY ? 0 : rc;
}

int qcow2_make_room(struct qcow2 *q)
{
	bool want_grow = q->want_grow;
	int rc;

	pthread_mutex_unlock(&q->lock);
	rc = want_grow ? qcow2_grow(q) : qcow2_sync(q, false);
	pthread_mutex_lock(&q->lock);
	return rc;
}
