/*
 * Streams of unix sockets (vsock.h).
 *
 * A thread waits in epoll for all of them, edge-triggered, and notes for each
 * stream what happened; it reads nothing but the line "CONNECT PORT" of new
 * clients. Bytes are moved on the vCPU thread, straight between sockets and
 * guest memory, so that nothing is buffered here.
 *
 * The lock guards the table of streams and the list of news. Streams that were
 * handed out are closed on the vCPU thread only; the thread here knows them by
 * number and generation, so that an event of a closed stream meets no other.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/listen.h"
#include "backend/vsock/dialler.h"
#include "backend/vsock/vsock.h"
#include "base/log.h"
#include "base/thread.h"

#define BACKLOG 128
#define EVENTS 64
/* Clients that have not said what they want. One more, and the first of them has to go. */
#define GREETINGS_MAX 64
#define LINE_MAX_LEN 20 /* "CONNECT 4294967295\n" */
#define PORT_SUFFIX_LEN 11

/* What epoll's data says besides streams: number and generation. */
#define ID_WAKE (~0ull)
#define ID_LISTENER (~0ull - 1)
#define ID_DIALLER (~0ull - 2)

enum stage { STAGE_FREE, STAGE_GREETING, STAGE_OPEN };

enum news {
	NEWS_INCOMING = 1 << 0,
	NEWS_DIALLED = 1 << 1,
	NEWS_READABLE = 1 << 2,
	NEWS_WRITABLE = 1 << 3,
	NEWS_GONE = 1 << 4,
};

struct stream {
	struct vsock_stream base;
	int fd;
	enum stage stage;
	u32 generation, id, port;
	u64 since; /* greeting: order of arrival */
	unsigned news;
	bool listed;
	struct stream *next; /* in the list of news */
};

struct host {
	struct vsock vsock;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int listener, epoll, wake_fd;
	struct dialler dialler;
	void (*wake)(void *);
	void *opaque;
	pthread_t thread;
	bool running;
	atomic_bool stop;

	pthread_mutex_t lock; /* of what follows */
	struct stream streams[VSOCK_STREAMS_MAX];
	struct stream *first, **last; /* with news */
	u64 arrivals;
	unsigned greetings;
	bool deaf; /* no descriptors for more clients: the listener is not polled until a stream is closed */
	/* dials without an answer, in order, and those that failed and are to be reported */
	u32 asked[VSOCK_DIALS_MAX], failed[VSOCK_DIALS_MAX];
	unsigned asked_n, failed_n;
	bool dialler_gone;
};

static struct host *of(struct vsock *v)
{
	return container_of(v, struct host, vsock);
}
static struct stream *stream_of(struct vsock_stream *s)
{
	return container_of(s, struct stream, base);
}

static void poke(struct host *h)
{
	u64 one = 1;
	ssize_t r = write(h->wake_fd, &one, sizeof(one));

	(void)r; /* a full counter wakes as well */
}

static int watch(struct host *h, int op, int fd, u32 events, u64 id)
{
	struct epoll_event e = { .events = events, .data.u64 = id };

	return epoll_ctl(h->epoll, op, fd, &e);
}

/* ---- streams, under the lock ---- */

static void add_news(struct host *h, struct stream *s, unsigned news)
{
	s->news |= news;
	if (s->listed)
		return;
	s->listed = true;
	s->next = NULL;
	*h->last = s;
	h->last = &s->next;
}

/* Takes `fd` over, if there is a place; the caller keeps it otherwise. */
static struct stream *add_stream(struct host *h, int fd, enum stage stage)
{
	for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
		struct stream *s = &h->streams[i];

		if (s->stage != STAGE_FREE)
			continue;
		if (watch(h, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
			  i | (u64)s->generation << 32))
			return NULL;
		s->fd = fd;
		s->stage = stage;
		s->news = 0;
		s->base.opaque = NULL;
		return s;
	}
	return NULL;
}

/* It stays in the list of news, with none. */
static void drop(struct host *h, struct stream *s)
{
	if (s->stage == STAGE_GREETING)
		h->greetings--;
	close(s->fd);
	s->stage = STAGE_FREE;
	s->generation++;
	s->news = 0;
	if (h->deaf) {
		h->deaf = false;
		watch(h, EPOLL_CTL_ADD, h->listener, EPOLLIN, ID_LISTENER);
	}
}

/* ---- clients ---- */

/* "CONNECT PORT\n", of which `n` bytes are there: bytes of the line, 0 if it is not whole yet, -1 if it is wrong. */
static int parse_greeting(const char *line, size_t n, u32 *port)
{
	static const char word[] = "CONNECT ";
	const size_t head = sizeof(word) - 1;
	const char *end = memchr(line, '\n', n);
	u64 value = 0;

	if (memcmp(line, word, MIN(n, head)))
		return -1;
	if (!end)
		return n < LINE_MAX_LEN ? 0 : -1;
	if (end == line + head)
		return -1;
	for (const char *p = line + head; p < end; p++) {
		if (*p < '0' || *p > '9')
			return -1;
		value = value * 10 + (u64)(*p - '0');
	}
	if (value > UINT32_MAX)
		return -1;
	*port = (u32)value;
	return (int)(end - line) + 1;
}

/* The line is only looked at until it is whole: what follows is the guest's. */
static void greet(struct host *h, struct stream *s)
{
	char line[LINE_MAX_LEN];
	ssize_t n = recv(s->fd, line, sizeof(line), MSG_PEEK | MSG_DONTWAIT);
	int len;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	len = n > 0 ? parse_greeting(line, (size_t)n, &s->port) : -1;
	if (len > 0 && recv(s->fd, line, (size_t)len, MSG_DONTWAIT) == len) {
		h->greetings--;
		s->stage = STAGE_OPEN;
		add_news(h, s, NEWS_INCOMING);
	} else if (len) {
		drop(h, s);
	}
}

static void drop_first_greeting(struct host *h)
{
	struct stream *first = NULL;

	for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
		struct stream *s = &h->streams[i];

		if (s->stage == STAGE_GREETING && (!first || s->since < first->since))
			first = s;
	}
	if (first)
		drop(h, first);
}

static void let_in(struct host *h)
{
	struct stream *s;
	int fd;

	while ((fd = accept4(h->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		if (h->greetings == GREETINGS_MAX)
			drop_first_greeting(h);
		s = add_stream(h, fd, STAGE_GREETING);
		if (!s) {
			close(fd);
			continue;
		}
		s->since = h->arrivals++;
		h->greetings++;
		greet(h, s);
	}
	if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		log_warn("vsock", "%s: a client cannot be let in: %s", h->path, strerror(errno));
		watch(h, EPOLL_CTL_DEL, h->listener, 0, 0);
		h->deaf = true;
	}
}

/* ---- dials ---- */

/* False: nobody waits for it, as after a stop. */
static bool forget_asked(struct host *h, u32 id)
{
	for (unsigned i = 0; i < h->asked_n; i++) {
		if (h->asked[i] != id)
			continue;
		memmove(&h->asked[i], &h->asked[i + 1], (h->asked_n - i - 1) * sizeof(h->asked[0]));
		h->asked_n--;
		return true;
	}
	return false;
}

static void take_answers(struct host *h)
{
	struct stream *s;
	int fd, r;
	u32 id;

	while ((r = dialler_answer(&h->dialler, &id, &fd)) > 0) {
		bool wanted = forget_asked(h, id);

		s = wanted && fd >= 0 ? add_stream(h, fd, STAGE_OPEN) : NULL;
		if (s) {
			s->id = id;
			add_news(h, s, NEWS_DIALLED);
			continue;
		}
		if (fd >= 0)
			close(fd);
		if (wanted)
			h->failed[h->failed_n++] = id;
	}
	if (r == 0 || h->dialler_gone)
		return;
	log_warn("vsock", "%s: its process is gone: the guest can connect to nobody", h->path);
	h->dialler_gone = true;
	watch(h, EPOLL_CTL_DEL, h->dialler.process.fd, 0, 0);
	while (h->asked_n)
		h->failed[h->failed_n++] = h->asked[--h->asked_n];
}

/* ---- the thread ---- */

static void stream_event(struct host *h, u64 id, u32 events)
{
	struct stream *s = &h->streams[(u32)id % VSOCK_STREAMS_MAX];
	unsigned news = 0;

	if (s->generation != id >> 32)
		return;
	if (s->stage == STAGE_GREETING)
		greet(h, s);
	/* with its greeting a client may have sent all it had to say and gone: that is told only once */
	if (s->stage != STAGE_OPEN)
		return;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		news |= NEWS_READABLE;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		news |= NEWS_WRITABLE;
	if (events & (EPOLLHUP | EPOLLERR))
		news |= NEWS_GONE;
	add_news(h, s, news);
}

static void handle(struct host *h, const struct epoll_event *e)
{
	u64 n;
	ssize_t r;

	switch (e->data.u64) {
	case ID_WAKE:
		r = read(h->wake_fd, &n, sizeof(n));
		(void)r;
		break;
	case ID_LISTENER:
		let_in(h);
		break;
	case ID_DIALLER:
		take_answers(h);
		break;
	default:
		stream_event(h, e->data.u64, e->events);
	}
}

static void *host_thread(void *opaque)
{
	struct host *h = opaque;
	struct epoll_event e[EVENTS];

	while (!atomic_load(&h->stop)) {
		int n = epoll_wait(h->epoll, e, EVENTS, -1);
		bool news;

		pthread_mutex_lock(&h->lock);
		for (int i = 0; i < n; i++)
			handle(h, &e[i]);
		news = h->first || h->failed_n;
		pthread_mutex_unlock(&h->lock);
		if (news)
			h->wake(h->opaque);
	}
	return NULL;
}

/* ---- the backend ---- */

static int unix_start(struct vsock *v, void (*wake)(void *), void *opaque, struct error *e)
{
	struct host *h = of(v);
	int err;

	h->wake = wake;
	h->opaque = opaque;
	atomic_store(&h->stop, false);
	err = thread_start(&h->thread, host_thread, h);
	if (err)
		return error_errno(e, err, "vsock %s: cannot start its thread", h->path);
	h->running = true;
	return 0;
}

static void unix_stop(struct vsock *v)
{
	struct host *h = of(v);

	if (!h->running)
		return;
	atomic_store(&h->stop, true);
	poke(h);
	pthread_join(h->thread, NULL);
	h->running = false;
	for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
		if (h->streams[i].stage != STAGE_FREE)
			drop(h, &h->streams[i]);
		h->streams[i].listed = false;
	}
	h->first = NULL;
	h->last = &h->first;
	h->asked_n = h->failed_n = 0;
}

static bool take_news(struct host *h, struct vsock_event *ev)
{
	struct stream *s;
	unsigned news;

	while ((s = h->first)) {
		h->first = s->next;
		if (!h->first)
			h->last = &h->first;
		s->listed = false;
		news = s->news;
		s->news = 0;
		if (!news)
			continue;
		*ev = (struct vsock_event){ .stream = &s->base, .port = s->port, .id = s->id };
		ev->kind = news & NEWS_INCOMING ? VSOCK_INCOMING : news & NEWS_DIALLED ? VSOCK_DIALLED : VSOCK_READY;
		ev->readable = news & NEWS_READABLE;
		ev->writable = news & NEWS_WRITABLE;
		ev->gone = news & NEWS_GONE;
		if (ev->kind != VSOCK_READY && ev->gone)
			add_news(h, s, NEWS_READABLE | NEWS_GONE);
		return true;
	}
	return false;
}

static bool unix_next(struct vsock *v, struct vsock_event *ev)
{
	struct host *h = of(v);
	bool any = true;

	pthread_mutex_lock(&h->lock);
	if (h->failed_n)
		*ev = (struct vsock_event){ .kind = VSOCK_DIALLED, .id = h->failed[--h->failed_n] };
	else
		any = take_news(h, ev);
	pthread_mutex_unlock(&h->lock);
	return any;
}

static bool unix_dial(struct vsock *v, u32 port, u32 id)
{
	struct host *h = of(v);
	bool asked = false;

	pthread_mutex_lock(&h->lock);
	if (!h->dialler_gone && h->asked_n + h->failed_n < VSOCK_DIALS_MAX) {
		asked = dialler_ask(&h->dialler, port, id);
		if (asked)
			h->asked[h->asked_n++] = id;
	}
	pthread_mutex_unlock(&h->lock);
	return asked;
}

static ssize_t result(ssize_t n)
{
	return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

static ssize_t unix_recv(struct vsock_stream *s, const struct iovec *iov, unsigned iov_n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = iov_n };

	return result(recvmsg(stream_of(s)->fd, &m, MSG_DONTWAIT));
}

static ssize_t unix_send(struct vsock_stream *s, const struct iovec *iov, unsigned iov_n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = iov_n };

	return result(sendmsg(stream_of(s)->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static void unix_shutdown(struct vsock_stream *s, bool sends, bool receives)
{
	if (sends || receives)
		shutdown(stream_of(s)->fd, sends && receives ? SHUT_RDWR : sends ? SHUT_WR : SHUT_RD);
}

static void unix_close(struct vsock *v, struct vsock_stream *s)
{
	struct host *h = of(v);

	pthread_mutex_lock(&h->lock);
	drop(h, stream_of(s));
	pthread_mutex_unlock(&h->lock);
}

static void free_host(struct host *h)
{
	if (h->listener >= 0) {
		close(h->listener);
		unlink(h->path);
	}
	if (h->epoll >= 0)
		close(h->epoll);
	if (h->wake_fd >= 0)
		close(h->wake_fd);
	if (h->dialler.process.pid)
		dialler_stop(&h->dialler);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static void unix_destroy(struct vsock *v)
{
	unix_stop(v);
	free_host(of(v));
}

static const struct vsock_ops unix_ops = {
	.name = "unix",
	.start = unix_start,
	.stop = unix_stop,
	.next = unix_next,
	.dial = unix_dial,
	.recv = unix_recv,
	.send = unix_send,
	.shutdown = unix_shutdown,
	.close = unix_close,
	.destroy = unix_destroy,
};

static int open_host(struct host *h, const char *path, struct error *e)
{
	if (dialler_start(&h->dialler, path, e))
		return -1;
	h->epoll = epoll_create1(EPOLL_CLOEXEC);
	h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (h->epoll < 0 || h->wake_fd < 0)
		return error_errno(e, errno, "vsock %s: not enough descriptors", path);
	h->listener = listen_unix("vsock socket", path, BACKLOG, e);
	if (h->listener < 0)
		return -1;
	if (watch(h, EPOLL_CTL_ADD, h->wake_fd, EPOLLIN, ID_WAKE) ||
	    watch(h, EPOLL_CTL_ADD, h->listener, EPOLLIN, ID_LISTENER) ||
	    watch(h, EPOLL_CTL_ADD, h->dialler.process.fd, EPOLLIN, ID_DIALLER))
		return error_errno(e, errno, "vsock %s: cannot watch its sockets", path);
	return 0;
}

struct vsock *vsock_unix_create(const char *path, struct error *e)
{
	struct host *h;

	if (strlen(path) + PORT_SUFFIX_LEN >= sizeof(h->path)) {
		error_set(e, "vsock socket %s: the path is too long (at most %zu bytes)", path,
			  sizeof(h->path) - PORT_SUFFIX_LEN - 1);
		return NULL;
	}
	h = calloc(1, sizeof(*h));
	if (!h) {
		error_set(e, "vsock socket %s: not enough host memory", path);
		return NULL;
	}
	h->vsock.ops = &unix_ops;
	h->last = &h->first;
	h->listener = h->epoll = h->wake_fd = -1;
	pthread_mutex_init(&h->lock, NULL);
	strcpy(h->path, path);
	if (!open_host(h, path, e))
		return &h->vsock;
	free_host(h);
	return NULL;
}
