/* Opening images: their format, the chain of files that back them, throw-away overlays. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/block/qcow2.h"

static int check_chain(const struct file *f, const struct link *above, struct error *e)
{
	unsigned depth = 1;

	for (const struct link *l = above; l; l = l->above) {
		if (l->file->dev == f->dev && l->file->ino == f->ino)
			return error_set(e, "%s: the image is backed by itself", f->path);
		if (++depth > CHAIN_MAX)
			return error_set(e, "%s: more than %u images back each other", f->path, CHAIN_MAX);
	}
	return 0;
}

static bool is_qcow2(struct file *f)
{
	u8 magic[4];

	return file_read(f, 0, magic, 4) == 0 && !memcmp(magic, "QFI\xfb", 4);
}

/* The name of a backing file is relative to the directory of the image that has it. */
static int resolve(const char *image, const char *name, char *out, size_t n, struct error *e)
{
	const char *slash = strrchr(image, '/'), *colon = strchr(name, ':'), *first = strchr(name, '/');

	if (!strncmp(name, "file:", 5))
		name += 5;
	else if (colon && (!first || colon < first))
		return error_set(e, "%s: its backing file '%.200s' is not a plain file, which is not supported", image,
				 name);
	if (name[0] == '/' || !slash)
		slash = image;
	else
		slash++;
	if (snprintf(out, n, "%.*s%s", (int)(slash - image), image, name) >= (int)n)
		return error_set(e, "%s: the path of its backing file is too long", image);
	return 0;
}

/* The path and format of the file that an image is backed by. */
static int backing_of(const struct file *f, const struct qcow2_header *h, char path[PATH_MAX],
		      enum block_format *format, struct error *e)
{
	*format = BLOCK_FORMAT_AUTO;
	if (!strcmp(h->backing_format, "raw"))
		*format = BLOCK_FORMAT_RAW;
	else if (!strcmp(h->backing_format, "qcow2"))
		*format = BLOCK_FORMAT_QCOW2;
	else if (h->backing_format[0])
		return error_set(e, "%s: its backing file has the format '%s', which is not supported", f->path,
				 h->backing_format);
	return resolve(f->path, h->backing_file, path, PATH_MAX, e);
}

static struct image *open_backing(struct file *f, const struct qcow2_header *h, unsigned flags,
				  const struct link *above, bool look, struct error *e)
{
	struct link here = { f, above };
	enum block_format format;
	char path[PATH_MAX];
	struct error inner;
	struct image *im;

	if (backing_of(f, h, path, &format, e))
		return NULL;
	im = chain_open(path, format, flags & ~(unsigned)(FILE_WRITE | FILE_NOLOCK), &here, look, NULL, &inner);
	if (!im)
		error_set(e, "%s (backs %s)", inner.text, f->path);
	return im;
}

/* What the image at `path` is backed by, in `path` and *format: 1; 0: nothing. -1 with *e. */
static int next_backing(char path[PATH_MAX], enum block_format *format, struct qcow2_header *h, struct error *e)
{
	struct file *f = file_open(path, FILE_NOLOCK, e);
	int rc = -1;

	if (!f)
		return -1;
	if (*format == BLOCK_FORMAT_RAW || (*format == BLOCK_FORMAT_AUTO && !is_qcow2(f)))
		rc = 0;
	else if (qcow2_header_read(f, h, e) == 0)
		rc = !h->backing_file[0] ? 0 : backing_of(f, h, path, format, e) ? -1 : 1;
	file_close(f);
	return rc;
}

int block_backing_files(const char *path, enum block_format format,
			int (*visit)(void *opaque, const char *path, enum block_format format, struct error *e),
			void *opaque, struct error *e)
{
	struct qcow2_header *h = malloc(sizeof(*h));
	char at[PATH_MAX];
	int rc = 1;

	if (!h || snprintf(at, sizeof(at), "%s", path) >= (int)sizeof(at)) {
		free(h);
		return error_set(e, "%s: %s", path, h ? "the path is too long" : "out of memory");
	}
	for (unsigned depth = 0; rc > 0; depth++) {
		rc = next_backing(at, &format, h, e);
		if (rc > 0 && depth == CHAIN_MAX)
			rc = error_set(e, "%s: more than %u images back each other", path, CHAIN_MAX);
		if (rc > 0 && visit(opaque, at, format, e))
			rc = -1;
	}
	free(h);
	return rc;
}

static struct image *open_qcow2(struct file *f, unsigned flags, const struct link *above, bool look, struct error *e)
{
	struct image *backing = NULL;
	struct qcow2_header *h = malloc(sizeof(*h));
	struct image *im = NULL;

	if (!h)
		error_set(e, "%s: out of memory", f->path);
	else if (qcow2_header_read(f, h, e) == 0 &&
		 (!h->backing_file[0] || (backing = open_backing(f, h, flags, above, look, e))))
		im = qcow2_open(f, h, backing, look, e);
	else
		file_close(f);
	free(h);
	return im;
}

struct image *chain_open(const char *path, enum block_format format, unsigned flags, const struct link *above,
			 bool look, bool *probed_raw, struct error *e)
{
	/* locked after the look at the chain: of a file that backs itself the lock would only say that it is in use */
	struct file *f = file_open(path, flags | FILE_NOLOCK, e);

	if (!f)
		return NULL;
	if (check_chain(f, above, e) < 0 || (!(flags & FILE_NOLOCK) && file_lock(f->fd, path, f->writable, e) < 0) ||
	    (format != BLOCK_FORMAT_RAW && foreign_refuse(f, format == BLOCK_FORMAT_AUTO && !above, e) < 0)) {
		file_close(f);
		return NULL;
	}
	if (probed_raw)
		*probed_raw = false;
	if (format == BLOCK_FORMAT_AUTO && !is_qcow2(f)) {
		format = BLOCK_FORMAT_RAW;
		if (probed_raw)
			*probed_raw = true;
	}
	return format == BLOCK_FORMAT_RAW ? raw_open(f, e) : open_qcow2(f, flags, above, look, e);
}

/* ---- what lies above a file ---- */

static bool is_file(const struct image *im, const struct block_file *f)
{
	return im->file->dev == f->dev && im->file->ino == f->ino;
}

bool chain_ends_with(const struct image *im, const struct block_file *files, unsigned n)
{
	unsigned same = 0;

	for (im = im->backing; im; im = im->backing) {
		if (same < n && is_file(im, &files[same]))
			same++;
		else if (same)
			return false; /* no file is in a chain twice */
	}
	return n && same == n;
}

u64 chain_next_above(struct image *im, const struct block_file *below, u64 offset, u64 limit, u64 *end)
{
	u64 stop;

	*end = limit;
	if (is_file(im, below))
		return limit;
	for (; offset < limit; offset = stop) {
		u64 backed = im->backing ? im->backing->size : 0, found;

		if (!im->ops->own || im->ops->own(im, offset, limit, &stop)) {
			*end = im->ops->own ? stop : limit;
			return offset;
		}
		if (offset < backed) {
			stop = MIN(stop, backed);
			found = chain_next_above(im->backing, below, offset, stop, end);
			if (found < stop)
				return found;
		} else if (!im->backing || !is_file(im->backing, below)) {
			/* zeros, whatever the file has there */
			*end = stop;
			return offset;
		}
	}
	*end = limit;
	return limit;
}

/* ---- throw-away overlays ---- */

static int temporary_file(struct error *e)
{
	const char *dir = getenv("TMPDIR");
	char name[PATH_MAX];
	int fd;

	if (!dir || !dir[0])
		dir = "/var/tmp"; /* /tmp is often memory */
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	if (snprintf(name, sizeof(name), "%s/ectype-XXXXXX", dir) < (int)sizeof(name))
		fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		return error_errno(e, errno, "%s: cannot make a temporary file for the snapshot (TMPDIR says where)",
				   dir);
	unlink(name);
	return fd;
}

struct image *snapshot_open(struct image *base, struct error *e)
{
	struct qcow2_create_config c = { .size = base->size & ~(u64)(BLOCK_SECTOR - 1) };
	struct qcow2_header *h = malloc(sizeof(*h));
	struct image *im = NULL;
	struct file *f = NULL;
	int fd = h ? temporary_file(e) : -1, rc;

	if (!h)
		error_set(e, "snapshot: out of memory");
	if (fd < 0)
		goto out;
	rc = qcow2_format(fd, &c);
	if (rc) {
		error_errno(e, rc, "snapshot: cannot write the temporary file");
		close(fd);
		goto out;
	}
	f = file_from_fd(fd, "temporary file of the snapshot", FILE_WRITE | FILE_NOSYNC);
	if (!f) {
		error_set(e, "snapshot: out of memory");
	} else if (qcow2_header_read(f, h, e) == 0) {
		im = qcow2_open(f, h, base, false, e);
		base = NULL;
	} else {
		file_close(f);
	}
out:
	if (base)
		base->ops->close(base);
	free(h);
	return im;
}
