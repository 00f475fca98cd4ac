/*
 * Network backends: the host half of a network card. Packets are Ethernet
 * frames without checksum sequence, each with a struct virtio_net_hdr in front
 * (linux/virtio_net.h, 12 bytes: num_buffers included), through which checksum
 * and segmentation work is left to the other side.
 *
 * send() and receive() are called on the vCPU thread; a backend runs its own
 * thread for the host side.
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

/* What the guest's driver has agreed to: offloads it takes on receive (a backend that cannot do without leaves
 * them unused). */
struct net_offload {
	bool csum, tso4, tso6, ecn, ufo;
};

struct net_ops {
	const char *name; /* "user", "tap" */
	/*
	 * Starts the backend's thread. From then on it calls `readable(opaque, queue)`, on any thread, when
	 * receive() has something again after it said there was nothing, and `writable(opaque, queue)` when
	 * send() takes packets again after it refused one.
	 */
	int (*start)(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		     void *opaque, struct error *e);
	void (*stop)(struct net *n); /* no call comes after it returned; start() may follow */
	/* One packet, header first. False: no room now, nothing was taken. A packet that makes no sense is dropped. */
	bool (*send)(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n);
	/* The next packet into `buf` (NET_PACKET_MAX bytes); its length, 0: none. */
	size_t (*receive)(struct net *n, unsigned queue, u8 *buf);
	void (*set_offload)(struct net *n, const struct net_offload *o);
	void (*destroy)(struct net *n);
};

struct net {
	const struct net_ops *ops;
	unsigned queues;	  /* pairs, 1 to NET_QUEUES_MAX */
	struct net_offload takes; /* what send() takes from the guest: unfinished checksums, segments */
	unsigned mtu;		  /* 0: not known */
};

/* One forward of a host port: "tcp:[ADDR]:HPORT-[GADDR]:GPORT". */
struct net_forward {
	bool udp;
	char host_addr[64], guest_addr[16]; /* "": 127.0.0.1; the guest's DHCP address */
	u16 host_port, guest_port;
};
#define NET_FORWARDS_MAX 64
struct net_user_config {
	struct net_forward forward[NET_FORWARDS_MAX];
	unsigned forwards;
	bool restricted;      /* no way out but the forwards */
	const char *hostname; /* DHCP gives the guest this name; NULL: none */
};
/* User-mode networking by libslirp: 10.0.2.0/24, gateway 10.0.2.2, DNS 10.0.2.3, first guest 10.0.2.15; DHCP.
 * Host ports are bound here, so that one in use is an error with its number. NULL with *e. */
struct net *net_user_create(const struct net_user_config *cfg, struct error *e);

struct net_tap_config {
	const char *name; /* an existing interface that the user may open, or one to be made (needs CAP_NET_ADMIN) */
	unsigned queues;
};
struct net *net_tap_create(const struct net_tap_config *cfg, struct error *e);

#endif
