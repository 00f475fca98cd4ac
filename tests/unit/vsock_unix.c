/* The unix sockets behind a vsock device: greetings, dials, both directions, ends, limits, start and stop. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/vsock/vsock.h"

#define LIMIT_MS 10000

static char folder[] = "/tmp/ectype-vsock-XXXXXX", path[64];
static struct vsock *v;
static int woken[2]; /* a byte for each wake */

static void on_wake(void *opaque)
{
	ssize_t r = write(woken[1], "", 1);

	(void)r;
}

static bool next(struct vsock_event *ev)
{
	char c[256];
	struct pollfd p = { .fd = woken[0], .events = POLLIN };

	while (!v->ops->next(v, ev)) {
		if (poll(&p, 1, LIMIT_MS) <= 0 || read(woken[0], c, sizeof(c)) <= 0)
			return false;
	}
	return true;
}

/* The next event of this kind; others are passed over. */
static struct vsock_event expect(enum vsock_event_kind kind)
{
	struct vsock_event ev;

	do
		assert_true(next(&ev));
	while (ev.kind != kind);
	return ev;
}

static int client(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval limit = { LIMIT_MS / 1000, 0 };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(a.sun_path, path);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
	return s;
}

static void say(int s, const char *text)
{
	assert_int_equal(send(s, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* The other end has closed it. */
static bool closed(int s)
{
	char c;
	ssize_t n = recv(s, &c, 1, 0);

	close(s);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static int listener(u32 port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", path, port);
	unlink(a.sun_path);
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s, 4), 0);
	return s;
}

static ssize_t get(struct vsock_stream *s, void *p, size_t n)
{
	return v->ops->recv(s, &(struct iovec){ p, n }, 1);
}

static ssize_t put(struct vsock_stream *s, const void *p, size_t n)
{
	return v->ops->send(s, &(struct iovec){ (void *)(uintptr_t)p, n }, 1);
}

static int setup(void **state)
{
	struct error e;

	strcpy(folder, "/tmp/ectype-vsock-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/s", folder);
	assert_int_equal(pipe2(woken, O_NONBLOCK), 0);
	v = vsock_unix_create(path, &e);
	assert_non_null(v);
	assert_int_equal(v->ops->start(v, on_wake, NULL, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	v->ops->destroy(v);
	assert_int_equal(access(path, F_OK), -1);
	close(woken[0]);
	close(woken[1]);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

static void greeting(void **state)
{
	static const char *const bad[] = { "HELLO 1\n",	   "CONNECT \n",    "CONNECT 4294967296\n",
					   "CONNECT 1 \n", "CONNECT -1\n",  "connect 1\n",
					   "\n",	   "CONNECT 1\r\n", "CONNECT 000000000000000001" };
	struct vsock_event ev;
	char text[64];
	int s;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		s = client();
		say(s, bad[i]);
		assert_true(closed(s));
	}
	/* in pieces, and with what follows */
	s = client();
	say(s, "CON");
	usleep(20000);
	say(s, "NECT 42949");
	usleep(20000);
	say(s, "67295\nfirst words");
	ev = expect(VSOCK_INCOMING);
	assert_int_equal(ev.port, 4294967295u);
	assert_int_equal(get(ev.stream, text, sizeof(text)), 11);
	assert_memory_equal(text, "first words", 11);
	assert_int_equal(get(ev.stream, text, sizeof(text)), -EAGAIN);
	assert_int_equal(put(ev.stream, "OK 1\n", 5), 5);
	assert_int_equal(recv(s, text, sizeof(text), 0), 5);
	v->ops->close(v, ev.stream);
	assert_true(closed(s));
	/* half a greeting, then gone */
	s = client();
	say(s, "CONNECT 1");
	close(s);
	s = client();
	say(s, "CONNECT 0\n");
	assert_int_equal(expect(VSOCK_INCOMING).port, 0);
	close(s);
}

/* Clients that say nothing do not keep others out. */
static void many_silent(void **state)
{
	int s[100], last;

	for (unsigned i = 0; i < 100; i++)
		s[i] = client();
	last = client();
	say(last, "CONNECT 9\n");
	assert_int_equal(expect(VSOCK_INCOMING).port, 9);
	/* the first had to go */
	assert_true(closed(s[0]));
	for (unsigned i = 1; i < 100; i++)
		close(s[i]);
	close(last);
}

static void dials(void **state)
{
	int l = listener(1234), peer;
	struct vsock_event ev;
	char text[16];

	assert_true(v->ops->dial(v, 1234, 1));
	ev = expect(VSOCK_DIALLED);
	assert_int_equal(ev.id, 1);
	assert_non_null(ev.stream);
	peer = accept(l, NULL, NULL);
	assert_int_equal(put(ev.stream, "hi", 2), 2);
	assert_int_equal(recv(peer, text, 16, 0), 2);
	close(peer);
	close(l);
	/* nobody listens any more; nobody ever did */
	for (u32 id = 2; id < 4; id++) {
		assert_true(v->ops->dial(v, id == 2 ? 1234 : 4321, id));
		ev = expect(VSOCK_DIALLED);
		assert_int_equal(ev.id, id);
		assert_null(ev.stream);
	}
	/* a limit to those without an answer that was fetched */
	unsigned asked = 0, answers = 0;

	while (asked < 200 && v->ops->dial(v, 1, 100 + asked))
		asked++;
	assert_int_equal(asked, VSOCK_DIALS_MAX);
	for (; answers < asked; answers++)
		assert_null(expect(VSOCK_DIALLED).stream);
}

static void ends(void **state)
{
	int s = client();
	struct vsock_event ev;
	struct vsock_stream *stream;
	static char big[1 << 20];
	char text[16];
	size_t sent = 0;
	ssize_t n;

	say(s, "CONNECT 5\n");
	stream = expect(VSOCK_INCOMING).stream;
	assert_int_equal(get(stream, text, 16), -EAGAIN);
	/* full, then room */
	while ((n = put(stream, big, sizeof(big))) > 0)
		sent += (size_t)n;
	assert_int_equal(n, -EAGAIN);
	while (sent && (n = recv(s, big, sizeof(big), 0)) > 0)
		sent -= (size_t)n;
	do
		ev = expect(VSOCK_READY);
	while (!ev.writable);
	assert_ptr_equal(ev.stream, stream);
	assert_int_equal(put(stream, big, 10), 10);
	recv(s, big, 10, MSG_WAITALL);
	/* half close each way */
	shutdown(s, SHUT_WR);
	do
		ev = expect(VSOCK_READY);
	while (!ev.readable);
	assert_false(ev.gone);
	assert_int_equal(get(stream, text, 16), 0);
	assert_int_equal(put(stream, "x", 1), 1);
	v->ops->shutdown(stream, true, false);
	assert_int_equal(recv(s, text, 16, 0), 1);
	assert_int_equal(recv(s, text, 16, 0), 0);
	close(s);
	do
		ev = expect(VSOCK_READY);
	while (!ev.gone);
	assert_int_equal(put(stream, "x", 1), -EPIPE);
	v->ops->close(v, stream);
}

/* A client that has gone before it was looked at is reported as that. */
static void gone_early(void **state)
{
	int s = client();
	struct vsock_event ev;
	char text[16];

	say(s, "CONNECT 6\nbye");
	close(s);
	usleep(50000);
	ev = expect(VSOCK_INCOMING);
	do
		ev = expect(VSOCK_READY);
	while (!ev.gone);
	assert_int_equal(get(ev.stream, text, 16), 3);
	assert_int_equal(get(ev.stream, text, 16), 0);
	v->ops->close(v, ev.stream);
}

static void restart(void **state)
{
	struct vsock_event ev;
	struct error e;
	int s = client(), l = listener(77), later;

	say(s, "CONNECT 5\n");
	expect(VSOCK_INCOMING);
	assert_true(v->ops->dial(v, 77, 1)); /* its answer comes too late */
	v->ops->stop(v);
	assert_true(closed(s));
	assert_false(v->ops->next(v, &ev));
	/* who comes meanwhile waits */
	later = client();
	say(later, "CONNECT 8\n");
	assert_int_equal(v->ops->start(v, on_wake, NULL, &e), 0);
	assert_int_equal(expect(VSOCK_INCOMING).port, 8);
	assert_true(v->ops->dial(v, 77, 2));
	ev = expect(VSOCK_DIALLED);
	assert_int_equal(ev.id, 2);
	assert_non_null(ev.stream);
	close(later);
	close(l);
}

/* All places taken: the next client is turned away, and one place is enough for the one after. */
static void full(void **state)
{
	static struct vsock_stream *streams[VSOCK_STREAMS_MAX];
	static int s[VSOCK_STREAMS_MAX];
	int more;

	for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++) {
		s[i] = client();
		say(s[i], "CONNECT 1\n");
		streams[i] = expect(VSOCK_INCOMING).stream;
	}
	more = client();
	assert_true(closed(more));
	v->ops->close(v, streams[500]);
	assert_true(closed(s[500]));
	more = client();
	say(more, "CONNECT 2\n");
	assert_int_equal(expect(VSOCK_INCOMING).port, 2);
	close(more);
	for (unsigned i = 0; i < VSOCK_STREAMS_MAX; i++)
		if (i != 500)
			close(s[i]);
}

/* Without descriptors clients wait, until a stream is closed. */
static void no_descriptors(void **state)
{
	struct rlimit old, low;
	struct vsock_stream *stream;
	struct vsock_event ev;
	struct error e;
	int s[5], probe;

	v->ops->stop(v);
	for (unsigned i = 0; i < 5; i++) {
		s[i] = client();
		say(s[i], "CONNECT 3\n");
	}
	probe = dup(0);
	close(probe);
	getrlimit(RLIMIT_NOFILE, &old);
	low = (struct rlimit){ (rlim_t)probe + 2, old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &low);
	assert_int_equal(v->ops->start(v, on_wake, NULL, &e), 0);
	stream = expect(VSOCK_INCOMING).stream;
	expect(VSOCK_INCOMING);
	usleep(50000);
	while (v->ops->next(v, &ev))
		assert_int_not_equal(ev.kind, VSOCK_INCOMING);
	v->ops->close(v, stream);
	expect(VSOCK_INCOMING);
	setrlimit(RLIMIT_NOFILE, &old);
	for (unsigned i = 0; i < 5; i++)
		close(s[i]);
}

static void refusals(void **state)
{
	char name[128];
	struct error e;

	memset(name, 'x', sizeof(name));
	name[97] = 0;
	assert_null(vsock_unix_create(name, &e));
	assert_non_null(strstr(e.text, "too long"));
	assert_null(vsock_unix_create("/nowhere/at/all", &e));
	assert_non_null(strstr(e.text, "/nowhere/at/all"));
	/* somebody listens there already */
	assert_null(vsock_unix_create(path, &e));
	assert_int_equal(access(path, F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(greeting, setup, teardown),
		cmocka_unit_test_setup_teardown(many_silent, setup, teardown),
		cmocka_unit_test_setup_teardown(dials, setup, teardown),
		cmocka_unit_test_setup_teardown(ends, setup, teardown),
		cmocka_unit_test_setup_teardown(gone_early, setup, teardown),
		cmocka_unit_test_setup_teardown(restart, setup, teardown),
		cmocka_unit_test_setup_teardown(full, setup, teardown),
		cmocka_unit_test_setup_teardown(no_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(refusals, setup, teardown),
	};
	struct rlimit files;

	/* `full` has both ends of all streams */
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
