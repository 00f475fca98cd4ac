/* TLS 1.3 with certificates on both sides (GnuTLS). */
#ifndef ECTYPE_CLI_TLS_H
#define ECTYPE_CLI_TLS_H

#include <sys/types.h>

#include "base/error.h"

/* Files in PEM. NULL: not given. */
struct tls_files {
	const char *cert, *key; /* ours */
	const char *ca;		/* who signs the other side's */
	const char *host;	/* the name that must be in it; NULL: any that is signed */
};
static inline bool tls_wanted(const struct tls_files *f)
{
	return f->cert || f->key || f->ca;
}
/* All three are given; tls_check(): and can be read, and go together. 0, or -1 with *e. */
int tls_given(const struct tls_files *f, struct error *e);
int tls_check(const struct tls_files *f, struct error *e);

struct tls;
/* Greets the other side of a connected socket that blocks, at most 10 s a step; each side knows then that the other
 * lets it in. NULL with *e. */
struct tls *tls_open(const struct tls_files *f, int fd, bool server, struct error *e);
/* As recv() and send() of a socket that does not block; what went wrong otherwise is tls_error(). */
ssize_t tls_read(struct tls *t, void *buf, size_t n);
ssize_t tls_write(struct tls *t, const void *buf, size_t n);
/* There is something to be read, though the socket has nothing. */
bool tls_pending(const struct tls *t);
/* One line, or NULL: nothing has gone wrong. */
const char *tls_error(const struct tls *t);
/* The other side has said that it sends no more; a connection that is only closed says nothing. */
bool tls_over(const struct tls *t);
/* Says so to the other side, once. -1: EAGAIN, it could not be sent yet. */
int tls_end(struct tls *t);
/* Says it, if it can be said at once. NULL is allowed. */
void tls_close(struct tls *t);

#endif
