/* The header of a qcow2 image, its extensions, its snapshot table: read with every field bounded. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/block/qcow2.h"

#define HEADER_MAX (64 * KiB) /* extensions beyond are not looked for */

enum {
	EXT_END = 0,
	EXT_BACKING_FORMAT = 0xe2792aca,
	EXT_FEATURE_NAMES = 0x6803f857,
	EXT_BITMAPS = 0x23852875,
};

static u32 get32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, 4);
	return be32toh(v);
}

static u64 get64(const u8 *p)
{
	return qcow2_get64(p, 0);
}

static void put32(u8 *p, u32 v)
{
	v = htobe32(v);
	memcpy(p, &v, 4);
}

/* Calls `fn` for each extension that lies in the header's cluster. */
static void each_extension(const u8 *buf, size_t n, size_t at, size_t end, void *opaque,
			   void (*fn)(void *opaque, u32 type, const u8 *data, u32 length))
{
	end = MIN(end, n);
	while (at + 8 <= end) {
		u32 type = get32(buf + at), length = get32(buf + at + 4);

		if (type == EXT_END || length > end - at - 8)
			return;
		fn(opaque, type, buf + at + 8, length);
		at += 8 + (((size_t)length + 7) & ~(size_t)7);
	}
}

static void note_extension(void *opaque, u32 type, const u8 *data, u32 length)
{
	struct qcow2_header *h = opaque;

	if (type == EXT_BACKING_FORMAT && length < sizeof(h->backing_format)) {
		memcpy(h->backing_format, data, length);
		h->backing_format[length] = 0;
	} else if (type == EXT_BITMAPS && length >= 24) {
		h->bitmaps = get32(data);
		h->bitmaps_size = get64(data + 8);
		h->bitmaps_offset = get64(data + 16);
	}
}

struct feature {
	unsigned bit;
	char name[47];
};

static void find_feature(void *opaque, u32 type, const u8 *data, u32 length)
{
	struct feature *f = opaque;

	for (; type == EXT_FEATURE_NAMES && length >= 48; data += 48, length -= 48)
		if (data[0] == 0 && data[1] == f->bit && !f->name[0]) {
			memcpy(f->name, data + 2, 46);
			for (char *c = f->name; *c; c++) /* it goes to a terminal */
				if (*c < ' ' || *c > '~')
					*c = '?';
		}
}

/* A feature the image has and we have not: h->refused names it. */
static int refuse(struct qcow2_header *h, const char *path, const char *what, struct error *e)
{
	snprintf(h->refused, sizeof(h->refused), "%s", what);
	return error_set(e, "%s: not supported: %s; qemu-img convert makes an image without", path, what);
}

static int refuse_features(struct qcow2_header *h, const u8 *buf, size_t n, const char *path, struct error *e)
{
	u64 unknown = h->incompat & ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_COMPRESSION);
	struct feature f = { 0, "" };
	u32 crypt = get32(buf + 32);
	char what[112];

	if (crypt)
		return refuse(h, path,
			      crypt == 1   ? "encryption (AES)"
			      : crypt == 2 ? "encryption (LUKS)"
					   : "encryption",
			      e);
	if (unknown & QCOW2_INCOMPAT_DATA_FILE)
		return refuse(h, path, "external data file", e);
	if (unknown & QCOW2_INCOMPAT_EXTENDED_L2)
		return refuse(h, path, "extended L2 entries", e);
	if (!unknown && h->compression > QCOW2_ZSTD) {
		snprintf(what, sizeof(what), "unknown compression type %u", h->compression);
		return refuse(h, path, what, e);
	}
	if (!unknown)
		return 0;
	f.bit = __builtin_ctzll(unknown);
	each_extension(buf, n, h->length, BIT(h->cluster_bits), &f, find_feature);
	snprintf(what, sizeof(what), "unknown incompatible feature, bit %u%s%s", f.bit, f.name[0] ? ", " : "", f.name);
	return refuse(h, path, what, e);
}

static int bad(const struct file *f, const char *what, struct error *e)
{
	return error_set(e, "%s: not a valid qcow2 image: %s", f->path, what);
}

static void parse(const u8 *b, struct qcow2_header *h)
{
	h->version = get32(b + 4);
	h->cluster_bits = get32(b + 20);
	h->size = get64(b + 24);
	h->l1_size = get32(b + 36);
	h->l1_offset = get64(b + 40);
	h->reftable_offset = get64(b + 48);
	h->reftable_clusters = get32(b + 56);
	h->snapshots = get32(b + 60);
	h->snapshots_offset = get64(b + 64);
	h->refcount_order = 4;
	h->length = QCOW2_HEADER_V2;
	if (h->version < 3)
		return;
	h->incompat = get64(b + 72);
	h->compat = get64(b + 80);
	h->autoclear = get64(b + 88);
	h->refcount_order = get32(b + 96);
	h->length = get32(b + 100);
}

/* What block_info() shows, also of an image that is refused for a feature. */
static int check_shown(const struct file *f, const u8 *b, struct qcow2_header *h, struct error *e)
{
	if (h->refcount_order > 6)
		return bad(f, "refcount_order is above 6", e);
	if (h->size > BIT(62))
		return error_set(e, "%s: the disk is too large (%llu bytes)", f->path, (unsigned long long)h->size);
	if (h->snapshots > QCOW2_MAX_SNAPSHOTS)
		return bad(f, "the number of snapshots", e);
	if (h->length > QCOW2_HEADER_V3)
		h->compression = b[104];
	if (h->compression && !(h->incompat & QCOW2_INCOMPAT_COMPRESSION))
		return bad(f, "a compression type without its feature bit", e);
	return 0;
}

static int check_limits(const struct file *f, const struct qcow2_header *h, struct error *e)
{
	u64 cluster = BIT(h->cluster_bits), per_l1 = BIT(2 * h->cluster_bits - 3);

	if (h->l1_size > QCOW2_MAX_L1)
		return error_set(e, "%s: the disk is too large (%llu bytes)", f->path, (unsigned long long)h->size);
	if (h->l1_size < h->size / per_l1 + (h->size % per_l1 != 0))
		return bad(f, "the L1 table is too small for the disk", e);
	if (h->l1_size && (!h->l1_offset || (h->l1_offset & (cluster - 1)) || h->l1_offset >= QCOW2_MAX_OFFSET))
		return bad(f, "the L1 table is in the wrong place", e);
	if (!h->reftable_clusters || (u64)h->reftable_clusters << h->cluster_bits > QCOW2_MAX_REFTABLE * 8)
		return bad(f, "the size of the refcount table", e);
	if (!h->reftable_offset || (h->reftable_offset & (cluster - 1)) || h->reftable_offset >= QCOW2_MAX_OFFSET)
		return bad(f, "the refcount table is in the wrong place", e);
	if (h->snapshots && ((h->snapshots_offset & (cluster - 1)) || h->snapshots_offset >= QCOW2_MAX_OFFSET))
		return bad(f, "the snapshot table", e);
	return 0;
}

static int read_backing_name(const struct file *f, const u8 *b, size_t n, struct qcow2_header *h, struct error *e)
{
	u64 at = get64(b + 8);
	u32 length = get32(b + 16);

	if (!at)
		return 0;
	if (length >= sizeof(h->backing_file) || at > n || length > n - at || at + length > BIT(h->cluster_bits))
		return bad(f, "the name of the backing file", e);
	memcpy(h->backing_file, b + at, length);
	if (memchr(h->backing_file, 0, length))
		return bad(f, "the name of the backing file", e);
	return 0;
}

static int parse_and_check(struct file *f, const u8 *b, size_t n, struct qcow2_header *h, struct error *e)
{
	if (get32(b) != QCOW2_MAGIC)
		return bad(f, "no magic number", e);
	parse(b, h);
	if (h->version != 2 && h->version != 3)
		return error_set(e, "%s: qcow2 version %u is not supported", f->path, h->version);
	if (h->cluster_bits < QCOW2_MIN_BITS || h->cluster_bits > QCOW2_MAX_BITS)
		return bad(f, "cluster size out of range", e);
	if (h->length < (h->version < 3 ? QCOW2_HEADER_V2 : QCOW2_HEADER_V3) || h->length > BIT(h->cluster_bits) ||
	    h->length > n)
		return bad(f, "header length", e);
	if (check_shown(f, b, h, e) < 0 || read_backing_name(f, b, n, h, e) < 0)
		return -1;
	each_extension(b, n, h->length, BIT(h->cluster_bits), h, note_extension);
	if (refuse_features(h, b, n, f->path, e) < 0)
		return -1;
	return check_limits(f, h, e);
}

int qcow2_header_read(struct file *f, struct qcow2_header *h, struct error *e)
{
	u64 size;
	u8 *b;
	int rc = file_size(f, &size);

	memset(h, 0, sizeof(*h));
	if (rc)
		return error_errno(e, rc, "%s: cannot read the image", f->path);
	if (size < QCOW2_HEADER_V3)
		return bad(f, "the file is too short", e);
	size = MIN(size, HEADER_MAX);
	b = malloc(size);
	rc = b ? file_read(f, 0, b, size) : ENOMEM;
	rc = rc ? error_errno(e, rc, "%s: cannot read the image", f->path) : parse_and_check(f, b, size, h, e);
	free(b);
	return rc;
}

int qcow2_header_update(struct file *f, const struct qcow2_header *h)
{
	u8 b[QCOW2_HEADER_V3];
	size_t n = h->version < 3 ? QCOW2_HEADER_V2 : QCOW2_HEADER_V3;
	int rc = file_read(f, 0, b, n);

	if (rc)
		return rc;
	qcow2_set64(b + 48, 0, h->reftable_offset);
	put32(b + 56, h->reftable_clusters);
	if (h->version >= 3) {
		qcow2_set64(b + 72, 0, h->incompat);
		qcow2_set64(b + 88, 0, h->autoclear);
	}
	return file_write(f, 0, b, n);
}

int qcow2_snapshot_read(struct file *f, u64 at, struct qcow2_snapshot *s)
{
	u8 b[40];
	int rc = file_read(f, at, b, sizeof(b));

	if (rc)
		return rc;
	s->l1_offset = get64(b);
	s->l1_size = get32(b + 8);
	s->entry_size = 40 + (u64)get32(b + 36) + (get32(b + 12) >> 16) + (get32(b + 12) & 0xffff);
	s->entry_size = (s->entry_size + 7) & ~7ull;
	if (s->l1_size > QCOW2_MAX_L1 || s->l1_offset >= QCOW2_MAX_OFFSET || s->entry_size > 128 * KiB + 64 * MiB)
		return EIO;
	return 0;
}
