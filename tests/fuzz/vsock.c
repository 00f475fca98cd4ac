/*
 * Fuzz target: the socket device between a hostile driver and a host that does
 * what the input says. Input bytes are operations (see step()): packets with
 * fields of a few values and any, receive buffers of all sizes, events and
 * moods of host streams, the device's record.
 *
 * Streams that the device was given are all closed in the end, and the fake
 * host asserts that none is used after that.
 */
#include "record.h"
#include "vsock_fake.h"

#include "dev/virtio/vsock.h"

#define STEPS 600
#define CID 3
#define PACKETS 0x100000ull /* where packets and buffers lie: they overlap */

static struct fake_host *host;
static u32 last_guest, last_host; /* ports of the connection made last */

static int create(struct rig *r, struct pci_bus *bus)
{
	return virtio_vsock_create(&r->board, bus, VRIG_SLOT, &host->vsock, CID);
}

static void start(struct rig *r, struct input *in)
{
	u8 how = take(in, 1);

	vrig_pci_setup(r);
	vrig(r)->no_msix = how & 4;
	vrig_start(r, (how & 1 ? VIRTIO_F_INDIRECT_DESC : 0) | (how & 2 ? VIRTIO_F_EVENT_IDX : 0), 3,
		   8u << (how >> 4 & 3));
}

/* 0 to 3 most of the time. */
static u32 number(struct input *in)
{
	u8 v = take(in, 1);

	return v < 0xf0 ? v & 3 : v < 0xf8 ? (u32)take(in, 4) : 0x40000000u + (v & 3);
}

static u32 length(struct input *in)
{
	static const u32 some[] = { 0, 1, 100, 4096, 65536, 131072, 262144, 0xffffffff };
	u8 v = take(in, 1);

	return v & 0x80 ? some[v & 7] : v & 0x40 ? (u32)take(in, 3) : v;
}

static void packet(struct rig *r, struct input *in, u8 op)
{
	struct {
		u64 src_cid, dst_cid;
		u32 src_port, dst_port, len;
		u16 type, op;
		u32 flags, buf_alloc, fwd_cnt;
	} __attribute__((packed))
	p = { .src_cid = CID, .dst_cid = 2, .type = 1, .op = op & 8 ? 5 : op & 7, .buf_alloc = 0x10000 };
	u8 odd = op & 0x80 ? (u8)take(in, 1) : 0x20;
	u32 data, cut;
	gpa_t at = PACKETS + (op & 0x70) * 16;

	p.src_port = odd & 0x20 ? last_guest : number(in);
	p.dst_port = odd & 0x20 ? last_host : number(in);
	data = MIN(length(in), 300000u);
	p.len = odd & 1 ? length(in) : data;
	p.flags = odd & 2 ? (u32)take(in, 1) : 2;
	p.buf_alloc = odd & 4 ? length(in) : p.buf_alloc;
	p.fwd_cnt = odd & 8 ? length(in) : 0;
	if (odd >= 0xf0)
		p.src_cid = take(in, 1);
	if (odd >= 0xe8)
		p.dst_cid = take(in, 1);
	if (odd >= 0xe0)
		p.type = (u16)take(in, 1);
	memcpy(vrig_ptr(r, at), &p, sizeof(p));
	cut = odd & 0x10 ? (u32)take(in, 1) % 45 : sizeof(p);
	if (vrig(r)->queue[1].size)
		vrig_add(r, 1, (struct vseg[]){ { at, cut, false }, { at + cut, (u32)sizeof(p) - cut + data, false } },
			 2);
}

static void buffer(struct rig *r, struct input *in, unsigned queue)
{
	u32 len = length(in), first = (u32)take(in, 1);
	gpa_t at = PACKETS + 0x80000 + (take(in, 1) & 15) * 4096;

	if (!vrig(r)->queue[queue].size)
		return;
	len = MIN(len, 70000u);
	if (first & 1)
		vrig_add(r, queue, (struct vseg[]){ { at, first, true }, { at + first, len, true } }, 2);
	else
		vrig_add(r, queue, (struct vseg[]){ { at, MAX(len, 46u), true } }, 1);
}

static struct fake_stream *some_stream(struct input *in)
{
	struct fake_stream *s = &host->streams[take(in, 1) & 7];

	return s->open && s->base.opaque ? s : NULL;
}

static void stream_event(struct input *in, u8 how)
{
	static const u8 bytes[4096];
	struct fake_stream *s = some_stream(in);

	if (!s)
		return;
	switch (how & 3) {
	case 0:
		if (s->in_len < FAKE_BYTES / 2)
			fake_give(host, s, bytes, take(in, 2) & 4095);
		break;
	case 1:
		s->room = length(in);
		break;
	case 2:
		s->ended = true;
		break;
	default:
		s->ended = s->broken = true;
	}
	if (host->tail - host->head < FAKE_EVENTS - 64)
		fake_event(host, (struct vsock_event){ VSOCK_READY, &s->base, 0, 0, how & 4, how & 8 || s->broken,
						       s->broken });
}

static void arrival(struct input *in, bool dialled)
{
	struct vsock_event ev = { .kind = dialled ? VSOCK_DIALLED : VSOCK_INCOMING, .port = number(in) };
	struct fake_stream *s = NULL;

	ev.id = host->dial_id - (take(in, 1) & 3);
	if (!host->started || host->tail - host->head >= FAKE_EVENTS - 64)
		return;
	if (!dialled || ev.port)
		s = fake_stream(host);
	if (s)
		s->room = length(in);
	if (!s && !dialled)
		return;
	ev.stream = s ? &s->base : NULL;
	fake_event(host, ev);
}

/* What a good driver and a willing host do: a connection that is open, from either side. */
static void connect(struct rig *r, struct input *in)
{
	u8 how = take(in, 1);
	u8 guest_port = how & 3, host_port = how >> 2 & 3;
	struct fake_stream *s;

	if (!host->started || host->tail - host->head >= FAKE_EVENTS - 64 || !(s = fake_stream(host)))
		return;
	last_guest = guest_port;
	last_host = how & 0x10 ? 0x40000000u | host_port : host_port;
	s->room = how & 0x20 ? SIZE_MAX : length(in);
	vrig_kick(r, 0);
	if (how & 0x10) {
		u8 answer[] = { 0, guest_port, 0xf8 | host_port, 0 };

		fake_event(host,
			   (struct vsock_event){ .kind = VSOCK_INCOMING, .stream = &s->base, .port = guest_port });
		door_deliver(r->board.door, 0);
		packet(r, &(struct input){ answer, answer + sizeof(answer) }, 0x82);
	} else {
		u8 ask[] = { 0, guest_port, host_port, 0 };

		packet(r, &(struct input){ ask, ask + sizeof(ask) }, 0x81);
		vrig_kick(r, 1);
		fake_event(host,
			   (struct vsock_event){ .kind = VSOCK_DIALLED, .stream = &s->base, .id = host->dial_id });
	}
	door_deliver(r->board.door, 0);
	vrig_kick(r, 1);
}

static void step(struct rig *r, struct input *in)
{
	u8 op = take(in, 1);

	switch (op & 15) {
	case 0:
		start(r, in);
		break;
	case 1:
	case 2:
	case 3:
	case 4:
		packet(r, in, take(in, 1));
		if (!(op & 0x80))
			vrig_kick(r, 1);
		break;
	case 5:
	case 6:
		buffer(r, in, op & 0x40 ? 2 : 0);
		break;
	case 7:
		vrig_kick(r, op >> 4 & 3);
		break;
	case 8:
	case 9:
		stream_event(in, op >> 4);
		break;
	case 10:
	case 11:
		arrival(in, op & 1);
		break;
	case 12:
		if (op & 0x40)
			connect(r, in);
		else
			door_deliver(r->board.door, 0);
		break;
	case 13:
		host->refuse_dials = op & 0x10;
		if (vrig(r)->queue[op >> 4 & 1].size)
			vrig_publish(r, op >> 4 & 1, take(in, 1));
		break;
	case 14:
		reload(r, in, op & 0x80);
		break;
	default:
		if (op & 0x80)
			vrig(r)->dev->ops->reset(vrig(r)->dev);
		else
			vrig_write(r, VRIG_COMMON + (take(in, 1) & 31), take(in, 2), 2);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };
	struct rig *r = rig_create();

	host = fake_host();
	last_guest = last_host = 0;
	vrig_init(r, create);
	start(r, &in);
	for (unsigned i = take(&in, 1) & 3; i; i--) {
		buffer(r, &in, 0);
		connect(r, &in);
	}
	for (unsigned i = 0; i < STEPS && in.p < in.end; i++)
		step(r, &in);
	door_deliver(r->board.door, 0);
	vrig(r)->dev->ops->reset(vrig(r)->dev);
	assert(!host->open && !host->started);
	rig_destroy(r);
	host->vsock.ops->destroy(&host->vsock);
	return 0;
}
