#include "backend/vsock/dialler.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct request {
	u32 id, port;
};
struct answer {
	u32 id;
};
union control {
	char space[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

/* ---- the process ---- */

static int connect_to(const char *path, u32 port)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", path, port) >= sizeof(addr.sun_path))
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* one whose queue is full refuses */
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool answer(int to, u32 id, int fd)
{
	struct answer a = { id };
	struct iovec iov = { &a, sizeof(a) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	union control c;
	struct cmsghdr *head;

	if (fd >= 0) {
		m.msg_control = c.space;
		m.msg_controllen = sizeof(c.space);
		head = CMSG_FIRSTHDR(&m);
		*head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(head), &fd, sizeof(fd));
	}
	return sendmsg(to, &m, MSG_NOSIGNAL) == sizeof(a);
}

static void serve(int fd, const void *path)
{
	struct request r;
	bool more = true;
	int found;

	while (more && recv(fd, &r, sizeof(r), 0) == sizeof(r)) {
		found = connect_to(path, r.port);
		more = answer(fd, r.id, found);
		if (found >= 0)
			close(found);
	}
}

/* ---- the monitor's side ---- */

int dialler_start(struct dialler *d, const char *path, struct error *e)
{
	return companion_start(&d->process, "ectype-vsock", true, serve, path, e);
}

bool dialler_ask(struct dialler *d, u32 port, u32 id)
{
	const struct request r = { id, port };

	return send(d->process.fd, &r, sizeof(r), MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof(r);
}

int dialler_answer(struct dialler *d, u32 *id, int *fd)
{
	struct answer a;
	struct iovec iov = { &a, sizeof(a) };
	union control c;
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.space, .msg_controllen = sizeof(c.space)
	};
	const struct cmsghdr *head;
	ssize_t n = recvmsg(d->process.fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n != sizeof(a))
		return -1;
	*id = a.id;
	*fd = -1;
	head = CMSG_FIRSTHDR(&m);
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
	    head->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(head), sizeof(*fd));
	return 1;
}

void dialler_stop(struct dialler *d)
{
	companion_finish(&d->process);
}
