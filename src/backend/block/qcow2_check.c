/*
 * What the tables of a qcow2 image refer to, counted and compared with its
 * refcounts; and refcounts made anew from that. Each table is read once for
 * each L1 table that has it, in a bounded buffer; counters are allocated where
 * something is referred to.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"

#define CHUNK_BITS 12u
#define CHUNK BIT(CHUNK_BITS)
#define CHUNKS_MAX BIT(24)
#define LEAK_LINES 20u /* reported one by one */

struct walk {
	struct file *f;
	const struct qcow2_header *h;
	struct block_check_result *r;
	struct qcow2 q; /* only geometry, for the functions of tables */
	u64 cluster, file_clusters, leak_lines;
	u32 **chunk; /* references of each cluster */
	u64 chunks;
	u64 *reftable, reftable_n;
	u8 *block; /* the refcount block read last */
	u64 block_index;
	bool rebuilding; /* refcounts are not looked at */
	int rc;
};

static void printf_like(3, 4) say(struct walk *w, u64 *counter, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	(*counter)++;
	if (!w->r->report || (counter == &w->r->leaks && w->leak_lines++ >= LEAK_LINES))
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	w->r->report(w->r->opaque, line);
}

#define wrong(w, ...) say(w, &(w)->r->errors, __VA_ARGS__)

static u32 count_of(const struct walk *w, u64 cluster)
{
	u64 c = cluster >> CHUNK_BITS;

	return c < w->chunks && w->chunk[c] ? w->chunk[c][cluster & (CHUNK - 1)] : 0;
}

/* Counts a reference to [offset, offset + bytes). False: it is not to be followed. */
static bool refer(struct walk *w, u64 offset, u64 bytes, const char *what)
{
	u64 first = offset >> w->h->cluster_bits, last = (offset + MAX(bytes, 1) - 1) >> w->h->cluster_bits;

	if (offset >= QCOW2_MAX_OFFSET || last >= w->file_clusters) {
		wrong(w, "%s at offset %llu is beyond the end of the file", what, (unsigned long long)offset);
		return false;
	}
	for (u64 c = first; c <= last; c++) {
		u32 **chunk = &w->chunk[c >> CHUNK_BITS];

		if (!*chunk && !(*chunk = calloc(CHUNK, sizeof(**chunk)))) {
			w->rc = ENOMEM;
			return false;
		}
		if ((*chunk)[c & (CHUNK - 1)] != UINT32_MAX)
			(*chunk)[c & (CHUNK - 1)]++;
	}
	return true;
}

static bool aligned(struct walk *w, u64 offset, const char *what)
{
	if (!(offset & (w->cluster - 1)))
		return true;
	wrong(w, "%s at offset %llu is not aligned to a cluster", what, (unsigned long long)offset);
	return false;
}

/* The refcount in the file; no block: 0. */
static u64 refcount_of(struct walk *w, u64 cluster)
{
	u64 index = cluster >> w->q.block_bits;

	if (index >= w->reftable_n || !w->reftable[index])
		return 0;
	if (w->block_index != index) {
		w->block_index = index;
		if ((w->reftable[index] & (w->cluster - 1)) || w->reftable[index] >= QCOW2_MAX_OFFSET ||
		    file_read(w->f, w->reftable[index], w->block, w->cluster))
			memset(w->block, 0, w->cluster);
	}
	return qcow2_refcount_get(w->block, cluster & (BIT(w->q.block_bits) - 1), w->q.refcount_bits);
}

static void check_copied(struct walk *w, u64 entry, const char *what)
{
	u64 offset = entry & QCOW2_OFFSET, count;

	if (w->rebuilding)
		return;
	count = refcount_of(w, offset >> w->h->cluster_bits);
	if (!!(entry & QCOW2_COPIED) != (count == 1))
		wrong(w, "%s at offset %llu: COPIED is %u, its refcount %llu", what, (unsigned long long)offset,
		      !!(entry & QCOW2_COPIED), (unsigned long long)count);
}

static void walk_entry(struct walk *w, u64 entry, bool active)
{
	enum qcow2_kind kind = qcow2_kind_of(&w->q, entry);
	u64 offset = entry & QCOW2_OFFSET, bytes;

	w->r->allocated += active && (kind == QCOW2_DATA || kind == QCOW2_PACKED);
	if (kind == QCOW2_PACKED) {
		qcow2_packed_place(&w->q, entry, &offset, &bytes);
		if (entry & QCOW2_COPIED)
			wrong(w, "a compressed cluster at offset %llu is marked COPIED", (unsigned long long)offset);
		if (offset >> w->h->cluster_bits < w->file_clusters) /* the last sector need not be there */
			bytes = MIN(bytes, (w->file_clusters << w->h->cluster_bits) - offset);
		refer(w, offset, bytes, "a compressed cluster");
	} else if (offset && aligned(w, offset, "a cluster")) {
		if (refer(w, offset, w->cluster, "a cluster") && active)
			check_copied(w, entry, "a cluster");
	}
}

static void walk_l2(struct walk *w, u64 offset, bool active, u8 *table)
{
	if (file_read(w->f, offset, table, w->cluster)) {
		wrong(w, "the L2 table at offset %llu cannot be read", (unsigned long long)offset);
		return;
	}
	for (u64 i = 0; !w->rc && i < w->cluster / 8; i++)
		if (qcow2_get64(table, i))
			walk_entry(w, qcow2_get64(table, i), active);
}

static void walk_l1_entries(struct walk *w, const u64 *l1, u64 n, bool active, u8 *table)
{
	struct qcow2_set seen = { 0 };

	for (u64 i = 0; !w->rc && i < n; i++) {
		u64 entry = be64toh(l1[i]), offset = entry & QCOW2_OFFSET;
		int rc;

		if (!offset || !aligned(w, offset, "an L2 table") || !refer(w, offset, w->cluster, "an L2 table"))
			continue;
		if (active)
			check_copied(w, entry, "an L2 table");
		rc = qcow2_set_add(&seen, offset >> w->h->cluster_bits);
		if (rc == EEXIST)
			wrong(w, "the L2 table at offset %llu is used twice", (unsigned long long)offset);
		else if (rc)
			w->rc = rc;
		else
			walk_l2(w, offset, active, table);
	}
	free(seen.slot);
}

static void walk_l1(struct walk *w, u64 offset, u64 n, bool active)
{
	u64 *l1;
	u8 *table;

	if (!n || !aligned(w, offset, "an L1 table") || !refer(w, offset, n * 8, "an L1 table"))
		return;
	l1 = malloc(n * 8);
	table = malloc(w->cluster);
	if (!l1 || !table)
		w->rc = ENOMEM;
	else if (file_read(w->f, offset, l1, n * 8))
		wrong(w, "the L1 table at offset %llu cannot be read", (unsigned long long)offset);
	else
		walk_l1_entries(w, l1, n, active, table);
	free(l1);
	free(table);
}

static void walk_snapshots(struct walk *w)
{
	u64 at = w->h->snapshots_offset;
	struct qcow2_snapshot s;

	for (u32 i = 0; !w->rc && i < w->h->snapshots; i++, at += s.entry_size) {
		if (qcow2_snapshot_read(w->f, at, &s)) {
			wrong(w, "entry %u of the snapshot table cannot be read", i);
			return;
		}
		walk_l1(w, s.l1_offset, s.l1_size, false);
	}
	if (w->h->snapshots)
		refer(w, w->h->snapshots_offset, at - w->h->snapshots_offset, "the snapshot table");
}

static void walk_bitmap(struct walk *w, u64 offset, u32 n)
{
	u64 entry;

	if (!n || n > QCOW2_MAX_L1 || !aligned(w, offset, "a bitmap's table") ||
	    !refer(w, offset, (u64)n * 8, "a bitmap's table"))
		return;
	for (u32 i = 0; !w->rc && i < n; i++) {
		if (file_read(w->f, offset + (u64)i * 8, &entry, 8))
			return;
		entry = be64toh(entry) & QCOW2_OFFSET;
		if (entry && aligned(w, entry, "a bitmap"))
			refer(w, entry, w->cluster, "a bitmap");
	}
}

static void walk_bitmaps(struct walk *w)
{
	u64 at = w->h->bitmaps_offset, end = at + w->h->bitmaps_size;
	u8 b[24];

	if (!(w->h->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || !w->h->bitmaps)
		return;
	if (w->h->bitmaps_size > 64 * MiB || !refer(w, at, w->h->bitmaps_size, "the directory of bitmaps"))
		return;
	for (u32 i = 0; !w->rc && i < w->h->bitmaps && end - at >= sizeof(b) && at < end; i++) {
		if (file_read(w->f, at, b, sizeof(b)))
			return;
		walk_bitmap(w, qcow2_get64(b, 0), (u32)(qcow2_get64(b, 1) >> 32));
		at += (24 + (u64)(b[18] << 8 | b[19]) + ((u64)b[20] << 24 | b[21] << 16 | b[22] << 8 | b[23]) + 7) &
		      ~7ull;
	}
}

static int load_reftable(struct walk *w)
{
	w->reftable_n = (u64)w->h->reftable_clusters << (w->h->cluster_bits - 3);
	w->reftable = malloc(w->reftable_n * 8);
	w->block = malloc(w->cluster);
	w->block_index = UINT64_MAX;
	if (!w->reftable || !w->block)
		return ENOMEM;
	for (u64 i = 0; i < w->reftable_n; i++)
		w->reftable[i] = 0;
	if (file_read(w->f, w->h->reftable_offset, w->reftable, w->reftable_n * 8)) {
		wrong(w, "the refcount table cannot be read");
		memset(w->reftable, 0, w->reftable_n * 8);
	}
	for (u64 i = 0; i < w->reftable_n; i++)
		w->reftable[i] = be64toh(w->reftable[i]);
	return 0;
}

static void walk_refcounts(struct walk *w)
{
	refer(w, w->h->reftable_offset, w->reftable_n * 8, "the refcount table");
	for (u64 i = 0; !w->rc && i < w->reftable_n; i++)
		if (w->reftable[i] && aligned(w, w->reftable[i], "a refcount block"))
			refer(w, w->reftable[i], w->cluster, "a refcount block");
}

static void compare_cluster(struct walk *w, u64 c)
{
	u64 have = refcount_of(w, c), want = count_of(w, c);

	if (have == want)
		return;
	say(w, have < want ? &w->r->errors : &w->r->leaks, "cluster %llu: refcount %llu, %llu references",
	    (unsigned long long)c, (unsigned long long)have, (unsigned long long)want);
}

/* Whether no refcount block counts clusters from `c` on, before `end`. */
static bool uncounted(const struct walk *w, u64 c, u64 end)
{
	u64 last = MIN((end - 1) >> w->q.block_bits, w->reftable_n - 1);

	for (u64 i = c >> w->q.block_bits; i <= last; i++)
		if (w->reftable[i])
			return false;
	return true;
}

static void compare(struct walk *w)
{
	for (u64 i = 0; i < w->chunks; i++) {
		u64 c = i << CHUNK_BITS, end = MIN(c + CHUNK, w->file_clusters);

		if (!w->chunk[i] && uncounted(w, c, end))
			continue;
		for (; c < end; c++)
			compare_cluster(w, c);
	}
}

static int walk_init(struct walk *w, struct file *f, const struct qcow2_header *h, struct block_check_result *r)
{
	u64 size;
	int rc = file_size(f, &size);

	memset(w, 0, sizeof(*w));
	if (rc)
		return rc;
	w->f = f;
	w->h = h;
	w->r = r;
	w->q.h = *h;
	w->q.cluster_bits = h->cluster_bits;
	w->q.cluster = w->cluster = BIT(h->cluster_bits);
	w->q.block_bits = h->cluster_bits + 3 - h->refcount_order;
	w->q.refcount_bits = 1u << h->refcount_order;
	w->file_clusters = (size + w->cluster - 1) >> h->cluster_bits;
	w->chunks = (w->file_clusters + CHUNK - 1) >> CHUNK_BITS;
	if (w->chunks > CHUNKS_MAX)
		return EFBIG;
	w->chunk = calloc(w->chunks, sizeof(*w->chunk));
	return w->chunk ? 0 : ENOMEM;
}

static void walk_free(struct walk *w)
{
	for (u64 i = 0; w->chunk && i < w->chunks; i++)
		free(w->chunk[i]);
	free(w->chunk);
	free(w->reftable);
	free(w->block);
}

static void walk_tables(struct walk *w)
{
	refer(w, 0, w->cluster, "the header");
	walk_l1(w, w->h->l1_offset, w->h->l1_size, true);
	if (!w->rc)
		walk_snapshots(w);
	if (!w->rc)
		walk_bitmaps(w);
}

int qcow2_check(struct file *f, const struct qcow2_header *h, struct block_check_result *r)
{
	struct walk w;
	int rc = walk_init(&w, f, h, r);

	if (!rc)
		rc = load_reftable(&w);
	if (!rc) {
		walk_tables(&w);
		if (!w.rc)
			walk_refcounts(&w);
		if (!w.rc)
			compare(&w);
		rc = w.rc;
	}
	r->clusters = (h->size + w.cluster - 1) >> h->cluster_bits;
	walk_free(&w);
	return rc;
}

/* ---- refcounts anew ---- */

struct plan { /* at the end of the file: refcount blocks, then the refcount table */
	u64 start, blocks, clusters, entries;
};

static bool block_needed(const struct walk *w, const struct plan *p, u64 index)
{
	u64 from = index << w->q.block_bits, to = (index + 1) << w->q.block_bits;

	if (from < p->start + p->blocks + p->clusters && p->start < to)
		return true;
	for (u64 c = from; c < to && c < w->file_clusters; c++) {
		if (!(c & (CHUNK - 1)) && !w->chunk[c >> CHUNK_BITS])
			c += CHUNK - 1;
		else if (count_of(w, c))
			return true;
	}
	return false;
}

static int plan_rebuild(const struct walk *w, struct plan *p)
{
	u64 blocks, clusters;

	*p = (struct plan){ .start = w->file_clusters, .blocks = 1, .clusters = 1 };
	for (;;) { /* both only grow with the other: the least that fits */
		p->entries = (p->start + p->blocks + p->clusters + BIT(w->q.block_bits) - 1) >> w->q.block_bits;
		if (p->entries > QCOW2_MAX_REFTABLE)
			return EFBIG;
		clusters = (p->entries * 8 + w->cluster - 1) >> w->h->cluster_bits;
		blocks = 0;
		for (u64 i = 0; i < p->entries; i++)
			blocks += block_needed(w, p, i);
		if (blocks <= p->blocks && clusters <= p->clusters)
			return 0;
		p->blocks = MAX(p->blocks, blocks);
		p->clusters = MAX(p->clusters, clusters);
	}
}

static int fill_block(const struct walk *w, const struct plan *p, u64 index, u8 *b)
{
	u64 end = p->start + p->blocks + p->clusters;
	u64 most = w->q.refcount_bits == 64 ? UINT64_MAX : BIT(w->q.refcount_bits) - 1;

	memset(b, 0, w->cluster);
	for (u64 i = 0; i < BIT(w->q.block_bits); i++) {
		u64 c = (index << w->q.block_bits) + i, n = c >= p->start ? c < end : count_of(w, c);

		if (n > most)
			return EOVERFLOW;
		qcow2_refcount_set(b, i, w->q.refcount_bits, n);
	}
	return 0;
}

static int write_rebuilt(const struct walk *w, const struct plan *p)
{
	u64 at = p->start, n = p->clusters << w->h->cluster_bits;
	u8 *table = calloc(1, n), *b = malloc(w->cluster);
	int rc = table && b ? 0 : ENOMEM;

	for (u64 i = 0; !rc && i < p->entries; i++) {
		if (!block_needed(w, p, i))
			continue;
		rc = fill_block(w, p, i, b);
		if (!rc)
			rc = file_write(w->f, at << w->h->cluster_bits, b, w->cluster);
		if (!rc)
			qcow2_set64(table, i, at++ << w->h->cluster_bits);
	}
	if (!rc)
		rc = file_write(w->f, (p->start + p->blocks) << w->h->cluster_bits, table, n);
	if (!rc)
		rc = file_flush(w->f);
	free(table);
	free(b);
	return rc;
}

int qcow2_rebuild(struct file *f, struct qcow2_header *h, struct error *e)
{
	struct block_check_result r = { 0 };
	struct plan p;
	struct walk w;
	int rc = walk_init(&w, f, h, &r);

	w.rebuilding = true;
	if (!rc) {
		walk_tables(&w);
		rc = w.rc;
	}
	if (!rc && r.errors) {
		walk_free(&w);
		return error_set(e, "%s: the image was not closed and has errors; repair it with qemu-img check -r all",
				 f->path);
	}
	if (!rc)
		rc = plan_rebuild(&w, &p);
	if (!rc)
		rc = write_rebuilt(&w, &p);
	walk_free(&w);
	if (!rc) { /* one write: the new table, and that it is right */
		h->reftable_offset = (p.start + p.blocks) << h->cluster_bits;
		h->reftable_clusters = p.clusters;
		h->incompat &= ~QCOW2_INCOMPAT_DIRTY;
		rc = qcow2_header_update(f, h);
	}
	if (!rc)
		rc = file_flush(f);
	return rc ? error_errno(e, rc, "%s: the image was not closed, and its refcounts cannot be made anew", f->path)
		  : 0;
}
