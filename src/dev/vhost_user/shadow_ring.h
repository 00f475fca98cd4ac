/*
 * The ring between the monitor and a vhost-user back end.
 *
 * The back end does not get the guest's rings. For each virtqueue the monitor
 * is the driver of a split ring of its own (VIRTIO 1.2, 2.7) in memory shared
 * with the back end: what the guest makes available is popped by
 * dev/virtio/ring.c, which checks it, and submitted here; what comes back used
 * is pushed there. It costs a copy of the descriptors and gives:
 *
 * - Written pages may hold translated code, and engines do not see another
 *   process write. The guest learns of a finished chain by its own used ring
 *   only, whether it waits for the interrupt or looks there by itself; and that
 *   is written after the chain's writable pages were announced
 *   (memory_notify_written()).
 * - No other process touches what the guest accesses with LOCK.
 * - Back ends see no ring that a guest made up, and need no features of rings.
 * - When a back end dies its chains are known and can be given back.
 *
 * The back end is not believed: of the shared memory only used elements are
 * read, each once. Not thread safe; all on the vCPU thread.
 */
#ifndef ECTYPE_DEV_VHOST_USER_SHADOW_RING_H
#define ECTYPE_DEV_VHOST_USER_SHADOW_RING_H

#include "dev/virtio/virtio.h"

#define SHADOW_RING_SIZE 1024 /* descriptors; the longest chain fits: VIRTQ_IOV_MAX */
/* Where its parts lie in its memory, and how much that is. */
#define SHADOW_RING_DESC 0
#define SHADOW_RING_AVAIL 0x4000
#define SHADOW_RING_USED 0x5000
#define SHADOW_RING_BOUNCE 0x8000
#define SHADOW_RING_BYTES 0x18000
#define SHADOW_BOUNCE_MAX 64

struct shadow_ring {
	u8 *mem;  /* SHADOW_RING_BYTES, shared */
	u64 base; /* where that is for the back end */
	u16 avail_next, used_next;
	u16 free_count, free_head;
	unsigned in_flight;			   /* chains */
	u16 next[SHADOW_RING_SIZE];		   /* our own copy of the links */
	struct virtq_buf *chain[SHADOW_RING_SIZE]; /* in flight, by head */
	struct virtq_buf *spare[SHADOW_RING_SIZE]; /* to be used again */
	unsigned spares;
};

/* `mem` stays the caller's; `base` is its address in descriptors. */
void shadow_ring_init(struct shadow_ring *r, void *mem, u64 base);
/* Frees what it holds; chains in flight are forgotten. */
void shadow_ring_free(struct shadow_ring *r);
/* Empty, as the back end finds it at its start. Chains in flight are forgotten. */
void shadow_ring_reset(struct shadow_ring *r);

/* A buffer to pop the next chain into; NULL on lack of memory. It is submitted, or kept for the next call. */
struct virtq_buf *shadow_ring_buffer(struct shadow_ring *r);
/* Is there room for the chain? If not, used chains will make some. */
bool shadow_ring_fits(const struct shadow_ring *r, const struct virtq_buf *b);
/*
 * SHADOW_BOUNCE_MAX bytes of the shared memory that are the next chain's until
 * it is done, for a request that the back end shall see otherwise than the
 * guest wrote it. Not before shadow_ring_fits() was true.
 */
u8 *shadow_ring_bounce(const struct shadow_ring *r);
/*
 * Makes the chain in `b`, from shadow_ring_buffer(), available: it fits and is
 * not empty. Descriptors carry offsets from `ram`, but for what is in the bounce
 * memory. True if the back end wants
 * to be kicked for it.
 */
bool shadow_ring_submit(struct shadow_ring *r, struct virtq_buf *b, const u8 *ram);
/*
 * The next used chain into *b, with the bytes the back end says it wrote, at
 * most b->in_len: 1; 0 if there is none, -1 if the back end broke the ring. To
 * be given to shadow_ring_done().
 */
int shadow_ring_take(struct shadow_ring *r, struct virtq_buf **b, u32 *written);
/* Takes any chain out of flight, whatever the back end does: NULL if there is none. */
struct virtq_buf *shadow_ring_revoke(struct shadow_ring *r);
void shadow_ring_done(struct shadow_ring *r, struct virtq_buf *b);

#endif
