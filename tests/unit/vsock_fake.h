/* A vsock backend whose host is the test: streams with buffers, and events put in by hand. */
#ifndef ECTYPE_TESTS_VSOCK_FAKE_H
#define ECTYPE_TESTS_VSOCK_FAKE_H

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/vsock/vsock.h"

#define FAKE_STREAMS (VSOCK_STREAMS_MAX + 16)
#define FAKE_EVENTS 256

struct fake_stream {
	struct vsock_stream base;
	bool open, ended, broken;     /* ended: nothing comes behind `in`; broken: send() fails */
	bool no_more_in, no_more_out; /* shutdown() */
	u8 *in, *out;		      /* what recv() gives, what send() got; made when used */
	size_t in_len, in_at, out_len, room;
};

struct fake_host {
	struct vsock vsock;
	bool started, refuse_dials;
	void (*wake)(void *);
	void *opaque;
	unsigned dials, open;
	u32 dial_port, dial_id; /* the last */
	struct vsock_event events[FAKE_EVENTS];
	unsigned head, tail;
	struct fake_stream streams[FAKE_STREAMS];
};

#define FAKE_BYTES (1u << 20)

static inline struct fake_stream *fake_stream(struct fake_host *f)
{
	for (unsigned i = 0; i < FAKE_STREAMS; i++) {
		struct fake_stream *s = &f->streams[i];

		if (s->open)
			continue;
		free(s->in);
		free(s->out);
		*s = (struct fake_stream){ .open = true, .room = SIZE_MAX };
		f->open++;
		return s;
	}
	return NULL;
}

static inline void fake_event(struct fake_host *f, struct vsock_event ev)
{
	assert(f->tail - f->head < FAKE_EVENTS);
	f->events[f->tail++ % FAKE_EVENTS] = ev;
	if (f->started)
		f->wake(f->opaque);
}

/* The host sends. */
static inline void fake_give(struct fake_host *f, struct fake_stream *s, const void *p, size_t n)
{
	if (!s->in)
		s->in = malloc(FAKE_BYTES);
	assert(s->in_len + n <= FAKE_BYTES);
	memcpy(s->in + s->in_len, p, n);
	s->in_len += n;
	fake_event(f, (struct vsock_event){ .kind = VSOCK_READY, .stream = &s->base, .readable = true });
}

static int fake_start(struct vsock *v, void (*wake)(void *), void *opaque, struct error *e)
{
	struct fake_host *f = (struct fake_host *)v;

	assert(!f->started);
	f->started = true;
	f->wake = wake;
	f->opaque = opaque;
	return 0;
}

static void fake_stop(struct vsock *v)
{
	struct fake_host *f = (struct fake_host *)v;

	f->started = false;
	for (unsigned i = 0; i < FAKE_STREAMS; i++)
		f->streams[i].open = false;
	f->open = 0;
	f->head = f->tail;
}

static bool fake_next(struct vsock *v, struct vsock_event *ev)
{
	struct fake_host *f = (struct fake_host *)v;

	while (f->head != f->tail) {
		*ev = f->events[f->head++ % FAKE_EVENTS];
		if (ev->stream || ev->kind != VSOCK_READY)
			return true;
	}
	return false;
}

static bool fake_dial(struct vsock *v, u32 port, u32 id)
{
	struct fake_host *f = (struct fake_host *)v;

	if (f->refuse_dials)
		return false;
	f->dials++;
	f->dial_port = port;
	f->dial_id = id;
	return true;
}

static ssize_t fake_recv(struct vsock_stream *base, const struct iovec *iov, unsigned n)
{
	struct fake_stream *s = (struct fake_stream *)base;
	size_t done = 0;

	assert(s->open && n);
	for (unsigned i = 0; i < n; i++) {
		size_t part = iov[i].iov_len < s->in_len - s->in_at ? iov[i].iov_len : s->in_len - s->in_at;

		if (part)
			memcpy(iov[i].iov_base, s->in + s->in_at, part);
		s->in_at += part;
		done += part;
	}
	return done ? (ssize_t)done : s->ended ? 0 : -EAGAIN;
}

static ssize_t fake_send(struct vsock_stream *base, const struct iovec *iov, unsigned n)
{
	struct fake_stream *s = (struct fake_stream *)base;
	size_t done = 0;

	assert(s->open);
	if (s->broken)
		return -EPIPE;
	if (!s->out)
		s->out = malloc(FAKE_BYTES);
	for (unsigned i = 0; i < n; i++) {
		size_t part = iov[i].iov_len < s->room ? iov[i].iov_len : s->room;

		/* what is beyond is read, so that a sanitizer sees it, and forgotten */
		for (size_t k = 0; k < part; k++)
			s->out[(s->out_len + k) % FAKE_BYTES] = ((const u8 *)iov[i].iov_base)[k];
		s->out_len += part;
		s->room -= part;
		done += part;
	}
	return done ? (ssize_t)done : -EAGAIN;
}

static void fake_shutdown(struct vsock_stream *base, bool sends, bool receives)
{
	struct fake_stream *s = (struct fake_stream *)base;

	assert(s->open);
	s->no_more_out |= sends;
	s->no_more_in |= receives;
}

static void fake_close(struct vsock *v, struct vsock_stream *base)
{
	struct fake_host *f = (struct fake_host *)v;
	struct fake_stream *s = (struct fake_stream *)base;

	assert(s->open);
	s->open = false;
	f->open--;
	/* as the real one: no event of a stream that was closed */
	for (unsigned i = f->head; i != f->tail; i++)
		if (f->events[i % FAKE_EVENTS].stream == base)
			f->events[i % FAKE_EVENTS] = (struct vsock_event){ .kind = VSOCK_READY };
}

static void fake_destroy(struct vsock *v)
{
	struct fake_host *f = (struct fake_host *)v;

	for (unsigned i = 0; i < FAKE_STREAMS; i++) {
		free(f->streams[i].in);
		free(f->streams[i].out);
	}
	free(f);
}

static inline struct fake_host *fake_host(void)
{
	static const struct vsock_ops ops = { "fake",	 fake_start, fake_stop,	    fake_next,	fake_dial,
					      fake_recv, fake_send,  fake_shutdown, fake_close, fake_destroy };
	struct fake_host *f = calloc(1, sizeof(*f));

	f->vsock.ops = &ops;
	return f;
}

#endif
