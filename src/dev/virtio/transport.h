/* What the common half of virtio, the rings and the transport share; no device needs it. */
#ifndef ECTYPE_DEV_VIRTIO_TRANSPORT_H
#define ECTYPE_DEV_VIRTIO_TRANSPORT_H

#include "dev/virtio/virtio.h"

#define VIRTIO_NO_VECTOR 0xffff

/* virtio.c */

/* Everything a driver set is forgotten (2.4). */
void virtio_reset(struct virtio *v);
/* The driver writes the status field; `features`: what it has acknowledged. */
void virtio_set_status(struct virtio *v, u8 status, u64 features);
/* The driver enables a queue it has set up: checks size, alignment and that the rings are in RAM (2.7), else the
 * device is broken. Nothing if it is enabled already. */
void virtio_queue_enable(struct virtq *q);
void virtio_kick(struct virtio *v, unsigned q);
/* [off, off + size), size at most 4; beyond the configuration space reads are 0. */
u32 virtio_config_read(const struct virtio *v, unsigned off, unsigned size);
void virtio_config_write(struct virtio *v, unsigned off, u32 val, unsigned size);
/* Records without sections of their own. */
void virtio_save(const struct virtio *v, struct encoder *e);
bool virtio_check(const struct virtio *v, struct decoder *in);
void virtio_load(struct virtio *v, struct decoder *in);

/* ring.c */

/* Bytes of the three parts of a split ring of `size` (2.7). */
static inline u32 virtq_desc_bytes(unsigned size)
{
	return 16 * size;
}
static inline u32 virtq_avail_bytes(unsigned size)
{
	return 6 + 2 * size;
}
static inline u32 virtq_used_bytes(unsigned size)
{
	return 6 + 8 * size;
}

/* virtio_pci.c */

void virtio_pci_interrupt_queue(struct virtq *q);
void virtio_pci_interrupt_config(struct virtio *v);

#endif
