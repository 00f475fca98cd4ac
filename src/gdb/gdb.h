/* The gdb remote protocol over TCP (localhost) or a unix socket. */
#ifndef ECTYPE_GDB_GDB_H
#define ECTYPE_GDB_GDB_H

#include "machine/machine.h"

struct gdb;

/* `where`: a port number 1..65535 (on 127.0.0.1) or "unix:PATH". Listens and
 * attaches to the machine, which then waits for a client before its first
 * instruction. NULL with *e (port in use, bad number ...). Before machine_run. */
struct gdb *gdb_create(struct machine *m, const char *where, struct error *e);
void gdb_destroy(struct gdb *g); /* after machine_run has returned; NULL is allowed */
/* Checks `where` and reserves the socket without a machine (so that bad input
 * fails before anything is built): returns a descriptor or -1 with *e. */
int gdb_listen(const char *where, struct error *e);
/* Owns listen_fd, also when it fails. Machine and processors must exist. */
struct gdb *gdb_create_fd(struct machine *m, int listen_fd, const char *where, struct error *e);

#endif
