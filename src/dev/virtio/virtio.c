/* Status, features, configuration and state of a virtio device, whatever the transport. */
#include "dev/virtio/virtio.h"

#include <string.h>

#include "base/log.h"
#include "dev/virtio/transport.h"

/* What a driver may set of the status field. */
#define STATUS_DRIVER (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK | VIRTIO_FAILED)

void virtio_config_changed(struct virtio *v)
{
	v->generation++;
	if (v->status & VIRTIO_DRIVER_OK)
		virtio_pci_interrupt_config(v);
}

void virtio_broken(struct virtio *v, const char *why)
{
	if (v->status & VIRTIO_NEEDS_RESET)
		return;
	log_debug("virtio", "%s: %s; the device waits for a reset", v->ops->name, why);
	v->status |= VIRTIO_NEEDS_RESET;
	if (v->status & VIRTIO_DRIVER_OK)
		virtio_pci_interrupt_config(v);
}

static void queue_reset(struct virtq *q)
{
	*q = (struct virtq){
		.dev = q->dev,
		.index = q->index,
		.size_max = q->size_max,
		.size = q->size_max,
		.vector = VIRTIO_NO_VECTOR,
	};
}

void virtio_reset(struct virtio *v)
{
	/* not running from here on: what the device gives up reaches no ring */
	v->status = 0;
	v->ops->reset(v);
	v->features = 0;
	for (unsigned i = 0; i < v->queues; i++)
		queue_reset(&v->queue[i]);
}

void virtio_set_status(struct virtio *v, u8 status, u64 features)
{
	u8 added = status & STATUS_DRIVER & ~v->status;

	if (added & VIRTIO_FEATURES_OK) {
		/* a driver of the legacy interface is none of ours (6.1) */
		if ((features & ~v->offered) || !(features & VIRTIO_F_VERSION_1))
			added &= ~VIRTIO_FEATURES_OK;
		else
			v->features = features;
	}
	if (!((v->status | added) & VIRTIO_FEATURES_OK))
		added &= ~VIRTIO_DRIVER_OK;
	v->status |= added;
	if ((added & VIRTIO_DRIVER_OK) && virtio_running(v) && v->ops->start)
		v->ops->start(v);
}

static bool queue_sound(const struct virtq *q)
{
	return q->size && !(q->size & (q->size - 1)) && q->size <= q->size_max && !(q->desc & 15) && !(q->avail & 1) &&
	       !(q->used & 3);
}

void virtio_queue_enable(struct virtq *q)
{
	struct memory *m = q->dev->board->mem;

	if (q->enabled)
		return;
	if (!(q->dev->status & VIRTIO_FEATURES_OK))
		virtio_broken(q->dev, "a queue is enabled before the features are agreed on");
	else if (!queue_sound(q))
		virtio_broken(q->dev, "a queue has a bad size or alignment");
	else if (!memory_ptr(m, q->desc, virtq_desc_bytes(q->size), false) ||
		 !memory_ptr(m, q->avail, virtq_avail_bytes(q->size), false) ||
		 !memory_ptr(m, q->used, virtq_used_bytes(q->size), true))
		virtio_broken(q->dev, "a queue is not in RAM");
	else
		q->enabled = true;
}

void virtio_kick(struct virtio *v, unsigned q)
{
	if (q < v->queues && v->queue[q].enabled && virtio_running(v) && v->master)
		v->ops->notify(v, q);
}

u32 virtio_config_read(const struct virtio *v, unsigned off, unsigned size)
{
	u32 val = 0;

	for (unsigned i = 0; i < size && off + i < v->config_len; i++)
		val |= (u32)v->config[off + i] << 8 * i;
	return val;
}

void virtio_config_write(struct virtio *v, unsigned off, u32 val, unsigned size)
{
	if (off >= v->config_len || size > v->config_len - off)
		return;
	for (unsigned i = 0; i < size; i++) {
		u8 mask = v->config_wmask[off + i];

		v->config[off + i] = (v->config[off + i] & ~mask) | (val >> 8 * i & mask);
	}
	if (v->ops->config_written)
		v->ops->config_written(v, off, size);
}

/* ---- state ---- */

static void queue_save(const struct virtq *q, struct encoder *e)
{
	enc_u16(e, q->size);
	enc_bool(e, q->enabled);
	enc_u64(e, q->desc);
	enc_u64(e, q->avail);
	enc_u64(e, q->used);
	enc_u16(e, q->vector);
	enc_u16(e, q->avail_next);
	enc_u16(e, q->used_next);
	enc_u16(e, q->signalled);
	enc_bool(e, q->signalled_valid);
	enc_bool(e, q->no_notify);
}

/* `q` gives what is fixed. */
static void queue_decode(struct virtq *q, struct decoder *in)
{
	q->size = dec_u16(in);
	q->enabled = dec_bool(in);
	q->desc = dec_u64(in);
	q->avail = dec_u64(in);
	q->used = dec_u64(in);
	q->vector = dec_u16(in);
	q->avail_next = dec_u16(in);
	q->used_next = dec_u16(in);
	q->signalled = dec_u16(in);
	q->signalled_valid = dec_bool(in);
	q->no_notify = dec_bool(in);
}

static bool queue_check(const struct virtq *q, struct decoder *in)
{
	struct virtq saved = *q;

	queue_decode(&saved, in);
	return !saved.enabled || (queue_sound(&saved) && (u16)(saved.avail_next - saved.used_next) <= saved.size);
}

void virtio_save(const struct virtio *v, struct encoder *e)
{
	enc_u8(e, v->status);
	enc_u8(e, v->generation);
	enc_u64(e, v->features);
	enc_bytes(e, v->config, v->config_len);
	for (unsigned i = 0; i < v->queues; i++)
		queue_save(&v->queue[i], e);
}

bool virtio_check(const struct virtio *v, struct decoder *in)
{
	u8 status = dec_u8(in);
	bool sound = !(status & ~(STATUS_DRIVER | VIRTIO_NEEDS_RESET));
	u64 features;

	if ((status & VIRTIO_DRIVER_OK) && !(status & VIRTIO_FEATURES_OK))
		sound = false;
	dec_u8(in);
	features = dec_u64(in);
	if ((features & ~v->offered) || ((status & VIRTIO_FEATURES_OK) && !(features & VIRTIO_F_VERSION_1)))
		sound = false;
	for (unsigned i = 0; i < v->config_len; i++)
		dec_u8(in);
	for (unsigned i = 0; i < v->queues; i++)
		sound &= queue_check(&v->queue[i], in);
	return sound && !in->failed;
}

void virtio_load(struct virtio *v, struct decoder *in)
{
	v->status = dec_u8(in);
	v->generation = dec_u8(in);
	v->features = dec_u64(in);
	dec_bytes(in, v->config, v->config_len);
	for (unsigned i = 0; i < v->queues; i++)
		queue_decode(&v->queue[i], in);
}
