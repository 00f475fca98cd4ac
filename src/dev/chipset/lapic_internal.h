/* What the files of the local APIC share; see lapic.h and lapic.c. */
#ifndef ECTYPE_DEV_CHIPSET_LAPIC_INTERNAL_H
#define ECTYPE_DEV_CHIPSET_LAPIC_INTERNAL_H

#include "dev/chipset/lapic.h"

/* IA32_APIC_BASE (SDM vol. 3, 11.4.4 and 11.12.1) */
#define BASE_BSP BIT(8)
#define BASE_EXTD BIT(10)
#define BASE_EN BIT(11)

/* SVR (11.9) */
#define SVR_ENABLE BIT(8)
#define SVR_FOCUS BIT(9)

/* LVT entries (11.5.1) */
#define LVT_VECTOR 0xffu
#define LVT_MODE_SHIFT 8
#define LVT_MODE (7u << LVT_MODE_SHIFT)
#define LVT_STATUS BIT(12)
#define LVT_POLARITY BIT(13)
#define LVT_REMOTE_IRR BIT(14)
#define LVT_LEVEL BIT(15)
#define LVT_MASKED BIT(16)
#define LVT_TIMER_MODE (3u << 17)
#define LVT_TIMER_ONE_SHOT 0u
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_TSC_DEADLINE (2u << 17)

/* ESR (11.5.3) */
#define ESR_SEND_VECTOR BIT(5)
#define ESR_RECEIVE_VECTOR BIT(6)
#define ESR_REGISTER BIT(7)

enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

struct lapic {
	struct device dev;
	struct lapic_bus *bus;
	unsigned cpu;
	u64 base; /* IA32_APIC_BASE */
	u32 id;	  /* xAPIC ID (8 bits); in x2APIC mode it is `cpu` */
	u32 tpr, ppr, ldr, dfr, svr;
	u32 esr, esr_pending; /* what a read gives; what the next write latches */
	u64 icr;
	u32 lvt[LVT_COUNT];
	u32 isr[8], tmr[8], irr[8];
	u32 irr_words; /* bit n: irr[n] may hold something (set after, cleared before irr[n]) */
	bool lint[2];  /* levels of the pins */
	bool lent;     /* all but the pins is somebody else's (lapic_lend.c) */

	u64 pv_eoi;	  /* MSR_KVM_PV_EOI_EN */
	bool pv_eoi_open; /* the guest may end the one interrupt in service by its flag (lapic_pv_eoi.c) */

	/* The timer. While it counts, the count was `count` at guest time
	 * `start`; a stopped one has count 0. */
	u32 init_count, count, divide; /* divide: as written, DCR */
	u64 start;
	u64 tsc_deadline; /* IA32_TSC_DEADLINE, 0 disarmed */
	struct timer *timer;
};

struct lapic_bus {
	struct lapic_wiring w;
	struct board *board;
	struct region *region; /* the APIC page, shown to the processor that runs */
	struct lapic *cpu[];
};

static inline bool lapic_hw_enabled(const struct lapic *l)
{
	return l->base & BASE_EN;
}
static inline bool lapic_x2(const struct lapic *l)
{
	return l->base & BASE_EXTD;
}
static inline bool lapic_sw_enabled(const struct lapic *l)
{
	return lapic_hw_enabled(l) && (l->svr & SVR_ENABLE);
}

/* lapic_pv_eoi.c. What looks at ISR or PPR, or changes the TPR, calls lapic_pv_eoi_sync() first. */
void lapic_pv_eoi_look(struct lapic *l);
static inline void lapic_pv_eoi_sync(struct lapic *l)
{
	if (l->pv_eoi_open)
		lapic_pv_eoi_look(l);
}
/* An edge-triggered interrupt went into service: offer the flag if nothing else waits. */
void lapic_pv_eoi_offer(struct lapic *l, u8 vector);
/* The guest writes EOI, or the registers are reset. */
void lapic_pv_eoi_close(struct lapic *l);
/* Has the guest ended the interrupt by its flag? Changes nothing. */
bool lapic_pv_eoi_ended(const struct lapic *l);
/* lapic.c: ends the interrupt in service without what follows for others. The vector, or -1. */
int lapic_isr_pop(struct lapic *l);

/* Above RAM and ROM, wherever the guest moves the page. */
#define LAPIC_REGION_PRIO 20

/* The logical ID is fixed in x2APIC mode (11.12.10.2): cluster, and one bit of 16. */
static inline u32 lapic_x2_ldr(u32 id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

/* lapic.c */
void lapic_update_ppr(struct lapic *l);
/* A fixed interrupt arrives. False if this APIC takes none now. */
bool lapic_accept(struct lapic *l, u8 vector, bool level);
void lapic_error(struct lapic *l, u32 esr_bit);
/* Raise EV_INTR if there is something to take. */
void lapic_notify(struct lapic *l);
/* An internal source (timer, error, ...) signals through its LVT entry. */
void lapic_local_interrupt(struct lapic *l, enum lvt n);

void lapic_set_tpr(struct lapic *l, u32 tpr);
void lapic_eoi(struct lapic *l);

/* lapic_timer.c */
void lapic_timer_fn(void *lapic);
void lapic_timer_reset(struct lapic *l);
u32 lapic_timer_count(struct lapic *l);
void lapic_timer_set_init(struct lapic *l, u32 count);
void lapic_timer_set_divide(struct lapic *l, u32 divide);
void lapic_timer_set_lvt(struct lapic *l, u32 lvt);
void lapic_timer_set_deadline(struct lapic *l, u64 tsc);
u64 lapic_timer_deadline(const struct lapic *l);
/* What is due has happened; the count at this moment. */
u32 lapic_timer_settle(struct lapic *l);
/* (Re)arm the event for the present state; also after loading it. */
void lapic_timer_update(struct lapic *l);

/* lapic_ipi.c */
void lapic_send_icr(struct lapic *l);

/* lapic_regs.c; `reg` is the MMIO offset / 16. False: no such register. */
extern const struct io_ops lapic_mmio_ops;
bool lapic_reg_read(struct lapic *l, unsigned reg, u32 *val);
bool lapic_reg_write(struct lapic *l, unsigned reg, u32 val);
/* Show the page where, and if, APIC_BASE says. */
void lapic_map(struct lapic *l);
/* LVT entry as a write leaves it: writable bits, mask while soft-disabled. */
u32 lapic_lvt_value(const struct lapic *l, enum lvt n, u32 val);

/* lapic_save.c */
void lapic_save(const struct device *d, struct encoder *e);
int lapic_check(const struct device *d, struct decoder *in);
void lapic_load(struct device *d, struct decoder *in);

#endif
