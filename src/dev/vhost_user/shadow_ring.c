/* The driver's side of a split ring (VIRTIO 1.2, 2.7.13 and 2.7.14); see shadow_ring.h. */
#include "dev/vhost_user/shadow_ring.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define DESC_NEXT 1
#define DESC_WRITE 2
#define USED_NO_NOTIFY 1

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};
struct avail {
	u16 flags, idx, ring[SHADOW_RING_SIZE];
};
struct used {
	u16 flags, idx;
	struct {
		u32 id, len;
	} ring[SHADOW_RING_SIZE];
};

_Static_assert(SHADOW_RING_SIZE >= VIRTQ_IOV_MAX, "every chain fits into an empty ring");
_Static_assert(SHADOW_RING_DESC + SHADOW_RING_SIZE * sizeof(struct desc) <= SHADOW_RING_AVAIL, "parts are apart");
_Static_assert(SHADOW_RING_AVAIL + sizeof(struct avail) + 2 <= SHADOW_RING_USED, "parts are apart");
_Static_assert(SHADOW_RING_USED + sizeof(struct used) + 2 <= SHADOW_RING_BOUNCE, "parts are apart");
_Static_assert(SHADOW_RING_BOUNCE + SHADOW_RING_SIZE * SHADOW_BOUNCE_MAX <= SHADOW_RING_BYTES, "parts are apart");

static struct desc *descs(const struct shadow_ring *r)
{
	return (void *)(r->mem + SHADOW_RING_DESC);
}
static struct avail *avail(const struct shadow_ring *r)
{
	return (void *)(r->mem + SHADOW_RING_AVAIL);
}
static struct used *used(const struct shadow_ring *r)
{
	return (void *)(r->mem + SHADOW_RING_USED);
}

void shadow_ring_init(struct shadow_ring *r, void *mem, u64 base)
{
	memset(r, 0, sizeof(*r));
	r->mem = mem;
	r->base = base;
	shadow_ring_reset(r);
}

void shadow_ring_reset(struct shadow_ring *r)
{
	struct virtq_buf *b;

	while ((b = shadow_ring_revoke(r)))
		shadow_ring_done(r, b);
	memset(r->mem, 0, SHADOW_RING_BYTES);
	r->avail_next = r->used_next = 0;
	r->free_head = 0;
	r->free_count = SHADOW_RING_SIZE;
	for (unsigned i = 0; i < SHADOW_RING_SIZE; i++)
		r->next[i] = (u16)((i + 1) % SHADOW_RING_SIZE);
}

void shadow_ring_free(struct shadow_ring *r)
{
	struct virtq_buf *b;

	while ((b = shadow_ring_revoke(r)))
		shadow_ring_done(r, b);
	while (r->spares)
		free(r->spare[--r->spares]);
}

struct virtq_buf *shadow_ring_buffer(struct shadow_ring *r)
{
	if (!r->spares) {
		/* large, but only what a chain needs of it is touched */
		struct virtq_buf *b = malloc(sizeof(*b));

		if (!b)
			return NULL;
		r->spare[r->spares++] = b;
	}
	return r->spare[r->spares - 1];
}

bool shadow_ring_fits(const struct shadow_ring *r, const struct virtq_buf *b)
{
	return b->out_n + b->in_n <= r->free_count;
}

u8 *shadow_ring_bounce(const struct shadow_ring *r)
{
	return r->mem + SHADOW_RING_BOUNCE + r->free_head * SHADOW_BOUNCE_MAX;
}

static u64 address(const struct shadow_ring *r, const u8 *p, const u8 *ram)
{
	return p >= r->mem && p < r->mem + SHADOW_RING_BYTES ? r->base + (u64)(p - r->mem) : (u64)(p - ram);
}

bool shadow_ring_submit(struct shadow_ring *r, struct virtq_buf *b, const u8 *ram)
{
	unsigned n = b->out_n + b->in_n, i = r->free_head;
	u16 head = r->free_head;

	assert(n && n <= r->free_count && r->spares && r->spare[r->spares - 1] == b);
	r->spares--;
	for (unsigned k = 0; k < n; k++) {
		descs(r)[i] = (struct desc){
			.addr = address(r, b->iov[k].iov_base, ram),
			.len = (u32)b->iov[k].iov_len,
			.flags = (u16)((k < b->out_n ? 0 : DESC_WRITE) | (k + 1 < n ? DESC_NEXT : 0)),
			.next = r->next[i],
		};
		i = r->next[i];
	}
	r->free_head = (u16)i;
	r->free_count -= (u16)n;
	r->chain[head] = b;
	r->in_flight++;
	avail(r)->ring[r->avail_next % SHADOW_RING_SIZE] = head;
	__atomic_store_n(&avail(r)->idx, ++r->avail_next, __ATOMIC_RELEASE);
	/* the back end sees the chain before its wish is read */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !(__atomic_load_n(&used(r)->flags, __ATOMIC_RELAXED) & USED_NO_NOTIFY);
}

/* Takes the chain at `head` out of flight and frees its descriptors. */
static struct virtq_buf *retire(struct shadow_ring *r, u32 head)
{
	struct virtq_buf *b = r->chain[head];
	unsigned n = b->out_n + b->in_n, last = head;

	for (unsigned k = 1; k < n; k++)
		last = r->next[last];
	r->next[last] = r->free_head;
	r->free_head = (u16)head;
	r->free_count += (u16)n;
	r->chain[head] = NULL;
	r->in_flight--;
	return b;
}

int shadow_ring_take(struct shadow_ring *r, struct virtq_buf **b, u32 *written)
{
	u16 idx = __atomic_load_n(&used(r)->idx, __ATOMIC_ACQUIRE);
	unsigned slot = r->used_next % SHADOW_RING_SIZE;
	u32 id, len;

	if (idx == r->used_next)
		return 0;
	id = __atomic_load_n(&used(r)->ring[slot].id, __ATOMIC_RELAXED);
	len = __atomic_load_n(&used(r)->ring[slot].len, __ATOMIC_RELAXED);
	if (id >= SHADOW_RING_SIZE || !r->chain[id])
		return -1;
	r->used_next++;
	*b = retire(r, id);
	*written = MIN(len, (*b)->in_len);
	return 1;
}

struct virtq_buf *shadow_ring_revoke(struct shadow_ring *r)
{
	for (unsigned i = 0; r->in_flight && i < SHADOW_RING_SIZE; i++) {
		if (r->chain[i])
			return retire(r, i);
	}
	return NULL;
}

void shadow_ring_done(struct shadow_ring *r, struct virtq_buf *b)
{
	assert(r->spares < SHADOW_RING_SIZE);
	r->spare[r->spares++] = b;
}
