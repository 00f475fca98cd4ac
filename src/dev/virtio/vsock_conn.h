/* What the files of the socket device share: connections, and the table of them. */
#ifndef ECTYPE_DEV_VIRTIO_VSOCK_CONN_H
#define ECTYPE_DEV_VIRTIO_VSOCK_CONN_H

#include <sys/queue.h>

#include "dev/virtio/vsock.h"

#define VSOCK_CONNS VSOCK_STREAMS_MAX
#define VSOCK_BUCKETS 256
#define VSOCK_RESETS_MAX 64 /* resets of connections that do not exist, waiting for buffers */

enum vsock_state {
	VSOCK_FREE,
	VSOCK_DIALLING, /* the guest asked; the host's answer is not there */
	VSOCK_CALLING,	/* a client of the host waits for the guest's answer */
	VSOCK_OPEN,
	VSOCK_RESETTING, /* the guest is to be told; the stream is closed */
	VSOCK_ORPHAN,	 /* the guest has closed it, the host has not taken all yet */
};

struct vsock_conn {
	enum vsock_state state;
	u32 guest_port, host_port, id;
	struct vsock_stream *stream; /* NULL: none yet, or closed */
	bool listed;
	TAILQ_ENTRY(vsock_conn) list; /* d->ready */
	struct vsock_conn *hash_next;

	/* to the guest */
	bool tell_request, tell_response, tell_credit; /* packets that are due */
	bool readable;				       /* recv() may have something */
	bool asked_credit;
	bool host_ended; /* the stream's end was read */
	bool host_deaf;	 /* the host takes no more */
	unsigned told;	 /* NO_MORE_* */
	u32 sent, peer_alloc, peer_fwd;

	/* from the guest */
	unsigned guest_shut; /* NO_MORE_* */
	bool host_told;	     /* of guest_shut */
	u32 alloc, forwarded, told_forwarded;
	u8 *buf; /* a ring of `alloc` bytes; NULL: never needed */
	u32 at, len;
};

struct vsock_reset {
	u64 cid; /* of the packet's destination, which answers */
	u32 guest_port, host_port;
	u16 type;
};

struct vsock_dev {
	struct virtio v;
	struct vsock *host;
	u64 cid;
	int source;
	bool started, transport_reset;
	u32 next_port; /* saved */
	u32 next_id;
	unsigned used, busy; /* connections; of them with a large buffer */
	struct vsock_conn *conns;
	struct vsock_conn *bucket[VSOCK_BUCKETS];
	TAILQ_HEAD(, vsock_conn) ready;
	struct vsock_reset reset[VSOCK_RESETS_MAX]; /* a ring */
	unsigned reset_at, reset_n;
	struct virtq_buf tx, rx;
	struct iovec iov[VIRTQ_IOV_MAX];
};

struct vsock_conn *vsock_find(struct vsock_dev *d, u32 guest_port, u32 host_port);
/* A connection of ports that are not in use; NULL: there are too many. */
struct vsock_conn *vsock_add(struct vsock_dev *d, enum vsock_state state, u32 guest_port, u32 host_port);
/* Ends it, and the stream. The guest is not told. */
void vsock_remove(struct vsock_dev *d, struct vsock_conn *c);
void vsock_remove_all(struct vsock_dev *d);
/* The connection ends here and now, and the guest will hear of it. */
void vsock_reset_conn(struct vsock_dev *d, struct vsock_conn *c);
/* The guest can use the ports again; what it sent is still on its way to the host. */
void vsock_orphan(struct vsock_dev *d, struct vsock_conn *c);
/* Into the list of those that may have something to tell the guest, at its end; and out. */
void vsock_list(struct vsock_dev *d, struct vsock_conn *c);
void vsock_unlist(struct vsock_dev *d, struct vsock_conn *c);

#endif
