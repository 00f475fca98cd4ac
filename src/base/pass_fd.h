/* Descriptors over a unix socket. */
#ifndef ECTYPE_BASE_PASS_FD_H
#define ECTYPE_BASE_PASS_FD_H

#include <sys/types.h>

#define PASS_FD_MAX 4u

/* Sends `len` bytes, at least 1, with `n` descriptors. 0, or -1: errno. */
int fd_pass(int sock, const void *data, size_t len, const int *fd, unsigned n);
/*
 * Takes what is there, without waiting: at most `len` bytes, and `max` descriptors in fd[]; *n of them came, they are
 * the caller's, whatever is returned. As recv(); -1 with EPROTO: more came than `max`, or what is no descriptor.
 */
ssize_t fd_receive(int sock, void *data, size_t len, int *fd, unsigned max, unsigned *n);

#endif
