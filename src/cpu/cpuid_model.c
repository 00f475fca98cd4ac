/*
 * Construction of the CPU models.
 *
 * A model is a set of features, and everything else follows from it: the
 * leaves, the legal control-register bits, the instruction sets. Features
 * come in three groups:
 *   - those the engines run on the host's own units: offered if the host has
 *     them and the model's list names them (`host`: all of those we know);
 *   - those done in software whatever the host has (paging, APIC, XSAVE
 *     management, random numbers): offered by every model;
 *   - everything else (VMX, TSX, MPX, AMX, SGX, PT, CET, performance
 *     monitoring, MONITOR, thermal monitoring, ...): offered by none.
 *
 * The processor shown is GenuineIntel in all models, because that is the
 * behaviour implemented (SYSCALL, segment loads, MSRs). `host` shows the
 * host's signature and brand string if it is Intel's, the x86-64-vN models a
 * fixed neutral signature that matches no entry of an operating system's
 * errata tables. IA32_ARCH_CAPABILITIES says that none of the known
 * transient-execution weaknesses needs a guest's mitigation: a guest of ours
 * shares no predictor or buffer with its own user code that it could clean.
 */
#include <cpuid.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "cpu/features.h"
#include "cpu/pv.h"
#include "cpu/xstate.h"

#define SIGNATURE_NEUTRAL 0x000f06f1u
/* More would make OVMF lay page tables of 2 MiB pages over all of it: 256 MiB of them for 46 bits. */
#define PHYS_BITS 40
#define LIN_BITS 48
#define APIC_BUS_HZ 1000000000ull /* the APIC timer and core crystal clock: 1 GHz */
#define MAX_BASIC 0x1f
#define MAX_EXTENDED 0x80000008u
#define HYPERVISOR_BASE 0x40000000u
#define MAX_HYPERVISOR 0x40000010u

/* x86-64-v1 and what software does for every model. */
static const u16 base_features[] = {
	F_HYPERVISOR,
	F_X2APIC,
	F_TSC_DEADLINE,
	F_PCID,
	F_RDRAND,
	F_FPU,
	F_VME,
	F_DE,
	F_PSE,
	F_TSC,
	F_MSR,
	F_PAE,
	F_MCE,
	F_CX8,
	F_APIC,
	F_SEP,
	F_MTRR,
	F_PGE,
	F_MCA,
	F_CMOV,
	F_PAT,
	F_PSE36,
	F_CLFSH,
	F_MMX,
	F_FXSR,
	F_SSE,
	F_SSE2,
	F_SS,
	F_FSGSBASE,
	F_TSC_ADJUST,
	F_FDP_EXCPTN_ONLY,
	F_SMEP,
	F_ERMS,
	F_INVPCID,
	F_FCS_DEPRECATED,
	F_RDSEED,
	F_SMAP,
	F_UMIP,
	F_RDPID,
	F_IBRS,
	F_STIBP,
	F_L1D_FLUSH,
	F_ARCH_CAPABILITIES,
	F_SSBD,
	F_MCDT_NO,
	F_SYSCALL,
	F_NX,
	F_GBPAGES,
	F_RDTSCP,
	F_LM,
	F_INVARIANT_TSC,
	F_ARAT,
};

/* Done in software, but only where the guest has the XSAVE family. */
static const u16 xsave_features[] = { F_XSAVE, F_XSAVEOPT, F_XSAVEC, F_XGETBV1, F_XSAVES, F_PKU };

struct host_feature {
	u16 feature;
	u8 level; /* x86-64 level that includes it; 9: model `host` only */
	const char *name;
};

static const struct host_feature host_features[] = {
	{ F_SSE3, 2, "SSE3" },
	{ F_SSSE3, 2, "SSSE3" },
	{ F_CX16, 2, "CMPXCHG16B" },
	{ F_SSE41, 2, "SSE4.1" },
	{ F_SSE42, 2, "SSE4.2" },
	{ F_POPCNT, 2, "POPCNT" },
	{ F_LAHF, 2, "LAHF in 64-bit mode" },
	{ F_AVX, 3, "AVX" },
	{ F_AVX2, 3, "AVX2" },
	{ F_BMI1, 3, "BMI1" },
	{ F_BMI2, 3, "BMI2" },
	{ F_F16C, 3, "F16C" },
	{ F_FMA, 3, "FMA" },
	{ F_LZCNT, 3, "LZCNT" },
	{ F_MOVBE, 3, "MOVBE" },
	{ F_AVX512F, 4, "AVX512F" },
	{ F_AVX512BW, 4, "AVX512BW" },
	{ F_AVX512CD, 4, "AVX512CD" },
	{ F_AVX512DQ, 4, "AVX512DQ" },
	{ F_AVX512VL, 4, "AVX512VL" },
	{ F_PCLMUL, 9, "" },
	{ F_AES, 9, "" },
	{ F_ADX, 9, "" },
	{ F_AVX512IFMA, 9, "" },
	{ F_CLFLUSHOPT, 9, "" },
	{ F_CLWB, 9, "" },
	{ F_SHA, 9, "" },
	{ F_AVX512VBMI, 9, "" },
	{ F_AVX512VBMI2, 9, "" },
	{ F_GFNI, 9, "" },
	{ F_VAES, 9, "" },
	{ F_VPCLMUL, 9, "" },
	{ F_AVX512VNNI, 9, "" },
	{ F_AVX512BITALG, 9, "" },
	{ F_AVX512VPOPCNTDQ, 9, "" },
	{ F_CLDEMOTE, 9, "" },
	{ F_MOVDIRI, 9, "" },
	{ F_MOVDIR64B, 9, "" },
	{ F_FSRM, 9, "" },
	{ F_AVX512VP2INTERSECT, 9, "" },
	{ F_SERIALIZE, 9, "" },
	{ F_AVX512FP16, 9, "" },
	{ F_AVX_VNNI, 9, "" },
	{ F_AVX512BF16, 9, "" },
	{ F_FZRM, 9, "" },
	{ F_FSRS, 9, "" },
	{ F_FSRC, 9, "" },
	{ F_PREFETCHW, 9, "" },
};

static const u16 avx512_features[] = {
	F_AVX512F,	   F_AVX512DQ,		 F_AVX512IFMA,	F_AVX512CD,   F_AVX512BW,
	F_AVX512VL,	   F_AVX512VBMI,	 F_AVX512VBMI2, F_AVX512VNNI, F_AVX512BITALG,
	F_AVX512VPOPCNTDQ, F_AVX512VP2INTERSECT, F_AVX512FP16,	F_AVX512BF16,
};
static const u16 avx_features[] = { F_AVX, F_AVX2, F_F16C, F_FMA, F_VAES, F_VPCLMUL, F_AVX_VNNI };

/* ARCH_CAPABILITIES: RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO
 * FBSDP_NO PSDP_NO BHI_NO PBRSB_NO GDS_NO RFDS_NO ITS_NO */
#define ARCH_CAPABILITIES                                                                                              \
	(BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) |        \
	 BIT(24) | BIT(26) | BIT(27) | BIT(62))
#define SPEC_CTRL_SUPPORTED 7ull /* IBRS STIBP SSBD */

struct regs {
	u32 eax, ebx, ecx, edx;
};

/* Under another hypervisor CPUID leaves the virtual machine, some 16 us each time, and these are asked for again and
 * again. */
static struct host_leaf {
	u32 leaf, subleaf;
	_Atomic bool known;
	struct regs r;
} host_leaves[] = {
	{ .leaf = 0 },
	{ .leaf = 1 },
	{ .leaf = 4 },
	{ .leaf = 4, .subleaf = 1 },
	{ .leaf = 4, .subleaf = 2 },
	{ .leaf = 4, .subleaf = 3 },
	{ .leaf = 4, .subleaf = 4 },
	{ .leaf = 7 },
	{ .leaf = 7, .subleaf = 1 },
	{ .leaf = 0x80000000u },
	{ .leaf = 0x80000001u },
	{ .leaf = 0x80000002u },
	{ .leaf = 0x80000003u },
	{ .leaf = 0x80000004u },
	{ .leaf = 0x80000008u },
};

static struct regs ask_host(u32 leaf, u32 subleaf)
{
	struct host_leaf *known = NULL;
	struct regs r;

	for (unsigned i = 0; i < ARRAY_SIZE(host_leaves) && !known; i++)
		if (host_leaves[i].leaf == leaf && host_leaves[i].subleaf == subleaf)
			known = &host_leaves[i];
	if (known && atomic_load_explicit(&known->known, memory_order_acquire))
		return known->r;
	__cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
	if (known) {
		known->r = r; /* the same whoever writes it */
		atomic_store_explicit(&known->known, true, memory_order_release);
	}
	return r;
}

static struct regs host_cpuid(u32 leaf, u32 subleaf)
{
	return ask_host(leaf & 0x80000000u, 0).eax >= leaf ? ask_host(leaf, subleaf) : (struct regs){ 0 };
}

bool cpu_host_has_bmi2(void)
{
	return host_cpuid(7, 0).ebx & BIT(8);
}

static bool host_is_intel(void)
{
	struct regs r = host_cpuid(0, 0);

	return r.ebx == 0x756e6547 && r.edx == 0x49656e69 && r.ecx == 0x6c65746e;
}

static void drop_all(struct feature_set *s, const u16 *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		feature_drop(s, list[i]);
}

/* What the host can run natively, as far as its operating system lets it. */
static void host_feature_set(struct feature_set *s)
{
	u64 components = fpu_host_components();

	memset(s, 0, sizeof(*s));
	s->word[W_1_ECX] = host_cpuid(1, 0).ecx;
	s->word[W_7_EBX] = host_cpuid(7, 0).ebx;
	s->word[W_7_ECX] = host_cpuid(7, 0).ecx;
	s->word[W_7_EDX] = host_cpuid(7, 0).edx;
	if (host_cpuid(7, 0).eax >= 1)
		s->word[W_7_1_EAX] = host_cpuid(7, 1).eax;
	s->word[W_X1_ECX] = host_cpuid(0x80000001u, 0).ecx;
	if (!(components & XCR0_AVX))
		drop_all(s, avx_features, ARRAY_SIZE(avx_features));
	if (!(components & XCR0_AVX) || (components & XCR0_AVX512) != XCR0_AVX512 || !feature_get(s, F_AVX512F))
		drop_all(s, avx512_features, ARRAY_SIZE(avx512_features));
}

/* 2, 3, 4, 9 for host, 0 for an unknown name. */
static unsigned model_level(const char *name)
{
	static const char prefix[] = "x86-64-v";

	if (!strcmp(name, "host"))
		return 9;
	if (strncmp(name, prefix, sizeof(prefix) - 1) || strlen(name) != sizeof(prefix))
		return 0;
	return name[8] >= '2' && name[8] <= '4' ? (unsigned)(name[8] - '0') : 0;
}

/* Features that need nothing of the hardware below, even where it runs the guest's code: MSRs and the APIC are ours,
 * the others are statements. */
static const u16 own_features[] = {
	F_HYPERVISOR,	F_X2APIC,
	F_TSC_DEADLINE, F_MSR,
	F_MCE,		F_APIC,
	F_MTRR,		F_MCA,
	F_PAT,		F_SS,
	F_TSC_ADJUST,	F_IBRS,
	F_STIBP,	F_SSBD,
	F_L1D_FLUSH,	F_ARCH_CAPABILITIES,
	F_MCDT_NO,	F_INVARIANT_TSC,
	F_ARAT,		F_HTT,
};

static bool allowed(const struct cpu_limits *l, unsigned feature)
{
	if (!l || (l->word[feature / 32] >> (feature % 32) & 1))
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(own_features); i++)
		if (own_features[i] == feature)
			return true;
	return false;
}

static int choose_features(struct feature_set *f, unsigned level, const char *name, const struct cpu_limits *limits,
			   struct error *e)
{
	struct feature_set host;

	host_feature_set(&host);
	memset(f, 0, sizeof(*f));
	for (unsigned i = 0; i < ARRAY_SIZE(base_features); i++)
		if (allowed(limits, base_features[i]))
			feature_add(f, base_features[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(host_features); i++) {
		const struct host_feature *h = &host_features[i];

		if (h->level > level)
			continue;
		if (feature_get(&host, h->feature) && allowed(limits, h->feature))
			feature_add(f, h->feature);
		else if (level != 9)
			return error_set(e,
					 "CPU model %s needs %s, which this host%s does not have; use --cpu-model host",
					 name, h->name, feature_get(&host, h->feature) ? "'s KVM" : "");
	}
	if ((level == 9 ? feature_get(&host, F_XSAVE) : level >= 3) && allowed(limits, F_XSAVE))
		for (unsigned i = 0; i < ARRAY_SIZE(xsave_features); i++)
			if (allowed(limits, xsave_features[i]))
				feature_add(f, xsave_features[i]);
	if (!feature_get(f, F_XSAVE)) {
		drop_all(f, avx_features, ARRAY_SIZE(avx_features));
		drop_all(f, avx512_features, ARRAY_SIZE(avx512_features));
	}
	return 0;
}

static struct cpuid_entry *add(struct cpu_model *m, u32 leaf, int subleaf, struct regs r)
{
	struct cpuid_entry *e;

	/* An invariant: the table is filled by this file alone. */
	if (m->entries >= ARRAY_SIZE(m->entry))
		__builtin_trap();
	e = &m->entry[m->entries++];
	*e = (struct cpuid_entry){
		.leaf = leaf, .has_subleaf = subleaf >= 0, .eax = r.eax, .ebx = r.ebx, .ecx = r.ecx, .edx = r.edx
	};
	if (subleaf > 0)
		e->subleaf = (u32)subleaf;
	return e;
}

static unsigned log2_up(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* Leaf 4, with the sharing of our topology: one thread a core, one package. */
static void add_caches(struct cpu_model *m, unsigned level, unsigned cpus)
{
	/* 32 KiB L1 data and instruction, 1 MiB L2, 16 MiB L3, 64-byte lines */
	static const struct regs neutral[] = {
		{ 0x121, 7 << 22 | 63, 63, 0 },
		{ 0x122, 7 << 22 | 63, 63, 0 },
		{ 0x143, 15 << 22 | 63, 1023, 0 },
		{ 0x163, 15 << 22 | 63, 16383, 4 },
	};
	u32 ids = (1u << log2_up(cpus)) - 1;
	bool from_host = level == 9 && host_is_intel() && (host_cpuid(4, 0).eax & 0x1f);

	for (unsigned i = 0;; i++) {
		struct regs r = { 0 };

		if (from_host)
			r = host_cpuid(4, i);
		else if (i < ARRAY_SIZE(neutral))
			r = neutral[i];
		if (!(r.eax & 0x1f) || i >= 8) {
			add(m, 4, (int)i, (struct regs){ 0 });
			return;
		}
		r.eax &= 0x3fff;
		r.eax |= (ids & 0x3f) << 26;
		if ((r.eax >> 5 & 7) >= 3)
			r.eax |= ids << 14;
		add(m, 4, (int)i, r);
	}
}

static void add_topology(struct cpu_model *m, u32 leaf, unsigned cpus)
{
	add(m, leaf, 0, (struct regs){ 0, 1, 1 << 8, 0 });
	add(m, leaf, 1, (struct regs){ log2_up(cpus), cpus, 2 << 8, 0 });
	/* any further sub-leaf: level type 0 */
	add(m, leaf, -1, (struct regs){ 0 });
}

static void add_xsave(struct cpu_model *m, const struct feature_set *f)
{
	u64 all = m->xcr0_supported | m->xss_supported;

	if (!m->xsave) {
		add(m, 0xd, -1, (struct regs){ 0 });
		return;
	}
	add(m, 0xd, 0,
	    (struct regs){ (u32)m->xcr0_supported, XSTATE_EXTENDED, xstate_standard_size(m->xcr0_supported),
			   (u32)(m->xcr0_supported >> 32) });
	add(m, 0xd, 1, (struct regs){ f->word[W_D_1_EAX], 0, (u32)m->xss_supported, 0 });
	for (unsigned i = 2; i < 63; i++)
		if (all & BIT(i))
			add(m, 0xd, (int)i, (struct regs){ xstate_size(i), xstate_offset(i), 0, 0 });
}

static u64 gcd(u64 a, u64 b)
{
	while (b) {
		u64 t = a % b;

		a = b;
		b = t;
	}
	return a;
}

/*
 * TSC = crystal * EBX / EAX with the 1 GHz crystal that also drives the APIC
 * timer. Linux multiplies crystal kHz by the numerator in 32 bits: a ratio
 * that would not fit is not reported (the hypervisor leaf still has kHz).
 */
static void add_tsc(struct cpu_model *m)
{
	u64 g = gcd(m->tsc_hz, APIC_BUS_HZ), num = m->tsc_hz / g, den = APIC_BUS_HZ / g;
	u32 mhz = (u32)(m->tsc_hz / 1000000);

	if (APIC_BUS_HZ / 1000 * num <= UINT32_MAX && den <= UINT32_MAX)
		add(m, 0x15, -1, (struct regs){ (u32)den, (u32)num, (u32)APIC_BUS_HZ, 0 });
	else
		add(m, 0x15, -1, (struct regs){ 0 });
	add(m, 0x16, -1, (struct regs){ mhz & 0xffff, mhz & 0xffff, 100, 0 });
}

static void add_brand(struct cpu_model *m, unsigned level)
{
	char brand[48] = "Ectype ";
	bool from_host = level == 9 && ask_host(0x80000000u, 0).eax >= 0x80000004u;

	if (level != 9)
		strcat(strcat(brand, m->name), " Processor");
	else if (!from_host)
		strcat(brand, "x86-64 Processor");
	for (unsigned i = 0; i < 3; i++) {
		struct regs r;

		if (from_host)
			r = host_cpuid(0x80000002u + i, 0);
		else
			memcpy(&r, brand + 16 * i, 16);
		add(m, 0x80000002u + i, -1, r);
	}
}

static void add_basic(struct cpu_model *m, const struct feature_set *f, unsigned level, unsigned cpus)
{
	u32 signature = level == 9 && host_is_intel() ? host_cpuid(1, 0).eax & 0x0fff3fff : SIGNATURE_NEUTRAL;
	u32 logical = 1u << log2_up(cpus);

	add(m, 0, -1, (struct regs){ MAX_BASIC, 0x756e6547, 0x6c65746e, 0x49656e69 });
	add(m, 1, -1, (struct regs){ signature, 8 << 8 | (logical & 0xff) << 16, f->word[W_1_ECX], f->word[W_1_EDX] });
	/* leaf 4 has the caches, leaf 18H the TLBs; 64-byte prefetch */
	add(m, 2, -1, (struct regs){ 0x00feff01, 0xf0, 0, 0 });
	add_caches(m, level, cpus);
	add(m, 6, -1, (struct regs){ f->word[W_6_EAX], 0, 0, 0 });
	add(m, 7, 0, (struct regs){ 2, f->word[W_7_EBX], f->word[W_7_ECX], f->word[W_7_EDX] });
	add(m, 7, 1, (struct regs){ f->word[W_7_1_EAX], 0, 0, 0 });
	add(m, 7, 2, (struct regs){ 0, 0, 0, f->word[W_7_2_EDX] });
	add_topology(m, 0xb, cpus);
	add_xsave(m, f);
	add_tsc(m);
	add_topology(m, 0x1f, cpus);
}

static void add_extended(struct cpu_model *m, const struct feature_set *f, unsigned level)
{
	add(m, HYPERVISOR_BASE, -1,
	    (struct regs){ MAX_HYPERVISOR, 0x79746345, 0x63456570, 0x65707974 }); /* EctypeEctype */
	/* TSC and APIC bus frequency in kHz */
	add(m, MAX_HYPERVISOR, -1, (struct regs){ (u32)(m->tsc_hz / 1000), (u32)(APIC_BUS_HZ / 1000), 0, 0 });

	add(m, 0x80000000u, -1, (struct regs){ MAX_EXTENDED, 0, 0, 0 });
	add(m, 0x80000001u, -1, (struct regs){ 0, 0, f->word[W_X1_ECX], f->word[W_X1_EDX] });
	add_brand(m, level);
	/* L2: KiB, associativity code 8 (16-way), line size; agrees with leaf 4 of the neutral models */
	add(m, 0x80000006u, -1, (struct regs){ 0, 0, 1024 << 16 | 8 << 12 | 64, 0 });
	add(m, 0x80000007u, -1, (struct regs){ 0, 0, 0, f->word[W_X7_EDX] });
	add(m, 0x80000008u, -1, (struct regs){ m->lin_bits << 8 | m->phys_bits, 0, 0, 0 });
}

/* If leaf 4 is the host's, leaf 80000006H must say the same about L2. */
static void match_l2(struct cpu_model *m)
{
	u32 kib = 0;

	for (unsigned i = 0; i < m->entries; i++) {
		const struct cpuid_entry *c = &m->entry[i];

		if (c->leaf == 4 && (c->eax >> 5 & 7) == 2)
			kib = (u32)((u64)((c->ebx >> 22) + 1) * ((c->ebx >> 12 & 0x3ff) + 1) * ((c->ebx & 0xfff) + 1) *
				    (c->ecx + 1) / 1024);
	}
	for (unsigned i = 0; kib && i < m->entries; i++)
		if (m->entry[i].leaf == 0x80000006u)
			m->entry[i].ecx = (kib & 0xffff) << 16 | 8 << 12 | 64;
}

void cpu_model_derive(struct cpu_model *m, const struct feature_set *f)
{
	m->xsave = feature_get(f, F_XSAVE);
	m->avx = feature_get(f, F_AVX);
	m->avx512 = feature_get(f, F_AVX512F);
	m->pku = feature_get(f, F_PKU);
	m->la57 = feature_get(f, F_LA57);
	m->nx = feature_get(f, F_NX);
	m->gbpages = feature_get(f, F_GBPAGES);
	m->pcid = feature_get(f, F_PCID);
	m->invpcid = feature_get(f, F_INVPCID);
	m->smep = feature_get(f, F_SMEP);
	m->smap = feature_get(f, F_SMAP);
	m->umip = feature_get(f, F_UMIP);
	m->rdtscp = feature_get(f, F_RDTSCP);
	m->fsgsbase = feature_get(f, F_FSGSBASE);
	m->xsaveopt = feature_get(f, F_XSAVEOPT);
	m->xsavec = feature_get(f, F_XSAVEC);
	m->xsaves = feature_get(f, F_XSAVES);
	m->xgetbv1 = feature_get(f, F_XGETBV1);
	m->rdpid = feature_get(f, F_RDPID);
	m->rdrand = feature_get(f, F_RDRAND);
	m->rdseed = feature_get(f, F_RDSEED);
	m->sse42 = feature_get(f, F_SSE42);
	m->avx2 = feature_get(f, F_AVX2);
	m->x2apic = feature_get(f, F_X2APIC);
	m->tsc_deadline = feature_get(f, F_TSC_DEADLINE);
	m->tsc_adjust = feature_get(f, F_TSC_ADJUST);
	m->sysenter = feature_get(f, F_SEP);
	m->syscall = feature_get(f, F_SYSCALL);
	m->monitor = feature_get(f, F_MONITOR);

	m->xcr0_supported = m->xsave ? XCR0_X87 | XCR0_SSE : 0;
	m->xcr0_supported |= m->avx ? XCR0_AVX : 0;
	m->xcr0_supported |= m->avx512 ? XCR0_AVX512 : 0;
	m->xcr0_supported |= m->pku ? XCR0_PKRU : 0;
	m->xss_supported = 0;
	m->cr4_supported = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
			   CR4_OSFXSR | CR4_OSXMMEXCPT;
	m->cr4_supported |= m->umip ? CR4_UMIP : 0;
	m->cr4_supported |= m->la57 ? CR4_LA57 : 0;
	m->cr4_supported |= m->fsgsbase ? CR4_FSGSBASE : 0;
	m->cr4_supported |= m->pcid ? CR4_PCIDE : 0;
	m->cr4_supported |= m->xsave ? CR4_OSXSAVE : 0;
	m->cr4_supported |= m->smep ? CR4_SMEP : 0;
	m->cr4_supported |= m->smap ? CR4_SMAP : 0;
	m->cr4_supported |= m->pku ? CR4_PKE : 0;
	m->efer_supported = EFER_SCE | EFER_LME | (m->nx ? EFER_NXE : 0);
	m->arch_capabilities = ARCH_CAPABILITIES;
	m->spec_ctrl_supported = SPEC_CTRL_SUPPORTED;
	cpu_model_fill_isa_sets(m, f);
}

/* MXCSR_MASK as the host's FXSAVE gives it; zero stands for FFBFH (vol. 1, 11.6.6). */
static u32 host_mxcsr_mask(void)
{
	_Alignas(16) u8 area[512] = { 0 };
	u32 mask;

	__asm__ volatile("fxsave64 %0" : "+m"(area));
	memcpy(&mask, area + FX_MXCSR_MASK, 4);
	return mask ? mask : 0xffbf;
}

int cpu_model_init(struct cpu_model *m, const char *name, unsigned cpus, u64 tsc_hz, struct error *e)
{
	return cpu_model_init_within(m, name, cpus, tsc_hz, NULL, e);
}

static const struct {
	u32 leaf, subleaf;
	u8 reg; /* EAX to EDX: 0 to 3 */
	u8 word;
} feature_words[] = {
	{ 1, 0, 2, W_1_ECX },
	{ 1, 0, 3, W_1_EDX },
	{ 7, 0, 1, W_7_EBX },
	{ 7, 0, 2, W_7_ECX },
	{ 7, 0, 3, W_7_EDX },
	{ 7, 1, 0, W_7_1_EAX },
	{ 0xd, 1, 0, W_D_1_EAX },
	{ 0x80000001u, 0, 2, W_X1_ECX },
	{ 0x80000001u, 0, 3, W_X1_EDX },
	{ 0x80000007u, 0, 3, W_X7_EDX },
	{ 6, 0, 0, W_6_EAX },
	{ 7, 2, 3, W_7_2_EDX },
};

void cpu_limits_add(struct cpu_limits *l, u32 leaf, u32 subleaf, const u32 regs[4])
{
	for (unsigned i = 0; i < ARRAY_SIZE(feature_words); i++)
		if (feature_words[i].leaf == leaf && feature_words[i].subleaf == subleaf)
			l->word[feature_words[i].word] |= regs[feature_words[i].reg];
}

void cpu_model_features(const struct cpu_model *m, struct feature_set *f)
{
	*f = (struct feature_set){ 0 };
	for (unsigned i = 0; i < m->entries; i++) {
		const struct cpuid_entry *c = &m->entry[i];
		const u32 regs[4] = { c->eax, c->ebx, c->ecx, c->edx };

		for (unsigned k = 0; k < ARRAY_SIZE(feature_words); k++)
			if (feature_words[k].leaf == c->leaf && feature_words[k].subleaf == c->subleaf)
				f->word[feature_words[k].word] |= regs[feature_words[k].reg];
	}
}

void cpu_feature_describe(unsigned feature, char *out, size_t size)
{
	static const char *const regs[] = { "EAX", "EBX", "ECX", "EDX" };
	const char *name = "";
	unsigned k = 0;

	while (feature_words[k].word != feature / 32)
		k++;
	for (unsigned i = 0; i < ARRAY_SIZE(host_features); i++)
		if (host_features[i].feature == feature)
			name = host_features[i].name;
	snprintf(out, size, "%s%sCPUID %x.%u %s bit %u", name, *name ? ", " : "", feature_words[k].leaf,
		 feature_words[k].subleaf, regs[feature_words[k].reg], feature % 32);
}

int cpu_model_check_within(const struct cpu_model *m, const struct cpu_limits *l, struct error *e)
{
	for (unsigned i = 0; i < m->entries; i++) {
		const struct cpuid_entry *c = &m->entry[i];
		const u32 regs[4] = { c->eax, c->ebx, c->ecx, c->edx };

		for (unsigned k = 0; k < ARRAY_SIZE(feature_words); k++) {
			unsigned word = feature_words[k].word;

			if (feature_words[k].leaf != c->leaf || feature_words[k].subleaf != c->subleaf)
				continue;
			for (unsigned bit = 0; bit < 32; bit++)
				if ((regs[feature_words[k].reg] >> bit & 1) && !allowed(l, word * 32 + bit))
					return error_set(
					    e, "%s lacks what the guest was shown: CPUID %x.%u, %s bit %u", l->whose,
					    c->leaf, c->subleaf,
					    (const char *const[]){ "EAX", "EBX", "ECX", "EDX" }[feature_words[k].reg],
					    bit);
		}
	}
	if (l->phys_bits && m->phys_bits > l->phys_bits)
		return error_set(e, "%s has physical addresses of %u bits, the guest was shown %u", l->whose,
				 l->phys_bits, m->phys_bits);
	return 0;
}

int cpu_model_init_within(struct cpu_model *m, const char *name, unsigned cpus, u64 tsc_hz,
			  const struct cpu_limits *limits, struct error *e)
{
	unsigned level = model_level(name), host_phys = host_cpuid(0x80000008u, 0).eax & 0xff;
	struct feature_set f;

	memset(m, 0, sizeof(*m));
	if (!level)
		return error_set(e, "unknown CPU model '%.32s'; use x86-64-v2, x86-64-v3, x86-64-v4 or host", name);
	if (cpus < 1 || cpus > 255)
		return error_set(e, "%u processors asked for; 1 to 255 are possible", cpus);
	if (choose_features(&f, level, name, limits, e))
		return -1;
	if (cpus > 1)
		feature_add(&f, F_HTT);
	strcpy(m->name, name);
	m->tsc_hz = tsc_hz;
	m->phys_bits = level == 9 && host_phys >= 36 ? MIN(PHYS_BITS, host_phys) : PHYS_BITS;
	if (limits && limits->phys_bits)
		m->phys_bits = MIN(m->phys_bits, limits->phys_bits);
	m->lin_bits = LIN_BITS;
	m->mxcsr_mask = host_mxcsr_mask();
	cpu_model_derive(m, &f);
	add_basic(m, &f, level, cpus);
	add_extended(m, &f, level);
	match_l2(m);
	return 0;
}

/*
 * Leaves 40000000H and 40000001H as cpuid.rst has them; who this is follows
 * at 40000100H, where a second interface is looked for. No hint is given
 * (EDX): a processor may lose its host processor at any time.
 */
void cpu_model_offer_pv(struct cpu_model *m, u32 features)
{
	m->pv_features = features;
	if (!features)
		return;
	for (unsigned i = 0; i < m->entries; i++) {
		struct cpuid_entry *e = &m->entry[i];

		if (e->leaf != HYPERVISOR_BASE)
			continue;
		add(m, HYPERVISOR_BASE + 0x100, -1, (struct regs){ HYPERVISOR_BASE + 0x100, e->ebx, e->ecx, e->edx });
		e->ebx = 0x4b4d564b; /* KVMKVMKVM */
		e->ecx = 0x564b4d56;
		e->edx = 0x4d;
		break;
	}
	add(m, HYPERVISOR_BASE + 1, -1, (struct regs){ features, 0, 0, 0 });
}
