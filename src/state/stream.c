/* Checked sections of bytes; the grammar is in stream.h. */
#include "state/stream.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const u8 magic[8] = { 'e', 'c', 't', 'y', 'p', 'e', 0x1a, 0x0a };

/* ---- writing ---- */

void stream_begin(struct stream_writer *w, struct encoder *to)
{
	*w = (struct stream_writer){ .to = to };
	enc_bytes(to, magic, sizeof(magic));
	enc_u32(to, STREAM_VERSION);
	enc_u32(to, 0);
}

void stream_section_begin(struct stream_writer *w, const char *name, u8 flags)
{
	size_t n = strlen(name);

	assert(!w->open && n && n <= STREAM_NAME_MAX);
	w->open = true;
	w->section = w->to->len;
	enc_u32(w->to, 0);
	enc_u8(w->to, flags);
	enc_u8(w->to, (u8)n);
	enc_u16(w->to, 0);
	enc_bytes(w->to, name, n);
}

void stream_section_end(struct stream_writer *w)
{
	struct encoder *e = w->to;
	u8 *head = e->data + w->section;
	u64 len;

	assert(w->open);
	w->open = false;
	if (e->failed)
		return;
	len = e->len - w->section - STREAM_SECTION_HEAD_BYTES - head[5];
	if (len > STREAM_SECTION_MAX) {
		e->failed = true;
		return;
	}
	for (unsigned i = 0; i < 4; i++)
		head[i] = (u8)(len >> 8 * i);
	enc_u64(e, XXH3_64bits_withSeed(head, e->len - w->section, w->count++));
}

void stream_section(struct stream_writer *w, const char *name, u8 flags, const void *payload, size_t n)
{
	stream_section_begin(w, name, flags);
	enc_bytes(w->to, payload, n);
	stream_section_end(w);
}

void stream_finish(struct stream_writer *w)
{
	stream_section(w, STREAM_END, STREAM_REQUIRED, NULL, 0);
}

/* ---- reading ---- */

int stream_check_head(const u8 head[STREAM_HEAD_BYTES], const char *what, struct error *e)
{
	struct decoder d = { .data = head, .len = STREAM_HEAD_BYTES };
	u8 start[sizeof(magic)];
	u32 version;

	dec_bytes(&d, start, sizeof(start));
	version = dec_u32(&d);
	if (memcmp(start, magic, sizeof(magic)))
		return error_set(e, "%s is no snapshot of ectype's", what);
	if (version != STREAM_VERSION)
		return error_set(e, "%s has version %u of the format; this ectype reads version %u", what, version,
				 STREAM_VERSION);
	return dec_u32(&d) ? error_set(e, "%s is damaged: its first bytes are not right", what) : 0;
}

u64 stream_section_rest(const u8 head[STREAM_SECTION_HEAD_BYTES])
{
	struct decoder d = { .data = head, .len = STREAM_SECTION_HEAD_BYTES };
	u32 len = dec_u32(&d);

	dec_u8(&d);
	u8 name = dec_u8(&d);

	if (dec_u16(&d) || !name || name > STREAM_NAME_MAX || len > STREAM_SECTION_MAX)
		return 0;
	return (u64)name + len + STREAM_SUM_BYTES;
}

static bool name_sound(const u8 *name, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	return true;
}

int stream_read_section(const u8 *p, u64 n, u64 number, struct stream_section *out, const char *what, struct error *e)
{
	struct decoder sum = { .data = p + n - STREAM_SUM_BYTES, .len = STREAM_SUM_BYTES };
	unsigned name = p[5];

	if (!name_sound(p + STREAM_SECTION_HEAD_BYTES, name) ||
	    dec_u64(&sum) != XXH3_64bits_withSeed(p, n - STREAM_SUM_BYTES, number))
		return error_set(e, "%s is damaged: the checksum of section %lu is wrong", what, number);
	*out = (struct stream_section){
		.flags = p[4],
		.len = (u32)(n - STREAM_SECTION_HEAD_BYTES - name - STREAM_SUM_BYTES),
		.payload = p + STREAM_SECTION_HEAD_BYTES + name,
	};
	memcpy(out->name, p + STREAM_SECTION_HEAD_BYTES, name);
	return 0;
}

static struct stream_section *lookup(const struct stream *s, const char *name)
{
	for (unsigned i = 0; i < s->count; i++)
		if (!strcmp(s->section[i].name, name))
			return &s->section[i];
	return NULL;
}

/* One section at *pos; 1 if it was the end. */
static int read_next(struct stream *s, const u8 *data, size_t len, size_t *pos, const char *what, struct error *e)
{
	struct stream_section next;
	u64 n;

	if (len - *pos < STREAM_SECTION_HEAD_BYTES)
		return error_set(e, "%s is cut short: it has no end", what);
	n = stream_section_rest(data + *pos);
	if (!n)
		return error_set(e, "%s is damaged: section %u is none", what, s->count);
	n += STREAM_SECTION_HEAD_BYTES;
	if (n > len - *pos)
		return error_set(e, "%s is cut short: it has no end", what);
	if (stream_read_section(data + *pos, n, s->count, &next, what, e))
		return -1;
	*pos += n;
	if (!strcmp(next.name, STREAM_END))
		return next.len ? error_set(e, "%s is damaged: its end has a content", what) : 1;
	if (s->count == STREAM_SECTIONS_MAX || lookup(s, next.name))
		return error_set(e, "%s is damaged: too many sections, or two named %s", what, next.name);
	s->section[s->count++] = next;
	return 0;
}

int stream_read(struct stream *s, const u8 *data, size_t len, const char *what, struct error *e)
{
	size_t pos = STREAM_HEAD_BYTES;
	unsigned room = 0;
	int ret;

	*s = (struct stream){ 0 };
	if (len < STREAM_HEAD_BYTES)
		return error_set(e, "%s is no snapshot of ectype's", what);
	if (stream_check_head(data, what, e))
		return -1;
	do {
		if (s->count == room) {
			struct stream_section *more = realloc(s->section, (room + 64) * sizeof(*more));

			if (!more) {
				stream_free(s);
				return error_set(e, "not enough host memory");
			}
			s->section = more;
			room += 64;
		}
		ret = read_next(s, data, len, &pos, what, e);
	} while (!ret);
	if (ret > 0 && pos == len)
		return 0;
	stream_free(s);
	return ret < 0 ? -1 : error_set(e, "%s is damaged: there is more behind its end", what);
}

void stream_free(struct stream *s)
{
	free(s->section);
	*s = (struct stream){ 0 };
}

struct stream_section *stream_find(const struct stream *s, const char *name)
{
	struct stream_section *found = lookup(s, name);

	if (found)
		found->known = true;
	return found;
}

const struct stream_section *stream_unknown(const struct stream *s)
{
	for (unsigned i = 0; i < s->count; i++)
		if ((s->section[i].flags & STREAM_REQUIRED) && !s->section[i].known)
			return &s->section[i];
	return NULL;
}
