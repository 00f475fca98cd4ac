/*
 * Sockets of the gdb stub.
 *
 * While the machine is stopped its vCPU thread is in gdb_server_wait() and
 * owns the client's socket. While the guest runs a small thread does: it takes
 * Ctrl-C, notices that the client went away and accepts a new one, and in each
 * case asks the machine to stop and then leaves the socket alone. `running`,
 * under the lock, says whose turn it is.
 *
 * All waiting is in slices, so that a machine that is told to end does not
 * hang on a debugger that says nothing or reads nothing.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "gdb/stub.h"

#define SLICE_MS 200

struct gdb_server {
	const struct gdb_target *t;
	struct gdb_stub *stub;
	int listen_fd, wake_fd;
	char *path; /* of a unix socket, to be removed */
	pthread_t thread;

	pthread_mutex_t lock;
	int client;   /* -1: none */
	bool running; /* the thread watches the sockets */
	bool fresh;   /* another client than at the last wait, or none any more */
	bool quit;

	/* vCPU thread only */
	u8 in[4096];
	size_t in_len;
};

static void wake(struct gdb_server *s)
{
	u64 one = 1;

	if (write(s->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is awake */
}

/* With the lock held. */
static void drop_client(struct gdb_server *s)
{
	if (s->client >= 0)
		close(s->client);
	s->client = -1;
	s->fresh = true;
}

static void accept_client(struct gdb_server *s)
{
	int one = 1, fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* fails on unix sockets, as it may */
	s->client = fd;
	s->fresh = true;
}

/* The guest runs and a socket is ready. True if the machine must stop. */
static bool attend(struct gdb_server *s)
{
	u8 byte;
	ssize_t n;

	if (s->client < 0) {
		accept_client(s);
		return s->client >= 0;
	}
	n = recv(s->client, &byte, 1, 0);
	if (n == 1)
		return byte == 0x03; /* acknowledgements of the last reply, else */
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	drop_client(s);
	return true; /* its breakpoints must go */
}

static void *watch(void *opaque)
{
	struct gdb_server *s = opaque;

	for (;;) {
		struct pollfd p[2] = { { .fd = s->wake_fd, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
		bool stop = false;
		u64 count;

		pthread_mutex_lock(&s->lock);
		if (s->quit) {
			pthread_mutex_unlock(&s->lock);
			return NULL;
		}
		if (s->running)
			p[1].fd = s->client >= 0 ? s->client : s->listen_fd;
		pthread_mutex_unlock(&s->lock);

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[0].revents && read(s->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
			return NULL;
		if (!p[1].revents)
			continue;
		pthread_mutex_lock(&s->lock);
		if (s->running && p[1].fd == (s->client >= 0 ? s->client : s->listen_fd) && attend(s)) {
			s->running = false;
			stop = true;
		}
		pthread_mutex_unlock(&s->lock);
		if (stop)
			s->t->ops->interrupt(s->t->opaque);
	}
}

struct gdb_server *gdb_server_create(const struct gdb_target *t, int listen_fd, const char *where, struct error *e)
{
	struct gdb_server *s = calloc(1, sizeof(*s));

	if (!s)
		goto nomem;
	s->t = t;
	s->listen_fd = listen_fd;
	s->client = -1;
	pthread_mutex_init(&s->lock, NULL);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->stub = gdb_stub_create(t);
	if (strncmp(where, "unix:", 5) == 0)
		s->path = strdup(where + 5);
	if (!s->stub || s->wake_fd < 0)
		goto fail;
	if (pthread_create(&s->thread, NULL, watch, s) == 0)
		return s;
fail:
	gdb_stub_destroy(s->stub);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	free(s->path);
	free(s);
nomem:
	close(listen_fd);
	error_set(e, "gdb: out of memory, threads or descriptors");
	return NULL;
}

void gdb_server_destroy(struct gdb_server *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_mutex_unlock(&s->lock);
	wake(s);
	pthread_join(s->thread, NULL);
	if (s->client >= 0)
		close(s->client);
	close(s->listen_fd);
	close(s->wake_fd);
	if (s->path)
		unlink(s->path);
	free(s->path);
	gdb_stub_destroy(s->stub);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Wait for `events` on fd: 1 ready, 0 the machine is to end. */
static int wait_fd(struct gdb_server *s, int fd, short events)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };

		if (s->t->ops->stopping(s->t->opaque))
			return 0;
		if (poll(&p, 1, SLICE_MS) > 0)
			return 1;
	}
}

/* Sends what the stub has to say. False: the client is gone, or the machine ends. */
static bool flush(struct gdb_server *s)
{
	struct gdb_out *o = gdb_stub_out(s->stub);
	size_t at = 0;

	while (at < o->len) {
		ssize_t n = send(s->client, o->data + at, o->len - at, MSG_NOSIGNAL);

		if (n > 0) {
			at += (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			if (!wait_fd(s, s->client, POLLOUT))
				return false;
		} else if (!(n < 0 && errno == EINTR)) {
			return false;
		}
	}
	o->len = 0;
	return true;
}

/* More bytes to `in`. False: the client is gone, or the machine ends. */
static bool receive(struct gdb_server *s)
{
	for (;;) {
		ssize_t n = recv(s->client, s->in, sizeof(s->in), 0);

		if (n > 0) {
			s->in_len = (size_t)n;
			return true;
		}
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			return false;
		if (!wait_fd(s, s->client, POLLIN))
			return false;
	}
}

/* Let the guest run: the sockets are the thread's. A Ctrl-C that came along
 * with the packet that said so must not be lost. */
static enum debug_go let_run(struct gdb_server *s, enum debug_go how)
{
	const u8 *ctrl_c = s->in_len ? memchr(s->in, 0x03, s->in_len) : NULL;

	if (ctrl_c) {
		size_t used = (size_t)(ctrl_c - s->in) + 1;

		s->in_len -= used;
		memmove(s->in, s->in + used, s->in_len);
	}
	pthread_mutex_lock(&s->lock);
	s->running = true;
	pthread_mutex_unlock(&s->lock);
	wake(s);
	if (ctrl_c)
		s->t->ops->interrupt(s->t->opaque);
	return how;
}

static void lose_client(struct gdb_server *s)
{
	pthread_mutex_lock(&s->lock);
	drop_client(s);
	s->fresh = false;
	pthread_mutex_unlock(&s->lock);
	s->in_len = 0;
	gdb_stub_reset(s->stub);
}

/* Packets until one makes the machine run. */
static enum debug_go converse(struct gdb_server *s)
{
	for (;;) {
		enum gdb_action action;
		size_t used;

		if (!flush(s) || (s->in_len == 0 && !receive(s))) {
			lose_client(s);
			return let_run(s, DEBUG_CONTINUE);
		}
		action = gdb_stub_input(s->stub, s->in, s->in_len, &used);
		s->in_len -= used;
		memmove(s->in, s->in + used, s->in_len);
		switch (action) {
		case GDB_WAIT:
			break;
		case GDB_CONTINUE:
		case GDB_STEP:
			if (flush(s))
				return let_run(s, action == GDB_STEP ? DEBUG_STEP : DEBUG_CONTINUE);
			break; /* noticed above */
		case GDB_DETACH:
			/* not DEBUG_DETACH: another client may come */
			flush(s);
			lose_client(s);
			return let_run(s, DEBUG_CONTINUE);
		case GDB_KILL:
			flush(s);
			lose_client(s);
			return DEBUG_KILL;
		}
	}
}

enum debug_go gdb_server_wait(struct gdb_server *s, enum debug_stop why)
{
	bool fresh;

	pthread_mutex_lock(&s->lock);
	s->running = false;
	fresh = s->fresh;
	s->fresh = false;
	pthread_mutex_unlock(&s->lock);
	if (fresh) {
		s->in_len = 0;
		gdb_stub_reset(s->stub);
	}
	gdb_stub_stopped(s->stub, why);

	if (s->client < 0 && why == DEBUG_STOP_START) {
		if (wait_fd(s, s->listen_fd, POLLIN)) {
			pthread_mutex_lock(&s->lock);
			accept_client(s);
			s->fresh = false;
			pthread_mutex_unlock(&s->lock);
		}
	}
	if (s->client < 0)
		return let_run(s, DEBUG_CONTINUE);
	if (why == DEBUG_STOP_END) {
		flush(s);
		return DEBUG_CONTINUE;
	}
	return converse(s);
}
