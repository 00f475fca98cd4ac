/* Stopping the world: nobody is inside meanwhile, stoppers take turns, nesting, nobody sleeps for ever. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/world.h"

#define THREADS 4u
#define ROUNDS 3000u

static struct world world;
static _Atomic u32 asked[THREADS];
/* Both parts are equal whenever somebody inside looks; written with the world stopped only, without a lock. */
static volatile u64 left, right;
static _Atomic u32 torn, done;

static void kick(void *opaque, unsigned who)
{
	atomic_store(&asked[who], 1);
}

static void change(unsigned who)
{
	world_stop(&world, who);
	left = left + 1;
	world_stop(&world, who);
	for (volatile int i = 0; i < 50; i++)
		;
	world_go(&world, who);
	right = right + 1;
	world_go(&world, who);
}

static void *member(void *arg)
{
	unsigned who = (unsigned)(uintptr_t)arg;

	world_enter(&world, who);
	for (unsigned i = 0; i < ROUNDS || atomic_load(&done) < THREADS; i++) {
		u64 l = left;

		for (volatile int k = 0; k < 20; k++)
			;
		if (l != right)
			atomic_fetch_add(&torn, 1);
		if (atomic_exchange(&asked[who], 0))
			world_yield(&world, who);
		if (i < ROUNDS && i % 16 == who) {
			change(who);
			if (!world_inside(&world, who))
				atomic_fetch_add(&torn, 1);
		}
		if (i % 64 == 63) { /* a nap, and a change from outside */
			world_leave(&world, who);
			if (i < ROUNDS && i % 256 == 255)
				change(who);
			world_enter(&world, who);
		}
		if (i + 1 == ROUNDS)
			atomic_fetch_add(&done, 1);
	}
	world_leave(&world, who);
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t t[THREADS];

	world_init(&world, THREADS, kick, NULL);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, member, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(torn, 0);
	assert_int_equal(left, right);
	assert_true(left >= THREADS * (ROUNDS / 16));
	assert_int_equal(world.stops, left);
	world_destroy(&world);
}

static void test_alone(void **state)
{
	world_init(&world, 1, kick, NULL);
	world_enter(&world, 0);
	assert_false(world_stop(&world, 0));
	assert_true(world_inside(&world, 0));
	world_go(&world, 0);
	world_leave(&world, 0);
	assert_false(world_inside(&world, 0));
	world_destroy(&world);
}

/* Somebody else's stop is told of. */
static void *stop_once(void *arg)
{
	world_stop(&world, 1);
	atomic_store(&done, 1);
	world_go(&world, 1);
	return NULL;
}

static void wait_for_turn(void *opaque, unsigned who)
{
	atomic_store(&asked[who], 1);
}

static void test_told(void **state)
{
	pthread_t t;

	atomic_store(&done, 0);
	atomic_store(&asked[0], 0);
	world_init(&world, 2, wait_for_turn, NULL);
	world_enter(&world, 0);
	assert_int_equal(pthread_create(&t, NULL, stop_once, NULL), 0);
	while (!atomic_load(&asked[0]))
		;
	assert_true(world_stop(&world, 0));
	assert_int_equal(done, 1);
	world_go(&world, 0);
	pthread_join(t, NULL);
	assert_false(world_stop(&world, 0));
	world_go(&world, 0);
	world_destroy(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alone),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
