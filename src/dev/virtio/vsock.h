/* The socket device (VIRTIO 1.2, 5.10): streams between programs of the guest and of the host. */
#ifndef ECTYPE_DEV_VIRTIO_VSOCK_H
#define ECTYPE_DEV_VIRTIO_VSOCK_H

#include "backend/vsock/vsock.h"
#include "dev/virtio/virtio.h"

#define VSOCK_CID_HOST 2
#define VSOCK_CID_MIN 3
#define VSOCK_CID_MAX 0xfffffffeu

/* `host` stays the caller's, who keeps it until the device is destroyed; it is started while a driver runs. `cid`: the
 * guest's, VSOCK_CID_MIN to VSOCK_CID_MAX. `slot` as for virtio_pci_create(). -1 on lack of memory, slots or sources
 * of the door. */
int virtio_vsock_create(struct board *b, struct pci_bus *bus, unsigned slot, struct vsock *host, u64 cid);

#endif
