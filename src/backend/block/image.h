/* Image files as files: creating, checking, looking at them. */
#ifndef ECTYPE_BACKEND_BLOCK_IMAGE_H
#define ECTYPE_BACKEND_BLOCK_IMAGE_H

#include "backend/block/block.h"

struct qcow2_create_config {
	const char *path;
	u64 size;		    /* bytes, rounded up to sectors; 0 with a backing file: its size */
	unsigned cluster_size;	    /* bytes, a power of two from 512 to 2 MiB; 0: 64 KiB */
	const char *backing_file;   /* as it is stored: relative to the image's directory; or NULL */
	const char *backing_format; /* "raw", "qcow2"; NULL: found out and stored */
	unsigned refcount_bits;	    /* 1, 2, 4 ... 64; 0: 16 */
	bool lazy_refcounts;
	bool overwrite; /* an existing file that nobody uses */
};
/* A version 3 image without data. 0, or -1 with *e; then there is no new file. */
int qcow2_create(const struct qcow2_create_config *c, struct error *e);

struct block_check_result {
	u64 errors;    /* tables that contradict each other: data may be wrong, or get lost */
	u64 leaks;     /* clusters that are taken and not used */
	u64 allocated; /* data clusters */
	u64 clusters;  /* of the disk */
	/* NULL, or called with a line for each error and for the first leaks */
	void (*report)(void *opaque, const char *line);
	void *opaque;
};
/* Reads all tables of a qcow2 image (a raw one is always right). 0 if it could be read, whatever was found; -1 with *e.
 * The image is locked against writers meanwhile. Fields of *r other than the callback are set. */
int block_check(const char *path, enum block_format format, struct block_check_result *r, struct error *e);

struct block_info {
	const char *format;			     /* "raw", "qcow2" */
	u64 virtual_size, disk_size, cluster_size;   /* bytes; cluster_size 0: none */
	char backing_file[1024], backing_format[32]; /* as stored; empty: none */
	unsigned version, refcount_bits, snapshots;  /* of qcow2 */
	bool lazy_refcounts, dirty, corrupt, zstd;
	char unsupported[112]; /* a feature for which block_open() would refuse it; empty: none */
};
/* Also of an image in use. 0, or -1 with *e. The backing file is not opened. */
int block_info(const char *path, enum block_format format, struct block_info *i, struct error *e);

/* Calls `visit` with path and format (AUTO: to be found out) of each file that the image is backed by, from the top
 * down; -1 with *e from it ends that. They are looked at, not locked. 0, or -1 with *e. */
int block_backing_files(const char *path, enum block_format format,
			int (*visit)(void *opaque, const char *path, enum block_format format, struct error *e),
			void *opaque, struct error *e);

#endif
