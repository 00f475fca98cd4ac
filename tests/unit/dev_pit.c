/* 8254: counts, outputs and edges against time. */
#include "dev_rig.h"
#include <cmocka.h>

#include "dev/chipset/pit.h"

static struct device *make(struct rig *r)
{
	struct irq irq0 = rig_irq(r, 0);

	return pit_create(&r->board, &irq0);
}

static void at_tick(struct rig *r, u64 tick)
{
	rig_to(r, clock_ticks_to_ns(tick, PIT_HZ));
}

static void program(struct rig *r, unsigned ch, unsigned mode, u16 n)
{
	rig_out(r, 0x43, ch << 6 | 0x30 | mode << 1);
	rig_out(r, 0x40 + ch, n & 0xff);
	rig_out(r, 0x40 + ch, n >> 8);
}

static unsigned latched(struct rig *r, unsigned ch)
{
	unsigned lo;

	rig_out(r, 0x43, ch << 6);
	lo = rig_in(r, 0x40 + ch);
	return lo | rig_in(r, 0x40 + ch) << 8;
}

static unsigned status(struct rig *r, unsigned ch)
{
	rig_out(r, 0x43, 0xe0 | 2 << ch);
	return rig_in(r, 0x40 + ch);
}

static void mode0(void **state)
{
	struct rig *r = rig_create();

	make(r);
	at_tick(r, 1000);
	program(r, 0, 0, 100);
	assert_int_equal(status(r, 0), 0x70); /* null count, OUT low */
	at_tick(r, 1001 + 40);
	assert_int_equal(latched(r, 0), 60);
	assert_int_equal(status(r, 0), 0x30);
	assert_false(r->level[0]);
	at_tick(r, 1001 + 99);
	assert_false(r->level[0]);
	at_tick(r, 1001 + 100);
	assert_true(r->level[0]);
	assert_int_equal(status(r, 0), 0xb0);
	at_tick(r, 1001 + 110);
	assert_int_equal(latched(r, 0), 65526); /* goes on counting */
	assert_null(rig_next_timer(&r->clock)); /* and costs nothing */
	rig_destroy(r);
}

static void mode2(void **state)
{
	struct rig *r = rig_create();
	unsigned rises;

	make(r);
	program(r, 0, 2, 1000);
	rises = r->rises[0];
	at_tick(r, 1 + 250);
	assert_int_equal(latched(r, 0), 750);
	at_tick(r, 1 + 999);
	assert_false(r->level[0]); /* low for one tick at count 1 */
	at_tick(r, 1 + 1000);
	assert_true(r->level[0]);
	at_tick(r, 1 + 10000);
	assert_int_equal(r->rises[0] - rises, 10);
	/* a new count waits for the end of the period */
	at_tick(r, 1 + 10100);
	rig_out(r, 0x40, 500 & 0xff);
	rig_out(r, 0x40, 500 >> 8);
	assert_int_equal(latched(r, 0), 900);
	assert_int_equal(status(r, 0) & 0x40, 0x40);
	rises = r->rises[0];
	at_tick(r, 1 + 12000);
	assert_int_equal(r->rises[0] - rises, 3); /* 11000, 11500, 12000 */
	rig_destroy(r);
}

static void mode3_and_speaker(void **state)
{
	struct rig *r = rig_create();
	unsigned edges = 0, last, now;

	make(r);
	program(r, 0, 3, 1000);
	at_tick(r, 1 + 100);
	assert_int_equal(latched(r, 0), 800); /* by twos */
	assert_true(r->level[0]);
	at_tick(r, 1 + 500);
	assert_false(r->level[0]);
	at_tick(r, 1 + 600);
	assert_int_equal(latched(r, 0), 800);
	/* channel 2, gate at port 61h, as a delay loop: mode 0 */
	at_tick(r, 2000);
	rig_out(r, 0x61, 0);
	program(r, 2, 0, 300);
	at_tick(r, 2500);
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	rig_out(r, 0x61, 1);
	at_tick(r, 2750);
	assert_int_equal(rig_in(r, 0x61) & 0x20, 0);
	at_tick(r, 2850);
	assert_int_equal(rig_in(r, 0x61) & 0x21, 0x21);
	/* the refresh bit toggles about every 15 us */
	last = rig_in(r, 0x61) & 0x10;
	for (unsigned i = 0; i < 1000; i++) {
		rig_pass(r, 1000);
		now = rig_in(r, 0x61) & 0x10;
		edges += now != last;
		last = now;
	}
	assert_in_range(edges, 64, 68);
	rig_destroy(r);
}

static void bcd_and_access(void **state)
{
	struct rig *r = rig_create();

	make(r);
	rig_out(r, 0x43, 0x80 | 0x30 | 2 << 1 | 1); /* channel 2, BCD */
	rig_out(r, 0x61, 1);
	rig_out(r, 0x42, 0x00);
	rig_out(r, 0x42, 0x10); /* 1000 */
	at_tick(r, 1 + 1);
	assert_int_equal(latched(r, 2), 0x0999);
	rig_out(r, 0x43, 0x40 | 0x10 | 2 << 1); /* channel 1, low byte only */
	rig_out(r, 0x41, 18);
	at_tick(r, 2 + 1 + 4);
	rig_out(r, 0x43, 0x40);
	assert_int_equal(rig_in(r, 0x41), 14);
	rig_destroy(r);
}

/* A timer that fires late makes one pulse, not a storm. */
static void late(void **state)
{
	struct rig *r = rig_create();
	struct timer *t;
	unsigned rises;

	make(r);
	program(r, 0, 2, 2);
	rises = r->rises[0];
	r->clock.now = NSEC_PER_SEC;
	t = rig_next_timer(&r->clock);
	t->armed = false;
	t->fn(t->opaque);
	assert_in_range(r->rises[0] - rises, 0, 1);
	assert_true(rig_next_timer(&r->clock)->deadline >= NSEC_PER_SEC);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	rig_pass(r, 12345678);
	program(r, 0, 2, 1193);
	program(r, 1, 3, 77);
	program(r, 2, 0, 40000);
	rig_out(r, 0x61, 1);
	rig_pass(r, 3000000);
	rig_out(r, 0x40, 7);
	rig_out(r, 0x43, 0xc6);
	rig_in(r, 0x41);
	rig_pass(r, 1000);
	rig_out(r, 0x40, 9);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mode0),	  cmocka_unit_test(mode2), cmocka_unit_test(mode3_and_speaker),
		cmocka_unit_test(bcd_and_access), cmocka_unit_test(late),  cmocka_unit_test(roundtrip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
