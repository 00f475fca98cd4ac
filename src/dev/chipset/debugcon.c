#include <stdlib.h>

#include "backend/chr/chr.h"
#include "dev/chipset/debugcon.h"

struct debugcon {
	struct device dev;
	struct portmap *ports;
	struct chr *chr;
};

static u64 debugcon_read(void *opaque, u64 off, unsigned size)
{
	return DEBUGCON_MAGIC;
}

static void debugcon_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct debugcon *c = opaque;
	const u8 byte = (u8)val;

	c->chr->ops->write(c->chr, &byte, 1);
}

static const struct io_ops debugcon_io = { debugcon_read, debugcon_write, 1, 1 };

static void debugcon_reset(struct device *d) {}

static void debugcon_save(const struct device *d, struct encoder *e)
{
	enc_begin(e, d->ops->name, 1);
	enc_end(e);
}

static int debugcon_check(const struct device *d, struct decoder *in)
{
	struct decoder i;

	return dec_begin(in, d->ops->name, &i) && i.version == 1 && dec_done(&i) ? 0 : -1;
}

static void debugcon_load(struct device *d, struct decoder *in)
{
	(void)debugcon_check(d, in);
}

static void debugcon_destroy(struct device *d)
{
	portmap_remove(((struct debugcon *)d)->ports, DEBUGCON_PORT, d);
	free(d);
}

static const struct device_ops debugcon_ops = {
	.name = "debugcon",
	.reset = debugcon_reset,
	.save = debugcon_save,
	.check = debugcon_check,
	.load = debugcon_load,
	.destroy = debugcon_destroy,
};

struct device *debugcon_create(struct board *b, struct chr *chr)
{
	struct debugcon *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->dev.ops = &debugcon_ops;
	c->ports = b->ports;
	c->chr = chr;
	portmap_add(b->ports, DEBUGCON_PORT, 1, &debugcon_io, c, "debugcon");
	board_attach(b, &c->dev);
	return &c->dev;
}
