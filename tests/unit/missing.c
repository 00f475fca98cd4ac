/* RAM that comes later: who touches it waits and sees what comes, and so do system calls; nothing is brought twice. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/missing.h"
#include "state/frame_list.h"

#define RAM (16 * MiB)
#define FRAMES (RAM / PAGE_SIZE)

/* Serves as a source would, somewhat late. */
struct rig {
	struct memory *m;
	struct missing *s;
	pthread_t thread;
	atomic_bool quit;
	bool threaded;
};

static void page_of(u64 frame, u8 *page)
{
	for (unsigned i = 0; i < PAGE_SIZE; i += 8)
		*(u64 *)(void *)(page + i) = frame * 1000003 + i;
}

static bool is_page(const u8 *at, u64 frame)
{
	u8 page[PAGE_SIZE];

	page_of(frame, page);
	return !memcmp(at, page, PAGE_SIZE);
}

static void *serve(void *opaque)
{
	struct rig *r = opaque;
	u8 page[PAGE_SIZE];
	u64 frame[16];

	while (!atomic_load(&r->quit)) {
		struct pollfd p = { .fd = missing_fd(r->s), .events = POLLIN };
		unsigned n;

		if (poll(&p, 1, 5) <= 0)
			continue;
		n = missing_faults(r->s, frame, ARRAY_SIZE(frame));
		usleep(1000);
		for (unsigned i = 0; i < n; i++) {
			page_of(frame[i], page);
			assert_int_equal(missing_place(r->s, frame[i], 1, page, NULL), 0);
		}
	}
	return NULL;
}

/* Frames of `bits` are missing; NULL: all but the first 16. The others have ones all over, as the missing had. */
static bool set_up(struct rig *r, const u64 *bits, bool threaded)
{
	struct error e = { "" };
	u64 all[FRAMES / 64];
	int fd = missing_open(&e);

	*r = (struct rig){ .threaded = threaded };
	if (fd < 0) {
		print_message("no userfaultfd here: %s\n", e.text);
		return false;
	}
	r->m = memory_create(RAM, &e);
	assert_non_null(r->m);
	memory_map_ram(r->m, 0, 0, RAM, 0, "ram");
	memset(all, 255, sizeof(all));
	all[0] &= ~0xffffull;
	memset(memory_ram(r->m), 1, RAM / 2); /* the upper half was never touched */
	assert_false(memory_missing(r->m));
	r->s = missing_begin(r->m, fd, bits ? bits : all, &e);
	if (!r->s)
		fail_msg("%s", e.text);
	assert_true(memory_missing(r->m));
	if (threaded)
		assert_int_equal(pthread_create(&r->thread, NULL, serve, r), 0);
	return true;
}

/* Who waited goes on before the count says so. */
static bool comes_to(struct rig *r, u64 left)
{
	for (unsigned i = 0; i < 5000 && missing_left(r->s) != left; i++)
		usleep(1000);
	return missing_left(r->s) == left;
}

static void tear_down(struct rig *r)
{
	atomic_store(&r->quit, true);
	if (r->threaded)
		pthread_join(r->thread, NULL);
	memory_destroy(r->m);
	missing_destroy(r->s);
}

static void touched(void **state)
{
	struct rig r;
	u64 left;

	if (!set_up(&r, NULL, true))
		skip();
	assert_int_equal(memory_ram(r.m)[15 * PAGE_SIZE], 1);
	assert_int_equal(missing_left(r.s), FRAMES - 16);
	for (u64 frame = 20; frame < FRAMES; frame += 97)
		assert_true(is_page(memory_ram(r.m) + frame * PAGE_SIZE, frame));
	/* written to before it is there: the rest is what comes */
	memory_ram(r.m)[18 * PAGE_SIZE + 8] = 77;
	assert_int_equal(memory_ram(r.m)[18 * PAGE_SIZE + 8], 77);
	assert_int_equal(*(u64 *)(void *)(memory_ram(r.m) + 18 * PAGE_SIZE), 18 * 1000003);
	left = FRAMES - 16 - 1 - (FRAMES - 20 + 96) / 97;
	assert_true(comes_to(&r, left));
	tear_down(&r);
}

/* Each guest page that a system call is given comes through memory_ptr(). */
static void system_calls(void **state)
{
	struct rig r;
	u8 page[PAGE_SIZE], *at;
	int fd;

	if (!set_up(&r, NULL, true))
		skip();
	fd = memfd_create("disk", MFD_CLOEXEC);
	page_of(5, page);
	assert_int_equal(pwrite(fd, page, PAGE_SIZE, 0), PAGE_SIZE);
	/* as the host does it, and why the rule is there */
	assert_int_equal(pread(fd, memory_ram(r.m) + 100 * PAGE_SIZE, PAGE_SIZE, 0), -1);
	at = memory_ptr(r.m, 100 * PAGE_SIZE, PAGE_SIZE, true);
	assert_int_equal(pread(fd, at, PAGE_SIZE, 0), PAGE_SIZE);
	assert_true(is_page(at, 5));
	/* three pages by half: all are there */
	at = memory_ptr(r.m, 200 * PAGE_SIZE + 100, 2 * PAGE_SIZE, false);
	assert_int_equal(pwrite(fd, at, 2 * PAGE_SIZE, 0), 2 * PAGE_SIZE);
	at = memory_ptr(r.m, 300 * PAGE_SIZE - 1, 2, false);
	assert_int_equal(pwrite(fd, at, 2, 0), 2);
	/* one that is neither missing nor there is zeros, in the kernel, too */
	close(fd);
	tear_down(&r);
}

static void zeros(void **state)
{
	u64 bits[FRAMES / 64] = { 0 };
	struct rig r;
	u8 *at;
	int fd;

	frame_list_set(bits, 10, 3);
	if (!set_up(&r, bits, true))
		skip();
	fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	/* the upper half */
	assert_int_equal(memory_ram(r.m)[RAM - 1], 0);
	at = memory_ptr(r.m, RAM - 3 * PAGE_SIZE, PAGE_SIZE, false);
	assert_int_equal(write(fd, at, PAGE_SIZE), PAGE_SIZE);
	memory_ram(r.m)[RAM - 4 * PAGE_SIZE] = 3;
	assert_int_equal(memory_ram(r.m)[RAM - 4 * PAGE_SIZE], 3);
	assert_true(comes_to(&r, 3));
	/* given back: what is missing is waited for, and all are zeros for good, for the kernel as well */
	assert_int_equal(memory_discard(r.m, 8 * PAGE_SIZE, 4 * PAGE_SIZE), 0);
	assert_true(comes_to(&r, 1));
	for (u64 i = 8 * PAGE_SIZE; i < 12 * PAGE_SIZE; i++)
		assert_int_equal(memory_ram(r.m)[i], 0);
	assert_int_equal(write(fd, memory_ram(r.m) + 8 * PAGE_SIZE, 4 * PAGE_SIZE), 4 * PAGE_SIZE);
	assert_true(is_page(memory_ram(r.m) + 12 * PAGE_SIZE, 12));
	assert_true(comes_to(&r, 0));
	missing_end(r.s);
	assert_false(memory_missing(r.m));
	/* as always */
	assert_int_equal(memory_discard(r.m, 8 * PAGE_SIZE, 4 * PAGE_SIZE), 0);
	assert_int_equal(memory_ram(r.m)[8 * PAGE_SIZE], 0);
	assert_int_equal(memory_ram(r.m)[RAM - 8 * PAGE_SIZE], 0);
	close(fd);
	tear_down(&r);
}

/* What comes twice, or was never missing, changes nothing. */
static void twice(void **state)
{
	u64 bits[FRAMES / 64] = { 0 };
	u8 *data = malloc(16 * PAGE_SIZE);
	struct rig r;

	frame_list_set(bits, 100, 4);
	frame_list_set(bits, 106, 2);
	if (!set_up(&r, bits, false))
		skip();
	for (u64 i = 0; i < 16; i++)
		page_of(96 + i, data + i * PAGE_SIZE);
	assert_int_equal(missing_left(r.s), 6);
	assert_int_equal(missing_place(r.s, 102, 1, NULL, NULL), 0);
	assert_int_equal(missing_left(r.s), 5);
	assert_int_equal(missing_place(r.s, 96, 16, data, NULL), 0);
	assert_int_equal(missing_left(r.s), 0);
	for (u64 i = 96; i < 112; i++) {
		u8 *at = memory_ram(r.m) + i * PAGE_SIZE;

		if (i == 102)
			assert_int_equal(*at | at[PAGE_SIZE - 1], 0);
		else if ((i >= 100 && i < 104) || i == 106 || i == 107)
			assert_true(is_page(at, i));
		else
			assert_int_equal(*at, 1);
	}
	memory_ram(r.m)[101 * PAGE_SIZE] = 42;
	assert_int_equal(missing_place(r.s, 101, 1, data, NULL), 0);
	assert_int_equal(memory_ram(r.m)[101 * PAGE_SIZE], 42);
	free(data);
	tear_down(&r);
}

struct reader {
	struct rig *r;
	atomic_bool done;
	u8 value;
};

static void *read_one(void *opaque)
{
	struct reader *d = opaque;

	d->value = memory_ram(d->r->m)[50 * PAGE_SIZE];
	atomic_store(&d->done, true);
	return NULL;
}

/* Who waits, waits until it is there or nobody will ever run: not for a moment less. */
static void given_up(void **state)
{
	struct reader d = { .value = 9 };
	struct rig r;
	pthread_t t;

	if (!set_up(&r, NULL, false))
		skip();
	d.r = &r;
	assert_int_equal(pthread_create(&t, NULL, read_one, &d), 0);
	usleep(100000);
	assert_false(atomic_load(&d.done));
	missing_give_up(r.s);
	pthread_join(t, NULL);
	assert_int_equal(d.value, 0);
	/* it is not to be saved even so */
	assert_true(memory_missing(r.m));
	assert_int_equal(missing_place(r.s, 60, 1, memory_ram(r.m), NULL), 0);
	assert_int_equal(memory_ram(r.m)[60 * PAGE_SIZE], 0);
	tear_down(&r);
}

static void refused(void **state)
{
	u64 bits[FRAMES / 64] = { 1 };
	struct error e = { "" };
	struct memory *m = memory_create_as(RAM, MEMORY_SHARED, &e);
	int fd = missing_open(&e);

	if (fd < 0)
		skip();
	assert_non_null(m);
	memory_ram(m)[0] = 5;
	assert_null(missing_begin(m, fd, bits, &e));
	assert_non_null(strstr(e.text, "cannot come later"));
	assert_int_equal(memory_ram(m)[0], 5);
	memory_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(touched), cmocka_unit_test(system_calls), cmocka_unit_test(zeros),
		cmocka_unit_test(twice),   cmocka_unit_test(given_up),	   cmocka_unit_test(refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
