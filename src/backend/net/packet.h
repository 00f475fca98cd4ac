/*
 * What a network card's offloads leave undone, done in software: checksums,
 * TCP segments, IP fragments. IPv4 only, as far as addresses are looked at.
 * Frames begin with an Ethernet header.
 */
#ifndef ECTYPE_BACKEND_NET_PACKET_H
#define ECTYPE_BACKEND_NET_PACKET_H

#include <linux/virtio_net.h>

#include "backend/net/net.h"

#define ETH_HEADER 14u
#define NET_MTU 1500u			 /* of user-mode networks */
#define NET_MSS_DEFAULT 536u		 /* of a SYN that names none */
#define NET_MSS (NET_MTU - 40)		 /* without TCP options */
#define NET_FRAME (NET_MTU + ETH_HEADER) /* longest frame on such a network */

/* The length of a frame's IPv4 header and, in *total, of the datagram; 0 if it is none or is cut short. Bytes behind
 * the datagram are allowed. */
u32 net_parse_ip(const u8 *frame, size_t len, u32 *total);
/* The checksum of an IPv4 header of `ip_len` bytes. */
void net_set_ip_checksum(u8 *ip, u32 ip_len);

/* The headers of an IPv4 TCP frame, in bytes; `payload` behind them. */
struct net_tcp {
	u32 ip_len, tcp_len, payload;
};
/* False if the frame is anything else, is cut short or is a fragment. Bytes behind the datagram are allowed. */
bool net_parse_tcp(const u8 *frame, size_t len, struct net_tcp *t);

/* Finishes what the header says is unfinished: after it all of the frame's checksums are right. A segment stays in one
 * piece. False: the frame is not what its header says. */
bool net_finish(u8 *frame, size_t len, const struct virtio_net_hdr_v1 *h);

/* The maximum segment size that a TCP SYN offers (RFC 9293, 3.7.1), of which `mss` is made if it is less; 0: the frame
 * is no SYN. */
u16 net_raise_mss(u8 *frame, size_t len, u16 mss);

/* Ports of an IPv4 UDP or TCP frame that is no fragment. */
struct net_flow {
	bool tcp;
	u32 source, dest; /* addresses, in the host's byte order */
	u16 source_port, dest_port;
};
bool net_parse_flow(const u8 *frame, size_t len, struct net_flow *f);
/* Sets the source (else the destination) address of such a frame, and mends its checksums. */
void net_set_address(u8 *frame, bool source, u32 addr);

/* The header that tells the receiver to cut frame `t` into segments of `mss`; its TCP checksum becomes that of the
 * pseudo header. */
void net_gso_header(struct virtio_net_hdr_v1 *h, u8 *frame, const struct net_tcp *t, u16 mss);

/* Cut a frame of an IPv4 TCP segment `t` into segments of `mss` bytes (any other IPv4 datagram into fragments for
 * NET_MTU), whole with checksums, and call `out` for each: the headers, then a piece of the payload. */
typedef void (*net_piece_fn)(void *opaque, const u8 *head, size_t head_len, const u8 *body, size_t body_len);
void net_segment(const u8 *frame, const struct net_tcp *t, u16 mss, net_piece_fn out, void *opaque);
void net_fragment(const u8 *frame, size_t len, net_piece_fn out, void *opaque);

#endif
