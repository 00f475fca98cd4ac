/*
 * Intel 8254 (data sheet, order number 231164).
 *
 * Nothing counts here. A channel remembers the tick of PIT_HZ at which its
 * counting element was loaded (`start`) and with what (`n`); the count and OUT
 * are functions of the ticks elapsed since. Only edges of channel 0's OUT have
 * an effect outside, so one timer is armed for the next of them. When the timer
 * comes late (a busy host), edges in between are merged into one pulse, as an
 * edge-triggered interrupt input would merge them.
 *
 * The count written at tick T is loaded by the next clock, T + 1; until then
 * the null-count flag is set. In modes 2 and 3 a count written while counting
 * waits (`next`) for the end of the period, in mode 3 of the half period.
 */
#include <stdlib.h>

#include "dev/chipset/pit.h"

enum access { ACCESS_LSB = 1, ACCESS_MSB = 2, ACCESS_WORD = 3 };

#define REFRESH_NS 15085u /* half period of the refresh toggle, bit 4 of port 61h */

struct channel {
	u8 mode;   /* 0 to 5 */
	u8 access; /* enum access */
	bool bcd;
	bool gate;
	bool loaded;  /* a count was written since the control word */
	bool started; /* counting: modes 1 and 5 wait for a trigger */
	bool held;    /* mode 0, 4: gate is low, `elapsed` stands still */
	bool write_msb, read_msb;
	u8 write_lsb;
	bool count_latched, status_latched;
	u16 latch;
	u8 status;
	u32 n;	     /* modulus in use, 1 to 65536 */
	u32 next;    /* waiting modulus, 0 if none */
	s64 next_at; /* tick at which it comes into use */
	s64 start;   /* tick of loading */
	s64 elapsed; /* ticks counted before `held` */
};

struct pit {
	struct device dev;
	struct portmap *ports;
	struct clock *clock;
	struct timer *timer;
	struct irq irq0;
	struct channel ch[3];
	u8 port61; /* bits 0-3 */
};

static s64 now_ticks(struct pit *p)
{
	return (s64)clock_ns_to_ticks(clock_now(p->clock), PIT_HZ);
}

static s64 high_ticks(u32 n)
{
	return (n + 1) / 2;
} /* mode 3: OUT is high that long */

static s64 elapsed(const struct channel *c, s64 now)
{
	if (c->held)
		return c->elapsed;
	return MAX(now - c->start, 0);
}

/* First tick after `now` at which mode 2 or 3 would reload. */
static s64 next_boundary(const struct channel *c, s64 now)
{
	s64 e = elapsed(c, now), p = e % c->n, base = c->start + e - p;

	if (c->mode == 3 && p < high_ticks(c->n))
		return base + high_ticks(c->n);
	return base + c->n;
}

/* Bring a waiting count into use if its time has come. */
static void sync_channel(struct channel *c, s64 now)
{
	bool low_half;

	if (!c->next || now < c->next_at)
		return;
	low_half = c->mode == 3 && (c->next_at - c->start) % c->n != 0;
	c->n = c->next;
	c->next = 0;
	/* after a high half OUT goes on with the low half of the new period */
	c->start = low_half ? c->next_at - high_ticks(c->n) : c->next_at;
}

static bool out(const struct channel *c, s64 now)
{
	s64 e = elapsed(c, now);

	switch (c->mode) {
	case 0:
		return c->loaded && c->started && e >= c->n;
	case 1:
		return !c->started || e >= c->n;
	case 2:
		return !c->started || !c->gate || e % c->n != c->n - 1;
	case 3:
		return !c->started || !c->gate || e % c->n < high_ticks(c->n);
	default:
		return !c->started || e != c->n;
	}
}

static u16 to_bcd(unsigned v)
{
	return v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
}

static unsigned from_bcd(u16 v)
{
	return (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
}

static u16 count(const struct channel *c, s64 now)
{
	s64 e = elapsed(c, now), wrap = c->bcd ? 10000 : 65536, v;

	if (!c->started)
		e = 0;
	switch (c->mode) {
	case 2:
		v = c->n - e % c->n;
		break;
	case 3:
		e %= c->n;
		if (e >= high_ticks(c->n))
			e -= high_ticks(c->n);
		v = (c->n & ~1u) - 2 * e;
		break;
	default:
		v = c->n - e;
		break;
	}
	v %= wrap;
	if (v < 0)
		v += wrap;
	return c->bcd ? to_bcd(v) : v;
}

/* Next tick after `now` at which OUT changes, -1 if it stays. */
static s64 next_edge(const struct channel *c, s64 now)
{
	s64 e = elapsed(c, now), p;

	if (!c->started || c->held)
		return -1;
	switch (c->mode) {
	case 0:
	case 1:
		return e < c->n ? c->start + c->n : -1;
	case 2:
		if (!c->gate || c->n < 2)
			return -1;
		p = e % c->n;
		return c->start + e - p + (p < c->n - 1 ? c->n - 1 : c->n);
	case 3:
		if (!c->gate || c->n < 2)
			return -1;
		return next_boundary(c, now);
	default:
		return e < c->n ? c->start + c->n : e == c->n ? c->start + c->n + 1 : -1;
	}
}

static void channel0_update(struct pit *p, s64 now)
{
	s64 t = next_edge(&p->ch[0], now);

	irq_set(&p->irq0, out(&p->ch[0], now));
	if (t < 0)
		timer_cancel(p->timer);
	else
		timer_arm(p->timer, clock_ticks_to_ns(t, PIT_HZ));
}

static void channel0_edge(void *opaque)
{
	struct pit *p = opaque;
	s64 now = now_ticks(p);

	sync_channel(&p->ch[0], now);
	/* Same level as before the edge: the timer is late by a pulse or more. */
	if (out(&p->ch[0], now) == p->irq0.level)
		irq_set(&p->irq0, !p->irq0.level);
	channel0_update(p, now);
}

static void load_count(struct channel *c, u16 v, s64 now)
{
	u32 n = c->bcd ? from_bcd(v) : v;

	if (!n)
		n = c->bcd ? 10000 : 65536;
	if ((c->mode == 2 || c->mode == 3) && c->started && c->gate) {
		c->next_at = next_boundary(c, now);
		c->next = n;
		return;
	}
	c->n = n;
	c->loaded = true;
	if (c->mode == 1 || c->mode == 5)
		return; /* the trigger loads it; a one-shot under way is cut to the new count */
	c->start = now + 1;
	c->started = true;
	c->elapsed = 0;
	c->held = !c->gate && (c->mode == 0 || c->mode == 4);
}

static void write_count(struct pit *p, struct channel *c, u8 val, s64 now)
{
	switch (c->access) {
	case ACCESS_LSB:
		load_count(c, val, now);
		break;
	case ACCESS_MSB:
		load_count(c, val << 8, now);
		break;
	default:
		if (c->write_msb) {
			load_count(c, c->write_lsb | val << 8, now);
		} else {
			c->write_lsb = val;
			if (c->mode == 0) /* the first byte stops mode 0 and lowers OUT */
				c->started = false;
		}
		c->write_msb = !c->write_msb;
		break;
	}
	if (c == &p->ch[0])
		channel0_update(p, now);
}

static void latch_count(struct channel *c, s64 now)
{
	if (c->count_latched)
		return;
	c->latch = count(c, now);
	c->count_latched = true;
}

static void latch_status(struct channel *c, s64 now)
{
	bool null_count = !c->loaded || c->next || (c->started && !c->held && now < c->start);

	if (c->status_latched)
		return;
	c->status = out(c, now) << 7 | null_count << 6 | c->access << 4 | c->mode << 1 | c->bcd;
	c->status_latched = true;
}

static void write_control(struct pit *p, u8 val, s64 now)
{
	unsigned sel = val >> 6, access = val >> 4 & 3;
	struct channel *c;

	if (sel == 3) { /* read-back: bits 5 and 4 are active low */
		for (unsigned i = 0; i < 3; i++) {
			if (!(val & (2u << i)))
				continue;
			if (!(val & 0x20))
				latch_count(&p->ch[i], now);
			if (!(val & 0x10))
				latch_status(&p->ch[i], now);
		}
		return;
	}
	c = &p->ch[sel];
	if (access == 0) {
		latch_count(c, now);
		return;
	}
	c->mode = (val >> 1 & 7) > 5 ? val >> 1 & 3 : val >> 1 & 7; /* 6, 7 mean 2, 3 */
	c->access = access;
	c->bcd = val & 1;
	c->loaded = c->started = c->held = false;
	c->write_msb = c->read_msb = false;
	c->count_latched = c->status_latched = false;
	c->next = 0;
	if (sel == 0)
		channel0_update(p, now);
}

static u8 read_count(struct channel *c, s64 now)
{
	u16 v;
	bool msb;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	v = c->count_latched ? c->latch : count(c, now);
	msb = c->access == ACCESS_MSB || (c->access == ACCESS_WORD && c->read_msb);
	if (c->access == ACCESS_WORD)
		c->read_msb = !c->read_msb;
	if (!c->read_msb)
		c->count_latched = false;
	return msb ? v >> 8 : v;
}

/* GATE of channel 2 (the others' is wired high). Data sheet, figure "Gate pin operations". */
static void set_gate(struct channel *c, bool level, s64 now)
{
	bool rise = level && !c->gate;

	if (level == c->gate)
		return;
	switch (c->mode) {
	case 0:
	case 4:
		if (c->started && !level) {
			c->elapsed = elapsed(c, now);
			c->held = true;
		} else if (c->started && level) {
			c->held = false;
			c->start = now - c->elapsed;
		}
		break;
	default:
		if (rise && c->loaded) { /* trigger: reload */
			if (c->next) {
				c->n = c->next;
				c->next = 0;
			}
			c->start = now + 1;
			c->started = true;
		}
		break;
	}
	c->gate = level;
}

static u64 pit_read(void *opaque, u64 off, unsigned size)
{
	struct pit *p = opaque;
	s64 now = now_ticks(p);

	if (off == 3)
		return 0; /* the control register is write-only */
	sync_channel(&p->ch[off], now);
	return read_count(&p->ch[off], now);
}

static void pit_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct pit *p = opaque;
	s64 now = now_ticks(p);

	for (unsigned i = 0; i < 3; i++)
		sync_channel(&p->ch[i], now);
	if (off == 3)
		write_control(p, val, now);
	else
		write_count(p, &p->ch[off], val, now);
}

static u64 port61_read(void *opaque, u64 off, unsigned size)
{
	struct pit *p = opaque;
	s64 now = now_ticks(p);
	bool refresh = clock_now(p->clock) / REFRESH_NS & 1;

	sync_channel(&p->ch[2], now);
	return p->port61 | refresh << 4 | out(&p->ch[2], now) << 5;
}

static void port61_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct pit *p = opaque;
	s64 now = now_ticks(p);

	p->port61 = val & 0xf;
	sync_channel(&p->ch[2], now);
	set_gate(&p->ch[2], val & 1, now);
}

static const struct io_ops pit_io = { pit_read, pit_write, 1, 1 };
static const struct io_ops port61_io = { port61_read, port61_write, 1, 1 };

static void pit_reset(struct device *d)
{
	struct pit *p = (struct pit *)d;

	for (unsigned i = 0; i < 3; i++)
		p->ch[i] = (struct channel){ .mode = 3, .access = ACCESS_WORD, .n = 65536, .gate = i != 2 };
	p->port61 = 0;
	timer_cancel(p->timer);
	irq_set(&p->irq0, false);
}

static void pit_save(const struct device *d, struct encoder *e)
{
	const struct pit *p = (const struct pit *)d;

	enc_begin(e, d->ops->name, 1);
	for (unsigned i = 0; i < 3; i++) {
		const struct channel *c = &p->ch[i];

		enc_u8(e, c->mode);
		enc_u8(e, c->access);
		enc_bool(e, c->bcd);
		enc_bool(e, c->gate);
		enc_bool(e, c->loaded);
		enc_bool(e, c->started);
		enc_bool(e, c->held);
		enc_bool(e, c->write_msb);
		enc_bool(e, c->read_msb);
		enc_u8(e, c->write_lsb);
		enc_bool(e, c->count_latched);
		enc_bool(e, c->status_latched);
		enc_u16(e, c->latch);
		enc_u8(e, c->status);
		enc_u32(e, c->n);
		enc_u32(e, c->next);
		enc_u64(e, c->next_at);
		enc_u64(e, c->start);
		enc_u64(e, c->elapsed);
	}
	enc_u8(e, p->port61);
	enc_bool(e, p->irq0.level);
	enc_end(e);
}

struct pit_state {
	struct channel ch[3];
	u8 port61;
	bool irq0;
};

/* Ticks stay far below 2^62: sums of them cannot overflow. */
static bool sound(const struct channel *c)
{
	const s64 far = 1ll << 60;

	return c->mode <= 5 && c->access >= ACCESS_LSB && c->access <= ACCESS_WORD && c->n >= 1 && c->n <= 65536 &&
	       c->next <= 65536 && c->next_at >= 0 && c->next_at < far && c->start > -65537 && c->start < far &&
	       c->elapsed >= 0 && c->elapsed < far && (!c->started || c->loaded || c->mode == 0);
}

static bool decode(struct decoder *in, const char *name, struct pit_state *st)
{
	struct decoder s;

	if (!dec_begin(in, name, &s) || s.version != 1)
		return false;
	for (unsigned i = 0; i < 3; i++) {
		struct channel *c = &st->ch[i];

		c->mode = dec_u8(&s);
		c->access = dec_u8(&s);
		c->bcd = dec_bool(&s);
		c->gate = dec_bool(&s);
		c->loaded = dec_bool(&s);
		c->started = dec_bool(&s);
		c->held = dec_bool(&s);
		c->write_msb = dec_bool(&s);
		c->read_msb = dec_bool(&s);
		c->write_lsb = dec_u8(&s);
		c->count_latched = dec_bool(&s);
		c->status_latched = dec_bool(&s);
		c->latch = dec_u16(&s);
		c->status = dec_u8(&s);
		c->n = dec_u32(&s);
		c->next = dec_u32(&s);
		c->next_at = dec_u64(&s);
		c->start = dec_u64(&s);
		c->elapsed = dec_u64(&s);
		if (s.failed || !sound(c))
			return false;
	}
	st->port61 = dec_u8(&s);
	st->irq0 = dec_bool(&s);
	return dec_done(&s) && st->port61 <= 0xf;
}

static int pit_check(const struct device *d, struct decoder *in)
{
	struct pit_state st;

	return decode(in, d->ops->name, &st) ? 0 : -1;
}

static void pit_load(struct device *d, struct decoder *in)
{
	struct pit *p = (struct pit *)d;
	struct pit_state st;
	s64 t;

	if (!decode(in, d->ops->name, &st))
		return;
	for (unsigned i = 0; i < 3; i++)
		p->ch[i] = st.ch[i];
	p->port61 = st.port61;
	p->irq0.level = st.irq0;
	/* The edge after the level just loaded; one that is overdue fires at once. A counter without a count has none,
	 * and the level it had before it was programmed. */
	t = next_edge(&p->ch[0], now_ticks(p));
	if (p->ch[0].loaded && out(&p->ch[0], now_ticks(p)) != st.irq0)
		timer_arm(p->timer, clock_now(p->clock));
	else if (t >= 0)
		timer_arm(p->timer, clock_ticks_to_ns(t, PIT_HZ));
	else
		timer_cancel(p->timer);
}

static void pit_destroy(struct device *d)
{
	struct pit *p = (struct pit *)d;

	portmap_remove(p->ports, 0x40, p);
	portmap_remove(p->ports, 0x61, p);
	timer_free(p->timer);
	free(p);
}

static const struct device_ops pit_ops = {
	.name = "pit",
	.reset = pit_reset,
	.save = pit_save,
	.check = pit_check,
	.load = pit_load,
	.destroy = pit_destroy,
};

struct device *pit_create(struct board *b, const struct irq *irq0)
{
	struct pit *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->dev.ops = &pit_ops;
	p->ports = b->ports;
	p->clock = b->clock;
	p->irq0 = *irq0;
	p->timer = timer_create_on(b->clock, "pit", channel0_edge, p);
	if (!p->timer) {
		free(p);
		return NULL;
	}
	portmap_add(b->ports, 0x40, 4, &pit_io, p, "pit");
	portmap_add(b->ports, 0x61, 1, &port61_io, p, "port61");
	board_attach(b, &p->dev);
	pit_reset(&p->dev);
	return &p->dev;
}
