/*
 * The terminal: stdin and stdout.
 *
 * Output: write() appends to a bounded buffer; a thread takes what has come
 * together within a fraction of a millisecond and writes it, so that a guest
 * that sends byte by byte does not pay a system call for each, and neither it
 * nor Ctrl-A x waits for a terminal that is stopped (Ctrl-S) or slow. A full
 * buffer holds the guest back for at most STALL_NS; then bytes are dropped
 * until there is room again.
 *
 * A user that paces itself (send()) is told when half of the buffer is free
 * again, and when the terminal's size changes (SIGWINCH).
 *
 * Input: a second thread reads stdin, looks for Ctrl-A, and posts the rest to
 * the replay door. While the door's queue is full a pipe is not read further;
 * a keyboard is, because Ctrl-A x must work always, and what is typed then is
 * lost as on a real serial line.
 *
 * The terminal is a resource of the process: the settings to be put back are
 * the one static record here, with where SIGWINCH is reported. They are put
 * back by stop(), at exit, and when the process dies of a signal.
 */
#include "backend/chr/chr.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "replay/door.h"

#define OUT_SIZE (64 * KiB)
#define GATHER_NS 300000     /* output waits so long for company */
#define STALL_NS 1000000000l /* a full buffer holds the guest back so long */
#define DRAIN_S 2	     /* at the end */
#define RETRY_MS 5	     /* the door's queue is full */
#define CTRL_A 1

struct chr_stdio {
	struct chr chr;
	struct chr_stdio_actions actions;
	struct door *door;
	int sink, stop_fd, winch_fd;
	bool is_tty, running;
	pthread_t reader, writer;

	/* the reader's own */
	bool escape, eof;
	u8 pending[4096];
	size_t pending_len;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t not_empty, not_full;
	bool ending, quitting, stalled, writer_waits, refused;
	size_t out_len;
	u8 out[OUT_SIZE];
};

/* ---- the terminal ---- */

static struct {
	_Atomic bool raw;
	struct termios saved;
	_Atomic int winch_fd; /* an eventfd, -1: nobody asks */
} terminal = { .winch_fd = -1 };

static void restore_terminal(void)
{
	if (!terminal.raw)
		return;
	terminal.raw = false;
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
	log_set_raw_terminal(false);
}

/* Then dies of it: the default action comes next. */
static void on_fatal_signal(int sig)
{
	restore_terminal();
	signal(sig, SIG_DFL);
	if (sig == SIGQUIT)
		raise(sig);
}

static void on_winch(int sig)
{
	const u64 one = 1;
	int saved = errno;

	if (write(terminal.winch_fd, &one, sizeof(one)) < 0)
		errno = saved; /* an eventfd at its limit: the reader is told as well */
}

static void watch_size(int fd)
{
	struct sigaction sa = { .sa_handler = fd < 0 ? SIG_DFL : on_winch, .sa_flags = SA_RESTART };

	sigemptyset(&sa.sa_mask);
	if (fd >= 0)
		terminal.winch_fd = fd;
	sigaction(SIGWINCH, &sa, NULL);
	if (fd < 0)
		terminal.winch_fd = -1;
}

static void install_restoration(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGQUIT };
	struct sigaction sa = { .sa_handler = on_fatal_signal };

	atexit(restore_terminal);
	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
		sigaction(fatal[i], &sa, NULL);
}

static void raw_terminal(void)
{
	struct termios t;

	if (terminal.raw || tcgetattr(STDIN_FILENO, &terminal.saved))
		return;
	t = terminal.saved;
	cfmakeraw(&t);
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	terminal.raw = true;
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
	log_set_raw_terminal(true);
}

/* ---- output ---- */

static void write_all(const u8 *p, size_t n)
{
	while (n) {
		ssize_t done = write(STDOUT_FILENO, p, n);

		if (done > 0) {
			p += done;
			n -= (size_t)done;
		} else if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			struct pollfd f = { .fd = STDOUT_FILENO, .events = POLLOUT };

			poll(&f, 1, -1);
		} else if (done < 0 && errno != EINTR) {
			return; /* nobody listens any more */
		}
	}
}

static void *writer_main(void *opaque)
{
	const struct timespec gather = { .tv_nsec = GATHER_NS };
	struct chr_stdio *c = opaque;
	u8 *chunk = malloc(OUT_SIZE);

	if (!chunk)
		return NULL;
	pthread_cleanup_push(free, chunk);
	for (;;) {
		pthread_mutex_lock(&c->lock);
		while (!c->out_len && !c->ending) {
			c->writer_waits = true;
			pthread_cond_wait(&c->not_empty, &c->lock);
		}
		c->writer_waits = false;
		bool ending = c->ending;

		pthread_mutex_unlock(&c->lock);
		if (!ending)
			nanosleep(&gather, NULL);
		pthread_mutex_lock(&c->lock);
		size_t n = c->out_len;

		memcpy(chunk, c->out, n);
		c->out_len = 0;
		c->stalled = false;
		bool refused = c->refused;

		c->refused = false;
		pthread_cond_signal(&c->not_full);
		pthread_mutex_unlock(&c->lock);
		write_all(chunk, n);
		if (refused && c->chr.changed)
			c->chr.changed(c->chr.opaque);
		if (ending && !n)
			break;
	}
	pthread_cleanup_pop(1);
	return NULL;
}

/* Waits for room, under the lock; false if there will be none soon. */
static bool wait_for_room(struct chr_stdio *c)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STALL_NS / 1000000000l;
	while (c->out_len == OUT_SIZE && !c->quitting && !c->stalled) {
		if (pthread_cond_timedwait(&c->not_full, &c->lock, &until) == ETIMEDOUT)
			c->stalled = true;
	}
	return c->out_len < OUT_SIZE;
}

static void stdio_write(struct chr *chr, const u8 *bytes, size_t n)
{
	struct chr_stdio *c = container_of(chr, struct chr_stdio, chr);

	pthread_mutex_lock(&c->lock);
	while (n && (c->out_len < OUT_SIZE || wait_for_room(c))) {
		size_t part = MIN(n, OUT_SIZE - c->out_len);

		memcpy(c->out + c->out_len, bytes, part);
		c->out_len += part;
		bytes += part;
		n -= part;
		if (c->writer_waits)
			pthread_cond_signal(&c->not_empty);
	}
	pthread_mutex_unlock(&c->lock);
}

static size_t stdio_send(struct chr *chr, const u8 *bytes, size_t n)
{
	struct chr_stdio *c = container_of(chr, struct chr_stdio, chr);
	size_t room;

	pthread_mutex_lock(&c->lock);
	room = MIN(n, OUT_SIZE - c->out_len);
	memcpy(c->out + c->out_len, bytes, room);
	c->out_len += room;
	c->refused |= room < n;
	if (room && c->writer_waits)
		pthread_cond_signal(&c->not_empty);
	pthread_mutex_unlock(&c->lock);
	return room;
}

static void stdio_state(struct chr *chr, struct chr_state *s)
{
	struct winsize w = { 0 };

	*s = (struct chr_state){ .connected = true };
	if (container_of(chr, struct chr_stdio, chr)->is_tty && !ioctl(STDIN_FILENO, TIOCGWINSZ, &w)) {
		s->cols = w.ws_col;
		s->rows = w.ws_row;
	}
}

/* ---- input ---- */

static void say(struct chr_stdio *c, const char *text)
{
	stdio_write(&c->chr, (const u8 *)text, strlen(text));
}

static void quit(struct chr_stdio *c)
{
	pthread_mutex_lock(&c->lock);
	c->quitting = true;
	pthread_cond_broadcast(&c->not_full);
	pthread_mutex_unlock(&c->lock);
	if (c->actions.quit)
		c->actions.quit(c->actions.opaque);
}

static void keep(struct chr_stdio *c, u8 byte)
{
	if (c->pending_len < sizeof(c->pending))
		c->pending[c->pending_len++] = byte;
}

static void take_byte(struct chr_stdio *c, u8 byte)
{
	if (!c->escape) {
		if (byte == CTRL_A)
			c->escape = true;
		else
			keep(c, byte);
		return;
	}
	c->escape = false;
	switch (byte) {
	case 'x':
	case 'X':
		quit(c);
		break;
	case 'e':
	case 'E':
		if (c->actions.engine) {
			c->actions.engine(c->actions.opaque);
			break;
		}
		keep(c, CTRL_A);
		keep(c, byte);
		break;
	case 'h':
	case 'H':
	case '?':
		say(c, "\r\nCtrl-A x   end the machine\r\n");
		if (c->actions.engine)
			say(c, "Ctrl-A e   go on with the next engine\r\n");
		say(c, "Ctrl-A h   this help\r\n"
		       "Ctrl-A Ctrl-A   send Ctrl-A\r\n");
		break;
	case CTRL_A:
		keep(c, CTRL_A);
		break;
	default: /* neither ours nor lost */
		keep(c, CTRL_A);
		keep(c, byte);
		break;
	}
}

static void post_pending(struct chr_stdio *c)
{
	size_t n = door_post(c->door, c->sink, c->pending, c->pending_len);

	c->pending_len -= n;
	memmove(c->pending, c->pending + n, c->pending_len);
}

static void read_input(struct chr_stdio *c)
{
	u8 buf[sizeof(c->pending) / 2]; /* an unknown escape gives two bytes for one */
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		/* The end of a file is not the end of the machine; that of a
		 * terminal is: nobody could ever end it. */
		c->eof = true;
		if (c->is_tty)
			quit(c);
		return;
	}
	for (ssize_t i = 0; i < n; i++)
		take_byte(c, buf[i]);
}

static void *reader_main(void *opaque)
{
	struct chr_stdio *c = opaque;

	for (;;) {
		bool listen = !c->eof && (c->is_tty || !c->pending_len);
		struct pollfd f[3] = {
			{ .fd = c->stop_fd, .events = POLLIN },
			{ .fd = listen ? STDIN_FILENO : -1, .events = POLLIN },
			{ .fd = c->winch_fd, .events = POLLIN },
		};
		u64 count;

		if (poll(f, 3, c->pending_len ? RETRY_MS : -1) < 0) {
			if (errno != EINTR)
				break;
			continue;
		}
		if (f[0].revents)
			break;
		if (f[1].revents)
			read_input(c);
		if (f[2].revents && read(c->winch_fd, &count, sizeof(count)) > 0 && c->chr.changed)
			c->chr.changed(c->chr.opaque);
		if (c->pending_len)
			post_pending(c);
	}
	return NULL;
}

/* ---- life ---- */

static void stdio_start(struct chr *chr, struct door *door, int sink)
{
	struct chr_stdio *c = container_of(chr, struct chr_stdio, chr);

	c->door = door;
	c->sink = sink;
	c->ending = c->quitting = false;
	if (c->is_tty)
		raw_terminal();
	if (c->is_tty && c->chr.changed)
		watch_size(c->winch_fd);
	if (thread_start(&c->writer, writer_main, c))
		return;
	if (thread_start(&c->reader, reader_main, c)) {
		log_error("stdio", "cannot start the input thread; there is no input");
		c->ending = true;
		return;
	}
	c->running = true;
}

static void stdio_stop(struct chr *chr)
{
	struct chr_stdio *c = container_of(chr, struct chr_stdio, chr);
	u64 one = 1;

	if (c->running) {
		struct timespec until;

		if (write(c->stop_fd, &one, sizeof(one)) == sizeof(one))
			pthread_join(c->reader, NULL);
		if (read(c->stop_fd, &one, sizeof(one)) < 0)
			one = 0; /* nothing to take back */
		pthread_mutex_lock(&c->lock);
		c->ending = true;
		pthread_cond_signal(&c->not_empty);
		pthread_mutex_unlock(&c->lock);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += DRAIN_S;
		/* A terminal that takes nothing must not keep the process. */
		if (pthread_timedjoin_np(c->writer, NULL, &until)) {
			pthread_cancel(c->writer);
			pthread_join(c->writer, NULL);
		}
		c->running = false;
	}
	if (terminal.winch_fd == c->winch_fd)
		watch_size(-1);
	restore_terminal();
}

static void stdio_destroy(struct chr *chr)
{
	struct chr_stdio *c = container_of(chr, struct chr_stdio, chr);

	stdio_stop(chr);
	close(c->stop_fd);
	close(c->winch_fd);
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->not_empty);
	pthread_cond_destroy(&c->not_full);
	free(c);
}

static const struct chr_ops stdio_ops = {
	.name = "stdio",
	.write = stdio_write,
	.start = stdio_start,
	.stop = stdio_stop,
	.destroy = stdio_destroy,
	.send = stdio_send,
	.state = stdio_state,
};

struct chr *chr_stdio_create(const struct chr_stdio_actions *a, struct error *e)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct chr_stdio *c = calloc(1, sizeof(*c));
	pthread_condattr_t monotonic;

	/* before an engine takes some of these signals for itself; it gives back those that are not its own */
	pthread_once(&once, install_restoration);
	if (!c) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	c->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->winch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->stop_fd < 0 || c->winch_fd < 0) {
		error_errno(e, errno, "cannot set up standard input and output");
		if (c->stop_fd >= 0)
			close(c->stop_fd);
		free(c);
		return NULL;
	}
	c->chr.ops = &stdio_ops;
	c->actions = *a;
	c->is_tty = isatty(STDIN_FILENO);
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&c->not_empty, NULL);
	pthread_cond_init(&c->not_full, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return &c->chr;
}
