/*
 * What goes over the socket (QEMU's docs/interop/vhost-user.rst, "Message
 * Specification"). Both ends are on one machine: native byte order.
 */
#ifndef ECTYPE_DEV_VHOST_USER_PROTO_H
#define ECTYPE_DEV_VHOST_USER_PROTO_H

#include "base/types.h"

enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
};

/* Message flags */
#define VHOST_USER_VERSION 0x1u
#define VHOST_USER_VERSION_MASK 0x3u
#define VHOST_USER_REPLY 0x4u
#define VHOST_USER_NEED_REPLY 0x8u

/* A virtio feature bit that no device has, for the protocol's own features */
#define VHOST_USER_F_PROTOCOL_FEATURES BIT(30)
#define VHOST_USER_PROTOCOL_F_MQ BIT(0)
#define VHOST_USER_PROTOCOL_F_REPLY_ACK BIT(3)
#define VHOST_USER_PROTOCOL_F_CONFIG BIT(9)

#define VHOST_USER_VRING_INDEX_MASK 0xffull

struct vhost_user_header {
	u32 request, flags, size; /* size of the payload */
};
struct vhost_user_state {
	u32 index, num;
};
struct vhost_user_addr {
	u32 index, flags;
	u64 desc, used, avail, log;
};
struct vhost_user_memory {
	u32 count, padding;
	struct {
		u64 guest, size, user, offset;
	} region[8];
};
struct vhost_user_space {
	u32 offset, size, flags;
	u8 bytes[256];
};
union vhost_user_payload {
	u64 number;
	struct vhost_user_state state;
	struct vhost_user_addr addr;
	struct vhost_user_memory memory;
	struct vhost_user_space space;
};
struct vhost_user_message {
	struct vhost_user_header h;
	union vhost_user_payload p;
} __attribute__((packed, aligned(4)));

_Static_assert(sizeof(struct vhost_user_header) == 12, "as on the socket");
_Static_assert(offsetof(struct vhost_user_message, p) == 12, "as on the socket");
_Static_assert(offsetof(struct vhost_user_space, bytes) == 12, "as on the socket");

#endif
