/*
 * The PC's keyboard controller (IBM PS/2 technical reference, "Keyboard and
 * auxiliary device controller") with a keyboard nobody types on: it answers
 * identification, reset and configuration, so that drivers find a sound
 * controller and finish quickly.
 *
 * The auxiliary port is absent: its interface test reports a fault and the
 * loopback command answers without the auxiliary flag, which is how drivers
 * recognise a controller of the AT kind at once.
 *
 * The A20 gate is stored and can be read back, but address line 20 is always
 * enabled.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/chipset/i8042.h"

#define STATUS_OBF 0x01
#define STATUS_SYS 0x04
#define STATUS_CMD 0x08
#define STATUS_UNLOCKED 0x10

#define CTR_KBDINT 0x01
#define CTR_SYS 0x04
#define CTR_KBDDIS 0x10
#define CTR_AUXDIS 0x20
#define CTR_XLATE 0x40

#define OUT_RESET 0x01 /* active low */
#define OUT_A20 0x02

#define KBD_ACK 0xfa
#define KBD_RESEND 0xfe
#define QUEUE 16

struct state {
	u8 ram[32]; /* byte 0: command byte */
	u8 outport;
	u8 pending;	/* controller command that waits for its data byte, 0: none */
	u8 kbd_pending; /* keyboard command likewise */
	u8 obf;		/* last byte presented at port 60h */
	bool full, last_was_command;
	u8 ctl_reply;
	bool ctl_full;	 /* a controller's reply waits; it goes before the keyboard's */
	u8 queue[QUEUE]; /* bytes from the keyboard, oldest first */
	u8 count;
	u8 scan_set, leds, rate;
	bool scanning;
	u8 port92;
	bool irq;
};

struct i8042 {
	struct device dev;
	struct portmap *ports;
	struct irq irq1;
	void (*request)(void *machine, enum board_request r, int value);
	void *machine;
	struct state s;
};

/* Fill the output buffer if it is free. Each byte raises IRQ1 anew. */
static void update(struct i8042 *k)
{
	struct state *s = &k->s;

	if (!s->full && s->ctl_full) {
		s->obf = s->ctl_reply;
		s->ctl_full = false;
		s->full = true;
	} else if (!s->full && s->count && !(s->ram[0] & CTR_KBDDIS)) {
		s->obf = s->queue[0];
		memmove(s->queue, s->queue + 1, --s->count);
		s->full = true;
	}
	s->irq = s->full && (s->ram[0] & CTR_KBDINT);
	irq_set(&k->irq1, s->irq);
}

/* A newer reply replaces one that was never read. */
static void reply(struct i8042 *k, u8 v)
{
	k->s.ctl_reply = v;
	k->s.ctl_full = true;
}

static void kbd_send(struct i8042 *k, u8 v)
{
	if (k->s.count < QUEUE)
		k->s.queue[k->s.count++] = v;
}

static void kbd_defaults(struct state *s)
{
	s->scan_set = 2;
	s->leds = 0;
	s->rate = 0x2b;
	s->kbd_pending = 0;
}

/* The second byte of a keyboard command. */
static void kbd_argument(struct i8042 *k, u8 val)
{
	struct state *s = &k->s;
	u8 cmd = s->kbd_pending;

	s->kbd_pending = 0;
	kbd_send(k, KBD_ACK);
	if (cmd == 0xed)
		s->leds = val & 7;
	else if (cmd == 0xf3)
		s->rate = val & 0x7f;
	else if (cmd == 0xf0 && val == 0)
		kbd_send(k, s->scan_set);
	else if (cmd == 0xf0 && val <= 3)
		s->scan_set = val;
}

static void kbd_command(struct i8042 *k, u8 val)
{
	struct state *s = &k->s;

	s->ram[0] &= ~CTR_KBDDIS; /* sending to the keyboard enables its clock */
	if (s->kbd_pending && val < 0xed) {
		kbd_argument(k, val);
		return;
	}
	s->kbd_pending = 0;
	switch (val) {
	case 0xee: /* echo */
		kbd_send(k, 0xee);
		return;
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* rate */
		s->kbd_pending = val;
		break;
	case 0xf2: /* identify: MF2 keyboard, AB 83; with translation its second byte is 41h */
		kbd_send(k, KBD_ACK);
		kbd_send(k, 0xab);
		kbd_send(k, s->ram[0] & CTR_XLATE ? 0x41 : 0x83);
		return;
	case 0xf4:
		s->scanning = true;
		break;
	case 0xf5:
	case 0xf6:
		kbd_defaults(s);
		s->scanning = val == 0xf6;
		break;
	case 0xf7 ... 0xfd: /* key types of set 3 */
		break;
	case 0xff: /* reset and self test */
		s->count = 0;
		kbd_defaults(s);
		s->scanning = true;
		kbd_send(k, KBD_ACK);
		kbd_send(k, 0xaa);
		return;
	default:
		kbd_send(k, KBD_RESEND);
		return;
	}
	kbd_send(k, KBD_ACK);
}

static void write_outport(struct i8042 *k, u8 val)
{
	k->s.outport = val;
	if (!(val & OUT_RESET)) {
		k->s.outport |= OUT_RESET;
		k->request(k->machine, BOARD_RESET, 0);
	}
}

static void write_data(struct i8042 *k, u8 val)
{
	struct state *s = &k->s;
	u8 cmd = s->pending;

	s->pending = 0;
	s->last_was_command = false;
	switch (cmd) {
	case 0:
		kbd_command(k, val);
		break;
	case 0x60 ... 0x7f:
		s->ram[cmd & 0x1f] = cmd == 0x60 ? val & 0x7f : val;
		break;
	case 0xd1:
		write_outport(k, val);
		break;
	case 0xd2:
	case 0xd3: /* no auxiliary port: comes back as if from the keyboard */
		reply(k, val);
		break;
	case 0xd4: /* to the auxiliary device: nobody there, no answer but a resend request */
		reply(k, KBD_RESEND);
		break;
	}
}

static void write_command(struct i8042 *k, u8 val)
{
	struct state *s = &k->s;

	s->last_was_command = true;
	s->pending = 0;
	switch (val) {
	case 0x20 ... 0x3f:
		reply(k, s->ram[val & 0x1f]);
		break;
	case 0x60 ... 0x7f:
	case 0xd1 ... 0xd4:
		s->pending = val;
		break;
	case 0xa7:
		s->ram[0] |= CTR_AUXDIS;
		break;
	case 0xa8: /* enabling an absent port does nothing */
		break;
	case 0xa9: /* auxiliary interface test: clock line stuck low */
		reply(k, 0x01);
		break;
	case 0xaa:
		s->ram[0] |= CTR_SYS;
		reply(k, 0x55);
		break;
	case 0xab:
		reply(k, 0x00);
		break;
	case 0xad:
		s->ram[0] |= CTR_KBDDIS;
		break;
	case 0xae:
		s->ram[0] &= ~CTR_KBDDIS;
		break;
	case 0xc0: /* input port: keyboard not locked, no manufacturing jumper */
		reply(k, 0x80);
		break;
	case 0xd0:
		reply(k, (s->outport & 0xef) | (s->full ? 0x10 : 0));
		break;
	case 0xdd:
		s->outport &= ~OUT_A20;
		break;
	case 0xdf:
		s->outport |= OUT_A20;
		break;
	case 0xf0 ... 0xff: /* pulse output lines whose bit is clear */
		if (!(val & OUT_RESET))
			k->request(k->machine, BOARD_RESET, 0);
		break;
	}
}

static u64 data_read(void *opaque, u64 off, unsigned size)
{
	struct i8042 *k = opaque;
	u8 v = k->s.obf;

	if (k->s.full) {
		k->s.full = false;
		irq_set(&k->irq1, false);
		update(k);
	}
	return v;
}

static void data_write(void *opaque, u64 off, u64 val, unsigned size)
{
	write_data(opaque, val);
	update(opaque);
}

static u64 status_read(void *opaque, u64 off, unsigned size)
{
	const struct state *s = &((struct i8042 *)opaque)->s;

	return (s->full ? STATUS_OBF : 0) | (s->ram[0] & CTR_SYS ? STATUS_SYS : 0) |
	       (s->last_was_command ? STATUS_CMD : 0) | STATUS_UNLOCKED;
}

static void command_write(void *opaque, u64 off, u64 val, unsigned size)
{
	write_command(opaque, val);
	update(opaque);
}

static u64 port92_read(void *opaque, u64 off, unsigned size)
{
	const struct state *s = &((struct i8042 *)opaque)->s;

	return (s->port92 & ~OUT_A20) | (s->outport & OUT_A20);
}

static void port92_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = opaque;
	struct state *s = &k->s;
	bool reset = (val & 1) && !(s->port92 & 1);

	s->port92 = val & ~OUT_A20;
	s->outport = (s->outport & ~OUT_A20) | (val & OUT_A20);
	if (reset)
		k->request(k->machine, BOARD_RESET, 0);
}

static const struct io_ops data_io = { data_read, data_write, 1, 1 };
static const struct io_ops command_io = { status_read, command_write, 1, 1 };
static const struct io_ops port92_io = { port92_read, port92_write, 1, 1 };

static void i8042_reset(struct device *d)
{
	struct i8042 *k = (struct i8042 *)d;

	k->s = (struct state){ .ram = { CTR_KBDINT | CTR_XLATE | CTR_AUXDIS }, .outport = 0xcf, .scanning = true };
	kbd_defaults(&k->s);
	update(k);
}

static void i8042_save(const struct device *d, struct encoder *e)
{
	const struct state *s = &((const struct i8042 *)d)->s;

	enc_begin(e, d->ops->name, 1);
	enc_bytes(e, s->ram, sizeof(s->ram));
	enc_u8(e, s->outport);
	enc_u8(e, s->pending);
	enc_u8(e, s->kbd_pending);
	enc_u8(e, s->obf);
	enc_bool(e, s->full);
	enc_bool(e, s->last_was_command);
	enc_u8(e, s->ctl_reply);
	enc_bool(e, s->ctl_full);
	enc_u8(e, s->count);
	enc_bytes(e, s->queue, s->count);
	enc_u8(e, s->scan_set);
	enc_u8(e, s->leds);
	enc_u8(e, s->rate);
	enc_bool(e, s->scanning);
	enc_u8(e, s->port92);
	enc_bool(e, s->irq);
	enc_end(e);
}

static bool decode(const struct device *d, struct decoder *in, struct state *s)
{
	struct decoder i;

	*s = (struct state){ 0 };
	if (!dec_begin(in, d->ops->name, &i) || i.version != 1)
		return false;
	dec_bytes(&i, s->ram, sizeof(s->ram));
	s->outport = dec_u8(&i);
	s->pending = dec_u8(&i);
	s->kbd_pending = dec_u8(&i);
	s->obf = dec_u8(&i);
	s->full = dec_bool(&i);
	s->last_was_command = dec_bool(&i);
	s->ctl_reply = dec_u8(&i);
	s->ctl_full = dec_bool(&i);
	s->count = dec_u8(&i);
	if (s->count > QUEUE)
		return false;
	dec_bytes(&i, s->queue, s->count);
	s->scan_set = dec_u8(&i);
	s->leds = dec_u8(&i);
	s->rate = dec_u8(&i);
	s->scanning = dec_bool(&i);
	s->port92 = dec_u8(&i);
	s->irq = dec_bool(&i);
	return dec_done(&i);
}

static int i8042_check(const struct device *d, struct decoder *in)
{
	struct state s;

	return decode(d, in, &s) ? 0 : -1;
}

static void i8042_load(struct device *d, struct decoder *in)
{
	struct i8042 *k = (struct i8042 *)d;
	struct state s;

	if (!decode(d, in, &s))
		return;
	k->s = s;
	k->irq1.level = s.irq;
}

static void i8042_destroy(struct device *d)
{
	struct i8042 *k = (struct i8042 *)d;

	portmap_remove(k->ports, 0x60, k);
	portmap_remove(k->ports, 0x64, k);
	portmap_remove(k->ports, 0x92, k);
	free(k);
}

static const struct device_ops i8042_ops = {
	.name = "i8042",
	.reset = i8042_reset,
	.save = i8042_save,
	.check = i8042_check,
	.load = i8042_load,
	.destroy = i8042_destroy,
};

struct device *i8042_create(struct board *b, const struct irq *irq1)
{
	struct i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->dev.ops = &i8042_ops;
	k->ports = b->ports;
	k->irq1 = *irq1;
	k->request = b->request;
	k->machine = b->machine;
	portmap_add(b->ports, 0x60, 1, &data_io, k, "i8042-data");
	portmap_add(b->ports, 0x64, 1, &command_io, k, "i8042-command");
	portmap_add(b->ports, 0x92, 1, &port92_io, k, "port92");
	board_attach(b, &k->dev);
	i8042_reset(&k->dev);
	return &k->dev;
}
