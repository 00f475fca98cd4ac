/*
 * Framing of the remote serial protocol: $payload#checksum, with } escaping
 * and one-byte acknowledgements; 03H outside a packet is Ctrl-C.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/stub.h"

enum { AT_START, IN_PAYLOAD, IN_SUM1, IN_SUM2 };

int gdb_hex_digit(u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static void start_packet(struct gdb_reader *r)
{
	r->state = IN_PAYLOAD;
	r->len = 0;
	r->sum = 0;
	r->escape = false;
	r->overflow = false;
}

static void payload_byte(struct gdb_reader *r, u8 byte)
{
	r->sum += byte;
	if (byte == '}' && !r->escape) {
		r->escape = true;
		return;
	}
	if (r->escape)
		byte ^= 0x20;
	r->escape = false;
	if (r->len < GDB_PACKET_MAX)
		r->data[r->len++] = byte;
	else
		r->overflow = true;
}

static enum gdb_event end_packet(struct gdb_reader *r, int digit)
{
	r->state = AT_START;
	r->data[r->len] = 0;
	if (r->overflow || digit < 0 || r->want != (r->sum & 0xf0) || digit != (r->sum & 0xf))
		return GDB_EV_BAD;
	return GDB_EV_PACKET;
}

enum gdb_event gdb_reader_byte(struct gdb_reader *r, u8 byte)
{
	int digit;

	switch (r->state) {
	case AT_START:
		if (byte == '$')
			start_packet(r);
		else if (byte == '+')
			return GDB_EV_ACK;
		else if (byte == '-')
			return GDB_EV_NAK;
		else if (byte == 0x03)
			return GDB_EV_INTERRUPT;
		return GDB_EV_NONE;
	case IN_PAYLOAD:
		if (byte == '#')
			r->state = IN_SUM1;
		else if (byte == '$')
			start_packet(r); /* an unescaped $ can only be a new beginning */
		else
			payload_byte(r, byte);
		return GDB_EV_NONE;
	case IN_SUM1:
		digit = gdb_hex_digit(byte);
		if (digit < 0)
			return end_packet(r, -1);
		r->want = (u8)(digit << 4);
		r->state = IN_SUM2;
		return GDB_EV_NONE;
	default:
		return end_packet(r, gdb_hex_digit(byte));
	}
}

bool gdb_hex_u64(const u8 **p, const u8 *end, u64 *val)
{
	unsigned n = 0;

	*val = 0;
	while (*p < end && gdb_hex_digit(**p) >= 0) {
		if (++n > 16)
			return false;
		*val = *val << 4 | (u64)gdb_hex_digit(**p);
		(*p)++;
	}
	return n > 0;
}

bool gdb_hex_bytes(const u8 *p, u8 *out, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int hi = gdb_hex_digit(p[2 * i]), lo = hi < 0 ? -1 : gdb_hex_digit(p[2 * i + 1]);

		if (lo < 0)
			return false;
		out[i] = (u8)(hi << 4 | lo);
	}
	return true;
}

void gdb_out_add(struct gdb_out *o, const void *p, size_t n)
{
	if (n > GDB_OUT_MAX - o->len) {
		o->full = true;
		return;
	}
	if (o->len + n > o->cap) {
		size_t cap = MAX(o->cap * 2, (size_t)4096);
		u8 *d;

		while (cap < o->len + n)
			cap *= 2;
		d = realloc(o->data, cap);
		if (!d) {
			o->full = true;
			return;
		}
		o->data = d;
		o->cap = cap;
	}
	if (n)
		memcpy(o->data + o->len, p, n);
	o->len += n;
}

void gdb_out_hex(struct gdb_out *o, const void *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		u8 b = ((const u8 *)p)[i];
		char two[2] = { digits[b >> 4], digits[b & 15] };

		gdb_out_add(o, two, 2);
	}
}

void gdb_out_printf(struct gdb_out *o, const char *fmt, ...)
{
	char buf[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	if (n > 0)
		gdb_out_add(o, buf, MIN((size_t)n, sizeof(buf) - 1));
}

void gdb_out_free(struct gdb_out *o)
{
	free(o->data);
	memset(o, 0, sizeof(*o));
}

void gdb_out_packet(struct gdb_out *o, const void *payload, size_t n)
{
	const u8 *p = payload;
	u8 sum = 0;

	/* room for the whole frame, or none of it: half a packet would hang gdb */
	if (2 * n + 4 > GDB_OUT_MAX - o->len) {
		o->full = true;
		return;
	}
	gdb_out_add(o, "$", 1);
	for (size_t i = 0; i < n; i++) {
		u8 two[2] = { '}', p[i] ^ 0x20 };
		bool esc = p[i] == '$' || p[i] == '#' || p[i] == '}' || p[i] == '*';

		if (esc) {
			sum += two[0] + two[1];
			gdb_out_add(o, two, 2);
		} else {
			sum += p[i];
			gdb_out_add(o, &p[i], 1);
		}
	}
	gdb_out_printf(o, "#%02x", sum);
}
