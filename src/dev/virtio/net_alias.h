/*
 * A card whose driver goes on with an address that others must not see: the
 * guest is a copy, and was told another one when its driver looked. Frames are
 * translated at the boundary. Outside, the card has `outside`; the driver uses
 * `inside`, or by now something else, which is left alone.
 *
 * What says the card's address: the Ethernet header, ARP (RFC 826), neighbour
 * discovery (RFC 4861) and DHCP (RFC 2131, 2132), with one VLAN tag at most in
 * front. Addresses of others are never changed; `inside` may be that of the
 * machine that was copied.
 */
#ifndef ECTYPE_DEV_VIRTIO_NET_ALIAS_H
#define ECTYPE_DEV_VIRTIO_NET_ALIAS_H

#include "base/types.h"

/* What is looked at of a frame: DHCP with its options (RFC 2132, 9.10), and some. */
#define NET_ALIAS_HEAD 1024u

struct net_alias {
	u8 inside[6], outside[6];
};

/*
 * Translates a frame on its way out, or in, of which `frame` has the first `len` bytes: all of it, or NET_ALIAS_HEAD.
 * `partial`: its checksum is still to be made (VIRTIO_NET_HDR_F_NEEDS_CSUM). Twice is as good as once.
 */
void net_alias_out(const struct net_alias *a, u8 *frame, size_t len, bool partial);
void net_alias_in(const struct net_alias *a, u8 *frame, size_t len, bool partial);

#endif
