/*
 * Character streams: the host half of a serial port. A backend writes what
 * the guest sends and posts what the host side types through the replay door.
 */
#ifndef ECTYPE_BACKEND_CHR_CHR_H
#define ECTYPE_BACKEND_CHR_CHR_H

#include "base/error.h"
#include "base/types.h"

struct chr;
struct door;

struct chr_ops {
	const char *name;
	/* vCPU thread: the guest wrote bytes. Never blocks for long. */
	void (*write)(struct chr *c, const u8 *bytes, size_t n);
	/* Start taking input: bytes go to door_post(door, sink, ...). */
	void (*start)(struct chr *c, struct door *door, int sink);
	void (*stop)(struct chr *c); /* restores the terminal */
	void (*destroy)(struct chr *c);
};
struct chr {
	const struct chr_ops *ops;
};

/* What the keys after Ctrl-A ask for. */
struct chr_stdio_actions {
	void (*quit)(void *opaque); /* Ctrl-A x; any thread */
	void *opaque;
};
/* stdin and stdout; raw mode if stdin is a terminal. Ctrl-A x quits, Ctrl-A h
 * helps, Ctrl-A Ctrl-A sends one. End of file on a stdin that is no terminal
 * is not the end of the machine. */
struct chr *chr_stdio_create(const struct chr_stdio_actions *a, struct error *e);
struct chr *chr_file_create(const char *path, struct error *e); /* output only; created new or truncated */
struct chr *chr_unix_create(const char *path, struct error *e); /* listening socket, one client at a time */
/* For tests: output is kept in memory. */
struct chr *chr_memory_create(void);
const u8 *chr_memory_data(struct chr *c, size_t *n);

#endif
