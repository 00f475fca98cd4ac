/*
 * Puts IPv4 datagrams together from fragments (RFC 791, 3.2). Datagrams whose
 * fragments overlap are given up, as RFC 5722 has it for IPv6: nobody sends
 * such in good faith. Few at a time, each for a limited time: one more pushes
 * out the oldest.
 */
#ifndef ECTYPE_BACKEND_NET_REASSEMBLY_H
#define ECTYPE_BACKEND_NET_REASSEMBLY_H

#include "base/types.h"

struct net_reassembly;

/* NULL on lack of memory. 0.6 MiB, as far as it is used. */
struct net_reassembly *net_reassembly_create(void);
void net_reassembly_free(struct net_reassembly *r);

/* The frame holds a fragment of an IPv4 datagram. */
bool net_is_fragment(const u8 *frame, size_t len);
/* Takes such a frame at a time in ms. If the datagram is complete by now: its frame, headers of the first fragment, in
 * *whole its length; it stays until the next call. Else NULL. */
u8 *net_reassemble(struct net_reassembly *r, const u8 *frame, size_t len, u64 now, size_t *whole);

#endif
