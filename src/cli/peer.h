/* A byte stream to another host: a socket, which does not block, with TLS or without. */
#ifndef ECTYPE_CLI_PEER_H
#define ECTYPE_CLI_PEER_H

#include <sys/types.h>

#include "base/error.h"

struct tls;

struct peer {
	int fd;
	struct tls *tls; /* NULL: none */
};

/* `fd` and `tls` become the peer's. */
void peer_init(struct peer *p, int fd, struct tls *tls);
void peer_close(struct peer *p);
/* Bytes moved; 0 from peer_read(): the end; -1: errno, EAGAIN: not now. */
ssize_t peer_read(struct peer *p, void *buf, size_t n);
ssize_t peer_write(struct peer *p, const void *buf, size_t n);
/* There is something to be read, though the socket has nothing. */
bool peer_pending(const struct peer *p);

#endif
