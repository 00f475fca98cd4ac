/*
 * A snapshot on disk: a directory with
 *
 *   state     a stream (state/stream.h; what is in it: docs/snapshot.md)
 *   ram       RAM as it was, holes are zeros
 *   ID.img    copies of disks, where the machine went on
 */
#ifndef ECTYPE_CLI_SNAPSHOT_H
#define ECTYPE_CLI_SNAPSHOT_H

#include <linux/limits.h>

#include "backend/block/block.h"
#include "cli/saved_options.h"
#include "state/ram.h"
#include "state/stream.h"

#define SNAPSHOT_STATE "state"
#define SNAPSHOT_RAM "ram"
#define SNAPSHOT_DISKS_SECTION "disks"

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
struct snapshot_disks {
	struct snapshot_disk disk[MACHINE_DISKS_MAX];
	unsigned count;
};
static inline bool snapshot_disk_own(const struct snapshot_disk *d)
{
	return d->path[0] != '/';
}
void snapshot_disks_write(const struct snapshot_disks *s, struct encoder *e);
int snapshot_disks_read(struct snapshot_disks *s, struct decoder d); /* -1: not sound */
/* Size and time of the file `path` as above. 0, or -1 with errno. */
int snapshot_file_identity(const char *path, u64 *size, u64 *written);

/* ---- making one ---- */

struct snapshot_writer;

/* Makes a directory under a temporary name beside `path`, which must not be there. NULL with *e. */
struct snapshot_writer *snapshot_create(const char *path, struct error *e);
/* Takes the next piece of what vm.snapshot answers: for ctl_sink.take. */
int snapshot_take_piece(void *writer, const char *data, size_t n, u64 total, struct error *e);
/* All came: the options that were in it. The writer keeps them. NULL with *e: it is not whole. */
struct saved_options *snapshot_received(struct snapshot_writer *w, struct error *e);
/* Copies a disk's file into the directory, as ID.img. By reference where the file system can. */
int snapshot_copy_disk(struct snapshot_writer *w, const struct snapshot_disk *d, const char *from, struct error *e);
/* Writes `state`, flushes everything and gives the directory its name. May be called again with other disks. */
int snapshot_finish(struct snapshot_writer *w, const struct snapshot_disks *disks, struct error *e);
u64 snapshot_ram_bytes(const struct snapshot_writer *w); /* written */
/* For how long the guest stood still, if it went on while its memory was sent; else 0. */
u64 snapshot_still_ns(const struct snapshot_writer *w);
/* Removes what was not finished. NULL is allowed. */
void snapshot_drop(struct snapshot_writer *w);

/* ---- reading one ---- */

struct snapshot_reader {
	char path[PATH_MAX]; /* of the directory, absolute */
	u8 *data;	     /* content of `state`, mapped */
	size_t len;
	struct stream stream;
	struct saved_options options;
	struct snapshot_disks disks;
	int ram_fd;
	u64 ram_size;
	struct ram_sum ram;
};

/* Opens and checks all of it but the content of RAM and disks. 0; or -1 with *e, and nothing is to be closed. */
int snapshot_reader_open(struct snapshot_reader *r, const char *path, struct error *e);
/* Reads all of RAM: is it what was saved? 0, or -1 with *e. */
int snapshot_check_ram(const struct snapshot_reader *r, struct error *e);
void snapshot_reader_close(struct snapshot_reader *r);

#endif
