/*
 * What streams on a descriptor have in common (chr_unix.c, chr_pty.c): one
 * client at a time, served by a thread. Private to src/backend/chr.
 *
 * The thread waits for a client, reads its input into the replay door and sends
 * what the guest wrote. The guest's side only appends to a bounded buffer: it
 * never waits. A pipe wakes the thread.
 *
 * A client's input is read no further while the door's queue is full. When the
 * client has gone, all it sent is in that queue before the stream counts as
 * disconnected; a user that asked for changes must have seen that (chr_ops.gone)
 * before the next client is let in.
 */
#ifndef ECTYPE_BACKEND_CHR_CHR_STREAM_H
#define ECTYPE_BACKEND_CHR_CHR_STREAM_H

#include <pthread.h>
#include <sys/types.h>

#include "backend/chr/chr.h"

#define CHR_STREAM_OUT (256 * 1024u)

struct chr_stream;

/* Called on the stream's thread, `destroy` excepted. */
struct chr_stream_kind {
	const char *name;
	/* `wait_fd` became readable, or a client has just gone: the descriptor of the next client, which does not
	 * block, or -1. */
	int (*accept)(struct chr_stream *s);
	ssize_t (*send)(int fd, const void *p, size_t n);
	void (*hang_up)(struct chr_stream *s, int fd);
	void (*destroy)(struct chr_stream *s); /* the kind's own; then the struct is freed */
};

struct chr_stream {
	struct chr chr; /* first */
	const struct chr_stream_kind *kind;
	int wait_fd;
	/* the rest is chr_stream.c's */
	int wake[2];
	pthread_t thread;
	bool running;
	struct door *door;
	int sink;
	pthread_mutex_t lock; /* of what follows */
	bool stop, connected, held, refused;
	u8 *out; /* a ring */
	size_t out_at, out_len;
	/* the thread's own */
	int client;
	unsigned retry_ms;
	u8 in[16384];
	size_t in_at, in_len; /* read but not yet accepted by the door */
};

/* Fills in a zeroed struct. -1 with *e; destroy in either case by chr.ops->destroy. */
int chr_stream_init(struct chr_stream *s, const struct chr_stream_kind *kind, struct error *e);

#endif
