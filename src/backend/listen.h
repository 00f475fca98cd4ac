/* Listening unix sockets. */
#ifndef ECTYPE_BACKEND_LISTEN_H
#define ECTYPE_BACKEND_LISTEN_H

#include "base/error.h"

/* A socket that does not block, bound to `path` and listening; a file there that nobody listens on is replaced. `what`
 * begins the message. The descriptor, or -1 with *e. */
int listen_unix(const char *what, const char *path, int backlog, struct error *e);

#endif
