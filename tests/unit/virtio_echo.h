/*
 * A virtio device for tests of rings and transport: queue 0 echoes at once what
 * it reads, queue 1 keeps up to ECHO_HELD chains until echo_release(), queue 2
 * asks for no kicks. Its configuration: 16 bytes fixed, 8 writable.
 */
#ifndef ECTYPE_TESTS_VIRTIO_ECHO_H
#define ECTYPE_TESTS_VIRTIO_ECHO_H

#include "virtio_rig.h"

#define ECHO_QUEUES 3
#define ECHO_SIZE 256
#define ECHO_HELD 512 /* more than a queue may have out */
#define ECHO_FEATURE BIT(5)

struct echo {
	struct virtio v;
	unsigned kicks, starts, resets, config_writes, config_off, config_size;
	int popped; /* what the last virtq_pop() said */
	unsigned held;
	u16 head[ECHO_HELD];
	struct virtq_buf buf;
};

static struct echo *echo_last; /* the one made last */
/* Called with each chain that was popped, if set. */
static void (*echo_look)(struct echo *d, struct virtq *q);

static inline void echo_reply(struct echo *d, struct virtq *q)
{
	static u8 bytes[65536];
	size_t n = virtq_copy_out(&d->buf, 0, bytes, sizeof(bytes));

	virtq_push(q, &d->buf, virtq_copy_in(&d->buf, 0, bytes, n));
}

static void echo_notify(struct virtio *v, unsigned n)
{
	struct echo *d = container_of(v, struct echo, v);
	struct virtq *q = &v->queue[n];

	d->kicks++;
	if (n == 2)
		virtq_notify_disable(q);
	while (n != 1 || d->held < ECHO_HELD) {
		d->popped = virtq_pop(q, &d->buf);
		if (d->popped <= 0)
			break;
		if (echo_look)
			echo_look(d, q);
		if (n == 1)
			d->head[d->held++] = d->buf.head;
		else
			echo_reply(d, q);
	}
	virtq_signal(q);
}

/* Answers what queue 1 holds. */
static inline void echo_release(struct echo *d)
{
	struct virtq *q = &d->v.queue[1];

	for (unsigned i = 0; i < d->held; i++)
		if (virtq_get(q, d->head[i], &d->buf) == 0)
			echo_reply(d, q);
	d->held = 0;
	virtq_signal(q);
}

static void echo_start(struct virtio *v)
{
	container_of(v, struct echo, v)->starts++;
}
static void echo_reset(struct virtio *v)
{
	struct echo *d = container_of(v, struct echo, v);

	d->resets++;
	d->held = 0;
}
static void echo_config_written(struct virtio *v, unsigned off, unsigned size)
{
	struct echo *d = container_of(v, struct echo, v);

	assert(off < v->config_len && size && size <= v->config_len - off);
	d->config_writes++;
	d->config_off = off;
	d->config_size = size;
}

static void echo_save(const struct virtio *v, struct encoder *e)
{
	const struct echo *d = container_of(v, struct echo, v);

	enc_begin(e, "echo", 1);
	enc_u16(e, d->held);
	for (unsigned i = 0; i < d->held; i++)
		enc_u16(e, d->head[i]);
	enc_end(e);
}
static int echo_check(const struct virtio *v, struct decoder *in)
{
	struct decoder i;
	unsigned n;

	if (!dec_begin(in, "echo", &i) || i.version != 1 || (n = dec_u16(&i)) > ECHO_HELD)
		return -1;
	while (n--)
		dec_u16(&i);
	return dec_done(&i) ? 0 : -1;
}
static void echo_load(struct virtio *v, struct decoder *in)
{
	struct echo *d = container_of(v, struct echo, v);
	struct decoder i;

	dec_begin(in, "echo", &i);
	d->held = dec_u16(&i);
	for (unsigned n = 0; n < d->held; n++)
		d->head[n] = dec_u16(&i);
}
static void echo_destroy(struct virtio *v)
{
	free(container_of(v, struct echo, v));
}

static const struct virtio_ops echo_ops = {
	.name = "virtio-echo",
	.id = VIRTIO_ID_CONSOLE,
	.pci_class = 0x078000,
	.reset = echo_reset,
	.start = echo_start,
	.notify = echo_notify,
	.config_written = echo_config_written,
	.save = echo_save,
	.check = echo_check,
	.load = echo_load,
	.destroy = echo_destroy,
};

static inline int echo_create(struct rig *r, struct pci_bus *bus)
{
	struct echo *d = calloc(1, sizeof(*d));

	d->v.ops = &echo_ops;
	d->v.offered = ECHO_FEATURE;
	d->v.config_len = 24;
	for (unsigned i = 0; i < 24; i++)
		d->v.config[i] = 0xa0 + i;
	memset(d->v.config_wmask + 16, 0xff, 8);
	d->v.queues = ECHO_QUEUES;
	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		d->v.queue[i].size_max = ECHO_SIZE;
	echo_last = d;
	return virtio_pci_create(&r->board, bus, VRIG_SLOT, &d->v);
}

#endif
