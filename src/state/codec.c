/* The byte codec of machine state; the format is in codec.h. */
#include "state/codec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void enc_init(struct encoder *e)
{
	*e = (struct encoder){ 0 };
}

void enc_free(struct encoder *e)
{
	free(e->data);
	*e = (struct encoder){ 0 };
}

/* Room for `n` more bytes at e->len, or NULL and `failed`. */
static u8 *enc_room(struct encoder *e, size_t n)
{
	if (e->failed)
		return NULL;
	if (n > e->cap - e->len) {
		size_t need, cap = MAX(e->cap, (size_t)256);
		u8 *data = NULL;

		if (!__builtin_add_overflow(e->len, n, &need) && need <= SIZE_MAX / 2) {
			while (cap < need)
				cap *= 2;
			data = realloc(e->data, cap);
		}
		if (!data) {
			e->failed = true;
			return NULL;
		}
		e->data = data;
		e->cap = cap;
	}
	return e->data + e->len;
}

static void put_le(u8 *p, u64 v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (u8)(v >> (8 * i));
}

static void enc_int(struct encoder *e, u64 v, unsigned n)
{
	u8 *p = enc_room(e, n);

	if (!p)
		return;
	put_le(p, v, n);
	e->len += n;
}

void enc_begin(struct encoder *e, const char *name, u16 version)
{
	size_t n = strlen(name);

	assert(n > 0 && n < 256 && !e->section);
	enc_u8(e, (u8)n);
	enc_bytes(e, name, n);
	enc_u16(e, version);
	e->section = e->len;
	enc_u32(e, 0);
}

void enc_end(struct encoder *e)
{
	size_t len;

	if (e->failed) {
		e->section = 0;
		return;
	}
	assert(e->section);
	len = e->len - e->section - 4;
	if (len > UINT32_MAX)
		e->failed = true;
	put_le(e->data + e->section, len, 4);
	e->section = 0;
}

void enc_u8(struct encoder *e, u8 v)
{
	enc_int(e, v, 1);
}
void enc_u16(struct encoder *e, u16 v)
{
	enc_int(e, v, 2);
}
void enc_u32(struct encoder *e, u32 v)
{
	enc_int(e, v, 4);
}
void enc_u64(struct encoder *e, u64 v)
{
	enc_int(e, v, 8);
}
void enc_bool(struct encoder *e, bool v)
{
	enc_int(e, v, 1);
}

void enc_bytes(struct encoder *e, const void *p, size_t n)
{
	u8 *to = enc_room(e, n);

	if (!to || !n)
		return;
	memcpy(to, p, n);
	e->len += n;
}

/* `n` bytes at the cursor, which moves behind them; NULL and `failed` if they are not there. */
static const u8 *dec_take(struct decoder *d, size_t n)
{
	const u8 *p;

	if (d->failed || n > d->len - d->pos) {
		d->failed = true;
		return NULL;
	}
	p = d->data + d->pos;
	d->pos += n;
	return p;
}

static u64 dec_int(struct decoder *d, unsigned n)
{
	const u8 *p = dec_take(d, n);
	u64 v = 0;

	for (unsigned i = 0; p && i < n; i++)
		v |= (u64)p[i] << (8 * i);
	return v;
}

bool dec_begin(struct decoder *outer, const char *name, struct decoder *inner)
{
	size_t n = strlen(name);
	const u8 *got;
	u16 version;
	u32 len;

	*inner = (struct decoder){ .failed = true };
	if (dec_u8(outer) != n)
		outer->failed = true;
	got = dec_take(outer, n);
	if (!got || memcmp(got, name, n)) {
		outer->failed = true;
		return false;
	}
	version = dec_u16(outer);
	len = dec_u32(outer);
	got = dec_take(outer, len);
	if (!got)
		return false;
	*inner = (struct decoder){ .data = got, .len = len, .version = version };
	return true;
}

u8 dec_u8(struct decoder *d)
{
	return (u8)dec_int(d, 1);
}
u16 dec_u16(struct decoder *d)
{
	return (u16)dec_int(d, 2);
}
u32 dec_u32(struct decoder *d)
{
	return (u32)dec_int(d, 4);
}
u64 dec_u64(struct decoder *d)
{
	return dec_int(d, 8);
}

bool dec_bool(struct decoder *d)
{
	u8 v = dec_u8(d);

	if (v > 1)
		d->failed = true;
	return v == 1;
}

void dec_bytes(struct decoder *d, void *p, size_t n)
{
	const u8 *from = dec_take(d, n);

	if (!n)
		return;
	if (from)
		memcpy(p, from, n);
	else
		memset(p, 0, n);
}

bool dec_done(const struct decoder *d)
{
	return !d->failed && d->pos == d->len;
}
