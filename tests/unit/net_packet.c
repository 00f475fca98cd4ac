/* What network backends stand on: rings between two threads, and the work that offloads leave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/net/packet.h"
#include "backend/net/reassembly.h"
#include "backend/net/ring.h"
#include "fakes.h"
#include "net_frames.h"

#define LIMIT_NS 5000000000ull

static u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- rings ---- */

static void test_ring_order(void **state)
{
	struct net_ring r;
	const u8 *p;
	u8 *to;

	assert_int_equal(net_ring_init(&r, 4096), 0);
	assert_int_equal(net_ring_peek(&r, &p), 0);
	/* lengths that meet the end of the ring in all ways */
	for (unsigned i = 0; i < 20000; i++) {
		u32 len = 1 + i * 37 % 1000;

		to = net_ring_reserve(&r, 1000);
		assert_non_null(to);
		assert_true(to + 1000 <= r.data + r.size);
		memset(to, (int)i, len);
		net_ring_put(&r, len);
		assert_int_equal(net_ring_peek(&r, &p), len);
		for (u32 k = 0; k < len; k++)
			assert_int_equal(p[k], (u8)i);
		net_ring_next(&r);
		assert_int_equal(net_ring_peek(&r, &p), 0);
	}
	net_ring_free(&r);
}

static void test_ring_full(void **state)
{
	struct net_ring r;
	const u8 *p;
	unsigned n = 0;

	assert_int_equal(net_ring_init(&r, 4096), 0);
	for (; net_ring_reserve(&r, 500); n++)
		net_ring_put(&r, 500);
	assert_int_equal(n, 8);
	assert_true(net_ring_want_room(&r, 500));
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(net_ring_peek(&r, &p), 500);
		/* told once, when half of it is free */
		assert_int_equal(net_ring_next(&r), i == 3);
	}
	assert_false(net_ring_want_room(&r, 500));
	assert_true(net_ring_want_data(&r));
	assert_non_null(net_ring_reserve(&r, 10));
	assert_true(net_ring_put(&r, 10));
	assert_false(net_ring_want_data(&r));
	net_ring_free(&r);
}

#define RACE_PACKETS 300000u
struct race {
	struct net_ring r;
	atomic_bool data, room;
};

static void wait_flag(atomic_bool *f)
{
	u64 end = now() + 20 * LIMIT_NS;

	while (!atomic_exchange(f, false)) {
		assert_true(now() < end); /* a wake-up was lost */
		sched_yield();
	}
}

static void *race_producer(void *opaque)
{
	struct race *x = opaque;

	for (u32 i = 0; i < RACE_PACKETS; i++) {
		u32 len = 4 + i % 700;
		u8 *to;

		while (!(to = net_ring_reserve(&x->r, len))) {
			if (net_ring_want_room(&x->r, len))
				wait_flag(&x->room);
		}
		memcpy(to, &i, 4);
		memset(to + 4, (int)i, len - 4);
		if (net_ring_put(&x->r, len))
			atomic_store(&x->data, true);
	}
	return NULL;
}

/* Neither side ever sleeps for good, and nothing is torn. */
static void test_ring_threads(void **state)
{
	struct race x = { 0 };
	pthread_t t;
	const u8 *p;

	assert_int_equal(net_ring_init(&x.r, 4096), 0);
	assert_int_equal(pthread_create(&t, NULL, race_producer, &x), 0);
	for (u32 i = 0; i < RACE_PACKETS; i++) {
		u32 len, n;

		while (!(len = net_ring_peek(&x.r, &p))) {
			if (net_ring_want_data(&x.r))
				wait_flag(&x.data);
		}
		memcpy(&n, p, 4);
		assert_int_equal(n, i);
		assert_int_equal(len, 4 + i % 700);
		if (len > 4)
			assert_int_equal(p[len - 1], (u8)i);
		if (net_ring_next(&x.r))
			atomic_store(&x.room, true);
	}
	pthread_join(t, NULL);
	net_ring_free(&x.r);
}

/* ---- packets ---- */

static void test_finish(void **state)
{
	static u8 f[66000], want[66000], data[65000];

	for (unsigned n = 0; n < 3000; n += 1 + n / 7) {
		struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					       .csum_start = 34,
					       .csum_offset = 6 };
		size_t len;

		fill(data, n, n);
		len = udp(want, GUEST, 1000, GATEWAY, 2000, data, n);
		memcpy(f, want, len);
		put16(f + 34 + 6, pseudo(f + 14, 8 + n)); /* what a driver leaves there */
		assert_true(net_finish(f, len, &h));
		assert_true(sound(f));
		assert_memory_equal(f, want, len);
		h.csum_start = (u16)len;
		assert_false(net_finish(f, len, &h));
	}
	for (unsigned n = 1461; n < 65000; n += 7919) {
		struct virtio_net_hdr_v1 h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					       .csum_start = 34,
					       .csum_offset = 16,
					       .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
					       .gso_size = 1460 };
		size_t len;

		fill(data, n, n);
		len = tcp(want, 1, GATEWAY, 2, 3, 4, 0x18, 0, data, n);
		memcpy(f, want, len);
		put16(f + 34 + 16, 0x1234);
		assert_true(net_finish(f, len, &h));
		assert_memory_equal(f, want, len);
		f[14 + 9] = 17;
		assert_false(net_finish(f, len, &h));
		assert_false(net_finish(f, 40, &h));
	}
}

static void test_header(void **state)
{
	const struct net_offload none = { 0 }, all = { true, true, true, true }, v4 = { .csum = true, .tso4 = true };
	struct virtio_net_hdr_v1 h = { 0 };

	assert_true(net_header_ok(&h, 60, &none));
	h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	h.csum_start = 34;
	h.csum_offset = 16;
	assert_false(net_header_ok(&h, 60, &none));
	assert_true(net_header_ok(&h, 60, &v4));
	assert_true(net_header_ok(&h, 52, &v4));
	assert_false(net_header_ok(&h, 51, &v4));
	h.csum_start = h.csum_offset = 0xffff;
	assert_false(net_header_ok(&h, 65550, &v4));
	h.csum_start = 34;
	h.csum_offset = 16;
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	assert_false(net_header_ok(&h, 3000, &v4)); /* segments of no bytes */
	h.gso_size = 1460;
	assert_true(net_header_ok(&h, 3000, &v4));
	h.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	assert_false(net_header_ok(&h, 3000, &v4));
	assert_true(net_header_ok(&h, 3000, &all));
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
	assert_false(net_header_ok(&h, 3000, &v4));
	assert_true(net_header_ok(&h, 3000, &all));
	h.gso_type = VIRTIO_NET_HDR_GSO_UDP;
	assert_false(net_header_ok(&h, 3000, &all));
	h.gso_type = 0x7f;
	assert_false(net_header_ok(&h, 3000, &all));
	h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	h.flags = 0;
	assert_false(net_header_ok(&h, 3000, &all));
}

struct pieces {
	u8 data[70000];
	size_t len;
	unsigned n, last_flags;
	bool bad;
	u32 seq;
};

static void segment_piece(void *opaque, const u8 *head, size_t head_len, const u8 *body, size_t body_len)
{
	struct pieces *p = opaque;
	u8 f[2000];

	memcpy(f, head, head_len);
	memcpy(f + head_len, body, body_len);
	p->bad |= !sound(f) || head_len + body_len > NET_FRAME || get16(f + 16) != head_len + body_len - 14 ||
		  get32(f + 38) != (u32)(p->seq + p->len) || p->last_flags & 1;
	p->last_flags = f[47];
	memcpy(p->data + p->len, body, body_len);
	p->len += body_len;
	p->n++;
}

static void test_segment(void **state)
{
	static u8 f[66000], data[65000];
	static struct pieces p;
	struct net_tcp t;
	size_t len;

	fill(data, sizeof(data), 1);
	len = tcp(f, 1, GATEWAY, 2, 0xfffff000, 4, 0x19, 0, data, 32768);
	assert_true(net_parse_tcp(f, len, &t));
	assert_int_equal(t.payload, 32768);
	p = (struct pieces){ .seq = 0xfffff000 };
	net_segment(f, &t, 1460, segment_piece, &p);
	assert_false(p.bad);
	assert_int_equal(p.n, 23);
	assert_int_equal(p.last_flags, 0x19);
	assert_int_equal(p.len, 32768);
	assert_memory_equal(p.data, data, p.len);
	assert_false(net_parse_tcp(f, len - 1, &t));
	put16(f + 20, 0x2000);
	assert_false(net_parse_tcp(f, len, &t));
}

static void fragment_piece(void *opaque, const u8 *head, size_t head_len, const u8 *body, size_t body_len)
{
	struct pieces *p = opaque;
	unsigned field = get16(head + 20);

	p->bad |= fold(head + 14, head_len - 14, 0) != 0xffff || head_len + body_len > NET_FRAME ||
		  (field & 0x1fff) * 8 != p->len || p->last_flags;
	p->last_flags = !(field & 0x2000);
	memcpy(p->data + p->len, body, body_len);
	p->len += body_len;
	p->n++;
}

static void test_fragment(void **state)
{
	static u8 f[70000], data[65000];
	static struct pieces p;

	fill(data, sizeof(data), 2);
	for (unsigned n = 1473; n < 65000; n += 1009) {
		size_t len = udp(f, GATEWAY, 1, GUEST, 2, data, n);

		p = (struct pieces){ 0 };
		net_fragment(f, len, fragment_piece, &p);
		assert_false(p.bad);
		assert_true(p.last_flags);
		assert_int_equal(p.len, n + 8);
		assert_memory_equal(p.data + 8, data, n);
	}
}

static u8 *reassemble(struct net_reassembly *r, const u8 *whole, unsigned offset, unsigned n, bool more, u64 now,
		      size_t *len)
{
	static u8 f[66000];
	size_t size = fragment(f, whole, offset, n, more);

	assert_true(net_is_fragment(f, size));
	return net_reassemble(r, f, size, now, len);
}

static void test_reassembly(void **state)
{
	static u8 w[66000], data[65000];
	struct net_reassembly *r = net_reassembly_create();
	size_t len = udp(w, GUEST, 1, GATEWAY, 2, data, 6000), got;
	static const unsigned orders[][4] = { { 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 2, 0, 3, 1 }, { 1, 3, 0, 2 } };

	fill(data, sizeof(data), 9);
	len = udp(w, GUEST, 1, GATEWAY, 2, data, 6000);
	assert_false(net_is_fragment(w, len));
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned k = 0; k < 4; k++) {
			unsigned at = orders[i][k] * 1600;
			u8 *f = reassemble(r, w, at, MIN(1600u, 6008 - at), at < 4800, i, &got);

			assert_true(k == 3 ? f != NULL : !f);
			if (!f)
				continue;
			assert_int_equal(got, len);
			assert_memory_equal(f, w, len);
		}
	}
	/* in one of its own, and as long as one may be */
	len = udp(w, GUEST, 1, GATEWAY, 2, data, 65000);
	assert_null(reassemble(r, w, 65000, 8, false, 0, &got));
	assert_non_null(reassemble(r, w, 0, 65000, true, 0, &got));
	assert_int_equal(got, len);
	net_reassembly_free(r);
}

/* Fragments that make no datagram, and datagrams that are given up. */
static void test_bad_fragments(void **state)
{
	static u8 w[66000], data[60000];
	struct net_reassembly *r = net_reassembly_create();
	size_t got;

	udp(w, GUEST, 1, GATEWAY, 2, data, 60000);
	/* something twice, or partly */
	assert_null(reassemble(r, w, 0, 16, true, 0, &got));
	assert_null(reassemble(r, w, 8, 16, true, 0, &got));
	assert_null(reassemble(r, w, 16, 8, false, 0, &got));
	assert_null(reassemble(r, w, 8, 8, true, 0, &got)); /* the first 8 bytes went with the rest */
	assert_non_null(reassemble(r, w, 0, 8, true, 0, &got));
	/* behind the end; as many bytes as there should be, with a gap */
	assert_null(reassemble(r, w, 800, 8, true, 0, &got));
	assert_null(reassemble(r, w, 0, 8, true, 0, &got));
	assert_null(reassemble(r, w, 16, 8, false, 0, &got));
	assert_null(reassemble(r, w, 8, 8, true, 0, &got));
	assert_null(reassemble(r, w, 8, 8, true, 0, &got)); /* again: given up */
	/* two ends */
	assert_null(reassemble(r, w, 80, 8, false, 0, &got));
	assert_null(reassemble(r, w, 40, 8, false, 0, &got));
	assert_null(reassemble(r, w, 0, 40, true, 0, &got));
	assert_non_null(reassemble(r, w, 40, 8, false, 0, &got));
	/* nothing, an odd length, beyond 64 KiB */
	assert_null(reassemble(r, w, 0, 0, true, 0, &got));
	assert_null(reassemble(r, w, 0, 12, true, 0, &got));
	assert_null(reassemble(r, w, 8, 8, false, 0, &got));
	assert_non_null(reassemble(r, w, 0, 8, true, 0, &got));
	put16(w + 18, 8);
	assert_null(reassemble(r, w, 0, 65504, true, 0, &got));
	assert_null(reassemble(r, w, 65504, 16, false, 0, &got));
	/* too late */
	assert_null(reassemble(r, w, 0, 8, true, 1000, &got));
	assert_null(reassemble(r, w, 8, 8, false, 20000, &got));
	assert_non_null(reassemble(r, w, 0, 8, true, 20000, &got));
	/* more at once than there is room for: the oldest goes */
	for (unsigned i = 0; i < 9; i++) {
		put16(w + 18, i);
		assert_null(reassemble(r, w, 0, 8, true, 30000 + i, &got));
	}
	assert_non_null(reassemble(r, w, 8, 8, false, 30009, &got));
	put16(w + 18, 1);
	assert_non_null(reassemble(r, w, 8, 8, false, 30009, &got));
	put16(w + 18, 0);
	assert_null(reassemble(r, w, 8, 8, false, 30009, &got));
	net_reassembly_free(r);
}

static void test_rewrite(void **state)
{
	u8 f[2000], before[2000];
	struct net_tcp t;
	size_t len = tcp(f, 1, GATEWAY, 2, 5, 0, 2, 1460, NULL, 0);

	assert_int_equal(net_raise_mss(f, len, 32768), 1460);
	assert_true(sound(f));
	assert_int_equal(get16(f + 34 + 22), 32768);
	memcpy(before, f, len);
	assert_int_equal(net_raise_mss(f, len, 1460), 32768);
	assert_memory_equal(f, before, len);
	f[47] = 0x10;
	assert_int_equal(net_raise_mss(f, len, 1460), 0);
	f[47] = 2;
	f[34 + 20] = 1; /* options that lead nowhere */
	f[34 + 21] = 8;
	f[34 + 22] = 0;
	assert_int_equal(net_raise_mss(f, len, 32768), 536);
	net_set_address(f, true, 0x7f000035);
	assert_true(net_parse_tcp(f, len, &t));
	len = tcp(f, 1, GATEWAY, 2, 5, 0, 16, 0, "abc", 3);
	net_set_address(f, true, 0x7f000035);
	net_set_address(f, false, 0xffffffff);
	assert_true(sound(f));
	assert_int_equal(get32(f + 26), 0x7f000035);
	assert_int_equal(get32(f + 30), 0xffffffff);
	len = udp(f, GUEST, 53, GATEWAY, 1, "xyz", 3);
	net_set_address(f, false, 1);
	assert_true(sound(f));
}

/* Anything may come from the guest. */
static void test_hostile_packets(void **state)
{
	u8 *f = malloc(200);
	struct net_tcp t;
	struct net_flow w;

	for (u32 seed = 0; seed < 50000; seed++) {
		size_t len = 14 + seed % 100;
		u8 *exact = malloc(len);
		struct virtio_net_hdr_v1 h = { 0 };

		fill(f, 200, seed);
		tcp(f, 1, GATEWAY, 2, 5, 0, 2, 1460, NULL, 0);
		for (unsigned k = 0; k < seed % 4; k++)
			f[12 + seed * 7 % 60] = (u8)(seed >> k);
		memcpy(exact, f, len);
		h.gso_type = seed & 1;
		h.flags = 1;
		h.csum_start = (u16)(seed * 3 % 120);
		h.csum_offset = 6;
		net_finish(exact, len, &h);
		net_raise_mss(exact, len, 9000);
		net_parse_tcp(exact, len, &t);
		if (net_parse_flow(exact, len, &w))
			net_set_address(exact, false, seed);
		free(exact);
	}
	free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring_order),	cmocka_unit_test(test_ring_full),
		cmocka_unit_test(test_ring_threads),	cmocka_unit_test(test_finish),
		cmocka_unit_test(test_header),		cmocka_unit_test(test_segment),
		cmocka_unit_test(test_fragment),	cmocka_unit_test(test_reassembly),
		cmocka_unit_test(test_bad_fragments),	cmocka_unit_test(test_rewrite),
		cmocka_unit_test(test_hostile_packets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
