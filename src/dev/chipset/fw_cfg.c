/*
 * fw_cfg (QEMU docs/specs/fw_cfg).
 *
 * Items are byte strings under 16-bit keys. The selector (port 510h) chooses
 * one and rewinds; each read of the data port (511h) gives its next byte, zeros
 * beyond the end. The DMA interface takes the big-endian address of a
 * descriptor { control, length, address } in two halves at 514h and 518h; the
 * write of the lower half starts the transfer, which is complete when the
 * write returns.
 *
 * Everything in a descriptor is the guest's. Data is moved between the item and
 * guest memory in one bounded copy; beyond the item's end a read gives at most
 * ZEROS_MAX zeros, which bounds the time a single port write can take.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/chipset/fw_cfg.h"

#define DMA_ERROR 0x01u
#define DMA_READ 0x02u
#define DMA_SKIP 0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE 0x10u
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */

#define KEY_MASK 0xbfffu /* bit 14 asked for writing in old versions */
#define ITEMS_MAX (FW_CFG_FILES_MAX + 48)
#define ZEROS_MAX (64 * KiB)

#define DIR_ENTRY (8 + FW_CFG_NAME_MAX)

struct item {
	u16 key;
	const u8 *data;
	u8 *owned; /* same as data, or NULL if borrowed */
	u32 len;
	bool writable;
	void (*written)(void *opaque, const u8 *data, u32 len);
	void *opaque;
};

struct fw_cfg {
	struct device dev;
	struct portmap *ports;
	struct memory *mem;
	struct item items[ITEMS_MAX];
	unsigned count, files;
	u8 dir[4 + FW_CFG_FILES_MAX * DIR_ENTRY];
	/* guest-visible state */
	u16 key;
	u32 offset;
	u32 dma_high; /* upper half of the descriptor's address */
};

static void put_be(u8 *p, u64 v, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		p[i] = v >> 8 * (size - 1 - i);
}

static u64 get_be(const u8 *p, unsigned size)
{
	u64 v = 0;

	for (unsigned i = 0; i < size; i++)
		v = v << 8 | p[i];
	return v;
}

static struct item *find(struct fw_cfg *f, u16 key)
{
	for (unsigned i = 0; i < f->count; i++)
		if (f->items[i].key == key)
			return &f->items[i];
	return NULL;
}

static void select_key(struct fw_cfg *f, u16 key)
{
	f->key = key & KEY_MASK;
	f->offset = 0;
}

/* Takes up to `want` bytes of the current item; *p is where they are. */
static u32 advance(struct fw_cfg *f, const struct item *it, u32 want, u32 *at)
{
	u32 left = it && f->offset < it->len ? it->len - f->offset : 0;
	u32 n = MIN(want, left);

	*at = f->offset;
	f->offset += n;
	return n;
}

static int dma_read(struct fw_cfg *f, const struct item *it, gpa_t addr, u32 len)
{
	static const u8 zeros[1024];
	u32 at, n = advance(f, it, len, &at);

	if (n && memory_write(f->mem, addr, it->data + at, n) < 0)
		return -1;
	addr += n;
	len -= n;
	if (len > ZEROS_MAX)
		return -1;
	for (; len; addr += n, len -= n) {
		n = MIN(len, sizeof(zeros));
		if (memory_write(f->mem, addr, zeros, n) < 0)
			return -1;
	}
	return 0;
}

static int dma_write(struct fw_cfg *f, struct item *it, gpa_t addr, u32 len)
{
	u32 at;
	int r;

	if (!it || !it->writable || f->offset > it->len || len > it->len - f->offset)
		return -1;
	advance(f, it, len, &at);
	r = len ? memory_read(f->mem, addr, it->owned + at, len) : 0;
	if (it->written)
		it->written(it->opaque, it->data, it->len);
	return r;
}

static void dma(struct fw_cfg *f, gpa_t desc)
{
	u8 raw[16], status[4];
	u32 control, len, at;
	gpa_t addr;
	struct item *it;
	int r = 0;

	if (desc > UINT64_MAX - sizeof(raw) || memory_read(f->mem, desc, raw, sizeof(raw)) < 0) {
		/* nowhere to fetch the command from: report where the status would be */
		put_be(status, DMA_ERROR, 4);
		if (desc <= UINT64_MAX - sizeof(raw))
			memory_write(f->mem, desc, status, 4);
		return;
	}
	control = get_be(raw, 4);
	len = get_be(raw + 4, 4);
	addr = get_be(raw + 8, 8);
	if (control & DMA_SELECT)
		select_key(f, control >> 16);
	it = find(f, f->key);
	if ((control & (DMA_READ | DMA_WRITE)) && addr > UINT64_MAX - len)
		r = -1;
	else if (control & DMA_READ)
		r = dma_read(f, it, addr, len);
	else if (control & DMA_WRITE)
		r = dma_write(f, it, addr, len);
	else if (control & DMA_SKIP)
		advance(f, it, len, &at);
	put_be(status, r < 0 ? DMA_ERROR : 0, 4);
	memory_write(f->mem, desc, status, 4);
}

static u64 sel_read(void *opaque, u64 off, unsigned size)
{
	struct fw_cfg *f = opaque;
	const struct item *it = find(f, f->key);
	u32 at;

	if (off != 1 || size != 1)
		return 0;
	return advance(f, it, 1, &at) ? it->data[at] : 0;
}

static void sel_write(void *opaque, u64 off, u64 val, unsigned size)
{
	if (off == 0 && size == 2) /* single data bytes were writable long ago: ignored */
		select_key(opaque, val);
}

/* The DMA register is big-endian: byte `off` of it is at port 514h + off. */
static u64 dma_reg_read(void *opaque, u64 off, unsigned size)
{
	u64 v = 0;

	for (unsigned i = 0; i < size && off + i < 8; i++)
		v |= (DMA_SIGNATURE >> 8 * (7 - (off + i)) & 0xff) << 8 * i;
	return v;
}

static void dma_reg_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct fw_cfg *f = opaque;
	u32 be = __builtin_bswap32((u32)val);
	gpa_t desc;

	if (size != 4)
		return;
	if (off == 0) {
		f->dma_high = be;
	} else if (off == 4) {
		desc = (u64)f->dma_high << 32 | be;
		f->dma_high = 0;
		dma(f, desc);
	}
}

static const struct io_ops sel_io = { sel_read, sel_write, 1, 2 };
static const struct io_ops dma_io = { dma_reg_read, dma_reg_write, 1, 4 };

static int add(struct fw_cfg *f, const struct item *new)
{
	struct item *it = find(f, new->key);

	if (!it) {
		if (f->count == ITEMS_MAX)
			return -1;
		it = &f->items[f->count++];
	} else {
		free(it->owned);
	}
	*it = *new;
	return 0;
}

/* Behind what the guest may write lies what it is at reset. */
static int add_copy(struct fw_cfg *f, struct item *new)
{
	unsigned copies = new->writable ? 2 : 1;

	new->owned = malloc(new->len ? (size_t)copies *new->len : 1);
	if (!new->owned)
		return -1;
	for (unsigned i = 0; new->len &&i < copies; i++)
		memcpy(new->owned + (size_t)i *new->len, new->data, new->len);
	new->data = new->owned;
	if (add(f, new) == 0)
		return 0;
	free(new->owned);
	return -1;
}

int fw_cfg_add_bytes(struct device *d, u16 key, const void *data, u32 len)
{
	return add_copy((struct fw_cfg *)d, &(struct item){ .key = key & KEY_MASK, .data = data, .len = len });
}

int fw_cfg_add_borrowed(struct device *d, u16 key, const void *data, u32 len)
{
	return add((struct fw_cfg *)d, &(struct item){ .key = key & KEY_MASK, .data = data, .len = len });
}

static int add_le(struct device *d, u16 key, u64 v, unsigned size)
{
	u8 raw[8];

	for (unsigned i = 0; i < size; i++)
		raw[i] = v >> 8 * i;
	return fw_cfg_add_bytes(d, key, raw, size);
}

int fw_cfg_add_u16(struct device *d, u16 key, u16 v)
{
	return add_le(d, key, v, 2);
}
int fw_cfg_add_u32(struct device *d, u16 key, u32 v)
{
	return add_le(d, key, v, 4);
}
int fw_cfg_add_u64(struct device *d, u16 key, u64 v)
{
	return add_le(d, key, v, 8);
}

int fw_cfg_add_string(struct device *d, u16 key, const char *s)
{
	return fw_cfg_add_bytes(d, key, s, strlen(s) + 1);
}

static int add_file(struct fw_cfg *f, const char *name, struct item *it)
{
	size_t n = strlen(name);
	u8 *entry = f->dir + 4 + f->files * DIR_ENTRY;

	if (n == 0 || n >= FW_CFG_NAME_MAX || f->files == FW_CFG_FILES_MAX)
		return -1;
	for (unsigned i = 0; i < f->files; i++)
		if (!strcmp((char *)f->dir + 4 + i * DIR_ENTRY + 8, name))
			return -1;
	it->key = FW_CFG_FILE_FIRST + f->files;
	if (add_copy(f, it) < 0)
		return -1;
	put_be(entry, it->len, 4);
	put_be(entry + 4, it->key, 2);
	memcpy(entry + 8, name, n);
	put_be(f->dir, ++f->files, 4);
	return 0;
}

int fw_cfg_add_file(struct device *d, const char *name, const void *data, u32 len)
{
	return add_file((struct fw_cfg *)d, name, &(struct item){ .data = data, .len = len });
}

int fw_cfg_add_writable_file(struct device *d, const char *name, const void *data, u32 len,
			     void (*written)(void *opaque, const u8 *data, u32 len), void *opaque)
{
	struct item it = { .data = data, .len = len, .writable = true, .written = written, .opaque = opaque };

	return add_file((struct fw_cfg *)d, name, &it);
}

const u8 *fw_cfg_file(const struct device *d, const char *name, u32 *len)
{
	struct fw_cfg *f = (struct fw_cfg *)(uintptr_t)d;

	for (unsigned i = 0; i < f->files; i++) {
		const struct item *it;

		if (strcmp((char *)f->dir + 4 + i * DIR_ENTRY + 8, name))
			continue;
		it = find(f, (u16)(FW_CFG_FILE_FIRST + i));
		*len = it->len;
		return it->data;
	}
	return NULL;
}

static void fw_cfg_reset(struct device *d)
{
	struct fw_cfg *f = (struct fw_cfg *)d;

	select_key(f, FW_CFG_SIGNATURE);
	f->dma_high = 0;
	for (unsigned i = 0; i < f->count; i++)
		if (f->items[i].writable && f->items[i].len)
			memcpy(f->items[i].owned, f->items[i].owned + f->items[i].len, f->items[i].len);
}

static void fw_cfg_save(const struct device *d, struct encoder *e)
{
	const struct fw_cfg *f = (const struct fw_cfg *)d;

	enc_begin(e, d->ops->name, 1);
	enc_u16(e, f->key);
	enc_u32(e, f->offset);
	enc_u32(e, f->dma_high);
	for (unsigned i = 0; i < f->count; i++)
		if (f->items[i].writable) {
			enc_u16(e, f->items[i].key);
			enc_u32(e, f->items[i].len);
			enc_bytes(e, f->items[i].data, f->items[i].len);
		}
	enc_end(e);
}

/* The record must be of a device with the same items. With `apply` it is also put in place. */
static bool decode(struct fw_cfg *f, struct decoder *in, bool apply)
{
	struct decoder s;
	const struct item *it;
	u32 offset, high;
	u16 key;

	if (!dec_begin(in, f->dev.ops->name, &s) || s.version != 1)
		return false;
	key = dec_u16(&s);
	offset = dec_u32(&s);
	high = dec_u32(&s);
	it = find(f, key);
	if ((key & ~KEY_MASK) || offset > (it ? it->len : 0))
		return false;
	for (unsigned i = 0; i < f->count; i++) {
		if (!f->items[i].writable)
			continue;
		if (dec_u16(&s) != f->items[i].key || dec_u32(&s) != f->items[i].len)
			return false;
		if (apply) {
			dec_bytes(&s, f->items[i].owned, f->items[i].len);
			continue;
		}
		for (u32 at = 0; at < f->items[i].len && !s.failed; at++)
			dec_u8(&s);
	}
	if (!dec_done(&s))
		return false;
	if (apply) {
		f->key = key;
		f->offset = offset;
		f->dma_high = high;
	}
	return true;
}

static int fw_cfg_check(const struct device *d, struct decoder *in)
{
	return decode((struct fw_cfg *)d, in, false) ? 0 : -1; /* changes nothing without `apply` */
}

static void fw_cfg_load(struct device *d, struct decoder *in)
{
	(void)decode((struct fw_cfg *)d, in, true);
}

static void fw_cfg_destroy(struct device *d)
{
	struct fw_cfg *f = (struct fw_cfg *)d;

	portmap_remove(f->ports, 0x510, f);
	portmap_remove(f->ports, 0x514, f);
	for (unsigned i = 0; i < f->count; i++)
		free(f->items[i].owned);
	free(f);
}

static const struct device_ops fw_cfg_ops = {
	.name = "fw-cfg",
	.reset = fw_cfg_reset,
	.save = fw_cfg_save,
	.check = fw_cfg_check,
	.load = fw_cfg_load,
	.destroy = fw_cfg_destroy,
};

struct device *fw_cfg_create(struct board *b)
{
	struct fw_cfg *f = calloc(1, sizeof(*f));
	struct device *d = &f->dev;

	if (!f)
		return NULL;
	d->ops = &fw_cfg_ops;
	f->ports = b->ports;
	f->mem = b->mem;
	if (fw_cfg_add_bytes(d, FW_CFG_SIGNATURE, "QEMU", 4) < 0 ||
	    fw_cfg_add_u32(d, FW_CFG_ID, 0x3) < 0 || /* traditional and DMA interfaces */
	    fw_cfg_add_borrowed(d, FW_CFG_FILE_DIR, f->dir, sizeof(f->dir)) < 0) {
		for (unsigned i = 0; i < f->count; i++)
			free(f->items[i].owned);
		free(f);
		return NULL;
	}
	portmap_add(b->ports, 0x510, 2, &sel_io, f, "fw-cfg");
	portmap_add(b->ports, 0x514, 8, &dma_io, f, "fw-cfg-dma");
	board_attach(b, d);
	return d;
}
