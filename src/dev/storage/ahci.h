/*
 * The SATA controller of the ICH9 in AHCI mode (Serial ATA AHCI 1.3.1; Intel 82801I data sheet, 15), PCI function
 * 00:1f.2, with ATA disks and ATAPI CD-ROM drives on its ports. For guests that lack virtio drivers, and for CDs.
 */
#ifndef ECTYPE_DEV_STORAGE_AHCI_H
#define ECTYPE_DEV_STORAGE_AHCI_H

#include "backend/block/block.h"
#include "dev/device.h"
#include "dev/pci/pci.h"
#include "dev/storage/disk_stats.h"

#define AHCI_PORTS 6
#define AHCI_SERIAL_LEN 20 /* bytes */

struct ahci_drive {
	struct block *image; /* the caller's, and must live longer than the device; NULL: nothing on this port */
	bool cdrom;	     /* reads in sectors of 2048 bytes; an odd end is cut off */
	const char *name;    /* for the log; must live as long as the device */
	const char *serial;  /* at most AHCI_SERIAL_LEN bytes; NULL: made from the port */
};

struct ahci_config {
	struct ahci_drive drive[AHCI_PORTS];
};

/* What the guest asked of a drive since the device was made. Commands count when they are completed. */
/* NULL on lack of memory or sources of the door, or if 00:1f.2 is taken. */
struct device *ahci_create(struct board *b, struct pci_bus *bus, const struct ahci_config *cfg);
const struct disk_stats *ahci_stats(const struct device *d, unsigned port);

#endif
