/*
 * Giving memory back to the host later. munmap() of what holds many pages
 * takes milliseconds; where nobody is to wait for that, mappings are put on a
 * list, and a thread unmaps them afterwards.
 */
#ifndef ECTYPE_BASE_RECLAIM_H
#define ECTYPE_BASE_RECLAIM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct reclaim_item;
/* All zero: nothing to give back. Of one thread at a time. */
struct reclaim {
	struct reclaim_item *items;
	pthread_t thread;
	bool running; /* `thread`, which has the items */
};

/* The mapping is the caller's no longer: whole pages, from mmap(). With `r` NULL, or without memory for the list, it is
 * unmapped at once. */
void reclaim_later(struct reclaim *r, void *map, size_t size);
/* Begins to unmap what is on the list; returns at once, or when all is done if no thread can be had. */
void reclaim_start(struct reclaim *r);
/* Waits until what reclaim_start() began is done. */
void reclaim_wait(struct reclaim *r);

#endif
