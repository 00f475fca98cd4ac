/*
 * Finding and starting processors: MADT (ACPI 6.5, 5.2.12), CPUID's topology
 * (SDM 3A, 9.9.3), INIT and SIPI (SDM 3A, 9.4 and 11.6.1), the state after INIT
 * (SDM 3A, table 10-1; 11.4.7.3 for the local APIC).
 *
 * TCG 7.2 differs from the manual in: no x2APIC; an NMI ends the wait for a SIPI,
 * at the reset vector; INIT resets the MTRRs (`qemu=1` on the command line leaves
 * these out).
 */
#include "mp.h"

static void madt(void)
{
	u8 sum = 0;
	u32 enabled = 0, twice = 0, nmi = 0, bad = 0;
	u64 ids[4] = { 0 };

	check("MADT is there", !!mp_madt, 1);
	if (!mp_madt)
		return;
	for (u32 i = 0; i < mp_madt_bytes; i++)
		sum += mp_madt[i];
	check("MADT: checksum", sum, 0);
	check("MADT: local APICs at FEE00000H", *(u32 *)(mp_madt + 36), 0xfee00000);
	check("MADT: an IOAPIC", !!mp_ioapic, 1);
	for (u8 *p = mp_madt + 44; p < mp_madt + mp_madt_bytes; p += p[1]) {
		bad |= p[1] < 2 || (p[0] == 0 && p[1] != 8) || (p[0] == 9 && p[1] != 16) || (p[0] == 1 && p[1] != 12);
		if (bad)
			break;
		nmi |= p[0] == 4 && p[2] == 0xff;
		if (p[0] == 0 && (p[4] & 1)) {
			if (!enabled)
				check("MADT: the BSP comes first", p[3], cpus[0].apic);
			enabled++;
			twice |= ids[p[3] / 64] >> (p[3] % 64) & 1;
			ids[p[3] / 64] |= 1ull << (p[3] % 64);
		}
	}
	check("MADT: lengths of entries", bad, 0);
	check("MADT: processors", enabled, mp_option("cpus", enabled));
	check("MADT: no APIC ID twice", twice, 0);
	(void)nmi;
}

/* What each processor says of itself. */
struct self {
	u64 mtrr;
	u32 id1, logical, htt, id11, levels, bad_level, in_package, shift, cores4, apic, bsp, sum;
	ulong sp;
} self[MP_MAX];

static void look(ulong unused)
{
	struct self *s = &self[me()->n];
	volatile u8 here[256];

	(void)unused;
	s->id1 = cpuid_reg(1, 0, 1) >> 24;
	s->logical = cpuid_reg(1, 0, 1) >> 16 & 0xff;
	s->htt = cpuid_reg(1, 0, 3) >> 28 & 1;
	s->cores4 = (cpuid_reg(4, 0, 0) >> 26) + 1;
	s->id11 = cpuid_reg(11, 0, 3);
	for (s->levels = 0; s->levels < 8; s->levels++) {
		u32 r[4];
		cpuid(11, s->levels, r);
		if (!(r[2] >> 8 & 0xff))
			break;
		s->bad_level |= (r[2] & 0xff) != s->levels || r[3] != s->id11 || (r[0] & 0x1f) < s->shift ||
				(r[1] & 0xffff) < s->in_package;
		s->shift = r[0] & 0x1f;
		s->in_package = r[1] & 0xffff;
	}
	s->mtrr = 0;
	for (u32 msr = 0x200; msr < 0x300; msr++) {
		/* 8 pairs, the fixed ones, the default */
		if (msr < 0x210 || msr == 0x250 || (msr | 1) == 0x259 || msr >> 3 == 0x268 >> 3 || msr == 0x2ff)
			s->mtrr = (s->mtrr << 7 | s->mtrr >> 57) ^ rdmsr(msr);
	}
	s->apic = apic_read(APIC_ID) >> (x2apic() ? 0 : 24);
	s->bsp = !!(rdmsr(MSR_APIC_BASE) & BASE_BSP);
	for (u32 i = 0; i < sizeof(here); i++)
		here[i] = i ^ me()->n;
	s->sum = 0;
	for (u32 i = 0; i < sizeof(here); i++)
		s->sum += here[i] ^ me()->n;
	asm volatile("mov %%rsp,%0" : "=r"(s->sp));
}

static void identity(void)
{
	u32 id1 = 0, id11 = 0, apic = 0, bsp = 0, sums = 0, stacks = 0, level = 0, htt = 0, logical = 0, cores = 0;
	u32 package = 0, mtrr = 0;

	mp_all(look, 0);
	for (u32 n = 0; n < mp_started; n++) {
		struct self *s = &self[n];
		id1 += s->id1 != cpus[n].apic;
		id11 += s->id11 != cpus[n].apic;
		apic += s->apic != cpus[n].apic;
		bsp += s->bsp;
		mtrr += s->mtrr != self[0].mtrr;
		sums += s->sum != 255 * 128;
		level += s->bad_level || !s->levels;
		htt += s->htt != (mp_cpus > 1);
		logical += s->logical < s->in_package && s->htt;
		cores += s->cores4 > 1u << s->shift;
		for (u32 i = 0; i < n; i++)
			stacks += s->sp - self[i].sp + 8192 < 16384;
		u32 same = 0;
		for (u32 i = 0; i < mp_started; i++)
			same += s->id11 >> s->shift == self[i].id11 >> s->shift;
		package += same != s->in_package;
	}
	check("CPUID 1: the APIC ID", id1, 0);
	check("CPUID 0BH: the x2APIC ID", id11, 0);
	check("the APIC's ID register", apic, 0);
	check("one BSP", bsp, 1);
	check("the BSP is processor 0", self[0].bsp, 1);
	check("each has a stack of its own", sums + stacks, 0);
	if (!mp_option("qemu", 0))
		check("the MTRRs are the same on all", mtrr, 0);
	check("CPUID 0BH: levels in order, widths and counts grow", level, 0);
	check("CPUID 0BH: a package has as many as its IDs say", package, 0);
	check("CPUID 1: HTT where there are several", htt, 0);
	check("CPUID 1: IDs for at least a package's processors", logical, 0);
	check("CPUID 4: no more cores than the IDs have room for", cores, 0);
}

static void entry(void)
{
	u32 starts = MP_ENTRY(SIPI_PAGE)->starts;
	check("one start for each processor, though two SIPIs were sent", starts, mp_cpus - 1);
	if (mp_cpus < 2)
		return;
	check("SIPI: CS is the vector's page", MP_ENTRY(SIPI_PAGE)->cs, SIPI_PAGE >> 4);
	check("SIPI: EFLAGS", MP_ENTRY(SIPI_PAGE)->eflags, 2);
	/* NW and CD may be anything that INIT keeps */
	check("SIPI: CR0", MP_ENTRY(SIPI_PAGE)->cr0 & 0x9fffffff, 0x10);
	check("SIPI: EDX is the processor's signature", MP_ENTRY(SIPI_PAGE)->edx, cpuid_reg(1, 0, 0));
}

/* The time stamp counters of all are one: no processor sees it run back. */
static volatile u64 tsc_lock, tsc_last, tsc_back;
static void tsc_warp(ulong rounds)
{
	for (ulong i = 0; i < rounds; i++) {
		while (({
			u64 v = 1;
			asm volatile("xchg %0,%1" : "+r"(v), "+m"(tsc_lock)::"memory");
			v;
		}))
			pause();
		u64 t = rdtsc();
		if (t < tsc_last)
			tsc_back++;
		tsc_last = t;
		asm volatile("" ::: "memory");
		tsc_lock = 0;
	}
}

static volatile u64 turns;
static void spin(ulong unused)
{
	(void)unused;
	cli();
	for (;;)
		asm volatile("incq %0" : "+m"(turns));
}

static void halt(ulong unused)
{
	(void)unused;
	turns++;
	for (;;)
		asm volatile("cli; hlt");
}

static int stands(void)
{
	delay(MP_SHORT);
	u64 before = turns;
	delay(MP_SHORT);
	return turns == before;
}

/* At last: with fewer host processors it may not even have come to see what was asked of it. */
static int comes_to_stand(void)
{
	for (u32 i = 0; i < 50; i++) {
		if (stands())
			return 1;
	}
	return 0;
}

static void init_running(u32 n)
{
	struct cpu *c = &cpus[n];
	u32 up = c->up;

	turns = 0;
	mp_call(n, spin, 0);
	check("INIT: a processor that runs", WAIT_FOR(turns > 100), 1);
	icr(c->apic, ICR_SIPI | ICR_ASSERT | SIPI_PAGE >> 12);
	u64 t = turns;
	check("SIPI: nothing to a processor that runs", WAIT_FOR(turns > t + 100) && c->up == up, 1);
	icr(c->apic, ICR_INIT | ICR_LEVEL); /* de-assert */
	t = turns;
	check("INIT de-assert: nothing", WAIT_FOR(turns > t + 100), 1);
	icr(c->apic, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
	check("INIT: it stands, with interrupts off", comes_to_stand(), 1);
	/* fixed interrupts are lost on it: INIT has disabled its APIC */
	icr(c->apic, ICR_FIXED | ICR_ASSERT | VEC_WAKE);
	if (!mp_option("qemu", 0))
		icr(c->apic, ICR_NMI | ICR_ASSERT);
	check("wait for SIPI: neither interrupt nor NMI starts it", comes_to_stand() && c->up == up, 1);
	mp_prepare(SIPI_OTHER);
	c->busy = 0;
	icr(c->apic, ICR_SIPI | ICR_ASSERT | SIPI_OTHER >> 12);
	check("SIPI: starts again, at another page", WAIT_FOR(c->up == up + 1), 1);
	check("SIPI: CS is that page", MP_ENTRY(SIPI_OTHER)->cs, SIPI_OTHER >> 4);
	delay(MP_SHORT);
	u32 nmis = c->seen[NMI] + MP_ENTRY(SIPI_OTHER)->nmis;
	check("NMI during the wait for SIPI: once at most", nmis <= 1, 1);
	if (!mp_option("qemu", 0))
		say("the NMI was %s\n", nmis ? "held" : "dropped");
	mp_call(n, look, 0);
	mp_wait(n);
	check("it works as before", self[n].id1 == c->apic && self[n].sum == 255 * 128, 1);
}

static void init_halted(u32 n)
{
	struct cpu *c = &cpus[n];

	turns = 0;
	mp_call(n, halt, 0);
	check("INIT: a processor that halts", WAIT_FOR(turns == 1), 1);
	delay(MP_SHORT);
	mp_prepare(SIPI_PAGE);
	check("INIT and SIPI start it", mp_start(n, SIPI_PAGE), 1);
	check("once", MP_ENTRY(SIPI_PAGE)->starts, 1);
	c->busy = 0;
}

/* What INIT leaves, and what it does not. The processor sets it before, with `cli; hlt` behind. */
static volatile u64 xmm_got;
static void before_init(ulong unused)
{
	(void)unused;
	cli();
	asm volatile("movq %0,%%xmm3" ::"r"(0x1122334455667788ull));
	apic_write(APIC_TPR, 0x50);
	apic_write(APIC_TIMER, 0x41);
	apic_write(APIC_DIVIDE, 3);
	wrmsr(0x277, 0x0007040600070406); /* PAT: as at power-up, written */
	set_dr0(0x1234);
	asm volatile("mov %0,%%cr2" ::"r"(0xabcdeful));
	turns++;
	for (;;)
		asm volatile("cli; hlt");
}

static void after_init(ulong unused)
{
	u64 x;

	(void)unused;
	asm volatile("movq %%xmm3,%0" : "=r"(x));
	xmm_got = x;
}

static void init_state(u32 n)
{
	struct cpu *c = &cpus[n];

	turns = 0;
	mp_call(n, before_init, 0);
	WAIT_FOR(turns == 1);
	delay(MP_SHORT);
	mp_prepare(SIPI_PAGE);
	check("INIT after state was changed", mp_start(n, SIPI_PAGE), 1);
	check("INIT resets the APIC: SVR", c->mark[0], 0xff);
	check("INIT resets the APIC: LVT timer", c->mark[1], 0x10000);
	check("INIT resets the APIC: TPR", c->mark[2], 0);
	mp_call(n, after_init, 0);
	mp_wait(n);
	check("INIT keeps XMM registers", xmm_got, 0x1122334455667788ull);
}

/* In x2APIC mode an INIT keeps the mode, and so the ID (SDM 3A, 11.12.5.1). */
static volatile u64 base_got, id_got, ldr_got;
static void look_x2apic(ulong unused)
{
	(void)unused;
	base_got = rdmsr(MSR_APIC_BASE);
	id_got = x2apic() ? rdmsr(0x802) : 0;
	ldr_got = x2apic() ? rdmsr(0x80d) : 0;
}

static void x2apic_init(u32 n)
{
	struct cpu *c = &cpus[n];
	u32 bad_id = 0, bad_ldr = 0;

	mp_all(x2apic_enter, 0);
	for (u32 i = 0; i < mp_started; i++) {
		mp_call(i, look_x2apic, 0);
		mp_wait(i);
		bad_id += id_got != cpus[i].apic;
		bad_ldr += ldr_got != (cpus[i].apic >> 4 << 16 | 1u << (cpus[i].apic & 15));
	}
	check("x2APIC: ID", bad_id, 0);
	check("x2APIC: LDR follows from the ID", bad_ldr, 0);
	mp_prepare(SIPI_PAGE);
	check("x2APIC: INIT and SIPI", mp_start(n, SIPI_PAGE), 1);
	mp_call(n, look_x2apic, 0);
	mp_wait(n);
	check("x2APIC: INIT keeps the mode", !!(base_got & BASE_EXTD), 1);
	check("x2APIC: INIT keeps the ID", id_got, c->apic);
	mp_all(x2apic_leave, 0);
	mp_all(look_x2apic, 0);
	look_x2apic(0);
	check("xAPIC again", base_got & BASE_EXTD, 0);
}

static void all_at_once(void)
{
	u32 before[MP_MAX], up = 0;

	mp_prepare(SIPI_PAGE);
	for (u32 n = 1; n < mp_started; n++) {
		before[n] = cpus[n].up;
		cpus[n].busy = 0;
	}
	icr(0, ICR_INIT | ICR_ASSERT | ICR_LEVEL | ICR_TO_OTHERS);
	delay(MP_SHORT / 3);
	icr(0, ICR_SIPI | ICR_ASSERT | ICR_TO_OTHERS | SIPI_PAGE >> 12);
	icr(0, ICR_SIPI | ICR_ASSERT | ICR_TO_OTHERS | SIPI_PAGE >> 12);
	for (u32 n = 1; n < mp_started; n++)
		up += WAIT_FOR(cpus[n].up == before[n] + 1);
	check("INIT and SIPI to all others", up, mp_started - 1);
	check("each starts once", MP_ENTRY(SIPI_PAGE)->starts, mp_started - 1);
	mp_all(look, 0);
}

int main(void)
{
	mp_init();
	say("%d processors\n", mp_cpus);
	madt();
	entry();
	identity();
	mp_all(tsc_warp, mp_option("rounds", 300));
	check("the time stamp counter never runs back", tsc_back, 0);
	if (mp_started < 2) {
		skip("starting others: one processor");
		return 0;
	}
	init_running(mp_started - 1);
	init_halted(1);
	init_state(1);
	all_at_once();
	if (has_x2apic())
		x2apic_init(mp_started - 1);
	else
		skip("x2APIC");
	check("the BSP took no NMI", cpus[0].seen[NMI], 0);
	return 0;
}
