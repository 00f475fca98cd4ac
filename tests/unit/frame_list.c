/* Lists of frames: what is written is read again; what is not sound is refused and sets nothing outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "state/frame_list.h"

#include "fakes.h"

#define FRAMES 1000000u
#define WORDS (FRAMES / 64 + 1)

static u64 random_bits(u64 *bits, u64 frames, unsigned density)
{
	u64 count = 0;

	memset(bits, 0, WORDS * sizeof(*bits));
	for (u64 at = 0; at < frames;) {
		u64 n = 1 + (u64)rand() % density, set = rand() & 1;

		n = MIN(n, frames - at);
		if (set)
			frame_list_set(bits, at, n);
		count += set ? n : 0;
		at += n;
	}
	return count;
}

/* As many lists as it takes. */
static void again(const u64 *bits, u64 *got, u64 frames, u64 count)
{
	struct encoder out;
	u64 at = 0, put = 0;

	memset(got, 0, WORDS * sizeof(*got));
	while (frame_list_next(bits, frames, at) < frames) {
		struct decoder d;
		u64 n;

		enc_init(&out);
		n = frame_list_put(&out, bits, frames, &at);
		assert_true(n > 0);
		assert_true(out.len <= FRAME_LIST_BYTES);
		d = (struct decoder){ .data = out.data, .len = out.len };
		assert_int_equal(frame_list_take(&d, got, frames), n);
		put += n;
		enc_free(&out);
	}
	assert_int_equal(put, count);
	assert_memory_equal(bits, got, WORDS * sizeof(*got));
	enc_init(&out);
	assert_int_equal(frame_list_put(&out, bits, frames, &at), 0);
	assert_int_equal(out.len, 0);
	enc_free(&out);
}

static void round_trip(void **state)
{
	static const u64 sizes[] = { 1, 63, 64, 65, 4096, FRAMES };
	u64 *bits = calloc(WORDS, 8), *got = calloc(WORDS, 8);

	srand(1);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++)
		for (unsigned density = 1; density < 100000; density *= 7)
			again(bits, got, sizes[i], random_bits(bits, sizes[i], density));
	/* every second one: the longest list */
	memset(bits, 0, WORDS * 8);
	for (u64 at = 0; at < FRAMES; at += 2)
		frame_list_set(bits, at, 1);
	again(bits, got, FRAMES, FRAMES / 2);
	memset(bits, 0, WORDS * 8);
	frame_list_set(bits, 0, FRAMES);
	again(bits, got, FRAMES, FRAMES);
	frame_list_clear(bits, 0, FRAMES);
	again(bits, got, FRAMES, 0);
	free(bits);
	free(got);
}

static void runs(void **state)
{
	u64 bits[3] = { 0 };

	frame_list_set(bits, 60, 70);
	assert_int_equal(bits[0], 0xfull << 60);
	assert_int_equal(bits[1], ~0ull);
	assert_int_equal(bits[2], 3);
	assert_int_equal(frame_list_next(bits, 192, 0), 60);
	assert_int_equal(frame_list_next(bits, 192, 100), 100);
	assert_int_equal(frame_list_next(bits, 192, 130), 192);
	assert_int_equal(frame_list_next(bits, 40, 0), 40);
	assert_int_equal(frame_list_run(bits, 192, 60, 1000), 70);
	assert_int_equal(frame_list_run(bits, 100, 60, 1000), 40);
	assert_int_equal(frame_list_run(bits, 192, 60, 8), 8);
	assert_int_equal(frame_list_run(bits, 192, 59, 8), 0);
	frame_list_clear(bits, 62, 67);
	assert_int_equal(bits[0], 3ull << 60);
	assert_int_equal(bits[1], 0);
	assert_int_equal(bits[2], 2);
}

static void unsound(void **state)
{
	static const struct {
		const char *what, *bytes;
		size_t len;
	} list[] = {
		{ "nothing", "", 0 },
		{ "half a run", "\5", 1 },
		{ "a number without an end", "\5\x80", 2 },
		{ "a number with a zero at its end", "\5\x81\0", 3 },
		{ "a run of no frames", "\5\0", 2 },
		{ "one behind the end", "\x64\1", 2 },
		{ "one over the end", "\x63\2", 2 },
		{ "the second over the end", "\1\1\x60\4", 4 },
		{ "runs that touch", "\1\1\0\1", 4 },
		{ "more than there can be", "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 11 },
		{ "more than 64 bits", "\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\2", 11 },
		{ "eleven bytes", "\1\x81\x80\x80\x80\x80\x80\x80\x80\x80\x80\1", 12 },
	};
	u64 bits[2];

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		struct decoder d = { .data = (const u8 *)list[i].bytes, .len = list[i].len };

		memset(bits, 0, sizeof(bits));
		if (frame_list_take(&d, bits, 100))
			fail_msg("%s was taken", list[i].what);
		assert_false(bits[1] >> 36);
	}
	/* any bytes */
	for (unsigned i = 0; i < 200000; i++) {
		u8 bytes[8];
		struct decoder d = { .data = bytes, .len = 1 + (size_t)rand() % sizeof(bytes) };

		for (unsigned n = 0; n < sizeof(bytes); n++)
			bytes[n] = (u8)(rand() % 3 ? rand() % 16 : rand());
		memset(bits, 0, sizeof(bits));
		frame_list_take(&d, bits, 100);
		assert_false(bits[1] >> 36);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(runs),
		cmocka_unit_test(unsound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
