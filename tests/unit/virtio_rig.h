/*
 * A virtio driver for tests of devices, on dev_rig.h: a q35 bus with the
 * device in slot VRIG_SLOT, its BAR mapped, and what a driver does: features,
 * queues in guest RAM, chains, kicks, the used ring.
 *
 *	struct rig *r = rig_create();
 *
 *	vrig_init(r, create);			create: calls the device's constructor
 *	vrig_start(r, FEATURES, 1, 16);		1 queue of 16
 *	vrig_add(r, 0, (struct vseg[]){ { a, 16, false }, { b, 512, true } }, 2);
 *	vrig_kick(r, 0);
 *	vrig_used(r, 0, &id, &len);
 *
 * Guest RAM is the rig's 2 MiB; vrig_alloc() gives parts of it, from 64 KiB
 * on, which vrig_start() takes back. Vectors: 0 configuration, 1 + n queue n;
 * their messages have the vector as data, so r->msi_of[1 + n] counts them.
 */
#ifndef ECTYPE_TESTS_VIRTIO_RIG_H
#define ECTYPE_TESTS_VIRTIO_RIG_H

#include "dev_rig.h"
#include "dev/pci/q35.h"
#include "dev/virtio/virtio.h"

#define VRIG_SLOT 3
#define VRIG_LINE (16 + VRIG_SLOT) /* of INTA#, in r->level[] */
#define VRIG_BAR 0xe0000000u
/* parts of the BAR */
#define VRIG_COMMON 0x0000
#define VRIG_ISR 0x1000
#define VRIG_CONFIG 0x2000
#define VRIG_NOTIFY 0x3000
#define VRIG_MSIX 0x4000
#define VRIG_PBA 0x5000
#define VRIG_FIRST 0x10000 /* of vrig_alloc() */

/* Flags of a descriptor. */
#define VDESC_NEXT 1
#define VDESC_WRITE 2
#define VDESC_INDIRECT 4

struct vrig_queue {
	unsigned size;
	gpa_t desc, avail, used;
	u16 next;  /* of the available ring */
	u16 seen;  /* of the used ring */
	u16 taken; /* descriptors, used in turn */
};

/* What the driver keeps; r->extra. */
struct vrig {
	struct pci_bus *bus;
	struct device *dev; /* the device under test */
	struct device *q35;
	gpa_t next;
	bool no_msix; /* the next vrig_start() uses INTx */
	struct vrig_queue queue[VIRTIO_QUEUES_MAX];
};

static inline struct vrig *vrig(struct rig *r)
{
	return r->extra;
}

/* ---- memory ---- */

static inline u8 *vrig_ptr(struct rig *r, gpa_t a)
{
	return memory_ram(r->board.mem) + a;
}

/* Zeroed, 16-byte aligned. */
static inline gpa_t vrig_alloc(struct rig *r, u32 len)
{
	gpa_t a = vrig(r)->next;

	vrig(r)->next += (len + 15) & ~15u;
	assert(vrig(r)->next <= 2 * MiB);
	memset(vrig_ptr(r, a), 0, len);
	return a;
}

/* A buffer with these bytes. */
static inline gpa_t vrig_bytes(struct rig *r, const void *p, u32 len)
{
	gpa_t a = vrig_alloc(r, len);

	memcpy(vrig_ptr(r, a), p, len);
	return a;
}

static inline u16 vrig_get16(struct rig *r, gpa_t a)
{
	u16 v;

	memcpy(&v, vrig_ptr(r, a), 2);
	return v;
}
static inline void vrig_put16(struct rig *r, gpa_t a, u16 v)
{
	memcpy(vrig_ptr(r, a), &v, 2);
}

/* ---- registers ---- */

static inline u32 vrig_pci_read(struct rig *r, unsigned off, unsigned size)
{
	return pci_config_read(vrig(r)->bus, PCI_DEVFN(VRIG_SLOT, 0), off, size);
}
static inline void vrig_pci_write(struct rig *r, unsigned off, u32 v, unsigned size)
{
	pci_config_write(vrig(r)->bus, PCI_DEVFN(VRIG_SLOT, 0), off, v, size);
}
static inline u32 vrig_read(struct rig *r, unsigned off, unsigned size)
{
	u32 v = 0;

	memory_read(r->board.mem, VRIG_BAR + off, &v, size);
	return v;
}
static inline void vrig_write(struct rig *r, unsigned off, u32 v, unsigned size)
{
	memory_write(r->board.mem, VRIG_BAR + off, &v, size);
}

/* Where the capability `id` is (for vendor capabilities of `type`), 0 if there is none. */
static inline unsigned vrig_cap(struct rig *r, u8 id, u8 type)
{
	unsigned at = vrig_pci_read(r, PCI_CAPABILITIES, 1);

	for (unsigned i = 0; at && i < 48; i++, at = vrig_pci_read(r, at + 1, 1))
		if (vrig_pci_read(r, at, 1) == id && (id != PCI_CAP_VENDOR || vrig_pci_read(r, at + 3, 1) == type))
			return at;
	return 0;
}

/* ---- the driver ---- */

static inline void vrig_pci_setup(struct rig *r)
{
	vrig_pci_write(r, PCI_BAR0, VRIG_BAR, 4);
	vrig_pci_write(r, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* Makes bus and device. `create` puts the device into VRIG_SLOT of `bus`, 0 if it did. */
static inline struct device *vrig_init(struct rig *r, int (*create)(struct rig *r, struct pci_bus *bus))
{
	struct q35_config cfg = { .ecam_base = 0xb0000000 };
	struct vrig *v = calloc(1, sizeof(*v));
	int rc;

	for (unsigned i = 0; i < PCI_LINES; i++)
		cfg.gsi[i] = rig_irq(r, 16 + i);
	for (unsigned i = 0; i < 16; i++)
		cfg.pic[i] = rig_irq(r, i);
	r->extra = v;
	v->q35 = q35_create(&r->board, &cfg);
	v->bus = q35_bus(v->q35);
	rc = create(r, v->bus);
	assert(rc == 0);
	for (v->dev = v->q35; v->dev->next; v->dev = v->dev->next)
		;
	v->next = VRIG_FIRST;
	vrig_pci_setup(r);
	return v->dev;
}

static inline u8 vrig_status(struct rig *r)
{
	return vrig_read(r, VRIG_COMMON + 20, 1);
}
static inline void vrig_set_status(struct rig *r, u8 v)
{
	vrig_write(r, VRIG_COMMON + 20, v, 1);
}

static inline u64 vrig_offered(struct rig *r)
{
	u64 f;

	vrig_write(r, VRIG_COMMON + 0, 0, 4);
	f = vrig_read(r, VRIG_COMMON + 4, 4);
	vrig_write(r, VRIG_COMMON + 0, 1, 4);
	return f | (u64)vrig_read(r, VRIG_COMMON + 4, 4) << 32;
}

/* Reset, then up to FEATURES_OK; VIRTIO_F_VERSION_1 is added. False if the device refuses. */
static inline bool vrig_negotiate(struct rig *r, u64 features)
{
	features |= VIRTIO_F_VERSION_1;
	vrig_set_status(r, 0);
	assert(vrig_status(r) == 0);
	vrig(r)->next = VRIG_FIRST;
	vrig_set_status(r, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	vrig_write(r, VRIG_COMMON + 8, 0, 4);
	vrig_write(r, VRIG_COMMON + 12, (u32)features, 4);
	vrig_write(r, VRIG_COMMON + 8, 1, 4);
	vrig_write(r, VRIG_COMMON + 12, features >> 32, 4);
	vrig_set_status(r, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	return vrig_status(r) & VIRTIO_FEATURES_OK;
}

static inline void vrig_write64(struct rig *r, unsigned off, u64 v)
{
	vrig_write(r, off, (u32)v, 4);
	vrig_write(r, off + 4, v >> 32, 4);
}

/* Vector `n` sends data `n`. */
static inline void vrig_vector(struct rig *r, unsigned n)
{
	vrig_write(r, VRIG_MSIX + 16 * n, 0xfee00000, 4);
	vrig_write(r, VRIG_MSIX + 16 * n + 4, 0, 4);
	vrig_write(r, VRIG_MSIX + 16 * n + 8, n, 4);
	vrig_write(r, VRIG_MSIX + 16 * n + 12, 0, 4);
}

/* Registers of queue `n` from vrig(r)->queue[n], and enables it. */
static inline void vrig_enable_queue(struct rig *r, unsigned n)
{
	const struct vrig_queue *q = &vrig(r)->queue[n];

	vrig_write(r, VRIG_COMMON + 22, n, 2);
	vrig_write(r, VRIG_COMMON + 24, q->size, 2);
	vrig_write64(r, VRIG_COMMON + 32, q->desc);
	vrig_write64(r, VRIG_COMMON + 40, q->avail);
	vrig_write64(r, VRIG_COMMON + 48, q->used);
	if (!vrig(r)->no_msix)
		vrig_write(r, VRIG_COMMON + 26, 1 + n, 2);
	vrig_write(r, VRIG_COMMON + 28, 1, 2);
}

static inline void vrig_place_queue(struct rig *r, unsigned n, unsigned size)
{
	struct vrig_queue *q = &vrig(r)->queue[n];

	*q = (struct vrig_queue){ .size = size };
	q->desc = vrig_alloc(r, 16 * size);
	q->avail = vrig_alloc(r, 6 + 2 * size);
	q->used = vrig_alloc(r, 6 + 8 * size);
}

/* From reset to DRIVER_OK with queues 0 to `queues` - 1, each of `size`. */
static inline void vrig_start(struct rig *r, u64 features, unsigned queues, unsigned size)
{
	unsigned cap = vrig_cap(r, PCI_CAP_MSIX, 0);
	bool agreed;

	vrig_pci_setup(r);
	agreed = vrig_negotiate(r, features);
	assert(agreed);
	vrig_pci_write(r, cap + 2, vrig(r)->no_msix ? 0 : 0x8000, 2);
	for (unsigned i = 0; i <= queues && !vrig(r)->no_msix; i++)
		vrig_vector(r, i);
	if (!vrig(r)->no_msix)
		vrig_write(r, VRIG_COMMON + 16, 0, 2);
	for (unsigned i = 0; i < queues; i++) {
		vrig_place_queue(r, i, size);
		vrig_enable_queue(r, i);
	}
	vrig_set_status(r, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
	assert(vrig_status(r) == (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK));
}

static inline void vrig_kick(struct rig *r, unsigned n)
{
	vrig_write(r, VRIG_NOTIFY + 4 * n, n, 2);
}

/* ---- rings ---- */

struct vseg {
	gpa_t gpa;
	u32 len;
	bool write;
};

static inline void vrig_desc(struct rig *r, gpa_t table, unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
	u8 *d = vrig_ptr(r, table + 16 * i);

	memcpy(d, &addr, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

/* Makes the chain that begins at `head` available. */
static inline void vrig_publish(struct rig *r, unsigned n, u16 head)
{
	struct vrig_queue *q = &vrig(r)->queue[n];

	vrig_put16(r, q->avail + 4 + 2 * (q->next % q->size), head);
	vrig_put16(r, q->avail + 2, ++q->next);
}

/* A chain of the `count` buffers, in the next descriptors of the table; returns its head. */
static inline u16 vrig_add(struct rig *r, unsigned n, const struct vseg *seg, unsigned count)
{
	struct vrig_queue *q = &vrig(r)->queue[n];
	u16 head = q->taken % q->size;

	for (unsigned i = 0; i < count; i++, q->taken++)
		vrig_desc(r, q->desc, q->taken % q->size, seg[i].gpa, seg[i].len,
			  (seg[i].write ? VDESC_WRITE : 0) | (i + 1 < count ? VDESC_NEXT : 0),
			  (q->taken + 1) % q->size);
	vrig_publish(r, n, head);
	return head;
}

/* The same in an indirect table. */
static inline u16 vrig_add_indirect(struct rig *r, unsigned n, const struct vseg *seg, unsigned count)
{
	struct vrig_queue *q = &vrig(r)->queue[n];
	gpa_t table = vrig_alloc(r, 16 * count);
	u16 head = q->taken++ % q->size;

	for (unsigned i = 0; i < count; i++)
		vrig_desc(r, table, i, seg[i].gpa, seg[i].len,
			  (seg[i].write ? VDESC_WRITE : 0) | (i + 1 < count ? VDESC_NEXT : 0), i + 1);
	vrig_desc(r, q->desc, head, table, 16 * count, VDESC_INDIRECT, 0);
	vrig_publish(r, n, head);
	return head;
}

/* Takes the next used element; false if there is none. `id` and `len` may be NULL. */
static inline bool vrig_used(struct rig *r, unsigned n, u32 *id, u32 *len)
{
	struct vrig_queue *q = &vrig(r)->queue[n];
	u32 elem[2];

	if (vrig_get16(r, q->used + 2) == q->seen)
		return false;
	memcpy(elem, vrig_ptr(r, q->used + 4 + 8 * (q->seen++ % q->size)), 8);
	if (id)
		*id = elem[0];
	if (len)
		*len = elem[1];
	return true;
}

/* Event indices: where the driver wants an interrupt, and where the device wants a kick. */
static inline void vrig_set_used_event(struct rig *r, unsigned n, u16 v)
{
	vrig_put16(r, vrig(r)->queue[n].avail + 4 + 2 * vrig(r)->queue[n].size, v);
}
static inline u16 vrig_avail_event(struct rig *r, unsigned n)
{
	return vrig_get16(r, vrig(r)->queue[n].used + 4 + 8 * vrig(r)->queue[n].size);
}

/* One buffer to read with `out`, one of `in_len` bytes to write; kicks, and returns the used length (-1: not used).
 * `in`, if not NULL, gets what the device wrote. */
static inline s64 vrig_request(struct rig *r, unsigned n, const void *out, u32 out_len, void *in, u32 in_len)
{
	struct vseg seg[2];
	unsigned count = 0;
	gpa_t at = 0;
	u32 len;

	if (out_len)
		seg[count++] = (struct vseg){ vrig_bytes(r, out, out_len), out_len, false };
	if (in_len) {
		at = vrig_alloc(r, in_len);
		seg[count++] = (struct vseg){ at, in_len, true };
	}
	vrig_add(r, n, seg, count);
	vrig_kick(r, n);
	if (!vrig_used(r, n, NULL, &len))
		return -1;
	if (in)
		memcpy(in, vrig_ptr(r, at), in_len);
	return len;
}

#endif
