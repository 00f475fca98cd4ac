/* The balloon: pages that go, pages that stay, long requests by turns, poison, statistics, the target, records. */
#include <unistd.h>

#include "virtio_rig.h"
#include <cmocka.h>

#include "dev/virtio/balloon.h"

#define F_STATS BIT(1)
#define F_OOM BIT(2)
#define F_POISON BIT(4)
#define F_REPORTING BIT(5)
#define ALL (F_STATS | F_OOM | F_POISON | F_REPORTING)
#define CONFIG_ACTUAL (VRIG_CONFIG + 4)
#define CONFIG_POISON (VRIG_CONFIG + 12)

#define AREA 0x100000ull /* what is given away: the second MiB, pages of 5AH */
#define PAGE(n) (AREA + (n)*PAGE_SIZE)
#define PFN(n) (u32)(PAGE(n) >> 12)

static struct virtio *balloon;
static bool reporting = true;

static int create(struct rig *r, struct pci_bus *bus)
{
	balloon =
	    virtio_balloon_create(&r->board, bus, VRIG_SLOT, &(struct virtio_balloon_config){ 256 * MiB, reporting });
	return balloon ? 0 : -1;
}

static struct rig *machine(u64 features, unsigned queues)
{
	struct rig *r = rig_create();

	vrig_init(r, create);
	vrig_start(r, features, queues, 16);
	memset(vrig_ptr(r, AREA), 0x5a, MiB);
	return r;
}

/* All bytes of the page are `byte`. */
static bool is(struct rig *r, unsigned page, u8 byte)
{
	const u8 *p = vrig_ptr(r, PAGE(page));

	return p[0] == byte && !memcmp(p, p + 1, PAGE_SIZE - 1);
}

/* Does the host provide the page? Look before reading it: that brings it back. */
static bool resident(struct rig *r, unsigned page)
{
	u64 end;

	return memory_next_data(r->board.mem, PAGE(page), &end) == PAGE(page);
}

static struct virtio_balloon_info info(void)
{
	struct virtio_balloon_info i;

	virtio_balloon_info(balloon, &i);
	return i;
}

static void inflating(void **state)
{
	const u32 pfns[] = { PFN(9), PFN(3), PFN(2), PFN(3), 0xffffffff, 0x80000000, 0x300, PFN(1), PFN(255), PFN(5) };
	static const u8 gone[] = { 1, 2, 3, 5, 9, 255 };
	struct rig *r = machine(ALL, 4);
	unsigned n = 0;
	u8 odd[6] = { 0 };

	/* the last number of a row that leads beyond RAM costs the others nothing */
	assert_int_equal(vrig_request(r, 0, pfns, sizeof(pfns), NULL, 0), 0);
	for (unsigned i = 0; i < 256; i++) {
		bool was = n < sizeof(gone) && gone[n] == i;

		assert_int_equal(resident(r, i), !was);
		assert_true(is(r, i, was ? 0 : 0x5a));
		n += was;
	}
	assert_int_equal(n, sizeof(gone));
	assert_int_equal(info().inflated, sizeof(gone) * PAGE_SIZE);
	assert_int_equal(r->msi_of[1], 1);
	/* half a number is none, and what the guest takes back is there */
	memcpy(odd, &pfns[0], 4);
	assert_int_equal(vrig_request(r, 0, odd, 6, NULL, 0), 0);
	assert_int_equal(vrig_request(r, 1, pfns, sizeof(pfns), NULL, 0), 0);
	memset(vrig_ptr(r, PAGE(9)), 7, PAGE_SIZE);
	assert_true(is(r, 9, 7));
	/* nothing at all */
	assert_int_equal(vrig_request(r, 0, NULL, 0, odd, 6), 0);
	rig_destroy(r);
}

/* A row that begins in RAM and ends beyond. */
static void edge(void **state)
{
	struct rig *r = machine(ALL, 4);
	u32 pfns[4];

	for (u32 i = 0; i < 4; i++)
		pfns[i] = PFN(254) + i;
	assert_int_equal(vrig_request(r, 0, pfns, sizeof(pfns), NULL, 0), 0);
	assert_true(is(r, 253, 0x5a) && is(r, 254, 0) && is(r, 255, 0));
	assert_int_equal(info().inflated, 2 * PAGE_SIZE);
	rig_destroy(r);
}

static void reports(struct rig *r, unsigned queue)
{
	struct vseg seg[] = { { PAGE(4), 3 * PAGE_SIZE, true },
			      { PAGE(8) + 1, 2 * PAGE_SIZE, true },
			      { PAGE(20), PAGE_SIZE - 1, true },
			      { PAGE(30) - 16, PAGE_SIZE + 17, true } };
	u64 before = info().reported;

	vrig_add(r, queue, seg, ARRAY_SIZE(seg));
	vrig_kick(r, queue);
	assert_true(vrig_used(r, queue, NULL, NULL));
	assert_int_equal(info().reported - before, 5 * PAGE_SIZE);
	for (unsigned i = 0; i < 40; i++)
		assert_true(is(r, i, (i >= 4 && i < 7) || i == 9 || i == 30 ? 0 : 0x5a));
}

static void reporting_queues(void **state)
{
	struct rig *r = machine(ALL, 5);

	assert_true((vrig_offered(r) & ALL) == ALL);
	reports(r, 3);
	memset(vrig_ptr(r, AREA), 0x5a, MiB);
	reports(r, 4); /* as the specification counts */
	rig_destroy(r);
	r = machine(F_REPORTING, 3);
	reports(r, 2);
	rig_destroy(r);
	/* a queue that was not agreed on gives nothing away */
	r = machine(F_STATS, 4);
	assert_int_equal(vrig_request(r, 3, NULL, 0, vrig_ptr(r, 0), 64), 0);
	assert_int_equal(info().reported, 0);
	rig_destroy(r);
	reporting = false;
	r = machine(F_STATS, 3);
	assert_false(vrig_offered(r) & (F_REPORTING | F_POISON));
	reporting = true;
	rig_destroy(r);
}

static void poison(void **state)
{
	struct rig *r = machine(ALL, 4);
	struct vseg seg = { PAGE(4), PAGE_SIZE, true };
	const u32 pfn = PFN(6);

	vrig_write(r, CONFIG_POISON, 0x5a5a5a5a, 4);
	vrig_add(r, 3, &seg, 1);
	vrig_kick(r, 3);
	assert_true(vrig_used(r, 3, NULL, NULL));
	assert_true(is(r, 4, 0x5a));
	/* what is inside the balloon is nobody's */
	assert_int_equal(vrig_request(r, 0, &pfn, 4, NULL, 0), 0);
	assert_true(is(r, 6, 0));
	vrig_write(r, CONFIG_POISON, 0, 4);
	vrig_add(r, 3, &seg, 1);
	vrig_kick(r, 3);
	assert_true(is(r, 4, 0));
	rig_destroy(r);
	/* a value that was not agreed on does not count */
	r = machine(F_REPORTING, 3);
	vrig_write(r, CONFIG_POISON, 1, 4);
	vrig_add(r, 2, &seg, 1);
	vrig_kick(r, 2);
	assert_true(is(r, 4, 0));
	rig_destroy(r);
}

#define LONG (128 * KiB)

/* 32 Ki page numbers in one chain, none next to another; the last is page 200. */
static void add_long(struct rig *r)
{
	gpa_t a = vrig_alloc(r, LONG);
	u32 *pfn = (u32 *)vrig_ptr(r, a);

	for (unsigned i = 0; i < LONG / 4; i++)
		pfn[i] = i & 1 ? PFN(2) : 0x10000 + 2 * i;
	pfn[LONG / 4 - 1] = PFN(200);
	vrig_add(r, 0, &(struct vseg){ a, LONG, false }, 1);
}

static void turns(void **state)
{
	struct rig *r = machine(ALL, 4);
	unsigned n = 0;

	add_long(r);
	vrig_kick(r, 0);
	assert_false(vrig_used(r, 0, NULL, NULL));
	assert_true(is(r, 2, 0) && is(r, 200, 0x5a));
	vrig_kick(r, 0); /* gets nothing done sooner */
	for (; !vrig_used(r, 0, NULL, NULL); n++) {
		assert_true(n < 64);
		rig_pass(r, 1000);
	}
	assert_true(n > 3 && is(r, 200, 0));
	rig_pass(r, 1000000);
	/* a reset ends it */
	add_long(r);
	vrig_kick(r, 0);
	vrig_set_status(r, 0);
	memset(vrig_ptr(r, PAGE(2)), 0x5a, PAGE_SIZE);
	rig_pass(r, 1000000);
	assert_true(is(r, 2, 0x5a));
	rig_destroy(r);
}

static u32 put_stats(struct rig *r, gpa_t a, u64 free, u64 total)
{
	static const u16 tags[] = { 4, 5, 0x7000 };
	const u64 values[] = { free, total, 9 };

	for (unsigned i = 0; i < 3; i++) {
		memcpy(vrig_ptr(r, a + 10 * i), &tags[i], 2);
		memcpy(vrig_ptr(r, a + 10 * i + 2), &values[i], 8);
	}
	return 30;
}

static void statistics(void **state)
{
	struct rig *r = rig_create();
	gpa_t a;

	vrig_init(r, create);
	assert_false(virtio_balloon_ask_stats(balloon));
	vrig_start(r, ALL, 4, 16);
	assert_false(virtio_balloon_ask_stats(balloon));
	a = vrig_alloc(r, 64);
	vrig_add(r, 2, &(struct vseg){ a, put_stats(r, a, 100, 500), false }, 1);
	vrig_kick(r, 2);
	assert_int_equal(info().reports, 1);
	assert_int_equal(info().stat[BALLOON_STAT_FREE], 100);
	assert_int_equal(info().stat[BALLOON_STAT_TOTAL], 500);
	assert_true(info().stat[BALLOON_STAT_SWAP_IN] == BALLOON_STAT_UNKNOWN);
	/* the buffer stays with the device until it wants the next */
	assert_false(vrig_used(r, 2, NULL, NULL));
	assert_true(virtio_balloon_ask_stats(balloon));
	assert_true(vrig_used(r, 2, NULL, NULL));
	assert_int_equal(r->msi_of[3], 1);
	assert_false(virtio_balloon_ask_stats(balloon));
	vrig_add(r, 2, &(struct vseg){ a, put_stats(r, a, 50, 500), false }, 1);
	vrig_kick(r, 2);
	assert_int_equal(info().reports, 2);
	assert_int_equal(info().stat[BALLOON_STAT_FREE], 50);
	rig_destroy(r);
}

/* Linux puts its buffer there, and kicks, before it sets DRIVER_OK. */
static void statistics_first(void **state)
{
	struct rig *r = rig_create();
	gpa_t a;

	vrig_init(r, create);
	vrig_negotiate(r, ALL);
	for (unsigned i = 0; i < 4; i++) {
		vrig_place_queue(r, i, 16);
		vrig_enable_queue(r, i);
	}
	a = vrig_alloc(r, 64);
	vrig_add(r, 2, &(struct vseg){ a, put_stats(r, a, 1, 2), false }, 1);
	vrig_kick(r, 2);
	assert_int_equal(info().reports, 0);
	vrig_set_status(r, 15);
	assert_int_equal(info().reports, 1);
	assert_int_equal(info().stat[BALLOON_STAT_TOTAL], 2);
	rig_destroy(r);
}

static void target(void **state)
{
	struct rig *r = machine(ALL, 4);

	assert_int_equal(vrig_read(r, VRIG_CONFIG, 4), 65536);
	vrig_write(r, VRIG_CONFIG, 1, 4);
	assert_int_equal(vrig_read(r, VRIG_CONFIG, 4), 65536);
	virtio_balloon_set_target(balloon, 256 * MiB);
	assert_int_equal(r->msi_of[0], 0);
	virtio_balloon_set_target(balloon, MiB);
	assert_int_equal(r->msi_of[0], 1);
	assert_int_equal(vrig_read(r, VRIG_CONFIG, 4), 256);
	vrig_write(r, CONFIG_ACTUAL, 77, 4);
	assert_int_equal(info().actual, 77 * PAGE_SIZE);
	assert_int_equal(info().target, MiB);
	assert_true(info().driver);
	/* the target is the host's and outlives a driver */
	vrig_set_status(r, 0);
	assert_int_equal(info().actual, 0);
	assert_int_equal(info().target, MiB);
	assert_false(info().driver);
	rig_destroy(r);
}

struct seen {
	gpa_t gpa[8];
	unsigned count;
};

static void on_write(void *opaque, gpa_t gpa, unsigned len)
{
	struct seen *s = opaque;

	s->gpa[s->count++ % 8] = gpa;
	assert_int_equal(len, PAGE_SIZE);
}

/* Engines hear of code that is gone. */
static void code(void **state)
{
	struct rig *r = machine(ALL, 4);
	const u32 pfns[] = { PFN(1), PFN(2), PFN(3) };
	struct vseg seg = { PAGE(10), 4 * PAGE_SIZE, true };
	struct seen s = { 0 };
	struct page_target t;

	memory_add_listener(r->board.mem, &(struct memory_listener){ .page_written = on_write, .opaque = &s });
	memory_page(r->board.mem, PAGE(2), &t);
	*t.flags |= PAGE_CODE_DBT;
	memory_page(r->board.mem, PAGE(12), &t);
	*t.flags |= PAGE_CODE_INTERP;
	vrig_request(r, 0, pfns, sizeof(pfns), NULL, 0);
	assert_int_equal(s.count, 1);
	assert_int_equal(s.gpa[0], PAGE(2));
	vrig_add(r, 3, &seg, 1);
	vrig_kick(r, 3);
	assert_int_equal(s.count, 2);
	assert_int_equal(s.gpa[1], PAGE(12));
	memory_remove_listener(r->board.mem, &s);
	rig_destroy(r);
}

static struct device *make(struct rig *r)
{
	return vrig_init(r, create);
}

/* Saved amid a long request, with statistics waiting. */
static void poke(struct rig *r, struct device *d)
{
	gpa_t a;

	vrig_start(r, ALL, 4, 16);
	vrig_write(r, CONFIG_ACTUAL, 5, 4);
	a = vrig_alloc(r, 64);
	vrig_add(r, 2, &(struct vseg){ a, put_stats(r, a, 1, 2), false }, 1);
	vrig_kick(r, 2);
	add_long(r);
	vrig_kick(r, 0);
	rig_pass(r, 1500);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

/* What was saved amid a request ends in the other machine. */
static void goes_on(void **state)
{
	struct rig *a = machine(ALL, 4), *b = rig_create();
	struct device *d = make(b);
	struct encoder e;

	add_long(a);
	vrig_kick(a, 0);
	e = rig_save(vrig(a)->dev);
	memcpy(vrig_ptr(b, 0), vrig_ptr(a, 0), 2 * MiB);
	assert_int_equal(rig_check(d, e.data, e.len), 0);
	rig_load(d, e.data, e.len);
	memcpy(vrig(b)->queue, vrig(a)->queue, sizeof(vrig(a)->queue));
	rig_pass(b, 1000000);
	assert_true(is(b, 200, 0));
	assert_true(vrig_used(b, 0, NULL, NULL));
	enc_free(&e);
	rig_destroy(a);
	rig_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inflating), cmocka_unit_test(edge),	cmocka_unit_test(reporting_queues),
		cmocka_unit_test(poison),    cmocka_unit_test(turns),	cmocka_unit_test(statistics),
		cmocka_unit_test(target),    cmocka_unit_test(code),	cmocka_unit_test(statistics_first),
		cmocka_unit_test(roundtrip), cmocka_unit_test(goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
