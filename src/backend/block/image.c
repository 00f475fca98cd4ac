/* Checking images and looking at them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "backend/block/qcow2.h"

static bool treat_as_qcow2(struct file *f, enum block_format format)
{
	u8 magic[4];

	if (format != BLOCK_FORMAT_AUTO)
		return format == BLOCK_FORMAT_QCOW2;
	return file_read(f, 0, magic, 4) == 0 && !memcmp(magic, "QFI\xfb", 4);
}

static int check_file(struct file *f, enum block_format format, struct qcow2_header *h, struct block_check_result *r,
		      struct error *e)
{
	int rc;

	if (!treat_as_qcow2(f, format))
		return 0;
	if (qcow2_header_read(f, h, e) < 0)
		return -1;
	rc = qcow2_check(f, h, r);
	return rc ? error_errno(e, rc, "%s: cannot check the image", f->path) : 0;
}

int block_check(const char *path, enum block_format format, struct block_check_result *r, struct error *e)
{
	struct qcow2_header *h = malloc(sizeof(*h));
	struct file *f = file_open(path, 0, e);
	int rc = -1;

	r->errors = r->leaks = r->allocated = r->clusters = 0;
	if (f && !h)
		error_set(e, "%s: out of memory", path);
	else if (f)
		rc = check_file(f, format, h, r, e);
	file_close(f);
	free(h);
	return rc;
}

static int qcow2_info(struct file *f, struct qcow2_header *h, struct block_info *i, struct error *e)
{
	struct error why = { "" };

	if (qcow2_header_read(f, h, &why) < 0) {
		/* known, but not to us: what the header says is still of interest */
		if (!h->refused[0])
			return error_set(e, "%s", why.text);
		memcpy(i->unsupported, h->refused, sizeof(i->unsupported));
	}
	i->format = "qcow2";
	i->virtual_size = h->size;
	i->cluster_size = BIT(h->cluster_bits);
	memcpy(i->backing_file, h->backing_file, sizeof(i->backing_file));
	memcpy(i->backing_format, h->backing_format, sizeof(i->backing_format));
	i->version = h->version;
	i->refcount_bits = 1u << h->refcount_order;
	i->snapshots = h->snapshots;
	i->lazy_refcounts = h->compat & QCOW2_COMPAT_LAZY;
	i->dirty = h->incompat & QCOW2_INCOMPAT_DIRTY;
	i->corrupt = h->incompat & QCOW2_INCOMPAT_CORRUPT;
	i->zstd = h->compression == QCOW2_ZSTD;
	return 0;
}

static int file_info(struct file *f, enum block_format format, struct qcow2_header *h, struct block_info *i,
		     struct error *e)
{
	struct stat st;
	int rc = file_size(f, &i->virtual_size);

	if (!rc && fstat(f->fd, &st) < 0)
		rc = errno;
	if (rc)
		return error_errno(e, rc, "%s: cannot read the image", f->path);
	i->disk_size = (u64)st.st_blocks * 512;
	i->format = "raw";
	return treat_as_qcow2(f, format) ? qcow2_info(f, h, i, e) : 0;
}

int block_info(const char *path, enum block_format format, struct block_info *i, struct error *e)
{
	struct qcow2_header *h = malloc(sizeof(*h));
	struct file *f = file_open(path, FILE_NOLOCK, e);
	int rc = -1;

	memset(i, 0, sizeof(*i));
	if (f && !h)
		error_set(e, "%s: out of memory", path);
	else if (f)
		rc = file_info(f, format, h, i, e);
	file_close(f);
	free(h);
	return rc;
}
