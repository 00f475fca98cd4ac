/*
 * Dual 8259A (Intel 8259A data sheet, order number 231468), slave on the
 * master's input 2, with the ELCR registers of PCI chipsets.
 *
 * IRR holds requests: an edge-triggered input latches its rising edge until it
 * is acknowledged; a level-triggered one (ELCR bit set) follows the pin. An
 * edge-triggered request whose pin falls again stays latched: devices here may
 * pulse their lines. Level-triggered requests that vanish before the INTA cycle
 * give the spurious vector.
 *
 * The INT pin is recomputed after every change; the slave's is an input of the
 * master, treated as a level.
 */
#include <stdlib.h>

#include "dev/chipset/pic.h"

#define CASCADE 2

/* Which command word the data port expects next. */
enum init_step { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct chip {
	u8 irr, isr, imr;
	u8 pins; /* levels of the inputs */
	u8 elcr;
	u8 base;			   /* ICW2: vector of input 0 */
	u8 lowest;			   /* input with the lowest priority; 7 after initialisation */
	u8 step;			   /* enum init_step */
	bool single, need_icw4, level_all; /* ICW1 */
	bool auto_eoi, fully_nested;	   /* ICW4; fully_nested: the *special* mode */
	bool rotate_aeoi, special_mask, read_isr, poll;
};

struct pic {
	struct device dev;
	struct portmap *ports;
	struct irq out;
	struct chip c[2]; /* master, slave */
};

static const u8 elcr_valid[2] = { 0xf8, 0xde }; /* never the timer, keyboard, cascade, RTC, FPU */

/* Highest-priority set bit as a distance from the top, 8 if none. */
static unsigned rank(const struct chip *c, u8 bits)
{
	unsigned r;

	for (r = 0; r < 8; r++)
		if (bits & (1u << ((c->lowest + 1 + r) & 7)))
			break;
	return r;
}

static unsigned ranked(const struct chip *c, unsigned r)
{
	return (c->lowest + 1 + r) & 7;
}

/* The input that would be acknowledged now, -1 if none. */
static int winner(const struct chip *c, bool master)
{
	unsigned r = rank(c, c->irr & ~c->imr);
	u8 blocking = c->isr;

	if (r == 8)
		return -1;
	if (c->special_mask)
		blocking &= ~c->imr;
	if (c->fully_nested && master)
		blocking &= ~(1u << CASCADE);
	return r < rank(c, blocking) ? (int)ranked(c, r) : -1;
}

static bool is_level(const struct chip *c, unsigned n)
{
	return c->level_all || (c->elcr & (1u << n));
}

static void set_pin(struct chip *c, unsigned n, bool level, bool level_triggered)
{
	u8 bit = 1u << n;

	if (level_triggered) {
		if (level)
			c->irr |= bit;
		else
			c->irr &= ~bit;
	} else if (level && !(c->pins & bit)) {
		c->irr |= bit;
	}
	if (level)
		c->pins |= bit;
	else
		c->pins &= ~bit;
}

static void update(struct pic *p)
{
	set_pin(&p->c[0], CASCADE, winner(&p->c[1], false) >= 0, true);
	irq_set(&p->out, winner(&p->c[0], true) >= 0);
}

void pic_set_irq(struct device *d, unsigned n, bool level)
{
	struct pic *p = (struct pic *)d;
	struct chip *c;

	if (n > 15 || n == CASCADE)
		return;
	c = &p->c[n >> 3];
	set_pin(c, n & 7, level, is_level(c, n & 7));
	update(p);
}

bool pic_pending(const struct device *d)
{
	return ((const struct pic *)d)->out.level;
}

static void acknowledge(struct chip *c, unsigned n, bool level)
{
	if (c->auto_eoi) {
		if (c->rotate_aeoi)
			c->lowest = n;
	} else {
		c->isr |= 1u << n;
	}
	if (!level)
		c->irr &= ~(1u << n);
}

int pic_ack(struct device *d)
{
	struct pic *p = (struct pic *)d;
	int n = winner(&p->c[0], true), vector;

	if (n < 0) {
		vector = p->c[0].base + 7;
	} else if (n == CASCADE && !p->c[0].single) {
		int s = winner(&p->c[1], false);

		acknowledge(&p->c[0], CASCADE, true);
		if (s >= 0)
			acknowledge(&p->c[1], s, is_level(&p->c[1], s));
		vector = p->c[1].base + (s < 0 ? 7 : s);
	} else {
		acknowledge(&p->c[0], n, is_level(&p->c[0], n));
		vector = p->c[0].base + n;
	}
	update(p);
	return vector;
}

/* ICW1 restarts the initialisation: everything but the pins and ELCR. */
static void icw1(struct chip *c, u8 val)
{
	c->irr = c->isr = c->imr = 0;
	c->lowest = 7;
	c->auto_eoi = c->fully_nested = c->rotate_aeoi = false;
	c->special_mask = c->read_isr = c->poll = false;
	c->need_icw4 = val & 1;
	c->single = val & 2;
	c->level_all = val & 8;
	c->step = INIT_ICW2;
	for (unsigned n = 0; n < 8; n++)
		if (is_level(c, n))
			c->irr |= c->pins & (1u << n);
}

static void ocw2(struct chip *c, bool master, u8 val)
{
	unsigned n = val & 7;

	switch (val >> 5) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4:
		c->rotate_aeoi = val & 0x80;
		break;
	case 1: /* non-specific EOI, with rotation */
	case 5: {
		u8 bits = c->special_mask ? c->isr & ~c->imr : c->isr;
		unsigned r = rank(c, bits);

		if (r == 8)
			break;
		n = ranked(c, r);
		c->isr &= ~(1u << n);
		if (val & 0x80)
			c->lowest = n;
		break;
	}
	case 3: /* specific EOI */
		c->isr &= ~(1u << n);
		break;
	case 7: /* specific EOI with rotation */
		c->isr &= ~(1u << n);
		c->lowest = n;
		break;
	case 6: /* set priority */
		c->lowest = n;
		break;
	}
}

static void ocw3(struct chip *c, u8 val)
{
	if (val & 4)
		c->poll = true;
	if (val & 2)
		c->read_isr = val & 1;
	if (val & 0x40)
		c->special_mask = val & 0x20;
}

static void write_data(struct chip *c, u8 val)
{
	switch (c->step) {
	case INIT_DONE:
		c->imr = val;
		break;
	case INIT_ICW2:
		c->base = val & 0xf8;
		c->step = !c->single ? INIT_ICW3 : c->need_icw4 ? INIT_ICW4 : INIT_DONE;
		break;
	case INIT_ICW3: /* the cascade's wiring is fixed */
		c->step = c->need_icw4 ? INIT_ICW4 : INIT_DONE;
		break;
	case INIT_ICW4:
		c->auto_eoi = val & 2;
		c->fully_nested = val & 0x10;
		c->step = INIT_DONE;
		break;
	}
}

static void pic_write(void *opaque, unsigned which, u64 off, u64 val)
{
	struct pic *p = opaque;
	struct chip *c = &p->c[which];

	if (off)
		write_data(c, val);
	else if (val & 0x10)
		icw1(c, val);
	else if (val & 8)
		ocw3(c, val);
	else
		ocw2(c, which == 0, val);
	update(p);
}

/* A poll is an INTA cycle that answers on the data bus: bit 7 and the input. */
static u8 poll(struct pic *p, unsigned which)
{
	struct chip *c = &p->c[which];
	int n = winner(c, which == 0);

	c->poll = false;
	if (n < 0)
		return 0;
	acknowledge(c, n, is_level(c, n) || (which == 0 && n == CASCADE));
	update(p);
	return 0x80 | n;
}

static u64 pic_read(void *opaque, unsigned which, u64 off)
{
	struct pic *p = opaque;
	struct chip *c = &p->c[which];

	if (c->poll)
		return poll(p, which);
	if (off)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static u64 master_read(void *opaque, u64 off, unsigned size)
{
	return pic_read(opaque, 0, off);
}
static void master_write(void *opaque, u64 off, u64 val, unsigned size)
{
	pic_write(opaque, 0, off, val);
}
static u64 slave_read(void *opaque, u64 off, unsigned size)
{
	return pic_read(opaque, 1, off);
}
static void slave_write(void *opaque, u64 off, u64 val, unsigned size)
{
	pic_write(opaque, 1, off, val);
}

static u64 elcr_read(void *opaque, u64 off, unsigned size)
{
	return ((struct pic *)opaque)->c[off & 1].elcr;
}

static void elcr_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct pic *p = opaque;
	struct chip *c = &p->c[off & 1];

	c->elcr = val & elcr_valid[off & 1];
	for (unsigned n = 0; n < 8; n++)
		if (c->elcr & (1u << n))
			set_pin(c, n, c->pins & (1u << n), true);
	update(p);
}

static const struct io_ops master_io = { master_read, master_write, 1, 1 };
static const struct io_ops slave_io = { slave_read, slave_write, 1, 1 };
static const struct io_ops elcr_io = { elcr_read, elcr_write, 1, 1 };

static void pic_reset(struct device *d)
{
	struct pic *p = (struct pic *)d;

	for (unsigned i = 0; i < 2; i++) {
		p->c[i] = (struct chip){ .lowest = 7, .imr = 0xff, .pins = p->c[i].pins };
		p->c[i].base = i ? 0x70 : 0x08;
	}
	update(p);
}

static void pic_save(const struct device *d, struct encoder *e)
{
	const struct pic *p = (const struct pic *)d;

	enc_begin(e, d->ops->name, 1);
	for (unsigned i = 0; i < 2; i++) {
		const struct chip *c = &p->c[i];

		enc_u8(e, c->irr);
		enc_u8(e, c->isr);
		enc_u8(e, c->imr);
		enc_u8(e, c->pins);
		enc_u8(e, c->elcr);
		enc_u8(e, c->base);
		enc_u8(e, c->lowest);
		enc_u8(e, c->step);
		enc_bool(e, c->single);
		enc_bool(e, c->need_icw4);
		enc_bool(e, c->level_all);
		enc_bool(e, c->auto_eoi);
		enc_bool(e, c->fully_nested);
		enc_bool(e, c->rotate_aeoi);
		enc_bool(e, c->special_mask);
		enc_bool(e, c->read_isr);
		enc_bool(e, c->poll);
	}
	enc_bool(e, p->out.level);
	enc_end(e);
}

static bool decode(struct decoder *in, const char *name, struct chip c[2], bool *out)
{
	struct decoder s;
	bool ok = dec_begin(in, name, &s) && s.version == 1;

	for (unsigned i = 0; ok && i < 2; i++, c++) {
		c->irr = dec_u8(&s);
		c->isr = dec_u8(&s);
		c->imr = dec_u8(&s);
		c->pins = dec_u8(&s);
		c->elcr = dec_u8(&s);
		c->base = dec_u8(&s);
		c->lowest = dec_u8(&s);
		c->step = dec_u8(&s);
		c->single = dec_bool(&s);
		c->need_icw4 = dec_bool(&s);
		c->level_all = dec_bool(&s);
		c->auto_eoi = dec_bool(&s);
		c->fully_nested = dec_bool(&s);
		c->rotate_aeoi = dec_bool(&s);
		c->special_mask = dec_bool(&s);
		c->read_isr = dec_bool(&s);
		c->poll = dec_bool(&s);
		ok = c->lowest < 8 && c->step <= INIT_ICW4 && !(c->base & 7) && !(c->elcr & ~elcr_valid[i]);
	}
	if (!ok)
		return false;
	*out = dec_bool(&s);
	return dec_done(&s);
}

static int pic_check(const struct device *d, struct decoder *in)
{
	struct chip c[2];
	bool out;

	return decode(in, d->ops->name, c, &out) ? 0 : -1;
}

static void pic_load(struct device *d, struct decoder *in)
{
	struct pic *p = (struct pic *)d;

	decode(in, d->ops->name, p->c, &p->out.level);
}

static void pic_destroy(struct device *d)
{
	struct pic *p = (struct pic *)d;

	portmap_remove(p->ports, 0x20, p);
	portmap_remove(p->ports, 0xa0, p);
	portmap_remove(p->ports, 0x4d0, p);
	free(p);
}

static const struct device_ops pic_ops = {
	.name = "pic",
	.reset = pic_reset,
	.save = pic_save,
	.check = pic_check,
	.load = pic_load,
	.destroy = pic_destroy,
};

struct device *pic_create(struct board *b, const struct irq *intr_out)
{
	struct pic *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->dev.ops = &pic_ops;
	p->ports = b->ports;
	p->out = *intr_out;
	portmap_add(b->ports, 0x20, 2, &master_io, p, "pic-master");
	portmap_add(b->ports, 0xa0, 2, &slave_io, p, "pic-slave");
	portmap_add(b->ports, 0x4d0, 2, &elcr_io, p, "pic-elcr");
	board_attach(b, &p->dev);
	pic_reset(&p->dev);
	return &p->dev;
}
