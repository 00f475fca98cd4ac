/* Sections over a socket; contract in channel.h. */
#include "state/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define SLICE_MS 50u /* between two looks at *quit */
#define ROOM (512 * KiB)

int channel_init(struct channel *c, int fd, const atomic_bool *quit, const void *came, size_t n)
{
	int flags = fcntl(fd, F_GETFL);

	*c = (struct channel){ .fd = fd, .quit = quit };
	enc_init(&c->out);
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	c->in_cap = MAX(ROOM, n);
	c->in = malloc(c->in_cap);
	if (!c->in) {
		c->failed = true;
		return error_set(&c->why, "not enough host memory");
	}
	if (n)
		memcpy(c->in, came, n);
	c->in_len = n;
	return 0;
}

void channel_free(struct channel *c)
{
	enc_free(&c->out);
	free(c->in);
	c->in = NULL;
}

/* ---- waiting ---- */

static u64 now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000 + (u64)t.tv_nsec / 1000000;
}

static int fail(struct channel *c, int errnum, const char *what)
{
	c->failed = true;
	return errnum ? error_errno(&c->why, errnum, "%s", what) : error_set(&c->why, "%s", what);
}

/* 1: ready; 0: not in time; -1. */
static int wait_for(struct channel *c, short events, unsigned ms)
{
	u64 until = now_ms() + ms;

	for (;;) {
		struct pollfd p = { .fd = c->fd, .events = events };
		u64 now = now_ms();
		int n;

		if (c->quit && atomic_load(c->quit))
			return fail(c, 0, "cancelled");
		n = poll(&p, 1, (int)MIN(until > now ? until - now : 0, SLICE_MS));
		if (n > 0)
			return 1;
		if (n < 0 && errno != EINTR)
			return fail(c, errno, "cannot wait for the peer");
		if (now_ms() >= until)
			return 0;
	}
}

/* ---- sending ---- */

struct encoder *channel_begin(struct channel *c, const char *name)
{
	c->out.len = 0;
	if (!c->begun)
		stream_begin(&c->w, &c->out);
	c->begun = true;
	stream_section_begin(&c->w, name, STREAM_REQUIRED);
	return &c->out;
}

int channel_send(struct channel *c, unsigned ms)
{
	size_t at = 0;

	stream_section_end(&c->w);
	if (c->failed)
		return -1;
	if (c->out.failed)
		return fail(c, 0, "not enough host memory");
	while (at < c->out.len) {
		ssize_t n = send(c->fd, c->out.data + at, c->out.len - at, MSG_NOSIGNAL);

		if (n > 0) {
			at += (size_t)n;
			c->sent += (u64)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
			return fail(c, errno, "the connection is lost");
		switch (wait_for(c, POLLOUT, ms)) {
		case 0:
			return fail(c, 0, "the connection is lost: the peer takes nothing");
		case -1:
			return -1;
		}
	}
	return 0;
}

int channel_put(struct channel *c, const char *name, const void *payload, size_t n, unsigned ms)
{
	enc_bytes(channel_begin(c, name), payload, n);
	return channel_send(c, ms);
}

/* ---- receiving ---- */

/* Room for more behind what is there. */
static bool make_room(struct channel *c)
{
	u8 *more;

	if (c->in_at && c->in_len == c->in_cap) {
		memmove(c->in, c->in + c->in_at, c->in_len - c->in_at);
		c->in_len -= c->in_at;
		c->in_at = 0;
	}
	if (c->in_len < c->in_cap)
		return true;
	more = realloc(c->in, c->in_cap * 2);
	if (!more)
		return false;
	c->in = more;
	c->in_cap *= 2;
	return true;
}

/* At least `n` bytes are there: 1; 0: not in time; -1. */
static int fetch(struct channel *c, u64 n, unsigned ms)
{
	while (c->in_len - c->in_at < n) {
		ssize_t got;

		if (!make_room(c))
			return fail(c, 0, "not enough host memory");
		got = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
		if (got > 0) {
			c->in_len += (size_t)got;
			c->received += (u64)got;
			continue;
		}
		if (!got)
			return fail(c, 0, "the connection is lost: the peer closed it");
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return fail(c, errno, "the connection is lost");
		got = wait_for(c, POLLIN, ms);
		if (got <= 0)
			return (int)got;
	}
	return 1;
}

static int late(struct channel *c)
{
	return fail(c, 0, "the connection is lost: the peer is silent");
}

/* The head of the peer's stream, before its first section. */
static int take_head(struct channel *c, unsigned ms)
{
	int n;

	if (c->in_begun)
		return 1;
	n = fetch(c, STREAM_HEAD_BYTES, ms);
	if (n <= 0)
		return n;
	if (stream_check_head(c->in + c->in_at, "what the peer sends", &c->why)) {
		c->failed = true;
		return -1;
	}
	c->in_at += STREAM_HEAD_BYTES;
	c->in_begun = true;
	return 1;
}

int channel_next(struct channel *c, unsigned ms, struct stream_section *out)
{
	u64 n;
	int r;

	if (c->failed)
		return -1;
	if (c->in_at == c->in_len)
		c->in_at = c->in_len = 0;
	r = take_head(c, ms);
	if (r > 0)
		r = fetch(c, STREAM_SECTION_HEAD_BYTES, ms);
	if (r <= 0)
		return r < 0 ? r : c->in_len > c->in_at ? late(c) : 0;
	n = stream_section_rest(c->in + c->in_at);
	if (!n)
		return fail(c, 0, "what the peer sends is damaged: no section where one must be");
	n += STREAM_SECTION_HEAD_BYTES;
	r = fetch(c, n, ms);
	if (r <= 0)
		return r < 0 ? r : late(c);
	if (stream_read_section(c->in + c->in_at, n, c->in_count, out, "what the peer sends", &c->why)) {
		c->failed = true;
		return -1;
	}
	c->in_count++;
	c->in_at += n;
	return 1;
}

bool channel_readable(struct channel *c)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };

	return c->in_len > c->in_at || poll(&p, 1, 0) > 0;
}
