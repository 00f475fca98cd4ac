/* Locks on ranges of bytes: shared or exclusive, first come first served. */
#ifndef ECTYPE_BACKEND_BLOCK_RANGE_H
#define ECTYPE_BACKEND_BLOCK_RANGE_H

#include <pthread.h>

#include "base/types.h"

struct range { /* the caller's memory, from range_lock() to range_unlock() */
	u64 start, end;
	bool exclusive;
	struct range *next, *prev;
};

struct ranges {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct range *first, *last; /* held and waiting, in the order they came */
};

void ranges_init(struct ranges *rs);
void ranges_destroy(struct ranges *rs);
/* Waits for what came before and is in the way. A thread holds one at most. */
void range_lock(struct ranges *rs, struct range *r, u64 start, u64 end, bool exclusive);
bool range_trylock(struct ranges *rs, struct range *r, u64 start, u64 end, bool exclusive);
void range_unlock(struct ranges *rs, struct range *r); /* from any thread */

#endif
