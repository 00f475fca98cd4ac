/*
 * A process `ectype-keeper` that makes files and, when this one ends in
 * whatever way, removes those it has made; unless it was told before that they
 * are to stay. So there is no moment at which a file is left behind.
 */
#ifndef ECTYPE_CLI_FILE_KEEPER_H
#define ECTYPE_CLI_FILE_KEEPER_H

#include "base/companion.h"

#define FILE_KEEPER_MAX 255u

/* It may make the `n` files of path[]. While there is one thread. 0, or -1 with *e. companion_finish() ends it. */
int file_keeper_start(struct companion *c, const char *const *path, unsigned n, struct error *e);
/* Makes path[i], which must not be there, empty, mode 0600. A descriptor to read and write it, or -1 with *e: the
 * host's reason alone. */
int file_keeper_make(struct companion *c, unsigned i, struct error *e);
/* The files stay: a byte of 0 over companion.fd, which others may send as well. */
void file_keeper_stay(struct companion *c);

#endif
