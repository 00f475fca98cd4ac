/* virtio-blk over an image in memory, with a driver that breaks what rules it likes. */
#include <endian.h>
#include <errno.h>
#include <pthread.h>

#include "dev_rig.h"
#include <cmocka.h>

#include "block_fake.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/transport.h"

#define SECTORS 256u
#define RING(q) (0x10000u + (q)*0x4000u) /* descriptors, at 1000h the available and at 2000h the used ring */
#define HEADER 0x80000u
#define STATUS 0x90000u
#define DATA 0xa0000u
#define F_SEG_MAX BIT(2)
#define F_RO BIT(5)
#define F_FLUSH BIT(9)
#define F_CONFIG_WCE BIT(11)
#define F_MQ BIT(12)
#define F_DISCARD BIT(13)
#define F_WRITE_ZEROES BIT(14)
#define FEATURES (F_SEG_MAX | F_FLUSH | F_MQ | F_DISCARD | F_WRITE_ZEROES)
enum { IN, OUT, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { OK, IOERR, UNSUPP, UNTOUCHED = 0x55 };

#define WRITE 2
#define INDIRECT 4
/* A descriptor of a chain. */
struct piece {
	u32 at, len;
	u16 flags; /* of the descriptor */
};

struct bench {
	struct rig *r;
	struct block *image;
	struct pci_bus *bus;
	struct virtio *v;
	u16 avail[4];
	unsigned desc[4];
	unsigned told; /* bytes the engines were told of */
};

static void no_intx(void *opaque, unsigned pirq, bool level) {}

static void build(struct bench *b, enum door_mode mode, u64 size, bool readonly)
{
	struct blk_config c = { .name = "disk0", .serial = "serial-0123456789abcdef", .queues = 4, .slot = 1 };

	*b = (struct bench){ .r = rig_create(), .image = fake_image(size, size <= MiB) };
	if (mode == DOOR_REAL) {
		door_destroy(b->r->board.door);
		b->r->board.door = door_create(DOOR_REAL, 0);
	}
	b->image->readonly = readonly;
	b->bus = pci_bus_create(&b->r->board, no_intx, NULL);
	c.image = b->image;
	b->v = blk_create(&b->r->board, b->bus, &c);
	assert_non_null(b->v);
}

static void destroy(struct bench *b)
{
	for (struct device *d = b->r->board.first, *next; d; d = next) {
		next = d->next;
		d->ops->destroy(d);
	}
	b->r->board.first = NULL;
	pci_bus_destroy(b->bus);
	rig_destroy(b->r);
	fake_free(b->image);
}

static void put(struct bench *b, u32 at, const void *p, size_t n)
{
	memory_write(b->r->board.mem, at, p, n);
}
static u16 get16(struct bench *b, u32 at)
{
	u16 v;

	memory_read(b->r->board.mem, at, &v, 2);
	return v;
}
static u8 get8(struct bench *b, u32 at)
{
	u8 v;

	memory_read(b->r->board.mem, at, &v, 1);
	return v;
}

static void start(struct bench *b, u64 features)
{
	struct virtio *v = b->v;
	u8 zeros[0x4000] = { 0 };

	virtio_reset(v);
	pci_config_write(b->bus, PCI_DEVFN(1, 0), PCI_COMMAND, PCI_COMMAND_MASTER, 2);
	virtio_set_status(v, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER, 0);
	virtio_set_status(v, 15 & ~VIRTIO_DRIVER_OK, features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC);
	assert_true(v->status & VIRTIO_FEATURES_OK);
	for (unsigned q = 0; q < 4; q++) {
		put(b, RING(q), zeros, sizeof(zeros));
		v->queue[q].desc = RING(q);
		v->queue[q].avail = RING(q) + 0x1000;
		v->queue[q].used = RING(q) + 0x2000;
		virtio_queue_enable(&v->queue[q]);
		assert_true(v->queue[q].enabled);
		b->avail[q] = b->desc[q] = 0;
	}
	virtio_set_status(v, 15, 0);
	assert_true(virtio_running(v));
}

/* Makes a chain available. */
static void offer(struct bench *b, unsigned q, const struct piece *p, unsigned n)
{
	u16 head = (u16)b->desc[q], idx;

	for (unsigned i = 0; i < n; i++) {
		struct {
			u64 addr;
			u32 len;
			u16 flags, next;
		} d = { p[i].at, p[i].len, p[i].flags, (u16)(b->desc[q] + 1) };

		d.flags |= i + 1 < n;
		put(b, RING(q) + 16 * b->desc[q]++, &d, sizeof(d));
	}
	put(b, RING(q) + 0x1004 + 2 * (b->avail[q] % BLK_QUEUE_SIZE), &head, 2);
	idx = ++b->avail[q];
	put(b, RING(q) + 0x1002, &idx, 2);
}

static void header(struct bench *b, unsigned n, u32 type, u64 sector)
{
	const struct {
		u32 type, reserved;
		u64 sector;
	} h = { type, 0, sector };
	u8 status = UNTOUCHED;

	put(b, HEADER + 16 * n, &h, sizeof(h));
	put(b, STATUS + n, &status, 1);
}

/* One request as Linux lays it out; returns its status. */
static u8 request(struct bench *b, u32 type, u64 sector, u32 len)
{
	const struct piece p[] = { { HEADER, 16, 0 },
				   { DATA, len, type == IN || type == GET_ID ? WRITE : 0 },
				   { STATUS, 1, WRITE } };
	const struct piece bare[] = { p[0], p[2] };

	b->desc[0] = 0;
	header(b, 0, type, sector);
	offer(b, 0, len ? p : bare, len ? 3 : 2);
	virtio_kick(b->v, 0);
	door_deliver(b->r->board.door, 0);
	return get8(b, STATUS);
}

static u16 used(struct bench *b, unsigned q)
{
	return get16(b, RING(q) + 0x2002);
}

static void fill(struct bench *b, u32 at, u32 len, u8 seed)
{
	for (u32 i = 0; i < len; i++)
		put(b, at + i, &(u8){ (u8)(seed + i * 13) }, 1);
}

static void assert_memory(struct bench *b, u32 at, const void *want, u32 len)
{
	u8 *got = malloc(len);

	memory_read(b->r->board.mem, at, got, len);
	assert_memory_equal(got, want, len);
	free(got);
}

static u32 config32(struct bench *b, unsigned off)
{
	return virtio_config_read(b->v, off, 4);
}

static void configuration(void **state)
{
	struct bench b;

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	assert_int_equal(config32(&b, 0), SECTORS);
	assert_int_equal(config32(&b, 4), 0);
	assert_int_equal(config32(&b, 12), BLK_QUEUE_SIZE - 2);
	assert_int_equal(config32(&b, 20), 512);
	assert_int_equal(virtio_config_read(b.v, 24, 1), 3);
	assert_int_equal(virtio_config_read(b.v, 32, 1), 1);
	assert_int_equal(virtio_config_read(b.v, 34, 2), 4);
	assert_int_equal(config32(&b, 44), 128); /* the fake's 64 KiB */
	/* of all this the driver may write the cache mode only */
	for (unsigned off = 0; off < 60; off++)
		virtio_config_write(b.v, off, 0xff, 1);
	assert_int_equal(config32(&b, 0), SECTORS);
	assert_int_equal(config32(&b, 32), 0x00040001);
	assert_true(b.v->offered & F_DISCARD && !(b.v->offered & F_RO));
	destroy(&b);
	build(&b, DOOR_VIRTUAL, SECTORS * 512, true);
	assert_true(b.v->offered & F_RO && !(b.v->offered & (F_DISCARD | F_WRITE_ZEROES)));
	destroy(&b);
}

static void transfers(void **state)
{
	struct bench b;

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, FEATURES);
	assert_int_equal(request(&b, IN, 3, 8192), OK);
	assert_memory(&b, DATA, b.image->data + 3 * 512, 8192);
	fill(&b, DATA, 4096, 77);
	assert_int_equal(request(&b, OUT, SECTORS - 8, 4096), OK);
	assert_memory(&b, DATA, b.image->data + (SECTORS - 8) * 512, 4096);
	assert_int_equal(request(&b, FLUSH, 0, 0), OK);
	assert_int_equal(request(&b, GET_ID, 0, 20), OK);
	assert_memory(&b, DATA, "serial-0123456789abc", 20);
	assert_string_equal(b.image->ops, "rwf");
	assert_int_equal(used(&b, 0), 4);
	assert_int_equal(blk_stats(b.v)->read_bytes, 8192);
	assert_int_equal(blk_stats(b.v)->written_bytes, 4096);
	assert_int_equal(blk_stats(b.v)->errors, 0);
	destroy(&b);
}

/* Descriptors need not follow the parts of a request (2.7.4.2). */
static void layouts(void **state)
{
	struct bench b;
	const u8 ok = 0;

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, FEATURES);
	/* a header in three, data in its last one; data in three, the status in the last */
	const struct piece out[] = { { HEADER, 7, 0 },
				     { HEADER + 7, 8, 0 },
				     { HEADER + 15, 1 + 500, 0 },
				     { DATA, 12, 0 },
				     { STATUS + 3, 1, WRITE } };
	const struct piece in[] = { { HEADER + 1024, 16, 0 },
				    { DATA + 0x1001, 511, WRITE },
				    { DATA + 0x1200, 1, WRITE },
				    { DATA + 0x1201, 513, WRITE } };

	fill(&b, DATA, 12, 6);
	header(&b, 0, OUT, 9);
	fill(&b, HEADER + 16, 500, 5);
	offer(&b, 0, out, 5);
	virtio_kick(b.v, 0);
	assert_int_equal(get8(&b, STATUS + 3), OK);
	assert_memory(&b, HEADER + 16, b.image->data + 9 * 512, 500);
	assert_memory(&b, DATA, b.image->data + 9 * 512 + 500, 12);
	header(&b, 64, IN, 20);
	offer(&b, 0, in, 4);
	virtio_kick(b.v, 0);
	assert_memory(&b, DATA + 0x1001, b.image->data + 20 * 512, 1024);
	assert_memory(&b, DATA + 0x1001 + 1024, &ok, 1);
	assert_int_equal(used(&b, 0), 2);
	destroy(&b);
}

static void refused(void **state)
{
	static const struct {
		u32 type;
		u64 sector;
		u32 len;
	} bad[] = {
		{ IN, 0, 511 },	 { IN, SECTORS, 512 },	{ IN, SECTORS - 1, 1024 }, { IN, ~0ull, 512 },
		{ OUT, 0, 513 }, { OUT, SECTORS, 512 }, { OUT, ~0ull >> 9, 512 },  { OUT, ~0ull - 1, 2048 },
	};
	struct bench b;
	u8 before[SECTORS * 512];

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, FEATURES);
	memcpy(before, b.image->data, sizeof(before));
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(request(&b, bad[i].type, bad[i].sector, bad[i].len), IOERR);
	static const u32 unknown[] = { 2, 3, 5, 7, 9, 10, 12, 14, 16, 0x80000000, ~0u };
	for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++)
		assert_int_equal(request(&b, unknown[i], 0, 512), UNSUPP);
	assert_int_equal(b.image->submitted, 0);
	assert_memory_equal(before, b.image->data, sizeof(before));
	/* a short header */
	const struct piece brief[] = { { HEADER, 15, 0 }, { STATUS, 1, WRITE } };

	header(&b, 0, FLUSH, 0);
	b.desc[0] = 0;
	offer(&b, 0, brief, 2);
	virtio_kick(b.v, 0);
	assert_int_equal(get8(&b, STATUS), IOERR);
	assert_true(virtio_running(b.v));
	/* no room for the status: nobody can be told but by a reset */
	const struct piece dumb[] = { { HEADER, 16, 0 }, { DATA, 512, 0 } };

	offer(&b, 0, dumb, 2);
	virtio_kick(b.v, 0);
	assert_true(b.v->status & VIRTIO_NEEDS_RESET);
	assert_int_equal(b.image->submitted, 0);
	start(&b, FEATURES);
	assert_int_equal(request(&b, IN, 0, 512), OK);
	destroy(&b);
	build(&b, DOOR_VIRTUAL, SECTORS * 512, true);
	start(&b, F_SEG_MAX | F_RO | F_FLUSH | F_MQ);
	assert_int_equal(request(&b, OUT, 0, 512), IOERR);
	assert_int_equal(request(&b, DISCARD, 0, 16), UNSUPP);
	assert_int_equal(request(&b, IN, 0, 512), OK);
	destroy(&b);
}

struct range {
	u64 sector;
	u32 sectors, flags;
};

static u8 segments(struct bench *b, u32 type, const struct range *s, unsigned bytes)
{
	put(b, DATA, s, bytes);
	return request(b, type, 0, bytes);
}

static void discards(void **state)
{
	static const u8 zeros[64 * 512];
	const struct range two[] = { { 8, 16, 0 }, { 100, 64, 0 } };
	const struct range bad[] = { { 8, 16, 0 }, { SECTORS - 8, 16, 0 } };
	const struct range unmap = { 0, 8, 1 }, unknown = { 0, 8, 2 }, none = { 0, 0, 0 };
	const struct range far = { ~0ull - 3, 8, 0 };
	struct range many[9] = { { 0, 1, 0 } };
	struct bench b;
	u8 first[512];

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, FEATURES);
	for (unsigned i = 0; i < 9; i++)
		many[i] = (struct range){ i, 1, 0 };
	memcpy(first, b.image->data, 512);
	for (u32 type = DISCARD; type <= ZEROES; type += ZEROES - DISCARD) {
		assert_int_equal(segments(&b, type, bad, sizeof(bad)), IOERR);
		assert_int_equal(segments(&b, type, &unknown, 16), UNSUPP);
		assert_int_equal(segments(&b, type, &none, 16), IOERR);
		assert_int_equal(segments(&b, type, &far, 16), IOERR);
		assert_int_equal(segments(&b, type, many, sizeof(many)), IOERR);
		assert_int_equal(segments(&b, type, two, 24), IOERR);
		assert_int_equal(segments(&b, type, two, 0), IOERR);
	}
	assert_int_equal(segments(&b, DISCARD, &unmap, 16), UNSUPP);
	assert_int_equal(b.image->submitted, 0);
	assert_int_equal(segments(&b, DISCARD, two, sizeof(two)), OK);
	assert_string_equal(b.image->ops, "dd");
	assert_memory_equal(b.image->data + 8 * 512, zeros, 16 * 512);
	assert_memory_equal(b.image->data + 100 * 512, zeros, 64 * 512);
	assert_memory_equal(b.image->data, first, 512);
	assert_int_equal(segments(&b, ZEROES, &unmap, 16), OK);
	assert_string_equal(b.image->ops, "ddz");
	assert_memory_equal(b.image->data, zeros, 8 * 512);
	/* an error ends the request before its other segments */
	b.image->error = ENOSPC;
	assert_int_equal(segments(&b, DISCARD, two, sizeof(two)), IOERR);
	assert_string_equal(b.image->ops, "ddzd");
	b.image->error = EOPNOTSUPP;
	assert_int_equal(segments(&b, DISCARD, two, sizeof(two)), UNSUPP);
	b.image->error = 0;
	/* without the features */
	start(&b, F_FLUSH);
	assert_int_equal(segments(&b, DISCARD, two, sizeof(two)), UNSUPP);
	assert_int_equal(segments(&b, ZEROES, two, sizeof(two)), UNSUPP);
	destroy(&b);
}

/* A write without a volatile cache is flushed before it completes (5.2.6.2). */
static void write_through(void **state)
{
	struct bench b;

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, F_SEG_MAX);
	assert_int_equal(request(&b, OUT, 0, 512), OK);
	assert_int_equal(request(&b, IN, 0, 512), OK);
	assert_string_equal(b.image->ops, "wfr");
	start(&b, F_FLUSH | F_CONFIG_WCE);
	assert_int_equal(request(&b, OUT, 0, 512), OK);
	assert_string_equal(b.image->ops, "wfrw");
	virtio_config_write(b.v, 32, 0, 1);
	assert_int_equal(request(&b, OUT, 0, 512), OK);
	assert_string_equal(b.image->ops, "wfrwwf");
	virtio_config_write(b.v, 32, 1, 1);
	assert_int_equal(request(&b, OUT, 0, 512), OK);
	assert_string_equal(b.image->ops, "wfrwwfw");
	virtio_config_write(b.v, 32, 0, 1);
	start(&b, F_FLUSH | F_CONFIG_WCE);
	assert_int_equal(virtio_config_read(b.v, 32, 1), 1);
	start(&b, F_CONFIG_WCE);
	assert_int_equal(virtio_config_read(b.v, 32, 1), 0);
	destroy(&b);
}

static void errors(void **state)
{
	struct bench b;

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, FEATURES);
	b.image->error = EIO;
	assert_int_equal(request(&b, IN, 0, 512), IOERR);
	assert_int_equal(request(&b, OUT, 0, 512), IOERR);
	assert_int_equal(request(&b, FLUSH, 0, 0), IOERR);
	assert_int_equal(blk_stats(b.v)->errors, 3);
	assert_int_equal(blk_stats(b.v)->read_bytes + blk_stats(b.v)->written_bytes, 0);
	b.image->error = 0;
	assert_int_equal(request(&b, IN, 0, 512), OK);
	destroy(&b);
}

static void *run_all(void *image)
{
	fake_run(image, FAKE_WAITING_MAX);
	return NULL;
}

/* With the real clock the backend's thread hands over; each queue sees its own. */
static void later(void **state)
{
	struct bench b;
	pthread_t t;

	build(&b, DOOR_REAL, SECTORS * 512, false);
	start(&b, FEATURES);
	b.image->wait = true;
	for (unsigned n = 0; n < 40; n++) {
		const struct piece p[] = { { HEADER + 16 * n, 16, 0 },
					   { DATA + 512 * n, 512, WRITE },
					   { STATUS + n, 1, WRITE } };

		header(&b, n, IN, n + 1);
		offer(&b, n % 4, p, 3);
	}
	for (unsigned q = 0; q < 4; q++)
		virtio_kick(b.v, q);
	assert_int_equal(b.image->count, 40);
	assert_false(door_pending(b.r->board.door));
	pthread_create(&t, NULL, run_all, b.image);
	pthread_join(t, NULL);
	assert_true(door_pending(b.r->board.door));
	assert_int_equal(used(&b, 0), 0); /* nothing without the vCPU thread */
	door_deliver(b.r->board.door, 0);
	assert_false(door_pending(b.r->board.door));
	for (unsigned n = 0; n < 40; n++) {
		assert_int_equal(get8(&b, STATUS + n), OK);
		assert_memory(&b, DATA + 512 * n, b.image->data + 512 * (n + 1), 512);
	}
	for (unsigned q = 0; q < 4; q++) {
		assert_int_equal(used(&b, q), 10);
		assert_int_equal(b.v->queue[q].signalled, 10);
	}
	/* done within the submission: seen by the same kick, with no signal */
	b.image->wait = false;
	assert_int_equal((b.desc[0] = 0, request(&b, IN, 0, 512)), OK);
	destroy(&b);
}

/* What the host has finished is found when the guest submits more, with no thread of the backend and no signal. */
static void polled(void **state)
{
	struct bench b;

	build(&b, DOOR_REAL, SECTORS * 512, false);
	start(&b, FEATURES);
	b.image->wait = true;
	for (unsigned n = 0; n < 8; n++) {
		const struct piece p[] = { { HEADER + 16 * n, 16, 0 },
					   { DATA + 512 * n, 512, WRITE },
					   { STATUS + n, 1, WRITE } };

		header(&b, n, IN, n + 1);
		offer(&b, 0, p, 3);
		b.image->ready = n & 1 ? 2 : 0;
		virtio_kick(b.v, 0);
		assert_int_equal(used(&b, 0), n & 1 ? n + 1 : n);
		assert_false(door_pending(b.r->board.door));
	}
	for (unsigned n = 0; n < 8; n++)
		assert_memory(&b, DATA + 512 * n, b.image->data + 512 * (n + 1), 512);
	destroy(&b);
}

/* With the virtual clock nothing is left to a thread. */
static void at_once(void **state)
{
	struct bench b;

	build(&b, DOOR_VIRTUAL, SECTORS * 512, false);
	start(&b, FEATURES);
	b.image->wait = true;
	for (unsigned n = 0; n < 10; n++) {
		const struct piece p[] = { { HEADER + 16 * n, 16, 0 },
					   { DATA + 512 * n, 512, WRITE },
					   { STATUS + n, 1, WRITE } };

		header(&b, n, IN, n + 1);
		offer(&b, 1, p, 3);
	}
	virtio_kick(b.v, 1);
	assert_int_equal(used(&b, 1), 10);
	/* in the order in which they were made available, although the backend would turn it round */
	for (unsigned n = 0; n < 10; n++)
		assert_int_equal(get16(&b, RING(1) + 0x2004 + 8 * n), 3 * n);
	assert_false(door_pending(b.r->board.door));
	destroy(&b);
}

static void told(void *opaque, gpa_t gpa, unsigned len)
{
	if (gpa >= DATA)
		((struct bench *)opaque)->told += len;
}

/* Behind a reset nothing touches the guest's memory, and engines know of what was read before. */
static void reset_in_flight(void **state)
{
	struct bench b;
	struct memory_listener l = { .page_written = told, .opaque = &b };
	struct page_target t;
	u8 status;

	build(&b, DOOR_REAL, SECTORS * 512, false);
	start(&b, FEATURES);
	memory_add_listener(b.r->board.mem, &l);
	b.image->wait = true;
	request(&b, IN, 0, 4096);
	assert_int_equal(get8(&b, STATUS), UNTOUCHED);
	assert_true(memory_page(b.r->board.mem, DATA, &t));
	*t.flags |= PAGE_CODE_DBT;
	virtio_reset(b.v);
	assert_int_equal(b.image->count, 0);
	assert_int_equal(b.told, 4096);
	assert_int_equal(used(&b, 0), 0);
	door_deliver(b.r->board.door, 0);
	assert_int_equal(get8(&b, STATUS), UNTOUCHED);
	/* the pool is whole again, and signals come */
	start(&b, FEATURES);
	request(&b, FLUSH, 0, 0);
	fake_run(b.image, 1);
	door_deliver(b.r->board.door, 0);
	memory_read(b.r->board.mem, STATUS, &status, 1);
	assert_int_equal(status, OK);
	memory_remove_listener(b.r->board.mem, &b);
	destroy(&b);
}

static void quiesced(void **state)
{
	const struct range two[] = { { 8, 16, 0 }, { 100, 64, 0 } };
	struct bench b;

	build(&b, DOOR_REAL, SECTORS * 512, false);
	start(&b, F_DISCARD); /* no flush: three steps */
	b.image->wait = true;
	segments(&b, DISCARD, two, sizeof(two));
	assert_int_equal(used(&b, 0), 0);
	b.r->board.first->ops->quiesce(b.r->board.first);
	assert_int_equal(used(&b, 0), 1);
	assert_int_equal(get8(&b, STATUS), OK);
	assert_string_equal(b.image->ops, "ddf");
	/* what came while it stood still is served afterwards */
	const struct piece p[] = { { HEADER, 16, 0 }, { STATUS, 1, WRITE } };

	header(&b, 0, FLUSH, 0);
	b.image->wait = false;
	offer(&b, 2, p, 2);
	b.r->board.first->ops->resume(b.r->board.first);
	assert_int_equal(used(&b, 2), 1);
	destroy(&b);
}

/* A chain of 1 GiB by an indirect table over the same megabyte. */
static void huge(struct bench *b, unsigned n)
{
	const u32 table = 0x100000 - 1024 * 16;
	const struct piece whole = { table, 1024 * 16, INDIRECT };

	for (unsigned i = 0; i < 1024; i++) {
		struct {
			u64 addr;
			u32 len;
			u16 flags, next;
		} d = { i ? 0x100000 : HEADER + 16 * n, i ? 1 * MiB : 16, i ? 3 : 1, (u16)(i + 1) };

		if (i == 1023)
			d.len = 1, d.flags = 2, d.addr = STATUS + n;
		put(b, table + 16 * i, &d, sizeof(d));
	}
	header(b, n, IN, 0);
	offer(b, 0, &whole, 1);
}

/* What a reset waits for has a bound, whatever is in the ring. */
static void bounded(void **state)
{
	struct bench b;

	build(&b, DOOR_REAL, 1ull << 40, false);
	start(&b, FEATURES);
	b.image->wait = true;
	for (unsigned n = 0; n < 6; n++)
		huge(&b, n);
	virtio_kick(b.v, 0);
	assert_int_equal(b.image->count, 2); /* 1022 MiB, and 1022 MiB: more than 1 GiB */
	for (unsigned done = 1; done <= 6; done++) {
		fake_run(b.image, 1);
		door_deliver(b.r->board.door, 0);
		assert_int_equal(used(&b, 0), done);
		assert_int_equal(b.image->count, MIN(2, 6 - done));
	}
	destroy(&b);
}

/* ---- state ---- */

static struct bench trips[2];
static unsigned trip;

static struct device *make(struct rig *r)
{
	struct bench *b = &trips[trip++ % 2];
	struct blk_config c = { .name = "disk0", .queues = 4, .slot = 1 };

	*b = (struct bench){ .r = r, .image = fake_image(SECTORS * 512, true) };
	b->bus = pci_bus_create(&r->board, no_intx, NULL);
	c.image = b->image;
	b->v = blk_create(&r->board, b->bus, &c);
	return r->board.first;
}

static void poke(struct rig *r, struct device *d)
{
	struct bench *b = trips[0].r == r ? &trips[0] : &trips[1];

	start(b, FEATURES);
	assert_int_equal(request(b, OUT, 1, 512), OK);
	assert_int_equal(request(b, IN, 5, 2048), OK);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
	for (unsigned i = 0; i < 2; i++)
		fake_free(trips[i].image);
}

/* A record of another image is refused. */
static void other_image(void **state)
{
	struct bench a, b, c;
	struct encoder e;

	build(&a, DOOR_VIRTUAL, SECTORS * 512, false);
	build(&b, DOOR_VIRTUAL, SECTORS * 1024, false);
	build(&c, DOOR_VIRTUAL, SECTORS * 512, true);
	e = rig_save(a.r->board.first);
	assert_int_equal(rig_check(a.r->board.first, e.data, e.len), 0);
	assert_int_not_equal(rig_check(b.r->board.first, e.data, e.len), 0);
	assert_int_not_equal(rig_check(c.r->board.first, e.data, e.len), 0);
	enc_free(&e);
	destroy(&a);
	destroy(&b);
	destroy(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configuration), cmocka_unit_test(transfers), cmocka_unit_test(layouts),
		cmocka_unit_test(refused),	 cmocka_unit_test(discards),  cmocka_unit_test(write_through),
		cmocka_unit_test(errors),	 cmocka_unit_test(later),     cmocka_unit_test(polled),
		cmocka_unit_test(at_once),	 cmocka_unit_test(quiesced),  cmocka_unit_test(reset_in_flight),
		cmocka_unit_test(bounded),	 cmocka_unit_test(roundtrip), cmocka_unit_test(other_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
