/* AML bytes: opcodes of ACPI 6.4 section 20.2, resource descriptors of section 6.4. */
#include <stdlib.h>
#include <string.h>

#include "boot/aml.h"

enum {
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_EXT = 0x5b,
	OP_NOTIFY = 0x86,
	OP_EXT_DEVICE = 0x82,
};

void aml_free(struct aml *a)
{
	free(a->data);
	*a = (struct aml){ 0 };
}

static bool aml_room(struct aml *a, size_t n)
{
	if (a->failed)
		return false;
	if (a->len + n > a->cap) {
		size_t cap = (a->cap ? a->cap * 2 : 4096) + n;
		u8 *p = realloc(a->data, cap);
		if (!p) {
			a->failed = true;
			return false;
		}
		a->data = p;
		a->cap = cap;
	}
	return true;
}

void aml_bytes(struct aml *a, const void *p, size_t n)
{
	if (!n || !aml_room(a, n))
		return;
	memcpy(a->data + a->len, p, n);
	a->len += n;
}

void aml_u8(struct aml *a, unsigned v)
{
	u8 b = (u8)v;
	aml_bytes(a, &b, 1);
}

static void aml_le(struct aml *a, u64 v, unsigned size)
{
	while (size--) {
		aml_u8(a, v & 0xff);
		v >>= 8;
	}
}

void aml_int(struct aml *a, u64 v)
{
	if (v <= 1) {
		aml_u8(a, (unsigned)v); /* ZeroOp, OneOp */
	} else if (v <= UINT8_MAX) {
		aml_u8(a, OP_BYTE);
		aml_le(a, v, 1);
	} else if (v <= UINT16_MAX) {
		aml_u8(a, OP_WORD);
		aml_le(a, v, 2);
	} else if (v <= UINT32_MAX) {
		aml_u8(a, OP_DWORD);
		aml_le(a, v, 4);
	} else {
		aml_u8(a, OP_QWORD);
		aml_le(a, v, 8);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_u8(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

static unsigned hex(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

void aml_eisa_id(struct aml *a, const char *id)
{
	/* three letters of 5 bits, four hexadecimal digits, big-endian */
	unsigned v = (id[0] & 0x1fu) << 10 | (id[1] & 0x1fu) << 5 | (id[2] & 0x1fu);

	aml_u8(a, OP_DWORD);
	aml_u8(a, v >> 8);
	aml_u8(a, v);
	aml_u8(a, hex(id[3]) << 4 | hex(id[4]));
	aml_u8(a, hex(id[5]) << 4 | hex(id[6]));
}

void aml_path(struct aml *a, const char *path)
{
	aml_bytes(a, path, strlen(path));
}

void aml_notify(struct aml *a, const char *scope, const char *device, u64 value)
{
	aml_u8(a, OP_NOTIFY);
	aml_u8(a, '\\');
	aml_u8(a, OP_DUAL_NAME);
	aml_path(a, scope + 1);
	aml_path(a, device);
	aml_int(a, value);
}

void aml_name(struct aml *a, const char *path)
{
	aml_u8(a, OP_NAME);
	aml_path(a, path);
}

void aml_name_int(struct aml *a, const char *path, u64 v)
{
	aml_name(a, path);
	aml_int(a, v);
}

size_t aml_scope(struct aml *a, const char *path)
{
	size_t mark;

	aml_u8(a, OP_SCOPE);
	mark = a->len;
	aml_path(a, path);
	return mark;
}

size_t aml_device(struct aml *a, const char *path)
{
	size_t mark;

	aml_u8(a, OP_EXT);
	aml_u8(a, OP_EXT_DEVICE);
	mark = a->len;
	aml_path(a, path);
	return mark;
}

size_t aml_method(struct aml *a, const char *path, unsigned args)
{
	size_t mark;

	aml_u8(a, OP_METHOD);
	mark = a->len;
	aml_path(a, path);
	aml_u8(a, args);
	return mark;
}

size_t aml_package(struct aml *a, unsigned elements)
{
	size_t mark;

	aml_u8(a, OP_PACKAGE);
	mark = a->len;
	aml_u8(a, elements);
	return mark;
}

/* Insert the bytes at `mark`. */
static void aml_insert(struct aml *a, size_t mark, const u8 *p, size_t n)
{
	if (!aml_room(a, n))
		return;
	memmove(a->data + mark + n, a->data + mark, a->len - mark);
	memcpy(a->data + mark, p, n);
	a->len += n;
}

/* PkgLength (20.2.4) counts itself: one byte up to 63, else the low four bits
 * in the first byte and its top two bits say how many follow. */
void aml_end(struct aml *a, size_t mark)
{
	size_t len = a->len - mark;
	u8 b[4];
	unsigned n = 1;

	if (a->failed)
		return;
	if (len + 1 < 1 << 6) {
		b[0] = (u8)(len + 1);
	} else {
		n = len + 2 < 1 << 12 ? 2 : len + 3 < 1 << 20 ? 3 : 4;
		len += n;
		b[0] = (u8)((n - 1) << 6 | (len & 15));
		for (unsigned i = 1; i < n; i++)
			b[i] = (u8)(len >> (4 + 8 * (i - 1)));
	}
	aml_insert(a, mark, b, n);
}

size_t aml_crs(struct aml *a)
{
	aml_name(a, "_CRS");
	aml_u8(a, OP_BUFFER);
	return a->len;
}

void aml_crs_end(struct aml *a, size_t mark)
{
	struct aml size = { 0 };

	aml_u8(a, 0x79); /* end tag, no checksum */
	aml_u8(a, 0);
	aml_int(&size, a->len - mark);
	aml_insert(a, mark, size.data, size.len);
	a->failed |= size.failed;
	aml_free(&size);
	aml_end(a, mark);
}

void aml_io(struct aml *a, u16 base, unsigned len)
{
	aml_u8(a, 0x47);
	aml_u8(a, 1); /* decodes 16 bits */
	aml_le(a, base, 2);
	aml_le(a, base, 2);
	aml_u8(a, 1);
	aml_u8(a, len);
}

void aml_irq(struct aml *a, unsigned irq)
{
	aml_u8(a, 0x22);
	aml_le(a, BIT(irq), 2);
}

void aml_memory32(struct aml *a, u32 base, u32 len)
{
	aml_u8(a, 0x86);
	aml_le(a, 9, 2);
	aml_u8(a, 1); /* writable */
	aml_le(a, base, 4);
	aml_le(a, len, 4);
}

/* Address space descriptors, 6.4.3.5: produced, fixed at both ends. */
static void aml_window(struct aml *a, unsigned tag, unsigned type, unsigned flags, u64 first, u64 last, unsigned size)
{
	aml_u8(a, tag);
	aml_le(a, 3 + 5 * size, 2);
	aml_u8(a, type);
	aml_u8(a, 0x0c);
	aml_u8(a, flags);
	aml_le(a, 0, size); /* granularity */
	aml_le(a, first, size);
	aml_le(a, last, size);
	aml_le(a, 0, size); /* translation */
	aml_le(a, last - first + 1, size);
}

void aml_word_bus(struct aml *a, u16 first, u16 last)
{
	aml_window(a, 0x88, 2, 0, first, last, 2);
}

void aml_word_io(struct aml *a, u16 first, u16 last)
{
	aml_window(a, 0x88, 1, 3, first, last, 2); /* ISA and other ranges */
}

void aml_dword_memory(struct aml *a, u32 first, u32 last)
{
	aml_window(a, 0x87, 0, 1, first, last, 4); /* writable, not cacheable */
}

void aml_qword_memory(struct aml *a, u64 first, u64 last)
{
	aml_window(a, 0x8a, 0, 1, first, last, 8);
}
