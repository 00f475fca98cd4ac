/* The ring behind disk images: who reaps, what is held back, what the kernel refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <seccomp.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../block/rig.h"
#include "backend/block/uring.h"

#define BYTES 4096u
#define ITEMS 64
#define LIMIT_S 20 /* for what takes a millisecond */

static char path[] = "/var/tmp/ectype-test-uring-XXXXXX";

struct item {
	u8 buf[BYTES];
	struct iovec iov;
	atomic_int result; /* 1: none yet */
	pthread_t by;
};

struct rig {
	int fd;
	struct uring *u;
	struct item item[ITEMS];
};

static void on_done(void *opaque, void *item, int result)
{
	struct item *i = item;

	i->by = pthread_self();
	/* not an assertion of cmocka, whose way out is a jump on the main thread */
	if (atomic_exchange(&i->result, result) != 1)
		abort();
}

static bool start(struct rig *g, unsigned n, bool write)
{
	struct item *i = &g->item[n];

	i->iov = (struct iovec){ i->buf, BYTES };
	atomic_store(&i->result, 1);
	return uring_submit(g->u, g->fd, write, (u64)n * BYTES, &i->iov, 1, i);
}

static bool expired(time_t from)
{
	return time(NULL) > from + LIMIT_S;
}

static int wait_for(struct rig *g, unsigned n, bool poll)
{
	time_t from = time(NULL);

	while (atomic_load(&g->item[n].result) == 1 && !expired(from))
		if (poll)
			uring_poll(g->u);
		else
			usleep(100);
	return atomic_load(&g->item[n].result);
}

/* Polls until the ring's thread leaves it to this one, which shows by how often it is the one that reaps. */
static bool take_over(struct rig *g)
{
	time_t from = time(NULL);
	unsigned row = 0;

	while (row < 100 && !expired(from)) {
		if (!start(g, 0, false) || (uring_kick(g->u), wait_for(g, 0, true)) != BYTES)
			return false;
		row = pthread_equal(g->item[0].by, pthread_self()) ? row + 1 : 0;
	}
	return row == 100;
}

static int setup(void **state)
{
	struct rig *g = calloc(1, sizeof(*g));
	u8 page[BYTES];

	strcpy(path + strlen(path) - 6, "XXXXXX");
	g->fd = mkstemp(path);
	for (unsigned i = 0; i < ITEMS; i++) {
		memset(page, (int)i, sizeof(page));
		if (write(g->fd, page, sizeof(page)) != sizeof(page))
			return -1;
	}
	g->u = uring_create(on_done, g);
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	uring_destroy(g->u);
	close(g->fd);
	free(g);
	return unlink(path);
}

/* Containers and old kernels have no io_uring. */
static struct rig *rig_of(void **state)
{
	struct rig *g = *state;

	if (!g->u)
		skip();
	return g;
}

static void test_thread_reaps(void **state)
{
	struct rig *g = rig_of(state);

	for (unsigned i = 0; i < ITEMS; i++)
		assert_true(start(g, i, false));
	for (unsigned i = 0; i < ITEMS; i++) {
		assert_int_equal(wait_for(g, i, false), BYTES);
		assert_false(pthread_equal(g->item[i].by, pthread_self()));
		assert_int_equal(g->item[i].buf[i], i);
	}
	assert_int_equal(uring_inflight(g->u), 0);
	assert_false(uring_poll(g->u));
}

static void test_poller_reaps(void **state)
{
	struct rig *g = rig_of(state);

	assert_true(take_over(g));
	for (unsigned i = 1; i < ITEMS; i++) {
		assert_true(start(g, i, false));
		uring_kick(g->u);
		assert_int_equal(wait_for(g, i, true), BYTES);
		assert_int_equal(g->item[i].buf[i], i);
	}
}

/* Who polled and does so no more: the thread must find out by itself. */
static void test_poller_gone(void **state)
{
	struct rig *g = rig_of(state);

	for (unsigned round = 0; round < 20; round++) {
		unsigned n = 1 + round % 12;

		assert_true(take_over(g));
		for (unsigned i = 1; i <= n; i++)
			assert_true(start(g, i, false));
		if (round & 1)
			uring_kick(g->u);
		if (round & 2)
			uring_unpark(g->u);
		for (unsigned i = 1; i <= n; i++)
			assert_int_equal(wait_for(g, i, false), BYTES);
	}
}

static void test_held_back(void **state)
{
	struct rig *g = rig_of(state);
	bool held = false;

	for (unsigned round = 0; round < 100; round++) {
		assert_true(take_over(g));
		for (unsigned i = 1; i < 4; i++)
			assert_true(start(g, i, false));
		/* a read of the page cache is done when it is submitted: these were not */
		held |= !uring_poll(g->u) && uring_inflight(g->u) == 3;
		uring_kick(g->u);
		for (unsigned i = 1; i < 4; i++)
			assert_int_equal(wait_for(g, i, true), BYTES);
	}
	assert_true(held);
}

/* Many threads submit, two poll, one kicks. */
struct crowd {
	struct rig *g;
	unsigned first;
	atomic_uint *running;
	bool ok;
};

static void *submitter(void *opaque)
{
	struct crowd *c = opaque;

	c->ok = true;
	for (unsigned round = 0; c->ok && round < 2000; round++) {
		for (unsigned i = c->first; i < c->first + 8; i++)
			c->ok &= start(c->g, i, round & 1);
		if (round & 4)
			uring_kick(c->g->u);
		for (unsigned i = c->first; i < c->first + 8; i++)
			c->ok &= wait_for(c->g, i, round & 2) == BYTES;
	}
	atomic_fetch_sub(c->running, 1);
	return NULL;
}

static void test_crowd(void **state)
{
	struct rig *g = rig_of(state);
	struct crowd c[3];
	pthread_t thread[3];
	atomic_uint running = 3;

	for (unsigned i = 0; i < 3; i++) {
		c[i] = (struct crowd){ .g = g, .first = i * 8, .running = &running };
		pthread_create(&thread[i], NULL, submitter, &c[i]);
	}
	for (unsigned i = 0; atomic_load(&running); i++) {
		uring_poll(g->u);
		if (!(i % 100))
			uring_unpark(g->u);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(thread[i], NULL);
		assert_true(c[i].ok);
	}
	assert_false(uring_is_submitter(g->u));
	assert_true(start(g, 0, false));
	assert_true(uring_is_submitter(g->u));
	assert_int_equal(wait_for(g, 0, true), BYTES);
	assert_int_equal(uring_inflight(g->u), 0);
}

/* A kernel that takes nothing more from this thread. */
static bool refuse(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);

	return seccomp_rule_add(f, SCMP_ACT_ERRNO(EAGAIN), SCMP_SYS(io_uring_enter), 0) == 0 && seccomp_load(f) == 0;
}

static int refused(void)
{
	struct rig *g = NULL;
	unsigned given = 0;

	if (setup((void **)&g))
		return 1;
	unlink(path);
	if (!g->u)
		return 77;
	if (!take_over(g))
		return 2;
	/* held ones are in the kernel's queue, which refuses them later; the parked thread may be faster */
	for (unsigned i = 1; i < 4; i++)
		if (!start(g, i, false))
			return 3;
	if (!refuse())
		return 4;
	uring_kick(g->u);
	for (unsigned i = 1; i < 4; i++) {
		int result = wait_for(g, i, true);

		if (result != -EAGAIN && result != BYTES)
			return 5;
	}
	/* those that are not held are refused at once; no slot is lost for good */
	for (unsigned i = 0; i < 3000; i++) {
		bool taken = start(g, 5, false);

		given += taken;
		uring_kick(g->u);
		if (taken && wait_for(g, 5, true) == 1)
			return 6;
	}
	return uring_inflight(g->u) ? 7 : 0;
}

static void test_refused(void **state)
{
	int status;
	pid_t p = fork();

	if (!p)
		_exit(refused());
	assert_int_equal(waitpid(p, &status, 0), p);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_thread_reaps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_poller_reaps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_poller_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_held_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_crowd, setup, teardown),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
