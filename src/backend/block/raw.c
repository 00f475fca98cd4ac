/* Raw images: the file is the disk. */
#include <errno.h>
#include <stdlib.h>

#include "backend/block/format.h"

static int raw_read(struct image *im, u64 offset, u64 length, struct view v)
{
	u64 inside = offset < im->size ? MIN(length, im->size - offset) : 0;

	view_zero(view_at(v, inside), length - inside);
	return file_readv(im->file, offset, inside, v);
}

static int raw_write(struct image *im, u64 offset, u64 length, struct view v)
{
	return file_writev(im->file, offset, length, v);
}

static int raw_flush(struct image *im)
{
	return file_flush(im->file);
}

static int raw_discard(struct image *im, u64 offset, u64 length)
{
	return file_discard(im->file, offset, length);
}

static int raw_zero(struct image *im, u64 offset, u64 length, bool unmap)
{
	return file_zero(im->file, offset, length, unmap);
}

static bool raw_pin(struct image *im, struct pin *p, bool write, u64 offset, u64 length, struct view v)
{
	p->offset = offset;
	return offset + length <= im->size && file_pin(im->file, write, offset, length, v, &p->fd, &p->cached);
}

static void raw_unpin(struct image *im, struct pin *p) {}

static u64 raw_next_data(struct image *im, u64 offset, u64 limit, u64 *end)
{
	return file_next_data(im->file, offset, limit, end);
}

static int raw_close(struct image *im)
{
	int rc = file_flush(im->file);

	file_close(im->file);
	free(im);
	return rc;
}

static const struct format_ops ops = {
	.name = "raw",
	.read = raw_read,
	.write = raw_write,
	.flush = raw_flush,
	.discard = raw_discard,
	.zero = raw_zero,
	.pin = raw_pin,
	.unpin = raw_unpin,
	.next_data = raw_next_data,
	.close = raw_close,
};

struct image *raw_open(struct file *f, struct error *e)
{
	struct image *im = calloc(1, sizeof(*im));
	int rc = im ? file_size(f, &im->size) : ENOMEM;

	if (rc) {
		error_errno(e, rc, "%s: cannot open the image", f->path);
		file_close(f);
		free(im);
		return NULL;
	}
	im->ops = &ops;
	im->file = f;
	im->readonly = !f->writable;
	im->granularity = f->granule;
	return im;
}
