/*
 * A hostile virtio driver: the input is a program of register accesses, ring
 * contents and kicks for the test device of virtio_echo.h or the entropy
 * device. Most steps keep to the format, with numbers of the input's choice, so
 * that chains are popped; the others are raw bytes anywhere.
 */
#include "fuzz.h"

#include "virtio_echo.h"

#include "dev/virtio/rng.h"

#define STEPS 400
#define AREA 0x10000ull /* where buffers, tables and rings lie: near each other, so that they overlap */
#define AREA_LEN 0x4000

static bool in_ram(struct rig *r, const void *p, size_t n)
{
	const u8 *ram = vrig_ptr(r, 0);

	return (const u8 *)p >= ram && n <= 2 * MiB && (const u8 *)p + n <= ram + 2 * MiB;
}

/* What a device is handed never leads outside the guest. */
static void look(struct echo *d, struct virtq *q)
{
	struct rig *r = container_of(d->v.board, struct rig, board);
	const struct virtq_buf *b = &d->buf;
	u64 out = 0, in = 0;

	assert(q->enabled && b->head < q->size && b->out_n + b->in_n <= VIRTQ_IOV_MAX);
	for (unsigned i = 0; i < b->out_n + b->in_n; i++) {
		assert(b->iov[i].iov_len && in_ram(r, b->iov[i].iov_base, b->iov[i].iov_len));
		assert(b->iov[i].iov_base == vrig_ptr(r, b->gpa[i]));
		*(i < b->out_n ? &out : &in) += b->iov[i].iov_len;
	}
	assert(out == b->out_len && in == b->in_len);
	assert((u16)(q->avail_next - q->used_next) <= q->size);
}

static int rng_create(struct rig *r, struct pci_bus *bus)
{
	return virtio_rng_create(&r->board, bus, VRIG_SLOT);
}

/* An address that is often a good one. */
static u64 address(struct input *in)
{
	switch (take(in, 1) & 15) {
	case 0:
		return take(in, 8);
	case 1:
		return 2 * MiB - (take(in, 1) & 63);
	case 2:
		return VRIG_BAR + take(in, 2);
	default:
		return AREA + take(in, 2) % AREA_LEN;
	}
}

static void start(struct rig *r, struct input *in, unsigned queues)
{
	u8 how = take(in, 1);
	u64 features = (how & 1 ? VIRTIO_F_INDIRECT_DESC : 0) | (how & 2 ? VIRTIO_F_EVENT_IDX : 0);

	vrig_pci_setup(r);
	vrig(r)->no_msix = how & 4;
	vrig_start(r, features, queues, 4u << (how >> 4 & 3));
	if (how & 8)
		memset(vrig_ptr(r, AREA), how, 64);
}

/* A descriptor of a ring, or of an indirect table in the area. */
static void descriptor(struct rig *r, struct input *in, struct vrig_queue *q)
{
	u8 where = take(in, 1), flags = take(in, 1), next = take(in, 1);
	gpa_t table = where & 0x80 ? AREA + (next & 0x70) * 16ull : q->desc;
	u64 at = address(in);
	u32 len = flags & 0x40 ? take(in, 4) : flags & VDESC_INDIRECT ? 16 * (take(in, 1) & 31) : take(in, 2);
	u16 number = flags & 0x20 ? take(in, 2) : next % (q->size ? q->size : 1);

	if (table < MiB)
		vrig_desc(r, table, where & 31, at, len, flags & 7, number);
}

static void ring(struct rig *r, struct input *in, unsigned n)
{
	struct vrig_queue *q = &vrig(r)->queue[n];
	u8 count = 1 + (take(in, 1) & 7);
	struct vseg seg[8];

	if (!q->size || vrig(r)->next + 4096 > 2 * MiB)
		return;
	for (unsigned i = 0; i < count; i++) {
		seg[i].gpa = address(in);
		seg[i].len = take(in, 2) & 0x1fff;
		seg[i].write = i * 16 > (take(in, 1) & 0x7f);
	}
	if (take(in, 1) & 1)
		vrig_add_indirect(r, n, seg, count);
	else
		vrig_add(r, n, seg, count);
}

static void record(struct rig *r)
{
	struct device *d = vrig(r)->dev;
	struct encoder e = rig_save(d), again;

	assert(rig_check(d, e.data, e.len) == 0);
	rig_load(d, e.data, e.len);
	again = rig_save(d);
	assert(again.len == e.len && !memcmp(again.data, e.data, e.len));
	enc_free(&e);
	enc_free(&again);
}

/* A record with some bytes of the input's: refused, or it does no harm. */
static void bad_record(struct rig *r, struct input *in)
{
	struct device *d = vrig(r)->dev;
	struct encoder e = rig_save(d);

	for (unsigned i = 1 + (take(in, 1) & 3); i; i--)
		e.data[(e.len - 1 - take(in, 2) % e.len)] = take(in, 1);
	if (rig_check(d, e.data, e.len) == 0)
		rig_load(d, e.data, e.len);
	enc_free(&e);
}

/* An access through the capability for it. */
static void config_access(struct rig *r, struct input *in)
{
	unsigned at = vrig_cap(r, PCI_CAP_VENDOR, 5);
	u8 how = take(in, 1);

	vrig_pci_write(r, at + 4, how >> 4 == 7, 1);
	vrig_pci_write(r, at + 8, (take(in, 2) & 0xffffu >> (how & 3)) << (how >> 2 & 3), 4);
	vrig_pci_write(r, at + 12, 1u << (how & 3), 4);
	if (how & 0x80)
		vrig_pci_write(r, at + 16, take(in, 4), 4);
	else
		vrig_pci_read(r, at + 16, 4);
}

/* What the device does of its own accord. */
static void device_side(struct virtio *v, unsigned n, u8 how)
{
	struct echo *d = container_of(v, struct echo, v);

	switch (how & 3) {
	case 0:
		virtio_config_changed(v);
		break;
	case 1:
		virtq_notify_enable(&v->queue[2]);
		if (!virtq_empty(&v->queue[2]))
			echo_notify(v, 2);
		break;
	case 2:
		if (virtq_pop(&v->queue[n], &d->buf) > 0)
			virtq_unpop(&v->queue[n], 1);
		break;
	default:
		echo_release(d);
		break;
	}
}

static void step(struct rig *r, struct input *in, unsigned queues)
{
	static const u16 pages[] = { VRIG_COMMON, VRIG_COMMON, VRIG_CONFIG, VRIG_ISR,
				     VRIG_NOTIFY, VRIG_MSIX,   VRIG_PBA,    0x6000 };
	u8 op = take(in, 1);
	unsigned n = (op >> 4) % queues, size = 1u << (op >> 4 & 3);
	struct vrig_queue *q = &vrig(r)->queue[n];
	u8 at;

	switch (op & 15) {
	case 0:
		start(r, in, queues);
		break;
	case 1:
		descriptor(r, in, q);
		break;
	case 2:
	case 3:
		ring(r, in, n);
		break;
	case 4:
	case 5:
		vrig_kick(r, n);
		break;
	case 6:
		at = take(in, 1);
		if (q->size)
			vrig_publish(r, n, op & 0x80 ? at : at % q->size);
		break;
	case 7: /* raw bytes into the rings and what they lead to */
		at = take(in, 1);
		memcpy(vrig_ptr(r, AREA + take(in, 2) % AREA_LEN), (u8[]){ at, take(in, 1) }, 2);
		break;
	case 8:
		at = take(in, 1);
		vrig_write(r, pages[at & 7] + (take(in, 1) & 0x7f), take(in, size), MIN(size, 4));
		break;
	case 9:
		at = take(in, 1);
		vrig_read(r, pages[at & 7] + (take(in, 1) & 0x7f), MIN(size, 4));
		break;
	case 10:
		vrig_pci_write(r, take(in, 1), take(in, 4), MIN(size, 4));
		break;
	case 11:
		if (op & 0x80)
			config_access(r, in);
		else
			vrig_pci_read(r, take(in, 1), MIN(size, 4));
		break;
	case 12: /* a queue anywhere */
		vrig_pci_setup(r);
		vrig_negotiate(r, op & 0x10 ? VIRTIO_F_EVENT_IDX : 0);
		*q = (struct vrig_queue){
			1u << (take(in, 1) & 7), address(in) & ~15ull, address(in) & ~1ull, address(in) & ~3ull, 0, 0, 0
		};
		vrig_enable_queue(r, n);
		vrig_set_status(r, 15);
		if (q->desc > MiB || q->avail > MiB || q->used > MiB)
			q->size = 0;
		break;
	case 13:
		if (queues == ECHO_QUEUES)
			device_side(&echo_last->v, n, take(in, 1));
		break;
	case 14:
		record(r);
		break;
	case 15:
		if (op & 0x80)
			bad_record(r, in);
		else
			vrig(r)->dev->ops->reset(vrig(r)->dev);
		break;
	}
	if (queues == ECHO_QUEUES)
		assert(echo_last->held <= ECHO_HELD);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	bool rng = take(&in, 1) & 1;
	struct rig *r = rig_create();

	echo_look = look;
	vrig_init(r, rng ? rng_create : echo_create);
	if (take(&in, 1) & 3)
		start(r, &in, rng ? 1 : ECHO_QUEUES);
	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in, rng ? 1 : ECHO_QUEUES);
	rig_destroy(r);
	return 0;
}
