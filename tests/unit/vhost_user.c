/* The front end of vhost-user against a fake back end: messages, time limits, refusals; and the shadow ring alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/eventfd.h>

#include "dev/vhost_user/shadow_ring.h"
#include "dev/vhost_user/vhost_user.h"
#include "vhost_back_end.h"

#define PROTOCOL (VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_CONFIG)

static u32 echo(struct back_end *b, const u8 *out, u32 out_len, u8 *in, u32 in_len)
{
	memcpy(in, out, MIN(out_len, in_len));
	return MIN(out_len, in_len);
}

static struct back_end normal(void)
{
	return (
	    struct back_end){ .offered = VIRTIO_F_VERSION_1 | BIT(9), .protocol = PROTOCOL | BIT(20), .serve = echo };
}

static void test_agrees(void **state)
{
	for (unsigned with = 0; with < 2; with++) {
		struct back_end b = normal();
		struct vhost_user c;
		struct error e;
		u8 space[60];

		if (!with)
			b.protocol = 0;
		for (unsigned i = 0; i < sizeof(b.config); i++)
			b.config[i] = (u8)(i * 7);
		assert_int_equal(vhost_user_open(&c, back_end_start(&b), 5000, &e), 0);
		assert_int_equal(c.features, VIRTIO_F_VERSION_1 | BIT(9));
		assert_int_equal(c.protocol, with ? PROTOCOL : 0);
		assert_true(c.queues == (with ? BACK_END_QUEUES : UINT64_MAX));
		assert_int_equal(vhost_user_set_features(&c, VIRTIO_F_VERSION_1), 0);
		assert_int_equal(vhost_user_get_config(&c, 0, space, 60), with ? 0 : -1);
		if (with) {
			assert_memory_equal(space, b.config, 60);
			assert_int_equal(vhost_user_set_config(&c, 32, "\x55", 1), 0);
			assert_int_equal(b.config[32], 0x55);
			assert_int_equal(b.features, VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES);
		}
		assert_false(vhost_user_gone(&c));
		vhost_user_close(&c);
		assert_true(vhost_user_gone(&c));
		assert_int_equal(vhost_user_set_features(&c, 0), -1);
		back_end_join(&b);
	}
}

static void test_faults(void **state)
{
	static const struct {
		enum back_end_fault fault;
		u32 at;
		const char *text;
	} faults[] = {
		{ FAULT_SILENT, VHOST_USER_GET_FEATURES, "GET_FEATURES: no answer in time" },
		{ FAULT_WRONG, VHOST_USER_GET_PROTOCOL_FEATURES, "makes no sense" },
		{ FAULT_LONG, VHOST_USER_GET_QUEUE_NUM, "makes no sense" },
		{ FAULT_REFUSE, VHOST_USER_SET_OWNER, "SET_OWNER: refused" },
		{ FAULT_SILENT, VHOST_USER_SET_OWNER, "SET_OWNER: no answer in time" },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
		struct back_end b = normal();
		struct vhost_user c;
		struct error e;

		b.fault = faults[i].fault;
		b.fault_at = faults[i].at;
		assert_int_equal(vhost_user_open(&c, back_end_start(&b), 200, &e), -1);
		assert_non_null(strstr(e.text, faults[i].text));
		assert_int_equal(c.fd, -1);
		back_end_join(&b);
	}
}

static void test_hang_up(void **state)
{
	struct vhost_user c;
	struct error e;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	close(pair[0]);
	assert_int_equal(vhost_user_open(&c, pair[1], 5000, &e), -1);
	assert_non_null(strstr(e.text, "GET_FEATURES"));
}

/* RAM and rings as the device has them. */
struct bench {
	struct back_end b;
	struct vhost_user c;
	struct shadow_ring r;
	u8 *ram, *rings;
	int ram_fd, rings_fd, kick, call;
};

#define BENCH_RAM (1 * MiB)

static u8 *shared(int *fd, size_t len)
{
	u8 *p;

	*fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(ftruncate(*fd, (off_t)len), 0);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	assert_true(p != MAP_FAILED);
	return p;
}

static struct bench *bench_create(enum back_end_fault fault)
{
	struct bench *t = calloc(1, sizeof(*t));
	struct error e;

	t->b = normal();
	t->b.fault = fault;
	t->b.fault_at = 63; /* none of the requests */
	t->ram = shared(&t->ram_fd, BENCH_RAM);
	t->rings = shared(&t->rings_fd, SHADOW_RING_BYTES);
	t->kick = eventfd(0, EFD_NONBLOCK);
	t->call = eventfd(0, EFD_NONBLOCK);
	shadow_ring_init(&t->r, t->rings, BIT(46));
	assert_int_equal(vhost_user_open(&t->c, back_end_start(&t->b), 5000, &e), 0);
	struct vhost_user_region regions[] = {
		{ .size = BENCH_RAM, .fd = t->ram_fd },
		{ .guest = BIT(46), .user = BIT(46), .size = SHADOW_RING_BYTES, .fd = t->rings_fd },
	};
	struct vhost_user_queue q = { .size = SHADOW_RING_SIZE,
				      .desc = BIT(46) + SHADOW_RING_DESC,
				      .avail = BIT(46) + SHADOW_RING_AVAIL,
				      .used = BIT(46) + SHADOW_RING_USED,
				      .kick_fd = t->kick,
				      .call_fd = t->call };

	assert_int_equal(vhost_user_set_features(&t->c, VIRTIO_F_VERSION_1), 0);
	assert_int_equal(vhost_user_set_memory(&t->c, regions, 2), 0);
	assert_int_equal(vhost_user_start_queue(&t->c, 1, &q), 0);
	return t;
}

static void bench_destroy(struct bench *t)
{
	vhost_user_close(&t->c);
	back_end_join(&t->b);
	shadow_ring_free(&t->r);
	munmap(t->ram, BENCH_RAM);
	munmap(t->rings, SHADOW_RING_BYTES);
	close(t->ram_fd);
	close(t->rings_fd);
	close(t->kick);
	close(t->call);
	free(t);
}

/* A chain of `out` and `in` buffers of 64 bytes, each in a page of its own from `page` on. */
static struct virtq_buf *make_chain(struct bench *t, unsigned page, unsigned out, unsigned in, u16 head)
{
	struct virtq_buf *b = shadow_ring_buffer(&t->r);

	assert_non_null(b);
	b->head = head;
	b->out_n = out;
	b->in_n = in;
	b->out_len = 64 * out;
	b->in_len = 64 * in;
	for (unsigned i = 0; i < out + in; i++) {
		b->gpa[i] = (page + i) % 256 * PAGE_SIZE;
		b->iov[i] = (struct iovec){ t->ram + b->gpa[i], 64 };
	}
	return b;
}

static void kick(struct bench *t)
{
	u64 one = 1;

	assert_int_equal(write(t->kick, &one, 8), 8);
}

static int take(struct bench *t, struct virtq_buf **b, u32 *written)
{
	int got;

	while (!(got = shadow_ring_take(&t->r, b, written))) {
		struct pollfd f = { .fd = t->call, .events = POLLIN };
		u64 count;

		assert_int_equal(poll(&f, 1, 10000), 1);
		if (read(t->call, &count, 8) < 0)
			continue;
	}
	return got;
}

/* Chains of all lengths, several in flight, many times around the ring. */
static void test_ring(void **state)
{
	struct bench *t = bench_create(FAULT_NONE);
	unsigned sent = 0, back = 0, in_flight = 0;
	u16 heads[8] = { 0 };

	assert_int_equal(t->b.q[1].enabled, true);
	while (back < 4000) {
		struct virtq_buf *b;
		u32 written;

		while (in_flight < 5 && sent < 4000) {
			unsigned out = sent % 7 + 1, in = sent % 11, slot = sent % 5;

			b = make_chain(t, slot * 20, out, in, (u16)sent);
			assert_true(shadow_ring_fits(&t->r, b));
			for (unsigned i = 0; i < out; i++)
				memset(b->iov[i].iov_base, (int)(sent + i), 64);
			shadow_ring_submit(&t->r, b, t->ram);
			heads[slot] = (u16)sent;
			sent++;
			in_flight++;
		}
		kick(t);
		assert_int_equal(take(t, &b, &written), 1);
		assert_int_equal(b->head, heads[back % 5]);
		assert_int_equal(written, MIN(b->out_len, b->in_len));
		for (unsigned i = 0; i < b->in_n && i < b->out_n; i++)
			assert_memory_equal(b->iov[b->out_n + i].iov_base, b->iov[i].iov_base, 64);
		shadow_ring_done(&t->r, b);
		in_flight--;
		back++;
	}
	assert_int_equal(t->r.free_count, SHADOW_RING_SIZE);
	/* the longest chain fills the ring */
	struct virtq_buf *b = make_chain(t, 0, 1, SHADOW_RING_SIZE - 1, 7);
	u32 written;

	b->in_len = 64 * (SHADOW_RING_SIZE - 1);
	assert_true(shadow_ring_fits(&t->r, b));
	shadow_ring_submit(&t->r, b, t->ram);
	assert_false(shadow_ring_fits(&t->r, make_chain(t, 0, 1, 0, 8)));
	kick(t);
	assert_int_equal(take(t, &b, &written), 1);
	assert_int_equal(b->head, 7);
	shadow_ring_done(&t->r, b);
	assert_int_equal(vhost_user_stop_queue(&t->c, 1), 0);
	bench_destroy(t);
}

static void test_bad_used(void **state)
{
	struct bench *t = bench_create(FAULT_BAD_USED);
	struct virtq_buf *b;
	u32 written;

	for (unsigned i = 0; i < 3; i++)
		shadow_ring_submit(&t->r, make_chain(t, i, 1, 1, (u16)i), t->ram);
	kick(t);
	assert_int_equal(take(t, &b, &written), -1);
	for (unsigned i = 0; i < 3; i++) {
		b = shadow_ring_revoke(&t->r);
		assert_int_equal(b->head, i);
		shadow_ring_done(&t->r, b);
	}
	assert_null(shadow_ring_revoke(&t->r));
	assert_int_equal(t->r.free_count, SHADOW_RING_SIZE);
	bench_destroy(t);
}

/* Whatever stands in the shared memory, the ring's own state stays sound. */
static void test_scribbled(void **state)
{
	struct bench *t = bench_create(FAULT_STUCK);
	struct virtq_buf *b;
	u32 written;

	srandom(1);
	for (unsigned round = 0; round < 2000; round++) {
		b = make_chain(t, round % 200, round % 5 + 1, round % 9, (u16)round);
		if (shadow_ring_fits(&t->r, b))
			shadow_ring_submit(&t->r, b, t->ram);
		for (unsigned i = 0; i < 64; i++)
			t->rings[random() % SHADOW_RING_BYTES] = (u8)random();
		u16 *idx = (u16 *)(void *)(t->rings + SHADOW_RING_USED + 2);

		*idx = (u16)(t->r.used_next + random() % 3);
		for (unsigned i = 0; i < 3; i++) {
			u32 *id = (u32 *)(void *)(t->rings + SHADOW_RING_USED + 4 +
						  8 * ((t->r.used_next + i) % SHADOW_RING_SIZE));

			*id = (u32)random() % (SHADOW_RING_SIZE + 8);
		}
		while (shadow_ring_take(&t->r, &b, &written) > 0) {
			assert_true(written <= b->in_len);
			shadow_ring_done(&t->r, b);
		}
	}
	while ((b = shadow_ring_revoke(&t->r)))
		shadow_ring_done(&t->r, b);
	assert_int_equal(t->r.in_flight, 0);
	assert_int_equal(t->r.free_count, SHADOW_RING_SIZE);
	bench_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agrees), cmocka_unit_test(test_faults),	cmocka_unit_test(test_hang_up),
		cmocka_unit_test(test_ring),   cmocka_unit_test(test_bad_used), cmocka_unit_test(test_scribbled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
