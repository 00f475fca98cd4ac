/* The control socket of a machine that this process runs. */
#ifndef ECTYPE_CLI_CONTROL_SOCKET_H
#define ECTYPE_CLI_CONTROL_SOCKET_H

#include "ctl/rundir.h"
#include "machine/machine.h"
#include "state/codec.h"

struct chr;
struct arrival;
struct ctl;

struct control_socket {
	int fd; /* -1: none */
	char path[CTL_PATH_MAX], name[CTL_NAME_MAX + 1];
	char *cwd;		 /* when the socket was opened; NULL: not known */
	struct encoder options;	 /* saved_options_write(), for ectype snapshot; empty: the machine cannot be saved */
	struct chr *mux;	 /* the stream that ectype console attaches to; NULL: none */
	struct arrival *arrival; /* the machine came by migration (ctl/arrival.h); NULL: it did not */
	struct ctl *ctl;
};

/*
 * Listens as machine `name`, or if that is NULL as "KIND-PID". 0 also if there can be no socket, for a machine runs
 * without one as well: then *why says why (else it is empty). -1 with *e: a living machine has the name.
 */
int control_socket_open(struct control_socket *c, const char *name, const char *kind, struct error *why,
			struct error *e);
/* Puts a mux in front of *stream, if that is one, for ectype console. */
void control_socket_mux(struct control_socket *c, struct chr **stream);
/* Answers clients from now on: after the jail is locked, before machine_run(). Says so on stderr if it cannot. */
void control_socket_start(struct control_socket *c, struct machine *m);
/* After machine_run(), before anything else happens to the machine. */
void control_socket_stop(struct control_socket *c);
/* Also after one that was never opened, with `fd` -1. */
void control_socket_close(struct control_socket *c);

#endif
