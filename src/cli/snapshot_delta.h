/*
 * A disk in a snapshot as a qcow2 image with what differs
 *
 *  - from the files that the machine's own image is backed by, where only that
 *    comes which lies above them; or
 *  - from the base's image, where the snapshot has a base. What is compared is
 *    what comes: blocks of 4 KiB in any order, each once; what does not come is
 *    zeros, or what those files have.
 */
#ifndef ECTYPE_CLI_SNAPSHOT_DELTA_H
#define ECTYPE_CLI_SNAPSHOT_DELTA_H

#include <linux/limits.h>

#include "backend/block/block.h"
#include "base/error.h"
#include "cli/snapshot_backing.h"

/* The images of a base. */
struct snapshot_images_base {
	char path[PATH_MAX];   /* of its directory, absolute */
	char stored[PATH_MAX]; /* the same as new images name it */
	struct {
		char id[32];
		enum block_format format;
	} image[64];
	unsigned count;
};

struct image_delta;

/* Makes `dir`/`name`, which is not there, for a disk of `size` bytes. `base`: NULL, or the snapshot has one. `backing`:
 * what does not come is in these files; NULL: it is zeros. NULL with *none: there is neither an image of the base nor
 * `backing`, and nothing was made; or with *e. */
struct image_delta *image_delta_create(const char *dir, const char *name, const char *id, u64 size,
				       const struct snapshot_images_base *base, const struct snapshot_backing *backing,
				       bool *none, struct error *e);
/* `at`: a multiple of 4 KiB; `n` as well, but at the disk's end. 0, or -1 with *e. */
int image_delta_take(struct image_delta *d, u64 at, const u8 *data, u64 n, struct error *e);
/* [at, at + n) are zeros. Likewise. */
int image_delta_zero(struct image_delta *d, u64 at, u64 n, struct error *e);
/* All has come. *d is gone in any case. 0, or -1 with *e. */
int image_delta_finish(struct image_delta *d, struct error *e);
void image_delta_drop(struct image_delta *d); /* the file stays. NULL is allowed */

#endif
