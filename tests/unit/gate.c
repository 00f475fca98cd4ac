/* The output gate before backends in memory: nothing leaves too early, all leaves in order, nothing is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/chr/chr.h"
#include "backend/gate/gate.h"
#include "backend/net/net.h"
#include "backend/vsock/vsock.h"

#include <errno.h>

static unsigned wakes, fulls;

static void on_wake(void *opaque)
{
	wakes++;
}
static void on_full(void *opaque)
{
	fulls++;
}

static struct gate *make_gate(void)
{
	const struct gate_config cfg = { .wake = on_wake, .full = on_full };
	struct gate *g = gate_create();

	assert_non_null(g);
	gate_connect(g, &cfg);
	wakes = fulls = 0;
	return g;
}

/* ---- a network ---- */

struct lan {
	struct net net;
	unsigned room;	   /* packets it takes */
	u32 packet[65536]; /* the first 4 bytes of each */
	unsigned count;
	void (*writable)(void *, unsigned);
	void *opaque;
};

static int lan_start(struct net *n, void (*readable)(void *, unsigned), void (*writable)(void *, unsigned),
		     void *opaque, struct error *e)
{
	struct lan *l = container_of(n, struct lan, net);

	l->writable = writable;
	l->opaque = opaque;
	return 0;
}
static void lan_stop(struct net *n) {}
static bool lan_send(struct net *n, unsigned queue, const struct iovec *iov, unsigned iov_n)
{
	struct lan *l = container_of(n, struct lan, net);

	if (!l->room)
		return false;
	l->room--;
	memcpy(&l->packet[l->count++], iov[0].iov_base, 4);
	return true;
}

static const struct net_ops lan_ops = { .name = "lan", .start = lan_start, .stop = lan_stop, .send = lan_send };

static unsigned device_writable;

static void net_writable(void *opaque, unsigned queue)
{
	device_writable++;
}
static void net_readable(void *opaque, unsigned queue) {}

static bool send_number(struct net *n, u32 number, size_t len)
{
	u8 *p = calloc(1, len);
	struct iovec v[2] = { { p, 100 }, { p + 100, len - 100 } };
	bool sent;

	memcpy(p, &number, sizeof(number));
	sent = n->ops->send(n, 0, v, 2);
	free(p);
	return sent;
}

static struct lan *make_lan(struct gate *g)
{
	struct lan *l = calloc(1, sizeof(*l));
	struct error e;

	l->net = (struct net){ .ops = &lan_ops, .queues = 1 };
	l->room = UINT32_MAX;
	assert_int_equal(gate_net(g, &l->net), 0);
	assert_int_equal(l->net.ops->start(&l->net, net_readable, net_writable, NULL, &e), 0);
	device_writable = 0;
	return l;
}

static void test_net_epochs(void **state)
{
	struct gate *g = make_gate();
	struct lan *l = make_lan(g);
	u64 first, second;

	assert_true(send_number(&l->net, 0, 1000));
	assert_int_equal(l->count, 1); /* not armed */
	first = gate_arm(g);
	assert_true(send_number(&l->net, 1, 1000));
	assert_true(send_number(&l->net, 2, 1000));
	assert_int_equal(gate_mark(g), first);
	assert_true(send_number(&l->net, 3, 1000));
	second = gate_mark(g);
	assert_true(send_number(&l->net, 4, 1000));
	gate_serve(g);
	assert_int_equal(l->count, 1);
	assert_false(gate_pending(g));
	gate_release(g, first);
	assert_true(gate_pending(g));
	assert_int_equal(wakes, 1);
	gate_serve(g);
	assert_int_equal(l->count, 3);
	gate_release(g, second);
	gate_release(g, first); /* late, and of no effect */
	gate_serve(g);
	assert_int_equal(l->count, 4);
	gate_disarm(g);
	assert_true(send_number(&l->net, 5, 1000)); /* behind the one that still waits */
	assert_int_equal(l->count, 4);
	gate_serve(g);
	assert_int_equal(l->count, 6);
	assert_true(send_number(&l->net, 6, 1000));
	assert_int_equal(l->count, 7);
	for (u32 i = 0; i < 7; i++)
		assert_int_equal(l->packet[i], i);
	assert_int_equal(gate_stats(g).waiting, 0);
	gate_destroy(g);
	assert_ptr_equal(l->net.ops, &lan_ops);
	free(l);
}

/* A backend that is slow at the release, and a queue that is full before it. */
static void test_net_back_pressure(void **state)
{
	struct gate *g = make_gate();
	struct lan *l = make_lan(g);
	u32 n = 0;
	u64 epoch;

	gate_arm(g);
	while (send_number(&l->net, n, 60000))
		n++;
	assert_true(n > 10 && n * 60000 <= GATE_NET_MAX);
	assert_true(gate_stats(g).waiting <= GATE_NET_MAX);
	assert_int_equal(fulls, 1); /* told at a quarter, and not again */
	assert_int_equal(gate_stats(g).refused, 1);
	l->room = 5;
	epoch = gate_mark(g);
	gate_release(g, epoch);
	gate_serve(g);
	assert_int_equal(l->count, 5);
	assert_int_equal(device_writable, 0); /* still more than half full */
	l->room = UINT32_MAX;
	l->writable(l->opaque, 0); /* the backend has room again */
	assert_true(gate_pending(g));
	assert_int_equal(device_writable, 1);
	gate_serve(g);
	assert_int_equal(l->count, n);
	assert_int_equal(device_writable, 2);
	for (u32 i = 0; i < n; i++)
		assert_int_equal(l->packet[i], i);
	/* a stop drops what is on its way */
	assert_true(send_number(&l->net, n, 60000));
	l->net.ops->stop(&l->net);
	gate_disarm(g);
	gate_serve(g);
	assert_int_equal(l->count, n);
	gate_destroy(g);
	free(l);
}

/* Random sends, marks, releases, rooms and disarms: the same packets in the same order, never one too early. */
static void test_net_random(void **state)
{
	struct gate *g = make_gate();
	struct lan *l = make_lan(g);
	u64 epoch = 0, allowed = 0;
	u32 sent = 0, may[64] = { 0 }; /* how many had been sent at the end of epoch n % 64 */
	unsigned seed = 1;
	bool armed = false;

	while (sent < 50000) {
		switch (rand_r(&seed) % 16) {
		case 0:
			if (!armed) {
				epoch = gate_arm(g);
				allowed = epoch - 1;
				may[allowed % 64] = sent;
				armed = true;
			}
			break;
		case 1:
			if (armed && rand_r(&seed) % 16 == 0) {
				gate_disarm(g);
				armed = false;
			}
			break;
		case 2:
			if (armed && epoch - allowed < 30) {
				may[epoch % 64] = sent;
				assert_int_equal(gate_mark(g), epoch++);
			}
			break;
		case 3:
			if (armed && allowed + 1 < epoch)
				gate_release(g, ++allowed);
			break;
		case 4:
			l->room = (unsigned)rand_r(&seed) % 100;
			if (l->room)
				l->writable(l->opaque, 0);
			break;
		case 5:
			gate_serve(g);
			break;
		default:
			sent += send_number(&l->net, sent, 200 + (size_t)rand_r(&seed) % 3000);
		}
		assert_true(l->count <= (armed ? may[allowed % 64] : sent));
	}
	gate_disarm(g);
	for (l->room = UINT32_MAX; gate_stats(g).waiting;) {
		l->writable(l->opaque, 0);
		gate_serve(g);
	}
	assert_int_equal(l->count, sent);
	for (u32 i = 0; i < sent; i++)
		assert_int_equal(l->packet[i], i);
	gate_destroy(g);
	free(l);
}

/* ---- a character stream ---- */

struct line {
	struct chr chr;
	char text[65536];
	size_t len, room;
};

static void line_put(struct line *l, const char *what, size_t n)
{
	assert_true(l->len + n < sizeof(l->text));
	memcpy(l->text + l->len, what, n);
	l->len += n;
}
static void line_write(struct chr *c, const u8 *bytes, size_t n)
{
	line_put(container_of(c, struct line, chr), (const char *)bytes, n);
}
static size_t line_send(struct chr *c, const u8 *bytes, size_t n)
{
	struct line *l = container_of(c, struct line, chr);

	n = MIN(n, l->room);
	l->room -= n;
	line_put(l, (const char *)bytes, n);
	return n;
}
static void line_gone(struct chr *c)
{
	line_put(container_of(c, struct line, chr), "G", 1);
}
static void line_open(struct chr *c, bool open)
{
	line_put(container_of(c, struct line, chr), open ? "(" : ")", 1);
}
static void line_start(struct chr *c, struct door *door, int sink) {}
static void line_stop(struct chr *c) {}

static const struct chr_ops line_ops = {
	.name = "line",
	.write = line_write,
	.send = line_send,
	.gone = line_gone,
	.guest_open = line_open,
	.start = line_start,
	.stop = line_stop,
};

static unsigned user_changed;

static void chr_changed(void *opaque)
{
	assert_ptr_equal(opaque, &user_changed);
	user_changed++;
}

static struct line *make_line(struct gate *g)
{
	struct line *l = calloc(1, sizeof(*l));

	l->chr.ops = &line_ops;
	l->room = SIZE_MAX;
	assert_int_equal(gate_chr(g, &l->chr), 0);
	l->chr.changed = chr_changed;
	l->chr.opaque = &user_changed;
	l->chr.ops->start(&l->chr, NULL, 0);
	user_changed = 0;
	return l;
}

static void say(struct line *l, const char *text)
{
	l->chr.ops->write(&l->chr, (const u8 *)text, strlen(text));
}

static void test_chr_order(void **state)
{
	struct gate *g = make_gate();
	struct line *l = make_line(g);
	u64 epoch;

	say(l, "a");
	gate_arm(g);
	l->chr.ops->guest_open(&l->chr, true);
	say(l, "bc");
	assert_int_equal(l->chr.ops->send(&l->chr, (const u8 *)"de", 2), 2);
	l->chr.ops->guest_open(&l->chr, false);
	l->chr.ops->gone(&l->chr);
	epoch = gate_mark(g);
	say(l, "f");
	gate_serve(g);
	assert_string_equal(l->text, "a");
	gate_release(g, epoch);
	l->room = 1; /* stops between d and e */
	gate_serve(g);
	assert_string_equal(l->text, "a(bcd");
	l->room = SIZE_MAX;
	l->chr.changed(l->chr.opaque);
	assert_int_equal(user_changed, 1);
	gate_serve(g);
	assert_string_equal(l->text, "a(bcde)G");
	say(l, "g");
	gate_disarm(g);
	say(l, "h");
	gate_serve(g);
	say(l, "i");
	assert_string_equal(l->text, "a(bcde)Gfghi");
	/* the end of the machine: what may leave does, what may not does not */
	gate_arm(g);
	say(l, "j");
	epoch = gate_mark(g);
	say(l, "k");
	gate_release(g, epoch);
	l->chr.ops->stop(&l->chr);
	assert_string_equal(l->text, "a(bcde)Gfghij");
	assert_ptr_equal(l->chr.changed, chr_changed);
	assert_ptr_equal(l->chr.opaque, &user_changed);
	gate_destroy(g);
	assert_ptr_equal(l->chr.ops, &line_ops);
	free(l);
}

static void test_chr_bounds(void **state)
{
	struct gate *g = make_gate();
	struct line *l = make_line(g);
	static u8 block[5000];
	size_t n, all = 0;

	gate_arm(g);
	while ((n = l->chr.ops->send(&l->chr, block, sizeof(block))) == sizeof(block))
		all += n;
	assert_true(all + n >= GATE_CHR_MAX * 9 / 10);
	assert_true(gate_stats(g).waiting <= GATE_CHR_MAX + 8192);
	assert_int_equal(fulls, 1);
	/* a stream that cannot wait loses what is beyond its bound, and that is counted */
	assert_int_equal(gate_stats(g).dropped, 0);
	l->chr.ops->write(&l->chr, block, sizeof(block));
	assert_int_equal(gate_stats(g).dropped, sizeof(block));
	assert_int_equal(user_changed, 0);
	l->chr.ops->stop(&l->chr);
	gate_destroy(g);
	free(l);
}

/* One byte at a time takes no more memory than many at once. */
static void test_chr_small_writes(void **state)
{
	struct gate *g = make_gate();
	struct line *l = make_line(g);

	gate_arm(g);
	for (unsigned i = 0; i < 50000; i++)
		say(l, i % 2 ? "x" : "y");
	assert_true(gate_stats(g).waiting < 60000);
	gate_disarm(g);
	gate_serve(g);
	assert_int_equal(l->len, 50000);
	for (unsigned i = 0; i < 50000; i++)
		assert_int_equal(l->text[i], i % 2 ? 'x' : 'y');
	gate_destroy(g);
	free(l);
}

/* ---- vsock ---- */

struct peer {
	struct vsock_stream base;
	char text[256];
	size_t len, room;
	bool closed;
};

struct host {
	struct vsock vsock;
	struct peer peer[3];
	struct vsock_event event[16];
	unsigned events, dials;
	bool refuse;
};

static int host_start(struct vsock *v, void (*wake)(void *), void *opaque, struct error *e)
{
	return 0;
}
static void host_stop(struct vsock *v) {}
static bool host_next(struct vsock *v, struct vsock_event *ev)
{
	struct host *h = container_of(v, struct host, vsock);

	if (!h->events)
		return false;
	*ev = h->event[0];
	memmove(h->event, h->event + 1, --h->events * sizeof(h->event[0]));
	return true;
}
static bool host_dial(struct vsock *v, u32 port, u32 id)
{
	struct host *h = container_of(v, struct host, vsock);

	h->dials++;
	return !h->refuse;
}
static ssize_t host_send(struct vsock_stream *s, const struct iovec *iov, unsigned iov_n)
{
	struct peer *p = container_of(s, struct peer, base);
	size_t n = MIN(iov[0].iov_len, p->room);

	assert_false(p->closed);
	if (!n)
		return -EAGAIN;
	memcpy(p->text + p->len, iov[0].iov_base, n);
	p->len += n;
	p->room -= n;
	return (ssize_t)n;
}
static void host_shutdown(struct vsock_stream *s, bool sends, bool receives)
{
	struct peer *p = container_of(s, struct peer, base);

	p->text[p->len++] = sends ? 'S' : 'R';
}
static void host_close(struct vsock *v, struct vsock_stream *s)
{
	struct peer *p = container_of(s, struct peer, base);

	assert_false(p->closed);
	p->closed = true;
}

static const struct vsock_ops host_ops = {
	.name = "host",
	.start = host_start,
	.stop = host_stop,
	.next = host_next,
	.dial = host_dial,
	.send = host_send,
	.shutdown = host_shutdown,
	.close = host_close,
};

static void happens(struct host *h, enum vsock_event_kind kind, unsigned peer, bool gone)
{
	h->event[h->events++] = (struct vsock_event){
		.kind = kind, .stream = &h->peer[peer].base, .readable = gone, .writable = true, .gone = gone
	};
}

static struct host *make_host(struct gate *g)
{
	struct host *h = calloc(1, sizeof(*h));
	struct vsock_event ev;
	struct error e;

	h->vsock.ops = &host_ops;
	assert_int_equal(gate_vsock(g, &h->vsock), 0);
	assert_int_equal(h->vsock.ops->start(&h->vsock, on_wake, NULL, &e), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(h->peer); i++) {
		h->peer[i].room = sizeof(h->peer[i].text);
		happens(h, VSOCK_INCOMING, i, false);
		assert_true(h->vsock.ops->next(&h->vsock, &ev));
		assert_ptr_equal(ev.stream, &h->peer[i].base);
	}
	return h;
}

static ssize_t tell(struct host *h, unsigned peer, const char *text)
{
	struct iovec v = { (void *)(uintptr_t)text, strlen(text) };

	return h->vsock.ops->send(&h->peer[peer].base, &v, 1);
}

static void test_vsock_streams(void **state)
{
	struct gate *g = make_gate();
	struct host *h = make_host(g);
	const struct vsock_ops *ops = h->vsock.ops;
	struct vsock_event ev;
	u64 epoch;

	assert_int_equal(tell(h, 0, "a"), 1);
	assert_string_equal(h->peer[0].text, "a");
	gate_arm(g);
	assert_int_equal(tell(h, 0, "bcd"), 3);
	assert_int_equal(tell(h, 1, "x"), 1);
	ops->shutdown(&h->peer[0].base, true, false);
	ops->close(&h->vsock, &h->peer[0].base);
	epoch = gate_mark(g);
	assert_int_equal(tell(h, 1, "y"), 1);
	/* what happens to a stream that is closed is not the device's affair */
	happens(h, VSOCK_READY, 0, false);
	assert_false(ops->next(&h->vsock, &ev));
	h->peer[0].room = 1;
	gate_release(g, epoch);
	gate_serve(g);
	assert_string_equal(h->peer[0].text, "ab"); /* waits for its client, the others do not */
	assert_string_equal(h->peer[1].text, "x");
	assert_false(h->peer[0].closed);
	h->peer[0].room = 100;
	happens(h, VSOCK_READY, 0, false);
	assert_false(ops->next(&h->vsock, &ev));
	assert_string_equal(h->peer[0].text, "abcdS");
	assert_true(h->peer[0].closed);
	/* a client that goes takes along what waited for it */
	ops->close(&h->vsock, &h->peer[1].base);
	happens(h, VSOCK_READY, 1, true);
	assert_false(ops->next(&h->vsock, &ev));
	assert_true(h->peer[1].closed);
	/* the place of a stream that was closed is another's later */
	h->peer[0] = (struct peer){ .room = 100 };
	happens(h, VSOCK_INCOMING, 0, false);
	assert_true(ops->next(&h->vsock, &ev));
	assert_int_equal(tell(h, 0, "new"), 3);
	gate_disarm(g);
	assert_int_equal(tell(h, 0, "er"), 2);
	gate_serve(g);
	assert_string_equal(h->peer[0].text, "newer");
	assert_int_equal(gate_stats(g).waiting, 0);
	ops->close(&h->vsock, &h->peer[0].base);
	assert_true(h->peer[0].closed);
	gate_destroy(g);
	free(h);
}

static void test_vsock_bounds(void **state)
{
	struct gate *g = make_gate();
	struct host *h = make_host(g);
	struct vsock_event ev;
	static char much[8193];
	size_t all = 0;
	ssize_t n;
	u64 epoch;

	memset(much, 'm', sizeof(much) - 1);
	gate_arm(g);
	while ((n = tell(h, 2, much)) > 0)
		all += (size_t)n;
	assert_int_equal(n, -EAGAIN);
	assert_true(all >= GATE_STREAM_MAX / 2 && all <= GATE_STREAM_MAX);
	assert_int_equal(tell(h, 1, "z"), 1); /* its own */
	assert_int_equal(fulls, 1);
	h->peer[2].room = 0;
	epoch = gate_mark(g);
	gate_release(g, epoch);
	gate_serve(g);
	assert_false(h->vsock.ops->next(&h->vsock, &ev));
	/* its client hangs up: what is sent to nobody makes room */
	h->vsock.ops->stop(&h->vsock);
	assert_int_equal(gate_stats(g).waiting, 0);
	gate_destroy(g);
	free(h);
}

static void test_vsock_dials(void **state)
{
	struct gate *g = make_gate();
	struct host *h = make_host(g);
	const struct vsock_ops *ops = h->vsock.ops;
	struct vsock_event ev;
	u64 epoch;

	gate_arm(g);
	for (u32 i = 0; i < VSOCK_DIALS_MAX; i++)
		assert_true(ops->dial(&h->vsock, 80, i));
	assert_false(ops->dial(&h->vsock, 80, 1000));
	assert_int_equal(h->dials, 0);
	h->refuse = true;
	epoch = gate_mark(g);
	gate_release(g, epoch);
	gate_serve(g);
	assert_int_equal(h->dials, VSOCK_DIALS_MAX);
	assert_false(ops->dial(&h->vsock, 80, 1000)); /* none of the answers has been fetched */
	for (u32 i = 0; i < VSOCK_DIALS_MAX; i++) {
		assert_true(ops->next(&h->vsock, &ev));
		assert_int_equal(ev.kind, VSOCK_DIALLED);
		assert_null(ev.stream);
	}
	assert_false(ops->next(&h->vsock, &ev));
	assert_true(ops->dial(&h->vsock, 80, 1000));
	gate_destroy(g);
	free(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_net_epochs),    cmocka_unit_test(test_net_back_pressure),
		cmocka_unit_test(test_net_random),    cmocka_unit_test(test_chr_order),
		cmocka_unit_test(test_chr_bounds),    cmocka_unit_test(test_chr_small_writes),
		cmocka_unit_test(test_vsock_streams), cmocka_unit_test(test_vsock_bounds),
		cmocka_unit_test(test_vsock_dials),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
