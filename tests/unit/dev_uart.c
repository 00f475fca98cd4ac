/* 16550A: what Linux's 8250 driver probes, interrupts and their priorities, input from the door. */
#include "dev_rig.h"
#include <cmocka.h>

#include "backend/chr/chr.h"
#include "dev/chipset/uart16550.h"

#define COM1 0x3f8

static struct chr *out; /* of the test that runs */

static struct device *make(struct rig *r)
{
	struct irq irq = rig_irq(r, 4);

	return uart_create(&r->board, COM1, &irq, out, "serial");
}

static u8 get(struct rig *r, unsigned reg)
{
	return rig_in(r, COM1 + reg);
}
static void set(struct rig *r, unsigned reg, u8 v)
{
	rig_out(r, COM1 + reg, v);
}

static void type(struct rig *r, struct device *d, const char *s)
{
	door_post(r->board.door, uart_sink(d), s, strlen(s));
	door_deliver(r->board.door, 0);
}

/* The order of drivers/tty/serial/8250's autoconfiguration. */
static void probe(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	set(r, 1, 0);
	assert_int_equal(get(r, 1), 0);
	set(r, 1, 0x0f);
	assert_int_equal(get(r, 1), 0x0f);
	set(r, 1, 0);
	set(r, 4, 0x1a); /* loop, RTS, OUT2 */
	assert_int_equal(get(r, 6) & 0xf0, 0x90);
	set(r, 4, 0);
	set(r, 3, 0);
	set(r, 2, 1);
	assert_int_equal(get(r, 2) >> 6, 3); /* 16550A */
	set(r, 3, 0x80);
	assert_int_not_equal(get(r, 2), 0); /* no EFR: not a 16650 */
	set(r, 3, 0xbf);
	assert_int_not_equal(get(r, 2), 0);
	set(r, 3, 0);
	set(r, 1, 0x40); /* no UUE: not an XScale */
	assert_int_equal(get(r, 1), 0);
	set(r, 7, 0x5a);
	assert_int_equal(get(r, 7), 0x5a);
	/* enabling THRI on an empty transmitter interrupts, each time (UART_BUG_TXEN, UART_BUG_THRE) */
	set(r, 4, 8);
	for (unsigned i = 0; i < 2; i++) {
		set(r, 1, 0);
		assert_int_equal(get(r, 2) & 0x0f, 1);
		set(r, 1, 2);
		assert_true(r->level[4]);
		assert_int_equal(get(r, 2) & 0x0f, 2);
		assert_false(r->level[4]);
		assert_int_equal(get(r, 2) & 0x0f, 1);
	}
	assert_int_equal(get(r, 5), 0x60);
	type(r, d, "x");
	assert_int_equal(get(r, 5), 0x61);
	assert_int_equal(get(r, 0), 'x');
	assert_int_equal(get(r, 5), 0x60);
	rig_destroy(r);
}

static void transmit(void **state)
{
	struct rig *r;
	const u8 *data;
	size_t n;

	out = chr_memory_create();
	r = rig_create();
	make(r);
	set(r, 4, 8);
	set(r, 1, 2);
	get(r, 2);
	r->rises[4] = 0;
	set(r, 0, 'a');
	assert_int_equal(r->rises[4], 1);
	set(r, 0, 'b');
	assert_int_equal(r->rises[4], 2); /* a write drops and raises the line */
	chr_memory_data(out, &n);
	assert_int_equal(n, 0);
	rig_pass(r, 10000000); /* a prompt without a line end comes out too */
	data = chr_memory_data(out, &n);
	assert_int_equal(n, 2);
	assert_memory_equal(data, "ab", 2);
	set(r, 0, 'c');
	set(r, 0, '\n');
	data = chr_memory_data(out, &n);
	assert_int_equal(n, 4);
	for (unsigned i = 0; i < 4096; i++)
		set(r, 0, 'z');
	chr_memory_data(out, &n);
	assert_int_equal(n, 4 + 4096);
	set(r, 0, 'e');
	rig_destroy(r);
	chr_memory_data(out, &n);
	assert_int_equal(n, 4 + 4096 + 1);
	out->ops->destroy(out);
	out = NULL;
}

static void receive(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	set(r, 3, 0x83);
	set(r, 0, 1); /* 115200 baud */
	set(r, 1, 0);
	set(r, 3, 0x03);
	set(r, 2, 0x81); /* trigger 8 */
	set(r, 1, 1);
	set(r, 4, 8);
	type(r, d, "abc");
	assert_false(r->level[4]);
	rig_pass(r, 340000);
	assert_false(r->level[4]);
	rig_pass(r, 10000); /* four characters of ten bits: 347 us */
	assert_true(r->level[4]);
	assert_int_equal(get(r, 2), 0xcc);
	assert_int_equal(get(r, 0), 'a');
	assert_false(r->level[4]);
	type(r, d, "defghijklmnopqrstuv"); /* more than there is room for */
	assert_true(r->level[4]);
	assert_int_equal(get(r, 2), 0xc4);
	for (char c = 'b'; c <= 'q'; c++)
		assert_int_equal(get(r, 0), c);
	assert_true(door_pending(r->board.door)); /* asked again when room came */
	door_deliver(r->board.door, 0);
	for (char c = 'r'; c <= 'v'; c++)
		assert_int_equal(get(r, 0), c);
	assert_int_equal(get(r, 5), 0x60);
	/* OUT2 gates */
	set(r, 2, 0x01);
	type(r, d, "x");
	assert_true(r->level[4]);
	set(r, 4, 0);
	assert_false(r->level[4]);
	rig_destroy(r);
}

static void loopback_and_status(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	set(r, 4, 0x10);
	assert_int_equal(get(r, 6) & 0xf0, 0);
	set(r, 0, 'q');
	assert_int_equal(get(r, 5), 0x61);
	set(r, 0, 'r'); /* overrun without FIFOs */
	assert_int_equal(get(r, 5), 0x63);
	assert_int_equal(get(r, 5), 0x61);
	assert_int_equal(get(r, 0), 'r');
	type(r, d, "host");
	assert_int_equal(get(r, 5), 0x60); /* the line is disconnected */
	set(r, 4, 0x08);
	door_deliver(r->board.door, 0);
	assert_int_equal(get(r, 5), 0x61);
	/* priorities: line status is above data, data above THRE, THRE above modem */
	get(r, 6);
	set(r, 4, 0x10);
	set(r, 0, 'x');
	set(r, 4, 0x08);
	set(r, 1, 0x0f);
	assert_int_equal(get(r, 2), 6);
	get(r, 5);
	assert_int_equal(get(r, 2), 4);
	get(r, 0);
	set(r, 1, 0x0e);
	assert_int_equal(get(r, 2), 2);
	assert_int_equal(get(r, 2), 0);
	get(r, 6);
	assert_int_equal(get(r, 2), 1);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	set(r, 3, 0x83);
	set(r, 0, 3);
	set(r, 3, 0x03);
	set(r, 2, 0xc1);
	set(r, 1, 0x0f);
	set(r, 4, 0x0b);
	type(r, d, "hello");
	get(r, 0);
	set(r, 7, 0x77);
	set(r, 0, 'a');
	rig_pass(r, 1000);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probe),     cmocka_unit_test(transmit),
		cmocka_unit_test(receive),   cmocka_unit_test(loopback_and_status),
		cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
