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
	bool based;		/* on an image of the base: what comes is compared */
	struct block *backing;	/* has what does not come; NULL: it is zeros */
	struct block_file file; /* of `backing` */
	u8 *came;		/* a bit for each block; of `based` */
	u8 before[PIECE], after[PIECE];
};

static int failed(const struct image_delta *d, int error, struct error *e)
{
	return error_errno(e, error, "%s", d->path);
}

/* `format` AUTO: it is found out, and stored. */
static int make_image(struct image_delta *d, const char *backing, enum block_format format, struct error *e)
{
	static const char *const names[] = { [BLOCK_FORMAT_RAW] = "raw", [BLOCK_FORMAT_QCOW2] = "qcow2" };
	const struct qcow2_create_config c = {
		.path = d->path,
		.size = d->size,
		.cluster_size = PIECE,
		.backing_file = backing,
		.backing_format = names[format],
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

/* The base's image `n` gets another one above it. */
static int open_based(struct image_delta *d, const char *id, const char *name, const struct snapshot_images_base *base,
		      unsigned n, const struct snapshot_backing *backing, struct error *e)
{
	struct block_config c = { .readonly = true, .threads = true };
	char path[PATH_MAX];

	d->based = true;
	d->came = calloc(d->size / DISK_BLOCK / 8 + 1, 1);
	if (!d->came)
		return error_set(e, "not enough memory");
	if (snprintf(path, sizeof(path), "%s/%s", base->stored, name) >= (int)sizeof(path))
		return error_set(e, "the path of disk '%s' is too long", id);
	if (make_image(d, path, base->image[n].format, e))
		return -1;
	if (!backing)
		return 0;
	c.path = backing->file[0].path;
	c.format = backing->format;
	d->file = backing->is[0];
	d->backing = block_open(&c, e);
	return d->backing ? 0 : -1;
}

struct image_delta *image_delta_create(const char *dir, const char *name, const char *id, u64 size,
				       const struct snapshot_images_base *base, const struct snapshot_backing *backing,
				       bool *none, struct error *e)
{
	struct image_delta *d;
	bool based;
	unsigned n;
	int ret;

	based = base && find(base, id, name, size, &n);
	*none = !based && !backing;
	if (*none)
		return NULL;
	d = calloc(1, sizeof(*d));
	if (!d) {
		error_set(e, "not enough memory");
		return NULL;
	}
	d->size = size;
	if (snprintf(d->path, sizeof(d->path), "%s/%s", dir, name) >= (int)sizeof(d->path))
		ret = error_set(e, "the path of disk '%s' is too long", id);
	else if (based)
		ret = open_based(d, id, name, base, n, backing, e);
	else
		ret = make_image(d, backing->file[0].path, backing->format, e);
	if (!ret)
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

static void note(struct image_delta *d, u64 at, u64 n)
{
	for (u64 i = at; i < at + n; i += DISK_BLOCK)
		d->came[i / DISK_BLOCK / 8] |= (u8)(1u << i / DISK_BLOCK % 8);
}

int image_delta_take(struct image_delta *d, u64 at, const u8 *data, u64 n, struct error *e)
{
	for (u64 i = 0, len; i < n; i += len) {
		len = MIN(n - i, to_end_of_piece(at + i));
		if (d->based) {
			note(d, at + i, len);
			if (compare(d, at + i, data + i, len, e))
				return -1;
		} else {
			int error = block_write_now(d->b, at + i, data + i, len);

			if (error)
				return failed(d, error, e);
		}
	}
	return 0;
}

int image_delta_zero(struct image_delta *d, u64 at, u64 n, struct error *e)
{
	u64 stop = at + n, end = at, len;
	int error;

	if (!d->based) {
		error = block_zero_now(d->b, at, n);
		return error ? failed(d, error, e) : 0;
	}
	note(d, at, n);
	while ((at = block_next_data(d->b, end, &end)) < stop) {
		for (end = MIN(end, stop); at < end; at += len) {
			len = MIN(end - at, to_end_of_piece(at));
			if (compare(d, at, NULL, len, e))
				return -1;
		}
	}
	return 0;
}

static bool came(const struct image_delta *d, u64 at)
{
	return d->came[at / DISK_BLOCK / 8] >> at / DISK_BLOCK % 8 & 1;
}

/* What the files have that the machine's own image is backed by; NULL: zeros, and so it is without them. */
static int read_backing(struct image_delta *d, u64 at, u64 n, const u8 **data)
{
	u64 size = d->backing ? block_size(d->backing) : 0, inside = at < size ? MIN(n, size - at) : 0;

	*data = inside ? d->after : NULL;
	if (!inside)
		return 0;
	memset(d->after + inside, 0, n - inside);
	return block_read_now(d->backing, at, d->after, inside);
}

/* [at, end), whole pieces but at the disk's end: what did not come. */
static int compare_rest(struct image_delta *d, u64 at, u64 end, struct error *e)
{
	const u8 *data;
	u64 len;

	for (; at < end; at += len) {
		bool is = came(d, at);
		int error;

		for (len = DISK_BLOCK; at + len < end && len < to_end_of_piece(at) && came(d, at + len) == is;)
			len += DISK_BLOCK;
		len = MIN(len, end - at);
		if (is)
			continue;
		error = read_backing(d, at, len, &data);
		if (error)
			return failed(d, error, e);
		if (compare(d, at, data, len, e))
			return -1;
	}
	return 0;
}

/* Where one of them, or both, are not zeros. */
static u64 next_data(struct image_delta *d, u64 at, u64 *end)
{
	u64 other_end, first = block_next_data(d->b, at, end), other = block_next_data(d->backing, at, &other_end);

	if (other == block_size(d->backing) || other >= first)
		return first;
	*end = MIN(other_end, d->size);
	return MIN(other, d->size);
}

/* Where what did not come may be other than what the base has: it may have something of its own there, or stand on
 * other files than the machine. */
static u64 next_other(struct image_delta *d, u64 at, u64 *end)
{
	u64 stop;

	if (!d->backing)
		return block_next_data(d->b, at, end);
	for (;; at = stop) {
		at = block_next_above(d->b, &d->file, at, &stop);
		if (at == d->size)
			return at;
		at = next_data(d, at, end);
		if (at < stop) {
			*end = MIN(*end, stop);
			return at;
		}
	}
}

static int compare_all(struct image_delta *d, struct error *e)
{
	u64 end;

	for (u64 at = next_other(d, 0, &end); at < d->size; at = next_other(d, end, &end)) {
		end = MIN((end + PIECE - 1) / PIECE * PIECE, d->size);
		if (compare_rest(d, at / PIECE * PIECE, end, e))
			return -1;
	}
	return 0;
}

int image_delta_finish(struct image_delta *d, struct error *e)
{
	int ret = d->based ? compare_all(d, e) : 0, error = block_close(d->b);

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
	block_close(d->backing);
	free(d->came);
	free(d);
}
