/*
 * A hostile vhost-user back end: the answers to the front end's messages, and
 * what stands in the rings it shares, are the input's. The answers lie in the
 * socket before they are asked for, and behind the last one is its end, so that
 * nothing waits. Most are as they should be, so that the device is made.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define RIG_MEMORY MEMORY_SHARED
#include "virtio_rig.h"

#include "base/log.h"
#include "dev/vhost_user/shadow_ring.h"
#include "dev/vhost_user/vhost_user_dev.h"
#include "dev/vhost_user/vhost_user_proto.h"
#include "dev/virtio/rng.h"

#define STEPS 200
#define STARTS 3 /* for so many there are answers */
#define QUEUES 2

static struct {
	struct input *in;
	enum vhost_user_kind kind;
	int peer; /* the back end's end of the socket */
	u8 *rings;
	bool made;
} f;

/* ---- messages ---- */

static void answer(u32 request, u64 number, u32 size)
{
	struct vhost_user_message m = { .h = { request, VHOST_USER_VERSION | VHOST_USER_REPLY, size },
					.p.number = number };
	u8 how = take(f.in, 1), *at = (u8 *)&m;
	size_t len = sizeof(m.h) + size;

	if (request == VHOST_USER_GET_CONFIG)
		m.p.space = (struct vhost_user_space){ .size = size - (u32)offsetof(struct vhost_user_space, bytes) };
	switch (how) {
	case 1: /* a byte of the header, or of what follows */
		at[take(f.in, 1) % sizeof(m.h)] = take(f.in, 1);
		break;
	case 2:
		at[take(f.in, 2) % len] = take(f.in, 1);
		break;
	case 3:
		m.h.size = take(f.in, 4);
		break;
	case 4: /* cut off, or too long */
		len = take(f.in, 2) % sizeof(m);
		break;
	case 5:
		m.p.number = take(f.in, 8);
		break;
	case 6:
		return;
	}
	if (send(f.peer, &m, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return; /* more than a socket holds: then it ends here */
}

static void answers(void)
{
	static const u8 queue[] = { VHOST_USER_SET_VRING_NUM,  VHOST_USER_SET_VRING_BASE, VHOST_USER_SET_VRING_ADDR,
				    VHOST_USER_SET_VRING_CALL, VHOST_USER_SET_VRING_KICK, VHOST_USER_SET_VRING_ENABLE };
	unsigned queues = f.kind == VHOST_USER_FS ? 2 : 1;

	answer(VHOST_USER_GET_FEATURES, VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES | BIT(9), 8);
	answer(VHOST_USER_GET_PROTOCOL_FEATURES,
	       VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIG, 8);
	answer(VHOST_USER_GET_QUEUE_NUM, QUEUES, 8);
	answer(VHOST_USER_SET_OWNER, 0, 8);
	if (f.kind == VHOST_USER_BLK)
		answer(VHOST_USER_GET_CONFIG, 0, 12 + 60);
	for (unsigned k = 0; k < STARTS; k++) {
		answer(VHOST_USER_SET_FEATURES, 0, 8);
		answer(VHOST_USER_SET_MEM_TABLE, 0, 8);
		for (unsigned i = 0; i < queues * sizeof(queue); i++)
			answer(queue[i % sizeof(queue)], 0, 8);
		for (unsigned i = 0; i < queues; i++)
			answer(VHOST_USER_GET_VRING_BASE, 0, 8);
	}
	shutdown(f.peer, SHUT_WR);
}

/* What the front end has sent: the rings' memory is the second descriptor of a message with two. */
static void receive(void)
{
	char control[CMSG_SPACE(8 * sizeof(int))], bytes[512];

	for (;;) {
		struct iovec iov = { bytes, sizeof(bytes) };
		struct msghdr mh = {
			.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
		};
		struct cmsghdr *c;
		int fds[8];

		if (recvmsg(f.peer, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
			return;
		c = CMSG_FIRSTHDR(&mh);
		if (!c)
			continue;
		unsigned n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		if (n == 2 && !f.rings) {
			f.rings = mmap(NULL, SHADOW_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
			assert(f.rings != MAP_FAILED);
		}
		while (n--)
			close(fds[n]);
	}
}

/* ---- the shared rings ---- */

static void scribble(u8 op)
{
	u16 idx;
	u32 element[2];

	if (!f.rings)
		return;
	if (op & 1) { /* raw */
		f.rings[take(f.in, 3) % SHADOW_RING_BYTES] = take(f.in, 1);
		return;
	}
	/* a used element, often a good one */
	memcpy(&idx, f.rings + SHADOW_RING_USED + 2, 2);
	element[0] = !(op & 2) ? take(f.in, 1) & 3 : op & 4 ? take(f.in, 4) : take(f.in, 2) % (3 * SHADOW_RING_SIZE);
	element[1] = take(f.in, op & 4 ? 4 : 1);
	memcpy(f.rings + SHADOW_RING_USED + 4 + 8 * (idx % SHADOW_RING_SIZE), element, 8);
	idx += op & 8 ? take(f.in, 2) : 1;
	memcpy(f.rings + SHADOW_RING_USED + 2, &idx, 2);
}

/* ---- the guest ---- */

static int create(struct rig *r, struct pci_bus *bus)
{
	struct vhost_user_config cfg = {
		.kind = f.kind, .name = "fuzz", .tag = "tag", .no_noatime = take(f.in, 1) & 1
	};
	struct error e;
	int pair[2];

	for (unsigned slot = 1; slot < VRIG_SLOT; slot++)
		virtio_rng_create(&r->board, bus, slot);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		abort();
	f.peer = pair[0];
	answers();
	cfg.fd = pair[1];
	f.made = vhost_user_create(&r->board, bus, &cfg, &e);
	close(pair[1]);
	return 0;
}

static void request(struct rig *r, unsigned n)
{
	struct vseg seg[4];
	unsigned count = 1 + (take(f.in, 1) & 3), outs = take(f.in, 1) % (count + 1);
	struct vrig_queue *q = &vrig(r)->queue[n];
	u32 room = 0, len;

	if (!q->size || vrig(r)->next + 8192 > 2 * MiB)
		return;
	for (unsigned i = 0; i < count; i++) {
		seg[i] = (struct vseg){ 0, 1 + (take(f.in, 1) & 0x7f), i >= outs };
		seg[i].gpa = vrig_alloc(r, seg[i].len);
		if (!seg[i].write)
			*vrig_ptr(r, seg[i].gpa + MIN(4u, seg[i].len - 1)) = take(f.in, 1);
		room += seg[i].write ? seg[i].len : 0;
	}
	vrig_add(r, n, seg, count);
	vrig_kick(r, n);
	while (vrig_used(r, n, NULL, &len))
		assert(len <= room);
}

static void step(struct rig *r, unsigned queues)
{
	struct device *d = vrig(r)->dev;
	u8 op = take(f.in, 1);
	struct encoder e;

	switch (op & 7) {
	case 0:
		vrig_start(r, 0, queues, 16);
		receive();
		break;
	case 1:
	case 2:
		scribble(op >> 4);
		break;
	case 3:
		d->ops->reset(d);
		memset(vrig(r)->queue, 0, sizeof(vrig(r)->queue));
		break;
	case 4:
		e = rig_save(d);
		if (op & 0x80) {
			e.data[e.len - 1 - take(f.in, 2) % e.len] ^= take(f.in, 1);
			memset(vrig(r)->queue, 0, sizeof(vrig(r)->queue)); /* not what the driver set up any more */
		}
		if (rig_check(d, e.data, e.len) == 0)
			rig_load(d, e.data, e.len);
		enc_free(&e);
		receive();
		break;
	case 5: /* the configuration's one writable field, and others */
		vrig_write(r, VRIG_CONFIG + (take(f.in, 1) & 0x3f), take(f.in, 1), 1);
		break;
	default:
		request(r, op >> 3 & (queues - 1));
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct rig *r = rig_create();
	unsigned queues;

	log_set_level(LOG_ERROR);
	f.in = &in;
	f.rings = NULL;
	f.kind = take(&in, 1) & 1 ? VHOST_USER_BLK : VHOST_USER_FS;
	queues = f.kind == VHOST_USER_FS ? 2 : 1;
	vrig_init(r, create);
	for (unsigned i = 0; f.made && i < STEPS && in.p < in.end; i++)
		step(r, queues);
	rig_destroy(r);
	close(f.peer);
	if (f.rings)
		munmap(f.rings, SHADOW_RING_BYTES);
	return 0;
}
