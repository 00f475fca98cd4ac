/* Tracks of written granules and copies of one moment, on real images, against a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../block/rig.h"
#include "backend/block/copy.h"
#include "base/host_time.h"

static char path[] = "/var/tmp/ectype-test-track-XXXXXX";
static char base[64], top[64];

#define DISK (8 * MiB + 24 * KiB) /* the last granule is a short one */

static int setup(void **state)
{
	int fd = mkstemp(path);

	snprintf(base, sizeof(base), "%s.base", path);
	snprintf(top, sizeof(top), "%s.qcow2", path);
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	unlink(base);
	unlink(top);
	return unlink(path);
}

enum kind { RAW, RAW_DIRECT, RAW_THREADS, QCOW2, QCOW2_SMALL, KINDS };

static struct block *open_kind(enum kind kind, u64 size)
{
	struct qcow2_create_config lower = { .path = base, .size = size - MiB, .overwrite = true },
				   upper = { .path = top, .size = size, .backing_file = base, .overwrite = true };
	struct block_config c = { .path = kind >= QCOW2 ? top : path };
	struct error e = { "" };
	struct block *b;

	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(truncate(path, (off_t)size), 0);
	if (kind >= QCOW2) {
		u8 *some = malloc(MiB);

		memset(some, 0x5a, MiB);
		assert_int_equal(qcow2_create(&lower, &e), 0);
		b = block_open(&(struct block_config){ .path = base }, &e);
		assert_int_equal(rig_io(b, BLOCK_WRITE, 2 * MiB + 512, MiB, some), 0);
		assert_int_equal(block_close(b), 0);
		upper.cluster_size = kind == QCOW2_SMALL ? 4096 : 0;
		assert_int_equal(qcow2_create(&upper, &e), 0);
		free(some);
	}
	c.cache = kind == RAW_DIRECT ? BLOCK_CACHE_NONE : BLOCK_CACHE_UNSAFE;
	c.threads = kind == RAW_THREADS;
	b = block_open(&c, &e);
	if (!b)
		fprintf(stderr, "%s\n", e.text);
	assert_non_null(b);
	return b;
}

static u8 *content_of(struct block *b)
{
	u8 *model = malloc(block_size(b));

	assert_int_equal(block_read_now(b, 0, model, block_size(b)), 0);
	return model;
}

/* ---- tracks ---- */

static void note_model(u8 *noted, const struct block_request *r)
{
	for (u64 n = r->offset / BLOCK_GRANULE; n * BLOCK_GRANULE < r->offset + r->length; n++)
		noted[n] = 1;
}

static void test_notes(void **state)
{
	struct block *b = open_kind(QCOW2, DISK);
	u64 granules = block_granules(b), seed = 7, map[3];
	u8 *noted = calloc(granules, 1), *all = calloc(granules, 1), *buf = calloc(1, 300 * KiB);
	struct error e;
	struct block_track *t = block_track_start(b, NULL, NULL, &e), *whole = block_track_start(b, NULL, NULL, &e);

	assert_int_equal(granules, 129);
	assert_int_equal(block_track_words(b), 3);
	for (unsigned round = 0; round < 400; round++) {
		static const enum block_op ops[] = { BLOCK_WRITE, BLOCK_READ, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };
		u64 length = (1 + rig_random(&seed) % 500) * 512,
		    offset = rig_random(&seed) % ((DISK - length) / 512) * 512, count = 0;
		struct op o;

		op_init(&o, ops[rig_random(&seed) % 4], offset, length, buf, false);
		block_submit(b, &o.r);
		block_drain(b);
		assert_int_equal(o.error, 0);
		if (o.r.op != BLOCK_READ) {
			note_model(noted, &o.r);
			note_model(all, &o.r);
		}
		if (rig_random(&seed) % 4)
			continue;
		memset(map, 0, sizeof(map));
		for (u64 n = 0; n < granules; n++) {
			assert_int_equal(block_track_noted(t, n), noted[n]);
			count += noted[n];
		}
		assert_int_equal(block_track_count(t), count);
		assert_int_equal(block_track_harvest(t, map, round % 2), count);
		for (u64 n = 0; n < 192; n++)
			assert_int_equal(map[n / 64] >> n % 64 & 1, n < granules && noted[n]);
		if (round % 2)
			memset(noted, 0, granules);
	}
	for (u64 n = 0; n < granules; n++)
		assert_int_equal(block_track_noted(whole, n), all[n]);
	block_track_stop(t);
	block_track_stop(whole);
	assert_int_equal(block_close(b), 0);
	free(noted);
	free(all);
	free(buf);
}

static void test_users(void **state)
{
	struct block *b = open_kind(RAW, DISK);
	struct block_track *t[BLOCK_TRACKS_MAX];
	struct error e;
	u8 sector[512] = { 1 };

	for (unsigned i = 0; i < BLOCK_TRACKS_MAX; i++)
		assert_non_null(t[i] = block_track_start(b, NULL, NULL, &e));
	assert_null(block_track_start(b, NULL, NULL, &e));
	assert_int_equal(rig_io(b, BLOCK_WRITE, DISK, 512, sector), EINVAL);
	assert_int_equal(block_track_count(t[0]), 0);
	block_track_stop(t[1]);
	assert_non_null(t[1] = block_track_start(b, NULL, NULL, &e));
	assert_int_equal(rig_io(b, BLOCK_WRITE, DISK - 512, 512, sector), 0);
	for (unsigned i = 0; i < BLOCK_TRACKS_MAX; i++) {
		assert_int_equal(block_track_count(t[i]), 1);
		assert_true(block_track_noted(t[i], 128));
		assert_false(block_track_claim(t[i], 128, 1));
		assert_true(block_track_claim(t[i], 127, 100));
		block_track_stop(t[i]);
	}
	assert_int_equal(block_close(b), 0);
}

/* Holds everything back, until it is told otherwise. */
struct gate {
	atomic_bool open;
	atomic_uint asked;
};

static u64 at_gate(void *opaque, u64 first, u64 n)
{
	struct gate *g = opaque;

	g->asked++;
	return g->open ? n : 0;
}

/* What is in flight while its granules are harvested is noted again. */
static void test_in_flight(void **state)
{
	struct block *b = open_kind(RAW, DISK);
	struct gate gate = { false };
	struct error e;
	struct block_track *plain = block_track_start(b, NULL, NULL, &e),
			   *gated = block_track_start(b, at_gate, &gate, &e);
	u8 buf[1024] = { 1 };
	struct op o;

	op_init(&o, BLOCK_WRITE, BLOCK_GRANULE - 512, 1024, buf, false);
	block_submit(b, &o.r);
	assert_int_equal(block_track_harvest(plain, NULL, true), 2);
	while (!gate.asked)
		usleep(100);
	assert_int_equal(o.error, -1);
	assert_int_equal(block_track_count(plain), 0);
	gate.open = true;
	block_track_wake(gated);
	block_drain(b);
	assert_int_equal(o.error, 0);
	assert_int_equal(block_track_count(plain), 2);
	assert_int_equal(block_track_count(gated), 2);
	/* noted already: the hook is not asked again */
	gate.asked = 0;
	assert_int_equal(rig_io(b, BLOCK_WRITE, 0, 512, buf), 0);
	assert_int_equal(gate.asked, 0);
	/* and a track that goes lets what waits for it go on */
	gate.open = false;
	op_init(&o, BLOCK_DISCARD, 0, MiB, NULL, false);
	block_submit(b, &o.r);
	while (!gate.asked)
		usleep(100);
	block_track_stop(gated);
	block_drain(b);
	assert_int_equal(o.error, 0);
	block_track_stop(plain);
	assert_int_equal(block_close(b), 0);
}

/* ---- copies ---- */

struct writer {
	struct block *b;
	u8 *model;
	u64 seed;
	unsigned rounds;
	atomic_bool done, ok;
};

static void *write_on(void *opaque)
{
	struct writer *w = opaque;

	w->ok = rig_run(w->b, w->model, w->seed, w->rounds, RIG_MAX);
	w->done = true;
	return NULL;
}

/* Reads all of a copy over what `out` holds: 0, or -1 with *e. Pieces come once each. */
static int read_copy_over(struct block_copy *c, u64 size, u8 *out, unsigned pause_us, struct error *e)
{
	u8 *piece = malloc(BLOCK_COPY_PIECE), *seen = calloc(size / BLOCK_GRANULE + 1, 1);
	u64 offset, n;
	int ret;

	while ((ret = block_copy_next(c, &offset, piece, &n, e)) > 0) {
		if (!n)
			continue;
		assert_true(n <= BLOCK_COPY_PIECE && offset <= size && n <= size - offset);
		assert_false(seen[offset / BLOCK_GRANULE]++);
		memcpy(out + offset, piece, n);
		if (pause_us)
			usleep(pause_us);
	}
	free(piece);
	free(seen);
	return ret;
}

static int read_copy(struct block_copy *c, u64 size, u8 *out, unsigned pause_us, struct error *e)
{
	memset(out, 0, size);
	return read_copy_over(c, size, out, pause_us, e);
}

static struct block_file file_of(const char *name)
{
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	return (struct block_file){ st.st_dev, st.st_ino };
}

/* What a disk of DISK bytes has that is backed by `name` and empty. */
static void read_base(const char *name, u8 *out)
{
	struct error e = { "" };
	struct block *b = block_open(&(struct block_config){ .path = name, .readonly = true }, &e);

	assert_non_null(b);
	memset(out, 0, DISK);
	assert_int_equal(block_read_now(b, 0, out, block_size(b)), 0);
	assert_int_equal(block_close(b), 0);
}

/* `above`: the copy is of what the overlay has, and is put over its backing file. */
static void copy_while_written(enum kind kind, bool above, u64 seed, unsigned pause_us)
{
	struct block *b = open_kind(kind, DISK);
	u8 *model = content_of(b), *then, *out = malloc(DISK);
	struct writer w = { .b = b, .model = model, .seed = seed, .rounds = 60 };
	struct block_copy *c;
	struct error e = { "" };
	pthread_t thread;

	assert_true(rig_run(b, model, seed + 1, 40, RIG_MAX));
	for (unsigned round = 0; round < 4; round++) {
		then = malloc(DISK);
		memcpy(then, model, DISK);
		if (above) {
			struct block_file file = file_of(base);

			assert_true(block_builds_on(b, &file, 1));
			read_base(base, out);
			c = block_copy_start(b, &file, &e);
		} else {
			memset(out, 0, DISK);
			c = block_copy_start(b, NULL, &e);
		}
		assert_non_null(c);
		assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
		if (round == 3)
			usleep(3000);
		else
			assert_int_equal(read_copy_over(c, DISK, out, pause_us, &e), 0);
		if (round != 3)
			assert_memory_equal(out, then, DISK);
		block_copy_end(c);
		pthread_join(thread, NULL);
		assert_true(w.ok);
		w.seed += 10;
		free(then);
	}
	assert_true(rig_same(b, model));
	assert_int_equal(block_close(b), 0);
	free(model);
	free(out);
}

static void test_copies(void **state)
{
	for (enum kind kind = 0; kind < KINDS; kind++)
		for (u64 seed = 1; seed < 4; seed++)
			copy_while_written(kind, false, seed * 100 + kind, (unsigned)seed * 60 - 60);
	for (enum kind kind = QCOW2; kind < KINDS; kind++)
		for (u64 seed = 1; seed < 4; seed++)
			copy_while_written(kind, true, seed * 200 + kind, (unsigned)seed * 60 - 60);
}

/* Pieces that come of a copy of what lies above `below`, all of them zeros or not. */
static void expect_pieces(struct block *b, const struct block_file *below, const u64 *offsets, unsigned n, bool zeros)
{
	struct error e = { "" };
	struct block_copy *c = block_copy_start(b, below, &e);
	u8 *piece = malloc(BLOCK_COPY_PIECE);
	u64 offset, len;

	assert_non_null(c);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(block_copy_next(c, &offset, piece, &len, &e), 1);
		assert_int_equal(offset, offsets[i]);
		assert_int_equal(len, BLOCK_GRANULE);
		assert_int_equal(!piece[0] && !memcmp(piece, piece + 1, len - 1), zeros);
	}
	assert_int_equal(block_copy_next(c, &offset, piece, &len, &e), 0);
	block_copy_end(c);
	free(piece);
}

/* What the overlay has of its own comes, and nothing else; where it hides what is below, zeros. */
static void test_above(void **state)
{
	const u64 offsets[] = { 2 * MiB };
	struct block *b = open_kind(QCOW2, DISK);
	struct block_file file = file_of(base), other = file_of(path);
	u64 end;

	assert_false(block_builds_on(b, &other, 1));
	assert_false(block_builds_on(b, (struct block_file[]){ file, other }, 2));
	assert_false(block_builds_on(b, NULL, 0));
	expect_pieces(b, &file, offsets, 0, false);
	/* a file that is not in the chain: all is above it */
	assert_int_equal(block_next_above(b, &other, 5 * MiB, &end), 5 * MiB);
	assert_int_equal(block_zero_now(b, 2 * MiB, BLOCK_GRANULE), 0);
	expect_pieces(b, &file, offsets, 1, true);
	/* zeros where there is nothing below need no cluster */
	assert_int_equal(block_zero_now(b, DISK - 24 * KiB - BLOCK_GRANULE, BLOCK_GRANULE), 0);
	expect_pieces(b, &file, offsets, 1, true);
	assert_int_equal(block_close(b), 0);
}

/* Three images, the one in the middle the shortest: what lies above the lowest is also what it cuts off. */
static void test_above_in_chain(void **state)
{
	const struct qcow2_create_config
	    upper = { .path = top, .size = 4 * MiB, .backing_file = base, .overwrite = true },
	    middle = { .path = base, .size = 2 * MiB, .backing_file = path, .overwrite = true };
	struct block_file files[2];
	struct error e = { "" };
	u8 some[512] = { 1 };
	struct block *b;
	u64 end;

	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(truncate(path, 3 * MiB), 0);
	assert_int_equal(qcow2_create(&middle, &e), 0);
	b = block_open(&(struct block_config){ .path = base }, &e);
	assert_int_equal(block_write_now(b, MiB, some, sizeof(some)), 0);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(qcow2_create(&upper, &e), 0);
	b = block_open(&(struct block_config){ .path = top }, &e);
	assert_non_null(b);
	files[0] = file_of(base);
	files[1] = file_of(path);
	assert_true(block_builds_on(b, files, 2));
	assert_true(block_builds_on(b, files + 1, 1));
	assert_false(block_builds_on(b, files, 1));
	assert_false(block_builds_on(b, (struct block_file[]){ files[1], files[0] }, 2));
	assert_int_equal(block_next_above(b, &files[0], 0, &end), 4 * MiB);
	assert_int_equal(block_next_above(b, &files[1], 0, &end), MiB);
	assert_int_equal(end, MiB + BLOCK_GRANULE);
	assert_int_equal(block_next_above(b, &files[1], end, &end), 2 * MiB);
	assert_int_equal(end, 4 * MiB);
	assert_int_equal(block_write_now(b, 3 * MiB, some, sizeof(some)), 0);
	assert_int_equal(block_next_above(b, &files[0], 0, &end), 3 * MiB);
	assert_int_equal(end, 3 * MiB + BLOCK_GRANULE);
	assert_int_equal(block_close(b), 0);
}

#define LARGE (128 * MiB)
#define BURST (LARGE / MiB)

/* Every byte of the first `n` MiB is written over, a MiB a request. */
static struct op *burst(struct block *b, u8 *buf, unsigned n)
{
	struct op *ops = calloc(BURST, sizeof(*ops));

	for (unsigned i = 0; i < n; i++) {
		op_init(&ops[i], BLOCK_WRITE, i * MiB, MiB, buf, false);
		block_submit(b, &ops[i].r);
	}
	return ops;
}

static unsigned count_done(const struct op *ops, unsigned n)
{
	unsigned done = 0;

	for (unsigned i = 0; i < n; i++)
		done += __atomic_load_n(&ops[i].error, __ATOMIC_RELAXED) == 0;
	return done;
}

/* As many as fit, until nothing changes any more. */
static unsigned settled(const struct op *ops, unsigned n)
{
	unsigned done = 0;

	for (unsigned still = 0; still < 20; still++) {
		unsigned more = count_done(ops, n);

		if (more != done)
			still = 0;
		done = more;
		usleep(5000);
	}
	return done;
}

static struct block *full_disk(u8 *buf)
{
	struct block *b = open_kind(RAW, LARGE);

	memset(buf, 0x11, MiB);
	for (unsigned i = 0; i < BURST; i++)
		assert_int_equal(rig_io(b, BLOCK_WRITE, i * MiB, MiB, buf), 0);
	memset(buf, 0x22, MiB);
	return b;
}

/* A disk of zeros that are there. */
static void test_zeros(void **state)
{
	u8 *buf = calloc(1, MiB), *out = malloc(LARGE);
	struct block *b = open_kind(RAW, LARGE);
	struct error e = { "" };
	struct block_copy *c;
	unsigned pieces = 0;
	u64 offset, n, found = 0;

	for (unsigned i = 0; i < BURST; i++)
		assert_int_equal(rig_io(b, BLOCK_WRITE, i * MiB, MiB, buf), 0);
	buf[7] = 1;
	assert_int_equal(rig_io(b, BLOCK_WRITE, LARGE - MiB, 512, buf), 0);
	c = block_copy_start(b, NULL, &e);
	for (int ret; (ret = block_copy_next(c, &offset, out, &n, &e)); pieces++) {
		assert_int_equal(ret, 1);
		assert_true(!n || (offset == LARGE - MiB && out[7] == 1));
		found += n;
	}
	assert_int_equal(found, BLOCK_GRANULE);
	assert_in_range(pieces, 10, 30);
	block_copy_end(c);
	assert_int_equal(block_close(b), 0);
	free(buf);
	free(out);
}

/* Without a reader no more is copied than there is room, and what finds none waits. */
static void test_room(void **state)
{
	u8 *buf = malloc(MiB), *out = malloc(LARGE);
	struct block *b = full_disk(buf);
	struct error e = { "" };
	struct block_copy *c = block_copy_start(b, NULL, &e);
	struct op *ops;

	assert_false(block_copy_urgent(c));
	ops = burst(b, buf, BURST);
	assert_in_range(settled(ops, BURST), 1, BLOCK_COPY_ROOM / MiB);
	assert_true(block_copy_urgent(c));
	assert_int_equal(read_copy(c, LARGE, out, 0, &e), 0);
	for (u64 i = 0; i < LARGE; i++)
		assert_int_equal(out[i], 0x11);
	block_drain(b);
	assert_int_equal(count_done(ops, BURST), BURST);
	block_copy_end(c);

	/* a copy that is given up lets them go */
	memset(buf, 0x33, MiB);
	c = block_copy_start(b, NULL, &e);
	free(ops);
	ops = burst(b, buf, BURST);
	settled(ops, BURST);
	block_copy_end(c);
	block_drain(b);
	assert_int_equal(count_done(ops, BURST), BURST);
	assert_int_equal(block_close(b), 0);
	free(ops);
	free(buf);
	free(out);
}

/* Who waits for the requests does not wait for a reader. */
static void test_drain(void **state)
{
	u8 *buf = malloc(MiB), *out = malloc(LARGE);
	struct block *b = full_disk(buf);
	struct error e = { "" };
	struct block_copy *c = block_copy_start(b, NULL, &e);
	struct op *ops = burst(b, buf, 40);
	u64 from = host_ns(), took;

	block_drain(b);
	took = host_ns() - from;
	assert_true(took < 900000000);
	assert_int_equal(count_done(ops, 40), 40);
	assert_int_equal(read_copy(c, LARGE, out, 0, &e), 0);
	for (u64 i = 0; i < LARGE; i++)
		assert_int_equal(out[i], 0x11);
	block_copy_end(c);
	free(ops);

	c = block_copy_start(b, NULL, &e);
	ops = burst(b, buf, BURST);
	from = host_ns();
	block_drain(b);
	took = host_ns() - from;
	assert_true(took > 900000000 && took < 5000000000);
	assert_int_equal(count_done(ops, BURST), BURST);
	assert_int_equal(read_copy(c, LARGE, out, 0, &e), -1);
	assert_non_null(strstr(e.text, "faster"));
	assert_int_equal(read_copy(c, LARGE, out, 0, &e), -1);
	block_copy_end(c);
	assert_int_equal(block_close(b), 0);
	free(ops);
	free(buf);
	free(out);
}

/* What cannot be read ends the copy, not the guest's write; by whomever it is found. */
static void test_read_error(void **state)
{
	u8 *buf = malloc(MiB), *out = malloc(LARGE);

	for (unsigned by_reader = 0; by_reader < 2; by_reader++) {
		struct block *b = full_disk(buf);
		struct error e = { "" };
		struct block_copy *c;

		/* the file was cut by somebody, and what is behind it is no hole */
		c = block_copy_start(b, NULL, &e);
		if (by_reader) {
			u64 offset, n;

			assert_int_equal(block_copy_next(c, &offset, buf, &n, &e), 1);
			assert_int_equal(truncate(path, MiB), 0);
		} else {
			assert_int_equal(truncate(path, 100 * MiB + 512), 0);
			assert_int_equal(rig_io(b, BLOCK_WRITE, 100 * MiB, 512, buf), 0);
		}
		assert_int_equal(read_copy(c, LARGE, out, 0, &e), -1);
		assert_non_null(strstr(e.text, "cannot be read"));
		assert_int_equal(rig_io(b, BLOCK_WRITE, 0, MiB, buf), 0);
		assert_int_equal(rig_io(b, BLOCK_WRITE, 101 * MiB, MiB, buf), 0);
		block_copy_end(c);
		assert_int_equal(block_close(b), 0);
	}
	free(buf);
	free(out);
}

/* ---- content ---- */

static void test_content(void **state)
{
	static const u8 zero[2 * BLOCK_GRANULE];
	u64 end;

	for (enum kind kind = 0; kind < KINDS; kind++) {
		struct block *b = open_kind(kind, DISK), *to;
		u8 *model = content_of(b), *copy = calloc(1, DISK);
		struct block_config target = { .path = path };
		struct error e = { "" };

		assert_true(rig_run(b, model, 5, 30, RIG_MAX));
		assert_int_equal(block_write_now(b, 3 * MiB, zero, sizeof(zero)), 0);
		memset(model + 3 * MiB, 0, sizeof(zero));
		assert_int_equal(block_read_now(b, DISK - 512, copy, 1024), EINVAL);
		assert_int_equal(block_next_data(b, DISK, &end), DISK);
		for (u64 at = block_next_data(b, 0, &end); at < DISK; at = block_next_data(b, end, &end)) {
			assert_true(end > at && end <= DISK);
			assert_int_equal(block_read_now(b, at / 512 * 512, copy + at / 512 * 512,
							(end - at / 512 * 512 + 511) / 512 * 512),
					 0);
		}
		assert_memory_equal(copy, model, DISK);
		assert_int_equal(block_close(b), 0);
		/* and into another */
		assert_int_equal(truncate(path, 0), 0);
		assert_int_equal(truncate(path, DISK), 0);
		to = block_open(&target, &e);
		assert_non_null(to);
		for (u64 n = 0; n < block_granules(to); n++)
			assert_int_equal(block_write_now(to, n * BLOCK_GRANULE, model + n * BLOCK_GRANULE,
							 MIN(BLOCK_GRANULE, DISK - n * BLOCK_GRANULE)),
					 0);
		assert_true(rig_same(to, model));
		assert_int_equal(block_close(to), 0);
		free(model);
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_notes),  cmocka_unit_test(test_users),	      cmocka_unit_test(test_in_flight),
		cmocka_unit_test(test_copies), cmocka_unit_test(test_room),	      cmocka_unit_test(test_drain),
		cmocka_unit_test(test_zeros),  cmocka_unit_test(test_content),	      cmocka_unit_test(test_read_error),
		cmocka_unit_test(test_above),  cmocka_unit_test(test_above_in_chain),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
