/*
 * Model-specific registers (SDM vol. 4): every one that exists in the model,
 * with the checks a write makes; all others fault, as on hardware. Where
 * CPUID does not offer a feature (performance counters, RAPL, thermal
 * monitoring, CET, ...) its MSRs do not exist either.
 *
 * The local APIC's MSRs go to the machine first of all: the deadline timer
 * and x2APIC registers are what a running kernel writes most.
 */
#include "cpu/cpuid.h"
#include "cpu/linear.h"
#include "cpu/msr.h"
#include "cpu/sys.h"

#define MISC_ENABLE_READ_ONLY (MISC_BTS_UNAVAILABLE | MISC_PEBS_UNAVAILABLE)
#define MISC_ENABLE_WRITABLE MISC_FAST_STRINGS
#define MTRRCAP_FIX BIT(8)
#define MTRRCAP_WC BIT(10)
#define MTRR_VALID BIT(11)
#define MTRR_DEF_FE BIT(10)
#define MTRR_DEF_E BIT(11)
#define MCG_CTL_P BIT(8)
#define DEBUGCTL_WRITABLE 3ull /* LBR, BTF */

static bool apic_msr(const struct vcpu *v, u32 msr)
{
	if (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST)
		return v->model->x2apic;
	return msr == MSR_APIC_BASE || (msr == MSR_TSC_DEADLINE && v->model->tsc_deadline);
}

/* Index into mtrr_fixed, or -1. */
static int mtrr_fixed_index(u32 msr)
{
	if (msr == MSR_MTRR_FIX64K)
		return 0;
	if (msr == MSR_MTRR_FIX16K_80000 || msr == MSR_MTRR_FIX16K_A0000)
		return 1 + (int)(msr - MSR_MTRR_FIX16K_80000);
	if (msr >= MSR_MTRR_FIX4K_C0000 && msr <= MSR_MTRR_FIX4K_F8000)
		return 3 + (int)(msr - MSR_MTRR_FIX4K_C0000);
	return -1;
}

static bool mtrr_var(u32 msr)
{
	return msr >= MSR_MTRR_PHYSBASE0 && msr < MSR_MTRR_PHYSBASE0 + 2 * MTRR_VAR_COUNT;
}

static bool mtrr_type_valid(u8 type)
{
	return type <= 6 && type != 2 && type != 3;
}
static bool pat_type_valid(u8 type)
{
	return type <= 7 && type != 2 && type != 3;
}

static bool bytes_valid(u64 val, bool (*valid)(u8))
{
	for (unsigned i = 0; i < 8; i++)
		if (!valid((u8)(val >> 8 * i)))
			return false;
	return true;
}

static bool mc_bank(u32 msr)
{
	return msr >= MSR_MC0_CTL && msr < MSR_MC0_CTL + 4 * MCE_BANKS;
}

static u64 *mc_reg(struct cpu *c, u32 msr)
{
	unsigned bank = (msr - MSR_MC0_CTL) / 4;

	switch (msr & 3) {
	case 0:
		return &c->mc_ctl[bank];
	case 1:
		return &c->mc_status[bank];
	case 2:
		return &c->mc_addr[bank];
	default:
		return &c->mc_misc[bank];
	}
}

/* Maximum non-turbo ratio, in units of BUS_MHZ. */
static u64 bus_ratio(const struct vcpu *v)
{
	return v->model->tsc_hz / (BUS_MHZ * 1000000ull) & 0xff;
}

/* MSRs that are rarely read, by range. */
static int rdmsr_ranges(struct vcpu *v, u32 msr, u64 *val)
{
	struct cpu *c = &v->cpu;
	int fixed = mtrr_fixed_index(msr);

	if (fixed >= 0)
		*val = c->mtrr_fixed[fixed];
	else if (mtrr_var(msr))
		*val = msr & 1 ? c->mtrr_mask[(msr - MSR_MTRR_PHYSBASE0) / 2]
			       : c->mtrr_base[(msr - MSR_MTRR_PHYSBASE0) / 2];
	else if (mc_bank(msr))
		*val = *mc_reg(c, msr);
	else if (msr >= MSR_LASTBRANCHFROMIP && msr <= MSR_LASTINTTOIP)
		*val = 0;
	else if (cpu_is_pv_msr(v, msr)) {
		fpu_park(v);
		return v->hooks->pv_msr_read(v->machine, v->index, msr, val) ? fault_gp(v, 0) : 0;
	} else
		return fault_gp(v, 0);
	return 0;
}

/* Constants and rarely used registers. */
static int rdmsr_platform(struct vcpu *v, u32 msr, u64 *val)
{
	struct cpu *c = &v->cpu;

	switch (msr) {
	case MSR_P5_MC_ADDR:
	case MSR_P5_MC_TYPE:
	case MSR_PLATFORM_ID:
	case MSR_EBL_CR_POWERON:
	case MSR_MISC_FEATURES_ENABLES: /* CPUID faulting is not offered */
		*val = 0;
		return 0;
	case MSR_FEATURE_CONTROL: /* locked by firmware, nothing enabled */
		*val = c->feature_control | 1;
		return 0;
	case MSR_BIOS_SIGN_ID:
		*val = c->bios_sign_id;
		return 0;
	case MSR_PLATFORM_INFO:
		*val = c->platform_info ? c->platform_info : bus_ratio(v) << 8 | bus_ratio(v) << 40;
		return 0;
	case MSR_PERF_STATUS:
		*val = bus_ratio(v) << 8;
		return 0;
	case MSR_MTRRCAP:
		*val = MTRR_VAR_COUNT | MTRRCAP_FIX | MTRRCAP_WC;
		return 0;
	case MSR_MTRR_DEF_TYPE:
		*val = c->mtrr_def_type;
		return 0;
	case MSR_MCG_CAP:
		*val = MCE_BANKS | MCG_CTL_P;
		return 0;
	case MSR_MCG_STATUS:
		*val = c->mcg_status;
		return 0;
	case MSR_MCG_CTL:
		*val = c->mcg_ctl;
		return 0;
	case MSR_MISC_ENABLE:
		*val = c->misc_enable | MISC_ENABLE_READ_ONLY;
		return 0;
	case MSR_DEBUGCTL:
		*val = c->debugctl;
		return 0;
	default:
		return rdmsr_ranges(v, msr, val);
	}
}

int cpu_rdmsr(struct vcpu *v, u32 msr, u64 *val)
{
	struct cpu *c = &v->cpu;

	if (apic_msr(v, msr)) {
		fpu_park(v);
		return v->hooks->apic_msr_read(v->machine, v->index, msr, val) ? fault_gp(v, 0) : 0;
	}
	switch (msr) {
	case MSR_TSC:
		*val = vcpu_tsc(v);
		return 0;
	case MSR_TSC_ADJUST:
		*val = c->tsc_adjust;
		return 0;
	case MSR_SPEC_CTRL:
		if (!v->model->spec_ctrl_supported)
			return fault_gp(v, 0);
		*val = c->spec_ctrl;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		*val = v->model->arch_capabilities;
		return 0;
	case MSR_SYSENTER_CS:
		*val = c->sysenter_cs;
		return 0;
	case MSR_SYSENTER_ESP:
		*val = c->sysenter_esp;
		return 0;
	case MSR_SYSENTER_EIP:
		*val = c->sysenter_eip;
		return 0;
	case MSR_PAT:
		*val = c->pat;
		return 0;
	case MSR_XSS:
		if (!v->model->xsaves)
			return fault_gp(v, 0);
		*val = c->xss;
		return 0;
	case MSR_EFER:
		*val = c->efer;
		return 0;
	case MSR_STAR:
		*val = c->star;
		return 0;
	case MSR_LSTAR:
		*val = c->lstar;
		return 0;
	case MSR_CSTAR:
		*val = c->cstar;
		return 0;
	case MSR_SFMASK:
		*val = c->sfmask;
		return 0;
	case MSR_FS_BASE:
		*val = c->seg[SEG_FS].base;
		return 0;
	case MSR_GS_BASE:
		*val = c->seg[SEG_GS].base;
		return 0;
	case MSR_KERNEL_GS_BASE:
		*val = c->kernel_gs_base;
		return 0;
	case MSR_TSC_AUX:
		if (!v->model->rdtscp && !v->model->rdpid)
			return fault_gp(v, 0);
		*val = c->tsc_aux;
		return 0;
	default:
		return rdmsr_platform(v, msr, val);
	}
}

/* The TSC moved by `delta`: a paravirtual clock is told, and an armed deadline now lies elsewhere in time. The
 * machine adds tsc_offset itself when it is armed again. */
static void shift_tsc(struct vcpu *v, u64 delta)
{
	u64 deadline;

	v->cpu.tsc_offset += delta;
	v->cpu.tsc_adjust += delta;
	fpu_park(v);
	if (v->model->pv_features)
		v->hooks->tsc_moved(v->machine, v->index);
	if (!v->model->tsc_deadline)
		return;
	if (!v->hooks->apic_msr_read(v->machine, v->index, MSR_TSC_DEADLINE, &deadline) && deadline)
		(void)v->hooks->apic_msr_write(v->machine, v->index, MSR_TSC_DEADLINE, deadline);
}

static int write_efer(struct vcpu *v, u64 val)
{
	struct cpu *c = &v->cpu;
	u64 changed;

	/* LMA follows LME and PG: what is written to it is ignored. */
	val = (val & ~EFER_LMA) | (c->efer & EFER_LMA);
	changed = val ^ c->efer;
	if (val & ~(v->model->efer_supported | EFER_LMA))
		return fault_gp(v, 0);
	if ((changed & EFER_LME) && (c->cr0 & CR0_PG))
		return fault_gp(v, 0);
	c->efer = val;
	if (changed & EFER_NXE)
		mmu_flush_all(v);
	mmu_mode_changed(v);
	return 0;
}

static int write_mtrr_var(struct vcpu *v, u32 msr, u64 val)
{
	unsigned n = (msr - MSR_MTRR_PHYSBASE0) / 2;

	if (val >> v->model->phys_bits)
		return fault_gp(v, 0);
	if (msr & 1) {
		if (val & 0x7ff)
			return fault_gp(v, 0);
		v->cpu.mtrr_mask[n] = val;
	} else {
		if ((val & 0xf00) || !mtrr_type_valid((u8)val))
			return fault_gp(v, 0);
		v->cpu.mtrr_base[n] = val;
	}
	return 0;
}

static int wrmsr_ranges(struct vcpu *v, u32 msr, u64 val)
{
	struct cpu *c = &v->cpu;
	int fixed = mtrr_fixed_index(msr);

	if (fixed >= 0) {
		if (!bytes_valid(val, mtrr_type_valid))
			return fault_gp(v, 0);
		c->mtrr_fixed[fixed] = val;
		return 0;
	}
	if (mtrr_var(msr))
		return write_mtrr_var(v, msr, val);
	if (mc_bank(msr)) {
		/* Status, address and misc can only be cleared (vol. 3, 16.3.2). */
		if ((msr & 3) && val)
			return fault_gp(v, 0);
		*mc_reg(c, msr) = val;
		return 0;
	}
	if (cpu_is_pv_msr(v, msr)) {
		fpu_park(v);
		return v->hooks->pv_msr_write(v->machine, v->index, msr, val) ? fault_gp(v, 0) : 0;
	}
	return fault_gp(v, 0);
}

/* A write allowed only within `mask`. */
static int store_masked(struct vcpu *v, u64 *reg, u64 val, u64 mask)
{
	if (val & ~mask)
		return fault_gp(v, 0);
	*reg = val;
	return 0;
}

static int wrmsr_platform(struct vcpu *v, u32 msr, u64 val)
{
	struct cpu *c = &v->cpu;
	u64 none;

	switch (msr) {
	case MSR_P5_MC_ADDR:
	case MSR_P5_MC_TYPE:
	case MSR_MISC_FEATURES_ENABLES:
		return val ? fault_gp(v, 0) : 0;
	case MSR_EBL_CR_POWERON:
	case MSR_BIOS_UPDT_TRIG: /* microcode updates are accepted and have no effect */
		return 0;
	case MSR_BIOS_SIGN_ID:
		c->bios_sign_id = val;
		return 0;
	case MSR_MTRR_DEF_TYPE:
		if (!mtrr_type_valid((u8)val))
			return fault_gp(v, 0);
		return store_masked(v, &c->mtrr_def_type, val, 0xff | MTRR_DEF_FE | MTRR_DEF_E);
	case MSR_MCG_STATUS:
		return store_masked(v, &c->mcg_status, val, 7);
	case MSR_MCG_CTL:
		if (val && ~val)
			return fault_gp(v, 0);
		c->mcg_ctl = val;
		return 0;
	case MSR_MISC_ENABLE:
		if ((val & ~MISC_ENABLE_READ_ONLY) & ~MISC_ENABLE_WRITABLE)
			return fault_gp(v, 0);
		c->misc_enable = val & MISC_ENABLE_WRITABLE;
		return 0;
	case MSR_DEBUGCTL:
		return store_masked(v, &c->debugctl, val, DEBUGCTL_WRITABLE);
	case MSR_PRED_CMD: /* IBPB: nothing of the predictors is the guest's to see */
		return v->model->spec_ctrl_supported ? store_masked(v, &none, val, 1) : fault_gp(v, 0);
	case MSR_FLUSH_CMD:
		return v->model->spec_ctrl_supported ? store_masked(v, &none, val, 1) : fault_gp(v, 0);
	default:
		return wrmsr_ranges(v, msr, val);
	}
}

static int store_canonical(struct vcpu *v, u64 *reg, u64 val)
{
	if (!lin_canonical(&v->cpu, val))
		return fault_gp(v, 0);
	*reg = val;
	return 0;
}

int cpu_wrmsr(struct vcpu *v, u32 msr, u64 val)
{
	struct cpu *c = &v->cpu;

	if (apic_msr(v, msr)) {
		fpu_park(v);
		return v->hooks->apic_msr_write(v->machine, v->index, msr, val) ? fault_gp(v, 0) : 0;
	}
	switch (msr) {
	case MSR_TSC:
		shift_tsc(v, val - vcpu_tsc(v));
		return 0;
	case MSR_TSC_ADJUST:
		shift_tsc(v, val - c->tsc_adjust);
		return 0;
	case MSR_SPEC_CTRL:
		if (!v->model->spec_ctrl_supported)
			return fault_gp(v, 0);
		return store_masked(v, &c->spec_ctrl, val, v->model->spec_ctrl_supported);
	case MSR_SYSENTER_CS:
		c->sysenter_cs = (u32)val;
		return 0;
	case MSR_SYSENTER_ESP:
		return store_canonical(v, &c->sysenter_esp, val);
	case MSR_SYSENTER_EIP:
		return store_canonical(v, &c->sysenter_eip, val);
	case MSR_PAT:
		if (!bytes_valid(val, pat_type_valid))
			return fault_gp(v, 0);
		c->pat = val;
		return 0;
	case MSR_XSS:
		return v->model->xsaves ? store_masked(v, &c->xss, val, v->model->xss_supported) : fault_gp(v, 0);
	case MSR_EFER:
		return write_efer(v, val);
	case MSR_STAR:
		c->star = val;
		return 0;
	case MSR_LSTAR:
		return store_canonical(v, &c->lstar, val);
	case MSR_CSTAR:
		return store_canonical(v, &c->cstar, val);
	case MSR_SFMASK:
		c->sfmask = (u32)val;
		return 0;
	case MSR_FS_BASE:
		return store_canonical(v, &c->seg[SEG_FS].base, val);
	case MSR_GS_BASE:
		return store_canonical(v, &c->seg[SEG_GS].base, val);
	case MSR_KERNEL_GS_BASE:
		return store_canonical(v, &c->kernel_gs_base, val);
	case MSR_TSC_AUX:
		if (!v->model->rdtscp && !v->model->rdpid)
			return fault_gp(v, 0);
		return store_masked(v, &c->tsc_aux, val, 0xffffffff);
	default:
		return wrmsr_platform(v, msr, val);
	}
}

int sys_rdmsr(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 val;

	if (cpu_cpl(c))
		return fault_gp(v, 0);
	if (cpu_rdmsr(v, (u32)c->gpr[REG_RCX], &val))
		return FAULT;
	c->gpr[REG_RAX] = (u32)val;
	c->gpr[REG_RDX] = val >> 32;
	sys_advance(v, d);
	return 0;
}

int sys_wrmsr(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;

	if (cpu_cpl(c))
		return fault_gp(v, 0);
	if (cpu_wrmsr(v, (u32)c->gpr[REG_RCX], c->gpr[REG_RDX] << 32 | (u32)c->gpr[REG_RAX]))
		return FAULT;
	sys_advance(v, d);
	return 0;
}
