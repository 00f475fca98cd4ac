#include "state/frame_list.h"

#define NUMBER_BYTES 10u /* of 64 bits */

static void put_number(struct encoder *out, u64 n)
{
	for (; n > 127; n >>= 7)
		enc_u8(out, (u8)(n | 128));
	enc_u8(out, (u8)n);
}

/* False: it is none. */
static bool take_number(struct decoder *d, u64 *n)
{
	*n = 0;
	for (unsigned i = 0; i < NUMBER_BYTES; i++) {
		u8 byte = dec_u8(d);

		if (d->failed || (i == NUMBER_BYTES - 1 && byte > 1) || (i && !byte))
			return false;
		*n |= (u64)(byte & 127) << (7 * i);
		if (byte < 128)
			return true;
	}
	return false;
}

u64 frame_list_next(const u64 *bits, u64 frames, u64 from)
{
	for (u64 at = from; at < frames; at = (at | 63) + 1) {
		u64 word = bits[at / 64] >> at % 64;

		if (word)
			return MIN(at + (u64)__builtin_ctzll(word), frames);
	}
	return frames;
}

u64 frame_list_run(const u64 *bits, u64 frames, u64 from, u64 most)
{
	u64 n = 0;

	while (n < most && from + n < frames && (bits[(from + n) / 64] & BIT((from + n) % 64)))
		n++;
	return n;
}

static u64 piece_of_word(u64 first, u64 n, u64 *mask)
{
	u64 len = MIN(n, 64 - first % 64);

	*mask = (len == 64 ? ~0ull : BIT(len) - 1) << first % 64;
	return len;
}

void frame_list_set(u64 *bits, u64 first, u64 n)
{
	for (u64 len, mask; n; first += len, n -= len) {
		len = piece_of_word(first, n, &mask);
		bits[first / 64] |= mask;
	}
}

void frame_list_clear(u64 *bits, u64 first, u64 n)
{
	for (u64 len, mask; n; first += len, n -= len) {
		len = piece_of_word(first, n, &mask);
		bits[first / 64] &= ~mask;
	}
}

void frame_list_put_run(struct encoder *out, u64 first, u64 n)
{
	put_number(out, first);
	put_number(out, n);
}

u64 frame_list_put(struct encoder *out, const u64 *bits, u64 frames, u64 *at)
{
	size_t end = out->len + FRAME_LIST_BYTES - 2 * NUMBER_BYTES;
	u64 behind = 0, count = 0, first = frame_list_next(bits, frames, *at);

	for (; first < frames && out->len <= end && !out->failed; first = frame_list_next(bits, frames, behind)) {
		u64 n = frame_list_run(bits, frames, first, frames);

		frame_list_put_run(out, first - behind, n);
		behind = first + n;
		count += n;
	}
	*at = first;
	return count;
}

u64 frame_list_take(struct decoder *d, u64 *bits, u64 frames)
{
	u64 at = 0, count = 0, skip, n;

	while (d->pos < d->len) {
		if (!take_number(d, &skip) || !take_number(d, &n) || !n || skip > frames - at || n > frames - at - skip)
			return 0;
		/* runs that touch would be one */
		if (!skip && count)
			return 0;
		frame_list_set(bits, at + skip, n);
		at += skip + n;
		count += n;
	}
	return count;
}
