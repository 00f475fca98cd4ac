/*
 * Where the control sockets of one user's machines are: a directory of mode
 * 0700 with a socket NAME.sock for each. Nothing but the socket says that a
 * machine is there: whoever can connect to it has a living one, and one that
 * refuses is left over. Sockets are made and removed under the lock of the
 * directory.
 */
#ifndef ECTYPE_CTL_RUNDIR_H
#define ECTYPE_CTL_RUNDIR_H

#include <sys/un.h>

#include "base/error.h"
#include "base/types.h"

#define CTL_NAME_MAX 48
#define CTL_PATH_MAX sizeof(((struct sockaddr_un *)0)->sun_path)

/* 1 to CTL_NAME_MAX letters, digits, '.', '_' and '-', the first no '.' and no '-'. */
bool ctl_name_ok(const char *name);

/*
 * The directory: $XDG_RUNTIME_DIR/ectype, /run/user/UID/ectype or /tmp/ectype-UID. With `create` it is made if it is
 * missing. -1 with *e if it cannot be had, or is not the user's own, or open to others.
 */
int ctl_rundir(char path[CTL_PATH_MAX], bool create, struct error *e);

/* Path of the machine's socket. -1 with *e if that is too long for a socket. */
int ctl_socket_path(const char *dir, const char *name, char path[CTL_PATH_MAX], struct error *e);

enum ctl_alive { CTL_ALIVE, CTL_STALE, CTL_ABSENT };
/* Looks whether somebody listens; for CTL_ALIVE the process is told in *pid (0: not known), which may be NULL. */
enum ctl_alive ctl_probe(const char *path, int *pid);

/*
 * Listens as machine `name`, and removes a stale socket of that name. The descriptor does not block; the path goes to
 * `path`. -1 with *e; *taken: because a living machine has the name.
 */
int ctl_listen(const char *name, char path[CTL_PATH_MAX], bool *taken, struct error *e);

/*
 * Calls `fn` for each machine's socket, by name, and removes stale ones on the way. -1 with *e if the directory is
 * there and cannot be read.
 */
int ctl_each(void (*fn)(void *opaque, const char *name, const char *path), void *opaque, struct error *e);

/* Connects to the socket of machine `name`, without SOCK_NONBLOCK. -1 with *e: no such machine. */
int ctl_connect(const char *name, struct error *e);

#endif
