/*
 * Fuzz target: the balloon under a hostile driver. Input bytes are operations
 * (see step()): chains on its queues with page numbers and ranges of the
 * input's choice, its registers, time, its record.
 *
 * Pages that were never given away must keep their bytes; nothing outside guest
 * RAM may change (the sanitizers watch); and no request takes for ever.
 */
#include "record.h"

#include "dev/virtio/balloon.h"

#define STEPS 300
#define KEEP 0x8000 /* below what vrig_alloc() gives: 32 KiB that no operation names */
#define AREA 0x100000ull

static struct virtio *balloon;
static bool reporting;
/* Any page may be named: by page numbers from anywhere in RAM, because a bad record moved a queue or the driver made
 * one longer, so that it lies over lists of numbers, or because a page with such a list was given away. */
static bool wild;

static int create(struct rig *r, struct pci_bus *bus)
{
	balloon = virtio_balloon_create(&r->board, bus, VRIG_SLOT, &(struct virtio_balloon_config){ MiB, reporting });
	return balloon ? 0 : -1;
}

/* Anything but the first 64 KiB. */
static u64 any_address(struct input *in)
{
	switch (take(in, 1) & 15) {
	case 0:
		return take(in, 8) | 0x10000;
	case 1:
		return 2 * MiB - (take(in, 2) & 0x1fff);
	case 2: /* the rings */
		return VRIG_FIRST + (take(in, 2) & 0x1fff);
	case 3:
		return VRIG_BAR + take(in, 2);
	default:
		return AREA + (take(in, 3) & 0xfffff);
	}
}

static u64 address(struct input *in)
{
	u64 at = any_address(in);

	wild |= at < AREA;
	return at;
}

static void start(struct rig *r, struct input *in)
{
	u8 how = take(in, 1);

	vrig_pci_setup(r);
	vrig(r)->no_msix = how & 0x80;
	vrig_start(r,
		   (take(in, 1) & 0x36 & vrig_offered(r)) | (how & 1 ? VIRTIO_F_INDIRECT_DESC : 0) |
		       (how & 2 ? VIRTIO_F_EVENT_IDX : 0),
		   MIN(1u + (how >> 2 & 7), reporting ? 5u : 3u), 8u << (how >> 5 & 3));
}

/* A chain with page numbers, or of ranges. */
static void request(struct rig *r, struct input *in, unsigned n)
{
	u8 count = 1 + (take(in, 1) & 7), how = take(in, 1);
	struct vseg seg[8];

	if (!vrig(r)->queue[n].size || vrig(r)->next + 8 * 1024 > AREA)
		return;
	for (unsigned i = 0; i < count; i++) {
		u32 len = how & 1 ? 64 * (take(in, 1) & 15) : take(in, 3) & 0x1fffff;

		if (!(how & 1)) {
			seg[i] = (struct vseg){ address(in), len, !(how & 2) };
			wild |= how & 2;
			continue;
		}
		seg[i] = (struct vseg){ vrig_alloc(r, len), len, false };
		for (u32 at = 0; at < len; at += 4) {
			u32 pfn = how & 4 ? (u32)(address(in) >> 12) : (u32)(AREA >> 12) + (u8)(at * how >> 2);

			memcpy(vrig_ptr(r, seg[i].gpa + at), &pfn, 4);
		}
	}
	if (how & 0x80)
		vrig_add_indirect(r, n, seg, count);
	else
		vrig_add(r, n, seg, count);
}

static void step(struct rig *r, struct input *in)
{
	static const u16 pages[] = { VRIG_COMMON, VRIG_CONFIG, VRIG_NOTIFY, VRIG_ISR };
	u8 op = take(in, 1);
	unsigned n = (op >> 4) % 5;
	struct virtio_balloon_info info;

	switch (op & 15) {
	case 0:
		start(r, in);
		break;
	case 1:
	case 2:
	case 3:
	case 4:
		request(r, in, n);
		break;
	case 5:
	case 6:
	case 7:
		vrig_kick(r, n);
		break;
	case 8:
		rig_pass(r, take(in, 2));
		break;
	case 9:
		vrig_write(r, VRIG_CONFIG + 4 * (n & 3), take(in, 4), 4);
		break;
	case 10:
		virtio_balloon_ask_stats(balloon);
		virtio_balloon_set_target(balloon, take(in, 2) * MiB);
		virtio_balloon_info(balloon, &info);
		break;
	case 11:
		/* ring addresses stay as they are, but not the number of their entries */
		wild |= op & 0x80 && !(n & 3);
		if (op & 0x80)
			vrig_write(r, pages[n & 3] + (take(in, 1) & 31), take(in, 2), 2);
		else
			vrig_read(r, pages[n & 3] + (take(in, 1) & 63), 4);
		break;
	case 12:
		if (vrig(r)->queue[n].size)
			vrig_publish(r, n, take(in, 1));
		break;
	case 13:
		reload(r, in, false);
		break;
	case 14:
		wild |= op & 0x80;
		reload(r, in, op & 0x80);
		break;
	case 15:
		vrig(r)->dev->ops->reset(vrig(r)->dev);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct rig *r = rig_create();

	reporting = take(&in, 1) & 3;
	wild = false;
	vrig_init(r, create);
	memset(vrig_ptr(r, 0), 0x5a, KEEP);
	start(r, &in);
	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in);
	rig_pass(r, NSEC_PER_SEC);
	for (unsigned i = 0; !wild && i < KEEP; i++)
		assert(*vrig_ptr(r, i) == 0x5a);
	rig_destroy(r);
	return 0;
}
