/* What a fuzz target defines; libFuzzer's interface. */
#ifndef ECTYPE_FUZZ_H
#define ECTYPE_FUZZ_H

#include "base/types.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#endif
