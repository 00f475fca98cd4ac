/*
 * Small processes beside the monitor that do what its jail forbids: they act
 * by path, see no guest input, and outlive what ends the monitor.
 */
#ifndef ECTYPE_BASE_COMPANION_H
#define ECTYPE_BASE_COMPANION_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

struct companion {
	int fd; /* this side of a SOCK_SEQPACKET pair; its end of file ends the process */
	pid_t pid;
};

/*
 * Starts a process named `name` (15 characters) that runs work(fd, arg) with
 * fd as its only descriptor, in a session of its own, and ends when work()
 * returns. `own_mounts`: this process has left the host's mounts, and the new
 * one is not to see what becomes of them here (where the host gives leave for
 * that); it costs a millisecond. While there is one thread. 0, or -1 with *e
 * (pid 0).
 */
int companion_start(struct companion *c, const char *name, bool own_mounts, void (*work)(int fd, const void *arg),
		    const void *arg, struct error *e);
/* Closes the descriptor and waits for the process. */
void companion_finish(struct companion *c);

#endif
