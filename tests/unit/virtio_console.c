/* virtio console: what the driver is told of ports, both directions with and without room, ends, sizes, records. */
#include "virtio_rig.h"
#include <cmocka.h>

#include "backend/chr/chr.h"
#include "dev/virtio/console.h"

#define F_MULTIPORT 2
#define CONTROL_RX 2
#define CONTROL_TX 3
#define PORT1_RX 4
#define PORT1_TX 5

enum { DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };

/* A stream whose other end is the test. */
struct fake {
	struct chr chr;
	struct chr_state state;
	struct door *door;
	int sink;
	u8 out[1 << 20];
	size_t len, room; /* room for send() */
	unsigned gone, opens, closes;
	size_t len_at_close;
};

static struct fake *fake[2];

static void fake_write(struct chr *c, const u8 *bytes, size_t n)
{
	struct fake *f = (struct fake *)c;

	n = MIN(n, sizeof(f->out) - f->len);
	memcpy(f->out + f->len, bytes, n);
	f->len += n;
}

static size_t fake_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct fake *f = (struct fake *)c;

	n = MIN(n, f->room);
	fake_write(c, bytes, n);
	f->room -= n;
	return n;
}

static void fake_start(struct chr *c, struct door *door, int sink)
{
	((struct fake *)c)->door = door;
	((struct fake *)c)->sink = sink;
}
static void fake_stop(struct chr *c) {}
static void fake_destroy(struct chr *c)
{
	free(c);
}
static void fake_state(struct chr *c, struct chr_state *s)
{
	*s = ((struct fake *)c)->state;
}
static void fake_gone(struct chr *c)
{
	((struct fake *)c)->gone++;
	((struct fake *)c)->state.ended = false;
}
static void fake_guest_open(struct chr *c, bool open)
{
	struct fake *f = (struct fake *)c;

	if (open)
		f->opens++;
	else
		f->closes++;
	if (!open)
		f->len_at_close = f->len;
}

static const struct chr_ops fake_ops = { "fake",    fake_write, fake_start, fake_stop,	    fake_destroy,
					 fake_send, fake_state, fake_gone,  fake_guest_open };

static struct virtio *console;

static int create(struct rig *r, struct pci_bus *bus)
{
	const struct virtio_console_port ports[] = { { &fake[0]->chr, NULL }, { &fake[1]->chr, "org.test.0" } };

	console = virtio_console_create(&r->board, bus, VRIG_SLOT, ports, 2);
	return console ? 0 : -1;
}

static void new_fakes(void)
{
	for (unsigned i = 0; i < 2; i++) {
		fake[i] = calloc(1, sizeof(struct fake));
		fake[i]->chr.ops = &fake_ops;
		fake[i]->state.connected = i == 0;
	}
}

static void free_fakes(void)
{
	free(fake[0]);
	free(fake[1]);
}

/* With the real clock's door: streams pace the guest. */
static struct rig *machine(void)
{
	struct rig *r = rig_create();

	new_fakes();
	door_destroy(r->board.door);
	r->board.door = door_create(DOOR_REAL, 0);
	vrig_init(r, create);
	virtio_console_start(console);
	return r;
}

static void end(struct rig *r)
{
	rig_destroy(r);
	free_fakes();
}

static void deliver(struct rig *r)
{
	door_deliver(r->board.door, 0);
}

static void changed(struct rig *r, unsigned port)
{
	fake[port]->chr.changed(fake[port]->chr.opaque);
	deliver(r);
}

static void control_buffers(struct rig *r, unsigned n)
{
	while (n--) {
		struct vseg s = { vrig_alloc(r, 128), 128, true };

		vrig_add(r, CONTROL_RX, &s, 1);
	}
	vrig_kick(r, CONTROL_RX);
}

static void say(struct rig *r, u32 id, u16 event, u16 value)
{
	u8 msg[8];

	memcpy(msg, &id, 4);
	memcpy(msg + 4, &event, 2);
	memcpy(msg + 6, &value, 2);
	assert_int_equal(vrig_request(r, CONTROL_TX, msg, 8, NULL, 0), 0);
}

/* The next control message must be this one; returns what follows its head. */
static const u8 *expect(struct rig *r, u32 id, u16 event, u16 value, u32 extra)
{
	struct vrig_queue *q = &vrig(r)->queue[CONTROL_RX];
	u32 head = 0, len = 0;
	u64 at;
	u8 *p;

	assert_true(vrig_used(r, CONTROL_RX, &head, &len));
	assert_int_equal(len, 8 + extra);
	memcpy(&at, vrig_ptr(r, q->desc + 16 * head), 8);
	p = vrig_ptr(r, at);
	assert_int_equal(p[0], id);
	assert_int_equal(p[4], event);
	assert_int_equal(p[6], value);
	return p + 8;
}

static void silent(struct rig *r)
{
	assert_false(vrig_used(r, CONTROL_RX, NULL, NULL));
}

/* Up to the point where the driver knows both ports. */
static void introduce(struct rig *r)
{
	vrig_start(r, F_MULTIPORT, 6, 16);
	control_buffers(r, 12);
	silent(r);
	say(r, 0, DEVICE_READY, 1);
	expect(r, 0, PORT_ADD, 1, 0);
	expect(r, 1, PORT_ADD, 1, 0);
	silent(r);
	say(r, 0, PORT_READY, 1);
	expect(r, 0, CONSOLE_PORT, 1, 0);
	expect(r, 0, PORT_OPEN, 1, 0);
	say(r, 1, PORT_READY, 1);
	assert_memory_equal(expect(r, 1, PORT_NAME, 1, 10), "org.test.0", 10);
	silent(r);
	say(r, 0, PORT_OPEN, 1);
}

static void ports(void **state)
{
	struct rig *r = machine();

	assert_int_equal(vrig_offered(r) & 7, 7);
	assert_int_equal(vrig_read(r, VRIG_CONFIG + 4, 4), 2);
	introduce(r);
	/* what makes no sense is ignored */
	say(r, 7, PORT_READY, 1);
	say(r, 0xffffffff, PORT_OPEN, 1);
	say(r, 1, 77, 1);
	say(r, 1, PORT_OPEN, 2);
	silent(r);
	assert_int_equal(fake[0]->opens + fake[1]->opens, 0);
	fake[1]->state.connected = true;
	changed(r, 1);
	expect(r, 1, PORT_OPEN, 1, 0);
	changed(r, 1);
	silent(r);
	/* a driver that starts again learns all again */
	say(r, 1, PORT_OPEN, 1);
	assert_int_equal(fake[1]->opens, 1);
	vrig_set_status(r, 0);
	assert_int_equal(fake[1]->closes, 1);
	fake[1]->state.connected = false;
	introduce(r);
	/* a control buffer without room breaks the device */
	fake[1]->state.connected = true;
	vrig_start(r, F_MULTIPORT, 6, 16);
	vrig_add(r, CONTROL_RX, &(struct vseg){ vrig_alloc(r, 16), 7, true }, 1);
	vrig_request(r, CONTROL_TX, "\0\0\0\0\0\0\1", 8, NULL, 0);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	end(r);
}

static gpa_t input_buffer(struct rig *r, unsigned q, u32 len)
{
	struct vseg s = { vrig_alloc(r, len), len, true };

	vrig_add(r, q, &s, 1);
	return s.gpa;
}

static void input(void **state)
{
	struct rig *r = machine();
	gpa_t a, b;
	u32 len;

	introduce(r);
	a = input_buffer(r, PORT1_RX, 4);
	fake[1]->state.connected = true;
	changed(r, 1);
	expect(r, 1, PORT_OPEN, 1, 0);
	assert_int_equal(door_post(r->board.door, fake[1]->sink, "hello!", 6), 6);
	/* gone again before anybody listened: nothing is lost, and the end comes behind it */
	fake[1]->state = (struct chr_state){ .ended = true };
	changed(r, 1);
	assert_false(vrig_used(r, PORT1_RX, NULL, NULL));
	silent(r);
	say(r, 1, PORT_OPEN, 1);
	deliver(r);
	assert_true(vrig_used(r, PORT1_RX, NULL, &len));
	assert_int_equal(len, 4);
	assert_memory_equal(vrig_ptr(r, a), "hell", 4);
	silent(r);
	b = input_buffer(r, PORT1_RX, 64);
	vrig_kick(r, PORT1_RX);
	deliver(r);
	assert_true(vrig_used(r, PORT1_RX, NULL, &len));
	assert_int_equal(len, 2);
	assert_memory_equal(vrig_ptr(r, b), "o!", 2);
	expect(r, 1, PORT_OPEN, 0, 0);
	/* the next client waits until the program has seen that, for a while */
	assert_int_equal(fake[1]->gone, 0);
	rig_pass(r, 200000000);
	deliver(r);
	assert_int_equal(fake[1]->gone, 1);
	/* or until it closes its end */
	fake[1]->state.connected = true;
	changed(r, 1);
	expect(r, 1, PORT_OPEN, 1, 0);
	fake[1]->state = (struct chr_state){ .ended = true };
	changed(r, 1);
	expect(r, 1, PORT_OPEN, 0, 0);
	assert_int_equal(fake[1]->gone, 1);
	say(r, 1, PORT_OPEN, 0);
	assert_int_equal(fake[1]->gone, 2);
	/* without the feature: port 0 alone, open always */
	vrig_start(r, 0, 2, 16);
	a = input_buffer(r, 0, 16);
	vrig_kick(r, 0);
	door_post(r->board.door, fake[0]->sink, "key", 3);
	deliver(r);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 3);
	end(r);
}

static void output(void **state)
{
	struct rig *r = machine();
	u8 big[3000];
	u32 len;

	for (unsigned i = 0; i < sizeof(big); i++)
		big[i] = i * 13 >> 2;
	introduce(r);
	/* a console waits for nobody */
	assert_int_equal(vrig_request(r, 1, "out", 3, NULL, 0), 0);
	assert_memory_equal(fake[0]->out, "out", 3);
	fake[1]->state.connected = true;
	changed(r, 1);
	say(r, 1, PORT_OPEN, 1);
	fake[1]->room = 1000;
	assert_int_equal(vrig_request(r, PORT1_TX, big, sizeof(big), NULL, 0), -1);
	assert_int_equal(fake[1]->len, 1000);
	/* closed while bytes wait: the stream learns of it behind the last */
	say(r, 1, PORT_OPEN, 0);
	assert_int_equal(fake[1]->closes, 0);
	fake[1]->room = 1500;
	changed(r, 1);
	assert_int_equal(fake[1]->len, 2500);
	assert_false(vrig_used(r, PORT1_TX, NULL, &len));
	fake[1]->room = 10000;
	changed(r, 1);
	assert_true(vrig_used(r, PORT1_TX, NULL, &len));
	assert_int_equal(fake[1]->len, sizeof(big));
	assert_memory_equal(fake[1]->out, big, sizeof(big));
	assert_int_equal(fake[1]->closes, 1);
	assert_int_equal(fake[1]->len_at_close, sizeof(big));
	/* emergency write, without a driver */
	vrig_set_status(r, 0);
	vrig_write(r, VRIG_CONFIG + 8, 'E', 4);
	assert_int_equal(fake[0]->out[3], 'E');
	assert_int_equal(fake[0]->len, 4);
	end(r);
}

static void size(void **state)
{
	struct rig *r = machine();
	unsigned before;
	const u8 *p;

	introduce(r);
	before = r->msi_of[0];
	fake[0]->state.cols = 132;
	fake[0]->state.rows = 43;
	changed(r, 0);
	p = expect(r, 0, RESIZE, 0, 4);
	assert_int_equal(p[0], 132);
	assert_int_equal(p[2], 43);
	assert_int_equal(vrig_read(r, VRIG_CONFIG, 4), 43 << 16 | 132);
	assert_int_equal(r->msi_of[0], before + 1);
	changed(r, 0);
	silent(r);
	end(r);
}

static struct device *make(struct rig *r)
{
	struct device *d = vrig_init(r, create);

	virtio_console_start(console);
	return d;
}

static void poke(struct rig *r, struct device *d)
{
	vrig_start(r, F_MULTIPORT, 6, 16);
	control_buffers(r, 12);
	for (unsigned i = 0; i < 4; i++) {
		static const u16 event[] = { DEVICE_READY, PORT_READY, PORT_READY, PORT_OPEN };
		u8 msg[8] = { i >= 2, 0, 0, 0, (u8)event[i], 0, 1 };

		vrig_request(r, CONTROL_TX, msg, 8, NULL, 0);
	}
	vrig_request(r, PORT1_TX, "abc", 3, NULL, 0);
}

static void roundtrip(void **state)
{
	new_fakes();
	rig_roundtrip(make, poke);
	free_fakes();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports), cmocka_unit_test(input),     cmocka_unit_test(output),
		cmocka_unit_test(size),	 cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
