/*
 * I/O APIC (Intel 82093AA data sheet; version 20H with the EOI register of
 * the ICH family).
 *
 * An edge-triggered input sends one message when it rises; if its entry is
 * masked at that moment the edge is lost, as on the part. A level-triggered
 * one sends while it stands and Remote IRR is clear; acceptance sets Remote
 * IRR, the EOI clears it, and a level that still stands sends again.
 * Inputs are logical levels: the polarity bit is kept but has no effect.
 */
#include "dev/chipset/ioapic.h"

#include <stdlib.h>

enum { REG_SELECT = 0x00, REG_WINDOW = 0x10, REG_EOI = 0x40 };
enum { INDEX_ID = 0, INDEX_VERSION = 1, INDEX_ARBITRATION = 2, INDEX_TABLE = 0x10 };

#define VERSION_VALUE (0x20u | (IOAPIC_PINS - 1) << 16)

/* Redirection entry, 3.2.4 */
#define RTE_LOGICAL BIT(11)
#define RTE_STATUS BIT(12)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_READ_ONLY (RTE_STATUS | RTE_REMOTE_IRR)
#define RTE_WRITABLE ((0xffull << 56 | 0x1ffffull) & ~RTE_READ_ONLY)

struct ioapic {
	struct device dev;
	struct memory *mem;
	struct region *region;
	struct ioapic_output out;
	u32 id; /* bits 27:24 */
	u8 select;
	u32 pins; /* levels */
	u64 rte[IOAPIC_PINS];
};

static struct apic_message message(u64 rte)
{
	return (struct apic_message){
		.dest = (u32)(rte >> 56),
		.logical = rte & RTE_LOGICAL,
		.level = rte & RTE_LEVEL,
		.mode = rte >> 8 & 7,
		.vector = (u8)rte,
	};
}

bool ioapic_level(const struct device *d, unsigned n, struct apic_message *m)
{
	u64 rte = container_of(d, const struct ioapic, dev)->rte[n];

	*m = message(rte);
	return rte & RTE_LEVEL;
}

static bool send(struct ioapic *a, unsigned n)
{
	struct apic_message m = message(a->rte[n]);

	return a->out.deliver(a->out.opaque, &m);
}

/* Level-triggered input `n` may have become due. */
static void service_level(struct ioapic *a, unsigned n)
{
	u64 rte = a->rte[n];

	if (!(rte & RTE_LEVEL) || (rte & (RTE_MASKED | RTE_REMOTE_IRR)) || !(a->pins & BIT(n)))
		return;
	/* Set first: the receiver may end it at once. */
	a->rte[n] |= RTE_REMOTE_IRR;
	if (!send(a, n))
		a->rte[n] &= ~RTE_REMOTE_IRR;
}

void ioapic_set_irq(struct device *d, unsigned n, bool level)
{
	struct ioapic *a = container_of(d, struct ioapic, dev);

	if (n >= IOAPIC_PINS)
		return;
	bool was = a->pins & BIT(n);

	a->pins = level ? a->pins | (u32)BIT(n) : a->pins & ~(u32)BIT(n);
	if (a->rte[n] & RTE_LEVEL)
		service_level(a, n);
	else if (level && !was && !(a->rte[n] & RTE_MASKED))
		send(a, n);
}

void ioapic_eoi(struct device *d, u8 vector)
{
	struct ioapic *a = container_of(d, struct ioapic, dev);

	for (unsigned n = 0; n < IOAPIC_PINS; n++) {
		if ((u8)a->rte[n] != vector || !(a->rte[n] & RTE_REMOTE_IRR))
			continue;
		a->rte[n] &= ~RTE_REMOTE_IRR;
		service_level(a, n);
	}
}

static void write_rte(struct ioapic *a, unsigned index, u32 val)
{
	unsigned n = index / 2, shift = index % 2 * 32;
	u64 mask = RTE_WRITABLE & (0xffffffffull << shift), was = a->rte[n];

	a->rte[n] = (a->rte[n] & ~mask) | ((u64)val << shift & mask);
	/* Remote IRR is defined for level-triggered entries only; systems switch
	 * an entry to edge and back to clear it. */
	if (!(a->rte[n] & RTE_LEVEL))
		a->rte[n] &= ~RTE_REMOTE_IRR;
	if (a->out.routed && ((was ^ a->rte[n]) & ~(RTE_MASKED | RTE_READ_ONLY)))
		a->out.routed(a->out.opaque);
	service_level(a, n);
}

static u32 read_window(const struct ioapic *a)
{
	switch (a->select) {
	case INDEX_ID:
	case INDEX_ARBITRATION:
		return a->id;
	case INDEX_VERSION:
		return VERSION_VALUE;
	case INDEX_TABLE ... INDEX_TABLE + 2 * IOAPIC_PINS - 1: {
		unsigned index = a->select - INDEX_TABLE;

		return (u32)(a->rte[index / 2] >> index % 2 * 32);
	}
	default:
		return 0;
	}
}

static u64 ioapic_read(void *opaque, u64 off, unsigned size)
{
	const struct ioapic *a = opaque;

	switch (off) {
	case REG_SELECT:
		return a->select;
	case REG_WINDOW:
		return read_window(a);
	default:
		return 0;
	}
}

static void ioapic_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct ioapic *a = opaque;

	switch (off) {
	case REG_SELECT:
		a->select = (u8)val;
		break;
	case REG_WINDOW:
		if (size != 4)
			break;
		if (a->select == INDEX_ID)
			a->id = (u32)val & 0x0f000000;
		else if (a->select >= INDEX_TABLE && a->select < INDEX_TABLE + 2 * IOAPIC_PINS)
			write_rte(a, a->select - INDEX_TABLE, (u32)val);
		break;
	case REG_EOI:
		ioapic_eoi(&a->dev, (u8)val);
		break;
	}
}

static const struct io_ops ioapic_io = { .read = ioapic_read, .write = ioapic_write, .min_size = 1, .max_size = 4 };

static void ioapic_reset(struct device *d)
{
	struct ioapic *a = container_of(d, struct ioapic, dev);

	a->id = 0;
	a->select = 0;
	for (unsigned n = 0; n < IOAPIC_PINS; n++)
		a->rte[n] = RTE_MASKED;
}

/* Section "ioapic", version 1: id, select, pins, 24 entries. */
static void ioapic_save(const struct device *d, struct encoder *e)
{
	const struct ioapic *a = container_of(d, const struct ioapic, dev);

	enc_begin(e, d->ops->name, 1);
	enc_u32(e, a->id);
	enc_u8(e, a->select);
	enc_u32(e, a->pins);
	for (unsigned n = 0; n < IOAPIC_PINS; n++)
		enc_u64(e, a->rte[n]);
	enc_end(e);
}

static bool decode(const struct device *d, struct decoder *in, struct ioapic *a)
{
	struct decoder s;

	if (!dec_begin(in, d->ops->name, &s) || s.version != 1)
		return false;
	a->id = dec_u32(&s);
	a->select = dec_u8(&s);
	a->pins = dec_u32(&s);
	bool sound = !(a->id & ~0x0f000000u) && !(a->pins >> IOAPIC_PINS);

	for (unsigned n = 0; n < IOAPIC_PINS; n++) {
		a->rte[n] = dec_u64(&s);
		sound &= !(a->rte[n] & ~(RTE_WRITABLE | RTE_REMOTE_IRR));
	}
	return dec_done(&s) && sound;
}

static int ioapic_check(const struct device *d, struct decoder *in)
{
	struct ioapic a = { 0 };

	return decode(d, in, &a) ? 0 : -1;
}

static void ioapic_load(struct device *d, struct decoder *in)
{
	decode(d, in, container_of(d, struct ioapic, dev));
}

static void ioapic_destroy(struct device *d)
{
	struct ioapic *a = container_of(d, struct ioapic, dev);

	region_remove(a->mem, a->region);
	free(a);
}

static const struct device_ops ioapic_ops = {
	.name = "ioapic",
	.reset = ioapic_reset,
	.save = ioapic_save,
	.check = ioapic_check,
	.load = ioapic_load,
	.destroy = ioapic_destroy,
};

struct device *ioapic_create(struct board *b, const struct ioapic_output *out)
{
	struct ioapic *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->dev.ops = &ioapic_ops;
	a->out = *out;
	a->mem = b->mem;
	a->region = memory_map_mmio(b->mem, IOAPIC_BASE, PAGE_SIZE, &ioapic_io, a, 10, "ioapic");
	if (!a->region) {
		free(a);
		return NULL;
	}
	ioapic_reset(&a->dev);
	board_attach(b, &a->dev);
	return &a->dev;
}
