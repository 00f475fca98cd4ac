/*
 * A small file that a device writes through: the variables of firmware.
 *
 * Each write is in the file when the call returns, in order, so whatever ends
 * the process leaves the file as losing power at that point leaves a flash
 * chip. nvram_sync() makes it survive the host's end too.
 */
#ifndef ECTYPE_BACKEND_NVRAM_NVRAM_H
#define ECTYPE_BACKEND_NVRAM_NVRAM_H

#include "base/error.h"
#include "base/types.h"

struct nvram;

/* Changes nothing: `path` is a regular file of exactly `size` bytes that can be written, or (with `create`) does not
 * exist in a directory that does. 0, or -1 with *e. */
int nvram_check(const char *path, u64 size, bool create, struct error *e);
enum nvram_flag {
	NVRAM_CREATE = 1 << 0,
	NVRAM_UNLOCKED = 1 << 1, /* another machine has it still: nvram_relock() comes before the first write */
};
/*
 * Opens and locks `path` and reads its `size` bytes into `content`; if there is
 * none and NVRAM_CREATE, makes it from what `content` holds (all of it or
 * nothing is there, whenever the process ends). NULL with *e.
 */
struct nvram *nvram_open(const char *path, u8 *content, u64 size, unsigned flags, struct error *e);
/* 0 or an errno value. Said once in the log. */
int nvram_write(struct nvram *n, u64 off, const u8 *bytes, size_t len);
/* Another machine may have the file, until it is locked again: 0, or -1 with *e. */
void nvram_unlock(struct nvram *n);
int nvram_relock(struct nvram *n, struct error *e);
void nvram_sync(struct nvram *n);
void nvram_close(struct nvram *n); /* syncs; NULL is allowed */

#endif
