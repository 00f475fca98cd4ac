/* L1 and L2 tables: where a guest's cluster is, and changing that. */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"

enum qcow2_kind qcow2_kind_of(const struct qcow2 *q, u64 entry)
{
	if (entry & QCOW2_COMPRESSED)
		return QCOW2_PACKED;
	if ((entry & QCOW2_ZERO) && q->h.version >= 3)
		return QCOW2_ZEROES;
	return entry & QCOW2_OFFSET ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

void qcow2_packed_place(const struct qcow2 *q, u64 entry, u64 *offset, u64 *bytes)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	u64 sectors = (entry & (QCOW2_COMPRESSED - 1)) >> x;

	*offset = entry & (BIT(x) - 1) & (QCOW2_MAX_OFFSET - 1);
	*bytes = (sectors + 1) * BLOCK_SECTOR - (*offset & (BLOCK_SECTOR - 1));
}

static u64 l2_index(const struct qcow2 *q, u64 offset)
{
	return offset >> q->cluster_bits & (BIT(q->l2_bits) - 1);
}

static bool writable_in_place(const struct qcow2 *q, u64 l1, u64 entry)
{
	return (l1 & QCOW2_COPIED) && (entry & QCOW2_COPIED) &&
	       !qcow2_set_has(&q->tables, (entry & QCOW2_OFFSET) >> q->cluster_bits);
}

/* How many entries from `i` on continue the first one. */
static u64 count_like(const struct qcow2 *q, const u8 *l2, u64 l1, u64 i, u64 max, struct qcow2_extent *x)
{
	u64 n = 1;

	if (x->kind == QCOW2_PACKED)
		return 1;
	for (; n < max; n++) {
		u64 entry = qcow2_get64(l2, i + n);

		if (qcow2_kind_of(q, entry) != x->kind)
			break;
		if (x->kind == QCOW2_DATA && ((entry & QCOW2_OFFSET) != x->host + (n << q->cluster_bits) ||
					      writable_in_place(q, l1, entry) != x->in_place))
			break;
	}
	return n;
}

int qcow2_map(struct qcow2 *q, u64 offset, u64 length, bool cached_only, struct qcow2_extent *x)
{
	u64 l1 = q->l1.entry[offset >> (q->cluster_bits + q->l2_bits)], l2 = l1 & QCOW2_OFFSET;
	u64 i = l2_index(q, offset), within = offset & (q->cluster - 1), entry;
	u64 in_table = ((BIT(q->l2_bits) - i) << q->cluster_bits) - within;
	struct qcow2_table *t;
	int rc;

	length = MIN(length, in_table);
	*x = (struct qcow2_extent){ .kind = QCOW2_UNALLOCATED, .length = length };
	if (!l2)
		return 0;
	if (cached_only && !(t = qcow2_cache_peek(&q->l2, l2)))
		return EAGAIN;
	if (!cached_only && (rc = qcow2_cache_get(q, &q->l2, l2, &t)))
		return rc;
	entry = qcow2_get64(t->data, i);
	x->kind = qcow2_kind_of(q, entry);
	x->host = x->kind == QCOW2_DATA ? entry & QCOW2_OFFSET : entry;
	if (x->kind == QCOW2_DATA) {
		if (x->host & (q->cluster - 1))
			return EIO;
		x->in_place = writable_in_place(q, l1, entry);
	}
	x->length = MIN(length, (count_like(q, t->data, l1, i, (within + length + q->cluster - 1) >> q->cluster_bits, x)
				 << q->cluster_bits) -
				    within);
	if (x->kind == QCOW2_DATA)
		x->host += within;
	return 0;
}

static void set_l1(struct qcow2 *q, u64 index, u64 l2)
{
	q->l1.entry[index] = l2 | QCOW2_COPIED;
	qcow2_array_dirty(&q->l1, index, index + 1);
}

/* A table of its own, empty or a copy of one that a snapshot has, too. */
static int new_l2(struct qcow2 *q, u64 index, struct qcow2_table **found)
{
	u64 old = q->l1.entry[index] & QCOW2_OFFSET, offset, n;
	struct qcow2_table *from = NULL, *t;
	int rc = old ? qcow2_cache_get(q, &q->l2, old, &from) : 0;

	if (!rc)
		rc = qcow2_cache_reserve(q, &q->l2, &t);
	if (!rc && from == t) /* too small a cache of clean tables to hold both */
		rc = EAGAIN;
	if (!rc)
		rc = qcow2_alloc(q, 1, &offset, &n);
	if (rc)
		return rc;
	rc = qcow2_set_add(&q->tables, offset >> q->cluster_bits);
	if (rc) {
		qcow2_unalloc(q, offset, 1);
		return rc == EEXIST ? EIO : rc;
	}
	if (from)
		memcpy(t->data, from->data, q->cluster);
	else
		memset(t->data, 0, q->cluster);
	qcow2_cache_insert(&q->l2, t, offset);
	qcow2_table_dirty(t, 0, q->cluster);
	set_l1(q, index, offset);
	if (old)
		qcow2_free_later(q, old >> q->cluster_bits, 1, true, false); /* failing, a leak */
	*found = t;
	return 0;
}

int qcow2_l2_for_write(struct qcow2 *q, u64 offset, struct qcow2_table **t)
{
	u64 index = offset >> (q->cluster_bits + q->l2_bits), l1 = q->l1.entry[index];

	if (q->broken)
		return EIO;
	if (!(l1 & QCOW2_OFFSET) || !(l1 & QCOW2_COPIED))
		return new_l2(q, index, t);
	return qcow2_cache_get(q, &q->l2, l1 & QCOW2_OFFSET, t);
}

int qcow2_free_entry(struct qcow2 *q, u64 entry, bool punch)
{
	enum qcow2_kind kind = qcow2_kind_of(q, entry);
	u64 offset = entry & QCOW2_OFFSET, bytes = q->cluster, first, n;

	if (kind == QCOW2_PACKED) {
		qcow2_packed_place(q, entry, &offset, &bytes);
		qcow2_unpacked_forget(q, entry);
		punch = false;
	} else if (!offset) {
		return 0;
	} else if (offset & (q->cluster - 1)) {
		return qcow2_broken(q, "a cluster's offset is not aligned");
	}
	first = offset >> q->cluster_bits;
	n = ((offset + bytes - 1) >> q->cluster_bits) - first + 1;
	for (u64 i = 0; i < n; i++)
		if (qcow2_set_has(&q->tables, first + i))
			return qcow2_broken(q, "a table's cluster is used for data");
	qcow2_free_later(q, first, n, false, punch); /* failing, a leak */
	return 0;
}
