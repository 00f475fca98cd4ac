/*
 * RAM as it is at one moment, read piece by piece while the guest goes on:
 * what it writes meanwhile is copied first (mem/track.h). Where the engine
 * cannot tell before it writes (kvm) the machine has to be held instead.
 */
#ifndef ECTYPE_CTL_RAM_COPY_H
#define ECTYPE_CTL_RAM_COPY_H

#include "machine/machine.h"

struct ram_copy;

/* The moment is this one. On the vCPU thread, devices quiesced. NULL on lack of memory. */
struct ram_copy *ram_copy_start(struct machine *m);
/* The guest may go on. */
bool ram_copy_background(const struct ram_copy *c);
/* The first frame at or behind offset `at` that may hold something, as an offset; the size of RAM: none. */
u64 ram_copy_next(struct ram_copy *c, u64 at);
/* What frame `at` held. Each frame once. */
void ram_copy_read(struct ram_copy *c, u64 at, u8 page[PAGE_SIZE]);
/* Any thread but the vCPU's. NULL is allowed. */
void ram_copy_end(struct ram_copy *c);

#endif
