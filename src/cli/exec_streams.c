/*
 * The streams of `ectype exec`: four named ports of a virtio console for
 * standard input, output, error and for lines about them (guest/exec_init.c has
 * the list), a console port that nothing is shown of, and the serial console,
 * whose last lines are shown if the machine fails.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "backend/chr/chr_pipe.h"
#include "base/log.h"
#include "base/thread.h"
#include "cli/exec_streams.h"
#include "replay/door.h"

#define TAIL 4096
#define GIVE_UP_KEY 0x1d /* Ctrl-] */
#define GIVE_UP_TIMES 3

/* A stream that is not the host's. */
struct inner {
	struct chr chr;
	struct exec_streams *s;
};

struct out {
	struct exec_streams *s;
	struct chr *chr;
	const char *name;
	bool done;
	int error; /* errno: it cannot be written */
};

struct exec_streams {
	void (*over)(void *opaque);
	void *opaque;
	char tty[4];
	struct chr *in;
	struct out out, err;
	struct inner ctl, console, serial;

	pthread_mutex_t lock; /* of what follows */
	struct door *door;
	int sink;
	int status;
	char *unsent; /* lines said before the port had started */
	size_t unsent_len;

	/* the vCPU thread's */
	char line[256];
	size_t line_len;
	char tail[TAIL];
	size_t tail_len;
	/* the input thread's */
	unsigned give_up;

	bool raw;
	struct termios saved;

	/* signal handlers leave word here */
	int news; /* eventfd */
	volatile sig_atomic_t new_size, new_signal, started, signalled;
	pthread_t herald; /* passes it on */
	bool has_herald;
};

/* ---- the control port ---- */

static void say(struct exec_streams *s, const char *fmt, ...) printf_like(2, 3);
static void say(struct exec_streams *s, const char *fmt, ...)
{
	char line[64];
	va_list ap;
	size_t n;

	va_start(ap, fmt);
	n = (size_t)vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&s->lock);
	if (s->door) {
		door_post(s->door, s->sink, line, n);
	} else {
		char *p = realloc(s->unsent, s->unsent_len + n);

		if (p) {
			memcpy(p + s->unsent_len, line, n);
			s->unsent = p;
			s->unsent_len += n;
		}
	}
	pthread_mutex_unlock(&s->lock);
}

static void ctl_start(struct chr *c, struct door *door, int sink)
{
	struct exec_streams *s = container_of(c, struct inner, chr)->s;

	pthread_mutex_lock(&s->lock);
	s->door = door;
	s->sink = sink;
	if (s->unsent_len)
		door_post(door, sink, s->unsent, s->unsent_len);
	s->unsent_len = 0;
	pthread_mutex_unlock(&s->lock);
}

static void ctl_stop(struct chr *c)
{
	struct exec_streams *s = container_of(c, struct inner, chr)->s;

	pthread_mutex_lock(&s->lock);
	s->door = NULL;
	pthread_mutex_unlock(&s->lock);
}

static void look_over(struct exec_streams *s)
{
	bool over;

	pthread_mutex_lock(&s->lock);
	over = s->status >= 0 && s->out.done && s->err.done;
	pthread_mutex_unlock(&s->lock);
	if (over)
		s->over(s->opaque);
}

static void say_size(struct exec_streams *s)
{
	struct winsize w;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row && w.ws_col)
		say(s, "w %u %u\n", w.ws_row, w.ws_col);
}

static void take_line(struct exec_streams *s, const char *line)
{
	unsigned long long n;
	int status;

	if (!strcmp(line, "run")) {
		s->started = 1;
		if (s->tty[0])
			say_size(s);
	} else if (sscanf(line, "closed out %llu", &n) == 1) {
		chr_pipe_out_expect(s->out.chr, n);
	} else if (sscanf(line, "closed err %llu", &n) == 1) {
		chr_pipe_out_expect(s->err.chr, n);
	} else if (sscanf(line, "exit %d", &status) == 1) {
		pthread_mutex_lock(&s->lock);
		s->status = status & 0xff;
		pthread_mutex_unlock(&s->lock);
		look_over(s);
	}
}

static void ctl_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct exec_streams *s = container_of(c, struct inner, chr)->s;

	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != '\n') {
			if (s->line_len + 1 < sizeof(s->line))
				s->line[s->line_len++] = (char)bytes[i];
			continue;
		}
		s->line[s->line_len] = 0;
		s->line_len = 0;
		take_line(s, s->line);
	}
}

static void no_start(struct chr *c, struct door *door, int sink) {}
static void no_stop(struct chr *c) {}
static void no_write(struct chr *c, const u8 *bytes, size_t n) {}

static const struct chr_ops ctl_ops = {
	.name = "exec-ctl", .write = ctl_write, .start = ctl_start, .stop = ctl_stop, .destroy = no_stop
};
static const struct chr_ops console_ops = {
	.name = "exec-console", .write = no_write, .start = no_start, .stop = no_stop, .destroy = no_stop
};

/* ---- the serial console ---- */

static void serial_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct exec_streams *s = container_of(c, struct inner, chr)->s;

	for (size_t i = 0; i < n; i++) {
		if (s->tail_len == TAIL) {
			memmove(s->tail, s->tail + TAIL / 2, TAIL / 2);
			s->tail_len = TAIL / 2;
		}
		if (bytes[i] != '\r')
			s->tail[s->tail_len++] = (char)bytes[i];
	}
}

static const struct chr_ops serial_ops = {
	.name = "exec-serial", .write = serial_write, .start = no_start, .stop = no_stop, .destroy = no_stop
};

void exec_streams_print_serial(struct exec_streams *s)
{
	if (s->tail_len && fwrite(s->tail, 1, s->tail_len, stderr) == s->tail_len && s->tail[s->tail_len - 1] != '\n')
		fputc('\n', stderr);
}

/* ---- standard input, output and error ---- */

static void in_end(void *opaque, u64 bytes)
{
	say(opaque, "eof %llu\n", (unsigned long long)bytes);
}

static void in_watch(void *opaque, const u8 *bytes, size_t n)
{
	struct exec_streams *s = opaque;

	for (size_t i = 0; i < n && s->give_up < GIVE_UP_TIMES; i++)
		s->give_up = bytes[i] == GIVE_UP_KEY ? s->give_up + 1 : 0;
	if (s->give_up == GIVE_UP_TIMES)
		s->over(s->opaque);
}

static void out_end(void *opaque, int error)
{
	struct out *o = opaque;

	if (error) {
		o->error = error;
		say(o->s, "hup %s\n", o->name);
		return;
	}
	pthread_mutex_lock(&o->s->lock);
	o->done = true;
	pthread_mutex_unlock(&o->s->lock);
	look_over(o->s);
}

void exec_streams_ports(struct exec_streams *s, struct virtio_console_port *ports)
{
	const struct virtio_console_port all[EXEC_PORTS] = {
		/* a console first, then what the others use when they start */
		{ &s->console.chr, NULL },    { &s->ctl.chr, "ectype.ctl" }, { s->in, "ectype.in" },
		{ s->out.chr, "ectype.out" }, { s->err.chr, "ectype.err" },
	};

	memcpy(ports, all, sizeof(all));
}

struct chr *exec_streams_serial(struct exec_streams *s)
{
	return &s->serial.chr;
}

const char *exec_streams_tty(const struct exec_streams *s)
{
	return s->tty;
}

int exec_streams_status(const struct exec_streams *s)
{
	return s->status;
}

int exec_streams_error(const struct exec_streams *s)
{
	const struct out *lost = s->out.error && s->out.error != EPIPE ? &s->out : &s->err;

	return lost->error == EPIPE ? 0 : lost->error;
}

/* ---- signals ---- */

static void leave_word(struct exec_streams *s)
{
	u64 one = 1;
	int saved = errno;

	if (write(s->news, &one, sizeof(one)) < 0)
		errno = saved;
}

bool exec_streams_signal(struct exec_streams *s, int sig)
{
	if (!s->started || s->signalled || !s->has_herald)
		return false;
	s->signalled = 1;
	s->new_signal = sig;
	leave_word(s);
	return true;
}

static void *herald_main(void *opaque)
{
	struct exec_streams *s = opaque;
	u64 count;

	for (;;) {
		struct pollfd f = { .fd = s->news, .events = POLLIN };

		poll(&f, 1, -1);
		if (read(s->news, &count, sizeof(count)) != sizeof(count))
			continue;
		if (s->new_size) {
			s->new_size = 0;
			say_size(s);
		}
		if (s->new_signal) {
			say(s, "sig %d\n", (int)s->new_signal);
			s->new_signal = 0;
		}
	}
	return NULL;
}

/* ---- the terminal ---- */

/* Signal handlers and atexit() have no argument. */
static struct exec_streams *terminal;

static void on_size(int sig)
{
	terminal->new_size = 1;
	leave_word(terminal);
}

static void restore(void)
{
	if (terminal && terminal->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal->saved);
}

/* The command has a terminal only if it can have both directions; what else is a terminal is given one too then. */
static void find_terminals(struct exec_streams *s)
{
	char *p = s->tty;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return;
	*p++ = 'i';
	*p++ = 'o';
	if (isatty(STDERR_FILENO))
		*p++ = 'e';
}

void exec_streams_enter(struct exec_streams *s)
{
	struct sigaction sa = { .sa_handler = on_size, .sa_flags = SA_RESTART };
	struct termios t;

	s->has_herald = !thread_start(&s->herald, herald_main, s);
	if (!s->tty[0] || tcgetattr(STDIN_FILENO, &s->saved))
		return;
	terminal = s;
	atexit(restore);
	t = s->saved;
	cfmakeraw(&t);
	s->raw = true;
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
	log_set_raw_terminal(true);
	sigemptyset(&sa.sa_mask);
	sigaction(SIGWINCH, &sa, NULL);
}

void exec_streams_leave(struct exec_streams *s)
{
	if (s->raw)
		signal(SIGWINCH, SIG_DFL);
	if (s->has_herald) {
		pthread_cancel(s->herald);
		pthread_join(s->herald, NULL);
		s->has_herald = false;
	}
	restore();
	s->raw = false;
	log_set_raw_terminal(false);
}

/* ---- life ---- */

struct exec_streams *exec_streams_create(void (*over)(void *), void *opaque, struct error *e)
{
	struct exec_streams *s = calloc(1, sizeof(*s));

	if (!s) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	s->over = over;
	s->opaque = opaque;
	s->status = -1;
	pthread_mutex_init(&s->lock, NULL);
	s->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->news < 0) {
		error_errno(e, errno, "cannot create an eventfd");
		exec_streams_destroy(s);
		return NULL;
	}
	find_terminals(s);
	s->ctl = (struct inner){ .chr.ops = &ctl_ops, .s = s };
	s->console = (struct inner){ .chr.ops = &console_ops, .s = s };
	s->serial = (struct inner){ .chr.ops = &serial_ops, .s = s };
	s->out = (struct out){ .s = s, .name = "out" };
	s->err = (struct out){ .s = s, .name = "err" };
	s->in = chr_pipe_in_create(STDIN_FILENO, in_end, s, e);
	s->out.chr = s->in ? chr_pipe_out_create(STDOUT_FILENO, out_end, &s->out, e) : NULL;
	s->err.chr = s->out.chr ? chr_pipe_out_create(STDERR_FILENO, out_end, &s->err, e) : NULL;
	if (!s->err.chr) {
		exec_streams_destroy(s);
		return NULL;
	}
	if (s->tty[0])
		chr_pipe_in_watch(s->in, in_watch);
	return s;
}

static void destroy_stream(struct chr *c)
{
	if (c)
		c->ops->destroy(c);
}

void exec_streams_destroy(struct exec_streams *s)
{
	if (!s)
		return;
	destroy_stream(s->in);
	destroy_stream(s->out.chr);
	destroy_stream(s->err.chr);
	pthread_mutex_destroy(&s->lock);
	if (s->news >= 0)
		close(s->news);
	if (terminal == s)
		terminal = NULL;
	free(s->unsent);
	free(s);
}
