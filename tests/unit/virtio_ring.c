/* Split rings: chains, indirect tables, event indices, and what a broken driver gets. */
#include "virtio_echo.h"
#include <cmocka.h>
#include <sys/mman.h>

#define ALL (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

static struct rig *start(u64 features, unsigned size)
{
	struct rig *r = rig_create();

	vrig_init(r, echo_create);
	vrig_start(r, features, ECHO_QUEUES, size);
	return r;
}

/* Bytes come back, whatever pieces they lie in; the ring wraps many times. */
static void echoes(void **state)
{
	static const u64 features[] = { 0, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, ALL };

	for (unsigned f = 0; f < ARRAY_SIZE(features); f++) {
		struct rig *r = start(features[f], 8);
		gpa_t out = vrig_bytes(r, "the quick brown fox", 19), in = vrig_alloc(r, 32);
		const struct vseg seg[] = { { out, 4, false },
					    { out + 4, 0, false },
					    { out + 4, 15, false },
					    { in, 1, true },
					    { in + 1, 31, true } };
		gpa_t mark = vrig(r)->next;
		u32 id, len;

		for (unsigned i = 0; i < 70000; i++) {
			bool indirect = (features[f] & VIRTIO_F_INDIRECT_DESC) && i % 3;
			u16 head;

			vrig(r)->next = mark;
			vrig_set_used_event(r, 0, vrig(r)->queue[0].seen);
			head = indirect ? vrig_add_indirect(r, 0, seg, 5) : vrig_add(r, 0, seg, 5);
			vrig_ptr(r, in)[0] = 0;
			vrig_kick(r, 0);
			assert_true(vrig_used(r, 0, &id, &len));
			assert_int_equal(id, head);
			assert_int_equal(len, 19);
			assert_memory_equal(vrig_ptr(r, in), "the quick brown fox", 19);
		}
		assert_int_equal(echo_last->buf.out_n, 2);
		assert_int_equal(echo_last->buf.in_n, 2);
		assert_int_equal(echo_last->buf.in_len, 32);
		assert_int_equal(r->msi_of[1], 70000);
		assert_int_equal(vrig_status(r) & VIRTIO_NEEDS_RESET, 0);
		rig_destroy(r);
	}
}

/* A direct chain may end in an indirect descriptor (2.7.5.3.2), whose own WRITE flag means nothing. */
static void mixed_chain(void **state)
{
	struct rig *r = start(ALL, 8);
	gpa_t out = vrig_bytes(r, "abcdef", 6), in = vrig_alloc(r, 8), table = vrig_alloc(r, 32);
	const struct vrig_queue *q = &vrig(r)->queue[0];
	u32 len;

	vrig_desc(r, q->desc, 5, out, 2, VDESC_NEXT, 2);
	vrig_desc(r, q->desc, 2, table, 32, VDESC_INDIRECT | VDESC_WRITE, 0);
	vrig_desc(r, table, 0, out + 2, 4, VDESC_NEXT, 1);
	vrig_desc(r, table, 1, in, 8, VDESC_WRITE, 0);
	vrig_publish(r, 0, 5);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 6);
	assert_memory_equal(vrig_ptr(r, in), "abcdef", 6);
	rig_destroy(r);
}

/* All descriptors in one chain; an indirect table larger than the queue. */
static void long_chains(void **state)
{
	struct rig *r = start(ALL, 256);
	struct vseg seg[VIRTQ_IOV_MAX];
	gpa_t at = vrig_alloc(r, 65536);
	u32 len;

	for (unsigned i = 0; i < VIRTQ_IOV_MAX; i++)
		seg[i] = (struct vseg){ at + 32 * i, 16, i >= 128 };
	vrig_add(r, 0, seg, 256);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(len, 128 * 16);
	vrig_add_indirect(r, 0, seg, VIRTQ_IOV_MAX);
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, &len));
	assert_int_equal(echo_last->buf.in_n, VIRTQ_IOV_MAX - 128);
	rig_destroy(r);
}

/* ---- broken rings ---- */

/* What is wrong with it is set up by `spoil`; then a kick must break the device, and nothing may be used. */
static void breaks(const char *what, u64 features, void (*spoil)(struct rig *r, struct vrig_queue *q))
{
	struct rig *r = start(features, 8);
	unsigned config_interrupts = r->msi_of[0];

	spoil(r, &vrig(r)->queue[0]);
	vrig_kick(r, 0);
	if (!(vrig_status(r) & VIRTIO_NEEDS_RESET))
		print_message("# %s\n", what);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	assert_int_equal(echo_last->popped, -1);
	assert_false(vrig_used(r, 0, NULL, NULL));
	assert_int_equal(r->msi_of[0], config_interrupts + 1);
	/* dead to the world until it is reset */
	vrig_kick(r, 0);
	assert_int_equal(echo_last->kicks, 1);
	assert_int_equal(r->msi_of[0], config_interrupts + 1);
	vrig_start(r, features, ECHO_QUEUES, 8);
	assert_int_equal(vrig_request(r, 0, "abc", 3, NULL, 3), 3);
	rig_destroy(r);
}

static void index_too_far(struct rig *r, struct vrig_queue *q)
{
	vrig_put16(r, q->avail + 2, 9);
}
static void head_too_large(struct rig *r, struct vrig_queue *q)
{
	vrig_publish(r, 0, 8);
}
static void next_too_large(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, VRIG_FIRST, 1, VDESC_NEXT, 8);
	vrig_publish(r, 0, 0);
}
static void loop(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, VRIG_FIRST, 1, VDESC_NEXT, 1);
	vrig_desc(r, q->desc, 1, VRIG_FIRST, 1, VDESC_NEXT, 0);
	vrig_publish(r, 0, 0);
}
static void loop_of_nothing(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, VRIG_FIRST, 0, VDESC_NEXT, 0);
	vrig_publish(r, 0, 0);
}
static void hole(struct rig *r, struct vrig_queue *q)
{
	vrig_add(r, 0, &(struct vseg){ 3 * MiB, 1, false }, 1);
}
static void across_the_end(struct rig *r, struct vrig_queue *q)
{
	vrig_add(r, 0, &(struct vseg){ 2 * MiB - 4, 5, true }, 1);
}
static void around_zero(struct rig *r, struct vrig_queue *q)
{
	vrig_add(r, 0, &(struct vseg){ ~0ull - 3, 8, true }, 1);
}
static void registers(struct rig *r, struct vrig_queue *q)
{
	vrig_add(r, 0, &(struct vseg){ VRIG_BAR, 4, false }, 1);
}
static void read_behind_write(struct rig *r, struct vrig_queue *q)
{
	vrig_add(r, 0, (struct vseg[]){ { VRIG_FIRST, 1, true }, { VRIG_FIRST, 1, false } }, 2);
}
static void indirect_bad_length(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, VRIG_FIRST, 17, VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_empty(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, VRIG_FIRST, 0, VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_too_long(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, VRIG_FIRST, 16 * (VIRTQ_IOV_MAX + 1), VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_in_hole(struct rig *r, struct vrig_queue *q)
{
	vrig_desc(r, q->desc, 0, 4 * MiB, 32, VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_and_next(struct rig *r, struct vrig_queue *q)
{
	gpa_t table = vrig_alloc(r, 32);

	vrig_desc(r, table, 0, VRIG_FIRST, 1, 0, 0);
	vrig_desc(r, q->desc, 0, table, 32, VDESC_INDIRECT | VDESC_NEXT, 1);
	vrig_publish(r, 0, 0);
}
static void indirect_twice(struct rig *r, struct vrig_queue *q)
{
	gpa_t table = vrig_alloc(r, 32);

	vrig_desc(r, table, 0, table, 32, VDESC_INDIRECT, 0);
	vrig_desc(r, q->desc, 0, table, 32, VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_next_too_large(struct rig *r, struct vrig_queue *q)
{
	gpa_t table = vrig_alloc(r, 48);

	vrig_desc(r, table, 0, VRIG_FIRST, 1, VDESC_NEXT, 2);
	vrig_desc(r, q->desc, 0, table, 32, VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_loop(struct rig *r, struct vrig_queue *q)
{
	gpa_t table = vrig_alloc(r, 32);

	vrig_desc(r, table, 0, VRIG_FIRST, 1, VDESC_NEXT, 1);
	vrig_desc(r, table, 1, VRIG_FIRST, 1, VDESC_NEXT, 1);
	vrig_desc(r, q->desc, 0, table, 32, VDESC_INDIRECT, 0);
	vrig_publish(r, 0, 0);
}
static void indirect_good(struct rig *r, struct vrig_queue *q)
{
	vrig_add_indirect(r, 0, &(struct vseg){ VRIG_FIRST, 1, false }, 1);
}

static void broken_rings(void **state)
{
#define BREAKS(f) breaks(#f, ALL, f)
	BREAKS(index_too_far);
	BREAKS(head_too_large);
	BREAKS(next_too_large);
	BREAKS(loop);
	BREAKS(loop_of_nothing);
	BREAKS(hole);
	BREAKS(across_the_end);
	BREAKS(around_zero);
	BREAKS(registers);
	BREAKS(read_behind_write);
	BREAKS(indirect_bad_length);
	BREAKS(indirect_empty);
	BREAKS(indirect_too_long);
	BREAKS(indirect_in_hole);
	BREAKS(indirect_and_next);
	BREAKS(indirect_twice);
	BREAKS(indirect_next_too_large);
	BREAKS(indirect_loop);
	breaks("indirect without the feature", 0, indirect_good);
}

/* Each buffer is in RAM, but they add up to 4 GiB. */
static void lengths_overflow(void **state)
{
	struct rig *r = start(0, 8);
	void *far = mmap(NULL, 2 * GiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	const struct vseg seg[] = { { 4 * GiB, 0x7fffffff, false },
				    { 4 * GiB, 0x80000000, true },
				    { VRIG_FIRST, 1, true } };

	assert_ptr_not_equal(far, MAP_FAILED);
	assert_non_null(memory_map_host(r->board.mem, 4 * GiB, far, 2 * GiB, REGION_RAM, 0, "far"));
	vrig_add(r, 1, seg, 2);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->held, 1);
	assert_int_equal(echo_last->buf.out_len, 0x7fffffff);
	assert_int_equal(echo_last->buf.in_len, 0x80000000);
	vrig_add(r, 1, seg, 3);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->held, 1);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	rig_destroy(r);
	munmap(far, 2 * GiB);
}

/* A driver that makes chains available again before it got them back. */
static void too_many_out(void **state)
{
	struct rig *r = start(0, 8);
	const struct vseg seg = { VRIG_FIRST, 4, true };

	for (unsigned i = 0; i < 8; i++)
		vrig_add(r, 1, &seg, 1);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->held, 8);
	assert_int_equal(vrig_status(r) & VIRTIO_NEEDS_RESET, 0);
	vrig_add(r, 1, &seg, 1);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->held, 8);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	/* what finishes now reaches no ring */
	echo_release(echo_last);
	assert_false(vrig_used(r, 1, NULL, NULL));
	rig_destroy(r);
}

static void held_and_released(void **state)
{
	struct rig *r = start(VIRTIO_F_EVENT_IDX, 8);
	gpa_t out = vrig_bytes(r, "ab", 2), in = vrig_alloc(r, 8);
	u32 len;

	for (unsigned i = 0; i < 4; i++)
		vrig_add(r, 1, (struct vseg[]){ { out, 2, false }, { in + 2 * i, 2, true } }, 2);
	vrig_kick(r, 1);
	assert_int_equal(echo_last->held, 4);
	assert_int_equal(r->msi_of[2], 0);
	assert_false(vrig_used(r, 1, NULL, NULL));
	echo_release(echo_last);
	assert_int_equal(r->msi_of[2], 1);
	for (unsigned i = 0; i < 4; i++)
		assert_true(vrig_used(r, 1, NULL, &len) && len == 2);
	assert_memory_equal(vrig_ptr(r, in), "abababab", 8);
	/* given back as if never taken */
	vrig_add(r, 0, (struct vseg[]){ { out, 2, false }, { in, 2, true } }, 2);
	assert_int_equal(virtq_pop(&echo_last->v.queue[0], &echo_last->buf), 1);
	assert_true(virtq_empty(&echo_last->v.queue[0]));
	virtq_unpop(&echo_last->v.queue[0], 1);
	assert_false(virtq_empty(&echo_last->v.queue[0]));
	vrig_kick(r, 0);
	assert_true(vrig_used(r, 0, NULL, &len));
	rig_destroy(r);
}

/* Buffers that several regions of RAM make up, and several used elements at once. */
static void pieces(void **state)
{
	struct rig *r = start(0, 8);
	struct virtq *q = &echo_last->v.queue[0];
	static struct virtq_buf b[2];
	const struct virtq_buf *both[2] = { &b[0], &b[1] };
	const u32 lengths[2] = { 8192, 3 };
	u32 id, len;

	/* behind the RAM's end its first page, then its third */
	memory_map_host(r->board.mem, 2 * MiB, vrig_ptr(r, 0), 4096, REGION_RAM, 0, "x");
	memory_map_host(r->board.mem, 2 * MiB + 4096, vrig_ptr(r, 8192), 4096, REGION_RAM, 0, "y");
	vrig_add(r, 0, &(struct vseg){ 2 * MiB - 100, 8292, true }, 1);
	vrig_add(r, 0, &(struct vseg){ VRIG_FIRST, 100, true }, 1);
	assert_int_equal(virtq_pop(q, &b[0]), 1);
	assert_int_equal(virtq_pop(q, &b[1]), 1);
	assert_int_equal(b[0].in_n, 3);
	assert_int_equal(b[0].iov[0].iov_len, 100);
	assert_int_equal(b[0].gpa[2], 2 * MiB + 4096);
	assert_ptr_equal(b[0].iov[2].iov_base, vrig_ptr(r, 8192));
	virtq_push_many(q, both, lengths, 2);
	assert_true(vrig_used(r, 0, &id, &len) && id == 0 && len == 8192);
	assert_true(vrig_used(r, 0, &id, &len) && id == 1 && len == 3);
	rig_destroy(r);
}

/* ---- suppression ---- */

static void interrupts_by_flag(void **state)
{
	struct rig *r = start(0, 8);

	vrig_request(r, 0, "a", 1, NULL, 1);
	assert_int_equal(r->msi_of[1], 1);
	vrig_put16(r, vrig(r)->queue[0].avail, 1); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
	vrig_request(r, 0, "a", 1, NULL, 1);
	assert_int_equal(r->msi_of[1], 1);
	vrig_put16(r, vrig(r)->queue[0].avail, 0);
	vrig_kick(r, 0); /* nothing was pushed */
	assert_int_equal(r->msi_of[1], 1);
	vrig_request(r, 0, "a", 1, NULL, 1);
	assert_int_equal(r->msi_of[1], 2);
	/* the device's side: queue 2 wants no kicks */
	vrig_kick(r, 2);
	assert_int_equal(vrig_get16(r, vrig(r)->queue[2].used), 1);
	virtq_notify_enable(&echo_last->v.queue[2]);
	assert_int_equal(vrig_get16(r, vrig(r)->queue[2].used), 0);
	rig_destroy(r);
}

/* An interrupt exactly when the used index passes used_event, all the way around. */
static void interrupts_by_index(void **state)
{
	struct rig *r = start(VIRTIO_F_EVENT_IDX, 8);
	unsigned expected = 0;
	gpa_t mark = vrig(r)->next;
	u16 event = 2;

	vrig_set_used_event(r, 0, event);
	vrig_request(r, 0, "a", 1, NULL, 1); /* the first is always told */
	assert_int_equal(r->msi_of[1], 1);
	expected = 1;
	for (unsigned i = 1; i < 140000; i++) {
		vrig(r)->next = mark;
		vrig_set_used_event(r, 0, event);
		assert_int_equal(vrig_request(r, 0, "a", 1, NULL, 1), 1);
		if ((u16)i == event) {
			expected++;
			event += 3;
		}
		assert_int_equal(r->msi_of[1], expected);
		assert_int_equal(vrig_avail_event(r, 0), (u16)(i + 1));
	}
	assert_true(expected > 46000);
	/* a queue that wants no kicks leaves its index behind; enabled again, it catches up */
	vrig_request(r, 2, "a", 1, NULL, 1);
	vrig_request(r, 2, "a", 1, NULL, 1);
	assert_int_equal(vrig_avail_event(r, 2), 0);
	virtq_notify_enable(&echo_last->v.queue[2]);
	assert_int_equal(vrig_avail_event(r, 2), 2);
	rig_destroy(r);
}

/* Rings the driver moved out of RAM after it enabled the queue: the map can change under them. */
static void ring_goes(void **state)
{
	struct rig *r = rig_create();
	struct region *more;
	struct vrig_queue *q;

	vrig_init(r, echo_create);
	more = memory_map_host(r->board.mem, 0x400000, vrig_ptr(r, 0x100000), MiB, REGION_RAM, 0, "more");
	vrig_negotiate(r, 0);
	vrig_place_queue(r, 0, 8);
	q = &vrig(r)->queue[0];
	q->used = 0x400000;
	vrig_enable_queue(r, 0);
	vrig_set_status(r, 15);
	vrig_add(r, 0, &(struct vseg){ VRIG_FIRST, 1, true }, 1);
	vrig_kick(r, 0);
	assert_int_equal(vrig_status(r), 15);
	region_set(r->board.mem, more, 0x400000, false);
	vrig_add(r, 0, &(struct vseg){ VRIG_FIRST, 1, true }, 1);
	vrig_kick(r, 0);
	assert_true(vrig_status(r) & VIRTIO_NEEDS_RESET);
	rig_destroy(r);
}

static void copies(void **state)
{
	u8 m[16] = "abcdefghijklmno", to[16] = { 0 };
	struct virtq_buf b = { .out_n = 3, .in_n = 2, .out_len = 9, .in_len = 4 };

	b.iov[0] = (struct iovec){ m, 4 };
	b.iov[1] = (struct iovec){ m + 4, 0 };
	b.iov[2] = (struct iovec){ m + 4, 5 };
	b.iov[3] = (struct iovec){ m + 10, 1 };
	b.iov[4] = (struct iovec){ m + 12, 3 };
	assert_int_equal(virtq_copy_out(&b, 0, to, 16), 9);
	assert_memory_equal(to, "abcdefghi\0", 10);
	assert_int_equal(virtq_copy_out(&b, 4, to, 2), 2);
	assert_memory_equal(to, "ef", 2);
	assert_int_equal(virtq_copy_out(&b, 9, to, 2), 0);
	assert_int_equal(virtq_copy_out(&b, ~(size_t)0, to, 2), 0);
	assert_int_equal(virtq_copy_in(&b, 0, "123456", 6), 4);
	assert_memory_equal(m + 9, "j1l234", 6);
	assert_int_equal(virtq_copy_in(&b, 3, "xy", 2), 1);
	assert_memory_equal(m + 9, "j1l23x", 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(echoes),
		cmocka_unit_test(mixed_chain),
		cmocka_unit_test(long_chains),
		cmocka_unit_test(broken_rings),
		cmocka_unit_test(lengths_overflow),
		cmocka_unit_test(too_many_out),
		cmocka_unit_test(held_and_released),
		cmocka_unit_test(pieces),
		cmocka_unit_test(interrupts_by_flag),
		cmocka_unit_test(interrupts_by_index),
		cmocka_unit_test(ring_goes),
		cmocka_unit_test(copies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
