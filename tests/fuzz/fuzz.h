/* What a fuzz target defines, libFuzzer's interface; and its input as a source of numbers. */
#ifndef ECTYPE_FUZZ_H
#define ECTYPE_FUZZ_H

#include <string.h>

#include "base/types.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* What is left of the input. */
struct input {
	const u8 *p, *end;
};

/* The next `n` bytes as a number, the first byte highest; zeros behind the input's end. */
static inline u64 take(struct input *in, unsigned n)
{
	u64 v = 0;

	while (n--)
		v = v << 8 | (in->p < in->end ? *in->p++ : 0);
	return v;
}

/* The next `n` bytes, zeros behind the input's end. */
static inline void take_bytes(struct input *in, u8 *to, size_t n)
{
	size_t have = MIN(n, (size_t)(in->end - in->p));

	memcpy(to, in->p, have);
	memset(to + have, 0, n - have);
	in->p += have;
}

#endif
