/*
 * The guest of the snapshots in tests/format: gives everything it can reach a value, says "ready" and waits for a byte
 * on the serial port. Then, which may be in another process, years later, it looks whether all is as it was and still
 * runs. Not a payload of run.py.
 */
#include "mp.h"

#define PATTERN 0x400000ull /* two megabytes up */
#define PAGES 256u
#define VEC_TICK 0xa1
#define VEC_STEP 0xa2
#define FUNCTIONS 16u

#define MSRS(X)                                                                                                        \
	X("PAT", 0x277, 0x0007010600070106)                                                                            \
	X("SYSENTER_CS", 0x174, 0x1234)                                                                                \
	X("SYSENTER_EIP", 0x176, 0xffff800012345678)                                                                   \
	X("STAR", 0xc0000081, 0x0011223300445566)                                                                      \
	X("LSTAR", 0xc0000082, 0xffff8000deadbee0)                                                                     \
	X("FMASK", 0xc0000084, 0x47700)                                                                                \
	X("FS base", 0xc0000100, 0x123456789000)                                                                       \
	X("KERNEL_GS_BASE", 0xc0000102, 0x7fff12345000)

static volatile u64 shared, stop;
static u8 xmm[16][16] __attribute__((aligned(16))), fpu_before[512] __attribute__((aligned(16))),
    fpu_after[512] __attribute__((aligned(16)));
static u32 lines[FUNCTIONS]; /* of PCI functions: what their interrupt line register took */
static struct {
	u64 cr3, cr4, dr, apic_base;
	u32 mtrr, line_control;
} was;

/* ---- memory ---- */

static u64 value(u64 page, u64 word)
{
	return page % 7 == 0 ? 0 : page * 0x9e3779b97f4a7c15 + word % 8;
}

static void fill(u64 salt)
{
	for (u64 p = 0; p < PAGES; p++)
		for (u64 i = 0; i < 512; i++)
			((volatile u64 *)(PATTERN + p * 4096))[i] = value(p + salt, i);
}

static u64 wrong_words(u64 salt)
{
	u64 wrong = 0;

	for (u64 p = 0; p < PAGES; p++)
		for (u64 i = 0; i < 512; i++)
			wrong += ((volatile u64 *)(PATTERN + p * 4096))[i] != value(p + salt, i);
	return wrong;
}

/* ---- the other processor: counts as long as it may ---- */

static void count(ulong unused)
{
	u64 n = 0;

	sti();
	while (!stop) {
		xadd(&shared, 1);
		n++;
		for (u32 i = 0; i < 2000 && !stop; i++)
			pause();
	}
	me()->mark[0] = n;
}

/* ---- devices ---- */

static void pci_select(u32 fn, u32 reg)
{
	outl(0xcf8, 0x80000000 | fn << 8 | reg);
}

static u32 pci_read(u32 fn, u32 reg)
{
	u32 v;

	pci_select(fn, reg);
	asm volatile("inl %1,%0" : "=a"(v) : "Nd"((u16)0xcfc));
	return v;
}

static void mark_functions(void)
{
	u32 n = 0;

	for (u32 fn = 0; fn < 256 && n < FUNCTIONS; fn += 8) {
		if (pci_read(fn, 0) == ~0u)
			continue;
		pci_select(fn, 0x3c);
		outb(0xcfc, (u8)(0x60 + n));
		lines[n++] = fn << 8 | (pci_read(fn, 0x3c) & 0xff);
	}
}

static u64 changed_functions(void)
{
	u64 changed = 0;

	for (u32 n = 0; n < FUNCTIONS && lines[n]; n++)
		changed += (pci_read(lines[n] >> 8, 0x3c) & 0xff) != (lines[n] & 0xff);
	return changed;
}

static void ioapic_write(u32 reg, u32 v)
{
	*(volatile u32 *)0xfec00000ul = reg;
	*(volatile u32 *)0xfec00010ul = v;
}

static u32 ioapic_read(u32 reg)
{
	*(volatile u32 *)0xfec00000ul = reg;
	return *(volatile u32 *)0xfec00010ul;
}

static void set_devices(void)
{
	outb(0x21, 0xa5);
	outb(0xa1, 0x5a);
	outb(0x3ff, 0xc3); /* scratch register of COM1 */
	outb(0x70, 0x50);
	outb(0x71, 0x99);
	ioapic_write(0x10 + 2 * 23, 0x10077);
	ioapic_write(0x11 + 2 * 23, 0x01000000);
	mark_functions();
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_TIMER, 0x20000 | VEC_TICK);
	apic_write(APIC_INITIAL, 10000000);
}

static void check_devices(void)
{
	u32 ticks = me()->seen[VEC_TICK];

	check("masks of the PICs", inb(0x21) << 8 | inb(0xa1), 0xa55a);
	check("the serial port's scratch register", inb(0x3ff), 0xc3);
	outb(0x70, 0x50);
	check("a byte of the clock's memory", inb(0x71), 0x99);
	check("an entry of the IOAPIC", (u64)ioapic_read(0x11 + 2 * 23) << 32 | ioapic_read(0x10 + 2 * 23),
	      0x0100000000010077);
	check("PCI functions", changed_functions(), 0);
	check("the timer goes on", WAIT_FOR(me()->seen[VEC_TICK] >= ticks + 3), 1);
}

/* ---- the processor ---- */

static void set_processor(void)
{
	static const u32 mxcsr = 0x3f80;

	for (u32 i = 0; i < 16; i++)
		for (u32 k = 0; k < 16; k++)
			xmm[i][k] = (u8)(i * 16 + k);
	set_cr4(cr4() | 0x600); /* OSFXSR, OSXMMEXCPT */
	asm volatile("fninit; fldpi; fldl2e; fld1; ldmxcsr %0" ::"m"(mxcsr));
	/* clang-format off */
#define LOAD(n) asm volatile("movdqa %0,%%xmm" #n ::"m"(xmm[n]));
	LOAD(0) LOAD(1) LOAD(2) LOAD(3) LOAD(4) LOAD(5) LOAD(6) LOAD(7)
	LOAD(8) LOAD(9) LOAD(10) LOAD(11) LOAD(12) LOAD(13) LOAD(14) LOAD(15)
	/* clang-format on */
#define WRITE(name, msr, v) wrmsr(msr, v);
		MSRS(WRITE);
	set_dr0(0x12345000);
	set_dr3(0x789abcde);
	was.cr3 = cr3();
	was.cr4 = cr4();
	was.apic_base = rdmsr(MSR_APIC_BASE);
	set_cr2(0xabcdef012345);
	asm volatile("fxsave %0" : "=m"(fpu_before));
}

static u64 different(const u8 *a, const u8 *b, u32 n)
{
	u64 count = 0;

	for (u32 i = 0; i < n; i++)
		count += a[i] != b[i];
	return count;
}

static void check_processor(void)
{
	asm volatile("fxsave %0" : "=m"(fpu_after));
	check("x87 and vector registers", different(fpu_before, fpu_after, 416), 0);
	check("XMM5", different(fpu_after + 160 + 5 * 16, xmm[5], 16), 0);
#define COMPARE(name, msr, v) check(name, rdmsr(msr), v);
	MSRS(COMPARE);
	check("DR0", dr0(), 0x12345000);
	check("DR3", dr3(), 0x789abcde);
	check("CR2", cr2(), 0xabcdef012345);
	check("CR3", cr3(), was.cr3);
	check("CR4", cr4(), was.cr4);
	check("APIC base", rdmsr(MSR_APIC_BASE), was.apic_base);
}

/* ---- all of it ---- */

static void check_other(void)
{
	u64 before = shared;
	u32 steps = cpus[1].seen[VEC_STEP];

	check("the other processor goes on", WAIT_FOR(shared > before + 3), 1);
	icr(cpus[1].apic, ICR_FIXED | ICR_ASSERT | VEC_STEP);
	check("and takes interrupts", WAIT_FOR(cpus[1].seen[VEC_STEP] == steps + 1), 1);
	stop = 1;
	mp_wait(1);
	check("and counted well", cpus[1].mark[0], shared);
}

int main(void)
{
	u64 salt = 0, tsc;
	u8 c;

	mp_init();
	fill(salt);
	set_devices();
	set_processor();
	mp_call(1, count, 0);
	sti();
	for (;;) {
		say("ready\n");
		tsc = rdtsc();
		while (!(inb(0x3fd) & 1))
			pause();
		c = inb(0x3f8);
		if (c == 'g')
			break;
		/* 'f': other memory, for a snapshot on a base */
		if (c == 'f')
			fill(++salt);
	}
	check("time does not go back", rdtsc() > tsc, 1);
	check("memory", wrong_words(salt), 0);
	check_processor();
	check_devices();
	check_other();
	fill(99);
	check("memory that is written anew", wrong_words(99), 0);
	finish();
}
