/*
 * The witness of a protected machine (docs/protect.md): a file that primary and
 * standby both see. Whoever has lost the other claims it, and goes on only if
 * he was the first; so that there are never two.
 *
 * The file holds a line, "ID -", "ID primary" or "ID standby", and is changed
 * under a lock (fcntl: file systems that are shared must have those).
 */
#ifndef ECTYPE_CTL_WITNESS_H
#define ECTYPE_CTL_WITNESS_H

#include "base/error.h"
#include "base/types.h"

#define WITNESS_ID_LEN 16u

enum witness_side { WITNESS_PRIMARY, WITNESS_STANDBY };

/* Opens `path`, with `create` a new one if there is none. The descriptor, or -1 with *e. */
int witness_open(const char *path, bool create, struct error *e);
/* An empty file becomes one for `id`. 0; or -1 with *e: it is somebody else's, cannot be locked or written. */
int witness_prepare(int fd, const u8 id[WITNESS_ID_LEN], struct error *e);
/* Is it prepared for `id`, with nobody's claim? 0, or -1 with *e. */
int witness_look(int fd, const u8 id[WITNESS_ID_LEN], struct error *e);
/* 1: it is the caller's; 0: the other was first; -1 with *e: it cannot be known. Allowed in the jail. */
int witness_claim(int fd, const u8 id[WITNESS_ID_LEN], enum witness_side side, struct error *e);
/* Nobody needs it any more: it is empty again. */
void witness_clear(int fd);

#endif
