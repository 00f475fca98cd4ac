/* For fuzz targets of virtio devices: a device is saved and loaded again. */
#ifndef ECTYPE_FUZZ_RECORD_H
#define ECTYPE_FUZZ_RECORD_H

#include "fuzz.h"
#include "virtio_rig.h"

/* With `bad` bytes of the record are changed first, and the device may refuse it. */
static inline void reload(struct rig *r, struct input *in, bool bad)
{
	struct device *d = vrig(r)->dev;
	struct encoder e = rig_save(d);

	for (unsigned i = bad ? 1 + (take(in, 1) & 3) : 0; i; i--)
		e.data[e.len - 1 - take(in, 2) % e.len] = take(in, 1);
	if (rig_check(d, e.data, e.len) == 0)
		rig_load(d, e.data, e.len);
	else
		assert(bad);
	enc_free(&e);
}

#endif
