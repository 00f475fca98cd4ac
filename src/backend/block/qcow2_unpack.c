/*
 * Compressed clusters: read and decompressed as a whole, since that is how they
 * are packed; the last few are kept for a guest that reads them in parts.
 */
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "backend/block/qcow2.h"

#define KEPT_BYTES (4 * MiB)
#define KEPT_MIN 2u
#define KEPT_MAX 64u

struct kept {
	u64 entry; /* of the L2 table; 0: none */
	u64 used;
	u8 *data;
};

struct qcow2_unpacked {
	pthread_mutex_t lock;
	u64 clock;
	unsigned n;
	struct kept kept[];
};

int qcow2_unpacked_create(struct qcow2 *q)
{
	unsigned n = MIN(MAX(KEPT_BYTES >> q->cluster_bits, KEPT_MIN), KEPT_MAX);

	q->unpacked = calloc(1, sizeof(*q->unpacked) + n * sizeof(struct kept));
	if (!q->unpacked)
		return ENOMEM;
	q->unpacked->n = n;
	pthread_mutex_init(&q->unpacked->lock, NULL);
	return 0;
}

void qcow2_unpacked_destroy(struct qcow2 *q)
{
	struct qcow2_unpacked *u = q->unpacked;

	if (!u)
		return;
	for (unsigned i = 0; i < u->n; i++)
		free(u->kept[i].data);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static bool inflate_cluster(u8 *to, size_t to_n, u8 *from, size_t from_n)
{
	z_stream z = { .next_in = from, .avail_in = from_n, .next_out = to, .avail_out = to_n };
	int rc;

	if (inflateInit2(&z, -12) != Z_OK) /* no header, windows of 4 KiB */
		return false;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !z.avail_out;
}

/* What follows the frame in its last sector is not part of it. */
static bool unzstd_cluster(u8 *to, size_t to_n, const u8 *from, size_t from_n)
{
	size_t frame = ZSTD_findFrameCompressedSize(from, from_n);

	return !ZSTD_isError(frame) && ZSTD_decompress(to, to_n, from, frame) == to_n;
}

static int unpack(struct qcow2 *q, u64 entry, u8 *to)
{
	u64 offset, bytes, size;
	u8 *packed;
	bool ok;
	int rc = file_size(q->im.file, &size);

	if (rc)
		return rc;
	qcow2_packed_place(q, entry, &offset, &bytes);
	if (offset >= size)
		return EIO;
	bytes = MIN(bytes, size - offset); /* the file need not have all of the last sector */
	packed = malloc(bytes);
	rc = packed ? file_read(q->im.file, offset, packed, bytes) : ENOMEM;
	if (!rc) {
		ok = q->h.compression == QCOW2_ZSTD ? unzstd_cluster(to, q->cluster, packed, bytes)
						    : inflate_cluster(to, q->cluster, packed, bytes);
		rc = ok ? 0 : EIO;
	}
	free(packed);
	return rc;
}

static bool read_kept(struct qcow2_unpacked *u, u64 entry, u64 skip, u64 length, struct view v)
{
	bool hit = false;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < u->n && !hit; i++)
		if (u->kept[i].entry == entry) {
			u->kept[i].used = ++u->clock;
			view_put(v, u->kept[i].data + skip, length);
			hit = true;
		}
	pthread_mutex_unlock(&u->lock);
	return hit;
}

static void keep(struct qcow2_unpacked *u, u64 entry, u8 *data)
{
	struct kept *k = &u->kept[0];

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 1; i < u->n; i++)
		if (u->kept[i].used < k->used)
			k = &u->kept[i];
	free(k->data);
	*k = (struct kept){ entry, ++u->clock, data };
	pthread_mutex_unlock(&u->lock);
}

void qcow2_unpacked_forget(struct qcow2 *q, u64 entry)
{
	struct qcow2_unpacked *u = q->unpacked;

	pthread_mutex_lock(&u->lock);
	for (unsigned i = 0; i < u->n; i++)
		if (u->kept[i].entry == entry) {
			free(u->kept[i].data);
			u->kept[i] = (struct kept){ 0 };
		}
	pthread_mutex_unlock(&u->lock);
}

int qcow2_read_packed(struct qcow2 *q, u64 entry, u64 skip, u64 length, struct view v)
{
	u8 *data;
	int rc;

	if (read_kept(q->unpacked, entry, skip, length, v))
		return 0;
	data = malloc(q->cluster);
	rc = data ? unpack(q, entry, data) : ENOMEM;
	if (rc) {
		free(data);
		return rc;
	}
	view_put(v, data + skip, length);
	keep(q->unpacked, entry, data);
	return 0;
}
