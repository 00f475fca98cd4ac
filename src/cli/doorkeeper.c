#include "cli/doorkeeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/listen.h"
#include "cli/secure_link.h"

#define VISITORS_MAX 4u		/* at a time: who has no certificate is soon gone */
#define WELCOME "listening at " /* the port */

static void tell(int fd, const char *text)
{
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		return;
}

static unsigned count_visitors(unsigned n)
{
	while (n && waitpid(-1, NULL, WNOHANG) > 0)
		n--;
	return n;
}

struct door {
	const struct migrate_target *at;
	enum link_end end;
};

static void work(int fd, const void *arg)
{
	const struct door *d = arg;
	const struct migrate_target *t = d->at;
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN } };
	unsigned visitors = 0;
	struct error e;
	u16 port;
	/* the keys never are in the process that becomes the machine */
	int door = tls_check(&t->tls, &e) ? -1 : migrate_listen(t, &port, &e);

	if (door >= 0)
		snprintf(e.text, sizeof(e.text), WELCOME "%u", port);
	tell(fd, e.text);
	if (door < 0)
		return;
	p[1] = (struct pollfd){ .fd = door, .events = POLLIN };
	for (;;) {
		int sock;

		visitors = count_visitors(visitors);
		p[1].events = visitors < VISITORS_MAX ? POLLIN : 0;
		poll(p, 2, 1000);
		if (p[0].revents) /* the monitor has ended, or needs nobody any more */
			break;
		sock = visitors < VISITORS_MAX && p[1].revents ? listen_next(door, 0) : -1;
		if (sock < 0)
			continue;
		switch (fork()) {
		case 0:
			close(door);
			link_serve(fd, sock, &t->tls, true, d->end);
			_exit(0);
		case -1:
			break;
		default:
			visitors++;
		}
		close(sock);
	}
	migrate_unlink(t);
}

int doorkeeper_start(struct companion *c, const struct migrate_target *t, enum link_end end, u16 *port, struct error *e)
{
	const struct door d = { t, end };
	char text[sizeof(e->text)];
	ssize_t n;

	if (companion_start(c, "ectype-door", false, work, &d, e))
		return -1;
	do
		n = recv(c->fd, text, sizeof(text) - 1, 0);
	while (n < 0 && errno == EINTR);
	text[MAX(n, 0)] = 0;
	if (!strncmp(text, WELCOME, strlen(WELCOME))) {
		*port = (u16)strtoul(text + strlen(WELCOME), NULL, 10);
		return 0;
	}
	companion_finish(c);
	return error_set(e, "%s", n > 0 ? text : "the process for TLS ends at once");
}
