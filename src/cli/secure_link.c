#include "cli/secure_link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/companion.h"
#include "base/pass_fd.h"
#include "cli/relay.h"

#define REFUSED_MS 500u /* for it to hear why */
#define END_MS 5000u	/* for the other side to hear that it is over */

static void tell(int fd, const struct error *e)
{
	if (send(fd, e->text, strlen(e->text), MSG_NOSIGNAL) < 0)
		return;
}

static void pass_on(int monitor, int sock, struct tls *tls, enum link_end end)
{
	struct relay r = { .tick_ms = 1000, .meant = end == LINK_MEANT };

	peer_init(&r.monitor, monitor, NULL);
	peer_init(&r.peer, sock, tls);
	relay_run(&r);
	if (r.meant)
		peer_end(&r.peer, END_MS);
	peer_close(&r.peer);
	peer_close(&r.monitor);
}

void link_serve(int fd, int sock, const struct tls_files *t, bool server, enum link_end end)
{
	struct error e;
	struct tls *tls = tls_open(t, sock, server, &e);
	int pair[2] = { -1, -1 };

	if (!tls)
		tell(fd, &e);
	else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		error_errno(&e, errno, "no socket for the machine");
		tell(fd, &e);
	}
	if (pair[1] < 0 || fd_pass(fd, "", 1, &pair[1], 1)) {
		struct peer p;

		peer_init(&p, sock, tls);
		peer_end(&p, REFUSED_MS);
		peer_close(&p);
		if (pair[0] >= 0) {
			close(pair[0]);
			close(pair[1]);
		}
		close(fd);
		return;
	}
	close(pair[1]);
	close(fd); /* its end tells others */
	pass_on(pair[0], sock, tls, end);
}

static void work(int fd, const void *arg)
{
	const struct migrate_target *t = arg;
	struct error e;
	int sock = migrate_connect(t, &e);

	if (sock < 0)
		tell(fd, &e);
	else
		link_serve(fd, sock, &t->tls, false, LINK_MEANT);
}

int link_connect(const struct migrate_target *t, struct error *e)
{
	struct companion c;
	char text[sizeof(e->text)];
	int got = -1;
	unsigned count = 0;
	ssize_t n;

	if (!tls_wanted(&t->tls))
		return migrate_connect(t, e);
	if (companion_start(&c, "ectype-link", false, work, t, e))
		return -1;
	for (;;) {
		struct pollfd p = { .fd = c.fd, .events = POLLIN };

		if (poll(&p, 1, -1) < 0 && errno == EINTR)
			continue;
		n = fd_receive(c.fd, text, sizeof(text) - 1, &got, 1, &count);
		break;
	}
	if (count) {
		close(c.fd);
		return got;
	}
	companion_finish(&c);
	return error_set(e, "%.*s", n > 0 ? (int)n : 34, n > 0 ? text : "the process for TLS ends at once");
}
