/*
 * Fuzz target: consoles and the entropy device under a hostile driver. Input
 * bytes are operations (see step()): chains with control messages and bytes,
 * registers, what the streams' other ends do, time, the record.
 *
 * Streams must be told of the guest's ends in turns, and may not be sent more
 * than the guest gave; nothing outside guest RAM may change (the sanitizers
 * watch); and all calls return.
 */
#include "record.h"

#include "backend/chr/chr.h"
#include "dev/virtio/console.h"
#include "dev/virtio/rng.h"

#define STEPS 300
#define PORTS 3
#define QUEUES (2 * PORTS + 2)
#define AREA 0x100000ull
#define CONTROL_TX 3

struct stream {
	struct chr chr;
	struct chr_state state;
	struct door *door;
	int sink;
	bool started, open;
	u64 room; /* for send() */
	u8 sum;	  /* of all bytes: each of them is looked at */
};

static struct stream stream[PORTS];
static struct virtio *console;
static bool entropy;

static void stream_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct stream *s = (struct stream *)c;

	for (size_t i = 0; i < n; i++)
		s->sum ^= bytes[i];
}

static size_t stream_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct stream *s = (struct stream *)c;

	n = MIN(n, s->room);
	s->room -= n;
	stream_write(c, bytes, n);
	return n;
}

static void stream_start(struct chr *c, struct door *door, int sink)
{
	struct stream *s = (struct stream *)c;

	s->door = door;
	s->sink = sink;
	s->started = true;
}
static void stream_stop(struct chr *c)
{
	((struct stream *)c)->started = false;
}
static void stream_destroy(struct chr *c) {}
static void stream_state(struct chr *c, struct chr_state *s)
{
	*s = ((struct stream *)c)->state;
}
static void stream_gone(struct chr *c)
{
	((struct stream *)c)->state.ended = false;
}
static void stream_guest_open(struct chr *c, bool open)
{
	struct stream *s = (struct stream *)c;

	assert(s->open != open);
	s->open = open;
}

static const struct chr_ops stream_ops = { "fuzz",	stream_write, stream_start, stream_stop,      stream_destroy,
					   stream_send, stream_state, stream_gone,  stream_guest_open };

static int create(struct rig *r, struct pci_bus *bus)
{
	const struct virtio_console_port ports[PORTS] = { { &stream[0].chr, NULL },
							  { &stream[1].chr, "org.test.0" },
							  { &stream[2].chr, NULL } };

	if (entropy)
		return virtio_rng_create(&r->board, bus, VRIG_SLOT);
	console = virtio_console_create(&r->board, bus, VRIG_SLOT, ports, PORTS);
	return console ? 0 : -1;
}

static void start(struct rig *r, struct input *in)
{
	u8 how = take(in, 1);

	vrig_pci_setup(r);
	vrig(r)->no_msix = how & 0x80;
	vrig_start(r,
		   (take(in, 1) & 7 & vrig_offered(r)) | (how & 1 ? VIRTIO_F_INDIRECT_DESC : 0) |
		       (how & 2 ? VIRTIO_F_EVENT_IDX : 0),
		   entropy ? 1 : QUEUES - 2 * (how >> 2 & 1), 8u << (how >> 3 & 3));
}

/* Mostly memory of its own, at times anything. */
static gpa_t place(struct rig *r, struct input *in, u32 len)
{
	switch (take(in, 1) & 15) {
	case 0:
		return take(in, 8);
	case 1:
		return 2 * MiB - (take(in, 2) & 0x1fff);
	case 2: /* the rings */
		return VRIG_FIRST + (take(in, 2) & 0x1fff);
	default:
		return vrig_alloc(r, len);
	}
}

static void request(struct rig *r, struct input *in, unsigned n)
{
	u8 count = 1 + (take(in, 1) & 3), how = take(in, 1);
	struct vseg seg[4];

	if (!vrig(r)->queue[n].size || vrig(r)->next + 4 * 0x4000 > AREA)
		return;
	for (unsigned i = 0; i < count; i++) {
		u32 len = how & 1 ? take(in, 2) & 0x3fff : take(in, 1);
		gpa_t at = place(r, in, len);

		seg[i] = (struct vseg){ at, len, how >> (i + 1) & 1 };
	}
	if (how & 0x80)
		vrig_add_indirect(r, n, seg, count);
	else
		vrig_add(r, n, seg, count);
	if (how & 0x40)
		vrig_kick(r, n);
}

static void control(struct rig *r, struct input *in)
{
	const u32 id = take(in, 1) % (PORTS + 1);
	const u16 event = take(in, 1) & 15, value = take(in, 1) & 3;
	u8 msg[8];
	struct vseg s;

	if (entropy || !vrig(r)->queue[CONTROL_TX].size || vrig(r)->next + 64 > AREA)
		return;
	memcpy(msg, &id, 4);
	memcpy(msg + 4, &event, 2);
	memcpy(msg + 6, &value, 2);
	s = (struct vseg){ vrig_bytes(r, msg, 8), 8, false };
	vrig_add(r, CONTROL_TX, &s, 1);
	vrig_kick(r, CONTROL_TX);
}

/* What happens at the host's end of a stream. */
static void host(struct rig *r, struct input *in)
{
	struct stream *s = &stream[take(in, 1) % PORTS];
	static const u8 bytes[4096];

	if (!s->started)
		return;
	switch (take(in, 1) & 3) {
	case 0:
		door_post(s->door, s->sink, bytes, take(in, 2) & 4095);
		break;
	case 1:
		s->room += take(in, 2);
		break;
	case 2:
		s->state.connected = !s->state.connected;
		s->state.ended = !s->state.connected;
		break;
	case 3:
		s->state.rows = (u16)take(in, 2);
		s->state.cols = (u16)take(in, 1);
		break;
	}
	s->chr.changed(s->chr.opaque);
	door_deliver(r->board.door, 0);
}

static void step(struct rig *r, struct input *in)
{
	static const u16 pages[] = { VRIG_COMMON, VRIG_CONFIG, VRIG_NOTIFY, VRIG_ISR };
	u8 op = take(in, 1);
	unsigned n = entropy ? 0 : (op >> 4) % QUEUES;

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
		vrig_kick(r, n);
		break;
	case 6:
	case 7:
	case 8:
		control(r, in);
		break;
	case 9:
	case 10:
		host(r, in);
		break;
	case 11: /* ring addresses stay as they are */
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
		rig_pass(r, take(in, 2) * 10000);
		break;
	case 14:
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
	u8 how = take(&in, 1);

	entropy = (how & 15) == 0;
	memset(stream, 0, sizeof(stream));
	for (unsigned i = 0; i < PORTS; i++) {
		stream[i].chr.ops = &stream_ops;
		stream[i].state.connected = how >> (4 + i) & 1;
	}
	door_destroy(r->board.door);
	r->board.door = door_create(how & 0x80 ? DOOR_REAL : DOOR_VIRTUAL, 1);
	vrig_init(r, create);
	if (!entropy)
		virtio_console_start(console);
	start(r, &in);
	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in);
	rig_pass(r, NSEC_PER_SEC);
	for (unsigned i = 0; i < PORTS; i++)
		stream[i].room = ~0ull; /* what is left is not waited for */
	if (!entropy)
		virtio_console_stop(console);
	rig_destroy(r);
	return 0;
}
