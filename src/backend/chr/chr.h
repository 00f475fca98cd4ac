/*
 * Character streams: the host half of a serial port or of a virtio console's
 * port. A backend takes what the guest sends and posts what the host side types
 * through the replay door.
 */
#ifndef ECTYPE_BACKEND_CHR_CHR_H
#define ECTYPE_BACKEND_CHR_CHR_H

#include "base/error.h"
#include "base/types.h"

struct chr;
struct door;

/* The host's end of a stream. */
struct chr_state {
	bool connected; /* somebody is there */
	bool ended;	/* somebody was, and chr_ops.gone is awaited */
	u16 cols, rows; /* of its terminal; 0: not known, or no terminal */
};

struct chr_ops {
	const char *name;
	/* vCPU thread: the guest wrote bytes. Never blocks for long; what does not fit by then is dropped. */
	void (*write)(struct chr *c, const u8 *bytes, size_t n);
	/* Start taking input: bytes go to door_post(door, sink, ...). */
	void (*start)(struct chr *c, struct door *door, int sink);
	void (*stop)(struct chr *c); /* restores the terminal */
	void (*destroy)(struct chr *c);
	/*
	 * The rest is for users that set `changed`. NULL where there is nothing to say.
	 *
	 * send: vCPU thread; like write(), but takes only what there is room for, at once, and returns how much.
	 * After less than `n`, `changed` is called when there is room again. While nobody is connected it takes
	 * all, for nobody. NULL: write() always takes all, at once.
	 */
	size_t (*send)(struct chr *c, const u8 *bytes, size_t n);
	/* Any thread. NULL: connected from the start, for ever. All that a client sent is in the door's queue before
	 * it counts as gone. */
	void (*state)(struct chr *c, struct chr_state *s);
	/* vCPU thread: the user has seen that nobody is connected, and has passed on all input. The next client is let
	 * in only then. */
	void (*gone)(struct chr *c);
	/* vCPU thread: a program of the guest opened its end of a named port, or closed it (at a reset, too). */
	void (*guest_open)(struct chr *c, bool open);
};
struct chr {
	const struct chr_ops *ops;
	/* Set before start() by a user that wants to know, cleared after stop(): called on any thread, without a lock
	 * of the stream held, after what state() says or send() takes has changed. */
	void (*changed)(void *opaque);
	void *opaque;
};

/* What the keys after Ctrl-A ask for. */
struct chr_stdio_actions {
	void (*quit)(void *opaque);   /* Ctrl-A x; any thread */
	void (*engine)(void *opaque); /* Ctrl-A e: the next engine; any thread. NULL: the keys are the guest's */
	void *opaque;
};
/* stdin and stdout; raw mode if stdin is a terminal. Ctrl-A x quits, Ctrl-A h
 * helps, Ctrl-A Ctrl-A sends one. End of file on a stdin that is no terminal
 * is not the end of the machine. One in a process. */
struct chr *chr_stdio_create(const struct chr_stdio_actions *a, struct error *e);
struct chr *chr_file_create(const char *path, struct error *e); /* output only; created new or truncated */
struct chr *chr_unix_create(const char *path, struct error *e); /* listening socket, one client at a time */
struct chr *chr_pty_create(struct error *e);			/* a new pseudo-terminal, in raw mode */
const char *chr_pty_path(const struct chr *c);			/* "/dev/pts/7" */
/* For tests: output is kept in memory. */
struct chr *chr_memory_create(void);
const u8 *chr_memory_data(struct chr *c, size_t *n);

#endif
