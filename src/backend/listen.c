#include "backend/listen.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

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

int listen_unix(const char *what, const char *path, int backlog, struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(e, "%s %s: the path is too long (at most %zu bytes)", what, path,
				 sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(e, errno, "%s %s", what, path);
	remove_stale(&addr);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		error_errno(e, errno, "%s %s: cannot listen", what, path);
		close(fd);
		return -1;
	}
	if (listen(fd, backlog) < 0) {
		error_errno(e, errno, "%s %s: cannot listen", what, path);
		unlink(path);
		close(fd);
		return -1;
	}
	return fd;
}
