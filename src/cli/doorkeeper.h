/* TLS in front of a receiver: a process that listens, greets, and passes each connection on as a plain socket; the
 * jailed monitor sees no keys. */
#ifndef ECTYPE_CLI_DOORKEEPER_H
#define ECTYPE_CLI_DOORKEEPER_H

#include "base/companion.h"
#include "cli/secure_link.h"

/* Listens at `t`, and serves each connection by link_serve(). c->fd is for listen_next(); *port as migrate_listen().
 * While there is one thread. 0, or -1 with *e.
 */
int doorkeeper_start(struct companion *c, const struct migrate_target *t, enum link_end end, u16 *port,
		     struct error *e);

#endif
