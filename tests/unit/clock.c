/* Order of timers, exactness of counters, the virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "base/host_time.h"
#include "dev/clock.h"
#include "replay/door.h"

static u64 icount;
static char fired[64];
static unsigned n_fired;

static void note(void *opaque)
{
	fired[n_fired++] = *(const char *)opaque;
	fired[n_fired] = 0;
}

static int setup(void **state)
{
	icount = 1000;
	n_fired = 0;
	fired[0] = 0;
	*state = clock_create(CLOCK_KIND_VIRTUAL, NULL, &icount, 2900000000ull);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	clock_destroy(*state);
	return 0;
}

static void test_virtual_time(void **state)
{
	struct clock *c = *state;

	assert_int_equal(clock_now(c), 0);
	icount += 10;
	assert_int_equal(clock_now(c), 10);
	assert_int_equal(clock_tsc(c), 29);
	clock_warp(c, 5); /* never back */
	assert_int_equal(clock_now(c), 10);
	clock_warp(c, 3 * NSEC_PER_SEC);
	assert_int_equal(clock_now(c), 3 * NSEC_PER_SEC);
	assert_int_equal(clock_tsc(c), 3 * 2900000000ull);
	icount++;
	assert_int_equal(clock_tsc(c), 3 * 2900000000ull + 2);
}

static void test_order(void **state)
{
	struct clock *c = *state;
	struct timer *t[5];
	static const u64 at[5] = { 30, 10, 20, 10, 20 };

	for (int i = 0; i < 5; i++) {
		t[i] = timer_create_on(c, "t", note, &"abcde"[i]);
		timer_arm(t[i], at[i]);
	}
	assert_int_equal(clock_next_deadline(c), 10);
	icount += 9;
	clock_run(c);
	assert_string_equal(fired, "");
	icount += 11;
	clock_run(c);
	assert_string_equal(fired, "bdce");
	assert_false(timer_armed(t[1]));
	assert_true(timer_armed(t[0]));
	timer_cancel(t[0]);
	assert_int_equal(clock_next_deadline(c), CLOCK_NEVER);
	timer_arm(t[0], 5); /* past */
	clock_run(c);
	assert_string_equal(fired, "bdcea");
	for (int i = 0; i < 5; i++)
		timer_free(t[i]);
}

/* A few hundred timers armed, moved and cancelled at random leave in order. */
static u64 last_deadline;
static void in_order(void *opaque)
{
	u64 d = *(u64 *)opaque;

	assert_true(d >= last_deadline);
	last_deadline = d;
	n_fired++;
}

static void test_heap(void **state)
{
	enum { N = 300 };
	struct clock *c = *state;
	static struct timer *t[N];
	static u64 when[N];
	unsigned armed = 0;

	srand(1);
	for (int i = 0; i < N; i++)
		t[i] = timer_create_on(c, "t", in_order, &when[i]);
	for (int round = 0; round < 5000; round++) {
		int i = rand() % N;

		if (rand() % 4) {
			when[i] = (u64)(rand() % 100000);
			timer_arm(t[i], when[i]);
		} else {
			timer_cancel(t[i]);
		}
	}
	for (int i = 0; i < N; i++)
		armed += timer_armed(t[i]);
	last_deadline = 0;
	icount += 50000;
	clock_run(c);
	assert_true(clock_next_deadline(c) > 50000);
	icount += 50000;
	clock_run(c);
	assert_int_equal(n_fired, armed);
	for (int i = 0; i < N; i++)
		timer_free(t[i]);
}

static void test_conversion(void **state)
{
	static const u64 hz[] = { 1, 32768, 1193182, 3579545, 1000000000, 2899999999, 17999999999ull };

	for (unsigned h = 0; h < ARRAY_SIZE(hz); h++) {
		for (u64 ns = 1; ns < 1ull << 57; ns = ns * 3 + 7) {
			u64 ticks = clock_ns_to_ticks(ns, hz[h]);
			unsigned __int128 exact = (unsigned __int128)ns * hz[h] / NSEC_PER_SEC;

			assert_true(exact > UINT64_MAX ? ticks == UINT64_MAX : ticks == (u64)exact);
			if (exact > UINT64_MAX / 2)
				continue;
			/* The first moment at which the counter has that value. */
			u64 back = clock_ticks_to_ns(ticks, hz[h]);

			assert_true(back <= ns);
			assert_int_equal(clock_ns_to_ticks(back, hz[h]), ticks);
			if (back)
				assert_true(clock_ns_to_ticks(back - 1, hz[h]) < ticks);
		}
	}
	assert_int_equal(clock_ticks_to_ns(UINT64_MAX, 1), CLOCK_NEVER);
	assert_int_equal(clock_tsc_to_ns(*state, 29), 10);
	assert_int_equal(clock_tsc_to_ns(*state, 30), 11);
}

static void changed(void *opaque)
{
	++*(int *)opaque;
}

static void test_change(void **state)
{
	struct clock *c = *state;
	struct timer *a = timer_create_on(c, "a", note, "a"), *b = timer_create_on(c, "b", note, "b");
	int n = 0;

	clock_on_change(c, changed, &n);
	timer_arm(a, 100);
	assert_int_equal(n, 1);
	timer_arm(b, 200);
	assert_int_equal(n, 1);
	timer_arm(b, 50);
	assert_int_equal(n, 2);
	timer_arm(a, 60);
	assert_int_equal(n, 2);
	timer_free(a);
	timer_free(b);
}

static unsigned rung;

static void count_fire(void *opaque)
{
	rung++;
}

static void test_save(void **state)
{
	struct clock *c = *state;
	struct encoder e;
	u64 other_count = 77;
	struct clock *o = clock_create(CLOCK_KIND_VIRTUAL, NULL, &other_count, 2900000000ull);

	icount += 12345;
	enc_init(&e);
	clock_save(c, &e);
	for (size_t len = 0; len < e.len; len++) {
		struct decoder cut = { .data = e.data, .len = len };

		assert_int_equal(clock_check(&cut), -1);
	}
	struct decoder d = { .data = e.data, .len = e.len };

	assert_int_equal(clock_check(&d), 0);
	d.pos = 0;
	clock_load(o, &d);
	assert_int_equal(clock_now(o), 12345);
	other_count++;
	assert_int_equal(clock_now(o), 12346);
	clock_destroy(o);
	enc_free(&e);
}

/* A real clock: it stopped, and goes on in another one, which then leaps. */
static void test_save_real(void **state)
{
	struct door *door = door_create(DOOR_REAL, 0);
	struct clock *c = clock_create(CLOCK_KIND_REAL, door, NULL, 1000000000), *o;
	u64 before = door_wall_ns(door), stopped, now;
	struct decoder d;
	struct encoder e;

	clock_stop(c);
	stopped = clock_now(c);
	now = door_wall_ns(door);
	enc_init(&e);
	clock_save(c, &e);
	d = (struct decoder){ .data = e.data, .len = e.len };
	o = clock_create(CLOCK_KIND_REAL, door, NULL, 1000000000);
	clock_stop(o);
	assert_int_equal(clock_check(&d), 0);
	d.pos = 0;
	clock_load(o, &d);
	assert_int_equal(clock_now(o), stopped);
	/* of the stop, not of the saving */
	assert_in_range(clock_loaded_wall(o), before, now);

	struct timer *t = timer_create_on(o, "t", count_fire, NULL);

	rung = 0;
	timer_arm(t, stopped + 3600 * NSEC_PER_SEC);
	clock_run(o);
	assert_int_equal(rung, 0);
	clock_advance(o, 3600 * NSEC_PER_SEC);
	assert_int_equal(clock_now(o), stopped + 3600 * NSEC_PER_SEC);
	clock_start(o);
	assert_true(clock_now(o) >= stopped + 3600 * NSEC_PER_SEC);
	clock_run(o);
	assert_int_equal(rung, 1);
	timer_free(t);
	clock_destroy(o);
	clock_destroy(c);
	door_destroy(door);
	enc_free(&e);
}

/* A stop that is not the guest's: the time is there afterwards. Of another one it is not. */
static void test_start_late(void **state)
{
	const struct timespec pause = { .tv_nsec = 20000000 };
	struct door *door = door_create(DOOR_REAL, 0);
	struct clock *c = clock_create(CLOCK_KIND_REAL, door, NULL, 1000000000);
	u64 host = host_ns(), guest = clock_now(c), now;

	clock_stop(c);
	nanosleep(&pause, NULL);
	assert_true(clock_now(c) - guest <= host_ns() - host - 20000000);
	clock_start_late(c);
	assert_true(clock_now(c) - guest >= 20000000);
	clock_stop(c);
	nanosleep(&pause, NULL);
	clock_start(c);
	clock_start_late(c); /* it goes already */
	now = clock_now(c);
	assert_true(host_ns() - host - (now - guest) >= 20000000);
	clock_destroy(c);
	door_destroy(door);
}

/* What version 1 wrote has no wall clock. */
static void test_version_1(void **state)
{
	struct door *door = door_create(DOOR_REAL, 0);
	struct clock *c = clock_create(CLOCK_KIND_REAL, door, NULL, 1000000000);
	struct encoder e;
	struct decoder d;

	enc_init(&e);
	enc_begin(&e, "clock", 1);
	enc_u8(&e, CLOCK_KIND_REAL);
	enc_u64(&e, 12345);
	enc_end(&e);
	d = (struct decoder){ .data = e.data, .len = e.len };
	clock_stop(c);
	assert_int_equal(clock_check(&d), 0);
	d.pos = 0;
	clock_load(c, &d);
	assert_int_equal(clock_now(c), 12345);
	assert_int_equal(clock_loaded_wall(c), 0);
	clock_destroy(c);
	door_destroy(door);
	enc_free(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_virtual_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_heap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_conversion, setup, teardown),
		cmocka_unit_test_setup_teardown(test_change, setup, teardown),
		cmocka_unit_test_setup_teardown(test_save, setup, teardown),
		cmocka_unit_test(test_save_real),
		cmocka_unit_test(test_start_late),
		cmocka_unit_test(test_version_1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
