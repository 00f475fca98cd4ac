/* See chr_stream.h. */
#include "backend/chr/chr_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "replay/door.h"

/* How long to wait while the door's queue is full: from a bulk transfer's short moment to what costs an idle guest
 * nothing. */
#define RETRY_MIN_MS 1
#define RETRY_MAX_MS 64
#define DRAIN_MS 1000
#define DRAIN_STEP_MS 50

static void wake(struct chr_stream *s)
{
	ssize_t r = write(s->wake[1], "", 1);

	(void)r; /* a full pipe wakes as well */
}

static void tell(struct chr_stream *s)
{
	if (s->chr.changed)
		s->chr.changed(s->chr.opaque);
}

/* ---- the guest's side ---- */

static size_t append(struct chr_stream *s, const u8 *bytes, size_t n)
{
	size_t room = MIN(n, CHR_STREAM_OUT - s->out_len), at = (s->out_at + s->out_len) % CHR_STREAM_OUT;
	size_t first = MIN(room, CHR_STREAM_OUT - at);

	memcpy(s->out + at, bytes, first);
	memcpy(s->out, bytes + first, room - first);
	s->out_len += room;
	return room;
}

static size_t stream_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct chr_stream *s = (struct chr_stream *)c;
	size_t taken = n;
	bool was_empty;

	pthread_mutex_lock(&s->lock);
	was_empty = !s->out_len;
	if (s->connected) {
		taken = append(s, bytes, n);
		s->refused |= taken < n;
	}
	was_empty &= s->out_len != 0;
	pthread_mutex_unlock(&s->lock);
	if (was_empty)
		wake(s);
	return taken;
}

static void stream_write(struct chr *c, const u8 *bytes, size_t n)
{
	stream_send(c, bytes, n);
}

static void stream_state(struct chr *c, struct chr_state *st)
{
	struct chr_stream *s = (struct chr_stream *)c;

	pthread_mutex_lock(&s->lock);
	*st = (struct chr_state){ .connected = s->connected, .ended = s->held };
	pthread_mutex_unlock(&s->lock);
}

static void stream_gone(struct chr *c)
{
	struct chr_stream *s = (struct chr_stream *)c;

	pthread_mutex_lock(&s->lock);
	s->held = false;
	pthread_mutex_unlock(&s->lock);
	wake(s);
}

/* ---- the thread ---- */

static void set_connected(struct chr_stream *s, bool connected)
{
	pthread_mutex_lock(&s->lock);
	s->connected = connected;
	s->held = !connected && s->chr.changed;
	s->refused = false;
	s->out_len = 0;
	pthread_mutex_unlock(&s->lock);
	tell(s);
}

static void hang_up(struct chr_stream *s)
{
	s->kind->hang_up(s, s->client);
	s->client = -1;
	s->in_len = 0;
	set_connected(s, false);
}

static void let_in(struct chr_stream *s)
{
	s->client = s->kind->accept(s);
	if (s->client >= 0)
		set_connected(s, true);
}

/* Under the lock: the descriptor does not block. */
static void send_output(struct chr_stream *s)
{
	ssize_t n = 0;
	bool room = false;
	int err;

	pthread_mutex_lock(&s->lock);
	if (s->out_len)
		n = s->kind->send(s->client, s->out + s->out_at, MIN(s->out_len, CHR_STREAM_OUT - s->out_at));
	err = errno;
	if (n > 0) {
		s->out_at = (s->out_at + (size_t)n) % CHR_STREAM_OUT;
		s->out_len -= (size_t)n;
		room = s->refused && s->out_len <= CHR_STREAM_OUT / 2;
		s->refused &= !room;
	}
	pthread_mutex_unlock(&s->lock);
	if (room)
		tell(s);
	if (n < 0 && err != EAGAIN && err != EINTR)
		hang_up(s);
}

static void read_input(struct chr_stream *s)
{
	ssize_t n = read(s->client, s->in, sizeof(s->in));

	if (n > 0) {
		s->in_at = 0;
		s->in_len = (size_t)n;
		s->retry_ms = RETRY_MIN_MS;
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		hang_up(s);
	}
}

static void post_input(struct chr_stream *s)
{
	size_t n = door_post(s->door, s->sink, s->in + s->in_at, s->in_len);

	s->in_at += n;
	s->in_len -= n;
	s->retry_ms = n ? RETRY_MIN_MS : MIN(s->retry_ms * 2, RETRY_MAX_MS);
}

static bool wait_events(struct chr_stream *s, struct pollfd p[2])
{
	bool stop, output, held;

	pthread_mutex_lock(&s->lock);
	stop = s->stop;
	output = s->out_len != 0;
	held = s->held;
	pthread_mutex_unlock(&s->lock);
	p[0] = (struct pollfd){ .fd = s->wake[0], .events = POLLIN };
	p[1] = (struct pollfd){ .fd = s->client >= 0 ? s->client : s->wait_fd, .events = s->in_len ? 0 : POLLIN };
	if (output && s->client >= 0)
		p[1].events |= POLLOUT;
	/* input waits for the door: a hang-up would end every poll at once */
	if (!p[1].events || (s->client < 0 && held))
		p[1].fd = -1;
	if (!stop && poll(p, 2, s->in_len ? (int)s->retry_ms : -1) < 0)
		p[0].revents = p[1].revents = 0;
	return !stop;
}

/* At the end the client has a little time to take what is left. */
static void send_last_words(struct chr_stream *s)
{
	struct pollfd p = { .fd = s->client, .events = POLLOUT };

	for (unsigned waited = 0; s->client >= 0 && s->out_len && waited < DRAIN_MS;) {
		if (poll(&p, 1, DRAIN_STEP_MS) <= 0 || !(p.revents & POLLOUT))
			waited += DRAIN_STEP_MS;
		else
			send_output(s);
	}
}

static void *stream_thread(void *opaque)
{
	struct chr_stream *s = opaque;
	struct pollfd p[2];
	char drain[64];

	while (wait_events(s, p)) {
		if (p[0].revents && read(s->wake[0], drain, sizeof(drain)) < 0 && errno != EAGAIN && errno != EINTR)
			break;
		if (s->client < 0) {
			if (p[1].revents)
				let_in(s);
			continue;
		}
		if (p[1].revents & POLLOUT)
			send_output(s);
		if (s->client >= 0 && !s->in_len && (p[1].revents & (POLLIN | POLLHUP | POLLERR)))
			read_input(s);
		if (s->client >= 0 && s->in_len)
			post_input(s);
	}
	send_last_words(s);
	return NULL;
}

/* ---- life ---- */

static void stream_start(struct chr *c, struct door *door, int sink)
{
	struct chr_stream *s = (struct chr_stream *)c;

	if (s->running)
		return;
	s->door = door;
	s->sink = sink;
	s->stop = false;
	s->running = thread_start(&s->thread, stream_thread, s) == 0;
	if (!s->running)
		log_error("chr", "cannot start the thread of %s stream; nobody can connect", s->kind->name);
}

static void stream_stop(struct chr *c)
{
	struct chr_stream *s = (struct chr_stream *)c;

	if (!s->running)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_mutex_unlock(&s->lock);
	wake(s);
	pthread_join(s->thread, NULL);
	s->running = false;
	if (s->client >= 0)
		hang_up(s);
	s->held = false;
}

static void stream_destroy(struct chr *c)
{
	struct chr_stream *s = (struct chr_stream *)c;

	stream_stop(c);
	s->kind->destroy(s);
	for (unsigned i = 0; i < 2; i++)
		if (s->wake[i] >= 0)
			close(s->wake[i]);
	pthread_mutex_destroy(&s->lock);
	free(s->out);
	free(s);
}

static const struct chr_ops stream_ops = {
	.name = "stream",
	.write = stream_write,
	.start = stream_start,
	.stop = stream_stop,
	.destroy = stream_destroy,
	.send = stream_send,
	.state = stream_state,
	.gone = stream_gone,
};

int chr_stream_init(struct chr_stream *s, const struct chr_stream_kind *kind, struct error *e)
{
	s->chr.ops = &stream_ops;
	s->kind = kind;
	s->wait_fd = s->client = s->wake[0] = s->wake[1] = -1;
	pthread_mutex_init(&s->lock, NULL);
	s->out = malloc(CHR_STREAM_OUT);
	if (!s->out)
		return error_set(e, "%s stream: not enough host memory", kind->name);
	if (pipe2(s->wake, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_errno(e, errno, "%s stream: cannot make a pipe", kind->name);
	return 0;
}
