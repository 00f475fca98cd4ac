#include "base/reclaim.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/thread.h"
#include "base/types.h"

/* Page faults of other threads go on while pages are given back, and wait while a mapping goes. In pieces, and of huge
 * mappings with little in them in few. */
#define PIECE (1 * MiB)
#define PIECES 64u

struct reclaim_item {
	struct reclaim_item *next;
	void *map;
	size_t size;
};

void reclaim_later(struct reclaim *r, void *map, size_t size)
{
	struct reclaim_item *i = r ? malloc(sizeof(*i)) : NULL;

	if (!i) {
		munmap(map, size);
		return;
	}
	*i = (struct reclaim_item){ .next = r->items, .map = map, .size = size };
	r->items = i;
}

static void unmap(const struct reclaim_item *i)
{
	size_t piece = MAX(PIECE, (i->size / PIECES + PAGE_SIZE) & PAGE_MASK);

	for (size_t at = 0; at < i->size; at += piece)
		madvise((u8 *)i->map + at, MIN(piece, i->size - at), MADV_DONTNEED);
	munmap(i->map, i->size);
}

static void *unmap_all(void *items)
{
	struct reclaim_item *i = items, *next;

	for (; i; i = next) {
		next = i->next;
		unmap(i);
		free(i);
	}
	return NULL;
}

void reclaim_start(struct reclaim *r)
{
	struct reclaim_item *items = r->items;

	if (!items)
		return;
	reclaim_wait(r);
	r->items = NULL;
	r->running = !thread_start(&r->thread, unmap_all, items);
	if (!r->running)
		unmap_all(items);
}

void reclaim_wait(struct reclaim *r)
{
	if (r->running)
		pthread_join(r->thread, NULL);
	r->running = false;
}
