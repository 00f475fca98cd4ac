/* Raw images: both engines, direct access, errors; locks on ranges; the pool of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <seccomp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../block/rig.h"
#include "backend/block/pool.h"
#include "backend/block/range.h"

/* /var/tmp: direct access needs a file system on a disk */
static char path[] = "/var/tmp/ectype-test-raw-XXXXXX";

#define DISK (4 * MiB)

static int setup(void **state)
{
	int fd = mkstemp(path);

	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	return unlink(path);
}

static void make_file(u64 size)
{
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(truncate(path, size), 0);
}

static bool random_run(struct block_config c)
{
	struct error e = { "" };
	u8 *model = calloc(1, DISK);
	struct block *b = block_open(&c, &e);
	bool ok;

	if (!b) {
		fprintf(stderr, "%s\n", e.text);
		return false;
	}
	ok = rig_run(b, model, 3, 200, RIG_MAX) && rig_same(b, model);
	ok = block_close(b) == 0 && ok;
	free(model);
	return ok;
}

static void test_engines(void **state)
{
	for (unsigned threads = 0; threads < 2; threads++)
		for (unsigned cache = 0; cache < 3; cache++) {
			make_file(DISK);
			assert_true(
			    random_run((struct block_config){ .path = path, .cache = cache, .threads = threads }));
		}
}

/* As in containers: the machine does not notice. */
static void test_forbidden_uring(void **state)
{
	int status;
	pid_t p;

	make_file(DISK);
	p = fork();
	if (!p) {
		scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);

		seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(io_uring_setup), 0);
		_exit(seccomp_load(f) == 0 && random_run((struct block_config){ .path = path }) ? 0 : 1);
	}
	assert_int_equal(waitpid(p, &status, 0), p);
	assert_int_equal(status, 0);
}

static void test_odd_end(void **state)
{
	struct block_config c = { .path = path };
	struct error e;
	u8 buf[1024];
	struct block *b;

	make_file(5 * 512 + 100);
	b = block_open(&c, &e);
	assert_non_null(b);
	assert_int_equal(block_size(b), 5 * 512);
	assert_int_equal(rig_io(b, BLOCK_READ, 4 * 512, 512, buf), 0);
	assert_int_equal(rig_io(b, BLOCK_READ, 4 * 512, 1024, buf), EINVAL);
	block_close(b);
}

static void test_cut_short(void **state)
{
	for (unsigned threads = 0; threads < 2; threads++) {
		struct block_config c = { .path = path, .threads = threads };
		struct error e;
		u8 buf[8192];
		struct block *b;

		make_file(DISK);
		b = block_open(&c, &e);
		assert_non_null(b);
		make_file(MiB + 4096);
		assert_int_equal(rig_io(b, BLOCK_READ, 2 * MiB, 4096, buf), EIO);
		assert_int_equal(rig_io(b, BLOCK_READ, MiB, 8192, buf), EIO); /* in the middle of it */
		assert_int_equal(rig_io(b, BLOCK_READ, MiB, 4096, buf), 0);
		block_close(b);
	}
}

static void test_wrong_requests(void **state)
{
	struct block_config c = { .path = path };
	struct error e;
	u8 buf[1024] = { 0 };
	struct block *b;
	struct op o;

	make_file(DISK);
	b = block_open(&c, &e);
	assert_non_null(b);
	op_init(&o, BLOCK_WRITE, 0, 1024, buf, false);
	o.r.length = 512; /* not what the buffers hold */
	block_submit(b, &o.r);
	assert_int_equal(o.error, EINVAL);
	assert_int_equal(rig_io(b, BLOCK_WRITE, DISK, 512, buf), EINVAL);
	assert_int_equal(rig_io(b, BLOCK_WRITE, DISK, 0, buf), 0);
	memcpy(buf, "QFI\xfb", 4);
	assert_int_equal(rig_io(b, BLOCK_WRITE, 0, 1024, buf), EPERM);
	assert_int_equal(rig_io(b, BLOCK_WRITE, 512, 512, buf), 0);
	assert_null(block_open(&c, &e)); /* locked by ourselves */
	assert_non_null(strstr(e.text, path));
	assert_int_equal(block_check_config(&c, &e), -1);
	block_close(b);
	assert_int_equal(block_check_config(&c, &e), 0);
}

struct waiter {
	struct ranges *rs;
	struct range r;
	u64 start, end;
	bool exclusive;
	_Atomic bool got;
};

static void *wait_for(void *opaque)
{
	struct waiter *w = opaque;

	range_lock(w->rs, &w->r, w->start, w->end, w->exclusive);
	w->got = true;
	return NULL;
}

static void test_ranges(void **state)
{
	struct range a, b, c;
	struct ranges rs;
	struct waiter w = { .rs = &rs, .start = 5, .end = 15, .exclusive = true };
	bool waits;
	pthread_t t;

	ranges_init(&rs);
	range_lock(&rs, &a, 0, 10, false);
	assert_true(range_trylock(&rs, &b, 5, 20, false));
	assert_false(range_trylock(&rs, &c, 9, 10, true));
	assert_true(range_trylock(&rs, &c, 20, 30, true));
	assert_false(range_trylock(&rs, &w.r, 25, 26, false));
	pthread_create(&t, NULL, wait_for, &w);
	do {
		usleep(1000);
		pthread_mutex_lock(&rs.lock);
		waits = rs.last == &w.r;
		pthread_mutex_unlock(&rs.lock);
	} while (!waits);
	usleep(10000);
	assert_false(w.got);
	assert_false(range_trylock(&rs, &(struct range){ 0 }, 12, 13, false)); /* behind who waits */
	range_unlock(&rs, &a);
	usleep(10000);
	assert_false(w.got);
	range_unlock(&rs, &b);
	pthread_join(t, NULL);
	assert_true(w.got);
	range_unlock(&rs, &w.r);
	range_unlock(&rs, &c);
	assert_null(rs.first);
	assert_null(rs.last);
	ranges_destroy(&rs);
}

static _Atomic unsigned ran;

static void count(void *opaque, void *item)
{
	usleep(100);
	ran += (uintptr_t)item;
}

static void test_pool(void **state)
{
	struct pool *p = pool_create(3, count, NULL);

	for (unsigned i = 0; i < 1000; i++)
		pool_put(p, (void *)2);
	pool_destroy(p);
	assert_int_equal(ran, 2000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_engines),	       cmocka_unit_test(test_forbidden_uring),
		cmocka_unit_test(test_odd_end),	       cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_wrong_requests), cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_pool),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
