/*
 * Streams of checked sections, and the state of a whole machine through one:
 * what is saved makes an equal machine, what is damaged or not of the machine
 * is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/pv.h"
#include "ctl/api.h"
#include "machine/state.h"
#include "state/ram.h"

#define ROM_SIZE (64 * KiB)
#define RAM (4 * MiB)

/* ---- the stream ---- */

static struct encoder small_stream(void)
{
	struct encoder e;
	struct stream_writer w;

	enc_init(&e);
	stream_begin(&w, &e);
	stream_section(&w, "one", STREAM_REQUIRED, "abc", 3);
	stream_section(&w, "two", 0, NULL, 0);
	stream_section_begin(&w, "three", STREAM_REQUIRED);
	enc_u64(&e, 77);
	stream_section_end(&w);
	stream_finish(&w);
	assert_false(e.failed);
	return e;
}

static bool reads(const u8 *data, size_t len)
{
	struct stream s;
	struct error e = { .text = "" };

	if (stream_read(&s, data, len, "test", &e)) {
		assert_true(e.text[0] && !s.section);
		return false;
	}
	stream_free(&s);
	return true;
}

static void stream_is_read(void **state)
{
	struct encoder e = small_stream();
	struct stream s;
	struct error err;
	struct decoder d;

	assert_int_equal(stream_read(&s, e.data, e.len, "test", &err), 0);
	assert_int_equal(s.count, 3);
	assert_string_equal(stream_unknown(&s)->name, "one");
	assert_non_null(stream_find(&s, "one"));
	/* two is not required: nobody need know it */
	assert_string_equal(stream_unknown(&s)->name, "three");
	d = stream_decoder(stream_find(&s, "three"));
	assert_int_equal(dec_u64(&d), 77);
	assert_true(dec_done(&d));
	assert_null(stream_unknown(&s));
	assert_null(stream_find(&s, "four"));
	assert_null(stream_find(&s, STREAM_END));
	stream_free(&s);
	enc_free(&e);
}

static void damaged_streams(void **state)
{
	struct encoder e = small_stream();
	u8 *copy = malloc(e.len + 1);

	assert_true(reads(e.data, e.len));
	for (size_t len = 0; len < e.len; len++) {
		u8 *cut = malloc(len + 1); /* so that a sanitizer sees reads behind it */

		memcpy(cut, e.data, len);
		assert_false(reads(cut, len));
		free(cut);
	}
	for (size_t i = 0; i < e.len * 8; i++) {
		memcpy(copy, e.data, e.len);
		copy[i / 8] ^= (u8)(1u << i % 8);
		assert_false(reads(copy, e.len));
	}
	memcpy(copy, e.data, e.len);
	copy[e.len] = 0;
	assert_false(reads(copy, e.len + 1));
	free(copy);
	enc_free(&e);
}

/* Sections that are sound in themselves, in another place than they were written. */
static void moved_sections(void **state)
{
	const size_t one = STREAM_SECTION_HEAD_BYTES + 3 + 3 + STREAM_SUM_BYTES;
	const size_t two = STREAM_SECTION_HEAD_BYTES + 3 + STREAM_SUM_BYTES;
	struct encoder e = small_stream();
	u8 *copy = malloc(e.len + one), *at = copy + STREAM_HEAD_BYTES;

	memcpy(copy, e.data, e.len);
	memcpy(at, e.data + STREAM_HEAD_BYTES + one, two);
	memcpy(at + two, e.data + STREAM_HEAD_BYTES, one);
	assert_false(reads(copy, e.len));
	memmove(at, at + one + two, e.len - STREAM_HEAD_BYTES - one - two); /* left out */
	assert_false(reads(copy, e.len - one - two));
	memcpy(at, e.data + STREAM_HEAD_BYTES, one); /* doubled */
	memcpy(at + one, e.data + STREAM_HEAD_BYTES, e.len - STREAM_HEAD_BYTES);
	assert_false(reads(copy, e.len + one));
	free(copy);
	enc_free(&e);
}

static void two_of_a_name(void **state)
{
	struct stream_writer w;
	struct encoder e;

	enc_init(&e);
	stream_begin(&w, &e);
	stream_section(&w, "one", 0, NULL, 0);
	stream_section(&w, "one", 0, NULL, 0);
	stream_finish(&w);
	assert_false(reads(e.data, e.len));
	enc_free(&e);
}

static void too_large(void **state)
{
	struct stream_writer w;
	struct encoder e;
	u8 head[STREAM_SECTION_HEAD_BYTES] = { 0, 0, 0, 4, 0, 1 }; /* 64 MiB */

	assert_int_equal(stream_section_rest(head), STREAM_SECTION_MAX + 1 + STREAM_SUM_BYTES);
	head[0] = 1;
	assert_int_equal(stream_section_rest(head), 0);
	head[0] = head[5] = 0; /* no name */
	assert_int_equal(stream_section_rest(head), 0);
	head[5] = STREAM_NAME_MAX + 1;
	assert_int_equal(stream_section_rest(head), 0);
	enc_init(&e);
	stream_begin(&w, &e);
	stream_section_begin(&w, "large", 0);
	for (unsigned i = 0; i <= STREAM_SECTION_MAX / sizeof(head); i++)
		enc_bytes(&e, head, sizeof(head));
	stream_section_end(&w);
	assert_true(e.failed);
	enc_free(&e);
}

static void ram_sums(void **state)
{
	u8 page[PAGE_SIZE] = { 0 };
	struct ram_sum a = { 0 }, b = { 0 }, c = { 0 };

	assert_true(ram_page_zero(page));
	page[PAGE_SIZE - 1] = 1;
	assert_false(ram_page_zero(page));
	ram_sum_add(&a, 1, page);
	ram_sum_add(&b, 2, page);
	ram_sum_add(&c, 2, page);
	ram_sum_add(&c, 1, page);
	assert_int_not_equal(a.sum, b.sum);
	assert_int_equal(c.sum, a.sum + b.sum);
	assert_int_equal(c.pages, 2);
}

/* ---- a machine ---- */

static char rom_path[] = "/tmp/ectype-test-rom-XXXXXX";

static void write_code(const u8 *code, size_t n, u8 mark)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
	static u8 rom[ROM_SIZE];
	FILE *f = fopen(rom_path, "w");

	memset(rom, 0xf4, sizeof(rom));
	memcpy(rom, code, n);
	rom[n] = mark;
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	assert_non_null(f);
	assert_int_equal(fwrite(rom, 1, sizeof(rom), f), sizeof(rom));
	fclose(f);
}

/* Counts in memory, takes a time stamp and a random number, and starts over: never the same state twice. */
static void write_rom(u8 mark)
{
	static const u8 code[] = {
		0x31, 0xc0, 0x8e, 0xd8,	      /* xor ax, ax; mov ds, ax */
		0x66, 0xff, 0x06, 0x00, 0x10, /* inc dword [1000h] */
		0x0f, 0x31,		      /* rdtsc */
		0x66, 0xa3, 0x04, 0x10,	      /* mov [1004h], eax */
		0x66, 0x0f, 0xc7, 0xf0,	      /* rdrand eax */
		0x66, 0x31, 0x06, 0x08, 0x10, /* xor [1008h], eax */
		0xe4, 0x40,		      /* in al, 40h */
		0xeb, 0xe8,		      /* jmp to the inc */
	};

	write_code(code, sizeof(code), mark);
}

static struct machine_config config(unsigned cpus)
{
	return (struct machine_config){
		.name = "test",
		.memory = RAM,
		.cpus = cpus,
		.engine = "interp",
		.clock = MACHINE_CLOCK_VIRTUAL,
		.seed = 5,
		.cpu_model = "host",
		.pv = PV_ALL,
		.firmware = rom_path,
		.debug_exit = true,
		.test_device = true,
		.balloon = true,
		.balloon_target = 1 * MiB,
	};
}

static void run_to(struct machine *m, u64 icount)
{
	struct machine_result r;

	machine_run_until(m, icount, &r);
	assert_int_equal(r.end, MACHINE_END_LIMIT);
	assert_int_equal(machine_icount(m), icount);
}

static struct machine *started(const struct machine_config *c, u64 icount)
{
	struct error e;
	struct machine *m = machine_create(c, &e);

	if (!m)
		fail_msg("%s", e.text);
	run_to(m, icount);
	return m;
}

struct saved {
	struct encoder e;
	struct stream stream;
	int ram;
};

static struct saved save(struct machine *m)
{
	struct saved s = { .ram = memfd_create("test", MFD_CLOEXEC) };
	struct memory *mem = machine_memory(m);
	struct stream_writer w;
	struct error e;

	assert_int_equal(machine_quiesce(m, &e), 0);
	enc_init(&s.e);
	stream_begin(&w, &s.e);
	machine_save(m, &w);
	stream_finish(&w);
	assert_false(s.e.failed);
	assert_int_equal(stream_read(&s.stream, s.e.data, s.e.len, "test", &e), 0);
	assert_int_equal(pwrite(s.ram, memory_ram(mem), RAM, 0), RAM);
	return s;
}

static void drop(struct saved *s)
{
	stream_free(&s->stream);
	enc_free(&s->e);
	close(s->ram);
}

static struct machine *load(const struct machine_config *cfg, const struct stream *stream, int ram, bool eager,
			    struct error *e)
{
	const struct machine_saved saved = { .stream = stream, .ram_fd = ram, .eager = eager };
	struct machine_config c = *cfg;

	c.saved = &saved;
	return machine_create(&c, e);
}

/* dbt; where a sanitizer leaves it no room, interp. */
static const char *translator(void)
{
	struct error e;

	return engine_choose("dbt", NULL, &e) ? "dbt" : "interp";
}

static void goes_on_alike(void **state)
{
	for (unsigned i = 0; i < 8; i++) {
		struct machine_config c = config(i & 1 ? 3 : 1);
		struct machine *a = started(&c, 1000 + i * 777), *b;
		struct saved first = save(a), second;
		struct error e;

		c.engine = i & 2 ? translator() : "interp";
		b = load(&c, &first.stream, first.ram, i & 4, &e);
		if (!b)
			fail_msg("%s", e.text);
		second = save(b);
		assert_int_equal(first.e.len, second.e.len);
		assert_memory_equal(first.e.data, second.e.data, first.e.len);
		assert_true(machine_state_hash(a) == machine_state_hash(b));
		run_to(a, 200000);
		run_to(b, 200000);
		assert_true(machine_state_hash(a) == machine_state_hash(b));
		drop(&first);
		drop(&second);
		machine_destroy(a);
		machine_destroy(b);
	}
}

/* Who adds a device need not know of snapshots, if it is on the board's list. */
static void every_device_is_there(void **state)
{
	const struct machine_config c = config(2);
	struct machine *m = started(&c, 5000);
	struct saved s = save(m);
	unsigned devices = 0, sections = 0;

	for (const struct device *d = machine_board(m)->first; d; d = d->next)
		devices++;
	for (unsigned i = 0; i < s.stream.count; i++)
		sections += !strncmp(s.stream.section[i].name, "dev.", 4);
	assert_int_equal(sections, devices);
	assert_non_null(stream_find(&s.stream, "dev.lapic"));
	assert_non_null(stream_find(&s.stream, "dev.lapic.1"));
	drop(&s);
	machine_destroy(m);
}

static void refused(const struct machine_config *c, const struct stream *stream, int ram, const char *words)
{
	struct error e = { .text = "" };

	assert_null(load(c, stream, ram, true, &e));
	if (!strstr(e.text, words))
		fail_msg("'%s' has no '%s'", e.text, words);
}

/* Each section missing, cut short, or longer than it is; and one that nobody knows. */
static void sections_that_are_not_sound(void **state)
{
	const struct machine_config c = config(1);
	struct machine *m = started(&c, 5000);
	struct saved s = save(m);
	u8 *longer;

	for (unsigned i = 0; i < s.stream.count; i++) {
		struct stream_section *sec = &s.stream.section[i], before = *sec;

		sec->name[0] = 'X';
		refused(&c, &s.stream, s.ram, before.name);
		*sec = before;
		sec->len--;
		refused(&c, &s.stream, s.ram, "sound");
		longer = calloc(1, before.len + 1);
		memcpy(longer, before.payload, before.len);
		sec->payload = longer;
		sec->len = before.len + 1;
		refused(&c, &s.stream, s.ram, "sound");
		*sec = before;
		free(longer);
	}
	struct stream more = { .section = calloc(s.stream.count + 1, sizeof(*more.section)),
			       .count = s.stream.count + 1 };

	memcpy(more.section, s.stream.section, s.stream.count * sizeof(*more.section));
	more.section[more.count - 1] = (struct stream_section){ .name = "dev.flux", .flags = STREAM_REQUIRED };
	refused(&c, &more, s.ram, "dev.flux");
	free(more.section);
	drop(&s);
	machine_destroy(m);
}

static void another_machine(void **state)
{
	struct machine_config c = config(2);
	struct machine *m = started(&c, 5000);
	struct saved s = save(m);
	struct error e;

	c.cpus = 1;
	refused(&c, &s.stream, s.ram, "");
	c = config(3);
	refused(&c, &s.stream, s.ram, "cpu.2");
	c = config(2);
	c.balloon = false;
	refused(&c, &s.stream, s.ram, "virtio-balloon");
	c = config(2);
	c.memory = 2 * RAM;
	refused(&c, &s.stream, s.ram, "");
	c = config(2);
	c.clock = MACHINE_CLOCK_REAL;
	refused(&c, &s.stream, s.ram, "door");
	c = config(2);
	assert_int_equal(ftruncate(s.ram, RAM - PAGE_SIZE), 0);
	refused(&c, &s.stream, s.ram, "size");
	assert_int_equal(ftruncate(s.ram, RAM), 0);
	write_rom(1);
	refused(&c, &s.stream, s.ram, "is not what it was");
	write_rom(0);
	struct machine *again = load(&c, &s.stream, s.ram, true, &e);

	assert_non_null(again);
	machine_destroy(again);
	drop(&s);
	machine_destroy(m);
}

/* The guest was shown a feature that no host of today has: bit 3 of leaf 7.1 EAX. */
static void a_host_that_lacks_something(void **state)
{
	const struct machine_config c = config(1);
	struct machine *m = started(&c, 5000);
	struct saved s = save(m);
	struct stream_section *sec = stream_find(&s.stream, "cpu-model");
	u8 *changed = malloc(sec->len);
	bool found = false;

	memcpy(changed, sec->payload, sec->len);
	for (u32 i = 0; i + 25 <= sec->len; i++) {
		static const u8 leaf[] = { 7, 0, 0, 0, 1, 0, 0, 0, 1 };

		if (memcmp(changed + i, leaf, sizeof(leaf)))
			continue;
		changed[i + sizeof(leaf)] |= 8;
		found = true;
	}
	assert_true(found);
	sec->payload = changed;
	refused(&c, &s.stream, s.ram, "lacks CPUID 7.1 EAX bit 3");
	free(changed);
	drop(&s);
	machine_destroy(m);
}

/* ---- while the guest goes on ---- */

/* Writes all over the lower 600 KiB, for ever. */
static void write_busy_rom(void)
{
	static const u8 code[] = {
		0x31, 0xf6,		/* xor si, si */
		0xbb, 0x00, 0x10,	/* mov bx, 1000h */
		0x8e, 0xdb,		/* l: mov ds, bx */
		0x66, 0xff, 0x04,	/* inc dword [si] */
		0x81, 0xc6, 0x04, 0x04, /* add si, 404h */
		0x81, 0xe6, 0xfc, 0x7f, /* and si, 7ffch */
		0x81, 0xc3, 0x01, 0x01, /* add bx, 101h */
		0x81, 0xe3, 0xff, 0x7f, /* and bx, 7fffh */
		0x81, 0xcb, 0x00, 0x10, /* or bx, 1000h */
		0xeb, 0xe5,		/* jmp l */
	};

	write_code(code, sizeof(code), 0);
}

static void *run_thread(void *machine)
{
	struct machine_result r;

	machine_run(machine, &r);
	return NULL;
}

/* Takes what comes of RAM into *ram; returns the instruction count of the moment. */
static u64 receive(struct api_stream *s, u8 *ram)
{
	u8 *data = malloc(2 * RAM);
	u64 len = 0, pos = STREAM_HEAD_BYTES, icount = 0;
	struct stream_section sec;
	struct error e;
	ssize_t n;

	assert_non_null(data);
	while ((n = s->read(s, len, data + len, MIN(2 * RAM - len, 5000))) > 0) {
		len += (u64)n;
		usleep(100); /* time for the guest to write */
	}
	assert_int_equal(n, 0);
	for (u64 k = 0; pos < len; k++) {
		u64 rest = stream_section_rest(data + pos) + STREAM_SECTION_HEAD_BYTES;
		struct decoder d, in;

		assert_int_equal(stream_read_section(data + pos, rest, k, &sec, "test", &e), 0);
		d = stream_decoder(&sec);
		if (!strcmp(sec.name, "vcpu.0") && dec_begin(&d, "vcpu", &in))
			icount = dec_u64(&in);
		if (!strcmp(sec.name, RAM_DATA)) {
			u64 at = dec_u64(&d);

			memcpy(ram + at, sec.payload + 8, sec.len - 8);
		}
		pos += rest;
	}
	assert_string_equal(sec.name, STREAM_END);
	free(data);
	return icount;
}

static void memory_of_one_moment(void **state)
{
	u8 *ram = malloc(RAM);

	write_busy_rom();
	for (unsigned i = 0; i < 6; i++) {
		struct machine_config c = config(1);
		struct api_reply r;
		struct error e;
		struct machine *m;
		struct api_machine api = { .name = "test", .options = (const u8 *)"", .options_len = 1 };
		pthread_t thread;
		u64 icount;

		c.engine = i & 1 ? translator() : "interp";
		m = api.machine = machine_create(&c, &e);
		assert_non_null(m);
		pthread_create(&thread, NULL, run_thread, m);
		usleep(20000);
		api_snapshot(&api, &(struct api_request){ .op = API_SNAPSHOT }, &r);
		assert_int_equal(r.status, 200);
		assert_int_equal(machine_state(m), MACHINE_RUNNING);
		memset(ram, 0, RAM);
		icount = receive(r.stream, ram);
		api_reply_free(&r);
		machine_stop(m);
		pthread_join(thread, NULL);
		assert_true(machine_icount(m) > icount + 1000);
		machine_destroy(m);
		c.engine = "interp";
		m = started(&c, icount);
		assert_memory_equal(memory_ram(machine_memory(m)), ram, RAM);
		machine_destroy(m);
	}
	free(ram);
	write_rom(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stream_is_read),
		cmocka_unit_test(damaged_streams),
		cmocka_unit_test(moved_sections),
		cmocka_unit_test(two_of_a_name),
		cmocka_unit_test(too_large),
		cmocka_unit_test(ram_sums),
		cmocka_unit_test(goes_on_alike),
		cmocka_unit_test(every_device_is_there),
		cmocka_unit_test(sections_that_are_not_sound),
		cmocka_unit_test(another_machine),
		cmocka_unit_test(a_host_that_lacks_something),
		cmocka_unit_test(memory_of_one_moment),
	};
	int fd = mkstemp(rom_path), failed;

	close(fd);
	write_rom(0);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(rom_path);
	return failed;
}
