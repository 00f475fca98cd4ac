/*
 * A hostile driver of virtio-blk over real images: requests whose headers,
 * segments and buffers are the input's choice, mostly near the format, on
 * several queues at once; resets, records and registers in between. The first
 * bytes choose the image (raw or qcow2, read-only) and whether requests are
 * done while the driver waits or by threads behind its back.
 */
#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virtio_rig.h"

#include "backend/block/image.h"
#include "base/log.h"
#include "dev/virtio/blk.h"

#define STEPS 200
#define QUEUES 3
#define DISK (300 * KiB)
#define AREA 0x40000ull /* of buffers: near each other, so that they overlap */
#define AREA_LEN 0x20000
#define KEEP 0x1000 /* bytes at 0 that no operation names */

static struct virtio *blk;
static struct block *image;
/* A descriptor or a record may name any page. */
static bool wild;

/* An image without a name, behind /proc/self/fd. */
static void open_image(u8 how)
{
	char path[64];
	int fd = memfd_create("image", 0);
	struct block_config c = { .path = path, .cache = BLOCK_CACHE_UNSAFE, .readonly = how & 2, .threads = how & 4 };
	struct error e = { "" };

	assert(fd >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (how & 1) {
		struct qcow2_create_config q = { .path = path, .size = DISK, .cluster_size = 4096, .overwrite = true };
		int rc = qcow2_create(&q, &e);

		assert(rc == 0);
	} else {
		int rc = ftruncate(fd, DISK);

		assert(rc == 0);
	}
	image = block_open(&c, &e);
	assert(image);
	close(fd);
}

static int create(struct rig *r, struct pci_bus *bus)
{
	struct blk_config c = { .image = image,
				.name = "disk",
				.serial = "SERIAL",
				.queues = QUEUES,
				.queue_size = 64,
				.slot = VRIG_SLOT };

	blk = blk_create(&r->board, bus, &c);
	return blk ? 0 : -1;
}

static u64 address(struct input *in)
{
	switch (take(in, 1) & 31) {
	case 0:
		return take(in, 8) | KEEP;
	case 1:
		return 2 * MiB - (take(in, 2) & 0xfff);
	case 2:
		return VRIG_BAR + take(in, 2);
	case 3: /* the rings */
		return VRIG_FIRST + (take(in, 2) & 0x3fff);
	default:
		return AREA + take(in, 3) % AREA_LEN;
	}
}

static void start(struct rig *r, struct input *in)
{
	static const u64 all = BIT(2) | BIT(6) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14);
	u8 how = take(in, 1);
	u64 features = (how & 1 ? VIRTIO_F_INDIRECT_DESC : 0) | (how & 2 ? VIRTIO_F_EVENT_IDX : 0);

	vrig_pci_setup(r);
	features |= vrig_offered(r) & (how & 8 ? take(in, 2) : all);
	vrig(r)->no_msix = how & 4;
	vrig_start(r, features, QUEUES, 4u << (how >> 4 & 3));
	wild = false;
}

/* A request near the format: header, segments or data, status. */
static void request(struct rig *r, struct input *in, unsigned n)
{
	static const u8 types[] = { 0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 13, 2 };
	u8 how = take(in, 1), count = take(in, 1) % 6, kind = take(in, 1);
	struct {
		u32 type, reserved;
		u64 sector;
	} h = { kind & 0x80 ? take(in, 4) : types[kind % ARRAY_SIZE(types)], 0,
		how & 1 ? take(in, 8) : take(in, 2) % (DISK / 512 + 4) };
	bool segments = h.type == 11 || h.type == 13, reads = h.type == 0 || h.type == 8;
	struct vseg seg[8] = { { address(in), how & 2 ? take(in, 1) : 16, how & 4 && how & 0x40 } };
	unsigned k = 1;

	if (!vrig(r)->queue[n].size || vrig(r)->next + 4096 > AREA)
		return;
	if (seg[0].gpa < 2 * MiB - 16 && seg[0].gpa >= KEEP)
		memcpy(vrig_ptr(r, seg[0].gpa), &h, sizeof(h));
	for (; k <= count; k++) {
		seg[k] = (struct vseg){ address(in), (take(in, 1) & 63) * (how & 8 ? 37 : 512), reads };
		if (segments && seg[k].gpa < 2 * MiB - 16 && seg[k].gpa >= KEEP) {
			u64 sector = take(in, 2) % (DISK / 512 + 4);
			u32 sectors = how & 16 ? take(in, 4) : take(in, 1), flags = take(in, 1) & 3 ? 0 : take(in, 1);

			seg[k].len = 16;
			memcpy(vrig_ptr(r, seg[k].gpa), &sector, 8);
			memcpy(vrig_ptr(r, seg[k].gpa + 8), &sectors, 4);
			memcpy(vrig_ptr(r, seg[k].gpa + 12), &flags, 4);
		}
	}
	if (!(how & 32))
		seg[k++] = (struct vseg){ address(in), 1, true };
	if (how & 0x80)
		vrig_add_indirect(r, n, seg, k);
	else
		vrig_add(r, n, seg, k);
}

static void descriptor(struct rig *r, struct input *in, struct vrig_queue *q)
{
	u8 where = take(in, 1), flags = take(in, 1);
	u64 at = address(in);

	wild = true;
	if (q->size)
		vrig_desc(r, q->desc, where % q->size, at, take(in, flags & 8 ? 4 : 2), flags & 7, take(in, 1));
}

static void record(struct rig *r, struct input *in, bool bad)
{
	struct device *d = vrig(r)->dev;
	struct encoder e;

	blk->ops->quiesce(blk);
	e = rig_save(d);
	if (bad) {
		e.data[e.len - 1 - take(in, 2) % e.len] = take(in, 1);
		wild = true;
	}
	if (rig_check(d, e.data, e.len) == 0)
		rig_load(d, e.data, e.len);
	else
		assert(bad);
	enc_free(&e);
	blk->ops->resume(blk);
}

static void step(struct rig *r, struct input *in)
{
	static const u16 pages[] = { VRIG_COMMON, VRIG_CONFIG, VRIG_NOTIFY, VRIG_ISR };
	u8 op = take(in, 1);
	unsigned n = (op >> 4) % QUEUES;
	u8 at;

	switch (op & 15) {
	case 0:
		start(r, in);
		break;
	case 1:
		descriptor(r, in, &vrig(r)->queue[n]);
		break;
	case 2: /* the guest changes what is on its way */
		vrig_ptr(r, AREA + take(in, 3) % AREA_LEN)[0] = take(in, 1);
		break;
	case 3:
	case 4:
		vrig_kick(r, n);
		break;
	case 5:
		door_deliver(r->board.door, 0);
		break;
	case 6:
		at = take(in, 1);
		vrig_write(r, pages[at & 3] + (take(in, 1) & 0x7f), take(in, 4), 1u << (op >> 4 & 3) & 7);
		wild = true;
		break;
	case 7:
		at = take(in, 1);
		vrig_read(r, pages[at & 3] + (take(in, 1) & 0x7f), 4);
		break;
	case 8:
		record(r, in, op & 0x80);
		break;
	case 9:
		if (op & 0x80)
			vrig(r)->dev->ops->reset(vrig(r)->dev);
		else
			vrig_set_status(r, 0);
		break;
	default:
		request(r, in, n);
		vrig_kick(r, op & 0x80 ? n : 0);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct rig *r = rig_create();
	u8 how = take(&in, 1);

	log_set_level(LOG_ERROR - 1);
	if (how & 8) {
		door_destroy(r->board.door);
		r->board.door = door_create(DOOR_REAL, 0);
	}
	open_image(how);
	vrig_init(r, create);
	memset(vrig_ptr(r, 0), 0xa5, KEEP);
	start(r, &in);
	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in);
	for (unsigned i = 0; i < KEEP && !wild; i++)
		assert(vrig_ptr(r, 0)[i] == 0xa5);
	rig_destroy(r);
	block_close(image);
	return 0;
}
