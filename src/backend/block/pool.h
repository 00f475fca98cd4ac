/* A pool of threads that run items of work, first come first served. */
#ifndef ECTYPE_BACKEND_BLOCK_POOL_H
#define ECTYPE_BACKEND_BLOCK_POOL_H

#include "base/types.h"

struct pool;

/* `run` is called once for each item, on a thread of the pool. Threads start when work comes, `max` at most.
 * NULL: out of memory. */
struct pool *pool_create(unsigned max, void (*run)(void *opaque, void *item), void *opaque);
/* Any thread. Where the host gives no memory or no thread, `run` is called at once, here. */
void pool_put(struct pool *p, void *item);
/* Waits for all items. NULL is allowed. */
void pool_destroy(struct pool *p);

#endif
