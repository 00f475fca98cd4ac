/*
 * The versioned byte codec of machine state: a leaf header any layer may use.
 *
 * Every component writes named, length-prefixed sections:
 *
 *   section := name-length(u8) name(bytes) version(u16) length(u32) payload
 *
 * All integers are little-endian and written one by one; structs are never
 * dumped. An encoder grows its own buffer; a decoder never reads past the end
 * of its section: after the first short read `failed` stays set and every
 * further get returns 0, so a `check` may read everything and test once.
 */
#ifndef ECTYPE_STATE_CODEC_H
#define ECTYPE_STATE_CODEC_H

#include "base/types.h"

struct encoder {
	u8 *data;
	size_t len, cap;
	size_t section; /* offset of the open section's length field, 0 if none */
	bool failed;	/* out of memory */
};

struct decoder {
	const u8 *data;
	size_t len, pos;
	u16 version; /* of the open section */
	bool failed;
};

void enc_init(struct encoder *e);
void enc_free(struct encoder *e);
void enc_begin(struct encoder *e, const char *name, u16 version);
void enc_end(struct encoder *e);
void enc_u8(struct encoder *e, u8 v);
void enc_u16(struct encoder *e, u16 v);
void enc_u32(struct encoder *e, u32 v);
void enc_u64(struct encoder *e, u64 v);
void enc_bool(struct encoder *e, bool v);
void enc_bytes(struct encoder *e, const void *p, size_t n);

/* Opens the next section of `outer`; fails unless its name matches.
 * `inner` then spans just its payload and `outer` stands behind it. */
bool dec_begin(struct decoder *outer, const char *name, struct decoder *inner);
u8 dec_u8(struct decoder *d);
u16 dec_u16(struct decoder *d);
u32 dec_u32(struct decoder *d);
u64 dec_u64(struct decoder *d);
bool dec_bool(struct decoder *d); /* fails on anything but 0 and 1 */
void dec_bytes(struct decoder *d, void *p, size_t n);
/* True when all was read, nothing is left over and nothing failed. */
bool dec_done(const struct decoder *d);

#endif
