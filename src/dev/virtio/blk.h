/* virtio-blk (VIRTIO 1.2, 5.2): a disk of the guest over an image (backend/block/block.h). */
#ifndef ECTYPE_DEV_VIRTIO_BLK_H
#define ECTYPE_DEV_VIRTIO_BLK_H

#include "backend/block/block.h"
#include "dev/storage/disk_stats.h"
#include "dev/virtio/virtio.h"

#define BLK_QUEUES_MAX 16
#define BLK_QUEUE_SIZE 256 /* default */
#define BLK_SERIAL_LEN 20  /* bytes, a zero behind them is not needed */

struct blk_config {
	struct block *image; /* the caller's, and must live longer than the device */
	const char *name;    /* for the log; must live as long as the device */
	const char *serial;  /* at most BLK_SERIAL_LEN bytes; NULL: none */
	unsigned queues;     /* 1 to BLK_QUEUES_MAX */
	unsigned queue_size; /* a power of two from 4 to VIRTQ_SIZE_MAX; 0: BLK_QUEUE_SIZE */
	unsigned slot;	     /* of the PCI bus; 0: the next free one */
};

/* What the guest asked for since the device was made. Requests count when they are completed. */
/* The disk as a function on `bus`, attached to the board. NULL on lack of memory, slots or sources of the door. */
struct virtio *blk_create(struct board *b, struct pci_bus *bus, const struct blk_config *cfg);
const struct disk_stats *blk_stats(const struct virtio *v);

#endif
