/*
 * `ectype console`: this terminal becomes one of a running machine's first
 * serial port, until Ctrl-A d, or until the machine ends.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "cli/control.h"

#define CTRL_A 1

struct console {
	int fd;
	bool escape, input_over, detach;
	char out[8192]; /* typed, not taken yet */
	size_t out_len;
};

static struct {
	bool raw;
	struct termios saved;
} terminal;

static volatile sig_atomic_t caught;

static void on_signal(int sig)
{
	caught = sig;
}

static void restore_terminal(void)
{
	if (terminal.raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal.saved);
	terminal.raw = false;
}

static void raw_terminal(void)
{
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &terminal.saved))
		return;
	t = terminal.saved;
	cfmakeraw(&t);
	terminal.raw = !tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return;
}

static void keep(struct console *c, char byte)
{
	if (c->out_len < sizeof(c->out))
		c->out[c->out_len++] = byte;
}

static void take_key(struct console *c, char key)
{
	if (!c->escape) {
		if (key == CTRL_A && terminal.raw)
			c->escape = true;
		else
			keep(c, key);
		return;
	}
	c->escape = false;
	switch (key) {
	case 'd':
	case 'D':
		c->detach = true;
		break;
	case 'h':
	case 'H':
	case '?':
		say("\r\nCtrl-A d   detach; the machine goes on\r\nCtrl-A h   this help\r\n"
		    "Ctrl-A Ctrl-A   send Ctrl-A\r\n");
		break;
	case CTRL_A:
		keep(c, CTRL_A);
		break;
	default:
		keep(c, CTRL_A);
		keep(c, key);
		break;
	}
}

static void read_keys(struct console *c)
{
	char keys[sizeof(c->out) / 4]; /* an unknown escape gives two bytes for one */
	ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	/* the end of a file is not the end of the machine's output; that of a terminal is */
	c->input_over = n <= 0;
	c->detach |= n <= 0 && terminal.raw;
	for (ssize_t i = 0; i < n; i++)
		take_key(c, keys[i]);
}

static bool write_all(const char *p, size_t n)
{
	while (n) {
		ssize_t done = write(STDOUT_FILENO, p, n);

		if (done < 0 && errno == EINTR && !caught)
			continue;
		if (done <= 0)
			return false;
		p += done;
		n -= (size_t)done;
	}
	return true;
}

/* False: the machine has gone, or nobody takes what it says. */
static bool read_output(struct console *c)
{
	char buf[16384];
	ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	return n > 0 && write_all(buf, (size_t)n);
}

static bool send_keys(struct console *c)
{
	ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	c->out_len -= (size_t)n;
	memmove(c->out, c->out + n, c->out_len);
	return true;
}

static void converse(struct console *c)
{
	while (!c->detach && !caught) {
		bool listen = !c->input_over && c->out_len < sizeof(c->out) / 2;
		struct pollfd p[2] = {
			{ .fd = c->fd, .events = (short)(POLLIN | (c->out_len ? POLLOUT : 0)) },
			{ .fd = listen ? STDIN_FILENO : -1, .events = POLLIN },
		};

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return;
		if (caught)
			return;
		if (p[1].revents)
			read_keys(c);
		if ((p[0].revents & POLLOUT) && c->out_len && !send_keys(c))
			return;
		if ((p[0].revents & (POLLIN | POLLHUP | POLLERR)) && !read_output(c))
			return;
	}
}

static void catch_signals(void)
{
	static const int list[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction sa = { .sa_handler = on_signal };

	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(list); i++)
		sigaction(list[i], &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int cmd_console(int argc, char **argv)
{
	static struct console c;
	struct ctl_answer first;
	struct error e;

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
		printf("usage: ectype console NAME\n"
		       "Attaches this terminal to the first serial port (or console) of the running machine NAME.\n"
		       "Ctrl-A d detaches, Ctrl-A h helps. The machine's own terminal goes on as well.\n");
		return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
	}
	if (argc != 2)
		return usage_error("console: %s (see ectype console --help)",
				   argc < 2 ? "which machine?" : "one machine at a time");
	c.fd = ctl_upgrade(argv[1], "/api/v1/vm.console", "ectype-console", &first, &e);
	if (c.fd < 0)
		return control_status("console", c.fd, &e);
	catch_signals();
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "ectype: attached to machine '%s'; Ctrl-A d detaches\n", argv[1]);
	raw_terminal();
	if (write_all(first.body, first.len))
		converse(&c);
	restore_terminal();
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "\nectype: %s machine '%s'\n",
			c.detach || caught ? "detached from" : "no more output of", argv[1]);
	ctl_answer_free(&first);
	close(c.fd);
	return EXIT_OK;
}
