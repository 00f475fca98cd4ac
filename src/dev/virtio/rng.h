/* The entropy device (VIRTIO 1.2, 5.4): random bytes of the replay door. */
#ifndef ECTYPE_DEV_VIRTIO_RNG_H
#define ECTYPE_DEV_VIRTIO_RNG_H

#include "dev/virtio/virtio.h"

/* `slot` as for virtio_pci_create(). -1 on lack of memory or slots. */
int virtio_rng_create(struct board *b, struct pci_bus *bus, unsigned slot);

#endif
