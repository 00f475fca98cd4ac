/* Names of guest addresses from text and ELF, sound and broken; the writer of the perf map. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/dbt/observe.h"
#include "engine/symbols.h"

static char path[] = "/tmp/ectype-test-symbols-XXXXXX";

static struct guest_symbols *load(const void *bytes, size_t n)
{
	FILE *f = fopen(path, "w");
	struct error e = { "" };
	struct guest_symbols *s;

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, n, f), n);
	fclose(f);
	s = guest_symbols_load(path, &e);
	assert_true(s || e.text[0]);
	return s;
}

static void test_text(void **state)
{
	static const char text[] = "ffffffff81000100 T later\r\n"
				   "ffffffff81000000 T early\n"
				   "\n"
				   "not a line\n"
				   "ffffffff81000050 D data\n"
				   "ffffffffc0000000 t helper\t[module]\n"
				   "0000000000000000 T nothing\n"
				   "ffffffff81000200 T last";
	struct guest_symbols *s = load(text, sizeof(text) - 1);
	u64 off;
	char out[32];

	assert_non_null(s);
	assert_string_equal(guest_symbols_find(s, 0xffffffff81000000, &off), "early");
	assert_int_equal(off, 0);
	assert_string_equal(guest_symbols_find(s, 0xffffffff810000ff, &off), "early");
	assert_int_equal(off, 0xff);
	assert_string_equal(guest_symbols_find(s, 0xffffffff81000100, &off), "later");
	assert_string_equal(guest_symbols_find(s, 0xffffffff81000200, &off), "last");
	assert_string_equal(guest_symbols_find(s, 0xffffffffc0000010, &off), "helper");
	assert_null(guest_symbols_find(s, 0x1000, &off));
	assert_null(guest_symbols_find(s, 0xffffffff90000000, &off)); /* too far behind */
	assert_null(guest_symbols_find(NULL, 0xffffffff81000000, &off));
	guest_symbols_format(s, 0xffffffff81000010, out, sizeof(out));
	assert_string_equal(out, "early+0x10");
	guest_symbols_format(s, 0x10, out, sizeof(out));
	assert_string_equal(out, "10");
	guest_symbols_free(s);
	assert_null(load("", 0));
	assert_null(load("nothing here\n", 13));
	assert_null(guest_symbols_load("/nonexistent", NULL));
	assert_null(guest_symbols_load("/tmp", NULL));
}

extern const char __ehdr_start[];

/* This program is an ELF file with symbols. */
static u8 *own_file(size_t *n)
{
	FILE *f = fopen("/proc/self/exe", "r");
	struct stat st;
	u8 *bytes;

	assert_non_null(f);
	assert_int_equal(fstat(fileno(f), &st), 0);
	*n = (size_t)st.st_size;
	bytes = malloc(*n);
	assert_non_null(bytes);
	assert_int_equal(fread(bytes, 1, *n, f), *n);
	fclose(f);
	return bytes;
}

static void test_elf(void **state)
{
	size_t n;
	u8 *bytes = own_file(&n);
	struct guest_symbols *s = load(bytes, n);
	u64 off;

	assert_non_null(s);
	assert_string_equal(guest_symbols_find(s, (u64)((uintptr_t)test_text - (uintptr_t)__ehdr_start), &off),
			    "test_text");
	guest_symbols_free(s);
	free(bytes);
}

/* Headers that lie and files that end early: refused or read, never beyond the file. */
static void test_broken_elf(void **state)
{
	size_t n;
	u8 *bytes = own_file(&n);
	u64 table;
	unsigned random = 1;

	memcpy(&table, bytes + 40, 8); /* e_shoff */
	for (size_t len = 0; len < 200; len++)
		guest_symbols_free(load(bytes, len));
	guest_symbols_free(load(bytes, table));
	guest_symbols_free(load(bytes, n - 1));
	for (unsigned k = 0; k < 60; k++) {
		u8 *copy = malloc(n);

		memcpy(copy, bytes, n);
		for (unsigned i = 0; i < 8; i++) {
			random = random * 1103515245 + 12345;
			copy[table + (random >> 8) % (n - table)] = (u8)(random >> 24);
			if (k % 4 == 0)
				copy[40 + (random >> 16) % 24] = (u8)(random >> 20);
		}
		guest_symbols_free(load(copy, n));
		free(copy);
	}
	free(bytes);
}

static void test_perf_map(void **state)
{
	char target[] = "/tmp/ectype-test-target-XXXXXX", text[128];
	int fd = mkstemp(target);
	struct perf_map *p;
	struct stat st;
	FILE *f;

	/* a link that lies there is replaced, not followed */
	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(symlink(target, path), 0);
	p = perf_map_create(path, NULL);
	assert_non_null(p);
	perf_map_add(p, (const void *)0x7f0012345000, 0x1c, "guest:early+0x10");
	perf_map_add(p, (const void *)0x1000, 16, "guest:1000");
	perf_map_close(p);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISREG(st.st_mode));
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	assert_string_equal(text, "7f0012345000 1c guest:early+0x10\n");
	assert_non_null(fgets(text, sizeof(text), f));
	assert_string_equal(text, "1000 10 guest:1000\n");
	assert_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 0);
	close(fd);
	unlink(target);
	assert_null(perf_map_create("/nonexistent/map", NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_text), cmocka_unit_test(test_elf),
					    cmocka_unit_test(test_broken_elf), cmocka_unit_test(test_perf_map) };
	int fd = mkstemp(path), ret;

	close(fd);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return ret;
}
