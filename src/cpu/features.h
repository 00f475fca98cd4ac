/*
 * CPUID feature bits by name (SDM vol. 2, CPUID): one list of the ones the
 * model code and the table of instruction sets talk about. A feature is
 * numbered word * 32 + bit.
 */
#ifndef ECTYPE_CPU_FEATURES_H
#define ECTYPE_CPU_FEATURES_H

#include "cpu/cpuid.h"

enum feature_word {
	W_1_ECX,
	W_1_EDX,
	W_7_EBX,
	W_7_ECX,
	W_7_EDX,
	W_7_1_EAX,
	W_D_1_EAX,
	W_X1_ECX,
	W_X1_EDX,
	W_X7_EDX,
	W_6_EAX,
	W_7_2_EDX,
	W_COUNT,
};

#define F(word, bit) (W_##word * 32 + (bit))
enum feature {
	F_SSE3 = F(1_ECX, 0),
	F_PCLMUL = F(1_ECX, 1),
	F_MONITOR = F(1_ECX, 3),
	F_SSSE3 = F(1_ECX, 9),
	F_FMA = F(1_ECX, 12),
	F_CX16 = F(1_ECX, 13),
	F_PCID = F(1_ECX, 17),
	F_SSE41 = F(1_ECX, 19),
	F_SSE42 = F(1_ECX, 20),
	F_X2APIC = F(1_ECX, 21),
	F_MOVBE = F(1_ECX, 22),
	F_POPCNT = F(1_ECX, 23),
	F_TSC_DEADLINE = F(1_ECX, 24),
	F_AES = F(1_ECX, 25),
	F_XSAVE = F(1_ECX, 26),
	F_AVX = F(1_ECX, 28),
	F_F16C = F(1_ECX, 29),
	F_RDRAND = F(1_ECX, 30),
	F_HYPERVISOR = F(1_ECX, 31),

	F_FPU = F(1_EDX, 0),
	F_VME = F(1_EDX, 1),
	F_DE = F(1_EDX, 2),
	F_PSE = F(1_EDX, 3),
	F_TSC = F(1_EDX, 4),
	F_MSR = F(1_EDX, 5),
	F_PAE = F(1_EDX, 6),
	F_MCE = F(1_EDX, 7),
	F_CX8 = F(1_EDX, 8),
	F_APIC = F(1_EDX, 9),
	F_SEP = F(1_EDX, 11),
	F_MTRR = F(1_EDX, 12),
	F_PGE = F(1_EDX, 13),
	F_MCA = F(1_EDX, 14),
	F_CMOV = F(1_EDX, 15),
	F_PAT = F(1_EDX, 16),
	F_PSE36 = F(1_EDX, 17),
	F_CLFSH = F(1_EDX, 19),
	F_MMX = F(1_EDX, 23),
	F_FXSR = F(1_EDX, 24),
	F_SSE = F(1_EDX, 25),
	F_SSE2 = F(1_EDX, 26),
	F_SS = F(1_EDX, 27),
	F_HTT = F(1_EDX, 28),

	F_FSGSBASE = F(7_EBX, 0),
	F_TSC_ADJUST = F(7_EBX, 1),
	F_BMI1 = F(7_EBX, 3),
	F_AVX2 = F(7_EBX, 5),
	F_FDP_EXCPTN_ONLY = F(7_EBX, 6),
	F_SMEP = F(7_EBX, 7),
	F_BMI2 = F(7_EBX, 8),
	F_ERMS = F(7_EBX, 9),
	F_INVPCID = F(7_EBX, 10),
	F_FCS_DEPRECATED = F(7_EBX, 13),
	F_AVX512F = F(7_EBX, 16),
	F_AVX512DQ = F(7_EBX, 17),
	F_RDSEED = F(7_EBX, 18),
	F_ADX = F(7_EBX, 19),
	F_SMAP = F(7_EBX, 20),
	F_AVX512IFMA = F(7_EBX, 21),
	F_CLFLUSHOPT = F(7_EBX, 23),
	F_CLWB = F(7_EBX, 24),
	F_AVX512CD = F(7_EBX, 28),
	F_SHA = F(7_EBX, 29),
	F_AVX512BW = F(7_EBX, 30),
	F_AVX512VL = F(7_EBX, 31),

	F_AVX512VBMI = F(7_ECX, 1),
	F_UMIP = F(7_ECX, 2),
	F_PKU = F(7_ECX, 3),
	F_AVX512VBMI2 = F(7_ECX, 6),
	F_GFNI = F(7_ECX, 8),
	F_VAES = F(7_ECX, 9),
	F_VPCLMUL = F(7_ECX, 10),
	F_AVX512VNNI = F(7_ECX, 11),
	F_AVX512BITALG = F(7_ECX, 12),
	F_AVX512VPOPCNTDQ = F(7_ECX, 14),
	F_LA57 = F(7_ECX, 16),
	F_RDPID = F(7_ECX, 22),
	F_CLDEMOTE = F(7_ECX, 25),
	F_MOVDIRI = F(7_ECX, 27),
	F_MOVDIR64B = F(7_ECX, 28),

	F_FSRM = F(7_EDX, 4),
	F_AVX512VP2INTERSECT = F(7_EDX, 8),
	F_SERIALIZE = F(7_EDX, 14),
	F_AVX512FP16 = F(7_EDX, 23),
	F_IBRS = F(7_EDX, 26),
	F_STIBP = F(7_EDX, 27),
	F_L1D_FLUSH = F(7_EDX, 28),
	F_ARCH_CAPABILITIES = F(7_EDX, 29),
	F_SSBD = F(7_EDX, 31),

	F_AVX_VNNI = F(7_1_EAX, 4),
	F_AVX512BF16 = F(7_1_EAX, 5),
	F_FZRM = F(7_1_EAX, 10),
	F_FSRS = F(7_1_EAX, 11),
	F_FSRC = F(7_1_EAX, 12),
	F_MCDT_NO = F(7_2_EDX, 5),

	F_XSAVEOPT = F(D_1_EAX, 0),
	F_XSAVEC = F(D_1_EAX, 1),
	F_XGETBV1 = F(D_1_EAX, 2),
	F_XSAVES = F(D_1_EAX, 3),

	F_LAHF = F(X1_ECX, 0),
	F_LZCNT = F(X1_ECX, 5),
	F_PREFETCHW = F(X1_ECX, 8),
	F_SYSCALL = F(X1_EDX, 11),
	F_NX = F(X1_EDX, 20),
	F_GBPAGES = F(X1_EDX, 26),
	F_RDTSCP = F(X1_EDX, 27),
	F_LM = F(X1_EDX, 29),
	F_INVARIANT_TSC = F(X7_EDX, 8),
	F_ARAT = F(6_EAX, 2),
};
#undef F

struct feature_set {
	u32 word[W_COUNT];
};

static inline bool feature_get(const struct feature_set *s, unsigned f)
{
	return s->word[f / 32] >> (f % 32) & 1;
}
static inline void feature_add(struct feature_set *s, unsigned f)
{
	s->word[f / 32] |= 1u << (f % 32);
}
static inline void feature_drop(struct feature_set *s, unsigned f)
{
	s->word[f / 32] &= ~(1u << (f % 32));
}

/* What the leaves of `m` say. */
void cpu_model_features(const struct cpu_model *m, struct feature_set *f);
/* "AVX512F, CPUID 7.0 EBX bit 16" */
void cpu_feature_describe(unsigned feature, char *out, size_t size);
/* The registers' legal bits and the flags other code asks for: all of `m` that follows from the features alone. */
void cpu_model_derive(struct cpu_model *m, const struct feature_set *f);
/* Fill m->isa_sets from the features. */
void cpu_model_fill_isa_sets(struct cpu_model *m, const struct feature_set *f);

#endif
