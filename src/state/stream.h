/*
 * The stream of a snapshot: checked sections of bytes, a leaf header any layer
 * may use. The grammar, which docs/snapshot.md repeats with what the sections
 * hold:
 *
 *   stream  := "ectype" 1Ah 0Ah version(u32) 0(u32) section* end
 *   section := length(u32) flags(u8) name-length(u8) 0(u16) name payload sum(u64)
 *   end     := a section named "end", required, of no bytes
 *
 * Integers are little-endian. `length` is that of the payload. `sum` is XXH3
 * (64 bit) of all bytes of the section before it, seeded with the section's
 * number, counted from 0: so a section that is damaged, left out, doubled or
 * moved is noticed, and a stream that was cut has no end.
 *
 * A reader passes over sections it does not know, unless they are marked as
 * required. A change of this grammar is a new version; what is in a section has
 * versions of its own.
 */
#ifndef ECTYPE_STATE_STREAM_H
#define ECTYPE_STATE_STREAM_H

#include "base/error.h"
#include "state/codec.h"

#define STREAM_VERSION 1u
#define STREAM_HEAD_BYTES 16u	     /* before the first section */
#define STREAM_SECTION_HEAD_BYTES 8u /* of a section, before its name */
#define STREAM_SUM_BYTES 8u
#define STREAM_NAME_MAX 63u
#define STREAM_SECTION_MAX (64 * MiB) /* payload */
#define STREAM_BYTES_MAX (256 * MiB)  /* of a stream that is held in memory */
#define STREAM_SECTIONS_MAX 4096u
#define STREAM_END "end"

enum stream_flag { STREAM_REQUIRED = 1 };

/* ---- writing ---- */

struct stream_writer {
	struct encoder *to; /* the caller's */
	u64 count;	    /* sections begun */
	size_t section;	    /* where the open one begins */
	bool open;
};

/* Begins a stream at the end of *to. */
void stream_begin(struct stream_writer *w, struct encoder *to);
/* What is written to w->to between these two is the payload, at most STREAM_SECTION_MAX bytes (else w->to->failed).
 * `name`: 1 to STREAM_NAME_MAX bytes. */
void stream_section_begin(struct stream_writer *w, const char *name, u8 flags);
void stream_section_end(struct stream_writer *w);
void stream_section(struct stream_writer *w, const char *name, u8 flags, const void *payload, size_t n);
void stream_finish(struct stream_writer *w);

/* ---- reading ---- */

struct stream_section {
	char name[STREAM_NAME_MAX + 1];
	u8 flags;
	bool known; /* somebody has asked for it */
	u32 len;
	const u8 *payload; /* into the bytes that were read */
};

struct stream {
	struct stream_section *section;
	unsigned count; /* without the end */
};

/* 0 if `head` begins a stream of this version, else -1 with *e, in which `what` says what is read. */
int stream_check_head(const u8 head[STREAM_HEAD_BYTES], const char *what, struct error *e);
/* Looks at the first bytes of a section: what follows them, name, payload and sum, in bytes; 0 if it is no section. */
u64 stream_section_rest(const u8 head[STREAM_SECTION_HEAD_BYTES]);
/* The section of `n` bytes at `p`, number `number` of its stream. 0; or -1 with *e if it is not sound. */
int stream_read_section(const u8 *p, u64 n, u64 number, struct stream_section *out, const char *what, struct error *e);

/* A whole stream: names are unique, all sums right, nothing is left over. `data` must outlive *s. 0, or -1 with *e. */
int stream_read(struct stream *s, const u8 *data, size_t len, const char *what, struct error *e);
void stream_free(struct stream *s);
/* The section `name`, known from now on; NULL: there is none. */
struct stream_section *stream_find(const struct stream *s, const char *name);
/* A required section that nobody has asked for; NULL: none. */
const struct stream_section *stream_unknown(const struct stream *s);
static inline struct decoder stream_decoder(const struct stream_section *s)
{
	return (struct decoder){ .data = s->payload, .len = s->len };
}

#endif
