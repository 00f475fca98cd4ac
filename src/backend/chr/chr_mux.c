/*
 * The terminal has a thread of its own, which lives as long as it is attached.
 * The guest's side only appends to a bounded ring and never waits for it; what
 * does not fit is lost to that terminal alone.
 *
 * `lock` guards the list of who is attached and the rings; it is held for
 * copies only. `turn` serves attach and detach one after the other.
 */
#include "backend/chr/chr_mux.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "replay/door.h"

#define OUT_SIZE (256 * KiB)
#define IN_SIZE 4096
#define HISTORY 4096 /* of the guest's last words, for who comes later */
#define RETRY_MS 10  /* the door's queue is full */
#define DRAIN_MS 500 /* at the end of the machine */

struct terminal {
	struct chr_mux *mux;
	pthread_t thread;
	int fd;
	void (*close)(void *);
	void *opaque;
	/* under the mux's lock */
	bool gone, stop;
	u8 *out; /* a ring */
	size_t out_at, out_len;
	/* the thread's own */
	u8 in[IN_SIZE];
	size_t in_len;
};

struct chr_mux {
	struct chr chr; /* first */
	struct chr_ops ops;
	struct chr *inner;
	struct door *door;
	int sink, wake_fd;

	pthread_mutex_t turn;
	pthread_mutex_t lock;
	bool started;
	struct terminal *terminal;
	u8 history[HISTORY]; /* a ring */
	size_t history_at, history_len;
};

static void wake(struct chr_mux *m)
{
	const u64 one = 1;

	if (write(m->wake_fd, &one, sizeof(one)) < 0)
		return; /* at its limit: it is awake */
}

/* ---- from the guest ---- */

/* Both under the lock. */
static void remember(struct chr_mux *m, const u8 *bytes, size_t n)
{
	if (n > HISTORY) {
		bytes += n - HISTORY;
		n = HISTORY;
	}
	for (size_t i = 0; i < n; i++)
		m->history[(m->history_at + m->history_len + i) % HISTORY] = bytes[i];
	m->history_len += n;
	if (m->history_len > HISTORY) {
		m->history_at = (m->history_at + m->history_len - HISTORY) % HISTORY;
		m->history_len = HISTORY;
	}
}

static void append(struct terminal *t, const u8 *bytes, size_t n)
{
	size_t end = (t->out_at + t->out_len) % OUT_SIZE, take = MIN(n, OUT_SIZE - t->out_len);
	size_t first = MIN(take, OUT_SIZE - end);

	memcpy(t->out + end, bytes, first);
	memcpy(t->out, bytes + first, take - first);
	t->out_len += take;
}

static void show(struct chr_mux *m, const u8 *bytes, size_t n)
{
	bool waits;

	pthread_mutex_lock(&m->lock);
	remember(m, bytes, n);
	waits = m->terminal && !m->terminal->gone && !m->terminal->out_len;
	if (m->terminal && !m->terminal->gone)
		append(m->terminal, bytes, n);
	pthread_mutex_unlock(&m->lock);
	if (waits)
		wake(m);
}

static void mux_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_mux *m = (struct chr_mux *)c;

	m->inner->ops->write(m->inner, bytes, n);
	show(m, bytes, n);
}

static size_t mux_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_mux *m = (struct chr_mux *)c;
	size_t taken = m->inner->ops->send(m->inner, bytes, n);

	show(m, bytes, taken);
	return taken;
}

static void mux_state(struct chr *c, struct chr_state *s)
{
	struct chr *inner = ((struct chr_mux *)c)->inner;

	inner->ops->state(inner, s);
}

static void mux_gone(struct chr *c)
{
	struct chr *inner = ((struct chr_mux *)c)->inner;

	inner->ops->gone(inner);
}

static void mux_guest_open(struct chr *c, bool open)
{
	struct chr *inner = ((struct chr_mux *)c)->inner;

	inner->ops->guest_open(inner, open);
}

/* ---- the terminal's thread ---- */

/* False: nobody takes it any more. */
static bool send_output(struct terminal *t)
{
	struct chr_mux *m = t->mux;
	ssize_t n = 0;
	int err;

	pthread_mutex_lock(&m->lock);
	if (t->out_len)
		n = send(t->fd, t->out + t->out_at, MIN(t->out_len, OUT_SIZE - t->out_at), MSG_NOSIGNAL | MSG_DONTWAIT);
	err = errno;
	if (n > 0) {
		t->out_at = (t->out_at + (size_t)n) % OUT_SIZE;
		t->out_len -= (size_t)n;
	}
	pthread_mutex_unlock(&m->lock);
	return n >= 0 || err == EAGAIN || err == EINTR;
}

static bool take_input(struct terminal *t)
{
	ssize_t n = recv(t->fd, t->in + t->in_len, sizeof(t->in) - t->in_len, MSG_DONTWAIT);

	if (n > 0)
		t->in_len += (size_t)n;
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void post_input(struct terminal *t)
{
	size_t n = door_post(t->mux->door, t->mux->sink, t->in, t->in_len);

	t->in_len -= n;
	memmove(t->in, t->in + n, t->in_len);
}

/* One turn of waiting; false when it is over. */
static bool attend(struct terminal *t)
{
	struct chr_mux *m = t->mux;
	bool stop, output;
	u64 count;

	pthread_mutex_lock(&m->lock);
	stop = t->stop;
	output = t->out_len != 0;
	pthread_mutex_unlock(&m->lock);
	if (stop)
		return false;
	struct pollfd p[2] = {
		{ .fd = m->wake_fd, .events = POLLIN },
		{ .fd = t->fd, .events = (short)((t->in_len < IN_SIZE ? POLLIN : 0) | (output ? POLLOUT : 0)) },
	};

	if (!p[1].events)
		p[1].fd = -1; /* a hang-up would end every poll at once */
	if (poll(p, 2, t->in_len ? RETRY_MS : -1) < 0)
		return errno == EINTR;
	if (p[0].revents && read(m->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN && errno != EINTR)
		return false;
	if ((p[1].revents & POLLOUT) && !send_output(t))
		return false;
	if ((p[1].revents & (POLLIN | POLLHUP | POLLERR)) && t->in_len < IN_SIZE && !take_input(t))
		return false;
	if (t->in_len)
		post_input(t);
	return true;
}

/* The terminal has a little time to take what is left. */
static void send_last_words(struct terminal *t)
{
	struct pollfd p = { .fd = t->fd, .events = POLLOUT };
	int left = DRAIN_MS;

	while (t->out_len && left > 0) {
		int ready = poll(&p, 1, 50);

		if (ready > 0 && (p.revents & POLLOUT)) {
			if (!send_output(t))
				return;
		} else if (ready > 0) {
			return;
		}
		left -= ready ? 1 : 50;
	}
}

static void *terminal_main(void *opaque)
{
	struct terminal *t = opaque;
	struct chr_mux *m = t->mux;

	while (attend(t))
		;
	pthread_mutex_lock(&m->lock);
	bool stop = t->stop;

	t->gone = true;
	pthread_mutex_unlock(&m->lock);
	if (stop)
		send_last_words(t);
	t->close(t->opaque);
	return NULL;
}

/* ---- attach and detach; the caller holds `turn` ---- */

static void reap(struct chr_mux *m)
{
	struct terminal *t = m->terminal;

	if (!t)
		return;
	pthread_join(t->thread, NULL);
	pthread_mutex_lock(&m->lock);
	m->terminal = NULL;
	pthread_mutex_unlock(&m->lock);
	free(t->out);
	free(t);
}

static void show_history(struct chr_mux *m, struct terminal *t)
{
	size_t first = MIN(m->history_len, HISTORY - m->history_at);

	append(t, m->history + m->history_at, first);
	append(t, m->history, m->history_len - first);
}

static struct terminal *new_terminal(struct chr_mux *m, int fd, const char *typed, size_t n)
{
	struct terminal *t = calloc(1, sizeof(*t));

	if (!t || !(t->out = malloc(OUT_SIZE))) {
		free(t);
		return NULL;
	}
	t->mux = m;
	t->fd = fd;
	t->in_len = MIN(n, IN_SIZE);
	if (t->in_len)
		memcpy(t->in, typed, t->in_len);
	return t;
}

bool chr_mux_attached(struct chr *c)
{
	struct chr_mux *m = (struct chr_mux *)c;
	bool ret;

	pthread_mutex_lock(&m->lock);
	ret = m->terminal && !m->terminal->gone;
	pthread_mutex_unlock(&m->lock);
	return ret;
}

static int attach(struct chr_mux *m, struct terminal *t)
{
	int err;

	pthread_mutex_lock(&m->lock);
	if (!m->started) {
		pthread_mutex_unlock(&m->lock);
		return -1;
	}
	show_history(m, t);
	m->terminal = t;
	err = thread_start(&t->thread, terminal_main, t);
	if (err)
		m->terminal = NULL;
	pthread_mutex_unlock(&m->lock);
	return err ? -1 : 0;
}

int chr_mux_attach(struct chr *c, int fd, const char *typed, size_t n, void (*close_fn)(void *), void *opaque)
{
	struct chr_mux *m = (struct chr_mux *)c;
	struct terminal *t;
	int ret = -1;

	pthread_mutex_lock(&m->turn);
	if (!chr_mux_attached(c)) {
		reap(m);
		t = new_terminal(m, fd, typed, n);
		if (t) {
			t->close = close_fn;
			t->opaque = opaque;
			ret = attach(m, t);
		}
		if (t && ret) {
			free(t->out);
			free(t);
		}
	}
	pthread_mutex_unlock(&m->turn);
	return ret;
}

void chr_mux_detach(struct chr *c)
{
	struct chr_mux *m = (struct chr_mux *)c;

	pthread_mutex_lock(&m->turn);
	pthread_mutex_lock(&m->lock);
	if (m->terminal)
		m->terminal->stop = true;
	pthread_mutex_unlock(&m->lock);
	wake(m);
	reap(m);
	pthread_mutex_unlock(&m->turn);
}

/* ---- life ---- */

static void mux_start(struct chr *c, struct door *door, int sink)
{
	struct chr_mux *m = (struct chr_mux *)c;

	m->door = door;
	m->sink = sink;
	m->inner->changed = c->changed;
	m->inner->opaque = c->opaque;
	m->inner->ops->start(m->inner, door, sink);
	pthread_mutex_lock(&m->lock);
	m->started = true;
	pthread_mutex_unlock(&m->lock);
}

static void mux_stop(struct chr *c)
{
	struct chr_mux *m = (struct chr_mux *)c;

	pthread_mutex_lock(&m->lock);
	m->started = false;
	pthread_mutex_unlock(&m->lock);
	chr_mux_detach(c);
	m->inner->ops->stop(m->inner);
	m->inner->changed = NULL;
}

static void mux_destroy(struct chr *c)
{
	struct chr_mux *m = (struct chr_mux *)c;

	mux_stop(c);
	m->inner->ops->destroy(m->inner);
	close(m->wake_fd);
	pthread_mutex_destroy(&m->turn);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

struct chr *chr_mux_create(struct chr *inner, struct error *e)
{
	struct chr_mux *m = calloc(1, sizeof(*m));
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (!m || fd < 0) {
		error_set(e, "not enough host memory or descriptors");
		if (fd >= 0)
			close(fd);
		free(m);
		return NULL;
	}
	m->wake_fd = fd;
	m->inner = inner;
	m->ops = (struct chr_ops){
		.name = inner->ops->name,
		.write = mux_write,
		.start = mux_start,
		.stop = mux_stop,
		.destroy = mux_destroy,
		.send = inner->ops->send ? mux_send : NULL,
		.state = inner->ops->state ? mux_state : NULL,
		.gone = inner->ops->gone ? mux_gone : NULL,
		.guest_open = inner->ops->guest_open ? mux_guest_open : NULL,
	};
	m->chr.ops = &m->ops;
	pthread_mutex_init(&m->turn, NULL);
	pthread_mutex_init(&m->lock, NULL);
	return &m->chr;
}
