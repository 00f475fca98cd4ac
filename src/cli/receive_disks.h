/*
 * Copies of a machine's disks that come with it (docs/migrate.md): new raw
 * images, of zeros at first. What comes is checked, and on stable storage when
 * that is said.
 */
#ifndef ECTYPE_CLI_RECEIVE_DISKS_H
#define ECTYPE_CLI_RECEIVE_DISKS_H

#include "machine/machine.h"
#include "state/stream.h"

/* A granule of one of `disks` disks. */
struct disk_piece {
	u32 disk;
	u64 offset, n;
	const u8 *data; /* in the section; NULL: zeros */
};
/* 1; 0: another section; -1: no whole granule of a disk of size[disk] bytes. */
int disk_piece_read(const struct stream_section *s, const u64 *size, unsigned disks, struct disk_piece *out);

struct received_disks {
	unsigned count;
	char id[MACHINE_DISKS_MAX][256];
	u64 size[MACHINE_DISKS_MAX];
	struct block *image[MACHINE_DISKS_MAX]; /* NULL: not open */
	int fd[MACHINE_DISKS_MAX];		/* of the same file, to flush it */
	u64 unflushed;				/* bytes */
};

/* What an offer says of them. -1: not sound. */
int received_disks_read(struct received_disks *d, const struct stream *offer);
/* The new file of disk `n` is `fd`, which becomes theirs, at `path`. 0, or -1 with *e. */
int received_disks_place(struct received_disks *d, unsigned n, int fd, const char *path, struct error *e);
/* Opens and locks it. 0, or -1 with *e. */
int received_disks_open(struct received_disks *d, unsigned n, const char *path, struct error *e);
/* 1: it was a section of disks; 0: another; -1 with *e: not sound, or it cannot be written. */
int received_disks_take(struct received_disks *d, const struct stream_section *s, struct error *e);
/* All that was taken is on stable storage. 0, or -1 with *e. */
int received_disks_flush(struct received_disks *d, struct error *e);
/* The same, and they are closed and unlocked. */
int received_disks_close(struct received_disks *d, struct error *e);

#endif
