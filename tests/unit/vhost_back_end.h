/*
 * A fake vhost-user back end on a thread: it answers the front end's messages,
 * maps the memory it is given, and serves its queues by a function. `misbehave`
 * makes it break the protocol.
 */
#ifndef ECTYPE_TESTS_VHOST_BACK_END_H
#define ECTYPE_TESTS_VHOST_BACK_END_H

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/vhost_user/vhost_user_proto.h"

#define BACK_END_QUEUES 4

enum back_end_fault {
	FAULT_NONE,
	FAULT_SILENT,	/* never answers */
	FAULT_WRONG,	/* answers another request */
	FAULT_LONG,	/* claims an answer of 4 GiB */
	FAULT_REFUSE,	/* REPLY_ACK with an error */
	FAULT_BAD_USED, /* used elements that were never available */
	FAULT_HANG_UP,	/* hangs up when kicked */
	FAULT_STUCK,	/* takes chains, gives none back */
};

struct back_end;
/* Serves one chain: out and in are contiguous copies; returns bytes written. */
typedef u32 (*back_end_serve)(struct back_end *b, const u8 *out, u32 out_len, u8 *in, u32 in_len);

struct back_end {
	int fd;
	pthread_t thread;
	enum back_end_fault fault;
	u32 fault_at; /* request; 0: any */
	back_end_serve serve;
	u64 offered, protocol; /* features; without the protocol bit if protocol is 0 */
	u64 features;	       /* what the front end set */
	unsigned regions, served, seen[64];
	struct {
		u64 guest, size, user;
		u8 *map;
	} region[8];
	struct {
		u32 num, kick_seen;
		int kick, call;
		u8 *desc, *avail, *used;
		u16 next;
		bool enabled;
	} q[BACK_END_QUEUES];
	u8 config[256];
};

static inline u8 *back_end_at(struct back_end *b, u64 addr, u64 len, bool user)
{
	for (unsigned i = 0; i < b->regions; i++) {
		u64 base = user ? b->region[i].user : b->region[i].guest;

		if (addr >= base && addr - base < b->region[i].size && len <= b->region[i].size - (addr - base))
			return b->region[i].map + (addr - base);
	}
	return NULL;
}

static inline void back_end_answer(struct back_end *b, struct vhost_user_message *m, u32 size)
{
	u32 request = m->h.request;
	bool now = b->fault && (!b->fault_at || b->fault_at == request);

	if (now && b->fault == FAULT_SILENT)
		return;
	m->h.flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	m->h.size = size;
	if (now && b->fault == FAULT_WRONG)
		m->h.request ^= 1;
	if (now && b->fault == FAULT_LONG)
		m->h.size = UINT32_MAX;
	if (send(b->fd, m, sizeof(m->h) + size, MSG_NOSIGNAL) < 0)
		assert(errno == EPIPE || errno == ECONNRESET);
}

static inline void back_end_map(struct back_end *b, const struct vhost_user_message *m, const int *fds)
{
	for (unsigned i = 0; i < b->regions; i++)
		munmap(b->region[i].map, b->region[i].size);
	b->regions = m->p.memory.count;
	for (unsigned i = 0; i < b->regions; i++) {
		b->region[i].guest = m->p.memory.region[i].guest;
		b->region[i].user = m->p.memory.region[i].user;
		b->region[i].size = m->p.memory.region[i].size;
		b->region[i].map = mmap(NULL, b->region[i].size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i],
					(off_t)m->p.memory.region[i].offset);
		assert(b->region[i].map != MAP_FAILED);
		close(fds[i]);
	}
}

static inline void back_end_vring(struct back_end *b, const struct vhost_user_message *m, const int *fds)
{
	unsigned i;

	switch (m->h.request) {
	case VHOST_USER_SET_VRING_NUM:
		b->q[m->p.state.index].num = m->p.state.num;
		break;
	case VHOST_USER_SET_VRING_BASE:
		b->q[m->p.state.index].next = (u16)m->p.state.num;
		break;
	case VHOST_USER_SET_VRING_ADDR:
		i = m->p.addr.index;
		b->q[i].desc = back_end_at(b, m->p.addr.desc, 16 * b->q[i].num, true);
		b->q[i].avail = back_end_at(b, m->p.addr.avail, 6 + 2 * b->q[i].num, true);
		b->q[i].used = back_end_at(b, m->p.addr.used, 6 + 8 * b->q[i].num, true);
		assert(b->q[i].desc && b->q[i].avail && b->q[i].used);
		break;
	case VHOST_USER_SET_VRING_KICK:
		b->q[m->p.number & 0xff].kick = fds[0];
		break;
	case VHOST_USER_SET_VRING_CALL:
		b->q[m->p.number & 0xff].call = fds[0];
		break;
	case VHOST_USER_SET_VRING_ENABLE:
		b->q[m->p.state.index].enabled = m->p.state.num;
		break;
	}
}

static inline void back_end_close_queue(struct back_end *b, unsigned i)
{
	if (b->q[i].kick >= 0)
		close(b->q[i].kick);
	if (b->q[i].call >= 0)
		close(b->q[i].call);
	b->q[i].kick = b->q[i].call = -1;
	b->q[i].enabled = false;
}

static inline void back_end_message(struct back_end *b, struct vhost_user_message *m, const int *fds)
{
	bool ack = m->h.flags & VHOST_USER_NEED_REPLY;
	u32 request = m->h.request, size = 0;

	b->seen[request & 63]++;
	switch (request) {
	case VHOST_USER_GET_FEATURES:
		m->p.number = b->offered | (b->protocol ? VHOST_USER_F_PROTOCOL_FEATURES : 0);
		size = 8;
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		m->p.number = b->protocol;
		size = 8;
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		m->p.number = BACK_END_QUEUES;
		size = 8;
		break;
	case VHOST_USER_SET_FEATURES:
		b->features = m->p.number;
		break;
	case VHOST_USER_SET_MEM_TABLE:
		back_end_map(b, m, fds);
		break;
	case VHOST_USER_GET_VRING_BASE:
		m->p.state.num = b->q[m->p.state.index].next;
		back_end_close_queue(b, m->p.state.index);
		size = 8;
		break;
	case VHOST_USER_GET_CONFIG:
		memcpy(m->p.space.bytes, b->config + m->p.space.offset, m->p.space.size);
		size = 12 + m->p.space.size;
		break;
	case VHOST_USER_SET_CONFIG:
		memcpy(b->config + m->p.space.offset, m->p.space.bytes, m->p.space.size);
		break;
	default:
		back_end_vring(b, m, fds);
	}
	if (size) {
		back_end_answer(b, m, size);
	} else if (ack) {
		m->p.number = b->fault == FAULT_REFUSE && (!b->fault_at || b->fault_at == request);
		back_end_answer(b, m, 8);
	}
}

/* One message with its descriptors; false at the end. */
static inline bool back_end_receive(struct back_end *b)
{
	struct vhost_user_message m = { 0 };
	char control[CMSG_SPACE(8 * sizeof(int))];
	struct iovec iov = { &m.h, sizeof(m.h) };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	int fds[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };
	ssize_t n = recvmsg(b->fd, &mh, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;

	if (n != sizeof(m.h))
		return false;
	if (c)
		memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	assert((m.h.flags & 3) == 1 && m.h.size <= sizeof(m.p));
	if (m.h.size && recv(b->fd, &m.p, m.h.size, MSG_WAITALL) != m.h.size)
		return false;
	back_end_message(b, &m, fds);
	return true;
}

static inline u32 back_end_u32(const u8 *p)
{
	u32 v;

	memcpy(&v, p, 4);
	return v;
}

static inline void back_end_chain(struct back_end *b, unsigned q, u16 head)
{
	static u8 out[1 << 16], in[1 << 16];
	u32 out_len = 0, in_len = 0, done = 0, written;
	u16 i = head, flags;
	u8 *d, *used = b->q[q].used;
	u16 idx;

	do {
		u64 addr;
		u32 len;

		d = b->q[q].desc + 16 * i;
		memcpy(&addr, d, 8);
		len = back_end_u32(d + 8);
		memcpy(&flags, d + 12, 2);
		memcpy(&i, d + 14, 2);
		u8 *p = back_end_at(b, addr, len, false);

		assert(p);
		if (!(flags & 2)) {
			memcpy(out + out_len, p, len);
			out_len += len;
		} else {
			in_len += len;
		}
	} while (flags & 1);
	written = b->serve(b, out, out_len, in, in_len);
	for (i = head, flags = 1; flags & 1;) {
		u64 addr;
		u32 len;

		d = b->q[q].desc + 16 * i;
		memcpy(&addr, d, 8);
		len = back_end_u32(d + 8);
		memcpy(&flags, d + 12, 2);
		memcpy(&i, d + 14, 2);
		if (!(flags & 2))
			continue;
		memcpy(back_end_at(b, addr, len, false), in + done, len);
		done += len;
	}
	memcpy(&idx, used + 2, 2);
	u32 element[2] = { head, written };

	if (b->fault == FAULT_BAD_USED)
		element[0] = b->served % 2 ? 0xfffff : 1000;
	memcpy(used + 4 + 8 * (idx % b->q[q].num), element, 8);
	__atomic_store_n((u16 *)(void *)(used + 2), (u16)(idx + 1), __ATOMIC_RELEASE);
	b->served++;
}

/* False: hang up. */
static inline bool back_end_kicked(struct back_end *b, unsigned q)
{
	u64 count = 1;

	if (read(b->q[q].kick, &count, sizeof(count)) < 0)
		return true;
	if (b->fault == FAULT_HANG_UP)
		return false;
	if (b->fault == FAULT_STUCK || !b->q[q].enabled)
		return true;
	while (__atomic_load_n((u16 *)(void *)(b->q[q].avail + 2), __ATOMIC_ACQUIRE) != b->q[q].next) {
		u16 head;

		memcpy(&head, b->q[q].avail + 4 + 2 * (b->q[q].next++ % b->q[q].num), 2);
		back_end_chain(b, q, head);
	}
	count = 1;
	assert(write(b->q[q].call, &count, sizeof(count)) == sizeof(count));
	return true;
}

static inline void *back_end_main(void *opaque)
{
	struct back_end *b = opaque;
	bool go = true;

	while (go) {
		struct pollfd f[1 + BACK_END_QUEUES] = { { .fd = b->fd, .events = POLLIN } };

		for (unsigned i = 0; i < BACK_END_QUEUES; i++)
			f[1 + i] = (struct pollfd){ .fd = b->q[i].kick, .events = POLLIN };
		poll(f, 1 + BACK_END_QUEUES, -1);
		if (f[0].revents)
			go = back_end_receive(b);
		for (unsigned i = 0; go && i < BACK_END_QUEUES; i++)
			go = !f[1 + i].revents || b->q[i].kick < 0 || back_end_kicked(b, i);
	}
	close(b->fd);
	return NULL;
}

/* Starts it; returns the front end's end of the socket. */
static inline int back_end_start(struct back_end *b)
{
	int pair[2];

	assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	b->fd = pair[0];
	for (unsigned i = 0; i < BACK_END_QUEUES; i++)
		b->q[i].kick = b->q[i].call = -1;
	assert(!pthread_create(&b->thread, NULL, back_end_main, b));
	return pair[1];
}

/* After the front end has closed its end. */
static inline void back_end_join(struct back_end *b)
{
	pthread_join(b->thread, NULL);
	for (unsigned i = 0; i < BACK_END_QUEUES; i++)
		back_end_close_queue(b, i);
	for (unsigned i = 0; i < b->regions; i++)
		munmap(b->region[i].map, b->region[i].size);
	b->regions = 0;
}

#endif
