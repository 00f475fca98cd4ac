/*
 * Virtio over PCI (VIRTIO 1.2, 4.1), without the legacy interface.
 *
 * One 32-bit memory BAR, a page for each structure, so that notifications have
 * a page of their own:
 *
 *   0000  common configuration    3000  notifications, 4 bytes a queue
 *   1000  ISR status              4000  MSI-X table
 *   2000  device configuration    5000  MSI-X pending bits
 *
 * 32 bits and not prefetchable: firmware without 64-bit addresses reaches it,
 * and reading the ISR status has an effect.
 */
#include <stdio.h>
#include <stdlib.h>

#include "dev/pci/msix.h"
#include "dev/virtio/transport.h"

#define BAR 0
#define PAGE_COMMON 0
#define PAGE_ISR 1
#define PAGE_DEVICE 2
#define PAGE_NOTIFY 3
#define PAGE_MSIX 4
#define PAGE_PBA 5
#define BAR_SIZE 0x8000
#define NOTIFY_MULTIPLIER 4

enum cap_type { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };
#define CAP_LEN 16
/* offsets in struct virtio_pci_cap */
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_DATA 16 /* of CAP_PCI: pci_cfg_data; of CAP_NOTIFY: the multiplier */

#define ISR_QUEUE 1
#define ISR_CONFIG 2

#define PCI_VENDOR 0x1af4
#define PCI_SUBSYSTEM 0x1100 /* any from 40h on says modern (4.1.2.1); this one Windows' drivers know */

struct virtio_pci {
	struct device dev;
	struct device_ops ops; /* with a name of this function's own */
	char name[40];
	struct pci_dev pci;
	struct msix msix;
	struct virtio *v;
	unsigned pci_cap; /* where CAP_PCI begins */
	u8 isr;
	u16 config_vector;
	u32 device_select, driver_select; /* of the feature registers */
	u64 driver_features;
	u16 queue_select;
};

static void update_intx(struct virtio_pci *p)
{
	pci_set_irq(&p->pci, p->isr && !msix_enabled(&p->msix));
}

static void interrupt(struct virtio_pci *p, u16 vector, u8 isr)
{
	if (msix_enabled(&p->msix)) {
		msix_notify(&p->msix, vector);
	} else {
		p->isr |= isr;
		update_intx(p);
	}
}

void virtio_pci_interrupt_queue(struct virtq *q)
{
	interrupt(q->dev->pci, q->vector, ISR_QUEUE);
}

void virtio_pci_interrupt_config(struct virtio *v)
{
	interrupt(v->pci, v->pci->config_vector, ISR_CONFIG);
}

static void driver_reset(struct virtio_pci *p)
{
	virtio_reset(p->v);
	p->isr = 0;
	p->config_vector = VIRTIO_NO_VECTOR;
	p->device_select = p->driver_select = 0;
	p->driver_features = 0;
	p->queue_select = 0;
	update_intx(p);
}

/* ---- common configuration (4.1.4.3) ---- */

enum common {
	DEVICE_SELECT = 0,
	DEVICE_FEATURE = 4,
	DRIVER_SELECT = 8,
	DRIVER_FEATURE = 12,
	CONFIG_VECTOR = 16,
	NUM_QUEUES = 18,
	STATUS = 20,
	GENERATION = 21,
	QUEUE_SELECT = 22,
	QUEUE_SIZE = 24,
	QUEUE_VECTOR = 26,
	QUEUE_ENABLE = 28,
	QUEUE_NOTIFY_OFF = 30,
	QUEUE_DESC = 32,
	QUEUE_DRIVER = 40,
	QUEUE_DEVICE = 48,
	COMMON_LEN = 56,
};

/* The field an access lies in; the halves of 64-bit fields count as fields (4.1.3.1). */
static unsigned field_of(unsigned off, unsigned *size)
{
	if (off >= QUEUE_DESC || off < CONFIG_VECTOR) {
		*size = 4;
		return off & ~3u;
	}
	*size = off == STATUS || off == GENERATION ? 1 : 2;
	return off & ~(*size - 1);
}

static struct virtq *selected(struct virtio_pci *p)
{
	return p->queue_select < p->v->queues ? &p->v->queue[p->queue_select] : NULL;
}

/* The low or high half. */
static u32 half(u64 val, unsigned off)
{
	return off & 4 ? val >> 32 : (u32)val;
}

static void set_half(u64 *val, unsigned off, u32 to)
{
	*val = off & 4 ? (u64)to << 32 | (u32)*val : (*val & ~0xffffffffull) | to;
}

static u32 queue_field(const struct virtq *q, unsigned field)
{
	switch (field) {
	case QUEUE_SIZE:
		return q->size;
	case QUEUE_ENABLE:
		return q->enabled;
	case QUEUE_NOTIFY_OFF:
		return q->index;
	case QUEUE_DESC:
	case QUEUE_DESC + 4:
		return half(q->desc, field);
	case QUEUE_DRIVER:
	case QUEUE_DRIVER + 4:
		return half(q->avail, field);
	default:
		return half(q->used, field);
	}
}

static u32 common_field(struct virtio_pci *p, unsigned field)
{
	const struct virtq *q = selected(p);

	switch (field) {
	case DEVICE_SELECT:
		return p->device_select;
	case DEVICE_FEATURE:
		return p->device_select < 2 ? p->v->offered >> 32 * p->device_select : 0;
	case DRIVER_SELECT:
		return p->driver_select;
	case DRIVER_FEATURE:
		return p->driver_select < 2 ? p->driver_features >> 32 * p->driver_select : 0;
	case CONFIG_VECTOR:
		return p->config_vector;
	case NUM_QUEUES:
		return p->v->queues;
	case STATUS:
		return p->v->status;
	case GENERATION:
		return p->v->generation;
	case QUEUE_SELECT:
		return p->queue_select;
	case QUEUE_VECTOR:
		return q ? q->vector : VIRTIO_NO_VECTOR;
	default:
		return q ? queue_field(q, field) : 0;
	}
}

static u32 common_read(struct virtio_pci *p, unsigned off, unsigned size)
{
	unsigned len, field;

	if (off >= COMMON_LEN)
		return 0;
	field = field_of(off, &len);
	return off + size <= field + len ? common_field(p, field) >> 8 * (off - field) : 0;
}

static u16 vector(const struct virtio_pci *p, u32 val)
{
	return val < p->msix.vectors ? val : VIRTIO_NO_VECTOR;
}

static void queue_write(struct virtio_pci *p, struct virtq *q, unsigned field, u32 val)
{
	if (field == QUEUE_VECTOR) {
		q->vector = vector(p, val);
		return;
	}
	if (q->enabled)
		return;
	switch (field) {
	case QUEUE_SIZE:
		q->size = val;
		break;
	case QUEUE_ENABLE:
		if (val == 1)
			virtio_queue_enable(q);
		break;
	case QUEUE_DESC:
	case QUEUE_DESC + 4:
		set_half(&q->desc, field, val);
		break;
	case QUEUE_DRIVER:
	case QUEUE_DRIVER + 4:
		set_half(&q->avail, field, val);
		break;
	case QUEUE_DEVICE:
	case QUEUE_DEVICE + 4:
		set_half(&q->used, field, val);
		break;
	}
}

static void common_write(struct virtio_pci *p, unsigned off, u32 val, unsigned size)
{
	struct virtq *q = selected(p);
	unsigned len;

	if (off >= COMMON_LEN || field_of(off, &len) != off || size != len)
		return;
	switch (off) {
	case DEVICE_SELECT:
		p->device_select = val;
		break;
	case DRIVER_SELECT:
		p->driver_select = val;
		break;
	case DRIVER_FEATURE:
		if (p->driver_select < 2 && !(p->v->status & VIRTIO_FEATURES_OK))
			set_half(&p->driver_features, p->driver_select * 4, val);
		break;
	case CONFIG_VECTOR:
		p->config_vector = vector(p, val);
		break;
	case STATUS:
		if (val)
			virtio_set_status(p->v, val, p->driver_features);
		else
			driver_reset(p);
		break;
	case QUEUE_SELECT:
		p->queue_select = val;
		break;
	default:
		if (q)
			queue_write(p, q, off, val);
		break;
	}
}

/* ---- the BAR ---- */

static u8 isr_read(struct virtio_pci *p)
{
	u8 isr = p->isr;

	p->isr = 0;
	update_intx(p);
	return isr;
}

static u64 bar_read(void *opaque, u64 at, unsigned size)
{
	struct virtio_pci *p = opaque;
	unsigned off = at & ~PAGE_MASK;

	switch (at >> PAGE_SHIFT) {
	case PAGE_COMMON:
		return common_read(p, off, size);
	case PAGE_ISR:
		return off == 0 ? isr_read(p) : 0;
	case PAGE_DEVICE:
		return virtio_config_read(p->v, off, size);
	case PAGE_MSIX:
		return msix_table_read(&p->msix, off, size);
	case PAGE_PBA:
		return msix_pba_read(&p->msix, off, size);
	default:
		return 0;
	}
}

static void bar_write(void *opaque, u64 at, u64 val, unsigned size)
{
	struct virtio_pci *p = opaque;
	unsigned off = at & ~PAGE_MASK;

	switch (at >> PAGE_SHIFT) {
	case PAGE_COMMON:
		common_write(p, off, val, size);
		break;
	case PAGE_DEVICE:
		virtio_config_write(p->v, off, val, size);
		break;
	case PAGE_NOTIFY:
		if (off % NOTIFY_MULTIPLIER == 0)
			virtio_kick(p->v, off / NOTIFY_MULTIPLIER);
		break;
	case PAGE_MSIX:
		msix_table_write(&p->msix, off, val, size);
		break;
	}
}

static const struct io_ops bar_io = { bar_read, bar_write, 1, 4 };

/* ---- the PCI configuration access capability (4.1.4.9) ---- */

static bool touches_data(const struct virtio_pci *p, unsigned off, unsigned size)
{
	unsigned data = p->pci_cap + CAP_DATA;

	/* a reset or load writes all of the space at once; that is no access */
	return size <= 4 && off < data + 4 && off + size > data;
}

/* The access that the capability's fields describe; its size, 0 if they describe none. */
static unsigned window(const struct virtio_pci *p, u32 *at)
{
	u32 size = pci_get32(&p->pci, p->pci_cap + CAP_LENGTH);

	*at = pci_get32(&p->pci, p->pci_cap + CAP_OFFSET);
	if (p->pci.config[p->pci_cap + CAP_BAR] != BAR || (size != 1 && size != 2 && size != 4) || *at % size ||
	    *at > BAR_SIZE - size)
		return 0;
	return size;
}

static void config_read(struct pci_dev *d, unsigned off, unsigned size)
{
	struct virtio_pci *p = d->opaque;
	unsigned n;
	u32 at;

	if (touches_data(p, off, size) && (n = window(p, &at)))
		pci_put32(d, p->pci_cap + CAP_DATA, bar_read(p, at, n));
}

static void config_written(struct pci_dev *d, unsigned off, unsigned size)
{
	struct virtio_pci *p = d->opaque;
	unsigned n;
	u32 at;

	p->v->master = pci_get16(d, PCI_COMMAND) & PCI_COMMAND_MASTER;
	msix_config_written(&p->msix);
	update_intx(p);
	if (touches_data(p, off, size) && (n = window(p, &at)))
		bar_write(p, at, pci_get32(d, p->pci_cap + CAP_DATA) & (n == 4 ? ~0u : BIT(8 * n) - 1), n);
}

/* ---- as a device of the board ---- */

static struct virtio_pci *of_device(const struct device *d)
{
	return container_of((struct device *)(uintptr_t)d, struct virtio_pci, dev);
}

static void pci_reset(struct device *d)
{
	struct virtio_pci *p = of_device(d);

	msix_reset(&p->msix);
	driver_reset(p);
}

static void pci_quiesce(struct device *d)
{
	struct virtio *v = of_device(d)->v;

	if (v->ops->quiesce)
		v->ops->quiesce(v);
}

static void pci_resume(struct device *d)
{
	struct virtio *v = of_device(d)->v;

	if (v->ops->resume)
		v->ops->resume(v);
}

static void pci_save(const struct device *d, struct encoder *e)
{
	const struct virtio_pci *p = of_device(d);

	enc_begin(e, p->name, 1);
	enc_u8(e, p->isr);
	pci_dev_save(&p->pci, e);
	msix_save(&p->msix, e);
	enc_u16(e, p->config_vector);
	enc_u32(e, p->device_select);
	enc_u32(e, p->driver_select);
	enc_u64(e, p->driver_features);
	enc_u16(e, p->queue_select);
	virtio_save(p->v, e);
	enc_end(e);
	if (p->v->ops->save)
		p->v->ops->save(p->v, e);
}

static int pci_check(const struct device *d, struct decoder *in)
{
	const struct virtio_pci *p = of_device(d);
	struct decoder i;

	if (!dec_begin(in, p->name, &i) || i.version != 1)
		return -1;
	if ((dec_u8(&i) & ~(ISR_QUEUE | ISR_CONFIG)) || !pci_dev_check(&p->pci, &i) || !msix_check(&p->msix, &i))
		return -1;
	dec_u16(&i);
	dec_u32(&i);
	dec_u32(&i);
	dec_u64(&i);
	dec_u16(&i);
	if (!virtio_check(p->v, &i) || !dec_done(&i))
		return -1;
	return p->v->ops->check ? p->v->ops->check(p->v, in) : 0;
}

static void pci_load(struct device *d, struct decoder *in)
{
	struct virtio_pci *p = of_device(d);
	struct decoder i;

	if (!dec_begin(in, p->name, &i))
		return;
	/* config_written() is called while the function is loaded: by then the ISR status says what the pin's level
	 * is, and nothing is pending that could be sent */
	p->isr = dec_u8(&i);
	msix_reset(&p->msix);
	pci_dev_load(&p->pci, &i);
	msix_load(&p->msix, &i);
	p->config_vector = dec_u16(&i);
	p->device_select = dec_u32(&i);
	p->driver_select = dec_u32(&i);
	p->driver_features = dec_u64(&i);
	p->queue_select = dec_u16(&i);
	virtio_load(p->v, &i);
	if (p->v->ops->load)
		p->v->ops->load(p->v, in);
}

static void pci_destroy(struct device *d)
{
	struct virtio_pci *p = of_device(d);

	pci_remove(&p->pci);
	msix_free(&p->msix);
	p->v->ops->destroy(p->v);
	free(p);
}

static const struct device_ops pci_ops = {
	.reset = pci_reset,
	.quiesce = pci_quiesce,
	.resume = pci_resume,
	.save = pci_save,
	.check = pci_check,
	.load = pci_load,
	.destroy = pci_destroy,
};

/* ---- construction ---- */

/* A capability for [offset, offset + length) of the BAR, with `extra` bytes behind; returns where it is. */
static unsigned add_cap(struct virtio_pci *p, enum cap_type type, unsigned page, u32 length, unsigned extra)
{
	unsigned at = pci_add_cap(&p->pci, PCI_CAP_VENDOR, CAP_LEN + extra);

	p->pci.config[at + 2] = CAP_LEN + extra;
	p->pci.config[at + 3] = type;
	p->pci.config[at + CAP_BAR] = BAR;
	pci_put32(&p->pci, at + CAP_OFFSET, page << PAGE_SHIFT);
	pci_put32(&p->pci, at + CAP_LENGTH, length);
	return at;
}

static void add_caps(struct virtio_pci *p)
{
	const struct virtio *v = p->v;
	unsigned at;

	add_cap(p, CAP_COMMON, PAGE_COMMON, COMMON_LEN, 0);
	add_cap(p, CAP_ISR, PAGE_ISR, 1, 0);
	if (v->config_len)
		add_cap(p, CAP_DEVICE, PAGE_DEVICE, v->config_len, 0);
	at = add_cap(p, CAP_NOTIFY, PAGE_NOTIFY, v->queues * NOTIFY_MULTIPLIER, 4);
	pci_put32(&p->pci, at + CAP_DATA, NOTIFY_MULTIPLIER);
	at = p->pci_cap = add_cap(p, CAP_PCI, 0, 0, 4);
	p->pci.wmask[at + CAP_BAR] = 0xff;
	for (unsigned i = CAP_OFFSET; i < CAP_DATA + 4; i++)
		p->pci.wmask[at + i] = 0xff;
}

static bool create_function(struct virtio_pci *p, struct board *b, struct pci_bus *bus, unsigned slot)
{
	struct virtio *v = p->v;

	pci_init(&p->pci, PCI_VENDOR, 0x1040 + v->ops->id, v->ops->pci_class, 1, v->ops->name);
	pci_put16(&p->pci, PCI_SUBSYSTEM_VENDOR, PCI_VENDOR);
	pci_put16(&p->pci, PCI_SUBSYSTEM_ID, PCI_SUBSYSTEM);
	p->pci.config[PCI_INTERRUPT_PIN] = 1;
	p->pci.opaque = p;
	p->pci.config_read = config_read;
	p->pci.config_written = config_written;
	pci_bar_mmio(&p->pci, BAR, BAR_SIZE, false, false, &bar_io, p, v->ops->name);
	if (b->msi &&
	    msix_init(&p->msix, b, &p->pci, v->queues + 1, BAR, PAGE_MSIX << PAGE_SHIFT, PAGE_PBA << PAGE_SHIFT) < 0)
		return false;
	add_caps(p);
	return pci_add(bus, &p->pci, PCI_DEVFN(slot, 0)) == 0;
}

int virtio_pci_create(struct board *b, struct pci_bus *bus, unsigned slot, struct virtio *v)
{
	struct virtio_pci *p;

	_Static_assert((VIRTIO_QUEUES_MAX + 1) * MSIX_ENTRY_SIZE <= PAGE_SIZE, "the table has one page");
	if (!slot)
		slot = pci_free_slot(bus);
	if (!slot || !(p = calloc(1, sizeof(*p))))
		return -1;
	v->board = b;
	v->pci = p;
	v->offered |= VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
	for (unsigned i = 0; i < v->queues; i++) {
		v->queue[i].dev = v;
		v->queue[i].index = i;
	}
	p->v = v;
	if (!create_function(p, b, bus, slot)) {
		msix_free(&p->msix);
		free(p);
		v->pci = NULL;
		return -1;
	}
	snprintf(p->name, sizeof(p->name), "%s.%u", v->ops->name, slot);
	p->ops = pci_ops;
	p->ops.name = p->name;
	p->dev.ops = &p->ops;
	driver_reset(p);
	board_attach(b, &p->dev);
	return 0;
}
