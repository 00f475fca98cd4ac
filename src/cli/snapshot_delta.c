#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/block/image.h"
#include "backend/block/track.h"
#include "cli/snapshot_delta.h"
#include "state/disk.h"

#define PIECE (64 * KiB) /* that is compared, and written if it differs: a cluster */

struct image_delta {
	char path[PATH_MAX];
	struct block *b;
	u64 size;
	u8 *came; /* a bit for each block */
	u8 before[PIECE];
};

static int failed(const struct image_delta *d, int error, struct error *e)
{
	return error_errno(e, error, "%s", d->path);
}

static int open_image(struct image_delta *d, const char *backing, enum block_format format, struct error *e)
{
	const struct qcow2_create_config c = {
		.path = d->path,
		.size = d->size,
		.cluster_size = PIECE,
		.backing_file = backing,
		.backing_format = format == BLOCK_FORMAT_QCOW2 ? "qcow2" : "raw",
	};
	const struct block_config b = { .path = d->path, .format = BLOCK_FORMAT_QCOW2, .threads = true };

	if (qcow2_create(&c, e))
		return -1;
	d->b = block_open(&b, e);
	return d->b ? 0 : -1;
}

/* Is the image of disk `id` there, and of the same size? Its number in *n. */
static bool find(const struct snapshot_images_base *base, const char *id, const char *name, u64 size, unsigned *n)
{
	char path[PATH_MAX + 64];
	struct block_info info;

	for (*n = 0; *n < base->count; ++*n) {
		if (strcmp(base->image[*n].id, id))
			continue;
		snprintf(path, sizeof(path), "%s/%s", base->path, name);
		return !block_info(path, base->image[*n].format, &info, NULL) && info.virtual_size == size;
	}
	return false;
}

struct image_delta *image_delta_create(const char *dir, const char *name, const char *id, u64 size,
				       const struct snapshot_images_base *base, bool *none, struct error *e)
{
	char backing[PATH_MAX];
	struct image_delta *d;
	unsigned n;

	*none = !base || !find(base, id, name, size, &n);
	if (*none)
		return NULL;
	d = calloc(1, sizeof(*d));
	if (d)
		d->came = calloc(size / DISK_BLOCK / 8 + 1, 1);
	if (!d || !d->came) {
		free(d);
		error_set(e, "not enough memory");
		return NULL;
	}
	d->size = size;
	if (snprintf(d->path, sizeof(d->path), "%s/%s", dir, name) >= (int)sizeof(d->path) ||
	    snprintf(backing, sizeof(backing), "%s/%s", base->stored, name) >= (int)sizeof(backing))
		error_set(e, "the path of disk '%s' is too long", id);
	else if (!open_image(d, backing, base->image[n].format, e))
		return d;
	image_delta_drop(d);
	return NULL;
}

/* Writes [at, at + n), which lie in one piece, if they are not what is there; `data` NULL: zeros. */
static int compare(struct image_delta *d, u64 at, const u8 *data, u64 n, struct error *e)
{
	static const u8 zeros[PIECE];
	const u8 *is = data ? data : zeros;
	int error = block_read_now(d->b, at, d->before, n);

	if (!error && memcmp(d->before, is, n) != 0)
		error = block_write_now(d->b, at, is, n);
	return error ? failed(d, error, e) : 0;
}

static u64 to_end_of_piece(u64 at)
{
	return PIECE - at % PIECE;
}

int image_delta_take(struct image_delta *d, u64 at, const u8 *data, u64 n, struct error *e)
{
	for (u64 i = 0, len; i < n; i += len) {
		len = MIN(n - i, to_end_of_piece(at + i));
		if (compare(d, at + i, data + i, len, e))
			return -1;
		for (u64 k = 0; k < len; k += DISK_BLOCK)
			d->came[(at + i + k) / DISK_BLOCK / 8] |= (u8)(1u << (at + i + k) / DISK_BLOCK % 8);
	}
	return 0;
}

static bool came(const struct image_delta *d, u64 at)
{
	return d->came[at / DISK_BLOCK / 8] >> at / DISK_BLOCK % 8 & 1;
}

/* What did not come is zeros; the base may have something there. */
static int clear_rest(struct image_delta *d, struct error *e)
{
	u64 end, len;

	for (u64 at = block_next_data(d->b, 0, &end); at < d->size; at = block_next_data(d->b, end, &end)) {
		/* whole pieces: a cluster of zeros takes no room */
		end = MIN((end + PIECE - 1) / PIECE * PIECE, d->size);
		for (at = at / PIECE * PIECE; at < end; at += len) {
			bool is = came(d, at);

			for (len = DISK_BLOCK; at + len < end && len < to_end_of_piece(at) && came(d, at + len) == is;)
				len += DISK_BLOCK;
			len = MIN(len, end - at);
			if (!is && compare(d, at, NULL, len, e))
				return -1;
		}
	}
	return 0;
}

int image_delta_finish(struct image_delta *d, struct error *e)
{
	int ret = clear_rest(d, e), error = block_close(d->b);

	d->b = NULL;
	if (!ret && error)
		ret = failed(d, error, e);
	image_delta_drop(d);
	return ret;
}

void image_delta_drop(struct image_delta *d)
{
	if (!d)
		return;
	block_close(d->b);
	free(d->came);
	free(d);
}
