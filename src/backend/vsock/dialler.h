/*
 * A process that connects to unix sockets by name on behalf of a jailed
 * monitor: it is told numbers, and gives descriptors.
 */
#ifndef ECTYPE_BACKEND_VSOCK_DIALLER_H
#define ECTYPE_BACKEND_VSOCK_DIALLER_H

#include "base/companion.h"
#include "base/error.h"
#include "base/types.h"

struct dialler {
	struct companion process; /* its fd: to be polled for reading */
};

/* Will connect to "PATH_PORT". While there is one thread. 0, or -1 with *e. */
int dialler_start(struct dialler *d, const char *path, struct error *e);
/* Asks for port `port`. False if it cannot be asked. */
bool dialler_ask(struct dialler *d, u32 port, u32 id);
/* An answer: 1, its *id and *fd, a socket that does not block, or -1 if nobody listens. 0: none yet. -1: the process
 * is gone. */
int dialler_answer(struct dialler *d, u32 *id, int *fd);
void dialler_stop(struct dialler *d);

#endif
