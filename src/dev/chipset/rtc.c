/*
 * Motorola MC146818 with the century byte of PCs at 32h.
 *
 * The date is kept as seconds since 1970 at one instant (`base_sec` began at
 * guest time `base_ns`); the registers are computed when read. While the date
 * stands still (SET in register B, or the divider held in reset) it lives in
 * the registers themselves, and is taken from there when it starts again.
 *
 * Nothing ticks. sync() works out which of the three events (update ended,
 * alarm, periodic) happened since it last looked, and sets the flags of
 * register C. A timer is armed only for events that are enabled and whose flag
 * is still clear: until the guest reads register C a further one changes nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/chipset/rtc.h"
#include "replay/door.h"

#define CMOS_SIZE 128
#define CENTURY 0x32
#define UIP_NS 244000u /* register A's UIP rises that long before an update */

enum reg { SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, MDAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D };

#define A_UIP 0x80
#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10
#define D_VRT 0x80

struct state {
	u8 cmos[CMOS_SIZE];
	u8 index;      /* with the NMI mask in bit 7 */
	u8 wday_shift; /* day of the week as set minus the calendar's, 0 to 6 */
	s64 base_sec;
	u64 base_ns;
	s64 seen_sec; /* events up to this second are in register C */
	u64 seen_periodic;
	bool irq;
};

struct rtc {
	struct device dev;
	struct portmap *ports;
	struct clock *clock;
	struct timer *timer;
	struct irq irq8;
	struct state s;
};

struct date {
	s64 year;
	unsigned month, mday, hour, min, sec; /* month 1-12 */
};

static s64 floor_div(s64 a, s64 b)
{
	return a / b - (a % b < 0);
}

/* Days since 1970-01-01 of a proleptic Gregorian date; `mday` may be any number. */
static s64 days_from_date(s64 y, unsigned m, unsigned mday)
{
	s64 era, yoe, doy;

	y -= m <= 2;
	era = floor_div(y, 400);
	yoe = y - era * 400;
	doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + (s64)mday - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void date_from_sec(s64 t, struct date *d)
{
	s64 days = floor_div(t, 86400), era, doe, yoe, doy, mp;
	unsigned s = t - days * 86400;

	days += 719468;
	era = floor_div(days, 146097);
	doe = days - era * 146097;
	yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	mp = (5 * doy + 2) / 153;
	d->mday = doy - (153 * mp + 2) / 5 + 1;
	d->month = mp < 10 ? mp + 3 : mp - 9;
	d->year = yoe + era * 400 + (d->month <= 2);
	d->hour = s / 3600;
	d->min = s / 60 % 60;
	d->sec = s % 60;
}

static u8 encode(const struct state *s, unsigned v)
{
	return s->cmos[REG_B] & B_BINARY ? v : (v / 10 % 10) << 4 | v % 10;
}

static unsigned decode_byte(const struct state *s, u8 v)
{
	return s->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static u8 encode_hour(const struct state *s, unsigned h)
{
	if (s->cmos[REG_B] & B_24H)
		return encode(s, h);
	return encode(s, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct state *s, u8 v)
{
	if (s->cmos[REG_B] & B_24H)
		return decode_byte(s, v);
	return decode_byte(s, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

static bool frozen(const struct state *s)
{
	return (s->cmos[REG_B] & B_SET) || (s->cmos[REG_A] & 0x60) == 0x60;
}

static s64 seconds_at(const struct state *s, u64 now)
{
	return s->base_sec + floor_div((s64)(now - s->base_ns), NSEC_PER_SEC);
}

/* Put the date into the registers. */
static void date_to_cmos(struct state *s, s64 t)
{
	struct date d;

	date_from_sec(t, &d);
	s->cmos[SEC] = encode(s, d.sec);
	s->cmos[MIN] = encode(s, d.min);
	s->cmos[HOUR] = encode_hour(s, d.hour);
	s->cmos[WDAY] = encode(s, (unsigned)((floor_div(t, 86400) % 7 + 7 + 4 + s->wday_shift) % 7) + 1);
	s->cmos[MDAY] = encode(s, d.mday);
	s->cmos[MONTH] = encode(s, d.month);
	s->cmos[YEAR] = encode(s, (unsigned)(d.year % 100));
	s->cmos[CENTURY] = (unsigned)(d.year / 100 / 10 % 10) << 4 | (unsigned)(d.year / 100 % 10);
}

/* And take it from there; nonsense gives some date, never a fault. */
static s64 date_from_cmos(struct state *s)
{
	unsigned century = (s->cmos[CENTURY] >> 4) * 10 + (s->cmos[CENTURY] & 15);
	s64 year = century * 100 + decode_byte(s, s->cmos[YEAR]);
	unsigned month = (decode_byte(s, s->cmos[MONTH]) + 11) % 12 + 1;
	s64 days = days_from_date(year, month, decode_byte(s, s->cmos[MDAY]));
	s64 wday = (days % 7 + 7 + 4) % 7; /* 1970-01-01 was a Thursday */

	s->wday_shift = ((decode_byte(s, s->cmos[WDAY]) + 6) % 7 + 7 - wday) % 7;
	return days * 86400 + decode_hour(s, s->cmos[HOUR]) * 3600 + decode_byte(s, s->cmos[MIN]) * 60 +
	       decode_byte(s, s->cmos[SEC]);
}

/* An alarm byte with both top bits set matches always. */
static bool matches(u8 alarm, unsigned want, unsigned v)
{
	return (alarm & 0xc0) == 0xc0 || want == v;
}

/* First second after `t` at which the alarm matches, INT64_MAX if the bytes name no time of day. */
static s64 next_alarm(const struct state *s, s64 t)
{
	unsigned ah = decode_hour(s, s->cmos[HOUR_ALARM]), am = decode_byte(s, s->cmos[MIN_ALARM]);
	unsigned as = decode_byte(s, s->cmos[SEC_ALARM]);
	s64 end = t + 86400 + 1;

	for (t++; t <= end;) {
		unsigned sod = (t % 86400 + 86400) % 86400;

		if (!matches(s->cmos[HOUR_ALARM], ah, sod / 3600))
			t += 3600 - sod % 3600;
		else if (!matches(s->cmos[MIN_ALARM], am, sod / 60 % 60))
			t += 60 - sod % 60;
		else if (!matches(s->cmos[SEC_ALARM], as, sod % 60))
			t++;
		else
			return t;
	}
	return INT64_MAX;
}

/* Period of the periodic event in 32768 Hz ticks, 0: off. */
static unsigned period(const struct state *s)
{
	unsigned rs = s->cmos[REG_A] & 15;

	if (!rs || (s->cmos[REG_A] & 0x70) > 0x20)
		return 0;
	return rs <= 2 ? 1u << (rs + 6) : 1u << (rs - 1);
}

static void sync(struct rtc *r)
{
	struct state *s = &r->s;
	u64 now = clock_now(r->clock);
	unsigned p = period(s);

	if (!frozen(s)) {
		s64 t = seconds_at(s, now);

		if (t > s->seen_sec) {
			s->cmos[REG_C] |= C_UF;
			if (!(s->cmos[REG_C] & C_AF) && next_alarm(s, s->seen_sec) <= t)
				s->cmos[REG_C] |= C_AF;
			s->seen_sec = t;
		}
	}
	if (p) {
		u64 n = clock_ns_to_ticks(now, 32768) / p;

		if (n > s->seen_periodic)
			s->cmos[REG_C] |= C_PF;
		s->seen_periodic = n;
	}
}

static void update(struct rtc *r)
{
	struct state *s = &r->s;
	u8 b = s->cmos[REG_B], open;
	u64 deadline = CLOCK_NEVER;

	if (s->cmos[REG_C] & b & 0x70)
		s->cmos[REG_C] |= C_IRQF;
	else
		s->cmos[REG_C] &= ~C_IRQF;
	s->irq = s->cmos[REG_C] & C_IRQF;
	irq_set(&r->irq8, s->irq);

	open = s->irq ? 0 : b & 0x70;
	if ((open & B_UIE) && !frozen(s))
		deadline = s->base_ns + (u64)(s->seen_sec + 1 - s->base_sec) * NSEC_PER_SEC;
	if ((open & B_AIE) && !frozen(s)) {
		s64 t = next_alarm(s, s->seen_sec);

		if (t != INT64_MAX)
			deadline = MIN(deadline, s->base_ns + (u64)(t - s->base_sec) * NSEC_PER_SEC);
	}
	if ((open & B_PIE) && period(s))
		deadline = MIN(deadline, clock_ticks_to_ns((s->seen_periodic + 1) * period(s), 32768));
	if (deadline == CLOCK_NEVER)
		timer_cancel(r->timer);
	else
		timer_arm(r->timer, deadline);
}

static void rtc_event(void *opaque)
{
	sync(opaque);
	update(opaque);
}

static u8 read_reg(struct rtc *r, unsigned i)
{
	struct state *s = &r->s;
	u64 now = clock_now(r->clock);
	u8 v;

	switch (i) {
	case REG_A:
		v = s->cmos[REG_A];
		if (!frozen(s) && (now - s->base_ns) % NSEC_PER_SEC >= NSEC_PER_SEC - UIP_NS)
			v |= A_UIP;
		return v;
	case REG_C: /* reading acknowledges everything */
		sync(r);
		update(r);
		v = s->cmos[REG_C];
		s->cmos[REG_C] = 0;
		update(r);
		return v;
	case SEC:
	case MIN:
	case HOUR:
	case WDAY:
	case MDAY:
	case MONTH:
	case YEAR:
	case CENTURY:
		if (!frozen(s))
			date_to_cmos(s, seconds_at(s, now));
		return s->cmos[i];
	default:
		return s->cmos[i];
	}
}

/* Start counting from the registers' date. The phase within the second is kept. */
static void restart(struct rtc *r, bool divider_reset)
{
	struct state *s = &r->s;
	u64 now = clock_now(r->clock);
	u64 phase = (now - s->base_ns) % NSEC_PER_SEC;

	if (divider_reset) /* the first update comes half a second after */
		phase = MIN(NSEC_PER_SEC / 2, now);
	s->base_ns = now - phase;
	s->base_sec = date_from_cmos(s);
	s->seen_sec = s->base_sec;
}

static void write_reg(struct rtc *r, unsigned i, u8 val)
{
	struct state *s = &r->s;
	bool was_frozen, was_reset;

	sync(r);
	was_frozen = frozen(s);
	was_reset = (s->cmos[REG_A] & 0x60) == 0x60;
	/* the registers as they are now: the base of what is changed */
	if (!was_frozen)
		date_to_cmos(s, seconds_at(s, clock_now(r->clock)));
	switch (i) {
	case REG_A:
		s->cmos[REG_A] = val & ~A_UIP;
		if (period(s))
			s->seen_periodic = clock_ns_to_ticks(clock_now(r->clock), 32768) / period(s);
		break;
	case REG_B:
		if (val & B_SET)
			val &= ~B_UIE;
		if (((val ^ s->cmos[REG_B]) & (B_BINARY | B_24H)) && !was_frozen) {
			s->cmos[REG_B] = val; /* a running clock keeps its date in the new format */
			date_to_cmos(s, seconds_at(s, clock_now(r->clock)));
		}
		s->cmos[REG_B] = val;
		break;
	case REG_C:
	case REG_D:
		break;
	case SEC:
	case MIN:
	case HOUR:
	case WDAY:
	case MDAY:
	case MONTH:
	case YEAR:
	case CENTURY:
		s->cmos[i] = val;
		if (!was_frozen)
			restart(r, false);
		break;
	default:
		s->cmos[i] = val;
		break;
	}
	if (was_frozen && !frozen(s))
		restart(r, was_reset);
	update(r);
}

static u64 rtc_read(void *opaque, u64 off, unsigned size)
{
	struct rtc *r = opaque;

	return off ? read_reg(r, r->s.index & 0x7f) : 0xff;
}

static void rtc_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct rtc *r = opaque;

	if (off)
		write_reg(r, r->s.index & 0x7f, val);
	else
		r->s.index = val;
}

bool rtc_nmi_masked(const struct device *d)
{
	return ((const struct rtc *)d)->s.index & 0x80;
}

void rtc_advance(struct device *d, u64 ns)
{
	struct rtc *r = (struct rtc *)d;
	struct state *s = &r->s;
	u64 now = clock_now(r->clock), phase;

	if (frozen(s))
		return;
	phase = (now - s->base_ns) % NSEC_PER_SEC + ns % NSEC_PER_SEC;
	s->base_sec = seconds_at(s, now) + (s64)(ns / NSEC_PER_SEC + phase / NSEC_PER_SEC);
	s->base_ns = now - MIN(phase % NSEC_PER_SEC, now);
	/* events of the time between are looked for from where they were last */
	rtc_event(r);
}

static const struct io_ops rtc_io = { rtc_read, rtc_write, 1, 1 };

/* The RESET pin: interrupts off; date and RAM are kept by the battery. */
static void rtc_reset(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	r->s.cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | 0x08);
	r->s.cmos[REG_C] = 0;
	r->s.index = 0;
	update(r);
}

static void rtc_save(const struct device *d, struct encoder *e)
{
	const struct state *s = &((const struct rtc *)d)->s;

	enc_begin(e, d->ops->name, 1);
	enc_bytes(e, s->cmos, CMOS_SIZE);
	enc_u8(e, s->index);
	enc_u8(e, s->wday_shift);
	enc_u64(e, s->base_sec);
	enc_u64(e, s->base_ns);
	enc_u64(e, s->seen_sec);
	enc_u64(e, s->seen_periodic);
	enc_bool(e, s->irq);
	enc_end(e);
}

static bool decode(const struct device *d, struct decoder *in, struct state *s)
{
	const s64 far = 1ll << 40; /* seconds; well beyond year 16500, the last that registers can name */
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1)
		return false;
	dec_bytes(&i, s->cmos, CMOS_SIZE);
	s->index = dec_u8(&i);
	s->wday_shift = dec_u8(&i);
	s->base_sec = dec_u64(&i);
	s->base_ns = dec_u64(&i);
	s->seen_sec = dec_u64(&i);
	s->seen_periodic = dec_u64(&i);
	s->irq = dec_bool(&i);
	return dec_done(&i) && s->wday_shift < 7 && s->base_sec > -far && s->base_sec < far &&
	       s->base_ns < 1ull << 62 && s->seen_sec >= s->base_sec && s->seen_sec < far &&
	       s->seen_periodic < 1ull << 48;
}

static int rtc_check(const struct device *d, struct decoder *in)
{
	struct state s;

	return decode(d, in, &s) ? 0 : -1;
}

static void rtc_load(struct device *d, struct decoder *in)
{
	struct rtc *r = (struct rtc *)d;
	struct state s;

	if (!decode(d, in, &s))
		return;
	r->s = s;
	r->irq8.level = s.irq;
	update(r);
}

static void rtc_destroy(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	portmap_remove(r->ports, 0x70, r);
	timer_free(r->timer);
	free(r);
}

static const struct device_ops rtc_ops = {
	.name = "rtc",
	.reset = rtc_reset,
	.save = rtc_save,
	.check = rtc_check,
	.load = rtc_load,
	.destroy = rtc_destroy,
};

static void put16(u8 *cmos, unsigned lo, u64 v)
{
	cmos[lo] = v;
	cmos[lo + 1] = v >> 8;
}

static void fill_cmos(u8 *cmos, const struct rtc_config *cfg)
{
	u64 low = cfg->ram_below_4g, kb = low > MiB ? MIN((low - MiB) / KiB, 65535) : 0;
	u64 blocks = low > 16 * MiB ? MIN((low - 16 * MiB) / (64 * KiB), 65535) : 0;
	u64 high = MIN(cfg->ram_above_4g / (64 * KiB), 0xffffff);

	cmos[REG_A] = 0x26;
	cmos[REG_B] = B_24H;
	cmos[REG_D] = D_VRT;
	cmos[0x14] = 0x06; /* equipment: FPU, PS/2 port */
	put16(cmos, 0x15, MIN(low / KiB, 640));
	put16(cmos, 0x17, kb);
	put16(cmos, 0x30, kb);
	put16(cmos, 0x34, blocks);
	put16(cmos, 0x5b, high);
	cmos[0x5d] = high >> 16;
	cmos[0x5f] = cfg->cpus ? cfg->cpus - 1 : 0;
	cmos[0x3d] = (cfg->boot_order[1] & 15) << 4 | (cfg->boot_order[0] & 15);
	cmos[0x38] = (cfg->boot_order[2] & 15) << 4;
}

struct device *rtc_create(struct board *b, const struct rtc_config *cfg, const struct irq *irq8)
{
	struct rtc *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->dev.ops = &rtc_ops;
	r->ports = b->ports;
	r->clock = b->clock;
	r->irq8 = *irq8;
	r->timer = timer_create_on(b->clock, "rtc", rtc_event, r);
	if (!r->timer) {
		free(r);
		return NULL;
	}
	fill_cmos(r->s.cmos, cfg);
	r->s.base_ns = clock_now(b->clock);
	r->s.base_sec = (s64)MIN(door_wall_epoch(b->door), 1ull << 39);
	r->s.seen_sec = r->s.base_sec;
	date_to_cmos(&r->s, r->s.base_sec);
	portmap_add(b->ports, 0x70, 2, &rtc_io, r, "rtc");
	board_attach(b, &r->dev);
	rtc_reset(&r->dev);
	return &r->dev;
}
