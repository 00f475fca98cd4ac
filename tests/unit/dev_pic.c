/* 8259A: initialisation, priorities, end of interrupt, modes. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/chipset/pic.h"

static struct device *make(struct rig *r)
{
	struct irq out = rig_irq(r, 0);

	return pic_create(&r->board, &out);
}

static void init(struct rig *r, u8 icw4)
{
	static const u16 port[2] = { 0x20, 0xa0 };

	for (unsigned i = 0; i < 2; i++) {
		rig_out(r, port[i], 0x11);
		rig_out(r, port[i] + 1, i ? 0x28 : 0x20);
		rig_out(r, port[i] + 1, i ? 2 : 4);
		rig_out(r, port[i] + 1, icw4);
		rig_out(r, port[i] + 1, 0);
	}
}

static void priorities(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	init(r, 1);
	pic_set_irq(d, 4, true);
	pic_set_irq(d, 1, true);
	assert_true(pic_pending(d));
	assert_true(r->level[0]);
	assert_int_equal(pic_ack(d), 0x21);
	assert_false(pic_pending(d)); /* 4 is lower than the one in service */
	pic_set_irq(d, 0, true);
	assert_int_equal(pic_ack(d), 0x20);
	rig_out(r, 0x20, 0x0b);
	assert_int_equal(rig_in(r, 0x20), 0x03);
	rig_out(r, 0x20, 0x20);
	assert_int_equal(rig_in(r, 0x20), 0x02);
	rig_out(r, 0x20, 0x61);
	assert_true(pic_pending(d));
	assert_int_equal(pic_ack(d), 0x24);
	rig_out(r, 0x20, 0x20);
	assert_false(pic_pending(d));
	/* an edge counts once */
	pic_set_irq(d, 4, true);
	assert_false(pic_pending(d));
	pic_set_irq(d, 4, false);
	pic_set_irq(d, 4, true);
	assert_true(pic_pending(d));
	rig_out(r, 0x21, 0x10);
	assert_false(pic_pending(d));
	rig_destroy(r);
}

static void cascade_and_level(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	init(r, 1);
	rig_out(r, 0x4d1, 0xff);
	assert_int_equal(rig_in(r, 0x4d1), 0xde);
	rig_out(r, 0x4d0, 0xff);
	assert_int_equal(rig_in(r, 0x4d0), 0xf8);
	pic_set_irq(d, 9, true);
	assert_int_equal(pic_ack(d), 0x29);
	rig_out(r, 0xa0, 0x20);
	rig_out(r, 0x20, 0x20);
	assert_true(pic_pending(d)); /* the level is still there */
	pic_set_irq(d, 9, false);
	assert_false(pic_pending(d));
	assert_int_equal(pic_ack(d), 0x27); /* spurious, and nothing is in service */
	rig_out(r, 0x20, 0x0b);
	assert_int_equal(rig_in(r, 0x20), 0);
	rig_destroy(r);
}

static void modes(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	init(r, 3); /* automatic EOI */
	pic_set_irq(d, 3, true);
	assert_int_equal(pic_ack(d), 0x23);
	rig_out(r, 0x20, 0x0b);
	assert_int_equal(rig_in(r, 0x20), 0);

	init(r, 1);
	pic_set_irq(d, 5, true);
	rig_out(r, 0x20, 0x0c); /* poll */
	assert_int_equal(rig_in(r, 0x20), 0x85);
	rig_out(r, 0x20, 0x0c);
	assert_int_equal(rig_in(r, 0x20), 0);
	/* special mask: a masked one in service does not block lower ones */
	pic_set_irq(d, 6, true);
	assert_false(pic_pending(d));
	rig_out(r, 0x21, 0x20);
	rig_out(r, 0x20, 0x68);
	assert_true(pic_pending(d));
	assert_int_equal(pic_ack(d), 0x26);
	rig_out(r, 0x20, 0x48);
	rig_out(r, 0x20, 0x66);
	rig_out(r, 0x20, 0x65);
	rig_out(r, 0x21, 0);
	/* rotation: 4 becomes lowest, 5 highest */
	rig_out(r, 0x20, 0xc4);
	for (unsigned n = 3; n < 6; n++) {
		pic_set_irq(d, n, false);
		pic_set_irq(d, n, true);
	}
	assert_int_equal(pic_ack(d), 0x25);
	rig_out(r, 0x20, 0xa0); /* rotate on EOI: 5 lowest, 6 highest */
	assert_int_equal(pic_ack(d), 0x23);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	init(r, 1);
	rig_out(r, 0x4d0, 0x20);
	for (unsigned n = 0; n < 16; n += 3)
		pic_set_irq(d, n, true);
	pic_ack(d);
	rig_out(r, 0x20, 0xc3);
	rig_out(r, 0xa0, 0x11);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(priorities),
		cmocka_unit_test(cascade_and_level),
		cmocka_unit_test(modes),
		cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
