/* A state stream through the decoder: never past its end, `failed` stays set. */
#include "fuzz.h"
#include "state/codec.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct decoder outer = { .data = data, .len = size }, in;
	u8 buf[16];

	for (unsigned i = 0; i < 8 && dec_begin(&outer, i & 1 ? "b" : "a", &in); i++) {
		for (unsigned j = 0; j < 6; j++) {
			switch (j) {
			case 0:
				dec_u8(&in);
				break;
			case 1:
				dec_u16(&in);
				break;
			case 2:
				dec_u64(&in);
				break;
			case 3:
				dec_bool(&in);
				break;
			default:
				dec_bytes(&in, buf, sizeof(buf));
				break;
			}
			assert(in.pos <= in.len);
		}
		if (in.failed) {
			assert(dec_u32(&in) == 0 && !dec_done(&in));
			break;
		}
	}
	assert(outer.pos <= outer.len);
	return 0;
}
