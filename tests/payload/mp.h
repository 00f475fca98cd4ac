/*
 * Several processors for the 64-bit payloads, on rt.h. The BSP finds the
 * others in the ACPI MADT and starts them; each waits halted for work:
 *
 *	mp_init();
 *	mp_all(fn, arg);	on every processor at once, this one too
 *	mp_call(n, fn, arg);	on processor n; mp_wait(n) waits for its end
 *
 * Processors have numbers, 0 is the BSP. Each has GS at its struct cpu and
 * takes every interrupt at one handler, which counts and ends it. check() and
 * say() are the BSP's alone. Where something must happen without fail there is
 * a limit in ticks of the TSC.
 */
#ifndef MP_H
#define MP_H

#include "rt.h"

#define MP_MAX 64
#define VEC_WAKE 0xf0
#define VEC_SPURIOUS 0xff
#define SIPI_PAGE 0x6000  /* where processors start */
#define SIPI_OTHER 0x4000 /* and another place */

struct cpu {
	struct cpu *self;
	ulong sp;
	u32 apic; /* the APIC ID as the MADT has it */
	u32 n;
	volatile u32 up;   /* times started */
	volatile u32 busy; /* has work */
	void (*fn)(ulong);
	ulong arg;
	void (*handler)(struct frame *f); /* called for each interrupt in place of `eoi` */
	volatile u32 seen[256];		  /* interrupts taken, by vector */
	volatile u32 faults;		  /* exceptions not expected here */
	volatile u64 mark[8];		  /* for the tests */
} __attribute__((aligned(64)));

/* An exception on any processor: 1 to return from it. */
extern int (*mp_trap)(struct frame *f);
extern struct cpu cpus[MP_MAX];
extern u32 mp_cpus;    /* as many as the MADT has enabled */
extern u32 mp_started; /* of these, so many are started */
extern u32 mp_ioapic, mp_madt_bytes;
extern u8 *mp_madt;
/* What a processor found at the vector of the SIPI, in both pages. */
struct mp_entry {
	u32 starts, eflags, edx, cr0, cs, nmis;
};
#define MP_ENTRY(page) ((volatile struct mp_entry *)((page) + 0xf00ul))

void mp_init(void); /* find all, start all */
void mp_find(void); /* the parts of it */
void mp_prepare(u32 page);
int mp_start(u32 n, u32 page); /* INIT, SIPI, SIPI; 1: it came up */
void mp_call(u32 n, void (*fn)(ulong), ulong arg);
void mp_wait(u32 n);
void mp_all(void (*fn)(ulong), ulong arg);
/* The number after "NAME=" on the command line. */
u64 mp_option(const char *name, u64 otherwise);

static inline struct cpu *me(void)
{
	struct cpu *c;
	asm volatile("mov %%gs:0,%0" : "=r"(c));
	return c;
}
static inline void pause(void)
{
	asm volatile("pause" ::: "memory");
}
static inline u64 rdtsc(void)
{
	u32 a, d;
	asm volatile("lfence; rdtsc" : "=a"(a), "=d"(d)::"memory");
	return (u64)d << 32 | a;
}
static inline u64 xadd(volatile u64 *p, u64 v)
{
	asm volatile("lock xaddq %0,%1" : "+r"(v), "+m"(*p)::"memory", "cc");
	return v;
}
static inline void cli(void)
{
	asm volatile("cli" ::: "memory");
}
static inline void sti(void)
{
	asm volatile("sti; nop" ::: "memory");
}
#define MP_LIMIT 6000000000ull /* ticks within which what must come has come */
#define MP_SHORT 1000000ull    /* ticks after which what must not come would have */
#define WAIT_FOR(cond)                                                                                                 \
	({                                                                                                             \
		u64 _t = rdtsc();                                                                                      \
		int _ok;                                                                                               \
		while (!(_ok = !!(cond)) && rdtsc() - _t < MP_LIMIT)                                                   \
			pause();                                                                                       \
		_ok;                                                                                                   \
	})
static inline void delay(u64 ticks)
{
	u64 t = rdtsc();
	while (rdtsc() - t < ticks)
		pause();
}

/* All of `n` processors come to a barrier before any leaves it. */
struct barrier {
	volatile u64 count, round;
} __attribute__((aligned(128)));
void barrier(struct barrier *b, u32 n);

/* The local APIC, by its registers' offsets in the page, in whichever mode it is. */
enum {
	APIC_ID = 0x20,
	APIC_TPR = 0x80,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR2 = 0x310,
	APIC_TIMER = 0x320,
	APIC_LINT0 = 0x350,
	APIC_LINT1 = 0x360,
	APIC_INITIAL = 0x380,
	APIC_CURRENT = 0x390,
	APIC_DIVIDE = 0x3e0,
	APIC_SELF = 0x3f0
};
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define BASE_BSP 0x100
#define BASE_EXTD 0x400
#define BASE_ENABLE 0x800
int x2apic(void); /* this processor's is in x2APIC mode */
int has_x2apic(void);
void x2apic_enter(ulong unused);
void x2apic_leave(ulong unused); /* through "disabled", registers as mp_init() left them */
u32 apic_read(u32 reg);
void apic_write(u32 reg, u32 v);
void apic_setup(void); /* enabled, flat, all priorities, this processor's bit in LDR */
void icr(u32 dest, u32 low);
static inline int apic_bit(u32 set, u32 vec)
{
	return apic_read(set + (vec / 32) * 0x10) >> (vec % 32) & 1;
}
/* The low half of the ICR. */
#define ICR_FIXED 0
#define ICR_LOWEST 0x100
#define ICR_NMI 0x400
#define ICR_INIT 0x500
#define ICR_SIPI 0x600
#define ICR_LOGICAL 0x800
#define ICR_PENDING 0x1000
#define ICR_ASSERT 0x4000
#define ICR_LEVEL 0x8000
#define ICR_TO_SELF 0x40000
#define ICR_TO_ALL 0x80000
#define ICR_TO_OTHERS 0xc0000

#endif
