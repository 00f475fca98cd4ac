/* Caches of tables of one cluster each, with a bounded number of slots; the set of clusters that hold metadata. */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"

#define WAS_USED BIT(63)

static struct qcow2_table **bucket(struct qcow2_cache *c, u64 offset)
{
	return &c->buckets[(offset >> 9) * 0x9e3779b97f4a7c15ull % c->n];
}

int qcow2_cache_init(struct qcow2_cache *c, unsigned n)
{
	c->n = n;
	c->slots = calloc(n, sizeof(*c->slots));
	c->buckets = calloc(n, sizeof(*c->buckets));
	return c->slots && c->buckets ? 0 : ENOMEM;
}

void qcow2_cache_free(struct qcow2_cache *c)
{
	for (unsigned i = 0; c->slots && i < c->n; i++)
		free(c->slots[i].data);
	free(c->slots);
	free(c->buckets);
}

struct qcow2_table *qcow2_cache_peek(struct qcow2_cache *c, u64 offset)
{
	struct qcow2_table *t = *bucket(c, offset);

	while (t && t->offset != offset)
		t = t->next;
	if (t)
		t->used = ++c->clock;
	return t;
}

static void remove_from_bucket(struct qcow2_cache *c, struct qcow2_table *t)
{
	struct qcow2_table **p = bucket(c, t->offset);

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	t->offset = 0;
}

/* A refcount block may be written at any time: what the file says too much is a leak until the tables follow. */
static int write_block(struct qcow2 *q, struct qcow2_table *t)
{
	int rc =
	    file_write(q->im.file, t->offset + t->dirty_from, t->data + t->dirty_from, t->dirty_to - t->dirty_from);

	if (!rc)
		t->dirty_from = t->dirty_to = 0;
	return rc;
}

int qcow2_cache_reserve(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table **found)
{
	struct qcow2_table *best = NULL;
	bool any_dirty = c == &q->blocks;

	for (unsigned i = 0; i < c->n; i++) {
		struct qcow2_table *t = &c->slots[i];

		if (!t->busy && (any_dirty || t->dirty_from == t->dirty_to) && (!best || t->used < best->used))
			best = t;
		if (!t->offset)
			break;
	}
	if (!best)
		return EAGAIN;
	if (!best->data && !(best->data = malloc(q->cluster)))
		return ENOMEM;
	if (best->dirty_from != best->dirty_to) {
		int rc = write_block(q, best);

		if (rc)
			return rc;
	}
	if (best->offset)
		remove_from_bucket(c, best);
	best->used = 0;
	*found = best;
	return 0;
}

void qcow2_cache_insert(struct qcow2_cache *c, struct qcow2_table *t, u64 offset)
{
	struct qcow2_table **b = bucket(c, offset);

	t->offset = offset;
	t->used = ++c->clock;
	t->next = *b;
	*b = t;
}

int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, u64 offset, struct qcow2_table **found)
{
	struct qcow2_table *t;
	int rc;

	if (!qcow2_table_offset_ok(q, offset))
		return EIO;
	*found = qcow2_cache_peek(c, offset);
	if (*found)
		return 0;
	rc = qcow2_cache_reserve(q, c, &t);
	if (!rc)
		rc = file_read(q->im.file, offset, t->data, q->cluster);
	if (rc)
		return rc;
	qcow2_cache_insert(c, t, offset);
	*found = t;
	return 0;
}

void qcow2_table_dirty(struct qcow2_table *t, u64 from, u64 to)
{
	/* whole sectors: none of them is half old, half new after a power failure */
	from &= ~(u64)(BLOCK_SECTOR - 1);
	to = (to + BLOCK_SECTOR - 1) & ~(u64)(BLOCK_SECTOR - 1);
	if (t->dirty_from == t->dirty_to) {
		t->dirty_from = from;
		t->dirty_to = to;
	} else {
		t->dirty_from = MIN(t->dirty_from, from);
		t->dirty_to = MAX(t->dirty_to, to);
	}
}

static u64 *find(const struct qcow2_set *s, u64 key, bool for_add)
{
	u64 i = key * 0x9e3779b97f4a7c15ull >> 20 & (s->room - 1);

	while (s->slot[i] && s->slot[i] != key && !(for_add && s->slot[i] == WAS_USED))
		i = (i + 1) & (s->room - 1);
	return &s->slot[i];
}

bool qcow2_set_has(const struct qcow2_set *s, u64 cluster)
{
	return s->room && *find(s, cluster + 1, false) == cluster + 1;
}

static int set_grow(struct qcow2_set *s)
{
	struct qcow2_set wider = { .room = s->room ? s->room * 2 : 64 };

	wider.slot = calloc(wider.room, sizeof(*wider.slot));
	if (!wider.slot)
		return ENOMEM;
	for (u64 i = 0; i < s->room; i++)
		if (s->slot[i] && s->slot[i] != WAS_USED) {
			*find(&wider, s->slot[i], true) = s->slot[i];
			wider.used++;
		}
	free(s->slot);
	*s = wider;
	return 0;
}

int qcow2_set_add(struct qcow2_set *s, u64 cluster)
{
	u64 *slot;

	if (qcow2_set_has(s, cluster))
		return EEXIST;
	if (s->used >= s->room / 2 && set_grow(s))
		return ENOMEM;
	slot = find(s, cluster + 1, true);
	s->used += !*slot;
	*slot = cluster + 1;
	return 0;
}

void qcow2_set_remove(struct qcow2_set *s, u64 cluster)
{
	if (qcow2_set_has(s, cluster))
		*find(s, cluster + 1, false) = WAS_USED;
}
