/*
 * A character stream that lets a terminal attach to it while the machine runs
 * (ectype console). What the guest writes goes to the stream beneath and to
 * the terminal, what either types goes to the guest. One terminal at a time.
 */
#ifndef ECTYPE_BACKEND_CHR_CHR_MUX_H
#define ECTYPE_BACKEND_CHR_CHR_MUX_H

#include "backend/chr/chr.h"

/* `inner` becomes the mux's own. NULL with *e, then it stays the caller's. */
struct chr *chr_mux_create(struct chr *inner, struct error *e);

/*
 * Any thread. Attaches the terminal behind `fd`, a socket that does not block; `typed` are `n` bytes that it sent
 * already. It first gets what the guest wrote last. close(opaque) is called, on another thread, when the terminal has
 * gone or the stream is stopped, and `fd` is not used any more. -1: the stream is not started, somebody is attached, or
 * there is no memory or thread; `fd` is still the caller's.
 */
int chr_mux_attach(struct chr *c, int fd, const char *typed, size_t n, void (*close)(void *), void *opaque);
bool chr_mux_attached(struct chr *c);
/* Any thread but the vCPU's: the terminal that is attached, if any, has gone when this returns. */
void chr_mux_detach(struct chr *c);

#endif
