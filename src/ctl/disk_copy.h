/*
 * The disks of a machine as they are at one moment, as sections of a stream
 * (state/disk.h) while the guest goes on writing (backend/block/copy.h). Those
 * the guest can write to; others stay what they are.
 */
#ifndef ECTYPE_CTL_DISK_COPY_H
#define ECTYPE_CTL_DISK_COPY_H

#include "machine/machine.h"

#define DISK_BACKING_MAX 64

struct disk_copies;
struct stream_writer;

/* What a client has of a disk: it wants only what lies above these files of its backing chain. */
struct disk_backing {
	char id[32];
	unsigned files;
	struct block_file file[DISK_BACKING_MAX]; /* from the top down */
};
struct disk_backings {
	unsigned count;
	struct disk_backing disk[MACHINE_DISKS_MAX];
};

/* The moment is this one. On the vCPU thread, devices quiesced. Writes the sections of sizes. A disk that does
 * not build on what `backing` says of it is copied as a whole. NULL with *e. */
struct disk_copies *disk_copies_start(struct machine *m, const struct disk_backings *backing, struct stream_writer *w,
				      struct error *e);
/* Some had better be sent soon: writes of the guest wait, or will. */
bool disk_copies_urgent(struct disk_copies *c);
/* Adds what comes next, about `bytes` of it or less: 1; 0: there was nothing more, sums are added; or -1 with *e. */
int disk_copies_add(struct disk_copies *c, struct stream_writer *w, u64 bytes, struct error *e);
/* Any thread. NULL is allowed. */
void disk_copies_end(struct disk_copies *c);

#endif
