#include <stdlib.h>
#include <string.h>

#include "dev/chipset/testdev.h"

#define LATCH 0xe0
#define FLUSH 0xe4
#define LINES 0x2000

struct testdev {
	struct device dev;
	struct memory *mem;
	struct portmap *ports;
	struct region *region;
	struct testdev_config cfg;
	u8 latch[4];
	u8 buf[TESTDEV_MMIO_LEN];
};

static u64 get(const u8 *p, unsigned size)
{
	u64 v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (u64)p[i] << 8 * i;
	return v;
}

static void put(u8 *p, u64 v, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		p[i] = v >> 8 * i;
}

static u64 latch_read(void *opaque, u64 off, unsigned size)
{
	struct testdev *t = opaque;

	return off + size <= 4 ? get(t->latch + off, size) : ~0ull;
}

static void latch_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct testdev *t = opaque;

	if (off + size <= 4)
		put(t->latch + off, val, size);
}

static u64 flush_read(void *opaque, u64 off, unsigned size)
{
	return 0;
}

static void flush_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct testdev *t = opaque;

	if (t->cfg.flush_page)
		t->cfg.flush_page(t->cfg.opaque, val);
}

static u64 line_read(void *opaque, u64 off, unsigned size)
{
	return ((struct testdev *)opaque)->cfg.irqs[off].level;
}

static void line_write(void *opaque, u64 off, u64 val, unsigned size)
{
	irq_set(&((struct testdev *)opaque)->cfg.irqs[off], val != 0);
}

static u64 mem_read(void *opaque, u64 off, unsigned size)
{
	struct testdev *t = opaque;

	return off + size <= TESTDEV_MMIO_LEN ? get(t->buf + off, size) : ~0ull;
}

static void mem_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct testdev *t = opaque;

	if (off + size <= TESTDEV_MMIO_LEN)
		put(t->buf + off, val, size);
}

static const struct io_ops latch_io = { latch_read, latch_write, 1, 4 };
static const struct io_ops flush_io = { flush_read, flush_write, 1, 4 };
static const struct io_ops line_io = { line_read, line_write, 1, 1 };
static const struct io_ops mem_io = { mem_read, mem_write, 1, 8 };

static void testdev_reset(struct device *d)
{
	struct testdev *t = (struct testdev *)d;

	memset(t->latch, 0, sizeof(t->latch));
	memset(t->buf, 0, sizeof(t->buf));
	for (unsigned i = 0; i < TESTDEV_IRQS; i++)
		irq_set(&t->cfg.irqs[i], false);
}

static void testdev_save(const struct device *d, struct encoder *e)
{
	const struct testdev *t = (const struct testdev *)d;

	enc_begin(e, d->ops->name, 1);
	enc_bytes(e, t->latch, sizeof(t->latch));
	for (unsigned i = 0; i < TESTDEV_IRQS; i++)
		enc_bool(e, t->cfg.irqs[i].level);
	enc_bytes(e, t->buf, sizeof(t->buf));
	enc_end(e);
}

/* Reads a record; into `t` unless that is NULL. */
static bool decode(const struct device *d, struct decoder *in, struct testdev *t)
{
	u8 latch[4], chunk[256];
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1)
		return false;
	dec_bytes(&i, t ? t->latch : latch, sizeof(latch));
	for (unsigned n = 0; n < TESTDEV_IRQS; n++) {
		bool level = dec_bool(&i);

		if (t)
			t->cfg.irqs[n].level = level;
	}
	for (unsigned at = 0; at < TESTDEV_MMIO_LEN; at += sizeof(chunk))
		dec_bytes(&i, t ? t->buf + at : chunk, sizeof(chunk));
	return dec_done(&i);
}

static int testdev_check(const struct device *d, struct decoder *in)
{
	return decode(d, in, NULL) ? 0 : -1;
}

static void testdev_load(struct device *d, struct decoder *in)
{
	(void)decode(d, in, (struct testdev *)d);
}

static void testdev_destroy(struct device *d)
{
	struct testdev *t = (struct testdev *)d;

	portmap_remove(t->ports, LATCH, t);
	portmap_remove(t->ports, FLUSH, t);
	portmap_remove(t->ports, LINES, t);
	region_remove(t->mem, t->region);
	free(t);
}

static const struct device_ops testdev_ops = {
	.name = "test-device",
	.reset = testdev_reset,
	.save = testdev_save,
	.check = testdev_check,
	.load = testdev_load,
	.destroy = testdev_destroy,
};

struct device *testdev_create(struct board *b, const struct testdev_config *cfg)
{
	struct testdev *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->dev.ops = &testdev_ops;
	t->mem = b->mem;
	t->ports = b->ports;
	t->cfg = *cfg;
	t->region = memory_map_mmio(b->mem, TESTDEV_MMIO, TESTDEV_MMIO_LEN, &mem_io, t, cfg->prio, "test-device");
	if (!t->region) {
		free(t);
		return NULL;
	}
	portmap_add(b->ports, LATCH, 4, &latch_io, t, "test-latch");
	portmap_add(b->ports, FLUSH, 4, &flush_io, t, "test-flush");
	portmap_add(b->ports, LINES, TESTDEV_IRQS, &line_io, t, "test-irqs");
	board_attach(b, &t->dev);
	return &t->dev;
}
