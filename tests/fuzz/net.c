/*
 * Fuzz target: the network device under a hostile driver, before a backend in
 * memory that feeds and refuses packets as the input says, and the code that
 * finishes and cuts frames, on frames of the input.
 */
#include "fuzz.h"

#include "virtio_rig.h"

#include "backend/net/packet.h"
#include "dev/virtio/net.h"
#include "dev/virtio/net_alias.h"
#include "../unit/net_fake.h"

#define STEPS 300
#define AREA 0x40000ull
#define AREA_LEN 0x8000

static struct fake_net fake;
static unsigned pairs;

/* ---- frames ---- */

struct cut {
	size_t body;
};

static void piece(void *opaque, const u8 *head, size_t head_len, const u8 *body, size_t body_len)
{
	u8 *copy = malloc(head_len + body_len);

	memcpy(copy, head, head_len);
	memcpy(copy + head_len, body, body_len);
	((struct cut *)opaque)->body += body_len;
	free(copy);
}

/* The beginning of a frame, in memory of its length: through translation of an address that is in it somewhere. */
static void translate(const u8 *f, size_t len, const u8 *choice)
{
	size_t n = MIN(len, NET_ALIAS_HEAD);
	struct net_alias a = { { 2, 0, 0, 0, 0, 1 }, { 2, 0, 0, 0, 0, 2 } };
	u8 *copy = malloc(n);

	memcpy(a.inside, f + choice[0] % (n - 6), 6);
	memcpy(copy, f, n);
	net_alias_out(&a, copy, n, choice[1] & 1);
	net_alias_in(&a, copy, n, choice[1] & 1);
	free(copy);
}

static void frames(struct input *in)
{
	struct virtio_net_hdr_v1 h;
	const struct net_offload all = { true, true, true, true };
	struct net_flow flow;
	struct net_tcp t;
	u8 start[128];
	size_t len = 14 + take(in, 2) % 5000;
	u8 *f = malloc(len);

	take_bytes(in, (u8 *)&h, sizeof(h));
	take_bytes(in, start, sizeof(start));
	memset(f, start[0], len);
	memcpy(f, start, MIN(len, sizeof(start)));
	if (start[1] & 1) { /* often what the parsers look for */
		memcpy(f + 12, "\x08\x00", 2);
		if (len > 40) {
			f[14] = 0x45 + (start[2] & 7);
			f[16] = (u8)((len - 14) >> 8);
			f[17] = (u8)(len - 14);
			f[20] = f[21] = 0;
			f[23] = start[1] & 2 ? 6 : 17;
		}
	}
	translate(f, len, start + 5);
	if (net_header_ok(&h, len, &all))
		net_finish(f, len, &h);
	net_raise_mss(f, len, 32768);
	if (net_parse_flow(f, len, &flow))
		net_set_address(f, start[3] & 1, flow.dest + 1);
	if (net_parse_tcp(f, len, &t)) {
		struct cut c = { 0 };

		net_segment(f, &t, 536 + start[4] * 4, piece, &c);
		assert(c.body == t.payload);
		net_gso_header(&h, f, &t, 1460);
	} else if (len > NET_FRAME) {
		struct cut c = { 0 };

		net_fragment(f, len, piece, &c);
		assert(c.body < len);
	}
	free(f);
}

/* ---- the device ---- */

static int create(struct rig *r, struct pci_bus *bus)
{
	fake_init(&fake, pairs);
	return virtio_net_create(&r->board, bus, VRIG_SLOT, &fake.net, (const u8 *)"\x52\x54\0\1\2\3", false);
}

static void start(struct rig *r, struct input *in)
{
	u64 f = take(in, 1) & 1 ? take(in, 4) | take(in, 1) << 32 : ~0ull;

	vrig_pci_setup(r);
	vrig(r)->no_msix = take(in, 1) & 1;
	vrig_start(r, f & vrig_offered(r), 2 * pairs + 1, 4u << (take(in, 1) & 3));
}

static u64 address(struct input *in)
{
	u8 how = take(in, 1);

	return how == 0 ? take(in, 8) : how == 1 ? 2 * MiB - (take(in, 1) & 63) : AREA + take(in, 2) % AREA_LEN;
}

static void chain(struct rig *r, struct input *in, unsigned n)
{
	u8 how = take(in, 1), count = 1 + (how & 3);
	struct vseg seg[4];

	if (!vrig(r)->queue[n].size || vrig(r)->next + 4096 > AREA)
		return;
	for (unsigned i = 0; i < count; i++) {
		seg[i].gpa = address(in);
		seg[i].len = how & 0x40 ? take(in, 1) : take(in, 2) & (how & 0x80 ? 0xffff : 0x7ff);
		/* what a driver would do with the queue, mostly */
		seg[i].write = how & 4 ? i > 0 : !(n & 1) && n != 2 * pairs;
	}
	if (how & 8)
		vrig_add_indirect(r, n, seg, count);
	else
		vrig_add(r, n, seg, count);
	if (how & 0x10)
		vrig_kick(r, n);
}

static void command(struct rig *r, struct input *in)
{
	unsigned n = fake.running && take(in, 1) & 1 ? 2 : 2 * pairs;
	u8 c[64];
	unsigned len = take(in, 1) & 63;

	if (!vrig(r)->queue[n].size || vrig(r)->next + 4096 > AREA)
		return;
	take_bytes(in, c, sizeof(c));
	c[0] %= 6;
	c[1] %= 7;
	vrig_request(r, n, c, len, NULL, take(in, 1) & 1);
}

static void record(struct rig *r, struct input *in, bool bad)
{
	struct device *d = vrig(r)->dev;
	struct encoder e = rig_save(d), again;

	for (unsigned i = bad ? 1 + take(in, 1) % 4 : 0; i; i--)
		e.data[e.len - 1 - take(in, 2) % e.len] = take(in, 1);
	if (rig_check(d, e.data, e.len) == 0) {
		rig_load(d, e.data, e.len);
		again = rig_save(d);
		assert(bad || (again.len == e.len && !memcmp(again.data, e.data, e.len)));
		enc_free(&again);
	} else {
		assert(bad);
	}
	enc_free(&e);
}

static void step(struct rig *r, struct input *in)
{
	u8 op = take(in, 1), to[6];
	unsigned n = (op >> 4) % (2 * pairs + 1), size = 1u << (op >> 4 & 1);

	switch (op & 15) {
	case 0:
		start(r, in);
		break;
	case 1 ... 4:
		chain(r, in, n);
		break;
	case 5:
		vrig_kick(r, n);
		break;
	case 6 ... 7:
		take_bytes(in, to, 6);
		fake_put(&fake, n / 2 % pairs, to, NET_HEADER + 14 + take(in, 2) % (NET_PACKET_MAX - NET_HEADER - 13),
			 op);
		break;
	case 8:
		door_deliver(r->board.door, 0);
		break;
	case 9:
		command(r, in);
		break;
	case 10:
		fake.full = !fake.full;
		if (fake.running && !fake.full)
			fake.writable(fake.opaque, n / 2 % pairs);
		break;
	case 11:
		memcpy(vrig_ptr(r, AREA + take(in, 2) % AREA_LEN), (u8[]){ take(in, 1), take(in, 1) }, 2);
		break;
	case 12:
		vrig_write(r, (op & 0x80 ? VRIG_COMMON : VRIG_CONFIG) + (take(in, 1) & 63), take(in, size), size);
		break;
	case 13:
		frames(in);
		break;
	case 14:
		record(r, in, op & 0x10);
		break;
	case 15:
		if (op & 0x80)
			vrig(r)->dev->ops->reset(vrig(r)->dev);
		else
			vrig_read(r, VRIG_CONFIG + (take(in, 1) & 63), size);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct rig *r = rig_create();

	pairs = 1 + (take(&in, 1) & 1);
	vrig_init(r, create);
	start(r, &in);
	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in);
	rig_destroy(r);
	fake_free(&fake);
	return 0;
}
