/*
 * What a snapshot of a running machine need not copy: the files that a disk's
 * overlay is backed by, which nobody writes to.
 */
#ifndef ECTYPE_CLI_SNAPSHOT_BACKING_H
#define ECTYPE_CLI_SNAPSHOT_BACKING_H

#include <jansson.h>

#include "cli/snapshot.h"
#include "machine/machine.h"

struct snapshot_backing {
	char id[32];
	enum block_format format;   /* of the first file; AUTO: nobody has said */
	struct snapshot_file *file; /* from the top down, names from the root on */
	struct block_file *is;
	unsigned files;
};
struct snapshot_backings {
	struct snapshot_backing disk[MACHINE_DISKS_MAX];
	unsigned count;
};

/*
 * Which disks of the machine that vm.info told of (`info`) can be left where they are, but for what is above these
 * files. Not among them: what other copies of a machine have in a temporary directory of `ectype clone`, which goes
 * with them; and where a file is none that could be told from another one later, a device for instance, its disk is
 * copied as a whole.
 */
void snapshot_backings_find(struct snapshot_backings *s, json_t *info);
void snapshot_backings_free(struct snapshot_backings *s);
/* The member "backing" of vm.snapshot's body. */
json_t *snapshot_backings_json(const struct snapshot_backings *s);
/* That of disk `id`, or NULL. */
const struct snapshot_backing *snapshot_backings_of(const struct snapshot_backings *s, const char *id);

#endif
