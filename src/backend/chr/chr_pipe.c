/* Streams of one direction on a descriptor (see chr_pipe.h). */
#include "backend/chr/chr_pipe.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "replay/door.h"

#define OUT_SIZE (256 * KiB)
#define RETRY_MS 1    /* the door's queue is full */
#define DRAIN_MS 2000 /* at stop(), for what is left */
#define STALL_MS 1000 /* write() waits so long for room */

struct chr_pipe {
	struct chr chr; /* first */
	int fd, stop_fd;
	void *opaque;
	pthread_t thread;
	bool running;
	/* input; the thread's own */
	void (*in_end)(void *opaque, u64 bytes);
	void (*watch)(void *opaque, const u8 *bytes, size_t n);
	struct door *door;
	int sink;
	u64 posted;
	bool eof;
	size_t in_at, in_len;
	/* output */
	void (*out_end)(void *opaque, int error);
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t more, room;
	u8 *out; /* a ring */
	size_t at, len;
	u64 taken, written, expected;
	bool refused, stopping, gone, ended;
	u8 in[64 * KiB];
};

static struct chr_pipe *of(struct chr *c)
{
	return container_of(c, struct chr_pipe, chr);
}

/* ---- input ---- */

static void read_some(struct chr_pipe *p)
{
	ssize_t n = read(p->fd, p->in, sizeof(p->in));

	p->in_at = 0;
	if (n > 0)
		p->in_len = (size_t)n;
	else if (n == 0 || (errno != EINTR && errno != EAGAIN))
		p->eof = true;
	if (n > 0 && p->watch)
		p->watch(p->opaque, p->in, (size_t)n);
}

static void post_some(struct chr_pipe *p)
{
	size_t n = door_post(p->door, p->sink, p->in + p->in_at, p->in_len);

	p->in_at += n;
	p->in_len -= n;
	p->posted += n;
}

static void *reader_main(void *opaque)
{
	struct chr_pipe *p = opaque;

	while (!p->eof || p->in_len) {
		struct pollfd f[2] = { { .fd = p->stop_fd, .events = POLLIN },
				       { .fd = p->in_len ? -1 : p->fd, .events = POLLIN } };

		if (poll(f, 2, p->in_len ? RETRY_MS : -1) < 0 && errno != EINTR)
			break;
		if (f[0].revents)
			return NULL;
		if (f[1].revents)
			read_some(p);
		if (p->in_len)
			post_some(p);
	}
	if (!p->ended)
		p->in_end(p->opaque, p->posted);
	p->ended = true;
	return NULL;
}

/* ---- output ---- */

/* Under the lock, which is let go for the call. */
static void tell_changed(struct chr_pipe *p)
{
	void (*changed)(void *) = p->chr.changed;
	void *user = p->chr.opaque;

	if (!p->refused)
		return;
	p->refused = false;
	pthread_mutex_unlock(&p->lock);
	if (changed)
		changed(user);
	pthread_mutex_lock(&p->lock);
}

static void tell_end(struct chr_pipe *p, int error)
{
	pthread_mutex_unlock(&p->lock);
	p->out_end(p->opaque, error);
	pthread_mutex_lock(&p->lock);
}

/* Under the lock. */
static void write_some(struct chr_pipe *p)
{
	size_t n = MIN(p->len, OUT_SIZE - p->at);
	const u8 *from = p->out + p->at;
	ssize_t done;
	int error;

	pthread_mutex_unlock(&p->lock);
	done = write(p->fd, from, n);
	error = errno;
	if (done < 0 && error == EAGAIN) {
		struct pollfd f = { .fd = p->fd, .events = POLLOUT };

		poll(&f, 1, 100);
		done = 0;
	} else if (done < 0 && error == EINTR) {
		done = 0;
	}
	pthread_mutex_lock(&p->lock);
	if (done < 0) {
		p->gone = true;
		p->written += p->len;
		p->len = 0;
		tell_end(p, error);
	} else {
		p->at = (p->at + (size_t)done) % OUT_SIZE;
		p->len -= (size_t)done;
		p->written += (u64)done;
	}
	pthread_cond_broadcast(&p->room);
	tell_changed(p);
}

static void *writer_main(void *opaque)
{
	struct chr_pipe *p = opaque;

	pthread_mutex_lock(&p->lock);
	while (p->len || !p->stopping) {
		if (p->len) {
			write_some(p);
		} else if (!p->ended && p->written >= p->expected) {
			p->ended = true;
			tell_end(p, 0);
		} else {
			pthread_cond_wait(&p->more, &p->lock);
		}
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* Under the lock. */
static size_t append(struct chr_pipe *p, const u8 *bytes, size_t n)
{
	size_t all = p->gone ? n : MIN(n, OUT_SIZE - p->len), done = 0;

	p->taken += all;
	if (p->gone) {
		p->written += all;
		pthread_cond_signal(&p->more);
		return all;
	}
	while (done < all) {
		size_t to = (p->at + p->len) % OUT_SIZE, part = MIN(all - done, OUT_SIZE - to);

		memcpy(p->out + to, bytes + done, part);
		p->len += part;
		done += part;
	}
	if (all)
		pthread_cond_signal(&p->more);
	return all;
}

static size_t out_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_pipe *p = of(c);
	size_t done;

	pthread_mutex_lock(&p->lock);
	done = append(p, bytes, n);
	p->refused |= done < n;
	pthread_mutex_unlock(&p->lock);
	return done;
}

/* For users that cannot wait for room in another way. */
static void out_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_pipe *p = of(c);
	struct timespec until;
	size_t done;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STALL_MS / 1000;
	pthread_mutex_lock(&p->lock);
	for (done = append(p, bytes, n); done < n; done += append(p, bytes + done, n - done)) {
		if (pthread_cond_timedwait(&p->room, &p->lock, &until) == ETIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&p->lock);
}

void chr_pipe_out_expect(struct chr *c, u64 bytes)
{
	struct chr_pipe *p = of(c);

	pthread_mutex_lock(&p->lock);
	p->expected = bytes;
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
}

/* ---- life ---- */

static void pipe_start(struct chr *c, struct door *door, int sink)
{
	struct chr_pipe *p = of(c);

	p->door = door;
	p->sink = sink;
	p->stopping = false;
	p->running = !thread_start(&p->thread, p->in_end ? reader_main : writer_main, p);
}

static void pipe_stop(struct chr *c)
{
	struct chr_pipe *p = of(c);
	struct timespec until;
	u64 one = 1;

	if (!p->running)
		return;
	p->running = false;
	if (write(p->stop_fd, &one, sizeof(one)) < 0)
		one = 0; /* it is full of them */
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DRAIN_MS / 1000;
	/* A reader that takes nothing must not keep the process. */
	if (pthread_timedjoin_np(p->thread, NULL, &until)) {
		pthread_cancel(p->thread);
		pthread_join(p->thread, NULL);
	}
	if (read(p->stop_fd, &one, sizeof(one)) < 0)
		one = 0; /* nothing to take back */
}

static void pipe_destroy(struct chr *c)
{
	struct chr_pipe *p = of(c);

	pipe_stop(c);
	close(p->stop_fd);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->more);
	pthread_cond_destroy(&p->room);
	free(p->out);
	free(p);
}

/* An input takes no output. */
static void in_write(struct chr *c, const u8 *bytes, size_t n) {}

static const struct chr_ops in_ops = {
	.name = "input", .write = in_write, .start = pipe_start, .stop = pipe_stop, .destroy = pipe_destroy
};
static const struct chr_ops out_ops = { .name = "output",
					.write = out_write,
					.send = out_send,
					.start = pipe_start,
					.stop = pipe_stop,
					.destroy = pipe_destroy };

static struct chr_pipe *create(int fd, void *opaque, struct error *e)
{
	struct chr_pipe *p = calloc(1, sizeof(*p));
	pthread_condattr_t monotonic;

	if (!p || !(p->out = malloc(OUT_SIZE)) || (p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
		error_set(e, "not enough host memory or descriptors");
		if (p)
			free(p->out);
		free(p);
		return NULL;
	}
	p->fd = fd;
	p->opaque = opaque;
	p->expected = UINT64_MAX;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&p->room, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return p;
}

struct chr *chr_pipe_in_create(int fd, void (*end)(void *, u64), void *opaque, struct error *e)
{
	struct chr_pipe *p = create(fd, opaque, e);

	if (!p)
		return NULL;
	p->in_end = end;
	p->chr.ops = &in_ops;
	return &p->chr;
}

void chr_pipe_in_watch(struct chr *c, void (*watch)(void *, const u8 *, size_t))
{
	of(c)->watch = watch;
}

struct chr *chr_pipe_out_create(int fd, void (*end)(void *, int), void *opaque, struct error *e)
{
	struct chr_pipe *p = create(fd, opaque, e);

	if (!p)
		return NULL;
	p->out_end = end;
	p->chr.ops = &out_ops;
	return &p->chr;
}
