/* New qcow2 images: header, refcount table, refcount blocks, L1 table; no data. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/qcow2.h"

#define DEFAULT_BITS 16
#define DEFAULT_ORDER 4
#define EXT_BACKING_FORMAT 0xe2792acau

struct layout { /* clusters: 1 header, then these in this order */
	unsigned bits, order;
	u64 reftable, blocks, l1, total;
	u64 l1_entries;
};

static int plan(const struct qcow2_create_config *c, struct layout *l)
{
	u64 cluster, per_block;

	l->bits = c->cluster_size ? (unsigned)__builtin_ctz(c->cluster_size) : DEFAULT_BITS;
	l->order = c->refcount_bits ? (unsigned)__builtin_ctz(c->refcount_bits) : DEFAULT_ORDER;
	cluster = BIT(l->bits);
	per_block = cluster * 8 >> l->order;
	l->l1_entries = (c->size + BIT(2 * l->bits - 3) - 1) >> (2 * l->bits - 3);
	if (l->l1_entries > QCOW2_MAX_L1)
		return EFBIG;
	l->l1 = MAX((l->l1_entries * 8 + cluster - 1) >> l->bits, 1);
	for (l->blocks = l->reftable = 1;; l->blocks++) {
		l->reftable = (l->blocks * 8 + cluster - 1) >> l->bits;
		l->total = 1 + l->reftable + l->blocks + l->l1;
		if (l->blocks * per_block >= l->total)
			return 0;
	}
}

static void put32(u8 *b, u32 v)
{
	v = htobe32(v);
	memcpy(b, &v, 4);
}

/* 0, or EINVAL: the name does not fit into the header's cluster. */
static int make_header(u8 *b, const struct qcow2_create_config *c, const struct layout *l)
{
	size_t at = QCOW2_HEADER_V3 + 8, name_n = c->backing_file ? strlen(c->backing_file) : 0; /* 8: the type */
	const char *format = c->backing_format;

	put32(b, QCOW2_MAGIC);
	put32(b + 4, 3);
	put32(b + 20, l->bits);
	qcow2_set64(b + 24, 0, c->size);
	put32(b + 36, l->l1_entries);
	qcow2_set64(b + 40, 0, (1 + l->reftable + l->blocks) << l->bits);
	qcow2_set64(b + 48, 0, 1ull << l->bits);
	put32(b + 56, l->reftable);
	qcow2_set64(b + 80, 0, c->lazy_refcounts ? QCOW2_COMPAT_LAZY : 0);
	put32(b + 96, l->order);
	put32(b + 100, QCOW2_HEADER_V3 + 8);
	if (!name_n)
		return 0;
	if (format) {
		put32(b + at, EXT_BACKING_FORMAT);
		put32(b + at + 4, strlen(format));
		memcpy(b + at + 8, format, strlen(format));
		at += 8 + ((strlen(format) + 7) & ~(size_t)7);
	}
	at += 8; /* the end of extensions: zeroes */
	if (name_n > 1023 || at + name_n > BIT(l->bits))
		return EINVAL;
	memcpy(b + at, c->backing_file, name_n);
	qcow2_set64(b + 8, 0, at);
	put32(b + 16, name_n);
	return 0;
}

static int write_at(int fd, const u8 *b, size_t n, u64 offset)
{
	while (n) {
		ssize_t r = pwrite(fd, b, n, offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? errno : ENOSPC;
		b += r;
		n -= r;
		offset += r;
	}
	return 0;
}

static int write_refcounts(int fd, const struct layout *l, u8 *b)
{
	u64 cluster = BIT(l->bits), per_block = cluster * 8 >> l->order;
	int rc = 0;

	for (u64 i = 0; !rc && i < l->reftable; i++) {
		memset(b, 0, cluster);
		for (u64 k = 0; k < cluster / 8 && i * (cluster / 8) + k < l->blocks; k++)
			qcow2_set64(b, k, (1 + l->reftable + i * (cluster / 8) + k) << l->bits);
		rc = write_at(fd, b, cluster, (1 + i) << l->bits);
	}
	for (u64 i = 0; !rc && i < l->blocks; i++) {
		memset(b, 0, cluster);
		for (u64 k = 0; k < per_block && i * per_block + k < l->total; k++)
			qcow2_refcount_set(b, k, 1u << l->order, 1);
		rc = write_at(fd, b, cluster, (1 + l->reftable + i) << l->bits);
	}
	return rc;
}

int qcow2_format(int fd, const struct qcow2_create_config *c)
{
	struct layout l;
	u8 *b = NULL;
	int rc = plan(c, &l);

	if (!rc && !(b = calloc(1, BIT(l.bits))))
		rc = ENOMEM;
	/* the L1 table is a hole */
	if (!rc && ftruncate(fd, l.total << l.bits) < 0)
		rc = errno == EFBIG ? ENOSPC : errno;
	if (!rc)
		rc = write_refcounts(fd, &l, b);
	if (!rc) {
		memset(b, 0, BIT(l.bits));
		rc = make_header(b, c, &l);
	}
	if (!rc) /* last: an image that is not complete is none */
		rc = write_at(fd, b, BIT(l.bits), 0);
	free(b);
	return rc;
}

/* The size and format of the backing file, as the image will find it. */
static int look_at_backing(struct qcow2_create_config *c, struct error *e)
{
	const char *slash = strrchr(c->path, '/');
	enum block_format format = BLOCK_FORMAT_AUTO;
	char path[4096];
	struct image *im;

	if (c->backing_format && strcmp(c->backing_format, "raw") && strcmp(c->backing_format, "qcow2"))
		return error_set(e, "%s: backing format '%s' is not known; use raw or qcow2", c->path,
				 c->backing_format);
	if (c->backing_format)
		format = c->backing_format[0] == 'r' ? BLOCK_FORMAT_RAW : BLOCK_FORMAT_QCOW2;
	if (snprintf(path, sizeof(path), "%.*s%s", slash && c->backing_file[0] != '/' ? (int)(slash + 1 - c->path) : 0,
		     c->path, c->backing_file) >= (int)sizeof(path))
		return error_set(e, "%s: the path of the backing file is too long", c->path);
	im = chain_open(path, format, 0, NULL, true, NULL, e);
	if (!im)
		return -1;
	if (!c->size)
		c->size = im->size;
	c->backing_format = im->ops->name;
	im->ops->close(im);
	return 0;
}

static int open_target(const struct qcow2_create_config *c, struct error *e)
{
	int fd = open(c->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0644);
	struct stat st;

	if (fd >= 0)
		return fd;
	if (errno != EEXIST)
		return error_errno(e, errno, "%s: cannot create the image", c->path);
	if (!c->overwrite)
		return error_set(e, "%s: there is such a file already; choose another name, or remove it first",
				 c->path);
	fd = open(c->path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return error_errno(e, errno, "%s: cannot create the image", c->path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		error_set(e, "%s: not a regular file: nothing is created in its place", c->path);
	else if (file_lock(fd, c->path, true, e) == 0 && ftruncate(fd, 0) == 0)
		return fd;
	close(fd);
	return -1;
}

int qcow2_create(const struct qcow2_create_config *cfg, struct error *e)
{
	struct qcow2_create_config c = *cfg;
	int fd, rc;

	if (c.cluster_size && ((c.cluster_size & (c.cluster_size - 1)) || c.cluster_size < BIT(QCOW2_MIN_BITS) ||
			       c.cluster_size > BIT(QCOW2_MAX_BITS)))
		return error_set(e, "%s: the cluster size must be a power of two from 512 to 2M", c.path);
	if ((c.refcount_bits & (c.refcount_bits - 1)) || c.refcount_bits > 64)
		return error_set(e, "%s: refcounts must have 1, 2, 4, 8, 16, 32 or 64 bits", c.path);
	if (c.backing_file && look_at_backing(&c, e) < 0)
		return -1;
	if (c.size > BIT(61))
		return error_set(e, "%s: the disk is too large", c.path);
	c.size = (c.size + BLOCK_SECTOR - 1) & ~(u64)(BLOCK_SECTOR - 1);
	fd = open_target(&c, e);
	if (fd < 0)
		return -1;
	rc = qcow2_format(fd, &c);
	if (!rc && fsync(fd) < 0)
		rc = errno;
	close(fd);
	if (!rc)
		return 0;
	unlink(c.path);
	if (rc == EFBIG)
		return error_set(e, "%s: the disk is too large for this cluster size", c.path);
	if (rc == EINVAL)
		return error_set(e, "%s: the name of the backing file is too long", c.path);
	return error_errno(e, rc, "%s: cannot create the image", c.path);
}
