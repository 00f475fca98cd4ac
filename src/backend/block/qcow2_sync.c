/*
 * Writing tables back.
 *
 * A table that refers to something is written after it, so that at no time,
 * whenever the process is killed, the file has a reference to what is not
 * there or not counted. fdatasync() stands between the steps, so that the same
 * holds when the power fails:
 *
 *   data, new L2 tables' clusters     when they were written (before)
 *   1. refcount blocks
 *      fdatasync
 *   2. refcount table                 only if there are new blocks
 *      fdatasync
 *   3. L2 tables
 *      fdatasync                      only if step 4 has something to do
 *   4. L1 table
 *      fdatasync
 *   5. refcounts of what was freed go down (in memory: step 1 of the next)
 *
 * What a kill leaves behind are refcounts above the references: leaks. The
 * tables are copied under `lock` and written without it; a table that is being
 * written stays in its cache, since the file does not have it yet.
 */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"

struct piece { /* of a table, to be written */
	struct piece *next;
	struct qcow2_table *t; /* or NULL */
	u64 offset;
	u32 from, n;
	u8 data[];
};

struct batch {
	struct piece *blocks, *l2, *reftable, *l1;
	u64 reftable_from, reftable_to, l1_from, l1_to;
	struct qcow2_runs freed;
};

static int add_piece(struct piece **list, u64 offset, u32 from, u32 n, struct piece **made)
{
	struct piece *p = malloc(sizeof(*p) + n);

	if (!p)
		return ENOMEM;
	*p = (struct piece){ .next = *list, .offset = offset + from, .from = from, .n = n };
	*list = p;
	*made = p;
	return 0;
}

static int collect_cache(struct qcow2_cache *c, struct piece **list)
{
	struct piece *p;

	for (unsigned i = 0; i < c->n; i++) {
		struct qcow2_table *t = &c->slots[i];

		if (t->dirty_from == t->dirty_to)
			continue;
		if (add_piece(list, t->offset, t->dirty_from, t->dirty_to - t->dirty_from, &p))
			return ENOMEM;
		memcpy(p->data, t->data + t->dirty_from, p->n);
		p->t = t;
		t->busy = true;
		t->dirty_from = t->dirty_to = 0;
	}
	return 0;
}

static int collect_array(struct qcow2_array *a, struct piece **list, u64 *from, u64 *to)
{
	struct piece *p;

	*from = a->dirty_from;
	*to = a->dirty_to;
	if (*from == *to)
		return 0;
	if (add_piece(list, a->offset, *from * 8, (*to - *from) * 8, &p))
		return ENOMEM;
	for (u64 i = *from; i < *to; i++)
		qcow2_set64(p->data, i - *from, a->entry[i]);
	a->dirty_from = a->dirty_to = 0;
	return 0;
}

static int collect(struct qcow2 *q, struct batch *b)
{
	int rc = collect_cache(&q->blocks, &b->blocks);

	if (!rc)
		rc = collect_cache(&q->l2, &b->l2);
	if (!rc)
		rc = collect_array(&q->reftable, &b->reftable, &b->reftable_from, &b->reftable_to);
	if (!rc)
		rc = collect_array(&q->l1, &b->l1, &b->l1_from, &b->l1_to);
	b->freed = q->freed;
	q->freed = (struct qcow2_runs){ 0 };
	return rc;
}

static int write_pieces(struct qcow2 *q, const struct piece *p)
{
	int rc = 0;

	for (; !rc && p; p = p->next)
		rc = file_write(q->im.file, p->offset, p->data, p->n);
	return rc;
}

static int write_batch(struct qcow2 *q, const struct batch *b, bool final)
{
	int rc = write_pieces(q, b->blocks);

	if (!rc && (b->reftable || b->l2 || b->l1))
		rc = file_flush(q->im.file);
	if (!rc && b->reftable) {
		rc = write_pieces(q, b->reftable);
		if (!rc && (b->l2 || b->l1))
			rc = file_flush(q->im.file);
	}
	if (!rc)
		rc = write_pieces(q, b->l2);
	if (!rc && b->l1 && b->l2)
		rc = file_flush(q->im.file);
	if (!rc)
		rc = write_pieces(q, b->l1);
	if (!rc && (final || b->freed.n))
		rc = file_flush(q->im.file);
	return rc;
}

/* After a failure the tables are dirty as before, and more may have become so meanwhile. */
static void settle_pieces(struct piece *p, bool failed)
{
	for (struct piece *next; p; p = next) {
		next = p->next;
		if (p->t) {
			p->t->busy = false;
			if (failed)
				qcow2_table_dirty(p->t, p->from, p->from + p->n);
		}
		free(p);
	}
}

static void settle(struct qcow2 *q, struct batch *b, bool failed)
{
	settle_pieces(b->blocks, failed);
	settle_pieces(b->l2, failed);
	settle_pieces(b->reftable, false);
	settle_pieces(b->l1, false);
	if (failed && b->reftable_from != b->reftable_to)
		qcow2_array_dirty(&q->reftable, b->reftable_from, b->reftable_to);
	if (failed && b->l1_from != b->l1_to)
		qcow2_array_dirty(&q->l1, b->l1_from, b->l1_to);
	if (!failed)
		qcow2_free_runs(q, &b->freed);
	else
		for (size_t i = 0; i < b->freed.n; i++) { /* ENOMEM: a leak */
			const struct qcow2_run *r = &b->freed.run[i];

			qcow2_free_later(q, r->first, r->count, r->table, r->punch);
		}
	free(b->freed.run);
}

int qcow2_sync(struct qcow2 *q, bool final)
{
	struct batch b = { 0 };
	int rc;

	pthread_mutex_lock(&q->sync_lock);
	pthread_mutex_lock(&q->lock);
	rc = q->broken ? EIO : collect(q, &b);
	pthread_mutex_unlock(&q->lock);
	if (!rc)
		rc = write_batch(q, &b, final);
	pthread_mutex_lock(&q->lock);
	settle(q, &b, rc);
	pthread_mutex_unlock(&q->lock);
	pthread_mutex_unlock(&q->sync_lock);
	return rc;
}
