/* A buffer is filled at once, up to REQUEST_MAX bytes, so that one kick keeps the processor no longer than 1 ms. */
#include "dev/virtio/rng.h"

#include <stdlib.h>

#include "replay/door.h"

#define REQUEST_MAX 4096
#define QUEUE_SIZE 64

struct rng {
	struct virtio v;
	struct virtq_buf buf;
};

static u32 fill(struct rng *r)
{
	const struct virtq_buf *b = &r->buf;
	u32 left = REQUEST_MAX;

	for (unsigned i = b->out_n; left && i < b->out_n + b->in_n; i++) {
		u32 n = MIN(left, b->iov[i].iov_len);

		door_random(r->v.board->door, b->iov[i].iov_base, n);
		left -= n;
	}
	return REQUEST_MAX - left;
}

static void rng_notify(struct virtio *v, unsigned n)
{
	struct rng *r = container_of(v, struct rng, v);
	struct virtq *q = &v->queue[n];

	while (virtq_pop(q, &r->buf) > 0)
		virtq_push(q, &r->buf, fill(r));
	virtq_signal(q);
}

static void rng_reset(struct virtio *v) {}

static void rng_destroy(struct virtio *v)
{
	free(container_of(v, struct rng, v));
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_ENTROPY,
	.pci_class = 0x00ff00, /* no class fits */
	.reset = rng_reset,
	.notify = rng_notify,
	.destroy = rng_destroy,
};

int virtio_rng_create(struct board *b, struct pci_bus *bus, unsigned slot)
{
	struct rng *r = calloc(1, sizeof(*r));

	if (!r)
		return -1;
	r->v.ops = &rng_ops;
	r->v.queues = 1;
	r->v.queue[0].size_max = QUEUE_SIZE;
	if (virtio_pci_create(b, bus, slot, &r->v) == 0)
		return 0;
	free(r);
	return -1;
}
