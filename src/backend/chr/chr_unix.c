/*
 * A character stream on a listening unix socket, one client at a time.
 *
 * A thread of its own accepts clients, reads their input into the replay door
 * and sends what the guest wrote. The guest's side only appends to a bounded
 * buffer; what does not fit, or comes while nobody is connected, is dropped, as
 * on a serial line with nobody listening. A pipe wakes the thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chr/chr.h"
#include "replay/door.h"

#define OUT_SIZE (256 * 1024u)
#define RETRY_MS 10 /* while the door's queue is full */

struct chr_unix {
	struct chr chr;
	struct sockaddr_un addr;
	int listen_fd;
	int wake[2];
	pthread_t thread;
	bool running;
	struct door *door;
	int sink;
	pthread_mutex_t lock; /* of what follows */
	bool stop, connected;
	u8 *out;
	size_t out_len;
	/* the thread's own */
	int client;
	u8 in[4096];
	size_t in_at, in_len; /* read but not yet accepted by the door */
};

static void wake(struct chr_unix *u)
{
	ssize_t r = write(u->wake[1], "", 1);

	(void)r; /* a full pipe wakes as well */
}

static void unix_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_unix *u = (struct chr_unix *)c;

	pthread_mutex_lock(&u->lock);
	n = u->connected ? MIN(n, OUT_SIZE - u->out_len) : 0;
	memcpy(u->out + u->out_len, bytes, n);
	u->out_len += n;
	pthread_mutex_unlock(&u->lock);
	if (n)
		wake(u);
}

static void set_connected(struct chr_unix *u, bool connected)
{
	pthread_mutex_lock(&u->lock);
	u->connected = connected;
	u->out_len = 0;
	pthread_mutex_unlock(&u->lock);
}

static void hang_up(struct chr_unix *u)
{
	set_connected(u, false);
	close(u->client);
	u->client = -1;
	u->in_len = u->in_at = 0;
}

static void accept_client(struct chr_unix *u)
{
	u->client = accept4(u->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (u->client >= 0)
		set_connected(u, true);
}

/* Send under the lock: the socket does not block, and memory is not copied twice. */
static void send_output(struct chr_unix *u)
{
	ssize_t n;

	pthread_mutex_lock(&u->lock);
	n = u->out_len ? send(u->client, u->out, u->out_len, MSG_NOSIGNAL) : 0;
	if (n > 0) {
		memmove(u->out, u->out + n, u->out_len - n);
		u->out_len -= n;
	}
	pthread_mutex_unlock(&u->lock);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		hang_up(u);
}

static void read_input(struct chr_unix *u)
{
	ssize_t n = recv(u->client, u->in, sizeof(u->in), 0);

	if (n > 0) {
		u->in_at = 0;
		u->in_len = n;
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		hang_up(u);
	}
}

static void post_input(struct chr_unix *u)
{
	size_t n = door_post(u->door, u->sink, u->in + u->in_at, u->in_len);

	u->in_at += n;
	u->in_len -= n;
}

static bool wait_events(struct chr_unix *u, struct pollfd p[2])
{
	bool stop, output;

	pthread_mutex_lock(&u->lock);
	stop = u->stop;
	output = u->out_len != 0;
	pthread_mutex_unlock(&u->lock);
	p[0] = (struct pollfd){ .fd = u->wake[0], .events = POLLIN };
	p[1] = (struct pollfd){ .fd = u->client >= 0 ? u->client : u->listen_fd, .events = u->in_len ? 0 : POLLIN };
	if (output && u->client >= 0)
		p[1].events |= POLLOUT;
	if (!p[1].events) /* input waits for the door: a hang-up would end every poll at once */
		p[1].fd = -1;
	if (!stop && poll(p, 2, u->in_len ? RETRY_MS : -1) < 0)
		p[0].revents = p[1].revents = 0;
	return !stop;
}

static void *unix_thread(void *opaque)
{
	struct chr_unix *u = opaque;
	struct pollfd p[2];
	char drain[64];

	while (wait_events(u, p)) {
		if (p[0].revents && read(u->wake[0], drain, sizeof(drain)) < 0 && errno != EAGAIN && errno != EINTR)
			break;
		if (u->client < 0) {
			if (p[1].revents)
				accept_client(u);
			continue;
		}
		if (p[1].revents & POLLOUT)
			send_output(u);
		if (u->client >= 0 && !u->in_len && (p[1].revents & (POLLIN | POLLHUP | POLLERR)))
			read_input(u);
		if (u->client >= 0 && u->in_len)
			post_input(u);
	}
	/* last words: what fits without waiting */
	if (u->client >= 0)
		send_output(u);
	return NULL;
}

static void unix_start(struct chr *c, struct door *door, int sink)
{
	struct chr_unix *u = (struct chr_unix *)c;

	if (u->running)
		return;
	u->door = door;
	u->sink = sink;
	u->stop = false;
	u->running = pthread_create(&u->thread, NULL, unix_thread, u) == 0;
}

static void unix_stop(struct chr *c)
{
	struct chr_unix *u = (struct chr_unix *)c;

	if (!u->running)
		return;
	pthread_mutex_lock(&u->lock);
	u->stop = true;
	pthread_mutex_unlock(&u->lock);
	wake(u);
	pthread_join(u->thread, NULL);
	u->running = false;
	if (u->client >= 0)
		hang_up(u);
}

static void unix_destroy(struct chr *c)
{
	struct chr_unix *u = (struct chr_unix *)c;

	unix_stop(c);
	if (u->listen_fd >= 0) {
		close(u->listen_fd);
		unlink(u->addr.sun_path);
	}
	if (u->wake[0] >= 0)
		close(u->wake[0]);
	if (u->wake[1] >= 0)
		close(u->wake[1]);
	pthread_mutex_destroy(&u->lock);
	free(u->out);
	free(u);
}

static const struct chr_ops ops = {
	.name = "unix",
	.write = unix_write,
	.start = unix_start,
	.stop = unix_stop,
	.destroy = unix_destroy,
};

/* A socket file that nobody listens on any more is left over from an earlier run. */
static void remove_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd;

	if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED)
		unlink(addr->sun_path);
	close(fd);
}

static int open_socket(struct chr_unix *u, const char *path, struct error *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_errno(e, errno, "serial socket %s", path);
	remove_stale(&u->addr);
	if (bind(fd, (struct sockaddr *)&u->addr, sizeof(u->addr)) < 0 || listen(fd, 1) < 0) {
		error_errno(e, errno, "serial socket %s: cannot listen", path);
		close(fd);
		return -1;
	}
	u->listen_fd = fd;
	return 0;
}

struct chr *chr_unix_create(const char *path, struct error *e)
{
	struct chr_unix *u;

	if (strlen(path) >= sizeof(u->addr.sun_path)) {
		error_set(e, "serial socket %s: the path is too long (at most %zu bytes)", path,
			  sizeof(u->addr.sun_path) - 1);
		return NULL;
	}
	u = calloc(1, sizeof(*u));
	if (!u) {
		error_set(e, "serial socket %s: out of memory", path);
		return NULL;
	}
	u->chr.ops = &ops;
	u->listen_fd = u->client = u->wake[0] = u->wake[1] = -1;
	u->addr.sun_family = AF_UNIX;
	strcpy(u->addr.sun_path, path);
	pthread_mutex_init(&u->lock, NULL);
	u->out = malloc(OUT_SIZE);
	if (!u->out) {
		error_set(e, "serial socket %s: out of memory", path);
		goto fail;
	}
	if (pipe2(u->wake, O_CLOEXEC | O_NONBLOCK) < 0) {
		error_errno(e, errno, "serial socket %s", path);
		goto fail;
	}
	if (open_socket(u, path, e) < 0)
		goto fail;
	return &u->chr;
fail:
	unix_destroy(&u->chr);
	return NULL;
}
