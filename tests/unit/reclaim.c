/* Mappings given back later: not before they are to be, all of them then, and without a list at once. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "base/reclaim.h"
#include "base/types.h"

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static bool mapped(void *p)
{
	return !msync(p, PAGE_SIZE, MS_ASYNC) || errno != ENOMEM;
}

static void test_later(void **state)
{
	static const size_t size[] = { PAGE_SIZE, 3 * MiB + PAGE_SIZE, 40 * GiB };
	struct reclaim r = { .items = NULL };
	u8 *p[ARRAY_SIZE(size)];

	for (unsigned round = 0; round < 3; round++) {
		for (unsigned n = 0; n < ARRAY_SIZE(size); n++) {
			p[n] = map(size[n]);
			p[n][size[n] - 1] = 1;
			reclaim_later(&r, p[n], size[n]);
		}
		for (unsigned n = 0; n < ARRAY_SIZE(size); n++) {
			assert_true(mapped(p[n]));
			assert_int_equal(p[n][size[n] - 1], 1);
		}
		reclaim_start(&r);
		reclaim_wait(&r);
		for (unsigned n = 0; n < ARRAY_SIZE(size); n++) {
			assert_false(mapped(p[n]));
			assert_false(mapped(p[n] + size[n] - PAGE_SIZE));
		}
	}
	reclaim_start(&r);
	reclaim_wait(&r);
	reclaim_wait(&r);
}

/* A list that is begun while the one before is worked on. */
static void test_twice(void **state)
{
	struct reclaim r = { .items = NULL };
	void *first = map(64 * MiB), *second = map(MiB);

	memset(first, 1, 64 * MiB);
	reclaim_later(&r, first, 64 * MiB);
	reclaim_start(&r);
	reclaim_later(&r, second, MiB);
	reclaim_start(&r);
	assert_false(mapped(first));
	reclaim_wait(&r);
	assert_false(mapped(second));
}

static void test_at_once(void **state)
{
	void *p = map(MiB);

	reclaim_later(NULL, p, MiB);
	assert_false(mapped(p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_later),
		cmocka_unit_test(test_twice),
		cmocka_unit_test(test_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
