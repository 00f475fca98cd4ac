/* The PCI transport: capabilities, registers, negotiation, interrupts, reset, records; the entropy device on it. */
#include "virtio_echo.h"
#include <cmocka.h>

#include "dev/virtio/rng.h"

#define OK (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK)

static struct rig *plain(void)
{
	struct rig *r = rig_create();

	vrig_init(r, echo_create);
	return r;
}

static struct rig *started(u64 features)
{
	struct rig *r = plain();

	vrig_start(r, features, ECHO_QUEUES, 8);
	return r;
}

static void capabilities(void **state)
{
	static const struct {
		u8 type, len;
		u32 offset, length;
	} want[] = { { 1, 16, VRIG_COMMON, 56 },
		     { 2, 20, VRIG_NOTIFY, 12 },
		     { 3, 16, VRIG_ISR, 1 },
		     { 4, 16, VRIG_CONFIG, 24 },
		     { 5, 20, 0, 0 } };
	struct rig *r = plain();

	assert_int_equal(vrig_pci_read(r, 0, 4), 0x10431af4);
	assert_int_equal(vrig_pci_read(r, PCI_REVISION, 4), 0x07800001);
	assert_int_equal(vrig_pci_read(r, PCI_SUBSYSTEM_VENDOR, 2), 0x1af4);
	assert_true(vrig_pci_read(r, PCI_SUBSYSTEM_ID, 2) >= 0x40);
	for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
		unsigned at = vrig_cap(r, PCI_CAP_VENDOR, want[i].type);

		assert_true(at);
		assert_int_equal(at & 3, 0);
		assert_int_equal(vrig_pci_read(r, at + 2, 1), want[i].len);
		assert_int_equal(vrig_pci_read(r, at + 4, 1), 0);
		assert_int_equal(vrig_pci_read(r, at + 8, 4), want[i].offset);
		assert_int_equal(vrig_pci_read(r, at + 12, 4), want[i].length);
	}
	assert_int_equal(vrig_pci_read(r, vrig_cap(r, PCI_CAP_VENDOR, 2) + 16, 4), 4);
	assert_int_equal(vrig_pci_read(r, vrig_cap(r, PCI_CAP_MSIX, 0) + 2, 2), ECHO_QUEUES);
	rig_destroy(r);
}

static void negotiation(void **state)
{
	struct rig *r = plain();
	const u64 all = ECHO_FEATURE | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;

	assert_int_equal(vrig_offered(r), all);
	vrig_write(r, VRIG_COMMON, 2, 4);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 4, 4), 0);
	assert_true(vrig_negotiate(r, ECHO_FEATURE));
	assert_true(virtio_has(&echo_last->v, ECHO_FEATURE));
	assert_false(virtio_has(&echo_last->v, VIRTIO_F_EVENT_IDX));
	/* agreed: no more changes */
	vrig_write(r, VRIG_COMMON + 8, 0, 4);
	vrig_write(r, VRIG_COMMON + 12, 0, 4);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 12, 4), ECHO_FEATURE);
	/* what was not offered */
	assert_false(vrig_negotiate(r, BIT(6)));
	vrig_set_status(r, OK);
	assert_int_equal(vrig_status(r), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	assert_int_equal(echo_last->starts, 0);
	/* a legacy driver */
	vrig_set_status(r, 0);
	vrig_write(r, VRIG_COMMON + 12, 0, 4);
	vrig_set_status(r, OK);
	assert_int_equal(vrig_status(r), VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	assert_true(vrig_negotiate(r, 0));
	vrig_set_status(r, OK | VIRTIO_NEEDS_RESET | 0x30);
	assert_int_equal(vrig_status(r), OK);
	assert_int_equal(echo_last->starts, 1);
	vrig_set_status(r, OK);
	assert_int_equal(echo_last->starts, 1);
	vrig_set_status(r, OK | VIRTIO_FAILED);
	assert_int_equal(vrig_status(r), OK | VIRTIO_FAILED);
	rig_destroy(r);
}

static void registers(void **state)
{
	struct rig *r = plain();

	vrig_negotiate(r, 0);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 18, 2), ECHO_QUEUES);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 16, 2), 0xffff);
	vrig_write(r, VRIG_COMMON + 16, ECHO_QUEUES, 2);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 16, 2), ECHO_QUEUES);
	vrig_write(r, VRIG_COMMON + 16, ECHO_QUEUES + 1, 2); /* no such vector */
	assert_int_equal(vrig_read(r, VRIG_COMMON + 16, 2), 0xffff);
	for (unsigned q = 0; q < ECHO_QUEUES; q++) {
		vrig_write(r, VRIG_COMMON + 22, q, 2);
		assert_int_equal(vrig_read(r, VRIG_COMMON + 22, 2), q);
		assert_int_equal(vrig_read(r, VRIG_COMMON + 24, 2), ECHO_SIZE);
		assert_int_equal(vrig_read(r, VRIG_COMMON + 26, 2), 0xffff);
		assert_int_equal(vrig_read(r, VRIG_COMMON + 28, 2), 0);
		assert_int_equal(vrig_read(r, VRIG_COMMON + 30, 2), q);
		vrig_write64(r, VRIG_COMMON + 32, 0x1122334455667780 + q);
		vrig_write64(r, VRIG_COMMON + 40, 0x2122334455667780 + q);
		vrig_write64(r, VRIG_COMMON + 48, 0x3122334455667780 + q);
	}
	assert_int_equal(echo_last->v.queue[1].desc, 0x1122334455667781);
	assert_int_equal(echo_last->v.queue[1].avail, 0x2122334455667781);
	assert_int_equal(echo_last->v.queue[1].used, 0x3122334455667781);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 44, 4), 0x21223344);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 51, 1), 0x55);
	/* narrower writes, ones across fields and beyond the end are none */
	vrig_write(r, VRIG_COMMON + 32, 0xff, 1);
	memory_write(r->board.mem, VRIG_BAR + VRIG_COMMON + 34, "\1\1\1\1", 4);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 32, 4), 0x55667782);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 56, 4), 0);
	vrig_write(r, VRIG_COMMON + 56, 1, 4);
	/* a queue that is not there */
	vrig_write(r, VRIG_COMMON + 22, ECHO_QUEUES, 2);
	for (unsigned off = 24; off < 56; off += 2)
		if (off != 26) {
			vrig_write(r, VRIG_COMMON + off, 1, 2);
			assert_int_equal(vrig_read(r, VRIG_COMMON + off, 2), 0);
		}
	assert_int_equal(vrig_status(r) & VIRTIO_NEEDS_RESET, 0);
	for (unsigned off = 0x5008; off < 0x8000; off += 4) {
		vrig_write(r, off, ~0u, 4);
		assert_int_equal(vrig_read(r, off, 4), 0);
	}
	rig_destroy(r);
}

static void config_space(void **state)
{
	struct rig *r = started(0);
	u8 generation = vrig_read(r, VRIG_COMMON + 21, 1);

	assert_int_equal(vrig_read(r, VRIG_CONFIG, 4), 0xa3a2a1a0);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 23, 1), 0xb7);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 24, 4), 0);
	memory_write(r->board.mem, VRIG_BAR + VRIG_CONFIG + 14, "\1\2\3\4", 4); /* comes as two accesses */
	assert_int_equal(echo_last->config_writes, 2);
	assert_int_equal(echo_last->config_off, 16);
	assert_int_equal(echo_last->config_size, 2);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 14, 4), 0x0403afae);
	vrig_write(r, VRIG_CONFIG + 24, ~0u, 4);
	vrig_write(r, VRIG_CONFIG + 4092, ~0u, 4);
	assert_int_equal(echo_last->config_writes, 2);
	virtio_config_changed(&echo_last->v);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 21, 1), (u8)(generation + 1));
	assert_int_equal(r->msi_of[0], 1);
	/* without a driver only the generation */
	vrig_set_status(r, 0);
	virtio_config_changed(&echo_last->v);
	assert_int_equal(r->msi_of[0], 1);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 21, 1), (u8)(generation + 2));
	rig_destroy(r);
}

static void intx(void **state)
{
	struct rig *r = plain();

	vrig(r)->no_msix = true;
	vrig_start(r, 0, ECHO_QUEUES, 8);
	assert_int_equal(vrig_request(r, 0, "hello", 5, NULL, 5), 5);
	assert_int_equal(r->msis, 0);
	assert_true(r->level[VRIG_LINE]);
	assert_true(vrig_pci_read(r, PCI_STATUS, 2) & PCI_STATUS_INTX);
	virtio_config_changed(&echo_last->v);
	assert_int_equal(vrig_read(r, VRIG_ISR + 1, 1), 0);
	assert_true(r->level[VRIG_LINE]);
	assert_int_equal(vrig_read(r, VRIG_ISR, 1), 3);
	assert_false(r->level[VRIG_LINE]);
	assert_int_equal(vrig_read(r, VRIG_ISR, 1), 0);
	vrig_request(r, 0, "hello", 5, NULL, 5);
	assert_int_equal(r->rises[VRIG_LINE], 2);
	/* a function that is given messages lets go of its pin (PCI 3.0, 6.8.3.3) */
	vrig_pci_write(r, vrig_cap(r, PCI_CAP_MSIX, 0) + 2, 0x8000, 2);
	assert_false(r->level[VRIG_LINE]);
	vrig_pci_write(r, vrig_cap(r, PCI_CAP_MSIX, 0) + 2, 0, 2);
	assert_true(r->level[VRIG_LINE]);
	vrig_set_status(r, 0);
	assert_false(r->level[VRIG_LINE]);
	assert_int_equal(vrig_read(r, VRIG_ISR, 1), 0);
	rig_destroy(r);
}

/* What a queue needs to be enabled; else the device is broken and says so. */
static void enable_checks(void **state)
{
	static const struct {
		u64 desc, avail, used;
		u16 size;
	} bad[] = {
		{ 0x10008, 0x11000, 0x12000, 8 },    { 0x10000, 0x11001, 0x12000, 8 },
		{ 0x10000, 0x11000, 0x12002, 8 },    { 0x10000, 0x11000, 0x12000, 0 },
		{ 0x10000, 0x11000, 0x12000, 7 },    { 0x10000, 0x11000, 0x12000, 512 },
		{ 0x200000, 0x11000, 0x12000, 8 },   { 0x1fff90, 0x11000, 0x12000, 8 },
		{ 0x10000, 0x1ffff0, 0x12000, 8 },   { 0x10000, 0x11000, 0x1fffc0, 8 },
		{ ~15ull, 0x11000, 0x12000, 8 },     { 0x10000, ~1ull, 0x12000, 8 },
		{ 0x10000, 0x11000, VRIG_BAR, 8 },   { 0x10000, 0x11000, 0x300000, 8 },
		{ 0x10000, 0xb0000000, 0x12000, 8 },
	};
	struct rig *r = plain();
	struct vrig_queue *q = &vrig(r)->queue[0];

	/* read-only memory will do for the driver's parts, not for the device's */
	memory_map_host(r->board.mem, 0x300000, vrig_ptr(r, 0x1000), 0x1000, REGION_ROM, 0, "rom");
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		vrig_negotiate(r, 0);
		*q = (struct vrig_queue){ bad[i].size, bad[i].desc, bad[i].avail, bad[i].used, 0, 0, 0 };
		vrig_enable_queue(r, 0);
		if (!(vrig_status(r) & VIRTIO_NEEDS_RESET))
			print_message("# bad[%u]\n", i);
		assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
		assert_int_equal(vrig_read(r, VRIG_COMMON + 28, 2), 0);
		vrig_set_status(r, OK);
		vrig_kick(r, 0);
	}
	assert_int_equal(echo_last->starts, 0);
	assert_int_equal(echo_last->kicks, 0);
	vrig_negotiate(r, 0);
	*q = (struct vrig_queue){ 8, 0x300000, 0x300100, 0x12000, 0, 0, 0 };
	vrig_enable_queue(r, 0);
	assert_int_equal(vrig_status(r) & VIRTIO_NEEDS_RESET, 0);
	assert_int_equal(vrig_read(r, VRIG_COMMON + 28, 2), 1);
	/* it stands now */
	vrig_write(r, VRIG_COMMON + 24, 4, 2);
	vrig_write64(r, VRIG_COMMON + 32, 0);
	vrig_write(r, VRIG_COMMON + 28, 0, 2);
	assert_int_equal(echo_last->v.queue[0].size, 8);
	assert_int_equal(echo_last->v.queue[0].desc, 0x300000);
	assert_true(echo_last->v.queue[0].enabled);
	/* before the features are agreed on */
	vrig_set_status(r, 0);
	vrig_enable_queue(r, 0);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	rig_destroy(r);
}

static void kicks(void **state)
{
	struct rig *r = started(0);

	vrig_kick(r, ECHO_QUEUES);
	vrig_kick(r, 1023);
	vrig_write(r, VRIG_NOTIFY + 2, 0, 2); /* between two queues */
	assert_int_equal(echo_last->kicks, 0);
	vrig_kick(r, 0);
	assert_int_equal(echo_last->kicks, 1);
	/* no bus master: the device may not touch memory */
	vrig_pci_write(r, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	assert_int_equal(vrig_request(r, 0, "a", 1, NULL, 1), -1);
	assert_int_equal(virtq_pop(&echo_last->v.queue[0], &echo_last->buf), 0);
	assert_true(virtq_empty(&echo_last->v.queue[0]));
	vrig_pci_write(r, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, NULL));
	/* not before DRIVER_OK, nor queues that are not enabled */
	vrig_negotiate(r, 0);
	vrig_place_queue(r, 0, 8);
	vrig_enable_queue(r, 0);
	echo_last->kicks = 0;
	vrig_kick(r, 0);
	vrig_set_status(r, OK);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->kicks, 0);
	vrig_kick(r, 0);
	assert_int_equal(echo_last->kicks, 1);
	rig_destroy(r);
}

static void resets(void **state)
{
	struct rig *r = started(VIRTIO_F_EVENT_IDX);
	const struct vseg seg = { VRIG_FIRST, 4, true };
	unsigned before = echo_last->resets;

	vrig_add(r, 1, &seg, 1);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->held, 1);
	vrig_set_status(r, 0);
	assert_int_equal(echo_last->resets, before + 1);
	assert_int_equal(echo_last->held, 0);
	assert_int_equal(vrig_status(r), 0);
	assert_int_equal(echo_last->v.features, 0);
	for (unsigned i = 0; i < ECHO_QUEUES; i++) {
		const struct virtq *q = &echo_last->v.queue[i];

		assert_false(q->enabled);
		assert_int_equal(q->desc | q->avail | q->used | q->avail_next | q->used_next, 0);
		assert_int_equal(q->vector, 0xffff);
		assert_int_equal(q->size, ECHO_SIZE);
		assert_ptr_equal(q->dev, &echo_last->v);
	}
	/* the function's table stays; that of the board does not */
	assert_int_equal(vrig_read(r, VRIG_MSIX + 16 + 8, 4), 1);
	vrig_start(r, 0, ECHO_QUEUES, 8);
	for (struct device *d = r->board.first; d; d = d->next)
		d->ops->reset(d);
	assert_int_equal(vrig_pci_read(r, PCI_BAR0, 4), 0);
	vrig_pci_setup(r);
	assert_int_equal(vrig_status(r), 0);
	assert_int_equal(vrig_read(r, VRIG_MSIX + 16 + 8, 4), 0);
	assert_int_equal(vrig_read(r, VRIG_MSIX + 16 + 12, 4), 1);
	vrig_start(r, 0, ECHO_QUEUES, 8);
	assert_int_equal(vrig_request(r, 0, "a", 1, NULL, 1), 1);
	rig_destroy(r);
}

/* The BAR through configuration space, as firmware without 64-bit or any memory mapping reaches it. */
static void config_access(void **state)
{
	struct rig *r = started(0);
	unsigned at = vrig_cap(r, PCI_CAP_VENDOR, 5), writes;

	vrig_pci_write(r, PCI_COMMAND, PCI_COMMAND_MASTER, 2); /* not even decoded */
	vrig_pci_write(r, at + 4, 0, 1);
	vrig_pci_write(r, at + 8, VRIG_CONFIG + 16, 4);
	vrig_pci_write(r, at + 12, 4, 4);
	assert_int_equal(vrig_pci_read(r, at + 16, 4), 0xb3b2b1b0);
	vrig_pci_write(r, at + 16, 0x12345678, 4);
	assert_int_equal(echo_last->config_writes, 1);
	vrig_pci_write(r, at + 12, 2, 4);
	assert_int_equal(vrig_pci_read(r, at + 16, 4), 0x5678);
	vrig_pci_write(r, at + 12, 1, 4);
	assert_int_equal(vrig_pci_read(r, at + 16, 1), 0x78);
	vrig_pci_write(r, at + 8, VRIG_COMMON + 20, 4);
	assert_int_equal(vrig_pci_read(r, at + 16, 4), OK);
	vrig_pci_write(r, at + 8, VRIG_NOTIFY, 4);
	vrig_pci_write(r, at + 12, 2, 4);
	vrig_pci_write(r, at + 16, 0, 2);
	assert_int_equal(echo_last->kicks, 1);
	/* windows that are none */
	writes = echo_last->config_writes;
	vrig_pci_write(r, at + 8, VRIG_CONFIG + 16, 4);
	for (unsigned i = 0; i < 5; i++) {
		static const u32 bad[][3] = { { 1, VRIG_CONFIG + 16, 4 },
					      { 0, VRIG_CONFIG + 16, 3 },
					      { 0, VRIG_CONFIG + 17, 2 },
					      { 0, 0x8000, 4 },
					      { 0, 0xfffffffc, 4 } };

		vrig_pci_write(r, at + 4, bad[i][0], 1);
		vrig_pci_write(r, at + 8, bad[i][1], 4);
		vrig_pci_write(r, at + 12, bad[i][2], 4);
		vrig_pci_write(r, at + 16, 0, 4);
		assert_int_equal(vrig_pci_read(r, at + 16, 4), 0);
	}
	assert_int_equal(echo_last->config_writes, writes);
	rig_destroy(r);
}

/* ---- records ---- */

static struct device *make_echo(struct rig *r)
{
	return vrig_init(r, echo_create);
}

static void poke_echo(struct rig *r, struct device *d)
{
	const struct vseg seg[] = { { VRIG_FIRST, 3, false }, { VRIG_FIRST + 16, 4, true } };

	vrig_start(r, VIRTIO_F_EVENT_IDX | ECHO_FEATURE, ECHO_QUEUES, 8);
	for (unsigned i = 0; i < 3; i++)
		vrig_add(r, 1, seg, 2);
	vrig_kick(r, 1);
	vrig_request(r, 0, "abc", 3, NULL, 3);
	vrig_request(r, 2, "abc", 3, NULL, 3);
	vrig_write(r, VRIG_CONFIG + 16, 0x01020304, 4);
	vrig_write(r, VRIG_MSIX + 16 * 3 + 12, 1, 4);
	vrig_write(r, VRIG_COMMON + 22, 1, 2);
}

static void poke_intx(struct rig *r, struct device *d)
{
	vrig(r)->no_msix = true;
	vrig_start(r, VIRTIO_F_INDIRECT_DESC, 1, 16);
	vrig_request(r, 0, "abc", 3, NULL, 3);
}

/* The one that loaded goes on where the other was, with the other's memory. */
static void moves(void **state)
{
	struct rig *a = started(VIRTIO_F_EVENT_IDX), *b;
	struct echo *from = echo_last, *to;
	gpa_t out = vrig_bytes(a, "ab", 2), in = vrig_alloc(a, 2);
	const struct vseg seg[] = { { out, 2, false }, { in, 2, true } };
	struct encoder e;
	u32 len;

	for (unsigned i = 0; i < 3; i++)
		vrig_add(a, 1, seg, 2);
	vrig_kick(a, 1);
	assert_int_equal(from->held, 3);
	e = rig_save(vrig(a)->dev);
	b = plain();
	to = echo_last;
	memcpy(vrig_ptr(b, 0), vrig_ptr(a, 0), 2 * MiB);
	memcpy(vrig(b)->queue, vrig(a)->queue, sizeof(vrig(a)->queue));
	assert_int_equal(rig_check(vrig(b)->dev, e.data, e.len), 0);
	rig_load(vrig(b)->dev, e.data, e.len);
	assert_int_equal(b->msis, 0);
	echo_release(to);
	assert_int_equal(b->msi_of[2], 1);
	for (unsigned i = 0; i < 3; i++)
		assert_true(vrig_used(b, 1, NULL, &len) && len == 2);
	assert_memory_equal(vrig_ptr(b, in), "ab", 2);
	assert_int_equal(vrig_request(b, 0, "xyz", 3, NULL, 3), 3);
	enc_free(&e);
	rig_destroy(a);
	rig_destroy(b);
}

static void roundtrips(void **state)
{
	rig_roundtrip(make_echo, poke_echo);
	rig_roundtrip(make_echo, poke_intx);
}

/* ---- the entropy device ---- */

static int rng_create(struct rig *r, struct pci_bus *bus)
{
	return virtio_rng_create(&r->board, bus, VRIG_SLOT);
}
static struct device *make_rng(struct rig *r)
{
	return vrig_init(r, rng_create);
}

static void poke_rng(struct rig *r, struct device *d)
{
	vrig_start(r, VIRTIO_F_EVENT_IDX, 1, 8);
	vrig_request(r, 0, NULL, 0, NULL, 64);
}

static void entropy(void **state)
{
	struct rig *r = rig_create();
	u8 a[64], b[64], zero[64] = { 0 };
	static u8 big[16384];
	u32 len;

	make_rng(r);
	assert_int_equal(vrig_pci_read(r, 0, 4), 0x10441af4);
	vrig_start(r, VIRTIO_F_EVENT_IDX, 1, 64);
	assert_int_equal(vrig_request(r, 0, NULL, 0, a, 64), 64);
	assert_int_equal(vrig_request(r, 0, NULL, 0, b, 64), 64);
	assert_memory_not_equal(a, b, 64);
	assert_memory_not_equal(a, zero, 64);
	assert_int_equal(r->msi_of[1], 1); /* used_event stays 0 */
	/* a request of any size costs no more than so much, and nothing is written beyond what is said */
	len = vrig_request(r, 0, NULL, 0, big, sizeof(big));
	assert_int_equal(len, 4096);
	for (unsigned i = len; i < sizeof(big); i++)
		assert_int_equal(big[i], 0);
	/* only something to read: nothing to fill */
	assert_int_equal(vrig_request(r, 0, "x", 1, NULL, 0), 0);
	rig_destroy(r);
	rig_roundtrip(make_rng, poke_rng);
}

/* Slots: a given one, the next free, none left. */
static void slots(void **state)
{
	struct rig *r = plain();

	assert_int_equal(virtio_rng_create(&r->board, vrig(r)->bus, VRIG_SLOT), -1);
	for (unsigned i = 1; i < 30; i++)
		assert_int_equal(virtio_rng_create(&r->board, vrig(r)->bus, 0), 0);
	assert_int_equal(virtio_rng_create(&r->board, vrig(r)->bus, 0), -1);
	for (unsigned i = 1; i < 31; i++)
		assert_int_equal(pci_config_read(vrig(r)->bus, PCI_DEVFN(i, 0), 2, 2),
				 i == VRIG_SLOT ? 0x1043 : 0x1044);
	rig_destroy(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capabilities), cmocka_unit_test(negotiation), cmocka_unit_test(registers),
		cmocka_unit_test(config_space), cmocka_unit_test(intx),	       cmocka_unit_test(enable_checks),
		cmocka_unit_test(kicks),	cmocka_unit_test(resets),      cmocka_unit_test(config_access),
		cmocka_unit_test(moves),	cmocka_unit_test(roundtrips),  cmocka_unit_test(entropy),
		cmocka_unit_test(slots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
