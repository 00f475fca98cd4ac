/* Disks of a snapshot, as they come from the machine: what is right, and what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/block/track.h"
#include "cli/snapshot_backing.h"
#include "cli/snapshot_images.h"

#define SIZE (5 * DISK_BLOCK + 1536) /* the last block is a short one */

static char folder[] = "/tmp/ectype-images-XXXXXX";
static int dir;

static int make(void **state)
{
	dir = mkdtemp(folder) ? open(folder, O_RDONLY | O_DIRECTORY) : -1;
	return dir < 0;
}

static int clean(void **state)
{
	close(dir);
	return rmdir(folder);
}

static unsigned files(void)
{
	DIR *d = opendir(folder);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static int send(struct snapshot_images *m, const char *name, struct encoder *e)
{
	struct stream_section s = { .len = (u32)e->len, .payload = e->data };
	struct error err = { "" };
	int ret;

	snprintf(s.name, sizeof(s.name), "%s", name);
	assert_true(snapshot_images_section(&s));
	ret = snapshot_images_take(m, dir, folder, &s, &err);
	assert_true(!ret == !err.text[0]);
	enc_free(e);
	return ret;
}

static int send_kind(struct snapshot_images *m, u8 number, const char *id, u8 len, u64 size, int above)
{
	struct encoder e;

	enc_init(&e);
	enc_u8(&e, number);
	enc_u8(&e, len);
	enc_bytes(&e, id, strlen(id));
	enc_u64(&e, size);
	if (above >= 0)
		enc_u8(&e, (u8)above);
	return send(m, DISK_SIZE, &e);
}

static int send_size(struct snapshot_images *m, u8 number, const char *id, u8 len, u64 size)
{
	return send_kind(m, number, id, len, size, -1);
}

static int send_zeros(struct snapshot_images *m, u8 number, u64 at, u64 n)
{
	struct encoder e;

	enc_init(&e);
	enc_u8(&e, number);
	enc_u64(&e, at);
	enc_u64(&e, n);
	return send(m, DISK_ZERO, &e);
}

static int send_data(struct snapshot_images *m, u8 number, u64 at, const u8 *data, size_t n)
{
	struct encoder e;

	enc_init(&e);
	enc_u8(&e, number);
	enc_u64(&e, at);
	enc_bytes(&e, data, n);
	return send(m, DISK_DATA, &e);
}

static int send_sum(struct snapshot_images *m, u8 number, struct ram_sum sum, size_t cut)
{
	struct encoder e;

	enc_init(&e);
	enc_u8(&e, number);
	enc_u64(&e, sum.pages);
	enc_u64(&e, sum.sum);
	e.len -= cut;
	return send(m, DISK_SUM, &e);
}

static struct ram_sum sum_of(const u8 *data)
{
	struct ram_sum sum = { 0 };

	for (u64 at = 0; at < SIZE; at += DISK_BLOCK) {
		u64 n = MIN(DISK_BLOCK, SIZE - at);

		if (!disk_block_zero(data + at, n))
			disk_sum_add(&sum, at, data + at, n);
	}
	return sum;
}

static void whole(void **state)
{
	struct snapshot_images m = { .count = 0 };
	static u8 data[SIZE], back[SIZE];
	struct ram_sum none = { 0 };
	struct error e;
	char name[40];
	int fd;

	for (u64 i = 0; i < SIZE; i++)
		data[i] = i / DISK_BLOCK == 2 ? 0 : (u8)(i * 7 + i / 256 + 1);
	assert_true(snapshot_images_whole(&m));
	assert_int_equal(send_size(&m, 0, "one", 3, SIZE), 0);
	assert_int_equal(send_size(&m, 1, "two", 3, 0), 0);
	assert_int_equal(send_data(&m, 0, 3 * DISK_BLOCK, data + 3 * DISK_BLOCK, SIZE - 3 * DISK_BLOCK), 0);
	assert_int_equal(send_data(&m, 0, 0, data, 2 * DISK_BLOCK), 0);
	assert_int_equal(send_data(&m, 1, 0, data, 0), 0);
	assert_false(snapshot_images_whole(&m));
	assert_int_equal(send_sum(&m, 0, sum_of(data), 0), 0);
	assert_int_equal(send_data(&m, 0, 0, data, DISK_BLOCK), -1);
	assert_false(snapshot_images_whole(&m));
	assert_int_equal(send_sum(&m, 1, none, 0), 0);
	assert_true(snapshot_images_whole(&m));
	assert_int_equal(snapshot_images_find(&m, "one")->size, SIZE);
	assert_null(snapshot_images_find(&m, "three"));
	assert_int_equal(snapshot_images_bytes(&m), 5 * DISK_BLOCK);
	assert_int_equal(snapshot_images_flush(&m, folder, &e), 0);
	snapshot_image_name("one", name);
	fd = openat(dir, name, O_RDONLY);
	assert_int_equal(lseek(fd, 0, SEEK_END), SIZE);
	assert_int_equal(pread(fd, back, SIZE, 0), SIZE);
	assert_memory_equal(back, data, SIZE);
	assert_int_equal(lseek(fd, 0, SEEK_HOLE), 2 * DISK_BLOCK);
	close(fd);
	assert_int_equal(files(), 2);
	snapshot_images_close(&m, dir, true);
	assert_int_equal(files(), 0);
}

static void wrong_sizes(void **state)
{
	struct snapshot_images m = { .count = 0 };

	assert_int_equal(send_size(&m, 1, "one", 3, SIZE), -1);
	assert_int_equal(send_size(&m, 0, "", 0, SIZE), -1);
	assert_int_equal(send_size(&m, 0, "one", 4, SIZE), -1);
	assert_int_equal(send_size(&m, 0, "one", 2, SIZE), -1);
	assert_int_equal(send_size(&m, 0, "a/b", 3, SIZE), -1);
	assert_int_equal(send_size(&m, 0, "../one", 6, SIZE), -1);
	assert_int_equal(send_size(&m, 0, ".one", 4, SIZE), -1);
	assert_int_equal(send_size(&m, 0, "one", 3, SIZE + 1), -1);
	assert_int_equal(send_size(&m, 0, "one", 3, 0xfffffffffffffe00u), -1);
	assert_int_equal(send_size(&m, 0, "12345678901234567890123456789012", 32, SIZE), -1);
	assert_int_equal(files(), 0);
	for (u8 i = 0; i < MACHINE_DISKS_MAX; i++) {
		char id[] = { (char)('a' + i), 0 };

		assert_int_equal(send_size(&m, i, id, 1, SIZE), 0);
		assert_int_equal(send_size(&m, i + 1, id, 1, SIZE), -1);
	}
	assert_int_equal(send_size(&m, MACHINE_DISKS_MAX, "z", 1, SIZE), -1);
	assert_int_equal(files(), MACHINE_DISKS_MAX);
	snapshot_images_close(&m, dir, true);
}

static void wrong_data(void **state)
{
	struct snapshot_images m = { .count = 0 };
	static u8 data[SIZE + DISK_BLOCK];
	struct ram_sum sum;

	data[0] = data[SIZE - 1] = 1;
	assert_int_equal(send_data(&m, 0, 0, data, DISK_BLOCK), -1);
	assert_int_equal(send_size(&m, 0, "one", 3, SIZE), 0);
	assert_int_equal(send_data(&m, 1, 0, data, DISK_BLOCK), -1);
	assert_int_equal(send_data(&m, 0, 512, data, DISK_BLOCK), -1);
	assert_int_equal(send_data(&m, 0, 0, data, 512), -1);
	assert_int_equal(send_data(&m, 0, 0, data, SIZE + 512), -1);
	assert_int_equal(send_data(&m, 0, 6 * DISK_BLOCK, data, DISK_BLOCK), -1);
	assert_int_equal(send_data(&m, 0, 0xfffffffffffff000u, data, 2 * DISK_BLOCK), -1);
	/* none of these has changed the sum */
	assert_int_equal(send_data(&m, 0, 0, data, DISK_BLOCK), 0);
	assert_int_equal(send_data(&m, 0, 5 * DISK_BLOCK, data + 5 * DISK_BLOCK, SIZE - 5 * DISK_BLOCK), 0);
	sum = sum_of(data);
	assert_int_equal(send_sum(&m, 0, sum, 1), -1);
	sum.sum ^= 1;
	assert_int_equal(send_sum(&m, 0, sum, 0), -1);
	sum.sum ^= 1;
	sum.pages++;
	assert_int_equal(send_sum(&m, 0, sum, 0), -1);
	sum.pages--;
	assert_int_equal(send_sum(&m, 1, sum, 0), -1);
	assert_int_equal(send_sum(&m, 0, sum, 0), 0);
	assert_int_equal(send_sum(&m, 0, sum, 0), -1);
	snapshot_images_close(&m, dir, true);
}

/* ---- what lies above a backing file ---- */

#define LARGE (5 * BLOCK_GRANULE + 1536)

static u8 piece[BLOCK_GRANULE];
static struct ram_sum sent;

/* Random bytes, whole pieces but at the end. */
static void send_piece(struct snapshot_images *m, u64 at, u8 *model)
{
	u64 n = MIN(LARGE - at, BLOCK_GRANULE);

	for (u64 i = 0; i < n; i++)
		piece[i] = (u8)(rand() >> 8);
	memcpy(model + at, piece, n);
	assert_int_equal(send_data(m, 0, at, piece, n), 0);
	for (u64 i = 0; i < n; i += DISK_BLOCK)
		disk_sum_add(&sent, at + i, piece + i, MIN(n - i, DISK_BLOCK));
}

static void expect_content(const char *name, enum block_format format, const u8 *model)
{
	struct block_config c = { .format = format, .readonly = true };
	u8 *is = malloc(LARGE);
	struct error e = { "" };
	struct block *b;
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	c.path = path;
	b = block_open(&c, &e);
	assert_non_null(b);
	assert_int_equal(block_size(b), LARGE);
	assert_int_equal(block_read_now(b, 0, is, LARGE), 0);
	assert_memory_equal(is, model, LARGE);
	assert_int_equal(block_close(b), 0);
	free(is);
}

static struct snapshot_backings backings;
static u8 below[4 * BLOCK_GRANULE]; /* shorter than the disk */

static void make_backing(void)
{
	static struct snapshot_file file;
	static struct block_file is;
	struct stat st;
	int fd;

	for (u64 i = 0; i < sizeof(below); i++)
		below[i] = (u8)(rand() >> 8);
	fd = openat(dir, "backing", O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, below, sizeof(below)), sizeof(below));
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	snprintf(file.path, sizeof(file.path), "%s/backing", folder);
	is = (struct block_file){ st.st_dev, st.st_ino };
	backings = (struct snapshot_backings){ .count = 1 };
	backings.disk[0] =
	    (struct snapshot_backing){ .id = "one", .format = BLOCK_FORMAT_RAW, .file = &file, .is = &is, .files = 1 };
}

/* Data here, zeros there, the rest as it was below; with the base's image of before, if that is one. */
static void send_above(struct snapshot_images *m, u8 *model, u64 data, u64 zeros)
{
	sent = (struct ram_sum){ 0 };
	assert_int_equal(send_kind(m, 0, "one", 3, LARGE, 1), 0);
	memset(model, 0, LARGE);
	memcpy(model, below, sizeof(below));
	send_piece(m, data, model);
	assert_int_equal(send_zeros(m, 0, zeros, BLOCK_GRANULE), 0);
	memset(model + zeros, 0, BLOCK_GRANULE);
	send_piece(m, 5 * BLOCK_GRANULE, model);
	assert_int_equal(send_sum(m, 0, sent, 0), 0);
	assert_true(snapshot_images_whole(m));
}

static void above(void **state)
{
	struct snapshot_images_base base = { .count = 1, .image[0] = { "one", BLOCK_FORMAT_QCOW2 } };
	struct snapshot_images m = { .backings = &backings };
	static u8 model[LARGE];
	char path[128];

	make_backing();
	send_above(&m, model, 2 * BLOCK_GRANULE, BLOCK_GRANULE);
	assert_int_equal(snapshot_images_find(&m, "one")->format, BLOCK_FORMAT_QCOW2);
	snapshot_images_close(&m, dir, false);
	expect_content("one.img", BLOCK_FORMAT_QCOW2, model);
	/* a base that has it: other pieces come, and what came then is as it was below */
	strcpy(base.path, folder);
	snprintf(path, sizeof(path), "%s/old", folder);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/old/one.img", folder);
	assert_int_equal(renameat(dir, "one.img", AT_FDCWD, path), 0);
	snprintf(base.path, sizeof(base.path), "%s/old", folder);
	strcpy(base.stored, "old");
	m = (struct snapshot_images){ .backings = &backings, .base = &base };
	send_above(&m, model, 0, 3 * BLOCK_GRANULE);
	snapshot_images_close(&m, dir, false);
	expect_content("one.img", BLOCK_FORMAT_QCOW2, model);
	unlinkat(dir, "one.img", 0);
	/* one that is a raw image, of something else */
	base.image[0].format = BLOCK_FORMAT_RAW;
	unlink(path);
	for (unsigned i = 0; i < 2; i++) {
		int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

		for (u64 k = 0; k < LARGE && i; k += sizeof(piece))
			assert_true(write(fd, piece, MIN(sizeof(piece), LARGE - k)) > 0);
		assert_int_equal(ftruncate(fd, LARGE), 0);
		close(fd);
		m = (struct snapshot_images){ .backings = &backings, .base = &base };
		send_above(&m, model, 2 * BLOCK_GRANULE, 0);
		snapshot_images_close(&m, dir, false);
		expect_content("one.img", BLOCK_FORMAT_QCOW2, model);
		unlinkat(dir, "one.img", 0);
	}
	unlink(path);
	unlinkat(dir, "old", AT_REMOVEDIR);
	unlinkat(dir, "backing", 0);
	assert_int_equal(files(), 0);
}

static void wrong_above(void **state)
{
	struct snapshot_images m = { .backings = &backings };

	make_backing();
	assert_int_equal(send_kind(&m, 0, "two", 3, LARGE, 1), -1); /* not one that was asked for */
	assert_int_equal(send_kind(&m, 0, "one", 3, LARGE, 0), -1);
	assert_int_equal(send_kind(&m, 0, "one", 3, LARGE, 2), -1);
	assert_int_equal(files(), 1);
	assert_int_equal(send_kind(&m, 0, "one", 3, LARGE, 1), 0);
	assert_int_equal(send_size(&m, 1, "raw", 3, LARGE), 0);
	strcpy(backings.disk[1].id, "none");
	backings.disk[1].file = backings.disk[0].file;
	backings.disk[1].is = backings.disk[0].is;
	backings.count = 2;
	assert_int_equal(send_kind(&m, 2, "none", 4, 0, 1), 0);
	assert_int_equal(snapshot_images_find(&m, "none")->format, BLOCK_FORMAT_RAW);
	assert_int_equal(send_zeros(&m, 2, 0, 0), -1);
	assert_int_equal(send_zeros(&m, 1, 0, BLOCK_GRANULE), -1);
	assert_int_equal(send_zeros(&m, 3, 0, BLOCK_GRANULE), -1);
	assert_int_equal(send_zeros(&m, 0, 512, BLOCK_GRANULE), -1);
	assert_int_equal(send_zeros(&m, 0, 0, 512), -1);
	assert_int_equal(send_zeros(&m, 0, 0, LARGE + 512), -1);
	assert_int_equal(send_zeros(&m, 0, 8 * BLOCK_GRANULE, 0), -1);
	assert_int_equal(send_zeros(&m, 0, 0xffffffffffff0000u, 2 * BLOCK_GRANULE), -1);
	assert_int_equal(send_zeros(&m, 0, 0, LARGE), 0);
	assert_int_equal(send_zeros(&m, 0, 0, 0), 0);
	snapshot_images_close(&m, dir, true);
	unlinkat(dir, "backing", 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole), cmocka_unit_test(wrong_sizes), cmocka_unit_test(wrong_data),
		cmocka_unit_test(above), cmocka_unit_test(wrong_above),
	};

	return cmocka_run_group_tests(tests, make, clean);
}
