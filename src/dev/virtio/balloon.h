/*
 * The memory balloon (VIRTIO 1.2, 5.5): memory that the guest does without goes
 * back to the host.
 *
 * Two ways. The balloon takes `target` bytes from the guest for as long as it
 * is inflated; a guest that runs out of memory takes some back by itself
 * (DEFLATE_ON_OOM). With free page reporting the guest's kernel names what it
 * has free, a few seconds after it became free, and takes it again without
 * asking. Either way the pages are dropped from guest RAM and read as zeros.
 *
 * Nothing here runs by itself: no timer, no thread.
 */
#ifndef ECTYPE_DEV_VIRTIO_BALLOON_H
#define ECTYPE_DEV_VIRTIO_BALLOON_H

#include "dev/virtio/virtio.h"

/* What a guest's statistics tell (5.5.6.4), by tag; in bytes or counts since its start. */
enum virtio_balloon_stat {
	BALLOON_STAT_SWAP_IN,
	BALLOON_STAT_SWAP_OUT,
	BALLOON_STAT_MAJOR_FAULTS,
	BALLOON_STAT_MINOR_FAULTS,
	BALLOON_STAT_FREE,
	BALLOON_STAT_TOTAL,
	BALLOON_STAT_AVAILABLE,
	BALLOON_STAT_CACHES,
	BALLOON_STAT_HUGE_ALLOCS,
	BALLOON_STAT_HUGE_FAILURES,
	BALLOON_STATS
};
#define BALLOON_STAT_UNKNOWN UINT64_MAX

struct virtio_balloon_info {
	bool driver;		 /* one is at work */
	u64 target, actual;	 /* bytes: what the balloon is to hold, and what the guest says it holds */
	u64 inflated;		 /* bytes ever given back from inside the balloon */
	u64 reported;		 /* bytes ever given back because they were reported free */
	u64 reports;		 /* of statistics; the last one is */
	u64 stat[BALLOON_STATS]; /* BALLOON_STAT_UNKNOWN where the guest does not tell */
};

struct virtio_balloon_config {
	u64 target; /* bytes, a multiple of 4 KiB below 16 TiB */
	bool reporting;
};

/* `slot` as for virtio_pci_create(). NULL on lack of memory or slots. */
struct virtio *virtio_balloon_create(struct board *b, struct pci_bus *bus, unsigned slot,
				     const struct virtio_balloon_config *cfg);

/* All on the vCPU thread. */
void virtio_balloon_set_target(struct virtio *v, u64 bytes);
void virtio_balloon_info(const struct virtio *v, struct virtio_balloon_info *out);
/* Asks the guest for its statistics: info.reports grows when they come. False if it cannot be asked, because no driver
 * is there or the last request is still open. */
bool virtio_balloon_ask_stats(struct virtio *v);

#endif
