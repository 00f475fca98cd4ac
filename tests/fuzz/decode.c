/* Guest code bytes through the decoder and the printer, in all three modes. */
#include "fuzz.h"
#include "isa/isa.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	for (unsigned mode = CODE_16; mode <= CODE_64; mode++) {
		for (size_t at = 0; at < size && at < 64;) {
			unsigned len = (unsigned)MIN(size - at, 15);
			struct dinsn d;
			char text[128];

			enum decode_status s = dinsn_decode(&d, data + at, len, (enum code_mode)mode);
			dinsn_format(data + at, len, (enum code_mode)mode, at, text, sizeof(text));
			if (s != DECODE_OK) {
				at++;
				continue;
			}
			assert(d.len >= 1 && d.len <= len);
			assert(d.seg < SEG_COUNT && d.base <= REG_NONE && d.index <= REG_NONE);
			assert(isa_row(d.mnemonic));
			at += d.len;
		}
	}
	return 0;
}
