/*
 * qcow2 images, inside: what the qcow2_*.c share. The format is
 * docs/interop/qcow2.txt of QEMU. Functions return 0 or an errno value.
 *
 * Locks, in the order they are taken:
 *   ranges      a request's clusters: shared to read and to write in place,
 *               exclusive to change their mapping
 *   sync_lock   of who writes tables back
 *   lock        all tables in memory; not held during transfers of data
 *
 * A function that wants `lock` held and finds no room in a cache, or in the
 * refcount table, changes nothing and returns EAGAIN: the caller calls
 * qcow2_make_room(), which lets go of `lock` meanwhile, and starts again.
 */
#ifndef ECTYPE_BACKEND_BLOCK_QCOW2_H
#define ECTYPE_BACKEND_BLOCK_QCOW2_H

#include <endian.h>
#include <pthread.h>
#include <string.h>

#include "backend/block/format.h"
#include "backend/block/image.h"

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_MIN_BITS 9u
#define QCOW2_MAX_BITS 21u
#define QCOW2_MAX_L1 (32 * MiB / 8)	 /* entries */
#define QCOW2_MAX_REFTABLE (8 * MiB / 8) /* entries */
#define QCOW2_MAX_SNAPSHOTS 65536u
#define QCOW2_MAX_OFFSET BIT(56)
#define QCOW2_HEADER_V2 72u
#define QCOW2_HEADER_V3 104u

#define QCOW2_COPIED BIT(63)
#define QCOW2_COMPRESSED BIT(62)
#define QCOW2_ZERO BIT(0)
#define QCOW2_OFFSET 0x00fffffffffffe00ull

#define QCOW2_INCOMPAT_DIRTY BIT(0)
#define QCOW2_INCOMPAT_CORRUPT BIT(1)
#define QCOW2_INCOMPAT_DATA_FILE BIT(2)
#define QCOW2_INCOMPAT_COMPRESSION BIT(3)
#define QCOW2_INCOMPAT_EXTENDED_L2 BIT(4)
#define QCOW2_ZSTD 1 /* compression type; 0 is zlib's deflate */
#define QCOW2_COMPAT_LAZY BIT(0)
#define QCOW2_AUTOCLEAR_BITMAPS BIT(0)

struct qcow2_header { /* in the host's byte order */
	u32 version, cluster_bits, l1_size, reftable_clusters, snapshots, refcount_order, length;
	u64 size, l1_offset, reftable_offset, snapshots_offset;
	u64 incompat, compat, autoclear;
	u8 compression;	   /* the compression type */
	char refused[112]; /* a feature that is not supported */
	char backing_file[1024], backing_format[32];
	u64 bitmaps_offset, bitmaps_size; /* the directory */
	u32 bitmaps;
};

/* A table of one cluster, cached. */
struct qcow2_table {
	u64 offset;		  /* in the file; 0: the slot is free */
	u8 *data;		  /* as in the file: big-endian */
	u32 dirty_from, dirty_to; /* bytes; equal: clean */
	bool busy;		  /* being written back */
	u64 used;		  /* when, for the least recently used */
	struct qcow2_table *next; /* in its bucket */
};

struct qcow2_cache {
	struct qcow2_table *slots, **buckets;
	unsigned n;
	u64 clock;
};

/* A table that is in memory as a whole, in the host's byte order, with the entries the file does not have yet. */
struct qcow2_array {
	u64 *entry;
	u64 n, offset;
	u64 dirty_from, dirty_to; /* entries; equal: clean */
};

struct qcow2_set { /* of cluster numbers */
	u64 *slot; /* number + 1; 0 free, 1 << 63 was used */
	u64 room, used;
};

struct qcow2_run { /* clusters to be freed once no table in the file refers to them */
	u64 first, count;
	bool table, punch;
};

struct qcow2_runs {
	struct qcow2_run *run;
	size_t n, room;
};

struct qcow2_unpacked; /* decompressed clusters */

struct qcow2 {
	struct image im; /* first */
	struct qcow2_header h;
	u64 cluster; /* bytes */
	unsigned cluster_bits, l2_bits, block_bits, refcount_bits;
	u64 first_end; /* the file's size when it was opened */
	struct ranges ranges;
	pthread_mutex_t sync_lock, lock;
	/* under `lock` */
	struct qcow2_array l1, reftable;
	struct qcow2_cache l2, blocks;
	struct qcow2_set tables; /* clusters that hold metadata */
	struct qcow2_runs freed;
	u64 hint; /* no cluster below is free */
	bool want_grow;
	_Atomic bool broken;		 /* nothing more is written */
	struct qcow2_unpacked *unpacked; /* has its own lock */
};

static inline u64 qcow2_get64(const u8 *table, u64 index)
{
	u64 v;

	memcpy(&v, table + index * 8, 8);
	return be64toh(v);
}

static inline void qcow2_set64(u8 *table, u64 index, u64 v)
{
	v = htobe64(v);
	memcpy(table + index * 8, &v, 8);
}

static inline bool qcow2_table_offset_ok(const struct qcow2 *q, u64 offset)
{
	return offset && !(offset & (q->cluster - 1));
}

/* qcow2_header.c */
int qcow2_header_read(struct file *f, struct qcow2_header *h, struct error *e); /* 0 or -1: also checks limits */
/* Bytes 0 to QCOW2_HEADER_V3 of a version 3 header (72 of version 2) but for magic and backing file. */
int qcow2_header_update(struct file *f, const struct qcow2_header *h);
struct qcow2_snapshot {
	u64 l1_offset;
	u32 l1_size;
	u64 entry_size; /* bytes in the snapshot table */
};
int qcow2_snapshot_read(struct file *f, u64 at, struct qcow2_snapshot *s);

/* qcow2_cache.c: under `lock` */
int qcow2_cache_init(struct qcow2_cache *c, unsigned n);
void qcow2_cache_free(struct qcow2_cache *c);
struct qcow2_table *qcow2_cache_peek(struct qcow2_cache *c, u64 offset);
int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, u64 offset, struct qcow2_table **t);
/* A slot for qcow2_cache_insert(); valid until the next call for this cache. Its data are undefined. */
int qcow2_cache_reserve(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_table **t);
void qcow2_cache_insert(struct qcow2_cache *c, struct qcow2_table *t, u64 offset);
void qcow2_table_dirty(struct qcow2_table *t, u64 from, u64 to);
static inline void qcow2_array_dirty(struct qcow2_array *a, u64 from, u64 to)
{
	a->dirty_from = a->dirty_from == a->dirty_to ? from : MIN(a->dirty_from, from);
	a->dirty_to = MAX(a->dirty_to, to);
}
bool qcow2_set_has(const struct qcow2_set *s, u64 cluster);
int qcow2_set_add(struct qcow2_set *s, u64 cluster); /* EEXIST: it was there */
void qcow2_set_remove(struct qcow2_set *s, u64 cluster);

/* qcow2_refcount.c: under `lock`, but for make_room's and grow's own locking */
u64 qcow2_refcount_get(const u8 *block, u64 index, unsigned bits);
void qcow2_refcount_set(u8 *block, u64 index, unsigned bits, u64 value);
/* *n (at least 1, at most `want`) adjacent clusters, refcount 1. */
int qcow2_alloc(struct qcow2 *q, u64 want, u64 *offset, u64 *n);
void qcow2_unalloc(struct qcow2 *q, u64 offset, u64 n); /* of clusters that nothing refers to, in the file or here */
/* To be freed by the sync after next. `table`: of metadata. ENOMEM leaks them. */
int qcow2_free_later(struct qcow2 *q, u64 cluster, u64 n, bool table, bool punch);
void qcow2_free_runs(struct qcow2 *q, struct qcow2_runs *r); /* lets go of `lock` while it makes holes */
int qcow2_grow(struct qcow2 *q);			     /* without `lock` */
int qcow2_make_room(struct qcow2 *q);			     /* with `lock` */
int qcow2_broken(struct qcow2 *q, const char *what);	     /* EIO */

/* qcow2_sync.c */
#define QCOW2_RUNS_MAX 4096u
int qcow2_sync(struct qcow2 *q, bool final); /* without locks. `final`: all is on stable storage then */

/* qcow2_map.c */
enum qcow2_kind { QCOW2_UNALLOCATED, QCOW2_ZEROES, QCOW2_DATA, QCOW2_PACKED };
struct qcow2_extent {
	enum qcow2_kind kind;
	u64 host;      /* DATA: in the file; PACKED: the table's entry */
	u64 length;    /* bytes */
	bool in_place; /* DATA: may be written where it is */
};
enum qcow2_kind qcow2_kind_of(const struct qcow2 *q, u64 entry);
/* The clusters of the file that a compressed cluster lies in. */
void qcow2_packed_place(const struct qcow2 *q, u64 entry, u64 *offset, u64 *bytes);
/* What is at `offset`, up to `length` bytes of it; under `lock`. */
int qcow2_map(struct qcow2 *q, u64 offset, u64 length, bool cached_only, struct qcow2_extent *x);
/* The L2 table of `offset`, to be changed: nobody else's. Under `lock`. */
int qcow2_l2_for_write(struct qcow2 *q, u64 offset, struct qcow2_table **t);
int qcow2_free_entry(struct qcow2 *q, u64 entry, bool punch);

/* qcow2_unpack.c */
int qcow2_unpacked_create(struct qcow2 *q);
void qcow2_unpacked_destroy(struct qcow2 *q);
int qcow2_read_packed(struct qcow2 *q, u64 entry, u64 skip, u64 length, struct view v);
void qcow2_unpacked_forget(struct qcow2 *q, u64 entry);

/* qcow2_io.c */
int qcow2_read_guest(struct qcow2 *q, u64 offset, u64 length, struct view v); /* the range is locked */
extern const struct format_ops qcow2_ops;

/* qcow2_check.c */
int qcow2_check(struct file *f, const struct qcow2_header *h, struct block_check_result *r);
int qcow2_rebuild(struct file *f, struct qcow2_header *h, struct error *e); /* refcounts anew; 0 or -1 */

/* qcow2.c. Takes `f` and `backing` (or NULL) over, also in case of failure; `look`: nothing is changed. */
struct image *qcow2_open(struct file *f, const struct qcow2_header *h, struct image *backing, bool look,
			 struct error *e);
/* qcow2_create.c: an empty image into a file of length 0. */
int qcow2_format(int fd, const struct qcow2_create_config *c);

#endif
