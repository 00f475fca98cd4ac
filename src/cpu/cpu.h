/*
 * The architectural state of one processor: exactly what the Intel SDM calls
 * state, nothing an engine invented. Any engine can import it and export it
 * at an instruction boundary.
 */
#ifndef ECTYPE_CPU_CPU_H
#define ECTYPE_CPU_CPU_H

#include "base/types.h"
#include "isa/dinsn.h"

/* RFLAGS (SDM vol. 1, 3.4.3) */
#define FL_CF BIT(0)
#define FL_FIXED1 BIT(1)
#define FL_PF BIT(2)
#define FL_AF BIT(4)
#define FL_ZF BIT(6)
#define FL_SF BIT(7)
#define FL_TF BIT(8)
#define FL_IF BIT(9)
#define FL_DF BIT(10)
#define FL_OF BIT(11)
#define FL_IOPL (3ull << 12)
#define FL_NT BIT(14)
#define FL_RF BIT(16)
#define FL_VM BIT(17)
#define FL_AC BIT(18)
#define FL_VIF BIT(19)
#define FL_VIP BIT(20)
#define FL_ID BIT(21)
#define FL_STATUS (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

/* Control registers (SDM vol. 3, 2.5) */
#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

/* XCR0 / XSAVE state components (SDM vol. 1, 13.1) */
#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)
#define XCR0_OPMASK BIT(5)
#define XCR0_ZMM_HI256 BIT(6)
#define XCR0_HI16_ZMM BIT(7)
#define XCR0_AVX512 (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)
#define XCR0_PKRU BIT(9)

/* Exception vectors (SDM vol. 3, 6.3.1) */
enum exception {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_BR = 5,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_MC = 18,
	EXC_XM = 19,
};

/* Attributes of a loaded segment: bytes 5 and 6 of the descriptor with the
 * limit nibble cleared (the layout of VMX access rights). */
#define SEG_TYPE 0xfu
#define SEG_TYPE_ACCESSED 1u
#define SEG_TYPE_RW 2u /* data: writable; code: readable */
#define SEG_TYPE_EC 4u /* data: expand-down; code: conforming */
#define SEG_TYPE_CODE 8u
#define SEG_S (1u << 4)
#define SEG_DPL_SHIFT 5
#define SEG_DPL (3u << 5)
#define SEG_P (1u << 7)
#define SEG_AVL (1u << 12)
#define SEG_L (1u << 13)
#define SEG_DB (1u << 14)
#define SEG_G (1u << 15)
#define SEG_UNUSABLE (1u << 16) /* a null selector was loaded */

struct segment {
	u16 sel;
	u32 attr;
	u32 limit; /* in bytes, granularity applied: last valid offset */
	u64 base;
};

struct table_reg {
	u64 base;
	u16 limit;
};

enum activity {
	ACT_RUNNING,
	ACT_HALTED,	   /* HLT or MWAIT: waits for an interrupt */
	ACT_SHUTDOWN,	   /* triple fault: waits for reset */
	ACT_WAIT_FOR_SIPI, /* application processor after INIT */
};

/* Blocking of events by the instruction just executed (SDM vol. 3, 6.8.3). */
enum shadow { SHADOW_NONE, SHADOW_STI, SHADOW_MOV_SS };

/* Image of the user-level vector and x87 state: the standard (non-compacted)
 * XSAVE format, SDM vol. 1, 13.4, components x87, SSE, AVX, AVX-512 at the
 * host's CPUID.0DH offsets. FIP/FDP/FOP in it are the guest's. */
#define FPU_IMAGE_SIZE 4096

#define MTRR_VAR_COUNT 8

struct cpu {
	u64 gpr[16]; /* with rip and zero behind: indexed by dinsn's base and index, REG_RIP and REG_NONE included */
	u64 rip;
	u64 zero;   /* always 0: what an absent base or index register reads as */
	u64 rflags; /* bit 1 always set */
	struct segment seg[SEG_COUNT];
	struct segment ldtr, tr;
	struct table_reg gdtr, idtr;
	u64 cr0, cr2, cr3, cr4; /* CR8 is the local APIC's TPR */
	u64 xcr0, efer;
	u64 dr[8]; /* 4 and 5 unused */
	u32 pkru;

	u64 star, lstar, cstar, sfmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, misc_enable, spec_ctrl, tsc_aux, debugctl, xss, pkrs, feature_control, platform_info;
	u64 tsc_offset; /* added to the machine's TSC: WRMSR(TSC), TSC_ADJUST */
	u64 tsc_adjust;
	u64 mtrr_def_type, mtrr_fixed[11], mtrr_base[MTRR_VAR_COUNT], mtrr_mask[MTRR_VAR_COUNT];
	u64 mcg_status, mcg_ctl, mc_ctl[4], mc_status[4], mc_addr[4], mc_misc[4];
	u64 bios_sign_id, perf_global_ctrl;

	u8 activity;	  /* enum activity */
	u8 shadow;	  /* enum shadow */
	bool nmi_blocked; /* an NMI handler runs, until IRET */
	bool nmi_pending;
	u64 pending_db; /* DR6 bits of debug traps to deliver at the next boundary */

	_Alignas(64) u8 fpu[FPU_IMAGE_SIZE];
};

_Static_assert(offsetof(struct cpu, rip) == REG_RIP * 8 && offsetof(struct cpu, zero) == REG_NONE * 8,
	       "rip and zero follow the general registers");

static inline unsigned cpu_cpl(const struct cpu *c)
{
	if (!(c->cr0 & CR0_PE))
		return 0;
	if (c->rflags & FL_VM)
		return 3;
	return (c->seg[SEG_SS].attr & SEG_DPL) >> SEG_DPL_SHIFT;
}

static inline bool cpu_long_mode(const struct cpu *c)
{
	return c->efer & EFER_LMA;
}
static inline bool cpu_64bit(const struct cpu *c)
{
	return (c->efer & EFER_LMA) && (c->seg[SEG_CS].attr & SEG_L);
}
static inline bool cpu_v86(const struct cpu *c)
{
	return (c->rflags & FL_VM) && (c->cr0 & CR0_PE);
}
/* Real mode: no descriptors, no privilege (virtual-8086 mode is not real mode). */
static inline bool cpu_real(const struct cpu *c)
{
	return !(c->cr0 & CR0_PE);
}
static inline enum code_mode cpu_code_mode(const struct cpu *c)
{
	if (cpu_64bit(c))
		return CODE_64;
	if (!(c->cr0 & CR0_PE) || (c->rflags & FL_VM))
		return (c->seg[SEG_CS].attr & SEG_DB) && !(c->rflags & FL_VM) ? CODE_32 : CODE_16;
	return c->seg[SEG_CS].attr & SEG_DB ? CODE_32 : CODE_16;
}
/* Stack-pointer width in bytes: 8 in 64-bit mode, else by SS.B. */
static inline unsigned cpu_stack_size(const struct cpu *c)
{
	if (cpu_64bit(c))
		return 8;
	return c->seg[SEG_SS].attr & SEG_DB ? 4 : 2;
}

#endif
