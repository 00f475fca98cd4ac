/* The state codec: round trip, truncation at every byte, malformed sections; errors and log lines. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/log.h"
#include "state/codec.h"

#include "fakes.h"

static void write_record(struct encoder *e)
{
	enc_begin(e, "thing", 3);
	enc_u8(e, 0x12);
	enc_u16(e, 0x3456);
	enc_u32(e, 0x789abcde);
	enc_u64(e, 0x0123456789abcdef);
	enc_bool(e, true);
	enc_bool(e, false);
	enc_bytes(e, "hello", 5);
	enc_end(e);
}

static bool read_record(struct decoder *outer)
{
	struct decoder d;
	char text[6] = { 0 };
	bool same;

	if (!dec_begin(outer, "thing", &d))
		return false;
	same = d.version == 3 && dec_u8(&d) == 0x12;
	same &= dec_u16(&d) == 0x3456;
	same &= dec_u32(&d) == 0x789abcde;
	same &= dec_u64(&d) == 0x0123456789abcdef;
	same &= dec_bool(&d);
	same &= !dec_bool(&d);
	dec_bytes(&d, text, 5);
	return same && !strcmp(text, "hello") && dec_done(&d);
}

static void round_trip(void **state)
{
	static const u8 head[] = { 5, 't', 'h', 'i', 'n', 'g', 3, 0, 22, 0, 0, 0, 0x12, 0x56, 0x34, 0xde };
	struct encoder e;
	struct decoder d;

	enc_init(&e);
	write_record(&e);
	enc_begin(&e, "empty", 1);
	enc_end(&e);
	write_record(&e);
	assert_false(e.failed);
	assert_memory_equal(e.data, head, sizeof(head));

	d = (struct decoder){ .data = e.data, .len = e.len };
	assert_true(read_record(&d));
	struct decoder in;
	assert_true(dec_begin(&d, "empty", &in));
	assert_int_equal(in.version, 1);
	assert_true(dec_done(&in));
	assert_false(dec_done(&d));
	assert_true(read_record(&d));
	assert_true(dec_done(&d));
	enc_free(&e);
}

static void large(void **state)
{
	static u8 block[5000], back[5000];
	struct encoder e;
	struct decoder d, in;

	enc_init(&e);
	enc_begin(&e, "big", 1);
	for (unsigned i = 0; i < 300; i++) {
		memset(block, (int)i, sizeof(block));
		enc_bytes(&e, block, sizeof(block));
	}
	enc_end(&e);
	assert_false(e.failed);
	d = (struct decoder){ .data = e.data, .len = e.len };
	assert_true(dec_begin(&d, "big", &in));
	for (unsigned i = 0; i < 300; i++) {
		memset(block, (int)i, sizeof(block));
		dec_bytes(&in, back, sizeof(back));
		assert_memory_equal(block, back, sizeof(back));
	}
	assert_true(dec_done(&in) && dec_done(&d));
	enc_free(&e);
}

static void truncated(void **state)
{
	struct encoder e;

	enc_init(&e);
	write_record(&e);
	for (size_t n = 0; n < e.len; n++) {
		u8 *copy = malloc(n + 1); /* exact size: a sanitizer sees reads behind it */
		struct decoder d = { .data = copy, .len = n };

		memcpy(copy, e.data, n);
		assert_false(read_record(&d));
		assert_false(dec_done(&d));
		free(copy);
	}
	enc_free(&e);
}

static void short_reads_stick(void **state)
{
	static const u8 bytes[] = { 1, 2, 3 };
	struct decoder d = { .data = bytes, .len = 3 };
	u8 buf[4] = { 9, 9, 9, 9 };

	assert_int_equal(dec_u8(&d), 1);
	assert_int_equal(dec_u32(&d), 0);
	assert_true(d.failed);
	assert_int_equal(dec_u8(&d), 0);
	dec_bytes(&d, buf, 2);
	assert_int_equal(buf[0] | buf[1], 0);
	assert_false(dec_done(&d));
	d = (struct decoder){ .data = bytes, .len = 3 };
	dec_u16(&d);
	assert_false(dec_done(&d)); /* something is left */
}

static void bad_bool(void **state)
{
	for (unsigned v = 0; v < 256; v++) {
		u8 b = (u8)v;
		struct decoder d = { .data = &b, .len = 1 };
		bool got = dec_bool(&d);

		assert_int_equal(got, v == 1);
		assert_int_equal(d.failed, v > 1);
	}
}

static void bad_sections(void **state)
{
	static const u8 huge[] = { 1, 'a', 1, 0, 0xff, 0xff, 0xff, 0xff, 0 };
	struct encoder e;
	struct decoder d, in;

	enc_init(&e);
	write_record(&e);
	d = (struct decoder){ .data = e.data, .len = e.len };
	assert_false(dec_begin(&d, "other", &in));
	assert_int_equal(dec_u8(&in), 0);
	assert_true(in.failed && d.failed);
	d = (struct decoder){ .data = e.data, .len = e.len };
	assert_false(dec_begin(&d, "thin", &in));
	d = (struct decoder){ .data = huge, .len = sizeof(huge) };
	assert_false(dec_begin(&d, "a", &in));
	assert_true(d.failed);
	/* a section's reader cannot reach the next section */
	write_record(&e);
	d = (struct decoder){ .data = e.data, .len = e.len };
	assert_true(dec_begin(&d, "thing", &in));
	u8 all[23];
	dec_bytes(&in, all, 23);
	assert_true(in.failed);
	enc_free(&e);
}

static void errors(void **state)
{
	struct error e;
	char longish[2000];

	assert_int_equal(error_set(&e, "disk %s: %d", "x", 7), -1);
	assert_string_equal(e.text, "disk x: 7");
	assert_int_equal(error_errno(&e, 2, "%s", "f"), -1);
	assert_string_equal(e.text, "f: No such file or directory");
	memset(longish, 'a', sizeof(longish));
	longish[sizeof(longish) - 1] = 0;
	error_errno(&e, 2, "%s", longish);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	assert_int_equal(error_set(NULL, "x"), -1);
}

/* What log_msg writes, captured through a pipe in stderr's place. */
static void captured(bool raw, enum log_level level, const char *text, char *buf, size_t n)
{
	int p[2], old = dup(2);
	ssize_t got;

	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	dup2(p[1], 2);
	log_set_raw_terminal(raw);
	log_msg(level, "mod", "%s", text);
	dup2(old, 2);
	got = read(p[0], buf, n - 1);
	buf[got > 0 ? got : 0] = 0;
	close(old);
	close(p[0]);
	close(p[1]);
	log_set_raw_terminal(false);
}

static void logs(void **state)
{
	char buf[2000], longish[1900];

	captured(false, LOG_WARN, "hot", buf, sizeof(buf));
	assert_string_equal(buf, "ectype: mod: warning: hot\n");
	captured(true, LOG_ERROR, "hot", buf, sizeof(buf));
	assert_string_equal(buf, "ectype: mod: error: hot\r\n");
	captured(false, LOG_DEBUG, "hot", buf, sizeof(buf));
	assert_string_equal(buf, "");
	log_set_level(LOG_DEBUG);
	captured(false, LOG_DEBUG, "hot", buf, sizeof(buf));
	assert_string_equal(buf, "ectype: mod: hot\n");
	log_set_level(LOG_WARN);
	memset(longish, 'a', sizeof(longish));
	longish[sizeof(longish) - 1] = 0;
	captured(true, LOG_ERROR, longish, buf, sizeof(buf));
	assert_true(strlen(buf) <= 1024 && !strcmp(buf + strlen(buf) - 3, "a\r\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip), cmocka_unit_test(large),
		cmocka_unit_test(truncated),  cmocka_unit_test(short_reads_stick),
		cmocka_unit_test(bad_bool),   cmocka_unit_test(bad_sections),
		cmocka_unit_test(errors),     cmocka_unit_test(logs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
