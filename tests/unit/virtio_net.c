/* The network device before a backend in memory. */
#include "virtio_rig.h"
#include <cmocka.h>

#include "dev/virtio/net.h"
#include "net_fake.h"

#include <linux/virtio_net.h> /* behind dev/virtio/virtio.h: both name the identifiers */

#define F_CSUM BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_GUEST_OFFLOADS BIT(2)
#define F_GUEST_TSO4 BIT(7)
#define F_HOST_TSO4 BIT(11)
#define F_MRG_RXBUF BIT(15)
#define F_CTRL_VQ BIT(17)
#define F_CTRL_RX BIT(18)
#define F_MQ BIT(22)
#define F_CTRL_MAC BIT(23)
#define USUAL (F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_HOST_TSO4 | F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX)

static const u8 mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
static const u8 broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static struct fake_net fake;
static unsigned fake_pairs;

static bool own_mac;
static const u8 *card_mac = mac;

static int create(struct rig *r, struct pci_bus *bus)
{
	fake_init(&fake, fake_pairs);
	fake.net.shared = true;
	return virtio_net_create(&r->board, bus, VRIG_SLOT, &fake.net, card_mac, own_mac);
}

static struct rig *open_card(unsigned pairs)
{
	struct rig *r = rig_create();

	fake_pairs = pairs;
	vrig_init(r, create);
	return r;
}

static void close_card(struct rig *r)
{
	rig_destroy(r);
	fake_free(&fake);
}

static void run_door(struct rig *r)
{
	door_deliver(r->board.door, 0);
}

static void test_config(void **state)
{
	struct rig *r = open_card(4);

	assert_int_equal(vrig_pci_read(r, PCI_DEVICE_ID, 2), 0x1041);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(vrig_read(r, VRIG_CONFIG + i, 1), mac[i]);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 6, 2), 1);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 8, 2), 4);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 10, 2), 1500);
	assert_true((vrig_offered(r) & (USUAL | F_MQ)) == (USUAL | F_MQ));
	assert_int_equal(fake.starts, 0);
	vrig_start(r, USUAL, 3, 16);
	assert_int_equal(fake.starts, 1);
	assert_true(fake.offload.csum && fake.offload.tso4 && !fake.offload.tso6);
	vrig_set_status(r, 0);
	assert_false(fake.running);
	vrig_start(r, 0, 2, 16);
	assert_false(fake.offload.csum);
	close_card(r);
}

/* Header and frame in pieces that meet nowhere. */
static void test_send(void **state)
{
	struct rig *r = open_card(1);
	u8 p[NET_HEADER + 100];
	gpa_t at;
	u32 len;

	for (unsigned i = 0; i < sizeof(p); i++)
		p[i] = i < NET_HEADER ? 0 : (u8)i;
	vrig_start(r, USUAL, 3, 16);
	at = vrig_bytes(r, p, sizeof(p));
	vrig_add(r, 1, (struct vseg[]){ { at, 5, false }, { at + 5, 20, false }, { at + 25, 87, false } }, 3);
	vrig_kick(r, 1);
	assert_true(vrig_used(r, 1, NULL, &len));
	assert_int_equal(len, 0);
	assert_int_equal(fake.sent, 1);
	assert_int_equal(fake.last.len, sizeof(p));
	assert_memory_equal(fake.last.data, p, sizeof(p));
	close_card(r);
}

static bool sends(struct rig *r, struct virtio_net_hdr_v1 h, u32 len)
{
	u8 p[NET_HEADER + 70000] = { 0 };
	unsigned before = fake.sent;
	s64 used;

	memcpy(p, &h, NET_HEADER);
	used = vrig_request(r, 1, p, len, NULL, 0);
	assert_int_equal(used, 0); /* whatever becomes of it, the chain comes back */
	vrig(r)->next -= (len + 15) & ~15u;
	return fake.sent > before;
}

static void test_bad_headers(void **state)
{
	struct rig *r = open_card(1);
	struct virtio_net_hdr_v1 h = { 0 };

	vrig_start(r, USUAL, 3, 16);
	assert_true(sends(r, h, NET_HEADER + 14));
	assert_true(sends(r, h, NET_PACKET_MAX));
	assert_false(sends(r, h, NET_HEADER + 13));
	assert_false(sends(r, h, NET_PACKET_MAX + 1));
	assert_false(sends(r, h, 3));
	h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h.csum_start = 34;
	h.csum_offset = 16;
	assert_true(sends(r, h, NET_HEADER + 52));
	assert_false(sends(r, h, NET_HEADER + 51));
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	assert_false(sends(r, h, 3000));
	h.gso_size = 1000;
	h.hdr_len = 0xffff;
	assert_true(sends(r, h, 3000));
	memcpy(&h, fake.last.data, sizeof(h));
	assert_int_equal(h.hdr_len, 3000 - NET_HEADER);
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV6; /* not agreed on */
	assert_false(sends(r, h, 3000));
	vrig_start(r, 0, 2, 16);
	h.gso_type = 0;
	assert_false(sends(r, h, 3000));
	h.flags = 0x80; /* unknown ones are not passed on */
	assert_true(sends(r, h, 3000));
	assert_int_equal(fake.last.data[0], 0);
	close_card(r);
}

static void full_backend(u64 more)
{
	struct rig *r = open_card(1);
	u8 p[100] = { 0 };

	vrig_start(r, USUAL | more, 3, 16);
	fake.full = true;
	assert_int_equal(vrig_request(r, 1, p, sizeof(p), NULL, 0), -1);
	assert_int_equal(vrig_request(r, 1, p, sizeof(p), NULL, 0), -1);
	if (!more)
		assert_int_equal(vrig_get16(r, vrig(r)->queue[1].used) & 1, 1); /* do not kick */
	fake.writable(fake.opaque, 0);
	run_door(r);
	assert_false(vrig_used(r, 1, NULL, NULL));
	fake.full = false;
	fake.writable(fake.opaque, 0);
	run_door(r);
	assert_true(vrig_used(r, 1, NULL, NULL));
	assert_true(vrig_used(r, 1, NULL, NULL));
	assert_int_equal(fake.sent, 2);
	assert_int_equal(vrig_get16(r, vrig(r)->queue[1].used) & 1, 0);
	assert_int_equal(vrig_request(r, 1, p, sizeof(p), NULL, 0), 0);
	close_card(r);
}

static void test_full(void **state)
{
	full_backend(0);
	full_backend(VIRTIO_F_EVENT_IDX);
}

static gpa_t add_rx(struct rig *r, unsigned q, u32 len)
{
	gpa_t at = vrig_alloc(r, len);

	vrig_add(r, q, (struct vseg[]){ { at, len, true } }, 1);
	return at;
}

static void receive(u64 more)
{
	struct rig *r = open_card(1);
	gpa_t at, at2, at3;
	u32 len, id;

	vrig_start(r, USUAL | more, 3, 16);
	/* nothing to put it into: it waits, the driver is to kick */
	assert_true(fake_put(&fake, 0, mac, 500, 0x11));
	run_door(r);
	assert_int_equal(vrig_get16(r, vrig(r)->queue[0].used) & 1, 0);
	at = add_rx(r, 0, 1536);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, &id, &len));
	assert_int_equal(len, 500);
	assert_int_equal(vrig_get16(r, at + 10), 1); /* num_buffers */
	assert_int_equal(*vrig_ptr(r, at + 499), 0x11);
	assert_int_equal(*vrig_ptr(r, at + 500), 0);
	/* over three buffers, seen together; the fourth is not touched */
	at = add_rx(r, 0, 100);
	at2 = add_rx(r, 0, 100);
	vrig_kick(r, 0);
	fake_put(&fake, 0, mac, 250, 0x22);
	run_door(r);
	assert_false(vrig_used(r, 0, NULL, NULL)); /* one is missing */
	at3 = add_rx(r, 0, 100);
	add_rx(r, 0, 100);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 100);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 50);
	assert_false(vrig_used(r, 0, NULL, &len));
	assert_int_equal(vrig_get16(r, at + 10), 3);
	assert_int_equal(*vrig_ptr(r, at2), 0x22);
	assert_int_equal(*vrig_ptr(r, at3 + 49), 0x22);
	assert_int_equal(*vrig_ptr(r, at3 + 50), 0);
	assert_int_equal(r->msi_of[1], more ? 1 : 2); /* the event index stays at 0 */
	close_card(r);
}

static void test_receive(void **state)
{
	receive(0);
	receive(VIRTIO_F_EVENT_IDX);
}

/* Without mergeable buffers one chain takes the packet; one that is too small comes back empty and the packet is lost.
 */
static void test_receive_plain(void **state)
{
	struct rig *r = open_card(1);
	gpa_t at;
	u32 len;

	vrig_start(r, 0, 2, 16);
	at = vrig_alloc(r, 2000);
	vrig_add(r, 0, (struct vseg[]){ { at, 7, true }, { at + 100, 1600, true } }, 2);
	fake_put(&fake, 0, mac, 1000, 0x33);
	run_door(r);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 1000);
	assert_int_equal(vrig_get16(r, at + 103), 1);
	assert_int_equal(*vrig_ptr(r, at + 100 + 992), 0x33);
	add_rx(r, 0, 100);
	fake_put(&fake, 0, mac, 1000, 0x33);
	fake_put(&fake, 0, mac, 80, 0x44);
	run_door(r);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 0);
	at = add_rx(r, 0, 100);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 80);
	assert_int_equal(*vrig_ptr(r, at + 79), 0x44);
	close_card(r);
}

/* ---- the control queue ---- */

static u8 control(struct rig *r, unsigned q, u8 class, u8 cmd, const void *data, u32 len)
{
	u8 out[1000] = { class, cmd }, ack = 0x55;

	memcpy(out + 2, data, len);
	assert_int_equal(vrig_request(r, q, out, 2 + len, &ack, 1), 1);
	return ack;
}

static bool arrives(struct rig *r, const u8 *to)
{
	gpa_t at = add_rx(r, 0, 200);
	bool yes;

	fake_put(&fake, 0, to, 100, 1);
	run_door(r);
	yes = vrig_used(r, 0, NULL, NULL);
	if (!yes) { /* take the buffer back */
		fake_put(&fake, 0, mac, 100, 1);
		run_door(r);
		assert_true(vrig_used(r, 0, NULL, NULL));
	}
	(void)at;
	return yes;
}

static void test_filter(void **state)
{
	static const u8 other[6] = { 2, 0, 0, 0, 0, 9 }, group[6] = { 1, 0, 0x5e, 0, 0, 1 }, on = 1, off = 0;
	struct rig *r = open_card(1);
	u8 table[300] = { 0 };

	vrig_start(r, USUAL | F_CTRL_MAC | BIT(20), 3, 64);
	assert_true(arrives(r, other)); /* promiscuous until told otherwise */
	assert_int_equal(control(r, 2, 0, 0, &off, 1), 0);
	assert_false(arrives(r, other));
	assert_false(arrives(r, group));
	assert_true(arrives(r, mac));
	assert_true(arrives(r, broadcast));
	assert_int_equal(control(r, 2, 0, 1, &on, 1), 0); /* ALLMULTI */
	assert_true(arrives(r, group));
	assert_int_equal(control(r, 2, 0, 1, &off, 1), 0);
	assert_int_equal(control(r, 2, 0, 5, &on, 1), 0); /* NOBCAST */
	assert_false(arrives(r, broadcast));
	assert_int_equal(control(r, 2, 0, 5, &off, 1), 0);
	table[0] = 1;
	memcpy(table + 4, other, 6);
	table[10] = 1;
	memcpy(table + 14, group, 6);
	assert_int_equal(control(r, 2, 1, 0, table, 20), 0);
	assert_true(arrives(r, other));
	assert_true(arrives(r, group));
	assert_int_equal(control(r, 2, 1, 0, table, 19), 1); /* cut short: nothing changes */
	assert_true(arrives(r, other));
	memset(table, 0xff, 4);
	assert_int_equal(control(r, 2, 1, 0, table, 20), 1);
	memset(table, 0, sizeof(table));
	assert_int_equal(control(r, 2, 1, 0, table, 8), 0);
	assert_false(arrives(r, other));
	assert_int_equal(control(r, 2, 1, 1, other, 6), 0); /* our address */
	assert_true(arrives(r, other));
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 5, 1), 9);
	/* what is not there */
	assert_int_equal(control(r, 2, 0, 6, &on, 1), 1);
	assert_int_equal(control(r, 2, 0, 0, &on, 0), 1);
	assert_int_equal(control(r, 2, 1, 1, other, 5), 1);
	assert_int_equal(control(r, 2, 4, 0, "\1\0", 2), 1);
	assert_int_equal(control(r, 2, 9, 0, &on, 1), 1);
	vrig_set_status(r, 0);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 5, 1), mac[5]);
	close_card(r);
}

static void test_pairs(void **state)
{
	struct rig *r = open_card(3);
	u8 p[100] = { 0 };

	vrig_start(r, USUAL | F_MQ, 7, 16);
	assert_int_equal(fake.active, 1);
	assert_int_equal(control(r, 6, 4, 0, "\0\0", 2), 1);
	assert_int_equal(control(r, 6, 4, 0, "\4\0", 2), 1);
	assert_int_equal(control(r, 6, 4, 0, "\2\0", 2), 0);
	assert_int_equal(fake.active, 2);
	add_rx(r, 2, 200);
	fake_put(&fake, 1, mac, 100, 1);
	run_door(r);
	assert_true(vrig_used(r, 2, NULL, NULL));
	assert_int_equal(vrig_request(r, 3, p, sizeof(p), NULL, 0), 0);
	assert_int_equal(fake.last_queue, 1);
	assert_int_equal(vrig_request(r, 5, p, sizeof(p), NULL, 0), -1); /* not in use */
	assert_int_equal(control(r, 6, 4, 0, "\3\0", 2), 0);
	run_door(r);
	assert_true(vrig_used(r, 5, NULL, NULL)); /* sent now */
	assert_int_equal(fake.last_queue, 2);
	/* without MQ the control queue is number 2 */
	vrig_start(r, USUAL, 7, 16);
	assert_int_equal(control(r, 2, 0, 0, "\0", 1), 0);
	close_card(r);
}

static void test_offloads(void **state)
{
	struct rig *r = open_card(1);
	u64 bits = F_GUEST_CSUM;

	vrig_start(r, USUAL | F_GUEST_OFFLOADS, 3, 16);
	assert_true(fake.offload.tso4);
	assert_int_equal(control(r, 2, 5, 0, &bits, 8), 0);
	assert_true(fake.offload.csum && !fake.offload.tso4);
	bits = BIT(8); /* not agreed on */
	assert_int_equal(control(r, 2, 5, 0, &bits, 8), 1);
	assert_int_equal(control(r, 2, 5, 0, &bits, 7), 1);
	assert_true(fake.offload.csum);
	close_card(r);
}

/* ---- state ---- */

static struct device *make(struct rig *r)
{
	/* two devices at once in a round trip */
	static struct fake_net both[2], *f;
	struct q35_config cfg = { 0 };
	struct device *d;

	for (unsigned i = 0; i < PCI_LINES; i++)
		cfg.gsi[i] = rig_irq(r, 16 + i);
	for (unsigned i = 0; i < 16; i++)
		cfg.pic[i] = rig_irq(r, i);
	r->extra = calloc(1, sizeof(struct vrig));
	f = f == both ? both + 1 : both;
	fake_init(f, 2);
	d = q35_create(&r->board, &cfg);
	vrig(r)->bus = q35_bus(d);
	assert_int_equal(virtio_net_create(&r->board, q35_bus(d), VRIG_SLOT, &f->net, mac, false), 0);
	return d->next;
}

static void poke(struct rig *r, struct device *d)
{
	vrig_pci_setup(r);
	vrig(r)->next = VRIG_FIRST;
	vrig_start(r, USUAL | F_MQ | F_CTRL_MAC, 5, 16);
	control(r, 4, 0, 0, "\0", 1);
	control(r, 4, 4, 0, "\2\0", 2);
	control(r, 4, 1, 1, "\2\3\4\5\6\7", 6);
	control(r, 4, 1, 0, "\1\0\0\0abcdef\0\0\0", 14);
	run_door(r);
}

static void test_roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

/* A restored machine goes on: the backend runs with what was agreed on. */
static void test_restore(void **state)
{
	struct rig *r = open_card(2);
	struct encoder e;
	u8 p[100] = { 0 };

	vrig_start(r, USUAL | F_MQ, 5, 16);
	control(r, 4, 4, 0, "\2\0", 2);
	fake.full = true;
	assert_int_equal(vrig_request(r, 3, p, sizeof(p), NULL, 0), -1);
	e = rig_save(vrig(r)->dev);
	vrig(r)->dev->ops->reset(vrig(r)->dev);
	assert_false(fake.running);
	fake.full = false;
	assert_int_equal(rig_check(vrig(r)->dev, e.data, e.len), 0);
	rig_load(vrig(r)->dev, e.data, e.len);
	assert_true(fake.running && fake.offload.tso4);
	assert_int_equal(fake.active, 2);
	run_door(r);
	assert_true(vrig_used(r, 3, NULL, NULL)); /* what waited has gone */
	enc_free(&e);
	close_card(r);
}

static void expect_mac(struct rig *r, const u8 *want)
{
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(vrig_read(r, VRIG_CONFIG + i, 1), want[i]);
}

/* What the guest sends with its old address goes out with the card's own; and back. */
static void expect_translated(struct rig *r, const u8 *own)
{
	u8 p[12 + 100] = { 0 };
	gpa_t at;
	u32 len;

	memcpy(p + 12, broadcast, 6);
	memcpy(p + 18, mac, 6);
	memset(p + 24, 0x5a, 88);
	assert_int_equal(vrig_request(r, 1, p, sizeof(p), NULL, 0), 0);
	assert_int_equal(fake.last.len, sizeof(p));
	assert_memory_equal(fake.last.data + 12, broadcast, 6);
	assert_memory_equal(fake.last.data + 18, own, 6);
	assert_memory_equal(fake.last.data + 24, p + 24, 88);
	at = add_rx(r, 0, 1536);
	vrig_kick(r, 0);
	assert_true(fake_put(&fake, 0, own, 500, 0x11));
	run_door(r);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 500);
	assert_memory_equal(vrig_ptr(r, at + 12), mac, 6);
	assert_int_equal(*vrig_ptr(r, at + 499), 0x11);
}

/* The state of another card: the same with its address. */
static void replace_mac(struct encoder *e, const u8 *from, const u8 *to)
{
	for (size_t i = 0; i + 6 <= e->len; i++)
		if (!memcmp(e->data + i, from, 6))
			memcpy(e->data + i, to, 6);
}

static void test_own_mac(void **state)
{
	static const u8 own[6] = { 2, 0xfe, 0xed, 1, 2, 3 };
	struct encoder e;
	struct rig *r;
	u8 p[12 + 100] = { 0 };

	own_mac = true;
	card_mac = own;
	r = open_card(1);
	vrig_start(r, USUAL, 3, 16);
	control(r, 2, 0, 0, "\0", 1); /* not promiscuous */
	e = rig_save(vrig(r)->dev);
	replace_mac(&e, own, mac);
	assert_int_equal(rig_check(vrig(r)->dev, e.data, e.len), 0);
	rig_load(vrig(r)->dev, e.data, e.len);
	enc_free(&e);
	u32 before = r->msi_of[0];
	run_door(r);
	assert_int_equal(r->msi_of[0], before + 1);
	expect_mac(r, own);
	expect_translated(r, own);
	/* a copy of the copy, and the copy itself again: the driver has heard of no other address */
	e = rig_save(vrig(r)->dev);
	rig_load(vrig(r)->dev, e.data, e.len);
	run_door(r);
	expect_translated(r, own);
	/* a group's address is none of a card */
	replace_mac(&e, own, (const u8 *)"\1\2\3\4\5\6");
	assert_int_equal(rig_check(vrig(r)->dev, e.data, e.len), -1);
	enc_free(&e);
	/* a driver that looks anew is told, and what it sends is its own affair */
	vrig(r)->dev->ops->reset(vrig(r)->dev);
	vrig_pci_setup(r);
	vrig_start(r, USUAL, 3, 16);
	expect_mac(r, own);
	memcpy(p + 18, mac, 6);
	assert_int_equal(vrig_request(r, 1, p, sizeof(p), NULL, 0), 0);
	assert_memory_equal(fake.last.data + 18, mac, 6);
	close_card(r);
	own_mac = false;
	card_mac = mac;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),	  cmocka_unit_test(test_send),	  cmocka_unit_test(test_bad_headers),
		cmocka_unit_test(test_full),	  cmocka_unit_test(test_receive), cmocka_unit_test(test_receive_plain),
		cmocka_unit_test(test_filter),	  cmocka_unit_test(test_pairs),	  cmocka_unit_test(test_offloads),
		cmocka_unit_test(test_roundtrip), cmocka_unit_test(test_restore), cmocka_unit_test(test_own_mac),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
