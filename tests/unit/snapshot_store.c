/*
 * RAM of a snapshot on disk: plain, compressed, with bases. What a machine sent
 * is what a new machine gets, lazily and eagerly; what is damaged, cut or of
 * another snapshot is refused, with nothing left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/image.h"
#include "backend/block/track.h"
#include "cli/snapshot.h"
#include "state/disk.h"

#define FRAMES 600u /* the last group is no whole one */
#define RAM (FRAMES * PAGE_SIZE)
#define DISK (1 * MiB + 512)

static char folder[64];
static u8 ram[RAM];
/* of a disk `d0`, if it has a size; blocks go in no order */
static u8 disk[DISK];
static u64 disk_size;

static const char *at(const char *name)
{
	static char path[4][256];
	static unsigned n;

	snprintf(path[++n % 4], sizeof(path[0]), "%s/%s", folder, name);
	return path[n % 4];
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	return remove(path);
}

static int make_folder(void **state)
{
	/* in memory if that can be: all is flushed to the disk often */
	snprintf(folder, sizeof(folder), "%s/ectype-store.XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static unsigned files_there(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* ---- saving ---- */

static u64 random_state = 88172645463325252u;

static u64 rnd(u64 below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state % below;
}

static void fill_frame(u64 frame)
{
	unsigned kind = (unsigned)rnd(3);

	for (u64 i = 0; i < PAGE_SIZE; i += 8) {
		u64 v = kind == 0 ? 0 : kind == 1 ? frame : rnd(UINT64_MAX);

		memcpy(ram + frame * PAGE_SIZE + i, &v, 8);
	}
}

static void fill(void)
{
	memset(ram, 0, RAM);
	for (u64 f = 0; f < FRAMES; f++)
		if (f / 100 % 2 == 0 || rnd(5) == 0)
			fill_frame(f);
}

static void change(void)
{
	for (u64 n = 60, f; n; n--) {
		f = rnd(FRAMES);
		if (rnd(4) == 0)
			memset(ram + f * PAGE_SIZE, 0, PAGE_SIZE);
		else
			fill_frame(f);
	}
	for (u64 f = 300 + rnd(100), n = 40; n; n--, f++)
		fill_frame(f);
}

static void stream_of_disk(struct stream_writer *w)
{
	u64 blocks = (disk_size + DISK_BLOCK - 1) / DISK_BLOCK, first = rnd(blocks), at, n;
	struct ram_sum sum = { 0 };

	stream_section_begin(w, DISK_SIZE, STREAM_REQUIRED);
	enc_u8(w->to, 0);
	enc_u8(w->to, 2);
	enc_bytes(w->to, "d0", 2);
	enc_u64(w->to, disk_size);
	stream_section_end(w);
	for (u64 i = 0; i < blocks; i++) {
		at = (first + i) % blocks * DISK_BLOCK;
		n = MIN((u64)DISK_BLOCK, disk_size - at);
		if (disk_block_zero(disk + at, n))
			continue;
		disk_sum_add(&sum, at, disk + at, n);
		stream_section_begin(w, DISK_DATA, STREAM_REQUIRED);
		enc_u8(w->to, 0);
		enc_u64(w->to, at);
		enc_bytes(w->to, disk + at, n);
		stream_section_end(w);
	}
	stream_section_begin(w, DISK_SUM, STREAM_REQUIRED);
	enc_u8(w->to, 0);
	enc_u64(w->to, sum.pages);
	enc_u64(w->to, sum.sum);
	stream_section_end(w);
}

/* What a monitor sends; to be freed. */
static struct encoder stream_of_ram(void)
{
	struct encoder e;
	struct stream_writer w;
	struct ram_sum sum = { 0 };

	enc_init(&e);
	stream_begin(&w, &e);
	stream_section_begin(&w, SAVED_OPTIONS_SECTION, STREAM_REQUIRED);
	enc_u32(&e, 1);
	enc_u16(&e, 8);
	enc_bytes(&e, "--cpus=1", 8);
	stream_section_end(&w);
	stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
	enc_u64(&e, RAM);
	stream_section_end(&w);
	for (u64 f = 0, n; f < FRAMES; f += n) {
		for (n = 0; f + n < FRAMES && n < 64 && !ram_page_zero(ram + (f + n) * PAGE_SIZE); n++)
			ram_sum_add(&sum, f + n, ram + (f + n) * PAGE_SIZE);
		if (n) {
			stream_section_begin(&w, RAM_DATA, STREAM_REQUIRED);
			enc_u64(&e, f * PAGE_SIZE);
			enc_bytes(&e, ram + f * PAGE_SIZE, n * PAGE_SIZE);
			stream_section_end(&w);
		}
		n = MAX(n, 1ull);
	}
	if (disk_size)
		stream_of_disk(&w);
	stream_section_begin(&w, RAM_SUM, STREAM_REQUIRED);
	enc_u64(&e, sum.pages);
	enc_u64(&e, sum.sum);
	enc_u64(&e, 0);
	stream_section_end(&w);
	stream_finish(&w);
	assert_false(e.failed);
	return e;
}

static int save(const char *path, int level, const char *base, struct error *e)
{
	const struct snapshot_form form = { .level = level, .base = base };
	static struct snapshot_disks disks;
	struct snapshot_writer *w = snapshot_create_as(path, &form, e);
	struct encoder s;
	int ret = 0;

	if (!w)
		return -1;
	s = stream_of_ram();
	for (size_t pos = 0, n; !ret && pos < s.len; pos += n) {
		n = 1 + rnd(100000);
		n = MIN(n, s.len - pos);
		ret = snapshot_take_piece(w, (const char *)s.data + pos, n, 0, e);
	}
	disks.count = disk_size ? 1 : 0;
	strcpy(disks.disk[0].id, "d0");
	disks.disk[0].writable = true;
	if (!ret && disk_size)
		assert_true(snapshot_has_image(w, &disks.disk[0]));
	if (!ret)
		ret = snapshot_received(w, e) ? snapshot_finish(w, &disks, e) : -1;
	snapshot_drop(w);
	enc_free(&s);
	return ret;
}

static void must_save(const char *path, int level, const char *base)
{
	struct error e = { .text = "" };

	if (save(path, level, base, &e))
		fail_msg("%s", e.text);
}

/* ---- restoring ---- */

/* 0 if the snapshot was taken for a good one; *same: RAM is what it was. */
static int load(const char *path, bool eager, bool *same, struct error *e)
{
	struct snapshot_reader r;
	struct machine_saved s;
	struct memory *m;
	int ret;

	e->text[0] = 0;
	*same = false;
	if (snapshot_reader_open(&r, path, e)) {
		assert_true(e->text[0] && !strchr(e->text, '\n'));
		return -1;
	}
	m = memory_create(r.ram_size, e);
	assert_non_null(m);
	s = snapshot_saved(&r, eager);
	ret = s.load_ram(s.ram, m, e);
	if (ret)
		assert_true(e->text[0] && !strchr(e->text, '\n'));
	else
		*same = r.ram_size == RAM && !memcmp(memory_ram(m), ram, RAM);
	snapshot_reader_close(&r);
	memory_destroy(m);
	return ret;
}

static void must_load(const char *path)
{
	struct snapshot_reader r;
	struct error e;
	bool same;

	for (unsigned eager = 0; eager < 2; eager++) {
		if (load(path, eager, &same, &e))
			fail_msg("%s: %s", path, e.text);
		assert_true(same);
	}
	assert_int_equal(snapshot_reader_open(&r, path, &e), 0);
	if (snapshot_check_ram(&r, &e))
		fail_msg("%s", e.text);
	snapshot_reader_close(&r);
}

static void must_refuse(const char *path, const char *word)
{
	struct error e;
	bool same;

	for (unsigned eager = 0; eager < 2; eager++) {
		assert_int_equal(load(path, eager, &same, &e), -1);
		if (!strstr(e.text, word))
			fail_msg("no '%s' in: %s", word, e.text);
	}
}

/* ---- tests ---- */

static void kinds(void **state)
{
	struct stat st;

	fill();
	must_save(at("plain"), 0, NULL);
	must_save(at("zstd"), 1, NULL);
	must_load(at("plain"));
	must_load(at("zstd"));
	assert_int_equal(files_there(at("plain")), 2);
	assert_int_equal(files_there(at("zstd")), 2);
	assert_int_equal(stat(at("zstd/ram.zst"), &st), 0);
	assert_true((u64)st.st_size < RAM * 3 / 4);
	memset(ram, 0, RAM);
	must_save(at("zeros"), 1, NULL);
	must_load(at("zeros"));
}

/* Nothing but zeros over a base, everything the same, and chains of all kinds. */
static void bases(void **state)
{
	char name[16], before[16] = "base";
	struct snapshot_reader r;
	struct error e;

	fill();
	must_save(at("base"), 0, NULL);
	must_save(at("same"), 0, at("base"));
	must_load(at("same"));
	assert_int_equal(snapshot_reader_open(&r, at("same"), &e), 0);
	assert_int_equal(r.chain.level[0].index.count, 0);
	snapshot_reader_close(&r);
	for (unsigned i = 0; i < 12; i++) {
		change();
		snprintf(name, sizeof(name), "inc%u", i);
		must_save(at(name), i % 3 == 1, at(before));
		must_load(at(name));
		strcpy(before, name);
	}
	memset(ram, 0, RAM);
	must_save(at("nothing"), 0, at("inc11"));
	must_load(at("nothing"));
	fill();
	must_save(at("zbase"), 3, NULL);
	change();
	must_save(at("zinc"), 3, at("zbase"));
	must_save(at("zplain"), 0, at("zbase"));
	must_load(at("zinc"));
	must_load(at("zplain"));
}

/* Runs long enough to be mapped, and more of them than are mapped. */
static void runs(void **state)
{
	memset(ram, 1, RAM);
	must_save(at("ones"), 0, NULL);
	for (u64 f = 0; f < FRAMES; f++)
		if (f % 40 < 20 || f % 3 == 0)
			memset(ram + f * PAGE_SIZE, 2, PAGE_SIZE);
	must_save(at("twos"), 0, at("ones"));
	for (u64 f = 100; f < 200; f++)
		memset(ram + f * PAGE_SIZE, f < 150 ? 0 : 3, PAGE_SIZE);
	must_save(at("threes"), 0, at("twos"));
	must_load(at("threes"));
}

static void too_long(void **state)
{
	char name[16], before[16];
	struct error e;

	fill();
	must_save(at("c0"), 0, NULL);
	for (unsigned i = 1; i < RAM_CHAIN_MAX; i++) {
		fill_frame(rnd(FRAMES));
		snprintf(before, sizeof(before), "c%u", i - 1);
		snprintf(name, sizeof(name), "c%u", i);
		must_save(at(name), 0, at(before));
	}
	must_load(at("c55"));
	assert_int_equal(save(at("c56"), 0, at("c55"), &e), -1);
	assert_non_null(strstr(e.text, "56 snapshots"));
	assert_int_equal(access(at("c56"), F_OK), -1);
	assert_int_equal(files_there(folder), RAM_CHAIN_MAX);
}

static void in_shell(const char *command)
{
	char text[512];

	snprintf(text, sizeof(text), "cd %s && %s", folder, command);
	assert_int_equal(system(text), 0);
}

/* Relative paths move with both, absolute ones stay. */
static void moved_bases(void **state)
{
	char cwd[256];

	fill();
	in_shell("mkdir -p a/b c");
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(folder), 0);
	must_save("a/base", 0, NULL);
	change();
	must_save("a/b/inc", 0, "a/base");
	must_save("a/b/fixed", 0, at("a/base"));
	must_load("a/b/inc");
	in_shell("mv a d");
	must_load("d/b/inc");
	must_refuse("d/b/fixed", "No such file");
	in_shell("mv d a && mv a/b/inc a/b/fixed c");
	must_load("c/fixed");
	must_refuse("c/inc", "No such file");
	must_save("beside", 0, "c/../c/fixed");
	must_load("beside");
	assert_int_equal(chdir(cwd), 0);
}

static void changed_bases(void **state)
{
	struct error e;
	bool same;

	fill();
	must_save(at("base"), 0, NULL);
	change();
	must_save(at("inc"), 0, at("base"));
	change();
	must_save(at("inc2"), 0, at("inc"));
	must_load(at("inc2"));
	in_shell("mv base away");
	must_refuse(at("inc2"), "the base of snapshot");
	must_save(at("base"), 0, NULL);
	must_refuse(at("inc2"), "changed or replaced");
	in_shell("rm -r base && mv away base");
	must_load(at("inc2"));
	in_shell("truncate -s -4096 base/ram");
	must_refuse(at("inc2"), "not whole");
	in_shell("truncate -s +4096 base/ram && printf x | dd of=base/ram conv=notrunc bs=1 seek=2457000 2>/dev/null");
	assert_int_equal(load(at("inc2"), true, &same, &e), -1);
	assert_non_null(strstr(e.text, "checksum"));
	assert_int_equal(save(at("inc3"), 0, at("none"), &e), -1);
	assert_int_equal(save(at("inc3"), 0, folder, &e), -1);
	assert_int_equal(files_there(folder), 3);
}

/* ---- disks ---- */

static void must_have_disk(const char *path, bool delta)
{
	char name[256];
	struct block_config c = { .path = name, .readonly = true };
	static u8 got[DISK];
	struct block_info info;
	struct block *b;
	struct error e;

	snprintf(name, sizeof(name), "%s/d0.img", path);
	b = block_open(&c, &e);
	if (!b)
		fail_msg("%s", e.text);
	assert_int_equal(block_size(b), disk_size);
	assert_int_equal(block_read_now(b, 0, got, disk_size), 0);
	assert_memory_equal(got, disk, disk_size);
	assert_string_equal(block_format_name(b), delta ? "qcow2" : "raw");
	block_close(b);
	assert_int_equal(block_info(name, BLOCK_FORMAT_AUTO, &info, &e), 0);
	if (delta)
		assert_true(info.disk_size < disk_size / 2 + 400000);
}

static void change_disk(void)
{
	for (u64 n = 6, at, len; n; n--) {
		at = rnd(disk_size);
		len = 1 + rnd(MIN(disk_size - at, 20000ull));
		memset(disk + at, rnd(2) ? (int)rnd(256) : 0, len);
	}
	disk[disk_size - 1] ^= 1;
}

static void disks(void **state)
{
	fill();
	for (u64 i = 0; i < DISK; i++)
		disk[i] = i / 100000 % 3 ? (u8)rnd(256) : 0;
	disk_size = DISK;
	must_save(at("base"), 0, NULL);
	must_have_disk(at("base"), false);
	must_save(at("same"), 0, at("base"));
	must_have_disk(at("same"), true);
	change_disk();
	must_save(at("one"), 1, at("base"));
	must_have_disk(at("one"), true);
	change_disk();
	memset(disk + 200000, 0, 300000);
	must_save(at("two"), 0, at("one"));
	must_have_disk(at("two"), true);
	memset(disk, 0, DISK);
	must_save(at("zeros"), 0, at("two"));
	must_have_disk(at("zeros"), true);
	change_disk();
	must_save(at("three"), 0, at("zeros"));
	must_have_disk(at("three"), true);
	must_load(at("three"));
	in_shell("cp two/d0.img kept && truncate -s 12345 two/d0.img");
	must_refuse(at("three"), "disk 'd0' of the base");
	in_shell("cp kept two/d0.img");
	must_load(at("three"));
	/* another disk of this name */
	disk_size = DISK - 512;
	must_save(at("other"), 0, at("three"));
	must_have_disk(at("other"), false);
	disk_size = 0;
}

/* ---- damage ---- */

static u8 *get(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	u8 *data;

	assert_true(fd >= 0 && !fstat(fd, &st));
	*len = (size_t)st.st_size;
	data = malloc(*len + 1);
	assert_int_equal(read(fd, data, *len), *len);
	close(fd);
	return data;
}

static void put(const char *path, const u8 *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

/* Whatever is done to `file`, the snapshot is refused; or, only if `content`, one that is loaded lazily is another. */
static void damage(const char *path, const char *file, bool content)
{
	char name[256];
	struct error e;
	size_t len;
	u8 *data;
	bool same;

	snprintf(name, sizeof(name), "%s/%s", path, file);
	data = get(name, &len);
	for (unsigned i = 0; i < 300; i++) {
		size_t where = i < 40 ? MIN(i, len - 1) : i < 80 ? len - 1 - MIN(i - 40, len - 1) : rnd(len);
		u8 bit = (u8)(1u << rnd(8));

		data[where] ^= bit;
		put(name, data, len);
		assert_int_equal(load(path, true, &same, &e), -1);
		if (!load(path, false, &same, &e))
			assert_true(content && !same);
		data[where] ^= bit;
		put(name, data, i < 60 ? len - 1 - i : rnd(len));
		for (unsigned eager = 0; eager < 2; eager++)
			assert_int_equal(load(path, eager, &same, &e), -1);
	}
	data = realloc(data, len + PAGE_SIZE);
	memset(data + len, 0, PAGE_SIZE);
	put(name, data, len + PAGE_SIZE);
	assert_int_equal(load(path, false, &same, &e), -1);
	put(name, data, len);
	must_load(path);
	free(data);
}

static void damaged(void **state)
{
	fill();
	must_save(at("plain"), 0, NULL);
	must_save(at("zstd"), 1, NULL);
	change();
	must_save(at("inc"), 0, at("plain"));
	must_save(at("zinc"), 1, at("plain"));
	damage(at("zinc"), "state", false);
	damage(at("zinc"), "ram.zst", false);
	damage(at("inc"), "state", false);
}

/* Cut and made longer again: known without reading it. */
static void lost_data(void **state)
{
	memset(ram, 5, RAM);
	must_save(at("plain"), 0, NULL);
	change();
	must_save(at("inc"), 0, at("plain"));
	in_shell("truncate -s 1M plain/ram && truncate -s 2457600 plain/ram");
	must_refuse(at("plain"), "holes");
	must_refuse(at("inc"), "holes");
}

static void damaged_base(void **state)
{
	fill();
	must_save(at("zstd"), 1, NULL);
	damage(at("zstd"), "state", false);
	damage(at("zstd"), "ram.zst", false);
	must_save(at("plain"), 0, NULL);
	damage(at("plain"), "state", false);
	for (u64 i = 0; i < RAM; i++)
		ram[i] |= 1; /* no frame is a hole of the file, or of no meaning */
	must_save(at("full"), 0, NULL);
	damage(at("full"), "ram", true);
}

/* ---- the index ---- */

static int index_read(const struct ram_index *x, u64 size, u64 file)
{
	struct ram_index got;
	struct encoder e;
	int ret;

	enc_init(&e);
	ram_index_write(x, &e);
	ret = ram_index_read(&got, (struct decoder){ .data = e.data, .len = e.len }, size, file);
	if (!ret) {
		assert_int_equal(got.count, x->count);
		ram_index_free(&got);
	}
	for (size_t cut = 0; cut < e.len; cut++) {
		u8 *part = malloc(cut + 1);

		memcpy(part, e.data, cut);
		assert_int_equal(ram_index_read(&got, (struct decoder){ .data = part, .len = cut }, size, file), -1);
		free(part);
	}
	enc_free(&e);
	return ret;
}

static void indexes(void **state)
{
	struct ram_group g[3] = { { .number = 0, .frames = 1, .len = 10 },
				  { .number = 4, .frames = UINT64_MAX, .len = 20 },
				  { .number = 9, .frames = BIT(24) - 1, .len = 30 } };
	struct ram_index x = { .packed = true, .count = 3, .group = g };

	assert_int_equal(index_read(&x, RAM, 60), 0);
	assert_int_equal(index_read(&x, RAM, 61), -1);
	assert_int_equal(index_read(&x, RAM, 59), -1);
	assert_int_equal(index_read(&x, RAM - PAGE_SIZE, 60), -1); /* a frame behind the end */
	g[2].number = 10;
	assert_int_equal(index_read(&x, RAM, 60), -1);
	g[2].number = 4;
	assert_int_equal(index_read(&x, RAM, 60), -1);
	g[2].number = 3;
	assert_int_equal(index_read(&x, RAM, 60), -1);
	g[2].number = 9;
	g[2].frames = 0;
	assert_int_equal(index_read(&x, RAM, 60), -1);
	g[2].frames = 1;
	assert_int_equal(index_read(&x, RAM, 60), 0);
	g[2].len = ram_group_packed_max() + 1;
	assert_int_equal(index_read(&x, RAM, 30 + g[2].len), -1);
	g[2].len--;
	assert_int_equal(index_read(&x, RAM, 30 + g[2].len), 0);
	g[1].len = 0;
	assert_int_equal(index_read(&x, RAM, 10 + g[2].len), -1);
	x.packed = false;
	assert_int_equal(index_read(&x, RAM, RAM), 0);
}

/* ---- what comes from the machine ---- */

static int send(const struct encoder *s, const char *base)
{
	const struct snapshot_form form = { .base = base };
	const struct snapshot_disks none = { .count = 0 };
	struct error e;
	struct snapshot_writer *w = snapshot_create_as(at("sent"), &form, &e);
	int ret;

	assert_non_null(w);
	ret = snapshot_take_piece(w, (const char *)s->data, s->len, 0, &e);
	if (!ret)
		ret = snapshot_received(w, &e) ? snapshot_finish(w, &none, &e) : -1;
	snapshot_drop(w);
	return ret;
}

/* Sections that are the client's own, and memory in disorder. */
static void machines_that_lie(void **state)
{
	static const char *const own[] = { RAM_SECTION, SNAPSHOT_INDEX_SECTION, SNAPSHOT_BASE_SECTION,
					   SNAPSHOT_DISKS_SECTION };

	fill();
	must_save(at("base"), 0, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(own); i++) {
		struct encoder e;
		struct stream_writer w;

		enc_init(&e);
		stream_begin(&w, &e);
		stream_section(&w, own[i], STREAM_REQUIRED, "abcdefgh", 8);
		stream_finish(&w);
		assert_int_equal(send(&e, NULL), -1);
		enc_free(&e);
	}
	for (unsigned i = 0; i < 4; i++) {
		const u64 offset[] = { PAGE_SIZE, 0, RAM, 1 };
		struct encoder e;
		struct stream_writer w;

		enc_init(&e);
		stream_begin(&w, &e);
		stream_section_begin(&w, RAM_SIZE, STREAM_REQUIRED);
		enc_u64(&e, RAM);
		stream_section_end(&w);
		for (unsigned k = 0; k < 2; k++) {
			stream_section_begin(&w, RAM_DATA, STREAM_REQUIRED);
			enc_u64(&e, k ? offset[i] : PAGE_SIZE);
			enc_bytes(&e, ram, PAGE_SIZE);
			stream_section_end(&w);
		}
		stream_finish(&w);
		assert_int_equal(send(&e, at("base")), -1);
		enc_free(&e);
	}
	assert_int_equal(files_there(folder), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(kinds, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(bases, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(runs, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(too_long, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(moved_bases, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(changed_bases, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(disks, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(damaged, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(lost_data, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(damaged_base, make_folder, remove_folder),
		cmocka_unit_test(indexes),
		cmocka_unit_test_setup_teardown(machines_that_lie, make_folder, remove_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
