/*
 * Messages to and from a vhost-user back end (see vhost_user.h).
 *
 * Requests without an answer of their own are sent with "need reply" where the
 * back end has that protocol feature, so that a refusal is noticed where it
 * happened.
 */
#include "dev/vhost_user/vhost_user.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "dev/vhost_user/vhost_user_proto.h"

#define PROTOCOL_WANTED (VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIG)

static const char *request_name(u32 request)
{
	static const char *const names[] = {
		[VHOST_USER_GET_FEATURES] = "GET_FEATURES",
		[VHOST_USER_SET_FEATURES] = "SET_FEATURES",
		[VHOST_USER_SET_OWNER] = "SET_OWNER",
		[VHOST_USER_SET_MEM_TABLE] = "SET_MEM_TABLE",
		[VHOST_USER_SET_VRING_NUM] = "SET_VRING_NUM",
		[VHOST_USER_SET_VRING_ADDR] = "SET_VRING_ADDR",
		[VHOST_USER_SET_VRING_BASE] = "SET_VRING_BASE",
		[VHOST_USER_GET_VRING_BASE] = "GET_VRING_BASE",
		[VHOST_USER_SET_VRING_KICK] = "SET_VRING_KICK",
		[VHOST_USER_SET_VRING_CALL] = "SET_VRING_CALL",
		[VHOST_USER_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
		[VHOST_USER_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
		[VHOST_USER_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
		[VHOST_USER_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
		[VHOST_USER_GET_CONFIG] = "GET_CONFIG",
		[VHOST_USER_SET_CONFIG] = "SET_CONFIG",
	};

	return request < ARRAY_SIZE(names) && names[request] ? names[request] : "?";
}

void vhost_user_close(struct vhost_user *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static int fail(struct vhost_user *c, u32 request, const char *what)
{
	if (c->fd >= 0)
		snprintf(c->why, sizeof(c->why), "%s: %s", request_name(request), what);
	vhost_user_close(c);
	return -1;
}

static u64 now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000 + (u64)t.tv_nsec / 1000000;
}

/* Waits for `events`; false with errno if they do not come until `deadline`. */
static bool wait_for(struct vhost_user *c, short events, u64 deadline)
{
	for (;;) {
		struct pollfd f = { .fd = c->fd, .events = events };
		u64 now = now_ms();
		int n = poll(&f, 1, now >= deadline ? 0 : (int)(deadline - now));

		if (n > 0)
			return true;
		if (!n)
			errno = ETIMEDOUT;
		if (!n || errno != EINTR)
			return false;
	}
}

static int send_message(struct vhost_user *c, const struct vhost_user_message *m, const int *fds, unsigned nfds)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * VHOST_USER_REGIONS_MAX)];
		struct cmsghdr align;
	} control;
	size_t len = sizeof(m->h) + m->h.size, done = 0;
	u64 deadline = now_ms() + c->timeout_ms;

	while (done < len) {
		struct iovec iov = { (char *)m + done, len - done };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		ssize_t n;

		if (nfds && !done) {
			mh.msg_control = control.bytes;
			mh.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
			memset(&control, 0, sizeof(control));
			struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

			cm->cmsg_level = SOL_SOCKET;
			cm->cmsg_type = SCM_RIGHTS;
			cm->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
			memcpy(CMSG_DATA(cm), fds, sizeof(int) * nfds);
		}
		n = sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno != EINTR && (errno != EAGAIN || !wait_for(c, POLLOUT, deadline)))
			return fail(c, m->h.request, strerror(errno));
	}
	return 0;
}

static int receive(struct vhost_user *c, u32 request, void *to, size_t len)
{
	u64 deadline = now_ms() + c->timeout_ms;
	size_t done = 0;

	while (done < len) {
		ssize_t n = recv(c->fd, (char *)to + done, len - done, MSG_DONTWAIT);

		if (n > 0)
			done += (size_t)n;
		else if (!n)
			return fail(c, request, "the back end hung up");
		else if (errno != EINTR && (errno != EAGAIN || !wait_for(c, POLLIN, deadline)))
			return fail(c, request, errno == ETIMEDOUT ? "no answer in time" : strerror(errno));
	}
	return 0;
}

/* The answer to `request` into *m; it must have between `min` and `max` bytes. */
static int receive_answer(struct vhost_user *c, u32 request, struct vhost_user_message *m, u32 min, u32 max)
{
	if (receive(c, request, &m->h, sizeof(m->h)))
		return -1;
	if (m->h.request != request || !(m->h.flags & VHOST_USER_REPLY) ||
	    (m->h.flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION || m->h.size < min || m->h.size > max)
		return fail(c, request, "the back end's answer makes no sense");
	return receive(c, request, &m->p, m->h.size);
}

static int ask(struct vhost_user *c, struct vhost_user_message *m, u32 min, u32 max)
{
	u32 request = m->h.request;

	if (c->fd < 0)
		return -1;
	m->h.flags = VHOST_USER_VERSION;
	return send_message(c, m, NULL, 0) ? -1 : receive_answer(c, request, m, min, max);
}

static int ask_number(struct vhost_user *c, u32 request, u64 *out)
{
	struct vhost_user_message m = { .h = { .request = request } };

	if (ask(c, &m, sizeof(u64), sizeof(u64)))
		return -1;
	*out = m.p.number;
	return 0;
}

/* A request without an answer of its own; `m->h.size` and the payload are set. */
static int tell(struct vhost_user *c, struct vhost_user_message *m, const int *fds, unsigned nfds)
{
	bool ack = c->protocol & VHOST_USER_PROTOCOL_F_REPLY_ACK;
	u32 request = m->h.request;

	if (c->fd < 0)
		return -1;
	m->h.flags = VHOST_USER_VERSION | (ack ? VHOST_USER_NEED_REPLY : 0);
	if (send_message(c, m, fds, nfds))
		return -1;
	if (!ack)
		return 0;
	if (receive_answer(c, request, m, sizeof(u64), sizeof(u64)))
		return -1;
	return m->p.number ? fail(c, request, "refused by the back end") : 0;
}

static int tell_number(struct vhost_user *c, u32 request, u64 number, int fd)
{
	struct vhost_user_message m = { .h = { .request = request, .size = sizeof(u64) }, .p.number = number };

	return tell(c, &m, &fd, fd >= 0);
}

static int tell_state(struct vhost_user *c, u32 request, unsigned index, u32 num)
{
	struct vhost_user_message m = { .h = { .request = request, .size = sizeof(m.p.state) },
					.p.state = { index, num } };

	return tell(c, &m, NULL, 0);
}

/* ---- connection ---- */

int vhost_user_dial(const char *path, struct error *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(a.sun_path))
		return error_set(e, "the path %s is too long for a unix socket", path);
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(e, errno, "cannot create a unix socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		error_errno(e, errno, "cannot connect to %s; is the vhost-user back end running?", path);
		close(fd);
		return -1;
	}
	return fd;
}

static int agree(struct vhost_user *c)
{
	u64 offered;

	if (ask_number(c, VHOST_USER_GET_FEATURES, &c->features))
		return -1;
	c->has_protocol = c->features & VHOST_USER_F_PROTOCOL_FEATURES;
	c->features &= ~VHOST_USER_F_PROTOCOL_FEATURES;
	if (c->has_protocol) {
		if (ask_number(c, VHOST_USER_GET_PROTOCOL_FEATURES, &offered) ||
		    tell_number(c, VHOST_USER_SET_PROTOCOL_FEATURES, offered & PROTOCOL_WANTED, -1))
			return -1;
		c->protocol = offered & PROTOCOL_WANTED;
	}
	if (c->protocol & VHOST_USER_PROTOCOL_F_MQ && ask_number(c, VHOST_USER_GET_QUEUE_NUM, &c->queues))
		return -1;
	struct vhost_user_message m = { .h = { .request = VHOST_USER_SET_OWNER } };

	return tell(c, &m, NULL, 0);
}

int vhost_user_open(struct vhost_user *c, int fd, unsigned timeout_ms, struct error *e)
{
	*c = (struct vhost_user){ .fd = fd, .timeout_ms = timeout_ms, .queues = UINT64_MAX };
	return agree(c) ? error_set(e, "the vhost-user back end failed: %s", c->why) : 0;
}

bool vhost_user_gone(struct vhost_user *c)
{
	struct pollfd f = { .fd = c->fd, .events = POLLRDHUP };

	return c->fd < 0 || (poll(&f, 1, 0) > 0 && f.revents & (POLLHUP | POLLRDHUP | POLLERR));
}

/* ---- requests ---- */

int vhost_user_set_features(struct vhost_user *c, u64 features)
{
	return tell_number(c, VHOST_USER_SET_FEATURES,
			   features | (c->has_protocol ? VHOST_USER_F_PROTOCOL_FEATURES : 0), -1);
}

int vhost_user_set_memory(struct vhost_user *c, const struct vhost_user_region *r, unsigned n)
{
	struct vhost_user_message m = { .h = { .request = VHOST_USER_SET_MEM_TABLE } };
	int fds[VHOST_USER_REGIONS_MAX];

	if (n > VHOST_USER_REGIONS_MAX)
		return fail(c, VHOST_USER_SET_MEM_TABLE, "too many regions");
	m.h.size = (u32)(offsetof(struct vhost_user_memory, region) + n * sizeof(m.p.memory.region[0]));
	m.p.memory.count = n;
	for (unsigned i = 0; i < n; i++) {
		m.p.memory.region[i].guest = r[i].guest;
		m.p.memory.region[i].size = r[i].size;
		m.p.memory.region[i].user = r[i].user;
		m.p.memory.region[i].offset = r[i].offset;
		fds[i] = r[i].fd;
	}
	return tell(c, &m, fds, n);
}

int vhost_user_start_queue(struct vhost_user *c, unsigned index, const struct vhost_user_queue *q)
{
	struct vhost_user_message m = { .h = { .request = VHOST_USER_SET_VRING_ADDR, .size = sizeof(m.p.addr) } };

	m.p.addr = (struct vhost_user_addr){ .index = index, .desc = q->desc, .used = q->used, .avail = q->avail };
	if (tell_state(c, VHOST_USER_SET_VRING_NUM, index, q->size) ||
	    tell_state(c, VHOST_USER_SET_VRING_BASE, index, q->base) || tell(c, &m, NULL, 0) ||
	    tell_number(c, VHOST_USER_SET_VRING_CALL, index & VHOST_USER_VRING_INDEX_MASK, q->call_fd) ||
	    tell_number(c, VHOST_USER_SET_VRING_KICK, index & VHOST_USER_VRING_INDEX_MASK, q->kick_fd))
		return -1;
	return c->has_protocol ? tell_state(c, VHOST_USER_SET_VRING_ENABLE, index, 1) : 0;
}

int vhost_user_stop_queue(struct vhost_user *c, unsigned index)
{
	struct vhost_user_message m = { .h = { .request = VHOST_USER_GET_VRING_BASE, .size = sizeof(m.p.state) },
					.p.state = { .index = index } };

	return ask(c, &m, sizeof(m.p.state), sizeof(m.p.state));
}

int vhost_user_get_config(struct vhost_user *c, unsigned off, void *to, unsigned n)
{
	struct vhost_user_message m = { .h = { .request = VHOST_USER_GET_CONFIG } };

	if (!(c->protocol & VHOST_USER_PROTOCOL_F_CONFIG) || n > VHOST_USER_CONFIG_MAX)
		return -1;
	m.h.size = (u32)offsetof(struct vhost_user_space, bytes) + n;
	m.p.space = (struct vhost_user_space){ .offset = off, .size = n };
	/* an empty answer is the back end's "no" */
	if (ask(c, &m, 0, sizeof(m.p.space)))
		return -1;
	if (m.h.size != offsetof(struct vhost_user_space, bytes) + n || m.p.space.size != n)
		return fail(c, VHOST_USER_GET_CONFIG, "refused by the back end");
	memcpy(to, m.p.space.bytes, n);
	return 0;
}

int vhost_user_set_config(struct vhost_user *c, unsigned off, const void *from, unsigned n)
{
	struct vhost_user_message m = { .h = { .request = VHOST_USER_SET_CONFIG } };

	if (!(c->protocol & VHOST_USER_PROTOCOL_F_CONFIG) || n > VHOST_USER_CONFIG_MAX)
		return -1;
	m.h.size = (u32)offsetof(struct vhost_user_space, bytes) + n;
	m.p.space = (struct vhost_user_space){ .offset = off, .size = n };
	memcpy(m.p.space.bytes, from, n);
	return tell(c, &m, NULL, 0);
}
