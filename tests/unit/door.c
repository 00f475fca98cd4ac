/* The replay door and the character backends behind it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "backend/chr/chr.h"
#include "fakes.h"
#include "replay/door.h"

struct taker {
	u8 got[200000];
	size_t n, room;
	unsigned kicks;
};

static size_t take(void *opaque, const u8 *bytes, size_t n)
{
	struct taker *t = opaque;

	n = MIN(n, t->room);
	memcpy(t->got + t->n, bytes, n);
	t->n += n;
	t->room -= n;
	return n;
}

static void kicked(void *opaque)
{
	((struct taker *)opaque)->kicks++;
}

static void queues(void **state)
{
	struct taker *t = calloc(1, sizeof(*t));
	struct door *d = door_create(DOOR_VIRTUAL, 7);
	u8 *big = malloc(100000);
	int sink = door_add_sink(d, "t", take, t);

	for (unsigned i = 0; i < 100000; i++)
		big[i] = i * 7 >> 3;
	door_set_kick(d, kicked, t);
	assert_false(door_pending(d));
	assert_int_equal(door_post(d, sink, "abc", 3), 3);
	assert_true(door_pending(d));
	assert_int_equal(t->kicks, 1);
	t->room = 2;
	door_deliver(d, 10);
	assert_int_equal(t->n, 2);
	assert_false(door_pending(d)); /* refused: not offered again until it says so */
	t->room = 100;
	door_deliver(d, 11);
	assert_int_equal(t->n, 2);
	door_sink_ready(d, sink);
	assert_int_equal(t->kicks, 2);
	door_deliver(d, 12);
	assert_memory_equal(t->got, "abc", 3);
	/* bounded, and in order around the ring's end */
	t->n = 0;
	t->room = sizeof(t->got);
	assert_int_equal(door_post(d, sink, big, 100000), 65536);
	assert_int_equal(door_post(d, sink, big, 1), 0);
	door_deliver(d, 13);
	assert_int_equal(t->n, 65536);
	assert_int_equal(door_post(d, sink, big + 65536, 100000 - 65536), 100000 - 65536);
	door_deliver(d, 14);
	assert_memory_equal(t->got, big, 100000);
	assert_int_equal(door_post(d, 99, big, 1), 0);
	door_destroy(d);
	free(big);
	free(t);
}

static void reproducible(void **state)
{
	struct door *a = door_create(DOOR_VIRTUAL, 7), *b = door_create(DOOR_VIRTUAL, 7);
	struct door *c = door_create(DOOR_VIRTUAL, 8), *real = door_create(DOOR_REAL, 0);
	u8 x[33], y[33], z[33];

	door_random(a, x, sizeof(x));
	door_random(b, y, sizeof(y));
	door_random(c, z, sizeof(z));
	assert_memory_equal(x, y, sizeof(x));
	assert_memory_not_equal(x, z, sizeof(x));
	assert_int_equal(door_wall_epoch(a), 1577836800);
	door_random(real, x, sizeof(x));
	assert_memory_not_equal(x, y, sizeof(x));
	assert_true(door_monotonic_ns(real) <= door_monotonic_ns(real));
	assert_true(door_wall_epoch(real) > 1577836800);
	door_destroy(a);
	door_destroy(b);
	door_destroy(c);
	door_destroy(real);
}

static int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void unix_socket(void **state)
{
	struct taker *t = calloc(1, sizeof(*t));
	struct door *d = door_create(DOOR_VIRTUAL, 0);
	struct error e;
	char path[64], buf[16];
	struct chr *c;
	int sink = door_add_sink(d, "t", take, t), fd;

	t->room = sizeof(t->got);
	snprintf(path, sizeof(path), "/tmp/ectype-test-%d.sock", (int)getpid());
	c = chr_unix_create(path, &e);
	assert_non_null(c);
	assert_null(chr_unix_create(path, &e));	 /* in use */
	c->ops->write(c, (const u8 *)"lost", 4); /* nobody is connected */
	c->ops->start(c, d, sink);
	for (unsigned round = 0; round < 2; round++) { /* a second client after the first */
		fd = dial(path);
		assert_int_equal(write(fd, "hello", 5), 5);
		while (t->n < 5 * (round + 1)) {
			door_deliver(d, 0);
			usleep(1000);
		}
		c->ops->write(c, (const u8 *)"world", 5);
		assert_int_equal(recv(fd, buf, 5, MSG_WAITALL), 5);
		assert_memory_equal(buf, "world", 5);
		close(fd);
	}
	c->ops->stop(c);
	c->ops->destroy(c);
	assert_int_not_equal(access(path, F_OK), 0);
	door_destroy(d);
	free(t);
}

struct watcher {
	struct chr *chr;
	atomic_uint changes;
};

static void noticed(void *opaque)
{
	atomic_fetch_add(&((struct watcher *)opaque)->changes, 1);
}

static bool connected(struct chr *c)
{
	struct chr_state s;

	c->ops->state(c, &s);
	return s.connected;
}

static void await(struct chr *c, bool want)
{
	for (unsigned i = 0; i < 5000 && connected(c) != want; i++)
		usleep(1000);
	assert_int_equal(connected(c), want);
}

/* A user that paces itself: no byte is lost to a slow client, and the next one waits until the end was seen. */
static void paced(void **state)
{
	enum { TOTAL = 3 * MiB };
	struct taker *t = calloc(1, sizeof(*t));
	struct door *d = door_create(DOOR_REAL, 0);
	int sink = door_add_sink(d, "serial", take, t), fd, second;
	struct watcher w = { 0 };
	char path[64];
	struct error e;
	struct chr *c;
	u8 *all = malloc(TOTAL), *got = malloc(TOTAL);
	size_t sent = 0, read_n = 0;
	unsigned refusals = 0;

	for (unsigned i = 0; i < TOTAL; i++)
		all[i] = i * 2654435761u >> 13;
	snprintf(path, sizeof(path), "/tmp/ectype-test-%d.paced", (int)getpid());
	w.chr = c = chr_unix_create(path, &e);
	assert_non_null(c);
	c->changed = noticed;
	c->opaque = &w;
	c->ops->start(c, d, sink);
	assert_int_equal(c->ops->send(c, all, TOTAL), TOTAL); /* nobody there: for nobody */
	fd = dial(path);
	await(c, true);
	while (sent < TOTAL) {
		unsigned before = atomic_load(&w.changes);
		size_t n = c->ops->send(c, all + sent, TOTAL - sent);

		sent += n;
		if (sent == TOTAL)
			break;
		refusals++;
		/* the client reads until there is word of room */
		while (atomic_load(&w.changes) == before) {
			ssize_t r = recv(fd, got + read_n, MIN(TOTAL - read_n, 65536), MSG_DONTWAIT);

			if (r > 0)
				read_n += (size_t)r;
		}
	}
	assert_true(refusals > 0);
	while (read_n < TOTAL) {
		ssize_t r = read(fd, got + read_n, TOTAL - read_n);

		assert_true(r > 0);
		read_n += (size_t)r;
	}
	assert_memory_equal(all, got, TOTAL);
	assert_int_equal(write(fd, "bye", 3), 3);
	close(fd);
	second = dial(path);
	await(c, false);
	assert_int_equal(door_queued(d, sink), 3); /* behind its last byte */
	usleep(20000);
	assert_false(connected(c));
	c->ops->gone(c);
	await(c, true);
	close(second);
	c->ops->stop(c);
	c->ops->destroy(c);
	door_destroy(d);
	free(all);
	free(got);
	free(t);
}

static void pty(void **state)
{
	struct taker *t = calloc(1, sizeof(*t));
	struct door *d = door_create(DOOR_REAL, 0);
	int sink = door_add_sink(d, "serial", take, t), fd;
	struct error e;
	struct chr *c = chr_pty_create(&e);
	char buf[16];

	assert_non_null(c);
	t->room = sizeof(t->got);
	c->ops->start(c, d, sink);
	usleep(20000);
	assert_false(connected(c));
	for (unsigned round = 0; round < 3; round++) {
		fd = open(chr_pty_path(c), O_RDWR | O_NOCTTY);
		assert_true(fd >= 0);
		await(c, true);
		assert_int_equal(write(fd, "a\x03\n", 3), 3); /* raw: no signal, no line editing */
		while (t->n < 3 * (round + 1)) {
			door_deliver(d, 0);
			usleep(1000);
		}
		assert_memory_equal(t->got + 3 * round, "a\x03\n", 3);
		c->ops->write(c, (const u8 *)"x\ny", 3);
		for (size_t n = 0; n < 3;) {
			ssize_t r = read(fd, buf + n, 3 - n);

			assert_true(r > 0);
			n += (size_t)r;
		}
		assert_memory_equal(buf, "x\ny", 3);
		close(fd);
		await(c, false);
	}
	assert_int_equal(t->n, 9); /* no echo of what the guest wrote */
	c->ops->stop(c);
	c->ops->destroy(c);
	door_destroy(d);
	free(t);
}

static void file(void **state)
{
	char path[64], buf[16];
	struct error e;
	struct chr *c;
	FILE *f;

	assert_null(chr_file_create("/nowhere/at/all", &e));
	assert_non_null(strstr(e.text, "/nowhere/at/all"));
	snprintf(path, sizeof(path), "/tmp/ectype-test-%d.out", (int)getpid());
	c = chr_file_create(path, &e);
	assert_non_null(c);
	c->ops->write(c, (const u8 *)"line\n", 5);
	c->ops->destroy(c);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fread(buf, 1, sizeof(buf), f), 5);
	assert_memory_equal(buf, "line\n", 5);
	fclose(f);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queues), cmocka_unit_test(reproducible), cmocka_unit_test(unix_socket),
		cmocka_unit_test(paced),  cmocka_unit_test(pty),	  cmocka_unit_test(file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
