/* RAM of both kinds as the host sees it: pieces with data, files mapped over it, pages given back. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/interp/host_fault.h"
#include "mem/physmem.h"

#define RAM (16 * MiB)

static struct memory *make(unsigned flags)
{
	struct error e = { "" };
	struct memory *m = memory_create_as(RAM, flags, &e);

	assert_non_null(m);
	memory_map_ram(m, 0, 0, RAM, 0, "ram");
	return m;
}

/* [off, off + len) holds `tag` and the number of the page in each word. */
static void write_pages(int fd, u64 off, u64 len, u32 tag)
{
	u32 page[PAGE_SIZE / 4];

	for (u64 at = off; at < off + len; at += PAGE_SIZE) {
		for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = tag + (u32)(at >> PAGE_SHIFT);
		assert_int_equal(pwrite(fd, page, PAGE_SIZE, (off_t)at), PAGE_SIZE);
	}
}

static int file_of(u64 size)
{
	char name[] = "/tmp/ectype-ram-XXXXXX";
	int fd = mkstemp(name);

	assert_true(fd >= 0);
	unlink(name);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static u32 word(struct memory *m, u64 off)
{
	u32 v;

	memcpy(&v, memory_ram(m) + off, 4);
	return v;
}

static bool zeros(struct memory *m, u64 off, u64 len)
{
	const u8 *p = memory_ram(m) + off;

	return !p[0] && !memcmp(p, p + 1, len - 1);
}

/* Bytes that memory_next_data() names, by steps that go forward and lie within RAM. */
static u64 data_bytes(struct memory *m)
{
	u64 sum = 0, at = 0, end;

	while ((at = memory_next_data(m, at, &end)) < RAM) {
		assert_true(end > at && end <= RAM && !(end & ~PAGE_MASK));
		sum += end - at;
		at = end;
	}
	assert_int_equal(at, RAM);
	return sum;
}

static void pieces(unsigned flags)
{
	struct memory *m = make(flags);
	u64 end;

	assert_int_equal(data_bytes(m), 0);
	memory_ram(m)[5 * MiB + 0x1234] = 1;
	assert_true(data_bytes(m) >= PAGE_SIZE && data_bytes(m) <= 2 * MiB); /* the host may take a huge page */
	assert_true(memory_next_data(m, 0, &end) <= 5 * MiB + 0x1000);
	assert_int_equal(memory_next_data(m, 5 * MiB + 0x1000, &end), 5 * MiB + 0x1000);
	assert_int_equal(memory_next_data(m, 6 * MiB, &end), RAM);
	assert_int_equal(memory_next_data(m, RAM, &end), RAM);
	assert_int_equal(memory_next_data(m, UINT64_MAX & PAGE_MASK, &end), RAM);
	memory_ram(m)[RAM - 1] = 1;
	assert_true(memory_next_data(m, 6 * MiB, &end) >= 14 * MiB);
	assert_int_equal(end, RAM);
	assert_int_equal(memory_discard(m, 4 * MiB, 12 * MiB), 0);
	assert_int_equal(data_bytes(m), 0);
	memory_destroy(m);
}

static void data(void **state)
{
	pieces(0);
	pieces(MEMORY_SHARED);
	pieces(MEMORY_MERGEABLE);
}

static void map_file(void **state)
{
	struct memory *m = make(0);
	struct error e = { "" };
	int fd = file_of(8 * MiB);

	write_pages(fd, 0, 64 * KiB, 0x1000);
	write_pages(fd, 6 * MiB, 64 * KiB, 0x1000);
	memset(memory_ram(m), 0x77, RAM);
	assert_int_equal(memory_map_file(m, 4 * MiB, fd, 0, 8 * MiB, &e), 0);
	/* a large hole needs no mapping, and no pages */
	assert_int_equal(data_bytes(m), RAM - 8 * MiB + 128 * KiB);
	close(fd);
	assert_int_equal(word(m, 4 * MiB), 0x1000);
	assert_int_equal(word(m, 4 * MiB + 0xf000), 0x100f);
	assert_int_equal(word(m, 10 * MiB + 0xf000), 0x1000 + (6 * MiB >> PAGE_SHIFT) + 15);
	assert_true(zeros(m, 4 * MiB + 64 * KiB, MiB));
	assert_true(zeros(m, 10 * MiB + 64 * KiB, 12 * MiB - (10 * MiB + 64 * KiB)));
	assert_int_equal(word(m, 4 * MiB - 4), 0x77777777);
	assert_int_equal(word(m, 12 * MiB), 0x77777777);
	memory_destroy(m);
}

static void map_file_refused(void **state)
{
	struct memory *m = make(0), *shared = make(MEMORY_SHARED);
	struct error e = { "" };
	int fd = file_of(MiB + 100), dir = open("/tmp", O_RDONLY);

	memory_ram(m)[0] = 5;
	assert_int_equal(memory_map_file(shared, 0, fd, 0, MiB, &e), -1);
	assert_non_null(strstr(e.text, "shared with other processes"));
	assert_int_equal(memory_map_file(m, 0, fd, 0, MiB + PAGE_SIZE, &e), -1);
	assert_non_null(strstr(e.text, "too short: 1048676 bytes"));
	assert_int_equal(memory_map_file(m, 0, fd, MiB, PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, 0, fd, UINT64_MAX & PAGE_MASK, PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, 0, fd, 0, UINT64_MAX & PAGE_MASK, &e), -1);
	assert_int_equal(memory_map_file(m, 0, fd, 100, PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, 100, fd, 0, PAGE_SIZE, &e), -1);
	assert_non_null(strstr(e.text, "not whole pages"));
	assert_int_equal(memory_map_file(m, RAM, fd, 0, PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, RAM - PAGE_SIZE, fd, 0, 2 * PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, UINT64_MAX & PAGE_MASK, fd, 0, 2 * PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, 0, dir, 0, PAGE_SIZE, &e), -1);
	assert_int_equal(memory_map_file(m, 0, -1, 0, PAGE_SIZE, &e), -1);
	assert_int_equal(memory_ram(m)[0], 5);
	assert_false(memory_file_lost(memory_ram(m)));
	close(fd);
	close(dir);
	memory_destroy(m);
	memory_destroy(shared);
}

/* What is given back reads as zeros, not as the file; the file keeps its bytes. */
static void discard_filed(void **state)
{
	struct memory *m = make(0);
	int fd = file_of(RAM);
	u32 in_file;

	write_pages(fd, 0, RAM, 0x5000);
	assert_int_equal(memory_map_file(m, 0, fd, 0, RAM, NULL), 0);
	memory_ram(m)[0x3000] = 1;
	memset(memory_ram(m) + MiB, 0, 16 * PAGE_SIZE);
	assert_int_equal(memory_discard(m, 0x2000, 0x3000), 0);
	assert_true(zeros(m, 0x2000, 0x3000));
	assert_int_equal(word(m, 0x1000), 0x5001);
	assert_int_equal(word(m, 0x5000), 0x5005);
	/* over what is anonymous again and what is not */
	memory_ram(m)[0x3000] = 1;
	assert_int_equal(memory_discard(m, 0, 0x8000), 0);
	assert_true(zeros(m, 0, 0x8000));
	assert_int_equal(word(m, 0x8000), 0x5008);
	assert_int_equal(pread(fd, &in_file, 4, 0x3000), 4);
	assert_int_equal(in_file, 0x5003);
	assert_int_equal(memory_discard(m, 4 * MiB, 8 * MiB), 0);
	assert_int_equal(data_bytes(m), RAM - 8 * MiB);
	assert_int_equal(memory_discard(m, 0, RAM), 0);
	assert_int_equal(data_bytes(m), 0);
	close(fd);
	memory_destroy(m);
}

static unsigned mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;
	int c;

	while ((c = fgetc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

/* Every other page: mappings stay bounded, and the bytes right. */
static void discard_scattered(void **state)
{
	struct error e = { "" };
	const u64 size = 128 * MiB;
	struct memory *m = memory_create(size, &e);
	unsigned before = mappings();
	int fd = file_of(size);

	memory_map_ram(m, 0, 0, size, 0, "ram");
	for (u64 at = 0; at < size; at += MiB)
		write_pages(fd, at, PAGE_SIZE, 0x5000);
	assert_int_equal(memory_map_file(m, 0, fd, 0, size, &e), 0);
	for (u64 at = 0; at < size; at += 2 * PAGE_SIZE)
		assert_int_equal(memory_discard(m, at, PAGE_SIZE), 0);
	assert_true(mappings() - before < 8192 + 100);
	for (u64 at = 0; at < size; at += 2 * PAGE_SIZE)
		assert_int_equal(memory_ram(m)[at], 0);
	/* the holes between them close again */
	assert_int_equal(memory_discard(m, 0, size), 0);
	assert_true(mappings() - before < 100);
	assert_int_equal(memory_discard(m, 0, size), 0);
	close(fd);
	memory_destroy(m);
}

/* A file that is cut off later: one line and status 1, no signal. */
static void file_cut_off(void **state)
{
	struct memory *m = make(0);
	int fd = file_of(RAM), out[2], status;
	char text[300] = "";
	pid_t pid;

	write_pages(fd, 0, RAM, 0x5000);
	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		/* RAM is not for a forked process: one of its own */
		struct memory *own = memory_create(RAM, NULL);

		dup2(out[1], STDERR_FILENO);
		signal(SIGBUS, SIG_DFL); /* the test frame has its own */
		host_fault_install();
		if (!own || memory_map_file(own, 0, fd, 0, RAM, NULL) || word(own, 0) != 0x5000 || ftruncate(fd, MiB))
			_exit(3);
		_exit(word(own, 8 * MiB) ? 4 : 5);
	}
	close(out[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	assert_true(read(out[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "ectype: memory: the file that the machine was restored from"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	close(out[0]);
	close(fd);
	memory_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data),
		cmocka_unit_test(map_file),
		cmocka_unit_test(map_file_refused),
		cmocka_unit_test(discard_filed),
		cmocka_unit_test(discard_scattered),
		cmocka_unit_test(file_cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
