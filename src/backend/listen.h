/* Listening sockets. */
#ifndef ECTYPE_BACKEND_LISTEN_H
#define ECTYPE_BACKEND_LISTEN_H

#include "base/error.h"
#include "base/types.h"

/* A socket that does not block, bound to `path` and listening; a file there that nobody listens on is replaced. `what`
 * begins the message. The descriptor, or -1 with *e. */
int listen_unix(const char *what, const char *path, int backlog, struct error *e);
/* The same of TCP at host and port; "0.0.0.0", "::" and "*" (both) are all of this host's. *port: the one it got. */
int listen_tcp(const char *what, const char *host, const char *port, int backlog, u16 *got, struct error *e);

/* The next connection: of a listening socket; or, if `fd` is no such, one that somebody passes through it
 * (SCM_RIGHTS); a message without one is a line for the log. Waits at most `ms`. The descriptor, or -1: none came. */
int listen_next(int fd, unsigned ms);

#endif
