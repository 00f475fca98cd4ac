/*
 * TLS between two monitors. They are jailed, and see neither the network nor
 * keys: a process of its own at each side has the connection, and passes its
 * bytes on to a plain socket, which is the monitor's.
 */
#ifndef ECTYPE_CLI_SECURE_LINK_H
#define ECTYPE_CLI_SECURE_LINK_H

#include "cli/migrate_target.h"

/*
 * What a monitor makes of the end of its plain socket. LINK_PLAIN: the connection is lost. LINK_MEANT: its end means
 * that the other monitor is dead, so only one that the other side's process has told, over TLS, is passed on; after any
 * other the socket stays open, and nothing comes.
 */
enum link_end { LINK_PLAIN, LINK_MEANT };

/* Greets at `sock`, passes a plain socket over `fd` (fd_pass()) or sends a line of what is wrong, and serves until it
 * is over. Both descriptors are closed then. */
void link_serve(int fd, int sock, const struct tls_files *t, bool server, enum link_end end);

/* A socket for the monitor that leads to `t`, LINK_MEANT; with TLS through a process `ectype-link`, which ends with it.
 * While there is one thread. A descriptor, or -1 with *e. */
int link_connect(const struct migrate_target *t, struct error *e);

#endif
