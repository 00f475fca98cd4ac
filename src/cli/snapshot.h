/*
 * A snapshot on disk: a directory with
 *
 *   state     a stream (state/stream.h; what is in it: docs/snapshot.md)
 *   ram       RAM as it was, holes are zeros; or ram.zst (cli/snapshot_ram.h)
 *   ID.img    what disks held, where the machine went on: raw images, or qcow2 images on what it does not copy
 */
#ifndef ECTYPE_CLI_SNAPSHOT_H
#define ECTYPE_CLI_SNAPSHOT_H

#include <linux/limits.h>
#include <sys/stat.h>

#include "backend/block/block.h"
#include "cli/saved_options.h"
#include "cli/snapshot_ram.h"
#include "machine/state.h"
#include "state/ram.h"
#include "state/stream.h"

#define SNAPSHOT_STATE "state"
#define SNAPSHOT_DISKS_SECTION "disks"
#define SNAPSHOT_FILES_SECTION "disk.files"

/*
 * Section "disks": u32 count, of each its id (u8 length), path (u16 length; a name without '/' is one in the
 * directory), format (u8: 1 raw, 2 qcow2), whether the guest could write (bool), bytes of the file (u64) and the time
 * it was last written (u64, ns since 1970; 0: not to be looked at).
 */
struct snapshot_disk {
	char id[32], path[PATH_MAX];
	enum block_format format;
	bool writable;
	u64 size, written;
};
/* A file that backs a disk which is not copied. Section "disk.files", if there is any: u32 count, of each its path (u16
 * length), bytes and time as above. */
struct snapshot_file {
	char path[PATH_MAX];
	u64 size, written;
};
struct snapshot_disks {
	struct snapshot_disk disk[MACHINE_DISKS_MAX];
	unsigned count;
	struct snapshot_file *file; /* from malloc() */
	unsigned files;
};
static inline bool snapshot_disk_own(const struct snapshot_disk *d)
{
	return d->path[0] != '/';
}
void snapshot_disks_write(const struct snapshot_disks *s, struct encoder *e);
int snapshot_disks_read(struct snapshot_disks *s, struct decoder d); /* -1: not sound */
/* Notes the files that the disk's image builds on, but for those in `skip` (or NULL), the bases of a snapshot. 0, or -1
 * with *e. */
int snapshot_files_note(struct snapshot_disks *s, const char *id, const struct block_config *image,
			const struct ram_chain *skip, struct error *e);
void snapshot_files_write(const struct snapshot_disks *s, struct encoder *e);
/* Calls `visit` for each of those of a snapshot with these sections, until -1 with *e from it. 0, or -1 with *e. */
int snapshot_files_each(const struct stream *s, int (*visit)(const struct snapshot_file *f, struct error *e),
			struct error *e);
/* Are they what they were? 0, or -1 with *e. */
int snapshot_files_check(const struct stream *s, struct error *e);
/* Size and time of a file as above. */
static inline void snapshot_stat_identity(const struct stat *st, u64 *size, u64 *written)
{
	*size = (u64)st->st_size;
	*written = (u64)st->st_mtim.tv_sec * 1000000000u + (u64)st->st_mtim.tv_nsec;
}
/* The same of the file `path`. 0, or -1 with errno. */
int snapshot_file_identity(const char *path, u64 *size, u64 *written);

/* ---- the file `state`, bases ---- */

struct snapshot_state {
	u8 *data;
	size_t len;
	struct stream stream;
};
/* 0; or -1 with *e, and nothing is to be freed. */
int snapshot_state_read(struct snapshot_state *s, const char *dir, struct error *e);
void snapshot_state_free(struct snapshot_state *s);
/* A regular file of the directory, opened to be read. -1 with *e. */
int snapshot_open_file(const char *dir, const char *name, u64 *size, struct error *e);

struct snapshot_identity {
	u64 low, high;
};
struct snapshot_identity snapshot_identity(const struct snapshot_state *s);

struct snapshot_base {
	char path[PATH_MAX]; /* as it is stored */
	struct snapshot_identity is;
};
void snapshot_base_write(const struct snapshot_base *b, struct encoder *e);
int snapshot_base_read(struct snapshot_base *b, struct decoder d); /* -1: not sound */

/* RAM of the snapshot in `dir`, whose `state` holds *s, and of all its bases. 0; or -1 with *e, and nothing is to be
 * closed. */
int snapshot_chain_open(struct ram_chain *c, const char *dir, const struct stream *s, struct error *e);

/* ---- making one ---- */

struct snapshot_writer;
struct snapshot_backings;

struct snapshot_form {
	int level;				  /* of zstd, 1 to RAM_LEVEL_MAX; 0: not compressed */
	const struct snapshot_backings *backings; /* of the machine's disks, which are not copied; or NULL */
	const char *base;			  /* a snapshot: only what differs from it is written; or NULL */
	bool no_sync;				  /* it need not survive a crash of the host */
};
/* Makes a directory under a temporary name beside `path`, which must not be there. NULL with *e. */
struct snapshot_writer *snapshot_create_as(const char *path, const struct snapshot_form *f, struct error *e);
struct snapshot_writer *snapshot_create(const char *path, struct error *e); /* whole, not compressed */
/* Takes the next piece of what vm.snapshot answers: for ctl_sink.take. */
int snapshot_take_piece(void *writer, const char *data, size_t n, u64 total, struct error *e);
/* All came: the options that were in it. The writer keeps them. NULL with *e: it is not whole. */
struct saved_options *snapshot_received(struct snapshot_writer *w, struct error *e);
/* Path, format and bytes of the file ID.img of disk d->id; false: its content did not come. */
bool snapshot_has_image(const struct snapshot_writer *w, struct snapshot_disk *d);
/* Notes the files that it builds on, but for the base's. 0, or -1 with *e. */
int snapshot_note_backing(const struct snapshot_writer *w, const struct snapshot_disk *d, struct snapshot_disks *to,
			  struct error *e);
u64 snapshot_image_bytes(const struct snapshot_writer *w); /* of disks, that are not zeros */
/* Writes `state`, flushes everything unless no_sync, and gives the directory its name. May be called again with other
 * disks. */
int snapshot_finish(struct snapshot_writer *w, const struct snapshot_disks *disks, struct error *e);
u64 snapshot_ram_bytes(const struct snapshot_writer *w);  /* of the machine, that are not zeros */
u64 snapshot_file_bytes(const struct snapshot_writer *w); /* written for them */
/* For how long the guest stood still, if it went on while its memory was sent; else 0. */
u64 snapshot_still_ns(const struct snapshot_writer *w);
/* Removes what was not finished. NULL is allowed. */
void snapshot_drop(struct snapshot_writer *w);

/* ---- reading one ---- */

struct snapshot_reader {
	char path[PATH_MAX]; /* of the directory, absolute */
	struct snapshot_state state;
	struct saved_options options;
	struct snapshot_disks disks;
	struct ram_chain chain;
	int ram_fd; /* the chain's, if RAM is whole and not compressed: else -1 */
	u64 ram_size;
};

/* Opens and checks all of it but the content of RAM and disks. 0; or -1 with *e, and nothing is to be closed. */
int snapshot_reader_open(struct snapshot_reader *r, const char *path, struct error *e);
/* Reads all of RAM: is it what was saved? 0, or -1 with *e. */
int snapshot_check_ram(const struct snapshot_reader *r, struct error *e);
/* For machine_config.saved; *r has to stay until the machine is created. `eager`: all of RAM is read, and checked. */
struct machine_saved snapshot_saved(const struct snapshot_reader *r, bool eager);
void snapshot_reader_close(struct snapshot_reader *r);

/* Prints what is in the directory; with `whole` after reading and checking all of it. 0, or -1 with *e. */
int snapshot_info(const char *dir, bool whole, struct error *e);

#endif
