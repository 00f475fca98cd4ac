/*
 * The paravirtual interface, KVM's guest ABI (Linux, Documentation/virt/kvm/x86:
 * cpuid.rst, msr.rst, hypercalls.rst): leaves, registers, hypercalls, time,
 * stolen time, EOI by flag. In a machine without it: none of this exists.
 */
#include "rt.h"

#define MSR_WALL 0x4b564d00
#define MSR_TIME 0x4b564d01
#define MSR_STEAL 0x4b564d03
#define MSR_EOI 0x4b564d04
#define MSR_POLL 0x4b564d05
#define RAM_END 0x4000000ul /* run.py gives 64 MiB */
#define APIC 0xfee00000ul
#define APIC_EOI 0xb0
#define APIC_ISR 0x100
#define APIC_ICR 0x300
#define ICR_SELF 0x40000u
#define VECTOR 0x51 /* and 0x61, of a higher class */

static ulong call(ulong nr, ulong b, ulong c, ulong d, ulong si)
{
	ulong ret;
	asm volatile("vmcall" : "=a"(ret) : "a"(nr), "b"(b), "c"(c), "d"(d), "S"(si) : "memory");
	return ret;
}
#define ERR(n) ((ulong) - (n))

static volatile u32 *apic(u32 reg)
{
	return (volatile u32 *)(APIC + reg);
}

static u64 rdtsc(void)
{
	u32 a, d;
	asm volatile("rdtsc" : "=a"(a), "=d"(d));
	return (u64)d << 32 | a;
}

/* ---- leaves and registers ---- */

static u32 features;

static int has_pv(void)
{
	u32 r[4];
	cpuid(0x40000000, 0, r);
	return r[1] == 0x4b4d564b && r[2] == 0x564b4d56 && r[3] == 0x4d;
}

static void leaves(void)
{
	u32 r[4];
	check("cpuid: hypervisor present", cpuid_reg(1, 0, 2) >> 31, 1);
	cpuid(0x40000000, 0, r);
	check("cpuid: 40000010H is the last leaf", r[0], 0x40000010);
	cpuid(0x40000001, 0, r);
	features = r[0];
	check("cpuid: features", features, 0x01003aeb);
	check("cpuid: no hints", r[3], 0);
	cpuid(0x40000100, 0, r);
	check("cpuid: whose it is", r[1] == 0x79746345 && r[2] == 0x63456570, 1);
}

static void registers(void)
{
	FAULTS("async page faults: not offered", GP, 0, rdmsr(0x4b564d02));
	FAULTS("migration control: not offered", GP, 0, wrmsr(0x4b564d08, 1));
	FAULTS("register beyond the last", GP, 0, rdmsr(0x4b564dff));
	FAULTS("stolen time: reserved bit", GP, 0, wrmsr(MSR_STEAL, 0x100000 | 2 | 1));
	FAULTS("eoi: reserved bit", GP, 0, wrmsr(MSR_EOI, 0x100000 | 2 | 1));
	FAULTS("eoi: address in MMIO", GP, 0, wrmsr(MSR_EOI, APIC | 1));
	FAULTS("eoi: address behind RAM", GP, 0, wrmsr(MSR_EOI, RAM_END | 1));
	FAULTS("eoi: address beyond everything", GP, 0, wrmsr(MSR_EOI, ~3ull | 1));
	RUNS("eoi: any address while it is off", wrmsr(MSR_EOI, ~3ull));
	FAULTS("polling: reserved bit", GP, 0, wrmsr(MSR_POLL, 2));
	check("polling: allowed after reset", rdmsr(MSR_POLL), 1);
	RUNS("polling: forbidden", wrmsr(MSR_POLL, 0));
	check("polling: reads back", rdmsr(MSR_POLL), 0);
	wrmsr(MSR_POLL, 1);
	/* a bad address is not an error, nothing is written */
	RUNS("time: address in MMIO", wrmsr(MSR_TIME, APIC | 1));
	RUNS("time: across the end of RAM", wrmsr(MSR_TIME, (RAM_END - 16) | 1));
	RUNS("time: not aligned", wrmsr(MSR_TIME, (RAM_END - 62) | 1));
	RUNS("wall clock: nowhere", wrmsr(MSR_WALL, ~0ull - 4));
	RUNS("stolen time: nowhere", wrmsr(MSR_STEAL, (~0ull << 6) | 1));
	check("stolen time: reads back", rdmsr(MSR_STEAL) == ((~0ull << 6) | 1), 1);
	wrmsr(MSR_STEAL, 0);
}

/* ---- time ---- */

static struct {
	volatile u32 version;
	u32 pad;
	u64 tsc, ns;
	u32 mul;
	signed char shift;
	u8 flags, pad2[2];
} __attribute__((packed, aligned(32))) t;

static u64 now(void)
{
	u64 d = rdtsc() - t.tsc;
	d = t.shift < 0 ? d >> -t.shift : d << t.shift;
	/* 64 by 32 bits, the middle of 96 */
	return t.ns + (d >> 32) * t.mul + ((d & 0xffffffff) * t.mul >> 32);
}

/* How far the clock is ahead of the TSC: the host may take the processor away at any moment, so of `times` readings
   the one that took the least. */
static u64 ahead(int times)
{
	u64 least = -1ULL, best = 0;
	while (times--) {
		u64 before = rdtsc(), time = now(), took = rdtsc() - before;
		if (took < least)
			least = took, best = time - before - took / 2;
	}
	return best;
}

static void time_is(void)
{
	u64 a, b, last_time = 0;
	int back = 0;

	wrmsr(MSR_TIME, (ulong)&t | 1);
	check("time: register reads back", rdmsr(MSR_TIME), (ulong)&t | 1);
	check("time: the old register is the same", rdmsr(0x12), (ulong)&t | 1);
	check("time: version is even", t.version & 1, 0);
	check("time: written", t.version > 0, 1);
	check("time: stable", t.flags, 1);
	for (int i = 0; i < 1000; i++) {
		a = now();
		back += a < last_time;
		last_time = a;
	}
	check("time: never goes back", back, 0);
	/* one tick is one nanosecond: 1 GHz by leaf 40000010H */
	u32 r[4];
	cpuid(0x40000010, 0, r);
	check("time: kHz", r[0], 1000000);
	a = ahead(1000);
	for (b = rdtsc(); rdtsc() - b < 5000000;)
		;
	check("time: runs as the TSC", ahead(1000) - a + 10000 < 20000, 1);
	/* the TSC is written, time goes on */
	u32 version = t.version;
	a = now();
	wrmsr(0x10, 12345);
	b = now();
	check("time: structure follows the TSC", t.version != version && !(t.version & 1), 1);
	check("time: goes on when the TSC is written", b >= a && b - a < 1000000000, 1);
	wrmsr(0x10, b);
	wrmsr(0x3b, 0);
	version = t.version;
	wrmsr(MSR_TIME, (ulong)&t);
	wrmsr(0x3b, 0x1000);
	check("time: off, nothing is written", t.version, version);
	wrmsr(0x3b, 0);
	static struct {
		u32 version, sec, nsec;
	} w = { 7, 0, 0 };
	wrmsr(MSR_WALL, (ulong)&w);
	check("wall clock: version is even", w.version & 1, 0);
	check("wall clock: after 2019", w.sec >= 1577836800, 1);
	check("wall clock: nanoseconds", w.nsec < 1000000000, 1);
	check("wall clock: register reads back", rdmsr(MSR_WALL), (ulong)&w);
	check("wall clock: the old register is the same", rdmsr(0x11), (ulong)&w);
}

static void stolen(void)
{
	static struct {
		volatile u64 steal;
		volatile u32 version, flags;
		volatile u8 preempted, pad[47];
	} s __attribute__((aligned(64))) = { .version = 3, .preempted = 3 };
	u64 first;

	wrmsr(MSR_STEAL, (ulong)&s | 1);
	check("stolen time: version is even", s.version & 1, 0);
	check("stolen time: not preempted", s.preempted, 0);
	first = s.steal;
	for (volatile int i = 0; i < 100000; i++)
		;
	check("stolen time: does not shrink", s.steal >= first, 1);
	check("stolen time: no flags", s.flags, 0);
	wrmsr(MSR_STEAL, 0);
}

/* ---- hypercalls ---- */

static volatile ulong user_result;

static void u_call(void)
{
	user_result = call(1, 0, 0, 0, 0);
}

static volatile int got[256];

static int count_hook(struct frame *f)
{
	if (f->vec < 32)
		return 0;
	got[f->vec]++;
	*apic(APIC_EOI) = 0;
	return 1;
}

static void calls(void)
{
	static struct {
		u64 sec, nsec, tsc;
		u32 flags, pad[9];
	} pair;
	ulong ret;

	check("call: nothing", call(1, 0, 0, 0, 0), 0);
	check("call: unknown", call(0x1234, 0, 0, 0, 0), ERR(1000));
	check("call: of other architectures", call(3, 0, 0, 0, 0), ERR(1000));
	check("call: page encryption, not offered", call(12, 0, 0, 0, 0), ERR(1000));
	asm volatile("vmmcall" : "=a"(ret) : "a"(1ul) : "memory");
	check("vmmcall", ret, 0);
	RUNS_IN_USER("call from ring 3", user(u_call, 0));
	check("call from ring 3: refused", user_result, ERR(1));
	FAULTS("lock vmcall", UD, 0, asm volatile(".byte 0xf0, 0x0f, 0x01, 0xc1"));
#ifdef __x86_64__
	extern char compat_call[], compat_end[];
	/* 32-bit code: the upper halves do not count */
	asm volatile("movabs $0xff00000001,%%rax; push %2; push $1f; lretq\n"
		     ".code32; compat_call: vmcall; ljmp $8,$2f; compat_end: .code64\n"
		     "1: jmp compat_call; 2:"
		     : "=a"(ret)
		     : "0"(0), "r"((ulong)SEL(0))
		     : "memory");
	(void)compat_call, (void)compat_end;
	check("call from compatibility mode", ret, 0);
#endif
	check("clocks: pair", call(9, (ulong)&pair, 0, 0, 0), 0);
	check("clocks: after 2019", pair.sec >= 1577836800, 1);
	check("clocks: TSC", rdtsc() - pair.tsc < 1000000000, 1);
	check("clocks: unknown type", call(9, (ulong)&pair, 1, 0, 0), ERR(95));
	check("clocks: not in RAM", call(9, APIC, 0, 0, 0), ERR(14));
	check("clocks: across the end of RAM", call(9, RAM_END - 32, 0, 0, 0), ERR(14));
	check("yield", call(11, 0, 0, 0, 0), 0);
	check("yield to nobody", call(11, 77, 0, 0, 0), 0);
}

static void ipis(void)
{
	rt_hook = count_hook;
	check("ipi: to itself", call(10, 1, 0, 0, VECTOR), 1);
	check("ipi: by the other half", call(10, 2, 0, ERR(1), VECTOR), 0);
	check("ipi: to nobody", call(10, ~1ul, ~0ul, 0, VECTOR), 0);
	check("ipi: to nobody, from 1 on", call(10, ~0ul, ~0ul, 1, VECTOR), 0);
	check("ipi: shorthand", call(10, 1, 0, 0, ICR_SELF | VECTOR), ERR(22));
	check("ipi: logical", call(10, 1, 0, 0, 0x800 | VECTOR), ERR(22));
	asm volatile("sti; nop; cli");
	check("ipi: arrived once", got[VECTOR], 1);
	rt_hook = 0;
}

static void kicks(void)
{
	ulong f;

	/* a kick is kept for the next HLT, interrupts closed or not */
	check("kick itself", call(5, 0, 0, 0, 0), 0);
	RUNS("hlt after a kick", asm volatile("cli; hlt"));
	check("kick nobody", call(5, 0, 200, 0, 0), 0);
	call(5, 0, 0, 0, 0);
	call(5, 0, 0, 0, 0);
	RUNS("hlt after two kicks", asm volatile("cli; hlt"));
	/* they were one: the next HLT waits, for an interrupt */
	rt_hook = count_hook;
	got[VECTOR] = 0;
	call(10, 1, 0, 0, VECTOR);
	asm volatile("sti; hlt; cli");
	check("hlt ends by an interrupt", got[VECTOR], 1);
	rt_hook = 0;
	f = flags();
	check("interrupts are closed", f & FL_IF, 0);
}

/* ---- EOI ---- */

static volatile u32 eoi;
static volatile u32 seen[8];
static volatile unsigned taken;
static volatile int how;
enum { BY_FLAG, BY_WRITE, SEND_THEN_FLAG, SEND_OPEN, SEND_HIGH_OPEN };

static u32 in_service(void)
{
	u32 any = 0;
	for (int i = 0; i < 8; i++)
		any |= *apic(APIC_ISR + 16 * i);
	return any;
}

static void end_interrupt(void)
{
	u8 was;
	asm volatile("btrl $0,%0; setc %1" : "+m"(eoi), "=q"(was)::"cc");
	if (!was)
		*apic(APIC_EOI) = 0;
}

static int eoi_hook(struct frame *f)
{
	int first = !taken;
	if (f->vec < 32)
		return 0;
	if (taken < 8)
		seen[taken] = (u32)f->vec | eoi << 8;
	taken++;
	if (first && how >= SEND_THEN_FLAG)
		*apic(APIC_ICR) = ICR_SELF | (how == SEND_HIGH_OPEN ? VECTOR + 0x10 : VECTOR);
	if (first && how >= SEND_OPEN) {
		asm volatile("sti; nop; cli");
		seen[7] = eoi;
	}
	if (first && how == BY_WRITE)
		*apic(APIC_EOI) = 0;
	else
		end_interrupt();
	return 1;
}

/* Sends `first` and, if not 0, `second`, and opens interrupts. */
static void interrupts(int what, u32 first, u32 second)
{
	taken = 0;
	how = what;
	for (int i = 0; i < 8; i++)
		seen[i] = 0xdead;
	*apic(APIC_ICR) = ICR_SELF | first;
	if (second)
		*apic(APIC_ICR) = ICR_SELF | second;
	asm volatile("sti; nop; nop; cli");
}

static void eois(void)
{
	rt_hook = eoi_hook;
	interrupts(BY_FLAG, VECTOR, 0);
	check("eoi: off, no flag", seen[0], VECTOR);
	eoi = 0;
	wrmsr(MSR_EOI, (ulong)&eoi | 1);
	check("eoi: register reads back", rdmsr(MSR_EOI), (ulong)&eoi | 1);
	for (int i = 0; i < 3; i++) {
		interrupts(BY_FLAG, VECTOR, 0);
		check(nm("eoi: flag in the handler, %d", i), seen[0], VECTOR | 0x100);
		check(nm("eoi: taken once, %d", i), taken, 1);
	}
	check("eoi: nothing in service", in_service(), 0);
	check("eoi: flag is gone", eoi, 0);
	interrupts(BY_WRITE, VECTOR, 0);
	check("eoi: written all the same: flag", seen[0], VECTOR | 0x100);
	check("eoi: written all the same: gone", eoi, 0);
	check("eoi: written all the same: ended", in_service(), 0);
	interrupts(BY_FLAG, VECTOR, VECTOR + 0x10);
	check("eoi: two wait: taken", taken, 2);
	check("eoi: two wait: no flag for the first", seen[0], VECTOR + 0x10);
	check("eoi: two wait: flag for the last", seen[1], VECTOR | 0x100);
	check("eoi: two wait: ended", in_service(), 0);
	interrupts(SEND_THEN_FLAG, VECTOR, 0);
	check("eoi: another one comes behind closed doors: taken", taken, 2);
	check("eoi: another one comes behind closed doors: flags", seen[0] << 16 | seen[1],
	      (VECTOR | 0x100) << 16 | VECTOR | 0x100);
	check("eoi: another one comes behind closed doors: ended", in_service(), 0);
	interrupts(SEND_OPEN, VECTOR + 0x10, 0);
	check("eoi: a lower one comes: the flag is taken back", seen[7], 0);
	check("eoi: a lower one comes: taken", taken, 2);
	check("eoi: a lower one comes: flag for it", seen[1], VECTOR | 0x100);
	check("eoi: a lower one comes: ended", in_service(), 0);
	interrupts(SEND_HIGH_OPEN, VECTOR, 0);
	check("eoi: a higher one interrupts: taken", taken, 2);
	check("eoi: a higher one interrupts: no flag for it", seen[1], VECTOR + 0x10);
	check("eoi: a higher one interrupts: nor for the first again", seen[7], 0);
	check("eoi: a higher one interrupts: ended", in_service(), 0);
	wrmsr(MSR_EOI, 0);
	interrupts(BY_FLAG, VECTOR, 0);
	check("eoi: off again, no flag", seen[0], VECTOR);
	rt_hook = 0;
}

static void without(void)
{
	u32 r[4];
	cpuid(0x40000000, 0, r);
	check("off: the monitor's own name", r[1] == 0x79746345 && r[2] == 0x63456570, 1);
	cpuid(0x40000001, 0, r);
	check("off: no features", r[0] | r[1] | r[2] | r[3], 0);
	FAULTS("off: vmcall", UD, 0, call(1, 0, 0, 0, 0));
	FAULTS("off: vmmcall", UD, 0, asm volatile("vmmcall"));
	FAULTS("off: wall clock", GP, 0, wrmsr(MSR_WALL, (ulong)&t));
	FAULTS("off: old time", GP, 0, wrmsr(0x12, 0));
	FAULTS("off: time", GP, 0, rdmsr(MSR_TIME));
	FAULTS("off: stolen time", GP, 0, rdmsr(MSR_STEAL));
	FAULTS("off: eoi", GP, 0, wrmsr(MSR_EOI, 0));
	FAULTS("off: polling", GP, 0, rdmsr(MSR_POLL));
}

int main(void)
{
	/* only the local APIC interrupts: the 8259s are masked */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_CODE, F_4G));
	*apic(0xf0) = 0x1ff;
	if (!has_pv()) {
		without();
		return 0;
	}
	leaves();
	registers();
	time_is();
	stolen();
	calls();
	ipis();
	kicks();
	eois();
	return 0;
}
