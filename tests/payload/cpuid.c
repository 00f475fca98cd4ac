/*
 * CPUID agrees with itself and with what the control registers and MSRs take:
 * a feature that is reported works, one that is not cannot be switched on.
 *
 * TCG 7.2 differs from the manual in: CR4.VME without the feature, invalid
 * combinations of CR0, clearing PG or PAE in 64-bit mode (all taken),
 * CR4.VMXE (hangs).
 */
#include "rt.h"

static const struct {
	const char *name;
	u32 leaf;
	int reg, bit;
	int cr4_bit;
} features[] = {
	{ "VME", 1, 3, 1, 0 },	     { "DE", 1, 3, 2, 3 },	  { "PSE", 1, 3, 3, 4 },   { "TSC", 1, 3, 4, 2 },
	{ "MCE", 1, 3, 7, 6 },	     { "PGE", 1, 3, 13, 7 },	  { "FXSR", 1, 3, 24, 9 }, { "UMIP", 7, 2, 2, 11 },
	{ "FSGSBASE", 7, 1, 0, 16 }, { "OSXSAVE", 1, 2, 26, 18 }, { "SMEP", 7, 1, 7, 20 }, { "SMAP", 7, 1, 20, 21 },
	{ "PKU", 7, 2, 3, 22 },
#ifdef __x86_64__
	{ "PCID", 1, 2, 17, 17 },
#endif
};

static void control_registers(void)
{
	ulong old = cr4(), old0 = cr0();

	for (unsigned i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		ulong bit = 1ul << features[i].cr4_bit;
		if (cpuid_reg(features[i].leaf, 0, features[i].reg) >> features[i].bit & 1)
			RUNS(nm("%s is reported: CR4 takes it", features[i].name), set_cr4(old | bit));
		else
			FAULTS(nm("%s is not reported: CR4 refuses it", features[i].name), GP, 0, set_cr4(old | bit));
		set_cr4(old);
	}
	FAULTS("CR4: reserved bit 15", GP, 0, set_cr4(old | 0x8000));
	FAULTS("CR4: reserved bit 31", GP, 0, set_cr4(old | 0x80000000));
	FAULTS("CR0: NW without CD", GP, 0, set_cr0((old0 | 0x20000000) & ~0x40000000ul));
	RUNS("CR0: CD", set_cr0(old0 | 0x40000000); set_cr0(old0));
	set_cr0(old0 & ~0x10ul);
	check("CR0: ET is always set", cr0() & 0x10, 0x10);
	RUNS("CR0: reserved bits below 32 are ignored", set_cr0(old0 | 0x400));
	check("  and read as zero", cr0() & 0x400, 0);
	set_cr0(old0);
	asm volatile("smsw %%ax; and $~1,%%eax; lmsw %%ax" ::: "eax");
	check("lmsw cannot leave protected mode", cr0() & 1, 1);
	u32 msw;
	asm volatile("smsw %0" : "=r"(msw));
	check("smsw", msw & 0xffff, cr0() & 0xffff);
#ifdef __x86_64__
	FAULTS("CR0: upper half", GP, 0, set_cr0(old0 | 1ul << 32));
	FAULTS("CR4: upper half", GP, 0, set_cr4(old | 1ul << 40));
	unsigned phys = cpuid_reg(0x80000008, 0, 0) & 0xff;
	FAULTS("CR3: above the physical address width", GP, 0, set_cr3(cr3() | 1ul << phys));
	FAULTS("EFER: LME changed while paging", GP, 0, wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x100ull));
	ulong cr8;
	RUNS("CR8", asm volatile("mov %0,%%cr8" ::"r"(5ul)));
	asm volatile("mov %%cr8,%0" : "=r"(cr8));
	check("CR8 reads back", cr8, 5);
	FAULTS("CR8: reserved bits", GP, 0, asm volatile("mov %0,%%cr8" ::"r"(0x10ul)));
	asm volatile("mov %0,%%cr8" ::"r"(0ul));
#endif
}

static void xsave(void)
{
	ulong old = cr4();
	u32 lo, hi, d[4];

	FAULTS("xgetbv without OSXSAVE", UD, 0, asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0)));
	if (!(cpuid_reg(1, 0, 2) >> 26 & 1)) {
		skip("XSAVE");
		return;
	}
	check("OSXSAVE follows CR4: clear", cpuid_reg(1, 0, 2) >> 27 & 1, 0);
	set_cr4(old | 0x40600);
	check("OSXSAVE follows CR4: set", cpuid_reg(1, 0, 2) >> 27 & 1, 1);
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	check("XCR0 has x87 at least", lo & 1, 1);
	cpuid(0xd, 0, d);
	u32 all = d[0];
	check("leaf D: x87 and SSE", all & 3, 3);
	check("leaf D: the whole area holds the enabled one", d[2] >= d[1] && d[1] >= 576, 1);
	RUNS("XCR0: all that leaf D names", asm volatile("xsetbv" ::"a"(all), "d"(d[3]), "c"(0)));
	u32 sum = 576;
	for (int i = 2; i < 32; i++) {
		u32 c[4];
		if (!(all >> i & 1))
			continue;
		cpuid(0xd, i, c);
		if (c[0] + c[1] > sum)
			sum = c[0] + c[1];
	}
	cpuid(0xd, 0, d);
	check("leaf D: size is the end of the last component", d[1], sum);
	check("leaf D: size with everything on is the whole size", d[1], d[2]);
	asm volatile("xsetbv" ::"a"(1), "d"(0), "c"(0));
	cpuid(0xd, 0, d);
	check("leaf D: size with x87 alone", d[1], 576);
	FAULTS("XCR0: x87 cannot be off", GP, 0, asm volatile("xsetbv" ::"a"(2), "d"(0), "c"(0)));
	if (all & 4)
		FAULTS("XCR0: AVX without SSE", GP, 0, asm volatile("xsetbv" ::"a"(5), "d"(0), "c"(0)));
	for (int i = 2; i < 31; i++) {
		if (!(all >> i & 1)) {
			FAULTS("XCR0: a component that is not there", GP, 0,
			       asm volatile("xsetbv" ::"a"(3 | 1u << i), "d"(0), "c"(0)));
			break;
		}
	}
	FAULTS("XCR0: bit 63", GP, 0, asm volatile("xsetbv" ::"a"(3), "d"(0x80000000), "c"(0)));
	FAULTS("xsetbv of XCR 2", GP, 0, asm volatile("xsetbv" ::"a"(3), "d"(0), "c"(2)));
	asm volatile("xsetbv" ::"a"(3), "d"(0), "c"(0));
	if (all & 4) {
		FAULTS("AVX disabled in XCR0", UD, 0, asm volatile(".byte 0xc5, 0xfc, 0x57, 0xc0"));
		asm volatile("xsetbv" ::"a"(7), "d"(0), "c"(0));
		RUNS("AVX enabled in XCR0", asm volatile(".byte 0xc5, 0xfc, 0x57, 0xc0"));
		set_cr0(cr0() | 8);
		FAULTS("AVX with CR0.TS", NM, 0, asm volatile(".byte 0xc5, 0xfc, 0x57, 0xc0"));
		asm volatile("clts");
	}
	set_cr4(old);
	if (all & 4)
		FAULTS("AVX without OSXSAVE", UD, 0, asm volatile(".byte 0xc5, 0xfc, 0x57, 0xc0"));
}

static void msrs(void)
{
	FAULTS("rdmsr of an MSR that is not there", GP, 0, rdmsr(0xdeadbeef));
	FAULTS("wrmsr of an MSR that is not there", GP, 0, wrmsr(0xdeadbeef, 0));
	FAULTS("EFER: reserved bits", GP, 0, wrmsr(0xc0000080, rdmsr(0xc0000080) | 1ull << 40));
	check("APIC base", rdmsr(0x1b) & 0xfffff000, 0xfee00000);
	check("APIC base: enabled, bootstrap processor", rdmsr(0x1b) & 0x900, 0x900);
	check("PAT at reset", rdmsr(0x277), 0x0007040600070406);
	FAULTS("PAT: reserved type", GP, 0, wrmsr(0x277, 2));
	FAULTS("MTRR default type: reserved type", GP, 0, wrmsr(0x2ff, 2));
	u32 a0, a1, b0, b1;
	asm volatile("rdtsc" : "=a"(a0), "=d"(a1));
	asm volatile("rdtsc" : "=a"(b0), "=d"(b1));
	check("TSC goes forward", ((u64)b1 << 32 | b0) > ((u64)a1 << 32 | a0), 1);
	if (cpuid_reg(0x80000001, 0, 3) >> 27 & 1) {
		wrmsr(0xc0000103, 0x1234567);
		u32 aux;
		asm volatile(".byte 0x0f, 0x01, 0xf9" : "=c"(aux)::"eax", "edx");
		check("rdtscp: TSC_AUX", aux, 0x1234567);
		FAULTS("TSC_AUX: upper half", GP, 0, wrmsr(0xc0000103, 1ull << 32));
	}
#ifdef __x86_64__
	static const u32 addresses[] = { 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000082, 0xc0000083, 0x175, 0x176 };
	for (unsigned i = 0; i < 7; i++) {
		FAULTS(nm("msr %x: not canonical", addresses[i]), GP, 0, wrmsr(addresses[i], 1ull << 60));
		RUNS(nm("msr %x: canonical", addresses[i]), wrmsr(addresses[i], 0xffff800000001000));
		check("  reads back", rdmsr(addresses[i]), 0xffff800000001000);
		wrmsr(addresses[i], 0);
	}
#endif
}

static void leaves(void)
{
	u32 r[4], s[4];

	cpuid(0, 0, r);
	u32 top = r[0];
	check("highest leaf is 0xd at least", top >= 0xd, 1);
	check("highest extended leaf is 0x80000008 at least", (cpuid(0x80000000, 0, s), s[0]) >= 0x80000008, 1);
	cpuid(0x80000008, 0, r);
	check("physical address bits", (r[0] & 0xff) >= 36 && (r[0] & 0xff) <= 52, 1);
	check("linear address bits", (r[0] >> 8 & 0xff) == 48 || (r[0] >> 8 & 0xff) == 57, 1);
	cpuid(1, 0, r);
	check("base features: FPU TSC MSR CX8 APIC CMOV FXSR SSE SSE2", r[3] & 0x07008131, 0x07008131);
	if (top >= 0xb) {
		cpuid(0xb, 0, s);
		check("x2APIC id is the APIC id", s[3], r[1] >> 24);
	}
	if (r[2] >> 31) {
		cpuid(0x40000000, 0, s);
		check("hypervisor leaves", s[0] >= 0x40000000 && s[0] < 0x40010000, 1);
	}
	cpuid(7, 0, s);
	check("AVX2 needs AVX", !(s[1] & 0x20) || (r[2] & 0x10000000), 1);
	check("AVX needs XSAVE", !(r[2] & 0x10000000) || (r[2] & 0x04000000), 1);
	check("AVX-512 needs AVX2", !(s[1] & 0x10000) || (s[1] & 0x20), 1);
	/* Intel answers with the highest basic leaf, AMD with zeros: both are fine, a hang is not */
	cpuid(0x7fffffff, 0, s);
	cpuid(0x8fffffff, 0, s);
	RUNS("leaves out of range", cpuid(0x5fffffff, 0, s));
	cpuid(0x80000001, 0, s);
	check("long mode", s[3] >> 29 & 1, 1);
	check("NX", s[3] >> 20 & 1, 1);
#ifdef __x86_64__
	check("SYSCALL in 64-bit mode", s[3] >> 11 & 1, 1);
#endif
	u32 id = flags();
	set_flags(id ^ FL_ID);
	check("EFLAGS.ID can be changed", (flags() ^ id) & FL_ID, FL_ID);
}

/* Last: a processor that takes these does not come back. */
static void deadly(void)
{
#ifdef __x86_64__
	ulong old = cr4(), old0 = cr0();

	FAULTS("CR4: PAE cleared in long mode", GP, 0, set_cr4(old & ~0x20ul));
	FAULTS("CR0: PG cleared in 64-bit mode", GP, 0, set_cr0(old0 & ~0x80000000ul));
#endif
	if (!(cpuid_reg(1, 0, 2) >> 5 & 1))
		FAULTS("VMX is not reported: CR4 refuses it", GP, 0, set_cr4(cr4() | 0x2000));
	if (!(cpuid_reg(1, 0, 2) >> 6 & 1))
		FAULTS("SMX is not reported: CR4 refuses it", GP, 0, set_cr4(cr4() | 0x4000));
	FAULTS("CR0: PE cleared while paging, or PG without PE", GP, 0, set_cr0((cr0() | 0x80000000) & ~1ul));
}

int main(void)
{
#ifdef __x86_64__
	/* supervisor pages only, or SMEP and SMAP would be felt */
	extern u64 pml4[];
	pml4[0] &= ~4ull;
	set_cr3(cr3());
#endif
	leaves();
	control_registers();
	xsave();
	msrs();
	deadly();
	return 0;
}
