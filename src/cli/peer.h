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
/* Tells the other side that nothing more comes, and waits until it has closed or `ms` are over, so that it hears that:
 * a socket that is closed with something to be read takes what was said last along. */
void peer_end(struct peer *p, unsigned ms);
/* With TLS: the other side has told that nothing more comes. */
bool peer_over(const struct peer *p);

#endif
