/* The flash of the firmware's variables: commands, refusals, the file behind it. */
#include "dev_rig.h"
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/nvram/nvram.h"
#include "dev/chipset/pflash.h"

#define BASE 0xffc00000u
#define SIZE (4 * PFLASH_BLOCK)

static u8 shadow[SIZE]; /* what the store was told */
static unsigned stores;
static int store_fails;

static int store(void *opaque, u64 off, const u8 *bytes, size_t n)
{
	assert_true(off + n <= SIZE && n <= PFLASH_BLOCK && off / PFLASH_BLOCK == (off + n - 1) / PFLASH_BLOCK);
	if (store_fails)
		return store_fails;
	stores++;
	memcpy(shadow + off, bytes, n);
	return 0;
}

static struct device *make(struct rig *r)
{
	u8 content[SIZE];
	const struct pflash_config cfg = { .base = BASE, .size = SIZE, .content = content, .prio = 1, .store = store };

	for (unsigned i = 0; i < SIZE; i++)
		content[i] = (u8)(i * 7);
	memcpy(shadow, content, SIZE);
	stores = 0;
	return pflash_create(&r->board, &cfg);
}

static u64 rd(struct rig *r, u32 off, unsigned size)
{
	u64 v = 0;

	memory_read(r->board.mem, BASE + off, &v, size);
	return v;
}

static void wr(struct rig *r, u32 off, u64 v, unsigned size)
{
	memory_write(r->board.mem, BASE + off, &v, size);
}

static void expect_shadow(struct rig *r)
{
	u8 all[SIZE];

	wr(r, 0, 0xff, 1);
	memory_read(r->board.mem, BASE, all, SIZE);
	assert_memory_equal(all, shadow, SIZE);
}

static void reading(void **state)
{
	struct rig *r = rig_create();

	make(r);
	assert_int_equal(rd(r, 3, 1), 21);
	assert_int_equal(rd(r, 8, 8), 0x69625b544d463f38ull);
	assert_int_equal(rd(r, SIZE - 1, 1), (u8)((SIZE - 1) * 7));
	/* the table of its properties */
	wr(r, 0x55, 0x98, 1);
	assert_int_equal(rd(r, 0x10, 2), 'Q' | 'R' << 8);
	assert_int_equal(rd(r, 0x12, 1), 'Y');
	assert_int_equal(rd(r, 0x13, 2), 1);
	assert_int_equal(rd(r, 0x27, 1), 14);
	assert_int_equal(rd(r, 0x2d, 2), 3);
	assert_int_equal(rd(r, 0x2f, 2), PFLASH_BLOCK / 256);
	assert_int_equal(rd(r, 0x31, 2), 'P' | 'R' << 8);
	wr(r, 0, 0x90, 1);
	assert_int_equal(rd(r, 0, 1), 0x89);
	/* how OVMF tells it from RAM and ROM */
	wr(r, 16, 0x50, 1);
	assert_int_equal(rd(r, 16, 1), 112);
	wr(r, 16, 0x70, 1);
	assert_int_equal(rd(r, 16, 1), 0);
	assert_int_equal(stores, 0);
	expect_shadow(r);
	rig_destroy(r);
}

static void programming(void **state)
{
	struct rig *r = rig_create();

	make(r);
	wr(r, 0x1234, 0x20, 1);
	wr(r, 0x1234, 0xd0, 1);
	assert_int_equal(rd(r, 0, 1), 0x80);
	expect_shadow(r);
	assert_int_equal(rd(r, 0xfff, 1), (u8)(0xfff * 7));
	assert_int_equal(rd(r, 0x1000, 8), ~0ull);
	assert_int_equal(rd(r, 0x1ff8, 8), ~0ull);
	assert_int_equal(rd(r, 0x2000, 1), 0);
	/* bytes, and only from one to zero */
	wr(r, 0x1001, 0x10, 1);
	wr(r, 0x1001, 0xa5, 1);
	wr(r, 0x1001, 0x40, 1);
	wr(r, 0x1001, 0xf0, 1);
	wr(r, 0x1010, 0x40, 1);
	wr(r, 0x1010, 0x1122334455667788, 8);
	wr(r, 0, 0xff, 1);
	assert_int_equal(rd(r, 0x1000, 4), 0xffffa0ff);
	assert_int_equal(rd(r, 0x1010, 8), 0x1122334455667788);
	/* the buffer: three bytes, in any order */
	wr(r, 0x1100, 0xe8, 1);
	assert_int_equal(rd(r, 0x1100, 1) & 0x80, 0x80);
	wr(r, 0x1100, 2, 1);
	wr(r, 0x1180, 1, 1);
	wr(r, 0x1102, 2, 1);
	wr(r, 0x11ff, 3, 1);
	wr(r, 0x1100, 0xd0, 1);
	assert_int_equal(rd(r, 0x1100, 1), 0x80);
	expect_shadow(r);
	assert_int_equal(rd(r, 0x1180, 1), 1);
	assert_int_equal(rd(r, 0x1100, 4), 0xff02ffff);
	assert_int_equal(rd(r, 0x11ff, 1), 3);
	rig_destroy(r);
}

static void errors(void **state)
{
	struct rig *r = rig_create();
	unsigned before;

	make(r);
	before = stores;
	wr(r, 0, 0x20, 1); /* no confirmation */
	wr(r, 0, 0xff, 1);
	assert_int_equal(rd(r, 0, 1), 0xb0);
	wr(r, 0, 0x50, 1);
	wr(r, 0, 0xe8, 1); /* leaves the window */
	wr(r, 0, 255, 1);
	wr(r, 0, 0, 4);
	wr(r, 0x100, 0, 1);
	assert_int_equal(rd(r, 0, 1), 0xb0);
	assert_int_equal(stores, before);
	/* the file cannot be written */
	store_fails = 28;
	wr(r, 0, 0x50, 1);
	wr(r, 8, 0x40, 1);
	wr(r, 8, 0, 1);
	assert_int_equal(rd(r, 0, 1), 0x90);
	wr(r, 0, 0x50, 1);
	wr(r, 0, 0x20, 1);
	wr(r, 0, 0xd0, 1);
	assert_int_equal(rd(r, 0, 1), 0xa0);
	store_fails = 0;
	expect_shadow(r);
	rig_destroy(r);
}

static void poke(struct rig *r, struct device *d)
{
	wr(r, 0x2000, 0x20, 1);
	wr(r, 0x2000, 0xd0, 1);
	wr(r, 0x2000, 0x40, 1);
	wr(r, 0x2000, 0x12, 1);
	wr(r, 0x2100, 0xe8, 1);
	wr(r, 0x2100, 3, 1);
	wr(r, 0x2101, 0x5555, 2);
}

static void roundtrip(void **state)
{
	rig_roundtrip(make, poke);
}

static void file(void **state)
{
	char dir[] = "/tmp/ectype-nvram-XXXXXX", path[64];
	u8 content[8192], back[8192];
	struct nvram *n;
	struct error e;
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/vars", dir);
	memset(content, 0x5a, sizeof(content));
	assert_int_equal(nvram_check(path, sizeof(content), false, &e), -1);
	assert_int_equal(nvram_check(path, sizeof(content), true, &e), 0);
	assert_int_equal(stat(path, &st), -1);
	assert_null(nvram_open(path, back, sizeof(back), 0, &e));
	n = nvram_open(path, content, sizeof(content), NVRAM_CREATE, &e);
	assert_non_null(n);
	assert_null(nvram_open(path, back, sizeof(back), NVRAM_CREATE, &e));
	assert_non_null(strstr(e.text, "another machine"));
	assert_int_equal(nvram_write(n, 4096, (const u8 *)"abc", 3), 0);
	nvram_close(n);
	n = nvram_open(path, back, sizeof(back), NVRAM_CREATE, &e);
	assert_non_null(n);
	memcpy(content + 4096, "abc", 3);
	assert_memory_equal(content, back, sizeof(back));
	nvram_close(n);
	assert_int_equal(nvram_check(path, 4096, true, &e), -1);
	assert_null(nvram_open(path, back, 4096, NVRAM_CREATE, &e));
	assert_int_equal(nvram_check(dir, 4096, true, &e), -1);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reading),   cmocka_unit_test(programming), cmocka_unit_test(errors),
		cmocka_unit_test(roundtrip), cmocka_unit_test(file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
