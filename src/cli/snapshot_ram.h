/*
 * RAM in a snapshot's directory. Four kinds, by two questions:
 *
 *            whole                       what differs from a base
 *   plain    ram                         ram, ram.index, base
 *   zstd     ram.zst, ram.index          ram.zst, ram.index, base
 *
 * `ram` is as long as RAM, each frame at its offset, holes are zeros. `ram.zst`
 * is the frames of each group of 64, compressed by themselves (RFC 8878), one
 * behind the other; so a group can be read without the others, and many at
 * once. The index, a section of `state`, says which frames a snapshot has: all
 * others are those of its base, or zeros where there is none.
 *
 *   ram.index := packed(bool) count(u32) group*
 *   group     := number(u32) frames(u64), and if packed length(u32) sum(u64)
 *
 * Groups are in order; bit i of `frames`, which is not 0, is frame 64 * number
 * + i. `sum` is XXH3 (64 bit) of the compressed bytes, seeded with the number.
 *
 *   base := path-length(u16) path low(u64) high(u64)
 *
 * names the base, relative to the directory if it does not begin with '/', and
 * XXH3 (128 bit) of its file `state`. A base may have a base.
 */
#ifndef ECTYPE_CLI_SNAPSHOT_RAM_H
#define ECTYPE_CLI_SNAPSHOT_RAM_H

#include "base/error.h"
#include "mem/physmem.h"
#include "state/codec.h"
#include "state/ram.h"

#define SNAPSHOT_RAM "ram"
#define SNAPSHOT_RAM_PACKED "ram.zst"
#define SNAPSHOT_INDEX_SECTION "ram.index"
#define SNAPSHOT_BASE_SECTION "base"

#define RAM_GROUP_FRAMES 64u
#define RAM_GROUP_BYTES (RAM_GROUP_FRAMES * PAGE_SIZE)
#define RAM_CHAIN_MAX 56u /* snapshots, the first base included; images on each other can be 64 */
#define RAM_LEVEL_MAX 19  /* of zstd */

struct ram_group {
	u32 number, len; /* len: of the compressed bytes */
	u64 frames, at, sum;
};
struct ram_index {
	bool packed;
	u32 count, room;
	struct ram_group *group;
};

void ram_index_write(const struct ram_index *x, struct encoder *e);
/* Of a machine with `ram_size` bytes and a file of `file_size`. 0, or -1: it is not sound, or not enough memory. */
int ram_index_read(struct ram_index *x, struct decoder d, u64 ram_size, u64 file_size);
void ram_index_free(struct ram_index *x);
/* The group `number`, NULL: there is none. */
const struct ram_group *ram_index_find(const struct ram_index *x, u32 number);
/* The one behind those there are, `number` if that is already it. NULL on lack of memory. */
struct ram_group *ram_index_add(struct ram_index *x, u32 number);

/* ---- a snapshot and its bases ---- */

struct ram_level {
	int fd;
	bool indexed;  /* else all frames are in the file */
	u64 file_size; /* bytes */
	u64 pages;     /* of RAM as a whole, that are not zeros */
	struct ram_index index;
	char *path; /* of the directory */
};
/* level[0] is the snapshot itself, level[i + 1] the base of level[i]. */
struct ram_chain {
	u64 size;	    /* of RAM, bytes */
	struct ram_sum sum; /* of all RAM at level[0] */
	unsigned levels;
	struct ram_level level[RAM_CHAIN_MAX];
};
void ram_chain_close(struct ram_chain *c);

/* Reads frames one after the other, for who does not need all of RAM in memory. */
struct ram_reader;
/* NULL on lack of memory. `c` has to stay. */
struct ram_reader *ram_reader_open(const struct ram_chain *c);
void ram_reader_close(struct ram_reader *r);
/* The first frame at or behind `frame` that may hold something; the number of frames: none. */
u64 ram_reader_next(const struct ram_reader *r, u64 frame);
/* `n` frames, all within RAM. 0, or -1 with *e. */
int ram_reader_get(struct ram_reader *r, u64 frame, u64 n, u8 *to, struct error *e);

/* Reads all and compares it with the sum. 0, or -1 with *e. */
int ram_chain_check(const struct ram_chain *c, struct error *e);

/*
 * Fills RAM of a new machine, zeros so far. Files of plain snapshots are mapped copy-on-write, short pieces of them
 * read; what is compressed is read, by all processors. With `eager` everything is read and compared with the sum. 0, or
 * -1 with *e.
 */
int ram_chain_load(const struct ram_chain *c, struct memory *m, bool eager, struct error *e);

/* Decompresses group `g` of `l`: `packed` has room for g->len bytes, `to` for RAM_GROUP_BYTES; frames lie one behind
 * the other there. `dctx`: of ZSTD_createDCtx(). 0, or -1 with *e. */
int ram_group_unpack(const struct ram_level *l, const struct ram_group *g, void *dctx, u8 *packed, u8 *to,
		     struct error *e);
/* How many bytes g->len can be at most. */
u32 ram_group_packed_max(void);

/* ---- writing ---- */

struct ram_out;
/* Makes the file in directory `dir`. `level`: of zstd, 0: plain. `base`: NULL, or has to stay. NULL with *e. */
struct ram_out *ram_out_create(int dir, int level, const struct ram_chain *base, struct error *e);
void ram_out_free(struct ram_out *o); /* the file stays */
const char *ram_out_name(const struct ram_out *o);
/* Comes first. */
int ram_out_size(struct ram_out *o, u64 size, struct error *e);
/* `n` bytes, whole frames, at offset `at` behind what came before; what is left out is zeros. Checked by the caller:
 * within RAM. */
int ram_out_take(struct ram_out *o, u64 at, const u8 *data, u64 n, struct error *e);
/* Nothing more comes: all is in the file. May be called again. */
int ram_out_finish(struct ram_out *o, struct error *e);
/* And on the disk. */
int ram_out_flush(struct ram_out *o, struct error *e);
/* NULL: the file alone says everything. */
const struct ram_index *ram_out_index(const struct ram_out *o);
u64 ram_out_bytes(const struct ram_out *o); /* in the file, without holes */

/* Compressing groups by all processors. Internal to the writing of RAM. */
struct ram_packer;
struct ram_packer *ram_packer_create(int fd, int level, struct ram_index *x, struct error *e);
void ram_packer_free(struct ram_packer *p);
/* A page of frame `frame`, in order; NULL: zeros. 0, or -1 with errno: the file could not be written, or ENOMEM. */
int ram_packer_add(struct ram_packer *p, u64 frame, const u8 *page);
int ram_packer_finish(struct ram_packer *p); /* likewise */
u64 ram_packer_bytes(const struct ram_packer *p);

#endif
