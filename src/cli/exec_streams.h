/* The streams of `ectype exec`: how the command's standard streams reach the host's. */
#ifndef ECTYPE_CLI_EXEC_STREAMS_H
#define ECTYPE_CLI_EXEC_STREAMS_H

#include "base/error.h"
#include "dev/virtio/console.h"

#define EXEC_PORTS 5

struct exec_streams;

/* `over` is called, on any thread, when the command has ended and all it wrote is out, or the user gave up. */
struct exec_streams *exec_streams_create(void (*over)(void *opaque), void *opaque, struct error *e);
/* EXEC_PORTS of them. */
void exec_streams_ports(struct exec_streams *s, struct virtio_console_port *ports);
/* The serial console: its last lines are kept. */
struct chr *exec_streams_serial(struct exec_streams *s);
const char *exec_streams_tty(const struct exec_streams *s);
/*
 * Signal `sig` for the command, from a signal handler. False if it is not for it: the command has not started, or has
 * been sent one before.
 */
bool exec_streams_signal(struct exec_streams *s, int sig);
/* The command's exit status; -1 if it has not ended. */
int exec_streams_status(const struct exec_streams *s);
/* errno if the host would not take all the command wrote; 0 also if the reader went away, which the command learned. */
int exec_streams_error(const struct exec_streams *s);
/* The last lines of the serial console to stderr. */
void exec_streams_print_serial(struct exec_streams *s);
/* Around the machine's run. The terminal, if it is one, is raw; signals and new sizes are passed on. */
void exec_streams_enter(struct exec_streams *s);
void exec_streams_leave(struct exec_streams *s);
/* After the machine is gone; NULL is allowed. */
void exec_streams_destroy(struct exec_streams *s);

#endif
