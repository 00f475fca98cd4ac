/*
 * Disks that go over a channel while the guest writes to them: those of a
 * machine that it can write to, and which granules of each are still to be sent
 * (backend/block/track.h). For migration and protection.
 */
#ifndef ECTYPE_CTL_SENT_DISKS_H
#define ECTYPE_CTL_SENT_DISKS_H

#include "backend/block/track.h"
#include "machine/machine.h"
#include "state/channel.h"

struct sent_disk {
	struct block *image;
	struct block_track *track;
	const char *id;
	u64 words, size;
	u64 *granules; /* bitmap: changed, and not sent */
};

struct sent_disks {
	struct sent_disk disk[MACHINE_DISKS_MAX];
	unsigned count;
};

/* Starts tracks. All that may hold something but zeros is to be sent. 0; or -1 with *e, and it is to be stopped as
 * well.
 */
int sent_disks_start(struct sent_disks *s, struct machine *m, struct error *e);
/* Before the machine is destroyed. Twice does no harm. */
void sent_disks_stop(struct sent_disks *s);
/* What was written since the last time is to be sent as well. Bytes that are to be sent. */
u64 sent_disks_harvest(struct sent_disks *s);
u64 sent_disks_left(const struct sent_disks *s);

/* Takes the first granule at or behind `from` out of what is to be sent; 64 * words: none. */
u64 sent_disk_next(struct sent_disk *d, u64 from);
u32 sent_disk_bytes(const struct sent_disk *d, u64 granule);
/* Its content now: 0, or -1 with *e. */
int sent_disk_read(const struct sent_disk *d, u64 granule, u8 *to, struct error *e);
/* A section with what was read of disk `number`. 0; or -1 with ch->why. */
int sent_disk_put(struct channel *ch, unsigned number, u64 offset, const u8 *p, u32 n, unsigned ms);

/* Reads and sends all that is to be sent. `each` (may be NULL) is called behind each granule with its bytes; -1 of it,
 * with *e, ends it. 0; or -1 with *e. */
int sent_disks_send(struct sent_disks *s, struct channel *ch, unsigned ms,
		    int (*each)(void *opaque, u64 bytes, struct error *e), void *opaque, struct error *e);

/* Takes the first bit at or behind `from` out of a bitmap of `words`; 64 * words: none. */
u64 take_next_bit(u64 *map, u64 words, u64 from);

#endif
