/* The guest-physical map: overlaps, ROM, aliases, holes, MMIO splitting, pages with several targets, listeners. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem/physmem.h"

#include "fakes.h"

/* A device that remembers its accesses as text. */
struct recorder {
	char text[512];
	u64 value;
};

static u64 rec_read(void *opaque, u64 off, unsigned size)
{
	struct recorder *r = opaque;

	snprintf(r->text + strlen(r->text), sizeof(r->text) - strlen(r->text), "r%llx.%u ", (unsigned long long)off,
		 size);
	return r->value ? r->value : 0x8877665544332211ull + off;
}

static void rec_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct recorder *r = opaque;

	snprintf(r->text + strlen(r->text), sizeof(r->text) - strlen(r->text), "w%llx.%u=%llx ",
		 (unsigned long long)off, size, (unsigned long long)val);
}

static const struct io_ops ops_any = { rec_read, rec_write, 1, 8 };
static const struct io_ops ops_4 = { rec_read, rec_write, 4, 4 };
static const struct io_ops ops_1 = { rec_read, rec_write, 1, 1 };

static struct memory *mem_16m(void)
{
	struct error e = { "" };
	struct memory *m = memory_create(16 * MiB, &e);

	assert_non_null(m);
	return m;
}

static void create_errors(void **state)
{
	struct error e = { "" };
	struct rlimit old, small;

	assert_null(memory_create(0, &e));
	assert_non_null(strstr(e.text, "memory 0: "));
	assert_null(memory_create(4097, &e));
	assert_null(memory_create(1ull << 50, &e));
	assert_non_null(strstr(e.text, "memory 1048576G: this host has "));
	assert_non_null(strstr(e.text, "use a smaller --memory"));
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){ .rlim_cur = 1 * MiB, .rlim_max = old.rlim_max };
	setrlimit(RLIMIT_FSIZE, &small);
	assert_null(memory_create_as(512 * MiB, MEMORY_SHARED, &e));
	setrlimit(RLIMIT_FSIZE, &old);
	assert_non_null(strstr(e.text, "memory 512M: the file-size limit"));
}

static void plain_ram(void **state)
{
	struct memory *m = mem_16m();
	u8 buf[9000], back[9000];

	assert_int_equal(memory_ram_size(m), 16 * MiB);
	assert_int_equal(memory_ram_fd(m), -1);
	memory_map_ram(m, 0x100000, 0, 16 * MiB, 0, "ram");
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (u8)(i * 7);
	for (unsigned len = 1; len < 70; len++) {
		memset(back, 0, sizeof(back));
		assert_int_equal(memory_write(m, 0x100000 + 4093, buf + len, len), 0);
		assert_int_equal(memory_read(m, 0x100000 + 4093, back, len), 0);
		assert_memory_equal(buf + len, back, len);
		assert_int_equal(back[len], 0);
	}
	assert_int_equal(memory_write(m, 0x100123, buf, sizeof(buf)), 0);
	assert_memory_equal(memory_ram(m) + 0x123, buf, sizeof(buf));
	assert_int_equal(memory_read(m, 0x100123, back, sizeof(back)), 0);
	assert_memory_equal(buf, back, sizeof(buf));
	memory_destroy(m);
}

static void holes(void **state)
{
	struct memory *m = mem_16m();
	struct page_target t;
	u8 buf[16];

	memset(buf, 0, sizeof(buf));
	assert_int_equal(memory_read(m, 0, buf, 16), -1); /* an empty map */
	assert_int_equal(buf[15], 0xff);
	memory_map_ram(m, 0x1000, 0, 0x1000, 0, "a");
	memory_map_ram(m, 0x3000, 0x1000, 0x1000, 0, "b");
	memset(memory_ram(m), 0x55, 0x2000);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(memory_read(m, 0x1ff8, buf, 16), -1);
	assert_int_equal(buf[7], 0x55);
	assert_int_equal(buf[8], 0xff);
	memset(buf, 0x66, sizeof(buf));
	assert_int_equal(memory_write(m, 0x2ff8, buf, 16), -1);
	assert_int_equal(memory_ram(m)[0x1007], 0x66);
	assert_int_equal(memory_ram(m)[0x1008], 0x55);
	assert_int_equal(memory_read(m, UINT64_MAX - 7, buf, 8), -1);
	assert_int_equal(buf[7], 0xff);
	assert_false(memory_page(m, 0x2000, &t));
	assert_null(t.host);
	assert_null(t.mmio);
	assert_false(memory_page(m, UINT64_MAX, &t));
	assert_true(memory_page(m, 0x3abc, &t));
	assert_ptr_equal(t.host, memory_ram(m) + 0x1000);
	assert_true(t.writable);
	assert_non_null(t.flags);
	memory_destroy(m);
}

static void priorities(void **state)
{
	struct memory *m = mem_16m();
	struct recorder lo = { "", 0x11 }, hi = { "", 0x22 };
	struct region *rh, *rl;
	struct page_target t;
	u8 b;

	memory_map_ram(m, 0, 0, 16 * MiB, 0, "ram");
	rl = memory_map_mmio(m, 0x10000, 0x4000, &ops_any, &lo, 1, "lo");
	rh = memory_map_mmio(m, 0x11000, 0x1000, &ops_any, &hi, 2, "hi");
#define AT(a) (memory_read(m, (a), &b, 1), b)
	memory_ram(m)[0xffff] = 0x33;
	memory_ram(m)[0x11000] = 0x44;
	memory_ram(m)[0x14000] = 0x55;
	assert_int_equal(AT(0xffff), 0x33);
	assert_int_equal(AT(0x10000), 0x11);
	assert_int_equal(AT(0x11fff), 0x22);
	assert_int_equal(AT(0x12000), 0x11);
	assert_int_equal(AT(0x14000), 0x55);
	assert_true(memory_page(m, 0x12345, &t));
	assert_ptr_equal(t.mmio, rl);
	assert_int_equal(t.mmio_off, 0x2000);
	/* hide the upper one, then both, then show again elsewhere */
	region_set(m, rh, 0x11000, false);
	assert_int_equal(AT(0x11000), 0x11);
	region_set(m, rl, 0x10000, false);
	assert_int_equal(AT(0x11000), 0x44);
	region_set(m, rh, 0x20000, true);
	assert_int_equal(AT(0x20fff), 0x22);
	assert_int_equal(AT(0x21000), 0);
	region_set_len(m, rh, 0x2000);
	assert_int_equal(AT(0x21000), 0x22);
	region_remove(m, rh);
	assert_int_equal(AT(0x20000), 0);
	/* equal priority: the later one wins */
	memory_map_mmio(m, 0x30000, 0x1000, &ops_any, &lo, 1, "lo2");
	memory_map_mmio(m, 0x30000, 0x1000, &ops_any, &hi, 1, "hi2");
	assert_int_equal(AT(0x30000), 0x22);
	/* a BAR that runs over the end of the address space */
	memory_map_mmio(m, UINT64_MAX - 0xfff, 0x10000, &ops_any, &hi, 1, "top");
	assert_int_equal(AT(UINT64_MAX), 0x22);
	assert_int_equal(AT(0), 0);
	memory_destroy(m);
}

/* Random maps against the plain definition. */
static void random_maps(void **state)
{
	enum { N = 12, PAGES = 64 };
	unsigned seed = 12345;

	for (unsigned round = 0; round < 200; round++) {
		struct memory *m = mem_16m();
		struct {
			unsigned first, len;
			int prio;
			bool visible;
			struct region *r;
			struct recorder rec;
		} reg[N];

		for (unsigned i = 0; i < N; i++) {
			memset(&reg[i], 0, sizeof(reg[i]));
			reg[i].first = (unsigned)rand_r(&seed) % PAGES;
			reg[i].len = 1 + (unsigned)rand_r(&seed) % 20;
			reg[i].prio = rand_r(&seed) % 4;
			reg[i].visible = true;
			reg[i].rec.value = i + 1;
			reg[i].r = memory_map_mmio(m, reg[i].first * PAGE_SIZE, reg[i].len * PAGE_SIZE, &ops_any,
						   &reg[i].rec, reg[i].prio, "r");
		}
		for (unsigned i = 0; i < N; i += 3) {
			reg[i].first = (unsigned)rand_r(&seed) % PAGES;
			reg[i].visible = rand_r(&seed) % 2;
			region_set(m, reg[i].r, reg[i].first * PAGE_SIZE, reg[i].visible);
		}
		for (unsigned p = 0; p < PAGES + 20; p++) {
			int best = -1;
			u8 b;

			for (int i = 0; i < N; i++) {
				if (!reg[i].visible || p < reg[i].first || p >= reg[i].first + reg[i].len)
					continue;
				if (best < 0 || reg[i].prio >= reg[best].prio)
					best = i;
			}
			memory_read(m, p * PAGE_SIZE + 5, &b, 1);
			assert_int_equal(b, best < 0 ? 0xff : best + 1);
		}
		memory_destroy(m);
	}
}

static void rom_and_alias(void **state)
{
	struct memory *m = mem_16m();
	u8 *rom = aligned_alloc(4096, 0x2000);
	struct page_target t;
	u32 val = 0;

	memset(rom, 0xab, 0x2000);
	memory_map_ram(m, 0, 0, 1 * MiB, 0, "low");
	memory_map_ram(m, 4 * GiB, 0, 1 * MiB, 0, "alias");
	memory_map_host(m, 0xff000, rom, 0x1000, REGION_ROM, 1, "shadow");
	memory_map_host(m, 0xffffe000, rom, 0x2000, REGION_ROM, 1, "rom");
	assert_int_equal(memory_write(m, 0xffffe000, &val, 4), -1);
	assert_int_equal(rom[0], 0xab);
	assert_int_equal(memory_read(m, 0xff000, &val, 4), 0);
	assert_int_equal(val, 0xabababab);
	assert_true(memory_page(m, 0xfffff123, &t));
	assert_false(t.writable);
	assert_ptr_equal(t.host, rom + 0x1000);
	val = 0x12345678;
	memory_write(m, 4 * GiB + 0x5004, &val, 4);
	val = 0;
	memory_read(m, 0x5004, &val, 4);
	assert_int_equal(val, 0x12345678);
	/* both names of a frame share its flags */
	memory_page(m, 0x5000, &t);
	*t.flags |= PAGE_CODE;
	memory_page(m, 4 * GiB + 0x5000, &t);
	assert_int_equal(*t.flags, PAGE_CODE);
	/* host pointers */
	assert_ptr_equal(memory_ptr(m, 0x5004, 100, true), memory_ram(m) + 0x5004);
	assert_null(memory_ptr(m, 0xfeff0, 32, true)); /* RAM, then ROM */
	assert_null(memory_ptr(m, 0xff000, 4, true));
	assert_ptr_equal(memory_ptr(m, 0xff000, 4, false), rom);
	assert_null(memory_ptr(m, 0xffffffff, 2, false));
	assert_null(memory_ptr(m, UINT64_MAX, 2, false));
	assert_null(memory_ptr(m, 0x5000, 0, false));
	memory_map_ram(m, 0x7000000, 0x10000, 0x1000, 0, "piece");
	memory_map_ram(m, 0x7001000, 0x11000, 0x1000, 0, "piece");
	assert_ptr_equal(memory_ptr(m, 0x7000800, 0x1000, true), memory_ram(m) + 0x10800);
	assert_null(memory_ptr(m, 0x7000800, 0x1801, true));
	memory_destroy(m);
	free(rom);
}

static void mmio_sizes(void **state)
{
	struct memory *m = mem_16m();
	struct recorder r = { "", 0 };
	struct region *any, *four, *one;
	u8 buf[32];
	u64 v;

	any = memory_map_mmio(m, 0x1000, 0x1000, &ops_any, &r, 0, "any");
	four = memory_map_mmio(m, 0x2000, 0x10, &ops_4, &r, 0, "four");
	one = memory_map_mmio(m, 0x3000, 0x1000, &ops_1, &r, 0, "one");
#define SAW(s) (assert_string_equal(r.text, s), r.text[0] = 0)
	region_mmio_read(any, 8, 8);
	SAW("r8.8 ");
	assert_int_equal(region_mmio_read(any, 0, 2), 0x2211);
	SAW("r0.2 ");
	v = region_mmio_read(four, 0, 8);
	SAW("r0.4 r4.4 ");
	assert_true(v == (0x44332211ull | 0x44332215ull << 32));
	assert_true(region_mmio_read(four, 0, 2) == 0xffff); /* below min_size */
	SAW("");
	assert_true(region_mmio_read(four, 0xc, 8) == 0xffffffff4433221dull); /* half outside */
	SAW("rc.4 ");
	assert_true(region_mmio_read(four, 0x10, 4) == 0xffffffff);
	assert_true(region_mmio_read(four, (u64)-4, 4) == 0xffffffff);
	SAW("");
	region_mmio_write(four, 0, 0x1122334455667788, 8);
	SAW("w0.4=55667788 w4.4=11223344 ");
	region_mmio_write(four, 0, 0x1122334455667788, 1);
	SAW("");
	region_mmio_write(one, 2, 0xaabbccdd, 4);
	SAW("w2.1=dd w3.1=cc w4.1=bb w5.1=aa ");
	/* odd lengths go out in naturally aligned pieces */
	memory_read(m, 0x1001, buf, 15);
	SAW("r1.1 r2.2 r4.4 r8.8 ");
	memory_read(m, 0x1004, buf, 9);
	SAW("r4.4 r8.4 rc.1 ");
	memset(buf, 0x77, sizeof(buf));
	memory_write(m, 0x1ffd, buf, 7);
	SAW("wffd.1=77 wffe.2=7777 w0.4=77777777 ");
	assert_int_equal(memory_stats(m)->mmio_reads > 0, 1);
	memory_destroy(m);
}

/* Regions smaller than a page. */
static void mixed_pages(void **state)
{
	struct memory *m = mem_16m();
	struct recorder a = { "", 0 }, b = { "", 0 };
	struct region *ra;
	struct page_target t;
	u8 buf[16];

	memory_map_ram(m, 0, 0, 1 * MiB, 0, "ram");
	ra = memory_map_mmio(m, 0x10000100, 0x100, &ops_any, &a, 0, "a");
	assert_true(memory_page(m, 0x10000000, &t));
	assert_ptr_equal(t.mmio, ra);
	assert_true(region_mmio_read(t.mmio, t.mmio_off + 0xff, 1) == 0xff);
	assert_string_equal(a.text, "");
	region_mmio_read(t.mmio, t.mmio_off + 0x104, 4);
	assert_string_equal(a.text, "r4.4 ");
	assert_true(region_mmio_read(t.mmio, t.mmio_off + 0x200, 4) == 0xffffffff);
	assert_string_equal(a.text, "r4.4 ");
	/* two in one page, and a device in the middle of RAM */
	memory_map_mmio(m, 0x10000800, 0x100, &ops_any, &b, 0, "b");
	assert_true(memory_page(m, 0x10000000, &t));
	region_mmio_write(t.mmio, t.mmio_off + 0x810, 0x99, 1);
	assert_string_equal(b.text, "w10.1=99 ");
	memory_map_mmio(m, 0x5010, 0x10, &ops_any, &b, 1, "c");
	assert_true(memory_page(m, 0x5000, &t));
	assert_null(t.host);
	memory_ram(m)[0x500f] = 0x42;
	b.text[0] = 0;
	assert_true((region_mmio_read(t.mmio, t.mmio_off + 0xf, 1)) == 0x42);
	region_mmio_write(t.mmio, t.mmio_off + 0x18, 0x1234, 2);
	assert_string_equal(b.text, "w8.2=1234 ");
	region_mmio_write(t.mmio, t.mmio_off + 0x20, 0x5678, 2);
	assert_int_equal(memory_ram(m)[0x5020], 0x78);
	assert_int_equal(memory_read(m, 0x500c, buf, 16), 0);
	assert_int_equal(buf[3], 0x42);
	assert_int_equal(buf[4], 0x11);
	memory_destroy(m);
}

/* A device whose register write is a DMA write to that register. */
static unsigned echoes;

static void echo_write(void *opaque, u64 off, u64 val, unsigned size)
{
	echoes++;
	memory_write(opaque, 0x1000, &val, 4);
}

static void dma_to_itself(void **state)
{
	static const struct io_ops echo = { rec_read, echo_write, 4, 4 };
	struct memory *m = mem_16m();
	u32 val = 1;

	memory_map_mmio(m, 0x1000, 0x1000, &echo, m, 0, "echo");
	memory_write(m, 0x1000, &val, 4);
	assert_true(echoes > 0 && echoes < 100);
	echoes = 0;
	memory_write(m, 0x1000, &val, 4); /* not stuck */
	assert_true(echoes > 0);
	memory_destroy(m);
}

struct seen {
	unsigned maps, writes;
	gpa_t gpa[8];
	unsigned len[8];
	u8 byte;
	struct memory *m;
};

static void on_map(void *opaque)
{
	((struct seen *)opaque)->maps++;
}

static void on_write(void *opaque, gpa_t gpa, unsigned len)
{
	struct seen *s = opaque;

	s->gpa[s->writes % 8] = gpa;
	s->len[s->writes % 8] = len;
	memory_read(s->m, gpa, &s->byte, 1);
	s->writes++;
}

static void listeners(void **state)
{
	struct memory *m = mem_16m();
	struct seen s = { .m = m };
	struct region *r;
	struct page_target t;
	u8 buf[0x3000];

	memory_add_listener(m,
			    &(struct memory_listener){ .map_changed = on_map, .page_written = on_write, .opaque = &s });
	r = memory_map_ram(m, 0, 0, 1 * MiB, 0, "ram");
	assert_int_equal(s.maps, 1);
	region_set(m, r, 0, true); /* nothing changed */
	assert_int_equal(s.maps, 1);
	memset(buf, 0x5a, sizeof(buf));
	memory_write(m, 0x1000, buf, sizeof(buf));
	assert_int_equal(s.writes, 0);
	memory_page(m, 0x2000, &t);
	*t.flags |= PAGE_CODE;
	memset(buf, 0xa5, sizeof(buf));
	memory_write(m, 0x1ffe, buf, 4);
	assert_int_equal(s.writes, 1);
	assert_int_equal(s.gpa[0], 0x2000);
	assert_int_equal(s.len[0], 2);
	assert_int_equal(s.byte, 0xa5); /* told after the bytes are there */
	memory_write(m, 0x1800, buf, 0x2000);
	assert_int_equal(s.writes, 2);
	assert_int_equal(s.len[1], 0x1000);
	memory_notify_written(m, 0x2010, 3);
	assert_int_equal(s.writes, 3);
	memory_remove_listener(m, &s);
	memory_write(m, 0x2000, buf, 4);
	region_remove(m, r);
	assert_int_equal(s.writes, 3);
	assert_int_equal(s.maps, 1);
	memory_destroy(m);
}

/* The host has the page. Look before reading it: that brings it back. */
static bool resident(struct memory *m, u64 off)
{
	u64 end;

	return memory_next_data(m, off, &end) == off;
}

static void discard_as(unsigned flags)
{
	struct memory *m = memory_create_as(16 * MiB, flags, NULL);
	struct seen s = { .m = m };
	struct page_target t;
	static u8 rom[0x2000] __attribute__((aligned(4096)));
	static u8 foreign[0x2000] __attribute__((aligned(4096)));
	const u8 *ram = memory_ram(m);

	memory_map_ram(m, 0, 0, 2 * MiB, 0, "ram");
	memory_map_ram(m, 2 * MiB, 4 * MiB, MiB, 0, "more");
	memory_map_host(m, 0x10000, rom, sizeof(rom), REGION_ROM, 1, "rom");
	memory_map_host(m, 0x20000, foreign, sizeof(foreign), REGION_RAM, 1, "foreign");
	memory_add_listener(m, &(struct memory_listener){ .page_written = on_write, .opaque = &s });
	memset(memory_ram(m), 0x33, 8 * MiB);
	memset(foreign, 0x33, sizeof(foreign));
	memory_page(m, 0x5000, &t);
	*t.flags |= PAGE_CODE;
	assert_int_equal(memory_discard(m, 0x4000, 0x3000), 0);
	assert_int_equal(memory_discard(m, 0x30000, 0x3000), 0);
	assert_true(resident(m, 0x2f000));
	assert_false(resident(m, 0x30000));
	assert_false(resident(m, 0x32000));
	assert_true(resident(m, 0x33000));
	assert_int_equal(ram[0x3fff], 0x33);
	assert_int_equal(ram[0x4000] | ram[0x6fff], 0);
	assert_int_equal(ram[0x7000], 0x33);
	assert_int_equal(s.writes, 1);
	assert_int_equal(s.gpa[0], 0x5000);
	assert_int_equal(s.byte, 0);
	/* an offset that is not the address */
	assert_int_equal(memory_discard(m, 2 * MiB, 0x1000), 0);
	assert_int_equal(ram[4 * MiB], 0);
	assert_int_equal(ram[2 * MiB], 0x33);
	/* refused, and nothing changes: not whole pages, no RAM, two pieces, not the guest's */
	assert_int_equal(memory_discard(m, 0x8800, 0x1000), -1);
	assert_int_equal(memory_discard(m, 0x8000, 0x800), -1);
	assert_int_equal(memory_discard(m, 0x8000, 0), -1);
	assert_int_equal(memory_discard(m, 0x10000, 0x1000), -1);
	assert_int_equal(memory_discard(m, 0xf000, 0x2000), -1);
	assert_int_equal(memory_discard(m, 0x20000, 0x1000), -1);
	assert_int_equal(memory_discard(m, 2 * MiB - 0x1000, 0x2000), -1);
	assert_int_equal(memory_discard(m, 3 * MiB - 0x1000, 0x2000), -1);
	assert_int_equal(memory_discard(m, 8 * MiB, 0x1000), -1);
	assert_int_equal(memory_discard(m, UINT64_MAX & PAGE_MASK, 0x1000), -1);
	assert_int_equal(memory_discard(m, 0, UINT64_MAX & PAGE_MASK), -1);
	assert_int_equal(ram[0x8000], 0x33);
	assert_int_equal(ram[2 * MiB - 1], 0x33);
	assert_int_equal(foreign[0], 0x33);
	assert_int_equal(s.writes, 1);
	memory_destroy(m);
}

static void discard(void **state)
{
	discard_as(0);
	discard_as(MEMORY_SHARED);
}

static void count_line(void *opaque, const char *line)
{
	(*(unsigned *)opaque)++;
}

static void dump(void **state)
{
	struct memory *m = mem_16m();
	struct recorder r = { "", 0 };
	unsigned lines = 0;

	memory_map_ram(m, 0, 0, 1 * MiB, 0, "ram");
	region_set(m, memory_map_mmio(m, 0x8000, 0x1000, &ops_any, &r, 1, "dev"), 0x9000, true);
	region_set(m, memory_map_mmio(m, 0x8000, 0x1000, &ops_any, &r, 1, "dev2"), 0x9000, false);
	memory_dump(m, count_line, &lines);
	assert_int_equal(lines, 4); /* RAM in two parts, dev, the hidden one */
	memory_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(create_errors), cmocka_unit_test(plain_ram),	cmocka_unit_test(holes),
		cmocka_unit_test(priorities),	 cmocka_unit_test(random_maps), cmocka_unit_test(rom_and_alias),
		cmocka_unit_test(mmio_sizes),	 cmocka_unit_test(mixed_pages), cmocka_unit_test(listeners),
		cmocka_unit_test(dma_to_itself), cmocka_unit_test(discard),	cmocka_unit_test(dump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
