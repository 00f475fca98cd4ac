/*
 * The CPU model: what CPUID says and what the rest of the code therefore
 * allows. One immutable table per machine.
 */
#ifndef ECTYPE_CPU_CPUID_H
#define ECTYPE_CPU_CPUID_H

#include "base/error.h"
#include "cpu/vcpu.h"
#include "state/codec.h"

/* Features the code asks about; filled from the CPUID table when the model is built. */
struct cpu_model {
	char name[32];
	u64 xcr0_supported; /* XCR0 bits the guest may set */
	u64 xss_supported;
	u64 cr4_supported; /* CR4 bits that exist; others #GP */
	u64 efer_supported;
	unsigned phys_bits, lin_bits;
	bool nx, gbpages, pcid, invpcid, smep, smap, umip, pku, la57, rdtscp, fsgsbase, xsave, xsaveopt, xsavec, xsaves,
	    rdpid, rdrand, rdseed, sse42, avx, avx2, avx512, x2apic, tsc_deadline, sysenter, syscall, monitor, xgetbv1,
	    tsc_adjust;
	u32 mxcsr_mask;		 /* MXCSR bits that exist */
	u64 arch_capabilities;	 /* IA32_ARCH_CAPABILITIES */
	u64 spec_ctrl_supported; /* bits of IA32_SPEC_CTRL; others #GP */
	u8 isa_sets[32];	 /* bitmap by ZydisISASet: what the model offers */
	u32 pv_features;	 /* of the paravirtual interface (cpu/pv.h); 0: there is none */
	u64 tsc_hz;		 /* what CPUID leaf 15H and the hypervisor leaf report */
	struct cpuid_entry {
		u32 leaf, subleaf;
		bool has_subleaf;
		u32 eax, ebx, ecx, edx;
	} entry[96];
	unsigned entries;
};

/* `name`: x86-64-v2 | x86-64-v3 | x86-64-v4 | host. Fails, naming the missing
 * feature, if the host lacks something the model needs. `cpus`: number of
 * processors (topology leaves). */
int cpu_model_init(struct cpu_model *m, const char *name, unsigned cpus, u64 tsc_hz, struct error *e);

/* What the hardware below lets a model offer: CPUID words that are masks (those of cpu/features.h), phys_bits. */
struct cpu_limits {
	const char *whose; /* "KVM": for messages */
	u32 word[16];
	unsigned phys_bits; /* 0: no limit */
};
/* What the host's processor has, whatever a model offers. */
bool cpu_host_has_bmi2(void);
/* Adds what a leaf of the hardware's says, all four registers. */
void cpu_limits_add(struct cpu_limits *l, u32 leaf, u32 subleaf, const u32 regs[4]);
/* The same within `limits` (NULL: none): `host` is cut down to them, a named model that needs more fails. */
int cpu_model_init_within(struct cpu_model *m, const char *name, unsigned cpus, u64 tsc_hz,
			  const struct cpu_limits *limits, struct error *e);
/* 0 if all that `m` offers is within `l`, else -1 with *e naming what is not. */
int cpu_model_check_within(const struct cpu_model *m, const struct cpu_limits *l, struct error *e);
/* Offers the paravirtual interface with `features` (PV_* of cpu/pv.h). After cpu_model_init(), once. 0: nothing. */
void cpu_model_offer_pv(struct cpu_model *m, u32 features);

/*
 * The model in a snapshot, section "cpu-model" (cpuid_save.c): the guest goes
 * on with what it was shown. cpu_model_load() makes the model of the record.
 * -1 with *e if the record is not sound, or naming what this host, within
 * `limits`, does not have of it.
 */
void cpu_model_save(const struct cpu_model *m, struct encoder *e);
int cpu_model_load(struct cpu_model *m, struct decoder *d, unsigned cpus, const struct cpu_limits *limits,
		   struct error *e);

/* CPUID as the guest of `v` sees it now (OSXSAVE, APIC id, XCR0-dependent
 * sizes follow the state). Also for the gdb stub and tests. */
void cpu_cpuid(struct vcpu *v, u32 leaf, u32 subleaf, u32 out[4]);

/* Does the model have the extension an instruction belongs to?
 * `isa_set`: ZydisISASet of the decoded instruction. */
bool cpu_model_has_isa_set(const struct cpu_model *m, unsigned isa_set);

#endif
