/*
 * The content of disks, as vm.snapshot sends it (state/disk.h), into files
 * ID.img of a new snapshot: raw images in which zeros are holes; or, where the
 * snapshot has a base with such a disk, or the machine's own image is backed by
 * files that are not copied, qcow2 images on these.
 */
#ifndef ECTYPE_CLI_SNAPSHOT_IMAGES_H
#define ECTYPE_CLI_SNAPSHOT_IMAGES_H

#include "cli/snapshot_delta.h"
#include "machine/machine.h"
#include "state/disk.h"
#include "state/stream.h"

struct snapshot_images {
	struct snapshot_image {
		char id[32];
		int fd;
		u64 size; /* bytes */
		struct ram_sum sum;
		bool whole; /* all of it came */
		enum block_format format;
		bool above;		   /* what does not come is in its backing files */
		struct image_delta *delta; /* NULL: a raw image, or whole */
	} image[MACHINE_DISKS_MAX];
	unsigned count;
	const struct snapshot_images_base *base;  /* NULL: none */
	const struct snapshot_backings *backings; /* of the machine's images, which they build on; NULL: none */
};

/* "ID.img" */
void snapshot_image_name(const char *id, char name[40]);
/* Is it a section of a disk's content? */
bool snapshot_images_section(const struct stream_section *s);
/* Takes one into the directory `dir`, whose name is `path`. 0, or -1 with *e. */
int snapshot_images_take(struct snapshot_images *m, int dir, const char *path, const struct stream_section *s,
			 struct error *e);
bool snapshot_images_whole(const struct snapshot_images *m);
/* Bytes of the file. 0, or -1 with errno. */
int snapshot_image_size(const struct snapshot_image *im, u64 *size);
/* That of disk `id`, or NULL. */
const struct snapshot_image *snapshot_images_find(const struct snapshot_images *m, const char *id);
u64 snapshot_images_bytes(const struct snapshot_images *m); /* that are not zeros */
/* Writes all of it to the disk. 0, or -1 with *e. */
int snapshot_images_flush(struct snapshot_images *m, const char *path, struct error *e);
/* Closes the files; `remove`: and they are gone. */
void snapshot_images_close(struct snapshot_images *m, int dir, bool remove);

#endif
