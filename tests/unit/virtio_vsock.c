/* The socket device: connecting both ways, credit, room, shutdown, packets that make no sense, records. */
#include <stdio.h>

#include "virtio_rig.h"
#include <cmocka.h>

#include "dev/virtio/vsock.h"
#include "vsock_fake.h"

#define CID 7
#define RX 0
#define TX 1
#define EVENT 2
#define BUFFER 262144u
#define GUEST_PORT 5000
#define HOST_PORT 80

enum op { INVALID, REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct packet {
	u64 src_cid, dst_cid;
	u32 src_port, dst_port, len;
	u16 type, op;
	u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct fake_host *host;

static int create(struct rig *r, struct pci_bus *bus)
{
	return virtio_vsock_create(&r->board, bus, VRIG_SLOT, &host->vsock, CID);
}

static void add_buffers(struct rig *r, unsigned n)
{
	while (n--)
		vrig_add(r, RX, &(struct vseg){ vrig_alloc(r, 4096 + 44), 4096 + 44, true }, 1);
	vrig_kick(r, RX);
}

/* A driver, with `buffers` of 4 KiB to receive. */
static struct rig *machine(unsigned buffers)
{
	struct rig *r = rig_create();

	host = fake_host();
	vrig_init(r, create);
	vrig_start(r, 0, 3, 128);
	add_buffers(r, buffers);
	return r;
}

static void end(struct rig *r)
{
	rig_destroy(r);
	host->vsock.ops->destroy(&host->vsock);
}

static void deliver(struct rig *r)
{
	door_deliver(r->board.door, 0);
}

static struct packet packet(enum op op)
{
	return (struct packet){ .src_cid = CID,
				.dst_cid = 2,
				.src_port = GUEST_PORT,
				.dst_port = HOST_PORT,
				.type = 1,
				.op = (u16)op,
				.buf_alloc = 65536 };
}

/* From the guest, with `n` bytes of data. */
static void send(struct rig *r, struct packet p, const void *data, u32 n)
{
	gpa_t keep = vrig(r)->next, at = vrig_alloc(r, sizeof(p) + n);

	memcpy(vrig_ptr(r, at), &p, sizeof(p));
	memcpy(vrig_ptr(r, at + sizeof(p)), data, n);
	vrig_add(r, TX, &(struct vseg){ at, (u32)sizeof(p) + n, false }, 1);
	vrig_kick(r, TX);
	/* what was taken at once needs its memory no more */
	if (vrig_used(r, TX, NULL, NULL))
		vrig(r)->next = keep;
}

static void send_op(struct rig *r, enum op op)
{
	send(r, packet(op), "", 0);
}

static void send_data(struct rig *r, const void *data, u32 n)
{
	struct packet p = packet(RW);

	p.len = n;
	send(r, p, data, n);
}

/* The next packet to the guest, its data in *data. */
static bool next(struct rig *r, struct packet *p, const u8 **data)
{
	struct vrig_queue *q = &vrig(r)->queue[RX];
	u32 head, len;
	u64 at;

	if (!vrig_used(r, RX, &head, &len))
		return false;
	memcpy(&at, vrig_ptr(r, q->desc + 16 * head), 8);
	memcpy(p, vrig_ptr(r, at), sizeof(*p));
	assert_int_equal(len, sizeof(*p) + p->len);
	*data = vrig_ptr(r, at) + sizeof(*p);
	return true;
}

/* It must be this one. */
static struct packet expect(struct rig *r, enum op op)
{
	struct packet p = { 0 };
	const u8 *data;

	assert_true(next(r, &p, &data));
	assert_int_equal(p.op, op);
	assert_int_equal(p.type, 1);
	assert_int_equal(p.src_cid, 2);
	assert_int_equal(p.dst_cid, CID);
	assert_int_equal(p.dst_port, GUEST_PORT);
	return p;
}

static void expect_data(struct rig *r, const void *want, u32 n)
{
	struct packet p = { 0 };
	const u8 *data;

	assert_true(next(r, &p, &data));
	assert_int_equal(p.op, RW);
	assert_int_equal(p.len, n);
	assert_memory_equal(data, want, n);
}

static void silent(struct rig *r)
{
	assert_false(vrig_used(r, RX, NULL, NULL));
}

/* A connection from the guest. */
static struct fake_stream *connected(struct rig *r)
{
	struct fake_stream *s = fake_stream(host);
	unsigned before = host->dials;

	send_op(r, REQUEST);
	assert_int_equal(host->dials, before + 1);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_DIALLED, .stream = &s->base, .id = host->dial_id });
	deliver(r);
	assert_int_equal(expect(r, RESPONSE).buf_alloc, BUFFER);
	return s;
}

static void ready(struct rig *r, struct fake_stream *s, bool readable, bool writable, bool gone)
{
	fake_event(host, (struct vsock_event){ VSOCK_READY, &s->base, 0, 0, readable, writable, gone });
	deliver(r);
}

static void from_guest(void **state)
{
	struct rig *r = machine(16);
	struct fake_stream *s;

	assert_int_equal(vrig_offered(r) & 0xff, 1);
	assert_int_equal(vrig_read(r, VRIG_CONFIG, 4), CID);
	s = connected(r);
	assert_int_equal(host->dial_port, HOST_PORT);
	send_data(r, "hello", 5);
	assert_int_equal(s->out_len, 5);
	assert_memory_equal(s->out, "hello", 5);
	fake_give(host, s, "there", 5);
	deliver(r);
	expect_data(r, "there", 5);
	silent(r);
	/* nobody is there */
	send_op(r, RST);
	assert_int_equal(host->open, 0);
	send_op(r, REQUEST);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_DIALLED, .id = host->dial_id });
	deliver(r);
	expect(r, RST);
	/* too many dials */
	host->refuse_dials = true;
	send_op(r, REQUEST);
	expect(r, RST);
	host->refuse_dials = false;
	/* gave up before the answer, which then has nobody to go to */
	send_op(r, REQUEST);
	send_op(r, RST);
	s = fake_stream(host);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_DIALLED, .stream = &s->base, .id = host->dial_id });
	deliver(r);
	assert_int_equal(host->open, 0);
	silent(r);
	end(r);
}

static void from_host(void **state)
{
	struct rig *r = machine(16);
	struct fake_stream *s = fake_stream(host);
	struct packet p, answer;
	char line[32];

	fake_event(host, (struct vsock_event){ .kind = VSOCK_INCOMING, .stream = &s->base, .port = GUEST_PORT });
	fake_give(host, s, "early", 5);
	deliver(r);
	p = expect(r, REQUEST);
	silent(r);
	answer = packet(RESPONSE);
	answer.dst_port = p.src_port;
	send(r, answer, "", 0);
	snprintf(line, sizeof(line), "OK %u\n", p.src_port);
	assert_int_equal(s->out_len, strlen(line));
	assert_memory_equal(s->out, line, s->out_len);
	expect_data(r, "early", 5);
	/* the guest refuses another */
	s = fake_stream(host);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_INCOMING, .stream = &s->base, .port = GUEST_PORT });
	deliver(r);
	p = expect(r, REQUEST);
	assert_int_not_equal(p.src_port, answer.dst_port);
	answer.dst_port = p.src_port;
	answer.op = RST;
	send(r, answer, "", 0);
	assert_false(s->open);
	assert_int_equal(s->out_len, 0);
	/* the client does not wait */
	s = fake_stream(host);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_INCOMING, .stream = &s->base, .port = GUEST_PORT });
	deliver(r);
	expect(r, REQUEST);
	ready(r, s, true, true, true);
	expect(r, RST);
	assert_false(s->open);
	end(r);
}

/* What the guest's credit allows, and not a byte more (5.10.6.3). */
static void credit_to_guest(void **state)
{
	struct rig *r = machine(32);
	struct fake_stream *s = connected(r);
	struct packet p = packet(CREDIT_UPDATE);
	u8 big[9000];

	for (unsigned i = 0; i < sizeof(big); i++)
		big[i] = (u8)(i * 7 >> 3);
	p.buf_alloc = 10;
	send(r, p, "", 0);
	fake_give(host, s, big, sizeof(big));
	deliver(r);
	expect_data(r, big, 10);
	expect(r, CREDIT_REQUEST);
	silent(r);
	/* an answer that gives nothing is not asked for again */
	send(r, p, "", 0);
	silent(r);
	p.fwd_cnt = 4;
	send(r, p, "", 0);
	expect_data(r, big + 10, 4);
	expect(r, CREDIT_REQUEST);
	/* more taken than it was sent: nothing, rather than without limit */
	p.fwd_cnt = 1000;
	send(r, p, "", 0);
	silent(r);
	p.fwd_cnt = 14;
	p.buf_alloc = 100000;
	send(r, p, "", 0);
	expect_data(r, big + 14, 4096);
	expect_data(r, big + 14 + 4096, 4096);
	expect_data(r, big + 14 + 8192, sizeof(big) - 14 - 8192);
	silent(r);
	end(r);
}

/* The guest may send `BUFFER` bytes that nobody takes, and not one more. */
static void credit_from_guest(void **state)
{
	static u8 data[BUFFER];
	struct rig *r = machine(32);
	struct fake_stream *s = connected(r);
	struct packet p;

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (u8)(i * 13 >> 5);
	s->room = 1000;
	for (unsigned i = 0; i < 4; i++)
		send_data(r, data + i * 65536, 65536);
	assert_int_equal(s->out_len, 1000);
	send_op(r, CREDIT_REQUEST);
	p = expect(r, CREDIT_UPDATE);
	assert_int_equal(p.fwd_cnt, 1000);
	assert_int_equal(p.buf_alloc, BUFFER);
	s->room = 100000;
	ready(r, s, false, true, false);
	assert_int_equal(s->out_len, 101000);
	assert_int_equal(expect(r, CREDIT_UPDATE).fwd_cnt, 101000);
	/* around the end of the ring */
	send_data(r, data, 65536);
	s->room = SIZE_MAX;
	ready(r, s, false, true, false);
	assert_int_equal(s->out_len, BUFFER + 65536);
	assert_memory_equal(s->out, data, BUFFER);
	assert_memory_equal(s->out + BUFFER, data, 65536);
	assert_int_equal(expect(r, CREDIT_UPDATE).fwd_cnt, BUFFER + 65536);
	silent(r);
	s->room = 0;
	for (unsigned i = 0; i < 4; i++)
		send_data(r, data, 65536);
	assert_true(s->open);
	silent(r);
	send_data(r, "x", 1);
	expect(r, RST);
	assert_false(s->open);
	end(r);
}

static void guest_ends(void **state)
{
	struct rig *r = machine(32);
	struct fake_stream *s = connected(r);
	struct packet p = packet(SHUTDOWN);

	/* half: behind the last byte, and the other direction works on */
	s->room = 0;
	send_data(r, "last", 4);
	p.flags = 2;
	send(r, p, "", 0);
	assert_false(s->no_more_out);
	s->room = 100;
	ready(r, s, false, true, false);
	assert_true(s->no_more_out && !s->no_more_in);
	assert_int_equal(s->out_len, 4);
	fake_give(host, s, "still", 5);
	deliver(r);
	expect_data(r, "still", 5);
	/* both: the answer is a reset */
	p.flags = 1;
	send(r, p, "", 0);
	expect(r, RST);
	assert_false(s->open);
	/* a guest that speaks after its end */
	s = connected(r);
	p.flags = 2;
	send(r, p, "", 0);
	send_data(r, "x", 1);
	expect(r, RST);
	assert_false(s->open);
	/* no patience: what was sent goes out all the same, while the ports are free again */
	s = connected(r);
	s->room = 0;
	send_data(r, "late", 4);
	p.flags = 3;
	send(r, p, "", 0);
	silent(r);
	send_op(r, RST);
	assert_true(s->open);
	assert_ptr_not_equal(connected(r), s);
	s->room = 100;
	ready(r, s, false, true, false);
	assert_memory_equal(s->out, "late", 4);
	assert_false(s->open);
	/* or the host goes away first */
	send_op(r, RST);
	s = connected(r);
	s->room = 0;
	send_data(r, "lost", 4);
	send(r, p, "", 0);
	send_op(r, RST);
	s->broken = true;
	ready(r, s, true, true, true);
	assert_int_equal(host->open, 0);
	silent(r);
	end(r);
}

static void host_ends(void **state)
{
	struct rig *r = machine(32);
	struct fake_stream *s = connected(r);

	/* half */
	fake_give(host, s, "end", 3);
	s->ended = true;
	deliver(r);
	expect_data(r, "end", 3);
	assert_int_equal(expect(r, SHUTDOWN).flags, 2);
	send_data(r, "on", 2);
	assert_int_equal(s->out_len, 2);
	/* all; what the guest still sends goes nowhere */
	s->broken = true;
	ready(r, s, true, true, true);
	assert_int_equal(expect(r, SHUTDOWN).flags, 3);
	send_data(r, "nobody", 6);
	silent(r);
	send_op(r, RST);
	assert_false(s->open);
	/* gone with bytes to read that the guest has no credit for */
	s = connected(r);
	struct packet p = packet(CREDIT_UPDATE);

	p.buf_alloc = 2;
	send(r, p, "", 0);
	s->ended = s->broken = true;
	fake_give(host, s, "four", 4);
	ready(r, s, true, true, true);
	expect_data(r, "fo", 2);
	assert_int_equal(expect(r, SHUTDOWN).flags, 1);
	expect(r, CREDIT_REQUEST);
	p.buf_alloc = 100;
	send(r, p, "", 0);
	expect_data(r, "ur", 2);
	assert_int_equal(expect(r, SHUTDOWN).flags, 3);
	silent(r);
	end(r);
}

static void nonsense(void **state)
{
	struct rig *r = machine(64);
	struct packet p, got;
	const u8 *data;

	for (unsigned op = 0; op < 10; op++) {
		if (op == REQUEST)
			continue;
		send_op(r, op);
		if (op != RST)
			assert_int_equal(expect(r, RST).src_port, HOST_PORT);
		silent(r);
	}
	p = packet(REQUEST);
	p.type = 2;
	send(r, p, "", 0);
	assert_true(next(r, &got, &data));
	assert_int_equal(got.op, RST);
	assert_int_equal(got.type, 2);
	p = packet(REQUEST);
	p.dst_cid = 99;
	send(r, p, "", 0);
	assert_true(next(r, &got, &data));
	assert_int_equal(got.op, RST);
	assert_int_equal(got.src_cid, 99);
	p = packet(REQUEST);
	p.src_cid = 8;
	send(r, p, "", 0);
	silent(r);
	assert_int_equal(vrig_request(r, TX, &p, 43, NULL, 0), 0);
	assert_int_equal(vrig_request(r, TX, NULL, 0, &p, 44), 0);
	silent(r);
	assert_int_equal(host->dials, 0);
	/* on a connection */
	for (unsigned op = 0; op < 10; op++) {
		struct fake_stream *s;

		if (op >= RST && op <= CREDIT_REQUEST)
			continue;
		s = connected(r);
		send_op(r, op);
		expect(r, RST);
		assert_false(s->open);
	}
	connected(r);
	p = packet(RW);
	p.len = 5;
	send(r, p, "four", 4);
	expect(r, RST);
	send_data(r, "", 0);
	silent(r);
	send_op(r, RST);
	/* a receive buffer without room for a packet */
	vrig_add(r, RX, &(struct vseg){ vrig_alloc(r, 43), 43, true }, 1);
	for (unsigned i = 0; i < 64; i++)
		send_op(r, INVALID);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	end(r);
}

/* Without buffers for its answers the device takes packets up to a limit, and goes on when it has some. */
static void no_buffers(void **state)
{
	struct rig *r = machine(0);
	unsigned taken = 0, resets = 0;
	struct packet p;
	const u8 *data;
	gpa_t at = vrig_alloc(r, sizeof(p));

	p = packet(RW);
	memcpy(vrig_ptr(r, at), &p, sizeof(p));
	for (unsigned i = 0; i < 128; i++)
		vrig_add(r, TX, &(struct vseg){ at, sizeof(p), false }, 1);
	vrig_kick(r, TX);
	while (vrig_used(r, TX, NULL, NULL))
		taken++;
	assert_int_equal(taken, 64);
	for (unsigned i = 0; i < 16; i++) {
		add_buffers(r, 8);
		while (next(r, &p, &data)) {
			assert_int_equal(p.op, RST);
			resets++;
		}
	}
	while (vrig_used(r, TX, NULL, NULL))
		taken++;
	assert_int_equal(taken, 128);
	assert_int_equal(resets, 128);
	end(r);
}

static void table_full(void **state)
{
	struct rig *r = machine(8);
	struct fake_stream *s;
	struct packet p = packet(REQUEST);

	for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
		p.src_port = 10000 + i;
		send(r, p, "", 0);
	}
	silent(r);
	assert_int_equal(host->dials, VSOCK_STREAMS_MAX);
	send_op(r, REQUEST);
	expect(r, RST);
	s = fake_stream(host);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_INCOMING, .stream = &s->base, .port = 1 });
	deliver(r);
	assert_false(s->open);
	silent(r);
	/* room again; with so many the buffers are small */
	p.op = RST;
	send(r, p, "", 0);
	s = fake_stream(host);
	send_op(r, REQUEST);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_DIALLED, .stream = &s->base, .id = host->dial_id });
	deliver(r);
	assert_int_equal(expect(r, RESPONSE).buf_alloc, BUFFER / 4);
	end(r);
}

/* Connections take turns. */
static void fairness(void **state)
{
	struct rig *r = machine(2);
	struct fake_stream *a = connected(r), *b = fake_stream(host);
	struct packet p = packet(REQUEST);
	const u8 *data;
	u8 big[20000] = { 0 };
	unsigned ports = 0;

	p.src_port++;
	send(r, p, "", 0);
	fake_event(host, (struct vsock_event){ .kind = VSOCK_DIALLED, .stream = &b->base, .id = host->dial_id });
	deliver(r);
	assert_true(next(r, &p, &data));
	fake_give(host, a, big, sizeof(big));
	fake_give(host, b, big, sizeof(big));
	deliver(r);
	silent(r);
	add_buffers(r, 4);
	while (next(r, &p, &data))
		ports += p.op == RW ? p.dst_port == GUEST_PORT ? 1 : 100 : 0;
	assert_int_equal(ports, 202);
	end(r);
}

static struct device *make(struct rig *r)
{
	host = fake_host();
	return vrig_init(r, create);
}

static void goes_on(void **state)
{
	struct rig *a = machine(8), *b = rig_create();
	struct fake_host *first = host;
	struct device *d;
	struct encoder e;
	gpa_t event = vrig_alloc(a, 4);
	u32 id = 77, len;

	connected(a);
	vrig_add(a, EVENT, &(struct vseg){ event, 4, true }, 1);
	vrig_kick(a, EVENT);
	memset(vrig_ptr(a, event), 0xff, 4);
	e = rig_save(vrig(a)->dev);
	assert_int_equal(first->open, 1); /* the saved machine keeps its own */
	host = fake_host();
	d = vrig_init(b, create);
	memcpy(vrig_ptr(b, 0), vrig_ptr(a, 0), 2 * MiB);
	assert_int_equal(rig_check(d, e.data, e.len), 0);
	rig_load(d, e.data, e.len);
	memcpy(vrig(b)->queue, vrig(a)->queue, sizeof(vrig(a)->queue));
	vrig(b)->next = vrig(a)->next;
	assert_false(vrig_used(b, EVENT, NULL, NULL));
	deliver(b);
	assert_true(vrig_used(b, EVENT, NULL, &len));
	assert_int_equal(len, 4);
	memcpy(&id, vrig_ptr(b, event), 4);
	assert_int_equal(id, 0);
	/* what it knew is gone */
	send_op(b, CREDIT_UPDATE);
	expect(b, RST);
	enc_free(&e);
	end(b);
	host = first;
	end(a);
}

/* A driver's reset closes everything. */
static void resets(void **state)
{
	struct rig *r = machine(8);

	connected(r);
	vrig_set_status(r, 0);
	assert_int_equal(host->open, 0);
	assert_false(host->started);
	vrig_start(r, 0, 3, 128);
	assert_true(host->started);
	add_buffers(r, 2);
	send_op(r, RW);
	expect(r, RST);
	end(r);
}

static struct fake_host *hosts[2];
static unsigned made;

static struct device *make_counted(struct rig *r)
{
	struct device *d = make(r);

	hosts[made++] = host;
	return d;
}

/* Before the connection is open: a record knows nothing of those. */
static void poke(struct rig *r, struct device *d)
{
	vrig_start(r, VIRTIO_F_EVENT_IDX, 3, 16);
	add_buffers(r, 4);
	send_op(r, RW);
	send_op(r, INVALID);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make_counted, poke);
	for (unsigned i = 0; i < made; i++)
		hosts[i]->vsock.ops->destroy(&hosts[i]->vsock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_guest),	     cmocka_unit_test(from_host),  cmocka_unit_test(credit_to_guest),
		cmocka_unit_test(credit_from_guest), cmocka_unit_test(guest_ends), cmocka_unit_test(host_ends),
		cmocka_unit_test(nonsense),	     cmocka_unit_test(no_buffers), cmocka_unit_test(table_full),
		cmocka_unit_test(fairness),	     cmocka_unit_test(goes_on),	   cmocka_unit_test(resets),
		cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
