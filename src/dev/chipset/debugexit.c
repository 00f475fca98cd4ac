#include <stdlib.h>

#include "dev/chipset/debugexit.h"

struct debugexit {
	struct device dev;
	struct portmap *ports;
	void (*request)(void *machine, enum board_request r, int value);
	void *machine;
};

static u64 debugexit_read(void *opaque, u64 off, unsigned size)
{
	return 0;
}

static void debugexit_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct debugexit *x = opaque;

	x->request(x->machine, BOARD_DEBUG_EXIT, (int)(u32)val);
}

static const struct io_ops debugexit_io = { debugexit_read, debugexit_write, 1, 4 };

static void debugexit_reset(struct device *d) {}

static void debugexit_save(const struct device *d, struct encoder *e)
{
	enc_begin(e, d->ops->name, 1);
	enc_end(e);
}

static int debugexit_check(const struct device *d, struct decoder *in)
{
	struct decoder i;

	return dec_begin(in, d->ops->name, &i) && i.version == 1 && dec_done(&i) ? 0 : -1;
}

static void debugexit_load(struct device *d, struct decoder *in)
{
	(void)debugexit_check(d, in);
}

static void debugexit_destroy(struct device *d)
{
	portmap_remove(((struct debugexit *)d)->ports, DEBUG_EXIT_PORT, d);
	free(d);
}

static const struct device_ops debugexit_ops = {
	.name = "debug-exit",
	.reset = debugexit_reset,
	.save = debugexit_save,
	.check = debugexit_check,
	.load = debugexit_load,
	.destroy = debugexit_destroy,
};

struct device *debugexit_create(struct board *b)
{
	struct debugexit *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->dev.ops = &debugexit_ops;
	x->ports = b->ports;
	x->request = b->request;
	x->machine = b->machine;
	portmap_add(b->ports, DEBUG_EXIT_PORT, 4, &debugexit_io, x, "debug-exit");
	board_attach(b, &x->dev);
	return &x->dev;
}
