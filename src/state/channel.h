/*
 * Two ends of a connection that speak in sections (stream.h): a stream each
 * way, over a socket. A leaf header any layer may use.
 *
 * The peer is hostile: what it sends is bounded and checked, and is buffered
 * only as it comes. Waiting is bounded by a time without any progress, and ends
 * soon after *quit is set. A channel that failed is of no more use: every
 * further call fails with the same line.
 *
 * One thread at a time.
 */
#ifndef ECTYPE_STATE_CHANNEL_H
#define ECTYPE_STATE_CHANNEL_H

#include <stdatomic.h>

#include "state/stream.h"

struct channel {
	int fd;			 /* the caller's; a socket, made one that does not block */
	const atomic_bool *quit; /* or NULL */
	struct encoder out;	 /* the section that is being written */
	struct stream_writer w;
	bool begun, failed;
	struct error why;
	u8 *in; /* what came: of the open section and behind it, [in_at, in_len) */
	size_t in_at, in_len, in_cap;
	bool in_begun;
	u64 in_count;	    /* sections read */
	u64 sent, received; /* bytes */
};

/* Takes `n` bytes at `came` as the first that were received. 0, or -1 (no memory); to be freed in any case. */
int channel_init(struct channel *c, int fd, const atomic_bool *quit, const void *came, size_t n);
void channel_free(struct channel *c);

/* What is written to the encoder between these two is a section's payload. channel_send() gives it to the host, waiting
 * at most `ms` for each piece to go. 0; or -1 with c->why. */
struct encoder *channel_begin(struct channel *c, const char *name);
int channel_send(struct channel *c, unsigned ms);
/* Both with a payload that lies somewhere. */
int channel_put(struct channel *c, const char *name, const void *payload, size_t n, unsigned ms);

/* The next section, valid until the next call. Waits at most `ms` for each piece of it. 1; 0: no byte of it came in
 * time; -1 with c->why: the connection is lost, or what came is no section. */
int channel_next(struct channel *c, unsigned ms, struct stream_section *out);
/* Is there something to read, or the end? */
bool channel_readable(struct channel *c);

#endif
