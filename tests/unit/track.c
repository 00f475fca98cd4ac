/*
 * Tracks of written frames: what each way to write RAM notes, several tracks,
 * hooks, processors and users at once. The measure is a copy of RAM: a frame
 * that differs from it must have been noted.
 */
#include "flat_rig.h"

#include <pthread.h>
#include <sys/mman.h>

#include "base/world.h"
#include "mem/track.h"

#define FRAMES (16 * MiB >> PAGE_SHIFT)
#define WORDS (FRAMES / 64)

static u64 bitmap[WORDS];

/* An engine's part. */
static void armed(void *opaque, bool on)
{
	if (on)
		mmu_drop_writes(opaque);
}

static struct track *start(struct rig *r)
{
	struct error e;

	memory_remove_listener(r->v.mem, &r->v);
	memory_add_listener(r->v.mem, &(struct memory_listener){ .opaque = &r->v, .track_armed = armed });
	struct track *t = track_start(r->v.mem, NULL, NULL, &e);

	if (!t)
		fail_msg("%s", e.text);
	return t;
}

/* Exactly the frames given (up to -1) are noted; they are armed again. */
static void expect_noted(struct track *t, const int *frame)
{
	unsigned n = 0;

	memset(bitmap, 0, sizeof(bitmap));
	for (; frame[n] >= 0; n++)
		assert_true(track_noted(t, (u64)frame[n]));
	assert_int_equal(track_noted_count(t), n);
	assert_int_equal(track_harvest(t, bitmap, true), n);
	for (unsigned i = 0; i < n; i++)
		assert_true(bitmap[frame[i] / 64] >> (frame[i] % 64) & 1);
	assert_int_equal(track_noted_count(t), 0);
}
#define EXPECT(t, ...) expect_noted(t, (const int[]){ __VA_ARGS__ __VA_OPT__(, ) - 1 })

/* ---- each way ---- */

static void physical(void **state)
{
	struct rig *r = *state;
	struct memory *m = r->v.mem;
	struct track *t;
	static u8 buf[3 * 4096];

	memory_write(m, 0x9000, buf, 100);
	assert_false(track_any(m));
	t = start(r);
	assert_true(track_any(m));
	EXPECT(t);
	memory_write(m, 0x5000, buf, 1);
	EXPECT(t, 5);
	EXPECT(t);
	memory_write(m, 0x5fff, buf, 2);
	memory_write(m, 0x10000 - 1, buf, 0x2002);
	memory_read(m, 0x40000, buf, 0x1000);
	EXPECT(t, 5, 6, 15, 16, 17, 18);
	/* through the aliases it is the same frame */
	memory_write(m, GiB + 0x7008, buf, 8);
	EXPECT(t, 7);
	/* a pointer to write notes, and so does the end of the transfer; one to read does not */
	assert_non_null(memory_ptr(m, 0x20ff0, 0x20, false));
	EXPECT(t);
	assert_non_null(memory_ptr(m, 0x20ff0, 0x20, true));
	EXPECT(t, 0x20, 0x21);
	memory_notify_written(m, 0x20ff0, 0x20);
	EXPECT(t, 0x20, 0x21);
	assert_int_equal(memory_discard(m, 0x30000, 0x3000), 0);
	EXPECT(t, 0x30, 0x31, 0x32);
	/* the ends of RAM, holes and numbers beyond */
	memory_write(m, 16 * MiB - 8, buf, 16);
	memory_write(m, 0, buf, 1);
	track_note(m, FRAMES, 5);
	track_note(m, FRAMES - 2, UINT64_MAX);
	track_note(m, UINT64_MAX, 3);
	assert_false(track_noted(t, FRAMES));
	assert_false(track_noted(t, UINT64_MAX));
	assert_false(track_claim(t, FRAMES));
	EXPECT(t, 0, FRAMES - 2, FRAMES - 1);
	track_stop(t);
	assert_false(track_any(m));
	memory_write(m, 0x5000, buf, 1);
}

/* Memory that is not RAM of the machine is nobody's frame. */
static void foreign(void **state)
{
	static u8 host[0x2000] __attribute__((aligned(4096)));
	struct rig *r = *state;
	struct track *t = start(r);

	memory_map_host(r->v.mem, 32 * MiB, host, sizeof(host), REGION_RAM, 1, "foreign");
	memory_write(r->v.mem, 32 * MiB + 0x1000, "x", 1);
	memory_write(r->v.mem, 0xfffff000, "x", 1);
	assert_int_equal(host[0x1000], 'x');
	EXPECT(t);
	track_stop(t);
}

/* After a write went through entries that let it, a harvest takes them away. */
static void by_processor(void **state)
{
	struct rig *r = *state;
	struct track *t;
	u64 val = 1;
	int table;

	r->v.cpu.cr0 |= CR0_WP;
	mmu_mode_changed(&r->v);
	rig_map(r, USER, 1, 0x5000 | E_P | E_W);
	table = (int)(rig_map(r, USER + PAGE_SIZE, 1, 0x6000 | E_P | E_W) >> PAGE_SHIFT);
	rig_map(r, FAR, 1, 0x5000 | E_P | E_W);
	/* there are write entries before, and accessed and dirty bits; but for the dirty bit of the second page */
	assert_int_equal(mmu_write(&r->v, USER, &val, 8) | mmu_write(&r->v, FAR, &val, 8), 0);
	assert_int_equal(mmu_read(&r->v, USER + PAGE_SIZE, &val, 8), 0);
	t = start(r);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(mmu_read(&r->v, USER, &val, 8), 0);
		EXPECT(t);
		assert_int_equal(mmu_write(&r->v, USER, &val, 8), 0);
		assert_int_equal(mmu_write(&r->v, USER + 8, &val, 8), 0);
		EXPECT(t, 5);
		assert_int_equal(mmu_write(&r->v, FAR, &val, 8), 0);
		EXPECT(t, 5);
		assert_int_equal(lin_or8(&r->v, USER, 1, LIN_CPL), 0);
		EXPECT(t, 5);
		assert_int_equal(lin_probe_write(&r->v, USER, 8, LIN_CPL), 0);
		EXPECT(t, 5);
	}
	/* that one is written to a table */
	assert_int_equal(mmu_write(&r->v, USER + PAGE_SIZE - 4, &val, 8), 0);
	EXPECT(t, 5, 6, table);
	track_stop(t);
}

/* Accessed and dirty bits, each in the tables' own frames. */
static void page_walks(void **state)
{
	struct rig *r = *state;
	struct track *t;
	u64 val = 0;
	int table[5];

	rig_map(r, KERN, 1, 0x5000 | E_P | E_W);
	for (unsigned l = 1; l <= 4; l++)
		table[l] = (int)(r->entry[l] >> PAGE_SHIFT);
	t = start(r);
	assert_int_equal(mmu_read(&r->v, KERN, &val, 8), 0);
	EXPECT(t, table[1], table[2], table[3], table[4]);
	assert_int_equal(mmu_read(&r->v, KERN, &val, 8), 0);
	EXPECT(t);
	assert_int_equal(mmu_write(&r->v, KERN, &val, 8), 0);
	EXPECT(t, 5, table[1]);
	/* what faults leaves no mark */
	r->v.cpu.cr0 |= CR0_WP;
	mmu_mode_changed(&r->v);
	rig_map(r, KERN + PAGE_SIZE, 1, 0x6000 | E_P);
	track_harvest(t, NULL, true);
	assert_int_equal(mmu_write(&r->v, KERN + PAGE_SIZE, &val, 8), FAULT);
	EXPECT(t);
	track_stop(t);
}

static void flat_entries(void **state)
{
	struct rig *r = *state;
	struct track *t;
	const u8 *base;

	needs_tables();
	rig_cpl(r, 3);
	base = r->v.mmu->flat_base;
	for (unsigned i = 0; i < 20; i++)
		rig_map(r, USER + i * PAGE_SIZE, 1, (0x40000 + i * PAGE_SIZE) | E_ALL | E_A | E_D);
	rig_map(r, FAR & ~(2 * MiB - 1), 2, 0x400000 | E_ALL | E_PS | E_A | E_D);
	assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FILLED);
	assert_true(has(base, USER + PAGE_SIZE, MMU_WRITE)); /* neighbours are filled */
	assert_int_equal(miss(r, FAR, MMU_WRITE), FLAT_FILLED);
	t = start(r);
	for (unsigned n = 0; n < 3; n++) {
		/* a read fills read entries around, no write entries */
		assert_int_equal(miss(r, USER, MMU_READ), FLAT_FILLED);
		assert_true(has(base, USER + PAGE_SIZE, MMU_READ));
		assert_false(has(base, USER, MMU_WRITE));
		assert_false(has(base, USER + PAGE_SIZE, MMU_WRITE));
		EXPECT(t);
		assert_int_equal(miss(r, USER + 2 * PAGE_SIZE, MMU_WRITE), FLAT_FILLED);
		assert_true(has(base, USER + 2 * PAGE_SIZE, MMU_WRITE));
		assert_false(has(base, USER + 3 * PAGE_SIZE, MMU_WRITE));
		/* neighbours that are noted already come along */
		assert_int_equal(miss(r, USER, MMU_WRITE), FLAT_FILLED);
		assert_true(has(base, USER + 2 * PAGE_SIZE, MMU_WRITE));
		EXPECT(t, 0x40, 0x42);
		assert_false(has(base, USER + 2 * PAGE_SIZE, MMU_WRITE));
		assert_true(has(base, USER + 2 * PAGE_SIZE, MMU_READ));
		/* of a large page only the frame written */
		assert_int_equal(miss(r, FAR, MMU_WRITE), FLAT_FILLED);
		assert_true(has(base, FAR, MMU_WRITE));
		assert_true(has(base, FAR + PAGE_SIZE, MMU_READ));
		assert_false(has(base, FAR + PAGE_SIZE, MMU_WRITE));
		EXPECT(t, (int)((0x400000 + (FAR & (2 * MiB - 1))) >> PAGE_SHIFT));
	}
	track_stop(t);
	/* and without a track all is as before */
	assert_int_equal(miss(r, FAR, MMU_WRITE), FLAT_FILLED);
	assert_true(has(base, FAR + PAGE_SIZE, MMU_WRITE));
}

/* Frames with decoded code, which have a slow path of their own. */
static void code_frames(void **state)
{
	struct rig *r = *state;
	struct page_target pt;
	struct track *t;
	gpa_t gpa;
	u8 *host;
	u64 val = 0;

	needs_tables();
	rig_map(r, KERN, 1, 0x5000 | E_P | E_W | E_A | E_D);
	memory_page(r->v.mem, 0x5000, &pt);
	*pt.flags |= PAGE_CODE_DBT;
	assert_int_equal(mmu_read(&r->v, KERN, &val, 8), 0);
	t = start(r);
	track_harvest(t, NULL, true);
	assert_int_equal(mmu_write(&r->v, KERN, &val, 8), 0);
	EXPECT(t, 5);
	u64 gen = r->v.mmu->gen;
	assert_true(flat_code_target(&r->v, KERN, &gpa, &host));
	EXPECT(t, 5);
	assert_true(r->v.mmu->gen != gen); /* what the engine lets through by it is out of date */
	assert_int_equal(mmu_write(&r->v, KERN, &val, 8), 0);
	EXPECT(t, 5);
	track_stop(t);
}

/* ---- users ---- */

static void several(void **state)
{
	struct rig *r = *state;
	struct memory *m = r->v.mem;
	struct track *a = start(r), *b, *more[TRACKS_MAX];
	struct error e;

	memory_write(m, 0x1000, "x", 1);
	b = start(r);
	memory_write(m, 0x1000, "x", 1);
	memory_write(m, 0x2000, "x", 1);
	EXPECT(a, 1, 2);
	/* b's frames are noted still, a's are armed */
	memory_write(m, 0x2000, "x", 1);
	EXPECT(a, 2);
	assert_true(track_noted(b, 1) && track_noted(b, 2));
	assert_int_equal(track_harvest(b, NULL, false), 2);
	assert_int_equal(track_harvest(b, NULL, true), 2);
	memory_write(m, 0x3000, "x", 1);
	track_stop(a);
	memory_write(m, 0x4000, "x", 1);
	EXPECT(b, 3, 4);
	for (unsigned i = 1; i < TRACKS_MAX; i++)
		more[i] = start(r);
	assert_null(track_start(m, NULL, NULL, &e));
	assert_non_null(strstr(e.text, "tracked by 4 others"));
	memory_write(m, 0x5000, "x", 1);
	track_stop(b);
	for (unsigned i = 1; i < TRACKS_MAX; i++) {
		EXPECT(more[i], 5);
		track_stop(more[i]);
	}
	track_stop(NULL);
	assert_false(track_any(m));
}

static void shared_ram(void **state)
{
	struct memory *m = memory_create_as(MiB, MEMORY_SHARED, NULL);
	struct error e;

	assert_null(track_start(m, NULL, NULL, &e));
	assert_non_null(strstr(e.text, "cannot be tracked"));
	memory_destroy(m);
	/* what is left of a track goes with the memory */
	m = memory_create(MiB, NULL);
	assert_non_null(track_start(m, NULL, NULL, &e));
	track_stop(track_start(m, NULL, NULL, &e));
	memory_destroy(m);
}

struct old {
	unsigned calls;
	u64 frame;
	u8 byte;
};

static void see_old(void *opaque, u64 frame, const u8 *page)
{
	struct old *o = opaque;

	o->calls++;
	o->frame = frame;
	o->byte = page[8];
}

static void hooks(void **state)
{
	struct rig *r = *state;
	struct old o = { 0 };
	struct error e;
	u64 val = ~0ull;

	rig_map(r, KERN, 1, 0x5000 | E_P | E_W | E_A | E_D);
	r->ram[0x5008] = 0x11;
	r->ram[0x6008] = 0x22;
	struct track *t = track_start(r->v.mem, see_old, &o, &e);

	assert_int_equal(mmu_write(&r->v, KERN + 8, &val, 8), 0);
	/* the walk's own tables come first */
	assert_true(o.calls >= 1 && o.frame == 5 && o.byte == 0x11);
	o.calls = 0;
	assert_int_equal(mmu_write(&r->v, KERN + 8, &val, 8), 0);
	assert_int_equal(o.calls, 0);
	memory_write(r->v.mem, 0x6000, &val, 8);
	assert_true(o.calls == 1 && o.frame == 6 && o.byte == 0x22);
	memory_write(r->v.mem, 0x6008, &val, 8);
	assert_int_equal(o.calls, 1);
	/* claimed: no hook */
	assert_true(track_claim(t, 7));
	assert_false(track_claim(t, 7));
	assert_false(track_claim(t, 6));
	memory_write(r->v.mem, 0x7000, &val, 8);
	assert_int_equal(o.calls, 1);
	r->ram[0x8008] = 0x33;
	assert_int_equal(memory_discard(r->v.mem, 0x8000, 0x1000), 0);
	assert_true(o.calls == 2 && o.frame == 8 && o.byte == 0x33);
	track_stop(t);
}

/* ---- at once ---- */

#define THREADS 4u
#define ROUNDS 60u

static struct {
	struct world world;
	struct memory *m;
	_Atomic bool end;
	_Atomic u32 asked[THREADS + 1];
	_Atomic u64 writes, quota;
} at_once;

static void kick(void *opaque, unsigned who)
{
	at_once.asked[who] = 1;
}

/* Writes anywhere: as a processor does, inside the world, where frames that are noted need no further look; and as a
 * device, through pointers. */
static void *writer(void *arg)
{
	unsigned who = (unsigned)(uintptr_t)arg;
	u64 x = 0x9e3779b97f4a7c15ull * who;

	world_enter(&at_once.world, who);
	while (!at_once.end) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		/* half of them in few frames, so that threads meet */
		u64 at = x & 1 ? (x >> 8) % (16 * MiB - 64) : (x >> 8) % (8 * PAGE_SIZE), n = 1 + (x >> 40) % 40;

		if (x & 2) {
			memory_write(at_once.m, at, &x, MIN(n, 8));
		} else {
			u8 *p = memory_ptr(at_once.m, at, n, true);

			for (u64 i = 0; i < n; i++)
				__atomic_store_n(&p[i], (u8)x, __ATOMIC_RELAXED);
			memory_notify_written(at_once.m, at, (unsigned)n);
		}
		if (++at_once.writes >= at_once.quota || atomic_exchange(&at_once.asked[who], 0)) {
			world_leave(&at_once.world, who);
			while (at_once.writes >= at_once.quota && !at_once.end)
				sched_yield();
			world_enter(&at_once.world, who);
		}
	}
	world_leave(&at_once.world, who);
	return NULL;
}

static void begin(struct rig *r, pthread_t *thread)
{
	at_once.m = r->v.mem;
	at_once.end = false;
	at_once.writes = at_once.quota = 0;
	world_init(&at_once.world, THREADS + 1, kick, NULL);
	memory_set_world(r->v.mem, &at_once.world);
	world_self = 0;
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, writer, (void *)(uintptr_t)(i + 1)), 0);
}

static void finish(struct rig *r, pthread_t *thread)
{
	at_once.end = true;
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	memory_set_world(r->v.mem, NULL);
	world_destroy(&at_once.world);
}

/* Let `n` writes happen; this thread sees some of them happen, not all have. */
static void let_write(u64 n)
{
	at_once.quota += n;
	while (at_once.writes + n / 2 < at_once.quota)
		sched_yield();
}

/* Each harvest holds all that changed since the last, and not much else. */
static void harvests(void **state)
{
	struct rig *r = *state;
	u8 *copy = malloc(16 * MiB);
	pthread_t thread[THREADS];
	struct track *t = start(r);
	u64 noted = 0, changed = 0;

	memcpy(copy, r->ram, 16 * MiB);
	begin(r, thread);
	for (unsigned n = 0; n < ROUNDS; n++) {
		let_write(200);
		world_stop(&at_once.world, 0);
		memset(bitmap, 0, sizeof(bitmap));
		noted += track_harvest(t, bitmap, true);
		for (u64 f = 0; f < FRAMES; f++) {
			if (!memcmp(copy + f * PAGE_SIZE, r->ram + f * PAGE_SIZE, PAGE_SIZE))
				continue;
			if (!(bitmap[f / 64] >> (f % 64) & 1))
				fail_msg("round %u: frame %llu differs and was not noted", n, (unsigned long long)f);
			memcpy(copy + f * PAGE_SIZE, r->ram + f * PAGE_SIZE, PAGE_SIZE);
			changed++;
		}
		world_go(&at_once.world, 0);
	}
	finish(r, thread);
	assert_true(changed > ROUNDS * 50 && noted < changed + changed / 4 + 100);
	track_stop(t);
	free(copy);
}

/* A snapshot of what RAM held at the start, written while others write. */
static void snapshots(void **state)
{
	struct rig *r = *state;
	u8 *copy = malloc(16 * MiB), *image = malloc(16 * MiB), *old;
	pthread_t thread[THREADS];
	u64 mine = 0, theirs = 0;
	struct error e;

	old = mmap(NULL, 16 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	begin(r, thread);
	for (unsigned n = 0; n < 8; n++) {
		let_write(500);
		world_stop(&at_once.world, 0);
		struct track *t = track_start(r->v.mem, track_copy_out, old, &e);

		memcpy(copy, r->ram, 16 * MiB);
		world_go(&at_once.world, 0);
		assert_non_null(t);
		for (u64 f = 0; f < FRAMES; f++) {
			memcpy(image + f * PAGE_SIZE, r->ram + f * PAGE_SIZE, PAGE_SIZE);
			if (track_claim(t, f)) {
				mine++;
			} else {
				theirs++;
				memcpy(image + f * PAGE_SIZE, old + f * PAGE_SIZE, PAGE_SIZE);
			}
			if (f % 256 == 0)
				let_write(20);
		}
		track_stop(t);
		for (u64 f = 0; f < FRAMES; f++)
			if (memcmp(copy + f * PAGE_SIZE, image + f * PAGE_SIZE, PAGE_SIZE))
				fail_msg("snapshot %u: frame %llu is not of its time", n, (unsigned long long)f);
	}
	finish(r, thread);
	assert_true(mine > FRAMES && theirs > 100);
	munmap(old, 16 * MiB);
	free(copy);
	free(image);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FLAT_TEST(physical),	 FLAT_TEST(foreign),	 FLAT_TEST(by_processor), FLAT_TEST(page_walks),
		FLAT_TEST(flat_entries), FLAT_TEST(code_frames), FLAT_TEST(several),	  cmocka_unit_test(shared_ram),
		FLAT_TEST(hooks),	 FLAT_TEST(harvests),	 FLAT_TEST(snapshots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
