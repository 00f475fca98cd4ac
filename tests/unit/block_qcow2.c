/* qcow2 images: random requests compared with a disk in memory, over cluster sizes, refcount widths and engines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <endian.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../block/rig.h"

static char dir[] = "/tmp/ectype-test-qcow2-XXXXXX";
static char path[64], base[64];

static int setup(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	snprintf(base, sizeof(base), "%s/base", dir);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	unlink(base);
	return rmdir(dir);
}

static void create(u64 size, unsigned cluster, unsigned refcount, const char *backing)
{
	struct qcow2_create_config c = { .path = path,
					 .size = size,
					 .cluster_size = cluster,
					 .refcount_bits = refcount,
					 .backing_file = backing,
					 .overwrite = true };
	struct error e = { "" };

	if (qcow2_create(&c, &e) < 0)
		fail_msg("%s", e.text);
}

static struct block *open_it(const struct block_config *c)
{
	struct error e = { "" };
	struct block *b = block_open(c, &e);

	if (!b)
		fail_msg("%s", e.text);
	return b;
}

static void check_clean(void)
{
	struct block_check_result r = { 0 };
	struct error e = { "" };

	assert_int_equal(block_check(path, BLOCK_FORMAT_QCOW2, &r, &e), 0);
	assert_int_equal(r.errors, 0);
	assert_int_equal(r.leaks, 0);
}

static void random_run(const struct block_config *c, u8 *model, u64 seed, unsigned rounds, u64 max)
{
	for (unsigned i = 0; i < 3; i++) { /* what is on the file must be enough */
		struct block *b = open_it(c);

		assert_true(rig_same(b, model));
		assert_true(rig_run(b, model, seed + i, rounds, max));
		assert_true(rig_same(b, model));
		assert_int_equal(block_close(b), 0);
		check_clean();
	}
}

#define DISK (5 * MiB + 3 * 512)

static void over_layouts(bool threads)
{
	static const unsigned clusters[] = { 512, 4096, 65536, 2 * MiB }, bits[] = { 1, 2, 4, 8, 16, 32, 64 };
	struct block_config c = { .path = path, .threads = threads, .cache = BLOCK_CACHE_UNSAFE };
	u8 *model = malloc(DISK);

	for (unsigned i = 0; i < ARRAY_SIZE(clusters); i++)
		for (unsigned k = 0; k < ARRAY_SIZE(bits); k++) {
			memset(model, 0, DISK);
			create(DISK, clusters[i], bits[k], NULL);
			random_run(&c, model, 7 * i + k, 12, 128 * KiB);
		}
	free(model);
}

static void test_threads(void **state)
{
	over_layouts(true);
}

static void test_uring(void **state)
{
	over_layouts(false);
}

/* Fewer slots in the cache of L2 tables than the disk has tables: they are written back to make room. */
static void test_small_cache(void **state)
{
	struct block_config c = { .path = path, .cache = BLOCK_CACHE_UNSAFE };
	u64 size = 64 * MiB;
	u8 *model = calloc(1, size);

	create(size, 512, 16, NULL);
	random_run(&c, model, 5, 400, 4096);
	free(model);
}

static void write_base(u8 *model, u64 size)
{
	int fd = open(base, O_RDWR | O_CREAT | O_TRUNC, 0644);
	u64 seed = 77;

	for (u64 i = 0; i < size; i++)
		model[i] = rig_random(&seed);
	assert_int_equal(write(fd, model, size), size);
	close(fd);
}

/* The backing file is shorter than the disk, ends in the middle of a sector, and is not written. */
static void test_backing(void **state)
{
	static const unsigned clusters[] = { 512, 4096, 65536 };
	struct block_config c = { .path = path, .cache = BLOCK_CACHE_UNSAFE };
	u64 size = 2 * MiB + 777;
	u8 *model = malloc(DISK), *now = malloc(size), *before = malloc(size);

	for (unsigned i = 0; i < ARRAY_SIZE(clusters); i++) {
		int fd;

		memset(model, 0, DISK);
		write_base(model, size);
		memcpy(before, model, size);
		create(DISK, clusters[i], 16, "base");
		random_run(&c, model, i, 25, 128 * KiB);
		fd = open(base, O_RDONLY);
		assert_int_equal(read(fd, now, size), size);
		close(fd);
		assert_memory_equal(now, before, size);
	}
	free(model);
	free(now);
	free(before);
}

static void test_snapshot(void **state)
{
	struct block_config c = { .path = base, .snapshot = true };
	u64 size = 2 * MiB;
	u8 *model = malloc(size), *first = malloc(size);

	write_base(model, size);
	memcpy(first, model, size);
	chmod(base, 0400);
	for (unsigned i = 0; i < 2; i++) {
		struct block *b = open_it(&c);

		memcpy(model, first, size);
		assert_false(block_readonly(b));
		assert_int_equal(block_size(b), size);
		assert_true(rig_same(b, model));
		assert_true(rig_run(b, model, i, 30, 128 * KiB));
		assert_true(rig_same(b, model));
		assert_int_equal(block_close(b), 0);
	}
	free(model);
	free(first);
}

static void test_space_comes_back(void **state)
{
	struct block_config c = { .path = path };
	u8 *buf = malloc(MiB);
	struct block *b;
	struct stat st;

	memset(buf, 1, MiB);
	create(8 * MiB, 4096, 16, NULL);
	b = open_it(&c);
	for (unsigned round = 0; round < 20; round++) { /* what is discarded is used again after a flush */
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(rig_io(b, BLOCK_WRITE, i * MiB, MiB, buf), 0);
		assert_int_equal(rig_io(b, BLOCK_DISCARD, 0, 8 * MiB, NULL), 0);
		assert_int_equal(rig_io(b, BLOCK_FLUSH, 0, 0, NULL), 0);
	}
	assert_int_equal(rig_io(b, BLOCK_READ, 3 * MiB, MiB, buf), 0);
	for (unsigned i = 0; i < MiB; i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(block_close(b), 0);
	check_clean();
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size < (off_t)(10 * MiB));
	free(buf);
}

static void test_readonly_and_bounds(void **state)
{
	struct block_config c = { .path = path, .readonly = true };
	u8 buf[1024] = { 0 };
	struct block *b;

	create(MiB, 0, 0, NULL);
	b = open_it(&c);
	assert_true(block_readonly(b));
	assert_string_equal(block_format_name(b), "qcow2");
	assert_int_equal(block_granularity(b), 64 * KiB);
	assert_int_equal(rig_io(b, BLOCK_WRITE, 0, 512, buf), EROFS);
	assert_int_equal(rig_io(b, BLOCK_DISCARD, 0, 512, buf), EROFS);
	assert_int_equal(rig_io(b, BLOCK_READ, MiB - 512, 512, buf), 0);
	assert_int_equal(rig_io(b, BLOCK_READ, MiB - 512, 1024, buf), EINVAL);
	assert_int_equal(rig_io(b, BLOCK_READ, ~511ull, 1024, buf), EINVAL);
	assert_int_equal(rig_io(b, BLOCK_READ, 100, 512, buf), EINVAL);
	assert_int_equal(rig_io(b, BLOCK_FLUSH, 0, 0, NULL), 0);
	block_close(b);
}

static void refuse_create(struct qcow2_create_config c, const char *says)
{
	struct error e = { "" };

	assert_int_equal(qcow2_create(&c, &e), -1);
	assert_non_null(strstr(e.text, says));
}

static void test_create(void **state)
{
	struct block_info i;
	struct error e;

	create(MiB, 0, 0, NULL);
	refuse_create((struct qcow2_create_config){ .path = path, .size = MiB }, "already");
	refuse_create((struct qcow2_create_config){ .path = "/tmp/x", .size = MiB, .cluster_size = 1000 },
		      "power of two");
	refuse_create((struct qcow2_create_config){ .path = "/tmp/x", .size = MiB, .cluster_size = 256 }, "512");
	refuse_create((struct qcow2_create_config){ .path = "/tmp/x", .size = MiB, .refcount_bits = 128 }, "bits");
	refuse_create(
	    (struct qcow2_create_config){ .path = path, .size = 1ull << 60, .cluster_size = 512, .overwrite = true },
	    "too large");
	create(0, 0, 0, NULL);
	create(1000, 0, 0, NULL);
	assert_int_equal(block_info(path, BLOCK_FORMAT_AUTO, &i, &e), 0);
	assert_int_equal(i.virtual_size, 1024);
	assert_int_equal(i.version, 3);
	assert_true(i.disk_size <= 512 * KiB);
}

static void patch(u64 at, u64 value, unsigned bytes)
{
	int fd = open(path, O_RDWR);
	u64 v = htobe64(value);

	assert_int_equal(pwrite(fd, (u8 *)&v + 8 - bytes, bytes, at), bytes);
	close(fd);
}

/* Features that are not supported: named, and the rest of what is shown is checked as any image's. */
static void test_refused(void **state)
{
	static const struct {
		u64 at, value;
		unsigned bytes;
		const char *says;
	} feature
	    [] = { { 32, 1, 4, "AES" },		 { 32, 2, 4, "LUKS" },	       { 72, 4, 8, "data file" },
		   { 72, 16, 8, "extended L2" }, { 72, BIT(63), 8, "bit 63" }, { 104, 7, 1, "compression type 7" } },
     broken[] = { { 96, 0x4afc0a04, 4, "refcount_order" }, { 24, BIT(63), 8, "too large" },
		  { 60, 1u << 31, 4, "snapshots" },	   { 16, 1u << 31, 4, "backing file" },
		  { 20, 64, 4, "cluster size" },	   { 100, 1u << 31, 4, "header length" } };

	u8 *model = malloc(MiB);

	write_base(model, MiB);
	free(model);
	for (unsigned i = 0; i < ARRAY_SIZE(feature); i++) {
		for (unsigned k = 0; k < ARRAY_SIZE(broken); k++) {
			struct block_config c = { .path = path };
			struct block_info info;
			struct error e = { "" };

			create(MiB, 0, 16, "base");
			if (feature[i].at == 104)
				patch(72, BIT(3), 8); /* the feature bit that goes with it */
			patch(feature[i].at, feature[i].value, feature[i].bytes);
			assert_int_equal(block_info(path, BLOCK_FORMAT_AUTO, &info, &e), 0);
			assert_non_null(strstr(info.unsupported, feature[i].says));
			assert_int_equal(info.refcount_bits, 16);
			assert_int_equal(info.virtual_size, MiB);
			assert_string_equal(info.backing_file, "base");
			assert_null(block_open(&c, &e));
			assert_non_null(strstr(e.text, feature[i].says));
			patch(broken[k].at, broken[k].value, broken[k].bytes);
			assert_int_equal(block_info(path, BLOCK_FORMAT_AUTO, &info, &e), -1);
			assert_non_null(strstr(e.text, broken[k].says));
			assert_null(block_open(&c, &e));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_uring),
		cmocka_unit_test(test_small_cache),
		cmocka_unit_test(test_backing),
		cmocka_unit_test(test_snapshot),
		cmocka_unit_test(test_space_comes_back),
		cmocka_unit_test(test_readonly_and_bounds),
		cmocka_unit_test(test_create),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
