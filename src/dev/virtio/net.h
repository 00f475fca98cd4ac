/* The network device (VIRTIO 1.2, 5.1). */
#ifndef ECTYPE_DEV_VIRTIO_NET_H
#define ECTYPE_DEV_VIRTIO_NET_H

#include "backend/net/net.h"
#include "dev/virtio/virtio.h"

/*
 * `net` stays the caller's, who keeps it until the device is destroyed; it is started while a driver runs. `mac`: not a
 * group address. `own_mac`: the state that is loaded is that of another card, which goes on with its address; this one
 * takes `mac`, and translates where the driver goes on with the other (dev/virtio/net_alias.h). `slot` as for
 * virtio_pci_create(). -1 on lack of memory, slots or sources of the door.
 */
int virtio_net_create(struct board *b, struct pci_bus *bus, unsigned slot, struct net *net, const u8 mac[6],
		      bool own_mac);

#endif
