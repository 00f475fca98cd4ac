/*
 * The front end of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst):
 * another process, the back end, serves a virtio device's queues. Here is the
 * conversation over the unix socket; the rings are shadow_ring.h's, the device
 * is vhost_user_dev.h's.
 *
 * Every exchange has a time limit, and nothing that comes from the back end is
 * believed. The first failure closes the connection for good: from then on
 * every call returns -1 at once.
 */
#ifndef ECTYPE_DEV_VHOST_USER_VHOST_USER_H
#define ECTYPE_DEV_VHOST_USER_VHOST_USER_H

#include "base/error.h"
#include "base/types.h"

#define VHOST_USER_REGIONS_MAX 8
#define VHOST_USER_CONFIG_MAX 256

struct vhost_user {
	int fd;		     /* -1: closed */
	u64 features;	     /* virtio feature bits the back end offers, VHOST_USER_F_PROTOCOL_FEATURES taken out */
	u64 protocol;	     /* protocol features agreed on */
	u64 queues;	     /* how many the back end has; UINT64_MAX if it does not tell */
	unsigned timeout_ms; /* of one exchange */
	bool has_protocol;   /* protocol features are there: queues begin disabled */
	char why[160];	     /* what failed first */
};

#define VHOST_USER_TIMEOUT_MS 10000

/* A piece of memory shared with the back end. Descriptors carry `guest`, rings are placed by `user` addresses. */
struct vhost_user_region {
	u64 guest, size, user, offset; /* offset in `fd` */
	int fd;
};

/* One queue; addresses are user addresses. */
struct vhost_user_queue {
	u16 size, base; /* entries; index of the next available entry */
	u64 desc, avail, used;
	int kick_fd, call_fd;
};

/* Connects to the back end that listens at `path`. The descriptor, or -1 with *e. */
int vhost_user_dial(const char *path, struct error *e);

/* Takes the connected socket `fd` (also on failure) and agrees on protocol features. 0, or -1 with *e. */
int vhost_user_open(struct vhost_user *c, int fd, unsigned timeout_ms, struct error *e);
void vhost_user_close(struct vhost_user *c);
/* True if the back end has hung up or the connection failed. Does not wait. */
bool vhost_user_gone(struct vhost_user *c);

/* All return 0, or -1 after the connection was closed; c->why says what failed. */
int vhost_user_set_features(struct vhost_user *c, u64 features);
int vhost_user_set_memory(struct vhost_user *c, const struct vhost_user_region *r, unsigned n);
int vhost_user_start_queue(struct vhost_user *c, unsigned index, const struct vhost_user_queue *q);
/* Returns when the back end has let go of the queue: it touches neither its ring nor its buffers any more. */
int vhost_user_stop_queue(struct vhost_user *c, unsigned index);
/* Without the protocol feature CONFIG: -1, and the connection stays. At most VHOST_USER_CONFIG_MAX bytes. */
int vhost_user_get_config(struct vhost_user *c, unsigned off, void *to, unsigned n);
int vhost_user_set_config(struct vhost_user *c, unsigned off, const void *from, unsigned n);

#endif
