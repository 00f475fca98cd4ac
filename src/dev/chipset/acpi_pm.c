/*
 * ACPI fixed hardware (ACPI 6.5, 4.8) in the layout of the ICH9's PMBASE block
 * (Intel 82801I data sheet, 13.8.3).
 *
 * The PM timer is computed from guest time. Its status bit is set when the top
 * bit of the counter changes; sync() notices that by comparing half periods, and
 * a host timer is armed only while the event is enabled and not yet pending.
 */
#include <stdlib.h>

#include "dev/chipset/acpi_pm.h"

#define STS_TMR 0x0001
#define STS_PWRBTN 0x0100
#define STS_RTC 0x0400
#define STS_WAK 0x8000
#define STS_GBL 0x0020
#define STS_BM 0x0010
#define STS_ALL (STS_TMR | STS_BM | STS_GBL | STS_PWRBTN | STS_RTC | STS_WAK)
#define EN_ALL (STS_TMR | STS_GBL | STS_PWRBTN | STS_RTC)
#define CNT_SCI_EN 0x0001
#define CNT_STORED 0x1c07 /* SCI_EN, BM_RLD, GBL_RLS, SLP_TYP */
#define CNT_SLP_EN 0x2000

#define OFF_SMI_EN 0x30
#define SMI_EN_APMC BIT(5)
#define OFF_SMI_STS 0x34

struct state {
	u16 base; /* of the I/O block */
	bool enabled;
	u16 sts, en;
	u16 cnt;
	u64 gpe_sts, gpe_en;
	u32 smi_en;
	u8 apm_cnt, apm_sts;
	u64 half; /* half periods of the timer seen so far */
	bool sci;
};

struct acpi_pm {
	struct device dev;
	struct portmap *ports;
	struct clock *clock;
	struct timer *timer;
	struct irq sci;
	void (*request)(void *machine, enum board_request r, int value);
	void *machine;
	unsigned bits; /* 24 or 32 */
	struct state s;
};

static u64 ticks(struct acpi_pm *p)
{
	return clock_ns_to_ticks(clock_now(p->clock), ICH9_PM_TIMER_HZ);
}

static void sync(struct acpi_pm *p)
{
	u64 half = ticks(p) >> (p->bits - 1);

	if (half != p->s.half)
		p->s.sts |= STS_TMR;
	p->s.half = half;
}

static void update(struct acpi_pm *p)
{
	struct state *s = &p->s;

	s->sci = (s->cnt & CNT_SCI_EN) && ((s->sts & s->en & EN_ALL) || (s->gpe_sts & s->gpe_en));
	irq_set(&p->sci, s->sci);
	if ((s->cnt & CNT_SCI_EN) && (s->en & STS_TMR) && !(s->sts & STS_TMR))
		timer_arm(p->timer, clock_ticks_to_ns((s->half + 1) << (p->bits - 1), ICH9_PM_TIMER_HZ));
	else
		timer_cancel(p->timer);
}

static void overflow(void *opaque)
{
	sync(opaque);
	update(opaque);
}

static void sleep_request(struct acpi_pm *p)
{
	switch (p->s.cnt >> 10 & 7) {
	case 0:
	case 7: /* S5 */
	case 2:
	case 6: /* S4: the guest has saved itself */
		p->request(p->machine, BOARD_POWER_OFF, 0);
		break;
	}
}

/* One byte of the block; wider accesses are made of bytes. */
static u8 read_byte(struct acpi_pm *p, unsigned off)
{
	const struct state *s = &p->s;

	switch (off) {
	case 0x00 ... 0x01:
		return s->sts >> 8 * off;
	case 0x02 ... 0x03:
		return s->en >> 8 * (off - 2);
	case 0x04 ... 0x05:
		return s->cnt >> 8 * (off - 4);
	case ICH9_GPE0 ... ICH9_GPE0 + 7:
		return s->gpe_sts >> 8 * (off - ICH9_GPE0);
	case ICH9_GPE0 + 8 ... ICH9_GPE0 + 15:
		return s->gpe_en >> 8 * (off - ICH9_GPE0 - 8);
	case OFF_SMI_EN ... OFF_SMI_EN + 3:
		return s->smi_en >> 8 * (off - OFF_SMI_EN);
	default:
		return 0;
	}
}

static u64 pm_read(void *opaque, u64 off, unsigned size)
{
	struct acpi_pm *p = opaque;
	u64 v = 0;

	sync(p);
	if (off >= ICH9_PM_TMR && off < ICH9_PM_TMR + 4) {
		u64 t = ticks(p) & (BIT(p->bits) - 1);

		return t >> 8 * (off - ICH9_PM_TMR) & (BIT(8 * size) - 1);
	}
	for (unsigned i = 0; i < size; i++)
		v |= (u64)read_byte(p, off + i) << 8 * i;
	return v;
}

static void put8(u16 *reg, unsigned byte, u8 v)
{
	*reg = (*reg & ~(0xffu << 8 * byte)) | (u16)v << 8 * byte;
}

static void write_byte(struct acpi_pm *p, unsigned off, u8 v)
{
	struct state *s = &p->s;
	unsigned sh;

	switch (off) {
	case 0x00 ... 0x01:
		s->sts &= ~((u16)v << 8 * off);
		break;
	case 0x02 ... 0x03:
		put8(&s->en, off - 2, v);
		s->en &= EN_ALL;
		break;
	case 0x04 ... 0x05:
		put8(&s->cnt, off - 4, v);
		if (s->cnt & CNT_SLP_EN)
			sleep_request(p);
		s->cnt &= CNT_STORED;
		break;
	case ICH9_GPE0 ... ICH9_GPE0 + 7:
		s->gpe_sts &= ~((u64)v << 8 * (off - ICH9_GPE0));
		break;
	case ICH9_GPE0 + 8 ... ICH9_GPE0 + 15:
		sh = 8 * (off - ICH9_GPE0 - 8);
		s->gpe_en = (s->gpe_en & ~(0xffull << sh)) | (u64)v << sh;
		break;
	case OFF_SMI_EN ... OFF_SMI_EN + 3:
		sh = 8 * (off - OFF_SMI_EN);
		s->smi_en = (s->smi_en & ~(0xffu << sh)) | (u32)v << sh;
		break;
	}
}

static void pm_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *p = opaque;

	sync(p);
	for (unsigned i = 0; i < size; i++)
		write_byte(p, off + i, val >> 8 * i);
	update(p);
}

static const struct io_ops pm_io = { pm_read, pm_write, 1, 4 };

static u64 apm_read(void *opaque, u64 off, unsigned size)
{
	const struct acpi_pm *p = opaque;

	return off ? p->s.apm_sts : p->s.apm_cnt;
}

/* There is no SMM: what the SMI handler of a real board would do is done here. */
static void apm_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct acpi_pm *p = opaque;

	if (off) {
		p->s.apm_sts = val;
		return;
	}
	p->s.apm_cnt = val;
	sync(p);
	if (val == ICH9_ACPI_ENABLE)
		p->s.cnt |= CNT_SCI_EN;
	else if (val == ICH9_ACPI_DISABLE)
		p->s.cnt &= ~CNT_SCI_EN;
	update(p);
}

static const struct io_ops apm_io = { apm_read, apm_write, 1, 1 };

void acpi_pm_set_base(struct device *d, u16 base, bool enabled)
{
	struct acpi_pm *p = (struct acpi_pm *)d;

	base &= ~(ICH9_PM_LEN - 1);
	if (base == 0)
		enabled = false;
	if (base == p->s.base && enabled == p->s.enabled)
		return;
	if (p->s.enabled)
		portmap_remove(p->ports, p->s.base, p);
	p->s.base = base;
	p->s.enabled = enabled;
	if (enabled && portmap_add(p->ports, base, ICH9_PM_LEN, &pm_io, p, "acpi-pm") < 0)
		p->s.enabled = false;
}

void acpi_pm_power_button(struct device *d)
{
	struct acpi_pm *p = (struct acpi_pm *)d;

	sync(p);
	p->s.sts |= STS_PWRBTN;
	update(p);
}

void acpi_pm_gpe(struct device *d, unsigned n)
{
	struct acpi_pm *p = (struct acpi_pm *)d;

	sync(p);
	p->s.gpe_sts |= BIT(n & 63);
	update(p);
}

static void acpi_pm_reset(struct device *d)
{
	struct acpi_pm *p = (struct acpi_pm *)d;
	struct state *s = &p->s;

	acpi_pm_set_base(d, ICH9_PM_BASE, true);
	s->sts = s->en = s->cnt = 0;
	s->gpe_sts = s->gpe_en = 0;
	/* Firmware takes a set APMC_EN for "SMM is taken care of" and does not wait
	 * for an SMI that cannot come. */
	s->smi_en = SMI_EN_APMC;
	s->apm_cnt = s->apm_sts = 0;
	s->half = ticks(p) >> (p->bits - 1);
	update(p);
}

static void acpi_pm_save(const struct device *d, struct encoder *e)
{
	const struct state *s = &((const struct acpi_pm *)d)->s;

	enc_begin(e, d->ops->name, 1);
	enc_u16(e, s->base);
	enc_bool(e, s->enabled);
	enc_u16(e, s->sts);
	enc_u16(e, s->en);
	enc_u16(e, s->cnt);
	enc_u64(e, s->gpe_sts);
	enc_u64(e, s->gpe_en);
	enc_u32(e, s->smi_en);
	enc_u8(e, s->apm_cnt);
	enc_u8(e, s->apm_sts);
	enc_u64(e, s->half);
	enc_bool(e, s->sci);
	enc_end(e);
}

static bool decode(const struct device *d, struct decoder *in, struct state *s)
{
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1)
		return false;
	s->base = dec_u16(&i);
	s->enabled = dec_bool(&i);
	s->sts = dec_u16(&i);
	s->en = dec_u16(&i);
	s->cnt = dec_u16(&i);
	s->gpe_sts = dec_u64(&i);
	s->gpe_en = dec_u64(&i);
	s->smi_en = dec_u32(&i);
	s->apm_cnt = dec_u8(&i);
	s->apm_sts = dec_u8(&i);
	s->half = dec_u64(&i);
	s->sci = dec_bool(&i);
	return dec_done(&i) && !(s->base & (ICH9_PM_LEN - 1)) && (!s->enabled || s->base) && !(s->sts & ~STS_ALL) &&
	       !(s->en & ~EN_ALL) && !(s->cnt & ~CNT_STORED) && s->half < 1ull << 40;
}

static int acpi_pm_check(const struct device *d, struct decoder *in)
{
	struct state s;

	return decode(d, in, &s) ? 0 : -1;
}

static void acpi_pm_load(struct device *d, struct decoder *in)
{
	struct acpi_pm *p = (struct acpi_pm *)d;
	struct state s;

	if (!decode(d, in, &s))
		return;
	acpi_pm_set_base(d, s.base, s.enabled);
	p->s = s;
	p->sci.level = s.sci;
	update(p);
}

static void acpi_pm_destroy(struct device *d)
{
	struct acpi_pm *p = (struct acpi_pm *)d;

	acpi_pm_set_base(d, 0, false);
	portmap_remove(p->ports, ICH9_SMI_CMD, p);
	timer_free(p->timer);
	free(p);
}

static const struct device_ops acpi_pm_ops = {
	.name = "acpi-pm",
	.reset = acpi_pm_reset,
	.save = acpi_pm_save,
	.check = acpi_pm_check,
	.load = acpi_pm_load,
	.destroy = acpi_pm_destroy,
};

struct device *acpi_pm_create(struct board *b, const struct irq *sci, bool timer_32bit)
{
	struct acpi_pm *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->dev.ops = &acpi_pm_ops;
	p->ports = b->ports;
	p->clock = b->clock;
	p->sci = *sci;
	p->request = b->request;
	p->machine = b->machine;
	p->bits = timer_32bit ? 32 : 24;
	p->timer = timer_create_on(b->clock, "acpi-pm", overflow, p);
	if (!p->timer) {
		free(p);
		return NULL;
	}
	portmap_add(b->ports, ICH9_SMI_CMD, 2, &apm_io, p, "acpi-smi");
	board_attach(b, &p->dev);
	acpi_pm_reset(&p->dev);
	return &p->dev;
}
