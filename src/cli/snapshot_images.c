#include "cli/snapshot_images.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/track.h"
#include "cli/new_file.h"

void snapshot_image_name(const char *id, char name[40])
{
	snprintf(name, 40, "%.31s.img", id);
}

bool snapshot_images_section(const struct stream_section *s)
{
	return !strcmp(s->name, DISK_SIZE) || !strcmp(s->name, DISK_DATA) || !strcmp(s->name, DISK_ZERO) ||
	       !strcmp(s->name, DISK_SUM);
}

static int not_sound(struct error *e)
{
	return error_set(e, "what the machine sent of its disks is damaged");
}

static int failed(const char *path, const char *id, struct error *e)
{
	return error_errno(e, errno, "%s/%s.img", path, id);
}

static int make_image(struct snapshot_images *m, struct snapshot_image *im, int dir, const char *path, struct error *e)
{
	const struct snapshot_backing *backing = NULL;
	char name[40];
	bool raw;

	if (im->above && !(backing = snapshot_backings_of(m->backings, im->id)))
		return not_sound(e);
	snapshot_image_name(im->id, name);
	im->delta = image_delta_create(path, name, im->id, im->size, m->base, backing, &raw, e);
	im->format = raw ? BLOCK_FORMAT_RAW : BLOCK_FORMAT_QCOW2;
	if (!raw && !im->delta) {
		unlinkat(dir, name, 0);
		return -1;
	}
	im->fd = openat(dir, name, raw ? O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0600);
	if (im->fd < 0) {
		failed(path, im->id, e);
		image_delta_drop(im->delta);
		if (!raw)
			unlinkat(dir, name, 0);
		return -1;
	}
	m->count++;
	return (raw && ftruncate(im->fd, (off_t)im->size)) || fchmod(im->fd, 0600) ? failed(path, im->id, e) : 0;
}

static int take_size(struct snapshot_images *m, int dir, const char *path, struct decoder *d, struct error *e)
{
	struct snapshot_image *im = &m->image[m->count];
	u8 number = dec_u8(d), len = dec_u8(d);

	if (m->count == MACHINE_DISKS_MAX || number != m->count || !len || len >= sizeof(im->id))
		return not_sound(e);
	*im = (struct snapshot_image){ .fd = -1 };
	dec_bytes(d, im->id, len);
	im->size = dec_u64(d);
	im->above = !d->failed && d->pos < d->len;
	if (im->above && dec_u8(d) != 1)
		return not_sound(e);
	if (!im->size)
		im->above = false; /* an image of no bytes would get as many as what it is backed by */
	/* the name is one in the directory, and restore takes no hidden ones */
	if (!dec_done(d) || strlen(im->id) != len || strchr(im->id, '/') || im->size % BLOCK_SECTOR ||
	    im->size > INT64_MAX)
		return not_sound(e);
	if (im->id[0] == '.')
		return error_set(e, "disk '%s': an id that begins with '.' cannot be saved", im->id);
	if (snapshot_images_find(m, im->id))
		return not_sound(e);
	return make_image(m, im, dir, path, e);
}

static struct snapshot_image *image_of(struct snapshot_images *m, struct decoder *d)
{
	u8 number = dec_u8(d);

	return number < m->count && !m->image[number].whole ? &m->image[number] : NULL;
}

static int take_data(struct snapshot_images *m, const char *path, struct decoder *d, struct error *e)
{
	struct snapshot_image *im = image_of(m, d);
	u64 at = dec_u64(d), n = d->len - d->pos;
	const u8 *data = d->data + d->pos;

	if (!im || d->failed || at % DISK_BLOCK || at > im->size || n > im->size - at ||
	    (n % DISK_BLOCK && at + n != im->size))
		return not_sound(e);
	for (u64 i = 0; i < n; i += DISK_BLOCK)
		disk_sum_add(&im->sum, at + i, data + i, MIN(n - i, DISK_BLOCK));
	if (im->delta)
		return image_delta_take(im->delta, at, data, n, e);
	return write_all_at(im->fd, data, n, at) ? failed(path, im->id, e) : 0;
}

static int take_zeros(struct snapshot_images *m, struct decoder *d, struct error *e)
{
	struct snapshot_image *im = image_of(m, d);
	u64 at = dec_u64(d), n = dec_u64(d);

	if (!im || !im->above || !dec_done(d) || at % BLOCK_GRANULE || at > im->size || n > im->size - at ||
	    (n % BLOCK_GRANULE && at + n != im->size))
		return not_sound(e);
	return image_delta_zero(im->delta, at, n, e);
}

static int take_sum(struct snapshot_images *m, struct decoder *d, struct error *e)
{
	struct snapshot_image *im = image_of(m, d);
	u64 pages = dec_u64(d), sum = dec_u64(d);
	struct image_delta *delta;

	if (!im || !dec_done(d) || pages != im->sum.pages || sum != im->sum.sum)
		return not_sound(e);
	im->whole = true;
	delta = im->delta;
	im->delta = NULL;
	return delta ? image_delta_finish(delta, e) : 0;
}

int snapshot_images_take(struct snapshot_images *m, int dir, const char *path, const struct stream_section *s,
			 struct error *e)
{
	struct decoder d = stream_decoder(s);

	if (!strcmp(s->name, DISK_SIZE))
		return take_size(m, dir, path, &d, e);
	if (!strcmp(s->name, DISK_ZERO))
		return take_zeros(m, &d, e);
	return strcmp(s->name, DISK_SUM) ? take_data(m, path, &d, e) : take_sum(m, &d, e);
}

bool snapshot_images_whole(const struct snapshot_images *m)
{
	bool whole = true;

	for (unsigned i = 0; i < m->count; i++)
		whole &= m->image[i].whole;
	return whole;
}

const struct snapshot_image *snapshot_images_find(const struct snapshot_images *m, const char *id)
{
	for (unsigned i = 0; i < m->count; i++)
		if (!strcmp(m->image[i].id, id))
			return &m->image[i];
	return NULL;
}

int snapshot_image_size(const struct snapshot_image *im, u64 *size)
{
	struct stat st;

	if (fstat(im->fd, &st))
		return -1;
	*size = (u64)st.st_size;
	return 0;
}

u64 snapshot_images_bytes(const struct snapshot_images *m)
{
	u64 pages = 0;

	for (unsigned i = 0; i < m->count; i++)
		pages += m->image[i].sum.pages;
	return pages * DISK_BLOCK;
}

int snapshot_images_flush(struct snapshot_images *m, const char *path, struct error *e)
{
	for (unsigned i = 0; i < m->count; i++)
		if (fsync(m->image[i].fd))
			return failed(path, m->image[i].id, e);
	return 0;
}

void snapshot_images_close(struct snapshot_images *m, int dir, bool remove)
{
	char name[40];

	for (unsigned i = 0; i < m->count; i++) {
		image_delta_drop(m->image[i].delta);
		close(m->image[i].fd);
		snapshot_image_name(m->image[i].id, name);
		if (remove)
			unlinkat(dir, name, 0);
	}
	m->count = 0;
}
