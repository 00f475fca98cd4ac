/*
 * Registers of the local APIC: one set, seen through a page of memory (xAPIC,
 * SDM vol. 3 table 11-1) or through MSRs (x2APIC, table 11-6), and the
 * transitions between the two (11.12.5):
 *
 *   disabled -> xAPIC -> x2APIC -> disabled; xAPIC -> disabled
 *
 * Every other change of EN and EXTD is a #GP. Disabling forgets the registers.
 */
#include "dev/chipset/lapic_internal.h"

/* Registers by number: MMIO offset / 16, MSR - 800H. */
enum reg {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR2 = 0x31,
	REG_LVT_TIMER = 0x32,
	REG_LVT_ERROR = 0x37,
	REG_INIT_COUNT = 0x38,
	REG_COUNT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f, /* x2APIC only */
};

/* Integrated APIC, six LVT entries, no suppression of EOI broadcasts. */
#define VERSION_VALUE (0x14u | (LVT_COUNT - 1) << 16)

static const u32 lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = LVT_VECTOR | LVT_MASKED | LVT_TIMER_MODE,
	[LVT_THERMAL] = LVT_VECTOR | LVT_MODE | LVT_MASKED,
	[LVT_PERF] = LVT_VECTOR | LVT_MODE | LVT_MASKED,
	[LVT_LINT0] = LVT_VECTOR | LVT_MODE | LVT_POLARITY | LVT_LEVEL | LVT_MASKED,
	[LVT_LINT1] = LVT_VECTOR | LVT_MODE | LVT_POLARITY | LVT_LEVEL | LVT_MASKED,
	[LVT_ERROR] = LVT_VECTOR | LVT_MASKED,
};
/* Read-only bits, which a write may carry. */
#define LVT_READ_ONLY (LVT_STATUS | LVT_REMOTE_IRR)
#define SVR_WRITABLE (0xffu | SVR_ENABLE | SVR_FOCUS)
#define ICR_WRITABLE 0xccfffu /* vector, mode, destination mode, level, trigger, shorthand */
#define ICR_STATUS BIT(12)

u32 lapic_lvt_value(const struct lapic *l, enum lvt n, u32 val)
{
	u32 v = (val & lvt_writable[n]) | (l->lvt[n] & LVT_REMOTE_IRR);

	if (n == LVT_TIMER && !l->bus->w.tsc_deadline)
		v &= ~(2u << 17);
	if (!(v & LVT_LEVEL))
		v &= ~(u32)LVT_REMOTE_IRR;
	if (!(l->svr & SVR_ENABLE))
		v |= LVT_MASKED;
	return v;
}

static void write_lvt(struct lapic *l, enum lvt n, u32 val)
{
	u32 v = lapic_lvt_value(l, n, val);

	if (n == LVT_TIMER) {
		lapic_timer_set_lvt(l, v);
		return;
	}
	l->lvt[n] = v;
	/* A level that stands at the pin is seen when the entry opens. */
	if (n == LVT_LINT0 && l->lint[0]) {
		unsigned mode = (v & LVT_MODE) >> LVT_MODE_SHIFT;

		if (mode == APIC_EXTINT || (mode == APIC_FIXED && (v & LVT_LEVEL)))
			lapic_local_interrupt(l, LVT_LINT0);
	}
}

static void write_svr(struct lapic *l, u32 val)
{
	l->svr = val & SVR_WRITABLE;
	if (l->svr & SVR_ENABLE)
		return;
	/* Software disable: every entry is masked and stays so (11.4.7.2). */
	for (unsigned n = 0; n < LVT_COUNT; n++) {
		if (n == LVT_TIMER)
			lapic_timer_set_lvt(l, l->lvt[n] | LVT_MASKED);
		else
			l->lvt[n] |= LVT_MASKED;
	}
}

bool lapic_reg_read(struct lapic *l, unsigned reg, u32 *val)
{
	lapic_pv_eoi_sync(l);
	switch (reg) {
	case REG_ID:
		*val = lapic_x2(l) ? l->cpu : l->id << 24;
		return true;
	case REG_VERSION:
		*val = VERSION_VALUE;
		return true;
	case REG_TPR:
		*val = l->tpr;
		return true;
	case REG_PPR:
		*val = l->ppr;
		return true;
	case REG_LDR:
		*val = l->ldr;
		return true;
	case REG_DFR:
		*val = l->dfr;
		return true;
	case REG_SVR:
		*val = l->svr;
		return true;
	case REG_ISR ... REG_ISR + 7:
		*val = l->isr[reg - REG_ISR];
		return true;
	case REG_TMR ... REG_TMR + 7:
		*val = __atomic_load_n(&l->tmr[reg - REG_TMR], __ATOMIC_ACQUIRE);
		return true;
	case REG_IRR ... REG_IRR + 7:
		*val = __atomic_load_n(&l->irr[reg - REG_IRR], __ATOMIC_ACQUIRE);
		return true;
	case REG_ESR:
		*val = l->esr;
		return true;
	case REG_ICR:
		*val = (u32)l->icr;
		return true;
	case REG_ICR2:
		*val = (u32)(l->icr >> 32);
		return true;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		*val = l->lvt[reg - REG_LVT_TIMER];
		return true;
	case REG_INIT_COUNT:
		*val = l->init_count;
		return true;
	case REG_COUNT:
		*val = lapic_timer_count(l);
		return true;
	case REG_DIVIDE:
		*val = l->divide;
		return true;
	case REG_APR:
	case REG_EOI:
	case REG_RRD:
		*val = 0;
		return true;
	default:
		*val = 0;
		return false;
	}
}

/* Reserved bits are ignored here; x2APIC's #GP comes before. */
bool lapic_reg_write(struct lapic *l, unsigned reg, u32 val)
{
	switch (reg) {
	case REG_ID:
		l->id = val >> 24;
		return true;
	case REG_TPR:
		lapic_set_tpr(l, val & 0xff);
		return true;
	case REG_EOI:
		lapic_eoi(l);
		return true;
	case REG_LDR:
		l->ldr = val & 0xff000000;
		return true;
	case REG_DFR:
		l->dfr = val | 0x0fffffff;
		return true;
	case REG_SVR:
		write_svr(l, val);
		return true;
	case REG_ESR:
		l->esr = l->esr_pending;
		l->esr_pending = 0;
		return true;
	case REG_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (val & ICR_WRITABLE);
		lapic_send_icr(l);
		return true;
	case REG_ICR2:
		l->icr = (l->icr & 0xffffffff) | (u64)(val & 0xff000000) << 32;
		return true;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		write_lvt(l, reg - REG_LVT_TIMER, val);
		return true;
	case REG_INIT_COUNT:
		lapic_timer_set_init(l, val);
		return true;
	case REG_DIVIDE:
		lapic_timer_set_divide(l, val);
		return true;
	case REG_VERSION:
	case REG_APR:
	case REG_PPR:
	case REG_RRD:
	case REG_ISR ... REG_ISR + 7:
	case REG_TMR ... REG_TMR + 7:
	case REG_IRR ... REG_IRR + 7:
	case REG_COUNT:
		return true; /* read-only: ignored */
	default:
		return false;
	}
}

/* ---- the page ---- */

/* NULL: it is somebody else's, and stays there. */
static struct lapic *current(struct lapic_bus *bus)
{
	unsigned cpu = bus->w.current ? bus->w.current(bus->w.opaque) : 0;

	if (bus->cpu[cpu]->lent && !bus->w.lent_back(bus->w.opaque))
		return NULL;
	return bus->cpu[cpu];
}

/* Registers are 32 bits at multiples of 16; narrower reads inside one work on
 * hardware, anything else is undefined (11.4.1) and does nothing here. */
static u64 mmio_read(void *opaque, u64 off, unsigned size)
{
	struct lapic *l = current(opaque);
	unsigned shift = (unsigned)(off & 15) * 8;
	u32 val;

	if (!l || !lapic_hw_enabled(l) || lapic_x2(l) || (off & 15) + size > 4)
		return ~0ull;
	if (!lapic_reg_read(l, (unsigned)(off >> 4), &val))
		lapic_error(l, ESR_REGISTER);
	return val >> shift;
}

static void mmio_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct lapic *l = current(opaque);

	if (!l || !lapic_hw_enabled(l) || lapic_x2(l) || (off & 15) || size != 4)
		return;
	if (!lapic_reg_write(l, (unsigned)(off >> 4), (u32)val))
		lapic_error(l, ESR_REGISTER);
}

const struct io_ops lapic_mmio_ops = { .read = mmio_read, .write = mmio_write, .min_size = 1, .max_size = 4 };

/* The page is one region for all processors: it is where the processor that
 * moved it last put it, and each sees its own registers in it. */
void lapic_map(struct lapic *l)
{
	struct lapic_bus *bus = l->bus;
	bool visible = false;

	for (unsigned i = 0; i < bus->w.cpus; i++)
		visible |= bus->cpu[i] && lapic_hw_enabled(bus->cpu[i]) && !lapic_x2(bus->cpu[i]);
	region_set(bus->board->mem, bus->region, l->base & PAGE_MASK, visible);
}

/* ---- MSRs ---- */

static int write_base(struct lapic *l, u64 val)
{
	const struct lapic_wiring *w = &l->bus->w;
	u64 old = l->base;
	u64 valid = (BIT(w->phys_bits) - PAGE_SIZE) | BASE_BSP | BASE_EN | (w->x2apic ? BASE_EXTD : 0);

	if (val & ~valid)
		return -1;
	if (!(val & BASE_EN) && (val & BASE_EXTD))
		return -1;
	if ((val & BASE_EXTD) && !(old & BASE_EN))
		return -1; /* disabled -> x2APIC */
	if ((old & BASE_EXTD) && (val & BASE_EN) && !(val & BASE_EXTD))
		return -1; /* x2APIC -> xAPIC */
	l->base = val;
	if ((old & BASE_EN) && !(val & BASE_EN)) {
		/* Registers start from their reset state when it is enabled again. */
		u64 pv_eoi = l->pv_eoi;

		l->id = l->cpu & 0xff;
		lapic_reset(l, true);
		l->pv_eoi = pv_eoi; /* no register of the APIC's own */
	} else if (!(old & BASE_EXTD) && (val & BASE_EXTD)) {
		l->ldr = lapic_x2_ldr(l->cpu);
		l->icr &= 0xffffffff; /* 11.12.5.1: ICR_High is not kept */
	}
	if (old != val)
		lapic_map(l);
	lapic_notify(l);
	return 0;
}

static bool x2_readable(unsigned reg)
{
	return reg != REG_APR && reg != REG_EOI && reg != REG_RRD && reg != REG_DFR && reg != REG_ICR2 &&
	       reg != REG_SELF_IPI;
}

/* Bits a WRMSR may set; 0 also for registers that take only zero. False:
 * read-only or no register. */
static bool x2_writable(unsigned reg, u32 *bits)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		*bits = 0xff;
		return true;
	case REG_EOI:
	case REG_ESR:
		*bits = 0;
		return true;
	case REG_SVR:
		*bits = SVR_WRITABLE;
		return true;
	case REG_ICR:
		*bits = ICR_WRITABLE | ICR_STATUS;
		return true;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		*bits = lvt_writable[reg - REG_LVT_TIMER] | LVT_READ_ONLY;
		return true;
	case REG_INIT_COUNT:
		*bits = 0xffffffff;
		return true;
	case REG_DIVIDE:
		*bits = 0xb;
		return true;
	default:
		return false;
	}
}

static int x2_read(struct lapic *l, unsigned reg, u64 *val)
{
	u32 v;

	if (!lapic_x2(l) || !x2_readable(reg) || !lapic_reg_read(l, reg, &v))
		return -1;
	*val = reg == REG_ICR ? l->icr : v;
	return 0;
}

static int x2_write(struct lapic *l, unsigned reg, u64 val)
{
	u32 bits;

	if (!lapic_x2(l) || !x2_writable(reg, &bits) || ((u32)val & ~bits))
		return -1;
	if (reg != REG_ICR && val >> 32)
		return -1;
	switch (reg) {
	case REG_ICR:
		l->icr = val & ~(u64)ICR_STATUS;
		lapic_send_icr(l);
		return 0;
	case REG_SELF_IPI:
		if (val < 16)
			lapic_error(l, ESR_SEND_VECTOR);
		else
			lapic_accept(l, (u8)val, false);
		return 0;
	default:
		lapic_reg_write(l, reg, (u32)val);
		return 0;
	}
}

int lapic_msr_read(struct lapic *l, u32 msr, u64 *val)
{
	if (msr == MSR_IA32_APIC_BASE) {
		*val = l->base;
		return 0;
	}
	if (msr == MSR_IA32_TSC_DEADLINE) {
		*val = lapic_timer_deadline(l);
		return l->bus->w.tsc_deadline ? 0 : -1;
	}
	if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
		return -1;
	return x2_read(l, msr - MSR_X2APIC_FIRST, val);
}

int lapic_msr_write(struct lapic *l, u32 msr, u64 val)
{
	if (msr == MSR_IA32_APIC_BASE)
		return write_base(l, val);
	if (msr == MSR_IA32_TSC_DEADLINE) {
		if (!l->bus->w.tsc_deadline)
			return -1;
		lapic_timer_set_deadline(l, val);
		return 0;
	}
	if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST)
		return -1;
	return x2_write(l, msr - MSR_X2APIC_FIRST, val);
}
