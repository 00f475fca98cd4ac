#include "ctl/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX ".sock"
#define MACHINES_MAX 4096
#define BACKLOG 16
#define LOCK_MS 3000

bool ctl_name_ok(const char *name)
{
	size_t n = strlen(name);

	if (!n || n > CTL_NAME_MAX || *name == '.' || *name == '-')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static bool is_dir(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static int check_own(const char *path, struct error *e)
{
	struct stat st;

	if (lstat(path, &st))
		return error_errno(e, errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return error_set(e, "%s is no directory", path);
	if (st.st_uid != geteuid())
		return error_set(e, "%s belongs to another user", path);
	if (st.st_mode & 077)
		return error_set(e, "%s is open to others: chmod 700 it", path);
	return 0;
}

int ctl_rundir(char path[CTL_PATH_MAX], bool create, struct error *e)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char user[64];
	int n;

	snprintf(user, sizeof(user), "/run/user/%u", geteuid());
	if (xdg && *xdg == '/')
		n = snprintf(path, CTL_PATH_MAX, "%s/ectype", xdg);
	else if (is_dir(user))
		n = snprintf(path, CTL_PATH_MAX, "%s/ectype", user);
	else
		n = snprintf(path, CTL_PATH_MAX, "/tmp/ectype-%u", geteuid());
	if (n < 0 || (size_t)n >= CTL_PATH_MAX - sizeof("/x" SUFFIX))
		return error_set(e, "XDG_RUNTIME_DIR is too long for the path of a socket");
	if (create && mkdir(path, 0700) && errno != EEXIST)
		return error_errno(e, errno, "cannot make %s", path);
	return check_own(path, e);
}

int ctl_socket_path(const char *dir, const char *name, char path[CTL_PATH_MAX], struct error *e)
{
	int n = snprintf(path, CTL_PATH_MAX, "%s/%s" SUFFIX, dir, name);

	if (n < 0 || (size_t)n >= CTL_PATH_MAX)
		return error_set(e, "%s/%s" SUFFIX " is too long for the path of a socket (at most %zu bytes)", dir,
				 name, CTL_PATH_MAX - 1);
	return 0;
}

static void address(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(a->sun_path, sizeof(a->sun_path), "%s", path);
}

enum ctl_alive ctl_probe(const char *path, int *pid)
{
	enum ctl_alive ret = CTL_ALIVE;
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	struct sockaddr_un a;
	struct stat st;
	int fd;

	if (pid)
		*pid = 0;
	if (lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return CTL_ABSENT;
	/* one that does not block: a machine that accepts nobody has a full backlog, and lives */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return CTL_ALIVE;
	address(path, &a);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		ret = errno == ECONNREFUSED ? CTL_STALE : errno == ENOENT ? CTL_ABSENT : CTL_ALIVE;
	else if (pid && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		*pid = peer.pid;
	close(fd);
	return ret;
}

/* Held until the descriptor is closed; nobody holds it for long. */
static int lock_dir(const char *dir, struct error *e)
{
	const struct timespec pause = { .tv_nsec = 5000000 };
	char path[CTL_PATH_MAX + 8];
	int fd;

	snprintf(path, sizeof(path), "%s/.lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_errno(e, errno, "%s", path);
	for (unsigned ms = 0; flock(fd, LOCK_EX | LOCK_NB); ms += 5) {
		if ((errno != EWOULDBLOCK && errno != EINTR) || ms >= LOCK_MS) {
			error_errno(e, errno, "cannot lock %s", path);
			close(fd);
			return -1;
		}
		nanosleep(&pause, NULL);
	}
	return fd;
}

/* Under the lock of the directory. The socket gets its name when it listens already: one that refuses is dead. */
static int listen_at(const char *dir, const char *path, struct error *e)
{
	char fresh[CTL_PATH_MAX];
	struct sockaddr_un a;
	int fd;

	if (snprintf(fresh, sizeof(fresh), "%s/.new", dir) >= (int)sizeof(fresh))
		return error_set(e, "%s is too long", dir);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(e, errno, "%s", path);
	address(fresh, &a);
	unlink(fresh);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || chmod(fresh, 0600) || listen(fd, BACKLOG) ||
	    rename(fresh, path)) {
		error_errno(e, errno, "%s: cannot listen", path);
		unlink(fresh);
		close(fd);
		return -1;
	}
	return fd;
}

int ctl_listen(const char *name, char path[CTL_PATH_MAX], bool *taken, struct error *e)
{
	char dir[CTL_PATH_MAX];
	int lock, fd = -1, pid;

	*taken = false;
	if (ctl_rundir(dir, true, e) || ctl_socket_path(dir, name, path, e))
		return -1;
	lock = lock_dir(dir, e);
	if (lock < 0)
		return -1;
	switch (ctl_probe(path, &pid)) {
	case CTL_ALIVE:
		*taken = true;
		error_set(e, "a machine named '%s' runs (process %d): give another --name", name, pid);
		break;
	case CTL_STALE:
		unlink(path);
		/* fall through */
	case CTL_ABSENT:
		fd = listen_at(dir, path, e);
		break;
	}
	close(lock);
	return fd;
}

static void remove_stale(const char *dir, const char *path)
{
	int lock = lock_dir(dir, NULL);

	if (lock < 0)
		return;
	if (ctl_probe(path, NULL) == CTL_STALE)
		unlink(path);
	close(lock);
}

/* "NAME.sock" -> NAME. */
static bool machine_of(const char *file, char name[CTL_NAME_MAX + 1])
{
	size_t n = strlen(file), s = strlen(SUFFIX);

	if (n <= s || n - s > CTL_NAME_MAX || strcmp(file + n - s, SUFFIX))
		return false;
	memcpy(name, file, n - s);
	name[n - s] = 0;
	return ctl_name_ok(name);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

int ctl_each(void (*fn)(void *opaque, const char *name, const char *path), void *opaque, struct error *e)
{
	char dir[CTL_PATH_MAX], path[CTL_PATH_MAX], (*names)[CTL_NAME_MAX + 1];
	struct dirent *entry;
	struct stat st;
	unsigned n = 0;
	DIR *d;

	if (ctl_rundir(dir, false, e))
		return lstat(dir, &st) && errno == ENOENT ? 0 : -1;
	d = opendir(dir);
	names = calloc(MACHINES_MAX, sizeof(*names));
	if (!d || !names) {
		error_errno(e, errno, "%s", dir);
		if (d)
			closedir(d);
		free(names);
		return -1;
	}
	while ((entry = readdir(d)) && n < MACHINES_MAX)
		n += machine_of(entry->d_name, names[n]);
	closedir(d);
	qsort(names, n, sizeof(*names), by_name);
	for (unsigned i = 0; i < n; i++) {
		if (ctl_socket_path(dir, names[i], path, NULL))
			continue;
		switch (ctl_probe(path, NULL)) {
		case CTL_ALIVE:
			fn(opaque, names[i], path);
			break;
		case CTL_STALE:
			remove_stale(dir, path);
			break;
		case CTL_ABSENT:
			break;
		}
	}
	free(names);
	return 0;
}

int ctl_connect(const char *name, struct error *e)
{
	char dir[CTL_PATH_MAX], path[CTL_PATH_MAX];
	struct sockaddr_un a;
	struct stat st;
	int fd;

	if (!ctl_name_ok(name))
		return error_set(e, "'%s' is no name of a machine", name);
	if (ctl_rundir(dir, false, e)) {
		if (!lstat(dir, &st) || errno != ENOENT)
			return -1;
		return error_set(e, "no machine '%s' runs (ectype ps lists them)", name);
	}
	if (ctl_socket_path(dir, name, path, e))
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(e, errno, "%s", path);
	address(path, &a);
	/* with SO_SNDTIMEO, connect() does not wait longer for a full backlog either */
	const struct timeval limit = { .tv_sec = 5 };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	int err = errno;

	close(fd);
	if (err == ENOENT)
		return error_set(e, "no machine '%s' runs (ectype ps lists them)", name);
	if (err == ECONNREFUSED) {
		remove_stale(dir, path);
		return error_set(e, "machine '%s' has died; its socket was left over and is removed", name);
	}
	if (err == EAGAIN)
		return error_set(e, "machine '%s' does not answer", name);
	return error_errno(e, err, "%s", path);
}
