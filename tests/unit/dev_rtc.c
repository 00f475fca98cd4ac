/* MC146818: date, formats, the three interrupts, what CMOS tells firmware. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/chipset/rtc.h"

static struct device *make(struct rig *r)
{
	const struct rtc_config cfg = { 512 * MiB, 1 * GiB, 1, { 2, 3, 0 } };
	struct irq irq8 = rig_irq(r, 8);

	return rtc_create(&r->board, &cfg, &irq8);
}

static u8 get(struct rig *r, u8 reg)
{
	rig_out(r, 0x70, reg);
	return rig_in(r, 0x71);
}

static void set(struct rig *r, u8 reg, u8 v)
{
	rig_out(r, 0x70, reg);
	rig_out(r, 0x71, v);
}

static void date(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	/* 2020-01-01 00:00:00, a Wednesday */
	assert_int_equal(get(r, 0x32), 0x20);
	assert_int_equal(get(r, 9), 0x20);
	assert_int_equal(get(r, 8), 0x01);
	assert_int_equal(get(r, 7), 0x01);
	assert_int_equal(get(r, 6), 4);
	rig_to(r, (59 * 86400ull + 13 * 3600 + 5 * 60 + 7) * NSEC_PER_SEC); /* 29 February */
	assert_int_equal(get(r, 8), 0x02);
	assert_int_equal(get(r, 7), 0x29);
	assert_int_equal(get(r, 4), 0x13);
	assert_int_equal(get(r, 2), 0x05);
	assert_int_equal(get(r, 0), 0x07);
	set(r, 0x0b, 0x04); /* binary, 12 hours */
	assert_int_equal(get(r, 4), 0x81);
	assert_int_equal(get(r, 7), 29);
	set(r, 0x0b, 0x02);
	/* set the last second of 1999 */
	set(r, 0x0b, 0x82);
	set(r, 0x32, 0x19);
	set(r, 9, 0x99);
	set(r, 8, 0x12);
	set(r, 7, 0x31);
	set(r, 4, 0x23);
	set(r, 2, 0x59);
	set(r, 0, 0x59);
	rig_pass(r, 10 * NSEC_PER_SEC);
	assert_int_equal(get(r, 0), 0x59); /* stands still */
	set(r, 0x0b, 0x02);
	rig_pass(r, NSEC_PER_SEC);
	assert_int_equal(get(r, 0x32), 0x20);
	assert_int_equal(get(r, 9), 0x00);
	assert_int_equal(get(r, 8), 0x01);
	assert_int_equal(get(r, 0), 0x00);
	assert_false(rtc_nmi_masked(d));
	rig_out(r, 0x70, 0x8d);
	assert_true(rtc_nmi_masked(d));
	assert_int_equal(rig_in(r, 0x71), 0x80);
	rig_destroy(r);
}

static void uip(void **state)
{
	struct rig *r = rig_create();

	make(r);
	rig_to(r, NSEC_PER_SEC - 300000);
	assert_int_equal(get(r, 0x0a) & 0x80, 0);
	rig_to(r, NSEC_PER_SEC - 100000);
	assert_int_equal(get(r, 0x0a) & 0x80, 0x80);
	rig_to(r, NSEC_PER_SEC);
	assert_int_equal(get(r, 0x0a) & 0x80, 0);
	rig_destroy(r);
}

static void interrupts(void **state)
{
	struct rig *r = rig_create();

	make(r);
	get(r, 0x0c);
	assert_null(rig_next_timer(&r->clock));
	/* alarm at 00:00:05, every hour */
	set(r, 1, 0x05);
	set(r, 3, 0x00);
	set(r, 5, 0xff);
	set(r, 0x0b, 0x22);
	rig_to(r, 5 * NSEC_PER_SEC - 1);
	assert_false(r->level[8]);
	rig_to(r, 5 * NSEC_PER_SEC);
	assert_true(r->level[8]);
	assert_int_equal(get(r, 0x0c) & 0xbf, 0xb0); /* the periodic flag rises without being enabled */
	assert_false(r->level[8]);
	rig_to(r, 3604 * NSEC_PER_SEC);
	assert_false(r->level[8]);
	rig_to(r, 3605 * NSEC_PER_SEC);
	assert_true(r->level[8]);
	get(r, 0x0c);
	/* update-ended */
	set(r, 0x0b, 0x12);
	rig_to(r, 3606 * NSEC_PER_SEC);
	assert_true(r->level[8]);
	assert_int_equal(get(r, 0x0c) & 0xbf, 0x90);
	/* periodic, 1024 Hz, acknowledged each time */
	set(r, 0x0b, 0x42);
	r->rises[8] = 0;
	for (unsigned i = 0; i < 10000; i++) {
		rig_pass(r, 100000);
		if (r->level[8])
			get(r, 0x0c);
	}
	assert_in_range(r->rises[8], 1022, 1026);
	rig_destroy(r);
}

static void memory_sizes(void **state)
{
	struct rig *r = rig_create();

	make(r);
	assert_int_equal(get(r, 0x15) | get(r, 0x16) << 8, 640);
	assert_int_equal(get(r, 0x17) | get(r, 0x18) << 8, 65535);
	assert_int_equal(get(r, 0x34) | get(r, 0x35) << 8, 496 * 16);
	assert_int_equal(get(r, 0x5b) | get(r, 0x5c) << 8 | get(r, 0x5d) << 16, 16384);
	assert_int_equal(get(r, 0x3d), 0x32);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	rig_pass(r, 7777777777ull);
	set(r, 6, 0x02);
	set(r, 0x40, 0xaa);
	set(r, 1, 0xc0);
	set(r, 3, 0x77);
	set(r, 0x0a, 0x2f);
	set(r, 0x0b, 0x72);
	rig_pass(r, 600000000);
	get(r, 0);
}

/* Nonsense in every register must give some date and no fault. */
static void nonsense(void **state)
{
	struct rig *r = rig_create();

	make(r);
	for (unsigned v = 0; v < 256; v += 5) {
		for (unsigned reg = 0; reg < 10; reg++)
			set(r, reg, v + reg);
		set(r, 0x32, v);
		set(r, 0x0b, v);
		rig_pass(r, NSEC_PER_SEC);
		get(r, 0x0c);
		get(r, 0x09);
	}
	rig_destroy(r);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

/* The battery's time alone moves on, also over the ends of seconds, and an alarm on the way is seen. */
static void advance(void **state)
{
	struct rig *r = rig_create();
	struct device *d = make(r);

	rig_to(r, 700 * 1000000);
	rtc_advance(d, 500 * 1000000);
	assert_int_equal(get(r, 0), 0x01);
	rig_pass(r, 799 * 1000000);
	assert_int_equal(get(r, 0), 0x01);
	rig_pass(r, 2 * 1000000);
	assert_int_equal(get(r, 0), 0x02);
	get(r, 0x0c);
	set(r, 5, 0x06); /* 06:00:00 */
	set(r, 3, 0);
	set(r, 1, 0);
	set(r, 0x0b, 0x22);
	assert_int_equal(r->level[8], 0);
	rtc_advance(d, 36 * 3600 * NSEC_PER_SEC);
	assert_int_equal(get(r, 4), 0x12);
	assert_int_equal(get(r, 7), 0x02);
	assert_int_equal(r->level[8], 1);
	assert_int_equal(get(r, 0x0c) & 0x20, 0x20);
	assert_int_equal(r->level[8], 0);
	set(r, 0x0b, 0x82); /* stands still */
	rtc_advance(d, 3600 * NSEC_PER_SEC);
	assert_int_equal(get(r, 4), 0x12);
	rig_destroy(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(date),		cmocka_unit_test(uip),	    cmocka_unit_test(interrupts),
		cmocka_unit_test(memory_sizes), cmocka_unit_test(nonsense), cmocka_unit_test(roundtrip),
		cmocka_unit_test(advance),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
