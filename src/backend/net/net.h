/*
 * Network backends: the host half of a network card. Packets are Ethernet
 * frames without checksum sequence, each with a struct virtio_net_hdr in front
 * (linux/virtio_net.h, 12 bytes: num_buffers included), through which checksum
 * and segmentation work is left to the other side.
 *
 * send(), peek() and next() are called on the vCPU thread; a backend runs
 * threads of its own for the host side.
 */
#ifndef ECTYPE_BACKEND_NET_NET_H
#define ECTYPE_BACKEND_NET_NET_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

#define NET_HEADER 12u			     /* sizeof(struct virtio_net_hdr_v1) */
#define NET_PACKET_MAX (65550u + NET_HEADER) /* a 64 KiB segment with its headers */
#define NET_QUEUES_MAX 8u

struct net;
struct net_forward;

/* Work left to the other side: TCP and UDP checksums, TCP over IPv4 and IPv6 in large segments, with ECN. */
struct net_offload {
	bool csum, tso4, tso6, ecn;
};

struct net_ops {
	const char *name; /* "user", "tap" */
	/*
	 * Starts the backend's threads. From then on it calls `readable(opaque, queue)`, on any thread, when
	 * peek() has something again after it said there was nothing (and once at first), and
	 * `writable(opaque, queue)` when send() takes packets again after it refused one. Until set_offload()
	 * nothing is left to the guest, until set_queues() only pair 0 receives.
	 */
	int (*start)(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		     void *opaque, struct error *e);
	/* No call comes after it returned, packets on their way are dropped; start() may follow. */
	void (*stop)(struct net *n);
	/*
	 * One packet, header first: NET_HEADER + 14 to NET_PACKET_MAX bytes, its header checked (net_header_ok()).
	 * False: no room now, nothing was taken. A packet that makes no sense is dropped.
	 */
	bool (*send)(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n);
	/* The next packet: its length, and in *packet its bytes, which stay until next(), and which the card may change
	 * in place; 0: none. */
	size_t (*peek)(struct net *n, unsigned queue, const u8 **packet);
	/* Done with what peek() gave. */
	void (*next)(struct net *n, unsigned queue);
	/* What the guest takes unfinished; a subset of `gives`. */
	void (*set_offload)(struct net *n, const struct net_offload *o);
	/* Pairs 0 to active - 1 receive. NULL if there is one only. */
	void (*set_queues)(struct net *n, unsigned active);
	void (*destroy)(struct net *n);
};

/* What the card has sent and received for the guest; bytes of frames. Kept by the card, on the vCPU thread. */
struct net_count {
	u64 tx_packets, tx_bytes, rx_packets, rx_bytes;
};

struct net {
	const struct net_ops *ops;
	unsigned queues;	  /* pairs, 1 to NET_QUEUES_MAX */
	struct net_offload takes; /* what send() takes from the guest unfinished */
	struct net_offload gives; /* what peek() may give unfinished if the guest agrees */
	unsigned mtu;		  /* 0: not known */
	struct net_count count;
	bool shared;			   /* others are on the same network: an address must be unique there */
	const struct net_forward *forward; /* what leads into it from host ports, as it is: for reports */
	unsigned forwards;
};

struct virtio_net_hdr_v1;
/* A header from the guest's driver is sound for a frame of `len` bytes, and asks for no more than was agreed. */
bool net_header_ok(const struct virtio_net_hdr_v1 *h, size_t len, const struct net_offload *agreed);

/* One forward of a host port: "tcp:[ADDR]:HPORT-[GADDR]:GPORT". */
struct net_forward {
	bool udp;
	char host_addr[64], guest_addr[16]; /* "": 127.0.0.1; the guest's DHCP address */
	u16 host_port, guest_port;	    /* host_port 0: one that is free */
};
#define NET_FORWARDS_MAX 64
#define NET_HOSTNAME_MAX 63
struct net_user_config {
	struct net_forward forward[NET_FORWARDS_MAX];
	unsigned forwards;
	bool restricted;      /* no way out but the forwards */
	const char *hostname; /* DHCP gives the guest this name; NULL: none */
};
/* User-mode networking by libslirp, IPv4 only: 10.0.2.0/24, gateway 10.0.2.2, DNS 10.0.2.3, first guest 10.0.2.15;
 * DHCP. Host ports are bound here, so that one in use is an error with its number, and what was chosen for 0 is in
 * net->forward. NULL with *e. */
struct net *net_user_create(const struct net_user_config *cfg, struct error *e);

struct net_tap_config {
	const char *name; /* of an existing interface that the user may open */
	unsigned queues;
};
/* NULL with *e. */
struct net *net_tap_create(const struct net_tap_config *cfg, struct error *e);

#endif
