#include "cli/relay.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/host_time.h"

#define ROOM (256 * KiB)
#define BURST_NS 20000000ull /* what a limited stream may catch up */
#define TELL_NS 100000000ull
#define DRAIN_NS 15000000000ull /* for the monitor to see that the peer is gone */

struct flow {
	struct peer *from, *to;
	u8 *buf;
	size_t at, len;
	bool over;    /* nothing more comes, or nothing more is taken */
	bool refused; /* the latter */
	u64 limit, tokens, since;
};

static bool later(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* How much may go now. */
static size_t allowed(struct flow *f, u64 now)
{
	u64 most = MAX(f->limit * BURST_NS / 1000000000ull, 4096ull);

	if (!f->limit)
		return f->len - f->at;
	f->tokens = MIN(f->tokens + (u64)((double)f->limit * (double)(now - f->since) / 1e9), most);
	f->since = now;
	return MIN(f->len - f->at, f->tokens);
}

static void pull(struct flow *f)
{
	ssize_t n;

	if (f->over || f->at < f->len)
		return;
	f->at = f->len = 0;
	n = peer_read(f->from, f->buf, ROOM);
	if (n > 0)
		f->len = (size_t)n;
	else if (!n || !later())
		f->over = true;
}

static void push(struct flow *f, u64 now)
{
	size_t most = allowed(f, now);
	ssize_t n;

	if (!most)
		return;
	n = peer_write(f->to, f->buf + f->at, most);
	if (n > 0) {
		f->at += (size_t)n;
		f->tokens -= MIN(f->tokens, (u64)n);
	} else if (!later()) {
		f->over = f->refused = true;
		f->at = f->len = 0;
	}
}

static bool done(const struct flow *f)
{
	return f->over && f->at == f->len;
}

static void wait_for(const struct flow *out, const struct flow *in, unsigned ms)
{
	struct pollfd p[2] = { { .fd = out->from->fd }, { .fd = out->to->fd } };
	bool held = out->limit && out->at < out->len && !out->tokens;

	if (!out->over && out->at == out->len)
		p[0].events |= POLLIN;
	if (out->at < out->len && !held)
		p[1].events |= POLLOUT;
	if (!in->over && in->at == in->len)
		p[1].events |= POLLIN;
	if (in->at < in->len)
		p[0].events |= POLLOUT;
	for (unsigned i = 0; i < 2; i++)
		if (!p[i].events)
			p[i].fd = -1; /* its hang-up would be told again and again */
	if (!in->over && in->at == in->len && peer_pending(in->from))
		ms = 0;
	poll(p, 2, (int)(held ? MIN(ms, 5u) : ms));
}

/* The peer has gone: the monitor may still be writing, and is to read what came last. One that ends it as well waits
 * for the question how it ended, and is not to hear an end before. */
static void drain(struct relay *r, u8 *buf)
{
	u64 start = host_ns();
	bool told = false;

	while (host_ns() - start < DRAIN_NS) {
		struct pollfd p = { .fd = r->monitor.fd, .events = POLLIN };
		ssize_t n;

		if (!told && host_ns() - start >= TELL_NS) {
			shutdown(r->monitor.fd, SHUT_WR);
			told = true;
		}
		poll(&p, 1, told ? 100 : TELL_NS / 1000000);
		n = peer_read(&r->monitor, buf, ROOM);
		if (!n || (n < 0 && !later()))
			return;
	}
}

/* The connection is lost, and nobody knows whether the other monitor is: this one hears nothing, until it is gone. */
static void keep_silent(struct relay *r, u8 *buf)
{
	ssize_t n;

	do {
		struct pollfd p = { .fd = r->monitor.fd, .events = POLLIN };

		poll(&p, 1, -1);
		n = peer_read(&r->monitor, buf, ROOM);
	} while (n > 0 || (n < 0 && later()));
}

/* The monitor has closed and the peer has all of it, or takes no more; what it tells may still be on its way then. */
static bool sent(const struct relay *r, const struct flow *out)
{
	return done(out) && !(r->meant && out->refused);
}

void relay_run(struct relay *r)
{
	static u8 room[2][ROOM];
	struct flow out = {
		.from = &r->monitor, .to = &r->peer, .buf = room[0], .limit = r->limit, .since = host_ns()
	};
	struct flow in = { .from = &r->peer, .to = &r->monitor, .buf = room[1] };
	u64 next = host_ns() + r->tick_ms * 1000000ull;

	while (!sent(r, &out) && !done(&in)) {
		u64 now = host_ns();

		if (r->tick && now >= next) {
			if (r->tick(r->opaque))
				return;
			next = host_ns() + r->tick_ms * 1000000ull;
		}
		pull(&out);
		pull(&in);
		push(&out, now);
		push(&in, now);
		wait_for(&out, &in, (unsigned)MIN(r->tick_ms, 100u));
	}
	if (r->meant && done(&in) && !peer_over(&r->peer))
		keep_silent(r, room[0]);
	else if (!done(&out) || out.refused)
		drain(r, room[0]);
}
